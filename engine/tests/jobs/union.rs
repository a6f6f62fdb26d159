//! Two streams into one: time, barriers, restarts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use millstream::{
    Alignment, Count, Items, Job, Polled, RestartStrategy, Source, SourceError, Split, Timestamp, Tumbling, Watermarks,
};
use millstream_connectors::memory::MemorySink;

/// A key and a time.
type Row = (u64, i64);

const HUNDRED_MS: Duration = Duration::from_millis(100);

fn rows(count: i64, every_ms: i64, key_of: impl Fn(i64) -> u64) -> Vec<Row> {
    (0..count).map(|row| (key_of(row), row * every_ms)).collect()
}

/// The slow twin.
fn counted(all: &[Row]) -> Vec<(u64, i64, u64)> {
    let mut windows = BTreeMap::new();
    all.iter().for_each(|(key, at)| *windows.entry((*key, at.div_euclid(100) * 100)).or_insert(0) += 1);
    windows.into_iter().map(|((key, start), count)| (key, start, count)).collect()
}

/// A fast and a slow stream, of which the slow one must not be left behind, and a third that has nothing.
#[test]
fn a_union_counts_as_one_stream_also_after_a_restart() {
    let fast = rows(60_000, 1, |row| row as u64 % 17);
    let slow = rows(900, 70, |row| row as u64 % 5);
    let expected = counted(&[&fast[..], &slow[..]].concat());
    for shards in [1, 2] {
        for timed_before in [true, false] {
            for fails in [false, true] {
                let checkpoints = tempfile::tempdir().unwrap();
                let sink = MemorySink::new();
                let rows = sink.clone();
                let (fast, slow) = (fast.clone(), slow.clone());
                let has_failed = Arc::new(AtomicBool::new(!fails));
                let job = Job::new("union", move |flow| {
                    let has_failed = has_failed.clone();
                    let fast = flow.source(Items::of(fast.clone())).named("fast").map(move |row: &Row| {
                        // Half way, once.
                        assert!(row.1 < 30_000 || has_failed.swap(true, Ordering::Relaxed), "the test's own failure");
                        *row
                    });
                    let slow = flow.source(Items::of(slow.clone())).named("slow");
                    let none = flow.source(Items::of(Vec::<Row>::new())).named("none");
                    let at = |row: &Row| Timestamp(row.1);
                    // The splits are in order, and read in turn: no more than two batches of the fast one apart.
                    let all = if timed_before {
                        let fast = fast.event_time(at, Watermarks::monotonic());
                        let slow = slow.event_time(at, Watermarks::monotonic());
                        fast.union(slow).union(none.event_time(at, Watermarks::monotonic())).boxed()
                    } else {
                        fast.union(slow.union(none)).event_time(at, Watermarks::monotonic()).boxed()
                    };
                    all.key_by(|row| row.0)
                        .window(Tumbling::of(HUNDRED_MS))
                        .aggregate(Count)
                        .named("counts")
                        .map(|row| (row.key, row.window.start.0, row.value))
                        .sink(sink.clone());
                });
                let restart = RestartStrategy { initial: Duration::from_millis(1), ..RestartStrategy::default() };
                let job = job.shards(shards).checkpoints(checkpoints.path(), Duration::from_millis(2)).restart(restart);
                let report = job.run().unwrap();
                let mut rows = rows.rows();
                rows.sort_unstable();
                let told = format!("{shards} shards, timed before {timed_before}, fails {fails}");
                assert!(rows == expected, "{told}: {} rows, not {}", rows.len(), expected.len());
                assert_eq!((report.measured.late, report.restarts.len()), (0, usize::from(fails)), "{told}");
            }
        }
    }
}

/// One stream three ways and together again: parted, doubled, and round and round, across edges and a failure.
#[test]
fn what_forks_and_meets_again_is_all_there_also_after_a_restart() {
    let input = rows(30_000, 1, |row| row as u64 % 23 + 1);
    // The slow twin: keys above ten are halved at most twice, each time counted under the new key as well.
    let mut expected = Vec::new();
    for (key, at) in &input {
        let mut key = *key;
        for _ in 0..2 {
            key = if key % 2 == 0 { key / 2 } else { key + 1 };
            if key < 5 {
                break;
            }
        }
        expected.push((key, *at));
    }
    let (rounds, windows) = (counted(&expected), counted(&input));
    for (shards, fails) in [(1, false), (2, true), (2, false)] {
        let checkpoints = tempfile::tempdir().unwrap();
        let sinks = [MemorySink::new(), MemorySink::new(), MemorySink::new()];
        let [round_rows, window_rows, odd_rows] = sinks.clone();
        let has_failed = Arc::new(AtomicBool::new(!fails));
        let input = input.clone();
        let job = Job::new("ways", move |flow| {
            let has_failed = has_failed.clone();
            let timed = flow
                .source(Items::of(input.clone()))
                .map(move |row: &Row| {
                    assert!(row.1 < 20_000 || has_failed.swap(true, Ordering::Relaxed), "the test's own failure");
                    *row
                })
                .event_time(|row: &Row| Timestamp(row.1), Watermarks::monotonic());
            let (all, copy) = timed.tee();
            let (even, odd) = copy.split(|row| row.0 % 2 == 0);
            let count = |sink: &MemorySink<(u64, i64, u64)>, name: &str, all: millstream::Stream<_>| {
                all.key_by(|row: &Row| row.0)
                    .window(Tumbling::of(HUNDRED_MS))
                    .aggregate(Count)
                    .named(name)
                    .map(|row| (row.key, row.window.start.0, row.value))
                    .sink(sink.clone());
            };
            // Each round crosses an edge of its own.
            let rounds = all.iterate(
                2,
                |round, rows| {
                    rows.map(|(key, at)| [*key as i64, *at])
                        .key_by(|row| row[0])
                        .map_with_state(|_: &mut Nothing, [key, at]: &[i64; 2]| {
                            (if key % 2 == 0 { key / 2 } else { key + 1 } as u64, *at)
                        })
                        .named(format!("round-{round}"))
                },
                |row| row.0 < 5,
            );
            count(&sinks[0], "rounds", rounds);
            let (odd, odd_alone) = odd.tee();
            count(&sinks[1], "both", even.union(odd).boxed());
            count(&sinks[2], "odd", odd_alone.boxed());
        });
        let restart = RestartStrategy { initial: Duration::from_millis(1), ..RestartStrategy::default() };
        let job = job.shards(shards).checkpoints(checkpoints.path(), Duration::from_millis(2)).restart(restart);
        let report = job.run().unwrap();
        let sorted = |sink: &MemorySink<(u64, i64, u64)>| {
            let mut rows = sink.rows();
            rows.sort_unstable();
            rows
        };
        let told = format!("{shards} shards, fails {fails}");
        assert_eq!((report.measured.late, report.restarts.len()), (0, usize::from(fails)), "{told}");
        assert!(sorted(&window_rows) == windows, "{told}: what was parted is not what there was");
        assert!(sorted(&round_rows) == rounds, "{told}: rounds lost or repeated rows");
        let odd: Vec<_> = windows.iter().filter(|(key, ..)| key % 2 == 1).copied().collect();
        assert!(sorted(&odd_rows) == odd, "{told}");
    }
}

/// States of an operator that only moves rows to their key.
#[derive(millstream::state::KeyedState)]
struct Nothing {
    _none: millstream::state::Value<u8>,
}

/// Rows of which each poll brings only a few.
#[derive(Clone)]
struct Few(Items<Row>);

struct FewAtATime(Box<dyn Split<Batch = Vec<Row>>>);

impl Source for Few {
    type Batch = Vec<Row>;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<Row>>>>, SourceError> {
        let splits = self.0.open(shard, shards)?.into_iter();
        Ok(splits.map(|split| Box::new(FewAtATime(split)) as Box<dyn Split<Batch = Vec<Row>>>).collect())
    }

    fn describe(&self) -> String {
        "few".to_owned()
    }
}

impl Split for FewAtATime {
    type Batch = Vec<Row>;

    fn name(&self) -> String {
        self.0.name()
    }

    fn poll(&mut self, out: &mut Vec<Row>, _rows_max: usize) -> Result<Polled, SourceError> {
        self.0.poll(out, 8)
    }

    fn position(&self) -> u64 {
        self.0.position()
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.0.seek(position)
    }
}

/// Two sources of one time, one of which could run away: it is never further ahead than it may be, but for the batch it had
/// in hand; the slow one never waits, and all rows arrive.
#[test]
fn aligned_sources_stay_abreast() {
    const ROWS: i64 = 40_000;
    for (shards, is_aligned) in [(1, true), (2, true), (2, false)] {
        let slowest = Arc::new(AtomicI64::new(0));
        let furthest = Arc::new(AtomicI64::new(0));
        let (job_slowest, job_furthest) = (slowest.clone(), furthest.clone());
        let abreast = Alignment::within(Duration::from_secs(2));
        let sink = MemorySink::new();
        let counts = sink.clone();
        let job = Job::new("aligned", move |flow| {
            let (slowest, furthest) = (job_slowest.clone(), job_furthest.clone());
            let all = rows(ROWS, 1, |row| row as u64 % 7);
            let at = |row: &Row| Timestamp(row.1);
            let fast = flow.source(Items::of(all.clone())).event_time(at, Watermarks::monotonic());
            let slow = flow.source(Few(Items::of(all))).event_time(at, Watermarks::monotonic());
            let (fast, slow) = if is_aligned { (fast.aligned(&abreast), slow.aligned(&abreast)) } else { (fast, slow) };
            let seen = slowest.clone();
            let slow = slow.inspect(move |row, _| {
                seen.fetch_max(row.1, Ordering::Relaxed);
            });
            let look = move |row: &Row, _| {
                furthest.fetch_max(row.1 - slowest.load(Ordering::Relaxed), Ordering::Relaxed);
            };
            fast.inspect(look)
                .union(slow)
                .key_by(|row| row.0)
                .window(Tumbling::of(HUNDRED_MS))
                .aggregate(Count)
                .map(|row| row.value)
                .sink(sink.clone());
        });
        let checkpoints = tempfile::tempdir().unwrap();
        let report = job.shards(shards).checkpoints(checkpoints.path(), Duration::from_millis(5)).run().unwrap();
        assert_eq!((counts.rows().iter().sum::<u64>(), report.measured.late), (2 * ROWS as u64, 0));
        let furthest = furthest.load(Ordering::Relaxed);
        // A batch is a second, or two where two shards have every other row of it; who is slowest is told by each shard.
        assert_eq!(furthest < 2_000 + 2_048 + 500, is_aligned, "{shards} shards: {furthest} ms ahead");
    }
}

/// A stream that forks and meets itself again: across a key's edge, in a join, and right away; with a failure in between.
#[test]
fn a_stream_that_forks_meets_itself_again_also_after_a_restart() {
    let all = rows(40_000, 1, |row| row as u64);
    for shards in [1, 2] {
        for fails in [false, true] {
            let checkpoints = tempfile::tempdir().unwrap();
            let (sink, count_sink) = (MemorySink::new(), MemorySink::new());
            let (pairs, counts) = (sink.clone(), count_sink.clone());
            let has_failed = Arc::new(AtomicBool::new(!fails));
            let events = all.clone();
            let job = Job::new("fork", move |flow| {
                let has_failed = has_failed.clone();
                let events = flow.source(Items::of(events.clone())).map(move |row: &Row| {
                    assert!(row.1 < 20_000 || has_failed.swap(true, Ordering::Relaxed), "the test's own failure");
                    *row
                });
                let events = events.event_time(|row| Timestamp(row.1), Watermarks::monotonic());
                // Every third is a row of its own, and every fourth of them is counted with the others.
                let (events, thirds) = events.branch(|(key, at)| (key % 3 == 0).then_some([*key, *at as u64 * 10]));
                let (events, fourths) = events.branch(|(key, at)| (key % 4 == 0).then_some((*key, *at)));
                events
                    .map(|(key, at)| [*key, *at as u64])
                    .key_by(|row| row[0])
                    .join_unbounded(thirds.key_by(|row| row[0]), |one, other| (one[0], one[1], other[1]))
                    .named("pairs")
                    .sink(sink.clone());
                let (fours, eights) = fourths.branch(|(key, at)| (key % 8 == 0).then_some((*key, *at)));
                fours
                    .union(eights)
                    .key_by(|row| row.0 % 16)
                    .window(Tumbling::of(HUNDRED_MS))
                    .aggregate(Count)
                    .named("counts")
                    .map(|row| (row.key, row.window.start.0, row.value))
                    .sink(count_sink.clone());
            });
            let restart = RestartStrategy { initial: Duration::from_millis(1), ..RestartStrategy::default() };
            let job = job.shards(shards).checkpoints(checkpoints.path(), Duration::from_millis(2)).restart(restart);
            let report = job.run().unwrap();
            let told = format!("{shards} shards, fails {fails}");
            assert_eq!((report.measured.late, report.restarts.len()), (0, usize::from(fails)), "{told}");
            let mut pairs = pairs.rows();
            pairs.sort_unstable();
            let expected: Vec<_> = (0..40_000_u64).step_by(3).map(|key| (key, key, key * 10)).collect();
            assert!(pairs == expected, "{told}: {} pairs, not {}", pairs.len(), expected.len());
            let fours = all.iter().filter(|(key, _)| key % 4 == 0);
            let both = fours.flat_map(|row| vec![(row.0 % 16, row.1); if row.0 % 8 == 0 { 2 } else { 1 }]);
            let mut counts = counts.rows();
            counts.sort_unstable();
            assert!(counts == counted(&both.collect::<Vec<Row>>()), "{told}: {} counts", counts.len());
        }
    }
}

/// All rows are in one split: dealt out, every shard has its share of them, each once, and time goes on behind the edge, whether
/// it was given before or is given there; a failure changes nothing.
#[test]
fn rows_are_dealt_out_to_all_shards() {
    let all = rows(20_000, 1, |row| row as u64 % 13);
    let expected = counted(&all);
    for (shards, timed_before) in [(1, true), (3, true), (3, false)] {
        let checkpoints = tempfile::tempdir().unwrap();
        let sink = MemorySink::new();
        let counts = sink.clone();
        let has_failed = Arc::new(AtomicBool::new(false));
        let seen: Arc<Vec<AtomicI64>> = Arc::new((0..4).map(|_| AtomicI64::new(0)).collect());
        let (all, job_seen) = (all.clone(), seen.clone());
        let nth = Arc::new(AtomicUsize::new(0));
        let job = Job::new("dealt", move |flow| {
            let (has_failed, seen, nth) = (has_failed.clone(), job_seen.clone(), nth.fetch_add(1, Ordering::Relaxed));
            let at = |row: &[i64; 2]| Timestamp(row[1]);
            let read = flow.source(One(Items::of(all.clone()))).map(|row: &Row| [row.0 as i64, row.1]);
            let dealt = if timed_before {
                read.event_time(at, Watermarks::monotonic()).rebalance().boxed()
            } else {
                read.rebalance().event_time(at, Watermarks::bounded(Duration::from_secs(20))).boxed()
            };
            dealt
                .inspect(move |row, _| {
                    // The closure is called once for planning, and then once a shard.
                    seen[nth.min(3)].fetch_add(1, Ordering::Relaxed);
                    assert!(row[1] != 15_000 || has_failed.swap(true, Ordering::Relaxed), "the test's own failure");
                })
                .key_by(|row| row[0] as u64)
                .window(Tumbling::of(HUNDRED_MS))
                .aggregate(Count)
                .map(|row| (row.key, row.window.start.0, row.value))
                .sink(sink.clone());
        });
        let restart = RestartStrategy { initial: Duration::from_millis(1), ..RestartStrategy::default() };
        let job = job.shards(shards).checkpoints(checkpoints.path(), Duration::from_millis(2)).restart(restart);
        let report = job.run().unwrap();
        let mut counts = counts.rows();
        counts.sort_unstable();
        let told = format!("{shards} shards, timed before {timed_before}");
        assert!(counts == expected, "{told}: {} counts, not {}", counts.len(), expected.len());
        assert_eq!((report.measured.late, report.restarts.len()), (0, 1), "{told}");
        let shares = (1..=shards as usize).map(|shard| seen[shard].load(Ordering::Relaxed));
        assert!(
            shares.clone().all(|share| share > 10_000 / i64::from(shards)),
            "{told}: {:?}",
            shares.collect::<Vec<_>>()
        );
    }
}

/// All rows in one split, whoever has it.
#[derive(Clone)]
struct One(Items<Row>);

impl Source for One {
    type Batch = Vec<Row>;

    fn open(&self, shard: u32, _shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<Row>>>>, SourceError> {
        if shard == 0 { self.0.open(0, 1) } else { Ok(Vec::new()) }
    }

    fn describe(&self) -> String {
        "one".to_owned()
    }
}
