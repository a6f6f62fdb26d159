//! An alert and a count from one program: `cargo run -p millstream-examples --bin early_alert`
//!
//! ```text
//! failures ─▶ event time ─▶ key by country ─▶ hours, early at ten events ─▶ alert | hourly count
//! ```
//!
//! The window is emitted early as soon as ten failures are in it, and once more, complete, when the hour is over. What a
//! result is, its pane says.
#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::time::Duration;

use millstream::{Count, Every, Fired, Items, Job, OnTime, Text, Timestamp, Timing, Tumbling, Watermarks};
use millstream_connectors::memory::MemorySink;

const HOUR: Duration = Duration::from_secs(3_600);

#[millstream::event]
#[derive(Clone, Copy)]
struct Failure {
    at_ms: i64,
    country: Text<8>,
}

/// Eleven failures in Germany within seconds, one in France, and one in Germany an hour later.
fn failures() -> Vec<Failure> {
    let german = (0..11).map(|second| ("de", second * 1_000));
    let others = [("fr", 11_000), ("de", 3_700_000)];
    let all = german.chain(others);
    all.map(|(country, at_ms)| Failure { at_ms, country: country.parse().expect("two letters fit") }).collect()
}

fn told(fired: &Fired<Text<8>, u64>) -> String {
    let hour = fired.window.map_or(0, |window| window.start.0 / 3_600_000);
    match fired.pane.timing {
        Timing::Early => format!("alert: {} failures in {} already", fired.value, fired.key),
        Timing::OnTime | Timing::Late => format!("hour {hour}: {} failures in {}", fired.value, fired.key),
    }
}

fn main() -> anyhow::Result<()> {
    let told_of = MemorySink::new();
    let sink = told_of.clone();
    Job::new("early_alert", move |flow| {
        flow.source(Items::of(failures()))
            .event_time(|failure| Timestamp(failure.at_ms), Watermarks::monotonic())
            .key_by(|failure| failure.country)
            .window(Tumbling::of(HOUR))
            .trigger(OnTime::new().early(Every::count(10)))
            .aggregate(Count)
            .named("hours")
            .map(told)
            .sink(sink.clone());
    })
    .run()?;
    println!("{}", told_of.rows().join("\n"));
    Ok(())
}
