//! [`Table`]: `(namespace, key) → value` in flat pages, and the one door through which its entries change.
//!
//! ```text
//! fold    hash ─▶ directory ─▶ page ─▶ line ─▶ compare ─▶ mark ─▶ apply        every row
//!                                               └─▶ insert ─▶ split            rows with a key that is new
//! ```
//!
//! A batch over a namespace that no cache holds goes over its rows twice, a block at a time: hash and prefetch, then
//! touch. Sixteen outstanding misses hide most of the memory; in a small namespace the first pass would only cost.
#![expect(unsafe_code, reason = "reads and writes entries where they lie, and indexes directories by hash unchecked")]

use std::borrow::Borrow;
use std::io;
use std::marker::PhantomData;

use crate::Epoch;
use crate::chain::Chain;
use crate::directory::Space;
use crate::dirty::Pages;
use crate::fixed::{bytes_of, type_text};
use crate::freeze::{Drained, SnapshotSize};
use crate::hash::prefix;
use crate::page::{Geometry, empty_slots, has_empty_slot, is_zero, key_in, pack, slots_with, value_in};
use crate::segment::{Descriptor, Kind, LINE_BYTES, NO_PAGE, PAGE_BYTES, Segment, physical_memory_bytes};
use crate::snapshot::{Chunk, FileRef, Header};
use crate::{Fixed, Key};

/// Rows hashed before the first of them is touched.
const BLOCK_ROWS: usize = 256;

/// How many rows ahead of the one being touched a line is prefetched.
const AHEAD_ROWS: usize = 24;

/// From this many bytes of pages on, a namespace is worth prefetching: a core's second-level cache holds less.
const AHEAD_FROM_BYTES: usize = 256 << 10;

/// A part of a table that comes and goes as a whole: a pane's start; 0 where there is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Namespace(pub i64);

/// Whose table it is, and how large it may grow.
#[derive(Clone, Debug)]
pub struct TableConfig {
    /// The operator's name, for files and errors.
    pub operator: String,
    /// The shard's number, for files and errors.
    pub shard: u32,
    /// The most bytes of pages the table may use. Address space for so much is reserved, memory is not.
    pub bytes_max: usize,
}

impl Default for TableConfig {
    /// No name, shard 0, and the machine's physical memory.
    fn default() -> Self {
        TableConfig { operator: String::new(), shard: 0, bytes_max: physical_memory_bytes() }
    }
}

/// Why a table cannot do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The address space could not be reserved.
    #[error(
        "operator '{operator}' on shard {shard}: cannot reserve {bytes_max} bytes of address space for its state: {source}. \
         Lower the operator's state limit, raise the process's limit (ulimit -v), or allow overcommit (vm.overcommit_memory 0 or 1)"
    )]
    Reserve {
        /// Whose state.
        operator: String,
        /// On which shard.
        shard: u32,
        /// What was asked for.
        bytes_max: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The table has grown to its limit.
    #[error(
        "operator '{operator}' on shard {shard}: its state has reached its limit of {bytes_max} bytes. \
         Raise the limit if the machine has the memory, or spread the job over more shards"
    )]
    Full {
        /// Whose state.
        operator: String,
        /// On which shard.
        shard: u32,
        /// The limit.
        bytes_max: usize,
    },
}

/// How much memory a table uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableBytes {
    /// Keys and values.
    pub entries: usize,
    /// The pages they lie in: what "live state" means wherever a bound speaks of it.
    pub live: usize,
    /// All pages that were ever in use, the free ones with them.
    pub mapped: usize,
}

/// Where a [`Table::scan_slice`] goes on.
#[derive(Debug, Default)]
pub struct ScanCursor {
    // The namespace's pages in memory order; none before the first slice.
    pages: Vec<u32>,
    at: usize,
}

/// State of a fixed size per entry: `(namespace, key) → value`, on one shard, in memory, with the lines that changed
/// since the last barrier known.
///
/// ```
/// use millstream_state::{Namespace, Table};
///
/// let mut clicks = Table::<u64, u32>::new(Default::default())?;
/// let users = [7, 9, 7];
/// clicks.fold(Namespace(0), users.len(), |row| users[row], || 0, |count, _row| *count += 1)?;
/// assert_eq!(clicks.get(Namespace(0), &7), Some(2));
/// # Ok::<(), millstream_state::StateError>(())
/// ```
///
/// # A barrier
/// [`freeze`](Table::freeze), then [`drain`](Table::drain) slice by slice between the batches that follow, writing each
/// [`take_chunk`](Table::take_chunk) to the snapshot's file in order; then [`chain`](Table::chain) for the manifest, and
/// when that is published [`confirm`](Table::confirm). Where any of it fails, [`abort`](Table::abort).
pub struct Table<K, V> {
    pub(crate) pages: Pages,
    // Ascending by namespace.
    pub(crate) spaces: Vec<Space>,
    config: TableConfig,
    _entries: PhantomData<(K, V)>,
}

/// Where a search ended.
enum Sought {
    Found { line: usize, slot: usize },
    Empty { line: usize, slot: usize },
    Full,
}

impl<K: Key, V: Fixed> Table<K, V> {
    const GEOMETRY: Geometry = Geometry::of::<K, V>();

    /// An empty table. It uses a few kilobytes until something is put in.
    pub fn new(config: TableConfig) -> Result<Self, StateError> {
        let segment = Segment::reserve(config.bytes_max).map_err(|source| StateError::Reserve {
            operator: config.operator.clone(),
            shard: config.shard,
            bytes_max: config.bytes_max,
            source,
        })?;
        let header = Header {
            operator: config.operator.clone(),
            shard: config.shard,
            epoch: Epoch(0),
            key_type: type_text::<K>(),
            value_type: type_text::<V>(),
            key_bytes: size_of::<K>(),
            value_bytes: size_of::<V>(),
        };
        let pages = Pages::new(const { Self::GEOMETRY }, pack::<K, V>, segment, header);
        Ok(Table { pages, spaces: Vec::new(), config, _entries: PhantomData })
    }

    pub(crate) fn full(&self) -> StateError {
        let TableConfig { operator, shard, bytes_max } = self.config.clone();
        StateError::Full { operator, shard, bytes_max }
    }

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
            row = if self.spaces[at].pages.len() * PAGE_BYTES > AHEAD_FROM_BYTES {
                self.fold_ahead(at, row, rows, &key, &init, &mut apply)?
            } else {
                self.fold_near(at, row, rows, &key, &init, &mut apply)?
            };
        }
        Ok(())
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
        let road = Road::of(&self.pages, &self.spaces[at]);
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
        let road = Road::of(&self.pages, &self.spaces[at]);
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
            let first = self.spaces[at].page_of(hash);
            let mut page = first;
            let (line, slot) = loop {
                match self.seek(page, key, hash) {
                    Sought::Found { line, slot } => {
                        let road = Road::of(&self.pages, &self.spaces[at]);
                        self.touch(&road, page, line, slot, apply);
                        return Ok(same);
                    }
                    Sought::Empty { line, slot } => break (line, slot),
                    Sought::Full => page = self.successor(at, page)?,
                }
            };
            let descriptor = self.pages.segment.descriptors.get(first);
            if descriptor.count as usize >= const { Self::GEOMETRY }.split_at
                && descriptor.next == NO_PAGE
                && self.spaces[at].may_split(descriptor.depth)
            {
                self.split(at, first)?;
                same = false;
                continue;
            }
            // Asked for before anything changes: what the user wrote may panic.
            let value = init();
            self.pages.mark(page, const { Self::GEOMETRY }.bucket_mask(line));
            self.pages.count_up(page);
            self.spaces[at].len += 1;
            let road = Road::of(&self.pages, &self.spaces[at]);
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

    /// The zero key's value lies in a page of its own, in slot 0.
    fn fold_zero(&mut self, at: usize, init: &impl Fn() -> V, apply: impl FnOnce(&mut V)) -> Result<(), StateError> {
        let Space { namespace, zero, .. } = self.spaces[at];
        if zero == NO_PAGE {
            let value = init();
            let page = self.pages.hand_out(namespace, 0, 0, Kind::Zero).ok_or_else(|| self.full())?;
            self.pages.count_up(page);
            // SAFETY: slot 0 of a page just handed out, aligned by the geometry.
            unsafe { value_in::<K, V>(self.pages.segment.page_mut(page).as_mut_ptr(), 0).write(value) };
            let space = &mut self.spaces[at];
            space.zero = page;
            space.pages.push(page);
            space.len += 1;
        }
        let road = Road::of(&self.pages, &self.spaces[at]);
        self.touch(&road, self.spaces[at].zero, 0, 0, apply);
        Ok(())
    }

    /// Searches one page.
    fn seek(&self, page: u32, key: &K, hash: u64) -> Sought {
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
            let next = self.pages.hand_out(namespace, prefix, depth, Kind::Flat);
            descriptor.next = next.ok_or_else(|| self.full())?;
            self.spaces[at].pages.push(descriptor.next);
            // No mark: which page follows which is found out anew by every restore.
            self.pages.segment.descriptors.set(page, descriptor);
        }
        Ok(descriptor.next)
    }

    /// Gives half of a page's hashes, and the entries that have them, to a new page.
    fn split(&mut self, at: usize, page: u32) -> Result<(), StateError> {
        let geometry = const { Self::GEOMETRY };
        let mut descriptor = self.pages.segment.descriptors.get(page);
        let Descriptor { namespace, prefix: lower, depth, .. } = descriptor;
        let bit = 1u64 << (63 - depth);
        let sibling = self.pages.hand_out(namespace, lower | bit, depth + 1, Kind::Flat).ok_or_else(|| self.full())?;
        self.pages.mark(page, u64::MAX);
        self.spaces[at].split(lower, depth, sibling);
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
                let to = if prefix(hash) & bit == 0 { page } else { sibling };
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

    /// The namespace's place in the list, with a first page.
    fn space_for(&mut self, namespace: Namespace) -> Result<usize, StateError> {
        let at = match self.spaces.binary_search_by_key(&namespace.0, |space| space.namespace) {
            Ok(at) => at,
            Err(at) => {
                self.spaces.insert(at, Space::new(namespace.0));
                at
            }
        };
        // The loops read what the directory leads to without asking whether it leads anywhere.
        if self.spaces[at].directory()[0] == NO_PAGE {
            let page = self.pages.hand_out(namespace.0, 0, 0, Kind::Flat).ok_or_else(|| self.full())?;
            self.spaces[at].start_with(page);
        }
        Ok(at)
    }

    fn space(&self, namespace: Namespace) -> Option<&Space> {
        let at = self.spaces.binary_search_by_key(&namespace.0, |space| space.namespace).ok()?;
        Some(&self.spaces[at])
    }

    /// A copy of the value of a key.
    #[must_use]
    pub fn get(&self, namespace: Namespace, key: &K) -> Option<V> {
        let space = self.space(namespace)?;
        let (page, line, slot) = if is_zero(bytes_of(key)) {
            (space.zero, 0, 0)
        } else {
            let hash = key.hash64();
            let mut page = space.page_of(hash);
            loop {
                if page == NO_PAGE {
                    return None;
                }
                match self.seek(page, key, hash) {
                    Sought::Found { line, slot } => break (page, line, slot),
                    Sought::Empty { .. } => return None,
                    Sought::Full => page = self.pages.segment.descriptors.get(page).next,
                }
            }
        };
        if page == NO_PAGE {
            return None;
        }
        let road = Road::of(&self.pages, space);
        // SAFETY: a taken slot holds a valid value.
        Some(unsafe { *value_in::<K, V>(road.line_at(page, line), slot) })
    }

    /// Shows every entry of a namespace, in the order of its pages in memory.
    pub fn scan(&self, namespace: Namespace, visit: impl FnMut(&K, &V)) {
        self.scan_slice(namespace, ScanCursor::default(), usize::MAX, visit);
    }

    /// Shows entries until at least `rows_max` were shown and a page ends, and returns where to go on, or none at the end.
    ///
    /// Starts with `ScanCursor::default()`. Between two slices the namespace must not be changed; others may be.
    pub fn scan_slice(
        &self,
        namespace: Namespace,
        mut cursor: ScanCursor,
        rows_max: usize,
        mut visit: impl FnMut(&K, &V),
    ) -> Option<ScanCursor> {
        let space = self.space(namespace)?;
        if cursor.pages.is_empty() {
            cursor.pages.clone_from(&space.pages);
            cursor.pages.sort_unstable();
        }
        assert_eq!(cursor.pages.len(), space.pages.len(), "the namespace was changed between two slices of a scan");
        let mut rows = 0;
        while let Some(&page) = cursor.pages.get(cursor.at) {
            if rows >= rows_max {
                return Some(cursor);
            }
            cursor.at += 1;
            rows += self.scan_page(page, &mut visit);
        }
        None
    }

    #[inline(always)]
    fn scan_page(&self, page: u32, visit: &mut impl FnMut(&K, &V)) -> usize {
        let geometry = const { Self::GEOMETRY };
        let descriptor = self.pages.segment.descriptors.get(page);
        let start = self.pages.segment.page(page).as_ptr().cast_mut();
        if descriptor.kind == Kind::Zero {
            // SAFETY: slot 0 of the zero key's page holds its value, and its key, whose bytes are all zero, is a key
            // that was given to us, so it is a valid one.
            unsafe { visit(&*key_in::<K>(start, 0), &*value_in::<K, V>(start, 0)) };
            return 1;
        }
        for line in (0..64).step_by(geometry.bucket_lines) {
            // SAFETY: `line` starts a bucket inside the page; taken slots hold valid keys and values.
            unsafe {
                let bucket = start.add(line * LINE_BYTES);
                let empty = empty_slots::<K, V>(bucket);
                for slot in 0..geometry.slots {
                    if empty >> slot & 1 == 0 {
                        visit(&*key_in::<K>(bucket, slot), &*value_in::<K, V>(bucket, slot));
                    }
                }
            }
        }
        descriptor.count as usize
    }

    /// Forgets a namespace: its pages are free at once, and the next snapshot says so. No work per key.
    pub fn drop_namespace(&mut self, namespace: Namespace) {
        if let Ok(at) = self.spaces.binary_search_by_key(&namespace.0, |space| space.namespace) {
            let space = self.spaces.remove(at);
            // Last in, first out: the next namespace gets them in ascending order.
            for page in space.pages.into_iter().rev() {
                self.pages.give_up(page);
            }
        }
    }

    /// The namespaces there are, ascending.
    pub fn namespaces(&self) -> impl Iterator<Item = Namespace> {
        self.spaces.iter().map(|space| Namespace(space.namespace))
    }

    /// Entries of a namespace.
    #[must_use]
    pub fn len(&self, namespace: Namespace) -> usize {
        self.space(namespace).map_or(0, |space| space.len)
    }

    /// Whether there is no namespace at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spaces.is_empty()
    }

    /// How much memory the table uses.
    #[must_use]
    pub fn bytes(&self) -> TableBytes {
        TableBytes {
            entries: self.pages.entry_bytes,
            live: self.pages.in_use as usize * PAGE_BYTES,
            mapped: self.pages.handed_out as usize * PAGE_BYTES,
        }
    }

    /// A barrier: from here on, the table's contents of this moment are the snapshot. Costs nothing that grows.
    ///
    /// # Panics
    /// If the snapshot before is still open.
    pub fn freeze(&mut self, epoch: Epoch) {
        self.pages.freeze(epoch);
    }

    /// Puts about `bytes_max` bytes of the open snapshot's records into chunks.
    pub fn drain(&mut self, bytes_max: usize) -> Drained {
        self.pages.drain(bytes_max)
    }

    /// The next piece of the snapshot's file, if one is full; after [`Drained::Done`], until none is left. A snapshot
    /// without any chunk has no file.
    pub fn take_chunk(&mut self) -> Option<Chunk> {
        self.pages.writer.take()
    }

    /// A chunk that was written, to be filled again.
    pub fn give_back(&mut self, chunk: Chunk) {
        self.pages.writer.give_back(chunk);
    }

    /// What the open snapshot has written so far.
    #[must_use]
    pub fn snapshot_size(&self) -> SnapshotSize {
        self.pages.size()
    }

    /// The files a restore needs, the oldest first: for the manifest. While a snapshot is open and drained, `newest` is
    /// its file, none if it had no chunks; without one it is none.
    #[must_use]
    pub fn chain(&self, newest: Option<&FileRef>) -> Vec<FileRef> {
        self.pages.files(newest)
    }

    /// The manifest with the open snapshot is published. `file` as for [`chain`](Table::chain).
    ///
    /// # Panics
    /// If no snapshot is open, or it is not drained, or a chunk was not taken.
    pub fn confirm(&mut self, file: Option<FileRef>) {
        self.pages.confirm(file);
    }

    /// The open snapshot, if there is one, came to nothing: the next has its changes too.
    pub fn abort(&mut self) {
        self.pages.abort();
    }

    /// Rebuilds the namespaces from the pages' descriptors; `Err` says what contradicts what.
    pub(crate) fn adopt(&mut self, handed_out: u32, chain: Chain) -> Result<(), String> {
        self.pages.adopt(handed_out, chain);
        let mut pages: Vec<(u32, Descriptor)> = (0..handed_out)
            .map(|page| (page, self.pages.segment.descriptors.get(page)))
            .filter(|(_, descriptor)| descriptor.kind != Kind::Free)
            .collect();
        // Pages that share a prefix follow each other, the full ones first: that is the order in which they are searched.
        pages.sort_by_key(|&(page, d)| (d.namespace, d.kind, d.prefix, d.depth, std::cmp::Reverse(d.count), page));
        for space_pages in pages.chunk_by(|(_, one), (_, other)| one.namespace == other.namespace) {
            let mut space = Space::new(space_pages[0].1.namespace);
            let mut firsts: Vec<(u32, Descriptor)> = Vec::new();
            let mut last = (NO_PAGE, Descriptor::default());
            for &(page, descriptor) in space_pages {
                space.pages.push(page);
                space.len += descriptor.count as usize;
                if descriptor.kind == Kind::Zero {
                    if space.zero != NO_PAGE || descriptor.count != 1 {
                        return Err(format!("page {page} is a second page, or an empty one, of the zero key"));
                    }
                    space.zero = page;
                } else if (last.1.prefix, last.1.depth) == (descriptor.prefix, descriptor.depth) && last.0 != NO_PAGE {
                    if last.1.count as usize != const { Self::GEOMETRY }.capacity {
                        return Err(format!("page {page} follows page {}, which is not full", last.0));
                    }
                    self.pages.segment.descriptors.set(last.0, Descriptor { next: page, ..last.1 });
                    last = (page, descriptor);
                } else {
                    firsts.push((page, descriptor));
                    last = (page, descriptor);
                }
            }
            space.rebuild(&firsts)?;
            self.spaces.push(space);
        }
        Ok(())
    }
}

/// A page copied out, at the alignment of a line.
#[repr(align(64))]
struct Copied([u8; PAGE_BYTES]);

/// What a loop over rows needs, in registers: valid until a directory changes.
struct Road {
    pages: *mut u8,
    masks: *mut u64,
    directory: *const u32,
    shift: u32,
}

impl Road {
    #[inline(always)]
    fn of(pages: &Pages, space: &Space) -> Road {
        Road {
            pages: pages.segment.pages_start(),
            masks: pages.segment.masks.start(),
            directory: space.directory().as_ptr(),
            shift: space.shift(),
        }
    }

    /// The page where a search for the hash begins.
    ///
    /// # Safety
    /// The directory is the one the road was taken from, unchanged.
    #[inline(always)]
    unsafe fn page_of(&self, hash: u64) -> u32 {
        // SAFETY: a directory of depth d has 2^d entries, and the shift leaves d bits.
        unsafe { *self.directory.add((prefix(hash) >> 1 >> self.shift) as usize) }
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
fn prefetch_line(line: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that a program could see, wherever it points.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
