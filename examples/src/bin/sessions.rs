//! Visits to a site: `cargo run -p millstream-examples --bin sessions`
//!
//! ```text
//! clicks ─▶ event time ─▶ key by visitor ─▶ sessions with a gap of half an hour ─▶ clicks and seconds of each visit
//! ```
//!
//! A visit is as long as its clicks make it: it ends when its visitor has been silent for half an hour. A click that comes
//! late and between two visits makes them one.
#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::time::Duration;

use millstream::{Count, Items, Job, Session, Timestamp, Watermarks};
use millstream_connectors::memory::MemorySink;

const MINUTE_MS: i64 = 60_000;
const GAP: Duration = Duration::from_secs(30 * 60);

#[millstream::event]
#[derive(Clone, Copy)]
struct Click {
    visitor: u64,
    at_ms: i64,
}

/// Clicks by visitor and minute. The one at minute 40 comes last, and joins the first two visits of visitor 1.
fn clicks() -> Vec<Click> {
    let minutes = [(1, 0), (2, 5), (1, 20), (1, 65), (2, 6), (1, 130), (2, 50), (1, 131), (1, 40)];
    minutes.map(|(visitor, minute)| Click { visitor, at_ms: minute * MINUTE_MS }).to_vec()
}

fn main() -> anyhow::Result<()> {
    let visits = MemorySink::new();
    let sink = visits.clone();
    Job::new("sessions", move |flow| {
        flow.source(Items::of(clicks()))
            .event_time(|click| Timestamp(click.at_ms), Watermarks::bounded(Duration::from_secs(2 * 3_600)))
            .key_by(|click| click.visitor)
            .window(Session::gap(GAP))
            .aggregate(Count)
            .named("visits")
            .map(|visit| {
                let window = visit.window.expect("a session has a beginning and an end");
                let end_ms = window.end.0 - GAP.as_millis() as i64;
                let [from, to] = [window.start.0, end_ms].map(|ms| ms / MINUTE_MS);
                format!("visitor {}: {} clicks from minute {from} to {to}", visit.key, visit.value)
            })
            .sink(sink.clone());
    })
    .run()?;
    let mut visits = visits.rows();
    visits.sort();
    println!("{}", visits.join("\n"));
    Ok(())
}
