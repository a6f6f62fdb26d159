//! The generator as a job's source. Event `i` is a function of `i`, so split `s` of `S` makes the events `s`, `s + S`, … and
//! nothing else: the same events for every number of shards, from any position on.

use millstream::Timestamp;
use millstream::road::source::{Polled, Source, SourceError, Split};
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::{Auction, Bid, Event, Person};

/// When the first event happens: 2015-07-15 00:00 UTC, in ms.
pub const BASE_TIME_MS: u64 = 1_436_918_400_000;

/// An event has up to eight texts of its own. Of so many events, those are still near when the batch is dropped, and the next
/// one's are made in the same memory.
const EVENTS_PER_POLL_MAX: usize = 128;

/// An event and its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Numbered {
    /// Its place in the generator's order.
    pub number: u64,
    /// What happened.
    pub event: Event,
}

impl Numbered {
    /// When it happened.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        Timestamp(self.event.timestamp() as i64)
    }

    /// The bid, if it is one.
    #[must_use]
    pub fn bid(&self) -> Option<&Bid> {
        if let Event::Bid(bid) = &self.event { Some(bid) } else { None }
    }

    /// The auction that begins, if it is one.
    #[must_use]
    pub fn auction(&self) -> Option<&Auction> {
        if let Event::Auction(auction) = &self.event { Some(auction) } else { None }
    }

    /// The person that joins, if it is one.
    #[must_use]
    pub fn person(&self) -> Option<&Person> {
        if let Event::Person(person) = &self.event { Some(person) } else { None }
    }
}

/// The events `share`, `share + shares`, … below `events`.
///
/// ```
/// use millstream_harness::nexmark::source::Share;
/// let numbers = |share| Share::new(5, share, 2).map(|event| event.number).collect::<Vec<_>>();
/// assert_eq!((numbers(0), numbers(1)), (vec![0, 2, 4], vec![1, 3]));
/// ```
#[derive(Clone, Debug)]
pub struct Share {
    generator: EventGenerator,
    next: u64,
    shares: u64,
    events: u64,
}

impl Share {
    /// From its first event on.
    ///
    /// # Panics
    /// When `shares` is zero.
    #[must_use]
    pub fn new(events: u64, share: u32, shares: u32) -> Share {
        let config = NexmarkConfig { base_time: BASE_TIME_MS, ..NexmarkConfig::default() };
        let (next, shares) = (u64::from(share), u64::from(shares));
        Share { generator: EventGenerator::new(config).with_offset(next).with_step(shares), next, shares, events }
    }

    /// All events, in their order.
    #[must_use]
    pub fn all(events: u64) -> Share {
        Share::new(events, 0, 1)
    }

    /// Goes on at the first of its events whose number is `next` or greater.
    fn seek(&mut self, next: u64) {
        let past = next.saturating_sub(self.next % self.shares).div_ceil(self.shares);
        self.next = self.next % self.shares + past * self.shares;
        self.generator = self.generator.clone().with_offset(self.next);
    }
}

impl Iterator for Share {
    type Item = Numbered;

    fn next(&mut self) -> Option<Numbered> {
        if self.next >= self.events {
            return None;
        }
        let number = self.next;
        self.next += self.shares;
        self.generator.next().map(|event| Numbered { number, event })
    }
}

/// Has the crate make its table of channels, which it does when it is first asked for a bid of a rare one.
pub fn warm_up() {
    for event in Share::all(200) {
        std::hint::black_box(event);
    }
}

/// The first `events` events.
#[derive(Clone, Debug)]
pub struct NexmarkSource {
    events: u64,
}

impl NexmarkSource {
    /// As fast as they are polled.
    #[must_use]
    pub fn new(events: u64) -> NexmarkSource {
        NexmarkSource { events }
    }
}

impl Source for NexmarkSource {
    type Batch = Vec<Numbered>;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<Numbered>>>>, SourceError> {
        let share = Share::new(self.events, shard, shards);
        let name = format!("events-{shard}-of-{shards}");
        Ok(vec![Box::new(NexmarkSplit { share, name })])
    }

    fn describe(&self) -> String {
        format!("nexmark, {} events", self.events)
    }
}

struct NexmarkSplit {
    share: Share,
    name: String,
}

impl Split for NexmarkSplit {
    type Batch = Vec<Numbered>;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn poll(&mut self, out: &mut Vec<Numbered>, rows_max: usize) -> Result<Polled, SourceError> {
        out.extend(self.share.by_ref().take(rows_max.min(EVENTS_PER_POLL_MAX)));
        Ok(if out.is_empty() { Polled::End } else { Polled::Rows })
    }

    fn position(&self) -> u64 {
        self.share.next
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.share.seek(position);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the crate itself makes, one after the other.
    fn plain(events: usize) -> Vec<Event> {
        let config = NexmarkConfig { base_time: BASE_TIME_MS, ..NexmarkConfig::default() };
        EventGenerator::new(config).take(events).collect()
    }

    #[test]
    fn shares_together_are_the_plain_generators_events() {
        let plain = plain(1_003);
        for shares in [1, 2, 3, 7] {
            let mut all: Vec<Numbered> = (0..shares).flat_map(|share| Share::new(1_003, share, shares)).collect();
            all.sort_by_key(|event| event.number);
            assert!(all.iter().map(|event| event.number).eq(0..1_003), "{shares} shares");
            assert!(all.iter().map(|event| &event.event).eq(&plain), "{shares} shares");
        }
    }

    /// All that is left of a split.
    fn rest(split: &mut dyn Split<Batch = Vec<Numbered>>) -> Vec<Numbered> {
        let (mut all, mut polled) = (Vec::new(), Vec::new());
        while split.poll(&mut polled, 1_000).unwrap() == Polled::Rows {
            all.append(&mut polled);
        }
        all
    }

    #[test]
    fn a_split_goes_on_where_it_was() {
        for (shard, shards) in [(0, 1), (1, 3), (2, 3)] {
            let source = NexmarkSource::new(500);
            let open = || source.open(shard, shards).unwrap().remove(0);
            let all = rest(&mut *open());
            assert_eq!(all.len() as u32, (500 - shard).div_ceil(shards));
            let (mut first, mut one) = (open(), Vec::new());
            assert_eq!(first.poll(&mut one, 37).unwrap(), Polled::Rows);
            let mut second = open();
            second.seek(first.position()).unwrap();
            assert_eq!(second.position(), first.position());
            one.append(&mut rest(&mut *second));
            assert_eq!(one, all);
            // At its end, too.
            let mut third = open();
            third.seek(second.position()).unwrap();
            one.clear();
            assert_eq!(third.poll(&mut one, 1_000).unwrap(), Polled::End);
        }
    }

    #[test]
    fn time_never_goes_back() {
        // Watermarks rest on it. Far on, where the crate's floats are coarse, it moves in leaps.
        let config = NexmarkConfig { base_time: BASE_TIME_MS, ..NexmarkConfig::default() };
        for first in [0, 20_000_000, 300_000_000] {
            let mut before = 0;
            for event in EventGenerator::new(config.clone()).with_offset(first).take(20_000) {
                assert!(event.timestamp() >= before, "from event {first} on");
                before = event.timestamp();
            }
        }
    }
}
