//! How long after its window's end a row came.
//!
//! In an open loop event time is wall time, so a window ends when its time comes, whatever the job is doing by then. As
//! fast as it goes a window ends when the slowest shard has read the last of its events; the wait of the events before
//! the reader is not in that figure, for there is no telling when they should have come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;
use millstream::Clock;

use super::result::WINDOW_MS;

/// How many rows of one window a reading of the clock serves: a million rows that come at once would mostly wait for the
/// clock, and 64 take the road a few µs.
const ROWS_A_READING: u64 = 64;

/// When windows ended, µs of wall time.
#[derive(Clone, Debug)]
pub enum WindowEnds {
    /// Event time is wall time.
    AsTimeGoes,
    /// When the last shard had read all events before the end, for each end in ms.
    AsRead(Arc<Mutex<BTreeMap<i64, i64>>>),
}

impl WindowEnds {
    /// Ends to be told by the source.
    #[must_use]
    pub fn as_read() -> WindowEnds {
        WindowEnds::AsRead(Arc::default())
    }

    /// A shard has read all events before the window ends that lie in `after_ms < end ≤ until_ms`.
    pub fn pass(&self, after_ms: i64, until_ms: i64, now_us: i64) {
        if let WindowEnds::AsRead(ends) = self {
            let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
            let mut end_ms = after_ms - after_ms.rem_euclid(WINDOW_MS) + WINDOW_MS;
            while end_ms <= until_ms {
                let ended_us = ends.entry(end_ms).or_insert(now_us);
                *ended_us = now_us.max(*ended_us);
                end_ms += WINDOW_MS;
            }
        }
    }

    /// When the window that ends at `end_ms` did; the last window of an input ends with it.
    fn of(&self, end_ms: i64) -> Option<i64> {
        match self {
            WindowEnds::AsTimeGoes => Some(end_ms * 1000),
            WindowEnds::AsRead(ends) => {
                let ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                ends.range(..=end_ms).next_back().map(|(_, now_us)| *now_us)
            }
        }
    }
}

/// Latencies of all shards, µs.
#[derive(Clone, Debug)]
pub struct Latency {
    ends: WindowEnds,
    all: Arc<Mutex<Histogram<u64>>>,
}

impl Latency {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(ends: WindowEnds) -> Latency {
        Latency { ends, all: Arc::new(Mutex::new(micros())) }
    }

    /// All that was measured, of rows before the last barrier.
    #[must_use]
    pub fn micros(&self) -> Histogram<u64> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One shard's hand on it.
    pub(super) fn stopwatch(&self, clock: Clock) -> Stopwatch {
        Stopwatch { latency: self.clone(), clock, own: micros(), end_ms: i64::MIN, late_us: None, rows: 0 }
    }
}

fn micros() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are constants that fit")
}

/// Takes the latency of one shard's rows.
pub(super) struct Stopwatch {
    latency: Latency,
    clock: Clock,
    /// Since the last barrier.
    own: Histogram<u64>,
    /// The window at hand and how late its rows are; none where its end said nothing.
    end_ms: i64,
    late_us: Option<u64>,
    /// Rows of that latency that are not in the histogram yet.
    rows: u64,
}

impl Stopwatch {
    /// A row of the window that ends at `end_ms` is out.
    #[inline]
    pub(super) fn row(&mut self, end_ms: i64) {
        if end_ms != self.end_ms || self.rows == ROWS_A_READING {
            self.read(end_ms);
        }
        self.rows += 1;
    }

    #[cold]
    fn read(&mut self, end_ms: i64) {
        self.settle();
        self.end_ms = end_ms;
        // A window that the end of an open loop closed before its time says nothing about latency.
        let ended_us = self.latency.ends.of(end_ms);
        self.late_us = ended_us.and_then(|ended_us| u64::try_from(self.clock.wall_us() - ended_us).ok());
    }

    fn settle(&mut self) {
        if let (Some(late_us), rows @ 1..) = (self.late_us, self.rows) {
            self.own.saturating_record_n(late_us.max(1), rows);
        }
        self.rows = 0;
    }

    /// A barrier: what was measured becomes part of the whole, and the next row reads the clock.
    pub(super) fn barrier(&mut self) {
        self.settle();
        self.end_ms = i64::MIN;
        let mut all = self.latency.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.add(&self.own).expect("all are made alike");
        self.own.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_when_the_slowest_shard_has_read_it() {
        let ends = WindowEnds::as_read();
        ends.pass(9_999, 10_000, 5_000);
        ends.pass(9_000, 30_000, 7_000);
        ends.pass(10_000, 20_000, 8_000);
        let of = [9_999, 10_000, 20_000, 30_000, 40_000].map(|end_ms| ends.of(end_ms));
        assert_eq!(of, [None, Some(7_000), Some(8_000), Some(7_000), Some(7_000)]);
        assert_eq!(WindowEnds::AsTimeGoes.of(-3), Some(-3_000));
    }

    #[test]
    fn rows_are_as_late_as_the_clock_says_and_all_are_counted() {
        let clock = Clock::held(20_000);
        let latency = Latency::new(WindowEnds::AsTimeGoes);
        let mut stopwatch = latency.stopwatch(clock.clone());
        (0..100).for_each(|_| stopwatch.row(10_000));
        clock.advance_ms(5);
        // Of the second reading 28 rows more, then of a third.
        (0..100).for_each(|_| stopwatch.row(10_000));
        stopwatch.row(30_000);
        assert_eq!(latency.micros().len(), 0, "before the barrier");
        stopwatch.barrier();
        let all = latency.micros();
        assert_eq!(all.len(), 200, "a window whose time has not come says nothing");
        let late = |ms: u64| all.count_between(ms * 1000 - 9, ms * 1000 + 9);
        assert_eq!((late(10_000), late(10_005)), (128, 72));
        stopwatch.row(10_000);
        stopwatch.barrier();
        assert_eq!(latency.micros().len(), 201);
    }
}
