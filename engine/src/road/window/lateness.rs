//! What becomes of rows that are too late for all their windows: they are counted, and dropped or written down.

use std::fmt;

use millstream_state::{Fixed, Key};

use crate::job::graph::{Graph, NodeId};
use crate::road::chain::{Signal, Stage};
use crate::road::dense::{Dense, Piece};
use crate::road::rows::BATCH_ROWS;
use crate::road::side::Sides;
use crate::road::sink::{Guarantee, Sink, SinkStage};
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// A row that came too late for all its windows, as it reached them: what is left of it on its key's shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Late<K, V> {
    /// The row's key.
    pub key: K,
    /// What the aggregate takes of the row: its [`Aggregate::Input`](crate::Aggregate::Input).
    pub value: V,
    /// The row's event time.
    pub at: Timestamp,
}

/// Late rows are counted and dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct DropLate;

/// Late rows are counted and written to a sink.
#[derive(Clone, Debug)]
pub struct LateTo<S> {
    pub(crate) sink: S,
}

/// What a window operator's user wants done with late rows of key `K`, of which the aggregate takes a `V`.
pub trait Lateness<K, V>: 'static {
    /// It needs the rows themselves: nothing may be folded before.
    const SINGLE: bool;
    /// What it writes to, in words, and what that promises; none where it writes nothing.
    fn note(&self) -> Option<(String, Guarantee)>;
    /// Who takes them on this shard; `node` is what was noted of it. None, with an error noted, where it cannot be had.
    fn open(self, node: Option<NodeId>, graph: &mut Graph) -> Option<LateRows<K, V>>;
}

impl<K: Copy + 'static, V: 'static> Lateness<K, V> for DropLate {
    const SINGLE: bool = false;

    fn note(&self) -> Option<(String, Guarantee)> {
        None
    }

    fn open(self, _node: Option<NodeId>, _graph: &mut Graph) -> Option<LateRows<K, V>> {
        Some(LateRows::dropped())
    }
}

impl<K: Key, V: Fixed, S: Sink<Late<K, V>>> Lateness<K, V> for LateTo<S> {
    const SINGLE: bool = true;

    fn note(&self) -> Option<(String, Guarantee)> {
        Some((self.sink.describe(), self.sink.guarantee()))
    }

    fn open(self, node: Option<NodeId>, graph: &mut Graph) -> Option<LateRows<K, V>> {
        let next = SinkStage::open(&self.sink, node.expect("a sink was noted"), graph)?;
        Some(LateRows { rows: Dense::default(), next: Some(Box::new(next)) })
    }
}

/// Late rows on their way: nowhere, or to a sink of their own, under the same epochs as everything else.
pub struct LateRows<K, V> {
    rows: Dense<Late<K, V>>,
    next: Option<Box<dyn LateStage<K, V>>>,
}

impl<K, V> fmt::Debug for LateRows<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.next.is_some() { "LateRows(written)" } else { "LateRows(dropped)" })
    }
}

impl<K: Copy + 'static, V: 'static> LateRows<K, V> {
    /// They are dropped.
    pub(crate) fn dropped() -> LateRows<K, V> {
        LateRows { rows: Dense::default(), next: None }
    }

    /// Takes one.
    pub(super) fn take(&mut self, key: &K, value: V, at: Timestamp) {
        if self.next.is_some() {
            self.rows.push(Late { key: *key, value, at }, at);
        }
    }
}

impl<K: Copy + 'static, V: 'static> Sides for LateRows<K, V> {
    fn hand_on(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let Some(next) = &mut self.next else { return Ok(()) };
        for piece in self.rows.pieces(BATCH_ROWS) {
            next.dense(&piece, cx)?;
        }
        self.rows.clear();
        Ok(())
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.next.as_mut().map_or(Ok(()), |next| next.signal(signal, cx))
    }

    fn ready(&mut self) -> bool {
        self.next.as_mut().is_none_or(|next| next.ready())
    }

    /// A sink has nothing that it deferred.
    fn resume(&mut self, _cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        Ok(Progress::Idle)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        if let Some(next) = &mut self.next {
            next.states(visitor);
        }
    }
}

/// What of a stage fits behind a pointer; late rows are few enough for a dynamic call a batch.
trait LateStage<K, V> {
    fn dense(&mut self, rows: &Piece<'_, Late<K, V>>, cx: &mut Cx<'_>) -> Result<(), Fault>;
    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault>;
    fn ready(&mut self) -> bool;
    fn states(&mut self, visitor: &mut dyn StateVisitor);
}

impl<K: 'static, V: 'static, N: Stage<Late<K, V>>> LateStage<K, V> for N {
    fn dense(&mut self, rows: &Piece<'_, Late<K, V>>, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.batch(rows, cx)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        Stage::signal(self, signal, cx)
    }

    fn ready(&mut self) -> bool {
        Stage::ready(self)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        Stage::states(self, visitor);
    }
}
