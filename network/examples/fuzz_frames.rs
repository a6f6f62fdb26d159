//! Fuzzes what reads bytes of other processes: the frame decoder and both halves of a link, without a socket.
//!
//! Valid streams are made by the sending half itself, then cut, flipped, repeated, swapped and stuffed with noise, half of
//! the time with checksums made right again, and handed over in pieces of any size. What must hold: nothing panics; an
//! undamaged stream arrives whole; and of a damaged one whose checksums were left alone, each lane brings a prefix of what
//! was sent. The same seed does the same.
//!
//! ```text
//! cargo run -p millstream-network --example fuzz_frames -- SECONDS [SEED]
//! ```

#![allow(clippy::print_stdout, reason = "a program that says what it found")]

use std::sync::Arc;

use millstream_network::frame::{Control, HEADER_BYTES, Header, Kind, Route};
use millstream_network::link::intake::{Fault, Intake, Word};
use millstream_network::link::outgo::Outgo;
use millstream_network::{Doorbell, LaneConfig, PAYLOAD_BYTES_MAX, Receiver, Sender, lane};

const EDGES: u32 = 3;
const BUFFERS: usize = 4;

/// A generator of numbers that look random: xorshift, by Marsaglia.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

fn lanes(bell: &Arc<Doorbell>, from_shard: u16, to_shard: u16) -> (Vec<Sender>, Vec<Receiver>) {
    let lay = |edge| {
        let route = Route { edge, from_shard, to_shard };
        lane(LaneConfig { route, buffers: BUFFERS }, Arc::clone(bell), Arc::clone(bell))
    };
    (0..EDGES).map(lay).unzip()
}

/// A frame as its lane brings it: controls, mark, payload.
type Frame = (Vec<Control>, u64, Vec<u8>);

/// A valid stream from shard 1 to shard 0: its frames one by one, and what each lane is to bring.
fn stream(draw: &mut Draw, bell: &Arc<Doorbell>) -> (Vec<Vec<u8>>, Vec<Vec<Frame>>) {
    let (mut exchange, outgoing) = lanes(bell, 1, 0);
    let mut outgo = Outgo::new(1, 0, outgoing, true);
    let (mut frames, mut sent) = (Vec::new(), vec![Vec::new(); EDGES as usize]);
    for edge in 0..EDGES {
        outgo.grant(edge, BUFFERS as u64, BUFFERS as u32).expect("the whole pool");
    }
    let mut granted = 0;
    for _ in 0..draw.below(12) {
        match draw.below(6) {
            0 => drop(outgo.say(Kind::Heartbeat, 0, 0, 0)),
            1 => {
                granted = (granted + draw.below(2) as u64).min(BUFFERS as u64);
                outgo.say(Kind::Credit, 0, BUFFERS as u32, granted);
            }
            _ => {
                let edge = draw.below(EDGES as usize);
                if sent[edge].len() == BUFFERS {
                    continue;
                }
                let mut buffer = exchange[edge].acquire().expect("fewer than the pool were sent");
                let bytes = match draw.below(8) {
                    0 => PAYLOAD_BYTES_MAX,
                    1 => 0,
                    _ => draw.below(300),
                };
                buffer.spare_mut()[..bytes].fill_with(|| draw.next() as u8);
                buffer.advance(bytes);
                buffer.header_mut().set_mark(draw.next());
                for control in [Control::Watermark(draw.next() as i64), Control::Barrier(draw.next()), Control::End] {
                    if draw.once_in(3) {
                        buffer.header_mut().put(control);
                    }
                }
                let header = buffer.header();
                sent[edge].push((header.controls().collect(), header.mark(), buffer.payload().to_vec()));
                exchange[edge].send(buffer);
            }
        }
        outgo.gather(1);
        frames.push(outgo.parts().flatten().copied().collect());
        outgo.sent(outgo.unsent(), None);
    }
    if draw.once_in(2) {
        outgo.say(Kind::Goodbye, 0, 0, 0);
        frames.push(outgo.parts().flatten().copied().collect());
    }
    (frames, sent)
}

/// Damages frames. True if any may read otherwise than it did, and its checksum was made to say that it is right.
fn damage(draw: &mut Draw, frames: &mut Vec<Vec<u8>>) -> bool {
    let mut forged = false;
    for _ in 0..draw.below(4) {
        if frames.is_empty() {
            break;
        }
        let (at, other) = (draw.below(frames.len()), draw.below(frames.len()));
        match draw.below(8) {
            0 => drop(frames.remove(at)),
            1 => frames.insert(at, frames[other].clone()),
            2 => frames.swap(at, other),
            3 => {
                let keep = draw.below(frames[at].len());
                frames[at].truncate(keep);
            }
            4 => {
                let noise = (0..draw.below(200)).map(|_| draw.next() as u8).collect();
                frames.insert(at, noise);
            }
            _ => {
                let reach = if draw.once_in(2) { HEADER_BYTES } else { frames[at].len() }.min(frames[at].len());
                for _ in 0..=draw.below(3) {
                    let place = draw.below(reach);
                    if let Some(byte) = frames[at].get_mut(place) {
                        *byte = if draw.once_in(2) { *byte ^ 1 << draw.below(8) } else { draw.next() as u8 };
                    }
                }
                if draw.once_in(2) {
                    forge(&mut frames[at]);
                    forged = true;
                }
            }
        }
    }
    forged
}

/// Writes the checksum that a frame would have.
fn forge(frame: &mut [u8]) {
    let Some((header, payload)) = frame.split_first_chunk_mut::<HEADER_BYTES>() else { return };
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[..56]), payload);
    header[56..60].copy_from_slice(&checksum.to_le_bytes());
}

/// What one end makes of a stream.
struct End {
    intake: Intake,
    outgo: Outgo,
    merge: Vec<Receiver>,
    exchange: Vec<Sender>,
    brought: Vec<Vec<Frame>>,
}

impl End {
    fn new(bell: &Arc<Doorbell>) -> End {
        let ((exchange, outgoing), (incoming, merge)) = (lanes(bell, 0, 1), lanes(bell, 1, 0));
        let intake = Intake::new(1, 0, incoming, EDGES as usize, true, 20_000_000);
        let brought = vec![Vec::new(); EDGES as usize];
        let mut end = End { intake, outgo: Outgo::new(0, 1, outgoing, true), merge, exchange, brought };
        end.intake.grants(0, |_, _, _| true);
        end
    }

    fn feed(&mut self, draw: &mut Draw, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(1 + draw.below(bytes.len().min(70_000)));
            let mut words = Vec::new();
            let fed = self.intake.feed(now, |arrived| words.extend(arrived.word));
            for word in words {
                if let Word::Credit { edge, granted, pool } = word {
                    self.outgo.grant(edge, granted, pool)?;
                    // Whoever grants is also sent to.
                    if let Some(mut buffer) = self.exchange[edge as usize].acquire() {
                        buffer.append(b"grain");
                        self.exchange[edge as usize].send(buffer);
                    }
                    self.outgo.gather(16);
                    self.outgo.sent(self.outgo.unsent(), None);
                }
            }
            fed?;
            for (merge, brought) in self.merge.iter_mut().zip(&mut self.brought) {
                while let Some(buffer) = merge.receive() {
                    let header = buffer.header();
                    brought.push((header.controls().collect(), header.mark(), buffer.payload().to_vec()));
                    merge.release(buffer);
                }
            }
            if draw.once_in(2) {
                self.intake.grants(draw.next(), |_, _, _| true);
            }
            bytes = later;
        }
        Ok(())
    }
}

/// What fuzzing came across.
#[derive(Debug, Default)]
pub(crate) struct Met {
    pub(crate) streams: u64,
    pub(crate) bytes: u64,
    pub(crate) refused: u64,
}

/// Fuzzes for as long as `go_on` says so.
///
/// # Panics
/// When what must hold does not.
pub(crate) fn fuzz(seed: u64, go_on: impl Fn(&Met) -> bool) -> Met {
    let mut draw = Draw(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let bell = Arc::new(Doorbell::new().expect("a descriptor is left"));
    let mut met = Met::default();
    while go_on(&met) {
        let (mut frames, sent) = stream(&mut draw, &bell);
        let whole = frames.concat();
        let forged = damage(&mut draw, &mut frames);
        let damaged = frames.concat();
        let place = format!("stream {} of seed {seed}", met.streams);
        for header in damaged.windows(HEADER_BYTES).step_by(1 + draw.below(64)) {
            let header: &[u8; HEADER_BYTES] = header.try_into().expect("as long as a header");
            if let Ok(read) = Header::from_wire(header) {
                assert_eq!(read.as_bytes(), header, "a header says all that its bytes say, in {place}");
            }
        }
        let mut end = End::new(&bell);
        let answer = end.feed(&mut draw, &damaged);
        if damaged == whole {
            assert!(answer.is_ok(), "{place} is valid: {answer:?}");
            assert_eq!(end.brought, sent, "{place}");
        } else if !forged {
            // What was left whole may still arrive, and nothing else.
            for (brought, sent) in end.brought.iter().zip(&sent) {
                assert!(sent.starts_with(brought), "{place} brings what was never sent");
            }
        }
        met.refused += u64::from(answer.is_err());
        met.bytes += damaged.len() as u64;
        met.streams += 1;
    }
    met
}

#[allow(dead_code, reason = "the test that runs this has no use for it")]
fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let seconds = arguments.next().unwrap_or(10);
    let seed = arguments.next().unwrap_or(1);
    #[expect(clippy::disallowed_methods, reason = "how long it runs is for whoever runs it to say")]
    let started = std::time::Instant::now();
    let met = fuzz(seed, |_| started.elapsed().as_secs() < seconds);
    println!("seed {seed}: {met:?}; nothing panicked");
}
