//! Windows that share panes or wait for late rows, against a slow twin that keeps every row.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::record::{Out, Record, record};
use super::{Cruelty, Ends, Outcome, Scripted, Word, cases, play, words};
use crate::job::flow::Flow;
use crate::job::stream::Stream;
use crate::road::aggregate::{Count, Max, Sum};
use crate::road::window::{Sliding, Tumbling, Windowed};

/// Rows of one key: `row % KEYS`.
const KEYS: u64 = 5;

/// Windows on trial.
#[derive(Clone, Copy, Debug)]
struct Shape {
    size: i64,
    slide: i64,
    offset: i64,
    lateness: i64,
    /// The aggregate can take rows out again.
    invertible: bool,
}

impl Shape {
    fn sliding(self) -> Sliding {
        Sliding::try_of_ms(self.size, self.slide, self.offset).unwrap()
    }

    /// The chain on trial: `key:count,sum[start,end)`, or the greatest row in place of the sum.
    fn build(self, _flow: &Flow, rows: Stream<Scripted>, out: Record) {
        let keyed = rows.key_by(|row| row % KEYS);
        let lateness = Duration::from_millis(self.lateness as u64);
        let sum = (Count, Sum::of(|row: &u64| *row));
        let max = (Count, Max::of(|row: &u64| *row));
        // Every way to say it that there is.
        match (self.size == self.slide, self.lateness > 0, self.invertible) {
            (true, true, true) => {
                let windows = Tumbling::try_of_ms(self.size, self.offset).unwrap();
                record(keyed.window(windows).allowed_lateness(lateness).aggregate(sum).map(shown), out);
            }
            (_, false, true) => record(keyed.window(self.sliding()).aggregate(sum).map(shown), out),
            (_, false, false) => record(keyed.window(self.sliding()).aggregate(max).map(shown), out),
            (_, true, true) => {
                record(keyed.window(self.sliding()).allowed_lateness(lateness).aggregate(sum).map(shown), out);
            }
            (_, true, false) => {
                record(keyed.window(self.sliding()).allowed_lateness(lateness).aggregate(max).map(shown), out);
            }
        }
    }

    fn play(self, scripts: Vec<Vec<Word>>, cruelty: Cruelty) -> Outcome {
        play(scripts, cruelty, move |flow, rows, out| self.build(flow, rows, out))
    }
}

fn shown(row: &Windowed<u64, (u64, u64)>) -> String {
    format!("{}:{},{}[{},{})", row.key, row.value.0, row.value.1, row.window.start.0, row.window.end.0)
}

/// The slow twin: every row that was taken, and every window looked for in them.
struct Twin {
    shape: Shape,
    taken: Vec<(u64, i64)>,
    watermark: i128,
    late: u64,
    text: Vec<String>,
}

impl Twin {
    fn of(shape: Shape) -> Twin {
        Twin { shape, taken: Vec::new(), watermark: i128::from(i64::MIN) - 1, late: 0, text: Vec::new() }
    }

    fn windows(&self, at: i64) -> Vec<(i64, i64)> {
        let Shape { size, slide, offset, .. } = self.shape;
        let after = offset.rem_euclid(slide);
        let from = (at - size - slide).div_euclid(slide);
        let starts = (from..).map(|n| n * slide + after).take_while(|start| *start <= at);
        starts.filter(|start| at < start + size).map(|start| (start, start + size)).collect()
    }

    fn result(&self, key: u64, (start, end): (i64, i64)) -> String {
        let of_key = |(row, at): &&(u64, i64)| row % KEYS == key && (start..end).contains(at);
        let rows: Vec<u64> = self.taken.iter().filter(of_key).map(|(row, _)| *row).collect();
        let value = if self.shape.invertible { rows.iter().sum() } else { rows.iter().copied().max().unwrap() };
        format!("{key}:{},{value}[{start},{end})", rows.len())
    }

    fn take(&mut self, row: u64, at: i64) {
        let lateness = i128::from(self.shape.lateness);
        let windows = self.windows(at);
        let is_over = |end: i64| i128::from(end) - 1 + lateness <= self.watermark;
        if windows.iter().all(|(_, end)| is_over(*end)) {
            self.late += u64::from(i128::from(at) + lateness <= self.watermark);
            return;
        }
        self.taken.push((row, at));
        for window in windows {
            if i128::from(window.1) - 1 <= self.watermark && !is_over(window.1) {
                self.text.push(self.result(row % KEYS, window));
            }
        }
    }

    fn pass(&mut self, watermark: i64) {
        let all: BTreeSet<(i64, i64, u64)> = self
            .taken
            .iter()
            .flat_map(|(row, at)| self.windows(*at).into_iter().map(move |(start, end)| (end, start, row % KEYS)))
            .collect();
        for (end, start, key) in all {
            if (self.watermark + 1..=i128::from(watermark)).contains(&(i128::from(end) - 1)) {
                self.text.push(self.result(key, (start, end)));
            }
        }
        self.watermark = watermark.into();
        self.text.push(if watermark == i64::MAX { "Wmax".to_owned() } else { format!("W{watermark}") });
    }

    /// All that one shard puts out: rows between two marks sorted.
    fn play(mut self, script: &[Word]) -> (String, u64) {
        let mut from = 0;
        for word in script {
            match word {
                Word::Rows(rows) => rows.iter().for_each(|(row, at)| self.take(*row, *at)),
                Word::Watermark(at) => {
                    self.pass(*at);
                    let mark = self.text.len() - 1;
                    self.text[from..mark].sort_unstable();
                    from = mark + 1;
                }
                _ => {}
            }
        }
        self.text[from..].sort_unstable();
        (self.text.join(" "), self.late)
    }
}

/// One shard plays the script as the twin does, folded first where that makes no difference, with crashes at barriers.
#[track_caller]
fn check(shape: Shape, script: &[Word]) {
    let (expected, late) = Twin::of(shape).play(script);
    for room in [1, usize::MAX] {
        let cruelty = Cruelty { room, combine: false, ..Cruelty::default() };
        let outcome = shape.play(vec![script.to_vec()], cruelty);
        assert_eq!(outcome.text(), expected, "{shape:?}, room {room}: {script:?}");
        assert_eq!(outcome.late, late, "{shape:?}: {script:?}");
    }
    if shape.lateness == 0 {
        let outcome = shape.play(vec![script.to_vec()], Cruelty { flush: true, ..Cruelty::default() });
        assert_eq!(outcome.text(), expected, "{shape:?}, folded first: {script:?}");
    }
}

/// A script with late rows, negative times, steps of any length, and barriers.
fn any_script() -> impl Strategy<Value = Vec<Word>> {
    let step = (0u8..8, vec((0u64..40, -30i64..40), 1..12), 1i64..30);
    (-60i64..10, vec(step, 1..25)).prop_map(|(start, steps)| {
        let mut watermark = start;
        let mut script = Vec::new();
        for (kind, rows, on) in steps {
            script.push(match kind {
                0 => Word::Barrier,
                1..=3 => {
                    watermark += on;
                    Word::Watermark(watermark)
                }
                _ => Word::Rows(rows.into_iter().map(|(row, ahead)| (row, watermark + ahead)).collect()),
            });
        }
        script.extend([Word::Barrier, Word::Watermark(i64::MAX)]);
        script
    })
}

fn any_shape() -> impl Strategy<Value = Shape> {
    let lateness = prop_oneof![Just(0i64), 1i64..25];
    let lengths = prop_oneof![
        (1i64..30, 1i64..30),
        (1i64..20).prop_map(|size| (size, size)),
        (1i64..8, 1i64..6).prop_map(|(slide, times)| (slide * times, slide))
    ];
    (lengths, -30i64..30, lateness, any::<bool>()).prop_map(|((size, slide), offset, lateness, invertible)| Shape {
        size,
        slide,
        offset: offset % slide,
        lateness,
        invertible,
    })
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn one_shard_does_as_the_slow_twin(shape in any_shape(), script in any_script()) {
        check(shape, &script);
    }
}

/// A shard's random words, with no row behind its own watermark; as many barriers as every other shard's.
fn punctual_script(barriers: usize) -> impl Strategy<Value = Vec<Word>> {
    let step = (0u8..8, vec((0u64..40, 1i64..35), 1..60), 1i64..15);
    vec(vec(step, 0..8), barriers + 1).prop_map(|epochs| {
        let (mut script, mut watermark) = (Vec::new(), -1);
        for (index, steps) in epochs.into_iter().enumerate() {
            if index > 0 {
                script.push(Word::Barrier);
            }
            for (kind, rows, on) in steps {
                script.push(match kind {
                    0 => Word::Flush,
                    1..=3 => {
                        watermark += on;
                        Word::Watermark(watermark)
                    }
                    _ => Word::Rows(rows.into_iter().map(|(row, ahead)| (row, watermark + ahead)).collect()),
                });
            }
        }
        script.extend([Word::Watermark(i64::MAX), Word::Flush]);
        script
    })
}

proptest! {
    #![proptest_config(cases(40))]

    /// On any number of shards, folded first or not, with barriers that complete, crash or come to nothing.
    #[test]
    fn many_shards_give_the_plain_answer(
        shape in any_shape(),
        scripts in (1usize..4, 0usize..3).prop_flat_map(|(shards, barriers)| vec(punctual_script(barriers), shards)),
        seed: u64,
    ) {
        let mut twin = Twin::of(shape);
        for word in scripts.iter().flatten() {
            if let Word::Rows(rows) = word {
                rows.iter().for_each(|(row, at)| twin.take(*row, *at));
            }
        }
        twin.pass(i64::MAX);
        twin.text.pop();
        twin.text.sort_unstable();
        for combine in [true, false] {
            let outcome = shape.play(scripts.clone(), Cruelty { combine, seed, ends: Ends::Any, ..Cruelty::default() });
            prop_assert_eq!(outcome.rows(), twin.text.clone(), "combine {}", combine);
            prop_assert_eq!(outcome.late, 0);
        }
    }
}

/// The script gives these words, with a checkpoint and a crash between any two.
#[track_caller]
fn check_words(shape: Shape, script: &str, expected: &str, late: u64) {
    let script: Vec<Word> = words(script).into_iter().flat_map(|word| [word, Word::Barrier]).collect();
    for invertible in [true, false] {
        let shape = Shape { invertible, ..shape };
        let outcome =
            play(vec![script.clone()], Cruelty { combine: false, ..Cruelty::default() }, move |_, rows, out| {
                let windows = rows.key_by(|row| *row).window(shape.sliding());
                let windows = windows.allowed_lateness(Duration::from_millis(shape.lateness as u64));
                let brief = |key: u64, count: u64, window: crate::road::window::Window| {
                    format!("{}:{count}[{},{})", char::from(key as u8), window.start.0, window.end.0)
                };
                if shape.invertible {
                    record(windows.aggregate(Count).map(move |row| brief(row.key, row.value, row.window)), out);
                } else {
                    let counts = windows.aggregate((Count, Max::of(|row: &u64| *row)));
                    record(counts.map(move |row| brief(row.key, row.value.0, row.window)), out);
                }
            });
        assert_eq!(outcome.text(), expected, "{shape:?}");
        assert_eq!(outcome.late, late, "{shape:?}");
    }
}

fn shape(size: i64, slide: i64, lateness: i64) -> Shape {
    Shape { size, slide, offset: 0, lateness, invertible: true }
}

#[test]
fn a_row_late_for_some_of_its_windows_joins_the_others() {
    let script = "b@1000 W1999 b@2000 W3000 a@3001 b@2400 b@2400 a@3001 b@3900 W6000 a@3001 W25000";
    let expected = "b:1[-1000,2000) W1999 b:2[0,3000) W3000 \
                    a:2[1000,4000) a:2[2000,5000) a:2[3000,6000) b:1[3000,6000) b:4[2000,5000) b:5[1000,4000) W6000 W25000";
    check_words(shape(3_000, 1_000, 0), script, expected, 1);
}

#[test]
fn rows_out_of_order_are_of_the_windows_of_their_time() {
    let script = "b@3999 b@3000 a@20 a@0 a@999 b@1998 b@1999 b@1000 W999 W1999 W2999 W3999 W4999 W5999 W6999 W7999";
    let expected = "W999 W1999 a:3[0,3000) b:3[0,3000) W2999 W3999 W4999 b:2[3000,6000) W5999 W6999 W7999";
    check_words(shape(3_000, 3_000, 0), script, expected, 0);
}

#[test]
fn a_row_within_the_allowed_lateness_fires_its_window_again() {
    check_words(
        shape(10, 10, 5),
        "a@1 b@2 W9 a@3 W13 a@4 W14 a@5 W19",
        "a:1[0,10) b:1[0,10) W9 a:2[0,10) W13 a:3[0,10) W14 W19",
        1,
    );
    // A window that had no row when its time came.
    check_words(shape(10, 10, 5), "W9 a@3 W13 a@4 W19", "W9 a:1[0,10) W13 a:2[0,10) W19", 0);
    check_words(shape(4, 2, 3), "a@3 W3 a@2 W20", "a:1[0,4) W3 a:2[0,4) a:2[2,6) W20", 0);
    // Cleanup saturates.
    check_words(shape(10, 10, i64::MAX), "a@1 W9 W1000000 a@2 Wmax", "a:1[0,10) W9 W1000000 a:2[0,10) Wmax", 0);
}

#[test]
fn rows_between_windows_are_in_none() {
    // Late once time has passed them by, as windows are.
    check_words(shape(5, 10, 0), "a@7 a@4 W8 a@9 a@8 W30", "a:1[0,5) W8 W30", 1);
}

#[test]
fn windows_at_the_ends_of_time_are_emitted_once() {
    let max = i64::MAX;
    let rows = Word::Rows(vec![(1, i64::MIN), (1, i64::MIN + 1), (2, max), (2, max - 1)]);
    let script = vec![rows, Word::Barrier, Word::Watermark(0), Word::Barrier, Word::Watermark(max)];
    for invertible in [true, false] {
        let outcome = Shape { invertible, ..shape(10, 5, 0) }.play(vec![script.clone()], Cruelty::default());
        let mut windows: Vec<String> =
            outcome.rows().iter().map(|row| row[row.find('[').unwrap()..].to_owned()).collect();
        let mut expected = [
            format!("[{},{})", i64::MIN, i64::MIN + 3),
            format!("[{},{})", i64::MIN, i64::MIN + 8),
            format!("[{},{})", max - 7, max),
            format!("[{},{})", max - 2, max),
        ];
        windows.sort_unstable();
        expected.sort_unstable();
        assert_eq!(windows, expected);
    }
}

/// Windows of many slices, which panes come to and leave.
#[test]
fn large_windows_are_emitted_in_slices() {
    const KEYS: u64 = 4_000;
    for (invertible, combine) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut script = Vec::new();
        let mut expected: BTreeMap<(u64, i64), u64> = BTreeMap::new();
        for pane in 0..6 {
            let rows: Vec<(u64, i64)> =
                (0..KEYS).filter(|key| (key / 7 + pane) % 3 != 0).map(|key| (key, pane as i64 * 10)).collect();
            for (key, at) in &rows {
                (0..3).for_each(|back| *expected.entry((*key, at - back * 10)).or_default() += 1);
            }
            script.extend(rows.chunks(1_000).map(|rows| Word::Rows(rows.to_vec())));
            script.extend([Word::Watermark(pane as i64 * 10 + 9), Word::Idle, Word::Barrier]);
        }
        script.push(Word::Watermark(i64::MAX));
        let outcome = play(vec![script], Cruelty { combine, ..Cruelty::default() }, move |_, rows, out| {
            let windows = rows.key_by(|key| *key).window(Sliding::try_of_ms(30, 10, 0).unwrap());
            if invertible {
                // A filter asserts that no batch is longer than a batch.
                let counts = windows.aggregate(Count).filter(|row| row.value > 0);
                record(counts.map(|row| format!("{}@{}:{}", row.key, row.window.start.0, row.value)), out);
            } else {
                let counts = windows.aggregate((Count, Max::of(|key: &u64| *key)));
                record(counts.map(|row| format!("{}@{}:{}", row.key, row.window.start.0, row.value.0)), out);
            }
        });
        let starts = outcome.items[0].iter().filter_map(|item| match item {
            Out::Row(row) => row.split(['@', ':']).nth(1)?.parse::<i64>().ok(),
            _ => None,
        });
        assert!(starts.is_sorted(), "windows come out in the order of time");
        let mut rows: Vec<String> =
            expected.iter().map(|((key, start), count)| format!("{key}@{start}:{count}")).collect();
        rows.sort_unstable();
        assert!(outcome.rows() == rows, "{} rows for {}", outcome.rows().len(), rows.len());
        let marks: Vec<_> = outcome.items[0].iter().filter(|item| !matches!(item, Out::Row(_))).collect();
        let in_order = |marks: &[&Out]| matches!(marks, [Out::Watermark(_), Out::Idle, Out::Barrier(_)]);
        assert!(marks[..18].chunks(3).all(in_order), "what waits for a firing comes behind it, in order");
    }
}
