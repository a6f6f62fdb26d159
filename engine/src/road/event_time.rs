//! Event time enters the road: a stage reads each row's timestamp and says how far time has come.
//!
//! Watermarks are kept per split, so that a source that reads several partitions in turn is held back by the slowest
//! of them, and the stage hands on their minimum. A watermark never goes back.

use std::time::Duration;

use super::chain::{Chain, Signal, SplitStanding, Stage, delegate_to_next};
use super::rows::{Rows, Timed};
use crate::job::graph::{Graph, NodeId};
use crate::run::fault::Fault;
use crate::run::task::Cx;
use crate::time::Timestamp;

/// How the watermark follows the timestamps seen.
///
/// ```
/// use std::time::Duration;
/// use millstream::Watermarks;
/// let ordered = Watermarks::monotonic();
/// let shuffled = Watermarks::bounded(Duration::from_secs(1)); // an event is at most one second late
/// assert_ne!(ordered, shuffled);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watermarks {
    disorder_ms: i64,
    monotonic: bool,
}

impl Watermarks {
    /// Timestamps of a split never decrease. The last row of a batch speaks for all of it, so this costs nothing per row.
    #[must_use]
    pub fn monotonic() -> Watermarks {
        Watermarks { disorder_ms: 0, monotonic: true }
    }

    /// A row comes at most `disorder` after a row with a later timestamp; what comes later than that is late.
    #[must_use]
    pub fn bounded(disorder: Duration) -> Watermarks {
        Watermarks { disorder_ms: i64::try_from(disorder.as_millis()).unwrap_or(i64::MAX), monotonic: false }
    }

    /// The watermark after rows whose greatest timestamp was `newest`.
    #[must_use]
    pub fn after(self, newest: Timestamp) -> Timestamp {
        match newest {
            Timestamp::MIN => Timestamp::MIN,
            seen => seen.plus_ms(-1 - self.disorder_ms),
        }
    }
}

/// What the splits of one source know of time, merged. Pure: rows and standings in, the watermark out.
#[derive(Debug)]
pub(crate) struct SplitClock {
    watermarks: Watermarks,
    splits: Vec<SplitTime>,
    current: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct SplitTime {
    newest: Timestamp,
    counts: bool,
}

impl SplitClock {
    pub(crate) fn new(watermarks: Watermarks) -> SplitClock {
        SplitClock { watermarks, splits: Vec::new(), current: Timestamp::MIN }
    }

    fn split(&mut self, split: usize) -> &mut SplitTime {
        if self.splits.len() <= split {
            self.splits.resize(split + 1, SplitTime { newest: Timestamp::MIN, counts: true });
        }
        &mut self.splits[split]
    }

    /// Rows of `split` up to `newest` were seen; the new watermark, if it moved.
    pub(crate) fn saw(&mut self, split: usize, newest: Timestamp) -> Option<Timestamp> {
        let time = self.split(split);
        time.newest = time.newest.max(newest);
        self.advance()
    }

    /// The split's standing changed; the new watermark, if it moved.
    pub(crate) fn stands(&mut self, standing: SplitStanding) -> Option<Timestamp> {
        match standing {
            SplitStanding::Active(split) => self.split(split).counts = true,
            SplitStanding::Idle(split) | SplitStanding::Ended(split) => self.split(split).counts = false,
        }
        self.advance()
    }

    fn advance(&mut self) -> Option<Timestamp> {
        let slowest = self.splits.iter().filter(|split| split.counts).map(|split| split.newest).min()?;
        let watermark = self.watermarks.after(slowest);
        (watermark > self.current).then(|| {
            self.current = watermark;
            watermark
        })
    }
}

/// Reads event time off the rows.
#[derive(Debug)]
pub struct EventTime<C, F> {
    pub(crate) upstream: C,
    pub(crate) time: F,
    pub(crate) watermarks: Watermarks,
    pub(crate) node: NodeId,
}

struct EventTimeStage<F, N> {
    time: F,
    monotonic: bool,
    clock: SplitClock,
    node: NodeId,
    next: N,
}

impl<C: Chain, F: Fn(&C::Out) -> Timestamp + 'static> Chain for EventTime<C, F> {
    type Out = C::Out;

    fn attach<N: Stage<C::Out>>(self, next: N, graph: &mut Graph) {
        let clock = SplitClock::new(self.watermarks);
        let monotonic = self.watermarks.monotonic;
        self.upstream.attach(EventTimeStage { time: self.time, monotonic, clock, node: self.node, next }, graph);
    }
}

impl<T: ?Sized + 'static, F: Fn(&T) -> Timestamp + 'static, N: Stage<T>> Stage<T> for EventTimeStage<F, N> {
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        let timed = Timed { rows, time: &self.time };
        let newest = if self.monotonic {
            timed.at(rows.len() - 1)
        } else {
            (0..rows.len()).map(|index| timed.at(index)).fold(Timestamp::MIN, Timestamp::max)
        };
        self.next.batch(&timed, cx)?;
        match self.clock.saw(cx.split, newest) {
            Some(watermark) => self.next.signal(Signal::Watermark(watermark), cx),
            None => Ok(()),
        }
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        match signal {
            Signal::Split(standing) => match self.clock.stands(standing) {
                Some(watermark) => self.next.signal(Signal::Watermark(watermark), cx),
                None => Ok(()),
            },
            other => self.next.signal(other, cx),
        }
    }

    delegate_to_next!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_split_holds_time_back() {
        let mut clock = SplitClock::new(Watermarks::monotonic());
        let _ = clock.stands(SplitStanding::Active(0));
        let _ = clock.stands(SplitStanding::Active(1));
        assert_eq!(clock.saw(0, Timestamp(100)), None, "split 1 has said nothing");
        assert_eq!(clock.saw(1, Timestamp(40)), Some(Timestamp(39)));
        assert_eq!(clock.saw(0, Timestamp(200)), None);
        assert_eq!(clock.stands(SplitStanding::Idle(1)), Some(Timestamp(199)));
        assert_eq!(clock.stands(SplitStanding::Active(1)), None, "a watermark never goes back");
        assert_eq!(clock.saw(1, Timestamp(150)), None);
        assert_eq!(clock.stands(SplitStanding::Ended(1)), None);
        assert_eq!(clock.saw(0, Timestamp(300)), Some(Timestamp(299)));
    }

    #[test]
    fn bounded_disorder_subtracts() {
        assert_eq!(Watermarks::bounded(Duration::from_millis(50)).after(Timestamp(100)), Timestamp(49));
        assert_eq!(Watermarks::monotonic().after(Timestamp::MIN), Timestamp::MIN);
        assert_eq!(
            Watermarks::bounded(Duration::MAX).after(Timestamp(0)),
            Timestamp(-i64::MAX - 1).max(Timestamp::MIN)
        );
    }
}
