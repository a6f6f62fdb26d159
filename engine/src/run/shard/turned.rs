//! A shard without its loop: whoever turns it decides when, and what time it is.

use millstream_state::PageStore;

use super::{AtEnd, ExplainVisitor, Shard, ShardStart};
use crate::job::graph::NodeId;
use crate::run::fault::{Fault, JobError};
use crate::run::task::{Progress, StateVisitor};
use crate::run::time_report::OperatorTime;

impl Shard {
    /// Builds the shard on the current executor and brings its sinks to the state of the restored checkpoint.
    pub(in crate::run) async fn open(start: ShardStart) -> Result<Shard, JobError> {
        let mut shard = Shard::build(start)?;
        shard.recover_sinks().await?;
        Ok(shard)
    }

    /// One turn of the loop; what waits for company leaves where `flush` is asked for.
    pub(in crate::run) fn turn(&mut self, flush: bool) -> Result<Progress, Fault> {
        self.take_orders()?;
        let mut progress = if self.going { self.step()? } else { Progress::Idle };
        progress = progress.or(self.move_epoch_on()?);
        if flush && self.going {
            self.flush()?;
        }
        Ok(progress)
    }

    /// The fault in words, with the operator's name.
    pub(in crate::run) fn describe(&self, fault: &Fault) -> String {
        fault.describe(&self.plan)
    }

    /// Rows that its sources have taken in.
    pub(in crate::run) fn rows_in(&self) -> u64 {
        self.tasks.iter().map(|task| task.rows_in()).sum()
    }

    /// Whether I/O is under way.
    pub(in crate::run) fn awaits_io(&self) -> bool {
        self.io.pending() > 0
    }

    /// Lets I/O move.
    pub(in crate::run) async fn reactor_pass(&self) {
        self.io.reactor_pass().await;
    }

    /// Whatever a test pushes into the shard ends here.
    pub(in crate::run) fn end_of_input(&mut self) {
        self.tasks.iter_mut().for_each(|task| task.end_of_input());
    }

    /// Whether every source has been read to its end.
    pub(in crate::run) fn input_has_ended(&self) -> bool {
        self.input_ended
    }

    /// Entries of keyed state, timers with them, by operator and state.
    pub(in crate::run) fn entries(&mut self) -> Vec<((String, String), usize)> {
        let mut counted = Entries(Vec::new());
        self.tasks.iter_mut().for_each(|task| task.states(&mut counted));
        let of_plan = |(node, state, entries)| ((self.plan.uid(node), state), entries);
        counted.0.into_iter().map(of_plan).collect()
    }

    /// Rows that came too late for their windows.
    pub(in crate::run) fn late(&mut self) -> u64 {
        let mut at_end = AtEnd { late: 0, state_bytes: 0 };
        self.tasks.iter_mut().for_each(|task| task.states(&mut at_end));
        at_end.late
    }

    /// How far time has come.
    pub(in crate::run) fn times(&mut self) -> Vec<OperatorTime> {
        let mut explain = ExplainVisitor { shard: self.shard, plan: &self.plan, operators: Vec::new() };
        self.tasks.iter_mut().for_each(|task| task.states(&mut explain));
        explain.operators
    }
}

/// Counts the entries of every store.
struct Entries(Vec<(NodeId, String, usize)>);

impl StateVisitor for Entries {
    fn keyed(&mut self, node: NodeId, store: &mut PageStore) {
        self.0.extend(store.entries_by_state().into_iter().map(|(state, entries)| (node, state, entries)));
    }
}
