//! `harness nexmark`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::figures::{checkpoint_line, checkpoints_json};
use super::pairs::{Quotients, alternate};
use super::values::{DurationOrOff, duration_or_off, on_off, positive_count, small_count};
use super::{ShardArgs, UsageError, Verdict};
use crate::machine::{Machine, allowed_cores};
use crate::nexmark::byhand::{self, ByHand};
use crate::nexmark::query::Query;
use crate::nexmark::run::{Lines, NexmarkOutcome, NexmarkRun, Told, run as run_query};
use crate::report::{self, Report, count, decimals, rate};

/// Inputs up to this size are verified unless told otherwise: the slow answer takes about as long as the run.
const VERIFIED_UP_TO: u64 = 5_000_000;

#[derive(Args, Clone, Debug)]
#[command(after_help = format!("\
Events are people, auctions and bids, one, three and 46 of 50, ten a millisecond of event time, the same for every number
of shards. Rows are lines of fields joined by `|`; their checksum, the sum of the FNV-1a hashes of all lines modulo 2⁶⁴,
does not depend on their order.

Queries:
{}
  q6 is left out.

Examples:
  harness nexmark --query q5                         hot auctions, 1M events, verified
  harness nexmark --query all --events 200k --json   each query, one line of JSON each
  harness nexmark --query q3 --out /tmp/q3.txt       the rows in a file
  harness nexmark --query q0 --compare --shards 1    next to the hand-written loop", known()))]
pub(super) struct NexmarkArgs {
    /// Which query: q0 to q22, or all
    #[arg(long, value_name = "Q", value_parser = which)]
    query: Which,

    /// How many events
    #[arg(long, value_name = "N", default_value = "1M", value_parser = positive_count)]
    events: u64,

    #[command(flatten)]
    shards: ShardArgs,

    /// Write all rows to this file, one a line, in any order
    #[arg(long, value_name = "FILE", conflicts_with_all = ["parts", "checkpoint_dir"])]
    out: Option<PathBuf>,

    /// Write rows to files in this directory as they are committed, exactly once: they outlive the process
    #[arg(long, value_name = "DIR")]
    parts: Option<PathBuf>,

    /// Take not more than so many events a second [default: as fast as it goes]
    #[arg(long, value_name = "R", value_parser = positive_count)]
    rate: Option<u64>,

    /// Time between checkpoints, or off
    #[arg(long, value_name = "D", default_value = "1s", value_parser = duration_or_off)]
    checkpoint_interval: DurationOrOff,

    /// Where checkpoints are kept, a directory or s3://BUCKET/PREFIX; a run continues from the newest one there [default: a
    /// fresh temporary directory]
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,

    /// Fold on the sending shard before the exchange, where a query can: on or off
    #[arg(long, default_value = "on", value_parser = on_off, action = clap::ArgAction::Set)]
    combine: bool,

    /// Compute the rows once more, the slow way, and compare [default: up to 5M events]
    #[arg(long, overrides_with = "no_verify")]
    verify: bool,

    /// Do not compute them again
    #[arg(long)]
    no_verify: bool,

    /// Alternate with the hand-written loop over the same events and print the ratio: for queries without state
    #[arg(long)]
    compare: bool,

    /// With --compare: how many pairs are counted, after one that is not
    #[arg(long, value_name = "N", default_value = "5", value_parser = small_count)]
    pairs: u32,

    /// End with one line of JSON on stdout, for each query
    #[arg(long)]
    json: bool,
}

/// One query, or all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Which {
    One(Query),
    All,
}

fn which(text: &str) -> Result<Which, String> {
    if text == "all" { Ok(Which::All) } else { text.parse().map(Which::One) }
}

/// The queries and what they do, one a line.
fn known() -> String {
    let lines = Query::ALL.iter().map(|query| format!("  {:<4} {}", query.name(), query.what()));
    lines.collect::<Vec<_>>().join("\n")
}

impl NexmarkArgs {
    /// The run of one query that was asked for.
    fn plan(&self, query: Query) -> NexmarkRun {
        let cores = self.shards.cores.as_ref().map_or_else(Vec::new, |cores| cores.0.clone());
        let all_cores = || if cores.is_empty() { allowed_cores().len() } else { cores.len() } as u32;
        NexmarkRun {
            query,
            events: self.events,
            rate: self.rate,
            shards: self.shards.shards.unwrap_or_else(all_cores),
            cores,
            lines: match (&self.out, &self.parts) {
                (Some(file), _) => Lines::File(file.clone()),
                (None, Some(dir)) => Lines::Parts(dir.clone()),
                (None, None) => Lines::Dropped,
            },
            checkpoint_interval: self.checkpoint_interval.duration(),
            checkpoint_dir: self.checkpoint_dir.clone(),
            combine: self.combine,
            verify: self.verify || (!self.no_verify && self.events <= VERIFIED_UP_TO),
        }
    }
}

pub(super) fn run(args: &NexmarkArgs) -> Result<Verdict> {
    let queries = match args.query {
        Which::One(query) => vec![query],
        Which::All if args.out.is_some() || args.parts.is_some() || args.checkpoint_dir.is_some() => {
            let why = "--out, --parts and --checkpoint-dir are for one query, and this is all of them: name one";
            return Err(UsageError(why.to_owned()).into());
        }
        Which::All => Query::ALL.to_vec(),
    };
    if let (true, Which::One(query)) = (args.compare, args.query)
        && !byhand::is_there(query)
    {
        let with = Query::ALL.iter().filter(|query| byhand::is_there(**query)).map(|query| query.name());
        let with = with.collect::<Vec<_>>().join(", ");
        return Err(UsageError(format!("there is no hand-written loop of {query}: --compare goes with {with}")).into());
    }
    let mut verdict = Verdict::Good;
    for query in queries {
        let plan = args.plan(query);
        let cores = if args.compare && byhand::is_there(query) { Some(args.shards.one_core_each()?) } else { None };
        let bar = report::progress(query.name(), plan.events);
        let outcome = run_query(&plan, &mut |told| match told {
            Told::Events(events) => bar.set_position(events),
            Told::Verifying => bar.set_message(format!("{query}: computing the rows once more")),
        })?;
        bar.finish_and_clear();
        let beside = match cores {
            Some(cores) => compare(&plan, args.pairs, &cores)?,
            None => None,
        };
        readable(&plan, &outcome, beside.as_ref()).print();
        if args.json {
            report::print_json(&as_json(&plan, &outcome, beside.as_ref()));
        }
        let differs =
            outcome.verified() == Some(false) || beside.is_some_and(|beside| beside.by_hand.rows != outcome.rows);
        if differs {
            verdict = Verdict::Different;
        }
    }
    Ok(verdict)
}

/// The hand-written loop, and what is left of its throughput on the engine.
struct Beside {
    by_hand: ByHand,
    ratio: Quotients,
}

/// Alternates with the query's hand-written loop, on a core for each shard; none where there is no such loop.
fn compare(plan: &NexmarkRun, pairs: u32, cores: &[usize]) -> Result<Option<Beside>> {
    let plan = NexmarkRun { lines: Lines::Dropped, checkpoint_dir: None, verify: false, ..plan.clone() };
    let Some(by_hand) = byhand::run(plan.query, plan.events, cores) else { return Ok(None) };
    let by_hand_per_s = || byhand::run(plan.query, plan.events, cores).map_or(0.0, |by_hand| by_hand.events_per_s());
    let ratio = alternate(pairs, || Ok(run_query(&plan, &mut |_| {})?.job.events_per_s()), || Ok(by_hand_per_s()))?;
    Ok(Some(Beside { by_hand, ratio }))
}

fn readable(plan: &NexmarkRun, outcome: &NexmarkOutcome, beside: Option<&Beside>) -> Report {
    let NexmarkOutcome { job, rows, .. } = outcome;
    let measured = &job.measured;
    let mut report = Report::new(format!("Nexmark {}, {}, on {} shard(s)", plan.query, plan.query.what(), plan.shards));
    if measured.events_in > 0 {
        let seconds = decimals(job.elapsed.as_secs_f64(), 3);
        report.line("events", format!("{} in {seconds} s", count(measured.events_in)));
        report.line("throughput", rate(job.events_per_s(), "events"));
    }
    report.line("rows", count(rows.rows));
    report.line("checksum", rows.fnv_text());
    report.line("late", format!("{} rows", count(measured.late)));
    report.line("checkpoints", checkpoint_line(plan.checkpoint_interval, &job.checkpoints));
    report.line("guarantee", job.guarantee.to_string());
    if job.restored_epoch > 0 {
        report.line("continued", format!("from the checkpoint of epoch {}", job.restored_epoch));
    }
    for why in &job.restarts {
        report.line("restarted", why.clone());
    }
    if job.stopped {
        report.line("stopped", "before the input's end, with a last checkpoint");
    }
    report.line(
        "result",
        match (outcome.verified(), &outcome.answer) {
            (Some(false), Some(answer)) => format!("DIFFERENT from the slow answer, which has {answer}"),
            (Some(_), _) => "the same as the slow answer's".to_owned(),
            (None, _) => "not verified".to_owned(),
        },
    );
    if let Some(Beside { by_hand, ratio: Quotients { median, min, max, pairs } }) = beside {
        let same = if by_hand.rows == *rows { "" } else { ", OTHER ROWS" };
        report.line("by hand", format!("{}{same}", rate(by_hand.events_per_s(), "events")));
        let [median, min, max] = [median, min, max].map(|ratio| decimals(*ratio, 3));
        report.line("ratio", format!("median {median} · min {min} · max {max} of {pairs} pairs"));
    }
    report.line("machine", Machine::probe(&plan.cores).to_string());
    report
}

fn as_json(plan: &NexmarkRun, outcome: &NexmarkOutcome, beside: Option<&Beside>) -> Value {
    let NexmarkOutcome { job, rows, .. } = outcome;
    json!({
        "query": plan.query.name(),
        "events": job.measured.events_in,
        "seconds": job.elapsed.as_secs_f64(),
        "events_per_s": job.events_per_s(),
        "rows": rows.rows,
        "fnv_sum": rows.fnv_text(),
        "shards": plan.shards,
        "late": job.measured.late,
        "verified": outcome.verified(),
        "restored_epoch": job.restored_epoch,
        "checkpoints": checkpoints_json(plan.checkpoint_interval, &job.checkpoints),
        "guarantee": job.guarantee,
        "by_hand": beside.map(|beside| json!({
            "events_per_s": beside.by_hand.events_per_s(),
            "ratio": beside.ratio.as_json(),
        })),
    })
}
