//! A job's processes as operators write them down: a file beside the program, or the environment of a container.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use millstream_network::{Secret, SecretError};
use serde::Deserialize;

use super::cluster::{Cluster, Fewer, LeadIs};

/// Why settings are no cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterSettingsError {
    /// A line that is none, a key that there is not, a value of another kind.
    #[error("the cluster's settings cannot be read: {0}")]
    Form(String),
    /// Each value is one, and together they make no sense.
    #[error("the cluster's settings do not fit together: {0}")]
    Sense(String),
    /// Its secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// The settings, by the names that they have in a file. In the environment each has `MILLSTREAM_` before it, in capitals.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
struct Settings {
    members: Option<Vec<String>>,
    processes: Option<u32>,
    process: Option<u32>,
    lead: Option<String>,
    listen: Option<String>,
    advertise: Option<String>,
    secret_file: Option<String>,
    tls: Option<bool>,
    failure_timeout: Option<String>,
    gather_timeout: Option<String>,
    processes_min: Option<u32>,
    fewer_after: Option<String>,
}

/// The lead of processes that elect theirs.
const ELECTED: &str = "elected";
/// Before the name of a setting in the environment.
const PREFIX: &str = "MILLSTREAM_";

impl Cluster {
    /// The cluster that the text of a `cluster.toml` describes.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cluster = millstream::Cluster::from_toml(
    ///     r#"
    ///     members = ["10.0.0.1:7070", "10.0.0.2:7070"]   # by number; the first one leads
    ///     process = 1                                    # this one
    ///     failure_timeout = "5s"
    ///     "#,
    /// )?;
    /// assert_eq!((cluster.processes, cluster.process), (2, Some(1)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// All keys: `members`, or `processes` and, in all but the lead, `lead`; `process`, `listen`, `advertise`,
    /// `secret_file`, `tls`, `failure_timeout`, `gather_timeout`, `processes_min` and `fewer_after`.
    ///
    /// # Errors
    /// When it is no such text, its settings contradict each other, or its secret cannot be had.
    pub fn from_toml(text: &str) -> Result<Cluster, ClusterSettingsError> {
        let settings: Settings = toml::from_str(text).map_err(|error| ClusterSettingsError::Form(error.to_string()))?;
        settings.cluster()
    }

    /// The cluster that variables describe, or none where `MILLSTREAM_MEMBERS` and `MILLSTREAM_PROCESSES` are not set. Names
    /// are those of the keys of [`from_toml`](Cluster::from_toml), in capitals behind `MILLSTREAM_`; members are separated by
    /// commas.
    ///
    /// ```
    /// let variable = |name: &str| match name {
    ///     "MILLSTREAM_MEMBERS" => Some("ads-0.ads:7070,ads-1.ads:7070,ads-2.ads:7070".to_owned()),
    ///     "MILLSTREAM_PROCESS" => Some("2".to_owned()),
    ///     _ => None, // std::env::var(name).ok() in a job
    /// };
    /// let cluster = millstream::Cluster::from_env(variable)?.expect("there are members");
    /// assert_eq!(cluster.processes, 3);
    /// # Ok::<(), millstream::ClusterSettingsError>(())
    /// ```
    ///
    /// # Errors
    /// As [`from_toml`](Cluster::from_toml).
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Cluster>, ClusterSettingsError> {
        let text = |key: &str| variable(&format!("{PREFIX}{key}")).filter(|value| !value.is_empty());
        fn parsed<T: FromStr>(key: &str, value: Option<String>) -> Result<Option<T>, ClusterSettingsError> {
            let bad = |value: &str| ClusterSettingsError::Form(format!("{PREFIX}{key}={value} is no such value"));
            value.map(|value| value.trim().parse().map_err(|_| bad(&value))).transpose()
        }
        let members = text("MEMBERS").map(|list| list.split(',').map(|member| member.trim().to_owned()).collect());
        let processes = parsed("PROCESSES", text("PROCESSES"))?;
        if members.is_none() && processes.is_none() {
            return Ok(None);
        }
        let settings = Settings {
            members,
            processes,
            process: parsed("PROCESS", text("PROCESS"))?,
            lead: text("LEAD"),
            listen: text("LISTEN"),
            advertise: text("ADVERTISE"),
            secret_file: text("SECRET_FILE"),
            tls: parsed("TLS", text("TLS"))?,
            failure_timeout: text("FAILURE_TIMEOUT"),
            gather_timeout: text("GATHER_TIMEOUT"),
            processes_min: parsed("PROCESSES_MIN", text("PROCESSES_MIN"))?,
            fewer_after: text("FEWER_AFTER"),
        };
        settings.cluster().map(Some)
    }
}

impl Settings {
    fn cluster(self) -> Result<Cluster, ClusterSettingsError> {
        let senseless = |why: &str| Err(ClusterSettingsError::Sense(why.to_owned()));
        let (processes, lead, own) = match (self.members, self.processes, self.lead) {
            (Some(_), Some(_), _) => return senseless("`members` says how many there are, leave `processes` out"),
            (Some(_), _, Some(lead)) if lead != ELECTED => {
                return senseless(
                    "the first of `members` leads, or one that is \"elected\": leave `lead` out, or say so",
                );
            }
            (Some(members), None, lead) => {
                let Some(process) = self.process else {
                    return senseless("which of the `members` is this one? say `process`, counted from 0");
                };
                let Some(own) = members.get(process as usize).cloned() else {
                    return Err(ClusterSettingsError::Sense(format!(
                        "process {process} of {} members: they are counted from 0",
                        members.len()
                    )));
                };
                let lead = match lead {
                    Some(_) => LeadIs::Elected,
                    None if process == 0 => LeadIs::Here,
                    None => LeadIs::At(members[0].clone()),
                };
                (members.len() as u32, lead, Some(own))
            }
            (None, Some(processes), lead) => match lead.as_deref() {
                None => (processes, LeadIs::Here, None),
                Some(ELECTED) => (processes, LeadIs::Elected, None),
                Some(lead) => (processes, LeadIs::At(lead.to_owned()), None),
            },
            (None, None, _) => return senseless("say `members`, or `processes` and where the lead is"),
        };
        let base = Cluster::lead(processes);
        let port = own.as_deref().and_then(|own| own.rsplit_once(':')).map(|(_, port)| port);
        let listen = match (self.listen, port) {
            (Some(listen), _) => listen,
            (None, Some(port)) => format!("0.0.0.0:{port}"),
            (None, None) => base.listen,
        };
        let secret = self.secret_file.map(Secret::from_file).transpose()?.map(Arc::new);
        let fewer = match (self.processes_min, self.fewer_after) {
            (Some(processes_min), after) => {
                Some(Fewer { processes_min, after: time("fewer_after", after, Duration::from_secs(30))? })
            }
            (None, Some(_)) => return senseless("`fewer_after` goes with `processes_min`"),
            (None, None) => None,
        };
        Ok(Cluster {
            process: self.process,
            listen,
            advertise: self.advertise.or(own),
            lead,
            secret,
            tls: self.tls.unwrap_or(false),
            failure_timeout: time("failure_timeout", self.failure_timeout, base.failure_timeout)?,
            gather_timeout: time("gather_timeout", self.gather_timeout, base.gather_timeout)?,
            fewer,
            ..base
        })
    }
}

fn time(key: &str, value: Option<String>, otherwise: Duration) -> Result<Duration, ClusterSettingsError> {
    let Some(value) = value else { return Ok(otherwise) };
    humantime::parse_duration(&value)
        .map_err(|error| ClusterSettingsError::Form(format!("{key} = \"{value}\": {error}; say 3s or 500ms")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Cluster::from_toml(text).unwrap_err().to_string()
    }

    #[test]
    fn a_list_of_members_says_all() {
        let of = |process: u32| {
            let text =
                format!("members = [\"a:1\", \"b:2\"]\nprocess = {process}\nprocesses_min = 1\nfewer_after = \"5s\"");
            Cluster::from_toml(&text).unwrap()
        };
        let (lead, worker) = (of(0), of(1));
        assert_eq!((&lead.lead, lead.listen.as_str()), (&LeadIs::Here, "0.0.0.0:1"));
        assert_eq!((&worker.lead, worker.listen.as_str()), (&LeadIs::At("a:1".to_owned()), "0.0.0.0:2"));
        assert_eq!(worker.reached_at(2), "b:2");
        let elected = Cluster::from_toml("members = [\"a:1\", \"b:2\"]\nprocess = 0\nlead = \"elected\"").unwrap();
        assert_eq!(elected.lead, LeadIs::Elected);
        assert_eq!(worker.fewer, Some(Fewer { processes_min: 1, after: Duration::from_secs(5) }));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        assert!(error("members = [\"a:1\"]").contains("say `process`"));
        assert!(error("members = [\"a:1\"]\nprocess = 1").contains("counted from 0"));
        assert!(error("proceses = 2").contains("proceses"));
        assert!(error("processes = 2\nfailure_timeout = \"soon\"").contains("500ms"));
        assert!(error("processes = 2\nfewer_after = \"1s\"").contains("processes_min"));
        assert!(error("processes = 2\nsecret_file = \"/no/such/file\"").contains("/no/such/file"));
        let bad = Cluster::from_env(|name| (name == "MILLSTREAM_PROCESSES").then(|| "two".to_owned()));
        assert!(bad.unwrap_err().to_string().contains("MILLSTREAM_PROCESSES=two"));
        assert!(Cluster::from_env(|_| None).unwrap().is_none());
    }
}
