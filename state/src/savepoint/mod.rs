//! Savepoints: a job's state by itself, apart from pages, shards and the checkpoints around it.
//!
//! ```text
//! a completed checkpoint ─▶ part by part, entry by entry ─▶ blocks in PATH.tmp-… ─▶ savepoint.json ─▶ rename: PATH
//! PATH ─▶ every shard reads the files that have keys of its own ─▶ entries put in one by one
//! ```
//!
//! The format and what it promises to later builds are drawn in `docs/formats/savepoint.md`.

mod format;
mod read;
mod write;

use std::io;
use std::path::PathBuf;

pub use format::{SAVEPOINT_VERSION, SavedFile, SavedOperator, SavedPart, SavedState, SavepointManifest};
pub use read::{SavedEntry, Savepoint};
pub use write::SavepointReport;

use crate::{RestoreError, StoreError};

/// The file that says what a savepoint consists of. In an object store, it is the savepoint.
pub const SAVEPOINT_FILE: &str = "savepoint.json";

/// Why a savepoint could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum SavepointError {
    /// There is something of that name.
    #[error("{path}: there is something of that name already, and a savepoint never takes the place of anything. Name another path", path = path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// There is none.
    #[error("{path}: there is no savepoint; a directory of one has the file savepoint.json", path = path.display())]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The place cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of it cannot.
    #[error("{path}: cannot {what}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What failed.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{path}: the savepoint is damaged: {what}. Use another copy of it, or another savepoint", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How.
        what: String,
    },
    /// Another build's.
    #[error(
        "{path}: savepoint format {found}, and this build reads 1 to {SAVEPOINT_VERSION}: restore it with the build that \
         wrote it, or a later one", path = path.display()
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The checkpoint it is made from cannot be read.
    #[error("the checkpoint that the savepoint is made from: {0}")]
    Checkpoint(#[source] Box<RestoreError>),
}

impl From<SavepointError> for RestoreError {
    fn from(error: SavepointError) -> RestoreError {
        RestoreError::Savepoint(Box::new(error))
    }
}

impl From<RestoreError> for SavepointError {
    fn from(error: RestoreError) -> SavepointError {
        SavepointError::Checkpoint(Box::new(error))
    }
}
