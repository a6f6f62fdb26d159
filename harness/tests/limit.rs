//! `harness limit` as a script meets it: exit status, last line, what goes where.

mod program;

use program::{harness, json, refused, report, shards_up_to_two};
use serde_json::Value;

#[test]
fn every_shape_counts_right_in_every_encoding() {
    for shape in ["fused", "spsc", "tcp"] {
        for encoding in ["long", "uuid", "json"] {
            for (campaigns, events) in [(1, 999), (100, 250_000), (5_000, 250_000)] {
                for shards in shards_up_to_two() {
                    // Windows of 1,000 × 10 events, so that dozens fire.
                    let run = json(&format!(
                        "limit --shape {shape} --encoding {encoding} --campaigns {campaigns} --events {events} \
                         --events-per-ms 1 --shards {shards} --json"
                    ));
                    assert_eq!((&run["verified"], &run["differences"]), (&Value::Bool(true), &Value::from(0)), "{run}");
                    assert_eq!((&run["events"], &run["shards"]), (&events.into(), &shards.into()));
                    assert!(run["events_per_s"].as_f64().unwrap() > 0.0);
                }
            }
        }
    }
}

#[test]
fn a_table_counts_right_for_every_distribution() {
    for distribution in ["uniform", "sequential", "zipf:1.2"] {
        for keys in ["1", "1000", "100k"] {
            let run = json(&format!(
                "limit --shape table --shards 1 --keys {keys} --updates 300k --distribution {distribution} --json"
            ));
            assert_eq!((&run["verified"], &run["events"]), (&Value::Bool(true), &Value::from(300_000)), "{run}");
            assert!(run["ns_per_update_per_shard"].as_f64().unwrap() > 0.0);
        }
    }
}

#[test]
fn the_stages_are_told_where_asked_for() {
    let run = json("limit --shards 1 --events 100k --stages --json");
    let stages = run["stage_ns_per_event"].as_object().unwrap();
    assert!(["generate", "join", "count+fire"].iter().all(|stage| stages[*stage].as_f64().unwrap() > 0.0), "{run}");
    assert_eq!(json("limit --shards 1 --events 100k --json")["stage_ns_per_event"], Value::Null);
}

#[test]
fn the_report_is_for_people() {
    let text = report("limit --shards 1 --events 100k");
    for line in ["throughput", "per shard", "verified: ", "views, 0 differences", "machine"] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn help_teaches() {
    for (args, text) in [("--help", "Examples:"), ("limit --help", "harness limit --encoding json")] {
        let output = harness(args).assert().success().get_output().stdout.clone();
        assert!(String::from_utf8(output).unwrap().contains(text));
    }
}

#[test]
fn nonsense_is_refused_with_what_would_do() {
    refused("limits", 2, &["unrecognized subcommand"]);
    refused("limit --shape round", 2, &["fused, spsc, tcp, table"]);
    refused("limit --event 5", 2, &["--events"]);
    refused("limit --events 5x", 2, &["expected a count such as 1500, 50k, 2.5M or 1G"]);
    refused("limit --events 0", 2, &["expected at least 1"]);
    refused("limit --cores 1-0", 2, &["expected cores such as 0,1 or 0-3"]);
    refused("limit --cores 60000", 2, &["core 60000 is not among the cores this process may use"]);
    refused("limit --shards 100000", 2, &["a hand-written loop polls"]);
    refused("limit --distribution zipf:-1", 2, &["zipf:S"]);
    refused("limit --campaigns 1G --ads-per-campaign 10", 2, &["must stay below 4G"]);
}
