//! `harness nexmark` as a script meets it: every query has the rows of its slow answer, on any number of shards, and the
//! known ones' checksums.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod program;

use std::collections::BTreeMap;
use std::fs;

use millstream::road::rows::{Batch, Lines};
use millstream_connectors::log::LogReader;
use millstream_harness::nexmark::answer;
use millstream_harness::nexmark::query::Query;
use millstream_harness::nexmark::source::Share;
use nexmark::event::Event;
use program::{Place, json, report};
use serde_json::Value;

/// Rows, checksum, and the smallest row, at 200,000 events.
const KNOWN: [(&str, u64, &str, &str); 7] = [
    ("q0", 184_000, "cb75cfbead54d9e3", "10000|3011|128|1436918415026"),
    ("q2", 1_496, "f855a0bea79255a3", "10086|44982"),
    ("q3", 1_158, "e187d758ef4e6d28", "deiter abrams|bend|id|2797"),
    ("q5", 15, "995123e462ab512f", "1436918392000|1500|841"),
    ("q7", 3, "7dbe36c15bb195ad", "1436918400000|1889|1231|99995280|1436918401580"),
    ("q11", 3_925, "888b0b9db10e0838", "1000|53|1436918400005|1436918414836"),
    ("q15", 1, "ce904e45a7021129", "16631|184000|61495|61294|61211|3925|3688|3701|3694|11998|11081|11087|11038"),
];

#[test]
fn the_known_answers_on_one_two_and_four_shards() {
    let place = Place::new();
    let out = place.at("rows");
    for (query, rows, fnv_sum, smallest) in KNOWN {
        for shards in [1, 2, 4] {
            let args = format!("--query {query} --events 200k --shards {shards} --no-verify --out {out} --json");
            let run = json(&format!("nexmark {args}"));
            let told = (&run["query"], &run["events"], &run["rows"], &run["fnv_sum"]);
            assert_eq!(told, (&query.into(), &200_000.into(), &rows.into(), &fnv_sum.into()), "{args}");
            assert!(run["seconds"].as_f64() > Some(0.0) && run["events_per_s"].as_f64() > Some(0.0), "{run}");
            assert_eq!(run["late"], 0, "{args}");
            let text = fs::read_to_string(&out).unwrap();
            assert_eq!((text.lines().count() as u64, text.lines().min()), (rows, Some(smallest)), "{args}");
        }
    }
    assert_eq!(fs::read_dir(place.dir()).unwrap().count(), 1, "what rows were gathered in is gone");
}

/// The rows of a run, sorted.
fn rows(query: Query, events: u64, shards: u32, more: &str) -> Vec<String> {
    let place = Place::new();
    let out = place.at("rows");
    let run = json(&format!("nexmark --query {query} --events {events} --shards {shards} --out {out} {more} --json"));
    assert_eq!((&run["late"], &run["events"]), (&0.into(), &events.into()), "{run}");
    let is_verified = if query == Query::Q12 { Value::Null } else { true.into() };
    assert_eq!(run["verified"], is_verified, "{run}");
    let mut rows: Vec<String> = fs::read_to_string(&out).unwrap().lines().map(str::to_owned).collect();
    rows.sort_unstable();
    rows
}

/// By the wall clock all that is known is how many bids a bidder made in all windows together.
fn by_bidder(rows: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for row in rows {
        let fields: Vec<&str> = row.split('|').collect();
        let [bidder, count, start, end] = fields[..] else { panic!("{row} has other fields") };
        let number = |text: &str| text.parse::<u64>().unwrap();
        assert_eq!((number(end) - number(start), number(start) % 10_000), (10_000, 0), "{row}");
        *counts.entry(bidder).or_default() += number(count);
    }
    let mut sums: Vec<String> = counts.iter().map(|(bidder, count)| format!("{bidder}|{count}")).collect();
    sums.sort_unstable();
    sums
}

#[test]
fn every_query_has_the_rows_of_its_slow_answer() {
    for query in Query::ALL {
        for (events, shards, more) in [
            (20_011, 1, ""),
            (20_011, 2, "--checkpoint-interval 5ms"),
            (7_003, 4, "--combine off"),
            (50, 3, "--checkpoint-interval off"),
        ] {
            let mut expected = Vec::new();
            answer::rows(*query, events, &mut |row| expected.push(row));
            expected.sort_unstable();
            let mut found = rows(*query, events, shards, more);
            if *query == Query::Q12 {
                found = by_bidder(&found);
            }
            let told = format!("{query}, {events} events, {shards} shards, {more}");
            assert!(found == expected, "{told}: {} rows, not {}", found.len(), expected.len());
        }
    }
}

#[test]
fn a_run_that_is_stopped_in_between_goes_on_and_sums_up_all() {
    let place = Place::new();
    let with = |rate: &str| {
        let (parts, checkpoints) = (place.at("parts"), place.at("checkpoints"));
        let args = format!("--query q10 --events 60k --parts {parts} --checkpoint-dir {checkpoints}");
        format!("nexmark {args} --checkpoint-interval 20ms --json {rate}")
    };
    // Stopped after some time by SIGKILL, as often as it takes to see a run that has got somewhere.
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("harness"))
        .args(with("--rate 40k --shards 1").split_whitespace())
        .env("RUST_LOG", "error")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let minute = place.path("parts/dt=2015-07-15/hm=00:00");
    while !minute.is_dir() || program::parts(&minute).is_empty() {
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let run = json(&with("--shards 2"));
    assert_eq!((&run["rows"], &run["verified"]), (&55_200.into(), &true.into()), "{run}");
    assert!(run["restored_epoch"].as_u64() > Some(0) && run["events"].as_u64() < Some(60_000), "{run}");
    let lines: usize =
        program::parts(&minute).iter().map(|part| fs::read_to_string(part).unwrap().lines().count()).sum();
    assert_eq!(lines, 55_200);
}

#[test]
fn all_queries_and_a_report_for_people() {
    let text = report("nexmark --query all --events 2k --shards 1 --json");
    let lines: Vec<Value> =
        text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = lines.iter().map(|line| line["query"].as_str().unwrap()).collect();
    assert_eq!(names, Query::ALL.iter().map(|query| query.name()).collect::<Vec<_>>());
    assert!(lines.iter().all(|line| line["fnv_sum"].as_str().unwrap().len() == 16), "{text}");
    for line in
        ["Nexmark q5, the auctions with the most bids, on 1 shard(s)", "the same as the slow answer's", "0 rows"]
    {
        assert!(text.contains(line), "{line:?} is missing:\n{text}");
    }
    let run = json("nexmark --query q14 --events 5k --shards 1 --compare --json");
    assert!(run["by_hand"]["ratio"]["median"].as_f64() > Some(0.0), "{run}");
}

#[test]
fn killed_while_windows_and_joins_are_open() {
    for (query, more) in [("q5", "--rescale"), ("q8", "--shards 2"), ("q9", "--shards 1")] {
        let run = json(&format!(
            "chaos nexmark --query {query} --kills 2 --seed 3 --checkpoint-interval 100ms --rate 200k {more} --json"
        ));
        for field in ["lost", "duplicated", "differences"] {
            assert_eq!(run[field], 0, "{query}: {run}");
        }
        assert_eq!((&run["kills"], &run["query"]), (&2.into(), &query.into()), "{run}");
    }
}

#[test]
fn a_log_of_the_events() {
    let place = Place::new();
    let log = place.at("log");
    let told = json(&format!("generate nexmark --out {log} --events 1k --partitions 3 --json"));
    assert_eq!((&told["events"], &told["partitions"]), (&1_000.into(), &3.into()));
    let mut lines = Lines::default();
    for partition in 0..3 {
        lines.clear();
        let mut reader = LogReader::open(&log, partition).unwrap();
        while reader.read(&mut lines, 100).unwrap() > 0 {}
        let expected: Vec<Event> = Share::new(1_000, partition, 3).map(|event| event.event).collect();
        let read = |row| serde_json::from_slice::<Event>(lines.row(row)).unwrap();
        assert!((0..lines.len()).map(read).eq(expected), "partition {partition}");
    }
}
