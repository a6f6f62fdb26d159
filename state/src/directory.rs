//! A namespace's directory: from the hash's bits to the page, by extendible hashing.
//!
//! ```text
//! depth 2   | 00 | 01 | 10 | 11 |       a page of depth 1 owns two entries, a page of depth 2 one;
//!             │    │     ╲  ╱           splitting the page of 1x turns its second entry to a new page,
//!           page  page   page           splitting the page of 00 doubles the directory first
//!            of    of     of
//!            00    01     1x
//! ```
//!
//! Of a shard that owns a part of the hash space, the directory has the entries for that part alone, and a hash from
//! outside, which only a mistake brings, is led to the nearest of them.
//!
//! A directory is never stored: every page's descriptor says which prefix is its own, and a restore puts the pages back
//! where they say they belong.

use crate::hash::{HashRange, PREFIX_BITS, prefix_of_depth};
use crate::segment::{Descriptor, NO_PAGE};

/// Entries a directory may have without asking how many pages there are, and entries per page beyond that. Hashes that
/// agree in many bits, by bad luck or by malice, would otherwise double it until memory ends; where it may not grow, full
/// pages get successors instead, and searches there go from page to page.
const ENTRIES_FREE: usize = 64;
const ENTRIES_PER_PAGE: usize = 64;

/// One namespace: its directory and its pages.
pub(crate) struct Space {
    pub(crate) namespace: i64,
    /// Entries, over all pages.
    pub(crate) len: usize,
    /// The page of the zero key, or [`NO_PAGE`].
    pub(crate) zero: u32,
    /// Every page owned, the zero key's and those of long values too, in the order they came.
    pub(crate) pages: Vec<u32>,
    range: HashRange,
    directory: Vec<u32>,
    /// The number that the first entry would have in a directory of the whole space.
    base: u64,
    depth: u8,
}

impl Space {
    /// A namespace without a page: its one directory entry leads nowhere.
    pub(crate) fn new(namespace: i64, range: HashRange) -> Space {
        let (_, depth) = range.prefix();
        let mut space = Space {
            namespace,
            len: 0,
            zero: NO_PAGE,
            pages: Vec::new(),
            range,
            directory: vec![NO_PAGE],
            base: 0,
            depth,
        };
        space.base = space.number(range.first);
        space
    }

    /// Where in a directory of the whole space a hash has its entry.
    fn number(&self, hash: u64) -> u64 {
        hash >> 1 >> self.shift()
    }

    /// The page where a search for this hash begins.
    pub(crate) fn page_of(&self, hash: u64) -> u32 {
        self.directory[entry_of(hash, self.shift(), self.base, self.last())]
    }

    /// The directory, for loops that index it by [`entry_of`].
    #[inline(always)]
    pub(crate) fn directory(&self) -> &[u32] {
        &self.directory
    }

    /// See [`entry_of`]. One less than the obvious shift, which at depth 0 would be by 64 bits.
    #[inline(always)]
    pub(crate) fn shift(&self) -> u32 {
        63 - self.depth as u32
    }

    /// See [`entry_of`].
    #[inline(always)]
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// See [`entry_of`].
    #[inline(always)]
    pub(crate) fn last(&self) -> u64 {
        self.directory.len() as u64 - 1
    }

    /// Makes `page` the one that owns every hash; the first page does.
    pub(crate) fn start_with(&mut self, page: u32) {
        self.pages.push(page);
        self.directory.fill(page);
    }

    /// Whether a page of this depth may split.
    pub(crate) fn may_split(&self, depth: u8) -> bool {
        let entries = self.directory.len() * 2;
        depth < self.depth
            || (u32::from(depth) < PREFIX_BITS && entries <= ENTRIES_FREE.max(self.pages.len() * ENTRIES_PER_PAGE))
    }

    /// Gives `sibling` the upper half of the hashes that the page with this prefix and depth owned.
    pub(crate) fn split(&mut self, prefix: u64, depth: u8, sibling: u32) {
        if depth >= self.depth {
            self.deepen(depth + 1);
        }
        self.fill(prefix | 1u64 << (63 - depth), depth + 1, sibling);
        self.pages.push(sibling);
    }

    /// Has the directory look at more bits.
    fn deepen(&mut self, depth: u8) {
        let before = (self.base, self.depth);
        self.depth = depth;
        let entries = self.number(self.range.last) - self.number(self.range.first) + 1;
        self.base = self.number(self.range.first);
        let by = depth - before.1;
        self.directory =
            (0..entries).map(|at| self.directory[(((self.base + at) >> by) - before.0) as usize]).collect();
    }

    /// The entries of a page, as far as they are in the directory.
    fn entries_of(&self, prefix: u64, depth: u8) -> std::ops::Range<usize> {
        let owned = HashRange::of_prefix(prefix, depth);
        if !owned.meets(self.range) {
            return 0..0;
        }
        let first = self.number(owned.first.max(self.range.first)) - self.base;
        let last = self.number(owned.last.min(self.range.last)) - self.base;
        first as usize..last as usize + 1
    }

    fn fill(&mut self, prefix: u64, depth: u8, page: u32) {
        let entries = self.entries_of(prefix, depth);
        self.directory[entries].fill(page);
    }

    /// Puts restored pages where their descriptors say; `Err` names the first page that contradicts the others.
    pub(crate) fn rebuild(&mut self, pages: &[(u32, Descriptor)]) -> Result<(), String> {
        let deepest = pages.iter().map(|(_, descriptor)| descriptor.depth).max().unwrap_or(0);
        let depth = deepest.max(self.range.prefix().1);
        let range_bits = self.range.prefix().1;
        if !may_have_depth(depth, range_bits, pages.len()) {
            return Err(format!(
                "a directory of {depth} bits, {range_bits} of them the shard's, for {} pages",
                pages.len()
            ));
        }
        self.depth = depth;
        self.base = self.number(self.range.first);
        self.directory = vec![NO_PAGE; (self.number(self.range.last) - self.base) as usize + 1];
        for (page, descriptor) in pages {
            let Descriptor { prefix, depth, .. } = *descriptor;
            if prefix_of_depth(prefix, depth) != prefix {
                return Err(format!("page {page} has a prefix longer than its depth"));
            }
            let entries = self.entries_of(prefix, depth);
            let owned = &mut self.directory[entries];
            if owned.is_empty() {
                return Err(format!("page {page} owns no hash of this shard"));
            }
            if let Some(other) = owned.iter().find(|&&other| other != NO_PAGE) {
                return Err(format!("page {page} claims hashes that page {other} has already"));
            }
            owned.fill(*page);
        }
        Ok(())
    }

    /// The first part of the hash space that no page owns, as the prefix and depth of the largest page that fits it.
    pub(crate) fn first_hole(&self) -> Option<(u64, u8)> {
        let at = self.directory.iter().position(|&page| page == NO_PAGE)?;
        let number = self.base + at as u64;
        let is_hole =
            |prefix: u64, depth: u8| self.directory[self.entries_of(prefix, depth)].iter().all(|&page| page == NO_PAGE);
        let prefix = if self.depth == 0 { 0 } else { number << (64 - u32::from(self.depth)) };
        let mut hole = (prefix, self.depth);
        while hole.1 > 0 {
            let wider = (prefix_of_depth(prefix, hole.1 - 1), hole.1 - 1);
            if !is_hole(wider.0, wider.1) {
                break;
            }
            hole = wider;
        }
        Some(hole)
    }

    /// Gives a page a part that none owned.
    pub(crate) fn fill_hole(&mut self, prefix: u64, depth: u8, page: u32) {
        self.fill(prefix, depth, page);
        self.pages.push(page);
    }
}

/// Whether a directory may look at `depth` bits, of a shard whose hashes begin with `shard_depth` equal ones, for so many
/// pages: one whose splits stayed within [`Space::may_split`] may, with a factor of two for pages given up since.
pub(crate) fn may_have_depth(depth: u8, shard_depth: u8, pages: usize) -> bool {
    let most = 1usize.checked_shl(u32::from(depth.saturating_sub(shard_depth)));
    u32::from(depth) <= PREFIX_BITS && most.is_some_and(|most| most <= ENTRIES_FREE.max(pages * ENTRIES_PER_PAGE * 2))
}

/// The entry of a hash in a directory of `last + 1` entries: of a hash from outside the range, the nearest or some other.
#[inline(always)]
pub(crate) fn entry_of(hash: u64, shift: u32, base: u64, last: u64) -> usize {
    (hash >> 1 >> shift).wrapping_sub(base).min(last) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bits: u64, depth: u32) -> u64 {
        bits << (64 - depth)
    }

    #[test]
    fn splitting_turns_half_of_the_entries() {
        let mut space = Space::new(0, HashRange::ALL);
        space.start_with(7);
        assert_eq!((space.page_of(0), space.page_of(u64::MAX)), (7, 7));
        space.split(0, 0, 8);
        assert_eq!((space.page_of(hash(0, 1)), space.page_of(hash(1, 1))), (7, 8));
        space.split(prefix_of_depth(hash(1, 1), 1), 1, 9);
        assert_eq!(space.directory(), [7, 7, 8, 9]);
        space.split(0, 1, 10);
        assert_eq!(space.directory(), [7, 10, 8, 9]);
        assert_eq!(space.pages, [7, 8, 9, 10]);
    }

    #[test]
    fn a_directory_comes_back_from_descriptors_alone() {
        let of = |bits, depth: u8| Descriptor {
            prefix: prefix_of_depth(hash(bits, 3), depth),
            depth,
            ..Descriptor::default()
        };
        let pages = [(7, of(0b000, 2)), (10, of(0b010, 2)), (8, of(0b100, 1))];
        let mut space = Space::new(0, HashRange::ALL);
        space.rebuild(&pages).unwrap();
        assert_eq!(space.directory(), [7, 10, 8, 8]);
        assert_eq!(space.first_hole(), None);
        space.rebuild(&pages[1..]).unwrap();
        assert_eq!(space.first_hole(), Some((0, 2)));
        space.rebuild(&pages[..2]).unwrap();
        assert_eq!(space.first_hole(), Some((1 << 63, 1)));
        space.fill_hole(1 << 63, 1, 5);
        assert_eq!(space.directory(), [7, 10, 5, 5]);
        assert!(space.rebuild(&[pages[0], pages[1], (3, of(0, 0))]).unwrap_err().contains("claims"));
        let crooked = Descriptor { prefix: 1 << 60, depth: 2, ..Descriptor::default() };
        assert!(space.rebuild(&[(1, crooked)]).unwrap_err().contains("longer than its depth"));
    }

    #[test]
    fn a_shard_has_the_entries_of_its_own_range_alone() {
        let range = HashRange::of_shard(1, 3);
        let mut space = Space::new(0, range);
        space.start_with(1);
        assert_eq!((space.directory(), space.page_of(range.first), space.page_of(0)), (&[1][..], 1, 1));
        space.split(0, 0, 2);
        assert_eq!(space.directory(), [1, 2]);
        space.split(0, 1, 3);
        assert_eq!(space.directory(), [3, 2]);
        assert_eq!((space.page_of(range.first), space.page_of(range.last)), (3, 2));
        let mut last = Space::new(0, HashRange::of_shard(2, 4));
        last.start_with(9);
        assert_eq!(last.depth, 2);
        last.split(1 << 63, 2, 10);
        assert_eq!(last.directory(), [9, 10]);
        assert_eq!((last.page_of(1 << 63), last.page_of(u64::MAX)), (9, 10));
    }

    #[test]
    fn a_directory_does_not_grow_without_pages() {
        let mut space = Space::new(0, HashRange::ALL);
        space.start_with(0);
        for depth in 0..6 {
            assert!(space.may_split(depth));
            space.split(0, depth, u32::from(depth) + 1);
        }
        assert_eq!(space.directory().len(), 64);
        assert!(space.may_split(6), "seven pages may have 448 entries");
        assert!(space.may_split(3), "where the directory has room already, always");
        for depth in 6..8 {
            space.split(0, depth, u32::from(depth) + 1);
        }
        assert_eq!(space.directory().len(), 256);
        assert!(space.may_split(8), "nine pages: 576");
        space.split(0, 8, 9);
        assert!(!space.may_split(9), "ten pages: 640, and it would be 1024");
    }
}
