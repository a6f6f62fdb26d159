//! A job whose checkpoints are in an object store: failures, absences, and a rival, against a real server.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "../../state/tests/s3/mod.rs"]
mod s3;
#[path = "jobs/sales/mod.rs"]
mod sales;

use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream::{Clock, Epoch, Job, JobError, JobHandle, Patience, RestartStrategy, StoreConfig};
use millstream_state::Store;
use s3::{Road, server};
use sales::{Once, Place, Sale, Sales, assert_same, job, oracle};

const SALES: u64 = 60_000;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Settings for a store behind a road that may be closed, with little patience.
fn config(road: &Road) -> StoreConfig {
    let patience = Patience { total: ms(300), request: ms(5_000), wait_initial: ms(5), wait_max: ms(50) };
    StoreConfig { settings: road.settings(), patience }
}

fn on(checkpoints: &str, store: StoreConfig, job: Job) -> Job {
    job.shards(2)
        .checkpoints(checkpoints, ms(20))
        .restart(RestartStrategy { initial: ms(1), max: ms(50), attempts: 100 })
        .configure(|config| {
            config.store = store;
            config.tolerable_failures = u32::MAX;
        })
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let clock = Clock::system();
    let began = clock.now();
    while !done() {
        assert!(clock.now().since(began) < Duration::from_secs(60), "it never came that {what}");
        std::thread::yield_now();
    }
}

fn has_read(running: &JobHandle, sales: u64) -> bool {
    running.events_in() >= sales
}

fn gated(open_until: u64) -> Sales {
    let source = Sales { pace: 200, ..Sales::of(SALES) };
    source.gate.store(open_until, Ordering::Relaxed);
    source
}

fn manifests(store: &Store) -> Vec<String> {
    let mut names: Vec<String> = store.list("manifest-").unwrap().into_iter().map(|file| file.name).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_job_restarts_from_its_checkpoint_in_the_store() {
    let (place, checkpoints) = (Place::new(), s3::place());
    let config = || StoreConfig { settings: server().settings(), ..StoreConfig::default() };
    let store = Store::open_with(&checkpoints, &config()).unwrap();
    // What an attempt that ended in the middle has left.
    store.put("epoch-0000000009-shard-0001-operator-2-0123456789abcdef-0.snap", b"an orphan").unwrap();
    let panics = [31_013, SALES - 3].map(Once::at);
    let look = move |sale: &Sale| assert!(!panics.iter().any(|at| at.is(sale.number)), "sale {} fell", sale.number);
    let source = Sales { pace: 40, ..Sales::of(SALES) };
    let report = on(&checkpoints, config(), job(source, &place.out(), look, |_| {})).run().unwrap();
    assert_eq!(report.restarts.len(), 2, "{:?}", report.restarts);
    assert!(report.restored_epoch > 0 && report.checkpoints.failed.is_empty(), "{report}");
    assert_same(&place.lines(), &oracle(SALES), "a job on an object store");
    assert_eq!(manifests(&store).len(), 3, "so many are kept");
    let newest = store.newest().unwrap();
    let mut named: Vec<String> = newest.manifest.unwrap().files().map(|file| file.name.clone()).collect();
    assert!(named.iter().all(|name| store.get(name).is_ok()));
    named.retain(|name| name.contains("0123456789abcdef"));
    assert!(
        named.is_empty() && store.list("epoch-0000000009-shard-0001-operator-2-0123456789abcdef").unwrap().is_empty()
    );
}

#[test]
fn checkpoints_fail_while_the_store_is_away_and_the_job_goes_on() {
    let (place, checkpoints, road) = (Place::new(), s3::place(), Road::to(server()));
    let watch =
        Store::open_with(&checkpoints, &StoreConfig { settings: server().settings(), ..Default::default() }).unwrap();
    let source = gated(SALES / 2);
    let running = on(&checkpoints, config(&road), job(source.clone(), &place.out(), |_| {}, |_| {})).start().unwrap();
    wait_until("a checkpoint completed", || !manifests(&watch).is_empty());
    road.close();
    source.gate.store(SALES - 1, Ordering::Relaxed);
    let clock = Clock::system();
    let away_since = clock.now();
    wait_until("all but one sale were read, and some checkpoints tried", || {
        has_read(&running, SALES - 1) && clock.now().since(away_since) > ms(1_500)
    });
    let before = manifests(&watch);
    road.open();
    wait_until("there is a checkpoint again", || manifests(&watch) != before);
    source.gate.store(SALES, Ordering::Relaxed);
    let report = running.wait().unwrap();
    assert!(report.restarts.is_empty(), "{:?}", report.restarts);
    assert!(report.checkpoints.failed.len() >= 2, "{report}");
    assert!(report.checkpoints.failed.iter().all(|why| why.contains("s3://")), "{:?}", report.checkpoints.failed);
    assert_same(&place.lines(), &oracle(SALES), "a store that was away for a while");
}

#[test]
fn a_job_that_fails_while_the_store_is_away_waits_for_it() {
    let (place, checkpoints, road) = (Place::new(), s3::place(), Road::to(server()));
    let watch =
        Store::open_with(&checkpoints, &StoreConfig { settings: server().settings(), ..Default::default() }).unwrap();
    let source = Sales { trip: Some(Once::at(SALES / 2)), ..gated(SALES / 2) };
    let running = on(&checkpoints, config(&road), job(source.clone(), &place.out(), |_| {}, |_| {})).start().unwrap();
    wait_until("a checkpoint completed", || !manifests(&watch).is_empty());
    road.close();
    source.gate.store(SALES, Ordering::Relaxed);
    let clock = Clock::system();
    let away_since = clock.now();
    wait_until("the job has been without a store for a while", || clock.now().since(away_since) > ms(1_500));
    assert!(!running.is_finished());
    road.open();
    let report = running.wait().unwrap();
    assert!(report.restarts[0].contains("the cable was pulled"), "{:?}", report.restarts);
    assert!(report.restarts[1..].iter().any(|why| why.contains("s3://")), "{:?}", report.restarts);
    assert!(report.restored_epoch > 0, "{report}");
    assert_same(&place.lines(), &oracle(SALES), "a failure while the store was away");
}

#[test]
fn a_job_whose_epoch_another_has_committed_ends() {
    let (place, checkpoints) = (Place::new(), s3::place());
    let config = StoreConfig { settings: server().settings(), ..StoreConfig::default() };
    let store = Store::open_with(&checkpoints, &config).unwrap();
    let running = on(&checkpoints, config, job(gated(SALES / 2), &place.out(), |_| {}, |_| {})).start().unwrap();
    wait_until("a checkpoint completed", || !manifests(&store).is_empty());
    let mut rival = store.newest().unwrap().manifest.unwrap();
    rival.epoch = Epoch(rival.epoch.0 + 1_000);
    rival.parts.clear();
    store.publish(&rival).unwrap();
    wait_until("the job has ended", || running.is_finished());
    let error = running.wait().unwrap_err();
    let JobError::Failed { cause, restarts: 0 } = &error else { panic!("{error}") };
    assert!(cause.contains("another coordinator has committed epoch 1"), "{cause}");
}
