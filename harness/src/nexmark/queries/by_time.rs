//! q11, q12: how many bids of a bidder lie together, in event time and by the wall clock.

use std::time::Duration;

use millstream::{Count, Flow, Session};

use super::{Events, TEN_SECONDS_MS, bids, ten_seconds};
use crate::nexmark::output::Output;

/// q11: a row for each session, when it has ended. A bid exactly ten seconds behind the one before still joins it.
pub(super) fn q11(flow: &Flow, events: impl Events, output: Output) {
    bids(flow, events)
        .map(|bid| bid.bidder)
        .key_by(|bidder| *bidder)
        .window(Session::gap(Duration::from_millis(TEN_SECONDS_MS as u64)))
        .aggregate(Count)
        .named("sessions")
        .filter_map(|session| {
            let window = session.window?;
            Some((session.key, session.value, [window.start.0, window.end.0]))
        })
        .sink(output);
}

/// q12: a row for each bidder and ten seconds of wall time in which a bid of theirs was taken.
pub(super) fn q12(flow: &Flow, events: impl Events, output: Output) {
    bids(flow, events)
        .map(|bid| bid.bidder)
        .key_by(|bidder| *bidder)
        .window(ten_seconds().processing_time())
        .aggregate(Count)
        .named("by wall clock")
        .filter_map(|counted| {
            let window = counted.window?;
            Some((counted.key, counted.value, [window.start.0, window.end.0]))
        })
        .sink(output);
}
