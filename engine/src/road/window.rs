//! Windows: contributions are folded into panes, and a pane's keys are emitted when the watermark passes its end.
//!
//! A pane is a namespace of the table, so that firing scans its pages in memory order and dropping it frees them; there
//! is no timer and no delete per key. A firing is budgeted like input: it goes on a slice per turn, and holds back only
//! what must come after it.

use std::marker::PhantomData;
use std::time::Duration;

use millstream_state::{Key, Namespace, ScanCursor, Table};
use serde::{Deserialize, Serialize};

use super::aggregate::Aggregate;
use super::chain::{Signal, Stage};
use super::dense::Dense;
use super::keyed::{Contributions, Folding, KeyedOut};
use super::rows::BATCH_ROWS;
use crate::job::graph::NodeId;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// A stretch of event time, `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Window {
    /// The first instant inside.
    pub start: Timestamp,
    /// The first instant after.
    pub end: Timestamp,
}

/// What a window yields for one key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Windowed<K, R> {
    /// The key.
    pub key: K,
    /// The window.
    pub window: Window,
    /// The aggregate's result.
    pub value: R,
}

/// Windows of one size, end to end, aligned to the epoch (plus an offset).
///
/// ```
/// use std::time::Duration;
/// use millstream::{Timestamp, Tumbling};
/// let tens = Tumbling::of(Duration::from_secs(10));
/// assert_eq!(tens.window_of(Timestamp(12_345)).start, Timestamp(10_000));
/// assert_eq!(tens.window_of(Timestamp(-1)).start, Timestamp(-10_000));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tumbling {
    size_ms: i64,
    offset_ms: i64,
}

impl Tumbling {
    /// Windows of `size`.
    ///
    /// # Panics
    /// When `size` is under a millisecond or over 100 years: no such window can be meant.
    #[must_use]
    pub fn of(size: Duration) -> Tumbling {
        let size_ms = i64::try_from(size.as_millis()).unwrap_or(i64::MAX);
        assert!(
            (1..=100 * 366 * 86_400_000).contains(&size_ms),
            "a tumbling window of {size:?} cannot be: its size lies between one millisecond and a hundred years"
        );
        Tumbling { size_ms, offset_ms: 0 }
    }

    /// Windows that begin `offset` after a multiple of the size, as days that begin at another time zone's midnight.
    #[must_use]
    pub fn offset(self, offset: Duration) -> Tumbling {
        let offset_ms = (offset.as_millis() % self.size_ms as u128) as i64;
        Tumbling { offset_ms, ..self }
    }

    /// The window that `at` falls into.
    #[must_use]
    pub fn window_of(self, at: Timestamp) -> Window {
        self.panes().window(self.panes().start_of(at))
    }

    pub(crate) fn panes(self) -> Panes {
        Panes { size_ms: self.size_ms, offset_ms: self.offset_ms }
    }
}

/// How event time is cut into panes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Panes {
    size_ms: i64,
    offset_ms: i64,
}

impl Panes {
    #[inline(always)]
    pub(crate) fn start_of(self, at: Timestamp) -> i64 {
        let shifted = at.0.saturating_sub(self.offset_ms);
        shifted.saturating_sub(shifted.rem_euclid(self.size_ms)).saturating_add(self.offset_ms)
    }

    /// The pane that all rows of a batch fall into; `None` where they span several, or lie at an end of time.
    ///
    /// A row costs a load and a predicted branch. The least and the greatest time were tried: the compiler gathers them
    /// from rows that are not one word apart, 3 ns a row where this takes a third of one.
    #[inline(always)]
    pub(crate) fn of_all(self, rows: usize, at: impl Fn(usize) -> Timestamp) -> Option<i64> {
        let start = self.start_of(at(0));
        let whole = start.checked_add(self.size_ms).is_some() && start.checked_sub(self.size_ms).is_some();
        let inside = |at: Timestamp| (at.0.wrapping_sub(start) as u64) < self.size_ms as u64;
        (whole && (1..rows).all(|index| inside(at(index)))).then_some(start)
    }

    /// As [`of_all`](Panes::of_all), of times end to end, at least one: several are compared at once.
    #[inline(always)]
    pub(crate) fn of_times(self, times: &[Timestamp]) -> Option<i64> {
        let start = self.start_of(times[0]);
        let whole = start.checked_add(self.size_ms).is_some() && start.checked_sub(self.size_ms).is_some();
        let outside = |at: &Timestamp| (at.0.wrapping_sub(start) as u64) >= self.size_ms as u64;
        // Without an early end, or it would be one by one.
        let any_outside = times.iter().fold(false, |any, at| any | outside(at));
        (whole && !any_outside).then_some(start)
    }

    /// The last instant inside the pane: the watermark that completes it.
    fn last_of(self, start: i64) -> Timestamp {
        Timestamp(start.saturating_add(self.size_ms - 1))
    }

    fn window(self, start: i64) -> Window {
        Window { start: Timestamp(start), end: Timestamp(start.saturating_add(self.size_ms)) }
    }
}

/// Rows after which a slice of a firing ends, at the end of a page: with the pages of common keys one batch.
const FIRE_ROWS: usize = BATCH_ROWS * 3 / 4;

/// The window operator: folds contributions `M::Value` into panes of `A::Acc` and hands results to `next`.
pub(crate) struct Windows<T: ?Sized, K, A: Aggregate<T>, M, N> {
    table: Table<K, A::Acc>,
    aggregate: A,
    panes: Panes,
    watermark: Timestamp,
    /// The watermark at which the first open pane is complete; none is open otherwise.
    complete_at: Option<Timestamp>,
    firing: Option<Firing>,
    /// The input fell idle during a firing; the next stage hears of it after the watermark.
    idle_after: bool,
    late: u64,
    /// Rows of a batch that spans panes, pane by pane.
    split: Vec<(i64, Vec<u16>)>,
    out: Dense<Windowed<K, A::Out>>,
    node: NodeId,
    next: N,
    mode: PhantomData<fn(&T) -> M>,
}

/// What a window operator keeps of itself beside its panes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct WindowsBlob {
    /// How far time had come.
    pub(crate) watermark: Timestamp,
    /// Rows that came too late for their window, since the job began.
    pub(crate) late: u64,
}

impl WindowsBlob {
    /// What two shards kept, as one. A barrier finds the same watermark on every shard; if not, the earlier one promises
    /// less.
    pub(crate) fn merge(self, other: WindowsBlob) -> WindowsBlob {
        WindowsBlob { watermark: self.watermark.min(other.watermark), late: self.late + other.late }
    }
}

/// A pane on its way out.
struct Firing {
    start: i64,
    cursor: ScanCursor,
}

/// Some rows of a batch, seen as a batch.
struct Picked<'a, C> {
    batch: &'a C,
    picked: &'a [u16],
}

impl<K, V, C: Contributions<K, V>> Contributions<K, V> for Picked<'_, C> {
    type KeyOut<'b>
        = C::KeyOut<'b>
    where
        Self: 'b;

    fn len(&self) -> usize {
        self.picked.len()
    }

    fn at(&self, index: usize) -> Timestamp {
        self.batch.at(self.picked[index] as usize)
    }

    fn key(&self, index: usize) -> C::KeyOut<'_> {
        self.batch.key(self.picked[index] as usize)
    }

    fn value(&self, index: usize) -> V {
        self.batch.value(self.picked[index] as usize)
    }
}

impl<T, K, A, M, N> Windows<T, K, A, M, N>
where
    T: ?Sized + 'static,
    K: Key,
    A: Aggregate<T> + 'static,
    M: Folding<T, A>,
    N: Stage<Windowed<K, A::Out>>,
{
    /// A window operator over `table`, which a restore may have filled.
    pub(crate) fn new(
        table: Table<K, A::Acc>,
        restored: WindowsBlob,
        aggregate: A,
        panes: Panes,
        node: NodeId,
        next: N,
    ) -> Self {
        let mut windows = Windows {
            table,
            aggregate,
            panes,
            watermark: restored.watermark,
            complete_at: None,
            firing: None,
            idle_after: false,
            late: restored.late,
            split: Vec::new(),
            out: Dense::default(),
            node,
            next,
            mode: PhantomData,
        };
        windows.complete_at = windows.first_complete_at();
        windows
    }

    fn first_complete_at(&self) -> Option<Timestamp> {
        self.table.namespaces().next().map(|pane| self.panes.last_of(pane.0))
    }

    #[inline(always)]
    fn fold<C: Contributions<K, M::Value>>(&mut self, start: i64, batch: &C) -> Result<(), Fault> {
        let last = self.panes.last_of(start);
        if last <= self.watermark {
            if self.watermark == Timestamp::MAX {
                return Err(Fault::after_the_end(self.node, batch.len()));
            }
            self.late += batch.len() as u64;
            return Ok(());
        }
        self.complete_at = Some(self.complete_at.map_or(last, |first| first.min(last)));
        let aggregate = &self.aggregate;
        self.table
            .fold(
                Namespace(start),
                batch.len(),
                |index| batch.key(index),
                || aggregate.init(),
                |acc, index| M::fold(aggregate, acc, batch.value(index)),
            )
            .map_err(|error| Fault::state(self.node, error))
    }

    /// Sorts the rows of a batch that spans panes by pane, and folds pane after pane.
    #[cold]
    fn fold_split<C: Contributions<K, M::Value>>(&mut self, batch: &C) -> Result<(), Fault> {
        let mut split = std::mem::take(&mut self.split);
        let mut used = 0;
        let mut last_hit = 0;
        for index in 0..batch.len() {
            let start = self.panes.start_of(batch.at(index));
            if last_hit >= used || split[last_hit].0 != start {
                last_hit = match split[..used].iter().position(|(pane, _)| *pane == start) {
                    Some(hit) => hit,
                    None => {
                        if used == split.len() {
                            split.push((start, Vec::with_capacity(BATCH_ROWS)));
                        }
                        split[used].0 = start;
                        split[used].1.clear();
                        used += 1;
                        used - 1
                    }
                };
            }
            split[last_hit].1.push(index as u16);
        }
        let folded = split[..used].iter().try_for_each(|(start, picked)| self.fold(*start, &Picked { batch, picked }));
        self.split = split;
        folded
    }

    /// Emits one slice of the firing pane; true when a slice was emitted.
    fn fire_slice(&mut self, cx: &mut Cx<'_>) -> Result<bool, Fault> {
        if self.firing.is_none() && self.is_firing() {
            let pane = self.table.namespaces().next().expect("a complete pane is an open one");
            self.firing = Some(Firing { start: pane.0, cursor: ScanCursor::default() });
        }
        let Some(firing) = self.firing.take() else { return Ok(false) };
        cx.enter(self.node);
        let window = self.panes.window(firing.start);
        let at = window.end.plus_ms(-1);
        self.out.clear();
        let (out, aggregate) = (&mut self.out, &self.aggregate);
        let pane = Namespace(firing.start);
        let more = self.table.scan_slice(pane, firing.cursor, FIRE_ROWS, |key, acc| {
            out.push(Windowed { key: *key, window, value: aggregate.finish(acc) }, at);
        });
        match more {
            Some(cursor) => self.firing = Some(Firing { cursor, ..firing }),
            None => {
                self.table.drop_namespace(pane);
                self.complete_at = self.first_complete_at();
            }
        }
        for piece in self.out.pieces(BATCH_ROWS) {
            self.next.batch(&piece, cx)?;
        }
        Ok(true)
    }

    fn is_firing(&self) -> bool {
        self.firing.is_some() || self.complete_at.is_some_and(|first| first <= self.watermark)
    }
}

impl<T, K, A, M, N> KeyedOut<K, M::Value> for Windows<T, K, A, M, N>
where
    T: ?Sized + 'static,
    K: Key,
    A: Aggregate<T> + 'static,
    M: Folding<T, A>,
    N: Stage<Windowed<K, A::Out>>,
{
    #[inline]
    fn accept<C: Contributions<K, M::Value>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if batch.len() == 0 {
            return Ok(());
        }
        cx.enter(self.node);
        match self.panes.of_all(batch.len(), |index| batch.at(index)) {
            Some(start) => self.fold(start, batch),
            None => self.fold_split(batch),
        }
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        match signal {
            Signal::Watermark(watermark) => {
                self.watermark = self.watermark.max(watermark);
                // With nothing to fire the watermark passes at once; otherwise it follows the last slice.
                if self.is_firing() { Ok(()) } else { self.next.signal(signal, cx) }
            }
            Signal::Barrier(barrier) => {
                assert!(!self.is_firing(), "a barrier waits until the firing is done");
                let small = WindowsBlob { watermark: self.watermark, late: self.late };
                let small = serde_json::to_value(small).expect("numbers are plain JSON");
                cx.freeze(self.node, &mut self.table.store(), barrier, small);
                self.next.signal(signal, cx)
            }
            Signal::Idle if self.is_firing() => {
                self.idle_after = true;
                Ok(())
            }
            Signal::Active if self.idle_after => {
                self.idle_after = false;
                Ok(())
            }
            other => self.next.signal(other, cx),
        }
    }

    fn ready(&mut self) -> bool {
        !self.is_firing() && self.next.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        let deeper = self.next.resume(cx)?;
        if !self.is_firing() {
            return Ok(deeper);
        }
        if !self.next.ready() {
            return Ok(deeper.or(Progress::Blocked));
        }
        let emitted = self.fire_slice(cx)?;
        if !self.is_firing() {
            self.next.signal(Signal::Watermark(self.watermark), cx)?;
            if std::mem::take(&mut self.idle_after) {
                self.next.signal(Signal::Idle, cx)?;
            }
        }
        Ok(if emitted { Progress::Worked } else { deeper })
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        visitor.keyed(self.node, &mut self.table.store());
        visitor.late(self.late);
        self.next.states(visitor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panes_start_at_multiples_of_the_size() {
        let panes = Tumbling::of(Duration::from_millis(10)).panes();
        for (at, start) in [(0, 0), (9, 0), (10, 10), (-1, -10), (-10, -10), (-11, -20)] {
            assert_eq!(panes.start_of(Timestamp(at)), start, "{at}");
        }
        let shifted = Tumbling::of(Duration::from_millis(10)).offset(Duration::from_millis(3)).panes();
        for (at, start) in [(2, -7), (3, 3), (12, 3), (13, 13)] {
            assert_eq!(shifted.start_of(Timestamp(at)), start, "{at}");
        }
        assert!(panes.start_of(Timestamp::MIN) <= i64::MIN + 10, "the ends of time saturate");
        assert_eq!(panes.last_of(panes.start_of(Timestamp::MAX)), Timestamp::MAX);
    }

    #[test]
    fn a_batch_is_of_one_pane_if_each_row_is() {
        let panes = Tumbling::of(Duration::from_millis(10)).offset(Duration::from_millis(3)).panes();
        let ends = [i64::MIN, i64::MIN + 1, i64::MIN + 9, i64::MIN + 20, i64::MAX - 20, i64::MAX - 9, i64::MAX];
        let times: Vec<i64> = (-25..25).chain(ends).collect();
        for first in &times {
            for second in &times {
                let at = |index: usize| Timestamp([*first, *second][index]);
                let same = panes.start_of(at(0)) == panes.start_of(at(1));
                assert_eq!(panes.of_times(&[at(0), at(1)]), panes.of_all(2, at), "{first} {second}");
                match panes.of_all(2, at) {
                    Some(start) => assert!(same && start == panes.start_of(at(0)), "{first} {second}"),
                    // Where a pane's start saturates, rows go the long way.
                    None => assert!(!same || first.unsigned_abs() > 1 << 62, "{first} {second}"),
                }
            }
        }
    }
}
