//! Rows dealt out to all shards in turn: where they arrive, a chain goes on with them.

use millstream_state::Fixed;

use super::chain::{Signal, Stage};
use super::dense::Dense;
use super::keyed::{Contributions, KeyedOut};
use super::rows::BATCH_ROWS;
use crate::job::graph::NodeId;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};

/// The first stage behind the edge: contributions are rows again.
pub(crate) struct Arrived<T, N> {
    rows: Dense<T>,
    node: NodeId,
    next: N,
}

impl<T, N> Arrived<T, N> {
    pub(crate) fn new(node: NodeId, next: N) -> Arrived<T, N> {
        Arrived { rows: Dense::default(), node, next }
    }
}

impl<T: Fixed, N: Stage<T>> KeyedOut<u8, T> for Arrived<T, N> {
    fn accept<C: Contributions<u8, T>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        assert!(batch.len() <= BATCH_ROWS, "a batch never exceeds BATCH_ROWS");
        self.rows.clear();
        (0..batch.len()).for_each(|index| self.rows.push(batch.value(index), batch.at(index)));
        self.next.batch(&self.rows.view(), cx)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.next.signal(signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.next.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.next.resume(cx)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.next.states(visitor);
    }
}
