//! What a shard asks of all its stages in turn: how far time has come, what sinks have to make good or to commit, what there
//! is to report at the end.

use millstream_state::PageStore;

use super::Shard;
use crate::job::graph::{NodeId, Plan};
use crate::road::sink::{Committable, SinkError};
use crate::run::io::{IoRoom, Slot};
use crate::run::task::{SinkEnd, StateVisitor};
use crate::run::time_report::{OperatorTime, SplitReport};
use crate::time::Timestamp;

/// Gathers how far time has come.
pub(super) struct ExplainVisitor<'a> {
    pub(super) shard: u32,
    pub(super) plan: &'a Plan,
    pub(super) operators: Vec<OperatorTime>,
}

impl StateVisitor for ExplainVisitor<'_> {
    fn time(&mut self, node: NodeId, watermark: Timestamp, splits: &dyn Fn() -> Vec<SplitReport>) {
        let (operator, shard) = (self.plan.uid(node), self.shard);
        self.operators.push(OperatorTime { operator, shard, watermark, splits: splits() });
    }
}

pub(super) struct RecoverVisitor<'a> {
    pub(super) shard: &'a mut Shard,
    pub(super) slots: Vec<(NodeId, Slot<Result<(), SinkError>>)>,
}

impl StateVisitor for RecoverVisitor<'_> {
    fn sink(&mut self, node: NodeId, sink: &mut dyn SinkEnd) {
        let (uid, shards) = (self.shard.plan.uid(node), self.shard.config.shards);
        let mut committables = Vec::new();
        if let Some(manifest) = self.shard.restored.as_deref() {
            sink.restored(manifest.epoch);
            // Of shards that are no more, too: each is looked after by one of those there are.
            let ours = manifest.parts.iter().filter(|part| part.shard % shards == self.shard.shard);
            let operators = ours.flat_map(|part| &part.operators).filter(|operator| operator.uid == uid);
            committables.extend(operators.flat_map(|operator| operator.committables.iter().cloned()));
        }
        self.slots.push((node, self.shard.io.spawn(sink.recover(committables))));
    }
}

pub(super) struct CommitVisitor<'a> {
    pub(super) committables: Vec<(NodeId, Committable)>,
    pub(super) io: &'a IoRoom,
    pub(super) slots: Vec<Slot<Result<(), SinkError>>>,
}

impl StateVisitor for CommitVisitor<'_> {
    fn sink(&mut self, node: NodeId, sink: &mut dyn SinkEnd) {
        let own = self.committables.iter().filter(|(of, _)| *of == node);
        let commits: Vec<_> = own.map(|(_, committable)| sink.commit(committable.clone())).collect();
        // One after the other: those of failed checkpoints come first, and a sink is promised its epochs in order.
        self.slots.push(self.io.spawn(async move {
            for commit in commits {
                commit.await?;
            }
            Ok(())
        }));
    }
}

/// What a shard's stages have to tell when it ends.
pub(super) struct AtEnd {
    pub(super) late: u64,
    pub(super) state_bytes: u64,
}

impl StateVisitor for AtEnd {
    fn keyed(&mut self, _node: NodeId, keyed: &mut PageStore) {
        self.state_bytes += keyed.bytes().live as u64;
    }

    fn late(&mut self, rows: u64) {
        self.late += rows;
    }
}
