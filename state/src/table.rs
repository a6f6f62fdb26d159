//! [`Table`]: `(namespace, key) → value` in flat pages: what an operator holds, and what a barrier asks of it.
//!
//! Entries change by [`fold`](crate::fold) alone; here they are looked at, and namespaces come and go.
#![expect(unsafe_code, reason = "reads entries where they lie")]

use std::io;
use std::marker::PhantomData;

use crate::Epoch;
use crate::directory::Space;
use crate::dirty::Pages;
use crate::fixed::{bytes_of, type_text};
use crate::fold::{AHEAD_FROM_BYTES, Sought};
use crate::freeze::{Drained, SnapshotSize};
use crate::page::{Geometry, empty_slots, is_zero, key_in, pack, value_in};
use crate::segment::{Kind, LINE_BYTES, NO_PAGE, PAGE_BYTES, Segment, physical_memory_bytes};
use crate::snapshot::{Chunk, FileRef, Header};
use crate::{Fixed, Key};

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

/// The most pages that a new namespace is given ahead: a millisecond's work.
const PREPARED_PAGES_MAX: usize = 4096;

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
    pub(crate) config: TableConfig,
    /// Entries of the namespace that was dropped last: what the next new one may expect.
    expected: usize,
    _entries: PhantomData<(K, V)>,
}

impl<K: Key, V: Fixed> Table<K, V> {
    pub(crate) const GEOMETRY: Geometry = Geometry::of::<K, V>();

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
        Ok(Table { pages, spaces: Vec::new(), config, expected: 0, _entries: PhantomData })
    }

    pub(crate) fn full(&self) -> StateError {
        let TableConfig { operator, shard, bytes_max } = self.config.clone();
        StateError::Full { operator, shard, bytes_max }
    }

    /// The namespace's place in the list, with a first page.
    pub(crate) fn space_for(&mut self, namespace: Namespace) -> Result<usize, StateError> {
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
            self.prepare(at);
        }
        Ok(at)
    }

    /// Splits the first page of a new namespace while it is empty, for as many entries as the last one had: a pane is much
    /// like the pane before, and moving entries from page to page took a tenth of a window over a million keys.
    #[cold]
    fn prepare(&mut self, at: usize) {
        // A fifth less than full: where hashes are uneven, few pages split after all.
        let Geometry { split_at, near_split_at, .. } = const { Self::GEOMETRY };
        let pages_at = |split_at| self.expected * 5 / 4 / split_at;
        let near = pages_at(near_split_at).min(AHEAD_FROM_BYTES / PAGE_BYTES);
        let pages = near.max(pages_at(split_at));
        let depth = if pages < 2 { 0 } else { pages.min(PREPARED_PAGES_MAX).next_power_of_two().ilog2() };
        for _ in 0..depth {
            for page in self.spaces[at].pages.clone() {
                // A table without room for them says so when it is needed.
                if self.split(at, page).is_err() {
                    return;
                }
            }
        }
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
        let bucket = self.pages.segment.page(page)[line * LINE_BYTES..].as_ptr().cast_mut();
        // SAFETY: a taken slot holds a valid value, aligned by the geometry, and is only read.
        Some(unsafe { *value_in::<K, V>(bucket, slot) })
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
            self.expected = space.len;
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
}
