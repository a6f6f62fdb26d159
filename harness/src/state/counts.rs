//! A count in an accumulator of a chosen size.

use millstream::Aggregate;

/// What a count is told to be when the words of its accumulator differ: no run counts so far.
pub(super) const TORN: u64 = u64::MAX;

/// Counts in `WORDS` words that are all written each time and always hold the same, so that a line which was not brought
/// to the disk or back shows.
pub(super) struct Counts<const WORDS: usize>;

impl<const WORDS: usize> Aggregate<u64> for Counts<WORDS> {
    type Input = ();
    type Acc = [u64; WORDS];
    type Out = u64;

    #[inline(always)]
    fn lift(&self, _key: &u64) {}

    #[inline(always)]
    fn init(&self) -> [u64; WORDS] {
        [0; WORDS]
    }

    #[inline(always)]
    fn add(&self, acc: &mut [u64; WORDS], (): ()) {
        for word in acc {
            *word += 1;
        }
    }

    fn merge(&self, into: &mut [u64; WORDS], other: &[u64; WORDS]) {
        for (into, other) in into.iter_mut().zip(other) {
            *into += other;
        }
    }

    #[inline(always)]
    fn finish(&self, acc: &[u64; WORDS]) -> u64 {
        if acc.iter().fold(0, |differ, word| differ | (word ^ acc[0])) == 0 { acc[0] } else { TORN }
    }
}
