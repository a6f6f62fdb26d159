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

    /// The bucket of a page where a search for the hash begins.
    #[inline(always)]
    pub(crate) fn bucket_of<K: Fixed, V: Fixed>(page: u32, hash: u64) -> Bucket {
        Bucket::at(page, const { Geometry::of::<K, V>() }.line(hash))
    }

    #[inline(always)]
    pub(crate) fn start_of(&self, bucket: Bucket) -> *mut u8 {
        self.pages.wrapping_add(bucket.0)
    }

    /// Asks for the bucket where a search begins; for the one behind it too, where buckets of one entry make it likely that
    /// the search goes on.
    #[inline(always)]
    pub(crate) fn prefetch<K: Fixed, V: Fixed>(&self, bucket: Bucket) {
        let geometry = const { Geometry::of::<K, V>() };
        prefetch_line(self.start_of(bucket));
        if geometry.slots == 1 {
            prefetch_line(self.start_of(bucket.behind(geometry.bucket_lines)));
        }
    }

    /// Asks for the directory's entry of a hash.
    #[inline(always)]
    pub(crate) fn prefetch_entry(&self, hash: u64) {
        prefetch_line(self.directory.wrapping_add(entry_of(hash, self.shift, self.base, self.last)));
    }

    /// Asks for the dirty mask of a bucket's page.
    #[inline(always)]
    pub(crate) fn prefetch_mask(&self, bucket: Bucket) {
        prefetch_line(self.masks.wrapping_add(bucket.page()));
    }

    /// The slot of a key in the bucket where a search for it begins, or [`NOT_THERE`]. Then the bucket behind is asked for,
    /// to which every tenth search goes on, and which would come all too late if it were asked for by the search. No
    /// branch depends on where the key is.
    ///
    /// # Safety
    /// The bucket is of a page in use and of the geometry of `K` and `V`.
    #[inline(always)]
    pub(crate) unsafe fn seek_first<K: Key, V: Fixed>(&self, bucket: Bucket, key: &K) -> u8 {
        let geometry = const { Geometry::of::<K, V>() };
        // SAFETY: by the caller's word.
        let found = unsafe { slots_with::<K, V>(self.start_of(bucket), key) };
        let is_there = found != 0 && !is_zero(bytes_of(key));
        prefetch_line(self.start_of(bucket.behind(if is_there { 0 } else { geometry.bucket_lines })));
        if is_there { found.trailing_zeros() as u8 } else { NOT_THERE }
    }

    /// Searches a page for a key, from this bucket on; none for the zero key, which looks like an empty slot.
    ///
    /// # Safety
    /// As for [`seek_first`](Road::seek_first).
    #[inline(always)]
    pub(crate) unsafe fn seek<K: Key, V: Fixed>(&self, mut bucket: Bucket, key: &K) -> Option<(Bucket, usize)> {
        let geometry = const { Geometry::of::<K, V>() };
        if is_zero(bytes_of(key)) {
            return None;
        }
        for _ in 0..geometry.buckets() {
            // SAFETY: by the caller's word.
            let found = unsafe { slots_with::<K, V>(self.start_of(bucket), key) };
            if found != 0 {
                return Some((bucket, found.trailing_zeros() as usize));
            }
            // SAFETY: as above.
            if unsafe { has_empty_slot::<K, V>(self.start_of(bucket)) } {
                return None;
            }
            bucket = bucket.behind(geometry.bucket_lines);
        }
        None
    }
}

/// Where a bucket starts, in bytes from the first page: a page and a line in one number, which the loops keep for each row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Bucket(usize);

impl Bucket {
    #[inline(always)]
    pub(crate) fn at(page: u32, line: usize) -> Bucket {
        Bucket(page as usize * PAGE_BYTES + line * LINE_BYTES)
    }

    #[inline(always)]
    pub(crate) fn page(self) -> usize {
        self.0 / PAGE_BYTES
    }

    #[inline(always)]
    pub(crate) fn line(self) -> usize {
        self.0 % PAGE_BYTES / LINE_BYTES
    }

    /// So many lines on, round the page's end.
    #[inline(always)]
    fn behind(self, lines: usize) -> Bucket {
        Bucket(self.0 / PAGE_BYTES * PAGE_BYTES + (self.0 + lines * LINE_BYTES) % PAGE_BYTES)
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
