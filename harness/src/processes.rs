//! A job in several processes, as the harness runs it: for development it starts the others itself, as copies of this
//! program that join it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use millstream::{Clock, Cluster, JobHandle};

/// The processes of a run, and this one's part.
#[derive(Clone, Debug)]
pub struct ClusterRun {
    /// As the engine is told.
    pub cluster: Cluster,
    /// What this process does.
    pub part: Part,
    /// When event 0 is due, if the lead has said so.
    pub start_ms: Option<i64>,
}

/// What a process does in a run of several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// It leads, and starts the others.
    StartsOthers,
    /// It leads others that somebody else starts.
    Leads,
    /// It works for a lead, or may be elected to be it.
    Works,
}

/// What the lead settles, and every other process must be told.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// Where checkpoints are kept, if any are.
    pub checkpoint_dir: Option<PathBuf>,
    /// Where rows go, if that is a directory that the lead has made.
    pub out: Option<PathBuf>,
    /// When event 0 is due, with a rate.
    pub start_ms: Option<i64>,
}

/// How long a copy looks for its lead: it has been started by it, and is of no use without.
const COPY_WAITS: &str = "10s";
/// How long copies are waited for once their job is over.
const GONE_AFTER: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl ClusterRun {
    /// Starts the other processes, where that is this one's part.
    ///
    /// # Errors
    /// When the program cannot be started again.
    pub fn start_others(&self, handle: &JobHandle, shared: &Shared) -> Result<Option<Copies>, String> {
        let Some(lead) = handle.cluster_address().filter(|_| self.part == Part::StartsOthers) else { return Ok(None) };
        let program = std::env::current_exe().map_err(|error| format!("this program cannot find itself: {error}"))?;
        let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
        args.extend(["--join", lead, "--no-verify", "--gather-timeout", COPY_WAITS].map(OsString::from));
        if let Some(dir) = &shared.checkpoint_dir {
            args.extend(["--checkpoint-dir".into(), dir.into()]);
        }
        if let Some(dir) = &shared.out {
            args.extend(["--sink".into(), "file".into(), "--out".into(), dir.into()]);
        }
        if let Some(start_ms) = shared.start_ms {
            args.extend(["--start-ms".into(), start_ms.to_string().into()]);
        }
        let mut copies = Copies(Vec::new());
        for _ in 1..self.cluster.processes {
            let copy = Command::new(&program).args(&args).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
            copies.0.push(copy.map_err(|error| format!("{} cannot be started again: {error}", program.display()))?);
        }
        Ok(Some(copies))
    }
}

/// Processes that were started; they end with their job, and at the latest with this.
#[derive(Debug)]
pub struct Copies(Vec<Child>);

impl Drop for Copies {
    fn drop(&mut self) {
        let clock = Clock::system();
        let began = clock.now();
        for copy in &mut self.0 {
            while clock.now().since(began) < GONE_AFTER && matches!(copy.try_wait(), Ok(None)) {
                std::thread::park_timeout(LOOK_EVERY);
            }
            // Most have ended by now; either way it is gone after the wait.
            let _: (io::Result<()>, io::Result<ExitStatus>) = (copy.kill(), copy.wait());
        }
    }
}
