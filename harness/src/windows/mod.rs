//! Windows by themselves: many keys, a window kind, and nothing else in the job.
//!
//! ```text
//! source: key, time ─▶ event_time ─▶ key_by ─▶ window of a kind, or a process function with timers ─▶ tally
//! ```
//!
//! Event time goes with the event's number, so what comes out is known: the tally keeps a digest of all results, and the
//! slow answer, an array of counts per pane or session, must come to the same one.

mod oracle;
pub mod run;
mod source;
mod tally;
