//! Hands mutated bytes to whatever parses what strangers and peers send: both ends of the handshake, a listener's driving of it,
//! and a channel's decoder. None may panic, agree with somebody who does not know the secret, or take more than it asked for.
//!
//! ```sh
//! cargo run -p millstream-network --example fuzz_handshake -- 600 [SEED]
//! ```
//!
//! A seed repeats a run: what is tried is a matter of the seed alone, and the seconds only say how far it gets.

use millstream_network::channel::{Decoded, Decoder, encode};
use millstream_network::session::{Session, Step};
use millstream_network::{Facts, Secret};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn nonce(&mut self) -> [u8; 32] {
        std::array::from_fn(|_| self.next() as u8)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// At least one byte, at most so many.
    fn some_bytes(&mut self, most: usize) -> Vec<u8> {
        let count = 1 + self.below(most);
        self.bytes(count)
    }

    /// Changes bytes in one of the ways that break parsers: flips, interesting numbers, cuts, repeats and splices.
    fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..1 + self.below(3) {
            if bytes.is_empty() {
                *bytes = self.some_bytes(64);
                continue;
            }
            let at = self.below(bytes.len());
            match self.below(7) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][self.below(5)],
                2 => {
                    let number = [0, 1, 31, 33, 0x7FFF_FFFF, u32::MAX, 64 << 20, (64 << 20) + 1][self.below(8)];
                    let end = (at + 4).min(bytes.len());
                    bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
                }
                3 => bytes.truncate(at),
                4 => drop(bytes.splice(at..at, self.some_bytes(16))),
                5 => {
                    let from = self.below(other.len());
                    drop(bytes.splice(at.., other[from..].iter().copied()));
                }
                _ => drop(bytes.remove(at)),
            }
        }
    }
}

/// What both ends of a handshake say that nobody disturbs.
fn honest(random: &mut Random, secret: &Secret, facts: &Facts) -> [Vec<Vec<u8>>; 2] {
    let [mut dialler, mut acceptor] = ends(random, [secret, secret], facts);
    let mut said = [Vec::new(), Vec::new()];
    loop {
        match (dialler.step(), acceptor.step()) {
            (Step::Done(_), Step::Done(_)) => return said,
            (Step::Send(bytes), step) => {
                acceptor.receive_all(&bytes);
                said[0].push(bytes);
                if let Step::Send(bytes) = step {
                    dialler.receive_all(&bytes);
                    said[1].push(bytes);
                }
            }
            (_, Step::Send(bytes)) => {
                dialler.receive_all(&bytes);
                said[1].push(bytes);
            }
            // One end is done a step before the other.
            (Step::Done(_), _) | (_, Step::Done(_)) => return said,
            other => unreachable!("friends agree: {other:?}"),
        }
    }
}

fn ends(random: &mut Random, secrets: [&Secret; 2], facts: &Facts) -> [Session; 2] {
    let greeting = vec![1; random.below(100)];
    let reply = vec![2; random.below(100)];
    let binding = (random.below(2) == 0).then(|| random.nonce());
    let dialler = Session::dial(secrets[0], facts, greeting, random.nonce(), binding).expect("the greeting is short");
    let acceptor = Session::accept(secrets[1], facts, reply, random.nonce(), binding).expect("the reply is short");
    [dialler, acceptor]
}

/// Feeds one end pieces of these bytes, as sockets do. Whether it agreed.
fn feed(random: &mut Random, session: &mut Session, mut bytes: &[u8]) -> bool {
    loop {
        match session.step() {
            Step::Send(_) => {}
            Step::Done(_) => return true,
            Step::Refused(refusal) => {
                assert!(!refusal.to_string().is_empty());
                return false;
            }
            Step::NeedMore if bytes.is_empty() => return false,
            Step::NeedMore => {
                let wants = session.wants();
                assert!(wants > 0, "it waits, and for nothing");
                let piece = 1 + random.below(bytes.len());
                let taken = session.receive(&bytes[..piece]);
                assert_eq!(taken, piece.min(wants), "it takes what it asked for");
                bytes = &bytes[taken..];
            }
        }
    }
}

/// Strangers: the bytes of an earlier handshake, mutated, to either end.
fn fuzz_strangers(random: &mut Random, secret: &Secret, facts: &Facts, corpus: &[Vec<Vec<u8>>; 2]) {
    let which = random.below(2);
    let mut bytes = corpus[which].concat();
    let other = corpus[1 - which].concat();
    random.mutate(&mut bytes, &other);
    let mut session = ends(random, [secret, secret], facts).into_iter().nth(1 - which).expect("there are two");
    assert!(!feed(random, &mut session, &bytes), "a stranger was believed");
}

/// Peers that know the secret, and a road that mutates one of the messages they exchange: what is behind the proofs is parsed too.
fn fuzz_peers(random: &mut Random, secret: &Secret, facts: &Facts) {
    let [mut dialler, mut acceptor] = ends(random, [secret, secret], facts);
    let (harmed, mut messages) = (random.below(6), 0);
    let (mut agreed, mut stuck) = ([false; 2], 0);
    while stuck < 3 {
        stuck += 1;
        for (turn, agreed) in agreed.iter_mut().enumerate() {
            let (from, to) = if turn == 0 { (&mut dialler, &mut acceptor) } else { (&mut acceptor, &mut dialler) };
            match from.step() {
                Step::Send(mut bytes) => {
                    stuck = 0;
                    if messages == harmed {
                        let other = bytes.clone();
                        random.mutate(&mut bytes, &other);
                    }
                    messages += 1;
                    to.receive_all(&bytes);
                }
                Step::Done(_) => *agreed = true,
                Step::Refused(_) | Step::NeedMore => {}
            }
        }
    }
    assert!(!agreed[0] || agreed[1], "the dialler agrees alone");
}

fn fuzz_channel(random: &mut Random) {
    let mut bytes = Vec::new();
    for _ in 0..1 + random.below(3) {
        let body = random.below(200);
        bytes.extend(encode(&random.bytes(body)).expect("it is short"));
    }
    let other = bytes.clone();
    if random.below(8) > 0 {
        random.mutate(&mut bytes, &other);
    }
    // Sealed again behind the change, now and then: what comes behind the checksum is parsed too.
    if random.below(2) == 0 && bytes.len() >= 16 {
        let crc = crc32c::crc32c(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    let (mut whole, mut pieces) = (Decoder::default(), Decoder::default());
    whole.feed(&bytes);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(1 + random.below(rest.len()));
        pieces.feed(piece);
        rest = behind;
    }
    loop {
        let decoded = whole.decoded();
        assert_eq!(decoded, pieces.decoded(), "what is decoded hangs on where bytes are cut");
        if !matches!(decoded, Ok(Some(Decoded::Message(_) | Decoded::Heartbeat))) {
            return;
        }
    }
}

/// Tries until told to stop; says how often.
pub(crate) fn fuzz(seed: u64, mut goes_on: impl FnMut() -> bool) -> u64 {
    let secret = Secret::from_bytes(b"what nobody else knows").expect("it is long enough");
    let facts = Facts::new().with("job", "clicks").with("version", "1");
    let (mut random, mut tries) = (Random(seed), 0);
    while goes_on() {
        let corpus = honest(&mut random, &secret, &facts);
        for _ in 0..100 {
            fuzz_strangers(&mut random, &secret, &facts, &corpus);
            fuzz_peers(&mut random, &secret, &facts);
            fuzz_channel(&mut random);
            tries += 3;
        }
    }
    tries
}

// The tests run a little of it, with a main of their own.
#[cfg(not(test))]
#[expect(clippy::disallowed_methods, reason = "a fuzzer runs for as long as it is told")]
#[expect(clippy::print_stdout, reason = "a fuzzer reports")]
fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: u64| arguments.next().map_or(Some(otherwise), |text| text.parse().ok());
    let (Some(seconds), Some(seed)) = (number(2), number(1)) else {
        println!("usage: fuzz_handshake [SECONDS [SEED]]");
        return std::process::ExitCode::FAILURE;
    };
    let start = std::time::Instant::now();
    let tries = fuzz(seed, || start.elapsed().as_secs() < seconds);
    println!("{tries} tries in {seconds} s with seed {seed}: nothing found");
    std::process::ExitCode::SUCCESS
}
