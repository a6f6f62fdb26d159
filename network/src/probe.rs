//! The probe: does this machine let us do what a shard needs? Asked once at start, and answered in words that say what to do.

#![expect(unsafe_code, reason = "getrlimit and sched_getaffinity have no safe call in std")]

use std::io;

use io_uring::IoUring;

/// Locked memory below which a shard's executor does not start.
pub const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Where the kernel says whether io_uring is switched off.
const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";

/// Why io_uring cannot be used here, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum UringError {
    /// The machine's operator has switched it off.
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled is {setting}). Millstream drives its disks, \
         timers and wake-ups with it. Ask for `sysctl -w kernel.io_uring_disabled=0` (and the same line in /etc/sysctl.d to \
         keep it){}.",
        if *setting == 1 { ", or have this user join the group in kernel.io_uring_group" } else { "" }
    )]
    SwitchedOff {
        /// 1: privileged users and one group only; 2: nobody.
        setting: u32,
    },
    /// A sandbox around the process forbids it.
    #[error(
        "io_uring is forbidden to this process although the kernel has it (kernel.io_uring_disabled is 0): a sandbox filters \
         its system calls. In a container, allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile: \
         `docker run --security-opt seccomp=profile.json …`, or `securityContext.seccompProfile` in Kubernetes. Under systemd, \
         look at SystemCallFilter=; with SELinux or AppArmor, at the audit log."
    )]
    Forbidden,
    /// The kernel is too old or was built without it.
    #[error(
        "this kernel has no io_uring (io_uring_setup is not implemented). Every Linux since 5.1 that was built with \
         CONFIG_IO_URING has it, and Millstream drives its disks, timers and wake-ups with it: run a newer kernel (`uname -r` \
         tells which one runs). Some sandboxes (gVisor, older seccomp profiles) also answer so: run outside of them, or \
         allow io_uring_setup, io_uring_enter and io_uring_register."
    )]
    Missing,
    /// The limit on locked memory is too small.
    #[error(
        "this process may lock {limit_bytes} bytes of memory, and a shard needs {MEMLOCK_BYTES_MIN}. Raise the limit: \
         `ulimit -l {}` in the shell that starts the job, `LimitMEMLOCK=` in a systemd unit, `--ulimit memlock=` for docker, \
         or a line `<user> - memlock unlimited` in /etc/security/limits.conf and a new login.",
        MEMLOCK_BYTES_MIN >> 10
    )]
    LockedMemory {
        /// The soft limit, RLIMIT_MEMLOCK.
        limit_bytes: u64,
    },
    /// No memory, or no file descriptor, for a ring.
    #[error(
        "the kernel has no {what} for an io_uring: {source}. Close what else runs, raise `{remedy}`, or give the job fewer \
         shards."
    )]
    Exhausted {
        /// What ran out.
        what: &'static str,
        /// Which limit to raise.
        remedy: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// An answer that is none of the above.
    #[error(
        "io_uring cannot be set up: {source}. This kernel is not known to answer so; please report it with `uname -a`."
    )]
    Unknown {
        /// The system's answer.
        source: io::Error,
    },
}

/// Tries a small io_uring, and says why not and what to do if there can be none.
///
/// # Errors
/// One paragraph per cause: switched off, forbidden by a sandbox, missing, too little locked memory, exhausted.
pub fn uring_available() -> Result<(), UringError> {
    match IoUring::new(8) {
        Err(error) => Err(diagnose(error, switch_setting())),
        Ok(_) => match memlock_bytes() {
            limit_bytes if limit_bytes < MEMLOCK_BYTES_MIN => Err(UringError::LockedMemory { limit_bytes }),
            _ => Ok(()),
        },
    }
}

/// What a failed `io_uring_setup` means, given the kernel's switch.
fn diagnose(error: io::Error, switch: Option<u32>) -> UringError {
    match (error.raw_os_error(), switch) {
        (Some(libc::EPERM), Some(setting @ 1..)) => UringError::SwitchedOff { setting },
        (Some(libc::EPERM | libc::EACCES), _) => UringError::Forbidden,
        (Some(libc::ENOSYS), _) => UringError::Missing,
        (Some(libc::ENOMEM), _) => match memlock_bytes() {
            limit_bytes if limit_bytes < MEMLOCK_BYTES_MIN => UringError::LockedMemory { limit_bytes },
            _ => UringError::Exhausted { what: "memory", remedy: "ulimit -l", source: error },
        },
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            UringError::Exhausted { what: "file descriptor", remedy: "ulimit -n", source: error }
        }
        _ => UringError::Unknown { source: error },
    }
}

/// The kernel's switch; none before Linux 6.6, which had no switch, or where /proc is hidden.
fn switch_setting() -> Option<u32> {
    std::fs::read_to_string(SWITCH).ok()?.trim().parse().ok()
}

/// The soft limit on locked memory.
fn memlock_bytes() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the call to fill.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    assert_eq!(answer, 0, "getrlimit fails only for a limit that does not exist, or a pointer that is none");
    limit.rlim_cur
}

/// The cores that this process may run on, in rising order: a container or `taskset` may allow fewer than there are.
#[must_use]
pub fn cpuset() -> Vec<usize> {
    const CORES_MAX: usize = 1 << 16; // eight times what Linux can be built for
    let mut mask = vec![0_u64; 1024 / 64];
    loop {
        // SAFETY: the kernel writes at most as many bytes as it is told the mask has, and it is word-aligned.
        let answer = unsafe { libc::sched_getaffinity(0, size_of_val(&mask[..]), mask.as_mut_ptr().cast()) };
        if answer == 0 {
            return (0..mask.len() * 64).filter(|core| mask[core / 64] >> (core % 64) & 1 != 0).collect();
        }
        if mask.len() * 64 >= CORES_MAX {
            // The call itself is forbidden. Nothing is known then, so nothing is ruled out.
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            return (0..cores).collect();
        }
        // The kernel knows more cores than the mask has bits.
        mask.resize(mask.len() * 2, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_names_its_cause_and_a_remedy() {
        let told = |errno, switch| diagnose(io::Error::from_raw_os_error(errno), switch).to_string();
        for (errno, switch, cause, remedy) in [
            (libc::EPERM, Some(2), "io_uring_disabled is 2", "sysctl -w kernel.io_uring_disabled=0"),
            (libc::EPERM, Some(1), "io_uring_disabled is 1", "kernel.io_uring_group"),
            (libc::EPERM, Some(0), "a sandbox", "seccomp"),
            (libc::EPERM, None, "a sandbox", "seccomp"),
            (libc::EACCES, Some(0), "a sandbox", "seccomp"),
            (libc::ENOSYS, None, "no io_uring", "newer kernel"),
            (libc::EMFILE, Some(0), "file descriptor", "ulimit -n"),
            (libc::EINVAL, Some(0), "Invalid argument", "uname -a"),
        ] {
            let told = told(errno, switch);
            assert!(told.contains(cause) && told.contains(remedy), "{told}");
            assert!(!told.contains('\n') && !told.contains("  "), "one paragraph: {told}");
        }
        let little = UringError::LockedMemory { limit_bytes: 65_536 }.to_string();
        assert!(little.contains("65536") && little.contains("ulimit -l 512") && little.contains("LimitMEMLOCK="));
    }

    #[test]
    fn the_cpuset_is_rising_and_holds_the_core_this_runs_on() {
        let cores = cpuset();
        assert!(cores.is_sorted());
        // SAFETY: no memory is passed.
        let here = unsafe { libc::sched_getcpu() };
        assert!(cores.contains(&usize::try_from(here).expect("a core has a number")), "{here} in {cores:?}");
    }
}
