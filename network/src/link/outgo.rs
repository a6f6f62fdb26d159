//! The sending half of a link, without I/O: what goes out next, and what became of it.
//!
//! A batch is what one send operation is given: words of the link first, since a peer may be waiting for credit, then
//! frames, one of each edge in turn that has any and may send them. What is not sent at once is sent before the next batch
//! is gathered, so that the stream keeps its order.

use super::credit::Purse;
use super::intake::Fault;
use crate::frame::{HEADER_BYTES, Header, Kind, Route};
use crate::{Buffer, Receiver};

/// Frames a batch has at most: a megabyte of full ones. More would gain nothing, and keep the credit of others waiting.
pub const FRAMES_MAX: usize = 16;

/// Words a batch has at most: what is due beyond them waits for the next.
pub const WORDS_MAX: usize = 64;

/// Parts of memory a batch lies in at most: all words are one.
pub const PARTS_MAX: usize = 1 + FRAMES_MAX;

/// The lane of an edge, seen from the link that empties it.
#[derive(Debug)]
struct Outlet {
    receiver: Receiver,
    purse: Purse,
    /// A frame waits for credit now.
    stalled: bool,
    stalls: u64,
}

/// A frame in a batch.
#[derive(Debug)]
struct Leaving {
    edge: usize,
    buffer: Buffer,
    /// Where it ends, counted from the batch's start.
    end: usize,
}

/// The sending half of one link.
#[derive(Debug)]
pub struct Outgo {
    from_shard: u16,
    to_shard: u16,
    outlets: Vec<Outlet>,
    /// The edge whose turn it is.
    turn: usize,
    /// Boxed, for the kernel reads here between two calls.
    words: Box<[Header]>,
    words_len: usize,
    words_said: u64,
    /// Those of the batch that have not been sent whole, in order.
    leaving: std::collections::VecDeque<Leaving>,
    batch_bytes: usize,
    sent_bytes: usize,
    write_crc: bool,
}

impl Outgo {
    /// The sending half of the link from one shard to another, which empties `lanes`, one an edge. `write_crc` says whether
    /// data frames get their checksum; words always do.
    ///
    /// # Panics
    /// When a lane's route is not that of its place.
    #[must_use]
    pub fn new(from_shard: u16, to_shard: u16, lanes: Vec<Receiver>, write_crc: bool) -> Outgo {
        let outlets = lanes.into_iter().enumerate().map(|(edge, receiver)| {
            let route = Route { edge: edge as u32, from_shard, to_shard };
            assert_eq!(
                receiver.route(),
                route,
                "an outgoing lane leads from here to the peer, and its place is its edge"
            );
            Outlet { receiver, purse: Purse::new(), stalled: false, stalls: 0 }
        });
        Outgo {
            from_shard,
            to_shard,
            outlets: outlets.collect(),
            turn: 0,
            words: vec![Header::new(Route { edge: 0, from_shard, to_shard }); WORDS_MAX].into_boxed_slice(),
            words_len: 0,
            words_said: 0,
            leaving: std::collections::VecDeque::with_capacity(FRAMES_MAX),
            batch_bytes: 0,
            sent_bytes: 0,
            write_crc,
        }
    }

    /// Edges.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.outlets.len()
    }

    /// Takes the peer's grant.
    ///
    /// # Errors
    /// When no honest peer says so.
    pub fn grant(&mut self, edge: u32, granted: u64, pool: u32) -> Result<(), Fault> {
        let edges = self.edges();
        let outlet = self.outlets.get_mut(edge as usize).ok_or(Fault::Edge { found: edge, edges })?;
        outlet.purse.grant(granted, pool).map_err(|source| Fault::Credit { edge, source })
    }

    /// Puts a word into the next batch: `count` and `mark` are a grant's pool and number, otherwise 0. False if it has to
    /// wait for the batch after.
    ///
    /// # Panics
    /// When a batch is under way.
    pub fn say(&mut self, kind: Kind, edge: u32, count: u32, mark: u64) -> bool {
        assert!(self.leaving.is_empty() && self.sent_bytes == 0, "a batch under way does not change");
        let Some(word) = self.words.get_mut(self.words_len) else { return false };
        let route = Route { edge, from_shard: self.from_shard, to_shard: self.to_shard };
        *word = Header::of_link(kind, route, self.words_said, count, mark);
        self.words_said += 1;
        self.words_len += 1;
        self.batch_bytes += HEADER_BYTES;
        true
    }

    /// Adds frames of all edges in turn to the batch, as far as there are any, credit allows and `frames_max` does. True if
    /// the batch, words included, holds anything.
    ///
    /// # Panics
    /// When a batch is under way.
    pub fn gather(&mut self, frames_max: usize) -> bool {
        assert!(self.leaving.is_empty() && self.sent_bytes == 0, "a batch under way does not change");
        let mut refused = 0;
        while self.leaving.len() < frames_max.min(FRAMES_MAX) && refused < self.outlets.len() {
            let edge = self.turn;
            self.turn = if edge + 1 == self.outlets.len() { 0 } else { edge + 1 };
            let Some(buffer) = self.outlets[edge].take(self.write_crc) else {
                refused += 1;
                continue;
            };
            refused = 0;
            self.batch_bytes += buffer.as_bytes().len();
            self.leaving.push_back(Leaving { edge, buffer, end: self.batch_bytes });
        }
        self.batch_bytes > 0
    }

    /// The bytes of the batch that are still to be sent, in order, in at most [`PARTS_MAX`] parts. They stay where they are
    /// until [`sent`](Outgo::sent) takes them.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let words_bytes = self.words_len * HEADER_BYTES;
        let words_from = self.sent_bytes.min(words_bytes);
        let words = &header_bytes(&self.words[..self.words_len])[words_from..];
        let frames = self.leaving.iter().map(|leaving| {
            let bytes = leaving.buffer.as_bytes();
            let start = leaving.end - bytes.len();
            &bytes[self.sent_bytes.saturating_sub(start)..]
        });
        std::iter::once(words).filter(|words| !words.is_empty()).chain(frames)
    }

    /// Bytes of the batch that are still to be sent.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.batch_bytes - self.sent_bytes
    }

    /// The frame of a batch that is one frame and nothing else: its buffer, and the bytes still to be sent.
    #[must_use]
    pub(super) fn lone_frame(&self) -> Option<(&Buffer, &[u8])> {
        let first = self.leaving.front().filter(|first| first.end == self.batch_bytes)?;
        let bytes = first.buffer.as_bytes();
        (bytes.len() == self.batch_bytes).then(|| (&first.buffer, &bytes[self.sent_bytes..]))
    }

    /// Takes the next `bytes` of the batch as sent, and gives back what was sent whole: to its lane, or to `keep` if the
    /// kernel is not done with it.
    ///
    /// # Panics
    /// When the batch was not that long.
    pub fn sent(&mut self, bytes: usize, mut keep: Option<&mut Vec<(usize, Buffer)>>) {
        assert!(bytes <= self.unsent(), "no more is sent than there was");
        self.sent_bytes += bytes;
        while let Some(Leaving { edge, buffer, .. }) = self.leaving.pop_front_if(|first| first.end <= self.sent_bytes) {
            match &mut keep {
                Some(kept) => kept.push((edge, buffer)),
                None => self.release(edge, buffer),
            }
        }
        if self.sent_bytes == self.batch_bytes {
            (self.batch_bytes, self.sent_bytes, self.words_len) = (0, 0, 0);
        }
    }

    /// Gives a buffer that was kept back to its lane.
    pub fn release(&mut self, edge: usize, buffer: Buffer) {
        self.outlets[edge].receiver.release(buffer);
    }

    /// Whether a frame lies in a lane that may be sent.
    #[must_use]
    pub fn has_more(&mut self) -> bool {
        self.outlets.iter_mut().any(|outlet| outlet.purse.left() > 0 && !outlet.receiver.is_empty())
    }

    /// Whether all lanes are empty and everything taken from them was sent.
    #[must_use]
    pub fn is_empty(&mut self) -> bool {
        self.unsent() == 0 && self.outlets.iter_mut().all(|outlet| outlet.receiver.is_empty())
    }

    /// Frames taken from lanes so far.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.outlets.iter().map(|outlet| outlet.purse.spent()).sum()
    }

    /// For each edge, how often a frame had to wait for credit.
    pub fn stalls(&self) -> impl Iterator<Item = u64> {
        self.outlets.iter().map(|outlet| outlet.stalls)
    }
}

impl Outlet {
    /// The next frame, sealed if asked for, if there is one and credit for it.
    fn take(&mut self, write_crc: bool) -> Option<Buffer> {
        if self.purse.left() == 0 {
            if !self.stalled && !self.receiver.is_empty() {
                (self.stalled, self.stalls) = (true, self.stalls + 1);
            }
            return None;
        }
        let mut buffer = self.receiver.receive()?;
        self.stalled = false;
        self.purse.spend();
        if write_crc {
            let checksum = buffer.header().checksum(buffer.payload());
            buffer.header_mut().seal(checksum);
        }
        Some(buffer)
    }
}

/// Headers that lie one behind the other, as they travel.
#[expect(unsafe_code, reason = "the header is its own encoding, as in `Header::as_bytes`")]
fn header_bytes(headers: &[Header]) -> &[u8] {
    // SAFETY: a `Header` is as many bytes as this says, all initialised, without padding between two of them; a byte needs
    // no alignment.
    unsafe { std::slice::from_raw_parts(headers.as_ptr().cast(), headers.len() * HEADER_BYTES) }
}
