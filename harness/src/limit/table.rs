//! A running count for each key of one large flat table a shard: no window, no exchange, nothing tracked.

use super::flat::{FlatTable, NumberSlot};
use super::query::BATCH_ROWS;
use super::{LimitError, LimitOutcome, TableLimit, Timed, run_pinned};
use crate::keys::{KeyStream, key};
use crate::machine::Machine;
use crate::ysb::oracle::Differences;

pub(super) fn run(limit: &TableLimit) -> Result<LimitOutcome, LimitError> {
    let shards = limit.cores.len() as u64;
    let Timed { parts, seconds } = run_pinned(&limit.cores, |shard| {
        let share = Share::of(limit, shard as u64);
        let stream = share.stream(limit);
        let mut table = FlatTable::<NumberSlot>::with_capacity(share.keys as usize);
        // All keys are there before the clock starts: growth is not what is measured.
        for number in 0..share.keys {
            *table.entry(&share.key(number, shards)) = 0;
        }
        move || {
            let mut keys = [0; BATCH_ROWS];
            for first in (0..share.updates).step_by(BATCH_ROWS) {
                let keys = &mut keys[..(share.updates - first).min(BATCH_ROWS as u64) as usize];
                stream.numbers(first, keys);
                for number in &mut *keys {
                    *number = share.key(*number, shards);
                }
                table.count(keys);
            }
            (share, table)
        }
    })?;
    let machine = Machine::probe(&limit.cores);
    let mut differences = Differences::default();
    for (share, table) in &parts {
        share.verify(limit, table, &mut differences);
    }
    Ok(LimitOutcome { events: limit.updates, seconds, differences, stages: None, machine })
}

/// A shard's keys and updates.
#[derive(Clone, Copy)]
struct Share {
    shard: u64,
    keys: u64,
    updates: u64,
}

impl Share {
    fn of(limit: &TableLimit, shard: u64) -> Share {
        let shards = limit.cores.len() as u64;
        let share = |all: u64| all.saturating_sub(shard).div_ceil(shards);
        Share { shard, keys: share(limit.keys).max(1), updates: share(limit.updates) }
    }

    fn stream(&self, limit: &TableLimit) -> KeyStream {
        KeyStream::new(self.keys, limit.distribution, limit.seed ^ self.shard)
    }

    #[inline(always)]
    fn key(&self, number: u64, shards: u64) -> u64 {
        key(number * shards + self.shard)
    }

    /// Counts again, by number and without a hash.
    fn verify(&self, limit: &TableLimit, table: &FlatTable<NumberSlot>, differences: &mut Differences) {
        let shards = limit.cores.len() as u64;
        let mut counts = vec![0_u64; self.keys as usize];
        let stream = self.stream(limit);
        let mut numbers = [0; BATCH_ROWS];
        for first in (0..self.updates).step_by(BATCH_ROWS) {
            let numbers = &mut numbers[..(self.updates - first).min(BATCH_ROWS as u64) as usize];
            stream.numbers(first, numbers);
            for number in numbers {
                counts[*number as usize] += 1;
            }
        }
        differences.views += self.updates;
        differences.rows += self.keys;
        for (number, expected) in counts.into_iter().enumerate() {
            let key = self.key(number as u64, shards);
            let found = table.get(&key);
            if found != expected {
                differences.lost += expected.saturating_sub(found);
                differences.duplicated += found.saturating_sub(expected);
                differences.note(format!("key {key}: expected {expected}, found {found}"));
            }
        }
    }
}
