//! After any failure the committed output is what it would have been without it.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::sales::{Once, Place, Sale, Sales, assert_same, job, oracle};
use millstream::{Count, Epoch, Job, JobError, JobReport, Timestamp, Tumbling, Watermarks, Windowed};
use millstream_connectors::file::FileSink;
use millstream_state::{Manifest, Store};

/// Sales of one run. At the pace below it takes some 150 ms on one shard, and many checkpoints.
const SALES: u64 = 60_000;

fn paced(shards: u32) -> Sales {
    Sales { pace: 400 / u64::from(shards), ..Sales::of(SALES) }
}

fn every_few_ms(job: Job, place: &Place, shards: u32, combine: bool) -> Job {
    job.shards(shards).combine(combine).checkpoints(place.checkpoints(), Duration::from_millis(7))
}

fn shapes() -> impl Iterator<Item = (u32, bool)> {
    [1, 2, 3].into_iter().flat_map(|shards| [true, false].map(|combine| (shards, combine)))
}

fn assert_exact(place: &Place, report: &JobReport, what: &str) {
    assert_same(&place.lines(), &oracle(SALES), what);
    assert_eq!(report.measured.late, 0, "{what}: nothing is late, before a restart or after it");
}

#[test]
fn a_panic_restarts_the_job_from_its_last_checkpoint() {
    for (shards, combine) in shapes() {
        let what = format!("{shards} shards, combine {combine}");
        let place = Place::new();
        // All on the last shard: two shards could panic in one attempt.
        let on_last = |sale: u64| sale / u64::from(shards) * u64::from(shards) + u64::from(shards) - 1;
        let panics = [7_919, 31_013, SALES - 3].map(on_last).map(Once::at);
        let look = move |sale: &Sale| {
            if let Some(which) = panics.iter().position(|at| at.is(sale.number)) {
                panic!("sale {} fell on the floor ({which})", sale.number);
            }
        };
        let report =
            every_few_ms(job(paced(shards), &place.out(), look, |_| {}), &place, shards, combine).run().unwrap();
        assert_exact(&place, &report, &what);
        assert_eq!(report.restarts.len(), 3, "{what}: {:?}", report.restarts);
        for reason in &report.restarts {
            let words = ["operator \"look\": panicked: sale ", "fell on the floor", "recovery.rs:"];
            assert!(words.iter().all(|word| reason.contains(word)), "{what}: {reason}");
        }
        assert!(report.restored_epoch > 0, "{what}: the last restart is from a checkpoint");
    }
}

#[test]
fn a_panic_behind_the_windows_is_laid_at_its_operators_door() {
    for (shards, combine) in shapes() {
        let what = format!("{shards} shards, combine {combine}");
        let place = Place::new();
        let once = Once::at(13);
        let show = move |line: &str| assert!(!(line.starts_with("13,3000,") && once.is(13)), "thirteen");
        let report =
            every_few_ms(job(paced(shards), &place.out(), |_| {}, show), &place, shards, combine).run().unwrap();
        assert_exact(&place, &report, &what);
        assert_eq!(report.restarts.len(), 1, "{what}: {:?}", report.restarts);
        assert!(report.restarts[0].starts_with("operator \"print\": panicked: thirteen at "), "{}", report.restarts[0]);
    }
}

#[test]
fn a_source_that_fails_once_is_read_again_from_its_position() {
    for (shards, combine) in shapes() {
        let what = format!("{shards} shards, combine {combine}");
        let place = Place::new();
        let source = Sales { trip: Some(Once::at(40_001)), ..paced(shards) };
        let report = every_few_ms(job(source, &place.out(), |_| {}, |_| {}), &place, shards, combine).run().unwrap();
        assert_exact(&place, &report, &what);
        let expected = ["operator \"till\": cannot read sale 40001: the cable was pulled"];
        assert_eq!(report.restarts, expected, "{what}");
    }
}

#[test]
fn a_stopped_job_goes_on_where_it_stopped() {
    for (shards, combine) in shapes() {
        let what = format!("{shards} shards, combine {combine}");
        let place = Place::new();
        let source = paced(shards);
        let again = || every_few_ms(job(source.clone(), &place.out(), |_| {}, |_| {}), &place, shards, combine);
        let mut last_epoch = 0;
        for stop in 1..=3 {
            // Closed before the end, the gate keeps the job in mid-stream however late it is told to stop.
            source.gate.store(SALES / 4 * stop, Ordering::Relaxed);
            let running = again().start().unwrap();
            while running.events_in() < SALES / 32 {
                std::thread::yield_now();
            }
            running.stop();
            let report = running.wait().unwrap();
            assert!(report.stopped && report.restarts.is_empty(), "{what}, stop {stop}: {report}");
            assert_eq!(report.restored_epoch, last_epoch, "{what}, stop {stop}");
            assert!(place.lines().len() < oracle(SALES).len(), "{what}, stop {stop}: it was stopped in mid-stream");
            last_epoch = *place.epochs().last().unwrap();
        }
        source.gate.store(SALES, Ordering::Relaxed);
        let report = again().run().unwrap();
        assert!(!report.stopped);
        assert_exact(&place, &report, &what);
    }
}

#[test]
fn a_job_that_has_ended_adds_nothing_when_it_is_run_again() {
    let place = Place::new();
    let again = || every_few_ms(job(Sales::of(SALES), &place.out(), |_| {}, |_| {}), &place, 2, true);
    assert_exact(&place, &again().run().unwrap(), "first run");
    let report = again().run().unwrap();
    assert_eq!(report.measured.events_in, 0);
    assert_exact(&place, &report, "second run");
}

/// The job on two shards with every checkpoint kept.
fn keeping_all(source: &Sales, place: &Place) -> Job {
    let job = every_few_ms(job(source.clone(), &place.out(), |_| {}, |_| {}), place, 2, true);
    job.configure(|config| config.checkpoints_retained = 1_000)
}

/// Runs it to its end, a fifth of the sales at a time, each with a checkpoint that saw it.
fn run_and_keep_all(place: &Place) -> Vec<u64> {
    let source = paced(2);
    source.gate.store(0, Ordering::Relaxed);
    let running = keeping_all(&source, place).start().unwrap();
    for fifth in 1..=5 {
        source.gate.store(SALES / 5 * fifth, Ordering::Relaxed);
        while running.events_in() < SALES / 5 * fifth {
            std::thread::yield_now();
        }
        let (seen, more) = (place.epochs().len(), if fifth < 5 { 2 } else { 0 });
        while place.epochs().len() < seen + more {
            std::thread::yield_now();
        }
    }
    assert_exact(place, &running.wait().unwrap(), "the first run");
    place.epochs()
}

fn again(place: &Place) -> Job {
    keeping_all(&Sales::of(SALES), place)
}

#[test]
fn every_checkpoint_can_be_restored() {
    let place = Place::new();
    let epochs = run_and_keep_all(&place);
    let all = place.contents();
    for (index, epoch) in epochs.iter().enumerate().step_by(epochs.len().div_ceil(6)) {
        place.put_back(&all);
        for newer in &epochs[index + 1..] {
            fs::remove_file(place.manifest(*newer)).unwrap();
        }
        place.forget_output_after(*epoch);
        let report = again(&place).run().unwrap();
        assert_eq!(report.restored_epoch, *epoch);
        assert_exact(&place, &report, &format!("restored from epoch {epoch}"));
    }
}

/// The file names of a manifest.
fn files(path: &Path) -> Vec<String> {
    let manifest = Manifest::from_bytes(&fs::read(path).unwrap()).unwrap();
    manifest.files().map(|file| file.name.clone()).collect()
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so() {
    let place = Place::new();
    let epochs = run_and_keep_all(&place);
    let all = place.contents();
    // Nothing is left to snapshot in the last epoch: the damage is done to the newest with a snapshot of its own.
    let own_of = |before: u64, epoch: u64| {
        let old = files(&place.manifest(before));
        files(&place.manifest(epoch)).into_iter().find(|name| !old.contains(name))
    };
    let mut pairs = epochs.windows(2).rev().map(|pair| (pair[0], pair[1]));
    let found = pairs.find_map(|(before, epoch)| Some((before, epoch, own_of(before, epoch)?)));
    let (before, newest, own) = found.expect("an epoch with a snapshot of its own");
    let (path, own) = (place.manifest(newest), place.checkpoints().join(own));
    let cut = |path: &Path, bytes: &[u8]| fs::write(path, bytes).unwrap();
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 0x10;
        fs::write(path, bytes).unwrap();
    };
    let snapshot_bytes = all[&own].len();
    let manifest = &all[&path];
    type Damage<'a> = (&'a str, Box<dyn Fn() + 'a>, &'a str);
    let damages: [Damage; 7] = [
        ("a deleted manifest", Box::new(|| fs::remove_file(&path).unwrap()), ""),
        ("a torn manifest", Box::new(|| cut(&path, &manifest[..manifest.len() / 2])), "manifest-"),
        ("an empty manifest", Box::new(|| cut(&path, b"")), "manifest-"),
        ("a flipped bit in the manifest", Box::new(|| flip(&path, manifest.len() / 2)), "manifest-"),
        ("a deleted snapshot", Box::new(|| fs::remove_file(&own).unwrap()), ".snap"),
        ("a torn snapshot", Box::new(|| cut(&own, &all[&own][..snapshot_bytes / 2])), ".snap"),
        ("a flipped bit in the snapshot", Box::new(|| flip(&own, snapshot_bytes / 3)), ".snap"),
    ];
    for (what, damage, said) in damages {
        place.put_back(&all);
        for newer in epochs.iter().filter(|epoch| **epoch > newest) {
            fs::remove_file(place.manifest(*newer)).unwrap();
        }
        place.forget_output_after(before);
        damage();
        let left = fs::read(&path).ok();
        let report = again(&place).run().unwrap();
        assert_eq!(report.restored_epoch, before, "{what}");
        // The name of the one that is not believed is taken: what comes after goes on behind it, and nothing writes over it.
        let went_on = place.epochs().into_iter().find(|epoch| *epoch > before && (left.is_none() || *epoch != newest));
        assert_eq!(went_on, Some(if left.is_none() { before + 1 } else { newest + 1 }), "{what}");
        assert!(left.is_none() || fs::read(&path).ok() == left, "{what}");
        assert_exact(&place, &report, what);
        let rejected = report.checkpoints.rejected.join("\n");
        assert!(rejected.contains(said) && rejected.is_empty() == said.is_empty(), "{what}: {rejected:?}");
    }
}

#[test]
fn output_that_is_ahead_of_the_checkpoint_is_never_written_twice() {
    let place = Place::new();
    let epochs = run_and_keep_all(&place);
    // The last epoch may have no rows of its own: a checkpoint can fall between the last window and the end of the input.
    let ahead = place.newest_output();
    for epoch in epochs.iter().filter(|epoch| **epoch >= ahead) {
        fs::remove_file(place.manifest(*epoch)).unwrap();
    }
    let before = place.contents();
    let error = again(&place).run().unwrap_err().to_string();
    assert!(error.starts_with("sink \"sink-") && error.contains("part-"), "{error}");
    assert_eq!(place.contents(), before, "a refusal changes nothing");
}

/// Sales per number in one window that ends with the input: much state, and no output before the end.
fn wide(place: &Place) -> Job {
    let (source, out) = (Sales { pace: 400, ..Sales::of(SALES) }, place.out());
    Job::new("wide", move |flow| {
        flow.source(source.clone())
            .event_time(|sale| Timestamp(sale.at_ms), Watermarks::monotonic())
            .key_by(|sale| sale.number)
            .window(Tumbling::of(Duration::from_secs(3600)))
            .aggregate(Count)
            .map(|row: &Windowed<u64, u64>| format!("{},{}", row.key, row.value))
            .sink(FileSink::lines(&out, |line: &String, bytes: &mut Vec<u8>| bytes.extend_from_slice(line.as_bytes())));
    })
    .checkpoints(place.checkpoints(), Duration::from_millis(40))
    .configure(|config| config.checkpoints_retained = 1_000)
}

#[test]
fn damage_that_only_a_restore_finds_falls_back_as_well() {
    let place = Place::new();
    wide(&place).run().unwrap();
    let lines = place.lines();
    assert_eq!(lines.len() as u64, SALES);
    let epochs = place.epochs();
    let size_of = |name: &String| fs::metadata(place.checkpoints().join(name)).unwrap().len();
    // A file of more than one chunk, which are 512 KiB: the last alone is proven before the restore.
    let long = epochs.windows(2).rev().find_map(|pair| {
        let old = files(&place.manifest(pair[0]));
        let own = files(&place.manifest(pair[1])).into_iter().find(|name| !old.contains(name))?;
        (size_of(&own) > 600 << 10).then_some((pair[0], pair[1], own))
    });
    let (before, damaged, own) = long.expect("a snapshot of more than a chunk");
    for newer in epochs.iter().filter(|epoch| **epoch > damaged) {
        fs::remove_file(place.manifest(*newer)).unwrap();
    }
    place.forget_output_after(before);
    let path = place.checkpoints().join(own);
    let mut bytes = fs::read(&path).unwrap();
    bytes[1_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let report = wide(&place).run().unwrap();
    assert_eq!(report.restored_epoch, before);
    assert_same(&place.lines(), &lines, "damage in the middle of a file");
    let rejected = report.checkpoints.rejected.join("\n");
    assert!(rejected.contains("chunk 0 is damaged") && rejected.contains(&format!("epoch {damaged}")), "{rejected}");
}

#[test]
fn what_attempts_have_left_is_swept_when_a_job_begins_and_not_when_it_is_refused() {
    let place = Place::new();
    let epochs = run_and_keep_all(&place);
    let orphans =
        ["epoch-9000000000-shard-0000-operator-1.snap", "manifest-00000000000000000009.json.1-2.next", "probe-1-2"];
    let left = || orphans.map(|name| place.checkpoints().join(name).exists());
    for name in orphans {
        fs::write(place.checkpoints().join(name), b"half of it").unwrap();
    }
    let stranger = every_few_ms(job(Sales::of(SALES + 1), &place.out(), |_| {}, |_| {}), &place, 2, true);
    assert!(stranger.run().is_err());
    assert_eq!(left(), [true; 3]);
    again(&place).run().unwrap();
    assert_eq!(left(), [false; 3]);
    let kept = |epoch: &u64| files(&place.manifest(*epoch)).iter().all(|name| place.checkpoints().join(name).exists());
    assert!(epochs.iter().all(kept), "every file that a manifest names is there");
}

#[test]
fn a_coordinator_that_was_replaced_ends_its_job() {
    let place = Place::new();
    let source = paced(2);
    source.gate.store(SALES / 2, Ordering::Relaxed);
    let running = keeping_all(&source, &place).start().unwrap();
    while place.epochs().is_empty() {
        std::thread::yield_now();
    }
    let store = Store::open(place.checkpoints()).unwrap();
    let mut rival = store.newest().unwrap().manifest.unwrap();
    rival.epoch = Epoch(rival.epoch.0 + 1_000);
    store.publish(&rival).unwrap();
    let error = running.wait().unwrap_err();
    let JobError::Failed { cause, restarts: 0 } = &error else { panic!("{error}") };
    assert!(cause.contains(&format!("another coordinator has committed epoch {}", rival.epoch.0)), "{cause}");
    // The rival, or whoever follows, goes on from there.
    source.gate.store(SALES, Ordering::Relaxed);
    assert_eq!(store.newest().unwrap().manifest.unwrap().epoch, rival.epoch);
}
