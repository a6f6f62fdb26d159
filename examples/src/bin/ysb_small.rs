//! The Yahoo streaming benchmark's query, small enough to read: `cargo run -p millstream-examples --bin ysb_small`
//!
//! ```text
//! ads shown, clicked, bought ─▶ keep views ─▶ join ad → campaign ─▶ key by campaign ─▶ 10 s windows ─▶ count
//! ```
//!
//! It also shows how a source is made: a [`Source`] opens splits; a [`Split`] is polled for batches, and its position is
//! where it is replayed from after a crash. For the real benchmark: `cargo run --release -- ysb`.
#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::time::Duration;

use millstream::{Count, Job, LookupTable, Polled, Source, SourceError, Split, Timestamp, Tumbling, Watermarks};
use millstream_connectors::memory::MemorySink;

const EVENTS: u64 = 3_000_000;

struct AdEvent {
    ad: u64,
    at_ms: i64,
    is_view: bool,
}

/// Event `i` is a function of `i` alone, a hundred to the millisecond: any position can be gone back to.
fn event(i: u64) -> AdEvent {
    let random = (i ^ (i >> 7)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    AdEvent { ad: random % 30, at_ms: (i / 100) as i64, is_view: (random >> 16).is_multiple_of(3) }
}

struct Events;

/// One split a shard: its share are the events `shard, shard + shards, …`.
impl Source for Events {
    type Batch = Vec<AdEvent>;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<AdEvent>>>>, SourceError> {
        Ok(vec![Box::new(Share { shard: u64::from(shard), stride: u64::from(shards), taken: 0 })])
    }

    fn describe(&self) -> String {
        format!("{EVENTS} ad events")
    }
}

struct Share {
    shard: u64,
    stride: u64,
    taken: u64,
}

impl Split for Share {
    type Batch = Vec<AdEvent>;

    fn name(&self) -> String {
        format!("share-{}", self.shard)
    }

    fn poll(&mut self, out: &mut Vec<AdEvent>, rows_max: usize) -> Result<Polled, SourceError> {
        let first = self.shard + self.taken * self.stride;
        out.extend((first..EVENTS).step_by(self.stride as usize).take(rows_max).map(event));
        self.taken += out.len() as u64;
        Ok(if out.is_empty() { Polled::End } else { Polled::Rows })
    }

    fn position(&self) -> u64 {
        self.taken
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.taken = position;
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let campaign_of = LookupTable::from_iter((0..30).map(|ad| (ad, ad % 3)));
    let counts = MemorySink::new();
    let sink = counts.clone();
    let report = Job::new("ysb-small", move |flow| {
        flow.source(Events)
            .filter(|event| event.is_view)
            .event_time(|event| Timestamp(event.at_ms), Watermarks::monotonic())
            .lookup(campaign_of.clone(), |event| event.ad, |_, campaign| *campaign)
            .key_by(|campaign| *campaign)
            .window(Tumbling::of(Duration::from_secs(10)))
            .aggregate(Count)
            .sink(sink.clone());
    })
    .shards(2)
    .run()?;

    let mut rows = counts.rows();
    rows.sort_by_key(|row| (row.window.start, row.key));
    println!("window      campaign     views");
    rows.iter().for_each(|row| println!("{:>5} s  {:>11}  {:>8}", row.window.start.0 / 1000, row.key, row.value));
    println!("{report}");
    Ok(())
}
