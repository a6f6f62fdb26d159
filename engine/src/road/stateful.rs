//! Rows at the shard that owns their key: each meets the states of its key, one row after the other, in order.
//!
//! ```text
//! rows ─▶ Contribute ─▶ ToShards ─▶ edge ─▶ Merge ─▶ Stateful     on several shards
//!                    └─▶ straight ─────────────────▶ Stateful     on one
//! ```

use std::borrow::Borrow;
use std::marker::PhantomData;

use millstream_state::schema::Described;
use millstream_state::{Fixed, Key};
use serde_json::json;

use super::aggregate::Aggregate;
use super::chain::{Signal, Stage};
use super::dense::Dense;
use super::keyed::{Contributions, KeyedOut};
use super::rows::BATCH_ROWS;
use crate::job::graph::NodeId;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::state::{Bound, KeyedState};

/// Rows whose state is asked for before the first of them is handled: their lines stay in the first-level cache.
const AHEAD_ROWS: usize = 64;
/// Pages that are looked at for entries that are over, of each table: at every barrier, and with every batch, so that state
/// goes without checkpoints too.
const EXPIRED_PER_BARRIER: usize = 64;
const EXPIRED_PER_BATCH: usize = 1;

/// Rows that can be brought to the shard of their key: fixed ones, which cross an edge as they lie in memory.
#[diagnostic::on_unimplemented(
    message = "rows of type `{Self}` cannot be brought to their key's shard",
    label = "before `key_by`, map them to a fixed type",
    note = "a fixed type is `Copy`, made of numbers, Text<N> and arrays of them, and has #[millstream::event] on it"
)]
pub trait KeyedRow: Fixed {}

#[diagnostic::do_not_recommend]
impl<T: Fixed> KeyedRow for T {}

/// What of a row travels to its key's shard: all of it.
pub(crate) struct WholeRow;

impl<T: Fixed> Aggregate<T> for WholeRow {
    type Input = T;
    type Acc = ();
    type Out = ();

    #[inline(always)]
    fn lift(&self, row: &T) -> T {
        *row
    }

    fn init(&self) {}

    fn add(&self, (): &mut (), _: T) {}

    fn merge(&self, (): &mut (), (): &()) {}

    fn finish(&self, (): &()) {}
}

/// What a user's closure makes of a row and the states of its key.
pub trait Handling<S, T>: 'static {
    /// What goes on from here.
    type Out: 'static;

    /// A row's results. They are taken when the states are no longer in hand.
    type Results: IntoIterator<Item = Self::Out>;

    /// Handles a row.
    fn handle(&self, state: &mut S, row: &T) -> Self::Results;
}

/// One result per row.
#[derive(Debug)]
pub struct One<F>(pub(crate) F);

impl<S, T, U: 'static, F: Fn(&mut S, &T) -> U + 'static> Handling<S, T> for One<F> {
    type Out = U;
    type Results = [U; 1];

    #[inline(always)]
    fn handle(&self, state: &mut S, row: &T) -> [U; 1] {
        [(self.0)(state, row)]
    }
}

/// Any number of results per row.
#[derive(Debug)]
pub struct Any<F>(pub(crate) F);

impl<S, T, I, F> Handling<S, T> for Any<F>
where
    I: IntoIterator<Item: 'static>,
    F: Fn(&mut S, &T) -> I + 'static,
{
    type Out = I::Item;
    type Results = I;

    #[inline(always)]
    fn handle(&self, state: &mut S, row: &T) -> I {
        (self.0)(state, row)
    }
}

/// The operator: states of the keys that this shard owns, and the closure.
pub(crate) struct Stateful<T, K, S, H: Handling<S, T>, N> {
    bound: Bound<K, S>,
    handling: H,
    out: Dense<H::Out>,
    node: NodeId,
    next: N,
    row: PhantomData<fn(&T)>,
}

impl<T, K, S, H: Handling<S, T>, N> Stateful<T, K, S, H, N> {
    pub(crate) fn new(bound: Bound<K, S>, handling: H, node: NodeId, next: N) -> Self {
        Stateful { bound, handling, out: Dense::default(), node, next, row: PhantomData }
    }
}

impl<T, K, S, H, N> Stateful<T, K, S, H, N>
where
    K: Key + Described,
    S: KeyedState,
    H: Handling<S, T>,
    N: Stage<H::Out>,
{
    /// Hands on what is there, unless a state could not be written: then nothing of it counts.
    fn hand_on(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if let Some(error) = self.bound.take_failure() {
            return Err(Fault::state(self.node, error));
        }
        if !self.out.is_empty() {
            self.next.batch(&self.out.view(), cx)?;
            self.out.clear();
        }
        Ok(())
    }
}

impl<T, K, S, H, N> KeyedOut<K, T> for Stateful<T, K, S, H, N>
where
    T: Fixed,
    K: Key + Described,
    S: KeyedState,
    H: Handling<S, T>,
    N: Stage<H::Out>,
{
    fn accept<C: Contributions<K, T>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        self.out.clear();
        self.bound.set_now(cx.now_ms);
        self.bound.expire(EXPIRED_PER_BATCH);
        let mut hashes = [0; AHEAD_ROWS];
        for from in (0..batch.len()).step_by(AHEAD_ROWS) {
            let to = batch.len().min(from + AHEAD_ROWS);
            for index in from..to {
                hashes[index - from] = batch.key(index).borrow().hash64();
            }
            self.bound.prefetch(&hashes[..to - from]);
            for index in from..to {
                let (at, row) = (batch.at(index), batch.value(index));
                let states = self.bound.of(*batch.key(index).borrow());
                for result in self.handling.handle(states, &row) {
                    self.out.push(result, at);
                    if self.out.len() == BATCH_ROWS {
                        self.hand_on(cx)?;
                        cx.enter(self.node);
                    }
                }
            }
        }
        self.hand_on(cx)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if let Signal::Barrier(barrier) = signal {
            self.bound.set_now(cx.now_ms);
            self.bound.expire(EXPIRED_PER_BARRIER);
            let small = json!({ "now_ms": self.bound.now_ms() });
            cx.freeze(self.node, &mut self.bound.store, barrier, small);
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
        visitor.keyed(self.node, &mut self.bound.store);
        self.next.states(visitor);
    }
}
