//! What goes into a job under test: a log that the test appends to, and the task that reads it.
//!
//! The log stays with its handle. A snapshot files how far it was read, and a restored job reads it again from there, as a
//! partition of a real source: what was pushed behind the snapshot comes once more.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::epoch::Barrier;
use crate::job::flow::Flow;
use crate::job::graph::{Graph, NodeId};
use crate::job::stream::Stream;
use crate::road::chain::{Chain, Signal, SplitStanding, Stage};
use crate::road::dense::Dense;
use crate::road::has_time::{TimeKind, Timed, Untimed};
use crate::road::rows::BATCH_ROWS;
use crate::road::source::SourceError;
use crate::run::fault::{Fault, JobError};
use crate::run::task::{Cx, Origin, Progress, StateVisitor, Task};
use crate::time::Timestamp;

/// Slices of deferred work done per turn, before input; as a source's.
const SLICES_PER_TURN: usize = 16;
/// Rows and marks taken per turn.
const ITEMS_PER_TURN: usize = 64;
/// What the one split of a pushed input is called.
const SPLIT: &str = "pushed";

/// An input that a test pushes rows and marks into. Clones are handles to the same input.
///
/// Rows enter on the first shard, in the order in which they were pushed, each as a batch of its own: what is behind an
/// exchange is spread over the shards by its key.
///
/// ```
/// use millstream::Timestamp;
/// use millstream::testing::{Collected, Pushed, TestJob};
///
/// let (input, out) = (Pushed::<u64>::new(), Collected::<u64>::new());
/// let (pushed, collected) = (input.clone(), out.clone());
/// let mut job = TestJob::new(1, move |flow| flow.pushed(&pushed).filter(|n| n % 2 == 0).sink(collected.clone()))?;
/// input.push(1, Timestamp(5));
/// input.push(2, Timestamp(6));
/// job.settle()?;
/// assert_eq!(out.take(), [2]);
/// # Ok::<(), millstream::JobError>(())
/// ```
pub struct Pushed<T> {
    log: Arc<Mutex<Vec<Item<T>>>>,
}

#[derive(Clone)]
enum Item<T> {
    Rows(Vec<(T, Timestamp)>),
    Watermark(Timestamp),
    Idle,
    Active,
    End,
}

impl<T> Clone for Pushed<T> {
    fn clone(&self) -> Pushed<T> {
        Pushed { log: self.log.clone() }
    }
}

impl<T> Default for Pushed<T> {
    fn default() -> Pushed<T> {
        Pushed::new()
    }
}

impl<T> std::fmt::Debug for Pushed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pushed({} rows and marks)", self.lock().len())
    }
}

impl<T> Pushed<T> {
    /// An input that nothing has been pushed into.
    #[must_use]
    pub fn new() -> Pushed<T> {
        Pushed { log: Arc::default() }
    }

    /// A row with its event time. It is handled by the next [`TestJob::settle`](super::TestJob::settle).
    pub fn push(&self, row: T, at: Timestamp) {
        self.append(Item::Rows(vec![(row, at)]));
    }

    /// Rows that come as one batch, as a source may bring them: marks come before or behind all of them.
    pub fn push_batch(&self, rows: impl IntoIterator<Item = (T, Timestamp)>) {
        self.append(Item::Rows(rows.into_iter().collect()));
    }

    /// No more rows at or before `at` are to be expected. One that is no later than the watermark before says nothing.
    ///
    /// Only of an input that brings its event time along ([`Flow::pushed`]); elsewhere the job's own watermarks count.
    pub fn watermark(&self, at: Timestamp) {
        self.append(Item::Watermark(at));
    }

    /// Nothing is to be expected for a while: time does not wait for this input.
    pub fn idle(&self) {
        self.append(Item::Idle);
    }

    /// Something is to be expected again.
    pub fn active(&self) {
        self.append(Item::Active);
    }

    /// The input ends here; what is pushed behind is not read. [`TestJob::end_of_input`](super::TestJob::end_of_input) ends
    /// all inputs of a job.
    pub fn end(&self) {
        self.append(Item::End);
    }

    fn append(&self, item: Item<T>) {
        self.lock().push(item);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Item<T>>> {
        // Nobody panics between two halves of a change.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flow {
    /// A stream of what is pushed into `input`, with the event times and watermarks that are pushed along.
    pub fn pushed<T: Clone + Send + 'static>(&self, input: &Pushed<T>) -> Stream<PushedRows<T>> {
        let source = self.node("source", format!("pushed {}", std::any::type_name::<T>()), None);
        let node = self.node("event_time", SPLIT.to_owned(), Some(source));
        Stream {
            chain: PushedRows { input: input.clone(), time: PhantomData, is_timed: true, node: source },
            flow: self.clone(),
            node,
        }
    }

    /// A stream of the rows alone, for jobs that read event time off them: their times and watermarks come from
    /// [`Stream::event_time`]. A watermark that is pushed fails the job.
    pub fn pushed_untimed<T: Clone + Send + 'static>(&self, input: &Pushed<T>) -> Stream<PushedRows<T, Untimed>> {
        let node = self.node("source", format!("pushed {}", std::any::type_name::<T>()), None);
        Stream {
            chain: PushedRows { input: input.clone(), time: PhantomData, is_timed: false, node },
            flow: self.clone(),
            node,
        }
    }
}

/// The chain's beginning: an input that a test pushes into.
#[derive(Debug)]
pub struct PushedRows<T, E = Timed> {
    time: PhantomData<E>,
    input: Pushed<T>,
    is_timed: bool,
    node: NodeId,
}

impl<T: Clone + Send + 'static, E: TimeKind> Chain for PushedRows<T, E> {
    type Out = T;
    type Time = E;

    fn attach<N: Stage<T>>(self, next: N, graph: &mut Graph) {
        let PushedRows { input, is_timed, node, .. } = self;
        let opened = graph.on_site(|site, plan| {
            let uid = plan.uid(node);
            let unreadable =
                |error| JobError::Mismatch(format!("input \"{uid}\": its position is unreadable: {error}"));
            // It was the first shard's, whose part is the only one that says something.
            let filed = site.restored(&uid).into_iter().map(|part| serde_json::from_value::<usize>(part.blob.clone()));
            let at = filed.collect::<Result<Vec<_>, _>>().map_err(unreadable)?.into_iter().max();
            Ok((site.shard == 0, at.unwrap_or(0)))
        });
        let Some((reads, at)) = opened else { return };
        let (rows, barrier, announced, is_idle, ended, closed) = Default::default();
        let task = PushTask {
            input,
            reads,
            is_timed,
            at,
            rows,
            barrier,
            announced,
            is_idle,
            ended,
            closed,
            rows_in: 0,
            watermark: Timestamp::MIN,
            node,
            next,
        };
        graph.tasks.push(Box::new(task));
    }
}

struct PushTask<T, N> {
    input: Pushed<T>,
    /// The first shard reads; the others have no split, as with a source of one.
    reads: bool,
    is_timed: bool,
    /// The next item of the log.
    at: usize,
    rows: Dense<T>,
    barrier: Option<Barrier>,
    announced: bool,
    is_idle: bool,
    ended: bool,
    closed: bool,
    rows_in: u64,
    watermark: Timestamp,
    node: NodeId,
    next: N,
}

impl<T: Clone + Send + 'static, N: Stage<T>> PushTask<T, N> {
    fn take(&mut self, item: Item<T>, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        match item {
            Item::Rows(rows) => {
                self.rows_in += rows.len() as u64;
                cx.split = 0;
                cx.origin = Some(Origin { split: SPLIT.into(), first: self.at as u64 });
                self.rows.clear();
                rows.into_iter()
                    .for_each(|(row, at)| self.rows.push(row, if self.is_timed { at } else { Timestamp::MIN }));
                self.rows.pieces(BATCH_ROWS).try_for_each(|piece| self.next.batch(&piece, cx))
            }
            Item::Watermark(_) if !self.is_timed => {
                let what = "a watermark was pushed into an input whose time is read off its rows: let Flow::pushed take \
                            time and watermarks from the test, or push rows alone";
                Err(Fault::source(self.node, SourceError::Unusable(what.to_owned())))
            }
            Item::Watermark(at) if at > self.watermark => {
                self.watermark = at;
                self.stand(false, cx)?;
                self.next.signal(Signal::Watermark(at), cx)
            }
            Item::Watermark(_) => self.stand(false, cx),
            Item::Idle => self.stand(true, cx),
            Item::Active => self.stand(false, cx),
            Item::End => self.end(cx),
        }
    }

    /// As a source does whose only split falls silent or speaks again.
    fn stand(&mut self, is_idle: bool, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if std::mem::replace(&mut self.is_idle, is_idle) == is_idle {
            return Ok(());
        }
        if !self.is_timed {
            let standing = if is_idle { SplitStanding::Idle(0) } else { SplitStanding::Active(0) };
            self.next.signal(Signal::Split(standing), cx)?;
        }
        self.next.signal(if is_idle { Signal::Idle } else { Signal::Active }, cx)
    }

    fn end(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.ended = true;
        match self.watermark {
            Timestamp::MAX => Ok(()),
            _ => self.next.signal(Signal::Watermark(Timestamp::MAX), cx),
        }
    }

    /// The next item or barrier, if there is one and room for it.
    fn take_next(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        if self.closed {
            return Ok(Progress::Idle);
        }
        if !self.next.ready() {
            return Ok(Progress::Blocked);
        }
        if let Some(barrier) = self.barrier {
            self.next.signal(Signal::Flush, cx)?;
            if !self.next.ready() {
                return Ok(Progress::Blocked);
            }
            self.barrier = None;
            self.pass(barrier, cx)?;
            return Ok(Progress::Worked);
        }
        if self.ended {
            return Ok(Progress::Idle);
        }
        if !self.reads {
            self.end(cx)?;
            return Ok(Progress::Worked);
        }
        if !std::mem::replace(&mut self.announced, true) && !self.is_timed {
            cx.origin = Some(Origin { split: SPLIT.into(), first: self.at as u64 });
            self.next.signal(Signal::Split(SplitStanding::Active(0)), cx)?;
        }
        // Taken out of the log first: what it leads to may push more.
        let item = self.input.lock().get(self.at).cloned();
        let Some(item) = item else { return Ok(Progress::Idle) };
        self.take(item, cx)?;
        self.at += 1;
        Ok(Progress::Worked)
    }

    fn pass(&mut self, barrier: Barrier, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.file(self.node, serde_json::to_value(self.at).expect("a number is plain JSON"));
        self.next.signal(Signal::Barrier(barrier), cx)?;
        cx.passed();
        self.closed |= barrier.last;
        Ok(())
    }
}

impl<T: Clone + Send + 'static, N: Stage<T>> Task for PushTask<T, N> {
    fn step(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        let mut progress = Progress::Idle;
        for _ in 0..SLICES_PER_TURN {
            match self.next.resume(cx)? {
                Progress::Worked => progress = Progress::Worked,
                stuck => {
                    progress = progress.or(stuck);
                    break;
                }
            }
        }
        for _ in 0..ITEMS_PER_TURN {
            match self.take_next(cx)? {
                Progress::Worked => progress = Progress::Worked,
                stuck => return Ok(progress.or(stuck)),
            }
        }
        Ok(progress)
    }

    fn flush(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.next.signal(Signal::Flush, cx)
    }

    fn inject(&mut self, barrier: Barrier) {
        assert!(self.barrier.is_none(), "one epoch at a time");
        self.barrier = Some(barrier);
    }

    fn end_of_input(&mut self) {
        if self.reads && !self.ended {
            self.input.end();
        }
    }

    fn input_ended(&self) -> Option<bool> {
        Some(self.ended)
    }

    fn rows_in(&self) -> u64 {
        self.rows_in
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.next.states(visitor);
    }
}
