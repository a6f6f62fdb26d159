//! The hook through which a test makes a disk, or an object store, fail where it likes.

use std::io;
use std::path::Path;
use std::sync::Arc;

/// What a [`Store`](super::Store) asks of the place where it keeps its files, for those who want to see it fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DiskOperation {
    /// A file is created.
    Create,
    /// Bytes are written to a file.
    Write,
    /// A file's bytes are made durable. In an object store: the object is completed.
    Sync,
    /// A file gets its final name. In an object store: the manifest is put, if there is none of that name.
    Rename,
    /// The directory's entries are made durable. Never asked of an object store, which has no directories.
    SyncDirectory,
    /// Bytes of a file are read, or the names of a directory.
    Read,
}

/// Asked before every operation; an error is what the operation is then taken to have answered.
pub type DiskFault = Arc<dyn Fn(DiskOperation, &Path) -> io::Result<()> + Send + Sync>;

/// Where the hook hangs, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Gate(pub(crate) Option<DiskFault>);

impl Gate {
    pub(crate) fn ask(&self, operation: DiskOperation, path: &Path) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |fault| fault(operation, path))
    }
}
