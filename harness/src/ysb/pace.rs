//! A source held to a pace: so many rows a second, counted from its start.

use std::os::fd::RawFd;

use millstream::road::rows::Batch;
use millstream::time::Nanos;
use millstream::{Clock, Polled, Source, SourceError, Split};

/// Hands out at most `rows_per_s` rows a second of a source over all shards; what was missed is caught up with.
#[derive(Clone, Debug)]
pub struct Paced<S> {
    source: S,
    rows_per_s: u64,
}

impl<S> Paced<S> {
    /// Holds `source` to a pace; at least one row a second.
    #[must_use]
    pub fn new(source: S, rows_per_s: u64) -> Paced<S> {
        Paced { source, rows_per_s: rows_per_s.max(1) }
    }
}

impl<S: Source> Source for Paced<S> {
    type Batch = S::Batch;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = S::Batch>>>, SourceError> {
        let splits = self.source.open(shard, shards)?;
        let rows_per_s = (self.rows_per_s as f64 / f64::from(shards) / splits.len().max(1) as f64).max(0.001);
        let paced = splits.into_iter().map(|split| -> Box<dyn Split<Batch = S::Batch>> {
            Box::new(PacedSplit { split, rows_per_s, clock: Clock::system(), began: None, given: 0 })
        });
        Ok(paced.collect())
    }

    fn splits_are_fixed(&self) -> bool {
        self.source.splits_are_fixed()
    }

    fn describe(&self) -> String {
        // The pace is left out: it is no part of what a checkpoint must fit.
        self.source.describe()
    }
}

struct PacedSplit<B> {
    split: Box<dyn Split<Batch = B>>,
    rows_per_s: f64,
    clock: Clock,
    began: Option<Nanos>,
    given: u64,
}

impl<B: Batch> Split for PacedSplit<B> {
    type Batch = B;

    fn name(&self) -> String {
        self.split.name()
    }

    fn poll(&mut self, out: &mut B, rows_max: usize) -> Result<Polled, SourceError> {
        let now = self.clock.now();
        let elapsed = now.since(*self.began.get_or_insert(now));
        let due = (elapsed.as_secs_f64() * self.rows_per_s) as u64;
        if due <= self.given {
            return Ok(Polled::IdleUntilMs(self.clock.wall_ms() + 1));
        }
        let polled = self.split.poll(out, rows_max.min((due - self.given) as usize))?;
        self.given += out.len() as u64;
        Ok(polled)
    }

    fn position(&self) -> u64 {
        self.split.position()
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.split.seek(position)
    }

    fn wake_fd(&self) -> Option<RawFd> {
        self.split.wake_fd()
    }

    fn pending(&self) -> Option<u64> {
        self.split.pending()
    }
}
