//! Running aggregates in whole jobs, against a map, with failures in between.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::sales::{Once, Place, Sale, Sales, lines};
use millstream::{Count, Job, RestartStrategy, Sum, Updated};
use millstream_connectors::file::FileSink;

const SALES: u64 = 60_000;
/// Sales that are there from the start; all failures come behind them.
const GATE: u64 = 7_000;

/// Each sale yields its shop's number of sales so far, and their sum: `shop,count,sum`.
fn job(source: Sales, out: &Path, look: impl Fn(&Sale) + Clone + Send + Sync + 'static) -> Job {
    let out = out.to_owned();
    Job::new("running", move |flow| {
        let look = look.clone();
        flow.source(source.clone())
            .named("till")
            .inspect(move |sale, _| look(sale))
            .named("look")
            .key_by(|sale| sale.shop)
            .running((Count, Sum::of(|sale: &Sale| sale.cents)))
            .named("per-shop")
            .map(|row: &Updated<u64, (u64, i64)>| format!("{},{:06},{}", row.key, row.value.0, row.value.1))
            .sink(FileSink::lines(&out, |line: &String, bytes: &mut Vec<u8>| bytes.extend_from_slice(line.as_bytes())));
    })
    .restart(RestartStrategy { initial: Duration::from_millis(1), max: Duration::from_millis(1), attempts: 3 })
}

/// The slow twin: a shop's number of sales, and their sum.
fn totals() -> BTreeMap<u64, (u64, i64)> {
    let mut totals = BTreeMap::new();
    for sale in (0..SALES).map(Sale::number) {
        let total: &mut (u64, i64) = totals.entry(sale.shop).or_default();
        *total = (total.0 + 1, total.1 + sale.cents);
    }
    totals
}

/// Whose sale comes first is the shards' affair; but every sale of a shop yields one line, its counts go from one up
/// without a gap, and the last has the sum of all.
#[track_caller]
fn assert_exact(out: &Path, what: &str) {
    let lines = lines(out);
    assert_eq!(lines.len() as u64, SALES, "{what}");
    let mut seen: BTreeMap<u64, Vec<(u64, i64)>> = BTreeMap::new();
    for line in &lines {
        let fields: Vec<i64> = line.split(',').map(|field| field.parse().unwrap()).collect();
        seen.entry(fields[0] as u64).or_default().push((fields[1] as u64, fields[2]));
    }
    for (shop, (count, sum)) in totals() {
        let mut counts = seen.remove(&shop).unwrap_or_default();
        counts.sort_unstable();
        assert!(counts.iter().map(|(count, _)| *count).eq(1..=count), "{what}: shop {shop} has a gap or a twin");
        assert_eq!(counts.last(), Some(&(count, sum)), "{what}: shop {shop}");
    }
    assert!(seen.is_empty(), "{what}: shops that sold nothing");
}

#[test]
fn every_row_yields_its_keys_result_so_far() {
    for shards in [1, 2, 4] {
        let place = Place::new();
        let report = job(Sales::of(SALES), &place.out(), |_| {}).shards(shards).run().unwrap();
        assert_exact(&place.out(), &format!("{shards} shards"));
        assert_eq!((report.measured.events_in, report.measured.late), (SALES, 0));
        assert!(report.measured.state_bytes > 0, "what it holds is told");
    }
}

#[test]
fn on_one_shard_rows_come_out_in_the_order_they_came_in() {
    let place = Place::new();
    job(Sales::of(SALES), &place.out(), |_| {}).run().unwrap();
    let mut totals: BTreeMap<u64, (u64, i64)> = BTreeMap::new();
    let expected: Vec<String> = (0..SALES)
        .map(Sale::number)
        .map(|sale| {
            let total = totals.entry(sale.shop).or_default();
            *total = (total.0 + 1, total.1 + sale.cents);
            format!("{},{:06},{}", sale.shop, total.0, total.1)
        })
        .collect();
    let mut files: Vec<_> = std::fs::read_dir(place.out()).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.is_file());
    assert_eq!(files.len(), 1, "one shard, one epoch");
    assert!(std::fs::read_to_string(&files[0]).unwrap().lines().eq(expected.iter()));
}

#[test]
fn failures_in_between_change_nothing() {
    for shards in [1_u32, 2, 4] {
        let what = format!("{shards} shards");
        let place = Place::new();
        // All on the last shard: two shards could panic in one attempt.
        let on_last = |sale: u64| sale / u64::from(shards) * u64::from(shards) + u64::from(shards) - 1;
        let panics = [7_919, 31_013, SALES - 5].map(on_last).map(Once::at);
        let look = move |sale: &Sale| {
            if panics.iter().any(|at| at.is(sale.number)) {
                panic!("sale {} fell on the floor", sale.number);
            }
        };
        let source = Sales { pace: 400 / u64::from(shards), ..Sales::of(SALES) };
        // Nobody fails before there is a checkpoint to go on from, however busy the machine.
        source.gate.store(GATE, Ordering::Relaxed);
        let job = job(source.clone(), &place.out(), look).shards(shards);
        let running = job.checkpoints(place.checkpoints(), Duration::from_millis(7)).start().unwrap();
        while running.events_in() < GATE {
            std::thread::yield_now();
        }
        // One that had begun before may have seen less.
        let newest = || place.epochs().last().copied().unwrap_or(0);
        let seen = newest();
        while newest() < seen + 2 {
            std::thread::yield_now();
        }
        source.gate.store(SALES, Ordering::Relaxed);
        let report = running.wait().unwrap();
        assert_exact(&place.out(), &what);
        assert_eq!(report.restarts.len(), 3, "{what}: {:?}", report.restarts);
        assert!(report.restored_epoch > 0, "{what}: the last restart is from a checkpoint");
        let restored = report.restored.expect("it started from a checkpoint").state;
        assert!(restored.bytes_read > 0 && restored.pages > 0 && restored.entries > 0, "{what}: {restored:?}");
        let checkpoints = &report.checkpoints;
        assert_eq!(checkpoints.newest.len() as u64, checkpoints.completed, "{what}");
        assert_eq!(
            checkpoints.newest.iter().map(|figures| figures.bytes).sum::<u64>(),
            checkpoints.bytes_total,
            "{what}"
        );
        let dirty: u64 = checkpoints.newest.iter().map(|figures| figures.snapshot.dirty_lines).sum();
        assert!(dirty >= 997 / 4, "{what}: nearly every shop was changed by one sale at least: {dirty} lines");
    }
}
