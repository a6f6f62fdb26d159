//! Restore: from a chain of files back to a table.
//!
//! The chain is read from its newest file to its oldest. What is newer stands: a line once filled, a page once whole or
//! gone, is not touched by older records, so every line is written once, and a page for which no whole record turns up
//! is noticed. Files are believed chunk by chunk; the pages they make up are then checked entry by entry: that keys and
//! values are valid for their types, that every key is where a search would look for it, that the prefixes fit together.
use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::chain::{Chain, SnapshotNumber};
use crate::directory::Space;
use crate::dirty::Pages;
use crate::evolution::{Fit, fit};
use crate::hash::PREFIX_BITS;
use crate::manifest::TablePart;
use crate::page_store::PageStore;
use crate::revive::Doubt;
use crate::savepoint::SavepointError;
use crate::schema::Incompatible;
use crate::segment::{Descriptor, Kind, LINE_BYTES, NO_PAGE};
use crate::shape::{Layout, StatePart};
use crate::slotted::{self, OVERFLOW_BYTES};
use crate::snapshot::{
    CHUNK_BYTES, Damage, FileRef, Header, Record, VERSION, bits_of, flat_contents, put_back_ends, verify,
};
use crate::table::ONLY_STATE;
use crate::{Fixed, Key, StateError, Store, Table, TableConfig};

/// What a restore did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Restored {
    /// Files of the chain.
    pub files: usize,
    /// Their bytes, all of which were read.
    pub bytes_read: u64,
    /// Pages that are live.
    pub pages: usize,
    /// Entries in them.
    pub entries: usize,
    /// Where they came from.
    pub how: How,
    /// Pages that came from another shard's, or from one of other types, as they were.
    pub pages_moved: usize,
    /// Entries that were put in one by one: of pages that straddle an end of the stretch, that hold long values, or
    /// values of an older type.
    pub entries_moved: usize,
}

/// Where a restore had the pages from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum How {
    /// They lay in the segment of an earlier run; those that had changed since the checkpoint were put back.
    Fast {
        /// How many those were.
        pages_undone: usize,
        /// Bytes of them.
        bytes_undone: u64,
    },
    /// From the checkpoint's files, all of them.
    Full {
        /// What kept the restore from going on with a segment.
        why: Doubt,
    },
}

impl Default for How {
    fn default() -> How {
        How::Full { why: Doubt::Anonymous }
    }
}

impl std::ops::Add for Restored {
    type Output = Restored;

    /// What two restores did together.
    fn add(self, other: Restored) -> Restored {
        Restored {
            files: self.files + other.files,
            bytes_read: self.bytes_read + other.bytes_read,
            pages: self.pages + other.pages,
            entries: self.entries + other.entries,
            how: match (self.how, other.how) {
                // What had nothing to restore has no say.
                _ if self.pages == 0 => other.how,
                _ if other.pages == 0 => self.how,
                (
                    How::Fast { pages_undone, bytes_undone },
                    How::Fast { pages_undone: pages_too, bytes_undone: bytes_too },
                ) => How::Fast { pages_undone: pages_undone + pages_too, bytes_undone: bytes_undone + bytes_too },
                (full @ How::Full { .. }, _) | (_, full) => full,
            },
            pages_moved: self.pages_moved + other.pages_moved,
            entries_moved: self.entries_moved + other.entries_moved,
        }
    }
}

/// Why a table cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A file cannot be read: mend that, and try again.
    #[error("{path}: cannot read the snapshot: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is damaged: fall back to the checkpoint before.
    #[error("{path}: chunk {chunk} is damaged: {what}. Restore from the checkpoint before", path = path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where in it, in chunks of 512 KiB.
        chunk: u32,
        /// How.
        what: String,
    },
    /// The state is of other types than the operator's.
    #[error(
        "operator '{operator}', state '{state}': its stored {what} is {stored}, and the job's is {wanted}. \
         Nothing was changed. Give the state its old type back, or another name to start without what is stored"
    )]
    Types {
        /// Whose state.
        operator: String,
        /// Which.
        state: String,
        /// The part that does not fit.
        what: String,
        /// As stored.
        stored: String,
        /// As the job has it.
        wanted: String,
    },
    /// The type of a state's keys or values is another one, in a way that no migration follows.
    #[error("operator '{operator}', state '{state}': its {what} cannot be taken over: {change}. Nothing was changed")]
    Changed {
        /// Whose state.
        operator: String,
        /// Which.
        state: String,
        /// Its key or its value.
        what: &'static str,
        /// Which field, and both its types.
        change: Box<Incompatible>,
    },
    /// The job's operator has no such state.
    #[error(
        "operator '{operator}': the checkpoint holds a state '{state}' that the job's operator does not declare. \
         Nothing was changed. Declare it, say what it was called (#[state(was = \"{state}\")]), or allow states to be dropped"
    )]
    Dropped {
        /// Whose state.
        operator: String,
        /// Which.
        state: String,
    },
    /// A file of a format this build does not read.
    #[error("{path}: snapshot format {found}, and this build reads {VERSION}: run the build that wrote it", path = path.display())]
    Version {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u8,
    },
    /// Every file is sound, but together they are no state: fall back to the checkpoint before.
    #[error(
        "operator '{operator}' on shard {shard}: its snapshots do not fit together: {what}. Restore from the checkpoint before"
    )]
    Contradiction {
        /// Whose state.
        operator: String,
        /// On which shard.
        shard: u32,
        /// What does not fit.
        what: String,
    },
    /// The table has no room for it.
    #[error(transparent)]
    State(#[from] StateError),
    /// A savepoint cannot be read or believed.
    #[error(transparent)]
    Savepoint(Box<SavepointError>),
}

/// What is known of a page while the chain is being read; kept in the column that snapshots use later.
mod seen {
    pub(super) const NOTHING: u32 = 0;
    pub(super) const LINES: u32 = 1;
    pub(super) const WHOLE: u32 = 2;
    pub(super) const GONE: u32 = 3;
}

impl<K: Key, V: Fixed> Table<K, V> {
    /// The table as it was when the newest file of the chain was frozen. An empty chain is an empty table.
    ///
    /// # Errors
    /// As [`PageStore::restore`].
    pub fn restore(config: TableConfig, store: &Store, chain: &[FileRef]) -> Result<(Self, Restored), RestoreError> {
        let range = config.range;
        let mut pages = PageStore::new(config)?;
        let table = pages.table(ONLY_STATE);
        let part = TablePart { name: ONLY_STATE.to_owned(), range, states: pages.parts(), files: chain.to_vec() };
        let restored = pages.restore(store, &[part])?;
        Ok((table, restored))
    }
}

impl PageStore {
    /// Fills an empty store, whose states are declared, from a checkpoint: the parts of one operator, of all shards that
    /// had a share in the store's stretch of the hash space.
    ///
    /// From the part of a shard with the same stretch and the same states, pages come back as and where they were, and
    /// later snapshots go on from its files; where a sound segment of an earlier run knows the checkpoint, no file is read.
    /// Otherwise pages that lie within the stretch are taken over whole, those that
    /// straddle its ends, or hold values of a type that has changed since, entry by entry; the next snapshot then has all
    /// of the state.
    ///
    /// # Errors
    /// When files cannot be read or believed, or hold state that does not fit; the store is of no use then.
    pub fn restore(&mut self, store: &Store, parts: &[TablePart]) -> Result<Restored, RestoreError> {
        self.restore_some(store, parts, false)
    }

    /// The same; states without a place here may be left behind.
    ///
    /// # Errors
    /// As [`restore`](PageStore::restore).
    pub fn restore_some(
        &mut self,
        store: &Store,
        parts: &[TablePart],
        allow_dropped: bool,
    ) -> Result<Restored, RestoreError> {
        let range = self.pages.config.range;
        for part in parts {
            self.intakes(&part.states, allow_dropped)?;
        }
        if let [part] = parts
            && part.range == range
            && self.has_all(&part.states)
        {
            let why = match self.revive(&part.files) {
                Ok(restored) => return Ok(restored),
                Err(why) => why,
            };
            if !self.pages.is_ready() {
                return Err(self.pages.full().into());
            }
            let mut restored = read_chain(&mut self.pages, store, part)?;
            restored.how = How::Full { why };
            self.pages.chain = Chain::of_files(&part.files);
            self.pages.chain_restored();
            self.adopt(&mut restored)?;
            self.pages.note_restored(&part.files);
            return Ok(restored);
        }
        let why = if self.pages.undo.is_some() { Doubt::Parts } else { Doubt::Anonymous };
        let restored = crate::rescale::restore(self, store, parts, allow_dropped)?;
        Ok(Restored { how: How::Full { why }, ..restored })
    }

    /// Whether each of these states is one of the store's, kept in the same bytes.
    fn has_all(&self, stored: &[StatePart]) -> bool {
        let operator = &self.pages.config.operator;
        let is_same = |stored: &StatePart, own: &StatePart| {
            own.name == stored.name && matches!(fit(operator, stored, own, false), Ok(Fit::Same))
        };
        stored.iter().all(|stored| self.pages.header.states.iter().any(|own| is_same(stored, own)))
    }

    /// As [`adopt_with_holes`](PageStore::adopt_with_holes), where nothing may be missing.
    pub(crate) fn adopt(&mut self, restored: &mut Restored) -> Result<(), RestoreError> {
        self.adopt_with_holes(restored)?;
        for state in &self.pages.states {
            for space in &state.spaces {
                // No page in the directory at all is a namespace with only a zero key.
                let has_pages = space.directory().iter().any(|&page| page != NO_PAGE);
                if has_pages && space.first_hole().is_some() {
                    let TableConfig { operator, shard, .. } = self.pages.config.clone();
                    let what = format!("a part of the hash space has no page in state '{}'", state.part.name);
                    return Err(RestoreError::Contradiction { operator, shard, what });
                }
            }
        }
        Ok(())
    }

    /// Checks the pages that were put back, and builds the namespaces from their descriptors.
    pub(crate) fn adopt_with_holes(&mut self, restored: &mut Restored) -> Result<(), RestoreError> {
        let config = self.pages.config.clone();
        let contradiction = |what| {
            let TableConfig { operator, shard, .. } = config.clone();
            RestoreError::Contradiction { operator, shard, what }
        };
        let pages = &mut *self.pages;
        for page in 0..pages.handed_out {
            let descriptor = pages.segment.descriptors.get(page);
            if u32::from(descriptor.depth) > PREFIX_BITS {
                return Err(contradiction(format!("page {page} has a prefix of {} bits", descriptor.depth)));
            }
            if matches!(descriptor.kind, Kind::Flat | Kind::Zero | Kind::Slotted) {
                let prove = pages.states[descriptor.state as usize].ways.prove;
                let proven = prove(&descriptor, pages.segment.page(page));
                proven.map_err(|what| contradiction(format!("page {page} {what}")))?;
                restored.entries += descriptor.count as usize;
            }
            restored.pages += usize::from(descriptor.kind != Kind::Free);
        }
        pages.prove_long_values().map_err(contradiction)?;
        pages.rebuild_spaces().map_err(contradiction)?;
        pages.prove_successors().map_err(contradiction)
    }
}

/// Reads a chain into pages that have the part's states, and none of whose pages is in use.
pub(crate) fn read_chain(pages: &mut Pages, store: &Store, part: &TablePart) -> Result<Restored, RestoreError> {
    let mut restored = Restored { files: part.files.len(), ..Restored::default() };
    let mut handed_out = 0;
    for (at, file) in part.files.iter().enumerate().rev() {
        restored.bytes_read += read_file(pages, store, file, at as SnapshotNumber + 1, &mut handed_out)?;
    }
    for page in 0..handed_out {
        let seen = pages.segment.drained.get(page);
        pages.segment.drained.set(page, 0);
        pages.segment.frozen.set(page, 0);
        if seen == seen::LINES {
            let TableConfig { operator, shard, .. } = pages.config.clone();
            let what = format!("page {page} was never written whole");
            return Err(RestoreError::Contradiction { operator, shard, what });
        }
    }
    pages.adopt(handed_out);
    Ok(restored)
}

/// Reads one file; older ones follow.
fn read_file(
    pages: &mut Pages,
    store: &Store,
    file: &FileRef,
    number: SnapshotNumber,
    handed_out: &mut u32,
) -> Result<u64, RestoreError> {
    let path = store.path(&file.name);
    let read = |source| RestoreError::Read { path: path.clone(), source };
    let mut opened = store.reader(file).map_err(read)?;
    let damaged = |chunk, what: &str| RestoreError::Damaged { path: path.clone(), chunk, what: what.to_owned() };
    if opened.len() != file.bytes {
        return Err(damaged(0, "the file is not as long as the manifest says"));
    }
    let mut states = Vec::new();
    let mut buffer = glommio::allocate_dma_buffer_global(CHUNK_BYTES);
    let (mut bytes, mut crcs, mut records, mut ended) = (0, 0, 0, false);
    for index in 0.. {
        let len = CHUNK_BYTES.min((file.bytes - bytes) as usize);
        if len == 0 {
            break;
        }
        opened.read_exact(&mut buffer.as_bytes_mut()[..len]).map_err(read)?;
        bytes += len as u64;
        let chunk = verify(&buffer.as_bytes()[..len], index).map_err(|damage| damaged(index, &damage.to_string()))?;
        let before = crcs;
        crcs = crc32c::crc32c_append(crcs, &chunk.crc32c.to_le_bytes());
        chunk
            .records(|record| {
                if ended || (records == 0) != matches!(record, Record::Header { .. }) {
                    return Err(Trouble::What("a header or footer is not where it belongs"));
                }
                match record {
                    Record::Header { version, text } => states = read_header(pages, &path, version, text)?,
                    Record::Footer { records: wanted, crcs: wanted_crcs } => {
                        ended = true;
                        if (records, before) != (wanted, wanted_crcs) {
                            return Err(Trouble::What("the footer speaks of other records"));
                        }
                    }
                    Record::Whole { page, descriptor, contents } => {
                        reach(pages, page, handed_out)?;
                        let state =
                            *states.get(descriptor.state as usize).ok_or(Trouble::What("a page is of no state"))?;
                        place_whole(pages, page, Descriptor { state, ..descriptor }, contents, number)?;
                    }
                    Record::Lines { page, count, mask, lines } => {
                        reach(pages, page, handed_out)?;
                        place_lines(pages, page, count, mask, lines);
                    }
                    Record::Gone { page } => {
                        reach(pages, page, handed_out)?;
                        if pages.segment.drained.get(page) == seen::NOTHING {
                            pages.segment.drained.set(page, seen::GONE);
                        }
                    }
                }
                records += 1;
                Ok(())
            })
            .map_err(|trouble| match trouble {
                Trouble::What(what) => damaged(index, what),
                Trouble::Damage(damage) => damaged(index, &damage.to_string()),
                Trouble::Final(error) => *error,
            })?;
    }
    if !ended || crcs != file.crc32c {
        return Err(damaged(0, "the file is whole, but not the one that the manifest names"));
    }
    Ok(bytes)
}

/// The numbers that a file's states have here.
fn read_header(pages: &Pages, path: &Path, version: u8, text: &[u8]) -> Result<Vec<u16>, Trouble> {
    if version != VERSION {
        return Err(Trouble::Final(Box::new(RestoreError::Version { path: path.to_owned(), found: version })));
    }
    let stored: Header = serde_json::from_slice(text).map_err(|_| Trouble::What("its header cannot be read"))?;
    let operator = || pages.config.operator.clone();
    if stored.operator != pages.config.operator {
        let (state, what) = ("*".to_owned(), "operator's name".to_owned());
        let (stored, wanted) = (stored.operator, operator());
        return Err(Trouble::Final(Box::new(RestoreError::Types {
            operator: operator(),
            state,
            what,
            stored,
            wanted,
        })));
    }
    let number_of = |stored: &StatePart| {
        let known = pages.header.states.iter().position(|known| known.name == stored.name);
        let Some(number) = known else {
            return Err(RestoreError::Dropped { operator: operator(), state: stored.name.clone() });
        };
        let wanted = &pages.header.states[number];
        match fit(&operator(), stored, wanted, false)? {
            Fit::Same => Ok(number as u16),
            Fit::Relaid | Fit::Additive(_) => Err(RestoreError::Types {
                operator: operator(),
                state: wanted.name.clone(),
                what: "layout".to_owned(),
                stored: format!("{:?}", stored.layout),
                wanted: format!("{:?}", wanted.layout),
            }),
        }
    };
    stored.states.iter().map(|state| number_of(state).map_err(|error| Trouble::Final(Box::new(error)))).collect()
}

/// Makes sure that there can be such a page.
fn reach(pages: &mut Pages, page: u32, handed_out: &mut u32) -> Result<(), Trouble> {
    if page >= pages.segment.pages_max() {
        return Err(Trouble::Final(Box::new(pages.full().into())));
    }
    if page >= *handed_out {
        if !pages.segment.grow(page + 1) {
            return Err(Trouble::Final(Box::new(pages.full().into())));
        }
        *handed_out = page + 1;
    }
    Ok(())
}

fn place_whole(
    pages: &mut Pages,
    page: u32,
    written: Descriptor,
    contents: &[u8],
    number: SnapshotNumber,
) -> Result<(), Trouble> {
    let Pages { states, segment, .. } = pages;
    let seen = segment.drained.get(page);
    if matches!(seen, seen::WHOLE | seen::GONE) {
        return Ok(());
    }
    let filled = segment.frozen.get(page);
    // A newer record of some lines has the newer count; all else is as it was when the page was written whole.
    let count = if seen == seen::LINES { segment.descriptors.get(page).count } else { written.count };
    segment.descriptors.set(page, Descriptor { count, next: NO_PAGE, ..written });
    segment.drained.set(page, seen::WHOLE);
    segment.base.set(page, number);
    let state = &states[written.state as usize];
    let body = segment.page_mut(page);
    let wrong = Trouble::What("a page's contents are not those of a page");
    match (written.kind, state.layout) {
        (Kind::Flat | Kind::Zero, Layout::Flat(geometry)) => {
            let (bitmap, keys, values) = flat_contents(&geometry, written.count, contents).ok_or(wrong)?;
            (state.ways.unpack)(&geometry, body, filled, bitmap, keys, values);
            Ok(())
        }
        (Kind::Slotted | Kind::Overflow, Layout::Slotted) if put_back_ends(body, filled, contents) => Ok(()),
        _ => Err(wrong),
    }
}

fn place_lines(pages: &mut Pages, page: u32, count: u16, mask: u64, lines: &[u8]) {
    let segment = &mut pages.segment;
    let seen = segment.drained.get(page);
    if matches!(seen, seen::WHOLE | seen::GONE) {
        return;
    }
    if seen == seen::NOTHING {
        segment.descriptors.set(page, Descriptor { count, ..Descriptor::default() });
        segment.drained.set(page, seen::LINES);
    }
    let filled = segment.frozen.get(page);
    segment.frozen.set(page, filled | mask);
    let body = segment.page_mut(page);
    for (from, line) in lines.chunks_exact(LINE_BYTES).zip(bits_of(mask)) {
        if filled >> line & 1 == 0 {
            body[line * LINE_BYTES..][..LINE_BYTES].copy_from_slice(from);
        }
    }
}

impl Pages {
    /// The pages lean on the files they were read from.
    pub(crate) fn chain_restored(&mut self) {
        for page in 0..self.handed_out {
            if self.segment.descriptors.get(page).kind != Kind::Free {
                self.chain.lean(self.segment.base.get(page));
            }
        }
    }

    /// Follows every long value through its pages. Proven already: the pages of cells.
    pub(crate) fn prove_long_values(&self) -> Result<(), String> {
        let in_use = (0..self.handed_out).map(|page| (page, self.segment.descriptors.get(page)));
        let overflow = |page: u32| page < self.handed_out && self.segment.descriptors.get(page).kind == Kind::Overflow;
        let mut owned = vec![false; self.handed_out as usize];
        let mut pieces = 0;
        for (page, descriptor) in in_use.clone().filter(|(_, descriptor)| descriptor.kind == Kind::Slotted) {
            let body = self.segment.page(page);
            for slot in 0..slotted::len(body) {
                let cell = slotted::cell(body, slot);
                if !cell.is_long {
                    continue;
                }
                let mut value = rkyv::util::AlignedVec::<16>::new();
                let mut piece = cell.first_overflow(body);
                let (before, mut is_in_full_pages) = (pieces, piece != NO_PAGE);
                while piece != NO_PAGE {
                    let of_same = |piece: u32| {
                        let other = self.segment.descriptors.get(piece);
                        (other.state, other.namespace) == (descriptor.state, descriptor.namespace)
                    };
                    if !overflow(piece) || !of_same(piece) || std::mem::replace(&mut owned[piece as usize], true) {
                        return Err(format!("page {page} has a long value that leads to page {piece} (slot {slot})"));
                    }
                    pieces += 1;
                    value.extend_from_slice(slotted::overflow(self.segment.page(piece)));
                    piece = slotted::overflow_next(self.segment.page(piece));
                    // Whoever writes over it counts on every page but the last being full.
                    is_in_full_pages &= value.len().is_multiple_of(OVERFLOW_BYTES) || piece == NO_PAGE;
                    is_in_full_pages &= value.len().div_ceil(OVERFLOW_BYTES) == pieces - before;
                }
                let is_value = self.states[descriptor.state as usize].ways.is_value;
                if value.len() != cell.value_bytes || !is_in_full_pages || !is_value(&value) {
                    return Err(format!("page {page} has a long value that is not one of its type (slot {slot})"));
                }
            }
        }
        match in_use.filter(|(_, descriptor)| descriptor.kind == Kind::Overflow).count() {
            all if all == pieces => Ok(()),
            all => Err(format!("{all} pages hold pieces of long values, and {pieces} are led to")),
        }
    }

    /// Whether full pages and those that go on for them have every key once; each by itself does.
    fn prove_successors(&self) -> Result<(), String> {
        let next = |page: u32| self.segment.descriptors.get(page).next;
        let pages = self.states.iter().flat_map(|state| &state.spaces).flat_map(|space| &space.pages);
        let followed: Vec<u32> = pages.copied().filter(|&page| next(page) != NO_PAGE).collect();
        let successors: HashSet<u32> = followed.iter().map(|&page| next(page)).collect();
        for first in followed.into_iter().filter(|page| !successors.contains(page)) {
            let mut keys = HashSet::new();
            let mut page = first;
            while page != NO_PAGE {
                self.entries_of(page, |entry| match keys.insert(entry.key.to_vec()) {
                    true => Ok(()),
                    false => Err(format!("page {page} has a key that page {first}, or one between them, has too")),
                })?;
                page = next(page);
            }
        }
        Ok(())
    }

    /// Rebuilds the namespaces from the pages' descriptors; `Err` says what contradicts what.
    pub(crate) fn rebuild_spaces(&mut self) -> Result<(), String> {
        let mut pages: Vec<(u32, Descriptor)> = (0..self.handed_out)
            .map(|page| (page, self.segment.descriptors.get(page)))
            .filter(|(_, descriptor)| !matches!(descriptor.kind, Kind::Free | Kind::Overflow))
            .collect();
        // Pages that share a prefix follow each other, the full ones first: that is the order in which they are searched.
        let order = std::cmp::Reverse::<u16>;
        pages.sort_by_key(|&(page, d)| (d.state, d.namespace, d.kind, d.prefix, d.depth, order(d.count), page));
        let same_space =
            |one: &Descriptor, other: &Descriptor| (one.state, one.namespace) == (other.state, other.namespace);
        for space_pages in pages.chunk_by(|(_, one), (_, other)| same_space(one, other)) {
            let Descriptor { state, namespace, .. } = space_pages[0].1;
            let mut space = Space::new(namespace, self.config.range);
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
                    continue;
                }
                if (last.1.prefix, last.1.depth) == (descriptor.prefix, descriptor.depth) && last.0 != NO_PAGE {
                    self.segment.descriptors.set(last.0, Descriptor { next: page, ..last.1 });
                } else {
                    firsts.push((page, descriptor));
                }
                last = (page, descriptor);
            }
            if !firsts.is_empty() {
                space.rebuild(&firsts)?;
            }
            self.states[state as usize].spaces.push(space);
        }
        Ok(())
    }
}

/// What stops the reading of a chunk.
enum Trouble {
    Damage(Damage),
    What(&'static str),
    Final(Box<RestoreError>),
}

impl From<Damage> for Trouble {
    fn from(damage: Damage) -> Trouble {
        Trouble::Damage(damage)
    }
}
