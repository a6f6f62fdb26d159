//! A worker: a process that runs shards for the lead of another one.
//!
//! ```text
//! call the lead ─▶ Prepare: connect with the other processes, start the crew ─▶ orders in, news out ─▶ Ended
//!       ▲                  ▲                                                                             │
//!       │ the lead is gone └─────────────────────── another attempt ─────────────────────────────────────┘
//!       └── halt the crew                                                                Over: the job has ended
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, never, unbounded};
use crossbeam::select;
use millstream_network::{Connection, LinkConfig};
use millstream_state::Savepoint;

use super::post::{Heard, Outbox, line};
use super::switchboard::{Switchboard, Wiring};
use super::wire::{AttemptId, Counted, Ending, Greeting, Measured, NewsWord, OrderWord, Prepare, ToLead, ToWorker};
use crate::epoch::Barrier;
use crate::job::cluster::Cluster;
use crate::run::crew::{Crew, Place, Terms};
use crate::run::fault::JobError;
use crate::run::machine;
use crate::run::metrics::{ShardCounters, ShardReport};
use crate::run::shard::{News, Order};
use crate::run::time_report::Reach;

/// How often a worker looks at its crew, its stop flag and its counters when nothing else happens.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a process needs to work for a lead.
pub(super) struct Worker<'a> {
    pub(super) board: &'a Switchboard,
    pub(super) cluster: &'a Cluster,
    /// What it starts shards with; an attempt adds what it goes on from.
    pub(super) terms: Terms,
    pub(super) counters: Arc<[Arc<ShardCounters>]>,
    pub(super) reach: Reach,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) address: String,
    pub(super) incarnation: u64,
    /// What its shards measured in the last attempt.
    pub(super) measured: ShardReport,
}

/// How service with a lead ended.
pub(super) enum Served {
    Over(Result<Ending, JobError>),
    /// The lead is gone: why.
    Lost(String),
}

/// An attempt that this process takes part in.
struct Running {
    id: AttemptId,
    shards: Vec<u32>,
    crew: Crew,
    news: Receiver<(u32, News)>,
}

impl Worker<'_> {
    /// Calls the lead at `address` and works for it until the job is over or the lead is gone.
    pub(super) fn serve(&mut self, address: &str, give_up_after: Duration) -> Result<Served, JobError> {
        let Worker { board, cluster, stop, .. } = self;
        let (process, incarnation) = (cluster.process, self.incarnation);
        let greeting = Greeting::Work { process, address: self.address.clone(), incarnation };
        let clock = self.terms.config.clock.clone();
        let go_on = || !stop.load(Ordering::Relaxed);
        let connection = board.call(address, &greeting, give_up_after, &clock, &go_on)?;
        tracing::info!(lead = address, "this process works for the lead");
        self.work(connection, address)
    }

    fn work(&mut self, connection: Connection, address: &str) -> Result<Served, JobError> {
        let clock = self.terms.config.clock.clone();
        let (put, inbox) = unbounded();
        let lost = Arc::new(AtomicBool::new(false));
        let noticed = lost.clone();
        let hear = move |heard: Heard<ToWorker>| {
            noticed.fetch_or(matches!(heard, Heard::Gone(_)), Ordering::Relaxed);
            put.send(heard).is_ok()
        };
        let lead: Outbox<ToLead> = line(connection, address, self.cluster.failure_timeout, clock.clone(), hear)?;
        let mut running: Option<Running> = None;
        let mut told_to_stop = false;
        let served = loop {
            if !told_to_stop && self.stop.load(Ordering::Relaxed) {
                told_to_stop = true;
                tell(&lead, ToLead::Stop);
            }
            let quiet = never();
            let news = running.as_ref().map_or(&quiet, |running| &running.news);
            select! {
                recv(inbox) -> heard => match heard {
                    Ok(Heard::Message(ToWorker::Prepare(prepare))) => {
                        if let Some(running) = running.take() {
                            self.see_off(running, &lead);
                        }
                        running = self.prepare(*prepare, &lead, &lost);
                    }
                    Ok(Heard::Message(ToWorker::Order { shard, order })) => {
                        if let Some(running) = &running {
                            running.crew.order(shard, order.into());
                        }
                    }
                    Ok(Heard::Message(ToWorker::Explain { shard, number })) => self.explain(running.as_ref(), shard, number, &lead),
                    Ok(Heard::Message(ToWorker::Over { why })) => break Served::Over(why.map_err(JobError::from)),
                    Ok(Heard::Gone(why)) => break Served::Lost(why),
                    Err(_) => break Served::Lost("the line was closed".to_owned()),
                },
                recv(news) -> news => match (news, running.take()) {
                    (Ok((shard, news)), Some(now)) => {
                        tell(&lead, ToLead::News { attempt: now.id, shard, news: news.into() });
                        running = Some(now);
                    }
                    (_, Some(now)) => self.see_off(now, &lead),
                    (_, None) => {}
                },
                default(LOOK_EVERY) => {
                    if let Some(running) = &mut running {
                        running.crew.wake_stuck(clock.now());
                        tell(&lead, ToLead::Counters(self.counted(&running.shards)));
                    }
                }
            }
        };
        if let Some(running) = running {
            self.see_off(running, &lead);
        }
        Ok(served)
    }

    /// Starts this process's shards of an attempt. What keeps it from doing so is told to the lead.
    fn prepare(&mut self, prepare: Prepare, lead: &Outbox<ToLead>, lost: &AtomicBool) -> Option<Running> {
        let Prepare { attempt: id, process, processes, addresses, restored, from_savepoint } = prepare;
        let shards: Vec<u32> =
            (0..processes.len() as u32).filter(|shard| processes[*shard as usize] == process).collect();
        let (tell_news, news) = unbounded();
        let mut crew = Crew::default();
        let started = (|| {
            let savepoint = match self.terms.config.from_savepoint.as_ref().filter(|_| from_savepoint) {
                Some(place) => Some(Arc::new(
                    Savepoint::open(place, &self.terms.config.store)
                        .map_err(|error| JobError::Unusable(error.to_string()))?,
                )),
                None => None,
            };
            let terms = Terms { restored: restored.map(Arc::new), savepoint, ..self.terms.clone() };
            let wiring = Wiring {
                attempt: id,
                process,
                processes: &processes,
                addresses: &addresses,
                links: links(self.cluster),
                give_up_after: self.cluster.failure_timeout,
            };
            let go_on = || !lost.load(Ordering::Relaxed);
            let wires = self.board.connect(&wiring, &self.terms.config.clock, &go_on)?;
            let places = places(&terms, &shards, &addresses, &self.counters)?;
            crew.start(&terms, places, wires, &tell_news)
        })();
        self.reach.lead_to(crew.ways().collect());
        if let Err(error) = started {
            tell(lead, ToLead::News { attempt: id, shard: shards[0], news: NewsWord::Refused(error.into()) });
            crew.order_all(|| Order::Halt);
        }
        Some(Running { id, shards, crew, news })
    }

    /// Halts what runs, and tells the lead how it ended.
    fn see_off(&mut self, running: Running, lead: &Outbox<ToLead>) {
        let Running { id, shards, mut crew, news } = running;
        let clock = self.terms.config.clock.clone();
        crew.order_all(|| Order::Halt);
        loop {
            match news.recv_timeout(LOOK_EVERY) {
                Ok((shard, news)) => tell(lead, ToLead::News { attempt: id, shard, news: news.into() }),
                Err(error) if error.is_timeout() => crew.wake_stuck(clock.now()),
                Err(_) => break,
            }
        }
        self.measured = ShardReport::new();
        tell(lead, ToLead::Counters(self.counted(&shards)));
        let mut missing = shards;
        for (shard, report) in crew.join() {
            missing.retain(|other| *other != shard);
            if let Ok(report) = &report {
                self.measured.add(report);
            }
            let report = report.map(|report| Box::new(Measured::of(&report, &clock)));
            tell(lead, ToLead::Ended { attempt: id, shard, report });
        }
        for shard in missing {
            tell(lead, ToLead::Ended { attempt: id, shard, report: Err("it was not started".to_owned()) });
        }
    }

    fn counted(&self, shards: &[u32]) -> Vec<Counted> {
        let of = |shard: &u32| {
            let counters = &self.counters[*shard as usize];
            Counted {
                shard: *shard,
                events_in: counters.events_in(),
                turns: counters.turns(),
                state_bytes: counters.state_bytes(),
                major_faults: counters.major_faults(),
            }
        };
        shards.iter().map(of).collect()
    }

    /// Has a shard say how far time has come, past this thread: it may take its time.
    fn explain(&self, running: Option<&Running>, shard: u32, number: u64, lead: &Outbox<ToLead>) {
        let Some(running) = running else { return };
        let (answer, answers) = unbounded();
        running.crew.order(shard, Order::Explain(answer));
        let lead = lead.clone();
        let wait = move || {
            if let Ok(operators) = answers.recv() {
                tell(&lead, ToLead::Explained { number, operators });
            }
        };
        // Without a thread for it the answer is left out, as that of a shard which is busy.
        drop(crate::run::process::spawn_named("millstream-explain", wait));
    }
}

/// Tells the lead. One that is gone is noticed by whoever reads.
fn tell(lead: &Outbox<ToLead>, message: ToLead) {
    drop(lead.send(message));
}

impl From<OrderWord> for Order {
    fn from(word: OrderWord) -> Order {
        match word {
            OrderWord::Go => Order::Go,
            OrderWord::Inject { epoch, last } => Order::Inject(Barrier { epoch, last }),
            OrderWord::Complete(epoch) => Order::Complete(epoch),
            OrderWord::Abort(epoch) => Order::Abort(epoch),
            OrderWord::Halt => Order::Halt,
        }
    }
}

/// How links of a cluster behave.
pub(super) fn links(cluster: &Cluster) -> LinkConfig {
    LinkConfig {
        silence_max: cluster.failure_timeout,
        heartbeat_every: cluster.failure_timeout / 6,
        ..LinkConfig::default()
    }
}

/// The places of this process's shards: processes of one host share its cores, by the shards' numbers.
pub(super) fn places(
    terms: &Terms,
    shards: &[u32],
    addresses: &[String],
    counters: &[Arc<ShardCounters>],
) -> Result<Vec<Place>, JobError> {
    let host = |address: &str| address.rsplit_once(':').map_or_else(|| address.to_owned(), |(host, _)| host.to_owned());
    let mut hosts: Vec<String> =
        addresses.iter().filter(|address| !address.is_empty()).map(|address| host(address)).collect();
    hosts.dedup();
    let one_host = hosts.len() <= 1;
    let cores = match one_host {
        true => machine::cores(&terms.config, terms.config.shards)?,
        false => machine::cores(&terms.config, shards.len() as u32)?,
    };
    let place = |(at, shard): (usize, &u32)| {
        let at = if one_host { *shard as usize } else { at };
        Place { shard: *shard, core: cores.get(at).copied(), counters: counters[*shard as usize].clone() }
    };
    Ok(shards.iter().enumerate().map(place).collect())
}
