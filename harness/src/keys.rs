//! Keys for the keyed count: how many, how often each, and any of them at once.

use std::str::FromStr;

use crate::ysb::scatter;

/// How often each key comes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// One after the other, from the first to the last and again.
    Sequential,
    /// The key of rank `r` in proportion to `r` to the power of minus this exponent.
    Zipf(f64),
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        let exponent = |text: &str| text.parse().ok().filter(|exponent| (0.0..=10.0).contains(exponent));
        match text.split_once(':') {
            None if text == "uniform" => Ok(Distribution::Uniform),
            None if text == "sequential" => Ok(Distribution::Sequential),
            Some(("zipf", text)) if let Some(exponent) = exponent(text) => Ok(Distribution::Zipf(exponent)),
            _ => Err("expected `uniform`, `sequential` or `zipf:S` with an exponent S from 0 to 10".to_owned()),
        }
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Distribution::Uniform => f.write_str("uniform"),
            Distribution::Sequential => f.write_str("sequential"),
            Distribution::Zipf(exponent) => write!(f, "zipf:{exponent}"),
        }
    }
}

/// Updates of numbered keys. Update `i` hits a key that depends on the seed and on `i` alone.
#[derive(Clone, Debug)]
pub struct KeyStream {
    keys: u64,
    seed: u64,
    pick: Pick,
}

#[derive(Clone, Debug)]
enum Pick {
    Uniform,
    Sequential,
    Zipf(ZipfRanks),
}

impl KeyStream {
    /// Updates of `keys` keys.
    ///
    /// # Panics
    /// With no keys, or 2³² or more.
    #[must_use]
    pub fn new(keys: u64, distribution: Distribution, seed: u64) -> KeyStream {
        assert!((1..1 << 32).contains(&keys), "{keys} keys");
        let pick = match distribution {
            Distribution::Uniform => Pick::Uniform,
            Distribution::Sequential => Pick::Sequential,
            Distribution::Zipf(exponent) => Pick::Zipf(ZipfRanks::new(keys, exponent)),
        };
        KeyStream { keys, seed, pick }
    }

    /// Writes the numbers, from 0, of the keys that the updates `first`, `first + 1`, … hit.
    pub fn numbers(&self, first: u64, numbers: &mut [u64]) {
        match &self.pick {
            Pick::Uniform => {
                for (row, number) in numbers.iter_mut().enumerate() {
                    *number = ((random(self.seed, first + row as u64) >> 32) * self.keys) >> 32;
                }
            }
            Pick::Sequential => {
                let mut next = first % self.keys;
                for number in numbers {
                    *number = next;
                    next = if next + 1 == self.keys { 0 } else { next + 1 };
                }
            }
            Pick::Zipf(ranks) => {
                for (row, number) in numbers.iter_mut().enumerate() {
                    *number = ranks.rank(random(self.seed, first + row as u64));
                }
            }
        }
    }
}

/// Keys, and how often each comes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct KeySpace {
    /// How many, over all shards.
    pub keys: u64,
    /// How often each.
    pub distribution: Distribution,
    /// Which updates of all possible ones.
    pub seed: u64,
}

impl KeySpace {
    /// What one of `shards` shards draws from.
    #[must_use]
    pub fn share(&self, shard: u32, shards: u32) -> Share {
        let share = Share { shard: u64::from(shard), shards: u64::from(shards), keys: 0 };
        Share { keys: share.part_of(self.keys).max(1), ..share }
    }

    /// The updates that a share draws.
    #[must_use]
    pub fn stream(&self, share: &Share) -> KeyStream {
        KeyStream::new(share.keys, self.distribution, self.seed ^ share.shard)
    }

    /// Keys of all shards: more than asked for where that are fewer than shards.
    #[must_use]
    pub fn all(&self, shards: u32) -> u64 {
        self.keys.max(u64::from(shards))
    }
}

/// A shard's keys: every so many of all, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Whose.
    pub shard: u64,
    /// Out of how many.
    pub shards: u64,
    /// How many keys.
    pub keys: u64,
}

impl Share {
    /// The shard's part of a number of things that are dealt out in turn.
    #[must_use]
    pub fn part_of(&self, all: u64) -> u64 {
        all.saturating_sub(self.shard).div_ceil(self.shards)
    }

    /// The number, among all shards' keys, of the share's key with this number.
    #[inline(always)]
    #[must_use]
    pub fn number(&self, number: u64) -> u64 {
        number * self.shards + self.shard
    }

    /// The share's key with this number.
    #[inline(always)]
    #[must_use]
    pub fn key(&self, number: u64) -> u64 {
        key(self.number(number))
    }

    /// The name of the share's split, under which a checkpoint files its position.
    #[must_use]
    pub fn split_name(&self) -> String {
        format!("keys-{}-of-{}", self.shard, self.shards)
    }
}

/// The key with this number: sparse, never zero, different for each of 2⁶³ numbers.
#[inline(always)]
#[must_use]
pub fn key(number: u64) -> u64 {
    scatter(number + 1)
}

/// The number of a key: what [`key`] was given. None for zero, which is no key.
#[must_use]
pub fn number(key: u64) -> Option<u64> {
    // Each step of `scatter` backwards: a shift is undone by shifting on, a product by the factor's inverse modulo 2⁶⁴.
    let x = (key ^ key >> 31 ^ key >> 62).wrapping_mul(0x3196_42b2_d24d_8ec3);
    let x = (x ^ x >> 27 ^ x >> 54).wrapping_mul(0x96de_1b17_3f11_9089);
    (x ^ x >> 30 ^ x >> 60).checked_sub(1)
}

#[inline(always)]
fn random(seed: u64, index: u64) -> u64 {
    scatter(scatter(seed).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Draws ranks with a look into one small table.
///
/// The exact inverse of the distribution takes two powers, 30 ns a key, which would hide the table that is to be
/// measured. So the inverse is tabulated at [`QUANTILES`] equal steps of probability and straight between them: the
/// frequent ranks span many steps each and come out exact to 1/[`QUANTILES`], the rare ones share a step whose ends are
/// exact.
#[derive(Clone, Debug)]
struct ZipfRanks {
    /// Rank (from 0, with its fraction) below which each step's probability lies.
    quantiles: Vec<f64>,
    last: u64,
}

/// 128 KiB of table: it stays in the second-level cache beside what is measured.
const QUANTILES: usize = 1 << 14;

impl ZipfRanks {
    fn new(keys: u64, exponent: f64) -> ZipfRanks {
        let total: f64 = (1..=keys).map(|rank| (rank as f64).powf(-exponent)).sum();
        let mut quantiles = Vec::with_capacity(QUANTILES + 1);
        let (mut rank, mut below) = (0_u64, 0.0);
        for step in 0..=QUANTILES {
            let wanted = total * step as f64 / QUANTILES as f64;
            let mut share = ((rank + 1) as f64).powf(-exponent);
            while below + share < wanted && rank + 1 < keys {
                below += share;
                rank += 1;
                share = ((rank + 1) as f64).powf(-exponent);
            }
            quantiles.push(rank as f64 + ((wanted - below) / share).clamp(0.0, 1.0));
        }
        ZipfRanks { quantiles, last: keys - 1 }
    }

    #[inline(always)]
    fn rank(&self, random: u64) -> u64 {
        let step = (random >> 50) as usize;
        let within = ((random >> 18) & 0xffff_ffff) as f64 / 4_294_967_296.0;
        let (from, to) = (self.quantiles[step], self.quantiles[step + 1]);
        ((from + (to - from) * within) as u64).min(self.last)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn numbers(keys: u64, distribution: &str, updates: usize) -> Vec<u64> {
        let mut numbers = vec![0; updates];
        KeyStream::new(keys, distribution.parse().unwrap(), 3).numbers(0, &mut numbers);
        numbers
    }

    #[test]
    fn distributions_read_as_they_are_written() {
        for text in ["uniform", "sequential", "zipf:1.2", "zipf:0"] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), text);
        }
        for text in ["", "zipf", "zipf:", "zipf:x", "zipf:-1", "zipf:NaN", "uniform:1", "gauss"] {
            assert!(text.parse::<Distribution>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_update_depends_on_its_index_alone() {
        for distribution in ["uniform", "sequential", "zipf:1.2"] {
            let whole = numbers(1000, distribution, 500);
            let mut part = [0; 100];
            KeyStream::new(1000, distribution.parse().unwrap(), 3).numbers(123, &mut part);
            assert_eq!(part, whole[123..223]);
        }
    }

    #[test]
    fn every_key_is_hit_and_no_other() {
        for distribution in ["uniform", "sequential", "zipf:0.5"] {
            let hit: HashSet<u64> = numbers(50, distribution, 100_000).into_iter().collect();
            assert_eq!(hit, (0..50).collect::<HashSet<u64>>());
        }
        assert!(numbers(1, "zipf:1.2", 100).iter().all(|number| *number == 0));
    }

    #[test]
    fn zipf_is_as_steep_as_asked() {
        const UPDATES: usize = 2_000_000;
        for exponent in [0.8, 1.2] {
            let total: f64 = (1..=100_000).map(|rank| f64::from(rank).powf(-exponent)).sum();
            let mut counts = vec![0_u32; 100_000];
            for number in numbers(100_000, &format!("zipf:{exponent}"), UPDATES) {
                counts[number as usize] += 1;
            }
            for range in [0..1, 1..2, 2..4, 9..20, 100..200, 1_000..2_000, 50_000..100_000] {
                let expected: f64 = range.clone().map(|rank| ((rank + 1) as f64).powf(-exponent) / total).sum();
                let found = f64::from(counts[range.clone()].iter().sum::<u32>()) / UPDATES as f64;
                assert!((found / expected - 1.0).abs() < 0.03, "{exponent} {range:?}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn keys_are_different_and_not_zero() {
        let keys: HashSet<u64> = (0..10_000).map(key).collect();
        assert!(keys.len() == 10_000 && !keys.contains(&0));
    }

    #[test]
    fn a_key_tells_its_number() {
        for told in (0..10_000).chain([u64::from(u32::MAX), 1 << 40, u64::MAX - 1]) {
            assert_eq!(number(key(told)), Some(told));
        }
        assert_eq!(number(0), None);
    }

    #[test]
    fn shares_are_all_keys_each_once() {
        for (keys, shards) in [(10, 1), (10, 3), (2, 2), (1, 4)] {
            let space = KeySpace { keys, distribution: Distribution::Uniform, seed: 1 };
            let shares = (0..shards).map(|shard| space.share(shard, shards));
            let mut all: Vec<u64> =
                shares.flat_map(|share| (0..share.keys).map(move |number| share.number(number))).collect();
            all.sort_unstable();
            assert_eq!(all, (0..space.all(shards)).collect::<Vec<_>>(), "{keys} keys on {shards} shards");
        }
    }
}
