//! `harness chaos`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};
use millstream::StateBacking;
use serde_json::{Value, json};

use super::state::{BackingArgs, compared};
use super::values::{duration, on_off, positive_count, small_count};
use super::{UsageError, Verdict};
use crate::chaos::{self, Chaos, ChaosJob, ChaosOutcome};
use crate::keys::{Distribution, KeySpace};
use crate::nexmark::query::Query;
use crate::report::{self, Report, decimals};
use crate::ysb::generate::{GeneratorConfig, Pace, Population, START_MS};
use crate::ysb::oracle::Differences;

#[derive(Args, Debug)]
#[command(after_help = "\
A child process runs a job into files, with checkpoints. It is killed with SIGKILL at random moments and started again;
in the end the committed files must be what a run without kills would have written.

Jobs:
  ysb    the Yahoo benchmark, read from a log
  state  the keyed running count; some of each key's counts are written, and besides the files every checkpoint that is
         left is restored and compared, key by key
  nexmark  a Nexmark query, one that has output as it goes

Examples:
  harness chaos ysb --kills 20 --seed 7
  harness chaos ysb --kills 50 --checkpoint-interval 100ms --json
  harness chaos state --kills 20 --keys 100k --shards 2
  harness chaos ysb --kills 20 --rescale
  harness chaos nexmark --query q8 --kills 20")]
pub(super) struct ChaosArgs {
    /// What runs in the child
    #[arg(value_enum)]
    job: JobName,

    /// How many times it is killed
    #[arg(long, value_name = "N", default_value = "20", value_parser = small_count)]
    kills: u32,

    /// Decides the moments and the events
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,

    /// Processes of the job
    #[arg(long, value_name = "P", default_value = "1", value_parser = small_count)]
    processes: u32,

    /// How many shards [default: 2, or one a process]
    #[arg(long, value_name = "N", value_parser = small_count)]
    shards: Option<u32>,

    /// Give it another number of shards at every start, one to four
    #[arg(long)]
    rescale: bool,

    /// Where the benchmark's events come from
    #[arg(long, value_enum, default_value_t = ChaosSource::Log)]
    source: ChaosSource,

    /// Time between checkpoints
    #[arg(long, value_name = "D", default_value = "200ms", value_parser = duration)]
    checkpoint_interval: Duration,

    /// Events or updates a second that the child takes
    #[arg(long, value_name = "R", default_value = "200k", value_parser = positive_count)]
    rate: u64,

    /// With state: how many keys there are
    #[arg(long, value_name = "N", default_value = "100k", value_parser = small_count)]
    keys: u32,

    /// With state: how often each key comes: uniform, sequential or zipf:S
    #[arg(long, default_value = "uniform")]
    distribution: Distribution,

    #[command(flatten)]
    backing: BackingArgs,

    /// With nexmark: which query
    #[arg(long, value_name = "Q", default_value = "q5")]
    query: Query,

    /// With ysb: how many campaigns there are
    #[arg(long, value_name = "C", default_value = "100", value_parser = small_count)]
    campaigns: u32,

    /// With ysb: fold on the sending shard before the exchange: on or off
    #[arg(long, default_value = "on", value_parser = on_off, action = clap::ArgAction::Set)]
    combine: bool,

    /// Where log, output and checkpoints go, and stay [default: a temporary directory, kept when something differs]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// End with one line of JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum JobName {
    /// The Yahoo query
    Ysb,
    /// The keyed running count
    State,
    /// A Nexmark query
    Nexmark,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ChaosSource {
    /// A log of files
    Log,
}

/// Events of event time per ms: with the default rate a window of ten seconds ends every 100 ms of wall time.
const EVENTS_PER_MS: u64 = 2;
/// Of a key's counts, one in so many is written.
const EVERY: u64 = 4;
/// Time on the job's clock that a kill takes from it, on average, with room to spare.
const SECONDS_PER_KILL: f64 = 0.6;
/// The same of a Nexmark query, the first row of which after a kill may have to wait for the end of a window.
const NEXMARK_SECONDS_PER_KILL: f64 = 1.2;

pub(super) fn run(args: &ChaosArgs) -> Result<Verdict> {
    let ChaosSource::Log = args.source;
    let backing = match args.backing.backing()? {
        StateBacking::File(dir) => Some(dir),
        StateBacking::Anonymous => None,
    };
    if backing.is_some() && args.job != JobName::State {
        return Err(UsageError("--backing goes with state".to_owned()).into());
    }
    if args.rescale && args.job == JobName::State {
        let why = "--rescale goes with ysb: each shard of state draws its own keys, so another number has other input";
        return Err(UsageError(why.to_owned()).into());
    }
    if args.job == JobName::Nexmark && !args.query.has_output_as_it_goes() {
        let can = Query::ALL.iter().filter(|query| query.has_output_as_it_goes()).map(|query| query.name());
        let can = can.collect::<Vec<_>>().join(", ");
        let why = format!("nobody would see {} get on: its rows come in the end. Take one of {can}", args.query);
        return Err(UsageError(why).into());
    }
    if args.processes > 1 && args.job != JobName::Ysb {
        let why = "--processes goes with ysb: the other jobs run in one process";
        return Err(UsageError(why.to_owned()).into());
    }
    if args.processes > 1 && args.rescale {
        return Err(UsageError("--rescale starts everything anew: leave --processes out".to_owned()).into());
    }
    let shards = args.shards.unwrap_or(args.processes.max(2));
    if args.processes > shards {
        let why = format!("{} processes need as many shards at least: say --shards {0}", args.processes);
        return Err(UsageError(why).into());
    }
    let temporary = match &args.dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("millstream-chaos-").tempdir()?),
    };
    let dir = temporary.as_ref().map_or_else(|| args.dir.clone(), |temporary| Some(temporary.path().to_path_buf()));
    let dir = dir.ok_or_else(|| anyhow!("no directory"))?;
    let interval_s = args.checkpoint_interval.as_secs_f64();
    let several = args.processes > 1;
    let per_kill = if args.job == JobName::Nexmark || several { NEXMARK_SECONDS_PER_KILL } else { SECONDS_PER_KILL };
    let seconds = f64::from(args.kills) * (per_kill + interval_s) + 2.0;
    let chaos = Chaos {
        kills: args.kills,
        seed: args.seed,
        shards,
        processes: args.processes,
        rescale: args.rescale,
        checkpoint_interval: args.checkpoint_interval,
        rate: args.rate,
        job: args.job((args.rate as f64 * seconds) as u64, backing),
        dir: dir.clone(),
    };
    let bar = report::spinner("chaos");
    let outcome = chaos::run(&chaos, &mut |told| bar.set_message(told.to_owned()));
    bar.finish_and_clear();
    let keep = |temporary: Option<tempfile::TempDir>| {
        if let Some(temporary) = temporary {
            let _ = temporary.keep();
        }
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(why) => {
            keep(temporary);
            return Err(anyhow!("{why}\nEverything is left in {}", dir.display()));
        }
    };
    let enough = outcome.kills == args.kills;
    readable(args, &outcome, enough).print();
    if args.json {
        report::print_json(&as_json(args, &outcome));
    }
    if outcome.differences.is_empty() && enough {
        return Ok(Verdict::Good);
    }
    keep(temporary);
    Ok(Verdict::Different)
}

impl ChaosArgs {
    /// The child's job, with so many events.
    fn job(&self, events: u64, backing: Option<PathBuf>) -> ChaosJob {
        match self.job {
            JobName::Ysb => ChaosJob::Ysb {
                events: GeneratorConfig {
                    population: Population { campaigns: self.campaigns, ads_per_campaign: 10, seed: self.seed },
                    events: Some(events),
                    start_ms: START_MS,
                    pace: Pace::per_ms(EVENTS_PER_MS),
                    skew: false,
                },
                events_per_ms: EVENTS_PER_MS,
                combine: self.combine,
            },
            JobName::State => ChaosJob::State {
                space: KeySpace { keys: u64::from(self.keys), distribution: self.distribution, seed: self.seed },
                updates: events,
                every: EVERY,
                backing,
            },
            JobName::Nexmark => ChaosJob::Nexmark { query: self.query, events },
        }
    }

    fn name(&self) -> &'static str {
        match self.job {
            JobName::Ysb => "ysb",
            JobName::State => "state",
            JobName::Nexmark => "nexmark",
        }
    }
}

fn readable(args: &ChaosArgs, outcome: &ChaosOutcome, enough: bool) -> Report {
    let differences = &outcome.differences;
    let mut report = Report::new(format!("chaos {}: {} kills, seed {}", args.name(), outcome.kills, args.seed));
    report.line("restarts", outcome.restarts.to_string());
    if args.processes > 1 {
        report.line("processes", format!("{}, paused {} times besides", args.processes, outcome.pauses));
    }
    if args.rescale {
        report.line("rescales", format!("{} of them with another number of shards", outcome.rescales));
    }
    report.line("lost", differences.lost.to_string());
    report.line("duplicated", differences.duplicated.to_string());
    let recovery = &outcome.recovery_ms;
    let (p50, max) = (recovery.value_at_quantile(0.5), recovery.max());
    report.line(
        "recovery",
        format!("p50 {} · max {} ms from a kill to the first row after it", decimals(p50 as f64, 0), max),
    );
    report.line(
        "result",
        match args.job {
            JobName::Ysb => differences.to_string(),
            JobName::State => compared(differences),
            JobName::Nexmark => nexmark_compared(args.query, differences),
        },
    );
    if !enough {
        report.line(
            "too short",
            format!("the job was done after {} of {} kills: lower --rate", outcome.kills, args.kills),
        );
    }
    report
}

/// What came of a comparison, in a query's words.
fn nexmark_compared(query: Query, differences: &Differences) -> String {
    let Differences { rows, views, differences: different, first, .. } = differences;
    if differences.is_empty() {
        return format!("verified: {rows} rows of {query} over {views} events, 0 differences");
    }
    format!("{different} of {rows} rows of {query} differ:\n{}", first.join("\n"))
}

fn as_json(args: &ChaosArgs, outcome: &ChaosOutcome) -> Value {
    let ChaosOutcome { differences, recovery_ms, .. } = outcome;
    let mut json = json!({
        "job": args.name(),
        "seed": args.seed,
        "processes": args.processes,
        "kills": outcome.kills,
        "pauses": outcome.pauses,
        "restarts": outcome.restarts,
        "rescales": outcome.rescales,
        "lost": differences.lost,
        "duplicated": differences.duplicated,
        "differences": differences.differences,
        "recovery_ms": { "p50": recovery_ms.value_at_quantile(0.5), "max": recovery_ms.max() },
    });
    let counted = match args.job {
        JobName::Ysb => json!({ "windows": differences.rows, "views": differences.views }),
        JobName::State => json!({ "keys": differences.rows, "updates": differences.views }),
        JobName::Nexmark => {
            json!({ "query": args.query.name(), "rows": differences.rows, "events": differences.views })
        }
    };
    report::merge(&mut json, counted);
    json
}
