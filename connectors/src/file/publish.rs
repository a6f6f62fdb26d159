//! The rename that is the commit, and the clean start after a crash.
//!
//! ```text
//! pending  final
//!   yes     no     not yet committed: rename
//!   no      yes    committed before: nothing to do
//!   no      no     lost: somebody removed it
//!   yes     yes    not ours: somebody put a file there
//! ```

use std::fs;
use std::io;
use std::path::Path;

use glommio::io::BufferedFile;
use millstream::road::sink::{Committable, Epoch, SinkError};

use super::pen::sync_names;
use super::{Place, doing, final_name, parse_final_name, parse_pending_name};

/// What the manifest keeps of an epoch: names relative to the output directory, so that it may be moved.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Prepared {
    pub(super) shard: u32,
    pub(super) epoch: Epoch,
    /// None for an epoch without rows. It is kept all the same: it says how far the committed output goes.
    pub(super) file: Option<PreparedFile>,
}

/// A file that waits for its commit.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct PreparedFile {
    pub(super) pending: String,
    #[serde(rename = "final")]
    pub(super) visible: String,
    pub(super) bytes: u64,
    pub(super) rows: u64,
    pub(super) crc32c: u32,
}

/// Whether the bytes of a pending file are still in doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Proof {
    /// This process wrote and synced them.
    Length,
    /// They were found after a restart.
    Checksum,
}

impl Prepared {
    pub(super) fn parse(committable: Committable) -> Result<Prepared, SinkError> {
        let prepared: Prepared = serde_json::from_value(committable).map_err(|error| {
            SinkError::Unusable(format!(
                "the checkpoint's entry for this sink is not one of a file sink ({error}): start from a checkpoint that \
                 this job wrote, or from none"
            ))
        })?;
        let Some(file) = &prepared.file else { return Ok(prepared) };
        // Names come from a file that somebody may have edited: none may lead out of the directory.
        if file.visible != final_name(prepared.shard, prepared.epoch)
            || parse_pending_name(&file.pending) != Some(prepared.shard)
            || file.pending.contains('/')
        {
            return Err(SinkError::Unusable(format!(
                "the checkpoint's entry for this sink names {} and {}, which are no files of shard {} in epoch {}: start \
                 from another checkpoint",
                file.pending, file.visible, prepared.shard, prepared.epoch.0
            )));
        }
        Ok(prepared)
    }
}

/// Makes a prepared epoch visible, or finds that it is.
pub(super) async fn commit(place: &Place, prepared: &Prepared, proof: Proof) -> Result<(), SinkError> {
    let Some(file) = &prepared.file else { return Ok(()) };
    let (pending, visible) = (place.pending.join(&file.pending), place.dir.join(&file.visible));
    match (byte_len(&pending)?, byte_len(&visible)?) {
        (Some(bytes), None) => {
            has_length(&pending, bytes, file.bytes)?;
            if proof == Proof::Checksum {
                has_checksum(&pending, file.crc32c).await?;
            }
            glommio::io::rename(&pending, &visible).await.map_err(doing("cannot commit", &pending))?;
        }
        (None, Some(bytes)) => has_length(&visible, bytes, file.bytes)?,
        (None, None) => {
            return Err(SinkError::Unusable(format!(
                "the output of shard {} in epoch {} is lost ({} rows, {} bytes): neither {} nor {} exists; put one of them \
                 back, or start without a checkpoint into an empty directory",
                prepared.shard,
                prepared.epoch.0,
                file.rows,
                file.bytes,
                pending.display(),
                visible.display()
            )));
        }
        (Some(_), Some(_)) => {
            return Err(SinkError::Unusable(format!(
                "{} cannot be committed: {} exists already, and this job has not written it; move it away",
                pending.display(),
                visible.display()
            )));
        }
    }
    // Also when the rename was found done: the crash may have come between it and this.
    sync_names(&place.dir).await?;
    sync_names(&place.pending).await
}

/// Brings the directory to the state of the restored checkpoint, as far as it is this shard's. `restored` is the epoch
/// that it ended, where that was said.
pub(super) async fn recover(
    place: &Place,
    restored: Option<Epoch>,
    committables: Vec<Committable>,
) -> Result<(), SinkError> {
    let prepared = committables.into_iter().map(Prepared::parse).collect::<Result<Vec<_>, _>>()?;
    let newest = prepared.iter().map(|prepared| prepared.epoch).chain(restored).max();
    refuse_foreign_output(place, newest)?;
    for prepared in &prepared {
        commit(place, prepared, Proof::Checksum).await?;
    }
    let ours = |name: &&String| parse_pending_name(name).is_some_and(|shard| place.answers_for(shard));
    for name in names(&place.pending)?.iter().filter(ours) {
        let path = place.pending.join(name);
        glommio::io::remove(&path).await.map_err(doing("cannot delete the uncommitted", &path))?;
    }
    sync_names(&place.pending).await
}

/// Nothing may stand in this shard's way that the restored checkpoint does not know of. That holds for the files of shards
/// that this job does not have as well: one of those it has answers for them.
fn refuse_foreign_output(place: &Place, newest: Option<Epoch>) -> Result<(), SinkError> {
    for name in names(&place.dir)? {
        let Some((shard, epoch)) = parse_final_name(&name) else { continue };
        if !place.answers_for(shard) {
            continue;
        }
        let path = place.dir.join(&name);
        match newest {
            None => {
                return Err(SinkError::Unusable(format!(
                    "{} is output of another run, and this one starts from the beginning: name an empty directory, empty \
                     this one, or start from the checkpoint that the output belongs to",
                    path.display()
                )));
            }
            Some(newest) if epoch > newest => {
                return Err(SinkError::Unusable(format!(
                    "{} is output of epoch {}, and the restored checkpoint is of epoch {}: going on would write its rows a \
                     second time; start from the newest checkpoint, or name an empty directory",
                    path.display(),
                    epoch.0,
                    newest.0
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The names in a directory, in order. They are looked up without io_uring: some microseconds, at a restart only.
fn names(dir: &Path) -> Result<Vec<String>, SinkError> {
    let entries = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>())
        .map_err(doing("cannot list the output directory", dir))?;
    let mut names: Vec<String> = entries.into_iter().filter_map(|name| name.into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

fn byte_len(path: &Path) -> Result<Option<u64>, SinkError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(doing("cannot look at", path)(error)),
    }
}

fn has_length(path: &Path, found: u64, written: u64) -> Result<(), SinkError> {
    if found == written {
        return Ok(());
    }
    Err(SinkError::Unusable(format!(
        "{} has {found} bytes where the checkpoint says {written}: it was changed or the disk lost a part; start from the \
         checkpoint before, or put the file back",
        path.display()
    )))
}

async fn has_checksum(path: &Path, written: u32) -> Result<(), SinkError> {
    const READ_BYTES: usize = 512 << 10;
    let file = BufferedFile::open(path).await.map_err(doing("cannot open", path))?;
    let (mut crc, mut at) = (0, 0);
    loop {
        let piece = file.read_at(at, READ_BYTES).await.map_err(doing("cannot read", path))?;
        if piece.is_empty() {
            break;
        }
        crc = crc32c::crc32c_append(crc, &piece);
        at += piece.len() as u64;
    }
    file.close().await.map_err(doing("cannot close", path))?;
    if crc == written {
        return Ok(());
    }
    Err(SinkError::Unusable(format!(
        "the bytes of {} have crc32c {crc:#010x} where the checkpoint says {written:#010x}: the disk damaged it; start from \
         the checkpoint before, or put the file back",
        path.display()
    )))
}
