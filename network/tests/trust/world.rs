//! The simulated world: two ends of a handshake and a road between them that cuts bytes anywhere, delays them, and, where it is
//! hostile, loses, repeats, swaps and flips them, or connects the wrong ends. One seed, one thread, no socket.

use millstream_network::session::{Agreed, Session, Step};
use millstream_network::{Facts, Refusal, Secret};

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn nonce(&mut self) -> [u8; 32] {
        let mut nonce = [0; 32];
        nonce.chunks_mut(8).for_each(|word| word.copy_from_slice(&self.next().to_le_bytes()));
        nonce
    }
}

/// How an end ended.
type End = Option<Result<Agreed, Refusal>>;

/// One end, and the bytes that are on their way to it.
struct Side {
    session: Session,
    coming: Vec<u8>,
    end: End,
}

impl Side {
    /// Takes some of the bytes that have come; answers with what it sends.
    fn turn(&mut self, random: &mut Random) -> Vec<u8> {
        let some = if self.coming.is_empty() { 0 } else { 1 + random.below(self.coming.len()) };
        let taken = self.session.receive(&self.coming[..some]);
        self.coming.drain(..taken);
        let mut sent = Vec::new();
        while self.end.is_none() {
            match self.session.step() {
                Step::Send(bytes) => sent.extend(bytes),
                Step::NeedMore => break,
                Step::Done(agreed) => self.end = Some(Ok(agreed)),
                Step::Refused(refusal) => self.end = Some(Err(refusal)),
            }
        }
        sent
    }
}

struct World {
    random: Random,
    dialler: Side,
    acceptor: Side,
    /// All that each end has sent so far, for who repeats it.
    heard: [Vec<u8>; 2],
}

struct Given {
    secrets: [Secret; 2],
    facts: [Facts; 2],
    bindings: [Option<[u8; 32]>; 2],
}

impl World {
    fn new(seed: u64, given: &Given) -> World {
        let mut random = Random(seed);
        let nonces = [random.nonce(), random.nonce()];
        let greeting = vec![7; random.below(300)];
        let dialler = Session::dial(&given.secrets[0], &given.facts[0], greeting, nonces[0], given.bindings[0]);
        let reply = vec![9; random.below(300)];
        let acceptor = Session::accept(&given.secrets[1], &given.facts[1], reply, nonces[1], given.bindings[1]);
        let side = |session| Side { session, coming: Vec::new(), end: None };
        World { random, dialler: side(dialler.unwrap()), acceptor: side(acceptor.unwrap()), heard: Default::default() }
    }

    /// Moves one end a step, or lets nothing happen; `harm` may do what it likes to the bytes that it sends.
    fn turn(&mut self, harm: &mut impl FnMut(&mut Random, &[Vec<u8>; 2], Vec<u8>) -> Vec<u8>) {
        let dials = self.random.one_in(2);
        let (side, other) = match dials {
            true => (&mut self.dialler, &mut self.acceptor),
            false => (&mut self.acceptor, &mut self.dialler),
        };
        let sent = side.turn(&mut self.random);
        self.heard[usize::from(!dials)].extend(&sent);
        let arrives = if sent.is_empty() { sent } else { harm(&mut self.random, &self.heard, sent) };
        other.coming.extend(arrives);
    }

    /// Until both have ended, or it is clear that they wait for each other for ever: a real one would time out.
    fn run(mut self, mut harm: impl FnMut(&mut Random, &[Vec<u8>; 2], Vec<u8>) -> Vec<u8>) -> (End, End) {
        for _ in 0..5_000 {
            if self.dialler.end.is_some() && self.acceptor.end.is_some() {
                break;
            }
            self.turn(&mut harm);
        }
        (self.dialler.end, self.acceptor.end)
    }
}

fn secret(number: u64) -> Secret {
    Secret::from_bytes(format!("the secret of cluster {number}").as_bytes()).unwrap()
}

fn facts(version: usize) -> Facts {
    Facts::new().with("job", "clicks").with("version", version.to_string())
}

fn alike() -> Given {
    Given { secrets: [secret(1), secret(1)], facts: [facts(1), facts(1)], bindings: [None, None] }
}

fn honest(_: &mut Random, _: &[Vec<u8>; 2], bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

fn agreed(end: &End) -> bool {
    matches!(end, Some(Ok(_)))
}

#[test]
fn friends_always_agree_wherever_their_bytes_are_cut() {
    for seed in 0..400 {
        let mut given = alike();
        if seed % 2 == 0 {
            given.bindings = [Some([3; 32]); 2];
        }
        let (dialler, acceptor) = World::new(seed, &given).run(honest);
        assert!(agreed(&dialler) && agreed(&acceptor), "seed {seed}: {dialler:?}, {acceptor:?}");
        assert!(dialler.unwrap().unwrap().said.iter().all(|byte| *byte == 9), "seed {seed}");
        assert!(acceptor.unwrap().unwrap().said.iter().all(|byte| *byte == 7), "seed {seed}");
    }
}

#[test]
fn who_differs_in_secret_facts_or_tls_never_agrees_and_both_know_why() {
    for seed in 0..300 {
        let mut given = alike();
        let refusal = match seed % 3 {
            0 => {
                given.secrets[seed as usize / 3 % 2] = secret(2);
                Refusal::WrongSecret
            }
            // Somebody in between has opened TLS to each of them.
            1 => {
                given.bindings = [Some([3; 32]), if seed % 2 == 0 { Some([4; 32]) } else { None }];
                Refusal::WrongSecret
            }
            _ => {
                given.facts[seed as usize / 3 % 2] = facts(2);
                Refusal::Differs { name: "version".into(), ours: String::new(), theirs: String::new() }
            }
        };
        let (dialler, acceptor) = World::new(seed, &given).run(honest);
        for end in [dialler, acceptor] {
            let got = end.expect("both are told").expect_err("they differ");
            assert_eq!(std::mem::discriminant(&got), std::mem::discriminant(&refusal), "seed {seed}: {got}");
        }
    }
}

#[test]
fn a_road_that_loses_repeats_swaps_and_flips_bytes_may_part_friends_and_never_deceives_them() {
    let (mut harmed, mut parted) = (0, 0);
    for seed in 0..300 {
        let world = World::new(seed, &alike());
        let mut harms = 0;
        let (dialler, acceptor) = world.run(|random, heard, mut bytes| {
            if !random.one_in(4) {
                return bytes;
            }
            harms += 1;
            let at = random.below(bytes.len());
            match random.below(5) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => drop(bytes.remove(at)),
                2 => bytes.truncate(at),
                3 => bytes.rotate_left(at),
                // What either end has said before.
                _ => bytes.splice(..0, heard[random.below(2)].clone()).for_each(drop),
            }
            bytes
        });
        harmed += u32::from(harms > 0);
        parted += u32::from(!agreed(&dialler) || !agreed(&acceptor));
        // Whoever agrees has heard what the other said, to the last byte; so the dialler never agrees alone.
        if let Some(Ok(Agreed { said })) = &dialler {
            assert!(said.iter().all(|byte| *byte == 9), "seed {seed}");
            assert!(agreed(&acceptor), "seed {seed}: the dialler agrees alone");
        }
        if let Some(Ok(Agreed { said })) = &acceptor {
            assert!(said.iter().all(|byte| *byte == 7), "seed {seed}");
        }
    }
    assert!(harmed > 100 && parted > 100, "the road was hostile in {harmed} of 300 worlds, and parted {parted}");
}

#[test]
fn bytes_of_other_connections_are_good_for_none() {
    for seed in 0..100 {
        // A whole handshake is heard, by both ends' side.
        let mut world = World::new(seed, &alike());
        while world.dialler.end.is_none() || world.acceptor.end.is_none() {
            world.turn(&mut honest);
        }
        let heard = world.heard;
        // It is played to a new dialler and a new acceptor: as it was, and with the sides changed.
        for swapped in [false, true] {
            let mut fresh = World::new(seed + 1_000, &alike());
            fresh.dialler.coming = heard[usize::from(!swapped)].clone();
            fresh.acceptor.coming = heard[usize::from(swapped)].clone();
            let (dialler, acceptor) = fresh.run(|_, _, _| Vec::new());
            assert!(!agreed(&dialler) && !agreed(&acceptor), "seed {seed}: {dialler:?}, {acceptor:?}");
        }
        // Two diallers, or two acceptors, each given what the other says: a reflection.
        let dialler = |seed| World::new(seed, &alike()).dialler;
        let mut mirrored = World::new(seed, &alike());
        mirrored.acceptor = dialler(seed + 2_000);
        let (one, two) = mirrored.run(honest);
        assert!(!agreed(&one) && !agreed(&two), "seed {seed}");
    }
}
