//! The memory of a table: one reserved mapping, from which pages are handed out.
//!
//! ```text
//! | pages, 4 KiB each … | descriptors | dirty masks A | dirty masks B | drained | base |
//!   2 MiB aligned         one entry per page each, dense, so that a page's entries stay in cache when its lines do not
//! ```
//!
//! The mapping is as long as the table may ever become and is not backed by anything until touched: an empty table
//! costs a few kilobytes, growth never moves a page, and a page's address is a multiplication.
#![expect(unsafe_code, reason = "hands out the mapping's memory as pages and columns")]

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::backing::SegmentFile;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a line, what one cache line holds and one dirty bit speaks of.
pub const LINE_BYTES: usize = 64;
const HUGE_BYTES: usize = 2 << 20;

/// Above this many bytes of pages, huge ones are asked for. Random updates of a big table took 20.2 ns without and
/// 17.6 ns with them; a small table would only waste what its last huge page does not need.
const HUGE_FROM_BYTES: usize = 4 << 20;

/// Pages that are had from the kernel at once, above that size.
const STEP_PAGES: u32 = (HUGE_BYTES / PAGE_BYTES) as u32;

/// One entry per page, dense. Reading never-written entries gives zero.
pub(crate) struct Column<T> {
    start: *mut T,
    len: usize,
    _owner: PhantomData<Cell<T>>,
}

impl<T: Copy> Column<T> {
    #[inline]
    pub(crate) fn get(&self, page: u32) -> T {
        assert!((page as usize) < self.len, "page {page} of {}", self.len);
        // SAFETY: inside the column, which the segment keeps mapped; all bytes zero is a value of every column's type.
        unsafe { self.start.add(page as usize).read() }
    }

    #[inline]
    pub(crate) fn set(&mut self, page: u32, value: T) {
        assert!((page as usize) < self.len, "page {page} of {}", self.len);
        // SAFETY: as in `get`, and `&mut self` is the only way to write.
        unsafe { self.start.add(page as usize).write(value) }
    }

    /// The first entry, for loops that know that their pages exist.
    #[inline(always)]
    pub(crate) fn start(&self) -> *mut T {
        self.start
    }
}

/// What the table knows of a page besides its lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub(crate) struct Descriptor {
    /// The namespace that owns the page.
    pub(crate) namespace: i64,
    /// The first `depth` bits of the directory part of all its keys' hashes, left-aligned.
    pub(crate) prefix: u64,
    /// Entries held.
    pub(crate) count: u16,
    /// How many bits of the prefix count.
    pub(crate) depth: u8,
    /// What the page is for.
    pub(crate) kind: Kind,
    /// Which of the store's states it belongs to.
    pub(crate) state: u16,
    /// The page that goes on where this one, unsplittable, is full; [`NO_PAGE`] mostly.
    pub(crate) next: u32,
}

/// The page that is none: the end of a list, a directory entry of a namespace without keys.
pub(crate) const NO_PAGE: u32 = u32::MAX;

/// What a page is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Nothing: it is in the free list, or was never handed out.
    #[default]
    Free = 0,
    /// Keys and values of fixed size in line buckets.
    Flat = 1,
    /// The one value of its namespace whose key's bytes are all zero, which in a flat page would mean an empty slot.
    Zero = 2,
    /// Keys and values of any size in cells.
    Slotted = 8,
    /// A piece of a value that is longer than a page.
    Overflow = 9,
}

impl Kind {
    pub(crate) fn from_number(number: u8) -> Option<Kind> {
        match number {
            1 => Some(Kind::Flat),
            2 => Some(Kind::Zero),
            8 => Some(Kind::Slotted),
            9 => Some(Kind::Overflow),
            _ => None,
        }
    }
}

pub(crate) struct Segment {
    // Dropped last of all that point into it, by living in the same struct as they do.
    mapping: MmapRaw,
    /// Where pages and descriptors lie, if not in `mapping`.
    pub(crate) file: Option<SegmentFile>,
    pages_start: *mut u8,
    pages_max: u32,
    huge: bool,
    /// Pages below this are in memory already, if they were asked for ahead of their use.
    populated: u32,
    pub(crate) descriptors: Column<Descriptor>,
    /// Lines changed since the last barrier.
    pub(crate) masks: Column<u64>,
    /// Lines changed between the last barrier and the one before, while their snapshot is open; zero otherwise.
    pub(crate) frozen: Column<u64>,
    /// The last snapshot for which nothing more is to be said of the page.
    pub(crate) drained: Column<u32>,
    /// The snapshot whose file has the page's last whole record; 0: none has.
    pub(crate) base: Column<u32>,
}

impl Segment {
    /// How many pages `bytes_max` bytes are.
    pub(crate) fn pages_in(bytes_max: usize) -> u32 {
        (bytes_max / PAGE_BYTES).clamp(16, NO_PAGE as usize - 1) as u32
    }

    /// Reserves room for `bytes_max` bytes of pages.
    pub(crate) fn reserve(bytes_max: usize) -> io::Result<Segment> {
        let pages_max = Segment::pages_in(bytes_max) as usize;
        let pages_bytes = pages_max * PAGE_BYTES;
        let per_page = size_of::<Descriptor>() + 2 * size_of::<u64>() + 2 * size_of::<u32>();
        // The slack lets the first page start on a 2 MiB boundary and every column on a page's.
        let slack = HUGE_BYTES + 6 * PAGE_BYTES;
        let bytes = pages_bytes + pages_max * per_page + slack;
        let mapping = MmapRaw::from(MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?);
        let start = mapping.as_ptr() as usize;
        let pages_at = start.next_multiple_of(HUGE_BYTES) - start;
        let mut at = pages_at + pages_bytes;
        let mut column = |entry_bytes: usize| {
            let column_at = at;
            at = (at + pages_max * entry_bytes).next_multiple_of(PAGE_BYTES);
            column_at
        };
        let (descriptors_at, masks_at, frozen_at) = (column(size_of::<Descriptor>()), column(8), column(8));
        let (drained_at, base_at) = (column(4), column(4));
        assert!(at <= mapping.len(), "the columns end inside the mapping");
        let base = mapping.as_mut_ptr();
        fn carve<T>(base: *mut u8, at: usize, len: usize) -> Column<T> {
            // SAFETY: `at` lies inside the mapping, and the assertion above covers the end of every column.
            Column { start: unsafe { base.add(at) }.cast(), len, _owner: PhantomData }
        }
        Ok(Segment {
            pages_start: base.wrapping_add(pages_at),
            file: None,
            pages_max: pages_max as u32,
            huge: false,
            // Those below were touched, one by one, while the segment was small.
            populated: (HUGE_FROM_BYTES / PAGE_BYTES) as u32,
            descriptors: carve(base, descriptors_at, pages_max),
            masks: carve(base, masks_at, pages_max),
            frozen: carve(base, frozen_at, pages_max),
            drained: carve(base, drained_at, pages_max),
            base: carve(base, base_at, pages_max),
            mapping,
        })
    }

    /// Reserves the columns that die with the process, and has pages and descriptors lie in the file.
    pub(crate) fn in_file(bytes_max: usize, file: SegmentFile) -> io::Result<Segment> {
        let mut segment = Segment::reserve(bytes_max)?;
        assert_eq!(segment.pages_max, file.pages_max, "the file is laid out for as many pages");
        segment.pages_start = file.start().wrapping_add(file.pages_at);
        let descriptors = file.start().wrapping_add(file.descriptors_at).cast();
        segment.descriptors = Column { start: descriptors, len: segment.pages_max as usize, _owner: PhantomData };
        segment.file = Some(file);
        Ok(segment)
    }

    /// The most pages there may be.
    pub(crate) fn pages_max(&self) -> u32 {
        self.pages_max
    }

    /// To be told how many pages are in use whenever that grows: asks for huge pages once they pay.
    fn grown_to(&mut self, pages: u32) {
        if !self.huge && pages as usize * PAGE_BYTES > HUGE_FROM_BYTES {
            self.huge = true;
            if let Some(file) = &self.file {
                return file.ask_for_huge_pages();
            }
            // The whole reservation, once: only what is touched gets memory. A kernel that was built or told to do
            // without huge pages answers with an error, and the table is then merely slower.
            let pages_at = self.pages_start as usize - self.mapping.as_ptr() as usize;
            let _ = self.mapping.advise_range(Advice::HugePage, pages_at, self.pages_max as usize * PAGE_BYTES);
        }
        if self.huge && self.file.is_none() && pages > self.populated {
            self.populate(pages.next_multiple_of(STEP_PAGES).min(self.pages_max));
        }
    }

    /// Has pages come into memory ahead of their use: one call where there would be a fault for each, 512 of them where the
    /// kernel finds no huge page. One that cannot do it (before 5.14) leaves them to be touched.
    fn populate(&mut self, pages: u32) {
        let from = self.pages_start as usize - self.mapping.as_ptr() as usize + self.populated as usize * PAGE_BYTES;
        let _ = self.mapping.advise_range(Advice::PopulateWrite, from, (pages - self.populated) as usize * PAGE_BYTES);
        self.populated = pages;
    }

    /// Makes sure that so many pages can be written to; false if there is no memory for them.
    pub(crate) fn grow(&mut self, pages: u32) -> bool {
        let has_memory = self.file.as_mut().is_none_or(|file| file.grow(pages));
        if has_memory {
            self.grown_to(pages);
        }
        has_memory
    }

    /// The first byte of the first page, for loops that know that their pages exist.
    #[inline(always)]
    pub(crate) fn pages_start(&self) -> *mut u8 {
        self.pages_start
    }

    /// The bytes of a page.
    pub(crate) fn page(&self, page: u32) -> &[u8; PAGE_BYTES] {
        assert!(page < self.pages_max, "page {page} of {}", self.pages_max);
        // SAFETY: inside the mapping, always initialised (zero until written); nobody writes while `self` is borrowed.
        unsafe { &*self.pages_start().add(page as usize * PAGE_BYTES).cast() }
    }

    /// The bytes of a page, to be changed.
    pub(crate) fn page_mut(&mut self, page: u32) -> &mut [u8; PAGE_BYTES] {
        assert!(page < self.pages_max, "page {page} of {}", self.pages_max);
        // SAFETY: as in `page`, and borrowed exclusively.
        unsafe { &mut *self.pages_start().add(page as usize * PAGE_BYTES).cast() }
    }

    /// A barrier: the masks become the frozen ones, and the frozen ones, all cleared, the masks.
    pub(crate) fn swap_masks(&mut self) {
        std::mem::swap(&mut self.masks, &mut self.frozen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_columns_do_not_overlap() {
        let mut segment = Segment::reserve(64 * PAGE_BYTES).unwrap();
        let last = segment.pages_max() - 1;
        for page in [0, last] {
            segment.page_mut(page).fill(0xAA);
            segment.descriptors.set(page, Descriptor { namespace: -1, next: NO_PAGE, ..Descriptor::default() });
            segment.masks.set(page, 1);
            segment.frozen.set(page, 2);
            segment.drained.set(page, 3);
            segment.base.set(page, 4);
        }
        assert!(segment.page(last).iter().all(|&byte| byte == 0xAA));
        assert_eq!(segment.page(1), &[0; PAGE_BYTES]);
        for page in [0, last] {
            assert_eq!(segment.descriptors.get(page).namespace, -1);
            let numbers =
                (segment.masks.get(page), segment.frozen.get(page), segment.drained.get(page), segment.base.get(page));
            assert_eq!(numbers, (1, 2, 3, 4));
        }
        segment.swap_masks();
        assert_eq!((segment.masks.get(0), segment.frozen.get(0)), (2, 1));
        assert_eq!(segment.pages_start() as usize % HUGE_BYTES, 0);
    }
}
