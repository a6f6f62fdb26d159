//! Updates as a job's source: one split a shard, which hands out each of its keys once and then its stream of updates.

use millstream::road::source::{Polled, Source, SourceError, Split};
use millstream::time::{Clock, Nanos};

use super::gate::{Gate, Phase};
use crate::keys::{KeySpace, KeyStream, Share};

/// The keys of a run, shard by shard.
#[derive(Clone)]
pub(super) struct Updates {
    pub(super) space: KeySpace,
    /// Over all shards and all runs over one checkpoint directory; more than there can be for no end.
    pub(super) updates: u64,
    /// Updates a second over all shards, open loop.
    pub(super) rate: Option<u64>,
    pub(super) gate: Gate,
}

impl Source for Updates {
    type Batch = Vec<u64>;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<u64>>>>, SourceError> {
        let share = self.space.share(shard, shards);
        self.gate.source_begins(shard as usize);
        Ok(vec![Box::new(UpdateSplit {
            stream: self.space.stream(&share),
            updates: share.part_of(self.updates),
            updates_per_s: self.rate.map(|rate| (rate as f64 / f64::from(shards)).max(0.001)),
            share,
            gate: self.gate.clone(),
            clock: Clock::system(),
            position: 0,
            rows: 0,
            began: None,
            first_update: 0,
            read: 0,
        })])
    }

    fn describe(&self) -> String {
        // How many updates, and how fast, is no part of what a checkpoint must fit.
        let KeySpace { keys, distribution, seed } = self.space;
        format!("updates of {keys} keys, {distribution}, seed {seed}")
    }
}

struct UpdateSplit {
    share: Share,
    stream: KeyStream,
    updates: u64,
    updates_per_s: Option<f64>,
    gate: Gate,
    clock: Clock,
    /// Keys handed out by the load, then updates.
    position: u64,
    /// Rows handed out since the job started.
    rows: u64,
    began: Option<Nanos>,
    /// The position at which this run began with updates.
    first_update: u64,
    /// Keys handed out to be read. No part of the position: nothing is restored after it.
    read: u64,
}

impl UpdateSplit {
    fn hand_out(&mut self, rows: usize, position: u64) -> Polled {
        self.rows += rows as u64;
        self.position = position;
        self.gate.handed_out(self.share.shard as usize, self.rows, position);
        Polled::Rows
    }

    fn wait(&self) -> Polled {
        Polled::IdleUntilMs(self.clock.wall_ms() + 1)
    }

    /// How many updates may go out now.
    fn due(&mut self, rows_max: usize) -> usize {
        let left = self.updates - (self.position - self.share.keys).min(self.updates);
        let rows = rows_max.min(usize::try_from(left).unwrap_or(usize::MAX));
        let Some(per_s) = self.updates_per_s else { return rows };
        let elapsed = self.clock.now().since(self.began.expect("the first update has begun"));
        let due = (elapsed.as_secs_f64() * per_s) as u64;
        rows.min(usize::try_from(due.saturating_sub(self.position - self.first_update)).unwrap_or(usize::MAX))
    }

    /// Hands out the keys from `from` on.
    fn keys(&self, out: &mut Vec<u64>, from: u64, rows_max: usize) -> usize {
        let to = (from + rows_max as u64).min(self.share.keys);
        out.extend((from..to).map(|number| self.share.key(number)));
        (to - from) as usize
    }
}

impl Split for UpdateSplit {
    type Batch = Vec<u64>;

    fn name(&self) -> String {
        self.share.split_name()
    }

    fn poll(&mut self, out: &mut Vec<u64>, rows_max: usize) -> Result<Polled, SourceError> {
        let shard = self.share.shard as usize;
        if self.position < self.share.keys {
            let rows = self.keys(out, self.position, rows_max);
            return Ok(self.hand_out(rows, self.position + rows as u64));
        }
        let phase = self.gate.phase();
        if phase == Phase::Load {
            self.gate.done(shard, Phase::Load);
            return Ok(self.wait());
        }
        if self.began.is_none() {
            let now = self.clock.now();
            self.began = Some(now);
            self.first_update = self.position;
            self.gate.first_update(shard, now);
        }
        let first = self.position - self.share.keys;
        if phase == Phase::Update && first < self.updates && !self.gate.is_closed() {
            let rows = self.due(rows_max);
            if rows == 0 {
                return Ok(self.wait());
            }
            out.resize(rows, 0);
            self.stream.numbers(first, out);
            for number in &mut *out {
                *number = self.share.key(*number);
            }
            return Ok(self.hand_out(rows, self.position + rows as u64));
        }
        match phase {
            Phase::Read if self.read < self.share.keys => {
                let rows = self.keys(out, self.read, rows_max);
                self.read += rows as u64;
                Ok(self.hand_out(rows, self.position))
            }
            Phase::End => Ok(Polled::End),
            _ => {
                self.gate.done(shard, phase);
                Ok(self.wait())
            }
        }
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.position = position;
        self.gate.source_at(self.share.shard as usize, position);
        Ok(())
    }
}
