//! All pairs of a key, kept for ever or for a time to live.

use std::time::Duration;

use millstream::job::stream::Boxed;
use millstream::{Items, Job, Stream, Timestamp, Watermarks};
use millstream_connectors::memory::NullSink;

use super::{Pair, Rows, many, pairs, play};
use crate::sales::assert_same;

fn regular(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let right = right.key_by(|row| row.key);
    left.key_by(|row| row.key).join_unbounded(right, |left, right| [left.number, right.number]).named("join").boxed()
}

/// All pairs. Their time is that of the row that came later, which may be either.
fn untimed(lines: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = lines.iter().map(|line| line.split('@').next().unwrap().to_owned()).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn all_pairs_of_a_key_come_once() {
    let (left, right) = (many(3_000, 3, 400), many(3_000, 4, 400));
    let expected = untimed(&pairs(&left, &right, |_, _| Some(0), |_| None, |_| None));
    for shards in 1..=3 {
        assert_same(&untimed(&play(&left, &right, shards, 100, regular)), &expected, "all pairs");
    }
}

#[test]
fn rows_of_a_join_with_a_time_to_live_meet_while_it_lasts() {
    let (left, right) = (many(2_000, 3, 400), many(2_000, 4, 400));
    let expected = untimed(&pairs(&left, &right, |_, _| Some(0), |_| None, |_| None));
    let within = |left: Rows, right: Rows| {
        let (left, right) = (left.key_by(|row| row.key), right.key_by(|row| row.key));
        let hour = Duration::from_secs(3_600);
        left.join_within(right, hour, |left, right| [left.number, right.number]).named("join").boxed()
    };
    assert_same(&untimed(&play(&left, &right, 2, 100, within)), &expected, "within an hour");
}

#[test]
fn all_pairs_are_joined_without_time() {
    let job = Job::new("timeless", move |flow| {
        let rows = || flow.source(Items::of(vec![[1_u64, 2]]));
        let timed = rows().event_time(|row| Timestamp(row[1] as i64), Watermarks::monotonic());
        let (timed, bare) = (timed.key_by(|row| row[0]), rows().key_by(|row| row[0]));
        bare.join_unbounded(timed, |_, _| 0_u64).sink(NullSink::new());
    });
    assert!(job.explain().is_ok());
}
