//! One run of the Yahoo benchmark: settings in, a verified outcome out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use millstream::road::rows::{Batch, Lines};
use millstream::{Clock, Flow, Job, JobError, JobHandle, JobReport, Key, OnError};
use millstream_connectors::log::LogSource;

use super::dataset::Dataset;
use super::encode::Encoded;
use super::event::{AdEvent, AdEventText, UuidText};
use super::generate::{GeneratorConfig, Population};
use super::latency::WindowEnds;
use super::oracle::{CampaignName, Differences, Oracle};
use super::output::Output;
use super::pace::Paced;
use super::query::{self, TextAds};
use super::source::{Shares, YsbSource};
use super::verify::{self, BadLines};
use crate::limit::Encoding;
use crate::processes::{ClusterRun, Shared};

/// What to run.
#[derive(Clone, Debug)]
pub struct YsbRun {
    /// The events; what comes from a log has its own number and pace.
    pub events: GeneratorConfig,
    /// Stop making events after this time.
    pub duration: Option<Duration>,
    /// Open loop: event time is wall time.
    pub open_loop: bool,
    /// How events are encoded.
    pub encoding: Encoding,
    /// Read this log instead of making events.
    pub log: Option<PathBuf>,
    /// Hold the log to so many events a second.
    pub log_rate: Option<u64>,
    /// Where rows go.
    pub sink: SinkKind,
    /// Shards.
    pub shards: u32,
    /// Their cores; empty: as the engine chooses.
    pub cores: Vec<usize>,
    /// Time between checkpoints; none: no checkpoints.
    pub checkpoint_interval: Option<Duration>,
    /// Where checkpoints are kept; none: a temporary directory.
    pub checkpoint_dir: Option<PathBuf>,
    /// Other processes that run some of the shards.
    pub cluster: Option<ClusterRun>,
    /// Fold before the exchange.
    pub combine: bool,
    /// Compare with the oracle.
    pub verify: bool,
    /// The generator's events, counted already: for whoever runs the same input more than once.
    pub counted: Option<Arc<Oracle>>,
    /// What happens to malformed JSON.
    pub on_error: OnError,
    /// The dead letters' directory, where malformed JSON becomes dead letters.
    pub dead_letters: Option<PathBuf>,
}

impl YsbRun {
    /// Malformed lines are no reason to fail.
    fn passes_over_bad_lines(&self) -> bool {
        self.on_error == OnError::Skip || self.dead_letters.is_some()
    }
}

/// Where rows go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SinkKind {
    /// They stay in memory.
    Memory,
    /// Files in a directory, exactly once.
    File(PathBuf),
    /// Files in a directory that is gone after the run.
    TemporaryFiles,
    /// They are dropped.
    Null,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct YsbOutcome {
    /// What the engine reports.
    pub job: JobReport,
    /// Rows committed, where they can be counted.
    pub windows: u64,
    /// Views counted in them.
    pub views: u64,
    /// The comparison with the oracle, where one was made.
    pub differences: Option<Differences>,
    /// Result rows after their window's end, µs; of events that are made.
    pub latency_us: Option<Histogram<u64>>,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine's answer.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The harness's own.
    #[error("{0}")]
    Harness(String),
}

/// What is told while a run goes on.
#[derive(Clone, Copy, Debug)]
pub enum Told {
    /// Tables are being made.
    Preparing,
    /// So many events were taken in.
    Events(u64),
    /// The result is being recounted.
    Verifying,
}

/// Runs the benchmark; `tell` hears how far it is about ten times a second.
///
/// # Errors
/// When it cannot be started, or fails.
pub fn run(run: &YsbRun, tell: &mut dyn FnMut(Told)) -> Result<YsbOutcome, RunError> {
    match run.encoding {
        Encoding::Long => run_form::<Long>(run, tell),
        Encoding::Uuid => run_form::<Uuid>(run, tell),
        Encoding::Json => run_form::<Json>(run, tell),
    }
}

/// What differs between encodings.
trait Form: 'static {
    type Batch: Encoded + Batch;
    type Campaign: Key + CampaignName + Send;
    type Ads: Clone + Send + Sync + 'static;

    fn ads(population: &Population) -> Self::Ads;

    fn flow(flow: &Flow, run: &YsbRun, progress: &Progress, ads: &Self::Ads, sink: Output<Self::Campaign>);
}

/// The generator as the run wants it.
fn generator<E: Encoded + Batch>(run: &YsbRun, progress: &Progress) -> YsbSource<E> {
    let source = if run.open_loop { YsbSource::open_loop(run.events) } else { YsbSource::new(run.events) };
    source.counted(progress.shares.clone()).telling(progress.ends.clone())
}

/// What the generator tells while it goes.
#[derive(Clone)]
struct Progress {
    shares: Shares,
    ends: WindowEnds,
}

struct Long;

impl Form for Long {
    type Batch = Vec<AdEvent>;
    type Campaign = u64;
    type Ads = millstream::LookupTable<u64, u64>;

    fn ads(population: &Population) -> Self::Ads {
        query::ads(population)
    }

    fn flow(flow: &Flow, run: &YsbRun, progress: &Progress, ads: &Self::Ads, sink: Output<u64>) {
        let watermarks = query::watermarks(run.events.skew);
        query::long(flow, generator(run, progress), ads.clone(), watermarks, sink);
    }
}

struct Uuid;

impl Form for Uuid {
    type Batch = Vec<AdEventText>;
    type Campaign = UuidText;
    type Ads = TextAds;

    fn ads(population: &Population) -> TextAds {
        TextAds::new(population)
    }

    fn flow(flow: &Flow, run: &YsbRun, progress: &Progress, ads: &TextAds, sink: Output<UuidText>) {
        let watermarks = query::watermarks(run.events.skew);
        query::uuid(flow, generator(run, progress), ads.clone(), watermarks, sink);
    }
}

struct Json;

impl Form for Json {
    type Batch = Lines;
    type Campaign = UuidText;
    type Ads = TextAds;

    fn ads(population: &Population) -> TextAds {
        TextAds::new(population)
    }

    fn flow(flow: &Flow, run: &YsbRun, progress: &Progress, ads: &TextAds, sink: Output<UuidText>) {
        let watermarks = query::watermarks(run.events.skew);
        let bad = query::BadLines { on_error: run.on_error, dead_letters: run.dead_letters.clone() };
        match &run.log {
            None => query::json(flow, generator::<Lines>(run, progress), ads.clone(), watermarks, bad, sink),
            Some(log) => {
                let log = Paced::new(LogSource::new(log), run.log_rate.unwrap_or(u64::MAX));
                query::json(flow, log, ads.clone(), watermarks, bad, sink);
            }
        }
    }
}

fn run_form<F: Form>(run: &YsbRun, tell: &mut dyn FnMut(Told)) -> Result<YsbOutcome, RunError> {
    tell(Told::Preparing);
    let mut run = run.clone();
    let dataset = run.log.as_deref().map(Dataset::load).transpose().map_err(RunError::Harness)?;
    if let Some(dataset) = &dataset {
        run.events = dataset.events;
    }
    let rows_in = match run.sink {
        SinkKind::TemporaryFiles => Some(temporary("rows", "--sink file --out")?),
        _ => None,
    };
    if let Some(dir) = &rows_in {
        run.sink = SinkKind::File(dir.path().to_path_buf());
    }
    let ads = F::ads(&run.events.population);
    let (sink, memory) = match &run.sink {
        SinkKind::Memory => {
            let (sink, rows) = Output::<F::Campaign>::memory();
            (sink, Some(rows))
        }
        SinkKind::File(dir) => (Output::file(dir.clone()), None),
        SinkKind::TemporaryFiles => unreachable!("they have been given their directory"),
        SinkKind::Null => (Output::null(), None),
    };
    let progress = Progress {
        shares: Shares::new(),
        ends: if run.open_loop { WindowEnds::AsTimeGoes } else { WindowEnds::as_read() },
    };
    let (sink, latency) = match run.log {
        // Nobody but the job knows the times in a log.
        Some(_) => (sink, None),
        None => {
            let (sink, latency) = sink.timed(progress.ends.clone());
            (sink, Some(latency))
        }
    };
    let checkpoints_in;
    let checkpoint_dir = match (&run.checkpoint_dir, run.checkpoint_interval) {
        (Some(dir), _) => Some(dir.clone()),
        (None, None) => None,
        (None, Some(_)) => {
            checkpoints_in = temporary("checkpoints", "--checkpoint-dir")?;
            Some(checkpoints_in.path().to_path_buf())
        }
    };
    if run.open_loop {
        // A fresh start: event 0 is due a moment from now, once the shards are up.
        let soon = || (Clock::system().wall_ms() + 500) / 1000 * 1000 + 1000;
        // Other processes are told by the lead, and it takes them a moment longer.
        let start_ms = run.cluster.as_ref().map_or_else(|| Some(soon()), |cluster| cluster.start_ms);
        run.events.start_ms = start_ms.unwrap_or_else(|| soon() + 2_000);
    }
    let shared = Arc::new(run);
    let job = {
        let (run, progress) = (shared.clone(), progress.clone());
        Job::new("ysb", move |flow| F::flow(flow, &run, &progress, &ads, sink.clone()))
            .shards(shared.shards)
            .cores(shared.cores.clone())
            .combine(shared.combine)
            .configure(|config| {
                config.checkpoint_dir = checkpoint_dir.clone();
                config.checkpoint_interval = shared.checkpoint_interval;
                config.cluster = shared.cluster.as_ref().map(|cluster| cluster.cluster.clone());
            })
    };
    let handle = job.start()?;
    let counters = handle.counters().to_vec();
    let others = shared.cluster.as_ref().map(|cluster| {
        let shared_with = Shared {
            checkpoint_dir: checkpoint_dir.clone(),
            out: rows_in.as_ref().map(|dir| dir.path().to_path_buf()),
            start_ms: shared.open_loop.then_some(shared.events.start_ms),
        };
        cluster.start_others(&handle, &shared_with)
    });
    let others = others.transpose().map_err(RunError::Harness)?;
    let job = watch(handle, &shared, &progress.shares, tell)?;
    drop(others);
    tell(Told::Verifying);
    let committed: Vec<(F::Campaign, i64, u64)> = match (&shared.sink, memory) {
        (SinkKind::Memory, Some(rows)) => {
            rows.rows().into_iter().map(|row| (row.campaign, row.window_start_ms, row.count)).collect()
        }
        (SinkKind::File(dir), _) => verify::committed_rows(dir).map_err(RunError::Harness)?,
        _ => Vec::new(),
    };
    let can_verify = shared.verify && shared.sink != SinkKind::Null && !job.stopped && job.led;
    let differences = if can_verify {
        let bad_lines = if shared.passes_over_bad_lines() { BadLines::PassOver } else { BadLines::Refuse };
        let oracle = match (&shared.log, shared.duration) {
            (Some(log), _) => {
                let population = &shared.events.population;
                Arc::new(verify::oracle_of_log(log, population, bad_lines).map_err(RunError::Harness)?)
            }
            // All of it, whoever took it: a run that continues finds its output begun, and may find nothing left to take.
            (None, None) => match &shared.counted {
                Some(counted) => counted.clone(),
                None => Arc::new(Oracle::of_generator(shared.events)),
            },
            (None, Some(_)) if shared.cluster.is_some() => {
                let taken: Vec<u64> = counters.iter().map(|shard| shard.events_in()).collect();
                Arc::new(Oracle::of_shares(shared.events, &taken))
            }
            (None, Some(_)) => Arc::new(Oracle::of_shares(shared.events, &progress.shares.taken())),
        };
        Some(oracle.compare(committed.iter().copied(), 1))
    } else {
        None
    };
    let (windows, views) = (committed.len() as u64, committed.iter().map(|(_, _, count)| count).sum());
    let latency_us = latency.map(|latency| latency.micros());
    Ok(YsbOutcome { job, windows, views, differences, latency_us })
}

/// A directory that is gone after the run.
fn temporary(what: &str, option: &str) -> Result<tempfile::TempDir, RunError> {
    tempfile::Builder::new().prefix("millstream-ysb-").tempdir().map_err(|error| {
        RunError::Harness(format!("no temporary directory for {what} can be made: {error}. Name one with {option}"))
    })
}

/// Waits for the job's end, tells how far it is, and closes the input when its time is over.
fn watch(handle: JobHandle, run: &YsbRun, shares: &Shares, tell: &mut dyn FnMut(Told)) -> Result<JobReport, RunError> {
    let clock = Clock::system();
    let mut began = None;
    while !handle.is_finished() {
        let events = handle.events_in();
        if events > 0 {
            tell(Told::Events(events));
        }
        if let Some(duration) = run.duration
            && events > 0
            && clock.now().since(*began.get_or_insert(clock.now())) >= duration
        {
            shares.close();
        }
        std::thread::park_timeout(Duration::from_millis(if run.duration.is_some() { 10 } else { 50 }));
    }
    Ok(handle.wait()?)
}
