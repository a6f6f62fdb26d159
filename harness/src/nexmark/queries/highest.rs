//! q5, q7: what stands highest in a window, all that are level. q18, q19: the last, and the ten highest, of each key.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use millstream::state::{KeyedState, List, Value};
use millstream::{
    AtEndOfInput, BoxError, Count, Flow, Global, Process, ProcessContext, Reduced, Sliding, Stream, TimedChain, Timer,
    Timestamp, Top,
};

use super::{BidRow, Events, TEN_SECONDS_MS, bids};
use crate::nexmark::output::Output;

const SLIDE: Duration = Duration::from_secs(2);

/// q5: bids are counted by auction and sliding window, and of each window those counts go on that nothing beats.
pub(super) fn q5(flow: &Flow, events: impl Events, output: Output) {
    let counts = bids(flow, events)
        .key_by(|bid| bid.auction)
        .window(Sliding::of(Duration::from_millis(TEN_SECONDS_MS as u64)).every(SLIDE))
        .aggregate(Count)
        .named("counts");
    let candidates = counts.map(|counted| {
        let bid = BidRow { auction: counted.key, ..BidRow::default() };
        Candidate { window_ms: counted.window.start.0, score: counted.value, bid }
    });
    highest_of_each_window(candidates).map(|found| (found.window_ms, [found.bid.auction, found.score])).sink(output);
}

/// q7: of each ten seconds, the bids that nothing beats.
pub(super) fn q7(flow: &Flow, events: impl Events, output: Output) {
    let candidates = bids(flow, events).map(|bid| {
        let window_ms = bid.at_ms - bid.at_ms.rem_euclid(TEN_SECONDS_MS);
        Candidate { window_ms, score: bid.price, bid: *bid }
    });
    highest_of_each_window(candidates)
        .map(|Candidate { window_ms, bid, .. }| (*window_ms, [bid.auction, bid.bidder, bid.price], bid.at_ms))
        .sink(output);
}

/// What may be the highest of a window of ten seconds.
#[millstream::event]
#[derive(Clone, Copy)]
struct Candidate {
    window_ms: i64,
    score: u64,
    bid: BidRow,
}

/// All candidates that are level at the top of their window, once it is complete.
///
/// Of a window, one shard decides; so each shard first keeps back what one of its own rows has beaten.
fn highest_of_each_window(
    candidates: Stream<impl TimedChain<Out = Candidate>>,
) -> Stream<impl TimedChain<Out = Candidate>> {
    let best = BestSoFar::default();
    candidates
        .filter(move |candidate| best.keeps(candidate))
        .named("unbeaten")
        .key_by(|candidate| candidate.window_ms)
        .process(Highest)
        .named("highest")
}

/// The best score that has passed here, by window. It is in no checkpoint: after a restart more passes again, which changes
/// nothing, since what has passed is kept where it went.
#[derive(Default)]
struct BestSoFar(RefCell<BTreeMap<i64, u64>>);

/// Windows of which it knows: those open at a time are fewer.
const WINDOWS_KNOWN_MAX: usize = 16;

impl BestSoFar {
    fn keeps(&self, candidate: &Candidate) -> bool {
        let mut best = self.0.borrow_mut();
        let of_window = best.entry(candidate.window_ms).or_insert(0);
        let is_unbeaten = candidate.score >= *of_window;
        *of_window = candidate.score.max(*of_window);
        if best.len() > WINDOWS_KNOWN_MAX {
            best.pop_first();
        }
        is_unbeaten
    }
}

#[derive(KeyedState)]
struct Level {
    score: Value<u64>,
    candidates: List<Candidate>,
}

struct Highest;

impl Process<i64, Candidate> for Highest {
    type State = Level;
    type Out = Candidate;

    fn on_event(
        &mut self,
        level: &mut Level,
        candidate: Candidate,
        cx: &mut ProcessContext<'_, i64, Candidate>,
    ) -> Result<(), BoxError> {
        let before = level.score.get().copied();
        if before.is_none() {
            cx.timers().event(Timestamp(candidate.window_ms + TEN_SECONDS_MS - 1));
        }
        if before.is_some_and(|before| before > candidate.score) {
            return Ok(());
        }
        if before != Some(candidate.score) {
            level.score.set(candidate.score);
            level.candidates.clear();
        }
        level.candidates.push(candidate);
        Ok(())
    }

    fn on_timer(
        &mut self,
        level: &mut Level,
        _: Timer,
        cx: &mut ProcessContext<'_, i64, Candidate>,
    ) -> Result<(), BoxError> {
        level.candidates.iter().for_each(|candidate| cx.emit(*candidate));
        level.candidates.clear();
        level.score.clear();
        Ok(())
    }
}

#[millstream::event(key)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct BidderAndAuction {
    bidder: u64,
    auction: u64,
}

/// q18: the last bid of each bidder on each auction. Of one time, the later in the generator's order is the last; numbers
/// rise with time, so the greatest number is it.
pub(super) fn q18(flow: &Flow, events: impl Events, output: Output) {
    bids(flow, events)
        .key_by(|bid| BidderAndAuction { bidder: bid.bidder, auction: bid.auction })
        .window(Global)
        .trigger(AtEndOfInput)
        .aggregate(Reduced::by(|one: &BidRow, other: &BidRow| if one.number > other.number { *one } else { *other }))
        .named("last")
        .map(|last| ([last.value.auction, last.value.bidder, last.value.price], last.value.at_ms))
        .sink(output);
}

/// q19: the ten highest prices of each auction, with their ranks.
pub(super) fn q19(flow: &Flow, events: impl Events, output: Output) {
    bids(flow, events)
        .map(|bid| [bid.auction, bid.price])
        .key_by(|[auction, _]| *auction)
        .window(Global)
        .trigger(AtEndOfInput)
        .aggregate(Top::<10, u64, _>::of(|[_, price]: &[u64; 2]| *price))
        .named("top")
        .flat_map(|top| {
            let auction = top.key;
            let ranked = top.value.iter().copied().zip(1_u64..).map(move |(price, rank)| [auction, rank, price]);
            ranked.collect::<Vec<_>>()
        })
        .sink(output);
}
