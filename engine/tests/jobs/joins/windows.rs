//! Joins and co-groups of what falls into one window.

use std::collections::BTreeMap;

use millstream::job::stream::Boxed;
use millstream::{Sliding, Stream, Timestamp};
use proptest::prelude::*;

use super::{Join, Pair, Row, Rows, endures, many, play, side};

/// Windows as constants: size, slide and offset.
fn windows<const SIZE: i64, const SLIDE: i64, const OFFSET: i64>() -> Sliding {
    Sliding::try_of_ms(SIZE, SLIDE, OFFSET).unwrap()
}

fn windowed<const SIZE: i64, const SLIDE: i64, const OFFSET: i64>(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let (left, right) = (left.key_by(|row| row.key), right.key_by(|row| row.key));
    let joined = left.window_join(right).window(windows::<SIZE, SLIDE, OFFSET>());
    joined.inner(|left, right| [left.number, right.number]).named("join").boxed()
}

/// Of a key and a window the sums of both sides' numbers, and -1 for a side without rows.
fn co_grouped<const SIZE: i64, const SLIDE: i64, const OFFSET: i64>(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let (left, right) = (left.key_by(|row| row.key), right.key_by(|row| row.key));
    let grouped = left.co_group(right).window(windows::<SIZE, SLIDE, OFFSET>());
    grouped.apply(|_, _, left, right| [[sum(left), sum(right)]]).named("join").boxed()
}

fn sum(rows: &[Row]) -> i64 {
    if rows.is_empty() { -1 } else { rows.iter().map(|row| row.number).sum() }
}

/// The rows of every key and window, by definition.
fn groups(left: &[Row], right: &[Row], windows: Sliding) -> BTreeMap<(u64, i64), [Vec<Row>; 2]> {
    let mut groups: BTreeMap<(u64, i64), [Vec<Row>; 2]> = BTreeMap::new();
    for (side, rows) in [left, right].into_iter().enumerate() {
        for row in rows {
            for window in windows.windows_of(Timestamp(row.at)) {
                groups.entry((row.key, window.end.0 - 1)).or_default()[side].push(*row);
            }
        }
    }
    groups
}

fn window_pairs(left: &[Row], right: &[Row], windows: Sliding) -> Vec<String> {
    let mut lines = Vec::new();
    for ((_, last), [left, right]) in groups(left, right, windows) {
        for left in left {
            lines.extend(right.iter().map(|right| format!("{} {} @{last}", left.number, right.number)));
        }
    }
    lines.sort_unstable();
    lines
}

fn window_sums(left: &[Row], right: &[Row], windows: Sliding) -> Vec<String> {
    let groups = groups(left, right, windows).into_iter();
    let mut lines: Vec<String> =
        groups.map(|((_, last), [left, right])| format!("{} {} @{last}", sum(&left), sum(&right))).collect();
    lines.sort_unstable();
    lines
}

type Windows = (Join, Join, fn() -> Sliding);

const WINDOWS: [Windows; 4] = [
    (windowed::<20, 20, 0>, co_grouped::<20, 20, 0>, windows::<20, 20, 0>),
    (windowed::<20, 20, 7>, co_grouped::<20, 20, 7>, windows::<20, 20, 7>),
    (windowed::<30, 10, 3>, co_grouped::<30, 10, 3>, windows::<30, 10, 3>),
    (windowed::<7, 10, 0>, co_grouped::<7, 10, 0>, windows::<7, 10, 0>),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn window_joins_and_co_groups_equal_nested_loops(
        left in side(), right in side(), shards in 1_u32..4, step in 1_usize..20, which in 0..WINDOWS.len(),
    ) {
        let (joined, grouped, windows) = WINDOWS[which];
        let windows = windows();
        prop_assert_eq!(play(&left, &right, shards, step, joined), window_pairs(&left, &right, windows), "{:?}", windows);
        prop_assert_eq!(play(&left, &right, shards, step, grouped), window_sums(&left, &right, windows), "{:?}", windows);
    }
}

#[test]
fn window_joins_endure() {
    let (left, right) = (many(6_000, 7, 50), many(6_000, 8, 50));
    let windows = windows::<300, 100, 0>();
    endures(&left, &right, windowed::<300, 100, 0>, &window_pairs(&left, &right, windows), "a sliding join");
}
