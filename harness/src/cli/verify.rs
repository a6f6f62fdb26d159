//! `harness verify`

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;

use super::Verdict;
use crate::report::{self, Report};
use crate::ysb::verify;

#[derive(Args, Debug)]
#[command(after_help = "\
Every event of the log is parsed by serde_json and counted in a map, which shares nothing with the engine; every
committed row must be there once, with that count.

Example:
  harness verify --log /tmp/ads --out /tmp/counts")]
pub(super) struct VerifyArgs {
    /// The log that was read
    #[arg(long, value_name = "DIR")]
    log: PathBuf,

    /// The directory that --sink file wrote
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// End with one line of JSON on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VerifyArgs) -> Result<Verdict> {
    let bar = report::spinner("recounting");
    let differences = verify::compare(&args.log, &args.out);
    bar.finish_and_clear();
    let differences = differences.map_err(|why| anyhow!(why))?;
    let mut report = Report::new("committed output against the log");
    report.line("result", differences.to_string());
    report.print();
    if args.json {
        report::print_json(&json!({
            "verified": differences.is_empty(),
            "windows": differences.rows,
            "views": differences.views,
            "differences": differences.differences,
            "lost": differences.lost,
            "duplicated": differences.duplicated,
        }));
    }
    Ok(if differences.is_empty() { Verdict::Good } else { Verdict::Different })
}
