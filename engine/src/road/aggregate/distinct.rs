//! How many different values, near enough: HyperLogLog.
//!
//! A value's hash chooses a register and offers it the number of its leading zeros, plus one; the register keeps the
//! greatest offer. Few values make long runs of zeros unlikely, many make them sure. The sketch is Flajolet, Fusy, Gandouet
//! and Meunier's ("HyperLogLog: the analysis of a near-optimal cardinality estimation algorithm", 2007) over 64-bit hashes, as
//! Heule, Nunkesser and Hall advise ("HyperLogLog in practice", 2013). The number is read off it by Ertl's estimator ("New
//! cardinality estimation algorithms for HyperLogLog sketches", 2017), which is as good for few values as for many and needs
//! no table of corrections.

use std::marker::PhantomData;

use millstream_state::Key;

use super::Aggregate;

/// How many different values there are among the events, with a standard error of 1.04 / √`REGISTERS`: 3.3 % for 1,024
/// registers, 6.5 % for 256. A register is a byte, kept for every key and window, and where rows are folded before they
/// cross to their shard, sent; a power of two from 16 to 2,048 of them. Values that are few beside
/// the registers are counted more exactly.
///
/// ```
/// # use millstream::{Aggregate, Distinct};
/// let visitors = Distinct::<1024, _, _>::of(|visitor: &u64| *visitor);
/// let mut acc = visitors.init();
/// for click in 0..100_000u64 {
///     visitors.add(&mut acc, visitors.lift(&(click % 5_000)));
/// }
/// let estimate: u64 = visitors.finish(&acc);
/// assert!((4_500..5_500).contains(&estimate), "5,000 of them, more or less: {estimate}");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Distinct<const REGISTERS: usize, K, F> {
    of: F,
    key: PhantomData<fn() -> K>,
}

/// What a [`Distinct`] keeps.
pub type Registers<const REGISTERS: usize> = [u8; REGISTERS];

impl<const REGISTERS: usize, K: Key, F> Distinct<REGISTERS, K, F> {
    /// Takes the value from an event; any type that can be a key will do.
    pub fn of<T: ?Sized>(of: F) -> Self
    where
        F: Fn(&T) -> K,
    {
        const {
            assert!(
                REGISTERS.is_power_of_two() && REGISTERS >= 16 && REGISTERS <= 2048,
                "the number of registers is a power of two from 16 to 2,048"
            );
        }
        Distinct { of, key: PhantomData }
    }
}

/// Spreads a hash over all its bits: a key's own one is made for choosing pages, not for counting zeros. (The finalizer of
/// MurmurHash3. Registers are kept in checkpoints, so it must stay as it is.)
#[inline(always)]
fn spread(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

impl<const REGISTERS: usize, T: ?Sized, K: Key, F: Fn(&T) -> K> Aggregate<T> for Distinct<REGISTERS, K, F> {
    type Input = u64;
    type Acc = Registers<REGISTERS>;
    type Out = u64;

    #[inline(always)]
    fn lift(&self, event: &T) -> u64 {
        spread((self.of)(event).hash64())
    }

    fn init(&self) -> Registers<REGISTERS> {
        [0; REGISTERS]
    }

    #[inline(always)]
    fn add(&self, acc: &mut Registers<REGISTERS>, hash: u64) {
        let bits = REGISTERS.trailing_zeros();
        let register = &mut acc[(hash >> (64 - bits)) as usize];
        // A one behind the bits that are left ends the run, should they all be zeros.
        let run = (hash << bits | 1 << (bits - 1)).leading_zeros() + 1;
        *register = (*register).max(run as u8);
    }

    fn merge(&self, into: &mut Registers<REGISTERS>, other: &Registers<REGISTERS>) {
        into.iter_mut().zip(other).for_each(|(into, other)| *into = (*into).max(*other));
    }

    fn finish(&self, acc: &Registers<REGISTERS>) -> u64 {
        estimate(acc).round() as u64
    }
}

/// Ertl's estimator: algorithm 6 of his paper.
fn estimate(registers: &[u8]) -> f64 {
    let count = registers.len() as f64;
    let run_max = 64 - registers.len().trailing_zeros() as usize;
    let mut histogram = [0.0; 66];
    registers.iter().for_each(|run| histogram[(*run as usize).min(run_max + 1)] += 1.0);
    let mut z = count * tau(1.0 - histogram[run_max + 1] / count);
    for of_run in histogram[1..=run_max].iter().rev() {
        z = 0.5 * (z + of_run);
    }
    z += count * sigma(histogram[0] / count);
    count * count / (2.0 * std::f64::consts::LN_2 * z)
}

/// What the registers that nothing was offered to contribute.
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut power, mut sum) = (1.0, x);
    loop {
        x *= x;
        let before = sum;
        sum += x * power;
        power += power;
        if sum == before {
            return sum;
        }
    }
}

/// What the registers that can rise no further contribute.
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut power, mut sum) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = sum;
        power *= 0.5;
        sum -= (1.0 - x) * (1.0 - x) * power;
        if sum == before {
            return sum / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The root of the mean square of relative errors over so many sketches of `count` values each.
    fn error<const REGISTERS: usize>(count: u64, sketches: u64) -> f64 {
        let distinct = Distinct::<REGISTERS, u64, _>::of(|value: &u64| *value);
        let squares = (0..sketches).map(|sketch| {
            let mut acc = Aggregate::<u64>::init(&distinct);
            for value in 0..count {
                let hash = distinct.lift(&(sketch << 32 | value));
                // Twice, which must not count.
                Aggregate::<u64>::add(&distinct, &mut acc, hash);
                Aggregate::<u64>::add(&distinct, &mut acc, hash);
            }
            let error = estimate(&acc) / count as f64 - 1.0;
            error * error
        });
        (squares.sum::<f64>() / sketches as f64).sqrt()
    }

    #[test]
    fn the_error_is_what_the_paper_says() {
        for count in [1_000, 3_000, 20_000] {
            let (few, many) = (error::<64>(count, 60), error::<1024>(count, 60));
            assert!(few < 1.3 * 1.04 / 8.0, "64 registers, {count} values: {few}");
            assert!(many < 1.3 * 1.04 / 32.0, "1,024 registers, {count} values: {many}");
        }
    }

    #[test]
    fn few_values_are_counted_almost_exactly() {
        assert!(error::<1024>(1, 20) < 0.001);
        assert!(error::<1024>(10, 60) < 0.05);
        assert!(error::<1024>(100, 60) < 0.035);
        assert_eq!(estimate(&[0; 1024]).round() as u64, 0, "nothing");
    }

    #[test]
    fn the_longest_runs_are_no_trouble() {
        let distinct = Distinct::<16, u64, _>::of(|value: &u64| *value);
        let mut acc = Aggregate::<u64>::init(&distinct);
        Aggregate::<u64>::add(&distinct, &mut acc, 0);
        assert_eq!(acc[0], 61, "sixty zeros behind the register's four bits, plus one");
        assert!(estimate(&[61; 16]).is_infinite() || estimate(&[61; 16]) > 1e18);
        assert!(estimate(&[60; 16]) > 1e18);
    }
}
