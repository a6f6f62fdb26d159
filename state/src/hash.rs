//! The one hash of the whole system, and who reads which of its bits.
//!
//! ```text
//!  63        52 51                                   6 5      0
//! | shard  12  | directory prefix, read from the top  | line 6 |
//! ```
//!
//! State on disk and the routing of every exchange depend on these functions: they are a format
//! (`docs/formats/hash.md`), not an implementation. Keys that share a shard share their top 12 bits, so a table never
//! looks at those; the directory reads downwards from bit 51 and the line upwards from bit 0, and a directory would have
//! to grow to 2^46 entries before the two met.

/// Bits at the top that choose the shard.
pub const SHARD_BITS: u32 = 12;
/// Bits at the bottom that choose the line of a page.
pub(crate) const LINE_BITS: u32 = 6;
/// The most directory bits a namespace may use: what lies between the shard's bits and the line's.
pub(crate) const PREFIX_BITS: u32 = 64 - SHARD_BITS - LINE_BITS;

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

/// Hashes bytes: rapidhash, third version, its published default secret. The length is hashed with them.
#[inline(always)]
#[must_use]
pub const fn bytes(bytes: &[u8]) -> u64 {
    rapidhash::v3::rapidhash_v3_inline::<true, true, false>(bytes, &rapidhash::v3::DEFAULT_RAPID_SECRETS)
}

/// The directory's part of a hash, moved to the top: the shard's bits shifted out.
#[inline(always)]
pub(crate) const fn prefix(hash: u64) -> u64 {
    hash << SHARD_BITS
}

/// The first `depth` bits of a hash's directory part, left-aligned.
pub(crate) const fn prefix_of_depth(hash: u64, depth: u8) -> u64 {
    if depth == 0 { 0 } else { prefix(hash) >> (64 - depth as u32) << (64 - depth as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A change of any of these numbers orphans every checkpoint ever written.
    #[test]
    fn the_hash_is_a_format() {
        assert_eq!(integer(0), 0xE184_8576_4BA0_3644);
        assert_eq!(integer(u64::MAX), 0xEE36_7141_4457_3794);
        assert_eq!(bytes(b""), 0x0338_DC4B_E2CE_CDAE);
        assert_eq!(bytes(b"campaign"), 0xD6F3_6C7E_ABCF_959C);
        assert_eq!(bytes(b"3c0a9c9e-54a5-4c8a-9b7a-0f0f4c2b7a11"), 0xBCF7_21E9_BDB1_0220);
    }

    // The worst a user does by accident: numbers that count, that step by powers of two, that live in the top bits.
    #[test]
    fn regular_numbers_spread_over_prefixes_and_lines() {
        for step in [0, 1, 3, 10, 12, 20, 32, 40, 44] {
            let mut by_prefix = [0u32; 1024];
            let mut by_line = [0u32; 64];
            for i in 0..65_536u64 {
                let hash = integer(i << step);
                by_prefix[(prefix(hash) >> 54) as usize] += 1;
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
