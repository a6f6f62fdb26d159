//! The shard: one pinned core's loop.
//!
//! ```text
//! turn:  take orders ─▶ step tasks in graph order ─▶ move the open epoch on ─▶ flush what waited long ─▶ tell
//!        nothing moved: flush at once, look again for a while, announce the sleep, look once more, sleep
//! ```
//!
//! The record's road is one task of the executor with a plain loop and no await on it.

mod linked;
#[cfg(feature = "testing")]
mod turned;
mod visitors;

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError};
use millstream_network::{Doorbell, LinkConfig, Peer};
use millstream_state::{Epoch, Manifest, Part, Restored, Savepoint, SnapshotSize, Store};

use self::linked::Linked;
use self::visitors::{AtEnd, CommitVisitor, ExplainVisitor, RecoverVisitor};
use super::fault::{Fault, JobError};
use super::io::{IoRoom, Slot, close_what_was_dropped};
use super::metrics::{ShardCounters, ShardReport};
use super::panics;
use super::residence::{Look, Residence};
use super::task::{Cx, Progress, Task};
use super::time_report::OperatorTime;
use crate::epoch::Barrier;
use crate::epoch::snapshot::{Closed, OpenEpoch, Verdict};
use crate::job::config::Config;
use crate::job::flow::{Factory, Flow};
use crate::job::graph::{EdgeEnds, Graph, NodeId, Plan, Site};
use crate::road::sink::{Committable, SinkError};
use crate::time::{BatchClock, Clock, Nanos};

/// Time between two reactor passes while I/O is under way, and while only timers may be.
const PASS_BUSY: Duration = Duration::from_millis(1);
const PASS_QUIET: Duration = Duration::from_millis(10);
/// How long a shard looks again before it sleeps: a wake costs about 50 µs, so looking longer than that for less would
/// be waste, and looking shorter would sleep through the gaps of a loaded edge.
const LOOK_AGAIN: Duration = Duration::from_micros(100);
/// Frozen state serialised per turn: 64 KiB take under 20 µs.
const DRAIN_BYTES_PER_TURN: usize = 64 << 10;
/// A turn longer than this is logged.
const LONG_TURN: Duration = Duration::from_millis(10);
/// It is said so not more often than this.
const LONG_TURN_WARNINGS_EVERY: Duration = Duration::from_secs(1);
/// A neighbour that gives a buffer back rings; a sink whose bytes have reached the disk does not, and is asked again.
const BLOCKED_POLL: Duration = Duration::from_millis(1);
/// How often a shard that has failed looks whether it is halted, beside its own ring.
const HALT_POLL: Duration = Duration::from_millis(100);
/// How often sinks that recover are looked at, beside their own ring.
const RECOVER_POLL: Duration = Duration::from_millis(100);

/// What the lead orders a shard to do.
#[derive(Debug)]
pub(crate) enum Order {
    Go,
    Inject(Barrier),
    Complete(Epoch),
    Abort(Epoch),
    /// Says how far time has come.
    Explain(Sender<Vec<OperatorTime>>),
    Halt,
}

/// What a shard tells the lead.
#[derive(Debug)]
pub(crate) enum News {
    /// Built, and its sinks are clean; what its state took to restore.
    Ready(Restored),
    InputEnded,
    Acknowledged {
        epoch: Epoch,
        part: Part,
        bytes: u64,
        snapshot: SnapshotSize,
    },
    Declined {
        epoch: Epoch,
        why: String,
    },
    Committed {
        epoch: Epoch,
    },
    Failed {
        why: String,
        is_final: bool,
    },
    Refused(JobError),
}

/// What a shard is started with.
pub(crate) struct ShardStart {
    pub(crate) shard: u32,
    pub(crate) config: Arc<Config>,
    pub(crate) factory: Factory,
    pub(crate) plan: Arc<Plan>,
    pub(crate) edges: Vec<EdgeEnds>,
    /// Shards of other processes, with the far ends of the lanes that lead to and from them.
    pub(crate) peers: Vec<Peer>,
    pub(crate) links: LinkConfig,
    pub(crate) doorbell: Arc<Doorbell>,
    pub(crate) orders: Receiver<Order>,
    pub(crate) news: Sender<(u32, News)>,
    pub(crate) restored: Option<Arc<Manifest>>,
    /// Where the keyed state of `restored` is, if that is no checkpoint.
    pub(crate) savepoint: Option<Arc<Savepoint>>,
    pub(crate) store: Option<Store>,
    pub(crate) counters: Arc<ShardCounters>,
    /// Where the loop leaves its waker for the watchdog.
    pub(crate) waker: Arc<Mutex<Option<Waker>>>,
}

/// Runs a shard to its end on the current executor.
pub(crate) async fn run(start: ShardStart) -> ShardReport {
    let report = run_and_drop(start).await;
    close_what_was_dropped().await;
    report
}

async fn run_and_drop(start: ShardStart) -> ShardReport {
    let (shard, news) = (start.shard, start.news.clone());
    // The lead has gone only if it was torn down itself; there is nobody left to tell.
    let tell = |message| drop(news.send((shard, message)));
    let waker = start.waker.clone();
    std::future::poll_fn(|cx| {
        *waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        Poll::Ready(())
    })
    .await;
    let _presence = Presence { shard, news: news.clone(), waker };
    let mut shard = match Shard::build(start) {
        Ok(shard) => shard,
        Err(error) => {
            tell(News::Refused(error));
            return ShardReport::new();
        }
    };
    if let Err(error) = shard.recover_sinks().await {
        tell(News::Refused(error));
        return shard.report;
    }
    tell(News::Ready(shard.taken));
    if let Err(fault) = shard.turn_until_halted().await {
        tell(News::Failed { why: fault.describe(&shard.plan), is_final: fault.is_final() });
        shard.wait_for_halt().await;
    }
    shard.into_report()
}

/// What the lead holds of a shard while it runs. At the shard's end the waker is taken back, which must happen on its own
/// thread, and a panic of our own, which nobody catches, is told: the lead would wait for an answer for ever.
struct Presence {
    shard: u32,
    news: Sender<(u32, News)>,
    waker: Arc<Mutex<Option<Waker>>>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if std::thread::panicking() {
            let why = format!("shard {} panicked in the engine itself; its message is on stderr", self.shard);
            drop(self.news.send((self.shard, News::Failed { why, is_final: false })));
        }
    }
}

pub(super) struct Shard {
    shard: u32,
    config: Arc<Config>,
    plan: Arc<Plan>,
    tasks: Vec<Box<dyn Task>>,
    doorbell: Arc<Doorbell>,
    /// To the shards of other processes.
    links: Linked,
    orders: Receiver<Order>,
    news: Sender<(u32, News)>,
    counters: Arc<ShardCounters>,
    restored: Option<Arc<Manifest>>,
    /// What that took.
    taken: Restored,
    io: Rc<IoRoom>,
    /// When the last barrier came in, or the shard was built.
    last_barrier: Nanos,
    residence: Residence,
    clock: Clock,
    /// What the job's closures read.
    batch_clock: BatchClock,
    /// When a stage wants to be flushed again at the latest, wall time in ms.
    flush_at_ms: Option<i64>,
    current: Cell<NodeId>,
    epoch: Option<OpenEpoch>,
    /// The epoch whose verdict is awaited.
    closed: Option<Closed>,
    /// Prepared output whose checkpoint has not completed yet, of this epoch and of failed ones before it.
    uncommitted: Vec<(NodeId, Committable)>,
    commits: Option<(Epoch, Vec<Slot<Result<(), SinkError>>>)>,
    going: bool,
    halted: bool,
    input_ended: bool,
    report: ShardReport,
    /// When a stage wants its turn at the latest, as of the last step.
    wake_at_ms: Option<i64>,
    turns: u64,
    long_turns: LongTurns,
}

/// Of turns that took too long.
#[derive(Default)]
struct LongTurns {
    /// When it was last said so.
    warned: Option<Nanos>,
    /// How many there were since.
    untold: u64,
}

impl Shard {
    fn build(start: ShardStart) -> Result<Shard, JobError> {
        let store = start.store.map(Rc::new);
        let io = IoRoom::open(start.shard, store.clone(), start.doorbell.fd().as_raw_fd())
            .map_err(|error| JobError::Machine(format!("shard {} cannot watch its doorbell: {error}", start.shard)))?;
        let site = Site {
            shard: start.shard,
            config: start.config.clone(),
            store,
            io: io.clone(),
            restored: start.restored.clone(),
            savepoint: start.savepoint,
            taken: Cell::default(),
            edges: start.edges,
            taken_us: Cell::default(),
        };
        let flow = Flow::new(Graph::new(Some(site)));
        panics::catch(|| (start.factory)(&flow))
            .map_err(|panic| JobError::Unusable(format!("the closure that describes the job panicked: {panic}")))?;
        let graph = flow.into_graph();
        let mut report = ShardReport::new();
        report.restore_us = graph.site.as_ref().map_or(0, |site| site.taken_us.get());
        if let Some(error) = graph.error {
            return Err(error);
        }
        if graph.plan.fingerprint() != start.plan.fingerprint() {
            return Err(JobError::Unusable(format!(
                "the closure that describes the job must build the same graph each time, and did not.\n\
                 Planned:\n{}On shard {}:\n{}",
                start.plan, start.shard, graph.plan
            )));
        }
        for task in &graph.tasks {
            for fd in task.wake_fds() {
                io.wake_on(fd).map_err(|error| JobError::Machine(format!("a source's descriptor: {error}")))?;
            }
        }
        let residence = Residence::new(start.shard, &start.config);
        let links = Linked::new(start.shard, start.peers, start.links);
        let clock = start.config.clock.clone();
        Ok(Shard {
            shard: start.shard,
            config: start.config,
            plan: start.plan,
            tasks: graph.tasks,
            batch_clock: graph.clock,
            flush_at_ms: None,
            doorbell: start.doorbell,
            links,
            orders: start.orders,
            news: start.news,
            counters: start.counters,
            restored: start.restored,
            taken: graph.site.map_or(Restored::default(), |site| site.taken.get()),
            io,
            last_barrier: clock.now(),
            residence,
            clock,
            current: Cell::new(NodeId(0)),
            epoch: None,
            closed: None,
            uncommitted: Vec::new(),
            commits: None,
            going: false,
            halted: false,
            input_ended: false,
            report,
            wake_at_ms: None,
            turns: 0,
            long_turns: LongTurns::default(),
        })
    }

    fn tell(&self, message: News) {
        drop(self.news.send((self.shard, message)));
    }

    /// Commits what the restored checkpoint promised, and clears away what it did not.
    async fn recover_sinks(&mut self) -> Result<(), JobError> {
        let mut recover = RecoverVisitor { shard: self, slots: Vec::new() };
        let mut tasks = std::mem::take(&mut recover.shard.tasks);
        for task in &mut tasks {
            task.states(&mut recover);
        }
        let slots = recover.slots;
        self.tasks = tasks;
        for (node, slot) in slots {
            while !slot.is_filled() {
                if let Some(panic) = self.io.panicked() {
                    return Err(JobError::Unusable(format!(
                        "sink \"{}\" panicked while it recovered: {panic}",
                        self.plan.uid(node)
                    )));
                }
                self.io.sleep(Some(RECOVER_POLL)).await;
            }
            slot.take().map_err(|error| JobError::Unusable(format!("sink \"{}\": {error}", self.plan.uid(node))))?;
        }
        Ok(())
    }

    async fn turn_until_halted(&mut self) -> Result<(), Fault> {
        let mut last_flush = self.clock.now();
        let mut last_pass = last_flush;
        let mut idle_since: Option<Nanos> = None;
        let mut announced = false;
        while !self.halted {
            let began = self.clock.now();
            self.take_orders()?;
            let mut progress = self.links.tick(began)?;
            if self.going {
                progress = progress.or(self.step()?);
            }
            progress = progress.or(self.move_epoch_on()?);
            let idle = progress != Progress::Worked;
            if self.going && (idle || began.since(last_flush) >= self.config.linger) {
                last_flush = began;
                self.flush()?;
            }
            let ended = self.clock.now();
            self.finish_turn(began, ended);
            let pass = if self.io.pending() > 0 { PASS_BUSY } else { PASS_QUIET };
            if ended.since(last_pass) >= pass {
                last_pass = ended;
                self.io.reactor_pass().await;
            }
            if !idle {
                idle_since = None;
                if std::mem::take(&mut announced) {
                    self.doorbell.retract();
                }
                continue;
            }
            if ended.since(*idle_since.get_or_insert(ended)) < LOOK_AGAIN {
                std::hint::spin_loop();
                continue;
            }
            // The sleep is announced before the last look, so that whoever comes after it knows to ring.
            if !std::mem::replace(&mut announced, true) {
                self.doorbell.announce();
                continue;
            }
            if self.links.may_sleep() {
                let blocked = (progress == Progress::Blocked).then_some(BLOCKED_POLL);
                let at_most = self.sleep_at_most().into_iter().chain(blocked).chain(self.links.sleep_at_most(ended));
                self.io.sleep(at_most.min()).await;
            }
            self.links.woken();
            self.doorbell.retract();
            announced = false;
            idle_since = None;
            last_pass = self.clock.now();
        }
        Ok(())
    }

    /// After a failure: its neighbours in other processes would take the end of its links for one of their own, and the lead
    /// might hear of that first.
    async fn wait_for_halt(&mut self) {
        while !self.halted {
            self.doorbell.announce();
            match self.orders.try_recv() {
                Ok(order) => self.halted = matches!(order, Order::Halt),
                Err(TryRecvError::Empty) => self.io.sleep(Some(HALT_POLL)).await,
                Err(TryRecvError::Disconnected) => break,
            }
        }
        self.doorbell.retract();
    }

    fn take_orders(&mut self) -> Result<(), Fault> {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Go => {
                    self.going = true;
                    self.links.go(&self.doorbell)?;
                }
                Order::Inject(barrier) => {
                    assert!(self.epoch.is_none() && self.closed.is_none(), "one epoch at a time");
                    let now = self.clock.now();
                    let since_last = now.since(std::mem::replace(&mut self.last_barrier, now));
                    let consolidation = self.config.consolidation_bytes_per_s as f64 * since_last.as_secs_f64();
                    self.epoch = Some(OpenEpoch::new(barrier, self.tasks.len(), self.io.clone(), consolidation as u64));
                    for task in &mut self.tasks {
                        task.inject(barrier);
                    }
                }
                Order::Complete(epoch) => self.complete(epoch),
                Order::Abort(epoch) => self.abort(epoch),
                Order::Explain(answer) => {
                    let mut explain = ExplainVisitor { shard: self.shard, plan: &self.plan, operators: Vec::new() };
                    self.tasks.iter_mut().for_each(|task| task.states(&mut explain));
                    // Who asked may have gone meanwhile.
                    drop(answer.send(explain.operators));
                }
                Order::Halt => self.halted = true,
            }
        }
        Ok(())
    }

    /// One step of every task. A panic in any of them is laid at the door of the operator that ran.
    fn step(&mut self) -> Result<Progress, Fault> {
        let Shard { tasks, current, epoch, clock, batch_clock, report, wake_at_ms, .. } = self;
        let now_ms = clock.wall_ms();
        let stepped = panics::catch(|| {
            let mut cx = Cx::new(now_ms, current, batch_clock, epoch.as_mut());
            let mut progress = Progress::Idle;
            for task in tasks {
                cx.begin();
                progress = progress.or(task.step(&mut cx)?);
            }
            report.skipped += cx.skipped_rows;
            *wake_at_ms = cx.wake_at_ms;
            Ok(progress)
        });
        stepped.unwrap_or_else(|panic| Err(Fault::panic(self.current.get(), panic)))
    }

    fn flush(&mut self) -> Result<(), Fault> {
        let Shard { tasks, current, epoch, clock, batch_clock, flush_at_ms, .. } = self;
        let now_ms = clock.wall_ms();
        let flushed = panics::catch(|| {
            let mut cx = Cx::new(now_ms, current, batch_clock, epoch.as_mut());
            let flushed = tasks.iter_mut().try_for_each(|task| task.flush(&mut cx));
            *flush_at_ms = cx.wake_at_ms;
            flushed
        });
        flushed.unwrap_or_else(|panic| Err(Fault::panic(self.current.get(), panic)))
    }

    /// Drains frozen state, acknowledges a settled epoch, reports finished commits.
    fn move_epoch_on(&mut self) -> Result<Progress, Fault> {
        let mut progress = Progress::Idle;
        if let Some(panic) = self.io.panicked() {
            return Err(Fault::shard(format!("an I/O task panicked: {panic}")));
        }
        if let Some(epoch) = &mut self.epoch {
            let before = self.clock.now();
            if epoch.drain(&mut self.tasks, DRAIN_BYTES_PER_TURN) {
                progress = Progress::Worked;
                let pause = self.clock.now().since(before).as_micros() as u64;
                self.report.pause_us.saturating_record(pause.max(1));
            }
            if epoch.is_settled() {
                progress = Progress::Worked;
                self.acknowledge();
            }
        }
        if let Some((epoch, slots)) = &self.commits
            && slots.iter().all(Slot::is_filled)
        {
            let epoch = *epoch;
            let (_, slots) = self.commits.take().expect("just looked at");
            for slot in slots {
                slot.take().map_err(|error| Fault::shard(format!("commit of epoch {}: {error}", epoch.0)))?;
            }
            self.tell(News::Committed { epoch });
            progress = Progress::Worked;
        }
        let ended = !self.input_ended && self.tasks.iter().filter_map(|task| task.input_ended()).all(|ended| ended);
        if ended && self.going {
            self.input_ended = true;
            self.tell(News::InputEnded);
        }
        Ok(progress)
    }

    fn acknowledge(&mut self) {
        let Some(epoch) = self.epoch.take() else { return };
        let (mut closed, result) = epoch.close(&mut self.tasks);
        self.uncommitted.append(&mut closed.committables);
        let message = match result {
            Ok(()) => {
                let part = closed.part(self.shard, &self.plan, &self.uncommitted);
                News::Acknowledged { epoch: closed.epoch, part, bytes: closed.bytes, snapshot: closed.snapshot }
            }
            Err(why) => News::Declined { epoch: closed.epoch, why },
        };
        self.closed = Some(closed);
        self.tell(message);
    }

    fn complete(&mut self, epoch: Epoch) {
        let closed = self.closed.take().expect("only an acknowledged epoch completes");
        assert_eq!(closed.epoch, epoch, "epochs complete in order");
        let mut verdict = Verdict::Confirm(&closed.files);
        for task in &mut self.tasks {
            task.states(&mut verdict);
        }
        let mut commit =
            CommitVisitor { committables: std::mem::take(&mut self.uncommitted), io: &self.io, slots: Vec::new() };
        for task in &mut self.tasks {
            task.states(&mut commit);
        }
        self.commits = Some((epoch, commit.slots));
    }

    /// The epoch is given up, after every shard has answered: what it froze is dirty again, and what its sinks prepared
    /// waits for the next one.
    fn abort(&mut self, epoch: Epoch) {
        let closed = self.closed.take().expect("the coordinator aborts an epoch that every shard has answered");
        assert_eq!(closed.epoch, epoch, "one epoch at a time");
        for task in &mut self.tasks {
            task.states(&mut Verdict::Abort);
        }
    }

    /// Says so, but not more often than once a second: a slow disk or a machine that swaps makes every turn a long one.
    #[cold]
    fn warn_of_long_turn(&mut self, turn: Duration, now: Nanos) {
        if self.long_turns.warned.is_some_and(|at| now.since(at) < LONG_TURN_WARNINGS_EVERY) {
            self.long_turns.untold += 1;
            return;
        }
        let untold = std::mem::take(&mut self.long_turns.untold);
        self.long_turns.warned = Some(now);
        tracing::warn!(
            shard = self.shard,
            operator = self.plan.uid(self.current.get()),
            turn_ms = turn.as_millis() as u64,
            untold,
            "a long turn of the shard's loop"
        );
    }

    fn finish_turn(&mut self, began: Nanos, ended: Nanos) {
        let turn = ended.since(began);
        self.report.turn_us.saturating_record((turn.as_micros() as u64).max(1));
        if turn >= LONG_TURN {
            self.warn_of_long_turn(turn, ended);
        }
        self.turns += 1;
        let events_in = self.tasks.iter().map(|task| task.rows_in()).sum();
        if self.report.events_in == 0 && events_in > 0 {
            self.report.first_event = Some(began);
        }
        self.report.events_in = events_in;
        self.counters.publish(events_in, self.turns);
        if let Some(look) = self.residence.look(ended, &mut self.tasks) {
            self.note(look);
        }
    }

    fn note(&mut self, look: Look) {
        self.counters.publish_state(look.state_bytes, look.major_faults);
        self.report.state_bytes_max = self.report.state_bytes_max.max(look.state_bytes);
        self.report.major_faults = look.major_faults;
    }

    /// How long nothing but a ring needs to wake the shard.
    fn sleep_at_most(&self) -> Option<Duration> {
        let now_ms = self.clock.wall_ms();
        let of_tasks = self.tasks.iter().filter_map(|task| task.wake_at_ms(now_ms));
        let wake_at = of_tasks.chain(self.wake_at_ms).chain(self.flush_at_ms).min()?;
        Some(Duration::from_millis(u64::try_from(wake_at.saturating_sub(now_ms)).unwrap_or(0)))
    }

    fn into_report(mut self) -> ShardReport {
        let mut at_end = AtEnd { late: 0, state_bytes: 0 };
        for task in &mut self.tasks {
            task.states(&mut at_end);
        }
        self.report.late = at_end.late;
        self.report.state_bytes = at_end.state_bytes;
        self.report
    }
}
