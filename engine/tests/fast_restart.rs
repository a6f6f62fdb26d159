//! A job whose state lies in shared memory goes on with it after a failure, and after its process was killed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "jobs/sales/mod.rs"]
mod sales;

use std::fmt::{Debug, Write};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use millstream::{Job, StateBacking};
use sales::{Once, Place, Sale, Sales, assert_same, job, oracle};

/// Sales of one run, enough for a second of wall time and many checkpoints.
const SALES: u64 = 200_000;
const FAST: &str = "state taken over from its segment";
const FULL: &str = "state restored from the checkpoint";

/// Where a child finds its place.
const PLACE: &str = "MILLSTREAM_FAST_RESTART_PLACE";

fn in_shared_memory(job: Job, place: &Place, shards: u32) -> Job {
    let segments = StateBacking::File(place.path().join("segments"));
    let job = job.shards(shards).checkpoints(place.checkpoints(), Duration::from_millis(7));
    job.configure(|config| config.state_backing = segments)
}

fn paced(shards: u32) -> Sales {
    Sales { pace: 200 / u64::from(shards), ..Sales::of(SALES) }
}

/// A place on a tmpfs, where segments must be.
fn shared_memory() -> (tempfile::TempDir, Place) {
    let room = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = Place::at(room.path());
    (room, place)
}

/// What the engine said, of which this looks for two sentences.
struct Said(Mutex<Vec<String>>);

static SAID: Said = Said(Mutex::new(Vec::new()));

impl Said {
    fn count(&self, sentence: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|said| said.contains(sentence)).count()
    }
}

impl tracing::Subscriber for &'static Said {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("millstream") && metadata.is_event()
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
                write!(self.0, "{field}={value:?} ").unwrap();
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_panic_restarts_the_job_on_the_segments_that_it_left() {
    // The only test of this process that counts what is said.
    tracing::subscriber::set_global_default(&SAID).unwrap();
    let mut restarts = 0;
    for shards in [1, 2] {
        let (_room, place) = shared_memory();
        let panics = [50_021, 100_003, 150_001].map(Once::at);
        let look = move |sale: &Sale| assert!(!panics.iter().any(|at| at.is(sale.number)), "on the floor");
        let report = in_shared_memory(job(paced(shards), &place.out(), look, |_| {}), &place, shards).run().unwrap();
        assert_same(&place.lines(), &oracle(SALES), &format!("{shards} shards"));
        assert_eq!(report.restarts.len(), 3, "{:?}", report.restarts);
        let left = std::fs::read_dir(place.path().join("segments")).unwrap().count();
        assert_eq!(left, 0, "a job that has ended leaves no segment");
        restarts += 3 * shards as usize;
    }
    assert_eq!((SAID.count(FAST), SAID.count(FULL)), (restarts, 0), "{:?}", SAID.0.lock().unwrap());
}

/// Not a test by itself: the process that is killed.
#[test]
#[ignore = "the test below starts it, and kills it"]
fn child() {
    let Ok(place) = std::env::var(PLACE) else { return };
    tracing::subscriber::set_global_default(&SAID).unwrap();
    let place = Place::at(place);
    let report = in_shared_memory(job(paced(2), &place.out(), |_| {}, |_| {}), &place, 2).start().unwrap();
    // Its successor and the parent read this after its end: a line for every restore.
    let mut told = 0;
    loop {
        let said = SAID.0.lock().unwrap().clone();
        for line in &said[told..] {
            println!("{line}");
        }
        told = said.len();
        if report.is_finished() {
            report.wait().unwrap();
            return;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn killed_processes_leave_segments_that_the_next_one_goes_on_with() {
    let (_room, place) = shared_memory();
    let mut random = 88_172_645_463_325_252u64;
    let mut fast = 0;
    let mut kills = 0;
    loop {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(PLACE, place.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::park_timeout(Duration::from_micros(20_000 + random % 200_000));
        // The last is let to its end.
        let killed = kills < 8 && child.try_wait().unwrap().is_none();
        if killed {
            child.kill().unwrap();
            kills += 1;
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!said.contains(FULL), "a killed process leaves segments that are sound: {said}");
        fast += said.matches(FAST).count();
        if !killed {
            assert!(output.status.success(), "{said}");
            break;
        }
    }
    assert_same(&place.lines(), &oracle(SALES), &format!("{kills} kills"));
    assert!(kills >= 4 && fast >= 4, "{kills} kills and {fast} fast restarts mean nothing");
}
