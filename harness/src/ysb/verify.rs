//! Committed output against the input, both read from disk.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use millstream::road::rows::{Batch, Lines};
use millstream_connectors::log::{LogReader, partition_count};

use super::dataset::Dataset;
use super::event::UuidText;
use super::generate::Population;
use super::oracle::{CampaignName, Differences, LineOracle, Oracle};
use super::result::ResultRow;

/// Every row of the committed files in `dir`, whatever their order. What is pending is not there.
///
/// # Errors
/// One paragraph that names the file and line.
pub fn committed_rows<C: CampaignName>(dir: &Path) -> Result<Vec<(C, i64, u64)>, String> {
    let unreadable = |error: std::io::Error| {
        format!("the output directory {} cannot be read: {error}. Name one that --sink file wrote", dir.display())
    };
    let mut rows = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_part = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-"));
        if !is_part {
            continue;
        }
        let file = fs::File::open(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let place = || format!("{}, line {}", path.display(), number + 1);
            let line = line.map_err(|error| format!("{}: {error}", place()))?;
            let row: ResultRow<String> = line.parse().map_err(|error| format!("{}: {error}", place()))?;
            let campaign =
                C::parse(&row.campaign).ok_or_else(|| format!("{}: `{}` is no campaign", place(), row.campaign))?;
            rows.push((campaign, row.window_start_ms, row.count));
        }
    }
    Ok(rows)
}

/// What a line that is no event does to the recount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadLines {
    /// It counts nowhere: the job left it out as well.
    PassOver,
    /// It ends the recount.
    Refuse,
}

/// Counts every event of a log the slow way.
///
/// # Errors
/// One paragraph that names partition and offset.
pub fn oracle_of_log(log: &Path, population: &Population, bad_lines: BadLines) -> Result<Oracle, String> {
    let mut oracle = LineOracle::new(*population);
    let mut lines = Lines::default();
    for partition in 0..partition_count(log).map_err(|error| error.to_string())? {
        let mut reader = LogReader::open(log, partition).map_err(|error| error.to_string())?;
        loop {
            lines.clear();
            let first = reader.offset();
            if reader.read(&mut lines, 4096).map_err(|error| error.to_string())? == 0 {
                break;
            }
            for row in 0..lines.len() {
                match oracle.add(lines.row(row)) {
                    Err(error) if bad_lines == BadLines::Refuse => {
                        return Err(format!("partition {partition}, offset {}: {error}", first + row as u64));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(oracle.finish())
}

/// Compares the committed files in `out` with a recount of the log.
///
/// # Errors
/// When one of them cannot be read.
pub fn compare(log: &Path, out: &Path) -> Result<Differences, String> {
    let dataset = Dataset::load(log)?;
    let rows = committed_rows::<UuidText>(out)?;
    Ok(oracle_of_log(log, &dataset.events.population, BadLines::Refuse)?.compare(rows, 1))
}
