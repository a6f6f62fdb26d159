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
//! reads: nothing is copied in user space. What is said over a socket is written down in `docs/formats/link.md`.
//!
//! The rooms, from the wire inwards:
//!
//! * `uring.rs`: the ring, and what the kernel works on. `line.rs`: one peer's socket and where things stand with it.
//! * [`intake`] and [`outgo`]: the two halves of a link without I/O, bytes in and bytes out, which is how they are fuzzed.
//! * [`credit`] and [`debloat`]: how many frames may be sent, and how many are worth granting; counts only.
//!
//! **Memory** is what the lanes hold and nothing beside: edges × peers × 2 × buffers × (64 KiB + 64), and for each peer a few
//! kilobytes.
//!
//! **Order.** Each socket has at most one send under way, so that its bytes keep their order; it takes up to sixteen frames
//! of all edges in turn. Each has at most one receive under way, which asks for the rest of a payload and the header behind
//! it. Under load frames gather while a send is under way; otherwise a buffer leaves in the turn in which it was sent.

pub mod credit;
pub mod debloat;
mod error;
pub mod intake;
mod line;
pub mod outgo;
mod uring;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use self::line::{Line, Turn};
use self::uring::{Refusal, Ring};
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
    /// Whether checksums are written to frames and compared with what arrives: the same at both ends. To be switched off
    /// only where something below proves every byte already, as TLS does.
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
/// where the kernel has to copy after all, as it does on loopback. A buffer then comes home when the peer has acknowledged
/// it, and the pools of outgoing lanes are registered with the ring as far as `ulimit -l` lets them be: no other operation
/// would gain by that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendZc {
    /// Never.
    Off,
    /// Always.
    On,
    /// On a link for as long as the kernel does not say that it copied.
    Measured,
}

/// The shard at the other end of a link. The doorbells of its lanes, at both of their ends, are the shard's own: all four ends
/// are on its thread.
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

/// How often in one turn what has completed is followed by what comes next: enough to keep a link busy, and an end to it,
/// for the shard has tasks. A round moves at most one frame in and one batch out per peer.
const ROUNDS_MAX: usize = 16;

/// The links of one shard to the shards of other processes: one ring of io_uring, one socket a peer.
///
/// All calls come from the thread that made it. A shard's loop calls [`tick`](Links::tick) every turn, before or after its
/// tasks; around its sleep [`arm`](Links::arm) and [`disarm`](Links::disarm).
///
/// To drop it ends all connections, whatever was under way, and returns when the kernel is done with every buffer.
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use std::sync::Arc;
/// use millstream_network::{Doorbell, LaneConfig, LinkConfig, Links, Peer, Receiver, Sender, frame::Route, lane};
///
/// /// One edge between shard `here` and shard `there`: links, the exchange's end and the merge's.
/// fn shard(here: u16, there: u16, socket: UnixStream) -> (Links, Sender, Receiver) {
///     let bell = Arc::new(Doorbell::new().unwrap());
///     let lay = |from_shard, to_shard| {
///         let route = Route { edge: 0, from_shard, to_shard };
///         lane(LaneConfig { route, buffers: 4 }, Arc::clone(&bell), Arc::clone(&bell))
///     };
///     let ((exchange, outgoing), (incoming, merge)) = (lay(here, there), lay(there, here));
///     let peer = Peer {
///         shard: there,
///         name: format!("shard {there}"),
///         socket: socket.into(),
///         outgoing: vec![outgoing],
///         incoming: vec![incoming],
///     };
///     (Links::new(here, bell.fd(), vec![peer], LinkConfig::default()).unwrap(), exchange, merge)
/// }
///
/// let (near, far) = UnixStream::pair()?;
/// let (mut here, mut exchange, _) = shard(0, 1, near);
/// let (mut there, _, mut merge) = shard(1, 0, far);
/// let mut buffer = exchange.acquire().expect("the lane is fresh");
/// buffer.append(b"grain");
/// exchange.send(buffer);
/// let arrived = loop {
///     here.tick(0)?;
///     there.tick(0)?;
///     if let Some(buffer) = merge.receive() {
///         break buffer;
///     }
/// };
/// assert_eq!(arrived.payload(), b"grain");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Links {
    shard: u16,
    ring: Ring,
    lines: Vec<Line>,
    silence_max_ns: u64,
    heartbeat_every_ns: u64,
    measures_zc: bool,
    /// The last turn; none before the first.
    ticked_ns: Option<u64>,
    /// When a peer may have been silent for too long.
    listen_at_ns: u64,
    ending: bool,
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
        let mut lines: Vec<Line> = peers.into_iter().map(|peer| Line::new(shard, peer, &config)).collect();
        let sockets = lines.iter().map(Line::socket).collect();
        let mut ring = Ring::new(sockets, wake).map_err(|refusal| refused(shard, &lines, refusal))?;
        if config.send_zc != SendZc::Off {
            let pools: usize = lines.iter().map(|line| line.outgo.edges()).sum();
            // A place is a number of sixteen bits. Beyond, and where the kernel refuses, pools are not registered.
            if pools <= usize::from(u16::MAX) && ring.expect_pools(pools as u32) {
                let mut place = 0;
                for line in &mut lines {
                    line.set_places(place);
                    place += line.outgo.edges() as u32;
                }
            }
        }
        Ok(Links {
            shard,
            ring,
            lines,
            silence_max_ns: nanoseconds(config.silence_max),
            heartbeat_every_ns: nanoseconds(config.heartbeat_every),
            measures_zc: config.send_zc == SendZc::Measured,
            ticked_ns: None,
            listen_at_ns: 0,
            ending: false,
        })
    }

    /// Moves what can be moved, and never waits. True if anything moved.
    ///
    /// `now_ns` is of any clock that does not go back, the same in every call.
    ///
    /// # Errors
    /// The first peer that failed. The links are of no use from then on: drop them.
    pub fn tick(&mut self, now_ns: u64) -> Result<bool, LinkError> {
        self.notice_pause(now_ns);
        let turn = self.turn(now_ns);
        let mut moved = false;
        for _ in 0..ROUNDS_MAX {
            for (index, line) in self.lines.iter_mut().enumerate() {
                line.drive(index, &mut self.ring, turn);
            }
            if let Err(error) = self.ring.turn() {
                return Err(refused(self.shard, &self.lines, ("go on", error)));
            }
            let mut came = false;
            while let Some(done) = self.ring.next() {
                came |= self.lines[done.peer].done(done, now_ns)?;
            }
            if !came {
                break;
            }
            moved = true;
        }
        if self.measures_zc {
            self.lines.iter_mut().for_each(Line::measure_zc);
        }
        if now_ns >= self.listen_at_ns {
            self.listen_at_ns = u64::MAX;
            for line in &mut self.lines {
                line.listen(now_ns, self.silence_max_ns)?;
                self.listen_at_ns = self.listen_at_ns.min(line.heard_ns.saturating_add(self.silence_max_ns));
            }
        }
        Ok(moved)
    }

    /// A turn that comes late says that this process stood still, and nothing about its peers: what they said meanwhile may
    /// still lie in the sockets. So the time in which nobody listened is not counted as theirs.
    fn notice_pause(&mut self, now_ns: u64) {
        let Some(ticked_ns) = self.ticked_ns.replace(now_ns) else {
            self.lines.iter_mut().for_each(|line| line.start(now_ns));
            return;
        };
        let deaf_ns = now_ns.saturating_sub(ticked_ns);
        if deaf_ns > self.silence_max_ns / 2 {
            self.lines.iter_mut().for_each(|line| line.heard_ns = line.heard_ns.saturating_add(deaf_ns).min(now_ns));
        }
    }

    fn turn(&self, now_ns: u64) -> Turn {
        Turn { now_ns, heartbeat_every_ns: self.heartbeat_every_ns, ending: self.ending }
    }

    /// Before the shard sleeps: has the kernel write `wake` when something completes. True if there is something to do
    /// after all; then the shard must not sleep, and calls [`disarm`](Links::disarm) all the same.
    #[must_use]
    pub fn arm(&mut self) -> bool {
        let turn = self.turn(self.ticked_ns.unwrap_or(0));
        self.ring.arm() || self.ticked_ns.is_none() || self.lines.iter_mut().any(|line| line.has_work(turn))
    }

    /// After the sleep, or instead of it.
    pub fn disarm(&mut self) {
        self.ring.disarm();
    }

    /// When `tick` is wanted at the latest, for heartbeats and to notice silence: a time of the same clock as `now_ns`.
    /// `u64::MAX` when it is wanted at no time.
    #[must_use]
    pub fn wake_at_ns(&self) -> u64 {
        let times = self.lines.iter().map(|line| line.wake_at_ns(self.heartbeat_every_ns, self.silence_max_ns));
        times.min().unwrap_or(u64::MAX)
    }

    /// Says that nothing more will be put into the outgoing lanes. What lies in them is still sent, then a goodbye, without
    /// which the peer takes the end of the connection for a failure. `tick` goes on until
    /// [`is_finished`](Links::is_finished).
    pub fn goodbye(&mut self) {
        self.ending = true;
    }

    /// Whether every peer has said goodbye, and has closed after ours. Then the links can be dropped without anybody
    /// missing anything.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.lines.iter().all(|line| line.finished)
    }

    /// What has been done so far.
    #[must_use]
    pub fn figures(&self) -> LinkFigures {
        let mut figures = LinkFigures::default();
        self.lines.iter().for_each(|line| line.add_figures(&mut figures));
        figures
    }

    /// What the kernel refused and what is done instead, a sentence each, for the log.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        self.ring.notes()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        let settled = self.ring.settle();
        // The ring lets its files go some time after it is gone; the peers are told now.
        self.lines.iter().for_each(Line::hang_up);
        if !settled {
            // The kernel may still write to these buffers: memory that is lost is better than memory that is overwritten.
            std::mem::forget(std::mem::take(&mut self.lines));
        }
    }
}

fn refused(shard: u16, lines: &[Line], (doing, source): Refusal) -> LinkError {
    let peer = lines.first().map_or_else(|| "no peer".to_owned(), |line| line.name.clone());
    LinkError::Ring { peer, shard, doing, source }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
