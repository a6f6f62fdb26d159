//! The warmest and the mean reading of each sensor in each minute: `cargo run -p millstream-examples --bin sensors`
//!
//! ```text
//! readings, up to 2 s out of order ─▶ event time ─▶ key by place ─▶ minutes ─▶ (Max, Avg, Count) ─▶ table
//! ```
//!
//! Readings travel over a bad radio link and overtake one another. The watermark follows two seconds behind the newest
//! reading, so a minute is closed once nothing of it can be under way any more. A reading that came later still would not
//! be lost in silence: the report counts it.
#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::time::Duration;

use millstream::{Avg, Count, Items, Job, Max, Timestamp, Tumbling, Watermarks};
use millstream_connectors::memory::MemorySink;

/// Where a sensor hangs. `event(key)` makes a struct of plain fields something that rows can be keyed by.
#[millstream::event(key)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    floor: u16,
    room: u16,
}

/// Only what a fold needs crosses to another core, so the reading itself can be any type.
#[derive(Clone, Debug)]
struct Reading {
    at_ms: i64,
    place: Place,
    celsius: f64,
}

const MINUTES: i64 = 3;

/// One reading a second from each of four sensors, in the order in which they arrive.
fn readings() -> Vec<Reading> {
    let places = [(0, 1), (0, 2), (1, 1), (1, 2)].map(|(floor, room)| Place { floor, room });
    let mut arrivals = Vec::new();
    for second in 0..MINUTES * 60 {
        for (index, place) in places.into_iter().enumerate() {
            let at_ms = second * 1000 + index as i64;
            let delay_ms = (at_ms * 7919) % 2000;
            let celsius = 20.0 + f64::from(place.floor) + (second % 60) as f64 / 30.0;
            arrivals.push((at_ms + delay_ms, Reading { at_ms, place, celsius }));
        }
    }
    arrivals.sort_by_key(|(arrival_ms, _)| *arrival_ms);
    arrivals.into_iter().map(|(_, reading)| reading).collect()
}

fn main() -> anyhow::Result<()> {
    let table = MemorySink::new();
    let sink = table.clone();
    let report = Job::new("sensors", move |flow| {
        flow.source(Items::of(readings()))
            .event_time(|reading| Timestamp(reading.at_ms), Watermarks::bounded(Duration::from_secs(2)))
            .key_by(|reading| reading.place)
            .window(Tumbling::of(Duration::from_secs(60)))
            .aggregate((Max::of(|r: &Reading| r.celsius), Avg::of(|r: &Reading| r.celsius), Count))
            .named("per minute")
            .sink(sink.clone());
    })
    .shards(2)
    .run()?;

    let mut rows = table.rows();
    rows.sort_by_key(|row| (row.window.start, row.key));
    println!("minute  floor  room  warmest °C  mean °C  readings");
    for row in rows {
        let (warmest, mean, count) = row.value;
        let (minute, Place { floor, room }) = (row.window.start.0 / 60_000, row.key);
        println!("{minute:>6}  {floor:>5}  {room:>4}  {warmest:>10.1}  {mean:>7.2}  {count:>8}");
    }
    println!("{} readings came too late for their minute", report.measured.late);
    Ok(())
}
