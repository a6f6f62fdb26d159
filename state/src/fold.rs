//! [`Table::fold`]: the record's road through a table, and the one door through which entries change.
//!
//! ```text
//! hash ─▶ directory ─▶ page ─▶ line ─▶ compare ─▶ mark ─▶ apply        every row
//!                                       └─▶ insert ─▶ split            rows with a key that is new
//! ```
//!
//! How a batch goes over its rows depends on what the caches hold of the namespace:
//!
//! | namespace | a block of rows |
//! |---|---|
//! | near: in the second level | is touched row by row; anything more would only cost |
//! | ahead: in the third | is hashed and led to its pages, then touched, a prefetch running some rows ahead |
//! | far: in none | the same, with directory and masks prefetched too, and each first line searched before its row's turn |
//!
//! The far way searches a line some rows after it was asked for and some rows before it is touched: where a search goes on
//! to a second line, which one in ten does, that line is on its way by then. At 10 M keys an update took 26 ns the second
//! way and takes 23 ns the third, at 50 M keys 55 and 40; at 1 M keys of which some are hot, 10 and 13.
#![expect(unsafe_code, reason = "reads and writes entries where they lie")]

use std::borrow::Borrow;

use crate::directory::Space;
use crate::fixed::bytes_of;
use crate::page::{Geometry, empty_slots, is_zero, key_in, slots_with, value_in};
use crate::road::{Bucket, NOT_THERE, Road};
use crate::segment::{Descriptor, Kind, LINE_BYTES, NO_PAGE, PAGE_BYTES};
use crate::{Fixed, Key, Namespace, StateError, Table};

/// Rows hashed before the first of them is touched.
const BLOCK_ROWS: usize = 256;

/// How many rows ahead of the one being touched a line is prefetched.
const AHEAD_ROWS: usize = 24;

/// How many rows ahead of the one being touched its line is searched, by when it has come.
const SEEK_AHEAD_ROWS: usize = 8;

/// From this many bytes of pages on, a namespace is worth prefetching: a core's second-level cache holds less.
pub(crate) const AHEAD_FROM_BYTES: usize = 256 << 10;

/// From this many on, no cache helps.
const FAR_FROM_BYTES: usize = 64 << 20;

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
            row = match self.pages.space(self.state, at).pages.len() * PAGE_BYTES {
                bytes if bytes <= AHEAD_FROM_BYTES => self.fold_near(at, row, rows, &key, &init, &mut apply)?,
                bytes if bytes <= FAR_FROM_BYTES => {
                    self.fold_ahead::<false, Q>(at, row, rows, &key, &init, &mut apply)?
                }
                _ => self.fold_ahead::<true, Q>(at, row, rows, &key, &init, &mut apply)?,
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
            let page = unsafe { road.page_of(hash) };
            road.prefetch::<K, V>(Road::bucket_of::<K, V>(page, hash));
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
            match unsafe { road.seek::<K, V>(Road::bucket_of::<K, V>(page, hash), key) } {
                Some((bucket, slot)) => self.touch(&road, bucket, slot, |value| apply(value, row)),
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

    /// A block of rows at a time, in passes, for what it does not hold; for what no cache holds where `FAR`.
    #[inline(always)]
    fn fold_ahead<const FAR: bool, Q: Borrow<K>>(
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
        let mut buckets = [Bucket::default(); BLOCK_ROWS];
        let mut slots = [NOT_THERE; BLOCK_ROWS];
        let mut block = from;
        while block < rows {
            let block_rows = BLOCK_ROWS.min(rows - block);
            if FAR {
                for (i, hash) in hashes[..block_rows].iter_mut().enumerate() {
                    *hash = key(block + i).borrow().hash64();
                    road.prefetch_entry(*hash);
                }
            }
            for (i, bucket) in buckets[..block_rows].iter_mut().enumerate() {
                let hash = if FAR { hashes[i] } else { key(block + i).borrow().hash64() };
                // SAFETY: the directory has not changed since `road` was taken, or the loop would have ended.
                let page = unsafe { road.page_of(hash) };
                *bucket = Road::bucket_of::<K, V>(page, hash);
                if i < AHEAD_ROWS {
                    road.prefetch::<K, V>(*bucket);
                }
            }
            let seek_first = |i: usize| {
                // SAFETY: as above: the page is in use and of this geometry.
                unsafe { road.seek_first::<K, V>(buckets[i], key(block + i).borrow()) }
            };
            if FAR {
                for (i, slot) in slots[..SEEK_AHEAD_ROWS.min(block_rows)].iter_mut().enumerate() {
                    *slot = seek_first(i);
                }
            }
            for i in 0..block_rows {
                let ahead = buckets[(i + AHEAD_ROWS) % BLOCK_ROWS];
                road.prefetch::<K, V>(ahead);
                let row = block + i;
                if FAR {
                    road.prefetch_mask(ahead);
                    if i + SEEK_AHEAD_ROWS < block_rows {
                        slots[i + SEEK_AHEAD_ROWS] = seek_first(i + SEEK_AHEAD_ROWS);
                    }
                    // Entries stay where they are while a directory does, so what was found is there still. What was not
                    // may have been put there by a row since.
                    if slots[i] != NOT_THERE {
                        self.touch(&road, buckets[i], slots[i].into(), |value| apply(value, row));
                        continue;
                    }
                }
                let key = key(row);
                let key = key.borrow();
                // SAFETY: as above.
                match unsafe { road.seek::<K, V>(buckets[i], key) } {
                    Some((bucket, slot)) => self.touch(&road, bucket, slot, |value| apply(value, row)),
                    None => {
                        let same = self.insert(at, key, key.hash64(), init, |value| apply(value, row))?;
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
    fn touch(&mut self, road: &Road, bucket: Bucket, slot: usize, apply: impl FnOnce(&mut V)) {
        // SAFETY: the page was found through the directory, so it is in use and below the columns' ends.
        let before = unsafe {
            let mask = road.masks.add(bucket.page());
            let before = *mask;
            *mask = before | const { Self::GEOMETRY }.bucket_mask(bucket.line());
            before
        };
        if before == 0 {
            self.pages.first_touch(bucket.page() as u32);
        }
        let value = value_in::<K, V>(road.start_of(bucket), slot);
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
                        self.touch(&road, Bucket::at(page, line), slot, apply);
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
            let bucket = road.start_of(Bucket::at(page, line));
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
        self.touch(&road, Bucket::at(zero, 0), 0, apply);
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
}

/// A page copied out, at the alignment of a line.
#[repr(align(64))]
struct Copied([u8; PAGE_BYTES]);
