//! q15, q16, q17: what a day's bids were like. Distinct bidders and auctions are counted exactly, in two steps: first by
//! each bidder and auction, on all shards, then summed up, a row for each of those. Both steps fold before they exchange.

use std::time::Duration;

use millstream::{Aggregate, Flow, Max, Min, OnError, Stream, Sum, Text, TimedChain, Tumbling};
use nexmark::event::Bid;

use super::stateless::wide;
use super::{BidRow, Events, bids, timed};
use crate::nexmark::output::Output;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// Channels of the generator's have up to 12 bytes: `channel-9999`.
type Channel = Text<16>;

fn a_day() -> Tumbling {
    Tumbling::of(Duration::from_millis(DAY_MS as u64))
}

/// q15: a row for each day.
pub(super) fn q15(flow: &Flow, events: impl Events, output: Output) {
    let bids = bids(flow, events).flat_map(|bid| {
        let of = |is_bidder, id| Of { channel: Channel::EMPTY, id, is_bidder };
        [of(1, bid.bidder), of(0, bid.auction)].map(|of| OneBid { of, price: bid.price, minute: 0 })
    });
    by_day_and_channel(bids).map(|row| (row.day, row.totals.fields())).sink(output);
}

/// q16: a row for each channel and day.
pub(super) fn q16(flow: &Flow, events: impl Events, output: Output) {
    let bids = timed(flow, events)
        .filter(|event| event.bid().is_some())
        .try_map(
            |event| {
                let Some(bid) = event.bid() else { return Err("an event that is no bid".to_owned()) };
                two_of(bid).map_err(|error| error.to_string())
            },
            OnError::Fail,
        )
        .flat_map(|both| *both);
    by_day_and_channel(bids).map(|row| (row.channel, row.day, row.minute, row.totals.fields())).sink(output);
}

/// A bid as one of its bidder and one of its auction.
fn two_of(bid: &Bid) -> Result<[OneBid; 2], millstream_state::TextError> {
    let channel = Channel::try_from(bid.channel.as_str())?;
    let minute = (bid.date_time as i64).rem_euclid(DAY_MS) / MINUTE_MS;
    let of = |is_bidder, id| OneBid { of: Of { channel, id, is_bidder }, price: wide(bid.price), minute };
    Ok([of(1, wide(bid.bidder)), of(0, wide(bid.auction))])
}

/// q17: a row for each auction and day.
pub(super) fn q17(flow: &Flow, events: impl Events, output: Output) {
    bids(flow, events)
        .key_by(|bid| bid.auction)
        .window(a_day())
        .aggregate((
            Ranks::of(|bid: &BidRow| bid.price),
            Min::of(|bid: &BidRow| bid.price),
            Max::of(|bid: &BidRow| bid.price),
            Sum::of(|bid: &BidRow| bid.price),
        ))
        .named("by auction")
        .map(|row| {
            let (ranks, min, max, sum) = row.value;
            let all: u64 = ranks.iter().sum();
            ([row.key], row.window.start.0 / DAY_MS, all, ranks, [min, max, sum])
        })
        .sink(output);
}

/// A bidder or an auction, of a channel where that matters.
#[millstream::event(key)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Of {
    channel: Channel,
    id: u64,
    /// One for a bidder, zero for an auction.
    is_bidder: u64,
}

/// A bid, seen as one of its bidder or of its auction.
#[derive(Clone, Copy)]
struct OneBid {
    of: Of,
    price: u64,
    minute: i64,
}

/// What a day was like, on one channel or on all.
struct DayRow {
    channel: Channel,
    day: i64,
    minute: i64,
    totals: Totals,
}

fn by_day_and_channel(bids: Stream<impl TimedChain<Out = OneBid>>) -> Stream<impl TimedChain<Out = DayRow>> {
    bids.key_by(|bid| bid.of)
        .window(a_day())
        .aggregate((Ranks::of(|bid: &OneBid| bid.price), Max::of(|bid: &OneBid| bid.minute)))
        .named("each")
        .map(|each| {
            let (ranks, minute) = each.value;
            (each.key.channel, Totals::of_one(each.key.is_bidder == 1, ranks), minute)
        })
        .key_by(|(channel, _, _)| *channel)
        .window(a_day())
        .aggregate((Totaled, Max::of(|(_, _, minute): &(Channel, Totals, i64)| *minute)))
        .named("all")
        .map(|all| {
            let (totals, minute) = all.value;
            DayRow { channel: all.key, day: all.window.start.0 / DAY_MS, minute, totals }
        })
}

/// How many prices there were of each of three ranks: below 10,000, below 1,000,000, and the others.
struct Ranks<F>(F);

impl<F> Ranks<F> {
    fn of<T>(price: F) -> Ranks<F>
    where
        F: Fn(&T) -> u64,
    {
        Ranks(price)
    }
}

impl<T, F: Fn(&T) -> u64> Aggregate<T> for Ranks<F> {
    type Input = u64;
    type Acc = [u64; 3];
    type Out = [u64; 3];

    fn lift(&self, row: &T) -> u64 {
        match (self.0)(row) {
            ..10_000 => 0,
            10_000..1_000_000 => 1,
            _ => 2,
        }
    }

    fn init(&self) -> [u64; 3] {
        [0; 3]
    }

    fn add(&self, acc: &mut [u64; 3], rank: u64) {
        acc[rank as usize] += 1;
    }

    fn merge(&self, into: &mut [u64; 3], other: &[u64; 3]) {
        into.iter_mut().zip(other).for_each(|(into, other)| *into += other);
    }

    fn finish(&self, acc: &[u64; 3]) -> [u64; 3] {
        *acc
    }
}

/// Bids, bidders and auctions, of each all of them and those with a price of each rank.
#[millstream::event]
#[derive(Clone, Copy)]
struct Totals {
    bids: [u64; 4],
    bidders: [u64; 4],
    auctions: [u64; 4],
}

impl Totals {
    /// What one bidder or auction adds, with so many bids of each rank. Bids are counted with their bidders.
    fn of_one(is_bidder: bool, ranks: [u64; 3]) -> Totals {
        let [low, middle, high] = ranks;
        let one = [1, u64::from(low > 0), u64::from(middle > 0), u64::from(high > 0)];
        match is_bidder {
            true => Totals { bids: [low + middle + high, low, middle, high], bidders: one, auctions: [0; 4] },
            false => Totals { bids: [0; 4], bidders: [0; 4], auctions: one },
        }
    }

    fn fields(&self) -> [[u64; 4]; 3] {
        [self.bids, self.bidders, self.auctions]
    }
}

/// The sum of totals.
struct Totaled;

impl Aggregate<(Channel, Totals, i64)> for Totaled {
    type Input = Totals;
    type Acc = Totals;
    type Out = Totals;

    fn lift(&self, (_, totals, _): &(Channel, Totals, i64)) -> Totals {
        *totals
    }

    fn init(&self) -> Totals {
        Totals { bids: [0; 4], bidders: [0; 4], auctions: [0; 4] }
    }

    fn add(&self, acc: &mut Totals, one: Totals) {
        self.merge(acc, &one);
    }

    fn merge(&self, into: &mut Totals, other: &Totals) {
        let pairs =
            [(&mut into.bids, &other.bids), (&mut into.bidders, &other.bidders), (&mut into.auctions, &other.auctions)];
        for (into, other) in pairs {
            into.iter_mut().zip(other).for_each(|(into, other)| *into += other);
        }
    }

    fn finish(&self, acc: &Totals) -> Totals {
        *acc
    }
}
