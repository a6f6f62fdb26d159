//! q11, q12: how many bids of a bidder lie together, in event time and by the wall clock.

use millstream::state::{KeyedState, List, Value};
use millstream::{BoxError, Flow, Process, ProcessContext, Timer, Timestamp, WallTime};

use super::{BidRow, Events, TEN_SECONDS_MS, bids};
use crate::nexmark::output::Output;

/// A bidder's bids from the first to the last that is no more than ten seconds behind the one before.
#[millstream::event]
#[derive(Clone, Copy)]
struct Session {
    first_ms: i64,
    last_ms: i64,
    bids: u64,
}

impl Session {
    /// From when on a bid does not belong to it any more.
    fn ends_ms(&self) -> i64 {
        self.last_ms + TEN_SECONDS_MS
    }

    fn touches(&self, other: &Session) -> bool {
        self.first_ms <= other.ends_ms() && other.first_ms <= self.ends_ms()
    }

    fn and(&self, other: &Session) -> Session {
        Session {
            first_ms: self.first_ms.min(other.first_ms),
            last_ms: self.last_ms.max(other.last_ms),
            bids: self.bids + other.bids,
        }
    }
}

#[derive(KeyedState)]
struct Sessions {
    /// Mostly one: bids of several shards overtake each other, and so a later session may begin before one has ended.
    open: List<Session>,
}

struct BySession;

impl Process<u64, BidRow> for BySession {
    type State = Sessions;
    type Out = (u64, Session);

    fn on_event(
        &mut self,
        sessions: &mut Sessions,
        bid: BidRow,
        cx: &mut ProcessContext<'_, u64, (u64, Session)>,
    ) -> Result<(), BoxError> {
        let mut session = Session { first_ms: bid.at_ms, last_ms: bid.at_ms, bids: 1 };
        let touched: Vec<Session> = sessions.open.iter().copied().filter(|open| open.touches(&session)).collect();
        for open in &touched {
            cx.timers().delete_event(Timestamp(open.ends_ms()));
            session = session.and(open);
        }
        sessions.open.retain(|open| !touched.iter().any(|touched| touched.first_ms == open.first_ms));
        sessions.open.push(session);
        cx.timers().event(Timestamp(session.ends_ms()));
        Ok(())
    }

    fn on_timer(
        &mut self,
        sessions: &mut Sessions,
        _: Timer,
        cx: &mut ProcessContext<'_, u64, (u64, Session)>,
    ) -> Result<(), BoxError> {
        let (bidder, now) = (*cx.key(), cx.timestamp());
        sessions.open.iter().filter(|open| Timestamp(open.ends_ms()) <= now).for_each(|open| cx.emit((bidder, *open)));
        sessions.open.retain(|open| Timestamp(open.ends_ms()) > now);
        Ok(())
    }
}

/// q11: a row for each session, when it has ended.
pub(super) fn q11(flow: &Flow, events: impl Events, output: Output) {
    bids(flow, events)
        .key_by(|bid| bid.bidder)
        .process(BySession)
        .named("sessions")
        .map(|(bidder, session)| (*bidder, session.bids, [session.first_ms, session.ends_ms()]))
        .sink(output);
}

#[derive(KeyedState)]
struct Now {
    /// Where the window begins that is open, and how many bids came in it.
    window_ms: Value<i64>,
    bids: Value<u64>,
}

/// A bidder, bids, and the window's begin and end.
type Counted = (u64, u64, [i64; 2]);

impl Now {
    fn close(&mut self, cx: &mut ProcessContext<'_, u64, Counted>) {
        if let Some(window_ms) = self.window_ms.get().copied() {
            let bidder = *cx.key();
            cx.emit((bidder, self.bids.get_or(0), [window_ms, window_ms + TEN_SECONDS_MS]));
        }
        self.window_ms.clear();
        self.bids.clear();
    }
}

struct ByWallClock;

impl Process<u64, BidRow> for ByWallClock {
    type State = Now;
    type Out = Counted;

    fn on_event(
        &mut self,
        now: &mut Now,
        _: BidRow,
        cx: &mut ProcessContext<'_, u64, Counted>,
    ) -> Result<(), BoxError> {
        let WallTime(now_ms) = cx.now();
        let window_ms = now_ms - now_ms.rem_euclid(TEN_SECONDS_MS);
        if now.window_ms.get().is_none_or(|open| *open < window_ms) {
            now.close(cx);
            now.window_ms.set(window_ms);
            cx.timers().processing(WallTime(window_ms + TEN_SECONDS_MS));
            // Wall time stops with the input: what is open then is closed by it.
            cx.timers().event(Timestamp::MAX);
        }
        now.bids.update_or(0, |bids| *bids += 1);
        Ok(())
    }

    fn on_timer(
        &mut self,
        now: &mut Now,
        timer: Timer,
        cx: &mut ProcessContext<'_, u64, Counted>,
    ) -> Result<(), BoxError> {
        let is_over = match timer {
            Timer::Processing(WallTime(at_ms)) => now.window_ms.get().is_some_and(|open| *open < at_ms),
            Timer::Event(_) => true,
        };
        if is_over {
            now.close(cx);
        }
        Ok(())
    }
}

/// q12: a row for each bidder and ten seconds of wall time in which a bid of theirs was taken.
pub(super) fn q12(flow: &Flow, events: impl Events, output: Output) {
    bids(flow, events).key_by(|bid| bid.bidder).process(ByWallClock).named("by wall clock").sink(output);
}
