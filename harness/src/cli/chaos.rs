//! `harness chaos`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::values::{duration, on_off, positive_count, small_count};
use super::{UsageError, Verdict};
use crate::chaos::{self, Chaos};
use crate::report::{self, Report, decimals};
use crate::ysb::generate::{GeneratorConfig, Pace, Population, START_MS};

#[derive(Args, Debug)]
#[command(after_help = "\
A child process runs the benchmark from a log to files, with checkpoints. It is killed with SIGKILL at random moments
and started again; in the end the committed files must be what a run without kills would have written.

Examples:
  harness chaos ysb --kills 20 --seed 7
  harness chaos ysb --kills 50 --checkpoint-interval 100ms --json
  harness chaos ysb --kills 20 --rescale")]
pub(super) struct ChaosArgs {
    /// What runs in the child
    #[arg(value_enum)]
    job: ChaosJob,

    /// How many times it is killed
    #[arg(long, value_name = "N", default_value = "20", value_parser = small_count)]
    kills: u32,

    /// Decides the moments and the events
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,

    /// Processes of the job
    #[arg(long, value_name = "P", default_value = "1", value_parser = small_count)]
    processes: u32,

    /// How many shards
    #[arg(long, value_name = "N", default_value = "2", value_parser = small_count)]
    shards: u32,

    /// Give it another number of shards at every start, one to four
    #[arg(long)]
    rescale: bool,

    /// Where events come from
    #[arg(long, value_enum, default_value_t = ChaosSource::Log)]
    source: ChaosSource,

    /// Time between checkpoints
    #[arg(long, value_name = "D", default_value = "200ms", value_parser = duration)]
    checkpoint_interval: Duration,

    /// Events a second that the child takes
    #[arg(long, value_name = "R", default_value = "200k", value_parser = positive_count)]
    rate: u64,

    /// How many campaigns there are
    #[arg(long, value_name = "C", default_value = "100", value_parser = small_count)]
    campaigns: u32,

    /// Fold on the sending shard before the exchange: on or off
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
enum ChaosJob {
    /// The Yahoo query
    Ysb,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ChaosSource {
    /// A log of files
    Log,
}

/// Events of event time per ms: with the default rate a window of ten seconds ends every 100 ms of wall time.
const EVENTS_PER_MS: u64 = 2;
/// Time on the job's clock that a kill takes from it, on average, with room to spare.
const SECONDS_PER_KILL: f64 = 0.6;

pub(super) fn run(args: &ChaosArgs) -> Result<Verdict> {
    let ChaosJob::Ysb = args.job;
    let ChaosSource::Log = args.source;
    if args.processes != 1 {
        return Err(UsageError("this build runs all shards in one process: leave --processes out".to_owned()).into());
    }
    let temporary = match &args.dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("millstream-chaos-").tempdir()?),
    };
    let dir = temporary.as_ref().map_or_else(|| args.dir.clone(), |temporary| Some(temporary.path().to_path_buf()));
    let dir = dir.ok_or_else(|| anyhow!("no directory"))?;
    let interval_s = args.checkpoint_interval.as_secs_f64();
    let seconds = f64::from(args.kills) * (SECONDS_PER_KILL + interval_s) + 2.0;
    let chaos = Chaos {
        kills: args.kills,
        seed: args.seed,
        shards: args.shards,
        rescale: args.rescale,
        checkpoint_interval: args.checkpoint_interval,
        rate: args.rate,
        events: GeneratorConfig {
            population: Population { campaigns: args.campaigns, ads_per_campaign: 10, seed: args.seed },
            events: Some((args.rate as f64 * seconds) as u64),
            start_ms: START_MS,
            pace: Pace::per_ms(EVENTS_PER_MS),
            skew: false,
        },
        events_per_ms: EVENTS_PER_MS,
        combine: args.combine,
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
    let differences = &outcome.differences;
    let enough = outcome.kills == args.kills;
    let mut report = Report::new(format!("chaos ysb: {} kills, seed {}", outcome.kills, args.seed));
    report.line("restarts", outcome.restarts.to_string());
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
    report.line("result", differences.to_string());
    if !enough {
        report.line(
            "too short",
            format!("the job was done after {} of {} kills: lower --rate", outcome.kills, args.kills),
        );
    }
    report.print();
    if args.json {
        report::print_json(&json!({
            "job": "ysb",
            "seed": args.seed,
            "kills": outcome.kills,
            "restarts": outcome.restarts,
            "rescales": outcome.rescales,
            "lost": differences.lost,
            "duplicated": differences.duplicated,
            "differences": differences.differences,
            "windows": differences.rows,
            "views": differences.views,
            "recovery_ms": { "p50": p50, "max": max },
        }));
    }
    if differences.is_empty() && enough {
        return Ok(Verdict::Good);
    }
    keep(temporary);
    Ok(Verdict::Different)
}
