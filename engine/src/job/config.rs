//! How a job is run: shards, cores, checkpoints, restarts.

use std::path::PathBuf;
use std::time::Duration;

use millstream_state::StoreConfig;

use super::cluster::Cluster;
use crate::time::Clock;

/// Everything that is not the job itself. [`Job`](crate::Job) has a method for each.
#[derive(Clone, Debug)]
pub struct Config {
    /// Shards, each with a core of its own where there are enough.
    pub shards: u32,
    /// The cores to pin to, shard by shard; empty: those the process may use, in order.
    pub cores: Vec<usize>,
    /// Where checkpoints are kept, a directory or an object store's address; without one a restart begins at the input's
    /// beginning.
    pub checkpoint_dir: Option<PathBuf>,
    /// Settings of that place, beside those in the environment, and how long it is waited for: never longer than the
    /// checkpoint timeout.
    pub store: StoreConfig,
    /// The savepoint to begin at, while there is no checkpoint yet.
    pub from_savepoint: Option<PathBuf>,
    /// Goes on where the job has no place any more for state that a checkpoint or savepoint holds: it is left behind.
    pub allow_dropped: bool,
    /// Time from one checkpoint's start to the next one's; `None`: only the one at the end.
    pub checkpoint_interval: Option<Duration>,
    /// A checkpoint that takes longer is given up.
    pub checkpoint_timeout: Duration,
    /// Failed checkpoints in a row that the job survives.
    pub tolerable_failures: u32,
    /// Checkpoints kept; older ones are deleted.
    pub checkpoints_retained: usize,
    /// Bytes a second that a snapshot may write beside what changed, for each operator on each shard: how fast old files
    /// are replaced, so that a restore reads little.
    pub consolidation_bytes_per_s: u64,
    /// The memory that all shards' keyed state together should stay within; `None`: what the machine, or the control group
    /// of the process, has. At 80 % of it the log says so.
    pub state_memory_bytes_max: Option<u64>,
    /// Other processes that run shards of the job, if there are any.
    pub cluster: Option<Cluster>,
    /// Fold on the sending shard first.
    pub combine: bool,
    /// How long an event under load may wait for company.
    pub linger: Duration,
    /// A split that is silent for so long no longer holds time back.
    pub idle_timeout: Duration,
    /// What happens after a failure.
    pub restart: RestartStrategy,
    /// Where keyed state lies while the job runs.
    pub state_backing: StateBacking,
    /// SIGTERM and Ctrl-C stop the job with a last checkpoint.
    pub handle_signals: bool,
    /// What the job takes for the time: the system's clock, or one of a test's.
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            shards: 1,
            cores: Vec::new(),
            checkpoint_dir: None,
            store: StoreConfig::default(),
            from_savepoint: None,
            allow_dropped: false,
            checkpoint_interval: None,
            checkpoint_timeout: Duration::from_secs(600),
            tolerable_failures: 3,
            checkpoints_retained: 3,
            consolidation_bytes_per_s: 256 << 20,
            state_memory_bytes_max: None,
            cluster: None,
            combine: true,
            linger: Duration::from_millis(1),
            idle_timeout: Duration::from_secs(30),
            restart: RestartStrategy::default(),
            state_backing: StateBacking::default(),
            handle_signals: true,
            clock: Clock::system(),
        }
    }
}

/// Where keyed state lies while the job runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum StateBacking {
    /// In the process's own memory: a restart reads the checkpoint.
    #[default]
    Anonymous,
    /// In files below this directory, which must be on a tmpfs, such as `/dev/shm/millstream`. They outlive a process that
    /// crashes, and a restart on the same boot puts back what changed since the checkpoint instead of reading it. Every page
    /// that changes is copied once per checkpoint for that. A job that ends or is stopped removes its files.
    File(PathBuf),
}

/// Exponential back-off with a cap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestartStrategy {
    /// The first wait.
    pub initial: Duration,
    /// No wait is longer.
    pub max: Duration,
    /// Restarts without a completed checkpoint between them before the job fails for good.
    pub attempts: u32,
}

impl Default for RestartStrategy {
    fn default() -> RestartStrategy {
        RestartStrategy { initial: Duration::from_millis(100), max: Duration::from_secs(10), attempts: 3 }
    }
}

impl RestartStrategy {
    /// Fails at the first failure.
    #[must_use]
    pub fn never() -> RestartStrategy {
        RestartStrategy { attempts: 0, ..RestartStrategy::default() }
    }

    /// The wait before restart number `attempt` (from 1), or `None` when it is one too many.
    #[must_use]
    pub fn delay(&self, attempt: u32) -> Option<Duration> {
        if attempt > self.attempts {
            return None;
        }
        Some(self.initial.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let restart = RestartStrategy { attempts: 30, ..RestartStrategy::default() };
        let waits: Vec<_> = [1, 2, 3, 8, 30].map(|attempt| restart.delay(attempt)).into();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(waits, [ms(100), ms(200), ms(400), ms(10_000), ms(10_000)]);
        assert_eq!(restart.delay(31), None);
        assert_eq!(RestartStrategy::never().delay(1), None);
    }
}
