//! A job in several processes: who leads, who works, and how they find and hear each other.
//!
//! ```text
//!            lead's process                                    a worker's process
//!   lead ─▶ workers ──── orders, news: one line ───────────────▶ worker ─▶ crew
//!     └───▶ crew                                                            │
//!           shards ◀──── frames: a connection for each pair ──────────▶ shards
//! ```
//!
//! The lead is the one of a job in one process, with more shards than its own: a worker stands between it and those of
//! its process, and adds nothing of its own. So there is one coordinator and one way to fail: an attempt ends, everybody's
//! shards halt, and the next one begins at a checkpoint once everybody is there.

mod elect;
mod post;
mod switchboard;
mod wire;
mod worker;
mod workers;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream_network::{Facts, Tls, Trust};
use millstream_state::{Epoch, Manifest};

use self::elect::{Election, Standing};
use self::switchboard::Switchboard;
use self::wire::Ending;
use self::worker::{Served, Worker};
pub(super) use self::workers::{Detachment, Workers};
use super::crew::Terms;
use super::fault::JobError;
use super::handle::JobReport;
use super::metrics::ShardReport;
use super::process::Lead;
use crate::job::cluster::{Cluster, LeadIs};

/// The register of those who elect their lead.
const LEASE: &str = "lease";
/// How often a lead that is elected tries to publish its first manifest: there is no more than one from each lead before it.
const FENCE_TRIES: u32 = 10;
/// How often one who has nobody to work for looks again.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// This process's place in a job of several.
pub(super) struct OpenPlace {
    board: Arc<Switchboard>,
    /// Where the others reach it.
    pub(super) address: String,
}

impl Lead {
    /// Opens this process's place in a job of several: where the others reach it.
    pub(super) fn open_place(&self, cluster: &Cluster) -> Result<OpenPlace, JobError> {
        let board = Arc::new(Switchboard::open(&cluster.listen, trust(cluster), self.facts(cluster))?);
        let address = cluster.reached_at(board.port());
        Ok(OpenPlace { board, address })
    }

    /// Takes part in the job with other processes, until it is over.
    pub(super) fn take_part(&mut self, cluster: &Cluster, place: OpenPlace) -> Result<JobReport, JobError> {
        let OpenPlace { board, address } = place;
        self.sweep_segments(true);
        match &cluster.lead {
            LeadIs::Here => {
                let number = cluster.process.unwrap_or(0);
                let began = self.clock.wall_us() as u64;
                let (counters, clock, stop) = (self.counters.clone(), self.clock.clone(), self.stop.clone());
                let workers = Workers::new(board, cluster.clone(), (number, address), began, counters, clock, stop);
                self.lead_workers(workers)
            }
            LeadIs::At(lead) => {
                let mut worker = self.worker(&board, cluster, address);
                loop {
                    match worker.serve(lead, cluster.gather_timeout)? {
                        Served::Over(ending) => return self.worked(ending, worker.measured),
                        Served::Lost(why) => self.note_loss(lead, &why),
                    }
                }
            }
            LeadIs::Elected => self.lead_or_work(board, cluster, address),
        }
    }

    /// Leads while this process is elected, and works for whoever is otherwise.
    fn lead_or_work(
        &mut self,
        board: Arc<Switchboard>,
        cluster: &Cluster,
        address: String,
    ) -> Result<JobReport, JobError> {
        let Some(store) = self.store.clone() else {
            return Err(JobError::Unusable(
                "processes that elect their lead do so in the place of checkpoints, and the job has none: use \
                 .checkpoints(place, interval), or name the lead"
                    .to_owned(),
            ));
        };
        let incarnation = self.clock.wall_us();
        let name = format!("{address}/{}/{incarnation}", std::process::id());
        let clock = self.clock.clone();
        let election = Election::stand(store.register(LEASE), name, &address, cluster.failure_timeout, clock.clone())?;
        let mut nobody_since = clock.now();
        loop {
            match election.standing() {
                Standing::Leads(term) => {
                    let (counters, stop) = (self.counters.clone(), self.stop.clone());
                    let own = (cluster.process.unwrap_or(0), address.clone());
                    let workers =
                        Workers::new(board.clone(), cluster.clone(), own, term, counters, clock.clone(), stop)
                            .by(election.mandate(term));
                    let result = self.lead_workers(workers);
                    if election.standing() == Standing::Leads(term) {
                        return result;
                    }
                    tracing::warn!(term, "this process leads no more; it works for the next lead");
                }
                Standing::Follows(lead) => {
                    let mut worker = self.worker(&board, cluster, address.clone());
                    match worker.serve(&lead, cluster.failure_timeout) {
                        Ok(Served::Over(ending)) => return self.worked(ending, worker.measured),
                        Ok(Served::Lost(why)) => self.note_loss(&lead, &why),
                        // Whoever led is not there any more, or not yet.
                        Err(JobError::Failed { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                Standing::Nobody => {
                    std::thread::park_timeout(LOOK_EVERY);
                    if clock.now().since(nobody_since) < cluster.gather_timeout {
                        continue;
                    }
                    let cause = format!("nobody has come to lead within {:?}", cluster.gather_timeout);
                    return Err(JobError::Failed { cause, restarts: 0 });
                }
            }
            nobody_since = clock.now();
            if self.stop.load(Ordering::Relaxed) {
                let cause = "the job was told to stop while nobody led it".to_owned();
                return Err(JobError::Failed { cause, restarts: 0 });
            }
        }
    }

    /// Leads the job, and tells the workers how it ended; unless this process leads no more, when that is not its business.
    fn lead_workers(&mut self, workers: Workers) -> Result<JobReport, JobError> {
        self.workers = Some(workers);
        let begun = self.begin_term();
        let result = begun.and_then(|restored| self.run(restored));
        let mut workers = self.workers.take().expect("it was put there above");
        if workers.may_lead() {
            let ending = match &result {
                Ok(report) => Ok(Ending {
                    restored_epoch: report.restored_epoch,
                    stopped: report.stopped,
                    elapsed_us: report.elapsed.as_micros() as u64,
                }),
                Err(error) => Err(wire::Failure::told(error)),
            };
            workers.over(&ending);
        }
        result
    }

    /// Where the lead begins. One that is elected may meet the last manifest of another, and then begins behind that.
    fn begin_term(&mut self) -> Result<Option<Arc<Manifest>>, JobError> {
        let mut tries = 0;
        loop {
            let restored = self.begin_at_newest()?;
            tries += 1;
            match self.fence(restored) {
                Err(JobError::Failed { .. }) if tries < FENCE_TRIES => {}
                begun => return begun,
            }
        }
    }

    /// Fences off what earlier terms may still publish: with a manifest of its own, the same as the one that the job goes on from, under the next
    /// epoch. One who led before, and has been away, finds that epoch taken when it comes to publish its own, and so can
    /// commit nothing that this term does not know of.
    fn fence(&mut self, restored: Option<Arc<Manifest>>) -> Result<Option<Arc<Manifest>>, JobError> {
        let is_elected = self.workers.as_ref().is_some_and(Workers::is_elected);
        let (Some(manifest), Some(store), true, None) = (&restored, &self.store, is_elected, &self.savepoint) else {
            return Ok(restored);
        };
        let epoch = Epoch(manifest.epoch.max(self.highest).0 + 1);
        let fence = Manifest { epoch, created_ms: self.clock.wall_ms(), ..Manifest::clone(manifest) };
        store.publish(&fence).map_err(|error| JobError::Failed { cause: error.to_string(), restarts: 0 })?;
        self.highest = epoch;
        Ok(Some(Arc::new(fence)))
    }

    /// What this process works with for leads elsewhere.
    fn worker<'a>(&self, board: &'a Switchboard, cluster: &'a Cluster, address: String) -> Worker<'a> {
        let terms = Terms {
            config: self.config.clone(),
            factory: self.factory.clone(),
            plan: self.plan.clone(),
            restored: None,
            savepoint: None,
            store: self.store.clone(),
        };
        Worker {
            board,
            cluster,
            terms,
            counters: self.counters.clone(),
            reach: self.reach.clone(),
            stop: self.stop.clone(),
            address,
            incarnation: self.clock.wall_us() as u64,
            measured: ShardReport::new(),
        }
    }

    /// A job that this process worked for is over.
    fn worked(&mut self, ending: Result<Ending, JobError>, measured: ShardReport) -> Result<JobReport, JobError> {
        let Ending { restored_epoch, stopped, elapsed_us } = ending?;
        self.sweep_segments(false);
        let report = self.report(restored_epoch, stopped, Duration::from_micros(elapsed_us), measured);
        Ok(JobReport { led: false, ..report })
    }

    fn note_loss(&mut self, lead: &str, why: &str) {
        tracing::warn!(lead, why, "the lead is gone; its shards here are halted");
        self.restarts.push(format!("the lead at {lead} is gone: {why}"));
    }

    /// What all processes of the job must agree on before anything moves.
    fn facts(&self, cluster: &Cluster) -> Facts {
        let config = &self.config;
        let place = |place: &Option<std::path::PathBuf>| {
            place.as_ref().map_or_else(|| "none".to_owned(), |place| place.display().to_string())
        };
        Facts::new()
            .with("job", self.name.clone())
            .with("version of Millstream", env!("CARGO_PKG_VERSION"))
            .with("version of frames", millstream_network::frame::VERSION.to_string())
            .with("fingerprint of the graph", format!("{:016x}", self.plan.fingerprint()))
            .with("graph", self.plan.to_string())
            .with("shards", config.shards.to_string())
            .with("processes", cluster.processes.to_string())
            .with("place of checkpoints", place(&config.checkpoint_dir))
            .with("combining before the exchange", config.combine.to_string())
    }
}

fn trust(cluster: &Cluster) -> Trust {
    let trust = Trust { secret: cluster.secret.clone(), ..Trust::of_one_host() };
    Trust { tls: if cluster.tls { Tls::On } else { Tls::Off }, ..trust }
}
