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

mod post;
mod switchboard;
mod wire;
mod worker;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use millstream_network::{Facts, Tls, Trust};

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
        match &cluster.lead {
            LeadIs::Here => {
                let number = cluster.process.unwrap_or(0);
                let began = self.clock.wall_us() as u64;
                let (counters, clock, stop) = (self.counters.clone(), self.clock.clone(), self.stop.clone());
                let workers = Workers::new(board, cluster.clone(), (number, address), began, counters, clock, stop);
                self.lead_workers(workers)
            }
            LeadIs::At(lead) => self.work_for(&board, cluster, lead, address),
        }
    }

    /// Leads the job, and tells the workers how it ended.
    fn lead_workers(&mut self, workers: Workers) -> Result<JobReport, JobError> {
        self.workers = Some(workers);
        let result = self.begin_at_newest().and_then(|restored| self.run(restored));
        let mut workers = self.workers.take().expect("it was put there above");
        let ending = match &result {
            Ok(report) => Ok(Ending {
                restored_epoch: report.restored_epoch,
                stopped: report.stopped,
                elapsed_us: report.elapsed.as_micros() as u64,
            }),
            Err(error) => Err(wire::Failure::told(error)),
        };
        workers.over(&ending);
        result
    }

    /// Works for a lead elsewhere, and for the next one there when that is gone.
    fn work_for(
        &mut self,
        board: &Switchboard,
        cluster: &Cluster,
        lead: &str,
        address: String,
    ) -> Result<JobReport, JobError> {
        let terms = Terms {
            config: self.config.clone(),
            factory: self.factory.clone(),
            plan: self.plan.clone(),
            restored: None,
            savepoint: None,
            store: self.store.clone(),
        };
        let mut worker = Worker {
            board,
            cluster,
            terms,
            counters: self.counters.clone(),
            reach: self.reach.clone(),
            stop: self.stop.clone(),
            address,
            incarnation: self.clock.wall_us() as u64,
            measured: ShardReport::new(),
        };
        loop {
            match worker.serve(lead, cluster.gather_timeout)? {
                Served::Over(ending) => {
                    let Ending { restored_epoch, stopped, elapsed_us } = ending?;
                    let measured = std::mem::replace(&mut worker.measured, ShardReport::new());
                    return Ok(self.report(restored_epoch, stopped, Duration::from_micros(elapsed_us), measured));
                }
                Served::Lost(why) => {
                    tracing::warn!(lead, why, "the lead is gone; its shards here are halted");
                    self.restarts.push(format!("the lead at {lead} is gone: {why}"));
                }
            }
        }
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
