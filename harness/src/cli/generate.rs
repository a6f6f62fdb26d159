//! `harness generate`

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::json;

use super::values::{positive_count, small_count};
use super::{UsageError, Verdict};
use crate::nexmark;
use crate::report::{self, Report, count};
use crate::ysb::dataset;
use crate::ysb::generate::{GeneratorConfig, Pace, Population, START_MS};

#[derive(Args, Debug)]
pub(super) struct GenerateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// The Yahoo benchmark's events as lines of JSON, in a partitioned log
    Ysb(YsbLogArgs),
    /// Nexmark's events as lines of JSON, in a partitioned log
    Nexmark(NexmarkLogArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "\
An event is about 240 bytes, so 10M of them are 2.4 GB.

Example:
  harness generate ysb --out /tmp/ads --events 10M --partitions 2")]
struct YsbLogArgs {
    /// The log's directory, which must be missing or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// How many events
    #[arg(long, value_name = "N", default_value = "10M", value_parser = positive_count)]
    events: u64,

    /// How many partitions
    #[arg(long, value_name = "P", default_value = "2", value_parser = small_count)]
    partitions: u32,

    /// How many campaigns there are
    #[arg(long, value_name = "C", default_value = "100", value_parser = small_count)]
    campaigns: u32,

    /// How many ads each campaign has
    #[arg(long, value_name = "A", default_value = "10", value_parser = small_count)]
    ads_per_campaign: u32,

    /// How fast event time moves
    #[arg(long, value_name = "N", default_value = "1000", value_parser = positive_count)]
    events_per_ms: u64,

    /// The original's disorder: each event −49 to +50 ms, one in 100,000 up to 60 s late
    #[arg(long)]
    skew: bool,

    /// Which input of all possible ones
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// End with one line of JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
A line is {\"Person\":{..}}, {\"Auction\":{..}} or {\"Bid\":{..}}; event i is in partition i mod P. A line is about 290 bytes,
so 10M of them are 2.9 GB.

Example:
  harness generate nexmark --out /tmp/auctions --events 10M --partitions 2")]
struct NexmarkLogArgs {
    /// The log's directory, which must be missing or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// How many events
    #[arg(long, value_name = "N", default_value = "10M", value_parser = positive_count)]
    events: u64,

    /// How many partitions
    #[arg(long, value_name = "P", default_value = "2", value_parser = small_count)]
    partitions: u32,

    /// End with one line of JSON on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &GenerateArgs) -> Result<Verdict> {
    match &args.what {
        What::Ysb(args) => generate_ysb(args),
        What::Nexmark(args) => generate_nexmark(args),
    }
}

fn generate_nexmark(args: &NexmarkLogArgs) -> Result<Verdict> {
    let bar = report::progress("writing", args.events);
    let written = nexmark::dataset::generate(&args.out, args.events, args.partitions, &mut |events| {
        bar.set_position(events);
    });
    bar.finish_and_clear();
    written?;
    told("log of Nexmark's events", &args.out, args.events, args.partitions, args.json);
    Ok(Verdict::Good)
}

/// The report on a log that was written.
fn told(title: &str, out: &Path, events: u64, partitions: u32, json: bool) {
    let mut report = Report::new(title);
    report.line("directory", out.display().to_string());
    report.line("events", format!("{} in {partitions} partition(s)", count(events)));
    report.print();
    if json {
        report::print_json(&json!({ "out": out, "events": events, "partitions": partitions }));
    }
}

fn generate_ysb(args: &YsbLogArgs) -> Result<Verdict> {
    let population = Population { campaigns: args.campaigns, ads_per_campaign: args.ads_per_campaign, seed: args.seed };
    if args.campaigns.checked_mul(args.ads_per_campaign).is_none() {
        return Err(UsageError("campaigns × ads per campaign must stay below 4G".to_owned()).into());
    }
    let config = GeneratorConfig {
        population,
        events: Some(args.events),
        start_ms: START_MS,
        pace: Pace::per_ms(args.events_per_ms),
        skew: args.skew,
    };
    let bar = report::progress("writing", args.events);
    let written = dataset::generate(args.out.clone(), config, args.events_per_ms, args.partitions, &mut |events| {
        bar.set_position(events);
    });
    bar.finish_and_clear();
    written.map_err(|why| anyhow!(why))?;
    told("log of the Yahoo benchmark", &args.out, args.events, args.partitions, args.json);
    Ok(Verdict::Good)
}
