//! [`SnapshotFile`]: one snapshot's way to where it is kept: by direct I/O on the shard's own ring into a directory, or
//! by the object store's own thread into a bucket.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions};

use crate::snapshot::{Chunk, FileRef};
#[cfg(feature = "objects")]
use crate::store::objects::Upload;
use crate::store::{DiskOperation, Place, SNAPSHOT_SUFFIX, Store, StoreError};

/// A snapshot file being written; to be used inside a glommio executor.
///
/// Any error abandons the file: what was written of it is removed, and the snapshot is to be aborted. A sync that failed
/// is never tried again, since the kernel may by then have forgotten what it could not write. Dropped without
/// [`finish`](SnapshotFile::finish), it is removed as well.
pub struct SnapshotFile {
    // None once closed.
    to: Option<To>,
    store: Store,
    name: String,
    path: PathBuf,
    bytes: u64,
    crc32c: u32,
    finished: bool,
}

enum To {
    Local(Rc<DmaFile>),
    #[cfg(feature = "objects")]
    Objects(Upload),
}

impl SnapshotFile {
    /// Creates a file named after `stem`: in a directory with a number behind it where a file of that name is left from an
    /// earlier try, in an object store with a mark of this process. Names are never used twice, so that no one writes over
    /// a file that another one's manifest may come to name.
    ///
    /// # Errors
    /// When it cannot be created. An object store is not asked yet.
    pub async fn create(store: &Store, stem: &str) -> Result<SnapshotFile, StoreError> {
        let (name, to) = match &store.place {
            Place::Local => create_local(store, stem).await?,
            #[cfg(feature = "objects")]
            Place::Objects(bucket) => {
                let name = bucket.unused_name(stem, SNAPSHOT_SUFFIX);
                let path = store.path(&name);
                let upload = store.ask(DiskOperation::Create, &path).and_then(|()| Upload::on_shard(bucket, &name));
                let upload = upload.map_err(|source| StoreError::File { path, what: "create the snapshot", source })?;
                (name, To::Objects(upload))
            }
        };
        let (path, store, to) = (store.path(&name), store.clone(), Some(to));
        Ok(SnapshotFile { to, store, name, path, bytes: 0, crc32c: 0, finished: false })
    }

    /// Writes the next chunk, or hands it over to be written, and gives it or another one back, to be filled again.
    ///
    /// # Errors
    /// When it, or one before it, cannot be written.
    pub async fn write(&mut self, chunk: Chunk) -> Result<Chunk, StoreError> {
        let written = self.write_all(chunk).await;
        written.map_err(|source| self.abandon("write the snapshot", source))
    }

    async fn write_all(&mut self, chunk: Chunk) -> io::Result<Chunk> {
        self.store.ask(DiskOperation::Write, &self.path)?;
        let (crc32c, len) = (chunk.crc32c(), chunk.bytes().len());
        let back = match self.to.as_mut().ok_or_else(abandoned)? {
            To::Local(file) => write_local(file.clone(), chunk, self.bytes).await?,
            #[cfg(feature = "objects")]
            To::Objects(upload) => upload.write(chunk).await?,
        };
        self.bytes += len as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &crc32c.to_le_bytes());
        Ok(back)
    }

    /// Makes the file durable and closes it.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn finish(mut self) -> Result<FileRef, StoreError> {
        let synced = self.sync().await;
        synced.map_err(|source| self.abandon("sync the snapshot", source))?;
        self.finished = true;
        Ok(FileRef { name: std::mem::take(&mut self.name), bytes: self.bytes, crc32c: self.crc32c })
    }

    async fn sync(&mut self) -> io::Result<()> {
        self.store.ask(DiskOperation::Sync, &self.path)?;
        match self.to.take().ok_or_else(abandoned)? {
            To::Local(file) => {
                file.fdatasync().await.map_err(plain)?;
                file.close_rc().await.map_err(plain)?;
                // The file's name must outlive a crash no less than the manifest that speaks of it. Publishing that syncs
                // the directory, and so this name, before anybody is told that the checkpoint exists.
                Ok(())
            }
            #[cfg(feature = "objects")]
            To::Objects(upload) => upload.finish().await,
        }
    }

    fn abandon(&mut self, what: &'static str, source: io::Error) -> StoreError {
        self.to = None;
        StoreError::File { path: self.path.clone(), what, source }
    }
}

async fn create_local(store: &Store, stem: &str) -> Result<(String, To), StoreError> {
    // After a crash, epochs are counted again from the checkpoint, and files of the first try may be there.
    for attempt in 1.. {
        let name = match attempt {
            1 => format!("{stem}{SNAPSHOT_SUFFIX}"),
            _ => format!("{stem}-{attempt}{SNAPSHOT_SUFFIX}"),
        };
        let path = store.path(&name);
        if path.exists() {
            continue;
        }
        let failed = |source| StoreError::File { path: path.clone(), what: "create the snapshot", source };
        store.ask(DiskOperation::Create, &path).map_err(failed)?;
        // For reading too, although nobody reads: opened only for writing, the first file on a device makes glommio
        // believe that the device cannot be polled. On tmpfs it falls back to buffered writes by itself.
        let opened = OpenOptions::new().read(true).write(true).create_new(true).dma_open(&path).await.map_err(plain);
        match opened {
            Ok(file) => return Ok((name, To::Local(Rc::new(file)))),
            // Somebody was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    unreachable!("there is always a higher number")
}

async fn write_local(file: Rc<DmaFile>, chunk: Chunk, at: u64) -> io::Result<Chunk> {
    let len = chunk.bytes().len();
    let buffer = Rc::new(chunk.buffer);
    let written = file.write_rc_at(Rc::clone(&buffer), at).await.map_err(plain)?;
    if written != len {
        // A disk that fills up takes a part first.
        return Err(io::Error::new(io::ErrorKind::StorageFull, format!("only {written} of {len} bytes were written")));
    }
    // The ring dropped its share with the answer; if a future version keeps it longer, a new chunk will do.
    Ok(Rc::try_unwrap(buffer).map_or_else(|_| Chunk::new(), |buffer| Chunk { buffer }))
}

fn abandoned() -> io::Error {
    io::Error::other("the file was abandoned after an earlier error")
}

/// The system's own answer: the path and the operation that glommio adds are named by [`StoreError`] already.
pub(crate) fn plain(error: GlommioError<()>) -> io::Error {
    if let GlommioError::EnhancedIoError { source, .. } = error { source } else { error.into() }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        // What was to be an object takes itself back.
        if !self.finished && self.store.is_local() {
            // Best effort: an orphan is removed with the next old checkpoint.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
