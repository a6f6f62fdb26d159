//! Wide accumulators through windows and edges: folded first or not, whatever happens between, the same sketches.

use std::time::Duration;

use super::record::record;
use super::{Cruelty, Ends, Word, play};
use crate::road::aggregate::{Distinct, Quantiles, Top};
use crate::road::window::{Tumbling, Windowed};

#[test]
fn sketches_are_the_same_wherever_they_were_folded() {
    let script = |shard: u64| {
        let rows = |from: u64| Word::Rows((from..from + 700).map(|row| (row * 7 + shard, (row % 20) as i64)).collect());
        vec![rows(0), Word::Flush, rows(300), Word::Barrier, rows(5_000), Word::Watermark(i64::MAX), Word::Flush]
    };
    let mut seen: Option<Vec<String>> = None;
    for (combine, seed) in [(true, 3), (false, 4), (true, 5)] {
        let cruelty = Cruelty { combine, seed, ends: Ends::Any, ..Cruelty::default() };
        let outcome = play((0..3).map(script).collect(), cruelty, |_, rows, out| {
            let all = (
                Distinct::<2048, _, _>::of(|row: &u64| *row),
                Top::<3, _, _>::of(|row: &u64| *row),
                Quantiles::<256, _>::of(|row: &u64| *row as f64),
            );
            let sketched = rows.key_by(|row| row % 5).window(Tumbling::of(Duration::from_millis(10))).aggregate(all);
            record(
                sketched.map(|row: &Windowed<u64, _>| {
                    let (distinct, top, quantiles) = &row.value;
                    format!("{}@{}: {distinct} {top:?} {quantiles:?}", row.key, row.window.start.0)
                }),
                out,
            );
        });
        assert_eq!((outcome.rows().len(), outcome.late), (10, 0));
        assert!(seen.get_or_insert(outcome.rows()) == &outcome.rows(), "combine {combine}, seed {seed}");
    }
    // Of 3 × 1,700 different rows a tenth, and the three greatest of them.
    let seen = seen.expect("three worlds were played");
    let distinct: u64 = seen[0].split(' ').nth(1).and_then(|distinct| distinct.parse().ok()).expect("a number");
    assert!((450..=570).contains(&distinct), "{distinct}");
}
