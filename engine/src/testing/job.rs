//! A whole job under test.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_state::{Epoch, Manifest, TemporaryPlace};

use crate::epoch::Barrier;
use crate::job::config::Config;
use crate::job::flow::{Factory, Flow, plan};
use crate::job::graph::Plan;
use crate::road::timers::WallTime;
use crate::run::by_hand::{Attempt, Start};
use crate::run::fault::JobError;
use crate::run::time_report::WatermarkReport;
use crate::time::Clock;

/// What the job is called in its snapshots.
const NAME: &str = "under test";

/// A job whose shards are turned by the test, on its own thread: the same job gives the same rows in the same order.
///
/// Nothing moves by itself. What was pushed is handled by [`settle`](TestJob::settle), wall time stands where
/// [`processing_time`](TestJob::processing_time) put it, 0 ms at first, and checkpoints are taken by
/// [`snapshot`](TestJob::snapshot) alone. Rows are not folded before an exchange unless
/// [`with_config`](TestJob::with_config) says so.
///
/// A method that fails has found the job's own failure, with the operator's name: an error or panic of user code. The job
/// can then still be restored.
///
/// ```
/// use std::time::Duration;
/// use millstream::testing::{Collected, Pushed, TestJob};
/// use millstream::{Sum, Timestamp, Tumbling};
///
/// let (input, out) = (Pushed::<(u64, i64)>::new(), Collected::new());
/// let (pushed, collected) = (input.clone(), out.clone());
/// let mut job = TestJob::new(2, move |flow| {
///     flow.pushed(&pushed)
///         .key_by(|(shop, _)| *shop)
///         .window(Tumbling::of(Duration::from_millis(10)))
///         .aggregate(Sum::of(|(_, cents): &(u64, i64)| *cents))
///         .map(|window| (window.key, window.value))
///         .sink(collected.clone());
/// })?;
/// input.push((7, 100), Timestamp(3));
/// let snapshot = job.snapshot()?;
/// job.restore(&snapshot, 3)?;
/// input.push((7, 50), Timestamp(9));
/// input.watermark(Timestamp(9));
/// job.settle()?;
/// assert_eq!(out.take(), [(7, 150)]);
/// assert!(job.state_is_empty());
/// # Ok::<(), millstream::JobError>(())
/// ```
pub struct TestJob {
    factory: Factory,
    plan: Arc<Plan>,
    config: Config,
    clock: Clock,
    place: TemporaryPlace,
    /// The last epoch that was begun.
    epoch: u64,
    /// None once it has failed.
    attempt: Option<Attempt>,
    failure: String,
    ended: bool,
}

/// A checkpoint of a [`TestJob`]. It can be restored as often as is wanted, on any number of shards; its files go away with
/// the last of the job and its snapshots.
#[derive(Clone, Debug)]
pub struct Snapshot {
    manifest: Arc<Manifest>,
    _place: TemporaryPlace,
}

/// What one state of an operator holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entries {
    /// The operator's name.
    pub operator: String,
    /// The state's.
    pub state: String,
    /// Its entries. One whose time to live is over counts until it has been cleared away.
    pub count: usize,
}

impl std::fmt::Debug for TestJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TestJob on {} shards, epoch {}", self.config.shards, self.epoch)
    }
}

impl TestJob {
    /// A job on so many shards; `flow` is what [`Job::new`](crate::Job::new) takes.
    ///
    /// # Errors
    /// As [`Job::start`](crate::Job::start), and where a temporary directory cannot be made.
    pub fn new(shards: u32, flow: impl Fn(&Flow) + Send + Sync + 'static) -> Result<TestJob, JobError> {
        TestJob::with_config(shards, |_| {}, flow)
    }

    /// The same with other settings: folding before an exchange, an idle timeout. Those of threads, checkpoints and
    /// restarts mean nothing here.
    ///
    /// # Errors
    /// As [`new`](TestJob::new).
    pub fn with_config(
        shards: u32,
        change: impl FnOnce(&mut Config),
        flow: impl Fn(&Flow) + Send + Sync + 'static,
    ) -> Result<TestJob, JobError> {
        let clock = Clock::held(0);
        let mut config = Config { combine: false, clock: clock.clone(), ..Config::default() };
        change(&mut config);
        config.clock = clock.clone();
        let factory: Factory = Arc::new(flow);
        let plan = Arc::new(plan(&factory)?);
        let place = TemporaryPlace::new().map_err(|error| JobError::Unusable(error.to_string()))?;
        let mut job = TestJob {
            factory,
            plan,
            config,
            clock,
            place,
            epoch: 0,
            attempt: None,
            failure: String::new(),
            ended: false,
        };
        job.begin(shards, None)?;
        Ok(job)
    }

    fn begin(&mut self, shards: u32, restored: Option<Arc<Manifest>>) -> Result<(), JobError> {
        if shards == 0 {
            return Err(JobError::Unusable("a job runs on one shard at least".to_owned()));
        }
        self.attempt = None;
        self.failure.clear();
        self.ended = false;
        self.config.shards = shards;
        let start = Start {
            factory: self.factory.clone(),
            plan: self.plan.clone(),
            config: Arc::new(self.config.clone()),
            store: self.place.store().clone(),
            restored,
        };
        self.attempt = Some(Attempt::start(start)?);
        self.settle()
    }

    /// Handles all that was pushed, until nothing moves any more.
    ///
    /// # Errors
    /// When the job fails, or does not come to rest.
    pub fn settle(&mut self) -> Result<(), JobError> {
        self.attempt(Attempt::settle)
    }

    /// Sets wall time, as [`Job`](crate::Job) and its operators see it, and lets timers fire that are due.
    ///
    /// # Errors
    /// When the time lies before the one that it is, and as [`settle`](TestJob::settle).
    pub fn processing_time(&mut self, now: WallTime) -> Result<(), JobError> {
        // What came before came at the time it was.
        self.settle()?;
        let was = self.clock.wall_ms();
        if now.0 < was {
            return Err(JobError::Unusable(format!("wall time was {was} ms already, and cannot be set back to {now}")));
        }
        // From one end of time to the other is further than one step.
        let half = now.0 / 2 - was / 2;
        self.clock.advance_ms(half);
        self.clock.advance_ms(now.0 - self.clock.wall_ms());
        self.settle()
    }

    /// Wall time as the job sees it.
    #[must_use]
    pub fn now(&self) -> WallTime {
        WallTime(self.clock.wall_ms())
    }

    /// Handles all that was pushed, takes a checkpoint, and commits the sinks' output up to it.
    ///
    /// # Errors
    /// When the input has ended, and as [`settle`](TestJob::settle).
    pub fn snapshot(&mut self) -> Result<Snapshot, JobError> {
        self.settle()?;
        if self.ended {
            return Err(JobError::Unusable("the input has ended, and the last checkpoint with it".to_owned()));
        }
        self.checkpoint(false)
    }

    fn checkpoint(&mut self, last: bool) -> Result<Snapshot, JobError> {
        self.epoch += 1;
        let barrier = Barrier { epoch: Epoch(self.epoch), last };
        let manifest = self.attempt(|attempt| attempt.checkpoint(NAME, barrier))?;
        Ok(Snapshot { manifest: Arc::new(manifest), _place: self.place.clone() })
    }

    /// Throws the operators away and restores the snapshot into fresh ones on so many shards. What was pushed behind the
    /// snapshot is read again, as a real source would.
    ///
    /// # Errors
    /// When the snapshot is another job's, and as [`new`](TestJob::new).
    pub fn restore(&mut self, snapshot: &Snapshot, shards: u32) -> Result<(), JobError> {
        if snapshot.manifest.graph_fingerprint != self.plan.fingerprint() {
            return Err(JobError::Mismatch(format!(
                "the snapshot is of another job. It was of:\n{}This one is:\n{}",
                snapshot.manifest.graph, self.plan
            )));
        }
        self.begin(shards, Some(snapshot.manifest.clone()))
    }

    /// Ends every pushed input, handles what that leads to, and commits it with a last checkpoint.
    ///
    /// # Errors
    /// When another source has not come to its end, and as [`settle`](TestJob::settle).
    pub fn end_of_input(&mut self) -> Result<(), JobError> {
        if self.ended {
            return Ok(());
        }
        self.settle()?;
        self.attempt(|attempt| {
            attempt.end_of_input();
            attempt.settle()
        })?;
        if !self.attempt.as_ref().is_some_and(Attempt::input_has_ended) {
            return Err(JobError::Unusable(
                "a source of the job, beside those that a test pushes into, goes on".to_owned(),
            ));
        }
        self.checkpoint(true)?;
        self.ended = true;
        Ok(())
    }

    /// Whether no operator holds an entry of keyed state or a timer, on any shard.
    pub fn state_is_empty(&mut self) -> bool {
        self.entries().is_empty()
    }

    /// The states that hold anything, timers among them, and how much; all shards together.
    pub fn entries(&mut self) -> Vec<Entries> {
        let mut entries = BTreeMap::<(String, String), usize>::new();
        for (state, count) in self.attempt.as_mut().map_or_else(Vec::new, Attempt::entries) {
            *entries.entry(state).or_default() += count;
        }
        let held = entries.into_iter().filter(|(_, count)| *count > 0);
        held.map(|((operator, state), count)| Entries { operator, state, count }).collect()
    }

    /// Rows that came too late for all their windows, since the job began.
    pub fn late(&mut self) -> u64 {
        self.attempt.as_mut().map_or(0, Attempt::late)
    }

    /// How far time has come where rows are given theirs; see
    /// [`JobHandle::explain_watermark`](crate::JobHandle::explain_watermark).
    pub fn explain_watermark(&mut self) -> WatermarkReport {
        let none = WatermarkReport { operators: Vec::new() };
        self.attempt.as_mut().map_or(none, Attempt::explain_watermark)
    }

    fn attempt<R>(&mut self, work: impl FnOnce(&mut Attempt) -> Result<R, String>) -> Result<R, JobError> {
        let failed = |cause: &String| JobError::Failed { cause: cause.clone(), restarts: 0 };
        let Some(attempt) = &mut self.attempt else { return Err(failed(&self.failure)) };
        work(attempt).map_err(|why| {
            self.attempt = None;
            self.failure = why;
            failed(&self.failure)
        })
    }
}
