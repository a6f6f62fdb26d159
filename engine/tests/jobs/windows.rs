//! Jobs with sliding windows and with late rows, against answers so plain that they cannot be wrong.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::sales::{Once, Place, Sale, Sales, assert_same};
use millstream::{
    Count, Items, Job, Late, Max, RestartStrategy, Sliding, Sum, Timestamp, Tumbling, Watermarks, Windowed,
};
use millstream_connectors::file::FileSink;
use millstream_connectors::memory::MemorySink;

/// Sales of 57 shops, up to `disorder_ms` out of order.
fn disordered(count: u64, disorder_ms: u64) -> Vec<Sale> {
    let mix = |x: u64| (x ^ (x >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 7;
    (0..count)
        .map(|i| Sale {
            number: i,
            shop: mix(i) % 57,
            at_ms: (i / 20) as i64 - (mix(i + 2) % (disorder_ms + 1)) as i64,
            cents: (mix(i + 1) % 1000) as i64 - 300,
        })
        .collect()
}

/// Time does not wait for a broadcast without event time, so what comes behind has event time all the same.
#[test]
fn a_broadcast_without_time_takes_none_away() {
    let sink = MemorySink::new();
    let counts = sink.clone();
    Job::new("priced", move |flow| {
        let prices = flow.source(Items::of(vec![[7_u64, 250]])).broadcast();
        flow.source(Items::of(disordered(1_000, 50)))
            .event_time(|sale: &Sale| Timestamp(sale.at_ms), Watermarks::bounded(Duration::from_millis(51)))
            .key_by(|sale: &Sale| sale.shop)
            .join_broadcast(prices, |price| price[0], |sale, _| Some(*sale))
            .key_by(|sale: &Sale| sale.shop)
            .window(Tumbling::of(Duration::from_millis(10)))
            .aggregate(Count)
            .map(|window| window.value)
            .sink(sink.clone());
    })
    .run()
    .unwrap();
    assert_eq!(counts.rows().iter().sum::<u64>(), 1_000);
}

type Row = (u64, i64, i64, u64, i64, i64);

fn expected(sales: &[Sale], windows: Sliding) -> Vec<Row> {
    let mut of: BTreeMap<(u64, i64, i64), (u64, i64, i64)> = BTreeMap::new();
    for sale in sales {
        for window in windows.windows_of(Timestamp(sale.at_ms)) {
            let result = of.entry((sale.shop, window.start.0, window.end.0)).or_insert((0, 0, i64::MIN));
            *result = (result.0 + 1, result.1 + sale.cents, result.2.max(sale.cents));
        }
    }
    of.into_iter().map(|((shop, start, end), (count, sum, max))| (shop, start, end, count, sum, max)).collect()
}

fn row(row: &Windowed<u64, (u64, i64, i64)>) -> Row {
    (row.key, row.window.start.0, row.window.end.0, row.value.0, row.value.1, row.value.2)
}

#[test]
fn sliding_windows_give_the_plain_answer() {
    let rows = disordered(60_000, 200);
    for (size, slide, offset) in [(1_000, 100, 0), (1_000, 300, -50), (200, 500, 20)] {
        let windows = Sliding::try_of_ms(size, slide, offset).unwrap();
        let expected = expected(&rows, windows);
        for (shards, combine) in [(1, true), (1, false), (2, true), (2, false)] {
            let (sink, rows) = (MemorySink::new(), rows.clone());
            let out = sink.clone();
            let report = Job::new("sales", move |flow| {
                flow.source(Items::of(rows.clone()))
                    .event_time(|sale| Timestamp(sale.at_ms), Watermarks::bounded(Duration::from_millis(200)))
                    .key_by(|sale| sale.shop)
                    .window(windows)
                    .aggregate((Count, Sum::of(|sale: &Sale| sale.cents), Max::of(|sale: &Sale| sale.cents)))
                    .map(row)
                    .sink(sink.clone());
            })
            .shards(shards)
            .combine(combine)
            .run()
            .unwrap();
            assert_eq!(report.measured.late, 0);
            let mut got = out.rows();
            got.sort_unstable();
            assert!(got == expected, "{windows:?}, {shards} shards, combine {combine}: {} rows", got.len());
        }
    }
}

const SALES: u64 = 30_000;

/// Half a second, every tenth of one: sums that go on from window to window.
fn halves() -> Sliding {
    Sliding::of(Duration::from_millis(500)).every(Duration::from_millis(100))
}

fn sliding_job(source: Sales, out: &Path, look: impl Fn(&Sale) + Clone + Send + Sync + 'static) -> Job {
    let out = out.to_owned();
    Job::new("sales", move |flow| {
        let look = look.clone();
        flow.source(source.clone())
            .inspect(move |sale, _| look(sale))
            .event_time(|sale| Timestamp(sale.at_ms), Watermarks::monotonic())
            .key_by(|sale| sale.shop)
            .window(halves())
            .aggregate((Count, Sum::of(|sale: &Sale| sale.cents)))
            .map(|row: &Windowed<u64, (u64, i64)>| {
                format!("{},{},{},{}", row.key, row.window.start.0, row.value.0, row.value.1)
            })
            .sink(FileSink::lines(&out, |line: &String, bytes: &mut Vec<u8>| bytes.extend_from_slice(line.as_bytes())));
    })
    .restart(RestartStrategy { initial: Duration::from_millis(1), max: Duration::from_millis(1), attempts: 3 })
}

fn expected_lines() -> Vec<String> {
    let rows: Vec<Sale> = (0..SALES).map(Sale::number).collect();
    let results = expected(&rows, halves());
    let mut lines: Vec<String> =
        results.iter().map(|(shop, start, _, count, sum, _)| format!("{shop},{start},{count},{sum}")).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn sliding_windows_survive_failures() {
    let expected = expected_lines();
    for (shards, combine) in [(1_u32, true), (1, false), (2, true), (2, false)] {
        let what = format!("{shards} shards, combine {combine}");
        let place = Place::new();
        // All on the last shard: two shards could panic in one attempt.
        let on_last = |sale: u64| sale / u64::from(shards) * u64::from(shards) + u64::from(shards) - 1;
        let panics = [7_919, 16_013, SALES - 3].map(on_last).map(Once::at);
        let look = move |sale: &Sale| assert!(!panics.iter().any(|at| at.is(sale.number)), "a sale fell on the floor");
        let source = Sales { pace: 300 / u64::from(shards), ..Sales::of(SALES) };
        let job = sliding_job(source, &place.out(), look).shards(shards).combine(combine);
        let report = job.checkpoints(place.checkpoints(), Duration::from_millis(5)).run().unwrap();
        assert_same(&place.lines(), &expected, &what);
        assert_eq!((report.restarts.len(), report.measured.late), (3, 0), "{what}: {:?}", report.restarts);
        assert!(report.restored_epoch > 0, "{what}: the last restart is from a checkpoint");
    }
}

#[test]
fn sliding_windows_go_on_with_another_number_of_shards() {
    let expected = expected_lines();
    for (before, after) in [(1, 3), (2, 1), (3, 2)] {
        let place = Place::new();
        let source = Sales::of(SALES);
        let on = |shards| {
            let job = sliding_job(source.clone(), &place.out(), |_| {}).shards(shards);
            job.checkpoints(place.checkpoints(), Duration::from_secs(3600))
        };
        source.gate.store(SALES / 2, Ordering::Relaxed);
        let running = on(before).start().unwrap();
        while running.events_in() < SALES / 2 {
            assert!(!running.is_finished(), "{:?}", running.wait());
            std::thread::yield_now();
        }
        running.stop();
        running.wait().unwrap();
        assert!(place.lines().len() < expected.len(), "stopped in mid-stream");
        source.gate.store(u64::MAX, Ordering::Relaxed);
        on(after).run().unwrap();
        assert_same(&place.lines(), &expected, &format!("{before} to {after} shards"));
    }
}

/// On one shard a batch has one watermark, so what is late is known.
#[test]
fn late_rows_fire_again_or_are_written_down() {
    let number = |at_ms: i64| Sale { number: 0, shop: 7, at_ms, cents: at_ms };
    // A split's rows come in batches, and a watermark behind each: the first batch takes time to 5,000.
    let mut rows: Vec<Sale> = (0..2_048).map(|_| number(10)).collect();
    rows.extend((0..2_048).map(|_| number(5_000)));
    rows.extend([number(4_100), number(3_500), number(20)]);
    for combine in [true, false] {
        let (sink, late, rows) = (MemorySink::new(), MemorySink::new(), rows.clone());
        let (out, late_out) = (sink.clone(), late.clone());
        let report = Job::new("late", move |flow| {
            flow.source(Items::of(rows.clone()))
                .event_time(|sale| Timestamp(sale.at_ms), Watermarks::monotonic())
                .key_by(|sale| sale.shop)
                .window(Tumbling::of(Duration::from_secs(1)))
                .allowed_lateness(Duration::from_millis(1_500))
                .late_to(late.clone())
                .aggregate(Sum::of(|sale: &Sale| sale.cents))
                .map(|row: &Windowed<u64, i64>| (row.window.start.0, row.value))
                .sink(sink.clone());
        })
        .shards(1)
        .combine(combine)
        .run()
        .unwrap();
        // 3,500 is of [3000, 4000), which is kept until 5,499.
        let mut got = out.rows();
        got.sort_unstable();
        assert_eq!(got, [(0, 20_480), (3_000, 3_500), (4_000, 4_100), (5_000, 2_048 * 5_000)]);
        assert_eq!(late_out.rows(), [Late { key: 7, value: 20, at: Timestamp(20) }]);
        assert_eq!(report.measured.late, 1);
    }
}
