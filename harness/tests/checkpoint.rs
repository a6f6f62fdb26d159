//! `harness checkpoint` as a script meets it: over the checkpoints and the savepoint of a job that was stopped in the middle
//! of its windows.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod program;

use std::fs;
use std::path::Path;
use std::time::Duration;

use millstream::{Clock, Count, Job, Polled, Source, SourceError, Split, Sum, Timestamp, Tumbling, Watermarks};
use millstream_connectors::memory::MemorySink;
use program::{Place, harness, json, last_line, refused, report, said};
use serde_json::Value;

/// `page`, `at_ms` and `cents` of 3,000 clicks on 300 pages in one window, and then silence.
#[derive(Clone)]
struct Clicks;

const CLICKS: u64 = 3_000;
const PAGES: u64 = 300;

impl Source for Clicks {
    type Batch = Vec<(u64, i64, i64)>;

    fn open(&self, shard: u32, _: u32) -> Result<Vec<Box<dyn Split<Batch = Self::Batch>>>, SourceError> {
        if shard == 0 { Ok(vec![Box::new(All { next: 0 })]) } else { Ok(Vec::new()) }
    }

    fn splits_are_fixed(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "clicks".to_owned()
    }
}

struct All {
    next: u64,
}

impl Split for All {
    type Batch = Vec<(u64, i64, i64)>;

    fn name(&self) -> String {
        "all".to_owned()
    }

    fn poll(&mut self, out: &mut Self::Batch, rows_max: usize) -> Result<Polled, SourceError> {
        if self.next == CLICKS {
            return Ok(Polled::IdleUntilMs(Clock::system().wall_ms() + 10));
        }
        let until = (self.next + rows_max as u64).min(CLICKS);
        out.extend((self.next..until).map(|click| (click % PAGES, 1_000 + (click % 100) as i64, click as i64)));
        self.next = until;
        Ok(Polled::Rows)
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.next = position;
        Ok(())
    }
}

/// Clicks and cents per page; `counts_cents` as they were, or clicks alone.
fn job(counts_cents: bool) -> Job {
    Job::new("clicks", move |flow| {
        let windows = flow
            .source(Clicks)
            .named("clicks")
            .event_time(|(_, at_ms, _)| Timestamp(*at_ms), Watermarks::monotonic())
            .key_by(|(page, _, _)| *page)
            .window(Tumbling::of(Duration::from_secs(60)));
        let sink = MemorySink::new();
        if counts_cents {
            let cents = Sum::of(|(_, _, cents): &(u64, i64, i64)| *cents);
            windows.aggregate((Count, cents)).named("per-page").map(|row| row.key).sink_named("out", sink);
        } else {
            windows.aggregate(Count).named("per-page").map(|row| row.key).sink_named("out", sink);
        }
    })
}

/// A place with three `checkpoints` and a `savepoint` of the last.
fn stopped() -> Place {
    let place = Place::new();
    let job = job(true).shards(2).checkpoints(place.path("checkpoints"), Duration::from_secs(3600));
    let handle = job.start().unwrap();
    while handle.events_in() < CLICKS {
        std::thread::yield_now();
    }
    for early in ["first", "second"] {
        handle.savepoint(place.path(early)).unwrap();
    }
    handle.stop_with_savepoint(place.path("savepoint")).unwrap();
    handle.wait().unwrap();
    place
}

fn write_schemas(path: &Path, job: &Job) {
    fs::write(path, serde_json::to_string(&job.schemas().unwrap()).unwrap()).unwrap();
}

/// The newest file of that kind.
fn file(dir: &Path, suffix: &str) -> std::path::PathBuf {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(suffix));
    files.sort();
    files.pop().unwrap()
}

#[test]
fn checkpoints_and_savepoints_are_listed_and_proven() {
    let place = stopped();
    let inspect = format!("checkpoint inspect {} --json", place.at("checkpoints"));
    let seen = json(&inspect);
    assert_eq!((&seen["kind"], &seen["sound"]), (&"checkpoints".into(), &true.into()));
    let epochs: Vec<u64> =
        seen["checkpoints"].as_array().unwrap().iter().map(|own| own["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs, [3, 2, 1]);
    assert!(seen["checkpoints"][1]["operators"].is_null() && seen["checkpoints"][0]["age_ms"].as_u64().is_some());
    let windows = |operators: &Value| -> Vec<Value> {
        operators.as_array().unwrap().iter().filter(|own| own["uid"] == "per-page").cloned().collect()
    };
    let of_shards = windows(&seen["checkpoints"][0]["operators"]);
    assert_eq!(of_shards.len(), 2);
    let entries: u64 = of_shards.iter().map(|own| own["states"][0]["entries"].as_u64().unwrap()).sum();
    assert_eq!(entries, PAGES);
    for own in &of_shards {
        assert_eq!((&own["states"][0]["name"], &own["states"][0]["value"]), (&"panes".into(), &"(u64, i64)".into()));
        assert!(own["live_bytes"].as_u64() > Some(0) && own["chain_files"].as_u64() > Some(0), "{own}");
        assert!(own["kept"]["watermark"].is_i64(), "{own}");
    }
    assert_eq!(json(&format!("{inspect} --epoch 1"))["checkpoints"][2]["operators"].as_array().unwrap().len(), 6);

    let seen = json(&format!("checkpoint inspect {} --json", place.at("savepoint")));
    assert_eq!((&seen["kind"], &seen["sound"], &seen["epoch"]), (&"savepoint".into(), &true.into(), &3.into()));
    assert_eq!(windows(&seen["operators"])[0]["states"][0]["entries"], PAGES);
    let people = report(&format!("checkpoint inspect {}", place.at("checkpoints")));
    assert!(
        people.contains("epoch 3") && people.contains("sound") && people.contains("panes: u64 -> (u64, i64)"),
        "{people}"
    );
    assert!(people.contains("\"positions\":{\"all\":3000}"), "{people}");
}

#[test]
fn what_is_damaged_is_named_and_the_exit_status_says_so() {
    let place = stopped();
    for (dir, suffix) in
        [("checkpoints", ".snap"), ("checkpoints", ".json"), ("savepoint", ".entries"), ("savepoint", ".json")]
    {
        let path = file(&place.path(dir), suffix);
        let bytes = fs::read(&path).unwrap();
        for at in [40, bytes.len() / 2] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 16;
            fs::write(&path, &flipped).unwrap();
            let output = harness(&format!("checkpoint inspect {} --json", place.at(dir))).output().unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            let all = format!("{}{}", String::from_utf8_lossy(&output.stdout), said(&output));
            assert_eq!(output.status.code(), Some(1), "{name}: {all}");
            assert!(all.contains(name), "{name}, bit of byte {at}: {all}");
            if dir == "checkpoints" {
                let seen = last_line(&String::from_utf8_lossy(&output.stdout));
                assert_eq!(
                    (&seen["sound"], &seen["checkpoints"][0]["sound"]),
                    (&false.into(), &false.into()),
                    "{name}"
                );
            }
        }
        fs::write(&path, &bytes).unwrap();
        report(&format!("checkpoint inspect {}", place.at(dir)));
    }
    fs::remove_file(file(&place.path("checkpoints"), ".snap")).unwrap();
    harness(&format!("checkpoint inspect {}", place.at("checkpoints"))).assert().code(1);
}

#[test]
fn entries_are_dumped_as_lines_of_json() {
    let place = stopped();
    for dir in ["checkpoints", "savepoint"] {
        let dump = format!("checkpoint dump {} --operator per-page --state panes", place.at(dir));
        let mut pages: Vec<u64> = Vec::new();
        for line in report(&dump).lines() {
            let entry: Value = serde_json::from_str(line).unwrap();
            let page = entry["key"].as_u64().unwrap();
            let clicks = || (0..CLICKS).filter(|click| click % PAGES == page);
            assert_eq!(entry["value"], serde_json::json!([clicks().count(), clicks().sum::<u64>()]), "{line}");
            assert_eq!((&entry["namespace"], &entry["expires_ms"]), (&0.into(), &Value::Null), "{line}");
            assert!(entry["shard"].as_u64() < Some(2), "{line}");
            pages.push(page);
        }
        pages.sort_unstable();
        assert_eq!(pages, (0..PAGES).collect::<Vec<_>>(), "{dir}");
        assert_eq!(report(&format!("{dump} --limit 7")).lines().count(), 7);
        let unknown = format!("checkpoint dump {} --operator per-page --state pains", place.at(dir));
        refused(&unknown, 1, &["operator 'per-page' has no state 'pains'", "--operator per-page --state panes"]);
        let unknown = format!("checkpoint dump {} --operator pages --state panes", place.at(dir));
        refused(&unknown, 1, &["there is no operator 'pages'", "--operator per-page --state panes"]);
    }
    let epoch = format!("checkpoint dump {} --operator per-page --state panes --epoch 9", place.at("checkpoints"));
    refused(&epoch, 1, &["there is no checkpoint of epoch 9, only of 3, 2, 1"]);
}

#[test]
fn a_restore_by_another_version_is_foretold() {
    let place = stopped();
    write_schemas(&place.path("same.json"), &job(true));
    write_schemas(&place.path("other.json"), &job(false));
    for dir in ["checkpoints", "savepoint"] {
        let before = program::contents(&place.path(dir));
        let migrate = |to: &str| format!("checkpoint migrate {} --dry-run --json --to {}", place.at(dir), place.at(to));
        let told = json(&migrate("same.json"));
        assert_eq!((&told["allowed"], &told["states"][0]["verdict"]), (&true.into(), &"same".into()), "{told}");
        let output = harness(&migrate("other.json")).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let told = last_line(&String::from_utf8_lossy(&output.stdout));
        assert_eq!((&told["allowed"], &told["states"][0]["verdict"]), (&false.into(), &"refused".into()), "{told}");
        let text = told["states"][0]["text"].as_str().unwrap();
        assert!(["per-page", "panes", "(u64, i64)", "`u64`"].iter().all(|word| text.contains(word)), "{text}");
        // A savepoint or a manifest of the new version will do as well.
        json(&migrate("savepoint"));
        let manifest = file(&place.path("checkpoints"), ".json");
        json(&format!("checkpoint migrate {} --dry-run --json --to {}", place.at(dir), manifest.display()));
        let undry = format!("checkpoint migrate {} --to {}", place.at(dir), place.at("same.json"));
        refused(&undry, 2, &["give --dry-run"]);
        assert_eq!(program::contents(&place.path(dir)), before);
    }
    fs::write(place.path("none.json"), "{}").unwrap();
    let none = format!("checkpoint migrate {} --dry-run --to {}", place.at("savepoint"), place.at("none.json"));
    refused(&none, 1, &["none.json", "Job::schemas()"]);
}

#[test]
fn a_savepoint_is_made_without_the_job_and_a_job_begins_there() {
    let place = stopped();
    let made = json(&format!("checkpoint savepoint {} {} --epoch 2 --json", place.at("checkpoints"), place.at("made")));
    assert_eq!((&made["epoch"], &made["entries"]), (&2.into(), &PAGES.into()));
    let seen = json(&format!("checkpoint inspect {} --json", place.at("made")));
    assert_eq!((&seen["sound"], &seen["epoch"]), (&true.into(), &2.into()));
    let again = format!("checkpoint savepoint {} {}", place.at("checkpoints"), place.at("made"));
    refused(&again, 1, &["there is something of that name already"]);
    let of_one = format!("checkpoint savepoint {} {}", place.at("made"), place.at("other"));
    refused(&of_one, 1, &["this is a savepoint already"]);
    let begun = job(true).shards(3).checkpoints(place.path("fresh"), Duration::from_secs(3600));
    let handle = begun.from_savepoint(place.path("made")).start().unwrap();
    handle.stop();
    assert_eq!(handle.wait().unwrap().restored_epoch, 2);
    let dump = format!("checkpoint dump {} --operator per-page --state panes", place.at("fresh"));
    assert_eq!(report(&dump).lines().count() as u64, PAGES);
}

#[test]
fn where_there_is_nothing_nothing_is_made() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    refused(&format!("checkpoint inspect {}", place.at("empty")), 1, &["neither a checkpoint nor a savepoint"]);
    refused(&format!("checkpoint inspect {}", place.at("missing")), 1, &["missing"]);
    assert!(!place.path("missing").exists() && fs::read_dir(place.path("empty")).unwrap().next().is_none());
}
