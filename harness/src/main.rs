//! `harness`: benchmarks, verification and reports.

use std::process::ExitCode;

fn main() -> ExitCode {
    millstream_harness::cli::main()
}
