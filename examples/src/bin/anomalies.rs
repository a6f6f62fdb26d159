//! Readings that a sensor's past makes unlikely, judged while it is learned: `cargo run -p millstream-examples --bin anomalies`
//!
//! ```text
//! readings ─▶ key by sensor ─▶ what is believed of the sensor, asked and then brought up to date ─▶ surprises
//! ```
//!
//! The belief is a normal-gamma distribution over mean and precision, which a reading updates exactly (Murphy, *Conjugate
//! Bayesian analysis of the Gaussian distribution*, 2007, section 3). Old readings fade, so that a drift is no surprise.
#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use millstream::state::{KeyedState, Value};
use millstream::{Items, Job};
use millstream_connectors::memory::MemorySink;

/// So many times the expected spread is a surprise.
const SURPRISE: f64 = 6.0;
const LEARN: f64 = 30.0; // readings before which nothing surprises
const FADES: f64 = 0.99; // what a reading counts when the next one comes

#[millstream::event]
#[derive(Clone, Copy)]
struct Reading {
    sensor: u64,
    number: u64,
    celsius: f64,
}

#[millstream::event]
#[derive(Clone, Copy)]
struct Belief {
    mean: f64,
    weight: f64,
    shape: f64,
    rate: f64,
}

impl Belief {
    /// Of a sensor that nothing is known of.
    const VAGUE: Belief = Belief { mean: 0.0, weight: 1e-3, shape: 0.5, rate: 0.5 };

    /// How many times the expected spread a reading is off.
    fn surprise(&self, celsius: f64) -> f64 {
        let scale = (self.rate * (self.weight + 1.0) / (self.shape * self.weight)).sqrt();
        (celsius - self.mean).abs() / scale
    }

    fn learn(&mut self, celsius: f64) {
        let (weight, shape, rate) = (self.weight * FADES, self.shape * FADES, self.rate * FADES);
        let off = celsius - self.mean;
        *self = Belief {
            mean: self.mean + off / (weight + 1.0),
            weight: weight + 1.0,
            shape: shape + 0.5,
            rate: rate + weight * off * off / (2.0 * (weight + 1.0)),
        };
    }
}

#[derive(KeyedState)]
struct Sensor {
    belief: Value<Belief>,
}

/// Ten sensors, each with a spread of its own, slowly warmer; some readings of sensor 4 are off.
fn readings() -> Vec<Reading> {
    let noise = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1 << 24) - 0.5;
    let reading = |n: u64| {
        let (sensor, number) = (n % 10, n / 10);
        let is_off = sensor == 4 && number > 0 && number.is_multiple_of(500);
        let own = 15.0 + sensor as f64 * 2.0 + noise(n) * (1.0 + sensor as f64 / 5.0);
        Reading { sensor, number, celsius: own + number as f64 / 1e3 + if is_off { 9.0 } else { 0.0 } }
    };
    (0..30_000).map(reading).collect()
}

fn main() -> anyhow::Result<()> {
    let surprises = MemorySink::new();
    let sink = surprises.clone();
    Job::new("anomalies", move |flow| {
        let by_sensor = flow.source(Items::of(readings())).key_by(|reading| reading.sensor);
        let judged = by_sensor.flat_map_with_state(|sensor: &mut Sensor, reading: &Reading| {
            let mut belief = sensor.belief.get().copied().unwrap_or(Belief::VAGUE);
            let is_surprise = belief.weight > LEARN && belief.surprise(reading.celsius) > SURPRISE;
            if !is_surprise {
                belief.learn(reading.celsius);
            }
            sensor.belief.set(belief);
            is_surprise.then_some((*reading, belief.mean))
        });
        judged.named("beliefs").sink(sink.clone());
    })
    .run()?;
    for (Reading { sensor, number, celsius }, expected) in surprises.rows() {
        println!("sensor {sensor}, reading {number}: {celsius:.1} °C where about {expected:.1} were expected");
    }
    println!("{} surprises", surprises.len());
    Ok(())
}
