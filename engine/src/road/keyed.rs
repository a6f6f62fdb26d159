//! Keyed events on their way to the shard that owns their key: what an event contributes, and who takes contributions.
//!
//! ```text
//! rows ─▶ Contribute ─────────────▶ ToShards (exchange.rs) ─▶ edge ─▶ Merge ─▶ Windows
//!         Combine (folds first) ─▶        or straight ──────────────────────▶ Windows   on a single shard
//! ```

use std::marker::PhantomData;

use millstream_state::{Fixed, Key};

use super::aggregate::Aggregate;
use super::chain::{Signal, Stage};
use super::rows::Rows;
use crate::job::graph::NodeId;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// A batch of keyed values with their event time, by index.
pub(crate) trait Contributions<K, V> {
    fn len(&self) -> usize;
    fn at(&self, index: usize) -> Timestamp;
    fn key(&self, index: usize) -> K;
    fn value(&self, index: usize) -> V;
}

/// Who takes contributions: the exchange, or the windows themselves where nothing has to be exchanged.
pub(crate) trait KeyedOut<K, V>: 'static {
    fn accept<C: Contributions<K, V>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault>;
    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault>;
    fn ready(&mut self) -> bool;
    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault>;
    fn states(&mut self, visitor: &mut dyn StateVisitor);
}

/// What a window folds into its accumulator: an event's input, or a partial result of another shard.
pub(crate) trait Folding<T: ?Sized, A: Aggregate<T>>: 'static {
    type Value: Fixed;
    fn fold(aggregate: &A, acc: &mut A::Acc, value: Self::Value);
}

/// Inputs of single events.
pub(crate) struct Raw;

impl<T: ?Sized, A: Aggregate<T>> Folding<T, A> for Raw {
    type Value = A::Input;

    #[inline(always)]
    fn fold(aggregate: &A, acc: &mut A::Acc, value: A::Input) {
        aggregate.add(acc, value);
    }
}

/// Partial results.
pub(crate) struct Combined;

impl<T: ?Sized, A: Aggregate<T>> Folding<T, A> for Combined {
    type Value = A::Acc;

    #[inline(always)]
    fn fold(aggregate: &A, acc: &mut A::Acc, value: A::Acc) {
        aggregate.merge(acc, &value);
    }
}

/// The stage that turns rows into contributions, one for one.
pub(crate) struct Contribute<K, F, A, O> {
    key: F,
    aggregate: A,
    node: NodeId,
    out: O,
    keyed: PhantomData<fn() -> K>,
}

impl<K, F, A, O> Contribute<K, F, A, O> {
    pub(crate) fn new(key: F, aggregate: A, node: NodeId, out: O) -> Self {
        Contribute { key, aggregate, node, out, keyed: PhantomData }
    }
}

/// Rows seen as the contributions of their events.
struct Lifted<'a, R, F, A> {
    rows: &'a R,
    key: &'a F,
    aggregate: &'a A,
}

impl<K: Key, R: Rows, F: Fn(&R::Item) -> K, A: Aggregate<R::Item>> Contributions<K, A::Input> for Lifted<'_, R, F, A> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.rows.len()
    }

    #[inline(always)]
    fn at(&self, index: usize) -> Timestamp {
        self.rows.at(index)
    }

    #[inline(always)]
    fn key(&self, index: usize) -> K {
        (self.key)(self.rows.row(index))
    }

    #[inline(always)]
    fn value(&self, index: usize) -> A::Input {
        self.aggregate.lift(self.rows.row(index))
    }
}

impl<T, K, F, A, O> Stage<T> for Contribute<K, F, A, O>
where
    T: ?Sized + 'static,
    K: Key,
    F: Fn(&T) -> K + 'static,
    A: Aggregate<T> + 'static,
    O: KeyedOut<K, A::Input>,
{
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        self.out.accept(&Lifted { rows, key: &self.key, aggregate: &self.aggregate }, cx)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.out.signal(signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.out.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.out.resume(cx)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.out.states(visitor);
    }
}
