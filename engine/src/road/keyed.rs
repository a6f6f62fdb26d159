//! Keyed events on their way to the shard that owns their key: what an event contributes, and who takes contributions.
//!
//! ```text
//! rows ─▶ Contribute ─────────────▶ ToShards (exchange.rs) ─▶ edge ─▶ Merge ─▶ Windows
//!         Combine (folds first) ─▶        or straight ──────────────────────▶ Windows   on a single shard
//! ```

use std::borrow::Borrow;
use std::marker::PhantomData;

use millstream_state::{Fixed, Key};

use super::aggregate::Aggregate;
use super::chain::{Signal, Stage};
use super::rows::Rows;
use crate::job::graph::NodeId;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// How a key is taken from a row.
pub trait Keying<T: ?Sized>: 'static {
    /// The key.
    type Key: Key;
    /// The key itself, or a reference to where it lies in the row.
    type Out<'a>: Borrow<Self::Key>
    where
        T: 'a;

    /// Takes it.
    fn key<'a>(&self, row: &'a T) -> Self::Out<'a>;
}

/// A key that a closure makes.
pub struct ByValue<K, F>(pub(crate) F, pub(crate) PhantomData<fn() -> K>);

impl<T: ?Sized, K: Key, F: Fn(&T) -> K + 'static> Keying<T> for ByValue<K, F> {
    type Key = K;
    type Out<'a>
        = K
    where
        T: 'a;

    #[inline(always)]
    fn key(&self, row: &T) -> K {
        (self.0)(row)
    }
}

/// A key that lies in the row. A text of 36 bytes that is copied first is read again before the copy has settled: the
/// core forwards no load that spans two stores, and each such load waits some fifteen cycles, three times an event.
pub struct InRow<K, F>(pub(crate) F, pub(crate) PhantomData<fn() -> K>);

impl<T: ?Sized, K: Key, F: Fn(&T) -> &K + 'static> Keying<T> for InRow<K, F> {
    type Key = K;
    type Out<'a>
        = &'a K
    where
        T: 'a;

    #[inline(always)]
    fn key<'a>(&self, row: &'a T) -> &'a K {
        (self.0)(row)
    }
}

/// A batch of keyed values with their event time, by index.
pub(crate) trait Contributions<K, V> {
    /// The key itself, or a reference to where it lies.
    type KeyOut<'a>: Borrow<K>
    where
        Self: 'a;

    fn len(&self) -> usize;
    fn at(&self, index: usize) -> Timestamp;
    fn key(&self, index: usize) -> Self::KeyOut<'_>;
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
    /// A contribution is one event, at its own time; otherwise it is at the start of its pane.
    const IS_EVENT: bool;
    fn fold(aggregate: &A, acc: &mut A::Acc, value: Self::Value);
}

/// Inputs of single events.
pub(crate) struct Raw;

impl<T: ?Sized, A: Aggregate<T>> Folding<T, A> for Raw {
    type Value = A::Input;
    const IS_EVENT: bool = true;

    #[inline(always)]
    fn fold(aggregate: &A, acc: &mut A::Acc, value: A::Input) {
        aggregate.add(acc, value);
    }
}

/// Partial results.
pub(crate) struct Combined;

impl<T: ?Sized, A: Aggregate<T>> Folding<T, A> for Combined {
    type Value = A::Acc;
    const IS_EVENT: bool = false;

    #[inline(always)]
    fn fold(aggregate: &A, acc: &mut A::Acc, value: A::Acc) {
        aggregate.merge(acc, &value);
    }
}

/// The stage that turns rows into contributions, one for one.
pub(crate) struct Contribute<G, A, O> {
    key: G,
    aggregate: A,
    node: NodeId,
    out: O,
}

impl<G, A, O> Contribute<G, A, O> {
    pub(crate) fn new(key: G, aggregate: A, node: NodeId, out: O) -> Self {
        Contribute { key, aggregate, node, out }
    }
}

/// Rows seen as the contributions of their events.
struct Lifted<'a, R, G, A> {
    rows: &'a R,
    key: &'a G,
    aggregate: &'a A,
}

impl<R: Rows<Item: 'static>, G: Keying<R::Item>, A: Aggregate<R::Item>> Contributions<G::Key, A::Input>
    for Lifted<'_, R, G, A>
{
    type KeyOut<'b>
        = G::Out<'b>
    where
        Self: 'b;

    #[inline(always)]
    fn len(&self) -> usize {
        self.rows.len()
    }

    #[inline(always)]
    fn at(&self, index: usize) -> Timestamp {
        self.rows.at(index)
    }

    #[inline(always)]
    fn key(&self, index: usize) -> G::Out<'_> {
        self.key.key(self.rows.row(index))
    }

    #[inline(always)]
    fn value(&self, index: usize) -> A::Input {
        self.aggregate.lift(self.rows.row(index))
    }
}

impl<T, G, A, O> Stage<T> for Contribute<G, A, O>
where
    T: ?Sized + 'static,
    G: Keying<T>,
    A: Aggregate<T> + 'static,
    O: KeyedOut<G::Key, A::Input>,
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
