//! A local directory: what a [`Store`](super::Store) does with one, call by call.
//!
//! A file counts once its bytes and its name have both been synced. A manifest gets its name by a hard link, which
//! refuses a name that is taken where a rename would take it away from whoever has it.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fault::{DiskOperation, Gate};
use super::{Listed, StoreError};

/// How the names of files end that are being written under another name than their own.
pub(super) const NEXT_SUFFIX: &str = ".next";
/// How the names of files begin that only prove that a directory can be written to.
pub(super) const PROBE_PREFIX: &str = "probe-";

/// Creates the directory where it is missing, and proves that it can be written to.
pub(super) fn open(directory: &Path) -> Result<(), StoreError> {
    let error = |what| {
        let directory = directory.to_owned();
        move |source| StoreError::Directory { directory, what, source }
    };
    fs::create_dir_all(directory).map_err(error("created"))?;
    let probe = directory.join(format!("{PROBE_PREFIX}{}", own_number()));
    File::create(&probe).and_then(|mut file| file.write_all(b"probe")).map_err(error("written to"))?;
    fs::remove_file(&probe).map_err(error("written to"))
}

/// A name that no other call gets, in this process or another: every shard opens the store, perhaps while another one
/// publishes. The process's number alone is not enough, for in containers that share a directory all have the same.
fn own_number() -> String {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    static PROCESS: OnceLock<u64> = OnceLock::new();
    // Keys that the standard library draws for each process.
    let process = PROCESS.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    format!("{}-{process:016x}-{}", std::process::id(), NUMBERS.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn list(gate: &Gate, directory: &Path) -> io::Result<Vec<Listed>> {
    gate.ask(DiskOperation::Read, directory)?;
    let mut listed = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Somebody else may delete a file while we look; and a name that is not UTF-8 is not one of ours.
        let (Ok(metadata), Ok(name)) = (entry.metadata(), entry.file_name().into_string()) else { continue };
        if metadata.is_file() {
            listed.push(Listed { name, bytes: metadata.len() });
        }
    }
    Ok(listed)
}

pub(super) fn get(gate: &Gate, path: &Path) -> io::Result<Vec<u8>> {
    gate.ask(DiskOperation::Read, path)?;
    fs::read(path)
}

pub(super) fn get_range(gate: &Gate, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    gate.ask(DiskOperation::Read, path)?;
    let mut opened = File::open(path)?;
    opened.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; len];
    opened.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A file's length, and its bytes from `last_at` on.
pub(super) fn tail(gate: &Gate, path: &Path, last_at: u64, len_max: usize) -> io::Result<(u64, Vec<u8>)> {
    gate.ask(DiskOperation::Read, path)?;
    let mut opened = File::open(path)?;
    let bytes = opened.metadata()?.len();
    opened.seek(SeekFrom::Start(last_at))?;
    let mut last = Vec::new();
    opened.take(len_max as u64).read_to_end(&mut last)?;
    Ok((bytes, last))
}

/// Opens a file for reads past the page cache, where its file system can: a restore reads each byte once, and half of the
/// time of a cached read is the copy.
pub(super) fn open_direct(path: &Path) -> io::Result<File> {
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
    match direct {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => File::open(path),
        other => other,
    }
}

pub(super) fn delete(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(super) fn sync_directory(gate: &Gate, directory: &Path) -> io::Result<()> {
    gate.ask(DiskOperation::SyncDirectory, directory)?;
    File::open(directory)?.sync_all()
}

/// A whole file under a name of its own, synced, which is gone with the value.
struct Draft(PathBuf);

impl Draft {
    fn write(gate: &Gate, path: &Path, bytes: &[u8], of: &'static Words) -> Result<Draft, StoreError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}{NEXT_SUFFIX}", own_number()));
        let draft = Draft(path.with_file_name(name));
        let at = &draft.0;
        let create = gate.ask(DiskOperation::Create, at).and_then(|()| File::create(at));
        let mut file = create.map_err(StoreError::file(of.create, at))?;
        let write = gate.ask(DiskOperation::Write, at).and_then(|()| file.write_all(bytes));
        write.map_err(StoreError::file(of.write, at))?;
        let sync = gate.ask(DiskOperation::Sync, at).and_then(|()| file.sync_all());
        sync.map_err(StoreError::file(of.sync, at))?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Best effort: what is left of it means nothing, and a sweep takes it away.
        let _ = fs::remove_file(&self.0);
    }
}

struct Words {
    create: &'static str,
    write: &'static str,
    sync: &'static str,
    rename: &'static str,
    sync_directory: &'static str,
}

static MANIFEST: Words = Words {
    create: "create the manifest",
    write: "write the manifest",
    sync: "sync the manifest",
    rename: "give the manifest its name",
    sync_directory: "sync the directory after writing",
};

static FILE: Words = Words {
    create: "create the file",
    write: "write the file",
    sync: "sync the file",
    rename: "give the file its name",
    sync_directory: "sync the directory after writing",
};

/// Gives `bytes` a name that nothing has yet; false where something has it.
pub(super) fn publish(gate: &Gate, directory: &Path, path: &Path, bytes: &[u8]) -> Result<bool, StoreError> {
    let draft = Draft::write(gate, path, bytes, &MANIFEST)?;
    let linked = gate.ask(DiskOperation::Rename, path).and_then(|()| fs::hard_link(&draft.0, path));
    if let Err(error) = linked {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return Err(StoreError::file(MANIFEST.rename, path)(error));
        }
        // A network file system may ask its server a second time after an answer was lost, and then finds the name
        // taken, by ourselves.
        if !is_same_file(&draft.0, path) {
            return Ok(false);
        }
    }
    drop(draft);
    let sync = sync_directory(gate, directory);
    if sync.is_err() {
        // The name may or may not survive a crash. It must not: the job goes on as if there were no such checkpoint.
        let _ = fs::remove_file(path);
    }
    sync.map_err(StoreError::file(MANIFEST.sync_directory, path))?;
    Ok(true)
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// Makes a file be `bytes`, whether or not there was one: all of it or, after an error, perhaps the one before.
pub(super) fn put(gate: &Gate, directory: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let draft = Draft::write(gate, path, bytes, &FILE)?;
    let renamed = gate.ask(DiskOperation::Rename, path).and_then(|()| fs::rename(&draft.0, path));
    renamed.map_err(StoreError::file(FILE.rename, path))?;
    sync_directory(gate, directory).map_err(StoreError::file(FILE.sync_directory, path))
}

/// A file being written by an ordinary thread; removed unless it is finished.
pub(super) struct Writing {
    file: File,
    gate: Gate,
    path: PathBuf,
    finished: bool,
}

impl Writing {
    pub(super) fn create(gate: &Gate, path: PathBuf) -> io::Result<Writing> {
        gate.ask(DiskOperation::Create, &path)?;
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Writing { file, gate: gate.clone(), path, finished: false })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gate.ask(DiskOperation::Write, &self.path)?;
        self.file.write(bytes)
    }

    pub(super) fn finish(mut self, directory: &Path) -> io::Result<()> {
        self.gate.ask(DiskOperation::Sync, &self.path)?;
        self.file.sync_all()?;
        sync_directory(&self.gate, directory)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: whoever wrote it knows that it does not count.
            let _ = fs::remove_file(&self.path);
        }
    }
}
