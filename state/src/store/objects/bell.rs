//! A bell from the thread of the object store's client to whoever waits for it: a shard's executor or a plain thread.
//!
//! An event descriptor, and not a waker: a shard's rings are sure to see a read that completes, and a waker of glommio
//! must not outlive its executor on another thread.
#![expect(unsafe_code, reason = "event descriptors are made, and enter glommio, raw")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};

use glommio::io::BufferedFile;

/// Rung by one thread, heard by another; a ring that nobody waits for is heard by the next who does.
pub(super) struct Bell(File);

impl Bell {
    pub(super) fn new() -> io::Result<Bell> {
        // SAFETY: a plain system call; the descriptor is new and goes to one owner.
        unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Bell(File::from_raw_fd(fd))) }
        }
    }

    pub(super) fn ring(&self) {
        // It cannot fail: the count is far from its end, and the descriptor ours.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Waits on a plain thread.
    pub(super) fn wait(&self) -> io::Result<()> {
        (&self.0).read(&mut [0; 8]).map(drop)
    }

    /// For waiting inside a glommio executor.
    pub(super) fn ear(&self) -> io::Result<Ear> {
        // SAFETY: a copy of a descriptor that we hold open, handed to one owner, who closes it.
        unsafe {
            let copy = libc::fcntl(self.0.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0);
            if copy < 0 { Err(io::Error::last_os_error()) } else { Ok(Ear(BufferedFile::from_raw_fd(copy))) }
        }
    }
}

/// A shard's end of a [`Bell`].
pub(super) struct Ear(BufferedFile);

impl Ear {
    pub(super) async fn wait(&self) -> io::Result<()> {
        self.0.read_at(0, 8).await.map(drop).map_err(crate::file::plain)
    }
}
