//! Edges: rows of any size through lanes of few buffers, read back and compared with what was written.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_state::Fixed;

use super::record::{Out, record};
use super::{Cruelty, Ends, Word, play};
use crate::road::aggregate::Aggregate;
use crate::road::exchange::Packed;
use crate::road::window::{Tumbling, Windowed};

/// Adds up what `wide` makes of each row, after looking that every byte of it came through.
struct Wide<I>(fn(u64) -> I);

/// A value that is made of its number alone, so that it can be checked where it arrives.
trait Made: Fixed + PartialEq {
    fn number(&self) -> u64;
}

impl<const N: usize> Made for [u8; N] {
    fn number(&self) -> u64 {
        self[..4].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

fn bytes<const N: usize>(number: u64) -> [u8; N] {
    std::array::from_fn(|index| match index {
        0..4 => (number >> (8 * index)) as u8,
        _ => (number as u8).wrapping_mul(31).wrapping_add(index as u8),
    })
}

impl<I: Made> Aggregate<u64> for Wide<I> {
    type Input = I;
    type Acc = [u64; 2];
    type Out = [u64; 2];

    fn lift(&self, event: &u64) -> I {
        (self.0)(*event)
    }

    fn init(&self) -> [u64; 2] {
        [0; 2]
    }

    fn add(&self, acc: &mut [u64; 2], input: I) {
        assert!((self.0)(input.number()) == input, "a value was damaged on its way");
        *acc = [acc[0] + 1, acc[1].wrapping_add(input.number().wrapping_mul(input.number()))];
    }

    fn merge(&self, into: &mut [u64; 2], other: &[u64; 2]) {
        *into = [into[0] + other[0], into[1].wrapping_add(other[1])];
    }

    fn finish(&self, acc: &[u64; 2]) -> [u64; 2] {
        *acc
    }
}

struct Draws(u64);

impl Draws {
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Random words of one shard; every row becomes `expansion` rows in a flat map.
fn script(draws: &mut Draws, barriers: u64) -> Vec<Word> {
    let mut words = Vec::new();
    let mut watermark = 0;
    for epoch in 0..=barriers {
        if epoch > 0 {
            words.push(Word::Barrier);
        }
        for _ in 0..draws.below(10) {
            match draws.below(8) {
                0 => words.push(Word::Flush),
                1 | 2 => {
                    watermark += 1 + draws.below(9) as i64;
                    words.push(Word::Watermark(watermark));
                }
                _ => {
                    let rows = 1 + draws.below(1_000);
                    let rows = (0..rows).map(|_| (draws.below(1 << 20), watermark + 1 + draws.below(20) as i64));
                    words.push(Word::Rows(rows.collect()));
                }
            }
        }
    }
    words.extend([Word::Watermark(i64::MAX), Word::Flush]);
    words
}

/// Plays random scripts through an edge whose rows carry `N` bytes beside their key and time.
fn check<const N: usize>(seed: u64) {
    let mut draws = Draws(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let shards = 1 + draws.below(5);
    let barriers = draws.below(3);
    let expansion = 1 + draws.below(4) * 3;
    let scripts: Vec<_> = (0..shards).map(|_| script(&mut draws, barriers)).collect();
    // The least with which a lane may take a batch, and up to two more; of wide rows, too few for a batch.
    let row_bytes = 8 + 4 + N;
    let least = (1_024 * row_bytes).div_ceil(millstream_network::PAYLOAD_BYTES_MAX).min(8) + 1;
    let buffers = least + draws.below(3) as usize;
    let cruelty = Cruelty { combine: false, buffers, seed, ends: Ends::Any, ..Cruelty::default() };

    let mut windows: BTreeMap<(u64, i64), [u64; 2]> = BTreeMap::new();
    for word in scripts.iter().flatten() {
        let Word::Rows(rows) = word else { continue };
        for (number, at) in rows {
            for copy in 0..expansion {
                let number = number + copy;
                let window = windows.entry((number % 211, at.div_euclid(10) * 10)).or_default();
                *window = [window[0] + 1, window[1].wrapping_add(number * number)];
            }
        }
    }
    let mut expected: Vec<String> =
        windows.iter().map(|((key, start), value)| format!("{key}@{start}: {value:?}")).collect();
    expected.sort_unstable();

    let outcome = play(scripts, cruelty, move |_, rows, out| {
        let many = rows.flat_map(move |number| (0..expansion).map(move |copy| number + copy).collect::<Vec<u64>>());
        let sums = many
            .key_by(|number| (*number % 211) as u32)
            .window(Tumbling::of(Duration::from_millis(10)))
            .aggregate(Wide(bytes::<N>));
        record(
            sums.map(|row: &Windowed<u32, [u64; 2]>| format!("{}@{}: {:?}", row.key, row.window.start.0, row.value)),
            out,
        );
    });
    let got = outcome.rows();
    let differ = got.iter().zip(&expected).find(|(got, expected)| got != expected);
    assert!(
        got == expected,
        "{N} bytes, seed {seed}: {} rows, expected {}; first {differ:?}",
        got.len(),
        expected.len()
    );
    assert_eq!(outcome.late, 0, "{N} bytes, seed {seed}: a watermark overtook rows");
    for items in &outcome.items {
        assert!(items.contains(&Out::Watermark(i64::MAX)), "{N} bytes, seed {seed}: the end reaches every shard");
    }
}

#[test]
fn what_is_written_is_read() {
    for seed in 1..=12 {
        check::<4>(seed);
        check::<5>(seed + 100);
        check::<15>(seed + 200);
        check::<76>(seed + 300);
        check::<333>(seed + 400);
    }
    for seed in 1..=3 {
        check::<3_000>(seed + 500);
    }
}

/// An input that is idle does not hold time back, and one that speaks again does.
#[test]
fn time_does_not_wait_for_an_idle_input() {
    let scripts =
        vec![super::words("a@5 W9 F a@15 W19 F"), super::words("b@5 W4 F I F"), super::words("c@5 W4 I F W5 F I F")];
    let outcome = play(scripts, Cruelty { combine: false, ..Cruelty::default() }, |_, rows, out| {
        let counts = rows.key_by(|key| *key).window(Tumbling::of(Duration::from_millis(10))).aggregate(crate::Count);
        record(
            counts.map(|row: &Windowed<u64, u64>| format!("{}@{}", char::from(row.key as u8), row.window.start.0)),
            out,
        );
    });
    assert_eq!(outcome.rows(), ["a@0", "a@10", "b@0", "c@0"]);
    for items in &outcome.items {
        assert_eq!(items.iter().rev().find(|item| matches!(item, Out::Watermark(_))), Some(&Out::Watermark(19)));
    }
}

#[test]
fn rows_that_another_process_has_written_are_looked_at() {
    let row = |key: u64, flag: u8| [&[0; 8][..], &key.to_le_bytes(), &[flag]].concat();
    let two = [row(7, 0), row(8, 1)].concat();
    assert!(Packed::<u64, bool>::are_rows(&two) && Packed::<u64, bool>::are_rows(&[]));
    assert!(!Packed::<u64, bool>::are_rows(&two[1..]), "half a row");
    assert!(!Packed::<u64, bool>::are_rows(&row(7, 2)), "a truth that is neither");
    assert!(Packed::<u64, u8>::are_rows(&row(7, 2)), "of a byte there is every value");
}
