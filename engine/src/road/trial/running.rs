//! Running aggregates: every row yields the result so far, once, in order, whatever happens between any two.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::record::{Out, Record, record};
use super::{Cruelty, Ends, Outcome, Word, cases, play, words};
use crate::job::stream::Stream;
use crate::road::aggregate::{Count, Sum};
use crate::road::chain::Chain;
use crate::road::running::Updated;
use crate::road::window::{Tumbling, Windowed};

/// Counts so far per key: `a:2`.
fn counts(rows: Stream<impl Chain<Out = u64>>, out: Record) {
    let counts = rows.key_by(|key| *key).running(Count);
    // A filter asserts that no batch is longer than a batch.
    let counts = counts.filter(|row| row.value > 0);
    record(counts.map(|row: &Updated<u64, u64>| format!("{}:{:06}", row.key, row.value)), out);
}

#[test]
fn every_row_yields_the_result_so_far_and_signals_pass_behind_it() {
    for barriers in [false, true] {
        for room in [1, usize::MAX] {
            let mut script = words("a@5 b@7 a@3 W4 a@9 I W9 b@20");
            if barriers {
                script = script.into_iter().flat_map(|word| [word, Word::Barrier]).collect();
            }
            let outcome = play(vec![script], Cruelty { room, flush: true, ..Cruelty::default() }, |_, rows, out| {
                let counts = rows.key_by(|key| *key).running(Count);
                record(counts.map(|row| format!("{}:{}", char::from(row.key as u8), row.value)), out);
            });
            assert_eq!(outcome.text(), "a:1 a:2 b:1 W4 a:3 I W9 b:2", "room {room}, barriers {barriers}");
        }
    }
}

#[test]
fn a_row_keeps_its_time() {
    for shards in 1..=3 {
        let script = || words("a@5 a@7 W9 a@15 W19 Wmax");
        let cruelty = Cruelty { flush: true, ends: Ends::Any, ..Cruelty::default() };
        let outcome = play((0..shards).map(|_| script()).collect(), cruelty, |_, rows, out| {
            let counts = rows.key_by(|key| *key).running(Sum::of(|_: &u64| 1_u64));
            let per_ten = counts.key_by(|row| row.key).window(Tumbling::of(Duration::from_millis(10))).aggregate(Count);
            record(
                per_ten.map(|row: &Windowed<u64, u64>| {
                    format!("[{},{})={}", row.window.start.0, row.window.end.0, row.value)
                }),
                out,
            );
        });
        let rows = [format!("[0,10)={}", 2 * shards), format!("[10,20)={shards}")];
        assert_eq!(outcome.rows(), rows, "{shards} shards");
        assert_eq!(outcome.late, 0, "{shards} shards");
    }
}

/// The slow twin: a map. A key's `n` rows yield one to `n`.
fn counted(scripts: &[Vec<Word>], copies: u64) -> Vec<String> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for word in scripts.iter().flatten() {
        if let Word::Rows(rows) = word {
            rows.iter().for_each(|(key, _)| *counts.entry(*key).or_default() += copies);
        }
    }
    let mut rows: Vec<String> =
        counts.iter().flat_map(|(key, count)| (1..=*count).map(move |nth| format!("{key}:{nth:06}"))).collect();
    rows.sort_unstable();
    rows
}

/// A key's rows come from one shard, in the order of their results.
fn in_order(outcome: &Outcome) -> bool {
    let mut newest: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    outcome.items.iter().enumerate().all(|(shard, items)| {
        items.iter().all(|item| {
            let Out::Row(row) = item else { return true };
            let (key, count) = row.split_once(':').unwrap();
            let before = newest.insert(key, (shard, count));
            before.is_none_or(|(of, before)| of == shard && before < count)
        })
    })
}

/// A shard's random words; as many barriers as every other shard's.
fn script(barriers: usize) -> impl Strategy<Value = Vec<Word>> {
    let step = (0_u8..8, vec((0_u64..300, 0_i64..35), 1..1_024));
    vec(vec(step, 0..6), barriers + 1).prop_map(|epochs| {
        let mut script = Vec::new();
        for (index, steps) in epochs.into_iter().enumerate() {
            script.extend((index > 0).then_some(Word::Barrier));
            script.extend(steps.into_iter().map(|(kind, rows)| if kind == 0 { Word::Flush } else { Word::Rows(rows) }));
        }
        script.push(Word::Flush);
        script
    })
}

proptest! {
    #![proptest_config(cases(30))]

    /// With any flushes, barriers, crashes and aborts, on any number of shards: the plain answer, in order.
    #[test]
    fn rows_count_as_if_taken_one_by_one(
        scripts in (1_usize..4, 0_usize..4).prop_flat_map(|(shards, barriers)| vec(script(barriers), shards)),
        seed: u64,
    ) {
        let outcome = play(scripts.clone(), Cruelty { seed, ends: Ends::Any, ..Cruelty::default() }, |_, rows, out| counts(rows, out));
        prop_assert!(in_order(&outcome));
        prop_assert_eq!(outcome.rows(), counted(&scripts, 1));
    }
}

/// Buffers of thousands of rows before a stage with room for one batch, and an edge behind that: none of it is taken
/// before there is room.
#[test]
fn a_buffer_is_taken_as_there_is_room_for_it() {
    const COPIES: u64 = 5;
    for shards in [1, 2, 3] {
        let script = |shard: u64| {
            let rows = |from: u64| Word::Rows((0..1_000).map(|row| ((row * 7 + from + shard) % 900, 0)).collect());
            vec![rows(0), rows(1), Word::Barrier, rows(2), rows(3), Word::Barrier, rows(4), Word::Flush]
        };
        let scripts: Vec<_> = (0..shards).map(script).collect();
        let cruelty = Cruelty { ends: Ends::Any, seed: 17, buffers: 2, ..Cruelty::default() };
        let outcome = play(scripts.clone(), cruelty, |_, rows, out| {
            let many = rows.flat_map(|key| std::iter::repeat_n(*key, COPIES as usize));
            let first = many.key_by(|key| *key).running(Count);
            counts(first.map(|row: &Updated<u64, u64>| row.key), out);
        });
        assert!(in_order(&outcome), "{shards} shards");
        assert!(outcome.rows() == counted(&scripts, COPIES), "{shards} shards");
    }
}
