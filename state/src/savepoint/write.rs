//! Makes a savepoint of a completed checkpoint, part by part: a part's pages are in memory while it is converted, no more.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::{BLOCK_HEADER_BYTES, BlockWriter};
use super::{
    SAVEPOINT_FILE, SAVEPOINT_VERSION, SavedFile, SavedOperator, SavedPart, SavedState, Savepoint, SavepointError,
    SavepointManifest,
};
use crate::hash::HashRange;
use crate::manifest::OperatorPart;
use crate::{
    DiskOperation, Epoch, Manifest, PageStore, StatePart, Store, StoreConfig, StoreError, TableConfig, TablePart,
    Writing,
};

/// A file is closed once it has so many bytes, and the next one begun.
const FILE_BYTES: u64 = 1 << 30;
/// What the names of directories in the making have between the savepoint's own and a number.
const MAKING: &str = ".tmp-";

/// What became of a savepoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavepointReport {
    /// Where it is.
    pub path: PathBuf,
    /// The epoch that it ends.
    pub epoch: Epoch,
    /// Operators that keep anything.
    pub operators: usize,
    /// States of all operators.
    pub states: usize,
    /// Entries of all states.
    pub entries: u64,
    /// Files of entries.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Savepoint {
    /// Makes a savepoint at `place`, a directory or an object store's prefix, of a checkpoint of `from`, none of whose
    /// files may be deleted meanwhile.
    ///
    /// `is_committed` says that all that the checkpoint's sinks prepared is known to be visible, so that the savepoint
    /// does not need to remember it.
    ///
    /// Nothing has the name before all of it is durable: a directory is written beside it, as `PLACE.tmp-…`, and renamed;
    /// in an object store, `savepoint.json` is put last. What an earlier call left there when its process was killed is
    /// removed.
    ///
    /// # Errors
    /// When something has the name, the checkpoint cannot be read, or the savepoint not be written; then it is not there.
    pub fn of_checkpoint(
        from: &Store,
        manifest: &Manifest,
        place: impl Into<PathBuf>,
        config: &StoreConfig,
        is_committed: bool,
    ) -> Result<SavepointReport, SavepointError> {
        let place = place.into();
        let making = Making::begin(&place, config)?;
        let mut saved = SavepointManifest {
            savepoint_version: SAVEPOINT_VERSION,
            job: manifest.job.clone(),
            epoch: manifest.epoch,
            created_ms: manifest.created_ms,
            graph_fingerprint: manifest.graph_fingerprint,
            graph: manifest.graph.clone(),
            shards: manifest.shards,
            operators: Vec::new(),
        };
        let mut operators: BTreeMap<&str, Vec<(u32, &OperatorPart)>> = BTreeMap::new();
        for part in &manifest.parts {
            for operator in &part.operators {
                operators.entry(&operator.uid).or_default().push((part.shard, operator));
            }
        }
        for (number, (uid, parts)) in operators.into_iter().enumerate() {
            let mut writer = OperatorWriter::new(&making.store, number, uid);
            for (shard, part) in parts {
                let committables = if is_committed { Vec::new() } else { part.committables.clone() };
                writer.saved.parts.push(SavedPart { shard, blob: part.blob.clone(), committables });
                for table in &part.tables {
                    writer.take(from, shard, table)?;
                }
            }
            saved.operators.push(writer.saved);
        }
        let report = SavepointReport {
            path: place,
            epoch: saved.epoch,
            operators: saved.operators.len(),
            states: saved.operators.iter().map(|operator| operator.states.len()).sum(),
            entries: saved.files().map(|file| file.entries).sum(),
            files: saved.files().count(),
            bytes: saved.files().map(|file| file.bytes).sum(),
        };
        making.publish(&saved)?;
        Ok(report)
    }
}

impl SavepointManifest {
    /// The files of all operators.
    pub fn files(&self) -> impl Iterator<Item = &SavedFile> {
        self.operators.iter().flat_map(|operator| &operator.files)
    }
}

/// One operator's entries on their way into files.
struct OperatorWriter<'a> {
    to: &'a Store,
    number: usize,
    saved: SavedOperator,
}

/// A file being written.
struct FileWriter {
    name: String,
    path: PathBuf,
    writing: Writing,
    block: BlockWriter,
    blocks: u32,
    bytes: u64,
    entries: u64,
    crc32c: u32,
}

impl<'a> OperatorWriter<'a> {
    fn new(to: &'a Store, number: usize, uid: &str) -> Self {
        let (parts, states, files) = (Vec::new(), Vec::new(), Vec::new());
        OperatorWriter { to, number, saved: SavedOperator { uid: uid.to_owned(), parts, states, files } }
    }

    /// Writes all entries of one shard's part.
    fn take(&mut self, from: &Store, shard: u32, table: &TablePart) -> Result<(), SavepointError> {
        let numbers: Vec<u16> = table.states.iter().map(|state| self.number_of(state)).collect();
        let config = TableConfig { operator: self.saved.uid.clone(), shard, ..TableConfig::default() };
        let (pages, _) = PageStore::restore_unknown(config, from, table)?;
        let mut file: Option<FileWriter> = None;
        let mut last: (&str, u16) = ("", 0);
        pages.entries(|state, entry| {
            if last.0 != state.name {
                let at = table.states.iter().position(|known| known.name == state.name);
                last = (&table.states[at.expect("pages are of the part's states")].name, 0);
                last.1 = numbers[at.expect("as above")];
            }
            let writing = match &mut file {
                Some(writing) => writing,
                None => file.insert(self.create()?),
            };
            self.saved.states[last.1 as usize].entries += 1;
            writing.block.push(last.1, entry.namespace, entry.expires_ms, entry.key, entry.value);
            writing.entries += 1;
            if writing.block.is_full() {
                writing.write_block()?;
                if writing.bytes >= FILE_BYTES
                    && let Some(full) = file.take()
                {
                    self.saved.files.push(full.finish(table.range)?);
                }
            }
            Ok::<(), SavepointError>(())
        })?;
        if let Some(file) = file {
            self.saved.files.push(file.finish(table.range)?);
        }
        Ok(())
    }

    /// The number that records have of a state.
    fn number_of(&mut self, state: &StatePart) -> u16 {
        let is_same =
            |saved: &SavedState| (&saved.name, &saved.key, &saved.value) == (&state.name, &state.key, &state.value);
        let number = self.saved.states.iter().position(is_same).unwrap_or_else(|| {
            let (name, key, value) = (state.name.clone(), state.key.clone(), state.value.clone());
            self.saved.states.push(SavedState { name, key, value, entries: 0 });
            self.saved.states.len() - 1
        });
        u16::try_from(number).expect("an operator has fewer than 65,536 states")
    }

    fn create(&self) -> Result<FileWriter, SavepointError> {
        let name = format!("operator-{:03}-{:05}.entries", self.number, self.saved.files.len());
        let writing = self.to.create_blocking(&name)?;
        Ok(FileWriter {
            path: self.to.path(&name),
            name,
            writing,
            block: BlockWriter::default(),
            blocks: 0,
            bytes: 0,
            entries: 0,
            crc32c: 0,
        })
    }
}

impl FileWriter {
    fn write_block(&mut self) -> Result<(), SavepointError> {
        let bytes = self.block.close(self.blocks);
        self.crc32c = crc32c::crc32c_append(self.crc32c, &bytes[..BLOCK_HEADER_BYTES]);
        self.bytes += bytes.len() as u64;
        let written = self.writing.write_all(bytes);
        written.map_err(StoreError::file("write the savepoint", &self.path))?;
        self.blocks += 1;
        self.block.clear();
        Ok(())
    }

    fn finish(mut self, range: HashRange) -> Result<SavedFile, SavepointError> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        let FileWriter { name, writing, bytes, entries, crc32c, .. } = self;
        writing.finish()?;
        Ok(SavedFile { name, range, bytes, entries, crc32c })
    }
}

/// A savepoint that has no name yet. Dropped, it is gone.
struct Making {
    store: Store,
    /// The name it will have, and the lock on the directory that it is made in; none in an object store.
    directory: Option<(PathBuf, File)>,
    is_published: bool,
}

impl Making {
    fn begin(place: &Path, config: &StoreConfig) -> Result<Making, SavepointError> {
        if place.to_str().is_some_and(|text| text.contains("://") && !text.starts_with("file://")) {
            return Making::begin_objects(place, config);
        }
        let path = place.to_str().and_then(|text| text.strip_prefix("file://")).map_or(place, Path::new);
        let failed = |what| move |source| SavepointError::File { path: path.to_owned(), what, source };
        // The last name of `path/.` is none that a directory can be renamed to.
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(failed("make a savepoint there")(io::Error::from(io::ErrorKind::InvalidFilename)));
        };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look for what has that name")(error)),
            Ok(_) => return Err(SavepointError::Exists { path: path.to_owned() }),
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(failed("create the directory around it"))?;
        remove_abandoned(parent, name).map_err(failed("remove what an earlier savepoint left"))?;
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let nth = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let making = parent.join(format!("{name}{MAKING}{}-{nth}", std::process::id()));
        fs::create_dir(&making).map_err(failed("create the directory it is made in"))?;
        let lock = File::open(&making).and_then(|directory| directory.lock().map(|()| directory));
        let lock = lock.map_err(failed("lock the directory it is made in"))?;
        let store = Store::look(making, config)?;
        Ok(Making { store, directory: Some((path.to_owned(), lock)), is_published: false })
    }

    fn begin_objects(place: &Path, config: &StoreConfig) -> Result<Making, SavepointError> {
        let store = Store::open_with(place, config)?;
        let there = store.list("")?;
        if there.iter().any(|file| file.name == SAVEPOINT_FILE) {
            return Err(SavepointError::Exists { path: place.to_owned() });
        }
        let abandoned = there.into_iter().map(|file| file.name).filter(|name| name.ends_with(".entries"));
        store.delete(&abandoned.collect::<Vec<_>>())?;
        Ok(Making { store, directory: None, is_published: false })
    }

    fn publish(mut self, saved: &SavepointManifest) -> Result<(), SavepointError> {
        let is_first = self.store.put_new(SAVEPOINT_FILE, &saved.to_bytes())?;
        if let Some((path, _lock)) = &self.directory {
            let failed = |what| move |source| SavepointError::File { path: path.clone(), what, source };
            let renamed =
                self.store.ask(DiskOperation::Rename, path).and_then(|()| fs::rename(self.store.directory(), path));
            if let Err(error) = renamed {
                return Err(match error.kind() {
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                        SavepointError::Exists { path: path.clone() }
                    }
                    _ => failed("give the savepoint its name")(error),
                });
            }
            self.is_published = true;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let synced = File::open(parent).and_then(|directory| directory.sync_all());
            return synced.map_err(failed("sync the directory around the savepoint"));
        }
        self.is_published = is_first;
        if is_first { Ok(()) } else { Err(SavepointError::Exists { path: self.store.directory().to_owned() }) }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // Best effort: the next savepoint of that name removes what is left.
        if !self.is_published && self.directory.is_some() {
            let _ = fs::remove_dir_all(self.store.directory());
        }
    }
}

/// Removes what savepoints of that name have left whose processes are gone: nobody holds their directories' locks.
fn remove_abandoned(parent: &Path, name: &str) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let is_ours = |other: &str| other.strip_prefix(name).is_some_and(|rest| rest.starts_with(MAKING));
        if !entry.file_name().to_str().is_some_and(is_ours) || !entry.file_type()?.is_dir() {
            continue;
        }
        match File::open(entry.path())?.try_lock() {
            Ok(()) => fs::remove_dir_all(entry.path())?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}
