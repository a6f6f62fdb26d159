//! Whole jobs, against an answer so plain that it cannot be wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::{Count, Items, Job, Max, Sum, Timestamp, Tumbling, Watermarks, Windowed};
use millstream_connectors::memory::MemorySink;

#[millstream::event]
#[derive(Clone, Copy, Debug)]
struct Sale {
    shop: u64,
    at_ms: i64,
    cents: i64,
}

fn sales(count: u64) -> Vec<Sale> {
    let mix = |x: u64| (x ^ (x >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 7;
    (0..count)
        .map(|i| Sale { shop: mix(i) % 57, at_ms: (i / 10) as i64, cents: (mix(i + 1) % 1000) as i64 - 300 })
        .collect()
}

type Row = (u64, i64, u64, i64, i64);

fn oracle(sales: &[Sale]) -> Vec<Row> {
    let mut windows: BTreeMap<(u64, i64), (u64, i64, i64)> = BTreeMap::new();
    for sale in sales {
        let window = windows.entry((sale.shop, sale.at_ms / 1000 * 1000)).or_insert((0, 0, i64::MIN));
        *window = (window.0 + 1, window.1 + sale.cents, window.2.max(sale.cents));
    }
    windows.into_iter().map(|((shop, start), (count, sum, max))| (shop, start, count, sum, max)).collect()
}

fn run(shards: u32, combine: bool, rows: Vec<Sale>) -> Vec<Row> {
    let sink = MemorySink::new();
    let out = sink.clone();
    let report = Job::new("sales", move |flow| {
        flow.source(Items::of(rows.clone()))
            .filter(|sale| sale.shop != 5)
            .event_time(|sale| Timestamp(sale.at_ms), Watermarks::monotonic())
            .key_by(|sale| sale.shop)
            .window(Tumbling::of(Duration::from_secs(1)))
            .aggregate((Count, Sum::of(|sale: &Sale| sale.cents), Max::of(|sale: &Sale| sale.cents)))
            .map(|row: &Windowed<u64, (u64, i64, i64)>| {
                (row.key, row.window.start.0, row.value.0, row.value.1, row.value.2)
            })
            .sink(sink.clone());
    })
    .shards(shards)
    .combine(combine)
    .run()
    .unwrap();
    assert_eq!(report.measured.late, 0);
    let mut rows = out.rows();
    rows.sort_unstable();
    rows
}

#[test]
fn every_shape_gives_the_plain_answer() {
    let rows = sales(200_000);
    let kept: Vec<Sale> = rows.iter().copied().filter(|sale| sale.shop != 5).collect();
    let expected = oracle(&kept);
    for shards in [1, 2, 3] {
        for combine in [true, false] {
            let got = run(shards, combine, rows.clone());
            assert_eq!(got.len(), expected.len(), "{shards} shards, combine {combine}");
            assert!(got == expected, "{shards} shards, combine {combine}");
        }
    }
}

/// Snapshots of several chunks, written while the road goes on: 200,000 open keys at 20 ms checkpoints.
#[test]
fn a_large_state_is_checkpointed_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<Sale> = (0..1_500_000u64)
        .map(|i| Sale { shop: i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 200_000, at_ms: (i / 1500) as i64, cents: 1 })
        .collect();
    let expected = oracle(&rows);
    let sink = MemorySink::new();
    let out = sink.clone();
    let report = Job::new("large", move |flow| {
        flow.source(Items::of(rows.clone()))
            .event_time(|sale| Timestamp(sale.at_ms), Watermarks::monotonic())
            .key_by(|sale| sale.shop)
            .window(Tumbling::of(Duration::from_secs(1)))
            .aggregate((Count, Sum::of(|sale: &Sale| sale.cents), Max::of(|sale: &Sale| sale.cents)))
            .map(|row: &Windowed<u64, (u64, i64, i64)>| {
                (row.key, row.window.start.0, row.value.0, row.value.1, row.value.2)
            })
            .sink(sink.clone());
    })
    .shards(2)
    .combine(false)
    .checkpoints(dir.path(), Duration::from_millis(20))
    .run()
    .unwrap();
    assert!(report.restarts.is_empty(), "{:?}", report.restarts);
    assert!(report.checkpoints.bytes_max > 2 << 20, "several chunks: {}", report.checkpoints.bytes_max);
    let mut rows = out.rows();
    rows.sort_unstable();
    assert!(rows == expected);
}
