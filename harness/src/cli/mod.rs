//! The command line: `harness VERB …`.
//!
//! Scripts rely on it. With `--json` the last line of stdout is one JSON object; progress and errors go to stderr. The exit
//! status is 0 for done and verified, 1 for a run that failed or a result that differs, 2 for usage.

mod cases;
mod chaos;
mod checkpoint;
mod figures;
mod generate;
mod limit;
mod nexmark;
mod pairs;
mod processes;
mod state;
pub mod values;
mod verify;
mod windows;
mod ysb;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::machine::allowed_cores;
use values::{CoreList, core_list, small_count};

/// Benchmarks, verification and reports of the Millstream stream processor.
#[derive(Parser, Debug)]
#[command(name = "harness", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "\
Durations are human (10s, 200ms, off), counts take k, M and G.
RUST_LOG=info shows what the engine says beside its warnings.
Exit status: 0 done and verified, 1 failed or different from what is expected, 2 usage.

Examples:
  harness ysb                            the Yahoo benchmark: 50M events on all cores, verified
  harness chaos ysb --kills 20           the same, killed twenty times
  harness nexmark --query q5             a Nexmark query, verified
  harness state --keys 10M               a running count for each of 10M keys, verified
  harness windows --kind session         sessions of a million keys, verified
  harness limit                          the Yahoo query by hand: what this machine can do
  harness limit --shape table --keys 10M a keyed count by hand
  harness checkpoint inspect DIR         what checkpoints hold, and whether they are sound
  harness cases FILE                     what a correct stream processor emits, case by case
  harness limit --help                   all of one verb's options")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Run the Yahoo streaming benchmark on the engine, and verify it
    Ysb(Box<ysb::YsbArgs>),
    /// Run a running count for each of many keys on the engine: state, checkpoints, restarts
    State(Box<state::StateArgs>),
    /// Run windows of a kind over many keys: what they cost, and how long a firing holds up the loop
    Windows(windows::WindowsArgs),
    /// Run Nexmark's queries on the engine, and verify them
    Nexmark(Box<nexmark::NexmarkArgs>),
    /// Write input to files
    Generate(generate::GenerateArgs),
    /// Recount a log and compare committed output with it
    Verify(verify::VerifyArgs),
    /// Kill a job again and again, and see that nothing is lost and nothing is there twice
    Chaos(chaos::ChaosArgs),
    /// Ask the engine's operators for what a file of cases says that they do
    Cases(cases::CasesArgs),
    /// Look into checkpoints and savepoints: list, prove, dump, convert
    Checkpoint(checkpoint::CheckpointArgs),
    /// Run a hand-written loop: what the machine can do when nothing but the query is done
    Limit(limit::LimitArgs),
}

/// What a verb came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Done, and verified where that was asked for.
    Good,
    /// The result differs from what it should be.
    Different,
}

/// The command line makes no sense, in a way that only shows once it is looked at as a whole.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let verdict = match &cli.verb {
        Verb::Ysb(args) => ysb::run(args),
        Verb::State(args) => state::run(args),
        Verb::Windows(args) => windows::run(args),
        Verb::Nexmark(args) => nexmark::run(args),
        Verb::Generate(args) => generate::run(args),
        Verb::Verify(args) => verify::run(args),
        Verb::Chaos(args) => chaos::run(args),
        Verb::Cases(args) => cases::run(args),
        Verb::Checkpoint(args) => checkpoint::run(args),
        Verb::Limit(args) => limit::run(args),
    };
    match verdict {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Different) => ExitCode::FAILURE,
        Err(error) if error.is::<UsageError>() => {
            Cli::command().error(clap::error::ErrorKind::ValueValidation, error).exit();
        }
        Err(error) => {
            // A terminal that has gone away is nobody to complain to.
            let _ = writeln!(std::io::stderr(), "error: {}", told_once(&error));
            ExitCode::FAILURE
        }
    }
}

/// How many shards, and where.
#[derive(Args, Clone, Debug)]
pub struct ShardArgs {
    /// How many shards; one per core unless given
    #[arg(long, value_name = "N", value_parser = small_count)]
    pub shards: Option<u32>,

    /// The cores to pin the shards to, in order, such as 0,1 or 0-3
    #[arg(long, value_name = "LIST", value_parser = core_list)]
    pub cores: Option<CoreList>,
}

impl ShardArgs {
    /// One core for each shard.
    ///
    /// # Errors
    /// When there are fewer cores than shards, or one is not the process's to use.
    pub fn one_core_each(&self) -> Result<Vec<usize>, UsageError> {
        let allowed = allowed_cores();
        let mut cores = self.cores.as_ref().map_or_else(|| allowed.clone(), |cores| cores.0.clone());
        if let Some(core) = cores.iter().find(|core| !allowed.contains(core)) {
            return Err(UsageError(format!(
                "core {core} is not among the cores this process may use, which are {allowed:?}: it does not exist, or \
                 taskset, a container or a cpuset forbids it"
            )));
        }
        let shards = self.shards.map_or(cores.len(), |shards| shards as usize);
        if shards > cores.len() {
            return Err(UsageError(format!(
                "{shards} shards need {shards} cores, but only {} can be had: a hand-written loop polls, so two on one core \
                 would measure the scheduler",
                cores.len()
            )));
        }
        cores.truncate(shards);
        Ok(cores)
    }
}

/// An error with its causes, but for those that it tells in its own words already.
fn told_once(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}
