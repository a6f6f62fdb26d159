//! [`Road`]: from a hash to a line, with all that a loop over rows needs in registers.
//!
//! Nothing is checked here that a directory promises; whoever takes a road ends it when a directory changes.
#![expect(unsafe_code, reason = "indexes directories by hash, and pages by number, unchecked")]

use crate::Key;
use crate::directory::{Space, entry_of, is_below};
use crate::dirty::Pages;
use crate::fixed::{Fixed, bytes_of};
use crate::page::{Geometry, has_empty_slot, is_zero, slots_with};
use crate::segment::{LINE_BYTES, PAGE_BYTES};

/// The first bucket does not have the key.
pub(crate) const NOT_THERE: u8 = u8::MAX;

/// What a loop over rows needs: valid until a directory changes.
pub(crate) struct Road {
    pages: *mut u8,
    pub(crate) masks: *mut u64,
    space: *const Space,
    directory: *const u32,
    shift: u32,
    base: u64,
    last: u64,
}

impl Road {
    #[inline(always)]
    pub(crate) fn of(pages: &Pages, space: &Space) -> Road {
        Road {
            pages: pages.segment.pages_start(),
            masks: pages.segment.masks.start(),
            space,
            directory: space.directory().as_ptr(),
            shift: space.shift(),
            base: space.base(),
            last: space.last(),
        }
    }

    /// The page where a search for the hash begins.
    ///
    /// # Safety
    /// The directory is the one the road was taken from, unchanged.
    #[inline(always)]
    pub(crate) unsafe fn page_of(&self, hash: u64) -> u32 {
        // SAFETY: the entry is at most the last one.
        let entry = unsafe { *self.directory.add(entry_of(hash, self.shift, self.base, self.last)) };
        if is_below(entry) { self.follow(entry, hash) } else { entry }
    }

    /// Where a hash agrees with others in many bits.
    #[cold]
    #[inline(never)]
    fn follow(&self, entry: u32, hash: u64) -> u32 {
        // SAFETY: the namespace is where it was when the road was taken from it: what adds or drops one ends the loop.
        unsafe { &*self.space }.follow(entry, hash)
    }

    #[inline(always)]
    pub(crate) fn line_at(&self, page: u32, line: usize) -> *mut u8 {
        self.pages.wrapping_add(page as usize * PAGE_BYTES + line * LINE_BYTES)
    }

    /// Asks for the bucket where a search for the hash begins; for the one behind it too, where buckets of one entry make
    /// it likely that the search goes on.
    #[inline(always)]
    pub(crate) fn prefetch<K: Fixed, V: Fixed>(&self, page: u32, hash: u64) {
        let geometry = const { Geometry::of::<K, V>() };
        let line = geometry.line(hash);
        prefetch_line(self.line_at(page, line));
        if geometry.slots == 1 {
            prefetch_line(self.line_at(page, (line + geometry.bucket_lines) % 64));
        }
    }

    /// Asks for the directory's entry of a hash.
    #[inline(always)]
    pub(crate) fn prefetch_entry(&self, hash: u64) {
        prefetch_line(self.directory.wrapping_add(entry_of(hash, self.shift, self.base, self.last)));
    }

    /// Asks for the page's dirty mask.
    #[inline(always)]
    pub(crate) fn prefetch_mask(&self, page: u32) {
        prefetch_line(self.masks.wrapping_add(page as usize));
    }

    /// The slot of a key in the bucket where a search for it begins, or [`NOT_THERE`]. Then the bucket behind is asked for,
    /// to which every tenth search goes on, and which would come all too late if it were asked for by the search. No
    /// branch depends on where the key is.
    ///
    /// # Safety
    /// The page is in use and of the geometry of `K` and `V`.
    #[inline(always)]
    pub(crate) unsafe fn seek_first<K: Key, V: Fixed>(&self, page: u32, key: &K, hash: u64) -> u8 {
        let geometry = const { Geometry::of::<K, V>() };
        let line = geometry.line(hash);
        // SAFETY: `line` starts a bucket inside the page.
        let found = unsafe { slots_with::<K, V>(self.line_at(page, line), key) };
        let is_there = found != 0 && !is_zero(bytes_of(key));
        let behind = if is_there { 0 } else { geometry.bucket_lines };
        prefetch_line(self.line_at(page, (line + behind) % 64));
        if is_there { found.trailing_zeros() as u8 } else { NOT_THERE }
    }

    /// Searches the page for a key; none for the zero key, which looks like an empty slot.
    ///
    /// # Safety
    /// The page is in use and of the geometry of `K` and `V`.
    #[inline(always)]
    pub(crate) unsafe fn seek<K: Key, V: Fixed>(&self, page: u32, key: &K, hash: u64) -> Option<(usize, usize)> {
        let geometry = const { Geometry::of::<K, V>() };
        let mut line = geometry.line(hash);
        if is_zero(bytes_of(key)) {
            return None;
        }
        for _ in 0..geometry.buckets() {
            let bucket = self.line_at(page, line);
            // SAFETY: `line` starts a bucket inside the page.
            let found = unsafe { slots_with::<K, V>(bucket, key) };
            if found != 0 {
                return Some((line, found.trailing_zeros() as usize));
            }
            // SAFETY: as above.
            if unsafe { has_empty_slot::<K, V>(bucket) } {
                return None;
            }
            line = (line + geometry.bucket_lines) % 64;
        }
        None
    }
}

/// Asks the memory for a line, to be there some rows later.
#[inline(always)]
pub(crate) fn prefetch_line<T>(line: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that a program could see, wherever it points.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
