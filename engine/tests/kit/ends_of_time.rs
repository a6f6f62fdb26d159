//! Nothing, one row, one key, and the ends of time: what is at the edge of what an operator may be given.

use crate::operators::{OPERATORS, Operator, Row};
use crate::script::{Item, Move, Outcome, Script, at_once, play};

const MIN: i64 = i64::MIN;
const MAX: i64 = i64::MAX;

fn row(input: u64, at: i64, value: i64) -> Item {
    Item::Row(Row { input, key: 1, at, value })
}

fn named(name: &str) -> &'static Operator {
    OPERATORS.iter().find(|operator| operator.name == name).unwrap()
}

/// Item after item, each handled before the next, with a stop behind every fourth.
fn step_by_step(script: &Script) -> Vec<Move> {
    let longest = script.iter().map(Vec::len).max().unwrap_or(0);
    let mut moves = Vec::new();
    for number in 0..longest {
        for input in 0..3 {
            moves.extend([Move::Bring(input), Move::Settle]);
        }
        if number % 4 == 2 {
            moves.extend([Move::Snapshot, Move::Restore(number as u32 % 3 + 1)]);
        }
    }
    moves
}

#[track_caller]
fn is_the_same_step_by_step(script: &Script) {
    for operator in OPERATORS {
        let expected = at_once(operator, script);
        assert_eq!(expected.late, 0, "{}", operator.name);
        assert_eq!(play(operator, script, &step_by_step(script), 2), expected, "{}", operator.name);
    }
}

#[test]
fn of_nothing_comes_nothing() {
    let nothing = Outcome { rows: Vec::new(), late: 0, is_empty: true };
    for operator in OPERATORS {
        let script: Script = Default::default();
        assert_eq!(at_once(operator, &script), nothing, "{}", operator.name);
        let stops = [Move::Snapshot, Move::Restore(4), Move::Settle, Move::Snapshot, Move::Restore(2)];
        assert_eq!(play(operator, &script, &stops, 3), nothing, "{}", operator.name);
        // Time alone.
        let script = [0, 1, 2].map(|_| vec![Item::Watermark(MIN), Item::Watermark(0), Item::Watermark(MAX)]);
        assert_eq!(play(operator, &script, &step_by_step(&script), 2), nothing, "{}", operator.name);
    }
}

#[test]
fn one_row_is_enough() {
    for input in 0..3 {
        let mut script: Script = Default::default();
        script[input as usize] = vec![row(input, 4, 8), Item::Watermark(5)];
        is_the_same_step_by_step(&script);
    }
}

#[test]
fn one_key_has_all_rows() {
    let script = [0, 1, 2].map(|input| {
        let rows = (0..6).flat_map(|n| [row(input, 6 * n, 5 * n), Item::Watermark(6 * n)]);
        rows.collect()
    });
    is_the_same_step_by_step(&script);
}

/// Rows at both ends of time and in its middle, and watermarks between them.
fn ends() -> Script {
    [0, 1, 2].map(|input| {
        let value = 10 * input as i64 + 10;
        vec![
            row(input, MIN, value),
            row(input, MIN + 4, value + 1),
            row(input, MIN + 2, value + 2),
            Item::Watermark(MIN + 4),
            row(input, 0, value + 3),
            Item::Watermark(0),
            row(input, MAX - 1, value + 4),
            row(input, MAX - 5, value + 5),
            Item::Watermark(MAX - 6),
            row(input, MAX, value + 6),
            Item::Watermark(MAX - 2),
        ]
    })
}

#[test]
fn the_ends_of_time_are_times_like_others() {
    is_the_same_step_by_step(&ends());
}

/// The answers themselves, in which the ends of time have names.
#[test]
fn what_comes_of_the_ends_of_time() {
    let of = |name: &str| {
        let rows = at_once(named(name), &ends()).rows.into_iter();
        let rows = rows.map(|row| row.replace(&MIN.to_string(), "MIN").replace(&MAX.to_string(), "MAX"));
        rows.collect::<Vec<_>>()
    };
    let far = |ms: i64| (MAX - ms).to_string();
    let near = |ms: i64| (MIN + ms).to_string();
    let sessions = [
        format!("1 Some(Window {{ start: -inf, end: {} ms }}) (9, 189)", near(11)),
        "1 Some(Window { start: 0 ms, end: 7 ms }) (3, 69)".to_owned(),
        format!("1 Some(Window {{ start: {} ms, end: +inf }}) (9, 225)", far(5)),
    ];
    assert_eq!(of("sessions"), sessions);
    let counts = ["4 on time pane 0 46", "5 on time pane 0 86", "6 on time pane 0 126"];
    assert_eq!(of("windows of counts"), counts);
    let buckets =
        [format!("1 {} ms Some(189)", near(7)), "1 9 ms Some(69)".to_owned(), format!("1 {} ms Some(225)", far(1))];
    assert_eq!(of("a process function with timers"), buckets);
    let groups = [
        format!("1 Window {{ start: -inf, end: {} ms }} 96 of 6, 93 of 3", near(8)),
        "1 Window { start: 0 ms, end: 10 ms } 36 of 2, 33 of 1".to_owned(),
        format!("1 Window {{ start: {} ms, end: +inf }} 120 of 6, 105 of 3", far(7)),
    ];
    assert_eq!(of("a co-group"), groups);
    // Right minus left is between -6 and 4: of the last times, the first and the last are further apart to one side.
    let pairs = of("an interval join");
    assert_eq!(pairs.len(), 2 * (9 + 1 + 8), "{pairs:?}");
    let alone = |pair: &&String| pair.contains("None");
    assert_eq!(pairs.iter().filter(alone).count(), 0);
    let last = format!("Some((1, {}, 15)) Some((MAX, 36))", far(5));
    assert!(
        !pairs.contains(&last) && pairs.contains(&format!("Some((1, MAX, 16)) Some(({}, 35))", far(5))),
        "{pairs:?}"
    );
    // Before anything has come the watermark is at the first instant of all, so that a row of that waits for none.
    let versions = of("a temporal join");
    assert!(versions.contains(&"Some((1, MIN, 10)) None".to_owned()), "{versions:?}");
    assert!(versions.contains(&format!("Some((1, {}, 12)) Some(({}, 32))", near(2), near(2))), "{versions:?}");
    assert!(versions.contains(&"Some((1, MAX, 16)) Some((MAX, 36))".to_owned()), "{versions:?}");
    // Eleven milliseconds reach beyond the end of time.
    let passed = of("what comes again");
    assert_eq!(passed.len(), 3 * 3, "{passed:?}");
}
