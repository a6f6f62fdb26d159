//! q0, q1, q2, q14, q21, q22: a bid in, at most one row out. What becomes of a bid is a function of its own, which the
//! hand-written loop calls as well.

use millstream::Flow;
use nexmark::event::Bid;

use super::Events;
use crate::nexmark::output::Output;
use crate::nexmark::row::Fields;

/// What a dollar is in thousandths of a euro.
const EURO_THOUSANDTHS: u64 = 908;
const HOUR_MS: u64 = 3_600_000;

/// Every bid that `row` makes something of.
fn each_bid<R: Fields>(flow: &Flow, events: impl Events, row: impl Fn(&Bid) -> Option<R> + 'static, output: Output) {
    flow.source(events).named("events").filter_map(move |event| row(event.bid()?)).sink(output);
}

macro_rules! queries_of_bids {
    ($($query:ident $row:ident)*) => {$(
        pub(in crate::nexmark) fn $query(flow: &Flow, events: impl Events, output: Output) {
            each_bid(flow, events, $row, output);
        }
    )*};
}
queries_of_bids! { q0 as_it_is q1 in_euros q2 of_some_auctions q14 calculated q21 with_channel_id q22 with_directories }

/// A number of the generator's, which counts in the machine's words.
pub(in crate::nexmark) fn wide(number: usize) -> u64 {
    number as u64
}

pub(in crate::nexmark) fn as_it_is(bid: &Bid) -> Option<[u64; 4]> {
    Some([wide(bid.auction), wide(bid.bidder), wide(bid.price), bid.date_time])
}

pub(in crate::nexmark) fn in_euros(bid: &Bid) -> Option<[u64; 4]> {
    Some([wide(bid.auction), wide(bid.bidder), euros(bid), bid.date_time])
}

fn euros(bid: &Bid) -> u64 {
    wide(bid.price) * EURO_THOUSANDTHS
}

pub(in crate::nexmark) fn of_some_auctions(bid: &Bid) -> Option<[u64; 2]> {
    bid.auction.is_multiple_of(123).then(|| [wide(bid.auction), wide(bid.price)])
}

/// Auction, bidder and price; the time of day; when; how often there is a `c` in what is beside.
pub(in crate::nexmark) type Calculated = ([u64; 3], &'static str, [u64; 2]);

pub(in crate::nexmark) fn calculated(bid: &Bid) -> Option<Calculated> {
    let price = euros(bid);
    if price <= 1_000_000_000 || price >= 50_000_000_000 {
        return None;
    }
    let time_type = match bid.date_time / HOUR_MS % 24 {
        8..=18 => "dayTime",
        ..=6 | 20.. => "nightTime",
        _ => "otherTime",
    };
    let count_of_c = bid.extra.bytes().filter(|byte| *byte == b'c').count();
    Some(([wide(bid.auction), wide(bid.bidder), price], time_type, [bid.date_time, wide(count_of_c)]))
}

pub(in crate::nexmark) fn with_channel_id(bid: &Bid) -> Option<([u64; 3], String)> {
    let id = channel_id(bid)?;
    Some(([wide(bid.auction), wide(bid.bidder), wide(bid.price)], id.to_owned()))
}

/// The channel's number: that of a known one, or the one in the url. A bid without either is in no result.
fn channel_id(bid: &Bid) -> Option<&str> {
    const KNOWN: [(&str, &str); 4] = [("apple", "0"), ("google", "1"), ("facebook", "2"), ("baidu", "3")];
    if let Some((_, id)) = KNOWN.iter().find(|(name, _)| bid.channel.eq_ignore_ascii_case(name)) {
        return Some(id);
    }
    // The pattern is (&|^)channel_id=([^&]*).
    bid.url.split('&').find_map(|part| part.strip_prefix("channel_id="))
}

pub(in crate::nexmark) fn with_directories(bid: &Bid) -> Option<([u64; 3], [String; 3])> {
    let mut parts = bid.url.split('/').skip(3);
    let mut directory = || parts.next().unwrap_or("").to_owned();
    let directories = [directory(), directory(), directory()];
    Some(([wide(bid.auction), wide(bid.bidder), wide(bid.price)], directories))
}
