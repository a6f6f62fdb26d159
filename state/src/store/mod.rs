//! [`Store`]: a local directory of checkpoints, and the one place where one is made to exist.
//!
//! ```text
//! DIR/manifest-00000000000000000007.json    the checkpoint of epoch 7, once it has this name
//! DIR/manifest.next                         one being written; means nothing
//! DIR/….snap                                snapshot files; one that no manifest names is an orphan
//! ```
//!
//! A manifest is written under another name, synced, renamed, and the directory synced: the rename is the checkpoint.
//! Nothing older is touched before that, and nothing newer is believed before its checksum.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Epoch;
use crate::manifest::{Manifest, ManifestError};
use crate::snapshot::{CHUNK_BYTES, FileRef, verify};

/// Checkpoints kept when nobody says otherwise: the newest, and two to fall back to.
pub const RETAINED_DEFAULT: usize = 3;

const MANIFEST_NEXT: &str = "manifest.next";
const SNAPSHOT_SUFFIX: &str = ".snap";

/// What a [`Store`] asks the disk to do, for those who want to see it fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DiskOperation {
    /// A file is created.
    Create,
    /// Bytes are written to a file.
    Write,
    /// A file's bytes are made durable.
    Sync,
    /// A file gets its final name.
    Rename,
    /// The directory's entries are made durable.
    SyncDirectory,
}

/// Asked before every operation; an error is what the operation is then taken to have answered.
pub type DiskFault = Arc<dyn Fn(DiskOperation, &Path) -> io::Result<()> + Send + Sync>;

/// A directory of checkpoints. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    directory: Arc<Path>,
    fault: Option<DiskFault>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.directory.display())
    }
}

/// Why a checkpoint could not be written or looked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be used at all.
    #[error(
        "the checkpoint directory {directory} cannot be {what}: {source}. \
         Create it for the user that runs the job and make it writable, or name another one",
        directory = directory.display()
    )]
    Directory {
        /// Which.
        directory: PathBuf,
        /// What it cannot be.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A file of it cannot.
    #[error("{path}: cannot {what}: {source}{advice}", path = path.display(), advice = advice(source))]
    File {
        /// Which.
        path: PathBuf,
        /// What failed.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ". Free space on that file system; the checkpoints before this one are intact"
        }
        io::ErrorKind::PermissionDenied => ". Let the user that runs the job write there",
        _ => "",
    }
}

/// What [`Store::newest`] found.
#[derive(Debug)]
pub struct Newest {
    /// The newest checkpoint whose manifest and files are proven.
    pub manifest: Option<Manifest>,
    /// Newer ones that are not, and why.
    pub rejected: Vec<Rejected>,
}

/// A checkpoint that is not believed.
#[derive(Debug)]
pub struct Rejected {
    /// Its manifest.
    pub path: PathBuf,
    /// What is wrong.
    pub why: RejectedWhy,
}

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum RejectedWhy {
    /// The manifest cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    /// It is not one.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest has the name of another epoch.
    #[error("it says it is of epoch {0:?}, not of the one in its name")]
    Misnamed(Epoch),
    /// A snapshot file is missing or not the one that was written.
    #[error("its file {name} {what}")]
    File {
        /// Which.
        name: String,
        /// How so.
        what: String,
    },
}

impl Store {
    /// Opens a directory, creating it where it is missing, and proves that it can be written to.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Store, StoreError> {
        let directory = directory.into();
        let error = |what| {
            let directory = directory.clone();
            move |source| StoreError::Directory { directory, what, source }
        };
        fs::create_dir_all(&directory).map_err(error("created"))?;
        // A name of its own: every shard opens the store, perhaps while another one publishes.
        static PROBES: AtomicU64 = AtomicU64::new(0);
        let nth = PROBES.fetch_add(1, Ordering::Relaxed);
        let probe = directory.join(format!("probe-{}-{nth}", std::process::id()));
        File::create(&probe).and_then(|mut file| file.write_all(b"probe")).map_err(error("written to"))?;
        fs::remove_file(&probe).map_err(error("written to"))?;
        Ok(Store { directory: directory.into(), fault: None })
    }

    /// The same directory, with `fault` asked before every operation: how tests make a disk full or broken.
    #[must_use]
    pub fn with_fault(mut self, fault: DiskFault) -> Store {
        self.fault = Some(fault);
        self
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a file of that name is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn ask(&self, operation: DiskOperation, path: &Path) -> io::Result<()> {
        self.fault.as_ref().map_or(Ok(()), |fault| fault(operation, path))
    }

    /// Where a manifest of that epoch is, if there is one.
    #[must_use]
    pub fn manifest_path(&self, epoch: Epoch) -> PathBuf {
        self.directory.join(format!("manifest-{:020}.json", epoch.0))
    }

    /// Makes a checkpoint exist. After an error it does not, and those before it do as they did.
    pub fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let next = self.directory.join(MANIFEST_NEXT);
        let path = self.manifest_path(manifest.epoch);
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::File { path, what, source }
        };
        let published = (|| {
            self.ask(DiskOperation::Create, &next).map_err(failed("create the manifest", &next))?;
            let mut file = File::create(&next).map_err(failed("create the manifest", &next))?;
            let write = self.ask(DiskOperation::Write, &next).and_then(|()| file.write_all(&manifest.to_bytes()));
            write.map_err(failed("write the manifest", &next))?;
            let sync = self.ask(DiskOperation::Sync, &next).and_then(|()| file.sync_all());
            sync.map_err(failed("sync the manifest", &next))?;
            let rename = self.ask(DiskOperation::Rename, &path).and_then(|()| fs::rename(&next, &path));
            rename.map_err(failed("give the manifest its name", &path))
        })();
        if published.is_err() {
            // Whatever of it there is means nothing, and the next one begins anew.
            let _ = fs::remove_file(&next);
            return published;
        }
        let sync = self.sync_directory();
        if sync.is_err() {
            // The name may or may not survive a crash. It must not: the job goes on as if there were no such checkpoint.
            let _ = fs::remove_file(&path);
        }
        sync.map_err(failed("sync the directory after writing", &path))
    }

    pub(crate) fn sync_directory(&self) -> io::Result<()> {
        self.ask(DiskOperation::SyncDirectory, &self.directory)?;
        File::open(&self.directory)?.sync_all()
    }

    /// Looks for the newest checkpoint that can be believed: its manifest whole, its files there and the ones that were
    /// written. (Of a file, the last chunk is read, which has the checksums of the others; a restore proves them all.)
    pub fn newest(&self) -> Result<Newest, StoreError> {
        self.newest_before(None)
    }

    /// The same among those of epochs before one: where to go when a restore of that one failed.
    pub fn newest_before(&self, epoch: Option<Epoch>) -> Result<Newest, StoreError> {
        let mut rejected = Vec::new();
        for (at, path) in self.manifests()? {
            if epoch.is_some_and(|epoch| at >= epoch) {
                continue;
            }
            match self.prove(at, &path) {
                Ok(manifest) => return Ok(Newest { manifest: Some(manifest), rejected }),
                Err(why) => rejected.push(Rejected { path, why }),
            }
        }
        Ok(Newest { manifest: None, rejected })
    }

    fn prove(&self, epoch: Epoch, path: &Path) -> Result<Manifest, RejectedWhy> {
        let manifest = Manifest::from_bytes(&fs::read(path).map_err(RejectedWhy::Unreadable)?)?;
        if manifest.epoch != epoch {
            return Err(RejectedWhy::Misnamed(manifest.epoch));
        }
        for file in manifest.files() {
            let proven = prove_file(&self.path(&file.name), file);
            proven.map_err(|what| RejectedWhy::File { name: file.name.clone(), what })?;
        }
        Ok(manifest)
    }

    /// All manifests by name, the newest first.
    fn manifests(&self) -> Result<Vec<(Epoch, PathBuf)>, StoreError> {
        let mut manifests = Vec::new();
        for (name, path) in self.entries()? {
            let number = name.strip_prefix("manifest-").and_then(|name| name.strip_suffix(".json"));
            if let Some(epoch) = number.and_then(|number| number.parse().ok()) {
                manifests.push((Epoch(epoch), path));
            }
        }
        manifests.sort_unstable_by_key(|(epoch, _)| std::cmp::Reverse(*epoch));
        Ok(manifests)
    }

    fn entries(&self) -> Result<Vec<(String, PathBuf)>, StoreError> {
        let list = || -> io::Result<Vec<(String, PathBuf)>> {
            let entries = fs::read_dir(&self.directory)?.collect::<Result<Vec<_>, _>>()?;
            // A name that is not UTF-8 is not one of ours.
            let named = entries.iter().filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
            Ok(named.collect())
        };
        list().map_err(|source| StoreError::Directory {
            directory: self.directory.to_path_buf(),
            what: "listed",
            source,
        })
    }

    /// Deletes all checkpoints but the `newest` newest, and every snapshot file that none of those names. To be called
    /// when no snapshot is being written. Returns how many files went.
    ///
    /// A manifest that cannot be read keeps nothing alive, and is not counted: it goes if it is older than the newest
    /// ones that can.
    pub fn retain(&self, newest: usize) -> Result<usize, StoreError> {
        self.retain_but(newest, &HashSet::new())
    }

    /// The same, sparing files that are being written or were not yet named by a manifest.
    pub fn retain_but(&self, newest: usize, spared: &HashSet<String>) -> Result<usize, StoreError> {
        let mut named = spared.clone();
        let mut kept = 0;
        let mut removed = 0;
        let remove = |path: &Path| {
            let gone = fs::remove_file(path);
            gone.map_err(|source| StoreError::File { path: path.to_owned(), what: "delete an old checkpoint", source })
        };
        for (_, path) in self.manifests()? {
            if kept == newest.max(1) {
                // Before its files: a manifest without files would look like damage.
                remove(&path)?;
                removed += 1;
                continue;
            }
            if let Ok(manifest) =
                fs::read(&path).map_err(drop).and_then(|read| Manifest::from_bytes(&read).map_err(drop))
            {
                named.extend(manifest.files().map(|file| file.name.clone()));
                kept += 1;
            }
        }
        for (name, path) in self.entries()? {
            if name.ends_with(SNAPSHOT_SUFFIX) && !named.contains(&name) {
                remove(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// A name for a snapshot file that nothing has yet, from a readable stem.
    pub(crate) fn unused_name(&self, stem: &str) -> String {
        // After a crash, epochs are counted again from the checkpoint, and files of the first try may be there.
        let names = (1..).map(|attempt| match attempt {
            1 => format!("{stem}{SNAPSHOT_SUFFIX}"),
            _ => format!("{stem}-{attempt}{SNAPSHOT_SUFFIX}"),
        });
        names.into_iter().find(|name| !self.path(name).exists()).expect("there is always a higher number")
    }
}

/// Proves that a file is the one that was written, as far as its last chunk tells.
fn prove_file(path: &Path, file: &FileRef) -> Result<(), String> {
    let read = || -> io::Result<(u64, Vec<u8>)> {
        let mut opened = File::open(path)?;
        let bytes = opened.metadata()?.len();
        let last_at = bytes.saturating_sub(1) / CHUNK_BYTES as u64 * CHUNK_BYTES as u64;
        opened.seek(SeekFrom::Start(last_at))?;
        let mut last = Vec::new();
        opened.take(CHUNK_BYTES as u64).read_to_end(&mut last)?;
        Ok((bytes, last))
    };
    let (bytes, last) = read().map_err(|error| format!("cannot be read: {error}"))?;
    if bytes != file.bytes {
        return Err(format!("has {bytes} bytes instead of {}", file.bytes));
    }
    let index = (bytes.saturating_sub(1) / CHUNK_BYTES as u64) as u32;
    let chunk = verify(&last, index).map_err(|damage| format!("is damaged in its last chunk: {damage}"))?;
    let crcs = chunk.footer_crcs().ok_or("has no footer")?;
    if crc32c::crc32c_append(crcs, &chunk.crc32c.to_le_bytes()) != file.crc32c {
        return Err("is another file than the one that was written".to_owned());
    }
    Ok(())
}
