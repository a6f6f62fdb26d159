//! Temporal joins: each row with the version that was valid at its time.

use std::collections::BTreeSet;

use millstream::Stream;
use millstream::job::stream::Boxed;
use proptest::prelude::*;

use super::{Pair, Row, Rows, endures, many, number, play, side};

fn as_of<const OUTER: bool>(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let as_of = left.key_by(|row| row.key).as_of(right.key_by(|row| row.key));
    if OUTER {
        return as_of.left_outer(|left, right| [left.number, number(right)]).named("join").boxed();
    }
    as_of.inner(|left, right| [left.number, right.number]).named("join").boxed()
}

/// Of versions of one key and time, the first alone: which comes last is not the same on every number of shards.
fn versions(rows: &[Row]) -> Vec<Row> {
    let mut seen = BTreeSet::new();
    rows.iter().filter(|row| seen.insert((row.key, row.at))).copied().collect()
}

fn valid_pairs(left: &[Row], right: &[Row], outer: bool) -> Vec<String> {
    let of = |left: &Row| {
        let versions = right.iter().filter(|right| right.key == left.key && right.at <= left.at);
        let version = versions.max_by_key(|right| right.at);
        (outer || version.is_some()).then(|| format!("{} {} @{}", left.number, number(version), left.at))
    };
    let mut lines: Vec<String> = left.iter().filter_map(of).collect();
    lines.sort_unstable();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn rows_meet_the_version_of_their_time(
        left in side(), right in side(), shards in 1_u32..4, step in 1_usize..20, outer: bool,
    ) {
        let right = versions(&right);
        let join = if outer { as_of::<true> } else { as_of::<false> };
        prop_assert_eq!(play(&left, &right, shards, step, join), valid_pairs(&left, &right, outer));
    }
}

#[test]
fn temporal_joins_endure() {
    let (left, right) = (many(12_000, 9, 50), versions(&many(12_000, 10, 50)));
    endures(&left, &right, as_of::<true>, &valid_pairs(&left, &right, true), "an outer temporal join");
}
