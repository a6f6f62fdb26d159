//! How a job's shards are spread over processes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millstream_network::Secret;

/// The processes of a job, and this one's place among them. Every process runs the same program with the same job, and its
/// share of the shards; they find each other through the lead.
///
/// ```
/// use std::sync::Arc;
/// use millstream::{Cluster, Secret};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("secret");
/// # Secret::random()?.to_file(&path)?;
/// let secret = Arc::new(Secret::from_file(&path)?);
/// // On the first host, and on the others:
/// let lead = Cluster::lead(3).listening("0.0.0.0:7070").reached_as("10.0.0.1:7070").secret(secret.clone());
/// let worker = Cluster::join("10.0.0.1:7070", 3).listening("0.0.0.0:7070").reached_as("10.0.0.2:7070").secret(secret);
/// # let _ = (lead, worker);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Cluster {
    /// How many processes there are.
    pub processes: u32,
    /// This one's number, from 0; none: the lead gives one out. The lead's own is 0 then.
    pub process: Option<u32>,
    /// Where this process listens, `host:port`; port 0 for any that is free.
    pub listen: String,
    /// Where the others reach it, if that is not where it listens: `host:port`, or a host alone for the port it listens at.
    pub advertise: Option<String>,
    /// Who leads.
    pub lead: LeadIs,
    /// What whoever connects must know. None only where all processes are on one host, and trust each other's users.
    pub secret: Option<Arc<Secret>>,
    /// Whether connections are encrypted; in a build with the feature `tls`.
    pub tls: bool,
    /// A process that is silent for so long is taken for gone, and the job restarts from its last checkpoint.
    pub failure_timeout: Duration,
    /// How long the processes wait for each other at the start, and after one has gone, before the job fails.
    pub gather_timeout: Duration,
    /// Whether the job goes on with fewer processes when one does not come back, and when. Its shards then run in those that
    /// are left.
    pub fewer: Option<Fewer>,
}

/// Who leads a job's processes: starts checkpoints, says where the job goes on after a failure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeadIs {
    /// This process.
    Here,
    /// The one at this address.
    At(String),
    /// One of them at a time, which they settle among themselves, over a lease in the place of checkpoints. When it is gone
    /// for the failure timeout, another one takes over.
    Elected,
}

/// When to go on with fewer processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fewer {
    /// With no fewer than these.
    pub processes_min: u32,
    /// After having waited for the others for so long.
    pub after: Duration,
}

impl Cluster {
    /// This process leads so many, itself counted. It listens on this host alone unless told otherwise.
    #[must_use]
    pub fn lead(processes: u32) -> Cluster {
        Cluster {
            processes,
            process: None,
            listen: "127.0.0.1:0".to_owned(),
            advertise: None,
            lead: LeadIs::Here,
            secret: None,
            tls: false,
            failure_timeout: Duration::from_secs(3),
            gather_timeout: Duration::from_secs(120),
            fewer: None,
        }
    }

    /// This process works for the one at `lead`, `host:port`, which leads so many.
    #[must_use]
    pub fn join(lead: impl Into<String>, processes: u32) -> Cluster {
        Cluster { lead: LeadIs::At(lead.into()), ..Cluster::lead(processes) }
    }

    /// This process is one of so many that elect their lead. They need a place for checkpoints that all of them reach.
    #[must_use]
    pub fn elected(processes: u32) -> Cluster {
        Cluster { lead: LeadIs::Elected, ..Cluster::lead(processes) }
    }

    /// Listens at this address, `host:port`.
    #[must_use]
    pub fn listening(self, listen: impl Into<String>) -> Cluster {
        Cluster { listen: listen.into(), ..self }
    }

    /// Is reached by the others at this address.
    #[must_use]
    pub fn reached_as(self, advertise: impl Into<String>) -> Cluster {
        Cluster { advertise: Some(advertise.into()), ..self }
    }

    /// Lets in who knows the secret, and nobody else.
    #[must_use]
    pub fn secret(self, secret: impl Into<Arc<Secret>>) -> Cluster {
        Cluster { secret: Some(secret.into()), ..self }
    }

    /// Is process number `process`.
    #[must_use]
    pub fn numbered(self, process: u32) -> Cluster {
        Cluster { process: Some(process), ..self }
    }

    /// Where the others reach this process, which listens at `port`.
    pub(crate) fn reached_at(&self, port: u16) -> String {
        let own = self.advertise.as_deref().unwrap_or(&self.listen);
        match own.rsplit_once(':') {
            // An IPv6 address without a port ends in a bracket.
            Some((host, named)) if !own.ends_with(']') => match named.parse() {
                Ok(0_u16) => format!("{host}:{port}"),
                _ => own.to_owned(),
            },
            _ => format!("{own}:{port}"),
        }
    }

    /// What is wrong with it, if anything.
    pub(crate) fn check(&self, shards: u32) -> Result<(), String> {
        let Cluster { processes, process, .. } = self;
        if *processes == 0 || *processes > shards {
            return Err(format!(
                "{processes} processes for {shards} shards: each needs one at least, so take 1 to {shards}"
            ));
        }
        if let Some(process) = process.filter(|process| process >= processes) {
            return Err(format!("process {process} of {processes}: they are counted from 0"));
        }
        if self.failure_timeout < Duration::from_millis(100) {
            return Err(format!(
                "a failure timeout of {:?}: a process that is merely busy would be taken for gone; take 100 ms or more",
                self.failure_timeout
            ));
        }
        Ok(())
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cluster { processes, lead, .. } = self;
        match lead {
            LeadIs::Here => write!(f, "the lead of {processes} processes"),
            LeadIs::At(address) => write!(f, "one of {processes} processes, for the lead at {address}"),
            LeadIs::Elected => write!(f, "one of {processes} processes that elect their lead"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_completed_by_the_port_it_listens_at() {
        let reached = |cluster: Cluster| cluster.reached_at(4_711);
        assert_eq!(reached(Cluster::lead(2)), "127.0.0.1:4711");
        assert_eq!(reached(Cluster::lead(2).listening("0.0.0.0:7070").reached_as("pod-1.svc")), "pod-1.svc:4711");
        assert_eq!(reached(Cluster::lead(2).reached_as("pod-1.svc:80")), "pod-1.svc:80");
        assert_eq!(reached(Cluster::lead(2).listening("[::1]:0")), "[::1]:4711");
        assert_eq!(reached(Cluster::lead(2).reached_as("[::1]")), "[::1]:4711");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(Cluster::lead(2).check(2).is_ok());
        assert!(Cluster::lead(3).check(2).unwrap_err().contains("take 1 to 2"));
        assert!(Cluster::join("x:1", 2).numbered(2).check(4).unwrap_err().contains("counted from 0"));
    }
}
