//! The hand-written loop of the queries without state: the same events, made and looked at one by one, the same lines
//! summed up. What an engine can come near, and not pass.

use std::time::Duration;

use millstream::Clock;
use nexmark::event::Bid;

use super::queries::stateless as bids;
use super::query::Query;
use super::row::{Fields, LineSum};
use super::source::{Share, warm_up};
use crate::machine::pin;

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct ByHand {
    /// Events over all cores.
    pub events: u64,
    /// From the first core's start to the last one's end.
    pub took: Duration,
    /// The rows.
    pub rows: LineSum,
}

impl ByHand {
    /// The figure.
    #[must_use]
    pub fn events_per_s(&self) -> f64 {
        self.events as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Whether there is a loop of that query.
#[must_use]
pub fn is_there(query: Query) -> bool {
    loop_of(query).is_some()
}

/// Runs a query's loop, a share of the events on each core; none where there is no such loop.
#[must_use]
pub fn run(query: Query, events: u64, cores: &[usize]) -> Option<ByHand> {
    let share_of = loop_of(query)?;
    warm_up();
    let clock = Clock::system();
    let began = clock.now();
    let shares = cores.len() as u32;
    let sums: Vec<LineSum> = std::thread::scope(|scope| {
        let threads = cores.iter().zip(0..).map(|(core, share)| {
            scope.spawn(move || {
                // Where a core cannot be had alone, the loop is measured as it is.
                let _ = pin(*core);
                share_of(Share::new(events, share, shares))
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().expect("the loop does not panic")).collect()
    });
    let took = clock.now().since(began);
    Some(ByHand { events, took, rows: sums.into_iter().fold(LineSum::default(), LineSum::plus) })
}

fn loop_of(query: Query) -> Option<fn(Share) -> LineSum> {
    match query {
        Query::Q0 => Some(|share| sum_up(share, bids::as_it_is)),
        Query::Q1 => Some(|share| sum_up(share, bids::in_euros)),
        Query::Q2 => Some(|share| sum_up(share, bids::of_some_auctions)),
        Query::Q14 => Some(|share| sum_up(share, bids::calculated)),
        Query::Q21 => Some(|share| sum_up(share, bids::with_channel_id)),
        Query::Q22 => Some(|share| sum_up(share, bids::with_directories)),
        _ => None,
    }
}

fn sum_up<R: Fields>(share: Share, row: impl Fn(&Bid) -> Option<R>) -> LineSum {
    let (mut sum, mut line) = (LineSum::default(), Vec::new());
    for event in share {
        if let Some(row) = event.bid().and_then(&row) {
            line.clear();
            row.write(&mut line);
            sum.add(&line);
        }
    }
    sum
}
