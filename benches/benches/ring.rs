//! The road between two cores: bytes per second through a lane, streamed against plain stores, and what a row costs to stage.
//!
//! A lane's sender is pinned to the first core of the process's cpuset, its receiver to the second, and both poll. Rows of
//! 16 bytes go through a stage, as an exchange writes them; the receiver reads every word. Near cores (one last-level
//! cache) and far ones differ several-fold in the plain case, and a virtual machine's cores move between the two within
//! minutes: compare only what one run printed.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream_network::frame::Route;
use millstream_network::lane::BUFFERS_PER_LANE;
use millstream_network::ring::ring;
use millstream_network::{Doorbell, LaneConfig, PAYLOAD_BYTES_MAX, Receiver, Sender, Stage, Streaming, lane, probe};

type Row = [u64; 2];

/// A stage as an exchange makes it: 4 KiB, a group of 256 rows.
const GROUP_ROWS: usize = 256;
const STAGE_BYTES: usize = GROUP_ROWS * size_of::<Row>() + 64;
/// Whole rows only, so that none straddles two buffers.
const ROWS_PER_BUFFER: usize = PAYLOAD_BYTES_MAX / size_of::<Row>();

fn fresh_lane() -> (Sender, Receiver) {
    let bell = || Arc::new(Doorbell::new().expect("a descriptor is left"));
    lane(LaneConfig { route: Route { edge: 0, from_shard: 0, to_shard: 1 }, buffers: BUFFERS_PER_LANE }, bell(), bell())
}

/// Pins the calling thread to the `index`-th core that it may run on.
fn pin(index: usize) {
    let core = probe::cpuset()[index];
    #[expect(unsafe_code, reason = "sched_setaffinity has no safe call in std")]
    // SAFETY: the set is zeroed, which is the empty set, and outlives the call; `core` is one the kernel itself named.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0, "core {core} is in the cpuset");
    }
}

/// Asks until there is an answer. On a busy machine the other end may not be running: then it gets the core.
fn poll<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    loop {
        for _ in 0..4096 {
            if let Some(answer) = ask() {
                return answer;
            }
            spin_loop();
        }
        std::thread::yield_now();
    }
}

/// Fills and sends `buffers` buffers.
fn send(sender: &mut Sender, stage: &mut Stage, buffers: u64) {
    for number in 0..buffers {
        let mut buffer = poll(|| sender.acquire());
        let mut left = ROWS_PER_BUFFER;
        while left > 0 {
            let group = left.min(GROUP_ROWS);
            for row in 0..group {
                stage.push([number, row as u64]);
            }
            left -= group;
            stage.flush_lines(&mut buffer);
        }
        stage.flush_all(&mut buffer);
        buffer.header_mut().set_count(ROWS_PER_BUFFER as u32);
        sender.send(buffer);
    }
}

/// Receives `buffers` buffers and reads every word of them.
fn receive(receiver: &mut Receiver, buffers: u64) {
    for _ in 0..buffers {
        let buffer = poll(|| receiver.receive());
        let words = buffer.payload().chunks_exact(8);
        black_box(words.fold(0, |sum: u64, word| {
            sum.wrapping_add(u64::from_le_bytes(word.try_into().expect("a chunk of eight")))
        }));
        receiver.release(buffer);
    }
}

/// One item there and one back, through two rings: the latency of a line between the cores, some four times over. It tells
/// near cores from far ones, and so what the other figures of this run may be compared with.
fn round_trip(criterion: &mut Criterion) {
    if probe::cpuset().len() < 2 {
        return;
    }
    criterion.benchmark_group("ring").bench_function("round trip", |bencher| {
        bencher.iter_custom(|trips| {
            let (mut there, mut arriving) = ring::<u64>(2);
            let (mut back, mut returning) = ring::<u64>(2);
            std::thread::scope(|threads| {
                threads.spawn(move || {
                    pin(1);
                    for _ in 0..trips {
                        let item = poll(|| arriving.pop());
                        back.push(item).expect("one item is under way");
                    }
                });
                let asking = threads.spawn(move || {
                    pin(0);
                    let started = now();
                    for trip in 0..trips {
                        there.push(trip).expect("one item is under way");
                        assert_eq!(poll(|| returning.pop()), trip);
                    }
                    started.elapsed()
                });
                asking.join().expect("every item comes back")
            })
        });
    });
}

fn core_to_core(criterion: &mut Criterion) {
    if probe::cpuset().len() < 2 {
        eprintln!("ring: skipped, this process may run on one core only");
        return;
    }
    let mut group = criterion.benchmark_group("lane");
    group.throughput(Throughput::Bytes((ROWS_PER_BUFFER * size_of::<Row>()) as u64));
    for how in [Streaming::NonTemporal, Streaming::Plain] {
        group.bench_function(BenchmarkId::from_parameter(format!("{how:?}")), |bencher| {
            bencher.iter_custom(|buffers| {
                let (mut sender, mut receiver) = fresh_lane();
                let mut stage = Stage::new(STAGE_BYTES, how);
                std::thread::scope(|threads| {
                    let receiving = threads.spawn(move || {
                        pin(1);
                        receive(&mut receiver, BUFFERS_PER_LANE as u64 + buffers);
                    });
                    let sending = threads.spawn(move || {
                        pin(0);
                        // Once around the pool: its pages are there when the clock starts.
                        send(&mut sender, &mut stage, BUFFERS_PER_LANE as u64);
                        let started = now();
                        send(&mut sender, &mut stage, buffers);
                        receiving.join().expect("the receiver reads to the end");
                        started.elapsed()
                    });
                    sending.join().expect("the sender sends to the end")
                })
            });
        });
    }
    group.finish();
}

/// What a row costs until it is in the stage, with its share of the flush into a buffer of this core.
fn staging(criterion: &mut Criterion) {
    let (mut sender, mut receiver) = fresh_lane();
    let mut group = criterion.benchmark_group("stage");
    group.throughput(Throughput::Elements(ROWS_PER_BUFFER as u64));
    for how in [Streaming::NonTemporal, Streaming::Plain] {
        let mut stage = Stage::new(STAGE_BYTES, how);
        group.bench_function(BenchmarkId::from_parameter(format!("{how:?}")), |bencher| {
            bencher.iter(|| {
                send(&mut sender, &mut stage, 1);
                let buffer = receiver.receive().expect("one was sent");
                receiver.release(buffer);
            });
        });
    }
    group.finish();
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

criterion_group! {
    name = roads;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = round_trip, core_to_core, staging
}
criterion_main!(roads);
