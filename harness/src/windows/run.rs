//! One run: settings in, a verified outcome out.

use std::fmt;
use std::time::Duration;

use millstream::job::stream::Boxed;
use millstream::state::{KeyedState, Map};
use millstream::{
    BoxError, Clock, Count, Job, JobReport, Process, ProcessContext, RestartStrategy, Session, Sliding, Stream, Timer,
    Timestamp, Tumbling, Watermarks,
};

use super::oracle;
use super::source::{Hit, Hits};
use super::tally::{Counted, Digest, Tally};
use crate::keys::KeySpace;
use crate::ysb::run::RunError;

/// What a key's events are gathered in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One window behind the other.
    Tumbling {
        /// How long each is.
        size_ms: i64,
    },
    /// Windows that overlap.
    Sliding {
        /// How long each is.
        size_ms: i64,
        /// How long after one the next begins; the size is a multiple of it.
        slide_ms: i64,
    },
    /// Stretches without a longer silence.
    Session {
        /// The silence that ends one.
        gap_ms: i64,
    },
    /// Tumbling windows made by hand: a process function, and an event-time timer for each key and window.
    Timers {
        /// How long each is.
        size_ms: i64,
    },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Tumbling { size_ms } => write!(f, "tumbling {size_ms} ms"),
            Kind::Sliding { size_ms, slide_ms } => write!(f, "sliding {size_ms} ms every {slide_ms} ms"),
            Kind::Session { gap_ms } => write!(f, "sessions with a gap of {gap_ms} ms"),
            Kind::Timers { size_ms } => write!(f, "timers every {size_ms} ms"),
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct WindowsRun {
    /// What events are gathered in.
    pub kind: Kind,
    /// The keys, and how often each comes.
    pub space: KeySpace,
    /// Events over all shards.
    pub events: u64,
    /// Events in a second of event time, over all shards.
    pub per_second: u64,
    /// Shards.
    pub shards: u32,
    /// Their cores; empty: as the engine chooses.
    pub cores: Vec<usize>,
    /// Time between checkpoints; none: no checkpoints.
    pub checkpoint_interval: Option<Duration>,
    /// Compare with the slow answer.
    pub verify: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct WindowsOutcome {
    /// What the engine reports.
    pub job: JobReport,
    /// From the first event taken to the job's end.
    pub seconds: f64,
    /// What came out.
    pub digest: Digest,
    /// What should have, where that was asked for.
    pub expected: Option<Digest>,
}

/// A key's open counts, by the ends of their windows.
#[derive(KeyedState)]
struct Open {
    counts: Map<i64, u64>,
}

/// Tumbling windows made of timers.
struct ByTimers {
    size_ms: i64,
}

impl Process<u64, Hit> for ByTimers {
    type State = Open;
    type Out = Counted;

    fn on_event(
        &mut self,
        open: &mut Open,
        hit: Hit,
        cx: &mut ProcessContext<'_, u64, Counted>,
    ) -> Result<(), BoxError> {
        let end_ms = (hit.at_ms.div_euclid(self.size_ms) + 1) * self.size_ms;
        if open.counts.update(&end_ms, |count| *count += 1).is_none() {
            open.counts.insert(end_ms, 1);
            cx.timers().event(Timestamp(end_ms - 1));
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        open: &mut Open,
        timer: Timer,
        cx: &mut ProcessContext<'_, u64, Counted>,
    ) -> Result<(), BoxError> {
        let Timer::Event(at) = timer else { return Ok(()) };
        let end_ms = at.0 + 1;
        let count = *open.counts.get(&end_ms).ok_or("a timer fired for a window without events")?;
        open.counts.remove(&end_ms);
        cx.emit(Counted { key: *cx.key(), start_ms: end_ms - self.size_ms, end_ms, count });
        Ok(())
    }
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

/// Runs it; `tell` hears how many events have been taken.
///
/// # Errors
/// When it cannot be started, or fails.
pub fn run(run: &WindowsRun, tell: &mut dyn FnMut(u64)) -> Result<WindowsOutcome, RunError> {
    let hits = Hits { space: run.space, events: run.events, per_second: run.per_second };
    let (tally, kind) = (Tally::default(), run.kind);
    let results = tally.clone();
    let job = Job::new("windows", move |flow| {
        // A session ends when no row can come before its end; one at its very end would still join it. It always does with a
        // watermark that leaves it the time to.
        let watermarks = Watermarks::bounded(Duration::from_millis(1));
        let timed = flow.source(hits).named("events").event_time(|hit: &Hit| Timestamp(hit.at_ms), watermarks);
        let counted = |counts: Stream<Boxed<Counted>>| counts.sink(tally.clone());
        match kind {
            Kind::Tumbling { size_ms } => {
                let windows = timed.key_by(|hit| hit.key).window(Tumbling::of(ms(size_ms)));
                counted(windows.aggregate(Count).named("windows").map(of_window).boxed());
            }
            Kind::Sliding { size_ms, slide_ms } => {
                let window = Sliding::of(ms(size_ms)).every(ms(slide_ms));
                counted(
                    timed.key_by(|hit| hit.key).window(window).aggregate(Count).named("windows").map(of_window).boxed(),
                );
            }
            Kind::Session { gap_ms } => {
                // Rows cross to their key's shard as they are: no more of them than is needed.
                let hits = timed.map(|hit| hit.key).key_by(|key| *key);
                let sessions = hits.window(Session::gap(ms(gap_ms))).aggregate(Count).named("windows");
                let of_session = |row: &millstream::Fired<u64, u64>| {
                    let window = row.window.expect("a session has a beginning and an end");
                    Counted { key: row.key, start_ms: window.start.0, end_ms: window.end.0, count: row.value }
                };
                counted(sessions.map(of_session).boxed());
            }
            Kind::Timers { size_ms } => {
                counted(timed.key_by(|hit| hit.key).process(ByTimers { size_ms }).named("windows").boxed());
            }
        }
    });
    let temporary = run.checkpoint_interval.map(|_| tempfile::Builder::new().prefix("millstream-windows-").tempdir());
    let temporary = temporary.transpose().map_err(|error| {
        RunError::Harness(format!(
            "no temporary directory for checkpoints can be made: {error}. Say --checkpoint-interval off"
        ))
    })?;
    let job = job.shards(run.shards).cores(run.cores.clone()).restart(RestartStrategy::never()).configure(|config| {
        config.checkpoint_dir = temporary.as_ref().map(|dir| dir.path().to_path_buf());
        config.checkpoint_interval = run.checkpoint_interval;
    });
    let handle = job.start()?;
    while !handle.is_finished() {
        tell(handle.events_in());
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let ended = Clock::system().now();
    let job = handle.wait()?;
    let seconds = job.measured.first_event.map_or(0.0, |first| ended.since(first).as_secs_f64());
    let expected = (run.verify && !job.stopped).then(|| oracle::answer(&hits, kind, run.shards));
    Ok(WindowsOutcome { job, seconds, digest: results.digest(), expected })
}

fn of_window(row: &millstream::Windowed<u64, u64>) -> Counted {
    Counted { key: row.key, start_ms: row.window.start.0, end_ms: row.window.end.0, count: row.value }
}
