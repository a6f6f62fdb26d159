//! What a store answers when it cannot do as it was asked.

use std::io;
use std::path::{Path, PathBuf};

use crate::Epoch;
use crate::manifest::ManifestError;

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
    /// The object store cannot be used at all.
    #[error(
        "the checkpoint store {place} cannot be {what}: {source}. \
         Check the bucket's name, the endpoint, and the credentials in the environment (docs/checkpoints.md names them)",
        place = place.display()
    )]
    Bucket {
        /// Its address.
        place: PathBuf,
        /// What it cannot be.
        what: &'static str,
        /// What it answered, or what kept it from answering.
        source: io::Error,
    },
    /// An address that this build cannot follow.
    #[error("the checkpoint store {place} cannot be used: {why}", place = place.display())]
    Address {
        /// As it was given.
        place: PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
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
    /// The epoch is somebody else's: this coordinator has been replaced, and nothing it does may count any more.
    #[error(
        "another coordinator has committed epoch {epoch} in {place}, so this one has been replaced and stops here. \
         Give every job that runs a place of its own for its checkpoints, and look for a second process of this one",
        epoch = epoch.0, place = place.display()
    )]
    Fenced {
        /// The epoch that the other one has.
        epoch: Epoch,
        /// The directory, or the object store's address.
        place: PathBuf,
    },
}

impl StoreError {
    /// Whether another coordinator has taken over: then the job ends, and no restart helps.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self, StoreError::Fenced { .. })
    }

    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| StoreError::File { path, what, source }
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ". Free space on that file system; the checkpoints before this one are intact"
        }
        io::ErrorKind::PermissionDenied => ". Let the user that runs the job write there",
        io::ErrorKind::Unsupported => ". Name a directory on a file system that has hard links",
        _ => "",
    }
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
