//! [`Reader`]: a file's bytes on their way back.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use super::{DiskOperation, Place, Store, local};

/// Reads a file from its beginning to its end, by a thread that may wait: of a directory past the page cache, where the
/// file system can (give it memory aligned to 4 KiB, and whole blocks); of an object store some requests ahead.
pub struct Reader {
    store: Store,
    path: PathBuf,
    len: u64,
    bytes: Bytes,
}

enum Bytes {
    Local(File),
    #[cfg(feature = "objects")]
    Objects(super::objects::Ahead),
}

impl Reader {
    pub(super) fn open(store: &Store, name: &str) -> io::Result<Reader> {
        let path = store.path(name);
        store.ask(DiskOperation::Read, &path)?;
        let (len, bytes) = match &store.place {
            Place::Local => {
                let file = local::open_direct(&path)?;
                (file.metadata()?.len(), Bytes::Local(file))
            }
            #[cfg(feature = "objects")]
            Place::Objects(bucket) => {
                let len = bucket.len(name)?;
                (len, Bytes::Objects(super::objects::Ahead::new(bucket, name, len)))
            }
        };
        Ok(Reader { store: store.clone(), path, len, bytes })
    }

    /// The file's length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes from anywhere in the file, exactly so many; where the reader is does not change.
    ///
    /// # Errors
    /// When the file ends before them, or cannot be read.
    pub fn get_range(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match &self.bytes {
            Bytes::Local(_) => local::get_range(&self.store.gate, &self.path, offset, len),
            #[cfg(feature = "objects")]
            Bytes::Objects(ahead) => {
                self.store.ask(DiskOperation::Read, &self.path)?;
                ahead.get_range(offset, len)
            }
        }
    }
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.store.ask(DiskOperation::Read, &self.path)?;
        match &mut self.bytes {
            Bytes::Local(file) => file.read(into),
            #[cfg(feature = "objects")]
            Bytes::Objects(ahead) => ahead.read(into),
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({}, {} bytes)", self.path.display(), self.len)
    }
}
