//! Whether state is in memory: how much there is, and how often a page had to be fetched from a disk.
//!
//! The engine's promise is for state that fits in RAM. Nothing here enforces it; it is measured, so that an operator
//! hears of it before the machine slows down.
#![expect(unsafe_code, reason = "two questions to the system that no crate of ours asks")]

use std::fs;
use std::path::Path;

/// The memory that this process can have, in bytes: the machine's, or less where a control group (a container) says so.
#[must_use]
pub fn memory_bytes_max() -> u64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups_bytes_max(Path::new("/sys/fs/cgroup"), &groups).unwrap_or(u64::MAX).min(physical_memory_bytes())
}

/// The tightest limit of the process's groups and those around them. `groups` has a line per hierarchy, `0::/path` for the
/// unified one and `N:memory:/path` for that of the memory controller where there are several.
fn groups_bytes_max(root: &Path, groups: &str) -> Option<u64> {
    let of_line = |line: &str| {
        let (controller, path) = line.split_once(':')?.1.split_once(':')?;
        let (mounts, file): (&[&str], _) = match controller {
            "" => (&["", "unified"], "memory.max"),
            "memory" => (&["memory"], "memory.limit_in_bytes"),
            _ => return None,
        };
        let path = Path::new(path.trim_start_matches('/'));
        let files =
            mounts.iter().flat_map(|mount| path.ancestors().map(move |group| root.join(mount).join(group).join(file)));
        // "max", or no such file: no limit here.
        files.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()).min()
    };
    groups.lines().filter_map(of_line).min()
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
        let write = |file: &str, text: &str| {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().expect("it has one")).expect("made");
            fs::write(file, text).expect("written");
        };
        let bytes_max = |groups: &str| groups_bytes_max(root.path(), groups);
        write("jobs/memory.max", "1000000\n");
        write("jobs/mill/memory.max", "max\n");
        assert_eq!(bytes_max("1:cpu:/x\n0::/jobs/mill\n"), Some(1_000_000));
        write("jobs/mill/memory.max", "5000\n");
        assert_eq!(bytes_max("0::/jobs/mill\n"), Some(5000));
        write("memory/old/memory.limit_in_bytes", "4000\n");
        assert_eq!(bytes_max("4:memory:/old\n0::/jobs/mill\n"), Some(4000));
        assert_eq!(bytes_max("0::/elsewhere\n"), None);
        assert!(memory_bytes_max() > 1 << 20);
    }
}
