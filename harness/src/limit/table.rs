//! A running count for each key of one large flat table a shard: no window, no exchange, nothing tracked.

use super::flat::{FlatTable, NumberSlot};
use super::query::BATCH_ROWS;
use super::{LimitError, LimitOutcome, TableLimit, Timed, run_pinned};
use crate::keys::Share;
use crate::machine::Machine;
use crate::ysb::oracle::Differences;

pub(super) fn run(limit: &TableLimit) -> Result<LimitOutcome, LimitError> {
    let shards = limit.cores.len() as u32;
    let Timed { parts, seconds } = run_pinned(&limit.cores, |shard| {
        let share = limit.space.share(shard as u32, shards);
        let stream = limit.space.stream(&share);
        let updates = share.part_of(limit.updates);
        let mut table = FlatTable::<NumberSlot>::with_capacity(share.keys as usize);
        // All keys are there before the clock starts: growth is not what is measured.
        for number in 0..share.keys {
            *table.entry(&share.key(number)) = 0;
        }
        move || {
            let mut keys = [0; BATCH_ROWS];
            for first in (0..updates).step_by(BATCH_ROWS) {
                let keys = &mut keys[..(updates - first).min(BATCH_ROWS as u64) as usize];
                stream.numbers(first, keys);
                for number in &mut *keys {
                    *number = share.key(*number);
                }
                table.count(keys);
            }
            (share, table)
        }
    })?;
    let machine = Machine::probe(&limit.cores);
    let mut differences = Differences::default();
    for (share, table) in &parts {
        verify(limit, share, table, &mut differences);
    }
    Ok(LimitOutcome { events: limit.updates, seconds, differences, stages: None, machine })
}

/// Counts again, by number and without a hash.
fn verify(limit: &TableLimit, share: &Share, table: &FlatTable<NumberSlot>, differences: &mut Differences) {
    let updates = share.part_of(limit.updates);
    let mut counts = vec![0_u64; share.keys as usize];
    let stream = limit.space.stream(share);
    let mut numbers = [0; BATCH_ROWS];
    for first in (0..updates).step_by(BATCH_ROWS) {
        let numbers = &mut numbers[..(updates - first).min(BATCH_ROWS as u64) as usize];
        stream.numbers(first, numbers);
        for number in numbers {
            counts[*number as usize] += 1;
        }
    }
    differences.views += updates;
    differences.rows += share.keys;
    for (number, expected) in counts.into_iter().enumerate() {
        let key = share.key(number as u64);
        let found = table.get(&key);
        if found != expected {
            differences.lost += expected.saturating_sub(found);
            differences.duplicated += found.saturating_sub(expected);
            differences.note(format!("key {key}: expected {expected}, found {found}"));
        }
    }
}
