//! A chain: operators fused into one loop per stage, with no dynamic call between them.
//!
//! A user's expression builds a [`Chain`] from the source outwards; its last word, the sink, turns it inside out into
//! [`Stage`]s, each owning the next. A stage takes a batch as [`Rows`] and hands its own view to the next: a filter a
//! selection made without a branch, a projection a part of each row in place, a map rows of its own.

use std::marker::PhantomData;

use super::dense::Dense;
use super::has_time::TimeKind;
use super::rows::{BATCH_ROWS, Projected, Rows, Selected};
use crate::epoch::Barrier;
use crate::job::graph::{Graph, NodeId};
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// What travels a chain between batches. Grammar of every edge:
/// `((Batch | Watermark | Idle | Active | Split | Flush)* Barrier)*`, and the last barrier says that it is the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// No more events with a timestamp at or below this one.
    Watermark(Timestamp),
    /// No watermark is to be expected for a while: do not wait for this input.
    Idle,
    /// A watermark is to be expected again, after [`Idle`](Signal::Idle).
    Active,
    /// A split of the source changed its standing; only the event-time stage listens.
    Split(SplitStanding),
    /// The mark between two epochs: everything before it belongs to the epoch it closes.
    Barrier(Barrier),
    /// What is held back for company leaves now.
    Flush,
}

/// Whether a split still has a say in the watermark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SplitStanding {
    /// It delivers, or is expected to.
    Active(usize),
    /// It has been silent for the idle timeout.
    Idle(usize),
    /// It has ended.
    Ended(usize),
}

/// One operator at work inside a task.
///
/// # Contract
/// * `batch` is called only after `ready` said so, and consumes every row. A stage that emits more rows than it takes
///   may overshoot by one batch's expansion. (Checked by the operator harness, whose outbox holds one.)
/// * A signal is handed on in the order it came, after what the stage emits because of it. (Checked by the edge checker.)
pub trait Stage<T: ?Sized>: 'static {
    /// Takes a batch of at most [`BATCH_ROWS`] rows.
    ///
    /// # Errors
    /// A fault stops the task, and with it the job's attempt.
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault>;

    /// Takes a signal.
    ///
    /// # Errors
    /// As `batch`.
    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault>;

    /// Whether a batch or barrier may come: there is room for its output and nothing deferred is left to do.
    fn ready(&mut self) -> bool;

    /// Goes on with deferred work (a firing of many windows), a bounded slice at a time.
    ///
    /// # Errors
    /// As `batch`.
    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault>;

    /// Shows every piece of state to `visitor`, in the order of the road.
    fn states(&mut self, visitor: &mut dyn StateVisitor);
}

/// A description of stages, to be attached in front of a next one. Built once per shard, consumed by the sink.
pub trait Chain: Sized + 'static {
    /// What the chain hands to its next stage.
    type Out: ?Sized + 'static;

    /// Whether its rows have event time: [`Timed`](crate::Timed) or [`Untimed`](crate::Untimed).
    type Time: TimeKind;

    /// Puts the chain's stages in front of `next` and the finished tasks into `graph`.
    fn attach<N: Stage<Self::Out>>(self, next: N, graph: &mut Graph);
}

/// Hands the four quiet duties of a stage to the next one.
macro_rules! delegate_to_next {
    () => {
        fn ready(&mut self) -> bool {
            self.next.ready()
        }

        fn resume(
            &mut self,
            cx: &mut $crate::run::task::Cx<'_>,
        ) -> Result<$crate::run::task::Progress, $crate::run::fault::Fault> {
            self.next.resume(cx)
        }

        fn states(&mut self, visitor: &mut dyn $crate::run::task::StateVisitor) {
            self.next.states(visitor);
        }
    };
}
pub(crate) use delegate_to_next;

/// As [`delegate_to_next`], and signals pass untouched.
macro_rules! pass_signals {
    () => {
        fn signal(
            &mut self,
            signal: $crate::road::chain::Signal,
            cx: &mut $crate::run::task::Cx<'_>,
        ) -> Result<(), $crate::run::fault::Fault> {
            self.next.signal(signal, cx)
        }

        $crate::road::chain::delegate_to_next!();
    };
}
pub(crate) use pass_signals;

// ---- filter -------------------------------------------------------------------------------------------------------

/// Keeps the rows for which `keep` is true.
#[derive(Debug)]
pub struct Filter<C, F> {
    pub(crate) upstream: C,
    pub(crate) keep: F,
    pub(crate) node: NodeId,
}

struct FilterStage<F, N> {
    keep: F,
    selected: Box<[u16; BATCH_ROWS]>,
    node: NodeId,
    next: N,
}

impl<C: Chain, F: Fn(&C::Out) -> bool + 'static> Chain for Filter<C, F> {
    type Out = C::Out;
    type Time = C::Time;

    fn attach<N: Stage<C::Out>>(self, next: N, graph: &mut Graph) {
        let stage = FilterStage { keep: self.keep, selected: Box::new([0; BATCH_ROWS]), node: self.node, next };
        self.upstream.attach(stage, graph);
    }
}

impl<T: ?Sized + 'static, F: Fn(&T) -> bool + 'static, N: Stage<T>> Stage<T> for FilterStage<F, N> {
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        assert!(rows.len() <= BATCH_ROWS, "a batch never exceeds BATCH_ROWS");
        let (keep, selected) = (&self.keep, &mut *self.selected);
        let mut kept = 0;
        for index in 0..rows.len() {
            // Write always, advance by the condition: a view in three is the worst case for a branch predictor,
            // and a mispredicted branch costs as much as the whole filter does without one.
            selected[kept & (BATCH_ROWS - 1)] = index as u16;
            kept += usize::from(keep(rows.row(index)));
        }
        if kept == 0 {
            return Ok(());
        }
        self.next.batch(&Selected { rows, selected: &self.selected[..kept] }, cx)
    }

    pass_signals!();
}

// ---- project ------------------------------------------------------------------------------------------------------

/// Goes on with a part of every row, where it lies.
#[derive(Debug)]
pub struct Project<C, F, U: ?Sized> {
    pub(crate) upstream: C,
    pub(crate) part: F,
    pub(crate) node: NodeId,
    pub(crate) of: PhantomData<fn() -> *const U>,
}

struct ProjectStage<F, U: ?Sized, N> {
    part: F,
    node: NodeId,
    of: PhantomData<fn() -> *const U>,
    next: N,
}

impl<C: Chain, U: ?Sized + 'static, F: Fn(&C::Out) -> &U + 'static> Chain for Project<C, F, U> {
    type Out = U;
    type Time = C::Time;

    fn attach<N: Stage<U>>(self, next: N, graph: &mut Graph) {
        self.upstream.attach(ProjectStage { part: self.part, node: self.node, of: PhantomData, next }, graph);
    }
}

impl<T: ?Sized + 'static, U: ?Sized + 'static, F: Fn(&T) -> &U + 'static, N: Stage<U>> Stage<T>
    for ProjectStage<F, U, N>
{
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        self.next.batch(&Projected { rows, part: &self.part, of: PhantomData }, cx)
    }

    pass_signals!();
}

// ---- map, filter_map, flat_map ------------------------------------------------------------------------------------

/// Turns every row into one of another type.
#[derive(Debug)]
pub struct Map<C, F> {
    pub(crate) upstream: C,
    pub(crate) map: F,
    pub(crate) node: NodeId,
}

struct MapStage<F, U, N> {
    map: F,
    out: Dense<U>,
    node: NodeId,
    next: N,
}

impl<C: Chain, U: 'static, F: Fn(&C::Out) -> U + 'static> Chain for Map<C, F> {
    type Out = U;
    type Time = C::Time;

    fn attach<N: Stage<U>>(self, next: N, graph: &mut Graph) {
        let stage = MapStage { map: self.map, out: Dense::default(), node: self.node, next };
        self.upstream.attach(stage, graph);
    }
}

impl<T: ?Sized + 'static, U: 'static, F: Fn(&T) -> U + 'static, N: Stage<U>> Stage<T> for MapStage<F, U, N> {
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        let map = &self.map;
        let out = self.out.each_of(rows, |index| map(rows.row(index)));
        self.next.batch(&out, cx)
    }

    pass_signals!();
}

/// Turns a row into one of another type, or drops it.
#[derive(Debug)]
pub struct FilterMap<C, F> {
    pub(crate) upstream: C,
    pub(crate) map: F,
    pub(crate) node: NodeId,
}

struct FilterMapStage<F, U, N> {
    map: F,
    out: Dense<U>,
    node: NodeId,
    next: N,
}

impl<C: Chain, U: 'static, F: Fn(&C::Out) -> Option<U> + 'static> Chain for FilterMap<C, F> {
    type Out = U;
    type Time = C::Time;

    fn attach<N: Stage<U>>(self, next: N, graph: &mut Graph) {
        let stage = FilterMapStage { map: self.map, out: Dense::default(), node: self.node, next };
        self.upstream.attach(stage, graph);
    }
}

impl<T: ?Sized + 'static, U: 'static, F: Fn(&T) -> Option<U> + 'static, N: Stage<U>> Stage<T>
    for FilterMapStage<F, U, N>
{
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        let map = &self.map;
        let out = self.out.some_of(rows, |index| map(rows.row(index)));
        if out.is_empty() {
            return Ok(());
        }
        self.next.batch(&out, cx)
    }

    pass_signals!();
}

/// Turns a row into any number of rows, each with the row's event time.
#[derive(Debug)]
pub struct FlatMap<C, F> {
    pub(crate) upstream: C,
    pub(crate) map: F,
    pub(crate) node: NodeId,
}

struct FlatMapStage<F, U, N> {
    map: F,
    out: Dense<U>,
    node: NodeId,
    next: N,
}

impl<C: Chain, U: 'static, I: IntoIterator<Item = U>, F: Fn(&C::Out) -> I + 'static> Chain for FlatMap<C, F> {
    type Out = U;
    type Time = C::Time;

    fn attach<N: Stage<U>>(self, next: N, graph: &mut Graph) {
        let stage = FlatMapStage { map: self.map, out: Dense::default(), node: self.node, next };
        self.upstream.attach(stage, graph);
    }
}

impl<T: ?Sized + 'static, U: 'static, I: IntoIterator<Item = U>, F: Fn(&T) -> I + 'static, N: Stage<U>> Stage<T>
    for FlatMapStage<F, U, N>
{
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        self.out.clear();
        for index in 0..rows.len() {
            let at = rows.at(index);
            for row in (self.map)(rows.row(index)) {
                self.out.push(row, at);
                if self.out.len() == BATCH_ROWS {
                    self.next.batch(&self.out.view(), cx)?;
                    cx.enter(self.node);
                    self.out.clear();
                }
            }
        }
        if self.out.is_empty() {
            return Ok(());
        }
        self.next.batch(&self.out.view(), cx)
    }

    pass_signals!();
}

// ---- inspect ------------------------------------------------------------------------------------------------------

/// Shows every row to a closure and lets it pass.
#[derive(Debug)]
pub struct Inspect<C, F> {
    pub(crate) upstream: C,
    pub(crate) look: F,
    pub(crate) node: NodeId,
}

struct InspectStage<F, N> {
    look: F,
    node: NodeId,
    next: N,
}

impl<C: Chain, F: Fn(&C::Out, Timestamp) + 'static> Chain for Inspect<C, F> {
    type Out = C::Out;
    type Time = C::Time;

    fn attach<N: Stage<C::Out>>(self, next: N, graph: &mut Graph) {
        self.upstream.attach(InspectStage { look: self.look, node: self.node, next }, graph);
    }
}

impl<T: ?Sized + 'static, F: Fn(&T, Timestamp) + 'static, N: Stage<T>> Stage<T> for InspectStage<F, N> {
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        for index in 0..rows.len() {
            (self.look)(rows.row(index), rows.at(index));
        }
        self.next.batch(rows, cx)
    }

    pass_signals!();
}
