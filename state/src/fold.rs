//! [`Table::fold`]: the record's road through a table, and the one door through which entries change.
//!
//! ```text
//! hash ─▶ directory ─▶ page ─▶ line ─▶ compare ─▶ mark ─▶ apply        every row
//!                                       └─▶ insert ─▶ split            rows with a key that is new
//! ```
//!
//! A batch over a namespace that no cache holds goes over its rows twice, a block at a time: hash them and look up their
//! pages, then touch them, a prefetch running some rows ahead. That hides most of the memory: at 10 M keys an update
//! takes what it takes in a flat table without any tracking. In a small namespace the first pass would only cost.
#![expect(unsafe_code, reason = "reads and writes entries where they lie, and indexes directories by hash unchecked")]

use std::borrow::Borrow;

use crate::directory::{Space, entry_of, is_below};
use crate::dirty::Pages;
use crate::fixed::bytes_of;
use crate::page::{Geometry, empty_slots, has_empty_slot, is_zero, key_in, slots_with, value_in};
use crate::segment::{Descriptor, Kind, LINE_BYTES, NO_PAGE, PAGE_BYTES};
use crate::{Fixed, Key, Namespace, StateError, Table};

/// Rows hashed before the first of them is touched.
const BLOCK_ROWS: usize = 256;

/// How many rows ahead of the one being touched a line is prefetched.
const AHEAD_ROWS: usize = 24;

/// From this many bytes of pages on, a namespace is worth prefetching: a core's second-level cache holds less.
pub(crate) const AHEAD_FROM_BYTES: usize = 256 << 10;

/// Where a search ended.
pub(crate) enum Sought {
    Found { line: usize, slot: usize },
    Empty { line: usize, slot: usize },
    Full,
}

impl<K: Key, V: Fixed> Table<K, V> {
    /// For every row: finds the value of `key(row)`, inserting `init()` where there is none, and has `apply` change it.
    ///
    /// `key` may be asked for a row more than once. Where the table is full, the rows before the one that did not fit
    /// are applied.
    #[inline]
    pub fn fold<Q: Borrow<K>>(
        &mut self,
        namespace: Namespace,
        rows: usize,
        key: impl Fn(usize) -> Q,
        init: impl Fn() -> V,
        mut apply: impl FnMut(&mut V, usize),
    ) -> Result<(), StateError> {
        if rows == 0 {
            return Ok(());
        }
        let at = self.space_for(namespace)?;
        let mut row = 0;
        // Each round ends early when a directory changes under the loop that reads it.
        while row < rows {
            row = if self.pages.space(self.state, at).pages.len() * PAGE_BYTES > AHEAD_FROM_BYTES {
                self.fold_ahead(at, row, rows, &key, &init, &mut apply)?
            } else {
                self.fold_near(at, row, rows, &key, &init, &mut apply)?
            };
        }
        Ok(())
    }

    /// The value of a key, to be changed where it lies. It counts as changed at once: it must not be held over a barrier.
    pub fn get_mut(&mut self, namespace: Namespace, key: &K) -> Option<&mut V> {
        let (page, line, slot) = self.find(namespace, key)?;
        self.pages.mark(page, const { Self::GEOMETRY }.bucket_mask(line));
        let bucket = self.pages.segment.page_mut(page)[line * LINE_BYTES..].as_mut_ptr();
        // SAFETY: a taken slot holds a valid value, aligned by the geometry; it is of this table's pages, and nobody else
        // reads or writes those while the table is borrowed exclusively.
        Some(unsafe { &mut *value_in::<K, V>(bucket, slot) })
    }

    /// As [`get_mut`](Table::get_mut), of a value that is `init()` where there was none.
    ///
    /// # Errors
    /// When the store is full.
    pub fn get_mut_or(&mut self, namespace: Namespace, key: &K, init: impl Fn() -> V) -> Result<&mut V, StateError> {
        if self.find(namespace, key).is_none() {
            self.put_new(namespace, key, &init)?;
        }
        Ok(self.get_mut(namespace, key).expect("it was found or put there"))
    }

    /// Keeps a value under a key, in place of what was there; true if there was a value.
    ///
    /// # Errors
    /// When the store is full.
    pub fn put(&mut self, namespace: Namespace, key: &K, value: V) -> Result<bool, StateError> {
        if let Some(kept) = self.get_mut(namespace, key) {
            *kept = value;
            return Ok(true);
        }
        self.put_new(namespace, key, &|| value)?;
        Ok(false)
    }

    /// Not by a fold of one row: that is made ready for many, which costs more than the row.
    fn put_new(&mut self, namespace: Namespace, key: &K, init: &impl Fn() -> V) -> Result<(), StateError> {
        let at = self.space_for(namespace)?;
        self.insert(at, key, key.hash64(), init, |_| ()).map(drop)
    }

    /// Asks for the lines where searches for these hashes begin, ahead of them; where no cache holds the namespace.
    pub fn prefetch(&self, namespace: Namespace, hashes: &[u64]) {
        let Some(space) = self.space(namespace) else { return };
        if space.pages.len() * PAGE_BYTES <= AHEAD_FROM_BYTES || space.directory()[0] == NO_PAGE {
            return;
        }
        let road = Road::of(&self.pages, space);
        for &hash in hashes {
            // SAFETY: the directory is not changed while the table is borrowed.
            road.prefetch::<K, V>(unsafe { road.page_of(hash) }, hash);
        }
    }

    /// One pass, for what the cache holds.
    #[inline(always)]
    fn fold_near<Q: Borrow<K>>(
        &mut self,
        at: usize,
        from: usize,
        rows: usize,
        key: &impl Fn(usize) -> Q,
        init: &impl Fn() -> V,
        apply: &mut impl FnMut(&mut V, usize),
    ) -> Result<usize, StateError> {
        let road = Road::of(&self.pages, self.pages.space(self.state, at));
        for row in from..rows {
            let key = key(row);
            let key = key.borrow();
            let hash = key.hash64();
            // SAFETY: the directory has not changed since `road` was taken, or the loop would have ended.
            let page = unsafe { road.page_of(hash) };
            // SAFETY: as above: the page is in use and of this geometry.
            match unsafe { road.seek::<K, V>(page, key, hash) } {
                Some((line, slot)) => self.touch(&road, page, line, slot, |value| apply(value, row)),
                None => {
                    let same = self.insert(at, key, hash, init, |value| apply(value, row))?;
                    if !same {
                        return Ok(row + 1);
                    }
                }
            }
        }
        Ok(rows)
    }

    /// Two passes over a block at a time, for what it does not.
    #[inline(always)]
    fn fold_ahead<Q: Borrow<K>>(
        &mut self,
        at: usize,
        from: usize,
        rows: usize,
        key: &impl Fn(usize) -> Q,
        init: &impl Fn() -> V,
        apply: &mut impl FnMut(&mut V, usize),
    ) -> Result<usize, StateError> {
        let road = Road::of(&self.pages, self.pages.space(self.state, at));
        let mut hashes = [0u64; BLOCK_ROWS];
        let mut on_pages = [0u32; BLOCK_ROWS];
        let mut block = from;
        while block < rows {
            let block_rows = BLOCK_ROWS.min(rows - block);
            for i in 0..block_rows {
                let hash = key(block + i).borrow().hash64();
                hashes[i] = hash;
                // SAFETY: the directory has not changed since `road` was taken, or the loop would have ended.
                on_pages[i] = unsafe { road.page_of(hash) };
                if i < AHEAD_ROWS {
                    road.prefetch::<K, V>(on_pages[i], hash);
                }
            }
            for i in 0..block_rows {
                let ahead = (i + AHEAD_ROWS) % BLOCK_ROWS;
                road.prefetch::<K, V>(on_pages[ahead], hashes[ahead]);
                let (row, hash, page) = (block + i, hashes[i], on_pages[i]);
                let key = key(row);
                let key = key.borrow();
                // SAFETY: as above: the page is in use and of this geometry.
                match unsafe { road.seek::<K, V>(page, key, hash) } {
                    Some((line, slot)) => self.touch(&road, page, line, slot, |value| apply(value, row)),
                    None => {
                        let same = self.insert(at, key, hash, init, |value| apply(value, row))?;
                        if !same {
                            return Ok(row + 1);
                        }
                    }
                }
            }
            block += block_rows;
        }
        Ok(rows)
    }

    /// The door, for an entry that is there: marks its bucket, then lets it be changed.
    #[inline(always)]
    fn touch(&mut self, road: &Road, page: u32, line: usize, slot: usize, apply: impl FnOnce(&mut V)) {
        // SAFETY: the page was found through the directory, so it is in use and below the columns' ends.
        let before = unsafe {
            let mask = road.masks.add(page as usize);
            let before = *mask;
            *mask = before | const { Self::GEOMETRY }.bucket_mask(line);
            before
        };
        if before == 0 {
            self.pages.first_touch(page);
        }
        let value = value_in::<K, V>(road.line_at(page, line), slot);
        // SAFETY: the slot is taken, so its value is a valid `V` (written by us, or checked when restored), aligned by
        // the geometry, and nobody else holds a reference into the page while we are borrowed exclusively.
        apply(unsafe { &mut *value });
    }

    /// The door, for what [`Road::seek`] did not find: a new key, one in an overfull page's successor, or the zero key.
    /// False if the directory changed.
    #[cold]
    #[inline(never)]
    fn insert(
        &mut self,
        at: usize,
        key: &K,
        hash: u64,
        init: &impl Fn() -> V,
        apply: impl FnOnce(&mut V),
    ) -> Result<bool, StateError> {
        if is_zero(bytes_of(key)) {
            return self.fold_zero(at, init, apply).map(|()| true);
        }
        let mut same = true;
        loop {
            let first = self.pages.space(self.state, at).page_of(hash);
            let mut page = first;
            // Entries may have been taken out of a page that was full when it got a successor: the key is sought in all of
            // them before it is put into the first that has room.
            let mut room = None;
            loop {
                match self.seek(page, key, hash) {
                    Sought::Found { line, slot } => {
                        let road = Road::of(&self.pages, self.pages.space(self.state, at));
                        self.touch(&road, page, line, slot, apply);
                        return Ok(same);
                    }
                    Sought::Empty { line, slot } => room = room.or(Some((page, line, slot))),
                    Sought::Full => {}
                }
                match self.pages.segment.descriptors.get(page).next {
                    NO_PAGE => break,
                    next => page = next,
                }
            }
            let (page, line, slot) = match room {
                Some(room) => room,
                None => {
                    let page = self.successor(at, page)?;
                    let Sought::Empty { line, slot } = self.seek(page, key, hash) else {
                        unreachable!("a new page is empty")
                    };
                    (page, line, slot)
                }
            };
            let descriptor = self.pages.segment.descriptors.get(first);
            if descriptor.count as usize >= self.split_at(at)
                && descriptor.next == NO_PAGE
                && self.pages.space(self.state, at).may_split(descriptor.depth)
            {
                match self.split(at, first) {
                    Ok(()) => {
                        same = false;
                        continue;
                    }
                    Err(full) if descriptor.count as usize >= const { Self::GEOMETRY }.split_at => return Err(full),
                    // There is room in the page itself.
                    Err(_) => {}
                }
            }
            // Asked for before anything changes: what the user wrote may panic.
            let value = init();
            self.pages.mark(page, const { Self::GEOMETRY }.bucket_mask(line));
            self.count_up(at, page);
            let road = Road::of(&self.pages, self.pages.space(self.state, at));
            let bucket = road.line_at(page, line);
            // SAFETY: `seek` found the slot empty in a page in use; key and value are aligned by the geometry, and the
            // value is written before anybody sees the slot as taken.
            unsafe {
                let place = value_in::<K, V>(bucket, slot);
                place.write(value);
                key_in::<K>(bucket, slot).write(*key);
                apply(&mut *place);
            }
            return Ok(same);
        }
    }

    /// How many entries make a page split.
    fn split_at(&self, at: usize) -> usize {
        let Geometry { split_at, near_split_at, .. } = const { Self::GEOMETRY };
        if self.pages.space(self.state, at).pages.len() * PAGE_BYTES > AHEAD_FROM_BYTES {
            split_at
        } else {
            near_split_at
        }
    }

    /// The zero key's value lies in a page of its own, in slot 0.
    fn fold_zero(&mut self, at: usize, init: &impl Fn() -> V, apply: impl FnOnce(&mut V)) -> Result<(), StateError> {
        let state = self.state;
        let Space { namespace, zero, .. } = *self.pages.space(state, at);
        if zero == NO_PAGE {
            let value = init();
            let page = self.pages.hand_out(state, namespace, 0, 0, Kind::Zero).ok_or_else(|| self.full())?;
            self.count_up(at, page);
            // SAFETY: slot 0 of a page just handed out, aligned by the geometry.
            unsafe { value_in::<K, V>(self.pages.segment.page_mut(page).as_mut_ptr(), 0).write(value) };
            let space = self.pages.space_mut(state, at);
            space.zero = page;
            space.pages.push(page);
        }
        let road = Road::of(&self.pages, self.pages.space(self.state, at));
        let zero = self.pages.space(state, at).zero;
        self.touch(&road, zero, 0, 0, apply);
        Ok(())
    }

    /// Searches one page.
    pub(crate) fn seek(&self, page: u32, key: &K, hash: u64) -> Sought {
        let geometry = const { Self::GEOMETRY };
        let mut line = geometry.line(hash);
        let start = self.pages.segment.page(page).as_ptr();
        for _ in 0..geometry.buckets() {
            // SAFETY: `line` starts a bucket inside the page.
            let (found, empty) = unsafe {
                let bucket = start.add(line * LINE_BYTES);
                (slots_with::<K, V>(bucket, key), empty_slots::<K, V>(bucket))
            };
            if found != 0 {
                return Sought::Found { line, slot: found.trailing_zeros() as usize };
            }
            if empty != 0 {
                return Sought::Empty { line, slot: empty.trailing_zeros() as usize };
            }
            line = (line + geometry.bucket_lines) % 64;
        }
        Sought::Full
    }

    /// The page that goes on where this one, which may not split, is full.
    fn successor(&mut self, at: usize, page: u32) -> Result<u32, StateError> {
        let mut descriptor = self.pages.segment.descriptors.get(page);
        if descriptor.next == NO_PAGE {
            let Descriptor { namespace, prefix, depth, .. } = descriptor;
            let state = self.state;
            let next = self.pages.hand_out(state, namespace, prefix, depth, Kind::Flat);
            descriptor.next = next.ok_or_else(|| self.full())?;
            self.pages.space_mut(state, at).pages.push(descriptor.next);
            // No mark: which page follows which is found out anew by every restore.
            self.pages.segment.descriptors.set(page, descriptor);
        }
        Ok(descriptor.next)
    }

    /// Gives half of a page's hashes, and the entries that have them, to a new page.
    pub(crate) fn split(&mut self, at: usize, page: u32) -> Result<(), StateError> {
        let geometry = const { Self::GEOMETRY };
        let state = self.state;
        let mut descriptor = self.pages.segment.descriptors.get(page);
        let Descriptor { namespace, prefix: lower, depth, .. } = descriptor;
        if self.pages.narrow(page) {
            return Ok(());
        }
        let bit = 1u64 << (63 - depth);
        let sibling = self.pages.hand_out(state, namespace, lower | bit, depth + 1, Kind::Flat);
        let sibling = sibling.ok_or_else(|| self.full())?;
        self.pages.mark(page, u64::MAX);
        self.pages.space_mut(state, at).split(lower, depth, sibling);
        descriptor.depth = depth + 1;
        descriptor.count = 0;
        self.pages.segment.descriptors.set(page, descriptor);
        let mut sibling_descriptor = self.pages.segment.descriptors.get(sibling);

        let before = Copied(*self.pages.segment.page(page));
        self.pages.segment.page_mut(page).fill(0);
        for line in (0..64).step_by(geometry.bucket_lines) {
            let bucket = before.0[line * LINE_BYTES..].as_ptr().cast_mut();
            // SAFETY: a whole bucket of a page of this geometry, only read; `Copied` has the alignment of a line.
            let empty = unsafe { empty_slots::<K, V>(bucket) };
            for slot in (0..geometry.slots).filter(|slot| empty >> slot & 1 == 0) {
                // SAFETY: the slot is taken.
                let (key, value) = unsafe { (*key_in::<K>(bucket, slot), *value_in::<K, V>(bucket, slot)) };
                let hash = key.hash64();
                let to = if hash & bit == 0 { page } else { sibling };
                let Sought::Empty { line, slot } = self.seek(to, &key, hash) else {
                    unreachable!("half of a page's entries find room in a page, and none is there twice")
                };
                let start = self.pages.segment.page_mut(to).as_mut_ptr();
                // SAFETY: an empty slot of a page in use, written as `insert` does; both pages are wholly marked.
                unsafe {
                    let bucket = start.add(line * LINE_BYTES);
                    value_in::<K, V>(bucket, slot).write(value);
                    key_in::<K>(bucket, slot).write(key);
                }
                if to == page { descriptor.count += 1 } else { sibling_descriptor.count += 1 }
            }
        }
        self.pages.segment.descriptors.set(page, descriptor);
        self.pages.segment.descriptors.set(sibling, sibling_descriptor);
        Ok(())
    }

    fn count_up(&mut self, at: usize, page: u32) {
        let Geometry { key_bytes, value_bytes, .. } = const { Self::GEOMETRY };
        let state = self.state;
        self.pages.count(page, 1);
        self.pages.entry_bytes += key_bytes + value_bytes;
        self.pages.space_mut(state, at).len += 1;
    }

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

/// A page copied out, at the alignment of a line.
#[repr(align(64))]
struct Copied([u8; PAGE_BYTES]);

/// What a loop over rows needs, in registers: valid until a directory changes.
struct Road {
    pages: *mut u8,
    masks: *mut u64,
    space: *const Space,
    directory: *const u32,
    shift: u32,
    base: u64,
    last: u64,
}

impl Road {
    #[inline(always)]
    fn of(pages: &Pages, space: &Space) -> Road {
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
    unsafe fn page_of(&self, hash: u64) -> u32 {
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
    fn line_at(&self, page: u32, line: usize) -> *mut u8 {
        self.pages.wrapping_add(page as usize * PAGE_BYTES + line * LINE_BYTES)
    }

    /// Asks for the bucket where a search for the hash begins; for the one behind it too, where buckets of one entry make
    /// it likely that the search goes on.
    #[inline(always)]
    fn prefetch<K: Fixed, V: Fixed>(&self, page: u32, hash: u64) {
        let geometry = const { Geometry::of::<K, V>() };
        let line = geometry.line(hash);
        prefetch_line(self.line_at(page, line));
        if geometry.slots == 1 {
            prefetch_line(self.line_at(page, (line + geometry.bucket_lines) % 64));
        }
    }

    /// Searches the page for a key; none for the zero key, which looks like an empty slot.
    ///
    /// # Safety
    /// The page is in use and of the geometry of `K` and `V`.
    #[inline(always)]
    unsafe fn seek<K: Key, V: Fixed>(&self, page: u32, key: &K, hash: u64) -> Option<(usize, usize)> {
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
pub(crate) fn prefetch_line(line: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that a program could see, wherever it points.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
