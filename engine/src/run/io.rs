//! The shard's I/O beside the record's road: async tasks on a queue of their own, and the one place where the shard sleeps.
//!
//! glommio drives its rings only when every task waits or it is preempted, and 0.9.0 can park with a runnable task when
//! the preempt timer is short. So the timer is an hour, the road is one task that never yields by itself, and
//! [`IoRoom::reactor_pass`] waits for a read that is already satisfied: 8 to 14 µs in which the rings move.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{FromRawFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::timer::Timer;
use glommio::{Latency, Shares, Task, TaskQueueHandle};
use millstream_state::Store;

use super::panics;

/// A value that a task will bring.
pub(crate) struct Slot<T>(Rc<RefCell<Option<T>>>);

impl<T> Slot<T> {
    pub(crate) fn is_filled(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(crate) fn take(&self) -> T {
        self.0.borrow_mut().take().expect("a slot is emptied once, after it was filled")
    }
}

/// What a shard's I/O needs.
pub(crate) struct IoRoom {
    pub(crate) shard: u32,
    pub(crate) store: Option<Rc<Store>>,
    queue: TaskQueueHandle,
    wake: Rc<Wake>,
    pending: Rc<Cell<usize>>,
    panicked: Rc<RefCell<Option<String>>>,
    always_ready: BufferedFile,
    /// They wait for ever, with a descriptor each: they go when the room does.
    listeners: RefCell<Vec<Task<()>>>,
}

/// The loop's one wait point: whoever has news for it rings.
#[derive(Default)]
struct Wake {
    rung: Cell<bool>,
    sleeper: Cell<Option<Waker>>,
}

impl Wake {
    fn ring(&self) {
        self.rung.set(true);
        if let Some(sleeper) = self.sleeper.take() {
            sleeper.wake();
        }
    }
}

impl IoRoom {
    /// Opens the room on the current executor.
    pub(crate) fn open(shard: u32, store: Option<Rc<Store>>, doorbell: RawFd) -> io::Result<Rc<IoRoom>> {
        let queue = glommio::executor().create_task_queue(Shares::Static(1000), Latency::NotImportant, "io");
        let room = Rc::new(IoRoom {
            shard,
            store,
            queue,
            wake: Rc::default(),
            pending: Rc::default(),
            panicked: Rc::default(),
            always_ready: always_ready_file()?,
            listeners: RefCell::default(),
        });
        room.wake_on(doorbell)?;
        Ok(room)
    }

    /// Tasks that have not finished.
    pub(crate) fn pending(&self) -> usize {
        self.pending.get()
    }

    /// What a task of this room panicked with, if one did: its slot will never be filled.
    pub(crate) fn panicked(&self) -> Option<String> {
        self.panicked.borrow().clone()
    }

    /// Runs `work` on the I/O queue; the loop wakes when it is done. A panic that left the task would abort the process.
    pub(crate) fn spawn<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> Slot<T> {
        let slot = Slot(Rc::new(RefCell::new(None)));
        let (filled, wake, pending) = (slot.0.clone(), self.wake.clone(), self.pending.clone());
        let panicked = self.panicked.clone();
        pending.set(pending.get() + 1);
        let task = async move {
            let result = catch_panic(work).await;
            pending.set(pending.get() - 1);
            match result {
                Ok(value) => *filled.borrow_mut() = Some(value),
                Err(panic) => *panicked.borrow_mut() = Some(panic),
            }
            wake.ring();
        };
        glommio::spawn_local_into(task, self.queue).expect("the room's own queue exists").detach();
        slot
    }

    /// Rings whenever `fd` becomes readable; the bytes are read and dropped.
    pub(crate) fn wake_on(&self, fd: RawFd) -> io::Result<()> {
        let file = duplicate(fd)?;
        let wake = self.wake.clone();
        let listener = glommio::spawn_local_into(
            async move {
                // An event descriptor wants exactly 8 bytes of room or more; inotify wants room for a whole event.
                while file.read_at(0, 4096).await.is_ok_and(|read| !read.is_empty()) {
                    wake.ring();
                }
            },
            self.queue,
        )
        .expect("the room's own queue exists");
        self.listeners.borrow_mut().push(listener);
        Ok(())
    }

    /// Lets glommio's rings and timers move while the loop is busy.
    pub(crate) async fn reactor_pass(&self) {
        // Failure would mean that an event descriptor of ours cannot be read; the pass has happened either way.
        let _ = self.always_ready.read_at(0, 8).await;
    }

    /// Ends the loop's sleep, or keeps it from the next one: there is something to look at.
    pub(crate) fn ring(&self) {
        self.wake.ring();
    }

    /// Sleeps until somebody rings, `at_most` has passed, or the lead wakes a shard that has stood still for long.
    pub(crate) async fn sleep(&self, at_most: Option<Duration>) {
        let mut timer = at_most.map(Timer::new);
        let mut asleep = false;
        std::future::poll_fn(|cx| {
            if self.wake.rung.take() || std::mem::replace(&mut asleep, true) {
                return Poll::Ready(());
            }
            self.wake.sleeper.set(Some(cx.waker().clone()));
            match &mut timer {
                Some(timer) => std::pin::Pin::new(timer).poll(cx).map(|_| ()),
                None => Poll::Pending,
            }
        })
        .await;
    }
}

/// How long the rings move behind a room: tasks that were dropped with it are taken down, then their files are closed.
const LAST_PASSES: Duration = Duration::from_millis(1);

/// Lets glommio close what was dropped. An executor that ends before it has leaves descriptors behind, a few for each
/// attempt of a job.
pub(crate) async fn close_what_was_dropped() {
    Timer::new(LAST_PASSES).await;
}

/// The value that `work` comes to, or its panic in words.
pub(crate) async fn catch_panic<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = Box::pin(work);
    std::future::poll_fn(move |cx| match panics::catch(|| work.as_mut().poll(cx)) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// A file of its own for a descriptor that somebody else owns: glommio closes what it is given.
fn duplicate(fd: RawFd) -> io::Result<BufferedFile> {
    // SAFETY: `dup` of a descriptor that the caller holds open; the copy is handed to one owner, who closes it.
    #[expect(unsafe_code, reason = "descriptors enter glommio raw")]
    unsafe {
        let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0);
        if copy < 0 { Err(io::Error::last_os_error()) } else { Ok(BufferedFile::from_raw_fd(copy)) }
    }
}

/// An event descriptor that can be read for ever: a semaphore with 2⁶³ tokens.
fn always_ready_file() -> io::Result<BufferedFile> {
    // SAFETY: plain system calls on a descriptor made here; ownership passes to the file.
    #[expect(unsafe_code, reason = "eventfd has no safe wrapper among our crates")]
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_SEMAPHORE | libc::EFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let tokens = 1u64 << 63;
        let file = BufferedFile::from_raw_fd(fd);
        if libc::write(fd, (&raw const tokens).cast(), 8) != 8 {
            return Err(io::Error::last_os_error());
        }
        Ok(file)
    }
}
