//! [`PageStore`]: the pages of one operator on one shard, shared by its states, and what a barrier asks of them.
#![expect(unsafe_code, reason = "several tables on one thread write to one store's pages")]

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::Epoch;
use crate::backing::{Backing, SegmentFile};
use crate::dirty::Pages;
use crate::freeze::{Drained, SnapshotSize};
use crate::hash::HashRange;
use crate::segment::{PAGE_BYTES, Segment};
use crate::shape::{Layout, State, StatePart, Ways};
use crate::snapshot::{Chunk, FileRef, Header};
use crate::table::{StateError, TableBytes, TableConfig};
use crate::undo::Undo;

/// A handle on a store's pages, for the tables and the snapshot's code of one shard's thread.
///
/// It hands out `&mut Pages` while other handles exist. That is sound because of how it is used, in this crate alone:
/// * it is neither `Send` nor `Sync`, and nothing here is re-entered but through a user's closure;
/// * no reference to a `Pages`, or into one, is held while a user's closure runs. What a closure is shown lies in pages
///   of the table whose method runs it, and that table is borrowed for as long: others write to their own pages only.
pub(crate) struct Shared(Rc<UnsafeCell<Pages>>);

impl Clone for Shared {
    fn clone(&self) -> Shared {
        Shared(Rc::clone(&self.0))
    }
}

impl Deref for Shared {
    type Target = Pages;

    #[inline(always)]
    fn deref(&self) -> &Pages {
        // SAFETY: on one thread, and no exclusive reference is alive: see `Shared`.
        unsafe { &*self.0.get() }
    }
}

impl DerefMut for Shared {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Pages {
        // SAFETY: on one thread, and no other reference is alive: see `Shared`.
        unsafe { &mut *self.0.get() }
    }
}

/// The pages of one operator on one shard: one piece of memory, one set of dirty lines, one chain of snapshot files, for
/// any number of states. [`Table`](crate::Table) and [`SlottedTable`](crate::SlottedTable) are states of it.
///
/// Clones are the same store.
///
/// ```
/// use millstream_state::{Namespace, PageStore};
///
/// let store = PageStore::new(Default::default())?;
/// let mut clicks = store.table::<u64, u32>("clicks");
/// let mut names = store.slotted::<u64, String>("names");
/// clicks.fold(Namespace(0), 1, |_| 7, || 0, |count, _| *count += 1)?;
/// names.put(Namespace(0), &7, &"mill".to_owned())?;
/// assert_eq!(names.get(Namespace(0), &7, |name| name.to_string()), Some("mill".to_owned()));
/// assert_eq!(store.parts().len(), 2);
/// # Ok::<(), millstream_state::StateError>(())
/// ```
#[derive(Clone)]
pub struct PageStore {
    pub(crate) pages: Shared,
}

impl fmt::Debug for PageStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.pages.states.iter().map(|state| &*state.part.name).collect();
        write!(f, "PageStore({:?} of operator {:?})", names, self.pages.config.operator)
    }
}

impl PageStore {
    /// An empty store. It uses a few kilobytes until something is put in.
    ///
    /// # Errors
    /// When the address space cannot be reserved, or the file that its pages shall lie in cannot be had.
    pub fn new(config: TableConfig) -> Result<PageStore, StateError> {
        let reserve = |source| StateError::Reserve {
            operator: config.operator.clone(),
            shard: config.shard,
            bytes_max: config.bytes_max,
            source,
        };
        let (segment, undo) = match &config.backing {
            Backing::Anonymous => (Segment::reserve(config.bytes_max).map_err(reserve)?, None),
            Backing::File(directory) => {
                let pages_max = Segment::pages_in(config.bytes_max);
                let opened = SegmentFile::open(&config, directory, pages_max);
                let (file, doubt) = opened.map_err(|source| StateError::Backing {
                    operator: config.operator.clone(),
                    shard: config.shard,
                    directory: directory.clone(),
                    source,
                })?;
                let segment = Segment::in_file(config.bytes_max, file).map_err(reserve)?;
                (segment, Some(Box::new(Undo::new(doubt))))
            }
        };
        let header = Header {
            operator: config.operator.clone(),
            shard: config.shard,
            range: config.range,
            epoch: Epoch(0),
            states: Vec::new(),
        };
        let mut pages = Pages::new(config, segment, header);
        pages.undo = undo;
        Ok(PageStore { pages: Shared(Rc::new(UnsafeCell::new(pages))) })
    }

    /// Removes the file that the pages lie in, if they do: for an end after which nobody goes on from here. The pages can
    /// be used all the same, for as long as there is a handle on the store.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove_backing(&self) -> std::io::Result<()> {
        self.pages.segment.file.as_ref().map_or(Ok(()), SegmentFile::remove)
    }

    /// Adds a state, and returns its number.
    ///
    /// # Panics
    /// If there is one of that name, or there are 65,535 states.
    pub(crate) fn declare(&self, part: StatePart, layout: Layout, ways: Ways) -> u16 {
        let mut pages = self.pages.clone();
        assert!(
            pages.states.iter().all(|state| state.part.name != part.name),
            "operator '{}' declares its state '{}' twice",
            pages.config.operator,
            part.name
        );
        let number = u16::try_from(pages.states.len()).expect("an operator has fewer than 65,536 states");
        pages.header.states.push(part.clone());
        pages.states.push(State { part, layout, ways, was: None, migrations: None, spaces: Vec::new(), expected: 0 });
        number
    }

    /// Has the state `name`, which is declared, take what checkpoints hold under `was`: what it was called before.
    ///
    /// # Panics
    /// If there is no such state.
    pub fn renamed(&self, name: &str, was: &str) {
        let mut pages = self.pages.clone();
        let state = pages.states.iter_mut().find(|state| state.part.name == name);
        state.expect("a state is declared before it says what it was called").was = Some(was.to_owned());
    }

    /// What it keeps, for a manifest.
    #[must_use]
    pub fn parts(&self) -> Vec<StatePart> {
        self.pages.header.states.clone()
    }

    /// The stretch of the hash space that its keys are from.
    #[must_use]
    pub fn range(&self) -> HashRange {
        self.pages.config.range
    }

    /// The entries of each state, by its name; those whose time to live is over count until they have been cleared away.
    #[must_use]
    pub fn entries_by_state(&self) -> Vec<(String, usize)> {
        let states = self.pages.states.iter();
        states.map(|state| (state.part.name.clone(), state.spaces.iter().map(|space| space.len).sum())).collect()
    }

    /// How much memory it uses.
    #[must_use]
    pub fn bytes(&self) -> TableBytes {
        TableBytes {
            entries: self.pages.entry_bytes,
            live: self.pages.in_use as usize * PAGE_BYTES,
            mapped: self.pages.handed_out as usize * PAGE_BYTES,
        }
    }

    /// How many bytes the snapshots to come may each write, beside what changed, to keep restores short: a byte rate times
    /// the time between two. Without a limit, what a restore reads stays within 2.5 × the live state; with one it does if
    /// that allows for two thirds of what changes.
    pub fn limit_consolidation(&mut self, bytes_max: u64) {
        self.pages.consolidation_bytes_max = bytes_max;
    }

    /// A barrier: from here on, the contents of this moment are the snapshot. Costs nothing that grows.
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

    /// The manifest with the open snapshot is published. `file` as for [`chain`](PageStore::chain).
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

    /// Entries of one of its states; those whose time to live is over count until they have been cleared away. None if it has
    /// no state of that name.
    #[must_use]
    pub fn entries_of(&self, state: &str) -> Option<usize> {
        let state = self.pages.states.iter().find(|declared| &*declared.part.name == state)?;
        Some(state.spaces.iter().map(|space| space.len).sum())
    }
}
