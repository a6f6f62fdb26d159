//! One run of the keyed count: settings in, a verified outcome out.

use std::path::PathBuf;
use std::time::Duration;

use millstream::time::Nanos;
use millstream::{CheckpointFigures, Clock, Job, JobHandle, JobReport, RestartStrategy, StateBacking};

use super::counts::{Counts, TORN};
use super::disk::DiskUse;
use super::gate::{Gate, Phase};
use super::oracle::{self, COUNT, Checked, Oracle, SOURCE};
use super::output::Output;
use super::source::Updates;
use crate::keys::KeySpace;
use crate::machine::Usage;
use crate::ysb::oracle::Differences;
use crate::ysb::run::RunError;

pub use super::output::Files;

/// What to run.
#[derive(Clone, Debug)]
pub struct StateRun {
    /// The keys, and how often each comes.
    pub space: KeySpace,
    /// Updates over all shards, and over all runs that continue one another.
    pub updates: u64,
    /// Stop after this time.
    pub duration: Option<Duration>,
    /// Updates a second, open loop.
    pub rate: Option<u64>,
    /// Bytes of an accumulator: one of [`VALUE_BYTES`](oracle::VALUE_BYTES).
    pub value_bytes: u32,
    /// Shards.
    pub shards: u32,
    /// Their cores; empty: as the engine chooses.
    pub cores: Vec<usize>,
    /// Time between checkpoints; none: only the one at the end, where there is a directory.
    pub checkpoint_interval: Option<Duration>,
    /// Where checkpoints are kept; none with an interval: a temporary directory.
    pub checkpoint_dir: Option<PathBuf>,
    /// How many are kept.
    pub checkpoints_retained: usize,
    /// What memory the state lies in.
    pub backing: StateBacking,
    /// Where some of the counts go; none: nowhere.
    pub files: Option<Files>,
    /// Compare with the oracle.
    pub verify: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct StateOutcome {
    /// What the engine reports.
    pub job: JobReport,
    /// Updates of this run.
    pub updates: u64,
    /// From the first of them taken to the last one's count come out.
    pub seconds: f64,
    /// From the job's start to the last key put in; of a run that continues, as far as it had to.
    pub load_s: f64,
    /// Checkpoints that had only updates in them.
    pub checkpoints: Vec<CheckpointFigures>,
    /// What the checkpoint directory took while updates came.
    pub disk: Option<DiskUse>,
    /// The most memory held when the load was done, MiB.
    pub rss_loaded_mb: f64,
    /// The comparison with the oracle, where one was made.
    pub differences: Option<Differences>,
    /// Checkpoints that were restored for it.
    pub checkpoints_verified: u64,
}

impl StateOutcome {
    /// The figure.
    #[must_use]
    pub fn updates_per_s(&self) -> f64 {
        if self.updates == 0 { 0.0 } else { self.updates as f64 / self.seconds.max(1e-9) }
    }
}

/// What is told while a run goes on.
#[derive(Clone, Copy, Debug)]
pub enum Told {
    /// So many keys are in.
    Loading(u64),
    /// So many updates were taken.
    Updates(u64),
    /// The result is being recounted.
    Verifying,
}

/// How often the run looks whether a phase is over: it delays what comes next by half of that.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// How often it looks at the disk.
const DISK_EVERY: Duration = Duration::from_millis(20);

/// Runs it; `tell` hears how far it is.
///
/// # Errors
/// When it cannot be started, or fails.
pub fn run(run: &StateRun, tell: &mut dyn FnMut(Told)) -> Result<StateOutcome, RunError> {
    match run.value_bytes {
        8 => run_sized::<1>(run, tell),
        16 => run_sized::<2>(run, tell),
        32 => run_sized::<4>(run, tell),
        64 => run_sized::<8>(run, tell),
        128 => run_sized::<16>(run, tell),
        256 => run_sized::<32>(run, tell),
        other => Err(RunError::Harness(format!(
            "accumulators of {other} bytes are not built in: their sizes are {:?}",
            oracle::VALUE_BYTES
        ))),
    }
}

fn run_sized<const WORDS: usize>(run: &StateRun, tell: &mut dyn FnMut(Told)) -> Result<StateOutcome, RunError> {
    let temporary;
    let checkpoint_dir = match (&run.checkpoint_dir, run.checkpoint_interval) {
        (Some(dir), _) => Some(dir.clone()),
        (None, None) => None,
        (None, Some(_)) => {
            temporary = tempfile::Builder::new().prefix("millstream-state-").tempdir().map_err(|error| {
                RunError::Harness(format!(
                    "no temporary directory for checkpoints can be made: {error}. Name one with --checkpoint-dir"
                ))
            })?;
            Some(temporary.path().to_path_buf())
        }
    };
    let gate = Gate::new(run.shards);
    let source = Updates { space: run.space, updates: run.updates, rate: run.rate, gate: gate.clone() };
    let output = Output { files: run.files.clone(), gate: gate.clone() };
    let job = Job::new("state", move |flow| {
        flow.source(source.clone())
            .named(SOURCE)
            .key_by(|key| *key)
            .running(Counts::<WORDS>)
            .named(COUNT)
            .sink(output.clone());
    })
    .shards(run.shards)
    .cores(run.cores.clone())
    // A run is measured from its start; one that failed in between has no figure.
    .restart(RestartStrategy::never())
    .configure(|config| {
        config.checkpoint_dir.clone_from(&checkpoint_dir);
        config.checkpoint_interval = run.checkpoint_interval;
        config.checkpoints_retained = run.checkpoints_retained;
        config.state_backing = run.backing.clone();
    });
    let began = Clock::system().now();
    let conductor = Conductor { run, gate, handle: job.start()?, disk: checkpoint_dir.as_deref().map(DiskUse::of) };
    let conducted = conductor.conduct(began, tell)?;
    tell(Told::Verifying);
    let Conducted { job, positions, gate, .. } = &conducted;
    let Checked { differences, checkpoints, .. } = match &checkpoint_dir {
        _ if !run.verify || job.stopped => Checked::default(),
        Some(dir) => oracle::check(dir, &run.space, run.shards, run.value_bytes)
            .and_then(|checked| with_files(run, positions, checked))
            .map_err(RunError::Harness)?,
        None => {
            let mut oracle = Oracle::new(&run.space, run.shards);
            oracle.count_to(positions);
            let mut differences = Differences::default();
            // Being read made each count one more.
            let found =
                |number| gate.read(number).map_or(0, |count| if count == TORN { TORN } else { count.wrapping_sub(1) });
            oracle.compare("at the end", found, &mut differences);
            with_files(run, positions, Checked { differences, ..Checked::default() }).map_err(RunError::Harness)?
        }
    };
    let verified = run.verify && !job.stopped;
    Ok(conducted.outcome(verified.then_some(differences), checkpoints))
}

/// Adds what is wrong with the files, if any were written.
fn with_files(run: &StateRun, positions: &[u64], mut checked: Checked) -> Result<Checked, String> {
    if let Some(files) = &run.files {
        let mut oracle = Oracle::new(&run.space, run.shards);
        oracle.count_to(positions);
        let (keys, updates) = (checked.differences.rows, checked.differences.views);
        oracle::add(&mut checked.differences, oracle::compare_files(&files.dir, files.every, oracle.counts())?);
        (checked.differences.rows, checked.differences.views) = (keys, updates);
    }
    Ok(checked)
}

/// Leads a running job through its phases.
struct Conductor<'a> {
    run: &'a StateRun,
    gate: Gate,
    handle: JobHandle,
    disk: Option<DiskUse>,
}

/// What was seen on the way.
struct Conducted {
    job: JobReport,
    gate: Gate,
    positions: Vec<u64>,
    updates: u64,
    began: Nanos,
    loaded: Nanos,
    first_update: Nanos,
    ended: Nanos,
    rss_loaded_mb: f64,
    disk: Option<DiskUse>,
}

impl Conductor<'_> {
    fn conduct(mut self, began: Nanos, tell: &mut dyn FnMut(Told)) -> Result<Conducted, RunError> {
        let clock = Clock::system();
        self.wait_for(Phase::Load, |rows| tell(Told::Loading(rows)), None);
        let loaded = clock.now();
        let before: u64 = self.gate.positions().iter().sum();
        let rss_loaded_mb = Usage::now().rss_mb;
        let rows_before = self.gate.rows();
        self.gate.open(Phase::Update);
        self.wait_for(Phase::Update, |rows| tell(Told::Updates(rows - rows_before)), self.run.duration);
        let ended = clock.now();
        let positions = self.gate.positions();
        let updates = positions.iter().sum::<u64>() - before;
        if self.run.verify && self.disk.is_none() {
            self.gate.open_for_reading(self.run.space.all(self.run.shards));
            self.wait_for(Phase::Read, |_| {}, None);
        }
        self.gate.open(Phase::End);
        let job = self.handle.wait()?;
        let first_update = self.gate.began().unwrap_or(ended);
        let Conductor { gate, disk, .. } = self;
        Ok(Conducted { job, gate, positions, updates, began, loaded, first_update, ended, rss_loaded_mb, disk })
    }

    /// Waits until all rows of a phase have come out, or the job has ended; closes the input after `at_most`.
    fn wait_for(&mut self, phase: Phase, mut tell: impl FnMut(u64), at_most: Option<Duration>) {
        let clock = Clock::system();
        let began = clock.now();
        let mut looked = began;
        while !self.gate.is_done(phase) && !self.handle.is_finished() {
            let now = clock.now();
            if at_most.is_some_and(|at_most| now.since(began) >= at_most) {
                self.gate.close();
            }
            if now.since(looked) >= DISK_EVERY {
                looked = now;
                tell(self.gate.rows());
                if let Some(disk) = self.disk.as_mut().filter(|_| phase == Phase::Update) {
                    disk.look();
                }
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }
}

impl Conducted {
    fn outcome(self, differences: Option<Differences>, checkpoints_verified: u64) -> StateOutcome {
        // The first one that began among the updates has the end of the load in it, and one that began behind them
        // has hardly any.
        let among = |figures: &&CheckpointFigures| figures.begun > self.first_update && figures.begun <= self.ended;
        let checkpoints = self.job.checkpoints.newest.iter().filter(among).skip(1).copied().collect();
        let mut disk = self.disk;
        if let Some(disk) = &mut disk {
            disk.look();
        }
        StateOutcome {
            job: self.job,
            updates: self.updates,
            seconds: self.ended.since(self.first_update).as_secs_f64(),
            load_s: self.loaded.since(self.began).as_secs_f64(),
            checkpoints,
            disk,
            rss_loaded_mb: self.rss_loaded_mb,
            differences,
            checkpoints_verified,
        }
    }
}
