//! The stage against its slow twin, a `Vec` of the same bytes, for every row size and arbitrary points of flushing.

use std::sync::Arc;

use millstream_network::frame::Route;
use millstream_network::{
    Buffer, Doorbell, LaneConfig, PAYLOAD_BYTES_MAX, Sender, Solid, Stage, Streaming, lane, spread_over_two,
};
use proptest::prelude::*;

fn sender(buffers: usize) -> Sender {
    let bell = || Arc::new(Doorbell::new().expect("a descriptor is left"));
    lane(LaneConfig { route: Route { edge: 0, from_shard: 0, to_shard: 0 }, buffers }, bell(), bell()).0
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(usize),
    FlushLines,
    FlushAll,
    FlushBytes(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..20_usize).prop_map(Step::Push),
        3 => Just(Step::FlushLines),
        1 => Just(Step::FlushAll),
        1 => any::<usize>().prop_map(Step::FlushBytes),
    ];
    prop::collection::vec(step, 1..40)
}

/// Runs the steps with rows of `N` bytes. `filled` is how full the buffer is when they begin: most begin near its end.
fn run<const N: usize>(steps: &[Step], bytes_max: usize, how: Streaming, filled: usize, buffer: &mut Buffer) {
    let mut stage = Stage::new(bytes_max.max(N), how);
    let mut next = 0_u8;
    let mut twin = vec![0xEE; filled];
    buffer.append(&twin);

    let check = |buffer: &Buffer, stage: &Stage, twin: &Vec<u8>, moved: usize, before: usize| {
        assert_eq!(buffer.len(), before + moved, "the buffer grows by what was moved");
        assert_eq!(buffer.len() + stage.len(), twin.len(), "no byte is lost or doubled");
        assert_eq!(buffer.payload(), &twin[..buffer.len()], "rows of {N} bytes, {how:?}");
    };
    for step in steps {
        let before = buffer.len();
        match *step {
            Step::Push(rows) => {
                for _ in 0..rows.min(stage.room() / N) {
                    next = next.wrapping_mul(31).wrapping_add(7);
                    let row: [u8; N] = std::array::from_fn(|at| next ^ at as u8);
                    twin.extend_from_slice(&row);
                    stage.push(row);
                }
            }
            Step::FlushLines => {
                let (gathered, room) = (stage.len(), buffer.room());
                let moved = stage.flush_lines(buffer);
                assert_eq!(moved, gathered.min(room) / 64 * 64);
                check(buffer, &stage, &twin, moved, before);
            }
            Step::FlushAll => {
                let (gathered, room) = (stage.len(), buffer.room());
                let moved = stage.flush_all(buffer);
                assert_eq!(moved, gathered.min(room));
                check(buffer, &stage, &twin, moved, before);
            }
            Step::FlushBytes(any) => {
                let bytes = any % (stage.len().min(buffer.room()) + 1);
                stage.flush_bytes(bytes, buffer);
                check(buffer, &stage, &twin, bytes, before);
            }
        }
    }
    // What is still staged leaves in order: one buffer's worth into the next buffer, the rest into the drain.
    let mut arrived = buffer.payload().to_vec();
    empty(buffer);
    stage.flush_lines(buffer);
    arrived.extend_from_slice(buffer.payload());
    stage.drain_to(&mut arrived);
    assert!(stage.is_empty());
    assert_eq!(arrived, twin);
}

/// Back to no payload, by a header that says so.
fn empty(buffer: &mut Buffer) {
    *buffer.header_mut() = millstream_network::Header::new(buffer.header().route());
}

type Run = fn(&[Step], usize, Streaming, usize, &mut Buffer);

macro_rules! sizes {
    ([$($tens:literal)*] $units:tt) => { [$(sizes!($tens $units)),*] };
    ($tens:literal [$($units:literal)*]) => { [$(run::<{ $tens * 10 + $units }> as Run),*] };
}
/// `run` for rows of 1 to 200 bytes.
const SIZES: [[Run; 10]; 20] = sizes!([0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19] [1 2 3 4 5 6 7 8 9 10]);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_row_size_arrives_as_it_was_pushed(
        steps in steps(),
        bytes_max in 1_usize..2_000,
        from_end in 0_usize..6_000,
        aligned in any::<bool>(),
        plain in any::<bool>(),
    ) {
        let how = if plain { Streaming::Plain } else { Streaming::NonTemporal };
        let filled = PAYLOAD_BYTES_MAX - if aligned { from_end / 64 * 64 } else { from_end };
        let mut sender = sender(1);
        let mut buffer = sender.acquire().expect("the lane is fresh");
        for run in SIZES.as_flattened() {
            empty(&mut buffer);
            run(&steps, bytes_max, how, filled, &mut buffer);
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Mixed {
    at: i64,
    kind: u8,
    level: f32,
}
// SAFETY: packed, so there is no padding, and all fields are numbers.
#[expect(unsafe_code, reason = "the test's own row")]
unsafe impl Solid for Mixed {}

#[test]
fn a_packed_row_is_its_fields_end_to_end() {
    let mut sender = sender(1);
    let mut buffer = sender.acquire().expect("the lane is fresh");
    let mut stage = Stage::new(26, Streaming::NonTemporal);
    stage.push(Mixed { at: -1, kind: 7, level: 0.0 });
    stage.push(Mixed { at: 1, kind: 8, level: 0.0 });
    assert_eq!((stage.room(), stage.flush_lines(&mut buffer)), (0, 0), "no whole line yet");
    assert_eq!(stage.flush_all(&mut buffer), 26);
    assert_eq!(&buffer.payload()[..9], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 7]);
    assert_eq!(&buffer.payload()[13..22], [1, 0, 0, 0, 0, 0, 0, 0, 8]);
}

#[test]
#[should_panic(expected = "a row of 8 bytes does not fit the 4 left of a stage")]
fn a_row_too_many_is_refused() {
    let mut stage = Stage::new(20, Streaming::Plain);
    for row in 0..3_u64 {
        stage.push(row);
    }
}

proptest! {
    #[test]
    fn spreading_over_two_is_pushing_to_one_or_the_other(which in prop::collection::vec(any::<bool>(), 0..300)) {
        let (mut first, mut second) = (Stage::new(4800, Streaming::Plain), Stage::new(4800, Streaming::Plain));
        let (mut first_twin, mut second_twin) = (Vec::new(), Vec::new());
        spread_over_two(&mut first, &mut second, which.len(), |index| (which[index], [index as u8; 16]));
        for (index, is_second) in which.iter().enumerate() {
            let twin = if *is_second { &mut second_twin } else { &mut first_twin };
            twin.extend_from_slice(&[index as u8; 16]);
        }
        for (stage, twin) in [(&mut first, first_twin), (&mut second, second_twin)] {
            let mut spread = Vec::new();
            stage.drain_to(&mut spread);
            prop_assert_eq!(spread, twin);
        }
    }
}

#[test]
#[should_panic(expected = "may not fit")]
fn a_group_that_may_not_fit_is_refused() {
    let (mut first, mut second) = (Stage::new(64, Streaming::Plain), Stage::new(64, Streaming::Plain));
    spread_over_two(&mut first, &mut second, 9, |_| (false, 0_u64));
}
