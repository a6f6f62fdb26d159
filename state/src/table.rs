//! [`Table`]: `(namespace, key) → value` in flat pages: what an operator holds, and what a barrier asks of it.
//!
//! Entries change by [`fold`](crate::fold) alone; here they are looked at, and namespaces come and go.
#![expect(unsafe_code, reason = "reads entries where they lie")]

use std::io;
use std::marker::PhantomData;
use std::path::PathBuf;

use crate::Epoch;
use crate::backing::Backing;
use crate::directory::Space;
use crate::fixed::{bytes_of, is_valid, type_text};
use crate::fold::{AHEAD_FROM_BYTES, Sought};
use crate::freeze::{Drained, SnapshotSize};
use crate::hash::{HashRange, prefix_of_depth};
use crate::page::{Geometry, empty_slots, is_zero, key_in, pack, unpack, value_in};
use crate::page_store::{PageStore, Shared};
use crate::residence::memory_bytes_max;
use crate::schema::Schema;
use crate::segment::{Descriptor, Kind, LINE_BYTES, NO_PAGE, PAGE_BYTES};
use crate::shape::{Layout, LayoutPart, StatePart, Ways};
use crate::snapshot::{Chunk, FileRef};
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
    /// The stretch of the hash space that the shard owns.
    pub range: HashRange,
    /// Where the pages lie.
    pub backing: Backing,
}

impl Default for TableConfig {
    /// No name, shard 0, all hashes, and the memory that the process can have.
    fn default() -> Self {
        let bytes_max = memory_bytes_max() as usize;
        TableConfig { operator: String::new(), shard: 0, bytes_max, range: HashRange::ALL, backing: Backing::Anonymous }
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
    /// The file that the pages shall lie in cannot be had.
    #[error("operator '{operator}' on shard {shard}: its state cannot be kept in {directory}: {source}", directory = directory.display())]
    Backing {
        /// Whose state.
        operator: String,
        /// On which shard.
        shard: u32,
        /// Where the file was to be.
        directory: PathBuf,
        /// What speaks against it.
        source: io::Error,
    },
    /// The file system of that file has no room for more pages.
    #[error(
        "operator '{operator}' on shard {shard}: {path} cannot grow: {what}. Give its tmpfs more room (mount -o remount,size=..), spread the job over more machines, or keep state in the process's own memory",
        path = path.display()
    )]
    BackingFull {
        /// Whose state.
        operator: String,
        /// On which shard.
        shard: u32,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        what: String,
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
    /// A key is longer than a page can hold.
    #[error(
        "operator '{operator}': a key of {bytes} bytes is too long for its state, which takes {bytes_max}: key by a hash of it"
    )]
    Key {
        /// Whose state.
        operator: String,
        /// The key's length.
        bytes: usize,
        /// The most there may be.
        bytes_max: usize,
    },
    /// A value's own serialisation failed.
    #[error("operator '{operator}': a value cannot be kept, its serialisation failed: {what}")]
    Value {
        /// Whose state.
        operator: String,
        /// What it said.
        what: String,
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
    pub(crate) pages: Shared,
    pub(crate) state: u16,
    _entries: PhantomData<(K, V)>,
}

impl PageStore {
    /// Adds a state of fixed-size keys and values.
    ///
    /// # Panics
    /// If the store has a state of that name.
    #[must_use]
    pub fn table<K: Key, V: Fixed>(&self, name: &str) -> Table<K, V> {
        let key = Schema::of_type_text(&type_text::<K>(), size_of::<K>(), align_of::<K>());
        let value = Schema::of_type_text(&type_text::<V>(), size_of::<V>(), align_of::<V>());
        self.table_as(name, key, value)
    }

    /// As [`table`](PageStore::table), with what checkpoints shall say of the types.
    #[must_use]
    pub fn table_as<K: Key, V: Fixed>(&self, name: &str, key: Schema, value: Schema) -> Table<K, V> {
        let (key_bytes, value_bytes, value_align) = (size_of::<K>(), size_of::<V>(), align_of::<V>());
        let layout = Layout::Flat(const { Table::<K, V>::GEOMETRY });
        let ways = Ways {
            pack: pack::<K, V>,
            unpack: unpack::<K, V>,
            prove: prove::<K, V>,
            is_key: is_valid_at_any_place::<K>,
            is_value: is_valid_at_any_place::<V>,
            // SAFETY: called with the bytes of keys that were proven; they are copied to where a key may lie.
            hash: |key| unsafe { key.as_ptr().cast::<K>().read_unaligned() }.hash64(),
            insert: insert::<K, V>,
        };
        let part = StatePart::new(name, key, value, LayoutPart::Flat { key_bytes, value_bytes, value_align });
        let state = self.declare(part, layout, ways);
        Table { pages: self.pages.clone(), state, _entries: PhantomData }
    }
}

impl<K: Key, V: Fixed> Table<K, V> {
    pub(crate) const GEOMETRY: Geometry = Geometry::of::<K, V>();

    /// An empty table in a store of its own. It uses a few kilobytes until something is put in.
    ///
    /// # Errors
    /// When the address space cannot be reserved.
    pub fn new(config: TableConfig) -> Result<Self, StateError> {
        Ok(PageStore::new(config)?.table(ONLY_STATE))
    }

    /// The store it is a state of.
    #[must_use]
    pub fn store(&self) -> PageStore {
        PageStore { pages: self.pages.clone() }
    }

    pub(crate) fn full(&self) -> StateError {
        self.pages.full()
    }

    /// The namespace's place in the list, with a first page.
    pub(crate) fn space_for(&mut self, namespace: Namespace) -> Result<usize, StateError> {
        let state = self.state;
        let at = self.pages.space_at(state, namespace.0);
        // The loops read what the directory leads to without asking whether it leads anywhere.
        if self.pages.space(state, at).directory()[0] == NO_PAGE {
            let (prefix, depth) = self.pages.config.range.prefix();
            let page = self.pages.hand_out(state, namespace.0, prefix, depth, Kind::Flat).ok_or_else(|| self.full())?;
            self.pages.space_mut(state, at).start_with(page);
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
        let expected = self.pages.states[self.state as usize].expected;
        let pages_at = |split_at| expected * 5 / 4 / split_at;
        let near = pages_at(near_split_at).min(AHEAD_FROM_BYTES / PAGE_BYTES);
        let pages = near.max(pages_at(split_at));
        let depth = if pages < 2 { 0 } else { pages.min(PREPARED_PAGES_MAX).next_power_of_two().ilog2() };
        for _ in 0..depth {
            for page in self.pages.space(self.state, at).pages.clone() {
                // A table without room for them says so when it is needed.
                if self.split(at, page).is_err() {
                    return;
                }
            }
        }
    }

    pub(crate) fn space(&self, namespace: Namespace) -> Option<&Space> {
        let at = self.pages.find_space(self.state, namespace.0)?;
        Some(self.pages.space(self.state, at))
    }

    /// The page, line and slot of a key's entry.
    pub(crate) fn find(&self, namespace: Namespace, key: &K) -> Option<(u32, usize, usize)> {
        let space = self.space(namespace)?;
        if is_zero(bytes_of(key)) {
            return (space.zero != NO_PAGE).then_some((space.zero, 0, 0));
        }
        let hash = key.hash64();
        let mut page = space.page_of(hash);
        while page != NO_PAGE {
            match self.seek(page, key, hash) {
                Sought::Found { line, slot } => return Some((page, line, slot)),
                // A page with a successor may have been full once and be so no more.
                Sought::Empty { .. } | Sought::Full => page = self.pages.segment.descriptors.get(page).next,
            }
        }
        None
    }

    /// A copy of the value of a key.
    #[must_use]
    pub fn get(&self, namespace: Namespace, key: &K) -> Option<V> {
        self.get_ref(namespace, key).copied()
    }

    /// The value of a key, where it lies.
    #[must_use]
    pub fn get_ref(&self, namespace: Namespace, key: &K) -> Option<&V> {
        let (page, line, slot) = self.find(namespace, key)?;
        Some(self.value_at(page, line, slot))
    }

    /// The value of an entry that was found.
    #[inline(always)]
    fn value_at(&self, page: u32, line: usize, slot: usize) -> &V {
        let bucket = self.pages.segment.page(page)[line * LINE_BYTES..].as_ptr().cast_mut();
        // SAFETY: a taken slot holds a valid value, aligned by the geometry; it is of this table's pages, and nobody
        // writes to those while the table is borrowed.
        unsafe { &*value_in::<K, V>(bucket, slot) }
    }

    /// Changes the value of a key in place, putting `init()` there first if there is none.
    ///
    /// # Errors
    /// When the store is full.
    pub fn update<R>(
        &mut self,
        namespace: Namespace,
        key: &K,
        init: impl Fn() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> Result<R, StateError> {
        let (mut change, mut changed) = (Some(change), None);
        self.fold(namespace, 1, |_| *key, init, |value, _| changed = change.take().map(|change| change(value)))?;
        Ok(changed.expect("one row is applied once"))
    }

    /// Takes an entry out, and returns its value if there was one.
    pub fn remove(&mut self, namespace: Namespace, key: &K) -> Option<V> {
        let (page, line, slot) = self.find(namespace, key)?;
        let value = *self.value_at(page, line, slot);
        self.take_out(namespace, page, line, slot);
        Some(value)
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
        // From here on the store is not looked into but page by page: `visit` may well use another state of it.
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
        let state = self.state;
        self.pages.drop_namespace(state, namespace.0);
    }

    /// The namespaces there are, ascending.
    pub fn namespaces(&self) -> impl Iterator<Item = Namespace> {
        self.pages.states[self.state as usize].spaces.iter().map(|space| Namespace(space.namespace))
    }

    /// Entries of a namespace.
    #[must_use]
    pub fn len(&self, namespace: Namespace) -> usize {
        self.space(namespace).map_or(0, |space| space.len)
    }

    /// Whether there is no namespace at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.states[self.state as usize].spaces.is_empty()
    }

    /// How much memory the table's store uses.
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
        self.pages.clone().files_of_open(newest)
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

/// What the one state of a table with a store of its own is called.
pub(crate) const ONLY_STATE: &str = "entries";

/// Checks a page's entries before anybody sees them as keys and values.
fn prove<K: Key, V: Fixed>(descriptor: &Descriptor, body: &[u8; PAGE_BYTES]) -> Result<(), String> {
    let geometry = const { Geometry::of::<K, V>() };
    let is_valid = |key_at: usize, value_at: usize| {
        // SAFETY: the geometry keeps keys and values inside the page and aligned; its bytes are initialised.
        unsafe { is_valid::<K>(body[key_at..].as_ptr()) && is_valid::<V>(body[value_at..].as_ptr()) }
    };
    if descriptor.kind == Kind::Zero {
        let valid = is_zero(&body[..geometry.key_bytes]) && is_valid(0, geometry.values_at);
        return if valid {
            Ok(())
        } else {
            Err("has a key that is not zero, or a value that is not one of its type".to_owned())
        };
    }
    let mut count = 0;
    for bucket in 0..geometry.buckets() {
        let bucket_at = bucket * geometry.bucket_lines * LINE_BYTES;
        let mut ended = false;
        for slot in 0..geometry.slots {
            let key_at = bucket_at + slot * geometry.key_bytes;
            if is_zero(&body[key_at..key_at + geometry.key_bytes]) {
                ended = true;
                continue;
            }
            let trouble = if ended {
                "has a gap before an entry"
            } else if !is_valid(key_at, bucket_at + geometry.values_at + slot * geometry.value_bytes) {
                "has a key or value that is not one of its type"
            } else {
                // SAFETY: just found valid, and aligned by the geometry.
                let hash = unsafe { &*body[key_at..].as_ptr().cast::<K>() }.hash64();
                if prefix_of_depth(hash, descriptor.depth) == descriptor.prefix
                    && leads_to(&geometry, body, hash, bucket)
                {
                    count += 1;
                    continue;
                }
                "has a key that its hash does not lead to; was the key's hash64 changed?"
            };
            return Err(format!("{trouble} (line {}, slot {slot})", bucket * geometry.bucket_lines));
        }
    }
    if count != descriptor.count as usize {
        return Err(format!("has {count} entries and should have {}", descriptor.count));
    }
    Ok(())
}

/// Whether a search comes to the bucket: from where the hash says, over full buckets.
#[inline(always)]
fn leads_to(geometry: &Geometry, body: &[u8; PAGE_BYTES], hash: u64, bucket: usize) -> bool {
    let mut on_the_way = geometry.line(hash) / geometry.bucket_lines;
    while on_the_way != bucket {
        let last_key_at = geometry.key_at(on_the_way * geometry.slots + geometry.slots - 1);
        if is_zero(&body[last_key_at..last_key_at + geometry.key_bytes]) {
            return false;
        }
        on_the_way = (on_the_way + 1) % geometry.buckets();
    }
    true
}

/// Whether bytes that lie anywhere are a `T`.
fn is_valid_at_any_place<T: Fixed>(bytes: &[u8]) -> bool {
    if bytes.len() != size_of::<T>() {
        return false;
    }
    let mut aligned = rkyv::util::AlignedVec::<64>::new();
    aligned.extend_from_slice(bytes);
    // SAFETY: as long as a `T`, whose alignment is 64 at most.
    bytes.is_empty() || unsafe { is_valid::<T>(aligned.as_ptr()) }
}

fn insert<K: Key, V: Fixed>(
    store: &PageStore,
    state: u16,
    namespace: i64,
    key: &[u8],
    value: &[u8],
    _expires_ms: i64,
) -> Result<(), StateError> {
    assert!(key.len() == size_of::<K>() && value.len() == size_of::<V>(), "an entry of this state's types");
    let mut table = Table::<K, V> { pages: store.pages.clone(), state, _entries: PhantomData };
    // SAFETY: as long as a `K` and a `V`, and the caller has proven them.
    let (key, value) =
        unsafe { (key.as_ptr().cast::<K>().read_unaligned(), value.as_ptr().cast::<V>().read_unaligned()) };
    table.update(Namespace(namespace), &key, || value, |kept| *kept = value)
}
