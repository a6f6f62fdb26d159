//! `harness ysb` as a script meets it: exit status, last line, what goes where.

mod program;

use program::{Place, harness, json, last_line, report, shards_up_to_two};
use serde_json::Value;

/// A test of a value.
type Is = fn(&Value) -> bool;

/// What scripts find in the last line, and what it is.
const FIELDS: [(&str, Is); 41] = [
    ("/job", Value::is_string),
    ("/encoding", Value::is_string),
    ("/shards", Value::is_u64),
    ("/processes", Value::is_u64),
    ("/campaigns", Value::is_u64),
    ("/combine", Value::is_boolean),
    ("/source", Value::is_string),
    ("/sink", Value::is_string),
    ("/events", Value::is_u64),
    ("/views", Value::is_u64),
    ("/windows", Value::is_u64),
    ("/seconds", Value::is_f64),
    ("/events_per_s", Value::is_f64),
    ("/events_per_s_per_shard", Value::is_f64),
    ("/verified", |value| value.is_boolean() || value.is_null()),
    ("/differences", Value::is_u64),
    ("/checkpoints/interval_ms", |value| value.is_u64() || value.is_null()),
    ("/checkpoints/completed", Value::is_u64),
    ("/checkpoints/failed", Value::is_u64),
    ("/checkpoints/duration_ms/p50", Value::is_f64),
    ("/checkpoints/duration_ms/p99", Value::is_f64),
    ("/checkpoints/duration_ms/max", Value::is_f64),
    ("/checkpoints/bytes_total", Value::is_u64),
    ("/checkpoints/bytes_max", Value::is_u64),
    ("/pause_us/p50", Value::is_f64),
    ("/pause_us/p99", Value::is_f64),
    ("/pause_us/p999", Value::is_f64),
    ("/pause_us/max", Value::is_f64),
    ("/turn_us/p50", Value::is_f64),
    ("/turn_us/p99", Value::is_f64),
    ("/turn_us/p999", Value::is_f64),
    ("/turn_us/max", Value::is_f64),
    ("/latency_ms", |value| value.is_object() || value.is_null()),
    ("/cpu_s", Value::is_f64),
    ("/rss_mb", Value::is_f64),
    ("/limit", |value| value.is_object() || value.is_null()),
    ("/guarantee", |value| {
        ["exactly-once", "at-least-once", "at-most-once"].iter().any(|guarantee| value == guarantee)
    }),
    ("/events", |events| events.as_u64() > Some(0)),
    ("/views", |views| views.as_u64() > Some(0)),
    ("/windows", |windows| windows.as_u64() > Some(0)),
    ("/seconds", |seconds| seconds.as_f64() > Some(0.0)),
];

/// Done, verified, and all there.
#[track_caller]
fn is_good(run: &Value) {
    for (field, is) in FIELDS {
        let value = run.pointer(field).unwrap_or_else(|| panic!("{field} is missing: {run}"));
        assert!(is(value), "{field} is {value}: {run}");
    }
    assert_eq!((&run["verified"], &run["differences"]), (&Value::Bool(true), &Value::from(0)), "{run}");
}

#[test]
fn every_encoding_counts_right_however_it_is_folded() {
    for encoding in ["long", "uuid", "json"] {
        for combine in ["on", "off"] {
            for shards in shards_up_to_two() {
                // Windows of 1,000 × 10 events, so that dozens fire.
                let run = json(&format!(
                    "ysb --encoding {encoding} --combine {combine} --shards {shards} --events 300k --events-per-ms 1 --json"
                ));
                is_good(&run);
                assert_eq!((&run["encoding"], &run["combine"]), (&encoding.into(), &(combine == "on").into()), "{run}");
                assert_eq!((&run["shards"], &run["events"]), (&shards.into(), &300_000.into()), "{run}");
                // 30 windows of 100 campaigns, each of which has about 33 views.
                assert_eq!(run["windows"], 3_000, "{run}");
                assert!((95_000..105_000).contains(&run["views"].as_u64().unwrap()), "{run}");
            }
        }
    }
}

#[test]
fn disorder_changes_no_count() {
    for encoding in ["long", "uuid", "json"] {
        let args = format!("ysb --encoding {encoding} --skew --events 500k --events-per-ms 1 --json");
        is_good(&json(&args));
    }
}

#[test]
fn one_campaign_and_more_campaigns_than_views() {
    for (campaigns, ads) in [(1, 1), (200_000, 2)] {
        let run = json(&format!(
            "ysb --campaigns {campaigns} --ads-per-campaign {ads} --events 200k --events-per-ms 1 --combine off --json"
        ));
        is_good(&run);
        assert_eq!(run["campaigns"], campaigns, "{run}");
    }
}

#[test]
fn the_last_line_tells_the_settings_and_what_was_not_asked_for_is_null() {
    let run = json("ysb --shards 1 --events 200k --events-per-ms 1 --json");
    is_good(&run);
    let told = |field: &str| run.pointer(field).unwrap().clone();
    for (field, value) in [("/job", "ysb"), ("/source", "generator"), ("/sink", "memory"), ("/encoding", "long")] {
        assert_eq!(told(field), value);
    }
    assert_eq!((told("/processes"), told("/campaigns"), told("/shards")), (1.into(), 100.into(), 1.into()));
    assert_eq!((told("/checkpoints/interval_ms"), told("/guarantee")), (1_000.into(), "exactly-once".into()));
    assert_eq!((told("/latency_ms"), told("/limit")), (Value::Null, Value::Null));
    assert!(told("/checkpoints/completed").as_u64() >= Some(1), "the end of the input is a checkpoint: {run}");
    let (each, all) = (told("/events_per_s_per_shard").as_f64().unwrap(), told("/events_per_s").as_f64().unwrap());
    assert!((each - all).abs() < 1e-6 * all, "{run}");
}

#[test]
fn in_two_processes_it_comes_to_the_same() {
    for combine in ["on", "off"] {
        let args = "--shards 2 --processes 2 --events 200k --events-per-ms 1 --json";
        let run = json(&format!("ysb {args} --combine {combine}"));
        is_good(&run);
        assert_eq!((&run["processes"], &run["events"], &run["sink"]), (&2.into(), &200_000.into(), &"file".into()));
    }
}

#[test]
fn without_checkpoints_there_are_none() {
    let run = json("ysb --events 200k --events-per-ms 1 --checkpoint-interval off --json");
    is_good(&run);
    let checkpoints = &run["checkpoints"];
    assert_eq!(checkpoints["interval_ms"], Value::Null, "{run}");
    for field in ["completed", "failed", "bytes_total", "bytes_max"] {
        assert_eq!(checkpoints[field], 0, "{run}");
    }
    for field in ["p50", "p99", "max"] {
        assert_eq!((&checkpoints["duration_ms"][field], &run["pause_us"][field]), (&0.0.into(), &0.0.into()), "{run}");
    }
}

#[test]
fn frequent_checkpoints_are_counted_and_change_no_count() {
    let run = json("ysb --rate 500k --duration 600ms --campaigns 10k --checkpoint-interval 20ms --json");
    is_good(&run);
    let checkpoints = &run["checkpoints"];
    assert_eq!((&checkpoints["interval_ms"], &checkpoints["failed"]), (&20.into(), &0.into()), "{run}");
    assert!(checkpoints["completed"].as_u64() >= Some(3), "{run}");
    let bytes = |field: &str| checkpoints[field].as_u64().unwrap();
    assert!(bytes("bytes_total") >= bytes("bytes_max") && bytes("bytes_max") > 0, "{run}");
    assert!(checkpoints["duration_ms"]["max"].as_f64() > Some(0.0), "{run}");
}

#[test]
fn an_offered_rate_is_kept_and_has_a_latency() {
    let stdout = report("ysb --rate 200k --duration 1s --json");
    let run = last_line(&stdout);
    is_good(&run);
    assert_eq!(run["events"], 200_000, "{run}");
    // Each event has its time, so no machine is faster; a busy one may be slower.
    assert!(run["seconds"].as_f64() > Some(0.9), "{run}");
    for quantile in ["p50", "p99", "p999", "max"] {
        assert!(run["latency_ms"][quantile].is_f64(), "{run}");
    }
    // Whether the wall clock passes the end of a window within this second is up to the hour.
    let told =
        if run["latency_ms"]["max"] == 0.0 { "no window ended while it ran" } else { "ms after the window's end" };
    assert!(stdout.contains(told), "{stdout}");
}

#[test]
fn a_duration_ends_the_input() {
    let run = json("ysb --duration 300ms --events-per-ms 100 --json");
    is_good(&run);
    assert!(run["seconds"].as_f64() > Some(0.25), "{run}");
}

#[test]
fn the_limit_is_run_beside_it_where_asked_for() {
    let run = json("ysb --shards 1 --events 500k --events-per-ms 1 --limit --json");
    is_good(&run);
    let limit = |field: &str| run["limit"][field].as_f64().unwrap();
    assert!(limit("events_per_s") > 0.0 && limit("ratio") > 0.0, "{run}");
    let ratio = run["events_per_s"].as_f64().unwrap() / limit("events_per_s");
    assert!((limit("ratio") - ratio).abs() < 1e-6 * ratio, "{run}");
}

#[test]
fn what_is_not_verified_says_so() {
    for args in ["--no-verify", "--sink null", "--verify --no-verify"] {
        let stdout = report(&format!("ysb --events 100k --events-per-ms 1 {args} --json"));
        let run = last_line(&stdout);
        assert_eq!((&run["verified"], &run["differences"]), (&Value::Null, &0.into()), "{run}");
        assert!(stdout.contains("not verified: "), "{stdout}");
    }
    is_good(&json("ysb --events 100k --events-per-ms 1 --no-verify --verify --json"));
}

#[test]
fn the_report_is_for_people() {
    let text = report("ysb --shards 1 --events 300k --events-per-ms 1 --limit");
    for line in [
        "Yahoo streaming benchmark on 1 shard(s)",
        "100 campaigns × 10 ads, long",
        "throughput",
        "per shard",
        " events/s",
        "s for 300,000 events",
        "checkpoints     1 completed, 0 failed",
        "snapshot pause",
        "loop turn",
        " ms after its last event was read",
        "guarantee       exactly-once",
        "verified: 3000 windows, ",
        " views, 0 differences",
        "by hand · ratio ",
        "machine",
        "note            it was over before a checkpoint was due, after 1s: try --duration 30s",
    ] {
        assert!(text.contains(line), "{line:?} is missing:\n{text}");
    }
    assert!(!text.contains('{') && !text.contains('\u{1b}'), "neither JSON nor colours:\n{text}");
    assert!(text.lines().skip(1).all(|line| line.starts_with("  ")), "{text}");
}

#[test]
fn a_pipe_gets_no_progress_and_nothing_but_warnings() {
    let mut command = harness("ysb --events 300k --events-per-ms 1");
    let output = command.env_remove("RUST_LOG").assert().success().get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.lines().all(|line| line.contains(" WARN ")) && !stderr.contains('\u{1b}'), "{stderr}");
}

#[test]
fn a_finished_run_that_is_started_again_finds_its_output_whole() {
    let place = Place::new();
    let args = format!(
        "ysb --events 200k --events-per-ms 1 --sink file --out {} --checkpoint-dir {} --json",
        place.at("out"),
        place.at("checkpoints")
    );
    let first = json(&args);
    is_good(&first);
    assert_eq!(first["sink"], "file", "{first}");
    let stdout = report(&args);
    let again = last_line(&stdout);
    assert!(stdout.contains("continued       from the checkpoint of epoch 1"), "{stdout}");
    assert_eq!((&again["verified"], &again["events"]), (&true.into(), &0.into()), "{again}");
    assert_eq!((&again["windows"], &again["views"]), (&first["windows"], &first["views"]), "{again}");
}

#[test]
fn directories_may_be_named_from_where_one_stands() {
    let place = Place::new();
    let mut command =
        harness("ysb --rate 200k --duration 300ms --checkpoint-interval 20ms --checkpoint-dir checkpoints --json");
    let output = command.current_dir(place.dir()).assert().success().stderr("").get_output().stdout.clone();
    is_good(&last_line(&String::from_utf8(output).unwrap()));
    assert!(place.path("checkpoints").is_dir());
}

#[test]
fn the_output_may_be_named_from_where_one_stands() {
    let place = Place::new();
    let mut command = harness("ysb --events 100k --events-per-ms 1 --sink file --out out --json");
    let output = command.current_dir(place.dir()).assert().success().stderr("").get_output().stdout.clone();
    is_good(&last_line(&String::from_utf8(output).unwrap()));
}
