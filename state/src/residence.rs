//! Whether state is in memory: how much there is, and how often a page had to be fetched from a disk.
//!
//! The engine's promise is for state that fits in RAM. Nothing here enforces it; it is measured, so that an operator
//! hears of it before the machine slows down.
#![expect(unsafe_code, reason = "two questions to the system that no crate of ours asks")]

use std::fs;
use std::path::{Path, PathBuf};

/// The memory that this process can have, in bytes: the machine's, or less where a control group (a container) says so.
#[must_use]
pub fn memory_bytes_max() -> u64 {
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = group_path(&group).and_then(|path| group_bytes_max(Path::new("/sys/fs/cgroup"), &path));
    limit.unwrap_or(u64::MAX).min(physical_memory_bytes())
}

/// The path of the process's group in the unified hierarchy: the line that begins with `0::`.
fn group_path(group: &str) -> Option<PathBuf> {
    let path = group.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(PathBuf::from(path.trim_start_matches('/')))
}

/// The tightest limit of a group and those around it.
fn group_bytes_max(root: &Path, path: &Path) -> Option<u64> {
    let limit_of = |group: &Path| {
        let limit = fs::read_to_string(root.join(group).join("memory.max")).ok()?;
        limit.trim().parse::<u64>().ok()
    };
    path.ancestors().filter_map(limit_of).min()
}

/// The machine's memory, in bytes.
fn physical_memory_bytes() -> u64 {
    // SAFETY: sysconf only answers questions.
    let (pages, page_bytes) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    match (u64::try_from(pages), u64::try_from(page_bytes)) {
        (Ok(pages), Ok(page_bytes)) => pages.saturating_mul(page_bytes),
        _ => 1 << 30,
    }
}

/// How often the calling thread has waited for a page to come from a disk, since it began.
#[must_use]
pub fn major_faults_of_thread() -> u64 {
    // SAFETY: all bytes zero are a valid `rusage`, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage
    };
    u64::try_from(usage.ru_majflt).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let inner = root.path().join("jobs/mill");
        fs::create_dir_all(&inner).expect("made");
        fs::write(root.path().join("jobs/memory.max"), "1000000\n").expect("written");
        fs::write(inner.join("memory.max"), "max\n").expect("written");
        let path = group_path("1:cpu:/x\n0::/jobs/mill\n").expect("the unified hierarchy's line");
        assert_eq!(group_bytes_max(root.path(), &path), Some(1_000_000));
        fs::write(inner.join("memory.max"), "5000\n").expect("written");
        assert_eq!(group_bytes_max(root.path(), &path), Some(5000));
        assert_eq!(group_bytes_max(root.path(), Path::new("elsewhere")), None);
        assert!(memory_bytes_max() > 1 << 20);
    }
}
