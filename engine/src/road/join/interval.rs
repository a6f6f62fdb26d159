//! The interval join: pairs of rows of a key whose times lie so and so far apart.
//!
//! A left row of time `l` meets the right rows of `l + lower ..= l + upper`, so a right row of time `r` the left ones of
//! `r - upper ..= r - lower`. Once the watermark has come to the end of what a row can meet, it is taken out, by an
//! event-time timer at just that moment.

use std::fmt;
use std::marker::PhantomData;

use millstream_state::Key;
use millstream_state::schema::Described;

use super::JoinRow;
use super::pairing::Pairing;
use crate::road::connect::CoProcess;
use crate::road::process::{BoxError, ProcessContext};
use crate::road::timers::Timer;
use crate::state::{Declare, Handle, KeyedState, StateOptions, TimedRows};
use crate::time::Timestamp;

/// How far apart the rows of a pair may lie: right minus left, in milliseconds, both ends among it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    pub(crate) lower_ms: i64,
    pub(crate) upper_ms: i64,
}

impl Bounds {
    /// As a left row sees the right ones.
    fn of_left(self) -> Reach {
        Reach { lower_ms: self.lower_ms.into(), upper_ms: self.upper_ms.into() }
    }

    /// As a right row sees the left ones.
    fn of_right(self) -> Reach {
        Reach { lower_ms: -i128::from(self.upper_ms), upper_ms: -i128::from(self.lower_ms) }
    }
}

/// How far a row reaches, from its own time.
#[derive(Clone, Copy)]
struct Reach {
    lower_ms: i128,
    upper_ms: i128,
}

impl Reach {
    /// The times that a row of time `at` can meet; none where they lie beyond the ends of time.
    fn around(self, at: i64) -> Option<(i64, i64)> {
        let (from, to) = (i128::from(at) + self.lower_ms, i128::from(at) + self.upper_ms);
        let is_in_time = from <= i64::MAX.into() && to >= i64::MIN.into();
        is_in_time.then_some((clipped(from), clipped(to)))
    }

    /// What a look asks for, at most: as long as that are the stretches that rows are kept in.
    fn stretch_ms(self) -> i64 {
        clipped(self.upper_ms - self.lower_ms + 1)
    }
}

fn clipped(at: i128) -> i64 {
    at.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// The join of [`KeyedStream::interval_join`](crate::KeyedStream::interval_join).
pub struct Interval<L, R, P> {
    bounds: Bounds,
    pairing: P,
    rows: PhantomData<fn(L, R)>,
}

impl<L, R, P> Interval<L, R, P> {
    pub(crate) fn new(bounds: Bounds, pairing: P) -> Self {
        Interval { bounds, pairing, rows: PhantomData }
    }
}

impl<L, R, P> fmt::Debug for Interval<L, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interval({:?})", self.bounds)
    }
}

/// The rows of a key, of both sides, that others can still meet.
#[derive(Debug)]
pub struct TimedSides<L: JoinRow, R: JoinRow> {
    left: TimedRows<L>,
    right: TimedRows<R>,
}

impl<L: JoinRow, R: JoinRow> KeyedState for TimedSides<L, R> {
    fn declare<K: Key + Described>(declare: &mut Declare<'_, K>) -> Self {
        let left = TimedRows::declare(declare, "left", StateOptions::default());
        let right = TimedRows::declare(declare, "right", StateOptions::default());
        TimedSides { left, right }
    }

    fn for_each(&mut self, visit: &mut dyn FnMut(&mut dyn Handle)) {
        visit(&mut self.left);
        visit(&mut self.right);
    }
}

/// One side's row: it meets those of the other side that are there, and stays for those that can still come. `alone` makes
/// what is emitted of it if it has met none and none can come; `is_asked` says whether the other side is asked that.
fn take<K: Key, A: JoinRow, B: JoinRow, U>(
    (row, reach): (&A, Reach),
    (own, other): (&mut TimedRows<A>, &mut TimedRows<B>),
    cx: &mut ProcessContext<'_, K, U>,
    is_asked: bool,
    pair: impl Fn(&B) -> U,
    alone: impl Fn() -> Option<U>,
) {
    let (at, watermark) = (cx.timestamp().0, cx.watermark());
    if at < watermark.0 {
        return cx.is_late();
    }
    let (mut has_met, mut ends_at) = (false, i64::MIN);
    if let Some((from, to)) = reach.around(at) {
        other.look((from, to), reach.stretch_ms(), is_asked, |other, other_at| {
            has_met = true;
            cx.emit_at(pair(other), Timestamp(at.max(other_at)));
        });
        ends_at = to;
    }
    if ends_at > watermark.0 {
        own.keep(row, at, ends_at, has_met, reach.stretch_ms());
        cx.timers().event(Timestamp(ends_at));
    } else if !has_met && let Some(row) = alone() {
        cx.emit(row);
    }
}

/// Takes out one side's rows that can meet no other any more, and emits those that have met none.
fn end<K: Key, A: JoinRow, U>(
    own: &mut TimedRows<A>,
    cx: &mut ProcessContext<'_, K, U>,
    alone: impl Fn(&A) -> Option<U>,
) {
    let now = cx.timestamp();
    own.end(now.0, |row, at, has_met| {
        if !has_met && let Some(row) = alone(row) {
            cx.emit_at(row, now.max(Timestamp(at)));
        }
    });
}

impl<K, L, R, P> CoProcess<K, L, R> for Interval<L, R, P>
where
    K: Key,
    L: JoinRow,
    R: JoinRow,
    P: Pairing<L, R>,
{
    type State = TimedSides<L, R>;
    type Out = P::Out;

    fn on_left(
        &mut self,
        sides: &mut TimedSides<L, R>,
        row: L,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        let (of, sides, pairing) = ((&row, self.bounds.of_left()), (&mut sides.left, &mut sides.right), &self.pairing);
        take(of, sides, cx, P::RIGHT_ALONE, |right| pairing.pair(&row, right), || pairing.left_alone(&row));
        Ok(())
    }

    fn on_right(
        &mut self,
        sides: &mut TimedSides<L, R>,
        row: R,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        let (of, sides, pairing) = ((&row, self.bounds.of_right()), (&mut sides.right, &mut sides.left), &self.pairing);
        take(of, sides, cx, P::LEFT_ALONE, |left| pairing.pair(left, &row), || pairing.right_alone(&row));
        Ok(())
    }

    fn on_timer(
        &mut self,
        sides: &mut TimedSides<L, R>,
        _: Timer,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        end(&mut sides.left, cx, |left| self.pairing.left_alone(left));
        end(&mut sides.right, cx, |right| self.pairing.right_alone(right));
        Ok(())
    }
}
