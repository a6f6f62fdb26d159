//! The line: one peer's socket, and the two halves of its link.

#![expect(unsafe_code, reason = "the kernel works on buffers that this room holds still; proven by tests/links.rs")]

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

use super::intake::{Fault, Intake, Word};
use super::outgo::{FRAMES_MAX, Outgo};
use super::uring::{Done, Message, Ring, What};
use super::{LinkConfig, LinkError, LinkFigures, Peer, SendZc};
use crate::Buffer;
use crate::frame::Kind;

/// Below so many bytes a copy is cheaper than to have the kernel look pages up and tell when it is done with them.
const ZC_BYTES_MIN: usize = 32 << 10;

/// Sends without a copy after which `Measured` decides.
const ZC_TRIALS: u64 = 16;

/// Peer, socket, and where things stand with it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) shard: u16,
    pub(super) name: String,
    /// Of whatever family: nothing is asked of it but what all stream sockets have.
    socket: TcpStream,
    pub(super) intake: Intake,
    pub(super) outgo: Outgo,
    receive_message: Box<Message>,
    send_message: Box<Message>,
    receiving: bool,
    sending: bool,
    /// When anything was last heard, and last said.
    pub(super) heard_ns: u64,
    said_ns: u64,
    /// Whether the goodbye is in a batch or sent.
    said_goodbye: bool,
    /// Whether our direction is closed: nothing can be sent any more.
    shut: bool,
    /// Whether the peer's direction is, in good order.
    pub(super) finished: bool,
    /// Whether it failed: whatever still comes is not to be believed, for what came before it may be missing.
    failed: bool,
    zc: Zc,
    bytes_out: u64,
    bytes_in: u64,
    sends: u64,
    receives: u64,
    longest_silence_ns: u64,
}

/// Sends without a copy.
#[derive(Debug, Default)]
struct Zc {
    on: bool,
    /// Whether pools are registered, and the place of this line's first.
    places: Option<u32>,
    /// By edge: whether its pool is, or cannot be.
    registered: Vec<Option<bool>>,
    /// Buffers that were sent and that the kernel is not done with, and of how many notices it owes.
    kept: Vec<Kept>,
    /// The slot of the frame being sent, and whether there is one. It stays with the frame to its end, also where the rest
    /// goes with a copy: the notice of the first part is what frees the buffer.
    slot: u32,
    under_way: bool,
    copied: u64,
    uncopied: u64,
}

/// A buffer sent without a copy.
#[derive(Debug, Default)]
struct Kept {
    notices: u32,
    /// None as long as it is in the batch, or after it came back.
    buffer: Option<(usize, Buffer)>,
    taken: bool,
    /// Whether any of it was sent: only then do notices say anything about copies.
    sent: bool,
}

/// What a line is allowed and told in a turn.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    pub(super) now_ns: u64,
    pub(super) heartbeat_every_ns: u64,
    /// Whether nothing more will come into the outgoing lanes.
    pub(super) ending: bool,
}

impl Line {
    pub(super) fn new(shard: u16, peer: Peer, config: &LinkConfig) -> Line {
        let Peer { shard: there, name, socket, outgoing, incoming } = peer;
        let socket = TcpStream::from(socket);
        // A socket that says "later" would be asked again at once. One that is no TCP needs no advice about delay.
        let _ = socket.set_nonblocking(false);
        let _ = socket.set_nodelay(true);
        let target_ns = u64::try_from(config.in_flight_target.as_nanos()).unwrap_or(u64::MAX);
        let intake = Intake::new(there, shard, incoming, outgoing.len(), config.check_crc, target_ns);
        let outgo = Outgo::new(shard, there, outgoing, config.check_crc);
        let zc = Zc { on: config.send_zc != SendZc::Off, registered: vec![None; outgo.edges()], ..Zc::default() };
        Line {
            shard: there,
            name,
            socket,
            intake,
            outgo,
            receive_message: Message::new(),
            send_message: Message::new(),
            receiving: false,
            sending: false,
            heard_ns: 0,
            said_ns: 0,
            said_goodbye: false,
            shut: false,
            finished: false,
            failed: false,
            zc,
            bytes_out: 0,
            bytes_in: 0,
            sends: 0,
            receives: 0,
            longest_silence_ns: 0,
        }
    }

    pub(super) fn socket(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Says from which place on the pools of this line may be registered.
    pub(super) fn set_places(&mut self, first: u32) {
        self.zc.places = Some(first);
    }

    /// Before the first turn.
    pub(super) fn start(&mut self, now_ns: u64) {
        (self.heard_ns, self.said_ns) = (now_ns, now_ns);
    }

    /// Starts what can be started.
    pub(super) fn drive(&mut self, index: usize, ring: &mut Ring, turn: Turn) {
        if self.finished || self.failed {
            return;
        }
        if !self.receiving {
            let (payload, header) = self.intake.room();
            self.receive_message.write_to([payload, header]);
            // SAFETY: message and scratch are boxed, the payload is a pool's; `intake` is not asked for room again, nor told
            // what arrived, before the operation is done, and `Links::drop` waits for that before it frees them.
            unsafe { ring.receive(index, &mut self.receive_message) };
            self.receiving = true;
        }
        if !self.sending && !self.shut {
            if self.outgo.unsent() == 0 {
                self.gather(turn);
            }
            if self.outgo.unsent() > 0 {
                self.said_ns = turn.now_ns;
                self.send(index, ring);
            }
        }
    }

    /// Composes the next batch: grants first, then frames, then what is to be said if there was nothing else.
    fn gather(&mut self, turn: Turn) {
        let Line { intake, outgo, .. } = self;
        intake.grants(turn.now_ns, |edge, grant, pool| outgo.say(Kind::Credit, edge, pool, grant));
        // A frame that goes without a copy goes by itself.
        let frames_max = if self.zc.on { 1 } else { FRAMES_MAX };
        if self.outgo.gather(frames_max) {
            return;
        }
        if turn.ending && !self.said_goodbye && self.outgo.is_empty() {
            self.said_goodbye = self.outgo.say(Kind::Goodbye, 0, 0, 0);
        } else if turn.now_ns >= self.said_ns.saturating_add(turn.heartbeat_every_ns) && !self.is_over() {
            self.outgo.say(Kind::Heartbeat, 0, 0, 0);
        }
    }

    fn send(&mut self, index: usize, ring: &mut Ring) {
        self.sending = true;
        if self.zc.on
            && let Some((buffer, bytes)) = self.outgo.lone_frame()
            && bytes.len() >= ZC_BYTES_MIN
        {
            let slot = self.zc.begin();
            let place = self.zc.place(ring, buffer);
            // SAFETY: the bytes are a pool's. `outgo` keeps the buffer while the operation runs, and `zc` from then on until
            // the last notice; `Links::drop` waits for both.
            unsafe { ring.send_zc(index, slot, bytes, place) };
            return;
        }
        self.send_message.read_from(self.outgo.parts());
        // SAFETY: the message and the words are boxed, the frames are pools'; `outgo` changes none before it is told what was
        // sent, and `Links::drop` waits for the operation's end before it frees them.
        unsafe { ring.send(index, &self.send_message) };
    }

    /// Takes the end of an operation. `Ok(false)` if nothing moved.
    pub(super) fn done(&mut self, done: Done, now_ns: u64) -> Result<bool, LinkError> {
        if self.failed {
            return Ok(false);
        }
        let answer = self.take(done, now_ns);
        self.failed = answer.is_err();
        answer
    }

    fn take(&mut self, done: Done, now_ns: u64) -> Result<bool, LinkError> {
        match done.what {
            What::Receive => {
                self.receiving = false;
                self.received(done.result, now_ns)
            }
            What::Send => {
                self.sending = false;
                if done.result < 0 { self.failed(done.result) } else { Ok(self.sent(done.result as usize)) }
            }
            What::SendZc { slot } if done.notice => {
                self.zc.notice(slot, done.copied);
                if let Some((edge, buffer)) = self.zc.give_back(slot) {
                    self.outgo.release(edge, buffer);
                }
                Ok(true)
            }
            What::SendZc { slot } => {
                self.sending = false;
                let kept = &mut self.zc.kept[slot as usize];
                kept.notices += u32::from(done.more);
                match -done.result {
                    // A kind of socket that cannot, or memory that may not be locked: the bytes go out with a copy.
                    libc::EOPNOTSUPP | libc::ENOMEM | libc::ENOBUFS => {
                        self.zc.on = false;
                        Ok(true)
                    }
                    1.. => self.failed(done.result),
                    _ => {
                        kept.sent = true;
                        Ok(self.sent(done.result as usize))
                    }
                }
            }
            What::Cancel => Ok(false),
        }
    }

    fn received(&mut self, result: i32, now_ns: u64) -> Result<bool, LinkError> {
        if result < 0 {
            return self.failed(result);
        }
        if result == 0 {
            if !self.is_over() || !self.intake.is_between_frames() {
                return Err(LinkError::Closed { peer: self.name.clone(), shard: self.shard });
            }
            self.finished = true;
            return Ok(true);
        }
        self.hear(now_ns);
        self.receives += 1;
        self.bytes_in += result as u64;
        let arrived = self.intake.arrived(result as usize).map_err(|fault| self.bad_frame(fault))?;
        if let Some(Word::Credit { edge, granted, pool }) = arrived.word {
            self.outgo.grant(edge, granted, pool).map_err(|fault| self.bad_frame(fault))?;
        }
        self.shut_if_over();
        Ok(true)
    }

    fn sent(&mut self, bytes: usize) -> bool {
        self.sends += 1;
        self.bytes_out += bytes as u64;
        if self.zc.under_way {
            let mut whole = Vec::with_capacity(1);
            self.outgo.sent(bytes, Some(&mut whole));
            if let Some((edge, buffer)) = self.zc.keep(whole.pop()) {
                self.outgo.release(edge, buffer);
            }
        } else {
            self.outgo.sent(bytes, None);
        }
        self.shut_if_over();
        true
    }

    /// Once both have said goodbye, and all of it has been sent, this direction closes; the peer's follows, or went before.
    fn shut_if_over(&mut self) {
        if self.is_over() && !self.shut && !self.sending && self.outgo.unsent() == 0 {
            self.shut = true;
            // A connection that is gone is closed too.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
    }

    /// Closes both directions, whoever still holds the socket.
    pub(super) fn hang_up(&self) {
        // A connection that is gone is closed too.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Whether both have said goodbye.
    fn is_over(&self) -> bool {
        self.said_goodbye && self.intake.said_goodbye()
    }

    fn failed(&mut self, result: i32) -> Result<bool, LinkError> {
        let source = io::Error::from_raw_os_error(-result);
        match -result {
            libc::EAGAIN | libc::EINTR | libc::ECANCELED => Ok(false),
            _ if self.is_over() => {
                self.finished = true;
                Ok(true)
            }
            _ => Err(LinkError::Reset { peer: self.name.clone(), shard: self.shard, source }),
        }
    }

    fn bad_frame(&self, source: Fault) -> LinkError {
        LinkError::BadFrame { peer: self.name.clone(), shard: self.shard, source }
    }

    fn hear(&mut self, now_ns: u64) {
        self.longest_silence_ns = self.longest_silence_ns.max(now_ns.saturating_sub(self.heard_ns));
        self.heard_ns = now_ns;
    }

    /// Fails if nothing was heard for too long.
    pub(super) fn listen(&mut self, now_ns: u64, silence_max_ns: u64) -> Result<(), LinkError> {
        let silent_ns = now_ns.saturating_sub(self.heard_ns);
        if self.finished || silent_ns <= silence_max_ns {
            return Ok(());
        }
        if self.is_over() {
            self.finished = true;
            return Ok(());
        }
        self.longest_silence_ns = self.longest_silence_ns.max(silent_ns);
        Err(LinkError::Silent {
            peer: self.name.clone(),
            shard: self.shard,
            silent_ms: silent_ns / 1_000_000,
            silence_max_ms: silence_max_ns / 1_000_000,
        })
    }

    /// When this line wants a turn at the latest.
    pub(super) fn wake_at_ns(&self, heartbeat_every_ns: u64, silence_max_ns: u64) -> u64 {
        if self.finished {
            return u64::MAX;
        }
        // The nanosecond after the last one in which the peer may be silent.
        let silent = self.heard_ns.saturating_add(silence_max_ns).saturating_add(1);
        if self.sending || self.is_over() {
            return silent;
        }
        silent.min(self.said_ns.saturating_add(heartbeat_every_ns))
    }

    /// Whether a turn would start something.
    pub(super) fn has_work(&mut self, turn: Turn) -> bool {
        if self.finished || self.failed {
            return false;
        }
        if !self.receiving {
            return true;
        }
        if self.sending || self.shut {
            return false;
        }
        let mut due = false;
        self.intake.grants(turn.now_ns, |_, _, _| {
            due = true;
            false
        });
        due || self.outgo.unsent() > 0
            || self.outgo.has_more()
            || (turn.ending && !self.said_goodbye && self.outgo.is_empty())
    }

    pub(super) fn add_figures(&self, figures: &mut LinkFigures) {
        figures.bytes_out += self.bytes_out;
        figures.bytes_in += self.bytes_in;
        figures.frames_out += self.outgo.frames();
        figures.frames_in += self.intake.frames();
        figures.sends += self.sends;
        figures.receives += self.receives;
        figures.zc_copied += self.zc.copied;
        figures.zc_uncopied += self.zc.uncopied;
        figures.payload_bytes_copied += self.intake.copied_bytes();
        figures.longest_silence_ns = figures.longest_silence_ns.max(self.longest_silence_ns);
        if figures.credit_stalls.len() < self.outgo.edges() {
            figures.credit_stalls.resize(self.outgo.edges(), 0);
        }
        for (all, one) in figures.credit_stalls.iter_mut().zip(self.outgo.stalls()) {
            *all += one;
        }
    }

    /// Whether sends without a copy are measured to be none: from now on they are not asked for.
    pub(super) fn measure_zc(&mut self) {
        if self.zc.on && self.zc.copied + self.zc.uncopied >= ZC_TRIALS && self.zc.copied > self.zc.uncopied {
            self.zc.on = false;
        }
    }
}

impl Zc {
    /// The slot of the frame to be sent: that of its first part, or a free one.
    fn begin(&mut self) -> u32 {
        if self.under_way {
            return self.slot;
        }
        self.under_way = true;
        let slot = self.kept.iter().position(|kept| !kept.taken && kept.notices == 0).unwrap_or_else(|| {
            self.kept.push(Kept::default());
            self.kept.len() - 1
        });
        self.kept[slot] = Kept { taken: true, ..Kept::default() };
        self.slot = slot as u32;
        self.slot
    }

    /// The place at which the buffer's pool is registered; none if that is refused.
    fn place(&mut self, ring: &mut Ring, buffer: &Buffer) -> Option<u16> {
        let edge = buffer.header().route().edge;
        let place = self.places? + edge;
        let registered =
            *self.registered[edge as usize].get_or_insert_with(|| ring.register_pool(place, buffer.pool_memory()));
        registered.then_some(place as u16)
    }

    fn notice(&mut self, slot: u32, copied: bool) {
        let kept = &mut self.kept[slot as usize];
        kept.notices -= 1;
        if kept.sent {
            *(if copied { &mut self.copied } else { &mut self.uncopied }) += 1;
        }
    }

    /// Keeps the buffer of the frame under way, once it was sent whole, unless no notice is owed.
    fn keep(&mut self, whole: Option<(usize, Buffer)>) -> Option<(usize, Buffer)> {
        self.kept[self.slot as usize].buffer = Some(whole?);
        self.under_way = false;
        self.give_back(self.slot)
    }

    /// The buffer, if the kernel is done with it.
    fn give_back(&mut self, slot: u32) -> Option<(usize, Buffer)> {
        let kept = &mut self.kept[slot as usize];
        if kept.notices > 0 {
            return None;
        }
        let buffer = kept.buffer.take()?;
        kept.taken = false;
        Some(buffer)
    }
}
