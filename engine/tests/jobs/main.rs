//! Whole jobs on shards of their own, through failures, stops and other numbers of shards. One program: to link each of these
//! by itself would take longer than to run them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod arrivals;
mod clock;
mod event;
mod job;
mod joins;
mod keyed_state;
mod process;
mod recovery;
mod refusals;
mod requests;
mod rescale;
mod running;
mod sales;
mod savepoints;
mod schema;
mod time;
mod triggers;
mod union;
mod windows;
