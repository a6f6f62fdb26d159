//! `harness checkpoint migrate`

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use millstream_state::{JobSchemas, Judged, Manifest, Savepoint, StoreConfig};
use serde_json::json;

use super::{Found, PlaceArgs, choose};
use crate::cli::{UsageError, Verdict};
use crate::report::{self, Report};

#[derive(Args, Debug)]
#[command(after_help = "\
A restore brings state up to date by itself: this says beforehand what it would do, and writes nothing. SCHEMA.json is
what the new job says of itself, printed by it:
  println!(\"{}\", serde_json::to_string(&job.schemas()?)?);
or the manifest of a checkpoint that the new job took elsewhere, or a savepoint of it. Exit status 1 if a restore would be
refused.

Example:
  harness checkpoint migrate /var/lib/clicks/checkpoints --dry-run --to new.json")]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    place: PlaceArgs,

    /// What the new job keeps
    #[arg(long, value_name = "SCHEMA.json")]
    to: PathBuf,

    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,

    /// State without a place in the new job may be left behind
    #[arg(long)]
    allow_dropped: bool,

    /// The checkpoint of that epoch, instead of the newest
    #[arg(long, value_name = "N")]
    epoch: Option<u64>,

    /// End with one line of JSON on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &MigrateArgs) -> Result<Verdict> {
    if !args.dry_run {
        let what = "a restore brings state up to date by itself, and nothing else does: give --dry-run to hear what it would do";
        return Err(UsageError(what.to_owned()).into());
    }
    let wanted = wanted(&args.to)?;
    let stored = match Found::at(&args.place.place)? {
        Found::Checkpoints(store) => JobSchemas::of_manifest(&choose(&store, args.epoch)?),
        Found::Savepoint(savepoint) => JobSchemas::of_savepoint(savepoint.manifest(), &wanted),
    };
    let judged = stored.judge(&wanted);
    let is_allowed = judged.iter().all(|judged| judged.verdict.is_allowed(args.allow_dropped));
    let mut report = Report::new(format!("what a restore of {} would do", args.place.place.display()));
    for Judged { operator, state, verdict } in &judged {
        report.line(&format!("{operator} / {state}"), verdict.to_string());
    }
    let result = if is_allowed { "it would go on" } else { "it would be refused, and nothing changed" };
    report.line("result", result);
    report.print();
    if args.json {
        let state = |judged: &Judged| {
            json!({
                "operator": judged.operator,
                "state": judged.state,
                "verdict": judged.verdict.word(),
                "text": judged.verdict.to_string(),
            })
        };
        let states: Vec<_> = judged.iter().map(state).collect();
        report::print_json(&json!({ "allowed": is_allowed, "states": states }));
    }
    Ok(if is_allowed { Verdict::Good } else { Verdict::Different })
}

/// The schemas in a file: a job's own, a manifest's or a savepoint's.
fn wanted(path: &Path) -> Result<JobSchemas> {
    if Savepoint::is_at(path) {
        let savepoint = Savepoint::open(path, &StoreConfig::default())?;
        return Ok(JobSchemas::of_savepoint(savepoint.manifest(), &JobSchemas::default()));
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if let Ok(manifest) = Manifest::from_bytes(&bytes) {
        return Ok(JobSchemas::of_manifest(&manifest));
    }
    let what = || format!("{}: neither what Job::schemas() says, as JSON, nor a sound manifest", path.display());
    serde_json::from_slice(&bytes).with_context(what)
}
