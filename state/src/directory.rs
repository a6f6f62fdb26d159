//! A namespace's directory: from the hash's bits to the page, by extendible hashing.
//!
//! ```text
//! depth 2   | 00 | 01 | 10 | 11 |       a page of depth 1 owns two entries, a page of depth 2 one;
//!             │    │     ╲  ╱           splitting the page of 1x turns its second entry to a new page,
//!           page  page   page           splitting the page of 00 doubles the directory first,
//!            of    of     of            or, where that has many entries for its few pages already,
//!            00    01     1x            turns the entry to a directory of its own, for the bits behind 00
//! ```
//!
//! Directories below a directory are for hashes that agree in many bits: all that is kept under one key does, in the 12 that
//! choose the shard. A search goes through one more for each, two where hashes are otherwise even.
//!
//! Of a shard that owns a part of the hash space, the directory has the entries for that part alone, and a hash from
//! outside, which only a mistake brings, is led to the nearest of them.
//!
//! A directory is never stored: every page's descriptor says which prefix is its own, and a restore puts the pages back
//! where they say they belong.

use std::collections::BTreeMap;

use crate::hash::{HashRange, PREFIX_BITS, prefix_of_depth};
use crate::segment::{Descriptor, NO_PAGE};

/// Entries a directory may have without asking how many pages it leads to, and entries per page beyond that. What would
/// double it further gets a directory of its own.
const ENTRIES_FREE: usize = 64;
const ENTRIES_PER_PAGE: usize = 64;

/// Bits that pages may own without asking how many pages there are; each doubling of those allows one more. Hashes that
/// agree in more, by bad luck or by malice, would otherwise be split until memory ends, into pages that stay empty; where a
/// page may not split, it gets a successor instead, and searches there go from page to page.
const BITS_FREE: u32 = 16;

/// An entry that leads to another directory has this bit, and its number in the others. No page has such a number: they
/// would be 8 TiB.
const BELOW: u32 = 1 << 31;

/// Whether an entry leads to another directory.
#[inline(always)]
pub(crate) fn is_below(entry: u32) -> bool {
    entry >= BELOW && entry != NO_PAGE
}

/// One directory: what it leads to for each value of some bits, of hashes from one stretch.
struct Directory {
    range: HashRange,
    entries: Vec<u32>,
    /// The number that the first entry would have in a directory of the whole space.
    base: u64,
    depth: u8,
    /// The bits that the directory above has looked at.
    depth_above: u8,
    /// Pages that it leads to, without those of directories below.
    pages: usize,
}

impl Directory {
    /// One entry for all of a stretch.
    fn new(range: HashRange, depth: u8, depth_above: u8, entry: u32) -> Directory {
        let mut directory = Directory { range, entries: vec![entry], base: 0, depth, depth_above, pages: 1 };
        directory.base = directory.number(range.first);
        directory
    }

    /// See [`entry_of`]. One less than the obvious shift, which at depth 0 would be by 64 bits.
    #[inline(always)]
    fn shift(&self) -> u32 {
        63 - self.depth as u32
    }

    /// Where in a directory of the whole space a hash has its entry.
    fn number(&self, hash: u64) -> u64 {
        hash >> 1 >> self.shift()
    }

    #[inline(always)]
    fn entry(&self, hash: u64) -> u32 {
        self.entries[entry_of(hash, self.shift(), self.base, self.entries.len() as u64 - 1)]
    }

    /// Entries that it would have if it looked at so many bits.
    fn len_at(&self, depth: u8) -> u64 {
        let number = |hash: u64| hash >> 1 >> (63 - depth);
        number(self.range.last) - number(self.range.first) + 1
    }

    /// Whether it may look at so many bits.
    fn may_have(&self, depth: u8) -> bool {
        self.len_at(depth) <= ENTRIES_FREE.max(self.pages * ENTRIES_PER_PAGE) as u64
    }

    /// Has it look at more bits.
    fn deepen(&mut self, depth: u8) {
        let before = (self.base, self.depth);
        self.depth = depth;
        let entries = self.len_at(depth);
        self.base = self.number(self.range.first);
        let by = depth - before.1;
        self.entries = (0..entries).map(|at| self.entries[(((self.base + at) >> by) - before.0) as usize]).collect();
    }

    /// The entries of a page, as far as they are here.
    fn entries_of(&self, prefix: u64, depth: u8) -> std::ops::Range<usize> {
        let owned = HashRange::of_prefix(prefix, depth);
        if !owned.meets(self.range) {
            return 0..0;
        }
        let first = self.number(owned.first.max(self.range.first)) - self.base;
        let last = self.number(owned.last.min(self.range.last)) - self.base;
        first as usize..last as usize + 1
    }

    fn fill(&mut self, prefix: u64, depth: u8, entry: u32) {
        let entries = self.entries_of(prefix, depth);
        self.entries[entries].fill(entry);
    }

    /// The first part of the stretch that no page owns, as the prefix and depth of the largest page that fits it.
    fn first_hole(&self) -> Option<(u64, u8)> {
        let at = self.entries.iter().position(|&entry| entry == NO_PAGE)?;
        let number = self.base + at as u64;
        let is_hole =
            |prefix: u64, depth: u8| self.entries[self.entries_of(prefix, depth)].iter().all(|&entry| entry == NO_PAGE);
        let prefix = if self.depth == 0 { 0 } else { number << (64 - u32::from(self.depth)) };
        let mut hole = (prefix, self.depth);
        while hole.1 > self.depth_above {
            let wider = (prefix_of_depth(prefix, hole.1 - 1), hole.1 - 1);
            if !is_hole(wider.0, wider.1) {
                break;
            }
            hole = wider;
        }
        Some(hole)
    }
}

/// One namespace: its directory and its pages.
pub(crate) struct Space {
    pub(crate) namespace: i64,
    /// Entries, over all pages.
    pub(crate) len: usize,
    /// The page of the zero key, or [`NO_PAGE`].
    pub(crate) zero: u32,
    /// Every page owned, the zero key's and those of long values too, in the order they came.
    pub(crate) pages: Vec<u32>,
    top: Directory,
    /// Directories that others lead to.
    below: Vec<Directory>,
}

impl Space {
    /// A namespace without a page: its one directory entry leads nowhere.
    pub(crate) fn new(namespace: i64, range: HashRange) -> Space {
        let top = Directory::new(range, range.prefix().1, 0, NO_PAGE);
        Space { namespace, len: 0, zero: NO_PAGE, pages: Vec::new(), top, below: Vec::new() }
    }

    /// The page where a search for this hash begins.
    #[inline]
    pub(crate) fn page_of(&self, hash: u64) -> u32 {
        self.follow(self.top.entry(hash), hash)
    }

    /// The page that an entry leads to, by the directories below.
    #[inline]
    pub(crate) fn follow(&self, mut entry: u32, hash: u64) -> u32 {
        while is_below(entry) {
            entry = self.below[(entry & !BELOW) as usize].entry(hash);
        }
        entry
    }

    /// The directory, for loops that index it by [`entry_of`]; where [`is_below`] is said of an entry, they
    /// [`follow`](Space::follow) it.
    #[inline(always)]
    pub(crate) fn directory(&self) -> &[u32] {
        &self.top.entries
    }

    /// See [`entry_of`].
    #[inline(always)]
    pub(crate) fn shift(&self) -> u32 {
        self.top.shift()
    }

    /// See [`entry_of`].
    #[inline(always)]
    pub(crate) fn base(&self) -> u64 {
        self.top.base
    }

    /// See [`entry_of`].
    #[inline(always)]
    pub(crate) fn last(&self) -> u64 {
        self.top.entries.len() as u64 - 1
    }

    /// Makes `page` the one that owns every hash; the first page does.
    pub(crate) fn start_with(&mut self, page: u32) {
        self.pages.push(page);
        self.top.entries.fill(page);
    }

    /// Whether a page of this depth may split.
    pub(crate) fn may_split(&self, depth: u8) -> bool {
        let own_bits = u32::from(depth.saturating_sub(self.top.range.prefix().1));
        u32::from(depth) < PREFIX_BITS && own_bits < BITS_FREE + self.pages.len().ilog2()
    }

    /// The directory whose entries lead to the page that owns a hash.
    fn directory_of(&mut self, hash: u64) -> &mut Directory {
        let (mut entry, mut below) = (self.top.entry(hash), None);
        while is_below(entry) {
            below = Some((entry & !BELOW) as usize);
            entry = self.below[(entry & !BELOW) as usize].entry(hash);
        }
        match below {
            None => &mut self.top,
            Some(below) => &mut self.below[below],
        }
    }

    /// Gives `sibling` the upper half of the hashes that the page with this prefix and depth owned.
    pub(crate) fn split(&mut self, prefix: u64, depth: u8, sibling: u32) {
        self.pages.push(sibling);
        let next = self.below.len() as u32 | BELOW;
        // A page may own more than the shard does: its part of the shard's is where it is found.
        let hash = prefix.max(self.top.range.first);
        let directory = self.directory_of(hash);
        directory.pages += 1;
        // A page may own less than its entry's stretch, where the rest is another shard's.
        if depth >= directory.depth && directory.may_have(depth + 1) {
            directory.deepen(depth + 1);
        } else if depth >= directory.depth {
            // The page has one entry, which leads to a directory for its stretch from now on.
            directory.pages -= 2;
            let owned = HashRange::of_prefix(prefix, depth);
            let range =
                HashRange { first: owned.first.max(directory.range.first), last: owned.last.min(directory.range.last) };
            let page = directory.entry(hash);
            directory.fill(prefix, depth, next);
            let mut below = Directory::new(range, depth, depth, page);
            below.pages = 2;
            below.deepen(depth + 1);
            self.below.push(below);
        }
        self.directory_of(hash).fill(prefix | 1u64 << (63 - depth), depth + 1, sibling);
    }

    /// Puts restored pages where their descriptors say; `Err` names the first page that contradicts the others.
    pub(crate) fn rebuild(&mut self, pages: &[(u32, Descriptor)]) -> Result<(), String> {
        for (page, Descriptor { prefix, depth, .. }) in pages {
            if u32::from(*depth) > PREFIX_BITS || prefix_of_depth(*prefix, *depth) != *prefix {
                return Err(format!("page {page} has a prefix longer than its depth"));
            }
            if !HashRange::of_prefix(*prefix, *depth).meets(self.top.range) {
                return Err(format!("page {page} owns no hash of this shard"));
            }
        }
        self.below.clear();
        let range = self.top.range;
        self.top = self.rebuilt(range, range.prefix().1, 0, pages)?;
        Ok(())
    }

    /// The directory of a stretch for these pages, those below it put beside the others.
    fn rebuilt(
        &mut self,
        range: HashRange,
        least: u8,
        depth_above: u8,
        pages: &[(u32, Descriptor)],
    ) -> Result<Directory, String> {
        let mut directory = Directory::new(range, least, depth_above, NO_PAGE);
        directory.pages = pages.len();
        let deepest = pages.iter().map(|(_, descriptor)| descriptor.depth).max().unwrap_or(0);
        // One bit at least, or a directory below would be this one again.
        let floor = (least + u8::from(depth_above > 0)).min(deepest);
        let depth = (floor.max(least)..=deepest.max(least)).rev().find(|depth| directory.may_have(*depth));
        directory.deepen(depth.unwrap_or(floor.max(least)));
        let mut deeper: BTreeMap<u64, Vec<(u32, Descriptor)>> = BTreeMap::new();
        for (page, descriptor) in pages {
            if descriptor.depth > directory.depth {
                let together = prefix_of_depth(descriptor.prefix, directory.depth);
                deeper.entry(together).or_default().push((*page, *descriptor));
                continue;
            }
            claim(&mut directory, descriptor.prefix, descriptor.depth, *page, *page)?;
        }
        for (prefix, pages) in deeper {
            let depth = directory.depth;
            let owned = HashRange::of_prefix(prefix, depth);
            let range = HashRange { first: owned.first.max(range.first), last: owned.last.min(range.last) };
            let below = self.rebuilt(range, depth, depth, &pages)?;
            directory.pages -= pages.len();
            claim(&mut directory, prefix, depth, self.below.len() as u32 | BELOW, pages[0].0)?;
            self.below.push(below);
        }
        Ok(directory)
    }

    /// The first part of the hash space that no page owns, as the prefix and depth of the largest page that fits it.
    pub(crate) fn first_hole(&self) -> Option<(u64, u8)> {
        std::iter::once(&self.top).chain(&self.below).find_map(Directory::first_hole)
    }

    /// Gives a page a part that none owned.
    pub(crate) fn fill_hole(&mut self, prefix: u64, depth: u8, page: u32) {
        let hash = prefix.max(self.top.range.first);
        let directory = self.directory_of(hash);
        directory.fill(prefix, depth, page);
        directory.pages += 1;
        self.pages.push(page);
    }
}

/// Fills the entries of a part that nothing owned; `Err` says on whose behalf, and what owns it already.
fn claim(directory: &mut Directory, prefix: u64, depth: u8, entry: u32, page: u32) -> Result<(), String> {
    let entries = directory.entries_of(prefix, depth);
    let owned = &mut directory.entries[entries];
    if let Some(&other) = owned.iter().find(|&&other| other != NO_PAGE) {
        let other = if is_below(other) { "others have".to_owned() } else { format!("page {other} has") };
        return Err(format!("page {page} claims hashes that {other} already"));
    }
    owned.fill(entry);
    Ok(())
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
        assert_eq!(last.top.depth, 2);
        last.split(1 << 63, 2, 10);
        assert_eq!(last.directory(), [9, 10]);
        assert_eq!((last.page_of(1 << 63), last.page_of(u64::MAX)), (9, 10));
    }

    /// Splits the page of the lowest hashes, again and again: all that is there agrees in more and more bits.
    fn lopsided(space: &mut Space, depths: std::ops::Range<u8>) {
        for depth in depths {
            space.split(0, depth, u32::from(depth) + 1);
        }
    }

    #[test]
    fn hashes_that_agree_in_many_bits_get_directories_of_their_own() {
        let mut space = Space::new(0, HashRange::ALL);
        space.start_with(0);
        lopsided(&mut space, 0..40);
        assert!(space.top.entries.len() <= 1024 && !space.below.is_empty());
        assert!(space.below.iter().map(|below| below.entries.len()).sum::<usize>() < 10_000, "for 41 pages");
        let check = |space: &Space| {
            for depth in 1..=40u32 {
                // The page that came with the split at this depth owns what has its first one bit there.
                for hash in [1 << (64 - depth), (1 << (64 - depth)) | 1, u64::MAX >> (depth - 1)] {
                    assert_eq!(space.page_of(hash), depth);
                }
            }
            assert_eq!((space.page_of(0), space.page_of(u64::MAX >> 40)), (0, 0));
            assert_eq!(space.first_hole(), None);
        };
        check(&space);
        let page = |number: u32| {
            let depth = number.clamp(1, 40) as u8;
            let depth = if number == 0 { 40 } else { depth };
            let prefix = if number == 0 { 0 } else { 1 << (64 - number) };
            (number, Descriptor { prefix, depth, ..Descriptor::default() })
        };
        let mut pages: Vec<_> = (0..=40).map(page).collect();
        space.rebuild(&pages).unwrap();
        check(&space);
        // The others go on to split.
        space.split(1 << 63, 1, 50);
        assert_eq!((space.page_of(1 << 63), space.page_of(u64::MAX)), (1, 50));
        space.split(1 << 24, 40, 51);
        assert_eq!((space.page_of(1 << 24), space.page_of(3 << 23)), (40, 51));
        // One that is missing is a hole, wherever it is; one that is there twice is found out.
        for missing in [2, 20, 40] {
            let (number, descriptor) = pages.remove(missing);
            space.rebuild(&pages).unwrap();
            assert_eq!(space.first_hole(), Some((descriptor.prefix, descriptor.depth)));
            space.fill_hole(descriptor.prefix, descriptor.depth, number);
            check(&space);
            pages.insert(missing, (number, descriptor));
        }
        let twice = [(99, pages[30].1), (99, Descriptor { prefix: 0, depth: 3, ..Descriptor::default() })];
        for twice in twice {
            pages.push(twice);
            assert!(space.rebuild(&pages).unwrap_err().contains("claims"));
            pages.pop();
        }
    }

    #[test]
    fn a_page_that_gave_up_what_is_another_shards_splits_where_it_is() {
        let range = HashRange::of_shard(1, 3);
        let mut space = Space::new(0, range);
        space.start_with(1);
        space.split(0, 0, 2);
        // The page of the lower half owns the second quarter from now on, which the directory does not see.
        space.split(1 << 62, 2, 3);
        assert_eq!((space.page_of(range.first), space.page_of(3 << 61), space.page_of(range.last)), (1, 3, 2));
    }

    #[test]
    fn pages_are_not_split_for_ever() {
        let mut space = Space::new(0, HashRange::ALL);
        space.start_with(0);
        lopsided(&mut space, 0..20);
        assert!(space.may_split(19));
        assert!(!space.may_split(20), "twenty-one pages, of which twenty may be empty");
        lopsided(&mut space, 20..31);
        assert!(space.may_split(20), "thirty-two pages");
    }
}
