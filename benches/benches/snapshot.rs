//! A snapshot's cost to the shard that takes it: how long the road stands still, and what a changed line costs to write down.
//!
//! Between two snapshots so many random keys of a table are updated. `freeze` is the moment of the barrier and must not
//! grow with them; `drain` is all that follows on the shard, in slices between two turns of its loop, until the chunks
//! are ready for the disk. The disk itself is not part of it.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream_state::{Drained, Epoch, FileRef, Namespace, Table};

const BATCH: u64 = 1024;
/// As much as a shard drains in one turn of its loop.
const SLICE_BYTES: usize = 64 << 10;

struct Counted {
    table: Table<u64, u64>,
    keys: u64,
    random: u64,
    epoch: u64,
    /// A snapshot is frozen and not yet drained.
    is_frozen: bool,
}

impl Counted {
    /// A table of so many keys, all of them in its last snapshot.
    fn new(keys: u64) -> Counted {
        let table = Table::new(Default::default()).expect("address space for one table");
        let mut counted = Counted { table, keys, random: 88_172_645_463_325_252, epoch: 0, is_frozen: false };
        for first in (0..keys).step_by(BATCH as usize) {
            counted.fold(BATCH.min(keys - first), |row| first + row);
        }
        counted.freeze();
        counted.drain();
        counted
    }

    fn fold(&mut self, rows: u64, key: impl Fn(u64) -> u64) {
        self.table
            .fold(Namespace(0), rows as usize, |row| key(row as u64), || 0, |count, _row| *count += 1)
            .expect("the machine has the memory");
    }

    fn update(&mut self, updates: u64) {
        for _ in 0..updates / BATCH {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let (random, keys) = (self.random, self.keys);
            self.fold(BATCH, |row| {
                let spread = (random ^ row).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                ((u128::from(spread) * u128::from(keys)) >> 64) as u64
            });
        }
    }

    fn freeze(&mut self) {
        self.epoch += 1;
        self.table.freeze(Epoch(self.epoch));
        self.is_frozen = true;
    }

    fn drain(&mut self) {
        let mut chunks = 0;
        loop {
            let drained = self.table.drain(SLICE_BYTES);
            while let Some(chunk) = self.table.take_chunk() {
                chunks += 1;
                self.table.give_back(black_box(chunk));
            }
            if drained == Drained::Done {
                break;
            }
        }
        let file = FileRef { name: format!("epoch-{}", self.epoch), bytes: chunks, crc32c: 0 };
        self.table.confirm((chunks > 0).then_some(file));
        self.is_frozen = false;
    }
}

fn snapshot(criterion: &mut Criterion) {
    for (keys, updates) in [(1_000_000, 1 << 10), (1_000_000, 100 << 10), (10_000_000, 100 << 10)] {
        let counted = RefCell::new(Counted::new(keys));
        let mut group = criterion.benchmark_group(format!("snapshot/{keys} keys"));
        group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(1500));
        let update = || {
            let mut counted = counted.borrow_mut();
            if counted.is_frozen {
                counted.drain();
            }
            counted.update(updates);
        };
        group.bench_function(BenchmarkId::new("freeze", updates), |bencher| {
            bencher.iter_batched(update, |()| counted.borrow_mut().freeze(), BatchSize::PerIteration);
        });
        group.throughput(Throughput::Elements(updates));
        group.bench_function(BenchmarkId::new("drain", updates), |bencher| {
            let freeze = || {
                update();
                counted.borrow_mut().freeze();
            };
            bencher.iter_batched(freeze, |()| counted.borrow_mut().drain(), BatchSize::PerIteration);
        });
    }
}

criterion_group!(benches, snapshot);
criterion_main!(benches);
