//! `harness ysb`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use millstream::OnError;
use serde_json::{Value, json};

use super::figures::{P50_P999, checkpoint_line, checkpoints_json, four, quantiles};
use super::processes::ProcessArgs;
use super::values::{DurationOrOff, duration, duration_or_off, on_off, positive_count, small_count};
use super::{ShardArgs, UsageError, Verdict};
use crate::limit::{Encoding, Exchange, LimitOutcome, QueryLimit, run_query};
use crate::machine::{Machine, Usage, allowed_cores};
use crate::report::{self, Report, count, decimals, rate};
use crate::ysb::generate::{GeneratorConfig, Pace, Population, START_MS};
use crate::ysb::run::{SinkKind, Told, YsbOutcome, YsbRun, run as run_ysb};

/// Inputs up to this size are verified unless told otherwise: the recount takes about as long as the run.
const VERIFIED_UP_TO: u64 = 50_000_000;

#[derive(Args, Clone, Debug)]
#[command(args_override_self = true)]
#[command(after_help = "\
The query: events of seven fields, of which a third are views; views are projected, joined to their ad's campaign and
counted per campaign and 10 s window of event time; each window's rows go to the sink exactly once.

Examples:
  harness ysb                                             50M events on all cores, verified
  harness ysb --campaigns 1M --combine off --limit        a million campaigns, next to the hand-written loop
  harness ysb --rate 20M --duration 30s                   open loop: how late are results?
  harness generate ysb --out /tmp/ads --events 10M --partitions 2
  harness ysb --source log --path /tmp/ads --sink file --out /tmp/counts --checkpoint-dir /tmp/checkpoints
  harness verify --log /tmp/ads --out /tmp/counts")]
pub(super) struct YsbArgs {
    #[command(flatten)]
    shards: ShardArgs,

    #[command(flatten)]
    processes: ProcessArgs,

    /// How many campaigns there are
    #[arg(long, value_name = "C", default_value = "100", value_parser = small_count)]
    campaigns: u32,

    /// How many ads each campaign has
    #[arg(long, value_name = "A", default_value = "10", value_parser = small_count)]
    ads_per_campaign: u32,

    /// How many events to take, over all shards [default: 50M, or what --duration brings, or the whole log]
    #[arg(long, value_name = "N", value_parser = positive_count, conflicts_with = "duration")]
    events: Option<u64>,

    /// Take events for so long
    #[arg(long, value_name = "D", value_parser = duration)]
    duration: Option<Duration>,

    /// Offer so many events a second, open loop, with wall time for event time [default: as fast as it goes]
    #[arg(long, value_name = "R", value_parser = positive_count)]
    rate: Option<u64>,

    /// How fast event time moves without --rate: a window of 10 s is 10,000 times as many events, over all shards
    #[arg(long, value_name = "N", default_value = "1000", value_parser = positive_count)]
    events_per_ms: u64,

    /// How events are written [default: long, or json from a log]
    #[arg(long, value_enum)]
    encoding: Option<Encoding>,

    /// The original's disorder: each event −49 to +50 ms, one in 100,000 up to 60 s late
    #[arg(long)]
    skew: bool,

    /// Where events come from
    #[arg(long, value_enum, default_value_t = SourceKind::Generator)]
    source: SourceKind,

    /// With --source log: its directory
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,

    /// Where rows go [default: memory, or files in a temporary directory where there are several processes]
    #[arg(long, value_enum)]
    sink: Option<SinkName>,

    /// With --sink file: its directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Time between checkpoints, or off
    #[arg(long, value_name = "D", default_value = "1s", value_parser = duration_or_off)]
    checkpoint_interval: DurationOrOff,

    /// Where checkpoints are kept, a directory or s3://BUCKET/PREFIX; a run continues from the newest one there [default: a
    /// fresh temporary directory]
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,

    /// Fold on the sending shard before the exchange: on or off
    #[arg(long, default_value = "on", value_parser = on_off, action = clap::ArgAction::Set)]
    combine: bool,

    /// What happens to malformed JSON
    #[arg(long, value_enum, default_value_t = Malformed::Fail)]
    malformed: Malformed,

    /// With --malformed dead-letter: the directory of the dead letters
    #[arg(long, value_name = "DIR")]
    dead_letters: Option<PathBuf>,

    /// Recount every window from the input and compare [default: up to 50M events]
    #[arg(long, overrides_with = "no_verify")]
    verify: bool,

    /// Do not recount
    #[arg(long)]
    no_verify: bool,

    /// Which input of all possible ones
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Also run the hand-written loop of the same shape and print the ratio
    #[arg(long)]
    limit: bool,

    /// End with one line of JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum SourceKind {
    /// Events are made inside the job
    Generator,
    /// A log of files, made by `harness generate ysb`
    Log,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum SinkName {
    /// Kept in memory
    Memory,
    /// Files, exactly once
    File,
    /// Counted and dropped
    Null,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Malformed {
    /// The job fails, naming partition and offset
    Fail,
    /// The line is dropped and counted
    Skip,
    /// The line becomes a dead letter
    DeadLetter,
}

impl YsbArgs {
    /// The run that was asked for.
    fn plan(&self) -> Result<YsbRun, UsageError> {
        let usage = |text: &str| Err(UsageError(text.to_owned()));
        let shards = self.shards.shards.unwrap_or_else(|| {
            self.shards.cores.as_ref().map_or_else(|| allowed_cores().len(), |cores| cores.0.len()) as u32
        });
        let cluster = self.processes.cluster(shards)?;
        let several = cluster.is_some();
        let sink = match (self.sink, &self.out) {
            (Some(SinkName::Memory), _) if several => {
                return usage("memory is one process's: with --processes, take --sink file --out DIR, or --sink null");
            }
            (Some(SinkName::File), None) => return usage("--sink file needs --out DIR"),
            (None | Some(SinkName::Memory | SinkName::Null), Some(_)) => return usage("--out goes with --sink file"),
            (Some(SinkName::File), Some(out)) => SinkKind::File(out.clone()),
            (Some(SinkName::Null), None) => SinkKind::Null,
            (None, None) if several => SinkKind::TemporaryFiles,
            (None | Some(SinkName::Memory), None) => SinkKind::Memory,
        };
        let log = match (self.source, &self.path) {
            (SourceKind::Log, None) => return usage("--source log needs --path DIR, the log's directory"),
            (SourceKind::Generator, Some(_)) => return usage("--path goes with --source log"),
            (_, path) => path.clone(),
        };
        let encoding = match (self.encoding, &log) {
            (None | Some(Encoding::Json), Some(_)) => Encoding::Json,
            (Some(_), Some(_)) => return usage("a log holds JSON: leave --encoding out, or say --encoding json"),
            (encoding, None) => encoding.unwrap_or(Encoding::Long),
        };
        if log.is_some() && (self.events.is_some() || self.duration.is_some() || self.skew) {
            return usage("a log has its own events and disorder: leave --events, --duration and --skew out");
        }
        if (self.malformed == Malformed::DeadLetter) != self.dead_letters.is_some() {
            return usage("--malformed dead-letter and --dead-letters DIR go together");
        }
        let population =
            Population { campaigns: self.campaigns, ads_per_campaign: self.ads_per_campaign, seed: self.seed };
        if self.campaigns.checked_mul(self.ads_per_campaign).is_none() {
            return usage("campaigns × ads per campaign must stay below 4G");
        }
        let paced = |duration: Duration| self.rate.map(|rate| (rate as f64 * duration.as_secs_f64()) as u64);
        let events = match (self.events, self.duration) {
            (Some(events), _) => Some(events),
            (None, Some(duration)) => paced(duration),
            (None, None) => Some(50_000_000),
        };
        // With a rate the number of events says when to end.
        let duration = self.duration.filter(|_| self.rate.is_none());
        let known_size = if duration.is_some() { None } else { events };
        let few = known_size.is_none_or(|events| events <= VERIFIED_UP_TO);
        Ok(YsbRun {
            events: GeneratorConfig {
                population,
                events,
                start_ms: START_MS,
                pace: self.rate.map_or(Pace::per_ms(self.events_per_ms), Pace::per_second),
                skew: self.skew,
            },
            duration,
            open_loop: self.rate.is_some() && log.is_none(),
            encoding,
            log_rate: self.rate.filter(|_| log.is_some()),
            log,
            sink,
            shards,
            cores: self.shards.cores.as_ref().map_or(Vec::new(), |cores| cores.0.clone()),
            checkpoint_interval: self.checkpoint_interval.duration(),
            checkpoint_dir: self.checkpoint_dir.clone(),
            combine: self.combine,
            cluster,
            verify: self.verify || (few && !self.no_verify),
            counted: None,
            on_error: if self.malformed == Malformed::Skip { OnError::Skip } else { OnError::Fail },
            dead_letters: self.dead_letters.clone(),
        })
    }
}

pub(super) fn run(args: &YsbArgs) -> Result<Verdict> {
    let plan = args.plan()?;
    let before = Usage::now();
    let bar = match plan.events.events {
        Some(events) if plan.log.is_none() => report::progress("running", events),
        _ => report::spinner("running"),
    };
    let outcome = run_ysb(&plan, &mut |told| match told {
        Told::Preparing => bar.set_message("preparing"),
        Told::Events(events) => {
            bar.set_message("running");
            bar.set_position(events);
        }
        Told::Verifying => bar.set_message("recounting"),
    })?;
    if !outcome.job.led {
        bar.finish_and_clear();
        tracing::info!(events = outcome.job.measured.events_in, "this process has done its part");
        return Ok(Verdict::Good);
    }
    let after = Usage::now();
    let limit = if args.limit { Some(limit_of(&plan, &outcome)?) } else { None };
    bar.finish_and_clear();
    let used = Usage { cpu_s: after.cpu_s - before.cpu_s, ..after };
    readable(args, &plan, &outcome, limit.as_ref()).print();
    if args.json {
        report::print_json(&as_json(&plan, &outcome, &used, limit.as_ref()));
    }
    let same = outcome.differences.as_ref().is_none_or(|differences| differences.is_empty());
    Ok(if same { Verdict::Good } else { Verdict::Different })
}

/// The hand-written loop of the run's shape, over the same events.
pub(super) fn limit_of(plan: &YsbRun, outcome: &YsbOutcome) -> Result<LimitOutcome> {
    let mut events = plan.events;
    events.events.get_or_insert(outcome.job.measured.events_in);
    let mut cores = if plan.cores.is_empty() { allowed_cores() } else { plan.cores.clone() };
    cores.truncate(plan.shards as usize);
    if cores.len() < plan.shards as usize {
        return Err(
            UsageError("the hand-written loop needs a core for each shard: use fewer --shards".to_owned()).into()
        );
    }
    let exchange = if plan.shards > 1 && !plan.combine { Exchange::Rings } else { Exchange::None };
    Ok(run_query(&QueryLimit { exchange, encoding: plan.encoding, events, cores, stages: false, counted: None })?)
}

fn readable(args: &YsbArgs, plan: &YsbRun, outcome: &YsbOutcome, limit: Option<&LimitOutcome>) -> Report {
    let YsbOutcome { job, .. } = outcome;
    let (measured, checkpoints) = (&job.measured, &job.checkpoints);
    let mut report = Report::new(format!("Yahoo streaming benchmark on {} shard(s)", plan.shards));
    let combine = if args.combine { "folded before the exchange" } else { "full exchange" };
    let population = plan.events.population;
    report.line(
        "query",
        format!(
            "{} campaigns × {} ads, {:?}{}, {}",
            count(u64::from(population.campaigns)),
            population.ads_per_campaign,
            plan.encoding,
            if plan.events.skew { " with skew" } else { "" },
            if plan.shards > 1 { combine } else { "nothing to exchange" }
        )
        .replace("Long", "long")
        .replace("Uuid", "uuid")
        .replace("Json", "json"),
    );
    if measured.events_in > 0 {
        report.line("throughput", rate(job.events_per_s(), "events"));
        let each = job.events_per_s() / f64::from(plan.shards);
        report.line("per shard", format!("{}, {} ns each", rate(each, "events"), decimals(1e9 / each, 2)));
    }
    let seconds = decimals(job.elapsed.as_secs_f64(), 3);
    report.line("time", format!("{seconds} s for {} events", count(measured.events_in)));
    report.line("checkpoints", checkpoint_line(plan.checkpoint_interval, checkpoints));
    report.line("snapshot pause", format!("{} µs", quantiles(&measured.pause_us, 0, 1.0, &P50_P999)));
    report.line("loop turn", format!("{} µs", quantiles(&measured.turn_us, 0, 1.0, &P50_P999)));
    report.line(
        "window latency",
        match &outcome.latency_us {
            Some(latency) if latency.is_empty() => {
                "no window ended while it ran: give it a longer --duration".to_owned()
            }
            Some(latency) => {
                let after = if plan.open_loop { "the window's end" } else { "its last event was read" };
                format!("{} ms after {after}", quantiles(latency, 2, 1e3, &P50_P999))
            }
            None => "not measured: nobody but the job knows the times in a log".to_owned(),
        },
    );
    report.line("guarantee", job.guarantee.to_string());
    if measured.late > 0 || measured.skipped > 0 {
        let (late, skipped) = (count(measured.late), count(measured.skipped));
        report.line("left out", format!("{late} late contributions, {skipped} malformed lines"));
    }
    if job.restored_epoch > 0 {
        report.line("continued", format!("from the checkpoint of epoch {}", job.restored_epoch));
    }
    if let Some(restored) = &job.restored {
        report.line("restore", restored.to_string());
    }
    for why in &job.restarts {
        report.line("restarted", why.clone());
    }
    if job.stopped {
        report.line("stopped", "before the input's end, with a last checkpoint");
    }
    report.line(
        "result",
        match &outcome.differences {
            Some(differences) => differences.to_string(),
            None => format!("not verified: {} windows, {} views", count(outcome.windows), count(outcome.views)),
        },
    );
    if let Some(limit) = limit {
        let ratio = job.events_per_s() / limit.events_per_s();
        report
            .line("limit", format!("{} by hand · ratio {}", rate(limit.events_per_s(), "events"), decimals(ratio, 3)));
    }
    report.line("machine", Machine::probe(&plan.cores).to_string());
    let is_generated = plan.log.is_none() && measured.events_in > 0;
    if let Some(interval) = plan.checkpoint_interval.filter(|interval| is_generated && job.elapsed < *interval) {
        let interval = humantime::format_duration(interval);
        report.line("note", format!("it was over before a checkpoint was due, after {interval}: try --duration 30s"));
    }
    report
}

fn as_json(plan: &YsbRun, outcome: &YsbOutcome, used: &Usage, limit: Option<&LimitOutcome>) -> Value {
    let YsbOutcome { job, .. } = outcome;
    let (measured, checkpoints) = (&job.measured, &job.checkpoints);
    json!({
        "job": "ysb",
        "encoding": plan.encoding,
        "shards": plan.shards,
        "processes": plan.cluster.as_ref().map_or(1, |cluster| cluster.cluster.processes),
        "campaigns": plan.events.population.campaigns,
        "combine": plan.combine,
        "source": if plan.log.is_some() { "log" } else { "generator" },
        "sink": match plan.sink { SinkKind::Memory => "memory", SinkKind::File(_) | SinkKind::TemporaryFiles => "file", SinkKind::Null => "null" },
        "events": measured.events_in,
        "views": outcome.views,
        "windows": outcome.windows,
        "seconds": job.elapsed.as_secs_f64(),
        "events_per_s": job.events_per_s(),
        "events_per_s_per_shard": job.events_per_s() / f64::from(plan.shards),
        "verified": outcome.differences.as_ref().map(|differences| differences.is_empty()),
        "differences": outcome.differences.as_ref().map_or(0, |differences| differences.differences),
        "checkpoints": checkpoints_json(plan.checkpoint_interval, checkpoints),
        "restored": job.restored.map(|restored| json!({
            "shards_before": restored.shards_before,
            "seconds": restored.took.as_secs_f64(),
            "bytes_read": restored.state.bytes_read,
            "entries": restored.state.entries,
            "pages_moved": restored.state.pages_moved,
            "entries_moved": restored.state.entries_moved,
        })),
        "pause_us": four(&measured.pause_us, 1.0),
        "turn_us": four(&measured.turn_us, 1.0),
        "latency_ms": outcome.latency_us.as_ref().filter(|_| plan.open_loop).map(|latency| four(latency, 1e3)),
        "cpu_s": used.cpu_s,
        "rss_mb": used.rss_mb,
        "limit": limit.map(|limit| json!({
            "events_per_s": limit.events_per_s(),
            "ratio": job.events_per_s() / limit.events_per_s(),
        })),
        "guarantee": job.guarantee,
    })
}
