//! [`Writing`]: a new file, written by a thread that may wait.

use std::io::{self, Write};
use std::path::PathBuf;

#[cfg(feature = "objects")]
use super::DiskOperation;
use super::{Place, Store, StoreError, local};

/// A file being written by a thread that may wait. Dropped before it is finished, or after an error, it leaves nothing.
pub struct Writing {
    store: Store,
    path: PathBuf,
    bytes: u64,
    // None after an error.
    to: Option<To>,
}

enum To {
    Local(local::Writing),
    #[cfg(feature = "objects")]
    Objects {
        upload: super::objects::Upload,
        filling: Vec<u8>,
    },
}

impl Writing {
    pub(super) fn create(store: &Store, name: &str) -> Result<Writing, StoreError> {
        let path = store.path(name);
        let to = match &store.place {
            Place::Local => local::Writing::create(&store.gate, path.clone()).map(To::Local),
            #[cfg(feature = "objects")]
            Place::Objects(bucket) => store
                .ask(DiskOperation::Create, &path)
                .and_then(|()| super::objects::Upload::on_thread(bucket, name))
                .map(|upload| To::Objects { upload, filling: Vec::new() }),
        };
        let to = Some(to.map_err(StoreError::file("create the file", &path))?);
        Ok(Writing { store: store.clone(), path, bytes: 0, to })
    }

    /// Makes the file durable; returns its length.
    ///
    /// # Errors
    /// When it cannot be, or a write before has failed; then there is no such file.
    pub fn finish(mut self) -> Result<u64, StoreError> {
        let finished = match self.to.take() {
            Some(To::Local(file)) => {
                let directory = self.path.parent().unwrap_or(self.store.directory());
                file.finish(directory)
            }
            #[cfg(feature = "objects")]
            Some(To::Objects { mut upload, filling }) => self
                .store
                .ask(DiskOperation::Sync, &self.path)
                .and_then(|()| if filling.is_empty() { Ok(()) } else { upload.write_blocking(filling) })
                .and_then(|()| upload.finish_blocking()),
            None => Err(abandoned()),
        };
        finished.map_err(StoreError::file("finish the file", &self.path))?;
        Ok(self.bytes)
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.to.as_mut().ok_or_else(abandoned)? {
            To::Local(file) => file.write(bytes),
            #[cfg(feature = "objects")]
            To::Objects { upload, filling } => {
                self.store.ask(DiskOperation::Write, &self.path)?;
                let room = crate::CHUNK_BYTES - filling.len();
                let taken = bytes.len().min(room);
                filling.extend_from_slice(&bytes[..taken]);
                if taken == room {
                    upload.write_blocking(std::mem::take(filling))?;
                }
                Ok(taken)
            }
        }
    }
}

fn abandoned() -> io::Error {
    io::Error::other("the file was abandoned after an earlier error")
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.write_some(bytes);
        match &written {
            Ok(written) => self.bytes += *written as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.to = None,
        }
        written
    }

    /// Does nothing: what is written is durable once the file is finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writing({}, {} bytes so far)", self.path.display(), self.bytes)
    }
}
