//! What the processes of a job say to each other about it: orders one way, news the other, as JSON in a channel's messages.
//!
//! ```text
//! worker ── Greeting::Work ─────────────────▶ lead         once, with the handshake
//!        ◀───────── Prepare, Order …, Over ──
//!        ── News …, Counters, Ended ────────▶
//!
//! shard's process ── Greeting::Link ────────▶ the other's  once for each pair of shards, then frames
//! ```
//!
//! Control traffic is a handful of messages an epoch, so that it can be read with whatever shows bytes; events never
//! travel this way.

use hdrhistogram::Histogram;
use millstream_state::{Epoch, Manifest, Part, Restored, SnapshotSize};
use serde::{Deserialize, Serialize};

use crate::epoch::Barrier;
use crate::run::fault::JobError;
use crate::run::metrics::ShardReport;
use crate::run::shard::News;
use crate::run::time_report::OperatorTime;
use crate::time::Clock;

/// Which attempt: of which lead, and its number there. One of a lead that is no more is nobody's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(super) struct AttemptId {
    pub(super) lead: u64,
    pub(super) number: u64,
}

/// Why somebody connects.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Greeting {
    /// A process that offers to run shards.
    Work {
        /// Its number, where it has one of its own.
        process: Option<u32>,
        /// Where other processes reach it.
        address: String,
        /// Of this start of the process: a later one takes the place of an earlier one.
        incarnation: u64,
    },
    /// Frames between two shards.
    Link { attempt: AttemptId, from: u32, to: u32 },
}

/// The lead to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// Connect, build the shards that are yours, and say when they are ready.
    Prepare(Box<Prepare>),
    Order {
        shard: u32,
        order: OrderWord,
    },
    /// Say how far time has come on a shard; the answer has the same number.
    Explain {
        shard: u32,
        number: u64,
    },
    /// The job is over, and this is what came of it.
    Over {
        why: Result<Ending, Failure>,
    },
}

/// What a worker needs to know of an attempt.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Prepare {
    pub(super) attempt: AttemptId,
    /// Which of the processes this is.
    pub(super) process: u32,
    /// By shard: the number of its process.
    pub(super) processes: Vec<u32>,
    /// By process: where it is reached.
    pub(super) addresses: Vec<String>,
    pub(super) restored: Option<Manifest>,
    /// `restored` is of the savepoint that the job was told to begin at.
    pub(super) from_savepoint: bool,
}

/// How a job ended well, as far as a worker reports it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Ending {
    pub(super) restored_epoch: u64,
    pub(super) stopped: bool,
    pub(super) elapsed_us: u64,
}

/// [`Order`](crate::run::shard::Order), as far as it is a word.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum OrderWord {
    Go,
    Inject { epoch: Epoch, last: bool },
    Complete(Epoch),
    Abort(Epoch),
    Halt,
}

impl OrderWord {
    pub(super) fn inject(barrier: Barrier) -> OrderWord {
        OrderWord::Inject { epoch: barrier.epoch, last: barrier.last }
    }
}

/// A worker to the lead.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToLead {
    News {
        attempt: AttemptId,
        shard: u32,
        news: NewsWord,
    },
    /// Of each of its shards.
    Counters(Vec<Counted>),
    Explained {
        number: u64,
        operators: Vec<OperatorTime>,
    },
    /// A shard has ended, and reports or cannot.
    Ended {
        attempt: AttemptId,
        shard: u32,
        report: Result<Box<Measured>, String>,
    },
    /// Somebody asked this process to stop, and so the job.
    Stop,
}

/// A shard's counters.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Counted {
    pub(super) shard: u32,
    pub(super) events_in: u64,
    pub(super) turns: u64,
    pub(super) state_bytes: u64,
    pub(super) major_faults: u64,
}

/// [`News`], in serialisable words.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum NewsWord {
    Ready(Restored),
    InputEnded,
    Acknowledged { epoch: Epoch, part: Part, bytes: u64, snapshot: SnapshotSize },
    Declined { epoch: Epoch, why: String },
    Committed { epoch: Epoch },
    Failed { why: String, is_final: bool },
    Refused(Failure),
}

impl From<News> for NewsWord {
    fn from(news: News) -> NewsWord {
        match news {
            News::Ready(restored) => NewsWord::Ready(restored),
            News::InputEnded => NewsWord::InputEnded,
            News::Acknowledged { epoch, part, bytes, snapshot } => {
                NewsWord::Acknowledged { epoch, part, bytes, snapshot }
            }
            News::Declined { epoch, why } => NewsWord::Declined { epoch, why },
            News::Committed { epoch } => NewsWord::Committed { epoch },
            News::Failed { why, is_final } => NewsWord::Failed { why, is_final },
            News::Refused(error) => NewsWord::Refused(error.into()),
        }
    }
}

impl From<NewsWord> for News {
    fn from(word: NewsWord) -> News {
        match word {
            NewsWord::Ready(restored) => News::Ready(restored),
            NewsWord::InputEnded => News::InputEnded,
            NewsWord::Acknowledged { epoch, part, bytes, snapshot } => {
                News::Acknowledged { epoch, part, bytes, snapshot }
            }
            NewsWord::Declined { epoch, why } => News::Declined { epoch, why },
            NewsWord::Committed { epoch } => News::Committed { epoch },
            NewsWord::Failed { why, is_final } => News::Failed { why, is_final },
            NewsWord::Refused(failure) => News::Refused(failure.into()),
        }
    }
}

/// [`JobError`], in serialisable words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    Unusable(String),
    Machine(String),
    Mismatch(String),
    Damaged(String),
    Savepoint(String),
    Failed { cause: String, restarts: u32 },
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Failure {
        Failure::told(&error)
    }
}

impl Failure {
    /// What others are told of an error that stays here.
    pub(super) fn told(error: &JobError) -> Failure {
        match error {
            JobError::Unusable(why) => Failure::Unusable(why.clone()),
            JobError::Machine(why) => Failure::Machine(why.clone()),
            JobError::Mismatch(why) => Failure::Mismatch(why.clone()),
            JobError::Damaged(why) => Failure::Damaged(why.clone()),
            JobError::Savepoint(why) => Failure::Savepoint(why.clone()),
            JobError::Failed { cause, restarts } => Failure::Failed { cause: cause.clone(), restarts: *restarts },
        }
    }
}

impl From<Failure> for JobError {
    fn from(failure: Failure) -> JobError {
        match failure {
            Failure::Unusable(why) => JobError::Unusable(why),
            Failure::Machine(why) => JobError::Machine(why),
            Failure::Mismatch(why) => JobError::Mismatch(why),
            Failure::Damaged(why) => JobError::Damaged(why),
            Failure::Savepoint(why) => JobError::Savepoint(why),
            Failure::Failed { cause, restarts } => JobError::Failed { cause, restarts },
        }
    }
}

/// [`ShardReport`], in serialisable words: histograms as values and how often each came.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    turn_us: Vec<(u64, u64)>,
    pause_us: Vec<(u64, u64)>,
    /// Wall time: monotonic clocks of two hosts have nothing to do with each other.
    first_event_us: Option<i64>,
    events_in: u64,
    late: u64,
    skipped: u64,
    state_bytes_max: u64,
    state_bytes: u64,
    major_faults: u64,
    restore_us: u64,
}

impl Measured {
    pub(super) fn of(report: &ShardReport, clock: &Clock) -> Measured {
        let values = |histogram: &Histogram<u64>| -> Vec<(u64, u64)> {
            histogram.iter_recorded().map(|at| (at.value_iterated_to(), at.count_since_last_iteration())).collect()
        };
        let (now, wall_us) = (clock.now(), clock.wall_us());
        let to_wall = |at| wall_us - now.since(at).as_micros() as i64;
        Measured {
            turn_us: values(&report.turn_us),
            pause_us: values(&report.pause_us),
            first_event_us: report.first_event.map(to_wall),
            events_in: report.events_in,
            late: report.late,
            skipped: report.skipped,
            state_bytes_max: report.state_bytes_max,
            state_bytes: report.state_bytes,
            major_faults: report.major_faults,
            restore_us: report.restore_us,
        }
    }

    pub(super) fn into_report(self, clock: &Clock) -> ShardReport {
        let mut report = ShardReport::new();
        for (histogram, values) in [(&mut report.turn_us, self.turn_us), (&mut report.pause_us, self.pause_us)] {
            values.into_iter().for_each(|(value, count)| histogram.saturating_record_n(value, count));
        }
        let (now, wall_us) = (clock.now(), clock.wall_us());
        let ago = |at_us: i64| u64::try_from(wall_us.saturating_sub(at_us)).unwrap_or(0).saturating_mul(1_000);
        report.first_event = self.first_event_us.map(|at_us| crate::time::Nanos(now.0.saturating_sub(ago(at_us))));
        report.events_in = self.events_in;
        report.late = self.late;
        report.skipped = self.skipped;
        report.state_bytes_max = self.state_bytes_max;
        report.state_bytes = self.state_bytes;
        report.major_faults = self.major_faults;
        report.restore_us = self.restore_us;
        report
    }
}

/// The bytes of a message.
pub(super) fn to_bytes(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("maps have strings for keys, and numbers are finite")
}

/// The message in bytes that came from a process which has proven the secret and runs the same version.
pub(super) fn from_bytes<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("a message that is none of ours: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Nanos;

    #[test]
    fn a_report_arrives_as_it_was() {
        let clock = Clock::held(1_000_000);
        let mut report = ShardReport::new();
        report.turn_us.saturating_record(1_234);
        report.turn_us.saturating_record(99_000_000);
        report.pause_us.saturating_record_n(7, 3);
        report.first_event = Some(Nanos(999_000_000_000));
        (report.events_in, report.late, report.restore_us) = (5, 2, 9);
        let bytes = to_bytes(&Measured::of(&report, &clock));
        let back = from_bytes::<Measured>(&bytes).unwrap().into_report(&clock);
        assert_eq!((back.turn_us, back.pause_us), (report.turn_us, report.pause_us));
        assert_eq!(back.first_event, report.first_event);
        assert_eq!((back.events_in, back.late, back.restore_us), (5, 2, 9));
    }

    #[test]
    fn what_is_no_message_is_said_so() {
        let error = from_bytes::<ToLead>(b"{\"Nonsense\":1}").unwrap_err();
        assert!(error.contains("none of ours"), "{error}");
    }
}
