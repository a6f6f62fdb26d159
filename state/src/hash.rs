//! The one hash of the whole system, and who reads which of its bits.
//!
//! ```text
//!  63        52                                      6 5      0
//! | shard  12  |                                      |        |
//! | directory prefix, read from the top               | line 6 |
//! ```
//!
//! State on disk and the routing of every exchange depend on these functions: they are a format
//! (`docs/formats/hash.md`), not an implementation. A shard owns a stretch of the hash space ([`HashRange`]), and so does
//! every page: the directory reads downwards from bit 63, so that a page has its place in the whole space and can move to
//! another shard as it is. A directory only has entries for its shard's stretch. The line reads upwards from bit 0.

use serde::{Deserialize, Serialize};

/// Bits at the top that choose the shard.
pub const SHARD_BITS: u32 = 12;
/// Bits at the bottom that choose the line of a page.
pub(crate) const LINE_BITS: u32 = 6;
/// The most directory bits a namespace may use: those above the line's.
pub(crate) const PREFIX_BITS: u32 = 64 - LINE_BITS;

/// A stretch of the hash space: what a shard, or a page, owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashRange {
    /// The first hash inside.
    pub first: u64,
    /// The last hash inside.
    pub last: u64,
}

impl Default for HashRange {
    fn default() -> Self {
        HashRange::ALL
    }
}

impl HashRange {
    /// The whole hash space: what a job's only shard owns.
    pub const ALL: HashRange = HashRange { first: 0, last: u64::MAX };

    /// What shard `shard` of `shards` owns: the top 12 bits, dealt out evenly and in order.
    ///
    /// ```
    /// use millstream_state::hash::HashRange;
    /// assert_eq!(HashRange::of_shard(1, 2), HashRange { first: 1 << 63, last: u64::MAX });
    /// ```
    ///
    /// # Panics
    /// If there is no such shard, or there are more than 4096.
    #[must_use]
    pub fn of_shard(shard: u32, shards: u32) -> HashRange {
        let slices = 1u64 << SHARD_BITS;
        assert!(shard < shards && u64::from(shards) <= slices, "shard {shard} of {shards}");
        // The first slice whose number times `shards`, over 4096, is the shard's: what the exchange computes per slice.
        let first_slice = |shard: u32| (u64::from(shard) * slices).div_ceil(u64::from(shards));
        let first = first_slice(shard) << (64 - SHARD_BITS);
        let last = if shard + 1 == shards { u64::MAX } else { (first_slice(shard + 1) << (64 - SHARD_BITS)) - 1 };
        HashRange { first, last }
    }

    /// What a page owns whose keys' hashes begin with the `depth` bits of `prefix`.
    #[must_use]
    pub fn of_prefix(prefix: u64, depth: u8) -> HashRange {
        let rest = if depth == 0 { u64::MAX } else { u64::MAX.checked_shr(u32::from(depth)).unwrap_or(0) };
        HashRange { first: prefix, last: prefix | rest }
    }

    /// Whether a hash lies inside.
    #[inline(always)]
    #[must_use]
    pub const fn contains(&self, hash: u64) -> bool {
        self.first <= hash && hash <= self.last
    }

    /// Whether all of another one does.
    #[must_use]
    pub const fn covers(&self, other: HashRange) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether any of another one does.
    #[must_use]
    pub const fn meets(&self, other: HashRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The bits that all hashes inside begin with, and how many they are: where a directory begins.
    pub(crate) fn prefix(&self) -> (u64, u8) {
        let depth = (self.first ^ self.last).leading_zeros().min(PREFIX_BITS) as u8;
        (prefix_of_depth(self.first, depth), depth)
    }
}

// The fraction of pi, so that small keys are not small when multiplied; and 2^64 divided by the golden ratio, made odd.
const OFFSET: u64 = 0x243F_6A88_85A3_08D3;
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// Hashes a number: one widening multiplication, its halves folded together.
///
/// The low half carries every key bit upwards, the high half carries them downwards, so both ends of the result are good:
/// keys that differ only in their top bits (`i << 52`) spread as well as consecutive ones.
///
/// ```
/// assert_eq!(millstream_state::hash::integer(1), 0x4FCD_FCAC_CA5A_AA31);
/// ```
#[inline(always)]
#[must_use]
pub const fn integer(number: u64) -> u64 {
    let product = (number ^ OFFSET) as u128 * FACTOR as u128;
    product as u64 ^ (product >> 64) as u64
}

/// The hash of a part of what is kept under a key: in the shard of the key, anywhere within its 4096th of the hash space.
#[inline(always)]
#[must_use]
pub const fn part(key: u64, part: u64) -> u64 {
    let slice = key >> (64 - SHARD_BITS) << (64 - SHARD_BITS);
    slice | integer(part ^ key.rotate_left(32)) >> SHARD_BITS
}

/// Hashes bytes: rapidhash, third version, its published default secret. The length is hashed with them.
#[inline(always)]
#[must_use]
pub const fn bytes(bytes: &[u8]) -> u64 {
    rapidhash::v3::rapidhash_v3_inline::<true, true, false>(bytes, &rapidhash::v3::DEFAULT_RAPID_SECRETS)
}

/// The first `depth` bits of a hash, left-aligned.
pub(crate) const fn prefix_of_depth(hash: u64, depth: u8) -> u64 {
    if depth == 0 { 0 } else { hash >> (64 - depth as u32) << (64 - depth as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A change of any of these numbers orphans every checkpoint ever written.
    #[test]
    fn the_hash_is_a_format() {
        assert_eq!(integer(0), 0xE184_8576_4BA0_3644);
        assert_eq!(integer(u64::MAX), 0xEE36_7141_4457_3794);
        assert_eq!(part(integer(0), integer(1)) >> 52, integer(0) >> 52);
        assert_eq!(bytes(b""), 0x0338_DC4B_E2CE_CDAE);
        assert_eq!(bytes(b"campaign"), 0xD6F3_6C7E_ABCF_959C);
        assert_eq!(bytes(b"3c0a9c9e-54a5-4c8a-9b7a-0f0f4c2b7a11"), 0xBCF7_21E9_BDB1_0220);
    }

    #[test]
    fn shards_share_the_space_as_the_exchange_does() {
        for shards in [1, 2, 3, 5, 7, 8, 31, 100, 4096] {
            let mut next = 0;
            for shard in 0..shards {
                let range = HashRange::of_shard(shard, shards);
                assert_eq!(range.first, next, "shard {shard} of {shards}");
                for hash in [range.first, range.last] {
                    assert_eq!((hash >> 52) * u64::from(shards) / 4096, u64::from(shard));
                }
                let (prefix, depth) = range.prefix();
                assert!(HashRange::of_prefix(prefix, depth).covers(range));
                next = range.last.wrapping_add(1);
            }
            assert_eq!(next, 0);
        }
    }

    // The worst a user does by accident: numbers that count, that step by powers of two, that live in the top bits.
    #[test]
    fn regular_numbers_spread_over_prefixes_and_lines() {
        for step in [0, 1, 3, 10, 12, 20, 32, 40, 44] {
            let mut by_prefix = [0u32; 1024];
            let mut by_line = [0u32; 64];
            for i in 0..65_536u64 {
                let hash = integer(i << step);
                by_prefix[(hash >> 54) as usize] += 1;
                by_line[(hash & 63) as usize] += 1;
            }
            assert!(
                by_prefix.iter().all(|&n| (8..=160).contains(&n)),
                "keys of step 2^{step} crowd a prefix: {by_prefix:?}"
            );
            assert!(
                by_line.iter().all(|&n| (700..=1400).contains(&n)),
                "keys of step 2^{step} crowd a line: {by_line:?}"
            );
        }
    }
}
