//! The receiving half of a link, without I/O: bytes in, frames and words out.
//!
//! ```text
//!   room ──▶ where the next bytes go:  the rest of the payload, in its lane's own buffer │ the header behind it, here
//!   arrived(bytes) ──▶ so many were put there: a payload that is whole goes to its lane, a header that is whole is believed
//! ```
//!
//! Room for the header behind the payload costs no copy, since a header's place does not matter, and halves the receive
//! operations. Nothing is ever left in the socket for want of a buffer: credit is only granted for buffers that are home.

use super::credit::{CreditError, Till};
use super::debloat::Debloat;
use crate::frame::{FrameError, HEADER_BYTES, Header, Kind, Route, extend_checksum};
use crate::{Buffer, Sender};

/// What is wrong with bytes that came over a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// No header.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame between other shards.
    #[error("a frame from shard {} to shard {} came over the link from shard {from_shard} to shard {to_shard}",
        found.from_shard, found.to_shard)]
    Route {
        /// What the frame says.
        found: Route,
        /// The shard at the other end.
        from_shard: u16,
        /// The shard at this end.
        to_shard: u16,
    },
    /// An edge that the job does not have.
    #[error("a frame of edge {found}, and the job has {edges} edges")]
    Edge {
        /// What the frame says.
        found: u32,
        /// The number of edges; the last is one less.
        edges: usize,
    },
    /// A frame is missing, repeated or out of order.
    #[error("frame {found} of {}, where frame {expected} is due", edge.map_or("the link itself".into(), |edge| format!("edge {edge}")))]
    Sequence {
        /// The edge; none for frames of the link itself.
        edge: Option<u32>,
        /// The number that is due.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// The bytes are not those that were sent.
    #[error("frame {sequence} of edge {edge} has the checksum {computed:#010x}, and was sent with {said:#010x}")]
    Checksum {
        /// The edge.
        edge: u32,
        /// The frame's number.
        sequence: u64,
        /// What it came with.
        said: u32,
        /// What its bytes make.
        computed: u32,
    },
    /// The peer does not keep to the rules of credit.
    #[error("on edge {edge}, {source}")]
    Credit {
        /// The edge.
        edge: u32,
        /// The rule.
        source: CreditError,
    },
    /// Data behind a goodbye, or a second one.
    #[error("a frame of kind {kind:?} after the goodbye")]
    AfterGoodbye {
        /// Its kind.
        kind: Kind,
    },
}

/// What a peer says to the sending half of this end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// So many frames of an edge are granted, all in all, out of a pool of so many buffers.
    Credit {
        /// The edge.
        edge: u32,
        /// How many it grants, all in all.
        granted: u64,
        /// The buffers of its pool.
        pool: u32,
    },
    /// It is alive.
    Heartbeat,
    /// It sends no more data.
    Goodbye,
}

/// What came of a batch of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Arrived {
    /// Frames handed to their lanes.
    pub frames: u32,
    /// What the peer said, if anything: at most once for what [`room`](Intake::room) holds.
    pub word: Option<Word>,
}

/// A line for a header on its way in.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Scratch([u8; HEADER_BYTES]);

/// The lane of an edge, seen from the link that fills it.
#[derive(Debug)]
struct Inlet {
    sender: Sender,
    till: Till,
    debloat: Debloat,
    /// The last look, and whether something lay unread then.
    looked_ns: u64,
    unread: bool,
}

/// A frame whose payload has not come whole.
#[derive(Debug)]
struct Open {
    header: Header,
    buffer: Buffer,
    checksum: u32,
    missing: usize,
}

/// The receiving half of one link.
#[derive(Debug)]
pub struct Intake {
    from_shard: u16,
    to_shard: u16,
    inlets: Vec<Inlet>,
    /// Outgoing edges, of which the peer may grant credit.
    edges_out: usize,
    open: Option<Open>,
    /// Boxed, for the kernel writes here between two calls.
    scratch: Box<Scratch>,
    scratch_bytes: usize,
    words: u64,
    said_goodbye: bool,
    check_crc: bool,
    copied_bytes: u64,
}

impl Intake {
    /// The receiving half of the link from one shard to another, which fills `lanes`, one an edge. Their memory is touched
    /// now: all of it is granted to the peer.
    ///
    /// # Panics
    /// When a lane's route is not that of its place.
    #[must_use]
    pub fn new(
        from_shard: u16,
        to_shard: u16,
        lanes: Vec<Sender>,
        edges_out: usize,
        check_crc: bool,
        in_flight_target_ns: u64,
    ) -> Intake {
        let inlets = lanes.into_iter().enumerate().map(|(edge, mut sender)| {
            let route = Route { edge: edge as u32, from_shard, to_shard };
            assert_eq!(
                sender.route(),
                route,
                "an incoming lane leads from the peer to here, and its place is its edge"
            );
            let pool = u32::try_from(sender.available()).expect("a pool of four billion buffers fits no address space");
            let (till, debloat) = (Till::new(pool), Debloat::new(in_flight_target_ns));
            Inlet { sender, till, debloat, looked_ns: 0, unread: false }
        });
        Intake {
            from_shard,
            to_shard,
            inlets: inlets.collect(),
            edges_out,
            open: None,
            scratch: Box::new(Scratch([0; HEADER_BYTES])),
            scratch_bytes: 0,
            words: 0,
            said_goodbye: false,
            check_crc,
            copied_bytes: 0,
        }
    }

    /// Where the next bytes go: first the rest of an open frame's payload, then the rest of a header. Only the first may be
    /// empty. Whoever fills part of it says so with [`arrived`](Intake::arrived) before asking again.
    pub fn room(&mut self) -> (&mut [u8], &mut [u8]) {
        let payload = match &mut self.open {
            Some(open) => &mut open.buffer.spare_mut()[..open.missing],
            None => &mut [],
        };
        (payload, &mut self.scratch.0[self.scratch_bytes..])
    }

    /// Takes the first `bytes` of the room as filled.
    ///
    /// # Errors
    /// When they are not what a peer sends. Nothing more is to be read then.
    ///
    /// # Panics
    /// When there was not that much room.
    pub fn arrived(&mut self, mut bytes: usize) -> Result<Arrived, Fault> {
        let mut arrived = Arrived::default();
        if let Some(open) = &mut self.open {
            let now = bytes.min(open.missing);
            let had = open.buffer.len();
            open.buffer.advance(now);
            open.missing -= now;
            bytes -= now;
            if self.check_crc {
                // While the bytes are still in the cache that they were just written through.
                open.checksum = extend_checksum(open.checksum, &open.buffer.payload()[had..]);
            }
        }
        if self.open.as_ref().is_some_and(|open| open.missing == 0) {
            self.close()?;
            arrived.frames += 1;
        }
        self.scratch_bytes += bytes;
        assert!(self.scratch_bytes <= HEADER_BYTES, "no more arrives than there was room for");
        if self.scratch_bytes == HEADER_BYTES {
            self.scratch_bytes = 0;
            arrived.word = self.believe()?;
            if self.open.as_ref().is_some_and(|open| open.missing == 0) {
                self.close()?;
                arrived.frames += 1;
            }
        }
        Ok(arrived)
    }

    /// Copies bytes to where they go: for simulations and for tests. A ring has the kernel write there instead.
    ///
    /// # Errors
    /// As [`arrived`](Intake::arrived).
    pub fn feed(&mut self, mut bytes: &[u8], mut hear: impl FnMut(Arrived)) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let (payload, header) = self.room();
            let in_payload = bytes.len().min(payload.len());
            payload[..in_payload].copy_from_slice(&bytes[..in_payload]);
            let in_header = (bytes.len() - in_payload).min(header.len());
            header[..in_header].copy_from_slice(&bytes[in_payload..in_payload + in_header]);
            self.copied_bytes += in_payload as u64;
            hear(self.arrived(in_payload + in_header)?);
            bytes = &bytes[in_payload + in_header..];
        }
        Ok(())
    }

    /// A header has come whole: is it one, and what does it want?
    fn believe(&mut self) -> Result<Option<Word>, Fault> {
        let header = Header::from_wire(&self.scratch.0)?;
        let route = header.route();
        if (route.from_shard, route.to_shard) != (self.from_shard, self.to_shard) {
            return Err(Fault::Route { found: route, from_shard: self.from_shard, to_shard: self.to_shard });
        }
        let kind = header.kind();
        if self.said_goodbye && matches!(kind, Kind::Data | Kind::Goodbye) {
            return Err(Fault::AfterGoodbye { kind });
        }
        if kind == Kind::Data {
            return self.open(header).map(|()| None);
        }
        self.check(&header, header.checksum(&[]))?;
        expect_sequence(None, self.words, header.sequence())?;
        self.words += 1;
        let word = match kind {
            Kind::Credit if route.edge as usize >= self.edges_out => {
                return Err(Fault::Edge { found: route.edge, edges: self.edges_out });
            }
            Kind::Credit => Word::Credit { edge: route.edge, granted: header.mark(), pool: header.count() },
            Kind::Heartbeat => Word::Heartbeat,
            Kind::Data | Kind::Goodbye => {
                self.said_goodbye = true;
                Word::Goodbye
            }
        };
        Ok(Some(word))
    }

    /// Gives a frame that is about to come a buffer of its lane.
    fn open(&mut self, header: Header) -> Result<(), Fault> {
        let edge = header.route().edge;
        let edges = self.inlets.len();
        let inlet = self.inlets.get_mut(edge as usize).ok_or(Fault::Edge { found: edge, edges })?;
        // Here, before the checksum can be known: a number that is wrong is wrong in either case, and what follows the
        // header has to go somewhere.
        expect_sequence(Some(edge), inlet.till.received(), header.sequence())?;
        inlet.till.receive().map_err(|source| Fault::Credit { edge, source })?;
        let buffer = inlet.sender.acquire().expect("credit is only granted for buffers that are home");
        let checksum = if self.check_crc { header.checksum(&[]) } else { 0 };
        self.open = Some(Open { header, buffer, checksum, missing: header.payload_bytes() });
        Ok(())
    }

    /// Hands the open frame, which is whole, to its lane.
    fn close(&mut self) -> Result<(), Fault> {
        let Some(Open { header, mut buffer, checksum, .. }) = self.open.take() else { return Ok(()) };
        self.check(&header, checksum)?;
        buffer.header_mut().carry(&header);
        self.inlets[header.route().edge as usize].sender.send(buffer);
        Ok(())
    }

    fn check(&self, header: &Header, computed: u32) -> Result<(), Fault> {
        if self.check_crc && computed != header.crc32c() {
            let Route { edge, .. } = header.route();
            return Err(Fault::Checksum { edge, sequence: header.sequence(), said: header.crc32c(), computed });
        }
        Ok(())
    }

    /// Looks for buffers that came home, and says which grants it is time for: edge, frames all in all, buffers of the pool.
    /// `say` answers whether it could be said.
    pub fn grants(&mut self, now_ns: u64, mut say: impl FnMut(u32, u64, u32) -> bool) {
        for (edge, inlet) in self.inlets.iter_mut().enumerate() {
            if inlet.till.outstanding() > 0 {
                let open = self.open.as_ref().is_some_and(|open| open.header.route().edge as usize == edge);
                inlet.look(now_ns, open);
            } else {
                inlet.unread = false;
            }
            if let Some(grant) = inlet.till.due()
                && say(edge as u32, grant, inlet.till.pool())
            {
                inlet.till.granted(grant);
            }
        }
    }

    /// Whether the peer has said that it sends no more data.
    #[must_use]
    pub fn said_goodbye(&self) -> bool {
        self.said_goodbye
    }

    /// Whether nothing has come of a frame or of a header that is not whole: whether the stream may end here.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.open.is_none() && self.scratch_bytes == 0
    }

    /// Frames handed to lanes or open.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.inlets.iter().map(|inlet| inlet.till.received()).sum()
    }

    /// Bytes of payload that [`feed`](Intake::feed) copied: where the kernel writes, none.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }
}

impl Inlet {
    /// Counts what came home since the last look; `open` says that one of those outstanding is not yet in the lane.
    fn look(&mut self, now_ns: u64, open: bool) {
        // A buffer that the receiver dropped never comes home. It is never granted again, which is all there is to it.
        let away = self.till.pool() as usize - self.sender.available();
        let came = self.till.outstanding() - away as u64;
        if self.unread {
            self.debloat.observe(came, now_ns.saturating_sub(self.looked_ns));
        }
        if came > 0 {
            self.till.come_home(came);
            self.till.set_window(self.debloat.window(self.till.pool()));
        }
        self.looked_ns = now_ns;
        self.unread = self.till.outstanding() > u64::from(open);
    }
}

fn expect_sequence(edge: Option<u32>, expected: u64, found: u64) -> Result<(), Fault> {
    if found == expected { Ok(()) } else { Err(Fault::Sequence { edge, expected, found }) }
}
