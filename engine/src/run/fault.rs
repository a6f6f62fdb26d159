//! What can go wrong: a [`Fault`] inside a task, a [`JobError`] for the person who runs the job.

use std::error::Error;

use millstream_state::StateError;

use crate::job::graph::{NodeId, Plan};
use crate::road::sink::SinkError;
use crate::road::source::SourceError;

/// Why a task cannot go on. It stops the attempt, and the job restarts unless the input itself is at fault.
#[derive(Debug)]
pub struct Fault {
    node: Option<NodeId>,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("panicked: {0}")]
    Panic(String),
    #[error(transparent)]
    Source(SourceError),
    #[error(transparent)]
    Sink(SinkError),
    #[error(transparent)]
    State(StateError),
    #[error("{place}: {why}")]
    Row { place: String, why: String },
    #[error(
        "{rows} rows came after the end of time: the checkpoint that this run began from was taken when its input had ended, \
         so every window has been completed and nothing more can be counted. To read an input that grows, follow it, and stop \
         the job with SIGTERM; to read all of this one again, name an empty checkpoint directory and an empty output"
    )]
    AfterTheEnd { rows: usize },
    #[error("{what}: {why}")]
    Process { what: String, why: String },
    #[error("{0}")]
    Shard(String),
}

impl Fault {
    pub(crate) fn panic(node: NodeId, message: String) -> Fault {
        Fault { node: Some(node), cause: Cause::Panic(message) }
    }

    pub(crate) fn source(node: NodeId, error: SourceError) -> Fault {
        Fault { node: Some(node), cause: Cause::Source(error) }
    }

    pub(crate) fn sink(node: NodeId, error: SinkError) -> Fault {
        Fault { node: Some(node), cause: Cause::Sink(error) }
    }

    pub(crate) fn state(node: NodeId, error: StateError) -> Fault {
        Fault { node: Some(node), cause: Cause::State(error) }
    }

    /// A row that an operator could not take, at `place` of its source.
    pub(crate) fn row(node: NodeId, place: String, why: String) -> Fault {
        Fault { node: Some(node), cause: Cause::Row { place, why } }
    }

    /// Rows that no window can take any more.
    pub(crate) fn after_the_end(node: NodeId, rows: usize) -> Fault {
        Fault { node: Some(node), cause: Cause::AfterTheEnd { rows } }
    }

    /// A user's process function that failed at `what`.
    pub(crate) fn process(node: NodeId, what: String, error: &dyn Error) -> Fault {
        Fault { node: Some(node), cause: Cause::Process { what, why: in_words(error) } }
    }

    pub(crate) fn shard(why: String) -> Fault {
        Fault { node: None, cause: Cause::Shard(why) }
    }

    /// A restart would only meet it again: the input itself is at fault.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self.cause,
            Cause::Row { .. }
                | Cause::AfterTheEnd { .. }
                | Cause::Source(SourceError::Damaged { .. } | SourceError::Unusable(_))
        )
    }

    /// The fault in words, with the operator's name.
    pub(crate) fn describe(&self, plan: &Plan) -> String {
        match self.node {
            Some(node) => format!("operator \"{}\": {}", plan.uid(node), self.cause),
            None => self.cause.to_string(),
        }
    }
}

/// A user's error with what caused it.
pub(crate) fn in_words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

fn after(restarts: u32) -> String {
    match restarts {
        0 => String::new(),
        1 => " after 1 restart".to_owned(),
        more => format!(" after {more} restarts"),
    }
}

/// Why a job did not start or did not finish, sorted by who can act.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The operator: a setting, a directory or a graph that cannot be used. Nothing was started.
    #[error("{0}")]
    Unusable(String),
    /// The machine: io_uring, memory locks, cores. Nothing was started.
    #[error("{0}")]
    Machine(String),
    /// The checkpoint does not belong to this job. Nothing was changed.
    #[error("{0}")]
    Mismatch(String),
    /// A file of the checkpoint is damaged, and no checkpoint before it is left. Nothing was changed.
    #[error("{0}. There is no checkpoint before it to go on from: mend the file, or name an empty place to begin anew")]
    Damaged(String),
    /// A savepoint that was asked for; the job is as it was.
    #[error("no savepoint was made: {0}")]
    Savepoint(String),
    /// The job ran and failed for good; the last checkpoint is intact.
    #[error("the job failed{}: {cause}", after(*.restarts))]
    Failed {
        /// What stopped it, with the operator's name.
        cause: String,
        /// Restarts that were tried.
        restarts: u32,
    },
}
