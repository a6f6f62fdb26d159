//! Links: how frames get to the shards of other processes, and theirs to us.
//!
//! A remote shard is reached by ordinary lanes. For each edge and each remote shard the engine lays two, both ends of
//! which are on the shard's own thread:
//!
//! ```text
//!              shard here                                                       shard there
//!   exchange ─▶ Sender ═══ lane ═══ Receiver ─┐                     ┌─▶ Sender ═══ lane ═══ Receiver ─▶ merge
//!                                             ├─▶ Links ~socket~ Links
//!   merge ◀─ Receiver ═══ lane ═══ Sender ◀───┘                     └── Receiver ═══ lane ═══ Sender ◀─ exchange
//! ```
//!
//! The kernel sends the very bytes that the exchange wrote, and writes what it receives to the very bytes that the merge
//! reads: nothing is copied in user space.

mod error;
pub mod intake;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::{Receiver, Sender};

pub use error::LinkError;

/// How the links of a shard behave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// How long a peer may be silent before its link fails: the job's `failure_timeout`.
    pub silence_max: Duration,
    /// After how long without a frame a heartbeat is sent. At most a third of the peers' `silence_max`, so that one that
    /// is late does no harm.
    pub heartbeat_every: Duration,
    /// Whether large frames are sent without a copy to the kernel.
    pub send_zc: SendZc,
    /// Whether checksums of received frames are compared. They are written in any case.
    pub check_crc: bool,
    /// How much time's worth of frames, at the pace of its receiver, may be under way on an edge: what a barrier waits
    /// behind.
    pub in_flight_target: Duration,
}

impl Default for LinkConfig {
    fn default() -> LinkConfig {
        LinkConfig {
            silence_max: Duration::from_secs(3),
            heartbeat_every: Duration::from_millis(500),
            send_zc: SendZc::Off,
            check_crc: true,
            in_flight_target: Duration::from_millis(20),
        }
    }
}

/// Whether large frames are sent without a copy to the kernel. It spares memory bandwidth on a real network card, and costs
/// where the kernel has to copy after all, as it does on loopback.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendZc {
    /// Never.
    Off,
    /// Always.
    On,
    /// On a link for as long as the kernel does not say that it copied.
    Measured,
}

/// The shard at the other end of a link.
#[derive(Debug)]
pub struct Peer {
    /// Its number.
    pub shard: u16,
    /// Where it is, for messages: host and port, or the name of its process.
    pub name: String,
    /// A connected stream socket, authenticated, on which no frame has been sent yet. Without `O_NONBLOCK`.
    pub socket: OwnedFd,
    /// The lanes that lead to it, one an edge; the index is the edge.
    pub outgoing: Vec<Receiver>,
    /// The lanes that lead from it, one an edge; the index is the edge.
    pub incoming: Vec<Sender>,
}

/// What the links of a shard have done since they were made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkFigures {
    /// Bytes sent, headers and link frames included.
    pub bytes_out: u64,
    /// Bytes received, headers and link frames included.
    pub bytes_in: u64,
    /// Frames taken from outgoing lanes and sent.
    pub frames_out: u64,
    /// Frames received and handed to incoming lanes.
    pub frames_in: u64,
    /// Send operations the kernel completed.
    pub sends: u64,
    /// Receive operations the kernel completed.
    pub receives: u64,
    /// Zero-copy sends for which the kernel says that it copied after all.
    pub zc_copied: u64,
    /// Zero-copy sends that were.
    pub zc_uncopied: u64,
    /// Bytes of payload that were copied in user space. Zero.
    pub payload_bytes_copied: u64,
    /// Times that a frame of an edge had to wait for credit; the index is the edge.
    pub credit_stalls: Vec<u64>,
    /// The longest time nothing was heard from a peer.
    pub longest_silence_ns: u64,
}

/// The links of one shard to the shards of other processes: one ring of io_uring, one socket a peer.
///
/// All calls come from the thread that made it. A shard's loop calls [`tick`](Links::tick) every turn, before or after its
/// tasks; around its sleep [`arm`](Links::arm) and [`disarm`](Links::disarm).
#[derive(Debug)]
pub struct Links {
    peers: Vec<Peer>,
    config: LinkConfig,
}

impl Links {
    /// Takes over connected sockets and the lanes that they serve. To be called on the shard's thread.
    ///
    /// `wake` is an eventfd that the shard sleeps on, such as [`Doorbell::fd`](crate::Doorbell::fd): between `arm` and
    /// `disarm` the kernel writes it when something completes.
    ///
    /// # Errors
    /// [`LinkError::Ring`] when the kernel refuses the ring.
    ///
    /// # Panics
    /// When a lane's route is not that of its place: its index is its edge, and it leads to or from the peer.
    pub fn new(shard: u16, wake: BorrowedFd<'_>, peers: Vec<Peer>, config: LinkConfig) -> Result<Links, LinkError> {
        let _ = (shard, wake);
        Ok(Links { peers, config })
    }

    /// Moves what can be moved, and never waits. True if anything moved.
    ///
    /// `now_ns` is of any clock that does not go back, the same in every call.
    ///
    /// # Errors
    /// The first peer that failed. The others are not served any more either: drop the links.
    pub fn tick(&mut self, now_ns: u64) -> Result<bool, LinkError> {
        let _ = (now_ns, &self.peers, self.config);
        Ok(false)
    }

    /// Before the shard sleeps: has the kernel write `wake` when something completes. True if there is something to do
    /// after all; then the shard must not sleep, and calls [`disarm`](Links::disarm) all the same.
    #[must_use]
    pub fn arm(&mut self) -> bool {
        true
    }

    /// After the sleep, or instead of it.
    pub fn disarm(&mut self) {}

    /// When `tick` is wanted at the latest, for heartbeats and to notice silence: a time of the same clock as `now_ns`.
    #[must_use]
    pub fn wake_at_ns(&self) -> u64 {
        0
    }

    /// Says that nothing more will be put into the outgoing lanes. What lies in them is still sent, then a goodbye, without
    /// which the peer takes the end of the connection for a failure. `tick` goes on until
    /// [`is_finished`](Links::is_finished).
    pub fn goodbye(&mut self) {}

    /// Whether every peer has said goodbye, and has closed after ours. Then the links can be dropped without anybody
    /// missing anything.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.peers.is_empty()
    }

    /// What has been done so far.
    #[must_use]
    pub fn figures(&self) -> LinkFigures {
        LinkFigures::default()
    }

    /// What the kernel refused and what is done instead, a sentence each, for the log. Fixed once the first frames have moved.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &[]
    }
}
