//! A job's shards on one thread, turned by hand: the lead's part for tests.
//!
//! The shards are those that a job runs on, with their own tasks, lanes, orders and news. What is missing is what makes a
//! run differ from the one before: threads, sleep, and a clock that goes on by itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use glommio::timer::Timer;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use millstream_network::{Doorbell, LinkConfig};
use millstream_state::{Epoch, Manifest, Part, Store};

use super::crew::lay_edges;
use super::fault::JobError;
use super::io::close_what_was_dropped;
use super::process::manifest;
use super::shard::{News, Order, Shard, ShardStart};
use super::task::Progress;
use super::time_report::{OperatorTime, WatermarkReport};
use crate::epoch::Barrier;
use crate::job::config::Config;
use crate::job::flow::Factory;
use crate::job::graph::Plan;

/// Shards that are turned by one thread gain nothing from more buffers under way, and a test starts many of them.
const BUFFERS_PER_LANE: usize = 4;
/// Rounds without a move, each with a flush, after which a job is taken to stand still: what a flush sends on arrives in
/// the round after it at the latest.
const QUIET_ROUNDS: u32 = 3;
/// Rounds in a row that move something and take no row in, after which a job is taken to go on for ever: eight million
/// timers that a watermark fires are through by then.
const ROUNDS_MAX: u32 = 4_000;
/// Rounds in a row that find nothing but I/O under way are made without a wait between them, and then with one.
const IMPATIENT_ROUNDS: u32 = 1_000;
const PATIENT_ROUNDS: u32 = 10_000;
const WAIT: Duration = Duration::from_millis(1);
/// glommio 0.9.0 may sleep with runnable tasks; a timer that has to fire bounds that sleep.
const HEARTBEAT: Duration = Duration::from_millis(5);

/// What shards are started with.
pub(crate) struct Start {
    pub(crate) factory: Factory,
    pub(crate) plan: Arc<Plan>,
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) restored: Option<Arc<Manifest>>,
}

/// One attempt: from a start or a restore until it fails or is thrown away.
pub(crate) struct Attempt {
    // Before the executor that they were built on.
    shards: Shards,
    executor: LocalExecutor,
}

struct Shards {
    shards: Vec<Turned>,
    news: Receiver<(u32, News)>,
    plan: Arc<Plan>,
    config: Arc<Config>,
    store: Store,
}

struct Turned {
    shard: Shard,
    orders: Sender<Order>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let shards = std::mem::take(&mut self.shards.shards);
        // A test that has failed already says so better than its executor would.
        if !std::thread::panicking() {
            on(&self.executor, async move {
                drop(shards);
                close_what_was_dropped().await;
            });
        }
    }
}

impl Attempt {
    /// Builds all shards, restored where there is something to restore, and lets them go.
    pub(crate) fn start(start: Start) -> Result<Attempt, JobError> {
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .preempt_timer(Duration::from_secs(3600))
            .io_memory(1 << 20)
            .make()
            .map_err(|error| JobError::Machine(format!("no executor can be had for a test's shards: {error}")))?;
        let shards = on(&executor, Shards::start(start))?;
        Ok(Attempt { shards, executor })
    }

    /// Turns the shards until nothing moves any more, even after a flush.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        on(&self.executor, self.shards.settle())
    }

    /// Takes a checkpoint and commits the sinks' output up to it.
    pub(crate) fn checkpoint(&mut self, job: &str, barrier: Barrier) -> Result<Manifest, String> {
        on(&self.executor, self.shards.checkpoint(job, barrier))
    }

    /// Ends what a test pushes into the shards.
    pub(crate) fn end_of_input(&mut self) {
        self.shards.shards.iter_mut().for_each(|turned| turned.shard.end_of_input());
    }

    pub(crate) fn input_has_ended(&self) -> bool {
        self.shards.shards.iter().all(|turned| turned.shard.input_has_ended())
    }

    /// Entries of keyed state and timers, of every operator's states on every shard.
    pub(crate) fn entries(&mut self) -> Vec<((String, String), usize)> {
        self.shards.shards.iter_mut().flat_map(|turned| turned.shard.entries()).collect()
    }

    pub(crate) fn late(&mut self) -> u64 {
        self.shards.shards.iter_mut().map(|turned| turned.shard.late()).sum()
    }

    pub(crate) fn explain_watermark(&mut self) -> WatermarkReport {
        let mut operators: Vec<OperatorTime> =
            self.shards.shards.iter_mut().flat_map(|turned| turned.shard.times()).collect();
        operators.sort_by(|one, other| (&one.operator, one.shard).cmp(&(&other.operator, other.shard)));
        WatermarkReport { operators }
    }
}

/// Runs `work` to its end.
fn on<R>(executor: &LocalExecutor, work: impl Future<Output = R>) -> R {
    executor.run(async {
        let heartbeat = glommio::spawn_local(async {
            loop {
                Timer::new(HEARTBEAT).await;
            }
        });
        let result = work.await;
        heartbeat.cancel().await;
        result
    })
}

impl Shards {
    async fn start(start: Start) -> Result<Shards, JobError> {
        let Start { factory, plan, config, store, restored } = start;
        let machine = |error| JobError::Machine(format!("an event descriptor cannot be had: {error}"));
        let doorbells = (0..config.shards)
            .map(|shard| Doorbell::new().map(|bell| (shard, Arc::new(bell))))
            .collect::<Result<Vec<_>, _>>();
        let doorbells = doorbells.map_err(machine)?;
        let mut edges = lay_edges(plan.edges, config.shards, &doorbells, BUFFERS_PER_LANE);
        let (tell, news) = unbounded();
        let mut shards = Vec::new();
        for number in 0..config.shards {
            let (orders, take_orders) = unbounded();
            let start = ShardStart {
                shard: number,
                config: config.clone(),
                factory: factory.clone(),
                plan: plan.clone(),
                edges: std::mem::take(&mut edges[number as usize].edges),
                peers: Vec::new(),
                links: LinkConfig::default(),
                doorbell: doorbells[number as usize].1.clone(),
                orders: take_orders,
                news: tell.clone(),
                restored: restored.clone(),
                savepoint: None,
                store: Some(store.clone()),
                counters: Arc::default(),
                waker: Arc::new(Mutex::new(None)),
            };
            shards.push(Turned { shard: Shard::open(start).await?, orders });
        }
        let shards = Shards { shards, news, plan, config, store };
        shards.order(|| Order::Go);
        Ok(shards)
    }

    fn order(&self, order: impl Fn() -> Order) {
        // The other end lies in the same value.
        self.shards.iter().for_each(|turned| drop(turned.orders.send(order())));
    }

    /// One turn of every shard, in order.
    fn round(&mut self, flush: bool) -> Result<Progress, String> {
        let mut progress = Progress::Idle;
        for Turned { shard, .. } in &mut self.shards {
            progress = progress.or(shard.turn(flush).map_err(|fault| shard.describe(&fault))?);
        }
        Ok(progress)
    }

    fn awaits_io(&self) -> bool {
        self.shards.iter().any(|turned| turned.shard.awaits_io())
    }

    /// Turns the shards until `is_done`.
    async fn turn_until(&mut self, mut is_done: impl FnMut(Progress, bool) -> bool) -> Result<(), String> {
        let (mut quiet, mut waited, mut busy, mut rows_in) = (0, 0, 0, 0);
        while busy < ROUNDS_MAX {
            let progress = self.round(quiet > 0)?;
            let stands_still = progress != Progress::Worked && !self.awaits_io();
            if is_done(progress, stands_still) {
                return Ok(());
            }
            if progress == Progress::Worked {
                let was = std::mem::replace(&mut rows_in, self.rows_in());
                busy = if was == rows_in { busy + 1 } else { 0 };
                (quiet, waited) = (0, 0);
                continue;
            }
            quiet += 1;
            if progress == Progress::Blocked || self.awaits_io() {
                waited += 1;
                match waited {
                    0..IMPATIENT_ROUNDS => self.shards[0].shard.reactor_pass().await,
                    IMPATIENT_ROUNDS..PATIENT_ROUNDS => drop(Timer::new(WAIT).await),
                    _ => return Err("an operator or sink waits for I/O that does not come to an end".to_owned()),
                }
            }
        }
        Err("the job does not come to rest, though nothing more comes in: does a timer set another one for ever?"
            .to_owned())
    }

    fn rows_in(&self) -> u64 {
        self.shards.iter().map(|turned| turned.shard.rows_in()).sum()
    }

    async fn settle(&mut self) -> Result<(), String> {
        let mut quiet = 0;
        self.turn_until(|progress, stands_still| {
            quiet = if stands_still && progress == Progress::Idle { quiet + 1 } else { 0 };
            quiet == QUIET_ROUNDS
        })
        .await
    }

    async fn checkpoint(&mut self, job: &str, barrier: Barrier) -> Result<Manifest, String> {
        self.order(|| Order::Inject(barrier));
        let mut parts = Vec::new();
        let (count, news) = (self.shards.len(), self.news.clone());
        let mut declined = None;
        self.turn_until(|_, _| {
            while let Ok((_, news)) = news.try_recv() {
                match news {
                    News::Acknowledged { part, .. } => parts.push(part),
                    News::Declined { why, .. } => declined = Some(why),
                    _ => {}
                }
            }
            parts.len() == count || declined.is_some()
        })
        .await?;
        if let Some(why) = declined {
            return Err(why);
        }
        parts.sort_by_key(|part: &Part| part.shard);
        let manifest = manifest(job, barrier.epoch, parts, &self.plan, &self.config);
        self.store.publish(&manifest).map_err(|error| error.to_string())?;
        self.order(|| Order::Complete(barrier.epoch));
        self.committed(barrier.epoch).await?;
        Ok(manifest)
    }

    /// Until every shard has committed.
    async fn committed(&mut self, epoch: Epoch) -> Result<(), String> {
        let (mut missing, news) = (self.shards.len(), self.news.clone());
        self.turn_until(|_, _| {
            let told =
                news.try_iter().filter(|(_, news)| matches!(news, News::Committed { epoch: of } if *of == epoch));
            missing -= told.count();
            missing == 0
        })
        .await
    }
}
