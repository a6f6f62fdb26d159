//! Of rows that come again, one passes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millstream::Stream;
use millstream::job::stream::Boxed;
use proptest::prelude::*;

use super::{Pair, Row, Rows, many, play, side};
use crate::sales::assert_same;

const TTL_MS: i64 = 25;

fn once(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let rows = left.union(right).key_by(|row| row.key).dedup(Duration::from_millis(TTL_MS as u64));
    rows.named("join").map(|row| [row.number, -1]).boxed()
}

/// The row of a line.
fn row_of(line: &str, rows: &[Row]) -> Row {
    rows[line.split(' ').next().unwrap().parse::<usize>().unwrap()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn of_rows_that_come_again_one_passes(rows in side(), shards in 1_u32..4, step in 1_usize..20) {
        let lines = play(&rows, &[], shards, step, once);
        let passed: Vec<Row> = lines.iter().map(|line| row_of(line, &rows)).collect();
        for row in &rows {
            let by = |other: &&Row| other.key == row.key && other.number != row.number;
            let is_first = passed.iter().any(|passed| passed.number == row.number);
            // One that passed stands for those that come in its time; no other passes in that.
            let stands = |other: &Row| row.at < other.at + TTL_MS;
            let is_again = passed.iter().filter(by).any(stands);
            prop_assert!(is_first || is_again, "{:?} was dropped for nothing", row);
            let too_near = |other: &Row| (row.at - other.at).abs() < TTL_MS;
            prop_assert!(!is_first || !passed.iter().filter(by).any(too_near), "{:?} passed as well", row);
        }
    }
}

#[test]
fn on_one_shard_the_first_to_come_passes() {
    let rows = many(5_000, 11, 20);
    let (mut until, mut expected) = (BTreeMap::new(), Vec::new());
    for row in &rows {
        let until = until.entry(row.key).or_insert(i64::MIN);
        if *until <= row.at {
            *until = row.at + TTL_MS;
            expected.push(format!("{} -1 @{}", row.number, row.at));
        }
    }
    expected.sort_unstable();
    assert_same(&play(&rows, &[], 1, 40, once), &expected, "the first of each 25 ms");
}

#[test]
fn without_an_end_one_row_of_each_key_passes() {
    let rows = many(5_000, 12, 900);
    let keys: BTreeSet<u64> = rows.iter().map(|row| row.key).collect();
    for shards in 1..=3 {
        let lines = play(&rows, &[], shards, 100, |left, right| {
            left.union(right).key_by(|row| row.key).dedup_unbounded().named("join").map(|row| [row.number, -1]).boxed()
        });
        let passed: BTreeSet<u64> = lines.iter().map(|line| row_of(line, &rows).key).collect();
        assert_eq!((lines.len(), &passed), (keys.len(), &keys), "{shards} shards");
    }
}
