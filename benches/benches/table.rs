//! The keyed update, against the table an expert would write who needs no snapshots: flat, linear probing, key and value
//! side by side, prefetched, huge pages, no tracking.
//!
//! Both are fed batches of 1,024 fresh random keys, made inside the measurement, since a short replayed sequence teaches
//! the branch predictor; `generate` is what that costs alone. Budget: `table` ≥ 0.85 × `flat` at 1 M and 10 M keys, and
//! at 100 keys ≤ 3 ns an update above `generate`.
#![expect(unsafe_code, reason = "the slow twin prefetches")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream_state::{Key, Namespace, Table, Text};

const BATCH: usize = 1024;

/// xorshift, then scaled to the range: about a nanosecond a key.
struct Keys {
    state: u64,
    below: u64,
}

impl Keys {
    fn fill(&mut self, batch: &mut [u64]) {
        for key in batch {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            // Sparse, as ids are; never zero, which the flat table keeps for empty slots.
            *key = 1 + ((u128::from(self.state) * u128::from(self.below)) >> 64) as u64 * 0x1_0001;
        }
    }
}

/// The twin without snapshots.
struct Flat {
    slots: memmap2::MmapMut,
    mask: usize,
}

impl Flat {
    /// As full as a table is that doubles at three quarters: 0.48 at 1 M keys, 0.60 at 10 M.
    fn new(keys: usize) -> Flat {
        let slots = (keys * 4 / 3).next_power_of_two();
        let mapping = memmap2::MmapOptions::new().len(slots * 16).map_anon().expect("memory for the twin");
        let _ = mapping.advise(memmap2::Advice::HugePage);
        Flat { slots: mapping, mask: slots - 1 }
    }

    fn slots(&mut self) -> &mut [[u64; 2]] {
        let bytes = &mut self.slots[..];
        // SAFETY: the mapping is aligned to a page and as long as its slots, whose every bit pattern is valid.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / 16) }
    }

    fn count(&mut self, batch: &[u64], ahead: bool) {
        const AHEAD: usize = 16;
        let mask = self.mask;
        let slots = self.slots();
        let mut hashes = [0usize; BATCH];
        for (hash, key) in hashes.iter_mut().zip(batch) {
            *hash = key.hash64() as usize & mask;
        }
        let prefetch = |slots: &mut [[u64; 2]], at: usize| {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch reads nothing that a program could see.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(slots.as_ptr().add(at).cast());
            }
        };
        if ahead {
            for &hash in &hashes[..AHEAD.min(batch.len())] {
                prefetch(slots, hash);
            }
        }
        for (row, &key) in batch.iter().enumerate() {
            if ahead && row + AHEAD < batch.len() {
                prefetch(slots, hashes[row + AHEAD]);
            }
            let mut at = hashes[row];
            loop {
                // SAFETY: `at` is masked to the table's size.
                let slot = unsafe { slots.get_unchecked_mut(at) };
                if slot[0] == key {
                    slot[1] += 1;
                    break;
                }
                if slot[0] == 0 {
                    *slot = [key, 1];
                    break;
                }
                at = (at + 1) & mask;
            }
        }
    }
}

fn fold_counts(table: &mut Table<u64, u64>, batch: &[u64]) {
    table
        .fold(Namespace(0), batch.len(), |row| batch[row], || 0, |count, _row| *count += 1)
        .expect("the machine has the memory");
}

/// Every key there is, so that the measurement only updates.
fn fill(below: u64, mut put: impl FnMut(&[u64])) {
    let keys: Vec<u64> = (0..below).map(|key| 1 + key * 0x1_0001).collect();
    keys.chunks(BATCH).for_each(&mut put);
}

fn fold(criterion: &mut Criterion) {
    for below in [100u64, 10_000, 1_000_000, 10_000_000] {
        let mut group = criterion.benchmark_group("fold");
        group.throughput(Throughput::Elements(BATCH as u64));
        group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(1500));
        let mut keys = Keys { state: 88_172_645_463_325_252, below };
        let mut batch = vec![0; BATCH];

        group.bench_function(BenchmarkId::new("generate", below), |bencher| {
            bencher.iter(|| {
                keys.fill(&mut batch);
                black_box(&mut batch);
            });
        });
        let mut flat = Flat::new(below as usize);
        let ahead = flat.slots.len() > 256 << 10;
        fill(below, |batch| flat.count(batch, false));
        group.bench_function(BenchmarkId::new("flat", below), |bencher| {
            bencher.iter(|| {
                keys.fill(&mut batch);
                flat.count(&batch, ahead);
            });
        });
        drop(flat);
        let mut table = Table::new(Default::default()).expect("address space for one table");
        fill(below, |batch| fold_counts(&mut table, batch));
        group.bench_function(BenchmarkId::new("table", below), |bencher| {
            bencher.iter(|| {
                keys.fill(&mut batch);
                fold_counts(&mut table, &batch);
            });
        });
    }
}

/// Keys as people have them: 36 bytes of UUID.
fn fold_text(criterion: &mut Criterion) {
    for below in [100usize, 1_000_000] {
        let mut group = criterion.benchmark_group("fold_text");
        group.throughput(Throughput::Elements(BATCH as u64));
        group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(1500));
        let texts: Vec<Text<36>> = (0..below)
            .map(|n| {
                let text = format!("{:08x}-1e2c-4b9a-8d3f-{n:012x}", (n as u64).hash64() as u32);
                text.as_str().try_into().expect("36 characters")
            })
            .collect();
        let mut table: Table<Text<36>, u64> = Table::new(Default::default()).expect("address space for one table");
        for batch in texts.chunks(BATCH) {
            let folded = table.fold(Namespace(0), batch.len(), |row| &batch[row], || 0, |count, _row| *count += 1);
            folded.expect("the machine has the memory");
        }
        let mut keys = Keys { state: 88_172_645_463_325_252, below: below as u64 };
        let (mut numbers, mut batch) = (vec![0; BATCH], vec![Text::<36>::EMPTY; BATCH]);
        let mut next = |batch: &mut [Text<36>]| {
            keys.fill(&mut numbers);
            for (text, number) in batch.iter_mut().zip(&numbers) {
                *text = texts[(number / 0x1_0001) as usize];
            }
        };
        group.bench_function(BenchmarkId::new("generate", below), |bencher| {
            bencher.iter(|| {
                next(&mut batch);
                black_box(&mut batch);
            });
        });
        group.bench_function(BenchmarkId::new("table", below), |bencher| {
            bencher.iter(|| {
                next(&mut batch);
                table
                    .fold(Namespace(0), BATCH, |row| &batch[row], || 0, |count, _row| *count += 1)
                    .expect("the machine has the memory");
            });
        });
    }
}

criterion_group!(benches, fold, fold_text);
criterion_main!(benches);
