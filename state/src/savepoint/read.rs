//! Reads a savepoint: for a restore into any number of shards, and for looking into it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rkyv::util::AlignedVec;

use super::format::{BLOCK_ALIGN, BLOCK_HEADER_BYTES, BlockHeader};
use super::{SAVEPOINT_FILE, SavedFile, SavedOperator, SavepointError, SavepointManifest};
use crate::evolution::Intake;
use crate::hash::SHARD_BITS;
use crate::manifest::{ManifestError, OperatorPart, Part};
use crate::shape::{EntryBytes, Layout, State, StatePart};
use crate::{FORMAT_VERSION, Manifest, PageStore, RestoreError, Restored, Store, StoreConfig, StoreError};

/// A savepoint whose `savepoint.json` is proven; its other files are believed block by block.
#[derive(Clone, Debug)]
pub struct Savepoint {
    store: Store,
    manifest: SavepointManifest,
}

/// An entry of a savepoint, with its state.
#[derive(Clone, Copy, Debug)]
pub struct SavedEntry<'a> {
    /// Which of its operator's states it is of.
    pub number: usize,
    /// The entry.
    pub entry: EntryBytes<'a>,
}

impl Savepoint {
    /// Whether there is one at that place, sound or not.
    #[must_use]
    pub fn is_at(place: &Path) -> bool {
        place.join(SAVEPOINT_FILE).is_file()
    }

    /// Opens the savepoint in a directory or at an object store's prefix. Nothing is changed there.
    ///
    /// # Errors
    /// When there is none, or its `savepoint.json` cannot be read or believed.
    pub fn open(place: impl Into<PathBuf>, config: &StoreConfig) -> Result<Savepoint, SavepointError> {
        let place = place.into();
        let store = Store::look(&place, config).map_err(|error| match error {
            StoreError::Directory { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                SavepointError::Absent { path: place.clone() }
            }
            error => error.into(),
        })?;
        let bytes = store.get(SAVEPOINT_FILE).map_err(|error| match error {
            StoreError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                SavepointError::Absent { path: place.clone() }
            }
            error => error.into(),
        })?;
        let path = store.path(SAVEPOINT_FILE);
        let manifest = SavepointManifest::from_bytes(&bytes).map_err(|error| match error {
            ManifestError::Version { found } => SavepointError::Version { path: path.clone(), found },
            error => SavepointError::Damaged { path: path.clone(), what: error.to_string() },
        })?;
        match contradiction(&manifest) {
            Some(what) => Err(SavepointError::Damaged { path, what }),
            None => Ok(Savepoint { store, manifest }),
        }
    }

    /// What it consists of.
    #[must_use]
    pub fn manifest(&self) -> &SavepointManifest {
        &self.manifest
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> &Path {
        self.store.directory()
    }

    /// What operators keep besides keyed state, as a manifest of a checkpoint without tables: what a job starts from.
    #[must_use]
    pub fn as_manifest(&self) -> Manifest {
        let SavepointManifest { job, epoch, created_ms, graph_fingerprint, graph, shards, .. } = self.manifest.clone();
        let part = |shard: u32| {
            let of_operator = |operator: &SavedOperator| {
                let saved = operator.parts.iter().find(|saved| saved.shard == shard)?.clone();
                let (uid, tables) = (operator.uid.clone(), Vec::new());
                Some(OperatorPart { uid, blob: saved.blob, tables, committables: saved.committables })
            };
            Part { shard, operators: self.manifest.operators.iter().filter_map(of_operator).collect() }
        };
        let (format_version, parts) = (FORMAT_VERSION, (0..shards).map(part).collect());
        Manifest { format_version, job, epoch, created_ms, graph_fingerprint, graph, shards, parts }
    }

    /// Shows every entry of a file, which is proven as it is read.
    ///
    /// # Errors
    /// When the file cannot be read or believed, and the first that `visit` returns.
    pub fn entries<E: From<SavepointError>>(
        &self,
        operator: &SavedOperator,
        file: &SavedFile,
        mut visit: impl FnMut(SavedEntry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = self.store.path(&file.name);
        let damaged = |what: &str| SavepointError::Damaged { path: path.clone(), what: what.to_owned() };
        let mut blocks = Blocks::open(&self.store, file, path.clone())?;
        let (mut key, mut value) = (AlignedVec::<16>::new(), AlignedVec::<16>::new());
        let mut entries = 0;
        while let Some(header) = blocks.next()? {
            for record in header.records(&blocks.block).map_err(damaged)? {
                let record = record.map_err(damaged)?;
                let number = record.state as usize;
                if number >= operator.states.len() {
                    return Err(damaged("an entry is of no state").into());
                }
                for (room, bytes) in [(&mut key, record.key), (&mut value, record.value)] {
                    room.clear();
                    room.extend_from_slice(bytes);
                }
                let (namespace, expires_ms) = (record.namespace, record.expires_ms);
                visit(SavedEntry { number, entry: EntryBytes { namespace, key: &key, value: &value, expires_ms } })?;
                entries += 1;
            }
        }
        if (blocks.crc32c, entries) != (file.crc32c, file.entries) {
            return Err(damaged("it is whole, but not the one that savepoint.json names").into());
        }
        Ok(())
    }
}

/// What in it cannot be, though its checksum holds.
fn contradiction(manifest: &SavepointManifest) -> Option<String> {
    if !(1..=1 << SHARD_BITS).contains(&manifest.shards) {
        return Some(format!("it speaks of {} shards", manifest.shards));
    }
    for operator in &manifest.operators {
        let of_operator = |what: String| Some(format!("operator '{}': {what}", operator.uid));
        if let Some(part) = operator.parts.iter().find(|part| part.shard >= manifest.shards) {
            return of_operator(format!("it speaks of shard {}", part.shard));
        }
        // Nothing outside the savepoint's place is read, whatever a name says.
        if let Some(file) = operator.files.iter().find(|file| file.name.contains(['/', '\\'])) {
            return of_operator(format!("no file of a savepoint is called '{}'", file.name));
        }
        for state in &operator.states {
            if let Some(error) = [&state.key, &state.value].into_iter().find_map(|schema| schema.layout().err()) {
                return of_operator(format!("state '{}': {error}", state.name));
            }
        }
    }
    None
}

/// A file's blocks, one after the other.
struct Blocks {
    reader: crate::Reader,
    path: PathBuf,
    left: u64,
    index: u32,
    crc32c: u32,
    block: AlignedVec<BLOCK_ALIGN>,
}

impl Blocks {
    fn open(store: &Store, file: &SavedFile, path: PathBuf) -> Result<Blocks, SavepointError> {
        let reader = store.reader_of(&file.name).map_err(|source| SavepointError::File {
            path: path.clone(),
            what: "open the savepoint's file",
            source,
        })?;
        if reader.len() != file.bytes || !file.bytes.is_multiple_of(BLOCK_ALIGN as u64) {
            let what = format!("it has {} bytes instead of {}", reader.len(), file.bytes);
            return Err(SavepointError::Damaged { path, what });
        }
        Ok(Blocks { reader, path, left: file.bytes, index: 0, crc32c: 0, block: AlignedVec::new() })
    }

    /// Reads the next block; none at the file's end.
    fn next(&mut self) -> Result<Option<BlockHeader>, SavepointError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.block.clear();
        self.read_to(BLOCK_ALIGN)?;
        let header = BlockHeader::of(&self.block, self.index);
        let header = header.map_err(|what| self.damaged(what))?;
        if header.block_bytes() as u64 > self.left {
            return Err(self.damaged("it ends inside a block"));
        }
        self.read_to(header.block_bytes())?;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &self.block[..BLOCK_HEADER_BYTES]);
        self.left -= header.block_bytes() as u64;
        self.index += 1;
        Ok(Some(header))
    }

    /// Fills the block's room up to so many bytes, whole pages of them.
    fn read_to(&mut self, bytes: usize) -> Result<(), SavepointError> {
        let from = self.block.len();
        self.block.resize(bytes, 0);
        let read = self.reader.read_exact(&mut self.block[from..]);
        read.map_err(|source| SavepointError::File {
            path: self.path.clone(),
            what: "read the savepoint's file",
            source,
        })
    }

    fn damaged(&self, what: &str) -> SavepointError {
        SavepointError::Damaged { path: self.path.clone(), what: format!("block {}: {what}", self.index) }
    }
}

impl PageStore {
    /// Fills an empty store, whose states are declared, with the entries of its stretch of the hash space that a savepoint
    /// has of one operator. The next snapshot has all of them.
    ///
    /// # Errors
    /// When files cannot be read or believed, or hold state that does not fit; the store is of no use then. A state
    /// without a place here is such, unless `allow_dropped`.
    pub fn restore_savepoint(
        &mut self,
        from: &Savepoint,
        operator: &SavedOperator,
        allow_dropped: bool,
    ) -> Result<Restored, RestoreError> {
        let range = self.range();
        let declared = self.declared();
        let stored: Vec<StatePart> = operator.states.iter().map(|saved| saved.laid_out_for(&declared)).collect();
        let intakes = self.intakes(&stored, allow_dropped)?;
        let mut restored = Restored::default();
        for file in operator.files.iter().filter(|file| file.range.meets(range)) {
            restored.files += 1;
            restored.bytes_read += file.bytes;
            let path = from.store.path(&file.name);
            from.entries(operator, file, |SavedEntry { number, entry }| {
                restored.entries += usize::from(self.take_in(&intakes[number], file, entry, &path)?);
                Ok::<(), RestoreError>(())
            })?;
        }
        restored.pages = self.pages.in_use as usize;
        restored.entries_moved = restored.entries;
        Ok(restored)
    }

    /// Puts an entry in, if it is ours; says whether it was.
    fn take_in(
        &self,
        intake: &Intake,
        file: &SavedFile,
        entry: EntryBytes<'_>,
        path: &Path,
    ) -> Result<bool, RestoreError> {
        let Intake::Into { state, migrate, .. } = intake else { return Ok(false) };
        let damaged = |what: String| SavepointError::Damaged { path: path.to_owned(), what };
        let State { part, layout, ways, .. } = &self.pages.states[*state as usize];
        if !(ways.is_key)(entry.key) || !(migrate.is_some() || (ways.is_value)(entry.value)) {
            return Err(damaged(format!("an entry's key or value is not one of state '{}'", part.name)).into());
        }
        let hash = (ways.hash)(entry.key);
        if !file.range.contains(hash) {
            let what =
                format!("a key of state '{}' is not where its hash leads; was the key's hash64 changed?", part.name);
            return Err(damaged(what).into());
        }
        if !self.range().contains(hash) {
            return Ok(false);
        }
        if entry.expires_ms != 0 && matches!(layout, Layout::Flat(_)) {
            return Err(RestoreError::Types {
                operator: self.pages.config.operator.clone(),
                state: part.name.clone(),
                what: "entry".to_owned(),
                stored: "one that ends".to_owned(),
                wanted: "one that does not".to_owned(),
            });
        }
        let insert = ways.insert;
        match migrate {
            Some(migrate) => {
                let value = migrate(entry.value).map_err(|error| damaged(error.to_string()))?;
                insert(self, *state, entry.namespace, entry.key, &value, entry.expires_ms)?;
            }
            None => insert(self, *state, entry.namespace, entry.key, entry.value, entry.expires_ms)?,
        }
        Ok(true)
    }
}
