//! Where the time goes: one clock for all stages of a loop, read between them, once a batch.

use std::iter::Sum;

use millstream::time::{Clock, Nanos};

/// The stages, in the order of [`StageTimes::ns`].
pub const STAGES: [&str; 6] = ["generate", "filter+project", "join", "partition", "hand over", "count+fire"];

/// A stage of the loop, as an index into [`STAGES`].
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    Generate,
    Views,
    Join,
    Partition,
    HandOver,
    Count,
}

/// The time spent in each stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StageTimes {
    /// Nanoseconds, by [`STAGES`].
    pub ns: [u64; STAGES.len()],
}

impl Sum for StageTimes {
    fn sum<I: Iterator<Item = StageTimes>>(parts: I) -> StageTimes {
        let mut sum = StageTimes::default();
        for part in parts {
            for (total, ns) in sum.ns.iter_mut().zip(part.ns) {
                *total += ns;
            }
        }
        sum
    }
}

/// Gives the time since the last lap to a stage; compiled away where `ON` is false.
pub(crate) struct Laps<const ON: bool> {
    clock: Clock,
    last: Nanos,
    times: StageTimes,
}

impl<const ON: bool> Laps<ON> {
    pub(crate) fn start() -> Laps<ON> {
        let clock = Clock::system();
        Laps { last: if ON { clock.now() } else { Nanos(0) }, clock, times: StageTimes::default() }
    }

    #[inline(always)]
    pub(crate) fn lap(&mut self, stage: Stage) {
        if ON {
            let now = self.clock.now();
            self.times.ns[stage as usize] += now.0 - self.last.0;
            self.last = now;
        }
    }

    pub(crate) fn times(&self) -> StageTimes {
        self.times
    }
}
