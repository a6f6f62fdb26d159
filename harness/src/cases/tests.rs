//! Cases that are not understood: each fails with its reason, and none ends the run.

use serde_json::{Value, json};

use super::{Outcome, play};

#[track_caller]
fn fails(case: Value, words: &str) {
    let outcome = play(3, &case).outcome;
    assert!(matches!(&outcome, Outcome::Fail(why) if why.contains(words)), "{case}: {outcome:?}");
}

/// A case with these fields, beside those that all have.
fn case(category: &str, fields: Value) -> Value {
    let mut case = json!({ "id": "x", "title": "x", "category": category });
    case.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    case
}

#[test]
fn what_is_not_known_fails_with_its_name() {
    fails(json!(5), "must be an object");
    fails(json!({ "id": "x", "title": "x" }), "no \"category\"");
    fails(case("colours", json!({})), "no category \"colours\"");
    let assign = |window: Value| case("assign", json!({ "window": window, "rows": [] }));
    fails(assign(json!({ "type": "tumbling", "size": 5, "time": "event", "colour": 1 })), "a field \"colour\"");
    fails(assign(json!({ "type": "tumbling", "size": 5, "time": "lunch" })), "\"lunch\"");
    fails(assign(json!({ "type": "square", "size": 5 })), "\"square\"");
    let mut more = assign(json!({ "type": "tumbling", "size": 5 }));
    more["colour"] = json!(1);
    fails(more, "a field \"colour\"");
    fails(case("barrier_align", json!({ "channels": 1, "steps": [{ "ch": 0, "colour": 1 }] })), "no \"data\"");
    fails(case("watermark_multiplex", json!({ "facts": [{ "steps": [["paint", "a"]], "combined": 1 }] })), "paint");
}

#[test]
fn what_cannot_be_read_fails_and_crashes_nothing() {
    let size = |size: Value| {
        let window = json!({ "type": "tumbling", "size": size });
        case("assign", json!({ "window": window, "rows": [{ "ts": 0, "windows": [[0, 5]] }] }))
    };
    assert_eq!(play(0, &size(json!(5))).outcome, Outcome::Pass);
    fails(size(json!(5.5)), "whole number");
    fails(size(json!(9_223_372_036_854_775_808_u64)), "whole number");
    fails(size(json!("5")), "whole number");
    fails(size(json!(6)), "got [(0, 6)], expected [(0, 5)]");
    fails(size(json!(-5)), "cannot be");
    for channels in [json!(0), json!(-1), json!(1_u64 << 40)] {
        fails(case("watermark_combine", json!({ "channels": channels, "steps": [] })), "between 1 and 4096");
    }
    fails(case("watermark_combine", json!({ "channels": 2, "steps": [{ "ch": 2, "wm": 1 }] })), "must be below 2");
    fails(
        case("barrier_align", json!({ "channels": 2, "steps": [{ "ch": 0, "barrier": -1 }] })),
        "no number of a barrier",
    );
    let join = json!({ "lower": 3, "upper": 1, "left": [], "right": [], "pairs": [] });
    fails(case("interval_join", join), "lower bound");
}

#[test]
fn only_processes_are_skipped() {
    let outcome = play(0, &case("process", json!({ "steps": [{ "in": [["k", 1, 2]], "out": [] }] }))).outcome;
    assert!(matches!(&outcome, Outcome::Skip(why) if why.contains("\"in\"")), "{outcome:?}");
    fails(case("process", json!({ "steps": [{ "wm": 5, "out": [["k", 5]] }] })), "got [], expected [5]");
}

#[test]
fn a_line_says_it_all() {
    let played = play(0, &case("colours", json!({})));
    assert_eq!(played.to_string(), "FAIL  x  there is no category \"colours\"");
    assert_eq!(play(7, &json!(null)).id, "case-7");
}
