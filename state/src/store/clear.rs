//! What a store deletes: checkpoints that are no longer wanted, and files that belong to none.

use std::collections::HashSet;

use super::local::{NEXT_SUFFIX, PROBE_PREFIX};
use super::{SNAPSHOT_SUFFIX, Store, StoreError, manifests};
use crate::Epoch;
use crate::manifest::{Manifest, ManifestError};

impl Store {
    /// Deletes all checkpoints but the `newest` newest, and every snapshot file that none of those names, but for files
    /// of epochs after the newest of them: another coordinator may be writing those. To be called when no snapshot is
    /// being written. Returns how many files went.
    ///
    /// A manifest that is damaged keeps nothing alive, and is not counted: it goes if it is older than the newest ones
    /// that can be read. One that cannot be read for other reasons, or that another version wrote, may name any file: as
    /// long as it is not older than those, nothing is deleted.
    ///
    /// # Errors
    /// When the place cannot be listed, a manifest cannot be read, or a file cannot be deleted.
    pub fn retain(&self, newest: usize) -> Result<usize, StoreError> {
        self.retain_but(newest, &HashSet::new())
    }

    /// The same, sparing files that are being written or were not yet named by a manifest.
    ///
    /// # Errors
    /// As [`retain`](Store::retain).
    pub fn retain_but(&self, newest: usize, spared: &HashSet<String>) -> Result<usize, StoreError> {
        self.clear(newest.max(1), spared, false)
    }

    /// Deletes what attempts that ended in the middle have left: snapshot files that no manifest names, of any epoch, and
    /// half-written files under other names. No manifest is touched. To be called before a job begins, when nobody else
    /// writes here. Returns how many files went.
    ///
    /// # Errors
    /// As [`retain`](Store::retain).
    pub fn sweep(&self) -> Result<usize, StoreError> {
        self.clear(usize::MAX, &HashSet::new(), true)
    }

    fn clear(&self, retained: usize, spared: &HashSet<String>, sweep: bool) -> Result<usize, StoreError> {
        let listed = self.list("")?;
        let mut named = spared.clone();
        let (mut old, mut kept, mut highest) = (Vec::new(), 0, Epoch(0));
        for (epoch, name) in manifests(&listed) {
            highest = highest.max(epoch);
            if kept == retained {
                old.push(name);
                continue;
            }
            let bytes = self.read(&name).map_err(StoreError::file(
                "read the manifest, and so cannot tell which files it needs; nothing was deleted",
                &self.path(&name),
            ))?;
            match Manifest::from_bytes(&bytes) {
                Ok(manifest) => {
                    named.extend(manifest.files().map(|file| file.name.clone()));
                    kept += 1;
                }
                Err(ManifestError::Torn | ManifestError::Checksum { .. }) => {}
                Err(error @ (ManifestError::Version { .. } | ManifestError::Fields(_))) => {
                    return Err(StoreError::File {
                        path: self.path(&name),
                        what: "tell which files the manifest needs; nothing was deleted",
                        source: std::io::Error::other(error.to_string()),
                    });
                }
            }
        }
        // Before their files: a manifest without files would look like damage.
        self.delete(&old)?;
        let orphans = listed.into_iter().map(|file| file.name).filter(|name| {
            if name.ends_with(SNAPSHOT_SUFFIX) {
                !named.contains(name) && (sweep || epoch_of(name).is_none_or(|epoch| epoch <= highest))
            } else {
                sweep && (name.ends_with(NEXT_SUFFIX) || name.starts_with(PROBE_PREFIX))
            }
        });
        let orphans: Vec<String> = orphans.collect();
        self.delete(&orphans)?;
        Ok(old.len() + orphans.len())
    }
}

/// The epoch that a snapshot file's name begins with.
fn epoch_of(name: &str) -> Option<Epoch> {
    let number = name.strip_prefix("epoch-")?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok().map(Epoch)
}
