//! Whole jobs and what they keep: states, process functions, restarts, savepoints, other numbers of shards, several processes, and what is refused.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod arrivals;
mod cluster;
mod keyed_state;
mod process;
mod recovery;
mod refusals;
mod rescale;
#[path = "../jobs/sales/mod.rs"]
mod sales;
mod savepoints;
mod schema;
