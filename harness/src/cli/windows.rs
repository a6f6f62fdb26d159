//! `harness windows`

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::figures::{P50_P999, checkpoint_line, checkpoints_json, four, quantiles};
use super::pairs::{Quotients, alternate};
use super::values::{DurationOrOff, duration, duration_or_off, positive_count, small_count};
use super::{ShardArgs, UsageError, Verdict};
use crate::keys::{Distribution, KeySpace};
use crate::machine::{Machine, allowed_cores};
use crate::report::{self, Report, count, decimals, rate};
use crate::windows::run::{Kind, WindowsOutcome, WindowsRun, run as run_windows};

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Event time goes with the event's number, --per-second of them in a second of it. All results go into a digest, which is
compared with that of a slow answer.

Examples:
  harness windows --kind session --keys 1M                    sessions
  harness windows --kind sliding --size 60s --slide 1s --compare     what they cost beside tumbling windows of 1 s
  harness windows --keys 1M --events 20M --size 5s --checkpoint-interval 100ms
                                                              a watermark that fires a million windows: see `loop turn`
  harness windows --kind timers --keys 1M --events 20M --size 5s --checkpoint-interval 100ms      or as many timers")]
pub(super) struct WindowsArgs {
    #[command(flatten)]
    shards: ShardArgs,

    /// What a key's events are gathered in
    #[arg(long, value_enum, default_value_t = KindName::Tumbling)]
    kind: KindName,

    /// How long a window is; of sliding windows a multiple of --slide [default: 1s; 60s of sliding windows]
    #[arg(long, value_name = "D", value_parser = duration)]
    size: Option<Duration>,

    /// With --kind sliding: how long after one window the next begins
    #[arg(long, value_name = "D", default_value = "1s", value_parser = duration)]
    slide: Duration,

    /// With --kind session: the silence that ends one
    #[arg(long, value_name = "D", default_value = "500ms", value_parser = duration)]
    gap: Duration,

    /// How many keys there are, over all shards
    #[arg(long, value_name = "N", default_value = "1M", value_parser = small_count)]
    keys: u32,

    /// How often each key comes: uniform, sequential or zipf:S
    #[arg(long, default_value = "uniform")]
    distribution: Distribution,

    /// How many events to make, over all shards
    #[arg(long, value_name = "N", default_value = "20M", value_parser = positive_count)]
    events: u64,

    /// How many of them are in a second of event time, over all shards
    #[arg(long, value_name = "N", default_value = "2M", value_parser = positive_count)]
    per_second: u64,

    /// Time between checkpoints, or off
    #[arg(long, value_name = "D", default_value = "1s", value_parser = duration_or_off)]
    checkpoint_interval: DurationOrOff,

    /// Alternate with tumbling windows as long as the slide, and print what an event costs beside theirs
    #[arg(long)]
    compare: bool,

    /// With --compare: how many pairs are counted, after one that is not
    #[arg(long, value_name = "N", default_value = "5", value_parser = small_count)]
    pairs: u32,

    /// Do not compare with the slow answer
    #[arg(long)]
    no_verify: bool,

    /// Which events of all possible ones
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// End with one line of JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum KindName {
    /// One window behind the other
    Tumbling,
    /// Windows that overlap
    Sliding,
    /// Stretches without a longer silence
    Session,
    /// Tumbling windows made of a process function's event-time timers
    Timers,
}

impl WindowsArgs {
    /// The run that was asked for.
    fn plan(&self) -> Result<WindowsRun, UsageError> {
        let usage = |text: &str| Err(UsageError(text.to_owned()));
        let ms = |duration: Duration| match i64::try_from(duration.as_millis()) {
            Ok(ms) if ms > 0 && u128::from(ms.unsigned_abs()) * 1_000_000 == duration.as_nanos() => Ok(ms),
            _ => Err(UsageError("windows are measured in whole milliseconds, one at least".to_owned())),
        };
        let size_ms = self.size.map(ms).transpose()?;
        let kind = match self.kind {
            KindName::Tumbling => Kind::Tumbling { size_ms: size_ms.unwrap_or(1_000) },
            KindName::Timers => Kind::Timers { size_ms: size_ms.unwrap_or(1_000) },
            KindName::Session => Kind::Session { gap_ms: ms(self.gap)? },
            KindName::Sliding => {
                let (size_ms, slide_ms) = (size_ms.unwrap_or(60_000), ms(self.slide)?);
                if size_ms % slide_ms != 0 {
                    return usage("--size has to be a multiple of --slide");
                }
                Kind::Sliding { size_ms, slide_ms }
            }
        };
        if self.kind == KindName::Session && self.size.is_some() {
            return usage("sessions have no --size: say --gap");
        }
        Ok(WindowsRun {
            kind,
            space: KeySpace { keys: u64::from(self.keys), distribution: self.distribution, seed: self.seed },
            events: self.events,
            per_second: self.per_second,
            shards: self.shards.shards.unwrap_or_else(|| {
                self.shards.cores.as_ref().map_or_else(|| allowed_cores().len(), |cores| cores.0.len()) as u32
            }),
            cores: self.shards.cores.as_ref().map_or(Vec::new(), |cores| cores.0.clone()),
            checkpoint_interval: self.checkpoint_interval.duration(),
            verify: !self.no_verify,
        })
    }
}

pub(super) fn run(args: &WindowsArgs) -> Result<Verdict> {
    let plan = args.plan()?;
    let bar = report::progress("running", plan.events);
    let outcome = run_windows(&plan, &mut |events| bar.set_position(events))?;
    bar.finish_and_clear();
    let costs = if args.compare { Some(compare(args, &plan)?) } else { None };
    readable(&plan, &outcome, costs.as_ref()).print();
    if args.json {
        report::print_json(&as_json(&plan, &outcome, costs.as_ref()));
    }
    let same = outcome.expected.is_none_or(|expected| expected == outcome.digest);
    Ok(if same { Verdict::Good } else { Verdict::Different })
}

/// How much an event costs, against one in a tumbling window.
fn compare(args: &WindowsArgs, plan: &WindowsRun) -> Result<Quotients> {
    let size_ms = match plan.kind {
        Kind::Sliding { slide_ms, .. } => slide_ms,
        Kind::Session { gap_ms } => gap_ms,
        Kind::Tumbling { size_ms } | Kind::Timers { size_ms } => size_ms,
    };
    let plan = WindowsRun { verify: false, ..plan.clone() };
    let tumbling = WindowsRun { kind: Kind::Tumbling { size_ms }, ..plan.clone() };
    let seconds = |plan: &WindowsRun| Ok(run_windows(plan, &mut |_| {})?.seconds);
    alternate(args.pairs, || seconds(&plan), || seconds(&tumbling))
}

fn events_per_s(plan: &WindowsRun, outcome: &WindowsOutcome) -> f64 {
    plan.events as f64 / outcome.seconds.max(1e-9)
}

fn readable(plan: &WindowsRun, outcome: &WindowsOutcome, costs: Option<&Quotients>) -> Report {
    let WindowsOutcome { job, digest, expected, .. } = outcome;
    let mut report = Report::new(format!("Windows on {} shard(s): {}", plan.shards, plan.kind));
    report.line("keys", format!("{} ({})", count(plan.space.keys), plan.space.distribution));
    let per_s = events_per_s(plan, outcome);
    report.line("throughput", rate(per_s, "events"));
    let each = per_s / f64::from(plan.shards);
    report.line("per shard", format!("{}, {} ns each", rate(each, "events"), decimals(1e9 / each, 1)));
    report.line("time", format!("{} s for {} events", decimals(outcome.seconds, 3), count(plan.events)));
    report
        .line("results", format!("{} windows of a key, {} late events", count(digest.rows), count(job.measured.late)));
    report.line("checkpoints", checkpoint_line(plan.checkpoint_interval, &job.checkpoints));
    report.line("snapshot pause", format!("{} µs", quantiles(&job.measured.pause_us, 0, 1.0, &P50_P999)));
    report.line("loop turn", format!("{} µs", quantiles(&job.measured.turn_us, 0, 1.0, &P50_P999)));
    if let Some(Quotients { median, min, max, pairs }) = costs {
        let [median, min, max] = [median, min, max].map(|cost| decimals(*cost, 2));
        report.line("cost", format!("{median} x that of tumbling windows (min {min}, max {max}, {pairs} pairs)"));
    }
    report.line(
        "result",
        match expected {
            Some(expected) if expected == digest => "verified: equal to the slow answer".to_owned(),
            Some(expected) => format!(
                "differs: {} windows with {} events, not {} with {}",
                count(digest.rows),
                count(digest.events),
                count(expected.rows),
                count(expected.events)
            ),
            None => "not verified".to_owned(),
        },
    );
    report.line("machine", Machine::probe(&plan.cores).to_string());
    report
}

fn as_json(plan: &WindowsRun, outcome: &WindowsOutcome, costs: Option<&Quotients>) -> Value {
    let WindowsOutcome { job, digest, expected, .. } = outcome;
    json!({
        "job": "windows",
        "kind": plan.kind.to_string(),
        "shards": plan.shards,
        "keys": plan.space.keys,
        "distribution": plan.space.distribution.to_string(),
        "events": plan.events,
        "seconds": outcome.seconds,
        "events_per_s": events_per_s(plan, outcome),
        "rows": digest.rows,
        "late": job.measured.late,
        "verified": expected.map(|expected| expected == *digest),
        "checkpoints": checkpoints_json(plan.checkpoint_interval, &job.checkpoints),
        "pause_us": four(&job.measured.pause_us, 1.0),
        "turn_us": four(&job.measured.turn_us, 1.0),
        "cost": costs.map(|costs| json!({
            "against": "tumbling",
            "median": costs.median,
            "min": costs.min,
            "max": costs.max,
            "pairs": costs.pairs,
        })),
    })
}
