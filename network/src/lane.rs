//! The lane: the road of buffers from one shard to one other, and their way back.
//!
//! ```text
//!             ┌────────── forward ring ──────────┐
//!   Sender ───┤                                  ├──▶ Receiver        each end also holds the other's doorbell
//!          ◀──┤                                  ├───
//!             └────────── return ring ───────────┘
//! ```
//!
//! * **The pool is the credit.** Both rings have room for every buffer of the pool, so that `send` and `release` cannot
//!   fail. What is bounded is [`acquire`](Sender::acquire): when all buffers are on their way or being read, the sender has
//!   to wait for one to come back.
//! * **The hand-over is one release store**, after a store fence that orders what was streamed into the buffer, and
//!   before a look at whether the other end sleeps.

#![expect(unsafe_code, reason = "buffers cross threads here and nowhere else; proven by tests/lanes.rs")]

use std::fmt;
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::doorbell::Doorbell;
use crate::frame::{Header, Route};
use crate::pool::Pool;
use crate::ring::{Consumer, Producer, ring};
use crate::stage::drain_stores;

/// Buffers of a lane unless its configuration says otherwise: 1.1 MiB.
pub const BUFFERS_PER_LANE: usize = 1 // filling at the sender
    + 1 // in the sender's hands for a barrier while another fills
    + IN_FLIGHT // sent and not yet received
    + 1; // being read at the receiver

/// How far a sender may run ahead: 1 MiB takes a core tens of microseconds to fill, about as long as the other may be away
/// in its own sources and windows before it looks at the lane again.
const IN_FLIGHT: usize = 16;

const _: () = assert!(BUFFERS_PER_LANE > 2, "with fewer, filling and reading exclude one another");

/// How a lane is laid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneConfig {
    /// Where it leads from and to; every buffer's header says so.
    pub route: Route,
    /// How many buffers its pool holds: [`BUFFERS_PER_LANE`] or a similar sum. One filling at the sender and one being
    /// read at the receiver are the least with which both ends work at once.
    pub buffers: usize,
}

/// Lays a lane. Its memory is reserved now, and touched by the first [`acquire`](Sender::acquire).
///
/// ```
/// use std::sync::Arc;
/// use millstream_network::{Doorbell, LaneConfig, frame::Route, lane, lane::BUFFERS_PER_LANE};
///
/// let (at_sender, at_receiver) = (Arc::new(Doorbell::new()?), Arc::new(Doorbell::new()?));
/// let route = Route { edge: 0, from_shard: 0, to_shard: 1 };
/// let (mut sender, mut receiver) = lane(LaneConfig { route, buffers: BUFFERS_PER_LANE }, at_receiver, at_sender);
///
/// let mut buffer = sender.acquire().expect("the lane is fresh");
/// buffer.append(b"grain");
/// sender.send(buffer);
///
/// let buffer = receiver.receive().expect("one was sent");
/// assert_eq!(buffer.payload(), b"grain");
/// receiver.release(buffer);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
/// When the pool is to have no buffers.
#[must_use]
pub fn lane(config: LaneConfig, to_doorbell: Arc<Doorbell>, from_doorbell: Arc<Doorbell>) -> (Sender, Receiver) {
    let (forward, incoming) = ring(config.buffers);
    let (giving_back, returned) = ring(config.buffers);
    let sender = Sender {
        forward,
        returned,
        home: Vec::new(),
        pool: Pool::reserve(config.buffers),
        bell: to_doorbell,
        route: config.route,
        sequence: 0,
    };
    let receiver = Receiver {
        incoming,
        giving_back,
        bell: from_doorbell,
        route: config.route,
        sequence: 0,
        is_from_elsewhere: false,
    };
    (sender, receiver)
}

/// A buffer on its way to another thread: everything written to it, streamed or not, comes before the hand-over.
struct Parcel(Buffer);

// SAFETY: a buffer is memory that its handle alone reaches, and the count of shares, which is atomic. What keeps it from
// being `Send` is that streaming stores are not ordered by the hand-over; `seal` has ordered them.
unsafe impl Send for Parcel {}

impl Parcel {
    /// The one door. The fence costs some ten cycles when nothing was streamed, so that nobody need remember whether.
    #[inline(always)]
    fn seal(buffer: Buffer) -> Parcel {
        drain_stores();
        Parcel(buffer)
    }
}

/// The end that fills buffers and sends them.
pub struct Sender {
    forward: Producer<Parcel>,
    returned: Consumer<Parcel>,
    /// Buffers that have never been acquired.
    home: Vec<Parcel>,
    pool: Pool,
    bell: Arc<Doorbell>,
    route: Route,
    sequence: u64,
}

impl Sender {
    /// An empty buffer, or none while all are under way. They are used in turn: the one that came back longest ago is the
    /// least likely to lie in the receiver's cache still.
    ///
    /// The first call touches the whole pool, and so must come from the thread that will fill the buffers.
    #[must_use]
    #[inline]
    pub fn acquire(&mut self) -> Option<Buffer> {
        if !self.pool.is_touched() {
            self.move_in();
        }
        let Parcel(mut buffer) = self.home.pop().or_else(|| self.returned.pop())?;
        // Written whole, without a look at what it was: the line still lies in the receiver's cache, and a store does not
        // wait for it.
        *buffer.header_mut() = Header::new(self.route);
        Some(buffer)
    }

    /// How many buffers [`acquire`](Sender::acquire) would surely yield now.
    #[must_use]
    #[inline]
    pub fn available(&mut self) -> usize {
        if !self.pool.is_touched() {
            self.move_in();
        }
        self.home.len() + self.returned.len()
    }

    /// Sends a buffer of this lane, with the next sequence number, and wakes the receiver if it sleeps. The caller has
    /// written payload, count, mark and controls.
    ///
    /// # Panics
    /// When the buffer is not of this lane.
    #[inline]
    pub fn send(&mut self, mut buffer: Buffer) {
        let header = buffer.header_mut();
        assert_eq!(header.route(), self.route, "a buffer is sent on the lane it was acquired from");
        header.set_sequence(self.sequence);
        self.sequence += 1;
        let pushed = self.forward.push(Parcel::seal(buffer));
        assert!(pushed.is_ok(), "the ring has room for every buffer of the lane, so this one is of another");
        self.bell.ring();
    }

    /// Where the lane leads from and to.
    #[must_use]
    pub fn route(&self) -> Route {
        self.route
    }

    /// Buffers the lane was laid with.
    #[must_use]
    pub fn buffers(&self) -> usize {
        self.pool.buffers()
    }

    /// Buffers of this lane that were dropped instead of sent or released; each makes the lane narrower. Zero, but for
    /// a task that was torn down.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.pool.lost()
    }

    #[cold]
    fn move_in(&mut self) {
        self.home = self.pool.touch(self.route).map(Parcel::seal).collect();
    }
}

/// The end that reads buffers and gives them back.
pub struct Receiver {
    incoming: Consumer<Parcel>,
    giving_back: Producer<Parcel>,
    bell: Arc<Doorbell>,
    route: Route,
    sequence: u64,
    is_from_elsewhere: bool,
}

impl Receiver {
    /// The next buffer, in the order in which they were sent.
    ///
    /// # Panics
    /// When a buffer is missing in between: a lane loses none.
    #[must_use]
    #[inline]
    pub fn receive(&mut self) -> Option<Buffer> {
        let Parcel(buffer) = self.incoming.pop()?;
        assert_eq!(buffer.header().sequence(), self.sequence, "buffers arrive in the order in which they were sent");
        self.sequence += 1;
        Some(buffer)
    }

    /// Gives a buffer of this lane back, and wakes the sender if it sleeps.
    ///
    /// # Panics
    /// When the buffer is not of this lane.
    #[inline]
    pub fn release(&mut self, buffer: Buffer) {
        assert_eq!(buffer.header().route(), self.route, "a buffer is released on the lane that brought it");
        let pushed = self.giving_back.push(Parcel::seal(buffer));
        assert!(pushed.is_ok(), "the ring has room for every buffer of the lane, so this one is of another");
        self.bell.ring();
    }

    /// Says that what comes over this lane was written by another process.
    #[must_use]
    pub fn from_elsewhere(mut self) -> Receiver {
        self.is_from_elsewhere = true;
        self
    }

    /// Whether what comes over this lane was written by another process: whole, as it was sent, and no more than that. Whoever
    /// reads it as more than bytes looks first.
    #[must_use]
    #[inline]
    pub fn is_from_elsewhere(&self) -> bool {
        self.is_from_elsewhere
    }

    /// Where the lane leads from and to.
    #[must_use]
    pub fn route(&self) -> Route {
        self.route
    }

    /// Whether nothing waits to be received.
    #[must_use]
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        self.incoming.is_empty()
    }

    /// How many buffers wait to be received.
    #[must_use]
    #[inline]
    pub fn len(&mut self) -> usize {
        self.incoming.len()
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sender({:?}, {} sent, {} buffers)", self.route, self.sequence, self.pool.buffers())
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({:?}, {} received)", self.route, self.sequence)
    }
}
