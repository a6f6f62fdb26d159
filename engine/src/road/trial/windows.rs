//! Windows, and folding before them: scripts and what comes out.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::record::{Out, Record, record};
use super::{Cruelty, Ends, Outcome, Scripted, Word, cases, play, words};
use crate::job::flow::Flow;
use crate::job::stream::Stream;
use crate::road::aggregate::{Count, Sum};
use crate::road::window::{Tumbling, Windowed};

/// Counts per key in windows of ten milliseconds: `a:2[0,10)`.
fn tens(_flow: &Flow, rows: Stream<Scripted>, out: Record) {
    let counts = rows.key_by(|key| *key).window(Tumbling::of(Duration::from_millis(10))).aggregate(Count);
    record(counts.map(shown), out);
}

fn shown(row: &Windowed<u64, u64>) -> String {
    let key = char::from(row.key as u8);
    format!("{key}:{}[{},{})", row.value, row.window.start.0, row.window.end.0)
}

/// Puts a barrier behind every word.
fn with_barriers(words: Vec<Word>) -> Vec<Word> {
    words.into_iter().flat_map(|word| [word, Word::Barrier]).collect()
}

/// The script gives these words, folded first or not, with room for one row out and for many, undisturbed and with a
/// checkpoint and a crash between any two words. `late` rows come too late.
#[track_caller]
fn check(script: &str, expected: &str, late: u64) {
    for combine in [true, false] {
        for room in [1, usize::MAX] {
            for barriers in [true, false] {
                // Flushed after every word: what is held back for company is not what these scripts are about.
                let cruelty = Cruelty { combine, room, flush: true, ..Cruelty::default() };
                let script = if barriers { with_barriers(words(script)) } else { words(script) };
                let outcome = play(vec![script], cruelty, tens);
                assert_eq!(outcome.text(), expected, "{cruelty:?}, barriers {barriers}");
                assert_eq!(outcome.late, late, "{cruelty:?}, barriers {barriers}");
            }
        }
    }
}

#[test]
fn a_window_is_emitted_when_the_watermark_completes_it() {
    check("a@1 b@4 a@9 W9 a@12 W19", "a:2[0,10) b:1[0,10) W9 a:1[10,20) W19", 0);
    check("a@1 W8", "W8", 0);
    check("a@1 W8 a@2 W9", "W8 a:2[0,10) W9", 0);
    check("W100", "W100", 0);
    check("", "", 0);
}

#[test]
fn windows_come_out_in_the_order_of_time() {
    check("a@25 a@5 b@15 W40", "a:1[0,10) a:1[20,30) b:1[10,20) W40", 0);
    check("a@25 a@5 b@15 W9 W19 W29", "a:1[0,10) W9 b:1[10,20) W19 a:1[20,30) W29", 0);
    check("a@-1 a@-10 a@-11 W-11 W-1", "a:1[-20,-10) W-11 a:2[-10,0) W-1", 0);
}

#[test]
fn the_end_of_time_completes_every_window() {
    check("a@1 b@99 Wmax", "a:1[0,10) b:1[90,100) Wmax", 0);
}

#[test]
fn a_late_row_is_dropped_and_counted() {
    check("a@1 W9 a@2 b@12 a@3 W19", "a:1[0,10) W9 b:1[10,20) W19", 2);
    check("W9 a@9 W19", "W9 W19", 1);
    // Behind the watermark, but in time for its window.
    check("a@15 W14 b@11 W19", "W14 a:1[10,20) b:1[10,20) W19", 0);
}

#[test]
fn idleness_passes_behind_what_came_before() {
    check("a@1 W9 I", "a:1[0,10) W9 I", 0);
    check("a@1 I W9", "I a:1[0,10) W9", 0);
    check("a@1 I A a@2 W9", "I A a:2[0,10) W9", 0);
}

/// All of a pane, then its watermark, then what waited for them, though there is room for one slice at a time.
#[test]
fn a_large_pane_is_emitted_in_slices() {
    const KEYS: u64 = 5_000;
    for combine in [true, false] {
        let rows = (0..KEYS).map(|key| (key, (key % 10) as i64)).collect::<Vec<_>>();
        let mut script: Vec<Word> = rows.chunks(1_000).map(|rows| Word::Rows(rows.to_vec())).collect();
        script.extend([Word::Watermark(9), Word::Idle, Word::Barrier, Word::Rows(vec![(7, 11)]), Word::Watermark(19)]);
        let cruelty = Cruelty { combine, ..Cruelty::default() };
        let outcome = play(vec![script], cruelty, |_, rows, out| {
            let counts = rows.key_by(|key| *key).window(Tumbling::of(Duration::from_millis(10))).aggregate(Count);
            // A filter asserts that no batch is longer than a batch.
            let counts = counts.filter(|row| row.value == 1);
            record(counts.map(|row: &Windowed<u64, u64>| format!("{}@{}", row.key, row.window.start.0)), out);
        });
        let mut expected: Vec<String> = (0..KEYS).map(|key| format!("{key}@0")).chain(["7@10".to_owned()]).collect();
        expected.sort_unstable();
        assert!(outcome.rows() == expected, "combine {combine}: {} rows", outcome.rows().len());
        let items = &outcome.items[0];
        let marks: Vec<_> = (0..items.len()).filter(|index| !matches!(items[*index], Out::Row(_))).collect();
        let count = KEYS as usize;
        assert_eq!(marks, [count, count + 1, count + 2, count + 4], "W9, idle, the barrier, one row, W19");
    }
}

/// A watermark that is held back with folded rows fires when a barrier asks for them; the barrier waits for the firing.
#[test]
fn a_barrier_waits_for_the_firing_that_it_sets_off() {
    for (shards, room) in [(1, 1), (2, 1), (1, usize::MAX)] {
        let cruelty = Cruelty { room, flush: false, ..Cruelty::default() };
        let rows = Word::Rows((0..2_000).map(|key| (key % 900, 5)).collect::<Vec<_>>()[..1_000].to_vec());
        let script = vec![rows, Word::Watermark(9), Word::Barrier, Word::Rows(vec![(1, 15)]), Word::Watermark(19)];
        let outcome = play(vec![script; shards], cruelty, tens);
        assert_eq!(outcome.rows().len(), 901, "{shards} shards");
        for items in &outcome.items {
            let barrier = items.iter().position(|item| *item == Out::Barrier(1)).unwrap();
            assert!(items[..barrier].contains(&Out::Watermark(9)), "the watermark comes before the barrier");
        }
    }
}

/// Windows over the results of windows, each with an edge before it.
#[test]
fn windows_follow_windows() {
    for shards in 1..=3 {
        for combine in [true, false] {
            let cruelty = Cruelty { combine, ends: Ends::Any, seed: 11, ..Cruelty::default() };
            let script = |shard: u64| {
                let rows = |at| Word::Rows((0..600).map(|row| (row * 3 + shard, at)).collect());
                vec![
                    rows(5),
                    Word::Watermark(8),
                    rows(12),
                    Word::Barrier,
                    Word::Watermark(19),
                    rows(31),
                    Word::Barrier,
                    Word::Watermark(i64::MAX),
                ]
            };
            let outcome = play((0..shards).map(script).collect(), cruelty, |_, rows, out| {
                let tens = rows.key_by(|key| *key).window(Tumbling::of(Duration::from_millis(10))).aggregate(Count);
                let all = tens
                    .key_by(|row| row.key % 2)
                    .window(Tumbling::of(Duration::from_millis(20)))
                    .aggregate(Sum::of(|row: &Windowed<u64, u64>| row.value));
                record(
                    all.map(|row: &Windowed<u64, u64>| format!("{}@{}: {}", row.key, row.window.start.0, row.value)),
                    out,
                );
            });
            let expected = [0, 1].map(|half| {
                [0, 20].map(|start| {
                    let keys = (0..shards)
                        .flat_map(|shard| (0..600).map(move |row| row * 3 + shard))
                        .filter(|key| key % 2 == half)
                        .count();
                    format!("{half}@{start}: {}", if start == 0 { 2 * keys } else { keys })
                })
            });
            let mut expected = expected.concat();
            expected.sort_unstable();
            assert_eq!(outcome.rows(), expected, "{shards} shards, combine {combine}");
            assert_eq!(outcome.late, 0);
        }
    }
}

/// The slow twin: a map, no watermarks.
fn counted(scripts: &[Vec<Word>]) -> Vec<String> {
    let mut windows: BTreeMap<(u64, i64), u64> = BTreeMap::new();
    for word in scripts.iter().flatten() {
        if let Word::Rows(rows) = word {
            rows.iter().for_each(|(key, at)| *windows.entry((*key, at.div_euclid(10))).or_default() += 1);
        }
    }
    let mut rows: Vec<String> =
        windows.iter().map(|((key, ten), count)| format!("{key}@{}: {count}", ten * 10)).collect();
    rows.sort_unstable();
    rows
}

fn count(scripts: &[Vec<Word>], cruelty: Cruelty) -> Outcome {
    play(scripts.to_vec(), cruelty, |_, rows, out| {
        let counts = rows.key_by(|key| *key).window(Tumbling::of(Duration::from_millis(10))).aggregate(Count);
        record(
            counts.map(|row: &Windowed<u64, u64>| format!("{}@{}: {}", row.key, row.window.start.0, row.value)),
            out,
        );
    })
}

/// A shard's random words, with no row behind its own watermark; as many barriers as every other shard's.
fn script(barriers: usize) -> impl Strategy<Value = Vec<Word>> {
    let step = (0u8..10, vec((0u64..40, 0i64..35), 1..200), 0i64..15);
    vec(vec(step, 0..8), barriers + 1).prop_map(|epochs| {
        let mut script = Vec::new();
        let mut watermark = -1;
        for (index, steps) in epochs.into_iter().enumerate() {
            if index > 0 {
                script.push(Word::Barrier);
            }
            for (kind, rows, on) in steps {
                script.push(match kind {
                    0 | 1 => Word::Flush,
                    2..=4 => {
                        watermark += on + 1;
                        Word::Watermark(watermark)
                    }
                    _ => Word::Rows(rows.into_iter().map(|(key, ahead)| (key, watermark + 1 + ahead)).collect()),
                });
            }
        }
        script.extend([Word::Watermark(i64::MAX), Word::Flush]);
        script
    })
}

proptest! {
    #![proptest_config(cases(40))]

    /// Folded first or not, with any flushes, barriers and crashes, on any number of shards: the plain answer.
    #[test]
    fn combined_equals_raw(scripts in (1usize..4, 0usize..3).prop_flat_map(|(shards, barriers)| vec(script(barriers), shards)), seed: u64) {
        let expected = counted(&scripts);
        for combine in [true, false] {
            let outcome = count(&scripts, Cruelty { combine, seed, ends: Ends::Any, ..Cruelty::default() });
            prop_assert_eq!(outcome.rows(), expected.clone(), "combine {}", combine);
            prop_assert_eq!(outcome.late, 0);
        }
    }
}

/// Keys that hardly repeat: folding steps aside, also while a watermark is held back, and nothing is lost or late.
#[test]
fn folding_that_does_not_pay_steps_aside() {
    let mut script = Vec::new();
    for batch in 0..12 {
        let at = batch * 4;
        script.push(Word::Rows((0..1_000).map(|row| (batch as u64 * 1_000 + row, at)).collect()));
        script.push(Word::Watermark(at - 1));
        if batch % 5 == 4 {
            script.push(Word::Barrier);
        }
    }
    script.extend([Word::Watermark(i64::MAX), Word::Flush]);
    for shards in [1, 2] {
        let scripts = vec![script.clone(); shards];
        let outcome = count(&scripts, Cruelty { ends: Ends::Any, seed: 5, ..Cruelty::default() });
        assert!(outcome.rows() == counted(&scripts), "{shards} shards");
        assert_eq!(outcome.late, 0);
    }
}
