//! Committed files against the answer, row by row.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::answer;
use super::query::Query;
use crate::ysb::oracle::Differences;

/// The files that a sink has committed in `dir` and the directories in it. What is pending is not there.
///
/// # Errors
/// When a directory cannot be read.
pub fn committed_files(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let (path, name) = (entry.path(), entry.file_name());
        if name.to_string_lossy().starts_with("part-") {
            files.push(path);
        } else if name != ".pending" && entry.file_type().map_err(unreadable)?.is_dir() {
            files.append(&mut committed_files(&path)?);
        }
    }
    Ok(files)
}

/// Compares what a query committed in `dir` with its answer: a row that is missing is lost, one that is there too often is
/// duplicated. `views` are the events.
///
/// # Errors
/// When a file cannot be read.
pub fn compare(query: Query, events: u64, dir: &Path) -> Result<Differences, String> {
    let mut differences = Differences { views: events, ..Differences::default() };
    // How often each row is there and should not be, or should be and is not.
    let mut surplus: HashMap<String, i64> = HashMap::new();
    answer::rows(query, events, &mut |row| {
        differences.rows += 1;
        *surplus.entry(row).or_default() -= 1;
    });
    for path in committed_files(dir)? {
        let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
        for line in BufReader::new(fs::File::open(&path).map_err(unreadable)?).lines() {
            *surplus.entry(line.map_err(unreadable)?).or_default() += 1;
        }
    }
    surplus.retain(|_, times| *times != 0);
    for (row, times) in surplus {
        let by = times.unsigned_abs();
        let (total, how) =
            if times < 0 { (&mut differences.lost, "lost") } else { (&mut differences.duplicated, "too many") };
        *total += by;
        differences.note(format!("{row}: {by} {how}"));
    }
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_and_what_is_too_many_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut rows = Vec::new();
        answer::rows(Query::Q2, 20_000, &mut |row| rows.push(row));
        let (one, other) = rows.split_at(rows.len() / 2);
        let deeper = dir.path().join("dt=2015-07-15");
        fs::create_dir_all(deeper.join(".pending")).unwrap();
        fs::write(dir.path().join("part-00000-000000000001.txt"), one.join("\n") + "\n").unwrap();
        fs::write(deeper.join("part-00000-000000000002.txt"), other.join("\n") + "\n").unwrap();
        fs::write(deeper.join(".pending/part-no"), "1|2\n").unwrap();
        let found = || compare(Query::Q2, 20_000, dir.path()).unwrap();
        assert_eq!((found().differences, found().rows), (0, rows.len() as u64));
        fs::write(deeper.join("part-00000-000000000002.txt"), other[1..].join("\n") + "\n1|2\n").unwrap();
        let Differences { differences, lost, duplicated, .. } = found();
        assert_eq!((differences, lost, duplicated), (2, 1, 1));
    }
}
