//! Ingestion time enters the road: a row happened when it was read, and time goes on by itself.

use super::chain::{Chain, Signal, Stage, delegate_to_next};
use super::event_time::TICK_MS;
use super::has_time::Timed;
use super::rows::Rows;
use crate::job::graph::{Graph, NodeId};
use crate::run::fault::Fault;
use crate::run::task::Cx;
use crate::time::Timestamp;

/// Takes the wall time of the turn that reads a row for its event time.
#[derive(Debug)]
pub struct IngestionTime<C> {
    pub(crate) upstream: C,
    pub(crate) node: NodeId,
}

struct IngestionStage<N> {
    time: IngestionClock,
    node: NodeId,
    next: N,
}

impl<C: Chain> Chain for IngestionTime<C> {
    type Out = C::Out;
    type Time = Timed;

    fn attach<N: Stage<C::Out>>(self, next: N, graph: &mut Graph) {
        let time = IngestionClock { newest: Timestamp::MIN, told: Timestamp::MIN, is_over: false };
        self.upstream.attach(IngestionStage { time, node: self.node, next }, graph);
    }
}

/// The wall clock's time, which may be set back, made to go on only. No clock of its own: wall time in, event time out.
#[derive(Debug)]
struct IngestionClock {
    newest: Timestamp,
    /// The last watermark.
    told: Timestamp,
    /// Nothing can come any more.
    is_over: bool,
}

impl IngestionClock {
    /// The time of rows that are read now.
    fn stamp(&mut self, now_ms: i64) -> Timestamp {
        self.newest = self.newest.max(Timestamp(now_ms));
        self.newest
    }

    /// The watermark by now, if it has moved since the last one by `by_ms` at least. More rows may come in this very
    /// millisecond, so it is the one before that is over.
    fn watermark(&mut self, now_ms: i64, by_ms: i64) -> Option<Timestamp> {
        let watermark = self.stamp(now_ms).plus_ms(-1);
        (!self.is_over && watermark >= self.told.plus_ms(by_ms)).then(|| {
            self.told = watermark;
            watermark
        })
    }
}

/// Rows that were read in one moment.
struct Stamped<'a, R> {
    rows: &'a R,
    at: Timestamp,
}

impl<R: Rows> Rows for Stamped<'_, R> {
    type Item = R::Item;

    #[inline(always)]
    fn len(&self) -> usize {
        self.rows.len()
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &R::Item {
        self.rows.row(index)
    }

    #[inline(always)]
    fn at(&self, _index: usize) -> Timestamp {
        self.at
    }

    #[inline(always)]
    fn origin(&self, index: usize) -> Option<usize> {
        self.rows.origin(index)
    }
}

impl<T: ?Sized + 'static, N: Stage<T>> Stage<T> for IngestionStage<N> {
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        let at = self.time.stamp(cx.now_ms);
        self.next.batch(&Stamped { rows, at }, cx)?;
        match self.time.watermark(cx.now_ms, 1) {
            Some(watermark) => self.next.signal(Signal::Watermark(watermark), cx),
            None => Ok(()),
        }
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        match signal {
            // A clock is never silent, whatever the splits are.
            Signal::Split(_) | Signal::Idle | Signal::Active => return Ok(()),
            Signal::Flush if !self.time.is_over => {
                cx.wake_at(cx.now_ms.saturating_add(TICK_MS));
                if let Some(watermark) = self.time.watermark(cx.now_ms, TICK_MS) {
                    self.next.signal(Signal::Watermark(watermark), cx)?;
                }
            }
            Signal::Watermark(Timestamp::MAX) => self.time.is_over = true,
            Signal::Barrier(barrier) => self.time.is_over |= barrier.last,
            Signal::Flush | Signal::Watermark(_) => {}
        }
        self.next.signal(signal, cx)
    }

    delegate_to_next!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_though_the_clock_is_set_back() {
        let mut time = IngestionClock { newest: Timestamp::MIN, told: Timestamp::MIN, is_over: false };
        assert_eq!(time.watermark(1_000, 1), Some(Timestamp(999)));
        assert_eq!(time.stamp(1_000), Timestamp(1_000), "never behind the watermark");
        assert_eq!(time.watermark(1_000, 1), None, "more may come in this millisecond");
        assert_eq!(time.stamp(400), Timestamp(1_000));
        assert_eq!(time.watermark(400, 1), None);
        assert_eq!(time.watermark(1_050, 100), None, "not worth a word yet");
        assert_eq!(time.watermark(1_100, 100), Some(Timestamp(1_099)));
        time.is_over = true;
        assert_eq!(time.watermark(9_000, 1), None);
    }
}
