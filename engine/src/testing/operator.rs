//! The short form: one operator, or a chain of them, between one input and one output.

use millstream_state::Key;
use millstream_state::schema::Described;

use super::{Collected, Pushed, PushedRows, Snapshot, TestJob};
use crate::job::stream::Stream;
use crate::road::chain::Chain;
use crate::road::process::Process;
use crate::road::stateful::KeyedRow;
use crate::road::timers::WallTime;
use crate::run::fault::JobError;
use crate::time::Timestamp;

/// One stream in, one out. Everything that is pushed is handled at once.
///
/// ```
/// use std::time::Duration;
/// use millstream::testing::{Collected, Operator};
/// use millstream::{Count, Late, Timestamp, Tumbling};
///
/// let late = Collected::<Late<u64, ()>>::new();
/// let late_rows = late.clone();
/// let mut counts = Operator::of(move |visits| {
///     visits
///         .key_by(|visitor: &u64| *visitor)
///         .window(Tumbling::of(Duration::from_millis(10)))
///         .late_to(late_rows.clone())
///         .aggregate(Count)
///         .map(|window| (window.key, window.value))
/// })?;
/// counts.push(7, Timestamp(3))?;
/// counts.watermark(Timestamp(9))?;
/// counts.push(7, Timestamp(4))?;
/// assert_eq!(counts.take(), [(7, 1)]);
/// assert_eq!(late.take().len(), 1);
/// assert!(counts.state_is_empty());
/// # Ok::<(), millstream::JobError>(())
/// ```
#[derive(Debug)]
pub struct Operator<T, O> {
    input: Pushed<T>,
    out: Collected<O>,
    job: TestJob,
}

impl<T: Clone + Send + 'static, O: Clone + Send + 'static> Operator<T, O> {
    /// Whatever `operators` makes of the stream of pushed rows, on one shard. Side outputs are ended with a [`Collected`] of
    /// their own in there.
    ///
    /// # Errors
    /// As [`TestJob::new`].
    pub fn of<C: Chain<Out = O>>(
        operators: impl Fn(Stream<PushedRows<T>>) -> Stream<C> + Send + Sync + 'static,
    ) -> Result<Operator<T, O>, JobError> {
        let (input, out) = (Pushed::new(), Collected::new());
        let (pushed, collected) = (input.clone(), out.clone());
        let job = TestJob::new(1, move |flow| operators(flow.pushed(&pushed)).sink(collected.clone()))?;
        Ok(Operator { input, out, job })
    }

    /// A process function over rows of a key; `process` makes one for each shard.
    ///
    /// # Errors
    /// As [`TestJob::new`].
    pub fn keyed<K, P>(
        key: impl Fn(&T) -> K + Clone + Send + Sync + 'static,
        process: impl Fn() -> P + Send + Sync + 'static,
    ) -> Result<Operator<T, O>, JobError>
    where
        T: KeyedRow,
        K: Key + Described,
        P: Process<K, T, Out = O>,
    {
        Operator::of(move |rows| rows.key_by(key.clone()).process(process()))
    }

    /// A row with its event time.
    ///
    /// # Errors
    /// As [`TestJob::settle`], like all that follow.
    pub fn push(&mut self, row: T, at: Timestamp) -> Result<(), JobError> {
        self.input.push(row, at);
        self.job.settle()
    }

    /// No more rows at or before `at` are to be expected.
    ///
    /// # Errors
    /// As [`push`](Operator::push).
    pub fn watermark(&mut self, at: Timestamp) -> Result<(), JobError> {
        self.input.watermark(at);
        self.job.settle()
    }

    /// Sets wall time; timers that are due fire.
    ///
    /// # Errors
    /// As [`TestJob::processing_time`].
    pub fn processing_time(&mut self, now: WallTime) -> Result<(), JobError> {
        self.job.processing_time(now)
    }

    /// Takes a checkpoint.
    ///
    /// # Errors
    /// As [`TestJob::snapshot`].
    pub fn snapshot(&mut self) -> Result<Snapshot, JobError> {
        self.job.snapshot()
    }

    /// Throws the operators away and restores the snapshot into fresh ones on so many shards.
    ///
    /// # Errors
    /// As [`TestJob::restore`].
    pub fn restore(&mut self, snapshot: &Snapshot, shards: u32) -> Result<(), JobError> {
        self.job.restore(snapshot, shards)
    }

    /// The input ends: what waits for more, waits no more.
    ///
    /// # Errors
    /// As [`TestJob::end_of_input`].
    pub fn end_of_input(&mut self) -> Result<(), JobError> {
        self.job.end_of_input()
    }

    /// The rows that came out since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<O> {
        self.out.take()
    }

    /// What comes out, in both its views.
    #[must_use]
    pub fn out(&self) -> &Collected<O> {
        &self.out
    }

    /// What goes in, for idleness and batches; [`job`](Operator::job) then has to be settled.
    #[must_use]
    pub fn input(&self) -> &Pushed<T> {
        &self.input
    }

    /// Whether no keyed state and no timer is left.
    pub fn state_is_empty(&mut self) -> bool {
        self.job.state_is_empty()
    }

    /// The job that it is: for everything else.
    pub fn job(&mut self) -> &mut TestJob {
        &mut self.job
    }
}
