//! `harness state`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use millstream::{CheckpointFigures, StateBacking};
use millstream_state::How;
use serde_json::{Value, json};

use super::figures::{P50_P999, checkpoint_line, checkpoints_json, four, quantiles};
use super::values::{DurationOrOff, duration, duration_or_off, positive_count, small_count};
use super::{ShardArgs, UsageError, Verdict};
use crate::keys::{Distribution, KeySpace};
use crate::limit::{LimitOutcome, TableLimit, run_table};
use crate::machine::{Machine, Usage, allowed_cores};
use crate::report::{self, Report, bytes, count, decimals, rate};
use crate::state::oracle::VALUE_BYTES;
use crate::state::run::{Files, StateOutcome, StateRun, Told, run as run_state};
use crate::ysb::oracle::Differences;

/// Inputs up to this size are verified unless told otherwise: the recount takes about as long as the run.
const VERIFIED_UP_TO: u64 = 200_000_000;

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The job: updates, each of one key, go to the shard that owns the key, which counts them; every update yields the count so
far. First every key is put in; then the clock starts. The result is compared with a plain array of counts: every
checkpoint that is left is restored and compared; without checkpoints every key is looked at once more at the end.

Examples:
  harness state                                            10M keys, 100M updates on all cores
  harness state --keys 50M --distribution zipf:1.2 --checkpoint-interval off --limit
  harness state --keys 10M --duration 60s --checkpoint-interval 200ms --rate 500k      is the disk's use flat?
  harness state --checkpoint-dir /tmp/counts --updates 50M
  harness state --checkpoint-dir /tmp/counts --updates 100M --restore                  goes on from there")]
pub(super) struct StateArgs {
    #[command(flatten)]
    shards: ShardArgs,

    /// How many keys there are, over all shards
    #[arg(long, value_name = "N", default_value = "10M", value_parser = small_count)]
    keys: u32,

    /// How many updates to make, over all shards and all runs that continue one another [default: 100M, or what
    /// --duration brings]
    #[arg(long, value_name = "N", value_parser = positive_count)]
    updates: Option<u64>,

    /// Make updates for so long
    #[arg(long, value_name = "D", value_parser = duration)]
    duration: Option<Duration>,

    /// Offer so many updates a second, open loop [default: as fast as it goes]
    #[arg(long, value_name = "R", value_parser = positive_count)]
    rate: Option<u64>,

    /// Bytes of a key's accumulator, all written with each update: 8, 16, 32, 64, 128 or 256
    #[arg(long, value_name = "B", default_value = "8", value_parser = value_bytes)]
    value_bytes: u32,

    /// How often each key comes: uniform, sequential or zipf:S
    #[arg(long, default_value = "uniform")]
    distribution: Distribution,

    /// Time between checkpoints, or off
    #[arg(long, value_name = "D", default_value = "1s", value_parser = duration_or_off)]
    checkpoint_interval: DurationOrOff,

    /// Where checkpoints are kept; a run continues from the newest one there [default: a fresh temporary directory]
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,

    /// How many checkpoints are kept
    #[arg(long, value_name = "N", default_value = "3", value_parser = small_count)]
    checkpoints_retained: u32,

    #[command(flatten)]
    backing: BackingArgs,

    /// Insist on a checkpoint to continue from
    #[arg(long, requires = "checkpoint_dir")]
    restore: bool,

    /// Write every so many counts of a key (--every) to files in this directory, exactly once [default: nowhere]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// With --out: of each key, every so many counts one is written
    #[arg(long, value_name = "N", default_value = "4", value_parser = positive_count)]
    every: u64,

    /// Recount every key from the input and compare [default: up to 200M updates]
    #[arg(long, overrides_with = "no_verify")]
    verify: bool,

    /// Do not recount
    #[arg(long)]
    no_verify: bool,

    /// Which updates of all possible ones
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Also run the hand-written loop of the same keys and updates, and print the ratio
    #[arg(long)]
    limit: bool,

    /// End with one line of JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Where pages lie.
#[derive(Args, Clone, Debug)]
pub(super) struct BackingArgs {
    /// What memory the state lies in
    #[arg(long, value_enum, default_value_t = Backing::Anonymous)]
    backing: Backing,

    /// With --backing file: the directory of the files, on tmpfs for preference
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

impl BackingArgs {
    /// As the engine calls it.
    pub(super) fn backing(&self) -> Result<StateBacking, UsageError> {
        let usage = |text: &str| Err(UsageError(text.to_owned()));
        match (self.backing, &self.path) {
            (Backing::Anonymous, None) => Ok(StateBacking::Anonymous),
            (Backing::File, Some(path)) => Ok(StateBacking::File(path.clone())),
            (Backing::Anonymous, Some(_)) => usage("--path goes with --backing file"),
            (Backing::File, None) => usage("--backing file needs --path DIR, where the files lie"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Backing {
    /// Memory of the process
    Anonymous,
    /// Files that outlive it
    File,
}

fn value_bytes(text: &str) -> Result<u32, String> {
    let bytes = text.parse().ok().filter(|bytes| VALUE_BYTES.contains(bytes));
    bytes.ok_or_else(|| "expected 8, 16, 32, 64, 128 or 256".to_owned())
}

impl StateArgs {
    /// The run that was asked for.
    fn plan(&self) -> Result<StateRun, UsageError> {
        let usage = |text: &str| Err(UsageError(text.to_owned()));
        let backing = self.backing.backing()?;
        if self.restore && self.checkpoint_dir.as_ref().is_some_and(|dir| !has_checkpoint(dir)) {
            return usage(
                "--restore needs a checkpoint in --checkpoint-dir, and there is none: leave --restore out to begin",
            );
        }
        let updates = self.updates.unwrap_or(if self.duration.is_some() { u64::MAX } else { 100_000_000 });
        let few = self.duration.is_some() || updates <= VERIFIED_UP_TO;
        Ok(StateRun {
            space: KeySpace { keys: u64::from(self.keys), distribution: self.distribution, seed: self.seed },
            updates,
            duration: self.duration,
            rate: self.rate,
            value_bytes: self.value_bytes,
            shards: self.shards.shards.unwrap_or_else(|| {
                self.shards.cores.as_ref().map_or_else(|| allowed_cores().len(), |cores| cores.0.len()) as u32
            }),
            cores: self.shards.cores.as_ref().map_or(Vec::new(), |cores| cores.0.clone()),
            checkpoint_interval: self.checkpoint_interval.duration(),
            checkpoint_dir: self.checkpoint_dir.clone(),
            checkpoints_retained: self.checkpoints_retained as usize,
            backing,
            files: self.out.clone().map(|dir| Files { dir, every: self.every }),
            verify: self.verify || (few && !self.no_verify),
        })
    }
}

fn has_checkpoint(dir: &std::path::Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("manifest-"))
}

pub(super) fn run(args: &StateArgs) -> Result<Verdict> {
    let plan = args.plan()?;
    let before = Usage::now();
    let bar = if args.duration.is_some() { report::spinner("running") } else { report::progress("loading", 0) };
    let outcome = run_state(&plan, &mut |told| match told {
        Told::Loading(keys) => {
            bar.set_length(plan.space.keys);
            bar.set_position(keys);
        }
        Told::Updates(updates) => {
            bar.set_message("running");
            bar.set_length(plan.updates);
            bar.set_position(updates);
        }
        Told::Verifying => bar.set_message("recounting"),
    })?;
    let after = Usage::now();
    let limit = if args.limit { Some(limit_of(&plan, &outcome)?) } else { None };
    bar.finish_and_clear();
    let used =
        Usage { cpu_s: after.cpu_s - before.cpu_s, major_faults: after.major_faults - before.major_faults, ..after };
    readable(&plan, &outcome, &used, limit.as_ref()).print();
    if args.json {
        report::print_json(&as_json(args, &plan, &outcome, &used, limit.as_ref()));
    }
    let same = outcome.differences.as_ref().is_none_or(|differences| differences.is_empty());
    Ok(if same { Verdict::Good } else { Verdict::Different })
}

/// The hand-written loop over the same keys and as many updates.
fn limit_of(plan: &StateRun, outcome: &StateOutcome) -> Result<LimitOutcome> {
    let mut cores = if plan.cores.is_empty() { allowed_cores() } else { plan.cores.clone() };
    cores.truncate(plan.shards as usize);
    if cores.len() < plan.shards as usize {
        let text = "the hand-written loop needs a core for each shard: use fewer --shards";
        return Err(UsageError(text.to_owned()).into());
    }
    Ok(run_table(&TableLimit { space: plan.space, updates: outcome.updates.max(1), cores })?)
}

/// The median of a figure over the checkpoints that updates alone were in: the first of them often writes whole pages that
/// the load left over, and is not what a checkpoint costs.
fn median(checkpoints: &[CheckpointFigures], figure: impl Fn(&CheckpointFigures) -> u64) -> u64 {
    let mut figures: Vec<u64> = checkpoints.iter().map(figure).collect();
    figures.sort_unstable();
    figures.get(figures.len() / 2).copied().unwrap_or(0)
}

fn bytes_per_dirty_line(checkpoints: &[CheckpointFigures]) -> f64 {
    let sum = |figure: fn(&CheckpointFigures) -> u64| checkpoints.iter().map(figure).sum::<u64>() as f64;
    sum(|figures| figures.snapshot.dirty_bytes) / sum(|figures| figures.snapshot.dirty_lines).max(1.0)
}

/// A comparison in words.
pub(super) fn compared(differences: &Differences) -> String {
    let Differences { rows, views, differences: count_of, lost, duplicated, .. } = differences;
    if differences.is_empty() {
        return format!("verified: {} keys counted {} times, 0 differences", count(*rows), count(*views));
    }
    let first = differences.first.iter().map(|line| format!("\n  {line}")).collect::<String>();
    format!("{count_of} differences: {lost} updates lost, {duplicated} counted too often{first}")
}

fn readable(plan: &StateRun, outcome: &StateOutcome, used: &Usage, limit: Option<&LimitOutcome>) -> Report {
    let StateOutcome { job, checkpoints, .. } = outcome;
    let mut report = Report::new(format!("Keyed running count on {} shard(s)", plan.shards));
    let exchange = if plan.shards > 1 { "full exchange" } else { "nothing to exchange" };
    report.line(
        "keys",
        format!(
            "{} ({}), {} bytes each, {exchange}",
            count(plan.space.keys),
            plan.space.distribution,
            plan.value_bytes
        ),
    );
    let per_s = outcome.updates_per_s();
    if outcome.updates > 0 {
        report.line("throughput", rate(per_s, "updates"));
        let each = per_s / f64::from(plan.shards);
        report.line("per shard", format!("{}, {} ns each", rate(each, "updates"), decimals(1e9 / each, 2)));
    }
    report.line("time", format!("{} s for {} updates", decimals(outcome.seconds, 3), count(outcome.updates)));
    report.line("load", format!("{} s", decimals(outcome.load_s, 3)));
    report.line("checkpoints", checkpoint_line(plan.checkpoint_interval, &job.checkpoints));
    if !checkpoints.is_empty() {
        report.line(
            "snapshot",
            format!(
                "{} dirty lines on {} pages · {} bytes per dirty line · {} written, median of {}",
                count(median(checkpoints, |figures| figures.snapshot.dirty_lines)),
                count(median(checkpoints, |figures| figures.snapshot.dirty_pages)),
                decimals(bytes_per_dirty_line(checkpoints), 1),
                bytes(median(checkpoints, |figures| figures.bytes)),
                checkpoints.len()
            ),
        );
    }
    report.line("snapshot pause", format!("{} µs", quantiles(&job.measured.pause_us, 0, 1.0, &P50_P999)));
    report.line("loop turn", format!("{} µs", quantiles(&job.measured.turn_us, 0, 1.0, &P50_P999)));
    report.line("state", format!("{} of pages in use", bytes(job.measured.state_bytes)));
    if let Some(disk) = &outcome.disk {
        report.line("disk", format!("{} at most, {} at the end", bytes(disk.bytes_max), bytes(disk.bytes_last)));
    }
    let (most, loaded) = (decimals(used.rss_mb, 0), decimals(outcome.rss_loaded_mb, 0));
    report.line("memory", format!("{most} MiB at most, {loaded} after the load, {} major faults", used.major_faults));
    if let Some(restored) = &job.restored {
        report.line(
            "restored",
            format!(
                "epoch {} in {} s, {}: {} read, {} pages",
                job.restored_epoch,
                decimals(restored.took.as_secs_f64(), 3),
                how(&restored.state.how),
                bytes(restored.state.bytes_read),
                count(restored.state.pages as u64)
            ),
        );
    }
    report.line("guarantee", job.guarantee.to_string());
    if job.stopped {
        report.line("stopped", "before the input's end, with a last checkpoint");
    }
    report.line(
        "result",
        match &outcome.differences {
            Some(differences) if outcome.checkpoints_verified > 0 => {
                format!("{} in {} checkpoints", compared(differences), outcome.checkpoints_verified)
            }
            Some(differences) => compared(differences),
            None => "not verified".to_owned(),
        },
    );
    if let Some(limit) = limit {
        let ratio = per_s / limit.events_per_s();
        let by_hand = rate(limit.events_per_s(), "updates");
        report.line("limit", format!("{by_hand} by hand, without an exchange · ratio {}", decimals(ratio, 3)));
    }
    report.line("machine", Machine::probe(&plan.cores).to_string());
    report
}

fn as_json(
    args: &StateArgs,
    plan: &StateRun,
    outcome: &StateOutcome,
    used: &Usage,
    limit: Option<&LimitOutcome>,
) -> Value {
    let StateOutcome { job, checkpoints, .. } = outcome;
    let per_s = outcome.updates_per_s();
    let ns_each = if outcome.updates == 0 { 0.0 } else { 1e9 * f64::from(plan.shards) / per_s };
    json!({
        "job": "state",
        "shards": plan.shards,
        "keys": plan.space.keys,
        "distribution": plan.space.distribution.to_string(),
        "value_bytes": plan.value_bytes,
        "backing": match plan.backing { StateBacking::Anonymous => "anonymous", StateBacking::File(_) => "file" },
        "sink": if plan.files.is_some() { "file" } else { "null" },
        "rate": args.rate,
        "updates": outcome.updates,
        "seconds": outcome.seconds,
        "load_s": outcome.load_s,
        "updates_per_s": per_s,
        "ns_per_update_per_shard": ns_each,
        "verified": outcome.differences.as_ref().map(Differences::is_empty),
        "differences": outcome.differences.as_ref().map_or(0, |differences| differences.differences),
        "checkpoints_verified": outcome.checkpoints_verified,
        "checkpoints": checkpoints_json(plan.checkpoint_interval, &job.checkpoints),
        "pause_us": four(&job.measured.pause_us, 1.0),
        "turn_us": four(&job.measured.turn_us, 1.0),
        "snapshot": {
            "checkpoints": checkpoints.len(),
            "dirty_pages": median(checkpoints, |figures| figures.snapshot.dirty_pages),
            "dirty_lines": median(checkpoints, |figures| figures.snapshot.dirty_lines),
            "dirty_bytes": median(checkpoints, |figures| figures.snapshot.dirty_bytes),
            "swept_bytes": median(checkpoints, |figures| figures.snapshot.swept_bytes),
            "bytes": median(checkpoints, |figures| figures.bytes),
            "bytes_max": checkpoints.iter().map(|figures| figures.bytes).max().unwrap_or(0),
            "bytes_per_dirty_line": bytes_per_dirty_line(checkpoints),
        },
        "disk": outcome.disk.as_ref().map(|disk| json!({
            "bytes_max": disk.bytes_max,
            "bytes_last": disk.bytes_last,
        })),
        "state_bytes": job.measured.state_bytes,
        "restore": job.restored.as_ref().map(|restored| json!({
            "epoch": job.restored_epoch,
            "how": how(&restored.state.how),
            "seconds": restored.took.as_secs_f64(),
            "tables_s": job.measured.restore_us as f64 / 1e6,
            "bytes_read": restored.state.bytes_read,
            "pages": restored.state.pages,
            "entries": restored.state.entries,
            "shards_before": restored.shards_before,
            "pages_moved": restored.state.pages_moved,
            "entries_moved": restored.state.entries_moved,
        })),
        "major_faults": used.major_faults,
        "cpu_s": used.cpu_s,
        "rss_mb": used.rss_mb,
        "rss_loaded_mb": outcome.rss_loaded_mb,
        "limit": limit.map(|limit| json!({
            "events_per_s": limit.events_per_s(),
            "ratio": per_s / limit.events_per_s(),
        })),
        "guarantee": job.guarantee,
    })
}

/// Where a restore had the pages from, in one word.
fn how(how: &How) -> &'static str {
    match how {
        How::Fast { .. } => "fast",
        How::Full { .. } => "full",
    }
}
