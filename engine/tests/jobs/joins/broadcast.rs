//! What every shard hears: shared state, and joins with a table that is broadcast.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use millstream::job::stream::Boxed;
use millstream::state::{KeyedState, Value};
use millstream::{BoxError, BroadcastContext, BroadcastProcess, ProcessContext, Stream, Timer, Timestamp};

use super::{Given, Pair, Row, Rows, endures, many, play};
use crate::sales::{Place, assert_same};

/// At the end of time, each key tells of how many rows it had, and of what it has heard by then.
struct Hears;

type Cx<'a> = ProcessContext<'a, u64, Pair>;

/// Of every key that was heard, how many rows and the sum of their numbers.
type Heard = BTreeMap<u64, (u64, i64)>;

#[derive(KeyedState)]
struct Counted {
    rows: Value<u64>,
}

impl BroadcastProcess<u64, Row, Row> for Hears {
    type State = Counted;
    type Shared = Heard;
    type Out = Pair;

    fn on_event(&mut self, counted: &mut Counted, _: &Heard, _: Row, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        counted.rows.update_or(0, |rows| *rows += 1);
        cx.timers().event(Timestamp::MAX);
        Ok(())
    }

    fn on_broadcast(&mut self, heard: &mut Heard, row: Row, cx: &BroadcastContext) -> Result<(), BoxError> {
        if cx.timestamp().0 != row.at {
            return Err(format!("{row:?} at {}", cx.timestamp()).into());
        }
        let of_key = heard.entry(row.key).or_default();
        *of_key = (of_key.0 + 1, of_key.1 + row.number);
        Ok(())
    }

    fn on_timer(&mut self, counted: &mut Counted, heard: &Heard, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let (rows, sum) = heard.values().fold((0, 0), |all, of_key| (all.0 + of_key.0, all.1 + of_key.1));
        cx.emit([counted.rows.get_or(0) as i64, sum * 1_000_000 + rows as i64]);
        counted.rows.clear();
        Ok(())
    }
}

fn heard(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    left.key_by(|row| row.key).connect_broadcast(right.broadcast()).process(Hears).named("join").boxed()
}

#[test]
fn every_shard_hears_every_row_of_a_broadcast_and_keeps_it() {
    let (left, right) = (many(12_000, 13, 50), many(12_000, 14, 7));
    let sum: i64 = right.iter().map(|row| row.number).sum();
    let mut rows: BTreeMap<u64, u64> = BTreeMap::new();
    left.iter().for_each(|row| *rows.entry(row.key).or_default() += 1);
    let line = |rows: &u64| format!("{rows} {} @{}", sum * 1_000_000 + right.len() as i64, i64::MAX);
    let mut expected: Vec<String> = rows.values().map(line).collect();
    expected.sort_unstable();
    for shards in 1..=3 {
        assert_same(&play(&left, &right, shards, 100, heard), &expected, &format!("{shards} shards"));
    }
    endures(&left, &right, heard, &expected, "a broadcast");
}

/// Each row with the row of the table that is of its key, if there is one by then.
fn tabled(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let table = right.broadcast();
    let joined = left.key_by(|row| row.key).join_broadcast(
        table,
        |row| row.key,
        |row, entry| (row.key < 40).then(|| [row.number, entry.map_or(-1, |entry| entry.key as i64)]),
    );
    joined.named("join").boxed()
}

#[test]
fn a_table_that_is_broadcast_outlives_restarts() {
    // The table is there before the first row that is let in: a third of the job's life each.
    let (left, right) = (many(9_000, 15, 50), many(60, 16, 30));
    let keys: BTreeSet<u64> = right.iter().map(|row| row.key).collect();
    for walk in [[1, 3, 2], [2, 1, 3]] {
        let place = Place::new();
        let mut taken = 0;
        for (stop, shards) in walk.into_iter().enumerate() {
            let given = Given::of(&left, &right, shards, 50);
            let gate = [0, 3_000, 9_000][stop];
            given.left.gate.store(gate, Ordering::Relaxed);
            let running = given.job(tabled, &place).start().unwrap();
            while running.events_in() < gate + 60 - taken {
                assert!(!running.is_finished(), "{walk:?}: {:?}", running.wait());
                std::thread::yield_now();
            }
            taken = gate + 60;
            if stop == 2 {
                running.wait().unwrap();
                break;
            }
            running.stop();
            assert!(running.wait().unwrap().stopped, "{walk:?}");
        }
        let line = |row: &Row| {
            let entry = if keys.contains(&row.key) { row.key as i64 } else { -1 };
            format!("{} {entry} @{}", row.number, row.at)
        };
        let mut expected: Vec<String> = left.iter().filter(|row| row.key < 40).map(line).collect();
        expected.sort_unstable();
        assert_same(&place.lines(), &expected, &format!("{walk:?}"));
    }
}
