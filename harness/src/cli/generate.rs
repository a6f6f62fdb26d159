//! `harness generate`

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::json;

use super::values::{positive_count, small_count};
use super::{UsageError, Verdict};
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

pub(super) fn run(args: &GenerateArgs) -> Result<Verdict> {
    let What::Ysb(args) = &args.what;
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
    let mut report = Report::new("log of the Yahoo benchmark");
    report.line("directory", args.out.display().to_string());
    report.line("events", format!("{} in {} partition(s)", count(args.events), args.partitions));
    report.print();
    if args.json {
        report::print_json(&json!({ "out": args.out, "events": args.events, "partitions": args.partitions }));
    }
    Ok(Verdict::Good)
}
