//! The doorbell: one eventfd per shard, the only thing the shard ever sleeps on.
//!
//! Two ends, each of which writes one word and then reads the other's. The fences forbid that both read the old value:
//!
//! ```text
//!   neighbour                                  shard
//!   puts work where the shard will look        announce: parked = true
//!   ── SeqCst fence ──                         ── SeqCst fence ──
//!   parked? then take it back and write        looks everywhere once more; nothing? then reads the eventfd,
//!   the eventfd                                which sleeps; retract
//! ```
//!
//! So either the neighbour sees `parked` and writes, or the shard sees the work and does not sleep. The neighbour that takes
//! `parked` back is the only one to write: one system call per sleep, however many knock. A shard at work costs its
//! neighbours a fence and a load of a line that nobody writes.
//!
//! A wake-up may be stale: the shard finds work on its second look, and the neighbour's write ends its *next* sleep at
//! once. It then finds nothing and sleeps again. None is ever lost.

use std::io;

use crossbeam_utils::CachePadded;

use crate::atomics::{AtomicBool, Ordering, fence};

/// A shard's doorbell. The shard announces, waits and retracts; anybody rings.
///
/// # Contract of the shard
/// * Between [`announce`](Doorbell::announce) and the sleep it looks at everything that a neighbour may have changed
///   before ringing, and does not sleep if it finds anything. (Only the shard can know; tests/doorbell.rs shows how.)
/// * After the sleep, or instead of it, it calls [`retract`](Doorbell::retract).
/// * It sleeps by reading eight bytes from [`fd`](Doorbell::fd), or by [`wait`](Doorbell::wait), which does just that.
#[derive(Debug)]
pub struct Doorbell {
    parked: CachePadded<AtomicBool>,
    bell: bell::Bell,
}

impl Doorbell {
    /// A doorbell that nobody has rung.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Doorbell> {
        Ok(Doorbell { parked: CachePadded::new(AtomicBool::new(false)), bell: bell::Bell::new()? })
    }

    /// Wakes the shard if it sleeps or is about to. To be called after the work has been put where the shard will look.
    #[inline]
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        // `Release`, for the `Acquire` in `retract`: what led to the ring is visible to the shard when it wakes.
        if self.parked.swap(false, Ordering::Release) {
            self.bell.strike();
        }
    }

    /// Says that the shard is about to sleep. It must look at everything once more before it does.
    pub fn announce(&self) {
        // A swap where a store would do: every write of `parked` then reads the one before it, so that their order is
        // plain to the model checker too. It costs nothing next to the sleep.
        self.parked.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the shard is awake, whoever woke it. Neighbours stop writing the eventfd.
    pub fn retract(&self) {
        self.parked.swap(false, Ordering::Acquire);
    }

    /// Whether the shard has announced its sleep and nobody has woken it: a guess by the time it is read, good for a
    /// watchdog.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed)
    }

    /// Sleeps until the bell has been rung since the last wait, blocking the thread. A shard whose executor has other
    /// descriptors to watch reads [`fd`](Doorbell::fd) through it instead.
    ///
    /// # Errors
    /// When the eventfd cannot be read, which no state of this process explains.
    pub fn wait(&self) -> io::Result<()> {
        self.bell.wait()
    }

    /// The eventfd, blocking: a read of eight bytes returns once the bell has been rung. It stays ours: whoever closes what
    /// it reads from duplicates it first.
    #[cfg(not(loom))]
    #[must_use]
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.bell.fd()
    }
}

#[cfg(not(loom))]
mod bell {
    #![expect(unsafe_code, reason = "eventfd has no safe call in std")]

    use std::fs::File;
    use std::io::{self, ErrorKind, Read, Write};
    use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

    /// An eventfd: a counter in the kernel; a write adds, a read sleeps while it is zero and then takes all.
    #[derive(Debug)]
    pub(super) struct Bell(File);

    impl Bell {
        pub(super) fn new() -> io::Result<Bell> {
            // SAFETY: no memory is passed.
            let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the kernel just opened it for us, and nobody else knows it.
            Ok(Bell(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
        }

        pub(super) fn strike(&self) {
            loop {
                match (&self.0).write(&1_u64.to_ne_bytes()) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    written => {
                        written.expect("an open eventfd takes a write: one per sleep never fills its counter");
                        return;
                    }
                }
            }
        }

        pub(super) fn wait(&self) -> io::Result<()> {
            loop {
                match (&self.0).read(&mut [0; 8]) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    read => return read.map(drop),
                }
            }
        }

        pub(super) fn fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(loom)]
mod bell {
    use std::io;

    use loom::sync::{Condvar, Mutex};

    /// The kernel's counter as loom can see it. Relaxed orderings outside stay relaxed: the lock of a model synchronises
    /// only those who ring and those who wait, as the kernel's own lock does.
    #[derive(Debug)]
    pub(super) struct Bell {
        strikes: Mutex<u64>,
        struck: Condvar,
    }

    impl Bell {
        pub(super) fn new() -> io::Result<Bell> {
            Ok(Bell { strikes: Mutex::new(0), struck: Condvar::new() })
        }

        pub(super) fn strike(&self) {
            *self.strikes.lock().expect("nobody panics with the lock") += 1;
            self.struck.notify_one();
        }

        pub(super) fn wait(&self) -> io::Result<()> {
            let mut strikes = self.strikes.lock().expect("nobody panics with the lock");
            while *strikes == 0 {
                strikes = self.struck.wait(strikes).expect("nobody panics with the lock");
            }
            *strikes = 0;
            Ok(())
        }
    }
}
