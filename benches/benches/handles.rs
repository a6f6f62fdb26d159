//! A row's way through a state handle: whole jobs on one shard, with a state and without one.
//!
//! Both jobs read the same random keys of a million and count rows into nothing. What `value` takes beyond `plain` is the key's
//! way to its page, an update in place, and the row's copy. The figure to hold it against is `fold/table/1000000` of the
//! bench `table`: the same update without a handle, a batch at a time.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream::state::{KeyedState, List, Map, Value};
use millstream::{Items, Job};
use millstream_connectors::memory::NullSink;

const KEYS: u64 = 1_000_000;
const ROWS: usize = 8_000_000;

#[derive(KeyedState)]
struct Counted {
    count: Value<i64>,
}

#[derive(KeyedState)]
struct Mapped {
    counts: Map<u32, i64>,
}

#[derive(KeyedState)]
struct Listed {
    keys: List<u64>,
}

/// xorshift, scaled to the keys.
fn keys() -> Vec<u64> {
    let mut state = 88_172_645_463_325_252u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((u128::from(state) * u128::from(KEYS)) >> 64) as u64
    };
    std::iter::repeat_with(next).take(ROWS).collect()
}

fn handles(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handles");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(5));
    let items = Items::of(keys());
    let run = |job: Job| job.run().expect("the machine can run a job");

    let rows = items.clone();
    let plain = Job::new("plain", move |flow| {
        flow.source(rows.clone()).map(|key| key.wrapping_mul(3)).sink(NullSink::new());
    });
    group.bench_function(BenchmarkId::new("plain", KEYS), |bencher| bencher.iter(|| run(plain.clone())));

    let rows = items.clone();
    let value = Job::new("value", move |flow| {
        let keyed = flow.source(rows.clone()).key_by(|key| *key);
        let counted = keyed.map_with_state(|state: &mut Counted, _| {
            state.count.update_or(0, |count| {
                *count += 1;
                *count
            })
        });
        counted.sink(NullSink::new());
    });
    group.bench_function(BenchmarkId::new("value", KEYS), |bencher| bencher.iter(|| run(value.clone())));

    let rows = items.clone();
    let map = Job::new("map", move |flow| {
        let keyed = flow.source(rows.clone()).key_by(|key| key / 1_000);
        let counted = keyed.map_with_state(|state: &mut Mapped, key| {
            state.counts.update_or((key % 1_000) as u32, 0, |count| {
                *count += 1;
                *count
            })
        });
        counted.sink(NullSink::new());
    });
    group.bench_function(BenchmarkId::new("map", KEYS), |bencher| bencher.iter(|| run(map.clone())));

    let list = Job::new("list", move |flow| {
        let keyed = flow.source(items.clone()).key_by(|key| key / 1_000);
        keyed.map_with_state(|state: &mut Listed, key| state.keys.push(key)).sink(NullSink::new());
    });
    group.bench_function(BenchmarkId::new("list", KEYS), |bencher| bencher.iter(|| run(list.clone())));
}

criterion_group!(benches, handles);
criterion_main!(benches);
