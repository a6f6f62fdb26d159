//! The running aggregate: every row is folded into its key's accumulator, which is kept for ever, and yields the result
//! so far.
//!
//! ```text
//! contributions ─▶ fold, a batch at a time ─▶ one Updated for each, in order ─▶ next
//! ```
//!
//! The table has one namespace. A batch is folded as windows fold theirs, with its misses overlapping; rows come out as
//! if they had been taken one by one. There is nothing to fold before an exchange, since every row yields one.

use std::borrow::Borrow;
use std::marker::PhantomData;

use millstream_state::{Fixed, Key, Namespace, Table};

use super::aggregate::Aggregate;
use super::chain::{Signal, Stage};
use super::keyed::{Contributions, KeyedOut};
use super::rows::{BATCH_ROWS, Rows};
use crate::job::graph::NodeId;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// All of a running aggregate's keys are one part of its table.
const ALL_KEYS: Namespace = Namespace(0);

/// What a running aggregate yields for one row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Updated<K, R> {
    /// The row's key.
    pub key: K,
    /// The aggregate's result over all rows of the key so far, this one included.
    pub value: R,
}

/// The operator: folds contributions into a table that is never cleared and hands a result for each to `next`.
pub(crate) struct Running<T: ?Sized, K, A: Aggregate<T>, N> {
    table: Table<K, A::Acc>,
    aggregate: A,
    out: Vec<Updated<K, A::Out>>,
    node: NodeId,
    next: N,
    of: PhantomData<fn(&T)>,
}

impl<T, K, A, N> Running<T, K, A, N>
where
    T: ?Sized + 'static,
    K: Key,
    A: Aggregate<T> + 'static,
    N: Stage<Updated<K, A::Out>>,
{
    /// An operator over `table`, which a restore may have filled.
    pub(crate) fn new(table: Table<K, A::Acc>, aggregate: A, node: NodeId, next: N) -> Self {
        Running { table, aggregate, out: Vec::with_capacity(BATCH_ROWS), node, next, of: PhantomData }
    }
}

impl<T, K, A, N> KeyedOut<K, A::Input> for Running<T, K, A, N>
where
    T: ?Sized + 'static,
    K: Key,
    A: Aggregate<T> + 'static,
    N: Stage<Updated<K, A::Out>>,
{
    #[inline]
    fn accept<C: Contributions<K, A::Input>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if batch.len() == 0 {
            return Ok(());
        }
        cx.enter(self.node);
        let Running { table, aggregate, out, node, next, .. } = self;
        out.clear();
        table
            .fold(
                ALL_KEYS,
                batch.len(),
                |index| batch.key(index),
                || aggregate.init(),
                |acc, index| {
                    aggregate.add(acc, batch.value(index));
                    out.push(Updated { key: *batch.key(index).borrow(), value: aggregate.finish(acc) });
                },
            )
            .map_err(|error| Fault::state(*node, error))?;
        next.batch(&UpdatedRows { rows: out, batch, of: PhantomData }, cx)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if let Signal::Barrier(barrier) = signal {
            cx.freeze(self.node, &mut self.table.store(), barrier, serde_json::Value::Null);
        }
        self.next.signal(signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.next.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.next.resume(cx)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        visitor.keyed(self.node, &mut self.table.store());
        self.next.states(visitor);
    }
}

/// The results of a batch, one for each of its rows and at its time, which is looked up where it lies.
struct UpdatedRows<'a, C, K, V, R> {
    rows: &'a [Updated<K, R>],
    batch: &'a C,
    of: PhantomData<fn() -> V>,
}

impl<K: Key, V: Fixed, R, C: Contributions<K, V>> Rows for UpdatedRows<'_, C, K, V, R> {
    type Item = Updated<K, R>;

    #[inline(always)]
    fn len(&self) -> usize {
        self.rows.len()
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &Updated<K, R> {
        &self.rows[index]
    }

    #[inline(always)]
    fn at(&self, index: usize) -> Timestamp {
        self.batch.at(index)
    }

    #[inline(always)]
    fn origin(&self, _index: usize) -> Option<usize> {
        None
    }
}
