//! Process functions: rows, timers and marks in their order, whatever happens between any two.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::record::{Out, Record, record};
use super::{Cruelty, Ends, Outcome, Scripted, Word, cases, play, words};
use crate::job::stream::Stream;
use crate::road::process::{BoxError, Process, ProcessContext};
use crate::road::timers::{Timer, WallTime};
use crate::road::watermarks::Watermarks;
use crate::state::{KeyedState, Map, Value};
use crate::time::Timestamp;

type Cx<'a> = ProcessContext<'a, u64, String>;

/// Rows of a key per ten milliseconds.
#[derive(KeyedState)]
struct Counts {
    per_ten: Map<i64, u64>,
}

/// Windows of ten milliseconds, made of timers.
struct Tens;

impl Process<u64, u64> for Tens {
    type State = Counts;
    type Out = String;

    fn on_event(&mut self, counts: &mut Counts, _: u64, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let ten = cx.timestamp().0.div_euclid(10);
        counts.per_ten.update_or(ten, 0, |count| *count += 1);
        // Set again by every row, and once for nothing.
        cx.timers().event(Timestamp(ten * 10 + 9));
        cx.timers().event(Timestamp(ten * 10 + 8));
        assert!(cx.timers().delete_event(Timestamp(ten * 10 + 8)));
        Ok(())
    }

    fn on_timer(&mut self, counts: &mut Counts, timer: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let Timer::Event(at) = timer else { return Err("a timer of another kind".into()) };
        assert!(at <= cx.watermark() && at == cx.timestamp());
        let ten = at.0.div_euclid(10);
        let count = *counts.per_ten.get(&ten).ok_or("a timer without rows")?;
        counts.per_ten.remove(&ten);
        cx.emit(format!("{}@{}: {count}", cx.key(), ten * 10));
        Ok(())
    }
}

fn tens(rows: Stream<Scripted>, out: Record) {
    record(rows.key_by(|key| *key).process(Tens), out);
}

/// The script gives these words, with room for one row out and for many, undisturbed and with a checkpoint and a crash
/// between any two words.
#[track_caller]
fn check<P: Process<u64, u64, Out = String>>(script: &str, expected: &str, process: fn() -> P) {
    for room in [1, usize::MAX] {
        for barriers in [true, false] {
            let cruelty = Cruelty { room, flush: true, ..Cruelty::default() };
            let mut script = words(script);
            if barriers {
                script = script.into_iter().flat_map(|word| [word, Word::Barrier]).collect();
            }
            let outcome = play(vec![script], cruelty, move |_, rows, out| {
                record(rows.key_by(|key| *key).process(process()), out);
            });
            assert_eq!(outcome.text(), expected, "{cruelty:?}, barriers {barriers}");
        }
    }
}

#[test]
fn a_watermark_passes_behind_the_timers_that_it_fires() {
    let tens = || Tens;
    check("a@1 b@4 a@9 W9 a@12 W19", "97@0: 2 98@0: 1 W9 97@10: 1 W19", tens);
    check("a@1 W8", "W8", tens);
    check("a@1 W8 a@2 W9", "W8 97@0: 2 W9", tens);
    check("a@25 a@5 a@15 W9 W19 I W29", "97@0: 1 W9 97@10: 1 W19 I 97@20: 1 W29", tens);
    check("a@1 a@99 Wmax", "97@0: 1 97@90: 1 Wmax", tens);
    check("W100 I", "W100 I", tens);
}

#[test]
fn a_timer_before_the_watermark_fires_at_once() {
    check("W9 a@2 a@3 W19", "W9 97@0: 1 97@0: 1 W19", || Tens);
    check("Wmax a@2", "Wmax 97@0: 1", || Tens);
}

/// Says what is called, and when.
struct Diary;

#[derive(KeyedState)]
struct Pages {
    lines: Value<u64>,
}

impl Diary {
    fn line(pages: &mut Pages, what: &str, cx: &mut Cx<'_>) {
        let line = pages.lines.get_or(0);
        pages.lines.set(line + 1);
        let at = cx.timestamp();
        cx.emit(format!("{line}:{what}@{}", at.0));
    }
}

impl Process<u64, u64> for Diary {
    type State = Pages;
    type Out = String;

    fn on_event(&mut self, pages: &mut Pages, _: u64, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        Diary::line(pages, "row", cx);
        let at = cx.timestamp();
        // Not in the order in which they fire.
        for ahead in [3, 1, 2, 1] {
            cx.timers().event(at.plus_ms(ahead));
        }
        cx.timers().delete_event(at.plus_ms(2));
        Ok(())
    }

    fn on_timer(&mut self, pages: &mut Pages, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        Diary::line(pages, "timer", cx);
        let at = cx.timestamp();
        if at.0 % 10 == 3 {
            // Sets off another one, before the next that is already there or not.
            cx.timers().event(at.plus_ms(5));
        }
        Ok(())
    }
}

#[test]
fn timers_of_one_watermark_fire_in_the_order_of_time_and_so_do_those_that_they_set() {
    let timers = "0:row@10 1:row@20 2:timer@11 3:timer@13 4:timer@18 5:timer@21 6:timer@23 7:timer@28";
    check("a@10 a@20 W28", &format!("{timers} W28"), || Diary);
    check("a@10 a@20 W27", &format!("{} W27", &timers[..timers.len() - 11]), || Diary);
}

/// Waits for wall time.
struct Patient {
    wait_ms: i64,
}

impl Process<u64, u64> for Patient {
    type State = Pages;
    type Out = String;

    fn on_event(&mut self, pages: &mut Pages, _: u64, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let at = cx.now().plus_ms(self.wait_ms);
        pages.lines.set(at.0 as u64);
        cx.timers().processing(at);
        cx.timers().processing(at.plus_ms(1));
        assert!(cx.timers().delete_processing(at.plus_ms(1)) && !cx.timers().delete_event(Timestamp(at.0)));
        Ok(())
    }

    fn on_timer(&mut self, pages: &mut Pages, timer: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let Timer::Processing(at) = timer else { return Err("a timer of another kind".into()) };
        assert!(cx.now() >= at && pages.lines.get_or(0) >= at.0 as u64, "{at} is in time");
        assert!(cx.watermark() == Timestamp::MIN || cx.timestamp() > cx.watermark(), "what is emitted is not late");
        cx.emit(format!("{} at {}", cx.key(), cx.timestamp().0));
        assert_ne!(at, WallTime(0));
        Ok(())
    }
}

#[test]
fn wall_time_fires_through_checkpoints_and_crashes() {
    for shards in 1..=3 {
        for ends in [Ends::Complete, Ends::Crash, Ends::Any] {
            let script = words("a@1 B c@2 B W9 B e@12 B B");
            let cruelty = Cruelty { ends, patience: 30, flush: true, ..Cruelty::default() };
            let outcome = play(vec![script; shards], cruelty, |_, rows, out| {
                record(rows.key_by(|key| *key).process(Patient { wait_ms: 20 }), out);
            });
            let mut keys: Vec<String> =
                outcome.rows().iter().map(|row| row.split(' ').next().unwrap().to_owned()).collect();
            keys.dedup();
            assert_eq!(keys, ["101", "97", "99"], "{shards} shards, {ends:?}: {:?}", outcome.rows());
        }
    }
}

#[test]
fn wall_time_does_not_fire_once_the_input_has_ended() {
    let cruelty = Cruelty { patience: 60, flush: true, ..Cruelty::default() };
    let outcome = play(vec![words("a@1 b@2 Wmax B")], cruelty, |_, rows, out| {
        record(rows.key_by(|key| *key).process(Patient { wait_ms: 20 }), out);
    });
    assert_eq!(outcome.text(), "Wmax");
}

/// All timers of a watermark, then the watermark, then what waited for them, though there is room for one slice at a time.
#[test]
fn many_timers_fire_in_slices() {
    const KEYS: u64 = 5_000;
    let rows = (0..KEYS).map(|key| (key, (key % 10) as i64)).collect::<Vec<_>>();
    let mut script: Vec<Word> = rows.chunks(1_000).map(|rows| Word::Rows(rows.to_vec())).collect();
    script.extend([Word::Watermark(9), Word::Idle, Word::Barrier, Word::Rows(vec![(7, 11)]), Word::Watermark(19)]);
    let outcome = play(vec![script], Cruelty::default(), |_, rows, out| tens(rows, out));
    let mut expected: Vec<String> = (0..KEYS).map(|key| format!("{key}@0: 1")).chain(["7@10: 1".to_owned()]).collect();
    expected.sort_unstable();
    assert!(outcome.rows() == expected, "{} rows", outcome.rows().len());
    let items = &outcome.items[0];
    let marks: Vec<_> = (0..items.len()).filter(|index| !matches!(items[*index], Out::Row(_))).collect();
    let count = KEYS as usize;
    assert_eq!(marks, [count, count + 1, count + 2, count + 4], "W9, idle, the barrier, one row, W19");
}

/// A row behind a watermark comes behind its timers, also where a stage before hands over several batches at once.
#[test]
fn no_row_overtakes_a_timer() {
    struct Ordered {
        set: BTreeSet<i64>,
    }

    impl Process<u64, u64> for Ordered {
        type State = Pages;
        type Out = String;

        fn on_event(&mut self, _: &mut Pages, row: u64, cx: &mut Cx<'_>) -> Result<(), BoxError> {
            if self.set.first().is_some_and(|first| Timestamp(*first) <= cx.watermark()) {
                return Err(format!("row {row} came before the timer at {:?}", self.set.first()).into());
            }
            let at = cx.timestamp();
            self.set.insert(at.0);
            cx.timers().event(at);
            Ok(())
        }

        fn on_timer(&mut self, _: &mut Pages, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
            let at = cx.timestamp().0;
            assert_eq!(self.set.pop_first(), Some(at), "in the order of time");
            cx.emit(format!("{at:05}"));
            Ok(())
        }
    }

    const COPIES: u64 = 9_000;
    let outcome =
        play(vec![words("a@0 a@0 B Wmax")], Cruelty { ends: Ends::Complete, ..Cruelty::default() }, |_, rows, out| {
            let numbers = std::cell::Cell::new(0);
            let many = rows.flat_map(move |_| {
                let from = numbers.replace(numbers.get() + COPIES);
                from..from + COPIES
            });
            let timed = many.event_time(|number| Timestamp(*number as i64), Watermarks::monotonic());
            record(timed.key_by(|_| 0_u64).process(Ordered { set: BTreeSet::new() }), out);
        });
    let expected: Vec<String> = (0..2 * COPIES).map(|at| format!("{at:05}")).collect();
    assert!(outcome.rows() == expected, "{} rows", outcome.rows().len());
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

/// Each key's timers fire in the order of time, without regard to crashes: what is lost in one comes again.
fn in_order(outcome: &Outcome) -> bool {
    let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
    outcome.items.iter().flatten().all(|item| {
        let Out::Row(row) = item else { return true };
        let (key, rest) = row.split_once('@').unwrap();
        let start = rest.split_once(':').unwrap().0.parse().unwrap();
        newest.insert(key, start).is_none_or(|before| before < start)
    })
}

/// A shard's random words, with no row behind its own watermark; as many barriers as every other shard's.
pub(super) fn script(barriers: usize) -> impl Strategy<Value = Vec<Word>> {
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

    /// With any flushes, barriers, crashes and aborts, on any number of shards: the plain answer, in order.
    #[test]
    fn timers_equal_windows(
        scripts in (1usize..4, 0usize..4).prop_flat_map(|(shards, barriers)| vec(script(barriers), shards)),
        seed: u64,
    ) {
        let outcome = play(scripts.clone(), Cruelty { seed, ends: Ends::Any, ..Cruelty::default() }, |_, rows, out| tens(rows, out));
        prop_assert!(in_order(&outcome));
        prop_assert_eq!(outcome.rows(), counted(&scripts));
    }
}
