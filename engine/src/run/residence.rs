//! Whether a shard's keyed state is in memory and will stay there: looked at a few times a second, said once.

use std::time::Duration;

use millstream_state::{PageStore, major_faults_of_thread, memory_bytes_max};

use super::task::{StateVisitor, Task};
use crate::job::config::Config;
use crate::job::graph::NodeId;
use crate::time::Nanos;

/// How often state is measured.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The part of the budget, in percent, from which on the operator is warned.
const WARN_PERCENT: u64 = 80;

/// One shard's watch over its state's memory.
pub(crate) struct Residence {
    shard: u32,
    /// This shard's share of what the job's state may take.
    budget_bytes: u64,
    last_look: Option<Nanos>,
    faults_before: u64,
    warned: Warned,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Warned {
    Never,
    Near,
    Over,
}

/// What a look found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Look {
    pub(crate) state_bytes: u64,
    pub(crate) major_faults: u64,
}

impl Residence {
    pub(crate) fn new(shard: u32, config: &Config) -> Residence {
        let budget_bytes = config.state_memory_bytes_max.unwrap_or_else(memory_bytes_max) / u64::from(config.shards);
        let faults_before = major_faults_of_thread();
        Residence { shard, budget_bytes, last_look: None, faults_before, warned: Warned::Never }
    }

    /// Measures, if the last time is long enough ago.
    pub(crate) fn look(&mut self, now: Nanos, tasks: &mut [Box<dyn Task>]) -> Option<Look> {
        if self.last_look.is_some_and(|last| now.since(last) < LOOK_EVERY) {
            return None;
        }
        self.last_look = Some(now);
        let mut sum = SumVisitor(0);
        for task in tasks {
            task.states(&mut sum);
        }
        self.warn(sum.0);
        Some(Look { state_bytes: sum.0, major_faults: major_faults_of_thread() - self.faults_before })
    }

    fn warn(&mut self, state_bytes: u64) {
        let percent = state_bytes.saturating_mul(100) / self.budget_bytes.max(1);
        let now = match percent {
            0..WARN_PERCENT => Warned::Never,
            WARN_PERCENT..100 => Warned::Near,
            _ => Warned::Over,
        };
        if now <= self.warned {
            return;
        }
        self.warned = now;
        tracing::warn!(
            shard = self.shard,
            state_bytes,
            budget_bytes = self.budget_bytes,
            "keyed state has reached {percent} % of its memory budget; beyond it the machine will page or kill the job. \
             Spread the job over more shards or machines, give states a time to live, or raise state_memory_bytes_max"
        );
    }
}

/// Adds up the live bytes of all stores.
struct SumVisitor(u64);

impl StateVisitor for SumVisitor {
    fn keyed(&mut self, _: NodeId, store: &mut PageStore) {
        self.0 += store.bytes().live as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_warned_before_its_share_is_full() {
        let config = Config { shards: 2, state_memory_bytes_max: Some(2_000), ..Config::default() };
        let mut residence = Residence::new(0, &config);
        for (bytes, warned) in [(799, Warned::Never), (800, Warned::Near), (900, Warned::Near), (1000, Warned::Over)] {
            residence.warn(bytes);
            assert!(residence.warned == warned, "{bytes}");
        }
    }
}
