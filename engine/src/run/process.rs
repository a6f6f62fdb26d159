//! The lead: the thread that starts the shards of this process, carries the coordinator's actions out, and restarts.
//!
//! ```text
//! start: check machine and settings ─▶ plan ─▶ open the store ─▶ attempt
//! attempt: newest verified manifest ─▶ lanes ─▶ shards ─▶ lead until finished, stopped or failed ─▶ join
//! failed: the restart strategy says when to try again, or that it is over
//! ```

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use crossbeam::select;
use hdrhistogram::Histogram;
use millstream_state::{
    Epoch, Manifest, Part, Restored, Savepoint, SnapshotSize, Store, StoreConfig, StoreError, segments_of_job,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

use super::cluster::Workers;
use super::crew::{Place, Terms, Wires};
use super::fault::JobError;
use super::fleet::Fleet;
use super::handle::{CheckpointFigures, CheckpointReport, JobHandle, JobReport, RestoreReport};
use super::machine;
use super::metrics::{ShardCounters, ShardReport};
use super::publisher::{Published, Publisher};
use super::savepoints::Savepoints;
use super::shard::{News, Order};
use super::time_report::Reach;
use crate::epoch::coordinator::{Action, Coordinator, EpochSettings, Message};
use crate::job::config::{Config, StateBacking};
use crate::job::flow::{Factory, Job, plan};
use crate::job::graph::{NodeId, Plan};
use crate::time::{Clock, Nanos};

/// How often the lead looks for signals and stuck shards when nothing else happens.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Checks everything that can be checked before a thread is started, then starts the lead.
pub(crate) fn start(job: Job) -> Result<JobHandle, JobError> {
    let Job { name, factory, mut config } = job;
    if let StateBacking::File(directory) = &mut config.state_backing {
        *directory = segments_of_job(directory, &name);
    }
    let cores = machine::cores(&config, config.shards)?;
    machine::check()?;
    if let Some(cluster) = &config.cluster {
        cluster.check(config.shards).map_err(JobError::Unusable)?;
    }
    let plan = Arc::new(plan(&factory)?);
    let store = match &config.checkpoint_dir {
        Some(place) => Some(open(place, &config).map_err(unusable)?),
        None if config.checkpoint_interval.is_some() => {
            return Err(JobError::Unusable(
                "a checkpoint interval is set and no directory to keep checkpoints in: use .checkpoints(dir, interval)"
                    .into(),
            ));
        }
        None => None,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let signals = config.handle_signals.then(|| Signals::stop(&stop)).transpose()?;
    let (savepoints, requests) = Savepoints::new();
    let reach = Reach::default();
    let counters: Arc<[Arc<ShardCounters>]> = (0..config.shards).map(|_| Arc::default()).collect();
    let mut lead = Lead {
        name,
        factory,
        clock: config.clock.clone(),
        config: Arc::new(config),
        cores,
        plan,
        store,
        stop: stop.clone(),
        counters: counters.clone(),
        restarts: Vec::new(),
        restarts_in_a_row: 0,
        highest: Epoch(0),
        is_swept: false,
        checkpoints: empty_checkpoint_report(),
        start_began: Nanos(0),
        restored: None,
        savepoint: None,
        savepoints,
        reach: reach.clone(),
        workers: None,
    };
    let cluster = lead.config.cluster.clone();
    // A manifest that does not fit is a usage error, told before anything runs.
    let restored = if cluster.is_none() { lead.begin_at_newest()? } else { None };
    let place = cluster.as_ref().map(|cluster| lead.open_place(cluster)).transpose()?;
    let address = place.as_ref().map(|place| place.address.clone());
    let lead = move || {
        let _until_the_end = signals;
        let result = match cluster.as_ref().zip(place) {
            None => lead.run(restored),
            Some((cluster, place)) => lead.take_part(cluster, place),
        };
        lead.savepoints.end();
        result
    };
    let thread = spawn_named("millstream-lead", lead)
        .map_err(|error| JobError::Machine(format!("the lead's thread cannot be started: {error}")))?;
    Ok(JobHandle { lead: thread, stop, counters, savepoints: requests, reach, address })
}

/// Opens the place for checkpoints; it is waited for no longer than a checkpoint may take.
fn open(place: &Path, config: &Config) -> Result<Store, StoreError> {
    let mut store: StoreConfig = config.store.clone();
    store.patience.total = store.patience.total.min(config.checkpoint_timeout);
    Store::open_with(place, &store)
}

pub(super) fn unusable(error: StoreError) -> JobError {
    JobError::Unusable(error.to_string())
}

/// The job's hold on SIGTERM and Ctrl-C. A job that has ended lets go of them, or the flag it leaves set would make the
/// first signal of the next job in this process count as the second.
struct Signals(Vec<SigId>);

impl Signals {
    fn stop(stop: &Arc<AtomicBool>) -> Result<Signals, JobError> {
        let mut signals = Signals(Vec::new());
        for signal in [SIGTERM, SIGINT] {
            // The second signal ends the process at once: a person who presses Ctrl-C twice means it. Its flag is one of
            // its own, so that a stop in the program's words and then a signal do not count as two.
            let signalled = Arc::new(AtomicBool::new(false));
            let hold = |result: std::io::Result<SigId>| {
                result.map_err(|error| JobError::Machine(format!("signal handlers cannot be installed: {error}")))
            };
            signals.0.push(hold(flag::register_conditional_shutdown(signal, 130, signalled.clone()))?);
            signals.0.push(hold(flag::register(signal, signalled))?);
            signals.0.push(hold(flag::register(signal, stop.clone()))?);
        }
        Ok(signals)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.0.drain(..) {
            low_level::unregister(id);
        }
    }
}

/// The door to threads: each has a name, and a handle that somebody joins.
pub(super) fn spawn_named<R: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> R + Send + 'static,
) -> std::io::Result<thread::JoinHandle<R>> {
    thread::Builder::new().name(name.to_string()).spawn(work)
}

fn empty_checkpoint_report() -> CheckpointReport {
    CheckpointReport {
        completed: 0,
        failed: Vec::new(),
        rejected: Vec::new(),
        duration_us: Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are constants that fit"),
        bytes_total: 0,
        bytes_max: 0,
        newest: VecDeque::new(),
    }
}

pub(super) struct Lead {
    pub(super) name: String,
    pub(super) factory: Factory,
    pub(super) config: Arc<Config>,
    /// The core of each shard; empty where shards outnumber cores and float.
    cores: Vec<usize>,
    pub(super) plan: Arc<Plan>,
    pub(super) store: Option<Store>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) counters: Arc<[Arc<ShardCounters>]>,
    pub(super) clock: Clock,
    pub(super) restarts: Vec<String>,
    pub(super) restarts_in_a_row: u32,
    /// The highest epoch that a manifest in the store has in its name: taken, whether or not it is believed.
    pub(super) highest: Epoch,
    /// What attempts of other processes have left was deleted.
    pub(super) is_swept: bool,
    pub(super) checkpoints: CheckpointReport,
    /// When the running attempt began to look for a checkpoint.
    pub(super) start_began: Nanos,
    /// What it took to restore.
    restored: Option<RestoreReport>,
    /// The savepoint that the attempt at hand begins at, if it does.
    pub(super) savepoint: Option<Arc<Savepoint>>,
    savepoints: Savepoints,
    pub(super) reach: Reach,
    /// The other processes, where this one leads some.
    pub(super) workers: Option<Workers>,
}

/// How an attempt ended.
enum Outcome {
    Finished {
        at: Nanos,
    },
    Failed {
        why: String,
        is_final: bool,
    },
    Refused(JobError),
    /// Another process leads by now.
    Deposed,
}

impl Lead {
    /// Where the job begins: at the newest checkpoint, if it is of this job.
    pub(super) fn begin_at_newest(&mut self) -> Result<Option<Arc<Manifest>>, JobError> {
        let newest = self.newest_before(None).map_err(unusable)?;
        let restored = self.believe(newest)?;
        self.sweep_segments(true);
        Ok(restored)
    }

    pub(super) fn run(&mut self, mut restored: Option<Arc<Manifest>>) -> Result<JobReport, JobError> {
        loop {
            let restored_epoch = restored.as_ref().map_or(Epoch(0), |manifest| manifest.epoch);
            self.restored = None;
            let (outcome, measured) = self.attempt(restored.take());
            let outcome = if self.may_lead() { outcome } else { Outcome::Deposed };
            match outcome {
                Outcome::Finished { at } => {
                    self.sweep_segments(false);
                    let elapsed = measured.first_event.map_or(Duration::ZERO, |first| at.since(first));
                    let stopped = self.stop.load(Ordering::Relaxed);
                    return Ok(self.report(restored_epoch.0, stopped, elapsed, measured));
                }
                Outcome::Refused(JobError::Damaged(why)) => restored = Some(self.fall_back(restored_epoch, why)?),
                // An attempt that could not begin, but may another time.
                Outcome::Refused(JobError::Failed { cause, .. }) => restored = self.restart(cause, false)?,
                Outcome::Refused(error) => return Err(error),
                Outcome::Deposed => {
                    let cause = "this process leads no more".to_owned();
                    return Err(JobError::Failed { cause, restarts: self.restarts.len() as u32 });
                }
                Outcome::Failed { why, is_final } => restored = self.restart(why, is_final)?,
            }
        }
    }

    /// Whether this process, if it was elected, still leads.
    fn may_lead(&self) -> bool {
        self.workers.as_ref().is_none_or(Workers::may_lead)
    }

    /// What came of the job, as far as this process knows.
    pub(super) fn report(
        &mut self,
        restored_epoch: u64,
        stopped: bool,
        elapsed: Duration,
        measured: ShardReport,
    ) -> JobReport {
        JobReport {
            job: self.name.clone(),
            shards: self.config.shards,
            led: true,
            guarantee: self.plan.guarantee(),
            elapsed,
            restored_epoch,
            restored: self.restored,
            stopped,
            restarts: std::mem::take(&mut self.restarts),
            checkpoints: std::mem::replace(&mut self.checkpoints, empty_checkpoint_report()),
            measured,
        }
    }

    /// Removes the segments of runs that are over: at the start all but those that this run may go on with, at the end all.
    pub(super) fn sweep_segments(&self, at_start: bool) {
        let StateBacking::File(directory) = &self.config.state_backing else { return };
        let uids: Vec<String> = (0..self.plan.nodes.len()).map(|node| self.plan.uid(NodeId(node as u32))).collect();
        let kept = uids.iter().map(String::as_str).filter(|_| at_start);
        match millstream_state::sweep_segments(directory, kept, self.config.shards) {
            Ok(0) => {}
            Ok(segments) => {
                tracing::info!(segments, directory = %directory.display(), "segments of runs that are over removed")
            }
            Err(error) => {
                tracing::warn!(%error, directory = %directory.display(), "segments of runs that are over cannot be removed");
            }
        }
    }

    fn attempt(&mut self, restored: Option<Arc<Manifest>>) -> (Outcome, ShardReport) {
        let (tell, news) = unbounded();
        let mut measured = ShardReport::new();
        let mut fleet = Fleet::default();
        let publisher = match Publisher::start(
            self.store.clone(),
            self.config.checkpoints_retained,
            self.savepoints.pins.clone(),
        ) {
            Ok(publisher) => publisher,
            Err(error) => {
                let error = JobError::Machine(format!("the publisher's thread cannot be started: {error}"));
                return (Outcome::Refused(error), measured);
            }
        };
        let started = self.start_shards(restored.clone(), &tell, &mut fleet);
        // The news ends with the last shard.
        drop(tell);
        let mut outcome = match started {
            Ok(()) => self.lead(&mut fleet, &news, &publisher, restored.as_deref()),
            Err(error) => Outcome::Refused(error),
        };
        fleet.order_all(|| Order::Halt);
        // Until every shard has dropped its end of the news; none of them may sleep through its end.
        while !matches!(news.recv_timeout(LOOK_EVERY), Err(RecvTimeoutError::Disconnected)) {
            fleet.wake_stuck(self.clock.now());
        }
        drop(publisher);
        for (_, report) in fleet.join() {
            match report {
                Ok(report) => measured.add(&report),
                Err(why) if matches!(outcome, Outcome::Finished { .. }) => {
                    outcome = Outcome::Failed { why, is_final: false };
                }
                Err(why) => tracing::warn!(why, "a shard has no report"),
            }
        }
        (outcome, measured)
    }

    /// The next news, however long it takes.
    fn news(&self, fleet: &mut Fleet, news: &Receiver<(u32, News)>) -> Option<News> {
        loop {
            match news.recv_timeout(LOOK_EVERY) {
                Ok((_, news)) => return Some(news),
                Err(RecvTimeoutError::Timeout) => fleet.wake_stuck(self.clock.now()),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Starts all shards of an attempt: this process's, and through their workers those of others.
    fn start_shards(
        &mut self,
        restored: Option<Arc<Manifest>>,
        news: &Sender<(u32, News)>,
        fleet: &mut Fleet,
    ) -> Result<(), JobError> {
        let terms = Terms {
            config: self.config.clone(),
            factory: self.factory.clone(),
            plan: self.plan.clone(),
            restored,
            savepoint: self.savepoint.clone(),
            store: self.store.clone(),
        };
        let (places, wires) = match &mut self.workers {
            Some(workers) => workers.prepare(&terms, news, &mut fleet.away)?,
            None => {
                let place = |(shard, counters): (usize, &Arc<ShardCounters>)| {
                    let core = self.cores.get(shard).copied();
                    Place { shard: shard as u32, core, counters: counters.clone() }
                };
                (self.counters.iter().enumerate().map(place).collect(), Wires::default())
            }
        };
        let started = fleet.crew.start(&terms, places, wires, news);
        self.reach.lead_to(fleet.ways());
        started
    }

    /// Leads the running shards until the attempt is over.
    fn lead(
        &mut self,
        fleet: &mut Fleet,
        news: &Receiver<(u32, News)>,
        publisher: &Publisher,
        restored: Option<&Manifest>,
    ) -> Outcome {
        let mut state = Restored::default();
        for _ in 0..self.config.shards {
            match self.news(fleet, news) {
                Some(News::Ready(taken)) => state = state + taken,
                Some(News::Refused(error)) => return Outcome::Refused(error),
                Some(News::Failed { why, is_final }) => return Outcome::Failed { why, is_final },
                other => return Outcome::Failed { why: format!("a shard did not start: {other:?}"), is_final: false },
            }
        }
        self.sweep_once();
        let began = self.clock.now();
        self.restored = restored.map(|manifest| RestoreReport {
            shards_before: manifest.shards,
            shards: self.config.shards,
            took: began.since(self.start_began),
            state,
        });
        if let Some(report) = self.restored.filter(|report| report.shards_before != report.shards) {
            tracing::info!("{report}");
        }
        let settings = EpochSettings {
            shards: self.config.shards,
            interval: self.config.checkpoint_interval,
            timeout: self.config.checkpoint_timeout,
            tolerable_failures: self.config.tolerable_failures,
        };
        // A manifest that is not believed has its name all the same.
        let epoch = restored.map_or(Epoch(0), |manifest| manifest.epoch).max(self.highest);
        let mut coordinator = Coordinator::new(settings, epoch, began);
        let mut under_way = UnderWay::since(began);
        let mut told_to_stop = false;
        if self.savepoints.attempt_begins() {
            coordinator.handle(began, Message::Checkpoint);
        }
        fleet.order_all(|| Order::Go);
        loop {
            if !self.may_lead() {
                return Outcome::Deposed;
            }
            let (wants_checkpoint, stops) = self.savepoints.take();
            if stops {
                self.stop.store(true, Ordering::Relaxed);
            }
            if !told_to_stop && self.stop.load(Ordering::Relaxed) {
                told_to_stop = true;
                coordinator.handle(self.clock.now(), Message::Stop);
            } else if wants_checkpoint {
                coordinator.handle(self.clock.now(), Message::Checkpoint);
            }
            self.savepoints.committed(coordinator.committed_epoch(), self.store.as_ref(), &self.config.store);
            while let Some(action) = coordinator.poll() {
                match action {
                    Action::Finish => {
                        self.savepoints.finished(self.store.as_ref(), &self.config.store);
                        return Outcome::Finished { at: self.clock.now() };
                    }
                    Action::Fail(why) => return Outcome::Failed { why, is_final: false },
                    action => self.carry_out(action, fleet, publisher, &mut under_way),
                }
            }
            let now = self.clock.now();
            let wait = coordinator.wake_at().map_or(LOOK_EVERY, |at| at.since(now).min(LOOK_EVERY));
            let heard = select! {
                recv(news) -> news => news.map_err(|_| RecvTimeoutError::Disconnected),
                recv(publisher.published) -> published => match published {
                    Ok(Published { result: Err(error @ StoreError::Fenced { .. }), .. }) => {
                        // Whoever is elected knows of all that were before; this is one of those.
                        return Outcome::Failed { why: error.to_string(), is_final: self.workers.is_none() };
                    }
                    Ok(published) => {
                        self.persisted(published, &mut coordinator, &under_way);
                        continue;
                    }
                    Err(_) => return Outcome::Failed { why: "the publisher has ended".into(), is_final: false },
                },
                default(wait) => Err(RecvTimeoutError::Timeout),
            };
            match heard {
                Ok((shard, News::Acknowledged { epoch, part, bytes, snapshot })) => {
                    under_way.add(bytes, &snapshot);
                    coordinator.handle(self.clock.now(), Message::Acknowledged { shard, epoch, part });
                }
                Ok((shard, News::Declined { epoch, why })) => {
                    coordinator.handle(self.clock.now(), Message::Declined { shard, epoch, why });
                }
                Ok((shard, News::Committed { epoch })) => {
                    coordinator.handle(self.clock.now(), Message::Committed { shard, epoch });
                }
                Ok((shard, News::InputEnded)) => coordinator.handle(self.clock.now(), Message::InputEnded { shard }),
                Ok((_, News::Failed { why, is_final })) => return Outcome::Failed { why, is_final },
                Ok((_, News::Refused(error))) => return Outcome::Refused(error),
                Ok((shard, News::Ready(_))) => unreachable!("shard {shard} is ready once"),
                Err(RecvTimeoutError::Timeout) => {
                    coordinator.tick(self.clock.now());
                    if let Some(workers) = &mut self.workers {
                        workers.admit(Duration::ZERO);
                    }
                    fleet.wake_stuck(self.clock.now());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Outcome::Failed { why: "all shards have ended".into(), is_final: false };
                }
            }
        }
    }

    fn carry_out(&mut self, action: Action, fleet: &Fleet, publisher: &Publisher, under_way: &mut UnderWay) {
        match action {
            Action::Inject(barrier) => {
                *under_way = UnderWay::since(self.clock.now());
                self.savepoints.begun(barrier);
                fleet.order_all(|| Order::Inject(barrier));
            }
            Action::Persist { epoch, parts } => {
                let manifest = manifest(&self.name, epoch, parts, &self.plan, &self.config);
                self.savepoints.persisting(&manifest);
                publisher.publish(manifest);
            }
            Action::Complete(epoch) => fleet.order_all(|| Order::Complete(epoch)),
            Action::Abort { epoch, why } => {
                tracing::warn!(epoch = epoch.0, why, "a checkpoint failed; the job goes on");
                self.savepoints.aborted(epoch, &why);
                self.checkpoints.failed.push(why);
                fleet.order_all(|| Order::Abort(epoch));
            }
            Action::Finish | Action::Fail(_) => unreachable!("they end the loop that calls this"),
        }
    }

    /// A checkpoint exists, or does not.
    fn persisted(&mut self, published: Published, coordinator: &mut Coordinator, under_way: &UnderWay) {
        let Published { epoch, result } = published;
        let now = self.clock.now();
        if result.is_ok() && self.store.is_some() {
            self.checkpoints.add(CheckpointFigures {
                epoch: epoch.0,
                begun: under_way.injected,
                duration_us: now.since(under_way.injected).as_micros() as u64,
                bytes: under_way.bytes,
                snapshot: under_way.snapshot,
            });
            self.restarts_in_a_row = 0;
        }
        coordinator.handle(now, Message::Persisted { epoch, result: result.map_err(|error| error.to_string()) });
    }
}

/// The checkpoint that is being taken.
struct UnderWay {
    injected: Nanos,
    bytes: u64,
    snapshot: SnapshotSize,
}

impl UnderWay {
    fn since(injected: Nanos) -> UnderWay {
        UnderWay { injected, bytes: 0, snapshot: SnapshotSize::default() }
    }

    /// A shard's part of it.
    fn add(&mut self, bytes: u64, snapshot: &SnapshotSize) {
        self.bytes += bytes;
        self.snapshot.dirty_pages += snapshot.dirty_pages;
        self.snapshot.dirty_lines += snapshot.dirty_lines;
        self.snapshot.dirty_bytes += snapshot.dirty_bytes;
        self.snapshot.swept_bytes += snapshot.swept_bytes;
    }
}

/// What the checkpoint of an epoch consists of.
pub(super) fn manifest(job: &str, epoch: Epoch, parts: Vec<Part>, plan: &Plan, config: &Config) -> Manifest {
    Manifest {
        format_version: millstream_state::FORMAT_VERSION,
        job: job.to_owned(),
        epoch,
        created_ms: config.clock.wall_ms(),
        graph_fingerprint: plan.fingerprint(),
        graph: plan.to_string(),
        shards: config.shards,
        parts,
    }
}
