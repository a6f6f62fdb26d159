//! Chaos: a child process that runs a job is killed at random moments, started again, and in the end its committed
//! output, and what its checkpoints hold, must be the oracle's.
//!
//! ```text
//! (generate a log) ─▶ start child ─▶ wait for a random moment ─▶ SIGKILL ─▶ start again ─▶ … ─▶ let it finish ─▶ recount
//! ```
//!
//! The child reads a log or makes updates that follow from their number, writes files exactly once and checkpoints into a
//! directory that outlives it: everything a restart has is on the disk. Nothing in the child knows of this.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use hdrhistogram::Histogram;
use millstream::{Clock, Secret, time::Nanos};
use rustix::process::{Pid, Signal, kill_process};

use crate::keys::KeySpace;
use crate::nexmark::query::Query;
use crate::nexmark::verify as nexmark;
use crate::state::oracle::{self, Oracle};
use crate::ysb::dataset;
use crate::ysb::generate::GeneratorConfig;
use crate::ysb::oracle::Differences;
use crate::ysb::verify;

/// What to put the job through.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// How many times it is killed.
    pub kills: u32,
    /// Decides the moments, and the events.
    pub seed: u64,
    /// Shards of the job.
    pub shards: u32,
    /// Its processes; more than one are paused now and then too, the lead included.
    pub processes: u32,
    /// Give the child another number of shards at every start, one to four by the seed.
    pub rescale: bool,
    /// Time between its checkpoints.
    pub checkpoint_interval: Duration,
    /// Events or updates a second that the child takes: slow enough that it is still at work at the last kill.
    pub rate: u64,
    /// What the child runs.
    pub job: ChaosJob,
    /// Where log, output, checkpoints and the children's messages go; kept when something is wrong.
    pub dir: PathBuf,
}

/// The job in the child.
#[derive(Clone, Debug)]
pub enum ChaosJob {
    /// The Yahoo benchmark, from a log.
    Ysb {
        /// The events of the log.
        events: GeneratorConfig,
        /// How fast event time moves in the log.
        events_per_ms: u64,
        /// Fold before the exchange.
        combine: bool,
    },
    /// The keyed running count.
    State {
        /// The keys.
        space: KeySpace,
        /// Updates over all shards.
        updates: u64,
        /// Of each key, every so many counts one is written: less output, and still each lost or doubled update shows, in
        /// the counts that follow it and in what the checkpoints hold.
        every: u64,
        /// The directory of the files that the state lies in, if it does.
        backing: Option<PathBuf>,
    },
    /// A Nexmark query, one that has output as it goes.
    Nexmark {
        /// Which.
        query: Query,
        /// Over so many events.
        events: u64,
    },
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct ChaosOutcome {
    /// Times the child was killed while it ran.
    pub kills: u32,
    /// Times that one of several processes was paused, for longer than the others wait for it.
    pub pauses: u32,
    /// Times it was started again.
    pub restarts: u32,
    /// Times it was started with another number of shards than before.
    pub rescales: u32,
    /// The comparison with the oracle.
    pub differences: Differences,
    /// From the kill to the first row committed after it, ms.
    pub recovery_ms: Histogram<u64>,
}

/// The most shards that a child is given which is rescaled; the log has as many partitions.
const RESCALE_SHARDS_MAX: u32 = 4;
/// How often the parent looks at the child and its output.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// A child that has committed nothing for so long is not coming back.
const HUNG_AFTER: Duration = Duration::from_secs(60);

/// Runs it; `tell` hears of every kill.
///
/// # Errors
/// One paragraph: what could not be made, or what the child said before it failed.
pub fn run(chaos: &Chaos, tell: &mut dyn FnMut(&str)) -> Result<ChaosOutcome, String> {
    let clock = Clock::system();
    let rooms = Rooms::make(&chaos.dir)?;
    if let ChaosJob::Ysb { events, events_per_ms, .. } = chaos.job {
        tell("generating the log");
        let partitions = if chaos.rescale { RESCALE_SHARDS_MAX } else { chaos.shards.max(2) };
        dataset::generate(rooms.log.clone(), events, events_per_ms, partitions, &mut |_| {})?;
    }
    let mut moments = Moments(chaos.seed);
    let mut recovery_ms = Histogram::new_with_bounds(1, 600_000, 3).expect("the bounds are constants that fit");
    let (mut kills, mut pauses, mut restarts, mut rescales) = (0, 0, 0, 0);
    let mut killed_at: Option<Nanos> = None;
    let mut shards = chaos.shards;
    let mut family = Family::start(chaos, &rooms, shards)?;
    loop {
        let started = clock.now();
        let rows_before = rooms.committed_files()?;
        // Counted from the first sign of life, so that most kills meet a job at work; one in four from the start, to meet
        // it while it restores.
        let moment = moments.next(chaos.checkpoint_interval * 3);
        let at_start = moments.draw().is_multiple_of(4);
        let mut alive_at: Option<Nanos> = None;
        let ended = loop {
            if let Some(status) = family.ended()? {
                break Some(status);
            }
            let now = clock.now();
            if alive_at.is_none() && rooms.committed_files()? > rows_before {
                alive_at = Some(now);
                if let Some(killed_at) = killed_at.take() {
                    recovery_ms.saturating_record(now.since(killed_at).as_millis() as u64);
                }
            }
            let since = if at_start { Some(started) } else { alive_at };
            if kills < chaos.kills && since.is_some_and(|since| now.since(since) >= moment) {
                break None;
            }
            if alive_at.is_none() && now.since(started) >= HUNG_AFTER {
                return Err(format!("the child committed nothing for {HUNG_AFTER:?}; it said:\n{}", rooms.said()));
            }
            std::thread::park_timeout(LOOK_EVERY);
        };
        match ended {
            Some(status) if status.success() => break,
            Some(status) => return Err(format!("the child ended with {status}; it said:\n{}", rooms.said())),
            None if chaos.processes > 1 && moments.draw().is_multiple_of(PAUSED_ONE_IN) => {
                let process = family.any(moments.draw());
                killed_at = Some(clock.now());
                family.pause(process, PAUSE)?;
                pauses += 1;
                tell(&format!("pause {pauses}, of process {process}"));
            }
            None => {
                let process = family.any(moments.draw());
                killed_at = Some(clock.now());
                family.kill(process);
                kills += 1;
                restarts += 1;
                if chaos.rescale {
                    let before = shards;
                    shards = 1 + (moments.draw() % u64::from(RESCALE_SHARDS_MAX)) as u32;
                    rescales += u32::from(shards != before);
                }
                tell(&format!("kill {kills} of {}", chaos.kills));
                family.start_again(process, chaos, &rooms, shards)?;
            }
        }
    }
    drop(family);
    tell("recounting");
    let differences = rooms.compare(chaos)?;
    Ok(ChaosOutcome { kills, pauses, restarts, rescales, differences, recovery_ms })
}

/// Of several processes, one in so many times one is paused instead of killed.
const PAUSED_ONE_IN: u64 = 4;
/// For so long: the others have given it up by then.
const PAUSE: Duration = Duration::from_secs(5);
/// How long workers are waited for once their lead has ended.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// The processes of the job; which of them leads is their own business.
struct Family {
    children: Vec<Child>,
}

impl Family {
    fn start(chaos: &Chaos, rooms: &Rooms, shards: u32) -> Result<Family, String> {
        let children = (0..chaos.processes).map(|process| rooms.start(chaos, shards, process));
        Ok(Family { children: children.collect::<Result<_, _>>()? })
    }

    /// How the job has ended, if it has: as the first process that has.
    fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        for child in &mut self.children {
            let ended = child.try_wait().map_err(|error| format!("a child cannot be waited for: {error}"))?;
            if ended.is_some() {
                return Ok(ended);
            }
        }
        Ok(None)
    }

    /// A process by a random number.
    fn any(&self, draw: u64) -> usize {
        (draw % self.children.len() as u64) as usize
    }

    fn kill(&mut self, process: usize) {
        stop(&mut self.children[process]);
    }

    fn start_again(&mut self, process: usize, chaos: &Chaos, rooms: &Rooms, shards: u32) -> Result<(), String> {
        self.children[process] = rooms.start(chaos, shards, process as u32)?;
        Ok(())
    }

    /// SIGSTOP, and SIGCONT after a while.
    fn pause(&self, process: usize, pause: Duration) -> Result<(), String> {
        let pid = Pid::from_child(&self.children[process]);
        let signal = |signal| kill_process(pid, signal).map_err(|error| format!("a child cannot be paused: {error}"));
        signal(Signal::STOP)?;
        std::thread::park_timeout(pause);
        signal(Signal::CONT)
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        let clock = Clock::system();
        let began = clock.now();
        for child in &mut self.children {
            while clock.now().since(began) < GONE_AFTER && matches!(child.try_wait(), Ok(None)) {
                std::thread::park_timeout(LOOK_EVERY);
            }
            stop(child);
        }
    }
}

/// SIGKILL, and the end of the process.
fn stop(child: &mut Child) {
    // It may have ended by itself a moment ago; either way it is gone after the wait.
    let _: (io::Result<()>, io::Result<ExitStatus>) = (child.kill(), child.wait());
}

/// The directories of a run.
struct Rooms {
    log: PathBuf,
    out: PathBuf,
    checkpoints: PathBuf,
    said: PathBuf,
    /// What several processes know each other by.
    secret: PathBuf,
}

impl Rooms {
    fn make(dir: &Path) -> Result<Rooms, String> {
        let rooms = Rooms {
            log: dir.join("log"),
            out: dir.join("out"),
            checkpoints: dir.join("checkpoints"),
            said: dir.join("child.log"),
            secret: dir.join("secret"),
        };
        for room in [dir, &rooms.out, &rooms.checkpoints] {
            fs::create_dir_all(room).map_err(|error| format!("{} cannot be made: {error}", room.display()))?;
        }
        if !rooms.secret.exists() {
            let secret = Secret::random().and_then(|secret| secret.to_file(&rooms.secret));
            secret.map_err(|error| error.to_string())?;
        }
        Ok(rooms)
    }

    /// Compares what the job left with what a run without kills would have.
    fn compare(&self, chaos: &Chaos) -> Result<Differences, String> {
        let (space, updates, every) = match &chaos.job {
            ChaosJob::Ysb { .. } => return verify::compare(&self.log, &self.out),
            ChaosJob::Nexmark { query, events } => return nexmark::compare(*query, *events, &self.out),
            ChaosJob::State { space, updates, every, .. } => (space, updates, every),
        };
        let checked = oracle::check(&self.checkpoints, space, chaos.shards, 8)?;
        let mut differences = checked.differences;
        let shares = (0..chaos.shards).map(|shard| space.share(shard, chaos.shards));
        let ends: Vec<u64> = shares.map(|share| share.keys + share.part_of(*updates)).collect();
        if checked.positions != ends {
            differences
                .note(format!("the last checkpoint is at {:?}, and the input ends at {ends:?}", checked.positions));
        }
        let mut counted = Oracle::new(space, chaos.shards);
        counted.count_to(&ends);
        let (keys, all) = (differences.rows, differences.views);
        oracle::add(&mut differences, oracle::compare_files(&self.out, *every, counted.counts())?);
        (differences.rows, differences.views) = (keys, all);
        Ok(differences)
    }

    /// Starts one of the job's processes as a user would from a shell.
    fn start(&self, chaos: &Chaos, shards: u32, process: u32) -> Result<Child, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program cannot find itself: {error}"))?;
        let said = fs::OpenOptions::new().create(true).append(true).open(&self.said);
        let said = said.map_err(|error| format!("{} cannot be written: {error}", self.said.display()))?;
        let mut command = Command::new(program);
        match &chaos.job {
            ChaosJob::Ysb { combine, .. } => {
                command.args(["ysb", "--encoding", "json", "--source", "log", "--path"]).arg(&self.log);
                command.args(["--sink", "file", "--combine", if *combine { "on" } else { "off" }]);
                command.arg("--out");
            }
            ChaosJob::State { space, updates, every, backing } => {
                let KeySpace { keys, distribution, seed } = space;
                command.args(["state", "--keys", &keys.to_string(), "--distribution", &distribution.to_string()]);
                command.args(["--seed", &seed.to_string(), "--updates", &updates.to_string()]);
                command.args(["--every", &every.to_string()]);
                if let Some(dir) = backing {
                    command.args(["--backing", "file", "--path"]).arg(dir);
                }
                command.arg("--out");
            }
            ChaosJob::Nexmark { query, events } => {
                command.args(["nexmark", "--query", query.name(), "--events", &events.to_string(), "--parts"]);
            }
        }
        command.arg(&self.out);
        if chaos.processes > 1 {
            command.args(["--processes", &chaos.processes.to_string(), "--process", &process.to_string(), "--elect"]);
            command.arg("--cluster-secret-file").arg(&self.secret);
        }
        command
            .arg("--checkpoint-dir")
            .arg(&self.checkpoints)
            .args(["--checkpoint-interval", &format!("{}ms", chaos.checkpoint_interval.as_millis())])
            .args(["--shards", &shards.to_string()])
            .args(["--rate", &chaos.rate.to_string()])
            .args(["--no-verify", "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .map_err(|error| format!("the child cannot be started: {error}"))
    }

    /// Visible files of the output: it only grows.
    fn committed_files(&self) -> Result<usize, String> {
        Ok(nexmark::committed_files(&self.out)?.len())
    }

    /// The end of what the children said.
    fn said(&self) -> String {
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Random moments, by the seed.
struct Moments(u64);

impl Moments {
    fn draw(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn next(&mut self, at_most: Duration) -> Duration {
        Duration::from_nanos(self.draw() % (at_most.as_nanos() as u64).max(1))
    }
}
