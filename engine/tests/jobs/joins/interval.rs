//! Interval joins: pairs whose times lie so and so far apart.

use millstream::job::stream::Boxed;
use millstream::{Items, Job, Stream, Timestamp, Watermarks};
use millstream_connectors::memory::NullSink;
use proptest::prelude::*;

use super::{Join, Pair, Row, Rows, endures, many, number, pairs, play, side};

/// Bounds as constants, so that a join is a plain function.
fn interval<const LOWER: i64, const UPPER: i64, const OUTER: u8>(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let right = right.key_by(|row| row.key);
    let between = left.key_by(|row| row.key).interval_join(right).between(LOWER, UPPER);
    match OUTER {
        0 => between.inner(|left, right| [left.number, right.number]).named("join").boxed(),
        1 => between.left_outer(|left, right| [left.number, number(right)]).named("join").boxed(),
        2 => between.right_outer(|left, right| [number(left), right.number]).named("join").boxed(),
        _ => between.full_outer(|left, right| [number(left), number(right)]).named("join").boxed(),
    }
}

fn interval_pairs(left: &[Row], right: &[Row], bounds: (i64, i64), outer: u8) -> Vec<String> {
    let (lower, upper) = bounds;
    let of = |left: Row, right: Row| (lower..=upper).contains(&(right.at - left.at)).then_some(left.at.max(right.at));
    let left_alone = |row: Row| (outer & 1 == 1).then_some(row.at + upper.max(0));
    let right_alone = |row: Row| (outer & 2 == 2).then_some(row.at + (-lower).max(0));
    pairs(left, right, of, left_alone, right_alone)
}

const INTERVALS: [(Join, (i64, i64), u8); 8] = [
    (interval::<-5, 5, 0>, (-5, 5), 0),
    (interval::<0, 0, 3>, (0, 0), 3),
    (interval::<3, 12, 1>, (3, 12), 1),
    (interval::<-20, -4, 2>, (-20, -4), 2),
    (interval::<-20, -4, 1>, (-20, -4), 1),
    (interval::<-7, 0, 3>, (-7, 0), 3),
    (interval::<1, 1, 3>, (1, 1), 3),
    (interval::<-30, 40, 3>, (-30, 40), 3),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn interval_joins_equal_nested_loops(
        left in side(), right in side(), shards in 1_u32..4, step in 1_usize..20, which in 0..INTERVALS.len(),
    ) {
        let (join, bounds, outer) = INTERVALS[which];
        let expected = interval_pairs(&left, &right, bounds, outer);
        prop_assert_eq!(play(&left, &right, shards, step, join), expected, "{:?} {}", bounds, outer);
    }
}

#[test]
fn interval_joins_endure() {
    let (left, right) = (many(12_000, 5, 50), many(12_000, 6, 50));
    endures(&left, &right, interval::<-20, 35, 3>, &interval_pairs(&left, &right, (-20, 35), 3), "a full outer join");
}

#[test]
fn bounds_that_nothing_lies_between_are_refused() {
    let job = Job::new("nothing", |flow| {
        let rows = || flow.source(Items::of(vec![[1_u64, 2]])).event_time(|_| Timestamp(0), Watermarks::monotonic());
        let (left, right) = (rows().key_by(|row| row[0]), rows().key_by(|row| row[0]));
        left.interval_join(right).between(3, 3).upper_exclusive().inner(|_, _| 0_u64).sink(NullSink::new());
    });
    let told = job.run().unwrap_err().to_string();
    assert!(told.contains("no two rows lie between 3 and 2 ms"), "{told}");
}
