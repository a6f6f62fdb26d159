//! One run of a query: settings in, a verified outcome out.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream::{Job, JobError, JobReport};

use super::output::Output;
use super::query::Query;
use super::row::LineSum;
use super::source::{NexmarkSource, warm_up};
use super::{answer, queries};
use crate::ysb::pace::Paced;

/// What to run.
#[derive(Clone, Debug)]
pub struct NexmarkRun {
    /// Which query.
    pub query: Query,
    /// How many events.
    pub events: u64,
    /// Not more than so many a second.
    pub rate: Option<u64>,
    /// Shards.
    pub shards: u32,
    /// Their cores; empty: as the engine chooses.
    pub cores: Vec<usize>,
    /// Where rows go, besides being summed up.
    pub lines: Lines,
    /// Time between checkpoints; none: no checkpoints.
    pub checkpoint_interval: Option<Duration>,
    /// Where checkpoints are kept; none: a temporary directory.
    pub checkpoint_dir: Option<PathBuf>,
    /// Fold before the exchange.
    pub combine: bool,
    /// Compare with the slow answer.
    pub verify: bool,
}

/// Where rows go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lines {
    /// They are summed up and dropped.
    Dropped,
    /// Into this file, when all is done.
    File(PathBuf),
    /// Into files in this directory, as they are committed: they survive the process.
    Parts(PathBuf),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct NexmarkOutcome {
    /// What the engine reports.
    pub job: JobReport,
    /// The committed rows.
    pub rows: LineSum,
    /// What they should be, where that was computed.
    pub answer: Option<LineSum>,
}

impl NexmarkOutcome {
    /// Whether the rows are what they should be, where that is known.
    #[must_use]
    pub fn verified(&self) -> Option<bool> {
        self.answer.map(|answer| answer == self.rows)
    }
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine's answer.
    #[error(transparent)]
    Job(#[from] JobError),
    /// A file or directory of the harness's.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// What is told while a run goes on.
#[derive(Clone, Copy, Debug)]
pub enum Told {
    /// So many events were taken in.
    Events(u64),
    /// The result is being computed again.
    Verifying,
}

/// How often the run looks how far the job is.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs a query; `tell` hears how far it is.
///
/// # Errors
/// When it cannot be started, or fails.
pub fn run(run: &NexmarkRun, tell: &mut dyn FnMut(Told)) -> Result<NexmarkOutcome, RunError> {
    warm_up();
    let out = match &run.lines {
        Lines::File(path) => Some(OneFile::begin(path)?),
        Lines::Dropped | Lines::Parts(_) => None,
    };
    let dropped;
    let output = match (&run.lines, &out) {
        (_, Some(out)) => Output::files(out.parts.path().to_path_buf()),
        (Lines::Parts(dir), None) => Output::files(dir.clone()),
        // To write files is what this query is about.
        (_, None) if run.query == Query::Q10 => {
            let made = tempfile::Builder::new().prefix("millstream-nexmark-").tempdir();
            dropped = made.map_err(doing("no temporary directory for files can be made"))?;
            Output::files(dropped.path().to_path_buf())
        }
        (_, None) => Output::sums(),
    };
    let temporary;
    let checkpoint_dir = match (&run.checkpoint_dir, run.checkpoint_interval) {
        (Some(dir), _) => Some(dir.clone()),
        (None, None) => None,
        (None, Some(_)) => {
            let made = tempfile::Builder::new().prefix("millstream-nexmark-").tempdir();
            temporary = made.map_err(doing("no temporary directory for checkpoints can be made"))?;
            Some(temporary.path().to_path_buf())
        }
    };
    let (query, events, rate, sink) = (run.query, run.events, run.rate.unwrap_or(u64::MAX), output.clone());
    let job = Job::new(query.name(), move |flow| {
        queries::flow(query, flow, Paced::new(NexmarkSource::new(events), rate), sink.clone());
    });
    let job = job.shards(run.shards).cores(run.cores.clone()).combine(run.combine).configure(|config| {
        config.checkpoint_dir = checkpoint_dir;
        config.checkpoint_interval = run.checkpoint_interval;
    });
    let handle = job.start()?;
    while !handle.is_finished() {
        tell(Told::Events(handle.events_in()));
        std::thread::park_timeout(LOOK_EVERY);
    }
    let job = handle.wait()?;
    if let Some(out) = out {
        out.finish()?;
    }
    let answer = if run.verify && !job.stopped {
        tell(Told::Verifying);
        answer::sum(query, events)
    } else {
        None
    };
    Ok(NexmarkOutcome { job, rows: output.committed(), answer })
}

/// One file of all rows: the parts that shards commit, put together in the end.
struct OneFile {
    path: PathBuf,
    file: File,
    parts: tempfile::TempDir,
}

impl OneFile {
    /// Makes the file, so that one that cannot be made is found out first.
    fn begin(path: &Path) -> Result<OneFile, RunError> {
        let file = File::create(path).map_err(doing(format!("{} cannot be made", path.display())))?;
        let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parts = tempfile::Builder::new().prefix(".nexmark-").tempdir_in(beside);
        let parts = parts.map_err(doing(format!("no directory can be made beside {}", path.display())))?;
        Ok(OneFile { path: path.to_path_buf(), file, parts })
    }

    fn finish(mut self) -> Result<(), RunError> {
        let copied = copy_parts(self.parts.path(), &mut self.file);
        copied.map_err(doing(format!("{} cannot be written", self.path.display())))
    }
}

/// Copies the files of a directory and of those in it.
fn copy_parts(dir: &Path, into: &mut File) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            copy_parts(&path, into)?;
        } else {
            io::copy(&mut File::open(&path)?, into)?;
        }
    }
    Ok(())
}

/// Says what was being done, to whom it failed.
fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> RunError {
    let what = what.into();
    move |source| RunError::Io { what, source }
}
