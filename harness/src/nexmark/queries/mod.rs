//! What each query is on the engine.
//!
//! Each takes of an event what it needs before anything crosses to another shard. Texts that cross are `Text<N>`, with room
//! for what the generator makes; one that does not fit fails the job, none is cut.

mod by_time;
mod highest;
mod joins;
mod statistics;
pub(super) mod stateless;

use std::time::Duration;

use millstream::{Flow, Source, Stream, TimedChain, Tumbling, Watermarks};

use self::stateless::wide;
use super::output::Output;
use super::query::Query;
use super::source::Numbered;

const TEN_SECONDS_MS: i64 = 10_000;

/// Events, from wherever: what all queries begin with.
pub(super) trait Events: Source<Batch = Vec<Numbered>> {}

impl<S: Source<Batch = Vec<Numbered>>> Events for S {}

/// Says what flows.
pub(super) fn flow(query: Query, flow: &Flow, events: impl Events, output: Output) {
    match query {
        Query::Q0 => stateless::q0(flow, events, output),
        Query::Q1 => stateless::q1(flow, events, output),
        Query::Q2 => stateless::q2(flow, events, output),
        Query::Q3 => joins::q3(flow, events, output),
        Query::Q4 => joins::q4(flow, events, output),
        Query::Q5 => highest::q5(flow, events, output),
        Query::Q7 => highest::q7(flow, events, output),
        Query::Q8 => joins::q8(flow, events, output),
        Query::Q9 => joins::q9(flow, events, output),
        Query::Q10 => stateless::q10(flow, events, output),
        Query::Q11 => by_time::q11(flow, events, output),
        Query::Q12 => by_time::q12(flow, events, output),
        Query::Q13 => stateless::q13(flow, events, output),
        Query::Q14 => stateless::q14(flow, events, output),
        Query::Q15 => statistics::q15(flow, events, output),
        Query::Q16 => statistics::q16(flow, events, output),
        Query::Q17 => statistics::q17(flow, events, output),
        Query::Q18 => highest::q18(flow, events, output),
        Query::Q19 => highest::q19(flow, events, output),
        Query::Q20 => joins::q20(flow, events, output),
        Query::Q21 => stateless::q21(flow, events, output),
        Query::Q22 => stateless::q22(flow, events, output),
    }
}

/// Events at their times, which never go back within a split.
fn timed(flow: &Flow, events: impl Events) -> Stream<impl TimedChain<Out = Numbered>> {
    flow.source(events).named("events").event_time(Numbered::at, Watermarks::monotonic()).named("times")
}

/// What most queries need of a bid.
#[millstream::event]
#[derive(Clone, Copy, Default)]
struct BidRow {
    auction: u64,
    bidder: u64,
    price: u64,
    at_ms: i64,
    /// The event's.
    number: u64,
}

/// Bids at their times.
fn bids(flow: &Flow, events: impl Events) -> Stream<impl TimedChain<Out = BidRow>> {
    timed(flow, events).filter_map(|event| {
        event.bid().map(|bid| BidRow {
            auction: wide(bid.auction),
            bidder: wide(bid.bidder),
            price: wide(bid.price),
            at_ms: bid.date_time as i64,
            number: event.number,
        })
    })
}

fn ten_seconds() -> Tumbling {
    Tumbling::of(Duration::from_millis(TEN_SECONDS_MS as u64))
}
