//! `harness cases`

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;

use super::Verdict;
use crate::cases::{Outcome, Played, play_file};
use crate::report;

#[derive(Args, Debug)]
#[command(after_help = "\
A file of cases says what a correct stream processor emits: windows, panes, watermarks, barriers, joins, timers, recovery.
Each case is played through the operators that jobs run on, on one thread, without a wall clock. A line a case:

  pass | FAIL | skip  id  reason

and at the end: N passed, N failed, N skipped. What the runner does not know fails, with the field's name; only cases of the
category \"process\" are skipped, where they need code of a user's.

Exit status: 0 nothing failed, 1 a case failed or the file is none, 2 usage.

Example:
  harness cases harness/tests/cases/time.json")]
pub(super) struct CasesArgs {
    /// The file: {\"format_version\":1,\"time_unit\":\"ms\",\"cases\":[..]}
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// End with one line of JSON on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CasesArgs) -> Result<Verdict> {
    let mut played = Vec::new();
    play_file(&args.file, |case| {
        // Whoever closed stdout does not want to know.
        let _ = writeln!(std::io::stdout(), "{case}");
        played.push(case);
    })
    .map_err(|why| anyhow!(why))?;
    let count = |is: fn(&Outcome) -> bool| played.iter().filter(|case| is(&case.outcome)).count();
    let passed = count(|outcome| *outcome == Outcome::Pass);
    let failed = count(|outcome| matches!(outcome, Outcome::Fail(_)));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skip(_)));
    let _ = writeln!(std::io::stdout(), "{passed} passed, {failed} failed, {skipped} skipped");
    if args.json {
        let case = |Played { id, category, outcome }: &Played| {
            let (result, reason) = outcome.words();
            json!({ "id": id, "category": category, "result": result, "reason": reason })
        };
        let cases: Vec<_> = played.iter().map(case).collect();
        report::print_json(&json!({ "passed": passed, "failed": failed, "skipped": skipped, "cases": cases }));
    }
    Ok(if failed == 0 { Verdict::Good } else { Verdict::Different })
}
