//! What a shard tells of itself: counters with one writer that anybody may read, and histograms it hands in at the end.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use hdrhistogram::Histogram;

use crate::time::Nanos;

/// Counters of one shard. Its thread alone writes them, with plain stores; others read them a little late.
#[derive(Debug, Default)]
pub struct ShardCounters {
    line: CachePadded<CounterLine>,
}

#[derive(Debug, Default)]
struct CounterLine {
    events_in: AtomicU64,
    turns: AtomicU64,
}

impl ShardCounters {
    /// Rows that the shard's sources have taken in.
    #[must_use]
    pub fn events_in(&self) -> u64 {
        self.line.events_in.load(Ordering::Relaxed)
    }

    /// Turns of the shard's loop; one that stands still while the shard is not parked is stuck.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.line.turns.load(Ordering::Relaxed)
    }

    pub(crate) fn publish(&self, events_in: u64, turns: u64) {
        self.line.events_in.store(events_in, Ordering::Relaxed);
        self.line.turns.store(turns, Ordering::Relaxed);
    }
}

/// What one shard measured over an attempt.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// One turn of the loop, µs.
    pub turn_us: Histogram<u64>,
    /// How long the road stood still for a snapshot, per turn that worked on one, µs.
    pub pause_us: Histogram<u64>,
    /// When the first row was taken in.
    pub first_event: Option<Nanos>,
    /// Rows that sources took in.
    pub events_in: u64,
    /// Contributions that came too late for their window, since the job began: checkpoints keep the count.
    pub late: u64,
    /// Rows that were dropped or became dead letters because their closure failed.
    pub skipped: u64,
}

impl ShardReport {
    pub(crate) fn new() -> ShardReport {
        ShardReport { turn_us: micros(), pause_us: micros(), first_event: None, events_in: 0, late: 0, skipped: 0 }
    }

    /// Adds what another shard, or another attempt, measured.
    pub fn add(&mut self, other: &ShardReport) {
        self.turn_us.add(&other.turn_us).expect("all are made alike");
        self.pause_us.add(&other.pause_us).expect("all are made alike");
        self.first_event = [self.first_event, other.first_event].into_iter().flatten().min();
        self.events_in += other.events_in;
        self.late += other.late;
        self.skipped += other.skipped;
    }
}

/// A histogram from 1 µs to 100 s with three digits: 200 KiB, allocated once, so that recording never allocates.
fn micros() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000, 3).expect("the bounds are constants that fit")
}
