//! The ring: one io_uring that drives all sockets of a shard's links.
//!
//! Set up so that nothing happens behind the shard's back: one thread submits (`SINGLE_ISSUER`), and what sockets become
//! ready for is done when that thread asks (`DEFER_TASKRUN`), which a flag in shared memory tells it (`TASKRUN_FLAG`). A
//! turn in which nothing happened costs two loads. Measured over loopback against a ring without these flags: twice the
//! bytes a second.

#![expect(
    unsafe_code,
    reason = "operations that the kernel works on while we do something else; proven by tests/links.rs"
)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{Builder, CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue};

use super::outgo::PARTS_MAX;

/// Completions the kernel can put down before it has to set some aside.
const COMPLETIONS: u32 = 4096;

/// How often the end of all operations is waited for, a tenth of a second each time, before their memory is given up.
const SETTLE_ROUNDS: usize = 50;

/// From which of these rounds on connections are cut: until then, what was sent may still be acknowledged.
const CUT_FROM_ROUND: usize = 2;

/// What an operation was, as its completion brings it back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    Receive,
    Send,
    /// A send without a copy: its buffer is `slot` of those that the kernel keeps.
    SendZc {
        slot: u32,
    },
    Cancel,
}

impl What {
    /// Kind in the low byte, slot above it, peer in the upper half.
    fn tag(self, peer: usize) -> u64 {
        let low = match self {
            What::Receive => 0,
            What::Send => 1,
            What::SendZc { slot } => 2 | u64::from(slot) << 8,
            What::Cancel => 3,
        };
        low | (peer as u64) << 32
    }

    fn of(tag: u64) -> (What, usize) {
        let what = match tag & 0xff {
            0 => What::Receive,
            1 => What::Send,
            2 => What::SendZc { slot: (tag as u32) >> 8 },
            _ => What::Cancel,
        };
        (what, (tag >> 32) as usize)
    }
}

/// The end of an operation, or the kernel's word that it is done with a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) peer: usize,
    pub(super) what: What,
    /// Bytes, or a negated error.
    pub(super) result: i32,
    /// Whether the operation's buffer stays the kernel's until a notice comes.
    pub(super) more: bool,
    /// Whether this is that notice; `copied` then says that the kernel copied after all.
    pub(super) notice: bool,
    pub(super) copied: bool,
}

/// A message's parts, where the kernel finds them for as long as the operation runs.
pub(super) struct Message {
    header: libc::msghdr,
    parts: [libc::iovec; PARTS_MAX],
}

impl Message {
    /// One without parts.
    pub(super) fn new() -> Box<Message> {
        let part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: a msghdr is integers and pointers, for all of which zero is a value.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Message { header, parts: [part; PARTS_MAX] })
    }

    /// Points it to these parts.
    ///
    /// # Panics
    /// When there are more than [`PARTS_MAX`].
    fn point(&mut self, parts: impl Iterator<Item = libc::iovec>) {
        let mut count = 0;
        for part in parts {
            self.parts[count] = part;
            count += 1;
        }
        self.header.msg_iov = self.parts.as_mut_ptr();
        self.header.msg_iovlen = count;
    }

    /// Points it to memory that is read.
    pub(super) fn read_from<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>) {
        self.point(parts.map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() }));
    }

    /// Points it to memory that is written.
    pub(super) fn write_to(&mut self, parts: [&mut [u8]; 2]) {
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        self.point(parts.map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() }));
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message({} parts)", self.header.msg_iovlen)
    }
}

/// One io_uring and the sockets registered with it.
pub(super) struct Ring {
    // The three borrow from `ring`, which is why they are dropped by hand, before it.
    submitter: ManuallyDrop<Submitter<'static>>,
    submissions: ManuallyDrop<SubmissionQueue<'static>>,
    completions: ManuallyDrop<CompletionQueue<'static>>,
    ring: NonNull<IoUring>,
    sockets: Vec<RawFd>,
    /// Whether the sockets are known to the ring by their index.
    fixed: bool,
    /// Operations whose last completion has not been seen.
    in_flight: usize,
    pools_refused: bool,
    notes: Vec<String>,
}

/// What was asked of the kernel, and its answer.
pub(super) type Refusal = (&'static str, io::Error);

impl Ring {
    /// A ring for these sockets, whose index is the peer's. `wake` is written by the kernel while armed.
    pub(super) fn new(sockets: Vec<RawFd>, wake: BorrowedFd<'_>) -> Result<Ring, Refusal> {
        let mut notes = Vec::new();
        // At most one receive and one send of each peer wait to be submitted at a time.
        let entries = (2 * sockets.len() as u32).next_power_of_two().clamp(16, 32 << 10);
        let ring = build(entries, &mut notes).map_err(|error| ("set up a ring", error))?;
        Ring::over(ring, sockets, wake, notes)
    }

    fn over(ring: IoUring, sockets: Vec<RawFd>, wake: BorrowedFd<'_>, notes: Vec<String>) -> Result<Ring, Refusal> {
        let ring = NonNull::from(Box::leak(Box::new(ring)));
        // SAFETY: the box was leaked just now and is freed in `drop` alone, after the three parts; nobody else has it.
        let (submitter, submissions, completions) = unsafe { &mut *ring.as_ptr() }.split();
        let mut ring = Ring {
            submitter: ManuallyDrop::new(submitter),
            submissions: ManuallyDrop::new(submissions),
            completions: ManuallyDrop::new(completions),
            ring,
            sockets,
            fixed: true,
            in_flight: 0,
            pools_refused: false,
            notes,
        };
        if let Err(error) = ring.submitter.register_ring_fd() {
            ring.notes
                .push(format!("the kernel takes no registered ring ({error}): each call into it looks the ring up"));
        }
        if !ring.sockets.is_empty()
            && let Err(error) = ring.submitter.register_files(&ring.sockets)
        {
            ring.fixed = false;
            ring.notes
                .push(format!("the kernel takes no registered files ({error}): each operation looks its socket up"));
        }
        ring.submitter
            .register_eventfd(wake.as_raw_fd())
            .map_err(|error| ("have it ring the shard's doorbell", error))?;
        ring.completions.disable_eventfd();
        Ok(ring)
    }

    /// What the kernel refused, and what is done instead.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Reserves places for pools to be registered. False if the kernel refuses.
    pub(super) fn expect_pools(&mut self, pools: u32) -> bool {
        self.submitter.register_buffers_sparse(pools).map_err(|error| self.say_pools_refused(&error)).is_ok()
    }

    fn say_pools_refused(&mut self, error: &io::Error) {
        if !self.pools_refused {
            self.pools_refused = true;
            self.notes.push(format!(
                "buffers for sends without a copy are not registered ({error}; `ulimit -l` bounds it): each such send looks its \
                 pages up"
            ));
        }
    }

    /// Registers a pool's memory at a place, so that sends without a copy need not look its pages up. False if the kernel
    /// refuses.
    pub(super) fn register_pool(&mut self, place: u32, (at, bytes): (*const u8, usize)) -> bool {
        let part = libc::iovec { iov_base: at.cast_mut().cast(), iov_len: bytes };
        // SAFETY: the kernel pins the pages, so that they stay whatever becomes of the memory; what is sent from them is
        // bytes of buffers that are alive.
        let answer = unsafe { self.submitter.register_buffers_update(place, &[part], None) };
        answer.map_err(|error| self.say_pools_refused(&error)).is_ok()
    }

    /// Starts to receive what is there into a message's parts.
    ///
    /// # Safety
    /// The message and the memory it points to stay where they are, and are used by nobody, until the operation is done.
    pub(super) unsafe fn receive(&mut self, peer: usize, message: &mut Message) {
        let message = &raw mut message.header;
        let entry = if self.fixed {
            opcode::RecvMsg::new(Fixed(peer as u32), message).build()
        } else {
            opcode::RecvMsg::new(Fd(self.sockets[peer]), message).build()
        };
        // SAFETY: the caller promises the memory.
        unsafe { self.push(entry, What::Receive, peer) }
    }

    /// Starts to send a message's parts.
    ///
    /// # Safety
    /// The message and the memory it points to stay where they are and as they are until the operation is done.
    pub(super) unsafe fn send(&mut self, peer: usize, message: &Message) {
        let (message, flags) = (&raw const message.header, libc::MSG_NOSIGNAL as u32);
        let entry = if self.fixed {
            opcode::SendMsg::new(Fixed(peer as u32), message).flags(flags).build()
        } else {
            opcode::SendMsg::new(Fd(self.sockets[peer]), message).flags(flags).build()
        };
        // SAFETY: the caller promises the memory.
        unsafe { self.push(entry, What::Send, peer) }
    }

    /// Starts to send bytes without copying them, from the pool registered at `place` if any.
    ///
    /// # Safety
    /// The bytes stay where they are and as they are until the operation is done and, if it says that there is `more`,
    /// its notice has come.
    pub(super) unsafe fn send_zc(&mut self, peer: usize, slot: u32, bytes: &[u8], place: Option<u16>) {
        const REPORT_USAGE: u16 = 1 << 3; // IORING_SEND_ZC_REPORT_USAGE: notices say whether the kernel copied
        let (at, len) = (bytes.as_ptr(), bytes.len() as u32);
        macro_rules! entry {
            ($socket:expr) => {
                opcode::SendZc::new($socket, at, len)
                    .buf_index(place)
                    .flags(libc::MSG_NOSIGNAL)
                    .zc_flags(REPORT_USAGE)
                    .build()
            };
        }
        let entry = if self.fixed { entry!(Fixed(peer as u32)) } else { entry!(Fd(self.sockets[peer])) };
        // SAFETY: the caller promises the memory.
        unsafe { self.push(entry, What::SendZc { slot }, peer) }
    }

    /// # Safety
    /// What the entry points to stays valid until the operation is done.
    unsafe fn push(&mut self, entry: squeue::Entry, what: What, peer: usize) {
        let entry = entry.user_data(what.tag(peer));
        // SAFETY: the caller promises the memory.
        let pushed = unsafe { self.submissions.push(&entry) };
        assert!(pushed.is_ok(), "the queue has room for a receive and a send of each peer");
        self.in_flight += 1;
    }

    /// Hands the kernel what was pushed, and lets it do what it put off. Two loads when there is neither.
    #[inline]
    pub(super) fn turn(&mut self) -> io::Result<()> {
        self.submissions.sync();
        if !self.submissions.is_empty() || self.submissions.taskrun() || self.submissions.cq_overflow() {
            match self.submitter.submit() {
                Err(error) if !passes(&error) => return Err(error),
                _ => self.submissions.sync(),
            }
        }
        self.completions.sync();
        Ok(())
    }

    /// The next completion that the last turn brought.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Done> {
        let entry = self.completions.next()?;
        let ((what, peer), flags) = (What::of(entry.user_data()), entry.flags());
        let (more, notice) = (cqueue::more(flags), cqueue::notif(flags));
        if !more {
            self.in_flight -= 1;
        }
        const COPIED: i32 = i32::MIN; // IORING_NOTIF_USAGE_ZC_COPIED
        let copied = notice && entry.result() & COPIED != 0;
        Some(Done { peer, what, result: entry.result(), more, notice, copied })
    }

    /// Has the kernel write the doorbell from now on. True if something is to be done already, of which it may have said
    /// nothing.
    pub(super) fn arm(&mut self) -> bool {
        self.completions.enable_eventfd();
        fence(Ordering::SeqCst);
        self.submissions.sync();
        self.completions.sync();
        !self.submissions.is_empty()
            || self.submissions.taskrun()
            || self.submissions.cq_overflow()
            || !self.completions.is_empty()
    }

    /// Has the kernel leave the doorbell alone.
    pub(super) fn disarm(&mut self) {
        self.completions.disable_eventfd();
    }

    /// Ends all operations and waits until the kernel is done with their memory. False if it will not say so within
    /// seconds: then that memory must never be freed.
    pub(super) fn settle(&mut self) -> bool {
        for round in 0..SETTLE_ROUNDS {
            self.submissions.sync();
            if !self.submissions.is_full() {
                // In every round: what was pushed and not yet submitted in the one before is cancelled in the next.
                let entry = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
                // SAFETY: a cancellation points to no memory.
                unsafe { self.push(entry, What::Cancel, 0) };
            }
            if round == CUT_FROM_ROUND {
                // What is left was sent without a copy, and is the kernel's until the peer has acknowledged it.
                self.sockets.iter().for_each(|socket| cut(*socket));
            }
            self.submissions.sync();
            let a_while = Timespec::new().nsec(100_000_000);
            // Whatever the answer, the count of operations says how things stand.
            let _ = self.submitter.submit_with_args(self.in_flight, &SubmitArgs::new().timespec(&a_while));
            self.submissions.sync();
            self.completions.sync();
            while self.next().is_some() {}
            if self.in_flight == 0 {
                return true;
            }
        }
        false
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // A thread has room for sixteen registered rings, and this one may live on.
        let _ = self.submitter.unregister_ring_fd();
        // SAFETY: none of the three is used again; they go before the ring that they borrow from, which came from a box.
        unsafe {
            ManuallyDrop::drop(&mut self.submitter);
            ManuallyDrop::drop(&mut self.submissions);
            ManuallyDrop::drop(&mut self.completions);
            drop(Box::from_raw(self.ring.as_ptr()));
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({} sockets, {} operations under way)", self.sockets.len(), self.in_flight)
    }
}

/// Whether an error of a call into the ring goes away by itself: it is called again next turn.
fn passes(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

/// What a kernel lacks that takes only the ring at this index and the ones behind it.
const LADDER: [&str; 4] = ["nothing", "NO_SQARRAY", "DEFER_TASKRUN and SINGLE_ISSUER", "COOP_TASKRUN and SUBMIT_ALL"];

/// The best ring that this kernel has.
fn build(entries: u32, notes: &mut Vec<String>) -> io::Result<IoUring> {
    let mut refused = None;
    for (rung, without) in LADDER.iter().enumerate() {
        match builder(rung, entries).build(entries) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
            Err(error) => return Err(error),
            Ok(ring) => {
                if rung > 0 {
                    notes.push(format!("this kernel's io_uring has no {without}: links work, and cost more"));
                }
                return Ok(ring);
            }
        }
    }
    Err(refused.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)))
}

/// The ring at a rung of the ladder.
fn builder(rung: usize, entries: u32) -> Builder {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(COMPLETIONS.max(2 * entries)).setup_clamp().dontfork();
    if rung == 0 {
        builder.setup_no_sqarray();
    }
    if rung <= 1 {
        builder.setup_single_issuer().setup_defer_taskrun();
    }
    if rung == 2 {
        builder.setup_coop_taskrun();
    }
    if rung <= 2 {
        builder.setup_taskrun_flag().setup_submit_all();
    }
    builder
}

/// Cuts a TCP connection off, and with it everything that waits to be sent or acknowledged.
fn cut(socket: RawFd) {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // Other sockets than TCP refuse, and keep nothing back.
    // SAFETY: the address is a whole one, of the family that says "none".
    unsafe { libc::connect(socket, &nowhere, size_of_val(&nowhere) as libc::socklen_t) };
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::Doorbell;

    #[test]
    fn a_tag_brings_back_what_it_was_given() {
        for peer in [0, 1, 4_000_000_000] {
            for what in
                [What::Receive, What::Send, What::SendZc { slot: 0 }, What::SendZc { slot: 0xff_ffff }, What::Cancel]
            {
                assert_eq!(What::of(what.tag(peer)), (what, peer));
            }
        }
    }

    #[test]
    fn every_ring_that_an_older_kernel_may_have_moves_bytes_and_wakes() {
        for (rung, lacks) in LADDER.iter().enumerate() {
            let (near, mut far) = UnixStream::pair().expect("descriptors are left");
            let bell = Doorbell::new().expect("a descriptor is left");
            let Ok(ring) = builder(rung, 16).build(16) else {
                assert!(rung + 1 < LADDER.len(), "every kernel with io_uring has a ring without {lacks}");
                continue;
            };
            let mut ring =
                Ring::over(ring, vec![near.as_raw_fd()], bell.fd(), Vec::new()).expect("the kernel has rings");
            let (mut memory, mut none) = ([0_u8; 8], [0_u8; 0]);
            let mut message = Message::new();
            message.write_to([&mut memory, &mut none]);
            // SAFETY: message and memory stay until the ring has settled.
            unsafe { ring.receive(0, &mut message) };
            ring.turn().expect("the ring works");
            assert!(ring.next().is_none() && !ring.arm(), "nothing was sent yet");
            far.write_all(b"grain of").expect("the near end is open");
            bell.wait().expect("the doorbell is open");
            ring.disarm();
            ring.turn().expect("the ring works");
            let done = ring.next().expect("the bell was rung for it");
            assert_eq!((done.what, done.peer, done.result), (What::Receive, 0, 8), "rung {rung}");
            assert!(ring.settle());
            assert_eq!(&memory, b"grain of");
        }
    }

    /// A ring over one end of a pair, and the other end.
    fn ring_and_far_end() -> (Ring, UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().expect("descriptors are left");
        let bell = Doorbell::new().expect("a descriptor is left");
        let ring = Ring::new(vec![near.as_raw_fd()], bell.fd()).expect("the kernel has rings");
        (ring, near, far)
    }

    #[test]
    fn what_was_settled_is_not_written_to_any_more() {
        let (mut ring, near, mut far) = ring_and_far_end();
        let mut memory = [0_u8; 1000];
        let mut message = Message::new();
        let (first, second) = memory.split_at_mut(600);
        message.write_to([first, second]);
        // SAFETY: message and memory stay until the ring has settled.
        unsafe { ring.receive(0, &mut message) };
        ring.turn().expect("the ring works");
        assert!(ring.next().is_none() && ring.in_flight == 1, "nothing was sent yet");
        assert!(ring.settle() && ring.in_flight == 0);
        far.write_all(&[7; 1000]).expect("the near end is open");
        ring.turn().expect("the ring works");
        assert_eq!(memory, [0; 1000]);
        // The bytes are still in the socket.
        (&near).read_exact(&mut memory).expect("they were sent");
        assert_eq!(memory, [7; 1000]);
    }

    #[test]
    fn what_was_settled_is_not_read_any_more() {
        let (mut ring, near, mut far) = ring_and_far_end();
        let mut memory = vec![1_u8; 8 << 20];
        let mut message = Message::new();
        message.read_from([&memory[..]].into_iter());
        // SAFETY: message and memory stay until the ring has settled.
        unsafe { ring.send(0, &message) };
        // More than the pair holds: the first operation sends part of it, and the second waits.
        ring.turn().expect("the ring works");
        let done = ring.next().expect("part of it is sent at once");
        message.read_from([&memory[done.result as usize..]].into_iter());
        // SAFETY: as above.
        unsafe { ring.send(0, &message) };
        ring.turn().expect("the ring works");
        assert!(ring.next().is_none(), "the pair is full");
        assert_eq!(ring.in_flight, 1);
        assert!(ring.settle() && ring.in_flight == 0);
        memory.fill(2);
        ring.turn().expect("the ring works");
        drop((ring, near));
        let mut received = Vec::new();
        far.read_to_end(&mut received).expect("the near end is closed");
        assert!(!received.is_empty() && received.iter().all(|byte| *byte == 1), "{} bytes", received.len());
    }
}
