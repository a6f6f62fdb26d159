//! Rows that may fail: parsing, above all. What happens to a bad row is said where the attempt is made.

use super::chain::{Chain, Signal, Stage};
use super::dense::Dense;
use super::rows::Rows;
use super::sink::{Sink, SinkStage};
use crate::job::graph::{Graph, NodeId};
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};

/// A row that could not be taken, with everything needed to find and mend it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct DeadLetter {
    /// The operator that refused it.
    pub operator: String,
    /// Where it was read: split and offset.
    pub place: String,
    /// Why it was refused.
    pub why: String,
    /// The row's bytes.
    pub row: Vec<u8>,
}

/// What happens to a row whose closure answered with an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnError {
    /// The job fails, naming operator, split and offset. A restart would meet the row again, so there is none.
    #[default]
    Fail,
    /// The row is dropped and counted.
    Skip,
}

/// Turns every row into one of another type, or says why it cannot.
#[derive(Debug)]
pub struct TryMap<C, F> {
    pub(crate) upstream: C,
    pub(crate) map: F,
    pub(crate) on_error: OnError,
    pub(crate) node: NodeId,
}

/// As [`TryMap`], with a sink for the rows that fail.
#[derive(Debug)]
pub struct TryMapOr<C, F, S> {
    pub(crate) upstream: C,
    pub(crate) map: F,
    pub(crate) dead_letters: S,
    pub(crate) node: NodeId,
    pub(crate) letters_node: NodeId,
}

/// Where bad rows go.
trait BadRows<T: ?Sized>: 'static {
    /// Takes one; an error when the job is to fail because of it.
    fn take(&mut self, row: &T, node: NodeId, place: String, why: String, cx: &mut Cx<'_>) -> Result<(), Fault>;
    /// After a batch: what was gathered moves on.
    fn batch_done(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault>;
    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault>;
    fn ready(&mut self) -> bool;
    fn states(&mut self, visitor: &mut dyn StateVisitor);
}

impl<T: ?Sized> BadRows<T> for OnError {
    fn take(&mut self, _row: &T, node: NodeId, place: String, why: String, cx: &mut Cx<'_>) -> Result<(), Fault> {
        match self {
            OnError::Fail => Err(Fault::row(node, place, why)),
            OnError::Skip => {
                cx.skipped_rows += 1;
                Ok(())
            }
        }
    }

    fn batch_done(&mut self, _cx: &mut Cx<'_>) -> Result<(), Fault> {
        Ok(())
    }

    fn signal(&mut self, _signal: Signal, _cx: &mut Cx<'_>) -> Result<(), Fault> {
        Ok(())
    }

    fn ready(&mut self) -> bool {
        true
    }

    fn states(&mut self, _visitor: &mut dyn StateVisitor) {}
}

/// Bad rows become dead letters on a sink of their own, under the same epochs as everything else.
struct ToDeadLetters<N> {
    operator: String,
    letters: Dense<DeadLetter>,
    next: N,
}

impl<T: AsRef<[u8]> + ?Sized, N: Stage<DeadLetter>> BadRows<T> for ToDeadLetters<N> {
    fn take(&mut self, row: &T, _node: NodeId, place: String, why: String, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.skipped_rows += 1;
        let letter = DeadLetter { operator: self.operator.clone(), place, why, row: row.as_ref().to_vec() };
        self.letters.push(letter, crate::time::Timestamp::MIN);
        Ok(())
    }

    fn batch_done(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if !self.letters.is_empty() {
            self.next.batch(&self.letters.view(), cx)?;
            self.letters.clear();
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.next.signal(signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.next.ready()
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.next.states(visitor);
    }
}

struct TryMapStage<F, U, B, N> {
    map: F,
    out: Dense<U>,
    bad: B,
    node: NodeId,
    next: N,
}

impl<C, U, E, F> Chain for TryMap<C, F>
where
    C: Chain,
    U: 'static,
    E: std::fmt::Display,
    F: Fn(&C::Out) -> Result<U, E> + 'static,
{
    type Out = U;
    type Time = C::Time;

    fn attach<N: Stage<U>>(self, next: N, graph: &mut Graph) {
        let stage = TryMapStage { map: self.map, out: Dense::default(), bad: self.on_error, node: self.node, next };
        self.upstream.attach(stage, graph);
    }
}

impl<C, U, E, F, S> Chain for TryMapOr<C, F, S>
where
    C: Chain<Out: AsRef<[u8]>>,
    U: 'static,
    E: std::fmt::Display,
    F: Fn(&C::Out) -> Result<U, E> + 'static,
    S: Sink<DeadLetter>,
{
    type Out = U;
    type Time = C::Time;

    fn attach<N: Stage<U>>(self, next: N, graph: &mut Graph) {
        let Some(letters) = SinkStage::open(&self.dead_letters, self.letters_node, graph) else { return };
        let operator = graph.plan.uid(self.node);
        let bad = ToDeadLetters { operator, letters: Dense::default(), next: letters };
        let stage = TryMapStage { map: self.map, out: Dense::default(), bad, node: self.node, next };
        self.upstream.attach(stage, graph);
    }
}

impl<T, U, E, F, B, N> Stage<T> for TryMapStage<F, U, B, N>
where
    T: ?Sized + 'static,
    U: 'static,
    E: std::fmt::Display,
    F: Fn(&T) -> Result<U, E> + 'static,
    B: BadRows<T>,
    N: Stage<U>,
{
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        let mut any_bad = false;
        let (map, bad, node) = (&self.map, &mut self.bad, self.node);
        let refuse = |index: usize, why: E| {
            any_bad = true;
            let place = cx.place(rows.origin(index));
            bad.take(rows.row(index), node, place, why.to_string(), cx)
        };
        self.out.try_fill(rows.len(), |index| map(rows.row(index)), refuse, |index| rows.at(index))?;
        if any_bad {
            self.bad.batch_done(cx)?;
        }
        if self.out.is_empty() {
            return Ok(());
        }
        self.next.batch(&self.out.view(), cx)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.bad.signal(signal, cx)?;
        self.next.signal(signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.bad.ready() && self.next.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.next.resume(cx)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.bad.states(visitor);
        self.next.states(visitor);
    }
}
