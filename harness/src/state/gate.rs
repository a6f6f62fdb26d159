//! What the threads of a run tell each other: which phase it is, and how far each shard has come.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use millstream::time::Nanos;

use crate::keys;

/// What the sources hand out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    /// Each key once.
    Load,
    /// What is measured.
    Update,
    /// Each key once more, to see what became of it.
    Read,
    /// Nothing.
    End,
}

/// Shared by a run and its job's sources and sinks. The run alone moves it on; each shard writes lines of its own.
#[derive(Clone)]
pub(super) struct Gate(Arc<Inner>);

struct Inner {
    phase: AtomicU8,
    /// No more updates, however many were wanted.
    closed: AtomicBool,
    sources: Vec<SourceLine>,
    sinks: Vec<SinkLine>,
    /// In the last phase: what was read, by the key's number.
    read: OnceLock<Vec<AtomicU64>>,
}

/// How far one shard's source has come. A line of its own, so that shards do not slow each other down.
#[repr(align(128))]
#[derive(Default)]
struct SourceLine {
    rows: AtomicU64,
    position: AtomicU64,
    /// The phase whose rows it has all handed out, and one.
    done: AtomicU8,
    /// When it was asked for the first update, ns.
    began: AtomicU64,
}

#[repr(align(128))]
#[derive(Default)]
struct SinkLine {
    rows: AtomicU64,
}

impl Gate {
    pub(super) fn new(shards: u32) -> Gate {
        Gate(Arc::new(Inner {
            phase: AtomicU8::new(Phase::Load as u8),
            closed: AtomicBool::new(false),
            sources: (0..shards).map(|_| SourceLine::default()).collect(),
            sinks: (0..shards).map(|_| SinkLine::default()).collect(),
            read: OnceLock::new(),
        }))
    }

    // ---- the run's side ----

    pub(super) fn open(&self, phase: Phase) {
        self.0.phase.store(phase as u8, Ordering::Release);
    }

    /// As [`open`](Gate::open), with room for what is read.
    pub(super) fn open_for_reading(&self, keys: u64) {
        self.0.read.get_or_init(|| (0..keys).map(|_| AtomicU64::new(0)).collect());
        self.open(Phase::Read);
    }

    pub(super) fn close(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }

    /// Whether every source has handed out the phase's rows, and all of them have come out at the end.
    pub(super) fn is_done(&self, phase: Phase) -> bool {
        let Inner { sources, sinks, .. } = &*self.0;
        // In this order: a source that is done hands out no more, so what the sinks are compared with stands still.
        sources.iter().all(|line| line.done.load(Ordering::Acquire) > phase as u8)
            && sources.iter().map(|line| line.rows.load(Ordering::Relaxed)).sum::<u64>()
                == sinks.iter().map(|line| line.rows.load(Ordering::Acquire)).sum::<u64>()
    }

    /// Rows handed out since the job started.
    pub(super) fn rows(&self) -> u64 {
        self.0.sources.iter().map(|line| line.rows.load(Ordering::Relaxed)).sum()
    }

    /// Where every source stands.
    pub(super) fn positions(&self) -> Vec<u64> {
        self.0.sources.iter().map(|line| line.position.load(Ordering::Relaxed)).collect()
    }

    /// When the first shard was asked for the first update.
    pub(super) fn began(&self) -> Option<Nanos> {
        let began = self.0.sources.iter().map(|line| line.began.load(Ordering::Relaxed));
        began.filter(|began| *began > 0).min().map(Nanos)
    }

    /// What was read of the key with this number; nothing before the last phase.
    pub(super) fn read(&self, number: u64) -> Option<u64> {
        Some(self.0.read.get()?[number as usize].load(Ordering::Relaxed))
    }

    // ---- a source's side ----

    pub(super) fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Acquire) {
            0 => Phase::Load,
            1 => Phase::Update,
            2 => Phase::Read,
            _ => Phase::End,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }

    /// A source begins, perhaps again, at `position`.
    pub(super) fn source_at(&self, shard: usize, position: u64) {
        self.0.sources[shard].position.store(position, Ordering::Relaxed);
    }

    pub(super) fn source_begins(&self, shard: usize) {
        let line = &self.0.sources[shard];
        line.rows.store(0, Ordering::Relaxed);
        line.position.store(0, Ordering::Relaxed);
        line.done.store(0, Ordering::Relaxed);
    }

    pub(super) fn handed_out(&self, shard: usize, rows: u64, position: u64) {
        let line = &self.0.sources[shard];
        line.rows.store(rows, Ordering::Relaxed);
        line.position.store(position, Ordering::Relaxed);
    }

    pub(super) fn done(&self, shard: usize, phase: Phase) {
        self.0.sources[shard].done.store(phase as u8 + 1, Ordering::Release);
    }

    pub(super) fn first_update(&self, shard: usize, now: Nanos) {
        self.0.sources[shard].began.store(now.0, Ordering::Relaxed);
    }

    // ---- a sink's side ----

    pub(super) fn came_out(&self, shard: usize, rows: u64) {
        self.0.sinks[shard].rows.store(rows, Ordering::Release);
    }

    /// In the last phase: notes what is read of a key.
    pub(super) fn note(&self, key: u64, value: u64) {
        let place = keys::number(key).and_then(|number| self.0.read.get()?.get(number as usize));
        if let Some(place) = place {
            place.store(value, Ordering::Relaxed);
        }
    }
}
