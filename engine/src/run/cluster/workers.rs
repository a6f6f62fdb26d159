//! The lead's side of the other processes: who is there, which shards each runs, and how they end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::channel::Sender;

use super::elect::Mandate;
use super::post::{Heard, Outbox, line};
use super::switchboard::{Caller, Switchboard, Wiring};
use super::wire::{AttemptId, Ending, Failure, OrderWord, Prepare, ToLead, ToWorker};
use super::worker::{links, places};
use crate::job::cluster::Cluster;
use crate::run::crew::{Place, Terms, Wires};
use crate::run::fault::JobError;
use crate::run::metrics::{ShardCounters, ShardReport};
use crate::run::shard::{News, Order};
use crate::run::time_report::{OperatorTime, Way};
use crate::time::{Clock, Nanos};

/// How often the lead looks whether everybody has come.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it says for whom it waits.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// All other processes of the job.
pub(in crate::run) struct Workers {
    board: Arc<Switchboard>,
    cluster: Cluster,
    /// This process's number and address.
    process: u32,
    address: String,
    /// Of this lead, and of its last attempt.
    attempt: AttemptId,
    /// By process; none for this one, and for those that are not there.
    members: Vec<Option<Member>>,
    counters: Arc<[Arc<ShardCounters>]>,
    clock: Clock,
    stop: Arc<AtomicBool>,
    /// By what this process leads, where it was elected.
    mandate: Option<Mandate>,
}

/// A process that works for this lead.
struct Member {
    address: String,
    incarnation: u64,
    outbox: Outbox<ToWorker>,
    desk: Arc<Desk>,
}

/// What the lead and the thread that hears a worker share.
struct Desk {
    name: String,
    assigned: Mutex<Option<Assigned>>,
    gone: AtomicBool,
    questions: Mutex<HashMap<u64, Sender<Vec<OperatorTime>>>>,
    asked: AtomicU64,
    counters: Arc<[Arc<ShardCounters>]>,
    clock: Clock,
    stop: Arc<AtomicBool>,
}

/// A worker's part of an attempt.
struct Assigned {
    attempt: AttemptId,
    /// None once all its shards have ended.
    news: Option<Sender<(u32, News)>>,
    /// Shards that have not ended.
    open: Vec<u32>,
    reports: Vec<(u32, Result<ShardReport, String>)>,
}

impl Desk {
    fn assigned(&self) -> MutexGuard<'_, Option<Assigned>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a worker says; false when nothing more is to be heard.
    fn hear(&self, heard: Heard<ToLead>) -> bool {
        match heard {
            Heard::Message(ToLead::News { attempt, shard, news }) => {
                if let Some(assigned) = self.assigned().as_ref().filter(|assigned| assigned.attempt == attempt)
                    && let Some(tell) = &assigned.news
                {
                    drop(tell.send((shard, news.into())));
                }
            }
            Heard::Message(ToLead::Counters(counted)) => {
                for of in counted {
                    if let Some(counters) = self.counters.get(of.shard as usize) {
                        counters.publish(of.events_in, of.turns);
                        counters.publish_state(of.state_bytes, of.major_faults);
                    }
                }
            }
            Heard::Message(ToLead::Explained { number, operators }) => {
                let asked = self.questions.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
                // Who asked may have given up.
                asked.into_iter().for_each(|answer| drop(answer.send(operators.clone())));
            }
            Heard::Message(ToLead::Ended { attempt, shard, report }) => {
                if let Some(assigned) = self.assigned().as_mut().filter(|assigned| assigned.attempt == attempt) {
                    let report = report.map(|measured| measured.into_report(&self.clock));
                    assigned.reports.push((shard, report));
                    assigned.open.retain(|open| *open != shard);
                    if assigned.open.is_empty() {
                        assigned.news = None;
                    }
                }
            }
            Heard::Message(ToLead::Stop) => self.stop.store(true, Ordering::Relaxed),
            Heard::Gone(why) => {
                self.gone.store(true, Ordering::Relaxed);
                if let Some(assigned) = self.assigned().as_mut()
                    && let (Some(news), Some(shard)) = (assigned.news.take(), assigned.open.first())
                {
                    let why = format!("{} is gone: {why}", self.name);
                    drop(news.send((*shard, News::Failed { why, is_final: false })));
                }
                return false;
            }
        }
        true
    }
}

/// The shards of one worker in an attempt.
pub(in crate::run) struct Detachment {
    shards: Vec<u32>,
    outbox: Outbox<ToWorker>,
    desk: Arc<Desk>,
}

impl Detachment {
    /// Orders all its shards. One that is gone does not hear it; its news says so.
    pub(in crate::run) fn order_all(&self, order: &Order) {
        let word = match order {
            Order::Go => OrderWord::Go,
            Order::Inject(barrier) => OrderWord::inject(*barrier),
            Order::Complete(epoch) => OrderWord::Complete(*epoch),
            Order::Abort(epoch) => OrderWord::Abort(*epoch),
            Order::Halt => OrderWord::Halt,
            Order::Explain(_) => unreachable!("a question is asked past the lead, shard by shard"),
        };
        for shard in &self.shards {
            drop(self.outbox.send(ToWorker::Order { shard: *shard, order: word }));
        }
    }

    /// Ways to the shards past the lead, for questions.
    pub(in crate::run) fn ways(&self) -> impl Iterator<Item = Way> {
        self.shards.iter().map(|shard| -> Way {
            let (shard, outbox, desk) = (*shard, self.outbox.clone(), self.desk.clone());
            Box::new(move |order| {
                let Order::Explain(answer) = order else { return };
                let number = desk.asked.fetch_add(1, Ordering::Relaxed);
                desk.questions.lock().unwrap_or_else(PoisonError::into_inner).insert(number, answer);
                drop(outbox.send(ToWorker::Explain { shard, number }));
            })
        })
    }

    /// What its shards measured, once its end of the news is dropped. A worker that is gone has told why before.
    pub(in crate::run) fn reports(self) -> Vec<(u32, Result<ShardReport, String>)> {
        self.desk.assigned().take().map_or_else(Vec::new, |assigned| assigned.reports)
    }
}

impl Workers {
    pub(super) fn new(
        board: Arc<Switchboard>,
        cluster: Cluster,
        (process, address): (u32, String),
        lead: u64,
        counters: Arc<[Arc<ShardCounters>]>,
        clock: Clock,
        stop: Arc<AtomicBool>,
    ) -> Workers {
        board.lead(true);
        let members = (0..cluster.processes).map(|_| None).collect();
        let attempt = AttemptId { lead, number: 0 };
        Workers { board, cluster, process, address, attempt, members, counters, clock, stop, mandate: None }
    }

    /// Leads for as long as it is elected.
    pub(super) fn by(mut self, mandate: Mandate) -> Workers {
        self.mandate = Some(mandate);
        self
    }

    pub(super) fn is_elected(&self) -> bool {
        self.mandate.is_some()
    }

    /// Whether this process still leads.
    pub(in crate::run) fn may_lead(&self) -> bool {
        self.mandate.as_ref().is_none_or(Mandate::holds)
    }

    /// Lets in who has called within `at_most`, and forgets who is gone.
    pub(in crate::run) fn admit(&mut self, mut at_most: Duration) {
        while let Some(caller) = self.board.worker(at_most) {
            at_most = Duration::ZERO;
            if let Err(error) = self.take_on(caller) {
                tracing::warn!(%error, "a process that offered to work could not be taken on");
            }
        }
        for member in &mut self.members {
            if member.as_ref().is_some_and(|member| member.desk.gone.load(Ordering::Relaxed)) {
                *member = None;
            }
        }
    }

    fn take_on(&mut self, caller: Caller) -> Result<(), JobError> {
        let Caller { process, address, incarnation, accepted } = caller;
        let is_free = |member: &Option<Member>| {
            member.as_ref().is_none_or(|member| {
                member.desk.gone.load(Ordering::Relaxed)
                    || member.address == address
                    || member.incarnation < incarnation
            })
        };
        let others = || (0..self.cluster.processes).filter(|number| *number != self.process);
        let number = match process {
            Some(number) => others().find(|other| *other == number && is_free(&self.members[number as usize])),
            // One that was here before comes back to its place.
            None => others()
                .find(|other| self.members[*other as usize].as_ref().is_some_and(|member| member.address == address))
                .or_else(|| others().find(|other| self.members[*other as usize].is_none())),
        };
        let name =
            format!("process {} at {address}", number.or(process).map_or("?".to_owned(), |number| number.to_string()));
        let desk = Arc::new(Desk {
            name: name.clone(),
            assigned: Mutex::default(),
            gone: AtomicBool::new(false),
            questions: Mutex::default(),
            asked: AtomicU64::new(0),
            counters: self.counters.clone(),
            clock: self.clock.clone(),
            stop: self.stop.clone(),
        });
        let hears = desk.clone();
        let hear = move |heard| hears.hear(heard);
        let outbox: Outbox<ToWorker> =
            line(accepted.connection, &name, self.cluster.failure_timeout, self.clock.clone(), hear)?;
        let Some(number) = number else {
            let processes = self.cluster.processes;
            let why = match process {
                Some(number) if number == self.process => format!("process {number} is the lead itself"),
                Some(number) if number >= processes => {
                    format!(
                        "the job runs in {processes} processes, 0 to {}, and this one says that it is {number}",
                        processes - 1
                    )
                }
                Some(number) => format!("there is a process {number} already, started later than this one"),
                None => format!("all {processes} processes are there already"),
            };
            tracing::warn!(address, why, "a process that offered to work was sent away");
            drop(outbox.send(ToWorker::Over { why: Err(Failure::Unusable(why)) }));
            return Ok(());
        };
        tracing::info!(process = number, address, "a process has joined");
        self.members[number as usize] = Some(Member { address, incarnation, outbox, desk });
        Ok(())
    }

    fn missing(&self) -> Vec<u32> {
        let all = 0..self.cluster.processes;
        all.filter(|number| *number != self.process && self.members[*number as usize].is_none()).collect()
    }

    /// Waits until every process is there, or, after a while, as many as the job may run with.
    fn gather(&mut self) -> Result<(), JobError> {
        let began = self.clock.now();
        let mut said: Nanos = began;
        loop {
            self.admit(LOOK_EVERY);
            let (missing, waited) = (self.missing(), self.clock.now().since(began));
            if missing.is_empty() {
                return Ok(());
            }
            let there = self.cluster.processes - missing.len() as u32;
            let fewer = self.cluster.fewer.filter(|fewer| there >= fewer.processes_min && waited >= fewer.after);
            if fewer.is_some() {
                tracing::warn!(?missing, there, "the job goes on with fewer processes");
                return Ok(());
            }
            if !self.may_lead() {
                let cause = "this process leads no more".to_owned();
                return Err(JobError::Failed { cause, restarts: 0 });
            }
            let list = missing.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            if self.stop.load(Ordering::Relaxed) {
                let cause = format!("the job was told to stop while it waited for process {list}");
                return Err(JobError::Failed { cause, restarts: 0 });
            }
            if waited >= self.cluster.gather_timeout {
                return Err(JobError::Unusable(format!(
                    "process {list} of {} has not come within {waited:.0?}. Start it with the address of the lead, {}, and \
                     the same secret; or let the job run with fewer processes",
                    self.cluster.processes, self.address
                )));
            }
            if self.clock.now().since(said) >= SAY_EVERY {
                said = self.clock.now();
                tracing::info!(?missing, lead = self.address, "the lead waits for processes");
            }
        }
    }

    /// Has every process prepare an attempt: this one's places and connections, and the others' shards.
    pub(in crate::run) fn prepare(
        &mut self,
        terms: &Terms,
        news: &Sender<(u32, News)>,
        away: &mut Vec<Detachment>,
    ) -> Result<(Vec<Place>, Wires), JobError> {
        self.gather()?;
        self.attempt.number += 1;
        let attempt = self.attempt;
        let there: Vec<u32> = (0..self.cluster.processes)
            .filter(|number| *number == self.process || self.members[*number as usize].is_some())
            .collect();
        let shards = terms.config.shards as usize;
        let processes: Vec<u32> = (0..shards).map(|shard| there[shard * there.len() / shards]).collect();
        let address = |number: u32| match &self.members[number as usize] {
            Some(member) => member.address.clone(),
            None if number == self.process => self.address.clone(),
            None => String::new(),
        };
        let addresses: Vec<String> = (0..self.cluster.processes).map(address).collect();
        for (number, member) in self.members.iter().enumerate() {
            let Some(Member { outbox, desk, .. }) = member else { continue };
            let its: Vec<u32> =
                (0..shards as u32).filter(|shard| processes[*shard as usize] == number as u32).collect();
            if its.is_empty() {
                continue;
            }
            let (open, reports) = (its.clone(), Vec::new());
            *desk.assigned() = Some(Assigned { attempt, news: Some(news.clone()), open, reports });
            if desk.gone.load(Ordering::Relaxed) {
                // Its end was heard before it was assigned anything.
                desk.hear(Heard::Gone("the line was closed".to_owned()));
            }
            let prepare = Prepare {
                attempt,
                process: number as u32,
                processes: processes.clone(),
                addresses: addresses.clone(),
                restored: terms.restored.as_deref().cloned(),
                from_savepoint: terms.savepoint.is_some(),
            };
            drop(outbox.send(ToWorker::Prepare(Box::new(prepare))));
            away.push(Detachment { shards: its, outbox: outbox.clone(), desk: desk.clone() });
        }
        let wiring = Wiring {
            attempt,
            process: self.process,
            processes: &processes,
            addresses: &addresses,
            links: links(&self.cluster),
            give_up_after: self.cluster.failure_timeout,
        };
        let is_there = || away.iter().all(|detachment| !detachment.desk.gone.load(Ordering::Relaxed));
        let wires = self.board.connect(&wiring, &self.clock, &is_there)?;
        let ours: Vec<u32> = (0..shards as u32).filter(|shard| processes[*shard as usize] == self.process).collect();
        Ok((places(terms, &ours, &addresses, &self.counters)?, wires))
    }

    /// Tells everybody how the job ended.
    pub(super) fn over(&mut self, why: &Result<Ending, Failure>) {
        self.admit(Duration::ZERO);
        for member in self.members.iter().flatten() {
            drop(member.outbox.send(ToWorker::Over { why: why.clone() }));
        }
        self.members.iter_mut().for_each(|member| *member = None);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.board.lead(false);
    }
}
