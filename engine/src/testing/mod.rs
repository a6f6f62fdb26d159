//! The test kit: jobs and operators driven by hand, one thread, no wall clock. Behind the feature `testing`.
//!
//! ```text
//! Pushed ─▶ the job's own chains, exchanges, tables ─▶ Collected
//!    ▲                    │     ▲
//!  rows, watermarks    snapshot restore (same or other number of shards)
//! ```
//!
//! Nothing here is a second implementation: a [`TestJob`] turns the shards that [`Job`](crate::Job) runs, and snapshots are
//! checkpoints in a store. What is missing is what makes two runs differ: threads, and a clock that goes on by itself.
//!
//! | | |
//! |---|---|
//! | [`TestJob`] | a whole job: settle, wall time, snapshot, restore, what state is left |
//! | [`Operator`] | the short form for one stream in and one out |
//! | [`Pushed`] | what goes in: rows, watermarks, idleness, an end |
//! | [`Collected`] | what comes out: all of it as it comes, or what is committed |
//! | [`Alignment`], [`WatermarkInputs`], [`SplitWatermarks`], [`windows_of`] | the engine's pure rules of time, to be asked directly |
//!
//! A process function that tells of silence, with a restore on three shards in the middle:
//!
//! ```
//! use millstream::state::{KeyedState, Value};
//! use millstream::testing::Operator;
//! use millstream::{BoxError, Process, ProcessContext, Timer, Timestamp};
//!
//! #[derive(KeyedState)]
//! struct Last {
//!     at: Value<i64>,
//! }
//!
//! struct Silence;
//!
//! impl Process<u64, u64> for Silence {
//!     type State = Last;
//!     type Out = u64;
//!
//!     fn on_event(&mut self, last: &mut Last, _: u64, cx: &mut ProcessContext<'_, u64, u64>) -> Result<(), BoxError> {
//!         last.at.set(cx.timestamp().0);
//!         let silent_at = cx.timestamp().plus_ms(100);
//!         cx.timers().event(silent_at);
//!         Ok(())
//!     }
//!
//!     fn on_timer(&mut self, last: &mut Last, at: Timer, cx: &mut ProcessContext<'_, u64, u64>) -> Result<(), BoxError> {
//!         if last.at.get().is_some_and(|last| at == Timer::Event(Timestamp(last + 100))) {
//!             last.at.clear();
//!             cx.emit(*cx.key());
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let mut silence = Operator::keyed(|card: &u64| *card, || Silence)?;
//! silence.push(7, Timestamp(1_000))?;
//! silence.push(7, Timestamp(1_050))?;
//! let snapshot = silence.snapshot()?;
//! silence.restore(&snapshot, 3)?;
//! silence.watermark(Timestamp(1_100))?;
//! assert!(silence.take().is_empty());
//! silence.watermark(Timestamp(1_150))?;
//! assert_eq!(silence.take(), [7]);
//! assert!(silence.state_is_empty());
//! # Ok::<(), millstream::JobError>(())
//! ```

mod collected;
mod job;
mod operator;
mod pushed;
mod rules;

pub use self::collected::{Collected, CollectedWriter};
pub use self::job::{Entries, Snapshot, TestJob};
pub use self::operator::Operator;
pub use self::pushed::{Pushed, PushedRows};
pub use self::rules::{Aligned, Alignment, Definition, SplitWatermarks, Told, WatermarkInputs, windows_of};
