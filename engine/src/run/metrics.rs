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
    state_bytes: AtomicU64,
    major_faults: AtomicU64,
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

    /// Bytes of pages that the shard's keyed state lies in, as of the last tenth of a second.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.line.state_bytes.load(Ordering::Relaxed)
    }

    /// How often the shard has waited for a page of memory to come from a disk. More than a few mean that state does not
    /// fit in memory.
    #[must_use]
    pub fn major_faults(&self) -> u64 {
        self.line.major_faults.load(Ordering::Relaxed)
    }

    pub(crate) fn publish_state(&self, state_bytes: u64, major_faults: u64) {
        self.line.state_bytes.store(state_bytes, Ordering::Relaxed);
        self.line.major_faults.store(major_faults, Ordering::Relaxed);
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
    /// The most bytes of pages that keyed state lay in; of several shards, their sum.
    pub state_bytes_max: u64,
    /// Bytes of the pages that its keyed state lies in at the end.
    pub state_bytes: u64,
    /// How often a shard waited for a page of memory to come from a disk.
    pub major_faults: u64,
    /// How long its state took to restore, µs; where several shards did at once, the slowest of them.
    pub restore_us: u64,
}

impl ShardReport {
    pub(crate) fn new() -> ShardReport {
        ShardReport {
            turn_us: micros(),
            pause_us: micros(),
            first_event: None,
            events_in: 0,
            late: 0,
            skipped: 0,
            state_bytes_max: 0,
            state_bytes: 0,
            major_faults: 0,
            restore_us: 0,
        }
    }

    /// Adds what another shard, or another attempt, measured.
    pub fn add(&mut self, other: &ShardReport) {
        self.turn_us.add(&other.turn_us).expect("all are made alike");
        self.pause_us.add(&other.pause_us).expect("all are made alike");
        self.first_event = [self.first_event, other.first_event].into_iter().flatten().min();
        self.events_in += other.events_in;
        self.late += other.late;
        self.skipped += other.skipped;
        self.state_bytes_max += other.state_bytes_max;
        self.state_bytes += other.state_bytes;
        self.major_faults += other.major_faults;
        self.restore_us = self.restore_us.max(other.restore_us);
    }
}

/// A histogram from 1 µs to 100 s with three digits: 200 KiB, allocated once, so that recording never allocates.
fn micros() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000, 3).expect("the bounds are constants that fit")
}
