//! The road of a record allocates nothing: what a long run allocates beyond a short one is counted, event by event.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait; this one counts and hands on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream::{
    Count, Job, LookupTable, Polled, Source, SourceError, Split, Timestamp, Tumbling, Updated, Watermarks, Windowed,
};
use millstream_connectors::memory::NullSink;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// An event of the Yahoo benchmark, as far as its query looks at it.
#[derive(Clone, Copy)]
struct Ad {
    ad: u64,
    kind: u8,
    at_ms: i64,
}

/// Events `0..events`, a thousand per millisecond of event time, dealt out to the shards.
struct Ads {
    events: u64,
}

struct Share {
    next: u64,
    step: u64,
    end: u64,
}

impl Source for Ads {
    type Batch = Vec<Ad>;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<Ad>>>>, SourceError> {
        Ok(vec![Box::new(Share { next: shard.into(), step: shards.into(), end: self.events })])
    }

    fn describe(&self) -> String {
        "ads".to_owned()
    }
}

impl Split for Share {
    type Batch = Vec<Ad>;

    fn name(&self) -> String {
        format!("share-{}", self.next % self.step)
    }

    fn poll(&mut self, out: &mut Vec<Ad>, rows_max: usize) -> Result<Polled, SourceError> {
        while out.len() < rows_max && self.next < self.end {
            let mixed = (self.next ^ (self.next >> 7)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11;
            out.push(Ad { ad: mixed % 1_000, kind: (mixed >> 20) as u8 % 3, at_ms: (self.next / 1_000) as i64 });
            self.next += self.step;
        }
        Ok(if out.is_empty() { Polled::End } else { Polled::Rows })
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.next = position;
        Ok(())
    }
}

/// What a run allocated, and how many checkpoints it took.
fn run(events: u64, shards: u32, combine: bool, checkpoints: bool) -> (u64, u64) {
    let campaigns: LookupTable<u64, u64> = (0..1_000u64).map(|ad| (ad, ad / 10)).collect();
    let sink = NullSink::new();
    let counted = sink.clone();
    let dir = tempfile::tempdir().unwrap();
    let mut job = Job::new("ads", move |flow| {
        flow.source(Ads { events })
            .filter(|ad| ad.kind == 0)
            .lookup(campaigns.clone(), |ad: &Ad| ad.ad, |ad, campaign| (*campaign, ad.at_ms))
            .event_time(|(_, at_ms)| Timestamp(*at_ms), Watermarks::monotonic())
            .key_by(|(campaign, _)| *campaign)
            .window(Tumbling::of(Duration::from_secs(1)))
            .aggregate(Count)
            .map(|row: &Windowed<u64, u64>| row.value)
            .sink(sink.clone());
    })
    .shards(shards)
    .combine(combine);
    if checkpoints {
        job = job.checkpoints(dir.path(), Duration::from_millis(100));
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let report = job.run().unwrap();
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(report.measured.events_in, events);
    assert_eq!(counted.rows(), events.div_ceil(1_000_000) * 100, "a hundred campaigns a second");
    (allocations, report.checkpoints.completed)
}

#[test]
fn an_event_allocates_nothing() {
    const SHORT: u64 = 2_000_000;
    const LONG: u64 = 12_000_000;
    /// Manifest, files and futures of a checkpoint on one shard: 600 to 1,900 were counted, and no event has a part in it.
    const PER_CHECKPOINT: u64 = 2_500;
    for shards in [1, 2] {
        for combine in [true, false] {
            for checkpoints in [false, true] {
                let (short, few) = run(SHORT, shards, combine, checkpoints);
                let (long, many) = run(LONG, shards, combine, checkpoints);
                let more = long.saturating_sub(short);
                let of_checkpoints = many.saturating_sub(few) * PER_CHECKPOINT * u64::from(shards);
                println!(
                    "{shards} shards, combine {combine}: {more} more allocations in {} more events and {} more checkpoints",
                    LONG - SHORT,
                    many as i64 - few as i64,
                );
                assert!(
                    more <= (LONG - SHORT) / 1_000 + of_checkpoints,
                    "{shards} shards, combine {combine}, checkpoints {checkpoints}: {more} more allocations"
                );
            }
        }
        let (short, long) = (run_running(SHORT, shards), run_running(LONG, shards));
        let more = long.saturating_sub(short);
        println!("{shards} shards, running: {more} more allocations in {} more events", LONG - SHORT);
        assert!(more <= (LONG - SHORT) / 1_000, "{shards} shards, running: {more} more allocations");
    }
}

/// What a run of a running aggregate allocated.
fn run_running(events: u64, shards: u32) -> u64 {
    let sink = NullSink::new();
    let counted = sink.clone();
    let job = Job::new("running", move |flow| {
        flow.source(Ads { events })
            .key_by(|ad| ad.ad)
            .running(Count)
            .filter(|row| row.value % 2 == 0)
            .map(|row: &Updated<u64, u64>| row.value)
            .sink(sink.clone());
    });
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let report = job.shards(shards).run().unwrap();
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(report.measured.events_in, events);
    assert!(counted.rows().abs_diff(events / 2) <= 500, "every second count of a thousand ads");
    allocations
}
