//! `harness cases`: cases of our own, of every category, and what scripts read.

mod program;

use serde_json::{Value, json};

use program::{harness, last_line, refused, report};

/// The files of this repository.
fn file(name: &str) -> String {
    format!("{}/tests/cases/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The last lines of a run without a failure, and what its JSON says.
fn passes(name: &str, passed: u64, skipped: u64) {
    let said = report(&format!("cases {} --json", file(name)));
    let failed: Vec<&str> = said.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let json = last_line(&said);
    assert_eq!((&json["passed"], &json["failed"], &json["skipped"]), (&json!(passed), &json!(0), &json!(skipped)));
    assert_eq!(json["cases"].as_array().map(Vec::len), Some((passed + skipped) as usize));
    assert!(said.contains(&format!("\n{passed} passed, 0 failed, {skipped} skipped\n")), "{said}");
}

#[test]
fn time_is_as_the_cases_say() {
    passes("time.json", 23, 0);
}

#[test]
fn barriers_are_as_the_cases_say() {
    passes("barriers.json", 6, 0);
}

#[test]
fn joins_timers_and_recovery_are_as_the_cases_say() {
    passes("joins_and_more.json", 14, 1);
}

#[test]
fn windows_are_as_the_cases_say() {
    passes("windows.json", 35, 0);
}

#[test]
fn a_case_that_does_not_hold_is_told_and_fails_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cases.json");
    let rows = |end: i64| json!([{ "ts": 3, "windows": [[0, end]] }]);
    let case = |id: &str, category: &str, end: i64| {
        let window = json!({ "type": "tumbling", "size": 5, "offset": 0, "time": "event" });
        json!({ "id": id, "category": category, "title": "t", "window": window, "rows": rows(end) })
    };
    let cases: Value = json!({
        "format_version": 1,
        "time_unit": "ms",
        "cases": [case("right", "assign", 5), case("wrong", "assign", 6), case("odd", "colour", 5)],
    });
    std::fs::write(&path, cases.to_string()).unwrap();
    let output = harness(&format!("cases {} --json", path.display())).assert().code(1).get_output().stdout.clone();
    let said = String::from_utf8(output).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "pass  right");
    assert_eq!(lines[1], "FAIL  wrong  the windows of 3: got [(0, 5)], expected [(0, 6)]");
    assert_eq!(lines[2], "FAIL  odd  there is no category \"colour\"");
    assert_eq!(lines[3], "1 passed, 2 failed, 0 skipped");
    let json = last_line(&said);
    assert_eq!(json["cases"][0], json!({ "id": "right", "category": "assign", "result": "pass", "reason": "" }));
    assert_eq!(json["cases"][2]["result"], "fail");
}

#[test]
fn a_file_that_is_none_of_cases_is_refused() {
    refused("cases /nowhere/cases.json", 1, &["/nowhere/cases.json", "cannot be read"]);
    refused("cases", 2, &["FILE"]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cases.json");
    for (text, words) in
        [("{", "is no JSON"), ("{}", "format_version"), (r#"{"format_version":1,"time_unit":"s"}"#, "time_unit")]
    {
        std::fs::write(&path, text).unwrap();
        refused(&format!("cases {}", path.display()), 1, &[words]);
    }
}
