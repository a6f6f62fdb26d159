//! `harness checkpoint savepoint`

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use millstream_state::{Savepoint, SavepointReport, StoreConfig};
use serde_json::json;

use super::{Found, PlaceArgs, choose};
use crate::cli::Verdict;
use crate::report::{self, Report, bytes, count};

#[derive(Args, Debug)]
#[command(after_help = "\
The checkpoint must stay while it is read: stop the job first, or ask the job itself for a savepoint. What its sinks had
prepared is kept in the savepoint and committed again by the job that begins there, since nobody here can know whether it
was committed.

Example:
  harness checkpoint savepoint /var/lib/clicks/checkpoints /backup/clicks-2026-11-21")]
pub(super) struct SavepointArgs {
    #[command(flatten)]
    place: PlaceArgs,

    /// Where the savepoint is to be; nothing may have that name
    #[arg(value_name = "PATH")]
    path: PathBuf,

    /// The checkpoint of that epoch, instead of the newest
    #[arg(long, value_name = "N")]
    epoch: Option<u64>,

    /// End with one line of JSON on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &SavepointArgs) -> Result<Verdict> {
    let Found::Checkpoints(store) = Found::at(&args.place.place)? else {
        bail!("{}: this is a savepoint already, and can be copied as it is", args.place.place.display());
    };
    let manifest = choose(&store, args.epoch)?;
    let bar = report::spinner("converting");
    let made = Savepoint::of_checkpoint(&store, &manifest, &args.path, &StoreConfig::default(), false);
    bar.finish_and_clear();
    let SavepointReport { path, epoch, operators, states, entries, files, bytes: size } = made?;
    let mut report = Report::new(format!("savepoint {}", path.display()));
    report.line("epoch", epoch.0.to_string());
    report.line("holds", format!("{} entries of {states} states, {operators} operators", count(entries)));
    report.line("takes", format!("{files} files, {}", bytes(size)));
    report.print();
    if args.json {
        report::print_json(&json!({
            "path": path, "epoch": epoch, "operators": operators, "states": states, "entries": entries,
            "files": files, "bytes": size,
        }));
    }
    Ok(Verdict::Good)
}
