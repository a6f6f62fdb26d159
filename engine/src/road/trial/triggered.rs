//! Windows with triggers: sessions, counts, early and late panes, kept rows; whatever happens between any two rows.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::process::script;
use super::record::{Record, record};
use super::{Cruelty, Ends, Scripted, Word, cases, play, words};
use crate::job::stream::Stream;
use crate::road::aggregate::{Count, Sum};
use crate::road::chain::Chain;
use crate::road::window::{
    AtEndOfInput, Continuous, CountWindow, Element, Every, Fired, Global, Keep, OnCount, OnTime, Pane, Session,
    Sliding, Timing, Tumbling, Window,
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A result in words: `a[0,10)=3`, with `e`, `o` or `l` and the index of its pane where that is not the first on time.
fn said(fired: &Fired<u64, u64>) -> String {
    let key = char::from(fired.key as u8);
    let window = fired.window.map_or(String::new(), |Window { start, end }| format!("[{},{})", start.0, end.0));
    let pane = match fired.pane {
        Pane { timing: Timing::OnTime, index: 0 } => String::new(),
        Pane { timing, index } => format!("{}{index}", ["e", "o", "l"][timing as usize]),
    };
    format!("{key}{window}={}{pane}", fired.value)
}

fn tell<C: Chain<Out = Fired<u64, u64>>>(fired: Stream<C>, out: Record) {
    record(fired.map(said), out);
}

/// The script gives these words, with room for one row out and for many, undisturbed and with a checkpoint and a crash
/// between any two words.
#[track_caller]
fn check(script: &str, expected: &str, build: fn(Stream<Scripted>, Record)) {
    for room in [1, usize::MAX] {
        for barriers in [true, false] {
            let cruelty = Cruelty { room, flush: true, ..Cruelty::default() };
            let mut script = words(script);
            if barriers {
                script = script.into_iter().flat_map(|word| [word, Word::Barrier]).collect();
            }
            let outcome = play(vec![script], cruelty, move |_, rows, out| build(rows, out));
            assert_eq!(outcome.text(), expected, "{cruelty:?}, barriers {barriers}");
        }
    }
}

fn sessions(rows: Stream<Scripted>, out: Record) {
    tell(rows.key_by(|key| *key).window(Session::gap(ms(10))).aggregate(Count), out);
}

#[test]
fn a_session_ends_when_its_key_has_been_silent() {
    check(
        "a@0 b@3 a@9 a@30 W12 W17 W18 Wmax",
        "W12 b[3,13)=1 W17 a[0,19)=2 W18 a[30,40)=1 Wmax".replace("W12 b[3,13)=1", "b[3,13)=1 W12").as_str(),
        sessions,
    );
    // Out of order, touching at exactly the gap, and one that is closed by a late row.
    check("a@10 a@0 W5 a@20 Wmax", "W5 a[0,30)=3 Wmax", sessions);
    check("a@0 a@20 W5 a@40 a@10 Wmax", "W5 a[0,30)=3 a[40,50)=1 Wmax", sessions);
    check("a@0 a@20 a@40 a@60 a@30 W100", "a[0,10)=1 a[20,50)=3 a[60,70)=1 W100", sessions);
    check("a@0 a@40 a@20 a@60 a@10 a@30 W100", "a[0,50)=5 a[60,70)=1 W100", sessions);
    check("Wmax", "Wmax", sessions);
}

#[test]
fn windows_of_counts_fire_when_they_are_full() {
    fn fours(rows: Stream<Scripted>, out: Record) {
        tell(rows.key_by(|key| *key).window(CountWindow::of(4)).aggregate(Count), out);
    }
    check("b@3 b@3 a@0 a@0 a@9 b@1 b@1 F b@1 a@9 b@1 b@1 b@1", "a=4 b=4 b=4", fours);
    fn last_three(rows: Stream<Scripted>, out: Record) {
        tell(rows.key_by(|_| 97u64).window(CountWindow::of(3).every(2)).aggregate(Sum::of(|row: &u64| row - 97)), out);
    }
    // After two rows there are two; from then on three.
    check("b@0 c@0 W1 d@0 e@0 W2 f@0", "a=3 W1 a=9o1 W2", last_three);
    check("b@0 c@0 d@0 W1 e@0 f@0 W2 g@0 Wmax", "a=3 W1 a=9o1 W2 a=15o2 Wmax", last_three);
}

#[test]
fn panes_come_early_on_time_and_late() {
    fn early(rows: Stream<Scripted>, out: Record) {
        let windows = rows.key_by(|key| *key).window(Tumbling::of(ms(10))).allowed_lateness(ms(5));
        tell(windows.trigger(OnTime::new().early(Every::count(2)).late(Every::count(2))).aggregate(Count), out);
    }
    check("a@0 a@1 W1 a@2 W9", "a[0,10)=2e0 W1 a[0,10)=3o1 W9", early);
    check(
        "a@0 a@1 W9 a@3 W10 a@4 W11 a@5 W14 a@6 W19",
        "a[0,10)=2e0 a[0,10)=2o1 W9 W10 a[0,10)=4l2 W11 W14 W19",
        early,
    );
    fn discarding(rows: Stream<Scripted>, out: Record) {
        let windows = rows.key_by(|key| *key).window(Tumbling::of(ms(10)));
        tell(windows.trigger(OnTime::new().early(Every::count(2))).discarding().aggregate(Count), out);
    }
    check("a@0 a@1 W1 a@2 W9", "a[0,10)=2e0 W1 a[0,10)=1o1 W9", discarding);
    check("a@0 a@1 W9", "a[0,10)=2e0 W9", discarding);
}

#[test]
fn the_end_of_the_input_is_a_trigger() {
    fn totals(rows: Stream<Scripted>, out: Record) {
        tell(rows.key_by(|key| *key).window(Global).trigger(AtEndOfInput).aggregate(Count), out);
    }
    check("a@0 b@7 W100 a@3 Wmax", "W100 a=2 b=1 Wmax", totals);
}

#[test]
fn continuous_results_come_at_multiples_behind_the_first_row_and_at_the_end() {
    fn each_three(rows: Stream<Scripted>, out: Record) {
        tell(
            rows.key_by(|key| *key).window(Tumbling::of(ms(10))).trigger(Continuous::every(ms(3))).aggregate(Count),
            out,
        );
    }
    check("a@4 W5 W6 a@5 W9 W20", "W5 a[0,10)=1e0 W6 a[0,10)=2o1 W9 W20", each_three);
    check("a@0 W1 a@2 W7 W9", "W1 a[0,10)=2e0 a[0,10)=2e1 W7 a[0,10)=2o2 W9", each_three);
    fn global(rows: Stream<Scripted>, out: Record) {
        tell(rows.key_by(|key| *key).window(Global).trigger(Continuous::every(ms(3))).aggregate(Count), out);
    }
    check("a@1 W3 a@2 W6 Wmax", "a=1e0 W3 a=2e1 W6 a=2e2 Wmax", global);
}

#[test]
fn a_session_adds_up_its_triggers() {
    fn threes(rows: Stream<Scripted>, out: Record) {
        tell(rows.key_by(|key| *key).window(Session::gap(ms(10))).trigger(OnCount::of(4)).aggregate(Count), out);
    }
    check("a@0 a@20 a@21 W1 a@10 Wmax", "W1 a[0,31)=4e0 Wmax", threes);
    check("a@0 a@20 W1 a@10 Wmax", "W1 Wmax", threes);
}

#[test]
fn windows_keep_rows_and_leave_some_out() {
    fn last_two(rows: Stream<Scripted>, out: Record) {
        let windows = rows.key_by(|_| 97u64).window(Sliding::of(ms(20)).every(ms(10)));
        let rows = windows.elements().evict(Keep::last(2));
        record(
            rows.process(|key, window, pane, rows: &[Element<u64>]| {
                let rows: String = rows.iter().map(|element| char::from(element.row as u8)).collect();
                [format!("{key}@{}: {rows} {pane}", window.unwrap().start.0)]
            }),
            out,
        );
    }
    check(
        "b@1 c@5 d@7 W9 e@12 W19 W29",
        "97@-10: cd on time pane 0 W9 97@0: de on time pane 0 W19 97@10: e on time pane 0 W29",
        last_two,
    );
}

/// The same words at even times: with an odd gap no two sessions touch. Whether those that do are one depends on whether
/// the watermark came between them.
fn doubled(mut scripts: Vec<Vec<Word>>) -> Vec<Vec<Word>> {
    for word in scripts.iter_mut().flatten() {
        match word {
            Word::Rows(rows) => rows.iter_mut().for_each(|(_, at)| *at *= 2),
            Word::Watermark(at) => *at = at.saturating_mul(2),
            _ => {}
        }
    }
    scripts
}

/// The slow twin: each key's rows in the order of time, cut where it is silent for more than the gap.
fn silences(scripts: &[Vec<Word>]) -> Vec<String> {
    let mut keys: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    for word in scripts.iter().flatten() {
        if let Word::Rows(rows) = word {
            rows.iter().for_each(|(key, at)| keys.entry(*key).or_default().push(*at));
        }
    }
    let mut rows = Vec::new();
    for (key, mut times) in keys {
        times.sort_unstable();
        for session in times.chunk_by(|one, next| next - one <= 11) {
            let (first, last) = (session[0], session[session.len() - 1]);
            rows.push(format!("{key} [{first}, {}): {}", last + 11, session.len()));
        }
    }
    rows.sort_unstable();
    rows
}

proptest! {
    #![proptest_config(cases(30))]

    /// With any flushes, barriers, crashes and aborts, on any number of shards: the plain answer, each session once.
    #[test]
    fn sessions_equal_silences(
        scripts in (1usize..4, 0usize..4).prop_flat_map(|(shards, barriers)| vec(script(barriers), shards)),
        seed: u64,
    ) {
        let scripts = doubled(scripts);
        let outcome = play(scripts.clone(), Cruelty { seed, ends: Ends::Any, ..Cruelty::default() }, |_, rows, out| {
            let sessions = rows.key_by(|key| *key).window(Session::gap(ms(11))).aggregate(Count);
            record(
                sessions.map(|Fired { key, window, value, pane }| {
                    assert_eq!((pane.timing, pane.index), (Timing::OnTime, 0));
                    let Window { start, end } = window.unwrap();
                    format!("{key} [{}, {}): {value}", start.0, end.0)
                }),
                out,
            );
        });
        prop_assert_eq!(outcome.rows(), silences(&scripts));
    }
}

#[test]
fn windows_of_wall_time_end_with_it_and_with_the_input() {
    fn fives(rows: Stream<Scripted>, out: Record) {
        let windows = rows.key_by(|key| *key).window(Tumbling::of(ms(5)).processing_time());
        record(windows.aggregate(Count).map(|fired| format!("{}={}", char::from(fired.key as u8), fired.value)), out);
    }
    for flush in [true, false] {
        let cruelty = Cruelty { flush, ..Cruelty::default() };
        let outcome = play(vec![words("a@9 b@1 Wmax")], cruelty, |_, rows, out| fives(rows, out));
        assert_eq!(outcome.text(), "a=1 b=1 Wmax");
    }
}

#[test]
fn the_ends_of_time_are_in_windows_too() {
    let extremes = || vec![Word::Rows(vec![(97, i64::MIN), (97, i64::MAX), (97, i64::MAX - 1), (98, 0)])];
    let script = || extremes().into_iter().chain(words("Wmax")).collect::<Vec<_>>();
    let outcome = play(vec![script()], Cruelty::default(), |_, rows, out| sessions(rows, out));
    let (min, max) = (i64::MIN, i64::MAX);
    let mut expected = [format!("a[{min},{})=1", min + 10), format!("a[{},{max})=2", max - 1), "b[0,10)=1".to_owned()];
    expected.sort_unstable();
    assert_eq!(outcome.rows(), expected);
}
