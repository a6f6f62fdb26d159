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
//! A directory is never stored: every page's descriptor says which prefix is its own, and a restore puts the pages back
//! where they say they belong.

use crate::hash::{PREFIX_BITS, prefix};
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
    /// Every page owned, the zero key's too, in the order they came.
    pub(crate) pages: Vec<u32>,
    directory: Vec<u32>,
    depth: u8,
}

impl Space {
    /// A namespace without a page: its one directory entry leads nowhere.
    pub(crate) fn new(namespace: i64) -> Space {
        Space { namespace, len: 0, zero: NO_PAGE, pages: Vec::new(), directory: vec![NO_PAGE], depth: 0 }
    }

    /// The page where a search for this hash begins.
    pub(crate) fn page_of(&self, hash: u64) -> u32 {
        self.directory[(prefix(hash) >> 1 >> self.shift()) as usize]
    }

    /// The directory, for loops that index it by `prefix(hash) >> 1 >> shift`.
    #[inline(always)]
    pub(crate) fn directory(&self) -> &[u32] {
        &self.directory
    }

    /// See [`directory`](Space::directory). One less than the obvious shift, which at depth 0 would be by 64 bits.
    #[inline(always)]
    pub(crate) fn shift(&self) -> u32 {
        63 - self.depth as u32
    }

    /// Makes `page` the one that owns every hash; the first page does.
    pub(crate) fn start_with(&mut self, page: u32) {
        self.pages.push(page);
        self.directory[0] = page;
    }

    /// Whether a page of this depth may split.
    pub(crate) fn may_split(&self, depth: u8) -> bool {
        let entries = self.directory.len() * 2;
        depth < self.depth
            || (u32::from(depth) < PREFIX_BITS && entries <= ENTRIES_FREE.max(self.pages.len() * ENTRIES_PER_PAGE))
    }

    /// Gives `sibling` the upper half of the hashes that the page with this prefix and depth owned.
    pub(crate) fn split(&mut self, prefix: u64, depth: u8, sibling: u32) {
        if depth == self.depth {
            self.directory = self.directory.iter().flat_map(|&page| [page, page]).collect();
            self.depth += 1;
        }
        let entries = 1usize << (self.depth - depth);
        let first = (prefix >> 1 >> self.shift()) as usize;
        self.directory[first + entries / 2..first + entries].fill(sibling);
        self.pages.push(sibling);
    }

    /// Puts restored pages where their descriptors say; `Err` names the first page that contradicts the others, or says
    /// that a part of the hash space has no page.
    pub(crate) fn rebuild(&mut self, pages: &[(u32, Descriptor)]) -> Result<(), String> {
        let depth = pages.iter().map(|(_, descriptor)| descriptor.depth).max().unwrap_or(0);
        if u32::from(depth) > PREFIX_BITS || 1usize << depth > ENTRIES_FREE.max(pages.len() * ENTRIES_PER_PAGE) {
            return Err(format!("a directory of {depth} bits for {} pages", pages.len()));
        }
        self.depth = depth;
        self.directory = vec![NO_PAGE; 1 << depth];
        for (page, descriptor) in pages {
            let first = (descriptor.prefix >> 1 >> self.shift()) as usize;
            let entries = 1usize << (depth - descriptor.depth);
            if descriptor.prefix & (u64::MAX >> 1 >> descriptor.depth.saturating_sub(1)) != 0 && descriptor.depth > 0 {
                return Err(format!("page {page} has a prefix longer than its depth"));
            }
            let owned = &mut self.directory[first..first + entries];
            if owned.iter().any(|&other| other != NO_PAGE) {
                return Err(format!("page {page} claims hashes that page {} has already", owned[0]));
            }
            owned.fill(*page);
        }
        // No flat page at all is a namespace with only a zero key.
        if !pages.is_empty() && self.directory.contains(&NO_PAGE) {
            return Err("a part of the hash space has no page".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::prefix_of_depth;

    fn hash(bits: u64, depth: u32) -> u64 {
        bits << (52 - depth)
    }

    #[test]
    fn splitting_turns_half_of_the_entries() {
        let mut space = Space::new(0);
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
        let mut space = Space::new(0);
        space.rebuild(&pages).unwrap();
        assert_eq!(space.directory(), [7, 10, 8, 8]);
        assert!(space.rebuild(&pages[1..]).unwrap_err().contains("no page"));
        assert!(space.rebuild(&[pages[0], pages[1], (3, of(0, 0))]).unwrap_err().contains("claims"));
        let crooked = Descriptor { prefix: 1 << 60, depth: 2, ..Descriptor::default() };
        assert!(space.rebuild(&[(1, crooked)]).unwrap_err().contains("longer than its depth"));
    }

    #[test]
    fn a_directory_does_not_grow_without_pages() {
        let mut space = Space::new(0);
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
