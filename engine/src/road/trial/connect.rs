//! Two inputs of one operator: a stream that forks and meets itself again, over edges of their own, whatever happens between
//! any two items.

use proptest::collection::vec;
use proptest::prelude::*;

use super::record::{Out, record};
use super::{Cruelty, Ends, Scripted, Word, cases, play, words};
use crate::job::stream::Stream;
use crate::road::broadcast::{BroadcastContext, BroadcastProcess};
use crate::road::has_time::TimedChain;
use crate::road::process::{BoxError, Process, ProcessContext};
use crate::road::side::SideOutput;
use crate::road::timers::Timer;
use crate::state::{KeyedState, Value};
use crate::time::Timestamp;

/// Even rows go on, odd ones to the side.
struct Fork {
    odd: SideOutput<u64>,
}

#[derive(KeyedState)]
struct Count {
    rows: Value<u64>,
}

impl Process<u64, u64> for Fork {
    type State = Count;
    type Out = u64;

    fn on_event(&mut self, _: &mut Count, row: u64, cx: &mut ProcessContext<'_, u64, u64>) -> Result<(), BoxError> {
        if row % 2 == 1 {
            cx.side(&self.odd, row);
        } else {
            cx.emit(row);
        }
        Ok(())
    }
}

fn fork(rows: Stream<Scripted>) -> [Stream<impl TimedChain<Out = u64>>; 2] {
    let odd = SideOutput::new();
    let even = rows.key_by(|row| *row).process(Fork { odd: odd.clone() });
    let odd = even.side(&odd);
    [even.boxed(), odd.boxed()]
}

fn named(row: Option<&u64>) -> String {
    row.map_or("none".to_owned(), u64::to_string)
}

/// Rows 2n and 2n + 1 that lie within five milliseconds of each other, and those that lie alone.
fn joined(scripts: &[Vec<Word>]) -> Vec<String> {
    let mut sides = [Vec::new(), Vec::new()];
    for word in scripts.iter().flatten() {
        if let Word::Rows(rows) = word {
            rows.iter().for_each(|(row, at)| sides[(row % 2) as usize].push((*row, *at)));
        }
    }
    let [even, odd] = &sides;
    let meet =
        |(even, even_at): (u64, i64), (odd, odd_at): (u64, i64)| even / 2 == odd / 2 && (even_at - odd_at).abs() <= 5;
    let mut lines = Vec::new();
    for left in even {
        let partners: Vec<_> = odd.iter().filter(|right| meet(*left, **right)).collect();
        lines.extend(partners.iter().map(|right| format!("{} {}", left.0, right.0)));
        if partners.is_empty() {
            lines.push(format!("{} none", left.0));
        }
    }
    let alone = odd.iter().filter(|right| !even.iter().any(|left| meet(*left, **right)));
    lines.extend(alone.map(|right| format!("none {}", right.0)));
    lines.sort_unstable();
    lines
}

/// A shard's random words, with no row behind its own watermark; as many barriers as every other shard's.
fn script(barriers: usize) -> impl Strategy<Value = Vec<Word>> {
    let step = (0u8..10, vec((0u64..12, 0i64..20), 1..40), 0i64..15);
    vec(vec(step, 0..6), barriers + 1).prop_map(|epochs| {
        let (mut script, mut watermark) = (Vec::new(), -1);
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
                    _ => Word::Rows(rows.into_iter().map(|(row, ahead)| (row, watermark + 1 + ahead)).collect()),
                });
            }
        }
        script.extend([Word::Watermark(i64::MAX), Word::Flush]);
        script
    })
}

fn scripts() -> impl Strategy<Value = Vec<Vec<Word>>> {
    (1usize..4, 0usize..4).prop_flat_map(|(shards, barriers)| vec(script(barriers), shards))
}

/// What a key has had, and what it has heard by the end.
struct Heard;

impl BroadcastProcess<u64, u64, u64> for Heard {
    type State = Count;
    type Shared = u64;
    type Out = String;

    fn on_event(
        &mut self,
        count: &mut Count,
        _: &u64,
        _: u64,
        cx: &mut ProcessContext<'_, u64, String>,
    ) -> Result<(), BoxError> {
        count.rows.update_or(0, |rows| *rows += 1);
        cx.timers().event(Timestamp::MAX);
        Ok(())
    }

    fn on_broadcast(&mut self, heard: &mut u64, row: u64, _: &BroadcastContext) -> Result<(), BoxError> {
        *heard += row;
        Ok(())
    }

    fn on_timer(
        &mut self,
        count: &mut Count,
        heard: &u64,
        _: Timer,
        cx: &mut ProcessContext<'_, u64, String>,
    ) -> Result<(), BoxError> {
        let line = format!("{}: {} rows, {heard} heard", cx.key(), count.rows.get_or(0));
        cx.emit(line);
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(24))]

    /// With any flushes, barriers, crashes and aborts, on any number of shards.
    #[test]
    fn a_join_is_its_nested_loops(scripts in scripts(), seed: u64) {
        let cruelty = Cruelty { seed, ends: Ends::Any, ..Cruelty::default() };
        let outcome = play(scripts.clone(), cruelty, |_, rows, out| {
            let [even, odd] = fork(rows);
            let joined = even.key_by(|row| row / 2).interval_join(odd.key_by(|row| row / 2)).between(-5, 5);
            record(joined.full_outer(|left, right| format!("{} {}", named(left), named(right))), out);
        });
        prop_assert_eq!(outcome.rows(), joined(&scripts));
        prop_assert_eq!(outcome.late, 0);
    }

    /// All rows of the broadcast, on every shard, once.
    #[test]
    fn a_broadcast_is_heard_everywhere(scripts in scripts(), seed: u64) {
        let cruelty = Cruelty { seed, ends: Ends::Any, ..Cruelty::default() };
        let outcome = play(scripts.clone(), cruelty, |_, rows, out| {
            let [even, odd] = fork(rows);
            record(even.key_by(|row| *row).connect_broadcast(odd.broadcast()).process(Heard), out);
        });
        let mut counts = std::collections::BTreeMap::<u64, u64>::new();
        let mut heard = 0;
        for word in scripts.iter().flatten() {
            if let Word::Rows(rows) = word {
                heard += rows.iter().map(|(row, _)| row).filter(|row| *row % 2 == 1).sum::<u64>();
                rows.iter().filter(|(row, _)| row % 2 == 0).for_each(|(row, _)| *counts.entry(*row).or_default() += 1);
            }
        }
        let mut expected: Vec<String> =
            counts.iter().map(|(key, rows)| format!("{key}: {rows} rows, {heard} heard")).collect();
        expected.sort_unstable();
        prop_assert_eq!(outcome.rows(), expected);
    }
}

#[test]
fn marks_of_two_inputs_pass_as_one() {
    let script = words("b@1 c@2 W3 I A B W5 Wmax");
    let outcome = play(vec![script], Cruelty { flush: true, ..Cruelty::default() }, |_, rows, out| {
        let [even, odd] = fork(rows);
        let joined = even.key_by(|row| row / 2).interval_join(odd.key_by(|row| row / 2)).between(-1, 1);
        record(joined.inner(|left, right| format!("{left} {right}")), out);
    });
    // 'b' is 98 and 'c' is 99.
    assert_eq!(outcome.text(), "98 99 W3 I A W5 Wmax");
    assert_eq!(outcome.items[0].iter().filter(|item| matches!(item, Out::Barrier(_))).count(), 1);
}
