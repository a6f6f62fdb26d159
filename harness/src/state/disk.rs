//! How much of a disk the checkpoints take, looked at again and again: whether it stays where it is.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of a directory over time.
#[derive(Clone, Debug)]
pub struct DiskUse {
    dir: PathBuf,
    /// The most that was seen.
    pub bytes_max: u64,
    /// What was seen last.
    pub bytes_last: u64,
}

impl DiskUse {
    /// Of this directory, not yet looked at.
    #[must_use]
    pub fn of(dir: &Path) -> DiskUse {
        DiskUse { dir: dir.to_owned(), bytes_max: 0, bytes_last: 0 }
    }

    /// Looks.
    pub fn look(&mut self) {
        // A file may go between its name and its size: then it takes nothing.
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        self.bytes_last = files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
        self.bytes_max = self.bytes_max.max(self.bytes_last);
    }
}
