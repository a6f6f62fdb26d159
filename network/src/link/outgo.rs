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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::frame::Control;
    use crate::{Doorbell, LaneConfig, Sender, lane};

    /// Lanes of four buffers each, all granted.
    fn outgo(edges: u32) -> (Vec<Sender>, Outgo) {
        let bell = Arc::new(Doorbell::new().expect("a descriptor is left"));
        let lay = |edge| {
            let route = Route { edge, from_shard: 0, to_shard: 1 };
            lane(LaneConfig { route, buffers: 4 }, Arc::clone(&bell), Arc::clone(&bell))
        };
        let (senders, receivers) = (0..edges).map(lay).unzip();
        let mut outgo = Outgo::new(0, 1, receivers, true);
        (0..edges).for_each(|edge| outgo.grant(edge, 4, 4).expect("the whole pool"));
        (senders, outgo)
    }

    fn send(sender: &mut Sender, bytes: usize) {
        let mut buffer = sender.acquire().expect("a buffer is left");
        buffer.advance(bytes);
        buffer.header_mut().put(Control::Idle);
        sender.send(buffer);
    }

    /// Edge and number of each frame in the batch.
    fn batch(outgo: &Outgo) -> Vec<(u32, u64)> {
        let headers = outgo.leaving.iter().map(|leaving| leaving.buffer.header());
        headers.map(|header| (header.route().edge, header.sequence())).collect()
    }

    #[test]
    fn edges_take_turns_in_a_batch_and_over_batches() {
        let (mut senders, mut outgo) = outgo(3);
        (0..4).for_each(|_| send(&mut senders[0], 1));
        (0..2).for_each(|_| send(&mut senders[2], 1));
        assert!(outgo.gather(3));
        assert_eq!(batch(&outgo), [(0, 0), (2, 0), (0, 1)]);
        outgo.sent(outgo.unsent(), None);
        send(&mut senders[1], 1);
        assert!(outgo.gather(FRAMES_MAX));
        assert_eq!(batch(&outgo), [(1, 0), (2, 1), (0, 2), (0, 3)], "whose turn it was has not been forgotten");
        outgo.sent(outgo.unsent(), None);
        assert!(!outgo.gather(FRAMES_MAX) && outgo.is_empty());
    }

    #[test]
    fn a_batch_sent_in_pieces_of_any_size_is_the_same_bytes_and_gives_buffers_back_as_it_goes() {
        for piece in [1, 63, 64, 65, 1000, 70_000, usize::MAX] {
            let (mut senders, mut outgo) = outgo(2);
            assert!(outgo.say(Kind::Heartbeat, 0, 0, 0) && outgo.say(Kind::Credit, 1, 4, 2));
            send(&mut senders[0], 300);
            send(&mut senders[1], 0);
            send(&mut senders[0], 60_000);
            assert!(outgo.gather(FRAMES_MAX));
            let whole: Vec<u8> = outgo.parts().flatten().copied().collect();
            assert_eq!(whole.len(), outgo.unsent());
            assert_eq!(whole.len(), 2 * HEADER_BYTES + (HEADER_BYTES + 300) + HEADER_BYTES + (HEADER_BYTES + 60_000));
            let mut sent: Vec<u8> = Vec::new();
            while outgo.unsent() > 0 {
                let now = piece.min(outgo.unsent());
                sent.extend(outgo.parts().flatten().take(now));
                outgo.sent(now, None);
                let back = [sent.len() >= 492, sent.len() >= 556, sent.len() >= whole.len()];
                let home = senders[0].available() + senders[1].available() - 5;
                assert_eq!(home, back.iter().filter(|back| **back).count(), "after {} bytes", sent.len());
            }
            assert_eq!(sent, whole);
        }
    }

    #[test]
    fn words_beyond_a_batch_wait_for_the_next() {
        let (_senders, mut outgo) = outgo(1);
        let said = (0..100).take_while(|_| outgo.say(Kind::Heartbeat, 0, 0, 0)).count();
        assert_eq!(said, WORDS_MAX);
        assert!(outgo.gather(0));
        outgo.sent(outgo.unsent(), None);
        assert!(outgo.say(Kind::Heartbeat, 0, 0, 0));
        let word: Vec<u8> = outgo.parts().flatten().copied().collect();
        let word = Header::from_wire(word[..].try_into().expect("one word")).expect("it is one");
        assert_eq!(word.sequence(), WORDS_MAX as u64, "and are counted on");
    }
}
