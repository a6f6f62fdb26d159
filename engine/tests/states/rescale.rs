//! A job goes on with another number of shards: its output is what it would have been with one number all along.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::sales::{Once, Place, Sale, Sales, assert_same, job, lines, oracle};
use millstream::{
    Count, Items, Job, JobError, JobReport, Polled, RestartStrategy, Source, SourceError, Split, Timestamp, Tumbling,
    Watermarks, Windowed,
};
use millstream_connectors::file::FileSink;
use millstream_connectors::log::{LogSource, LogWriter};
use millstream_connectors::memory::NullSink;

const SALES: u64 = 12_000;
const SHARDS_MAX: u32 = 8;

/// Checkpoints, but none before the job is told to stop.
fn on(job: Job, place: &Place, shards: u32) -> Job {
    job.shards(shards).combine(shards.is_multiple_of(2)).checkpoints(place.checkpoints(), Duration::from_secs(3600))
}

fn never_again(job: Job) -> Job {
    job.restart(RestartStrategy { initial: Duration::ZERO, max: Duration::ZERO, attempts: 0 })
}

/// Runs until all sales below `gate` are taken in, and stops with a checkpoint.
fn stop_at(source: &Sales, place: &Place, shards: u32, gate: u64, taken_before: u64) -> JobReport {
    source.gate.store(gate, Ordering::Relaxed);
    let running = on(job(source.clone(), &place.out(), |_| {}, |_| {}), place, shards).start().unwrap();
    while running.events_in() < gate - taken_before {
        assert!(!running.is_finished(), "{:?}", running.wait());
        std::thread::yield_now();
    }
    running.stop();
    running.wait().unwrap()
}

fn finish(source: &Sales, place: &Place, shards: u32) -> JobReport {
    source.gate.store(u64::MAX, Ordering::Relaxed);
    on(job(source.clone(), &place.out(), |_| {}, |_| {}), place, shards).run().unwrap()
}

#[test]
fn any_number_of_shards_goes_on_where_any_other_stopped() {
    let expected = oracle(SALES);
    for before in 1..=SHARDS_MAX {
        let place = Place::new();
        let source = Sales::of(SALES);
        stop_at(&source, &place, before, SALES * 3 / 5, 0);
        assert!(place.lines().len() < expected.len(), "stopped in mid-stream");
        let stopped = place.contents();
        for after in 1..=SHARDS_MAX {
            let what = format!("{before} to {after} shards");
            place.put_back(&stopped);
            let report = finish(&source, &place, after);
            assert_same(&place.lines(), &expected, &what);
            assert_eq!((report.measured.late, report.measured.events_in), (0, SALES - SALES * 3 / 5), "{what}");
            let restored = report.restored.unwrap();
            assert_eq!((restored.shards_before, restored.shards), (before, after), "{what}");
            assert!(restored.state.bytes_read > 0 && restored.state.entries > 0, "{what}: {restored}");
            let moved = restored.state.pages_moved + restored.state.entries_moved;
            assert_eq!(moved > 0, before != after, "{what}: {restored}");
            assert!(report.to_string().contains(&format!("restored from {before} to {after} shards in ")), "{report}");
        }
    }
}

#[test]
fn the_number_of_shards_changes_again_and_again() {
    let place = Place::new();
    let source = Sales::of(SALES);
    let walk = [3, 8, 1, 4, 2, 4, 7, 3];
    let mut taken = 0;
    for (step, shards) in walk.into_iter().enumerate() {
        let gate = SALES / 10 * (step as u64 + 1);
        stop_at(&source, &place, shards, gate, taken);
        taken = gate;
    }
    finish(&source, &place, 5);
    assert_same(&place.lines(), &oracle(SALES), "after a walk over numbers of shards");
    // The checkpoints before are released, and with them every file of shards that are no more.
    let named: Vec<String> = place.contents().into_keys().map(|path| path.display().to_string()).collect();
    let snapshots = named.iter().filter(|name| name.ends_with(".snap")).count();
    assert_eq!(place.epochs().len(), 3, "{named:?}");
    assert!(snapshots <= 3 * (7 + 3 + 5), "{named:?}");
    assert!(!named.iter().any(|name| name.contains("/.pending/")), "{named:?}");
}

#[test]
fn a_job_that_dies_before_its_first_checkpoint_goes_on_from_the_old_one_again() {
    let place = Place::new();
    let source = Sales::of(SALES);
    stop_at(&source, &place, 3, SALES / 2, 0);
    let epochs = place.epochs();
    source.gate.store(u64::MAX, Ordering::Relaxed);
    for (shards, dies_at) in [(5, SALES / 2), (1, SALES - 1), (8, SALES * 3 / 4), (2, SALES / 2 + 1), (3, SALES - 7)] {
        let once = Once::at(dies_at);
        let look = move |sale: &Sale| assert!(!once.is(sale.number), "killed");
        let dying = never_again(on(job(source.clone(), &place.out(), look, |_| {}), &place, shards));
        let error = dying.run().unwrap_err();
        assert!(matches!(error, JobError::Failed { .. }), "{error}");
        assert_eq!(place.epochs(), epochs, "{shards} shards: no checkpoint came about");
    }
    let report = finish(&source, &place, 4);
    assert_eq!(report.restored_epoch, *epochs.last().unwrap());
    assert_same(&place.lines(), &oracle(SALES), "after five deaths");
}

/// A job that restarts by itself in the middle of a rescale: nothing but the number of shards is new to it.
#[test]
fn a_restart_after_a_rescale_is_from_the_new_shards_checkpoint() {
    for (before, after) in [(2, 5), (5, 2)] {
        let place = Place::new();
        let source = Sales { pace: 400, ..Sales::of(SALES) };
        stop_at(&Sales { pace: 0, ..source.clone() }, &place, before, SALES / 2, 0);
        source.gate.store(u64::MAX, Ordering::Relaxed);
        let (early, late) = (Once::at(SALES / 2 + 5), Once::at(SALES - 3));
        let look = move |sale: &Sale| assert!(!early.is(sale.number) && !late.is(sale.number), "killed");
        let job = on(job(source, &place.out(), look, |_| {}), &place, after);
        let report = job.checkpoints(place.checkpoints(), Duration::from_millis(5)).run().unwrap();
        assert_eq!(report.restarts.len(), 2, "{report}");
        assert_same(&place.lines(), &oracle(SALES), &format!("{before} to {after} shards, with restarts"));
        assert!(report.restored.is_some_and(|restored| restored.shards == after));
    }
}

/// Numbers counted per ten, from a log of five partitions, into files.
fn tens(log: &Path, out: &Path) -> Job {
    let (log, out) = (log.to_owned(), out.to_owned());
    Job::new("tens", move |flow| {
        flow.source(LogSource::new(&log))
            .map(|line: &[u8]| {
                // So slowly that a job which is stopped at once has most of its input before it, however late that is heard.
                (0..1_000).for_each(|_| std::hint::spin_loop());
                std::str::from_utf8(line).unwrap().parse::<u64>().unwrap()
            })
            .event_time(|number| Timestamp(*number as i64 / 100), Watermarks::bounded(Duration::from_secs(1)))
            .key_by(|number| number % 10)
            .window(Tumbling::of(Duration::from_millis(10)))
            .aggregate(Count)
            .map(|row: &Windowed<u64, u64>| format!("{},{},{}", row.key, row.window.start.0, row.value))
            .sink(FileSink::lines(&out, |line: &String, bytes: &mut Vec<u8>| bytes.extend_from_slice(line.as_bytes())));
    })
}

#[test]
fn partitions_are_dealt_out_anew() {
    let place = Place::new();
    let log = place.path().join("log");
    let mut writer = LogWriter::create(&log, 5).unwrap();
    let append = |writer: &mut LogWriter, numbers: std::ops::Range<u64>| {
        for number in numbers {
            writer.append((number % 5) as u32, number.to_string().as_bytes()).unwrap();
        }
        writer.flush().unwrap();
    };
    append(&mut writer, 0..20_000);
    // The slow twin.
    let mut windows = BTreeMap::new();
    for number in 0..100_000u64 {
        *windows.entry((number % 10, number / 100 / 10 * 10)).or_insert(0) += 1;
    }
    let mut expected: Vec<String> =
        windows.into_iter().map(|((key, start), count): (_, u64)| format!("{key},{start},{count}")).collect();
    expected.sort_unstable();
    let again = |shards| on(tens(&log, &place.out()), &place, shards);
    for (step, shards) in [2, 5, 1, 7].into_iter().enumerate() {
        // At once, so that each time most of what is there is still unread.
        let running = again(shards).start().unwrap();
        running.stop();
        running.wait().unwrap();
        append(&mut writer, 20_000 * (step as u64 + 1)..20_000 * (step as u64 + 2));
    }
    let report = again(3).run().unwrap();
    assert_eq!(report.measured.late, 0);
    assert_same(&lines(&place.out()), &expected, "the log, over five numbers of shards");
}

/// A source whose splits are called what they are told.
#[derive(Clone)]
struct Named {
    names: Arc<Mutex<Vec<&'static str>>>,
    fixed: bool,
    next: Arc<AtomicU64>,
}

struct NamedSplit(&'static str, u64, Arc<AtomicU64>);

impl Source for Named {
    type Batch = Vec<u64>;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<u64>>>>, SourceError> {
        let names = self.names.lock().unwrap();
        let own = names.iter().skip(shard as usize).step_by(shards as usize);
        Ok(own.map(|name| Box::new(NamedSplit(name, 0, self.next.clone())) as _).collect())
    }

    fn splits_are_fixed(&self) -> bool {
        self.fixed
    }

    fn describe(&self) -> String {
        "named".to_owned()
    }
}

impl Split for NamedSplit {
    type Batch = Vec<u64>;

    fn name(&self) -> String {
        self.0.to_owned()
    }

    fn poll(&mut self, out: &mut Vec<u64>, _rows_max: usize) -> Result<Polled, SourceError> {
        if self.1 >= self.2.load(Ordering::Relaxed) {
            return Ok(Polled::Idle);
        }
        out.push(self.1);
        self.1 += 1;
        Ok(Polled::Rows)
    }

    fn position(&self) -> u64 {
        self.1
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.1 = position;
        Ok(())
    }
}

#[test]
fn input_that_nobody_would_read_on_is_refused_by_name() {
    for fixed in [true, false] {
        let place = Place::new();
        let source = Named { names: Arc::default(), fixed, next: Arc::new(AtomicU64::new(100)) };
        *source.names.lock().unwrap() = vec!["north", "south", "west"];
        let again = |shards| {
            let source = source.clone();
            let out = place.out();
            let job = Job::new("named", move |flow| {
                let lines = |n: &u64, bytes: &mut Vec<u8>| bytes.extend_from_slice(n.to_string().as_bytes());
                flow.source(source.clone()).named("winds").sink(FileSink::lines(&out, lines));
            });
            on(job, &place, shards)
        };
        let running = again(2).start().unwrap();
        while running.events_in() < 300 {
            std::thread::yield_now();
        }
        running.stop();
        running.wait().unwrap();
        let before = place.contents();
        for (names, word) in [
            (vec!["north", "west"], "split \"south\" is no longer there"),
            (vec!["north", "south", "west", "south"], "are called \"south\""),
        ] {
            *source.names.lock().unwrap() = names;
            let error = again(3).run().unwrap_err();
            assert!(matches!(error, JobError::Mismatch(_)), "{error}");
            let text = error.to_string();
            assert!(text.contains(word) && text.contains("source \"winds\""), "{text}");
            assert_eq!(place.contents(), before, "a refusal changes nothing");
        }
        *source.names.lock().unwrap() = vec!["north", "south", "west", "east"];
        let running = again(3).start().unwrap();
        // The fourth is new, and begins at its beginning.
        while running.events_in() < 100 {
            std::thread::yield_now();
        }
        running.stop();
        assert_eq!(running.wait().unwrap().measured.events_in, 100);
        assert_eq!(lines(&place.out()).len(), 400);
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a slow closure, so that the job is stopped in mid-stream")]
fn items_and_counts_go_on() {
    // A dozen turns on each of four shards: some are left when the job hears that it is to stop.
    const ITEMS: u64 = 400_000;
    for (before, after) in [(1, 4), (4, 1), (3, 2)] {
        let place = Place::new();
        let counted = NullSink::new();
        let gate = Arc::new(AtomicU64::new(0));
        let again = |shards| {
            let (counted, gate) = (counted.clone(), gate.clone());
            let job = Job::new("items", move |flow| {
                let gate = gate.clone();
                let items = flow.source(Items::of((0..ITEMS).collect()));
                let slow = items.map(move |n| {
                    if n.is_multiple_of(16) && gate.load(Ordering::Relaxed) == 0 {
                        std::thread::sleep(Duration::from_micros(1));
                    }
                    *n
                });
                slow.sink(counted.clone());
            });
            on(job, &place, shards)
        };
        let running = again(before).start().unwrap();
        while running.events_in() == 0 {
            std::thread::yield_now();
        }
        running.stop();
        let first = running.wait().unwrap().measured.events_in;
        assert!(first < ITEMS, "stopped in mid-stream");
        gate.store(1, Ordering::Relaxed);
        let second = again(after).run().unwrap().measured.events_in;
        assert_eq!((first + second, counted.rows()), (ITEMS, ITEMS), "{before} to {after} shards");
    }
}
