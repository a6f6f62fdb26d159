//! Options of a job in several processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use millstream::{Cluster, LeadIs, Secret};

use super::UsageError;
use super::values::{duration, small_count};
use crate::processes::{ClusterRun, Part};

/// Which processes there are, and which of them this one is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Several processes")]
pub(super) struct ProcessArgs {
    /// Processes that share the shards; without --listen and --join, the others are started on this host
    #[arg(long, value_name = "P", default_value = "1", value_parser = small_count)]
    pub(super) processes: u32,

    /// Lead the others, which are started elsewhere and --join; listen for them here
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "join")]
    listen: Option<String>,

    /// Work for the lead at this address, with the same job and settings
    #[arg(long, value_name = "LEAD:PORT")]
    join: Option<String>,

    /// Elect the lead among the processes, over the place of checkpoints, and another one when it is gone
    #[arg(long, conflicts_with = "join", requires = "checkpoint_dir")]
    elect: bool,

    /// With --join or --listen: where the other processes reach this one, if not where it listens
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<String>,

    /// The file of the secret that every process must know
    #[arg(long, value_name = "FILE")]
    cluster_secret_file: Option<PathBuf>,

    /// All of this from a file, or from the environment: env; see docs/cluster.md
    #[arg(long, value_name = "FILE|env", conflicts_with_all = ["processes", "listen", "join", "elect", "advertise", "cluster_secret_file", "process", "tls", "failure_timeout", "gather_timeout"])]
    cluster: Option<PathBuf>,

    /// This process's number, 0 for the lead [default: the lead gives one out]
    #[arg(long, value_name = "N")]
    process: Option<u32>,

    /// Encrypt what goes between processes, in a build with the feature tls
    #[arg(long)]
    tls: bool,

    /// A process that is silent for so long is taken for gone
    #[arg(long, value_name = "D", default_value = "3s", value_parser = duration)]
    failure_timeout: Duration,

    /// How long processes wait for each other
    #[arg(long, value_name = "D", default_value = "120s", value_parser = duration)]
    gather_timeout: Duration,

    /// When event 0 is due, with --rate: what the lead tells those that it starts
    #[arg(long, hide = true)]
    start_ms: Option<i64>,
}

impl ProcessArgs {
    /// What they say of a job on so many shards, if there are several processes.
    pub(super) fn cluster(&self, shards: u32) -> Result<Option<ClusterRun>, UsageError> {
        if let Some(place) = &self.cluster {
            let cluster = written(place)?;
            let part = if cluster.lead == LeadIs::Here { Part::Leads } else { Part::Works };
            return Ok(Some(ClusterRun { cluster, part, start_ms: self.start_ms }));
        }
        let alone = self.processes == 1 && self.join.is_none() && self.listen.is_none() && !self.elect;
        if alone {
            let other = [
                ("--advertise", self.advertise.is_some()),
                ("--cluster-secret-file", self.cluster_secret_file.is_some()),
                ("--process", self.process.is_some()),
                ("--tls", self.tls),
            ];
            return match other.iter().find(|(_, given)| *given) {
                Some((option, _)) => Err(UsageError(format!("{option} goes with --processes, --listen or --join"))),
                None => Ok(None),
            };
        }
        if self.processes > shards {
            return Err(UsageError(format!(
                "{} processes need as many shards at least, and there are {shards}: say --shards {0}",
                self.processes
            )));
        }
        let secret = match &self.cluster_secret_file {
            Some(path) => Some(Secret::from_file(path).map_err(|error| UsageError(error.to_string()))?),
            None => None,
        };
        let base = match &self.join {
            Some(lead) => Cluster::join(lead, self.processes),
            None if self.elect => Cluster::elected(self.processes),
            None => Cluster::lead(self.processes),
        };
        // A worker listens where it can be reached: on all of a host's addresses once it is told which one that is.
        let listen = match (&self.listen, &self.join, &self.advertise) {
            (Some(listen), ..) => listen.clone(),
            (None, Some(_), Some(_)) => "0.0.0.0:0".to_owned(),
            _ => base.listen.clone(),
        };
        let part = match (&self.listen, &self.join) {
            _ if self.elect => Part::Works,
            (None, None) => Part::StartsOthers,
            (Some(_), _) => Part::Leads,
            (None, Some(_)) => Part::Works,
        };
        let cluster = Cluster {
            process: self.process,
            listen,
            advertise: self.advertise.clone(),
            secret: secret.map(std::sync::Arc::new),
            tls: self.tls,
            failure_timeout: self.failure_timeout,
            gather_timeout: self.gather_timeout,
            ..base
        };
        Ok(Some(ClusterRun { cluster, part, start_ms: self.start_ms }))
    }
}

/// The cluster that is written down in a file, or in the environment.
fn written(place: &Path) -> Result<Cluster, UsageError> {
    let usage = |error: &dyn std::fmt::Display| UsageError(error.to_string());
    if place == Path::new("env") {
        let cluster = Cluster::from_env(|name| std::env::var(name).ok()).map_err(|error| usage(&error))?;
        let unset = "--cluster env, and neither MILLSTREAM_MEMBERS nor MILLSTREAM_PROCESSES is set";
        return cluster.ok_or_else(|| usage(&unset));
    }
    let text = std::fs::read_to_string(place)
        .map_err(|error| usage(&format!("{} cannot be read: {error}", place.display())))?;
    Cluster::from_toml(&text).map_err(|error| usage(&format!("{}: {error}", place.display())))
}
