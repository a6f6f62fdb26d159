//! `harness limit`

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use millstream::{OnError, StateBacking};
use serde_json::json;

use super::values::{DurationOrOff, duration_or_off, positive_count, small_count};
use super::{ShardArgs, UsageError, Verdict};
use crate::keys::{Distribution, KeySpace};
use crate::limit::{Encoding, Exchange, LimitOutcome, QueryLimit, STAGES, Shape, TableLimit, run_query, run_table};
use crate::machine::Machine;
use crate::report::{self, Report, count, decimals, rate};
use crate::state::run::StateRun;
use crate::ysb::generate::{GeneratorConfig, Pace, Population, START_MS};
use crate::ysb::oracle::{Differences, Oracle};
use crate::ysb::run::{SinkKind, YsbRun};

#[derive(Args, Debug)]
#[command(after_help = "\
Shapes:
  fused  the Yahoo query, each shard for itself: nothing crosses cores
  spsc   the same with a full exchange: each row goes to the shard that owns its campaign, through rings between cores
  tcp    as spsc, through TCP connections on the loopback: what processes on one machine could reach
  table  a running count for each key of a large flat hash table, no window

The loops know no engine, keep no state that survives and are the best we can write, so that an engine's ratio to
them means something. Making the events is inside the figure. Every run is counted again and compared.

Examples:
  harness limit                                          the query on all cores
  harness limit --shape spsc --campaigns 1M --events 200M
  harness limit --encoding json --shards 1 --stages      where the time goes
  harness limit --shape spsc --compare                   the engine's ratio to it, in alternating pairs
  harness limit --shape table --keys 50M --distribution zipf:1.2 --json
  harness limit --shape table --keys 50M --shards 1 --compare")]
pub(super) struct LimitArgs {
    /// The loop's form
    #[arg(long, value_enum, default_value_t = Shape::Fused)]
    shape: Shape,

    #[command(flatten)]
    shards: ShardArgs,

    /// How events are written
    #[arg(long, value_enum, default_value_t = Encoding::Long)]
    encoding: Encoding,

    /// How many campaigns there are
    #[arg(long, value_name = "C", default_value = "100", value_parser = small_count)]
    campaigns: u32,

    /// How many ads each campaign has
    #[arg(long, value_name = "A", default_value = "10", value_parser = small_count)]
    ads_per_campaign: u32,

    /// How many events to make, over all shards [default: 100M; 400M for long events with --compare, so that the engine
    /// takes its checkpoints]
    #[arg(long, value_name = "N", value_parser = positive_count)]
    events: Option<u64>,

    /// How fast event time moves: a window of 10 s is 10,000 times as many events, over all shards
    #[arg(long, value_name = "N", default_value = "1000", value_parser = positive_count)]
    events_per_ms: u64,

    /// With --shape table: how many keys there are, over all shards
    #[arg(long, value_name = "N", default_value = "10M", value_parser = small_count)]
    keys: u32,

    /// With --shape table: how many updates to make, over all shards
    #[arg(long, value_name = "N", default_value = "100M", value_parser = positive_count)]
    updates: u64,

    /// With --shape table: how often each key comes: uniform, sequential or zipf:S
    #[arg(long, default_value = "uniform")]
    distribution: Distribution,

    /// Which input of all possible ones
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Also take the time of each stage, which slows the loop by 1 to 2 %
    #[arg(long)]
    stages: bool,

    /// Alternate the loop with the engine's run of the same shape and print the ratio
    #[arg(long)]
    compare: bool,

    /// With --compare: how many pairs are counted, after one that is not
    #[arg(long, value_name = "N", default_value = "5", value_parser = small_count)]
    pairs: u32,

    /// With --compare: the engine's time between checkpoints, or off [default: 1s; off with --shape table, where a
    /// checkpoint is a good part of what happens]
    #[arg(long, value_name = "D", value_parser = duration_or_off)]
    checkpoint_interval: Option<DurationOrOff>,

    /// End with one line of JSON on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &LimitArgs) -> Result<Verdict> {
    let cores = args.shards.one_core_each()?;
    if args.compare {
        return compare(args, &cores);
    }
    let shards = cores.len();
    let progress = report::spinner("running the hand-written loop, then counting again");
    let outcome = match args.shape {
        Shape::Fused | Shape::Spsc | Shape::Tcp => run_query(&args.query(args.seed, cores)?)?,
        Shape::Table => run_table(&args.table(args.seed, cores))?,
    };
    progress.finish_and_clear();
    readable(args, shards, &outcome).print();
    if args.json {
        report::print_json(&as_json(args, shards, &outcome));
    }
    Ok(if outcome.differences.is_empty() { Verdict::Good } else { Verdict::Different })
}

impl LimitArgs {
    fn table(&self, seed: u64, cores: Vec<usize>) -> TableLimit {
        let space = KeySpace { keys: u64::from(self.keys), distribution: self.distribution, seed };
        TableLimit { space, updates: self.updates, cores }
    }

    fn checkpoint_interval(&self) -> Option<Duration> {
        match (self.checkpoint_interval, self.shape) {
            (Some(interval), _) => interval.duration(),
            (None, Shape::Table) => None,
            (None, _) => Some(Duration::from_secs(1)),
        }
    }

    /// What is counted, for people.
    fn described(&self, shards: usize) -> String {
        if self.shape == Shape::Table {
            let exchange = if shards > 1 { ", full exchange for the engine, none by hand" } else { "" };
            return format!(
                "{} keys ({}), {shards} shard(s){exchange}",
                count(u64::from(self.keys)),
                self.distribution
            );
        }
        let campaigns = count(u64::from(self.campaigns));
        let encoding = format!("{:?}", self.encoding).to_lowercase();
        let how = match self.shape {
            Shape::Spsc => "full exchange",
            Shape::Tcp => "full exchange, a process for each shard of the engine's",
            Shape::Fused | Shape::Table => "folded before the exchange",
        };
        format!("{campaigns} campaigns, {encoding}, {shards} shard(s), {how}")
    }

    fn query(&self, seed: u64, cores: Vec<usize>) -> Result<QueryLimit, UsageError> {
        let population = Population { campaigns: self.campaigns, ads_per_campaign: self.ads_per_campaign, seed };
        if population.campaigns.checked_mul(population.ads_per_campaign).is_none() {
            return Err(UsageError("campaigns × ads per campaign must stay below 4G".to_owned()));
        }
        Ok(QueryLimit {
            exchange: match self.shape {
                Shape::Spsc => Exchange::Rings,
                Shape::Tcp => Exchange::Sockets,
                Shape::Fused | Shape::Table => Exchange::None,
            },
            encoding: self.encoding,
            events: GeneratorConfig {
                population,
                events: Some(self.events.unwrap_or(match (self.compare, self.encoding) {
                    (true, Encoding::Long) => 400_000_000,
                    _ => 100_000_000,
                })),
                start_ms: START_MS,
                pace: Pace::per_ms(self.events_per_ms),
                skew: false,
            },
            cores,
            stages: self.stages,
            counted: None,
        })
    }
}

/// The engine and the loop in turn, over the same events, a new input for each pair.
fn compare(args: &LimitArgs, cores: &[usize]) -> Result<Verdict> {
    let bar = report::progress("pairs", u64::from(args.pairs) + 1);
    let mut pairs: Vec<(f64, f64)> = Vec::new();
    let mut verified = true;
    for pair in 0..=u64::from(args.pairs) {
        let (figures, good) = one_pair(args, args.seed.wrapping_add(pair), cores)?;
        verified &= good;
        if pair > 0 {
            pairs.push(figures);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let spread = |figure: fn(&(f64, f64)) -> f64| {
        let mut figures: Vec<f64> = pairs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        // Of an even number the lower of the two in the middle: no report says more than was measured.
        (figures[(figures.len() - 1) / 2], figures[0], figures[figures.len() - 1])
    };
    let (engine, limit, ratio) = (spread(|pair| pair.0), spread(|pair| pair.1), spread(|pair| pair.0 / pair.1));
    let mut report = Report::new(format!("engine against limit {}: {} pairs", shape_name(args.shape), pairs.len()));
    let unit = unit(args.shape);
    report.line(if args.shape == Shape::Table { "keys" } else { "query" }, args.described(cores.len()));
    for (name, (median, min, max)) in [("engine", engine), ("limit", limit)] {
        report.line(name, format!("{} (min {}, max {})", rate(median, unit), rate(min, unit), rate(max, unit)));
    }
    let (median, min, max) = ratio;
    report
        .line("ratio", format!("median {} · min {} · max {}", decimals(median, 3), decimals(min, 3), decimals(max, 3)));
    report.line("result", if verified { "every run verified" } else { "a run's counts were wrong" });
    report.line("machine", Machine::probe(cores).to_string());
    report.print();
    if args.json {
        let three = |(median, min, max): (f64, f64, f64)| json!({ "median": median, "min": min, "max": max });
        let mut json = if args.shape == Shape::Table {
            json!({ "keys": args.keys, "distribution": args.distribution.to_string(), "updates": args.updates })
        } else {
            json!({ "encoding": args.encoding, "campaigns": args.campaigns })
        };
        let more = json!({
            "job": "limit",
            "shape": args.shape,
            "shards": cores.len(),
            "pairs": pairs.len(),
            "engine_events_per_s": three(engine),
            "events_per_s": limit.0,
            "limit_events_per_s": three(limit),
            "ratio": three(ratio),
            "verified": verified,
        });
        report::merge(&mut json, more);
        report::print_json(&json);
    }
    Ok(if verified { Verdict::Good } else { Verdict::Different })
}

/// One run of the engine and one of the loop over the same input: their figures, and whether both counted right.
fn one_pair(args: &LimitArgs, seed: u64, cores: &[usize]) -> Result<((f64, f64), bool)> {
    if args.shape == Shape::Table {
        let table = args.table(seed, cores.to_vec());
        let engine = crate::state::run::run(&engine_count(args, &table), &mut |_| {})?;
        let limit = run_table(&table)?;
        let good = engine.differences.as_ref().is_some_and(Differences::is_empty) && limit.differences.is_empty();
        return Ok(((engine.updates_per_s(), limit.events_per_s()), good));
    }
    let mut query = args.query(seed, cores.to_vec())?;
    if args.shape == Shape::Tcp {
        let (engine, engine_good) = in_processes(args, &query)?;
        let limit = run_query(&query)?;
        return Ok(((engine, limit.events_per_s()), engine_good && limit.differences.is_empty()));
    }
    query.counted = Some(Arc::new(Oracle::of_generator(query.events)));
    let engine = crate::ysb::run::run(&engine_run(args, &query), &mut |_| {})?;
    let limit = run_query(&query)?;
    let good = engine.differences.as_ref().is_some_and(Differences::is_empty) && limit.differences.is_empty();
    Ok(((engine.job.events_per_s(), limit.events_per_s()), good))
}

/// The engine's run over a loop's events with a process for each shard, as a user starts it: events a second, and whether it
/// counted right.
fn in_processes(args: &LimitArgs, query: &QueryLimit) -> Result<(f64, bool)> {
    let GeneratorConfig { population, events, .. } = query.events;
    let shards = query.cores.len().to_string();
    let cores = query.cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let interval = match args.checkpoint_interval() {
        Some(interval) => humantime::format_duration(interval).to_string().replace(' ', ""),
        None => "off".to_owned(),
    };
    let encoding = format!("{:?}", query.encoding).to_lowercase();
    let run = std::process::Command::new(std::env::current_exe()?)
        .args(["ysb", "--processes", &shards, "--shards", &shards, "--cores", &cores, "--combine", "off"])
        .args(["--encoding", &encoding, "--events", &events.unwrap_or(0).to_string()])
        .args(["--events-per-ms", &args.events_per_ms.to_string(), "--seed", &population.seed.to_string()])
        .args(["--campaigns", &population.campaigns.to_string()])
        .args(["--ads-per-campaign", &population.ads_per_campaign.to_string()])
        .args(["--checkpoint-interval", &interval, "--verify", "--json"])
        .stdin(std::process::Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&run.stdout);
    let json: Option<serde_json::Value> = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
    let figure = json.as_ref().and_then(|json| Some((json["events_per_s"].as_f64()?, json["verified"].as_bool()?)));
    figure.ok_or_else(|| anyhow::anyhow!("the engine's run failed: {}", String::from_utf8_lossy(&run.stderr)))
}

/// The engine's run over a loop's updates.
fn engine_count(args: &LimitArgs, table: &TableLimit) -> StateRun {
    StateRun {
        space: table.space,
        updates: table.updates,
        duration: None,
        rate: None,
        value_bytes: 8,
        shards: table.cores.len() as u32,
        cores: table.cores.clone(),
        checkpoint_interval: args.checkpoint_interval(),
        checkpoint_dir: None,
        checkpoints_retained: 1,
        backing: StateBacking::Anonymous,
        files: None,
        verify: true,
    }
}

/// The engine's run over a loop's events.
fn engine_run(args: &LimitArgs, query: &QueryLimit) -> YsbRun {
    YsbRun {
        events: query.events,
        duration: None,
        open_loop: false,
        encoding: query.encoding,
        log: None,
        log_rate: None,
        sink: SinkKind::Memory,
        shards: query.cores.len() as u32,
        cores: query.cores.clone(),
        checkpoint_interval: args.checkpoint_interval(),
        checkpoint_dir: None,
        cluster: None,
        combine: query.exchange == Exchange::None,
        verify: true,
        counted: query.counted.clone(),
        on_error: OnError::Fail,
        dead_letters: None,
    }
}

fn readable(args: &LimitArgs, shards: usize, outcome: &LimitOutcome) -> Report {
    let each = outcome.events_per_s() / shards as f64;
    let unit = unit(args.shape);
    let mut report = Report::new(format!("limit {}: hand-written, {shards} shard(s)", shape_name(args.shape)));
    if args.shape == Shape::Table {
        report.line("keys", format!("{} ({})", count(u64::from(args.keys)), args.distribution));
    } else {
        let campaigns = count(u64::from(args.campaigns));
        let encoding = format!("{:?}", args.encoding).to_lowercase();
        report.line("query", format!("{campaigns} campaigns × {} ads, {encoding}", args.ads_per_campaign));
    }
    report.line("throughput", rate(outcome.events_per_s(), unit));
    report.line("per shard", format!("{}, {} ns each", rate(each, unit), decimals(1e9 / each, 2)));
    report.line("time", format!("{} s for {} {unit}", decimals(outcome.seconds, 3), count(outcome.events)));
    if let Some(stages) = &outcome.stages {
        for (stage, ns) in STAGES.iter().zip(stages.ns).filter(|(_, ns)| *ns > 0) {
            report.line(stage, format!("{} ns per event", decimals(ns as f64 / outcome.events as f64, 2)));
        }
    }
    report.line("result", outcome.differences.to_string());
    report.line("machine", outcome.machine.to_string());
    report
}

fn unit(shape: Shape) -> &'static str {
    if shape == Shape::Table { "updates" } else { "events" }
}

fn shape_name(shape: Shape) -> &'static str {
    match shape {
        Shape::Fused => "fused",
        Shape::Spsc => "spsc",
        Shape::Tcp => "tcp",
        Shape::Table => "table",
    }
}

fn as_json(args: &LimitArgs, shards: usize, outcome: &LimitOutcome) -> serde_json::Value {
    let mut json = json!({
        "job": "limit",
        "shape": args.shape,
        "shards": shards,
        "events": outcome.events,
        "seconds": outcome.seconds,
        "events_per_s": outcome.events_per_s(),
        "events_per_s_per_shard": outcome.events_per_s() / shards as f64,
        "verified": outcome.differences.is_empty(),
        "differences": outcome.differences.differences,
        "machine": outcome.machine,
    });
    let more = if args.shape == Shape::Table {
        json!({
            "keys": args.keys,
            "distribution": args.distribution.to_string(),
            "ns_per_update_per_shard": 1e9 * shards as f64 / outcome.events_per_s(),
        })
    } else {
        json!({
            "encoding": args.encoding,
            "campaigns": args.campaigns,
            "views": outcome.differences.views,
            "windows": outcome.differences.rows,
        })
    };
    report::merge(&mut json, more);
    if let Some(stages) = &outcome.stages {
        let per_event = STAGES.iter().zip(stages.ns);
        let per_event = per_event.map(|(stage, ns)| ((*stage).to_owned(), json!(ns as f64 / outcome.events as f64)));
        let per_event: serde_json::Map<_, _> = per_event.collect();
        report::merge(&mut json, json!({ "stage_ns_per_event": per_event }));
    }
    json
}
