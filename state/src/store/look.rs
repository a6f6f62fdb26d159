//! Looks into a store: all its checkpoints, and every byte of their files.

use std::io::Read;
use std::path::PathBuf;

use rkyv::util::AlignedVec;

use super::{RejectedWhy, Store, StoreError, manifests};
use crate::manifest::Manifest;
use crate::snapshot::{BLOCK_BYTES, CHUNK_BYTES, FileRef, verify};
use crate::{Epoch, RestoreError};

/// A checkpoint of a store, as far as its manifest tells.
#[derive(Debug)]
pub struct Listing {
    /// The epoch in the manifest's name.
    pub epoch: Epoch,
    /// Where the manifest is.
    pub path: PathBuf,
    /// The manifest, or what is wrong with it.
    pub manifest: Result<Manifest, RejectedWhy>,
}

impl Store {
    /// All checkpoints, the newest first. Of their files, nothing is read.
    ///
    /// # Errors
    /// When the place cannot be listed.
    pub fn checkpoints(&self) -> Result<Vec<Listing>, StoreError> {
        let listing = |(epoch, name): (Epoch, String)| {
            let read = self.read(&name).map_err(RejectedWhy::Unreadable);
            let manifest = read.and_then(|bytes| Ok(Manifest::from_bytes(&bytes)?)).and_then(|manifest| {
                if manifest.epoch == epoch { Ok(manifest) } else { Err(RejectedWhy::Misnamed(manifest.epoch)) }
            });
            Listing { epoch, path: self.path(&name), manifest }
        };
        Ok(manifests(&self.list("manifest-")?).into_iter().map(listing).collect())
    }

    /// Proves every byte of a snapshot file. `read` is told of each piece how many bytes it had.
    ///
    /// # Errors
    /// When the file cannot be read, or is not the one that was written.
    pub fn verify(&self, file: &FileRef, mut read: impl FnMut(u64)) -> Result<(), RestoreError> {
        let path = self.path(&file.name);
        let cannot = |source| RestoreError::Read { path: path.clone(), source };
        let damaged = |chunk, what: String| RestoreError::Damaged { path: path.clone(), chunk, what };
        let mut reader = self.reader(file).map_err(cannot)?;
        if reader.len() != file.bytes {
            return Err(damaged(0, format!("it has {} bytes instead of {}", reader.len(), file.bytes)));
        }
        let mut room = AlignedVec::<BLOCK_BYTES>::new();
        room.resize(CHUNK_BYTES, 0);
        let (mut left, mut crcs) = (file.bytes, 0);
        for index in 0.. {
            let len = left.min(CHUNK_BYTES as u64) as usize;
            if len == 0 {
                break;
            }
            reader.read_exact(&mut room[..len]).map_err(cannot)?;
            let chunk = verify(&room[..len], index).map_err(|damage| damaged(index, damage.to_string()))?;
            crcs = crc32c::crc32c_append(crcs, &chunk.crc32c.to_le_bytes());
            left -= len as u64;
            read(len as u64);
        }
        if crcs == file.crc32c {
            Ok(())
        } else {
            Err(damaged(0, "it is another file than the manifest names".to_owned()))
        }
    }
}
