//! A running job in the hands of the program that started it, and what it reports at its end.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{RecvError, Sender, bounded};
use hdrhistogram::Histogram;
use millstream_state::{Restored, SavepointReport, SnapshotSize};

use super::fault::JobError;
use super::metrics::{ShardCounters, ShardReport};
use super::savepoints::Request;
use super::time_report::{Reach, WatermarkReport};
use crate::road::sink::Guarantee;
use crate::time::Nanos;

/// A job that runs. Dropping the handle lets it run on.
#[derive(Debug)]
pub struct JobHandle {
    pub(crate) lead: JoinHandle<Result<JobReport, JobError>>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) counters: Arc<[Arc<ShardCounters>]>,
    pub(crate) savepoints: Sender<Request>,
    pub(crate) reach: Reach,
    pub(crate) address: Option<String>,
}

impl JobHandle {
    /// Asks the job to stop with a last checkpoint. Returns at once; see [`wait`](JobHandle::wait).
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.lead.thread().unpark();
    }

    /// Makes a savepoint at `place`, a directory or an object store's prefix that nothing has yet: takes a checkpoint now,
    /// waits until it is complete and all sinks have committed it, and makes the savepoint of that, beside the job, which
    /// goes on. Returns when the savepoint is durable.
    ///
    /// Where the job restarts meanwhile, the savepoint is made of a checkpoint after that.
    ///
    /// # Errors
    /// When the checkpoint failed, the savepoint cannot be written, or the job keeps no checkpoints or has ended.
    pub fn savepoint(&self, place: impl Into<PathBuf>) -> Result<SavepointReport, JobError> {
        self.ask_for_savepoint(place.into(), false)
    }

    /// The same, and stops the job with it: its last checkpoint is the savepoint's. See [`wait`](JobHandle::wait).
    ///
    /// # Errors
    /// As [`savepoint`](JobHandle::savepoint); the job stops all the same.
    pub fn stop_with_savepoint(&self, place: impl Into<PathBuf>) -> Result<SavepointReport, JobError> {
        self.ask_for_savepoint(place.into(), true)
    }

    fn ask_for_savepoint(&self, place: PathBuf, stops: bool) -> Result<SavepointReport, JobError> {
        let (answer, made) = bounded(1);
        let ended = |_| JobError::Savepoint("the job has ended".to_owned());
        self.savepoints.send(Request { place, stops, answer }).map_err(|_| ended(RecvError))?;
        self.lead.thread().unpark();
        made.recv().map_err(ended)?.map_err(JobError::Savepoint)
    }

    /// Says how far time has come, and which split at which operator on which shard holds it back; print it, or ask it. It
    /// is empty while the job restarts and after its end.
    ///
    /// ```no_run
    /// # fn of(handle: &millstream::JobHandle) {
    /// println!("{}", handle.explain_watermark());
    /// // time is held back by split "ads-0003" at operator "event_time-1" on shard 0, which has come to 1700000000000 ms
    /// # }
    /// ```
    #[must_use]
    pub fn explain_watermark(&self) -> WatermarkReport {
        self.reach.explain_watermark()
    }

    /// Where the other processes of the job reach this one, `host:port`; of a job in one process, none.
    #[must_use]
    pub fn cluster_address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// Whether the job has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.lead.is_finished()
    }

    /// Rows that sources have taken in since the last restart.
    #[must_use]
    pub fn events_in(&self) -> u64 {
        self.counters.iter().map(|shard| shard.events_in()).sum()
    }

    /// The counters of every shard.
    #[must_use]
    pub fn counters(&self) -> &[Arc<ShardCounters>] {
        &self.counters
    }

    /// Waits for the job's end.
    ///
    /// # Errors
    /// When it failed for good.
    pub fn wait(self) -> Result<JobReport, JobError> {
        match self.lead.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// What a job did.
#[derive(Clone, Debug)]
pub struct JobReport {
    /// The job's name.
    pub job: String,
    /// Shards it ran on.
    pub shards: u32,
    /// Whether this process led the job at its end: what follows is then of all shards, otherwise of this process's.
    pub led: bool,
    /// What its sinks promise together.
    pub guarantee: Guarantee,
    /// From the first event taken to the last result committed, of the last attempt.
    pub elapsed: Duration,
    /// The epoch the last attempt started from; zero: from the beginning.
    pub restored_epoch: u64,
    /// What that took, where it started from a checkpoint.
    pub restored: Option<RestoreReport>,
    /// Whether it was asked to stop before its input had ended.
    pub stopped: bool,
    /// Why it was restarted, time after time.
    pub restarts: Vec<String>,
    /// Its checkpoints.
    pub checkpoints: CheckpointReport,
    /// What its shards measured, all together.
    pub measured: ShardReport,
}

/// What a start from a checkpoint took.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RestoreReport {
    /// Shards that made the checkpoint.
    pub shards_before: u32,
    /// Shards that go on from it.
    pub shards: u32,
    /// From the start of the shards until all of them had their state and their sinks were clean.
    pub took: Duration,
    /// What was read and put in place, all shards and operators together. A snapshot file that several shards needed was
    /// read by each of them.
    pub state: Restored,
}

impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RestoreReport { shards_before, shards, took, state } = self;
        write!(
            f,
            "restored from {shards_before} to {shards} shards in {:.3} s: {} bytes read, {} entries; {} pages taken over \
             whole, {} entries moved by key",
            took.as_secs_f64(),
            state.bytes_read,
            state.entries,
            state.pages_moved,
            state.entries_moved
        )
    }
}

/// What checkpoints took.
#[derive(Clone, Debug)]
pub struct CheckpointReport {
    /// Made durable.
    pub completed: u64,
    /// Given up, with the reasons.
    pub failed: Vec<String>,
    /// Found damaged when the job was to go on from them, so that it went on from one before: each with what is wrong.
    pub rejected: Vec<String>,
    /// From the order to the durable manifest, µs.
    pub duration_us: Histogram<u64>,
    /// Bytes of snapshot files written.
    pub bytes_total: u64,
    /// The most that one checkpoint wrote.
    pub bytes_max: u64,
    /// The newest of them one by one, the oldest first, at most [`LISTED_MAX`](CheckpointReport::LISTED_MAX).
    pub newest: VecDeque<CheckpointFigures>,
}

/// What one checkpoint took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointFigures {
    /// The epoch it ends.
    pub epoch: u64,
    /// When its barrier was ordered.
    pub begun: Nanos,
    /// From then to the durable manifest, µs.
    pub duration_us: u64,
    /// Bytes of snapshot files written.
    pub bytes: u64,
    /// What they hold.
    pub snapshot: SnapshotSize,
}

impl CheckpointReport {
    /// Checkpoints that are told one by one: an hour of them at one every three seconds, a minute at twenty a second.
    pub const LISTED_MAX: usize = 1_200;

    pub(crate) fn add(&mut self, figures: CheckpointFigures) {
        self.completed += 1;
        self.duration_us.saturating_record(figures.duration_us);
        self.bytes_total += figures.bytes;
        self.bytes_max = self.bytes_max.max(figures.bytes);
        if self.newest.len() == Self::LISTED_MAX {
            self.newest.pop_front();
        }
        self.newest.push_back(figures);
    }
}

impl JobReport {
    /// Events per second over the last attempt.
    #[must_use]
    pub fn events_per_s(&self) -> f64 {
        self.measured.events_in as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for JobReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobReport { job, shards, measured, checkpoints, .. } = self;
        writeln!(
            f,
            "{job}: {} events in {:.3} s on {shards} shards, {:.2} M events/s, {}",
            measured.events_in,
            self.elapsed.as_secs_f64(),
            self.events_per_s() / 1e6,
            self.guarantee
        )?;
        write!(
            f,
            "{} checkpoints, p50 {:.1} ms, max {:.1} ms, {} bytes; {} failed; {} restarts; {} late, {} skipped",
            checkpoints.completed,
            checkpoints.duration_us.value_at_quantile(0.5) as f64 / 1e3,
            checkpoints.duration_us.max() as f64 / 1e3,
            checkpoints.bytes_total,
            checkpoints.failed.len(),
            self.restarts.len(),
            measured.late,
            measured.skipped
        )?;
        if measured.state_bytes_max > 0 {
            let megabytes = measured.state_bytes_max as f64 / 1e6;
            write!(f, "; keyed state up to {megabytes:.1} MB, {} major faults", measured.major_faults)?;
        }
        match &self.restored {
            Some(restored) => write!(f, "\n{restored}"),
            None => Ok(()),
        }
    }
}
