//! All shards of an attempt as the lead sees them: its own process's, and those that workers run for it.

use super::cluster::Detachment;
use super::crew::Crew;
use super::metrics::ShardReport;
use super::shard::Order;
use super::time_report::Way;
use crate::time::Nanos;

/// Every shard of an attempt.
#[derive(Default)]
pub(super) struct Fleet {
    pub(super) crew: Crew,
    /// Those of other processes, a worker each.
    pub(super) away: Vec<Detachment>,
}

impl Fleet {
    /// Orders all of them.
    pub(super) fn order_all(&self, order: impl Fn() -> Order) {
        self.away.iter().for_each(|detachment| detachment.order_all(&order()));
        self.crew.order_all(order);
    }

    /// Wakes those of this process that stand still; workers look after their own.
    pub(super) fn wake_stuck(&mut self, now: Nanos) {
        self.crew.wake_stuck(now);
    }

    /// Ways to the shards past the lead.
    pub(super) fn ways(&self) -> Vec<Way> {
        self.crew.ways().chain(self.away.iter().flat_map(Detachment::ways)).collect()
    }

    /// Takes the reports of shards that have dropped their end of the news.
    pub(super) fn join(self) -> Vec<(u32, Result<ShardReport, String>)> {
        self.crew.join().chain(self.away.into_iter().flat_map(Detachment::reports)).collect()
    }
}
