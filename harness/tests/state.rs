//! `harness state` as a script meets it: exit status, last line, what goes where.

mod program;

use millstream_harness::keys::{Distribution, KeySpace};
use millstream_harness::state::oracle;
use program::{Place, contents, json, last_line, parts, refused, report, shards_up_to_two};
use serde_json::Value;

/// A test of a value.
type Is = fn(&Value) -> bool;

fn number(value: &Value) -> bool {
    value.is_u64() || value.is_f64()
}

fn object_or_null(value: &Value) -> bool {
    value.is_object() || value.is_null()
}

/// What scripts find in the last line, and what it is.
const FIELDS: [(&str, Is); 38] = [
    ("/job", |value| value == "state"),
    ("/shards", Value::is_u64),
    ("/keys", Value::is_u64),
    ("/distribution", Value::is_string),
    ("/value_bytes", Value::is_u64),
    ("/backing", Value::is_string),
    ("/sink", Value::is_string),
    ("/updates", Value::is_u64),
    ("/seconds", Value::is_f64),
    ("/load_s", Value::is_f64),
    ("/updates_per_s", Value::is_f64),
    ("/ns_per_update_per_shard", Value::is_f64),
    ("/verified", |value| value.is_boolean() || value.is_null()),
    ("/differences", Value::is_u64),
    ("/checkpoints/interval_ms", |value| value.is_u64() || value.is_null()),
    ("/checkpoints/completed", Value::is_u64),
    ("/checkpoints/failed", Value::is_u64),
    ("/checkpoints/duration_ms/p50", Value::is_f64),
    ("/checkpoints/bytes_total", Value::is_u64),
    ("/checkpoints/bytes_max", Value::is_u64),
    ("/pause_us/p99", Value::is_f64),
    ("/pause_us/p999", Value::is_f64),
    ("/pause_us/max", Value::is_f64),
    ("/turn_us/max", Value::is_f64),
    ("/snapshot/dirty_pages", Value::is_u64),
    ("/snapshot/dirty_lines", Value::is_u64),
    ("/snapshot/dirty_bytes", Value::is_u64),
    ("/snapshot/swept_bytes", Value::is_u64),
    ("/snapshot/bytes_per_dirty_line", Value::is_f64),
    ("/disk", object_or_null),
    ("/state_bytes", |bytes| bytes.as_u64() > Some(0)),
    ("/restore", object_or_null),
    ("/major_faults", Value::is_u64),
    ("/cpu_s", Value::is_f64),
    ("/rss_mb", number),
    ("/rss_loaded_mb", number),
    ("/limit", object_or_null),
    ("/guarantee", |value| value == "exactly-once"),
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
fn every_distribution_and_size_counts_right() {
    for shards in shards_up_to_two() {
        for distribution in ["uniform", "sequential", "zipf:1.2"] {
            for (keys, bytes, interval) in [("1", 8, "off"), ("20k", 16, "30ms"), ("5k", 256, "off"), ("50k", 8, "off")]
            {
                let run = json(&format!(
                    "state --keys {keys} --updates 200k --distribution {distribution} --value-bytes {bytes} \
                     --checkpoint-interval {interval} --shards {shards} --json"
                ));
                is_good(&run);
                assert_eq!((&run["updates"], &run["value_bytes"]), (&200_000.into(), &bytes.into()), "{run}");
                assert_eq!(run["disk"].is_null(), interval == "off", "{run}");
                assert_eq!(run["checkpoints_verified"].as_u64() > Some(0), interval != "off", "{run}");
            }
        }
    }
}

#[test]
fn a_duration_and_a_rate_are_kept() {
    let run = json("state --keys 10k --rate 200k --duration 500ms --checkpoint-interval 50ms --json");
    is_good(&run);
    let updates = run["updates"].as_u64().unwrap();
    assert!((50_000..=110_000).contains(&updates), "{run}");
    assert!(run["checkpoints"]["completed"].as_u64() >= Some(3), "{run}");
    // Each snapshot among the updates holds lines, and disk use was looked at.
    assert!(run["snapshot"]["dirty_lines"].as_u64() > Some(0), "{run}");
    let disk = |field: &str| run["disk"][field].as_u64().unwrap();
    assert!(disk("bytes_max") >= disk("bytes_last") && disk("bytes_last") > 0, "{run}");
}

#[test]
fn a_run_goes_on_from_its_checkpoint_and_tells_what_it_read() {
    let place = Place::new();
    let args = |updates: &str, more: &str| {
        format!(
            "state --keys 30k --shards 1 --updates {updates} --checkpoint-interval 20ms --checkpoint-dir {} {more} --json",
            place.at("checkpoints")
        )
    };
    refused(&args("100k", "--restore"), 2, &["--restore needs a checkpoint"]);
    let first = json(&args("100k", ""));
    is_good(&first);
    assert_eq!(first["restore"], Value::Null, "{first}");
    let second = json(&args("250k", "--restore"));
    is_good(&second);
    assert_eq!(second["updates"], 150_000, "{second}");
    let restore = |field: &str| second["restore"][field].as_f64().unwrap();
    assert!(restore("seconds") > 0.0 && restore("bytes_read") > 0.0 && restore("pages") > 0.0, "{second}");
    assert_eq!(restore("entries"), 30_000.0, "{second}");
    // All that was wanted is there: nothing is left to do, and what is there is looked at again.
    let third = json(&args("250k", "--restore"));
    is_good(&third);
    assert_eq!((&third["updates"], &third["updates_per_s"]), (&0.into(), &0.0.into()), "{third}");
    // Other keys are another graph's.
    refused(&args("250k", "--seed 2"), 1, &["does not fit this job", "seed 2"]);
}

/// What the issue asks for at 10M keys, small: every checkpoint of a busy job is what its updates made it.
#[test]
fn every_checkpoint_holds_what_had_been_counted_at_its_barrier() {
    for shards in shards_up_to_two() {
        let place = Place::new();
        let run = json(&format!(
            "state --keys 100k --distribution zipf:0.8 --shards {shards} --duration 1500ms --rate 2M --checkpoint-interval 50ms \
             --checkpoints-retained 1000 --checkpoint-dir {} --no-verify --json",
            place.at("checkpoints")
        ));
        assert_eq!(run["verified"], Value::Null, "{run}");
        let space = KeySpace { keys: 100_000, distribution: Distribution::Zipf(0.8), seed: 1 };
        let check = || oracle::check(&place.path("checkpoints"), &space, shards, 8);
        let checked = check().unwrap();
        assert!(checked.differences.is_empty(), "{:?}", checked.differences);
        assert_eq!(Value::from(checked.checkpoints), run["checkpoints"]["completed"], "{run}");
        assert!(checked.checkpoints >= 4, "{run}");
        let updates = checked.positions.iter().sum::<u64>() - 100_000;
        assert_eq!(Value::from(updates), run["updates"], "{run}");
        // The comparison can fail: another seed's updates are not in there, and a checkpoint without a file is none.
        let other = KeySpace { seed: 2, ..space };
        let wrong = oracle::check(&place.path("checkpoints"), &other, shards, 8).unwrap();
        assert!(wrong.differences.lost > 0 && wrong.differences.duplicated > 0, "{:?}", wrong.differences);
        let files = contents(&place.path("checkpoints"));
        let (snapshot, _) = files.iter().find(|(path, _)| path.extension().is_some_and(|end| end == "snap")).unwrap();
        std::fs::remove_file(snapshot).unwrap();
        assert!(check().unwrap_err().contains(".json: "), "it says which checkpoint cannot be had");
    }
}

#[test]
fn counts_are_written_to_files_once_each() {
    let place = Place::new();
    let run = json(&format!(
        "state --keys 1k --updates 50k --every 10 --out {} --checkpoint-interval 10ms --checkpoint-dir {} --json",
        place.at("out"),
        place.at("checkpoints")
    ));
    is_good(&run);
    assert_eq!(run["sink"], "file", "{run}");
    let lines: usize =
        parts(&place.path("out")).iter().map(|part| std::fs::read_to_string(part).unwrap().lines().count()).sum();
    // 51 of each key on average, of which every tenth is written.
    assert!((4_000..5_100).contains(&lines), "{lines} lines");
}

#[test]
fn the_limit_is_run_beside_it_and_against_it() {
    let run = json("state --shards 1 --keys 10k --updates 300k --checkpoint-interval off --limit --json");
    is_good(&run);
    let ratio = run["updates_per_s"].as_f64().unwrap() / run["limit"]["events_per_s"].as_f64().unwrap();
    assert!((run["limit"]["ratio"].as_f64().unwrap() - ratio).abs() < 1e-6 * ratio, "{run}");
    for shards in shards_up_to_two() {
        let run = json(&format!(
            "limit --shape table --compare --pairs 2 --shards {shards} --keys 10k --updates 200k --distribution zipf:1.2 --json"
        ));
        assert_eq!((&run["verified"], &run["pairs"]), (&true.into(), &2.into()), "{run}");
        assert!(run["ratio"]["median"].as_f64() > Some(0.0), "{run}");
    }
}

#[test]
fn the_report_is_for_people() {
    let text = report("state --keys 10k --updates 200k --shards 1 --checkpoint-interval 20ms --limit");
    for line in [
        "Keyed running count on 1 shard(s)",
        "10,000 (uniform), 8 bytes each, nothing to exchange",
        "throughput",
        " updates/s",
        "s for 200,000 updates",
        "load",
        "completed, 0 failed",
        "snapshot pause",
        "state",
        "disk",
        "guarantee       exactly-once",
        "verified: 10,000 keys counted 210,000 times, 0 differences in ",
        "by hand, without an exchange · ratio ",
        "machine",
    ] {
        assert!(text.contains(line), "{line:?} is missing:\n{text}");
    }
    let text = report("state --keys 1k --updates 10k --checkpoint-interval off --no-verify --json");
    assert!(text.contains("not verified"), "{text}");
    assert_eq!(last_line(&text)["verified"], Value::Null);
}

#[test]
fn nonsense_is_refused_with_what_would_do() {
    refused("state --value-bytes 7", 2, &["expected 8, 16, 32, 64, 128 or 256"]);
    refused("state --backing file", 2, &["--backing file needs --path DIR"]);
    refused("state --path /tmp", 2, &["--path goes with --backing file"]);
    refused("state --restore", 2, &["--checkpoint-dir"]);
    refused("state --distribution gauss", 2, &["zipf:S"]);
    refused("state --keys 0", 2, &["expected at least 1"]);
}
