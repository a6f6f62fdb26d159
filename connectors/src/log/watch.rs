//! How an idle reader sleeps: one inotify descriptor that becomes readable when its partition grows.
//!
//! It watches the directory for new segments and the current segment for appends. The directory alone would do, but then
//! each append is two events of different files (records and index), which the kernel does not merge; a reader that is
//! behind for a minute would come back to thousands of them. Appends to one file merge into one event.
//!
//! The descriptor blocks: io_uring then waits for it, where a non-blocking one would answer "try again" at once. inotify
//! sees only what this machine does, so a log on a network file system cannot be followed from another one.
#![expect(unsafe_code, reason = "inotify has no safe door in std")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{LogError, doing};

/// The descriptor and what it looks at.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: OwnedFd,
    segment: Option<libc::c_int>,
}

impl Watch {
    /// Watches a partition's directory for new segments.
    pub(super) fn new(partition_dir: &Path) -> Result<Watch, LogError> {
        // SAFETY: the call takes no pointer; its result is checked before it is used.
        let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
        if fd < 0 {
            let what = "cannot get an inotify descriptor (raise fs.inotify.max_user_instances) to follow";
            return Err(doing(what, partition_dir)(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just made, it is open, and nobody else owns it.
        let inotify = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut watch = Watch { inotify, segment: None };
        let _directory = watch.add(partition_dir, libc::IN_CREATE)?;
        Ok(watch)
    }

    /// Watches `segment` for appends, instead of the one before.
    pub(super) fn segment(&mut self, segment: &Path) -> Result<(), LogError> {
        let next = self.add(segment, libc::IN_MODIFY)?;
        // Watching the same file again gives the same watch, which must then stay.
        if let Some(last) = self.segment.replace(next).filter(|last| *last != next) {
            // SAFETY: no pointer is passed. A watch that is gone already makes the call fail, which harms nothing.
            unsafe { libc::inotify_rm_watch(self.inotify.as_raw_fd(), last) };
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, events: u32) -> Result<libc::c_int, LogError> {
        let c_path =
            CString::new(path.as_os_str().as_bytes()).map_err(|error| doing("cannot watch", path)(error.into()))?;
        // SAFETY: the path is a string with its end that lives until the call returns, and the descriptor is open.
        let watch = unsafe { libc::inotify_add_watch(self.inotify.as_raw_fd(), c_path.as_ptr(), events) };
        if watch < 0 {
            let what = "cannot watch (raise fs.inotify.max_user_watches if it says there is no space)";
            return Err(doing(what, path)(io::Error::last_os_error()));
        }
        Ok(watch)
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }
}
