//! Savepoints of a running job: taken while it goes on, begun at with any number of shards, and jobs that have changed
//! since their state was stored.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sales::{Once, Place, Sale, Sales, assert_same, job, oracle};
use millstream::{Count, Job, JobError, Max, RestartStrategy, Sum, Timestamp, Tumbling, Watermarks, Windowed};
use millstream_connectors::file::FileSink;

const SALES: u64 = 60_000;
/// In the middle of a window.
const HALF: u64 = 35_000;

fn every(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A job that has read half of its sales and waits, its gate, and a savepoint of it that is called `savepoint`.
fn halfway(place: &Place, shards: u32) -> (millstream::JobHandle, Arc<AtomicU64>, PathBuf, u64) {
    let gate = Arc::new(AtomicU64::new(HALF));
    let source = Sales { gate: gate.clone(), ..Sales::of(SALES) };
    let job = job(source, &place.out(), |_| (), |_| ()).shards(shards).checkpoints(place.checkpoints(), every(20));
    // The newest checkpoint alone is kept, and one is taken every 20 ms: what the savepoint reads must be spared.
    let handle = job.configure(|config| config.checkpoints_retained = 1).start().unwrap();
    while handle.events_in() < HALF {
        std::thread::yield_now();
    }
    let path = place.path().join("savepoint");
    let report = handle.savepoint(&path).unwrap();
    assert!(report.entries > 500 && report.states == 1 && report.path == path, "{report:?}");
    (handle, gate, path, report.epoch.0)
}

/// A place whose output is what `from` had committed at the epoch.
fn place_with_output_of(from: &Place, epoch: u64) -> Place {
    let place = Place::new();
    fs::create_dir(place.out()).unwrap();
    for entry in fs::read_dir(from.out()).unwrap().map(|entry| entry.unwrap()).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), place.out().join(entry.file_name())).unwrap();
    }
    place.forget_output_after(epoch);
    place
}

#[test]
fn a_job_begins_at_a_savepoint_on_any_number_of_shards() {
    let expected = oracle(SALES);
    for before in [1, 3] {
        let place = Place::new();
        let (handle, gate, savepoint, epoch) = halfway(&place, before);
        gate.store(u64::MAX, Ordering::Relaxed);
        let report = handle.wait().unwrap();
        assert!(report.checkpoints.failed.is_empty(), "{report}");
        assert_same(&place.lines(), &expected, "the job went on");
        for shards in 1..=4 {
            let what = format!("{before} to {shards} shards");
            let place = place_with_output_of(&place, epoch);
            assert!(place.lines().len() < expected.len(), "{what}: there is something left to do");
            // It fails once before its first checkpoint, and begins at the savepoint again.
            let once = Once::at(HALF + 100);
            let look = move |sale: &Sale| assert!(!once.is(sale.number), "once");
            let job = job(Sales::of(SALES), &place.out(), look, |_| ()).shards(shards);
            let report = job.checkpoints(place.checkpoints(), every(10_000)).from_savepoint(&savepoint).run().unwrap();
            assert_eq!((report.restored_epoch, report.restarts.len()), (epoch, 1), "{what}: {report}");
            assert_eq!(report.restored.unwrap().shards_before, before, "{what}");
            assert_same(&place.lines(), &expected, &what);
            // Its own checkpoint comes first from now on, and holds all.
            let again = crate::sales::job(Sales::of(SALES), &place.out(), |_| (), |_| ()).shards(shards);
            let again = again.checkpoints(place.checkpoints(), every(10_000)).from_savepoint(&savepoint).run().unwrap();
            assert!(again.restored_epoch > epoch && again.restarts.is_empty(), "{what}: {again}");
            assert_same(&place.lines(), &expected, &what);
        }
    }
}

#[test]
fn a_job_stops_with_a_savepoint_that_holds_all_it_committed() {
    let place = Place::new();
    let (handle, _gate, _, _) = halfway(&place, 2);
    let path = place.path().join("last");
    let made = handle.stop_with_savepoint(&path).unwrap();
    let report = handle.wait().unwrap();
    assert!(report.stopped, "{report}");
    assert_eq!(place.epochs(), [made.epoch.0], "it is the last checkpoint");
    let job = job(Sales::of(SALES), &place.out(), |_| (), |_| ()).shards(3);
    let fresh = place.path().join("fresh");
    job.checkpoints(fresh, every(50)).from_savepoint(path).run().unwrap();
    assert_same(&place.lines(), &oracle(SALES), "stopped and begun again");
}

#[test]
fn savepoints_that_cannot_be_made_say_why_and_the_job_goes_on() {
    let place = Place::new();
    let (handle, gate, savepoint, _) = halfway(&place, 2);
    let error = handle.savepoint(&savepoint).unwrap_err();
    assert!(matches!(error, JobError::Savepoint(_)) && error.to_string().contains("Name another path"), "{error}");
    fs::write(place.path().join("file"), "").unwrap();
    let error = handle.savepoint(place.path().join("file/inside")).unwrap_err();
    assert!(matches!(error, JobError::Savepoint(_)), "{error}");
    gate.store(u64::MAX, Ordering::Relaxed);
    while !handle.is_finished() {
        std::thread::yield_now();
    }
    let error = handle.savepoint(place.path().join("late")).unwrap_err();
    assert!(error.to_string().contains("the job has ended"), "{error}");
    assert_same(&{ handle.wait().map(|_| place.lines()).unwrap() }, &oracle(SALES), "the job went on");

    let gate = Arc::new(AtomicU64::new(10));
    let source = Sales { gate: gate.clone(), ..Sales::of(SALES) };
    let place = Place::new();
    let handle = job(source, &place.out(), |_| (), |_| ()).start().unwrap();
    let error = handle.savepoint(place.path().join("savepoint")).unwrap_err();
    assert!(error.to_string().contains("give it a place"), "{error}");
    gate.store(u64::MAX, Ordering::Relaxed);
    handle.wait().unwrap();
}

#[test]
fn a_damaged_savepoint_is_refused_before_anything_is_changed() {
    let place = Place::new();
    let (handle, gate, savepoint, epoch) = halfway(&place, 2);
    gate.store(u64::MAX, Ordering::Relaxed);
    handle.wait().unwrap();
    let fresh = place_with_output_of(&place, epoch);
    let begin = |from: &Path| {
        let job = job(Sales::of(SALES), &fresh.out(), |_| (), |_| ()).shards(2);
        job.checkpoints(fresh.checkpoints(), every(50)).from_savepoint(from).run().unwrap_err().to_string()
    };
    let error = begin(&place.path().join("nothing"));
    assert!(error.contains("there is no savepoint"), "{error}");
    let before = fresh.lines();
    for file in fs::read_dir(&savepoint).unwrap().map(|entry| entry.unwrap().path()) {
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 4;
        fs::write(&file, &bytes).unwrap();
        let error = begin(&savepoint);
        assert!(error.contains("savepoint is damaged"), "{}: {error}", file.display());
        assert!(fresh.epochs().is_empty() && fresh.lines() == before, "{}", file.display());
        bytes[middle] ^= 4;
        fs::write(&file, &bytes).unwrap();
    }
}

/// What became of the job since its checkpoint was taken.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Version {
    /// As it was.
    Same,
    /// A stateless operator is new, and another one gone: nothing that keeps state has changed.
    OtherStateless,
    /// The window counts something else.
    OtherAccumulator,
    /// The key has another type.
    OtherKey,
    /// The window has another size.
    OtherWindow,
    /// The window is called otherwise.
    Renamed,
    /// A window more, which starts empty.
    OneMore,
}

fn version(version: Version, place: &Place, window: Option<&'static str>) -> Job {
    let out = place.out();
    let job = Job::new("sales", move |flow| {
        let sales = flow.source(Sales::of(SALES)).named("till");
        if version == Version::OneMore {
            let more = flow.source(Sales::of(SALES)).named("second till");
            more.event_time(|sale| Timestamp(sale.at_ms), Watermarks::monotonic())
                .key_by(|sale| sale.shop)
                .window(Tumbling::of(Duration::from_secs(1)))
                .aggregate(Count)
                .named("more")
                .filter(|_| false)
                .map(|row: &Windowed<u64, u64>| row.key.to_string())
                .sink_named("more-files", lines(&out.join("more")));
        }
        let size = Duration::from_secs(if version == Version::OtherWindow { 2 } else { 1 });
        macro_rules! windows {
            ($sales:expr, $key:expr, $aggregate:expr) => {{
                let windows = $sales
                    .event_time(|sale| Timestamp(sale.at_ms), Watermarks::monotonic())
                    .named("time")
                    .key_by($key)
                    .window(Tumbling::of(size))
                    .aggregate($aggregate);
                let windows = match window {
                    Some(_) if version == Version::Renamed => windows.named("renamed"),
                    Some(name) => windows.named(name),
                    None => windows,
                };
                windows.map(|row| format!("{:?}", row)).sink_named("files", lines(&out));
            }};
        }
        let all = (Count, Sum::of(|sale: &Sale| sale.cents));
        match version {
            Version::OtherStateless => windows!(sales.filter(|sale| sale.cents > i64::MIN), |sale| sale.shop, all),
            Version::OtherAccumulator => {
                windows!(sales, |sale| sale.shop, (Count, Max::of(|sale: &Sale| sale.cents as u64)))
            }
            Version::OtherKey => windows!(sales, |sale| sale.shop as u32, all),
            _ => windows!(sales, |sale| sale.shop, all),
        }
    });
    let never = RestartStrategy::never();
    job.shards(2).checkpoints(place.checkpoints(), Duration::from_secs(3600)).restart(never)
}

fn lines(out: &Path) -> FileSink<impl Fn(&String, &mut Vec<u8>) + Clone + use<>> {
    FileSink::lines(out, |line: &String, bytes: &mut Vec<u8>| bytes.extend_from_slice(line.as_bytes()))
}

#[test]
fn a_job_that_changed_is_judged_by_what_it_keeps() {
    let (place, unnamed) = (Place::new(), Place::new());
    version(Version::Same, &place, Some("per-shop")).run().unwrap();
    version(Version::Same, &unnamed, None).run().unwrap();
    for place in [&place, &unnamed] {
        // As if the process had died at the barrier: the manifest is all there is.
        assert_eq!(place.epochs().len(), 1);
    }
    let refused = |changed: Version, place: &Place, name, words: &[&str]| {
        let before = place.contents();
        let error = version(changed, place, name).run().unwrap_err();
        assert!(matches!(error, JobError::Mismatch(_)), "{changed:?}: {error}");
        for word in words.iter().chain(&["Nothing was changed"]) {
            assert!(error.to_string().contains(word), "{changed:?}: {word:?} is not in: {error}");
        }
        assert_eq!(place.contents(), before, "{changed:?}");
    };
    let per_shop = Some("per-shop");
    let accumulator = ["operator 'per-shop'", "state 'panes'", "its value", "`1` was `i64` and is `u64`"];
    refused(Version::OtherAccumulator, &place, per_shop, &accumulator);
    let key = ["operator 'per-shop'", "state 'panes'", "its key", "was `u64` and is `u32`"];
    refused(Version::OtherKey, &place, per_shop, &key);
    refused(Version::OtherWindow, &place, per_shop, &["operator \"per-shop\" was `Tumbling", "and is `Tumbling"]);
    let renamed = ["what operator \"per-shop\" (window) kept", "no operator of that name", "allow_dropped"];
    refused(Version::Renamed, &place, per_shop, &renamed);
    // By its place alone, the window is another one once something came before it.
    refused(Version::OtherStateless, &unnamed, None, &["what operator \"window-2\" (window) kept", "changes with it"]);

    for allowed in [Version::Same, Version::OtherStateless, Version::OneMore] {
        let before = place.contents();
        let report = version(allowed, &place, per_shop).run().unwrap();
        assert!(report.restored_epoch > 0, "{allowed:?}: {report}");
        place.put_back(&before);
    }
    let dropped = version(Version::Renamed, &place, per_shop).configure(|config| config.allow_dropped = true);
    assert!(dropped.run().unwrap().restored_epoch > 0);
}

#[test]
fn a_job_tells_its_schemas() {
    let place = Place::new();
    let schemas = version(Version::OneMore, &place, Some("per-shop")).schemas().unwrap();
    let named: Vec<(&str, String)> =
        schemas.operators.iter().map(|operator| (&*operator.uid, operator.states[0].state.value.to_string())).collect();
    assert_eq!(named, [("more", "u64".to_owned()), ("per-shop", "(u64, i64)".to_owned())]);
    let json = serde_json::to_string(&schemas).unwrap();
    assert_eq!(serde_json::from_str::<millstream::JobSchemas>(&json).unwrap(), schemas);
}
