//! Two readings of a sensor that differ by more than 20 degrees within a minute: `cargo run -p millstream-examples --bin swings`
//!
//! ```text
//! readings, up to 5 s out of order ─▶ event time ─▶ key by sensor ─▶ process: each with those of the minute ─▶ swings
//! ```
//!
//! No window finds them all: one of a minute cuts pairs apart. A process function keeps each reading until nothing can come
//! any more that lies within a minute of it, which an event-time timer tells. Readings that overtake others are no matter.
#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::time::Duration;

use millstream::state::{KeyedState, Map};
use millstream::{BoxError, Items, Job, Process, ProcessContext, Timer, Timestamp, Watermarks};
use millstream_connectors::memory::MemorySink;

const MINUTE_MS: i64 = 60_000;
const DEGREES: f64 = 20.0;

#[millstream::event]
#[derive(Clone, Copy)]
struct Reading {
    sensor: u64,
    at_ms: i64,
    celsius: f64,
}

#[derive(KeyedState)]
struct Sensor {
    /// By time, those that another may yet be compared with.
    celsius: Map<i64, f64>,
}

/// A sensor, and time and temperature of two readings, the earlier first.
type Swing = (u64, [(i64, f64); 2]);
type Cx<'a> = ProcessContext<'a, u64, Swing>;

struct Swings;

impl Process<u64, Reading> for Swings {
    type State = Sensor;
    type Out = Swing;

    fn on_event(&mut self, sensor: &mut Sensor, reading: Reading, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let Reading { at_ms, celsius, .. } = reading;
        for (other_ms, other) in sensor.celsius.iter() {
            if (other_ms - at_ms).abs() <= MINUTE_MS && (other - celsius).abs() > DEGREES {
                let mut pair = [(*other_ms, *other), (at_ms, celsius)];
                pair.sort_by_key(|(at_ms, _)| *at_ms);
                cx.emit((reading.sensor, pair));
            }
        }
        sensor.celsius.insert(at_ms, celsius);
        cx.timers().event(Timestamp(at_ms + MINUTE_MS));
        Ok(())
    }

    fn on_timer(&mut self, sensor: &mut Sensor, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        sensor.celsius.remove(&(cx.timestamp().0 - MINUTE_MS));
        Ok(())
    }
}

/// A reading every ten seconds from each of 50 sensors, all slowly warmer; sensor 3 has a window opened for a while.
fn readings() -> Vec<Reading> {
    let all = (0..30_000_i64).map(|n| {
        let (sensor, at_ms) = ((n % 50) as u64, n / 50 * 10_000 + n % 50);
        let is_open = sensor == 3 && (1_000_000..1_020_000).contains(&at_ms);
        let celsius = 18.0 + at_ms as f64 / 1_000_000.0 - if is_open { 25.0 } else { 0.0 };
        Reading { sensor, at_ms, celsius }
    });
    let mut all: Vec<Reading> = all.collect();
    all.sort_by_key(|reading| reading.at_ms + reading.at_ms * 7919 % 5_000);
    all
}

fn main() -> anyhow::Result<()> {
    let swings = MemorySink::new();
    let sink = swings.clone();
    Job::new("swings", move |flow| {
        let timed = flow.source(Items::of(readings()));
        let timed = timed.event_time(|r| Timestamp(r.at_ms), Watermarks::bounded(Duration::from_secs(5)));
        timed.key_by(|reading| reading.sensor).process(Swings).named("swings").sink(sink.clone());
    })
    .run()?;
    let mut rows = swings.rows();
    rows.sort_by_key(|(sensor, [(before, _), (after, _)])| (*sensor, *before, *after));
    for (sensor, [(before, cold), (after, warm)]) in &rows {
        println!("sensor {sensor}: {cold:.1} °C at {} s, {warm:.1} °C at {} s", before / 1000, after / 1000);
    }
    println!("{} swings", rows.len());
    Ok(())
}
