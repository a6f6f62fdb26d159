//! Whole jobs on shards of their own, through failures, stops and other numbers of shards. Few programs: to link each of these
//! by itself would take longer than to run them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod clock;
mod event;
mod job;
mod joins;
mod requests;
mod running;
mod sales;
mod time;
mod triggers;
mod union;
mod windows;
