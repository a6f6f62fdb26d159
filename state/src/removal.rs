//! Taking an entry out of a flat page: the second door through which entries change.
//!
//! A search ends at the first bucket with an empty slot, so what goes must not leave one before an entry that was put
//! behind it when the bucket was full: such entries move up.
#![expect(unsafe_code, reason = "moves entries where they lie")]

use crate::fixed::Fixed;
use crate::page::{Geometry, empty_slots, has_empty_slot, key_in, value_in};
use crate::segment::{Kind, LINE_BYTES, NO_PAGE};
use crate::{Key, Namespace, Table};

impl<K: Key, V: Fixed> Table<K, V> {
    /// The door, for an entry that goes. Whatever a search came to over its bucket, while that was full, is moved up, so that
    /// the first bucket with an empty slot still ends every search.
    pub(crate) fn take_out(&mut self, namespace: Namespace, page: u32, line: usize, slot: usize) {
        let geometry = const { Self::GEOMETRY };
        let state = self.state;
        let at = self.pages.find_space(state, namespace.0).expect("the entry was in it");
        self.pages.space_mut(state, at).len -= 1;
        if self.pages.segment.descriptors.get(page).kind == Kind::Zero {
            let space = self.pages.space_mut(state, at);
            space.zero = NO_PAGE;
            space.pages.retain(|&other| other != page);
            self.pages.give_up(page);
            return;
        }
        // Marked before anything changes, the count too: an open snapshot may need the page as it is.
        self.pages.mark(page, geometry.bucket_mask(line));
        self.pages.count(page, -1);
        self.pages.entry_bytes -= geometry.key_bytes + geometry.value_bytes;
        let (mut line, mut slot) = (line, slot);
        loop {
            self.pages.mark(page, geometry.bucket_mask(line));
            let start = self.pages.segment.page_mut(page).as_mut_ptr();
            // SAFETY: `line` starts a bucket inside the page.
            let was_full = unsafe { has_no_empty_slot::<K, V>(start.add(line * LINE_BYTES)) };
            // SAFETY: the slot is taken; all buckets touched are of this page, which is marked.
            unsafe { close_gap::<K, V>(start.add(line * LINE_BYTES), slot) };
            if !was_full {
                return;
            }
            // The bucket has a free slot at its end now. Of the entries behind it, up to the first bucket that is not full,
            // the first that a search comes to by this bucket moves up, and leaves a gap to be closed in turn.
            let Some((from, from_slot)) = self.next_to_move_up(page, line) else { return };
            let last = geometry.slots - 1;
            let start = self.pages.segment.page_mut(page).as_mut_ptr();
            // SAFETY: from a taken slot to the empty one at the end of the bucket before, both in this page; the bucket that
            // is filled was marked above, the other is marked at the loop's beginning.
            unsafe {
                let (to, from) = (start.add(line * LINE_BYTES), start.add(from * LINE_BYTES));
                value_in::<K, V>(to, last).write(*value_in::<K, V>(from, from_slot));
                key_in::<K>(to, last).write(*key_in::<K>(from, from_slot));
            }
            (line, slot) = (from, from_slot);
        }
    }

    /// Behind the bucket at `line`: the first entry that a search comes to by that bucket.
    fn next_to_move_up(&self, page: u32, line: usize) -> Option<(usize, usize)> {
        let geometry = const { Self::GEOMETRY };
        let start = self.pages.segment.page(page).as_ptr().cast_mut();
        let steps = |from: usize, to: usize| (to + 64 - from) % 64;
        let mut behind = line;
        for _ in 1..geometry.buckets() {
            behind = (behind + geometry.bucket_lines) % 64;
            let bucket = start.wrapping_add(behind * LINE_BYTES);
            // SAFETY: a whole bucket of the page.
            let empty = unsafe { empty_slots::<K, V>(bucket) };
            for slot in (0..geometry.slots).filter(|slot| empty >> slot & 1 == 0) {
                // SAFETY: the slot is taken.
                let home = geometry.line(unsafe { &*key_in::<K>(bucket, slot) }.hash64());
                if steps(home, line) <= steps(home, behind) {
                    return Some((behind, slot));
                }
            }
            if empty != 0 {
                return None;
            }
        }
        None
    }
}

/// Whether every slot of the bucket is taken.
///
/// # Safety
/// As for [`has_empty_slot`].
unsafe fn has_no_empty_slot<K: Fixed, V: Fixed>(bucket: *const u8) -> bool {
    // SAFETY: by the caller's word.
    !unsafe { has_empty_slot::<K, V>(bucket) }
}

/// Takes an entry out of a bucket: the last one takes its place, so that slots still fill from the first to the last.
///
/// # Safety
/// `bucket` is a whole bucket, to be written, and the slot is taken.
unsafe fn close_gap<K: Fixed, V: Fixed>(bucket: *mut u8, slot: usize) {
    let geometry = const { Geometry::of::<K, V>() };
    // SAFETY: the geometry keeps every slot inside the bucket; the last taken slot is at or behind this one.
    unsafe {
        let empty = empty_slots::<K, V>(bucket);
        let last = (0..geometry.slots).rev().find(|slot| empty >> slot & 1 == 0).unwrap_or(slot);
        if last != slot {
            value_in::<K, V>(bucket, slot).write(*value_in::<K, V>(bucket, last));
            key_in::<K>(bucket, slot).write(*key_in::<K>(bucket, last));
        }
        key_in::<K>(bucket, last).cast::<u8>().write_bytes(0, geometry.key_bytes);
        value_in::<K, V>(bucket, last).cast::<u8>().write_bytes(0, geometry.value_bytes);
    }
}
