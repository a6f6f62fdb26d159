//! [`Store`]: where checkpoints are kept, and the one place where one is made to exist.
//!
//! ```text
//! PLACE/manifest-00000000000000000007.json  the checkpoint of epoch 7, once it has this name
//! PLACE/….next                              one being written into a directory; means nothing
//! PLACE/….snap                              snapshot files; one that no manifest names is an orphan
//! PLACE/lease-00000000000000000007          who leads the job's processes, where they elect their lead
//! ```
//!
//! A place is a local directory or a prefix in an object store. In either a manifest's name is given once: in a directory
//! by a hard link to a file that was written and synced under another name, in an object store by a put that fails where
//! there is an object already. Nothing older is touched before that, and nothing newer is believed before its checksum.

mod clear;
mod config;
mod error;
mod fault;
mod local;
mod look;
#[cfg(feature = "objects")]
pub(crate) mod objects;
mod reader;
mod register;
#[cfg(feature = "testing")]
mod temporary;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Epoch;
use crate::manifest::Manifest;
use crate::snapshot::{CHUNK_BYTES, FileRef, verify};

pub use config::{Patience, StoreConfig};
pub use error::{Rejected, RejectedWhy, StoreError};
pub(crate) use fault::Gate;
pub use fault::{DiskFault, DiskOperation};
pub use look::Listing;
pub use reader::Reader;
pub use register::{Register, Version};
#[cfg(feature = "testing")]
pub use temporary::TemporaryPlace;
pub use writer::Writing;

/// Checkpoints kept when nobody says otherwise: the newest, and two to fall back to.
pub const RETAINED_DEFAULT: usize = 3;

pub(crate) const SNAPSHOT_SUFFIX: &str = ".snap";

/// A place for checkpoints: a directory or a prefix in an object store. Clones are the same store.
///
/// What is asked of an object store is asked by a thread of its own, `millstream-objects`. All methods wait for the
/// answer, up to [`Patience::total`], and so are for threads that may wait; a shard writes through
/// [`SnapshotFile`](crate::SnapshotFile), which does not hold it up.
#[derive(Clone)]
pub struct Store {
    /// The directory, or the object store's address.
    address: Arc<Path>,
    pub(crate) place: Place,
    pub(crate) gate: Gate,
}

/// The two kinds of places.
#[derive(Clone)]
pub(crate) enum Place {
    Local,
    #[cfg(feature = "objects")]
    Objects(objects::Bucket),
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.address.display())
    }
}

/// A file of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// What [`Store::newest`] found.
#[derive(Debug)]
pub struct Newest {
    /// The newest checkpoint whose manifest and files are proven.
    pub manifest: Option<Manifest>,
    /// Newer ones that are not, and why.
    pub rejected: Vec<Rejected>,
    /// The highest epoch that any manifest has in its name, believed or not; zero where there is none. The epochs go on
    /// after this one, since its name is taken.
    pub highest: Epoch,
}

impl Store {
    /// Opens a place and proves that it can be written to: a directory (`/path` or `file:///path`), which is created where
    /// it is missing, or `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, with the credentials of the
    /// environment and the feature `s3`, `gcs` or `azure`.
    ///
    /// # Errors
    /// When the place cannot be used; the error says why and what to do.
    pub fn open(place: impl Into<PathBuf>) -> Result<Store, StoreError> {
        Store::open_with(place, &StoreConfig::default())
    }

    /// The same with settings of one's own.
    ///
    /// # Errors
    /// As [`open`](Store::open).
    pub fn open_with(place: impl Into<PathBuf>, config: &StoreConfig) -> Result<Store, StoreError> {
        let store = Store::at(place.into(), config, true)?;
        if store.is_local() {
            local::open(&store.address)?;
        }
        Ok(store)
    }

    /// A place that is only going to be read: nothing is created there, and nothing proven.
    ///
    /// # Errors
    /// When there is no such directory, or the address cannot be followed.
    pub fn look(place: impl Into<PathBuf>, config: &StoreConfig) -> Result<Store, StoreError> {
        let store = Store::at(place.into(), config, false)?;
        if store.is_local() {
            let unusable = |source| store.unusable("read", source);
            let metadata = std::fs::metadata(&store.address).map_err(unusable)?;
            if !metadata.is_dir() {
                return Err(unusable(io::Error::from(io::ErrorKind::NotADirectory)));
            }
        }
        Ok(store)
    }

    fn at(given: PathBuf, config: &StoreConfig, is_proven: bool) -> Result<Store, StoreError> {
        let (address, place) = match scheme(&given) {
            None => (given, Place::Local),
            Some("file") => {
                // What follows the scheme is a path; a host before it would be another machine's.
                let path = given.to_str().and_then(|text| text.strip_prefix("file://")).unwrap_or_default().to_owned();
                if !path.starts_with('/') {
                    let why = "write file:///PATH, with three slashes, or just the path".into();
                    return Err(StoreError::Address { place: given, why });
                }
                (PathBuf::from(path), Place::Local)
            }
            Some(scheme) => {
                let place = objects_place(&given, scheme, config, is_proven)?;
                (given, place)
            }
        };
        Ok(Store { address: address.into(), place, gate: Gate::default() })
    }

    /// The same place, with `fault` asked before every operation: how tests make a disk full or broken.
    #[must_use]
    pub fn with_fault(mut self, fault: DiskFault) -> Store {
        self.gate = Gate(Some(fault));
        self
    }

    /// A store inside this one, whose files this one does not see: a savepoint's. A directory is created where it is
    /// missing.
    ///
    /// # Errors
    /// When the directory cannot be created or written to.
    pub fn sub(&self, directory: &str) -> Result<Store, StoreError> {
        let address = self.path(directory);
        let place = match &self.place {
            Place::Local => {
                local::open(&address)?;
                Place::Local
            }
            #[cfg(feature = "objects")]
            Place::Objects(bucket) => Place::Objects(bucket.sub(directory)),
        };
        Ok(Store { address: address.into(), place, gate: self.gate.clone() })
    }

    /// The directory, or the object store's address.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.address
    }

    /// Whether the place is a directory of this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self.place, Place::Local)
    }

    /// Where a file of that name is; in an object store, its address.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.address.join(name)
    }

    pub(crate) fn ask(&self, operation: DiskOperation, path: &Path) -> io::Result<()> {
        self.gate.ask(operation, path)
    }

    /// Where a manifest of that epoch is, if there is one.
    #[must_use]
    pub fn manifest_path(&self, epoch: Epoch) -> PathBuf {
        self.path(&manifest_name(epoch))
    }

    /// The files whose names begin with `prefix`, in no order; not those of directories inside.
    ///
    /// # Errors
    /// When the place cannot be listed.
    pub fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let listed = match &self.place {
            Place::Local => local::list(&self.gate, &self.address).map(|mut listed| {
                listed.retain(|file| file.name.starts_with(prefix));
                listed
            }),
            #[cfg(feature = "objects")]
            Place::Objects(bucket) => self.ask(DiskOperation::Read, &self.address).and_then(|()| bucket.list(prefix)),
        };
        listed.map_err(|source| self.unusable("listed", source))
    }

    fn unusable(&self, what: &'static str, source: io::Error) -> StoreError {
        match &self.place {
            Place::Local => StoreError::Directory { directory: self.address.to_path_buf(), what, source },
            #[cfg(feature = "objects")]
            Place::Objects(_) => StoreError::Bucket { place: self.address.to_path_buf(), what, source },
        }
    }

    /// A file's bytes, all of them.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be read.
    pub fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.read(name).map_err(StoreError::file("read the file", &self.path(name)))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let path = self.path(name);
        match &self.place {
            Place::Local => local::get(&self.gate, &path),
            #[cfg(feature = "objects")]
            Place::Objects(bucket) => self.ask(DiskOperation::Read, &path).and_then(|()| bucket.get(name)),
        }
    }

    /// Makes a file be `bytes`, durably, whether or not there was one of that name.
    ///
    /// # Errors
    /// When it cannot be written; then the one before it may still be there, but never a part of either.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(name);
        match &self.place {
            Place::Local => local::put(&self.gate, path.parent().unwrap_or(&self.address), &path, bytes),
            #[cfg(feature = "objects")]
            Place::Objects(bucket) => {
                let write = self.ask(DiskOperation::Write, &path).and_then(|()| bucket.put(name, bytes));
                write.map_err(StoreError::file("write the file", &path))
            }
        }
    }

    /// Deletes files; one that is not there is no error.
    ///
    /// # Errors
    /// When one cannot be deleted; others may be gone.
    pub fn delete(&self, names: &[String]) -> Result<(), StoreError> {
        match &self.place {
            Place::Local => names.iter().try_for_each(|name| {
                let path = self.path(name);
                local::delete(&path).map_err(StoreError::file("delete the file", &path))
            }),
            #[cfg(feature = "objects")]
            Place::Objects(bucket) => {
                bucket.delete(names).map_err(|source| self.unusable("cleared of old files", source))
            }
        }
    }

    /// Puts a file of a name that nothing has; false where something has it.
    pub(crate) fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        let path = self.path(name);
        match &self.place {
            Place::Local => local::publish(&self.gate, &self.address, &path, bytes),
            #[cfg(feature = "objects")]
            Place::Objects(bucket) => {
                let put = self.ask(DiskOperation::Write, &path).and_then(|()| bucket.publish(name, bytes));
                put.map_err(StoreError::file("put the file", &path))
            }
        }
    }

    /// Makes a checkpoint exist. After an error it does not, and those before it do as they did; unless the error is that
    /// an object store could not be asked, when it may exist after all, as sound as any.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another coordinator has committed this epoch or one after it: nothing this one does
    /// counts any more. Any other error concerns this checkpoint alone.
    pub fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let fenced = |epoch| StoreError::Fenced { epoch, place: self.address.to_path_buf() };
        let listed = self.list("")?;
        if let Some((newer, _)) = manifests(&listed).first().filter(|(epoch, _)| *epoch >= manifest.epoch) {
            return Err(fenced(*newer));
        }
        // A job that shares the place may have taken a file for an orphan.
        for file in manifest.files().filter(|file| !file.name.contains('/')) {
            if !listed.iter().any(|listed| listed.name == file.name) {
                let source = io::Error::from(io::ErrorKind::NotFound);
                let what = "find the snapshot that the manifest is to name";
                return Err(StoreError::File { path: self.path(&file.name), what, source });
            }
        }
        let (name, bytes) = (manifest_name(manifest.epoch), manifest.to_bytes());
        let path = self.path(&name);
        let won = match &self.place {
            Place::Local => local::publish(&self.gate, &self.address, &path, &bytes)?,
            #[cfg(feature = "objects")]
            Place::Objects(bucket) => {
                let put = self.ask(DiskOperation::Rename, &path).and_then(|()| bucket.publish(&name, &bytes));
                put.map_err(StoreError::file("put the manifest", &path))?
            }
        };
        if won { Ok(()) } else { Err(fenced(manifest.epoch)) }
    }

    /// Looks for the newest checkpoint that can be believed: its manifest whole, its files there and the ones that were
    /// written. (Of a file, the last chunk is read, which has the checksums of the others; a restore proves them all.)
    ///
    /// # Errors
    /// When the place cannot be listed, or an object store cannot be asked: then nothing is known of its checkpoints, and
    /// an older one must not be taken for the newest.
    pub fn newest(&self) -> Result<Newest, StoreError> {
        self.newest_before(None)
    }

    /// The same among those of epochs before one: where to go when a restore of that one failed.
    ///
    /// # Errors
    /// As [`newest`](Store::newest).
    pub fn newest_before(&self, epoch: Option<Epoch>) -> Result<Newest, StoreError> {
        let mut rejected = Vec::new();
        let manifests = manifests(&self.list("manifest-")?);
        let highest = manifests.first().map_or(Epoch(0), |(epoch, _)| *epoch);
        for (at, name) in manifests {
            if epoch.is_some_and(|epoch| at >= epoch) {
                continue;
            }
            match self.prove(at, &name)? {
                Ok(manifest) => return Ok(Newest { manifest: Some(manifest), rejected, highest }),
                Err(why) => rejected.push(Rejected { path: self.path(&name), why }),
            }
        }
        Ok(Newest { manifest: None, rejected, highest })
    }

    fn prove(&self, epoch: Epoch, name: &str) -> Result<Result<Manifest, RejectedWhy>, StoreError> {
        let bytes = match self.believable(name, self.read(name))? {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(RejectedWhy::Unreadable(error))),
        };
        let manifest = match Manifest::from_bytes(&bytes) {
            Ok(manifest) => manifest,
            Err(error) => return Ok(Err(error.into())),
        };
        if manifest.epoch != epoch {
            return Ok(Err(RejectedWhy::Misnamed(manifest.epoch)));
        }
        let files: Vec<&FileRef> = manifest.files().collect();
        for (file, tail) in files.iter().zip(self.tails(&files)?) {
            let tail = self.believable(&file.name, tail)?.map_err(|error| format!("cannot be read: {error}"));
            if let Err(what) = tail.and_then(|(bytes, last)| prove_file(file, bytes, &last)) {
                return Ok(Err(RejectedWhy::File { name: file.name.clone(), what }));
            }
        }
        Ok(Ok(manifest))
    }

    /// Parts an answer that speaks of the file from a failure to get one: a disk that cannot read a file will not read it
    /// tomorrow, while an object store that is away comes back.
    fn believable<T>(&self, name: &str, read: io::Result<T>) -> Result<io::Result<T>, StoreError> {
        match read {
            Err(error) if !self.is_local() && error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::file("read a file of the checkpoint", &self.path(name))(error))
            }
            read => Ok(read),
        }
    }

    /// Of every file, its length and its last chunk.
    fn tails(&self, files: &[&FileRef]) -> Result<Vec<io::Result<(u64, Vec<u8>)>>, StoreError> {
        match &self.place {
            Place::Local => Ok(files
                .iter()
                .map(|file| local::tail(&self.gate, &self.path(&file.name), last_at(file.bytes), CHUNK_BYTES))
                .collect()),
            #[cfg(feature = "objects")]
            Place::Objects(bucket) => {
                let wanted = files.iter().map(|file| (file.name.clone(), last_at(file.bytes))).collect();
                let asked = files.iter().try_for_each(|file| self.ask(DiskOperation::Read, &self.path(&file.name)));
                asked.and_then(|()| bucket.tails(wanted)).map_err(|source| self.unusable("read", source))
            }
        }
    }

    /// Opens a file of a checkpoint to be read from its beginning; what it holds is for the reader to prove.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be read.
    pub fn reader(&self, file: &FileRef) -> io::Result<Reader> {
        self.reader_of(&file.name)
    }

    /// The same for a file that is no snapshot.
    ///
    /// # Errors
    /// As [`reader`](Store::reader).
    pub fn reader_of(&self, name: &str) -> io::Result<Reader> {
        Reader::open(self, name)
    }

    /// Starts a new file, to be written by a thread that may wait. It counts once it is finished.
    ///
    /// # Errors
    /// When there is one of that name in a directory, or it cannot be created. (An object store takes the name of
    /// whatever is there: give a name that nothing has.)
    pub fn create_blocking(&self, name: &str) -> Result<Writing, StoreError> {
        Writing::create(self, name)
    }
}

/// The scheme of an address, `None` for a path.
fn scheme(place: &Path) -> Option<&str> {
    let (scheme, _) = place.to_str()?.split_once("://")?;
    let is_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_scheme.then_some(scheme)
}

/// The schemes of object stores, and the features that speak them.
const SCHEMES: [(&str, &str, bool); 3] = [
    ("s3", "s3", cfg!(feature = "s3")),
    ("gs", "gcs", cfg!(feature = "gcs")),
    ("az", "azure", cfg!(feature = "azure")),
];

fn objects_place(address: &Path, scheme: &str, config: &StoreConfig, is_proven: bool) -> Result<Place, StoreError> {
    let why = match SCHEMES.into_iter().find(|(known, ..)| *known == scheme) {
        #[cfg(feature = "objects")]
        Some((.., true)) => {
            let bucket = if is_proven { objects::Bucket::open } else { objects::Bucket::look };
            return bucket(address, config).map(Place::Objects);
        }
        Some((_, feature, _)) => format!(
            "this program was built without the feature `{feature}`, which speaks to object stores of that kind: build it \
             with `--features {feature}`, or name a directory"
        ),
        None => {
            "an address begins with s3://, gs://, az:// or file://; anything else is the path of a directory".into()
        }
    };
    #[cfg(not(feature = "objects"))]
    let _ = (config, is_proven);
    Err(StoreError::Address { place: address.to_owned(), why })
}

fn manifest_name(epoch: Epoch) -> String {
    format!("manifest-{:020}.json", epoch.0)
}

/// All manifests by name, the newest first.
fn manifests(listed: &[Listed]) -> Vec<(Epoch, String)> {
    let number = |name: &str| name.strip_prefix("manifest-")?.strip_suffix(".json")?.parse().ok();
    let epochs = listed.iter().filter_map(|file| Some((Epoch(number(&file.name)?), file.name.clone())));
    let mut manifests: Vec<(Epoch, String)> = epochs.collect();
    manifests.sort_unstable_by_key(|(epoch, _)| std::cmp::Reverse(*epoch));
    manifests
}

/// Where the last chunk of so many bytes begins.
fn last_at(bytes: u64) -> u64 {
    bytes.saturating_sub(1) / CHUNK_BYTES as u64 * CHUNK_BYTES as u64
}

/// Proves that a file of `bytes` is the one that was written, as far as its last chunk tells.
fn prove_file(file: &FileRef, bytes: u64, last: &[u8]) -> Result<(), String> {
    if bytes != file.bytes {
        return Err(format!("has {bytes} bytes instead of {}", file.bytes));
    }
    let index = (bytes.saturating_sub(1) / CHUNK_BYTES as u64) as u32;
    let chunk = verify(last, index).map_err(|damage| format!("is damaged in its last chunk: {damage}"))?;
    let crcs = chunk.footer_crcs().ok_or("has no footer")?;
    if crc32c::crc32c_append(crcs, &chunk.crc32c.to_le_bytes()) != file.crc32c {
        return Err("is another file than the one that was written".to_owned());
    }
    Ok(())
}
