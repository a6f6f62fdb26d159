//! [`SnapshotFile`]: one snapshot's way to the disk, by direct I/O on the shard's own ring.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions};

use crate::snapshot::{Chunk, FileRef};
use crate::store::{DiskOperation, Store, StoreError};

/// A snapshot file being written; to be used inside a glommio executor.
///
/// Any error abandons the file: what was written of it is removed, and the snapshot is to be aborted. A sync that failed
/// is never tried again, since the kernel may by then have forgotten what it could not write. Dropped without
/// [`finish`](SnapshotFile::finish), it is removed as well.
pub struct SnapshotFile {
    // None once closed.
    file: Option<Rc<DmaFile>>,
    store: Store,
    name: String,
    path: PathBuf,
    bytes: u64,
    crc32c: u32,
    finished: bool,
}

impl SnapshotFile {
    /// Creates a file named after `stem`, with a number behind it where a file of that name is left from an earlier try.
    pub async fn create(store: &Store, stem: &str) -> Result<SnapshotFile, StoreError> {
        let name = store.unused_name(stem);
        let path = store.path(&name);
        let failed = |source| StoreError::File { path: path.clone(), what: "create the snapshot", source };
        store.ask(DiskOperation::Create, &path).map_err(failed)?;
        // For reading too, although nobody reads: opened only for writing, the first file on a device makes glommio
        // believe that the device cannot be polled. On tmpfs it falls back to buffered writes by itself.
        let opened = OpenOptions::new().read(true).write(true).create_new(true).dma_open(&path).await;
        let file = Some(Rc::new(opened.map_err(|error| failed(plain(error)))?));
        let store = store.clone();
        Ok(SnapshotFile { file, store, name, path, bytes: 0, crc32c: 0, finished: false })
    }

    /// Writes the next chunk and gives it back, to be filled again.
    pub async fn write(&mut self, chunk: Chunk) -> Result<Chunk, StoreError> {
        let written = self.write_all(chunk).await;
        written.map_err(|source| self.abandon("write the snapshot", source))
    }

    async fn write_all(&mut self, chunk: Chunk) -> io::Result<Chunk> {
        self.store.ask(DiskOperation::Write, &self.path)?;
        let file = self.open_file()?;
        let (crc32c, len) = (chunk.crc32c(), chunk.bytes().len());
        let buffer = Rc::new(chunk.buffer);
        let written = file.write_rc_at(Rc::clone(&buffer), self.bytes).await.map_err(plain)?;
        if written != len {
            // A disk that fills up takes a part first.
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("only {written} of {len} bytes were written"),
            ));
        }
        self.bytes += len as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &crc32c.to_le_bytes());
        // The ring dropped its share with the answer; if a future version keeps it longer, a new chunk will do.
        Ok(Rc::try_unwrap(buffer).map_or_else(|_| Chunk::new(), |buffer| Chunk { buffer }))
    }

    fn open_file(&self) -> io::Result<Rc<DmaFile>> {
        self.file.clone().ok_or_else(|| io::Error::other("the file was abandoned after an earlier error"))
    }

    /// Makes the file durable and closes it.
    pub async fn finish(mut self) -> Result<FileRef, StoreError> {
        let synced = self.sync().await;
        synced.map_err(|source| self.abandon("sync the snapshot", source))?;
        self.finished = true;
        Ok(FileRef { name: std::mem::take(&mut self.name), bytes: self.bytes, crc32c: self.crc32c })
    }

    async fn sync(&mut self) -> io::Result<()> {
        self.store.ask(DiskOperation::Sync, &self.path)?;
        self.open_file()?.fdatasync().await.map_err(plain)?;
        if let Some(file) = self.file.take() {
            file.close_rc().await.map_err(plain)?;
        }
        // The file's name must outlive a crash no less than the manifest that speaks of it. Publishing that syncs the
        // directory, and so this name, before anybody is told that the checkpoint exists.
        Ok(())
    }

    fn abandon(&mut self, what: &'static str, source: io::Error) -> StoreError {
        self.file = None;
        StoreError::File { path: self.path.clone(), what, source }
    }
}

/// The system's own answer: the path and the operation that glommio adds are named by [`StoreError`] already.
fn plain(error: GlommioError<()>) -> io::Error {
    if let GlommioError::EnhancedIoError { source, .. } = error { source } else { error.into() }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: an orphan is removed with the next old checkpoint.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
