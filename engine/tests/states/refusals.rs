//! What cannot run says so in a paragraph that tells what to do, before anything was changed; bad rows go where the job
//! says they go.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::sales::{Once, Place, Sale, Sales, assert_same, job};
use millstream::road::sink::{Committable, Epoch, SinkFuture};
use millstream::{
    Continuous, Count, DeadLetter, Flow, Global, Guarantee, Items, Job, JobError, OnError, RestartStrategy, Sink,
    SinkError, SinkWriter, Timestamp, Tumbling, Watermarks,
};
use millstream_connectors::file::FileSink;
use millstream_connectors::log::LogSource;
use millstream_connectors::memory::{MemorySink, NullSink};

fn second() -> Duration {
    Duration::from_secs(1)
}

/// A job of numbers that would run.
fn numbers() -> Job {
    Job::new("numbers", |flow| flow.source(Items::of((0..100u64).collect())).sink(NullSink::new()))
}

/// The job is refused with all of these words, in one paragraph.
#[track_caller]
fn refused(job: Job, words: &[&str]) -> JobError {
    let error = job.run().expect_err("this cannot run");
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
    assert!(!text.contains("\n\n") && text.len() < 2_000, "not a paragraph: {text}");
    assert!(!matches!(error, JobError::Failed { .. }), "it was started: {text}");
    error
}

#[test]
fn graphs_that_cannot_run() {
    refused(Job::new("nothing", |_: &Flow| {}), &["has no sink", ".sink(..)"]);
    refused(
        Job::new("loose end", |flow: &Flow| drop(flow.source(Items::of(vec![1u64])).map(|n| n + 1))),
        &["has no sink", ".sink(..)"],
    );
    refused(
        Job::new("twins", |flow| {
            let numbers = flow.source(Items::of(vec![1u64])).named("twin");
            numbers.map(|n| n + 1).named("twin").sink(NullSink::new());
        }),
        &["operators 0 and 1 are both named \"twin\"", "unique"],
    );
    refused(
        Job::new("timeless", |flow| {
            let numbers = flow.source(Items::of(vec![1u64])).key_by(|n| *n);
            let totals = numbers.window(Global).trigger(Continuous::every(second()));
            totals.aggregate(Count).named("per-number").map(|_| 0_u64).sink(NullSink::new());
        }),
        &["window \"per-number\" needs event time", ".event_time("],
    );
}

#[test]
fn a_closure_that_says_something_else_each_time() {
    let calls = Arc::new(AtomicU32::new(0));
    let moody = Job::new("moody", move |flow| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        flow.source(Items::of(vec![1u64])).map(|n| n + 1).named(format!("call-{call}")).sink(NullSink::new());
    });
    refused(moody, &["the same graph each time", "Planned:", "call-0: map", "On shard 0:", "call-1: map"]);
}

#[test]
fn a_closure_that_panics() {
    let planned = Job::new("at once", |_: &Flow| panic!("no idea what to do"));
    refused(planned, &["the closure that describes the job panicked: no idea what to do at ", "refusals.rs:"]);
    for shards in [1, 2] {
        let on_a_shard = Job::new("later", |flow: &Flow| {
            assert!(flow.shards() == 0, "too many shards");
            flow.source(Items::of(vec![1u64])).sink(NullSink::new());
        });
        refused(on_a_shard.shards(shards), &["panicked: too many shards at ", "refusals.rs:"]);
    }
}

#[test]
fn settings_that_cannot_be() {
    refused(numbers().shards(0), &["0 shards", "1 to 4096"]);
    refused(numbers().shards(5_000), &["5000 shards", "1 to 4096"]);
    refused(numbers().cores([4_000]), &["core 4000", "cpuset"]);
    refused(numbers().shards(2).cores([0]), &["2 shards and only 1 cores named"]);
    let interval_only = numbers().configure(|config| config.checkpoint_interval = Some(second()));
    refused(interval_only, &["no directory to keep checkpoints in", ".checkpoints(dir, interval)"]);
}

#[test]
fn directories_that_cannot_be_used() {
    let place = Place::new();
    let file = place.path().join("a-file");
    fs::write(&file, "mine").unwrap();
    let before = place.contents();
    let shown = file.display().to_string();
    refused(numbers().checkpoints(&file, second()), &["the checkpoint directory", &shown, "name another one"]);
    // Not even root may make a directory in /proc.
    refused(numbers().checkpoints("/proc/checkpoints", second()), &["/proc/checkpoints", "make it writable"]);

    let out = file.clone();
    let into_a_file = Job::new("into a file", move |flow| {
        let sink =
            FileSink::lines(&out, |n: &u64, bytes: &mut Vec<u8>| bytes.extend_from_slice(n.to_string().as_bytes()));
        flow.source(Items::of(vec![1u64])).sink(sink);
    });
    for shards in [1, 2] {
        refused(into_a_file.clone().shards(shards), &["sink \"sink-1\"", &shown, "is a file", "name another path"]);
    }

    let missing = place.path().join("no-log");
    let shown = missing.display().to_string();
    let from_nowhere = Job::new("from nowhere", move |flow| {
        flow.source(LogSource::new(&missing)).map(|row| row.len()).sink(NullSink::new())
    });
    for shards in [1, 2] {
        refused(from_nowhere.clone().shards(shards), &["source \"source-0\"", "there is no log at", &shown]);
    }
    assert_eq!(place.contents(), before, "a refusal changes nothing");
}

#[test]
fn checkpoints_of_something_else() {
    let place = Place::new();
    let mine =
        || job(Sales::of(5_000), &place.out(), |_| {}, |_| {}).checkpoints(place.checkpoints(), second()).shards(2);
    mine().run().unwrap();
    let before = place.contents();
    let shown = place.checkpoints().display().to_string();

    let stranger = numbers().checkpoints(place.checkpoints(), second()).shards(2);
    let error = refused(stranger, &[&shown, "job \"sales\"", "job \"numbers\"", "name another directory"]);
    assert!(matches!(error, JobError::Mismatch(_)));

    let changed =
        job(Sales::of(5_001), &place.out(), |_| {}, |_| {}).checkpoints(place.checkpoints(), second()).shards(2);
    let graphs = ["The checkpoint's graph:", "till: source 5000 sales", "This job's graph:", "till: source 5001 sales"];
    let error = refused(changed, &graphs);
    assert!(matches!(error, JobError::Mismatch(_)));
    assert_eq!(place.contents(), before, "a refusal changes nothing");
}

/// A sink that panics where others do their work.
#[derive(Clone, Copy)]
enum Trap {
    Open,
    Recover,
}

impl Sink<u64> for Trap {
    type Writer = Trap;

    fn open(&self, _shard: u32, _shards: u32) -> Result<Trap, SinkError> {
        assert!(!matches!(self, Trap::Open), "the lid fell");
        Ok(*self)
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn describe(&self) -> String {
        "trap".to_owned()
    }
}

impl SinkWriter<u64> for Trap {
    fn write(&mut self, _row: &u64) -> Result<(), SinkError> {
        Ok(())
    }

    fn prepare(&mut self, _epoch: Epoch) -> SinkFuture<Committable> {
        Box::pin(async { Ok(Committable::Null) })
    }

    fn commit(&mut self, _committable: Committable) -> SinkFuture<()> {
        Box::pin(async { Ok(()) })
    }

    fn recover(&mut self, _committables: Vec<Committable>) -> SinkFuture<()> {
        Box::pin(async { panic!("the spring broke") })
    }
}

#[test]
fn a_connector_that_panics_hangs_nobody() {
    for (trap, why) in [(Trap::Open, "the lid fell"), (Trap::Recover, "the spring broke")] {
        for shards in [1, 2] {
            let trapped =
                Job::new("trapped", move |flow| flow.source(Items::of(vec![1u64, 2, 3])).sink(trap)).shards(shards);
            refused(trapped, &[why, "refusals.rs:"]);
        }
    }
}

/// Texts, of which every thousandth is not a number, as lines of one split per shard.
fn texts() -> Items<Vec<u8>> {
    let text = |n: u64| if n % 1_000 == 500 { format!("{n}?") } else { n.to_string() };
    Items::of((0..10_000).map(|n| text(n).into_bytes()).collect())
}

fn parse(row: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(row).map_err(|error| error.to_string())?;
    text.parse().map_err(|error| format!("{text:?} is not a number: {error}"))
}

#[test]
fn a_bad_row_fails_the_job_with_its_place_and_no_restart() {
    let job = Job::new("strict", |flow| {
        flow.source(texts()).try_map(|row| parse(row), OnError::Fail).named("parse").sink(NullSink::new());
    });
    let Err(JobError::Failed { cause, restarts }) = job.run() else { panic!("the row is bad") };
    assert_eq!(restarts, 0, "a restart would only meet the row again");
    let expected =
        "operator \"parse\": share-0000, offset 500: \"500?\" is not a number: invalid digit found in string";
    assert_eq!(cause, expected);
}

#[test]
fn a_skipped_row_is_counted() {
    for shards in [1, 2] {
        let numbers = MemorySink::new();
        let out = numbers.clone();
        let job = Job::new("lenient", move |flow| {
            flow.source(texts()).try_map(|row| parse(row), OnError::Skip).sink(numbers.clone());
        });
        let report = job.shards(shards).run().unwrap();
        assert_eq!(report.measured.skipped, 10);
        let mut rows = out.rows();
        rows.sort_unstable();
        assert!(rows == (0..10_000).filter(|n| n % 1_000 != 500).collect::<Vec<u64>>());
    }
}

#[test]
fn dead_letters_arrive_exactly_once() {
    const SALES: u64 = 30_000;
    for shards in [1, 2] {
        let place = Place::new();
        let letters: PathBuf = place.path().join("letters");
        let good = place.out();
        // Both on the last shard: two shards could crash in one attempt.
        let crashes = [9_001, 20_003].map(Once::at);
        let source = Sales { pace: 300, ..Sales::of(SALES) };
        let into = letters.clone();
        let job = Job::new("letters", move |flow| {
            let crashes = crashes.clone();
            let text = |line: &String, bytes: &mut Vec<u8>| bytes.extend_from_slice(line.as_bytes());
            let letter = |letter: &DeadLetter, bytes: &mut Vec<u8>| {
                assert!(letter.operator == "parse" && letter.place.starts_with("share-"), "{letter:?}");
                bytes.extend_from_slice(&letter.row);
            };
            flow.source(source.clone())
                .map(move |sale: &Sale| {
                    assert!(!crashes.iter().any(|crash| crash.is(sale.number)), "a crash");
                    sale.number.to_string().into_bytes()
                })
                .try_map_or_dead_letter(
                    |row: &Vec<u8>| {
                        if row.ends_with(b"7") { Err("a seven") } else { Ok(String::from_utf8_lossy(row).into_owned()) }
                    },
                    FileSink::lines(&into, letter),
                )
                .named("parse")
                .sink(FileSink::lines(&good, text));
        });
        let report = job
            .shards(shards)
            .checkpoints(place.checkpoints(), Duration::from_millis(7))
            .restart(RestartStrategy { initial: Duration::from_millis(1), ..RestartStrategy::default() })
            .run()
            .unwrap();
        assert_eq!(report.restarts.len(), 2, "{:?}", report.restarts);
        let expected = |seven: bool| {
            let numbers = (0..SALES).map(|n| n.to_string()).filter(|text| text.ends_with('7') == seven);
            let mut lines: Vec<String> = numbers.collect();
            lines.sort_unstable();
            lines
        };
        assert_same(&place.lines(), &expected(false), "rows");
        assert_same(&crate::sales::lines(&letters), &expected(true), "dead letters");
    }
}

#[test]
fn windows_before_any_row_are_no_trouble() {
    for shards in [1, 2] {
        let out = MemorySink::new();
        let sink = out.clone();
        let empty = Job::new("empty", move |flow| {
            let numbers = flow.source(Items::of(Vec::<u64>::new()));
            let timed = numbers.event_time(|n| Timestamp(*n as i64), Watermarks::monotonic());
            timed
                .key_by(|n| *n)
                .window(Tumbling::of(second()))
                .aggregate(Count)
                .map(|row| row.value)
                .sink(sink.clone());
        });
        assert_eq!(empty.shards(shards).run().unwrap().measured.events_in, 0);
        assert!(out.is_empty());
    }
}
