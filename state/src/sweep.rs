//! Which segments there are: their names, who has them, and which of them nobody will go on with.
#![expect(unsafe_code, reason = "the kernel is asked to lock a file")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::hash;

/// The end of a segment file's name.
const SUFFIX: &str = ".segment";

pub(crate) fn open_locked(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if !try_lock(&file)? {
        let what = format!(
            "{} is in use: a process that runs this operator on this shard is still alive. End it, or give the job another \
             directory",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::WouldBlock, what));
    }
    Ok(file)
}

/// False if somebody else has it.
fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: asks for a lock on a descriptor that is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}

/// Readable, and another for every operator: what a file name cannot have is replaced, and the hash tells them apart.
pub(crate) fn file_name(operator: &str, shard: u32) -> String {
    format!("{}-shard-{shard:04}{SUFFIX}", readable_name(operator))
}

fn readable_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let readable: String = name.chars().take(80).map(plain).collect();
    format!("{readable}-{:016x}", hash::bytes(name.as_bytes()))
}

/// The directory of a job's segments below one that jobs share.
#[must_use]
pub fn segments_of_job(directory: &Path, job: &str) -> PathBuf {
    directory.join(readable_name(job))
}

/// Removes the segments in a directory that no process uses and that are not of these operators' shards, and the directory
/// if nothing is left in it. How many segments went.
///
/// # Errors
/// When the directory cannot be listed. One that is not there has no segments.
pub fn sweep_segments<'a>(
    directory: &Path,
    operators: impl Iterator<Item = &'a str>,
    shards: u32,
) -> io::Result<usize> {
    let operators: Vec<&str> = operators.collect();
    let is_kept =
        |name: &str| operators.iter().any(|operator| (0..shards).any(|shard| file_name(operator, shard) == name));
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.ends_with(SUFFIX)) else { continue };
        if is_kept(name) {
            continue;
        }
        // Somebody else may be removing it too.
        let Ok(file) = OpenOptions::new().read(true).write(true).open(entry.path()) else { continue };
        if try_lock(&file)? && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    // Only an empty one can be removed.
    let _ = fs::remove_dir(directory);
    Ok(removed)
}

/// Lets others have it.
pub(crate) fn unlock(file: &File) {
    // SAFETY: gives back the lock of a descriptor that is open.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable_and_differ() {
        let name = file_name("count/clicks", 3);
        assert!(name.starts_with("count_clicks-") && name.ends_with("-shard-0003.segment"), "{name}");
        assert_ne!(name, file_name("count_clicks", 3));
    }
}
