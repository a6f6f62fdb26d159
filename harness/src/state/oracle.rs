//! The slow obvious answer: an array of counts by the key's number, and what checkpoints and files are compared with it.
//!
//! It knows no hash, no page and no engine. How many updates each shard's source had made is what a checkpoint says
//! itself, so every checkpoint has an answer of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use millstream_state::{Epoch, Manifest, Namespace, PageStore, Part, Store, Table, TableConfig};

use super::counts::Counts;
use crate::keys::{self, KeySpace, KeyStream, Share};
use crate::ysb::oracle::Differences;
use millstream::Aggregate;

/// The names under which a run's source and count are filed in its checkpoints.
pub(super) const SOURCE: &str = "keys";
pub(super) const COUNT: &str = "count";

/// Sizes of accumulators that can be asked for, in bytes.
pub const VALUE_BYTES: [u32; 6] = [8, 16, 32, 64, 128, 256];

/// Every key's count, as far as it has been counted.
#[derive(Debug)]
pub struct Oracle {
    shards: Vec<Counted>,
    /// By the key's number.
    counts: Vec<u64>,
}

#[derive(Debug)]
struct Counted {
    share: Share,
    stream: KeyStream,
    position: u64,
}

impl Oracle {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(space: &KeySpace, shards: u32) -> Oracle {
        let counted = (0..shards).map(|shard| {
            let share = space.share(shard, shards);
            Counted { stream: space.stream(&share), share, position: 0 }
        });
        Oracle { shards: counted.collect(), counts: vec![0; space.all(shards) as usize] }
    }

    /// Counts on until each shard's source has made so many rows: each of its keys once, then updates.
    ///
    /// # Panics
    /// When a source stood further already.
    pub fn count_to(&mut self, positions: &[u64]) {
        let mut numbers = [0; 4096];
        for (counted, to) in self.shards.iter_mut().zip(positions) {
            assert!(counted.position <= *to, "an oracle counts on, not back");
            while counted.position < *to {
                let Counted { share, stream, position } = counted;
                let loading = *position < share.keys;
                let until = if loading { share.keys.min(*to) } else { *to };
                let numbers = &mut numbers[..(until - *position).min(4096) as usize];
                if loading {
                    (*position..).zip(&mut *numbers).for_each(|(next, number)| *number = next);
                } else {
                    stream.numbers(*position - share.keys, numbers);
                }
                for number in &*numbers {
                    self.counts[share.number(*number) as usize] += 1;
                }
                *position += numbers.len() as u64;
            }
        }
    }

    /// The counts, by the key's number.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Compares what was found of each key.
    pub(super) fn compare(&self, what: &str, found: impl Fn(u64) -> u64, differences: &mut Differences) {
        for (number, expected) in (0..).zip(&self.counts) {
            let found = found(number);
            differences.rows += 1;
            differences.views += expected;
            if found != *expected {
                differences.lost = differences.lost.saturating_add(expected.saturating_sub(found));
                differences.duplicated = differences.duplicated.saturating_add(found.saturating_sub(*expected));
                differences.note(format!("{what}, key number {number}: expected {expected}, found {found}"));
            }
        }
    }
}

/// What looking at checkpoints came to.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// How many were restored and compared.
    pub checkpoints: u64,
    /// The newest one's epoch.
    pub epoch: u64,
    /// Where each shard's source stood in it.
    pub positions: Vec<u64>,
    /// What is wrong with any of them.
    pub differences: Differences,
}

/// Restores every checkpoint in `dir`, one after the other, and compares its counts with those of the updates that its
/// sources had made.
///
/// # Errors
/// One paragraph: which checkpoint cannot be restored, and why.
pub fn check(dir: &Path, space: &KeySpace, shards: u32, value_bytes: u32) -> Result<Checked, String> {
    let store = Store::open(dir).map_err(|error| error.to_string())?;
    let mut oracle = Oracle::new(space, shards);
    let mut checked = Checked::default();
    for epoch in epochs(dir)? {
        let path = store.manifest_path(Epoch(epoch));
        let unreadable = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let bytes = fs::read(&path).map_err(|error| unreadable(&error))?;
        let manifest = Manifest::from_bytes(&bytes).map_err(|error| unreadable(&error))?;
        let positions = positions(&manifest, shards).map_err(|why| unreadable(&why))?;
        let mut found = vec![0; oracle.counts.len()];
        for part in &manifest.parts {
            let differences = &mut checked.differences;
            let add = |key: u64, count: u64| match keys::number(key).and_then(|at| found.get_mut(at as usize)) {
                // A key that two shards hold is counted twice, and shows.
                Some(place) => *place = u64::saturating_add(*place, count),
                None => differences.note(format!("epoch {epoch}: key {key} was never put in")),
            };
            read_table(&store, part, value_bytes, add).map_err(|why| unreadable(&why))?;
        }
        oracle.count_to(&positions);
        let mut differences = Differences::default();
        oracle.compare(&format!("epoch {epoch}"), |number| found[number as usize], &mut differences);
        add(&mut checked.differences, differences);
        checked.checkpoints += 1;
        checked.epoch = epoch;
        checked.positions = positions;
    }
    if checked.checkpoints == 0 {
        return Err(format!("{} holds no checkpoint to compare", dir.display()));
    }
    Ok(checked)
}

/// Adds the differences of a comparison; keys and updates are those of the newest.
pub(crate) fn add(into: &mut Differences, mut more: Differences) {
    more.differences += into.differences;
    more.lost = more.lost.saturating_add(into.lost);
    more.duplicated = more.duplicated.saturating_add(into.duplicated);
    let mut first = std::mem::take(&mut into.first);
    first.append(&mut more.first);
    first.truncate(Differences::SHOWN_MAX);
    *into = Differences { first, ..more };
}

/// The epochs that have a manifest, ascending.
fn epochs(dir: &Path) -> Result<Vec<u64>, String> {
    let entries = fs::read_dir(dir).map_err(|error| format!("{} cannot be read: {error}", dir.display()))?;
    let epoch_of = |name: &str| name.strip_prefix("manifest-")?.strip_suffix(".json")?.parse().ok();
    let mut epochs: Vec<u64> =
        entries.flatten().filter_map(|entry| epoch_of(&entry.file_name().to_string_lossy())).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

/// Where each shard's source stood.
fn positions(manifest: &Manifest, shards: u32) -> Result<Vec<u64>, String> {
    if manifest.shards != shards {
        return Err(format!("it is of {} shards, not of {shards}", manifest.shards));
    }
    let mut positions = vec![0; shards as usize];
    for part in &manifest.parts {
        let source = part.operators.iter().find(|operator| operator.uid == SOURCE);
        let filed = source.and_then(|source| source.blob["positions"].as_object()).into_iter().flatten();
        for (split, position) in filed {
            let shard = split.strip_prefix("keys-").and_then(|rest| rest.split('-').next()?.parse::<usize>().ok());
            let place = shard.and_then(|shard| positions.get_mut(shard));
            let place = place.ok_or_else(|| format!("`{split}` is no split of this run"))?;
            *place = position.as_u64().ok_or_else(|| format!("`{position}` is no position"))?;
        }
    }
    Ok(positions)
}

/// Restores one shard's counts and shows them.
fn read_table(store: &Store, part: &Part, value_bytes: u32, add: impl FnMut(u64, u64)) -> Result<(), String> {
    match value_bytes {
        8 => read_counts::<1>(store, part, add),
        16 => read_counts::<2>(store, part, add),
        32 => read_counts::<4>(store, part, add),
        64 => read_counts::<8>(store, part, add),
        128 => read_counts::<16>(store, part, add),
        256 => read_counts::<32>(store, part, add),
        other => Err(format!("accumulators of {other} bytes cannot be read: their sizes are {VALUE_BYTES:?}")),
    }
}

fn read_counts<const WORDS: usize>(store: &Store, part: &Part, mut add: impl FnMut(u64, u64)) -> Result<(), String> {
    let operator = part.operators.iter().find(|operator| operator.uid == COUNT);
    let Some(table) = operator.and_then(|operator| operator.tables.first()) else { return Ok(()) };
    let config = TableConfig { operator: COUNT.to_owned(), shard: part.shard, ..TableConfig::default() };
    let config = TableConfig { range: table.range, ..config };
    let mut pages = PageStore::new(config).map_err(|error| error.to_string())?;
    let counts: Table<u64, [u64; WORDS]> = pages.table("accumulators");
    pages.restore(store, std::slice::from_ref(table)).map_err(|error| error.to_string())?;
    counts.scan(Namespace(0), |key, words| add(*key, Counts::<WORDS>.finish(words)));
    Ok(())
}

/// Compares committed files, to which every `every`-th count of each key was written, with the counts.
///
/// # Errors
/// One paragraph that names the file and line.
pub fn compare_files(dir: &Path, every: u64, counts: &[u64]) -> Result<Differences, String> {
    let mut lines = committed(dir)?;
    lines.sort_unstable();
    let mut lines = lines.into_iter().peekable();
    let mut differences = Differences::default();
    for (number, count) in (0..).zip(counts) {
        for nth in 1..=count / every {
            let due = (number, nth * every);
            while let Some(line) = lines.next_if(|line| *line < due) {
                differences.duplicated += 1;
                differences.note(format!("key number {}: count {} is there and should not be", line.0, line.1));
            }
            differences.rows += 1;
            if lines.next_if_eq(&due).is_none() {
                differences.lost += 1;
                differences.note(format!("key number {number}: count {} is missing", due.1));
            }
        }
    }
    for (number, count) in lines {
        differences.duplicated += 1;
        differences.note(format!("key number {number}: count {count} is there and should not be"));
    }
    Ok(differences)
}

/// Every line of the committed files: a key's number and its count.
fn committed(dir: &Path) -> Result<Vec<(u64, u64)>, String> {
    let unreadable = |error: std::io::Error| format!("the output directory {} cannot be read: {error}", dir.display());
    let mut lines = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if !entry.file_name().to_string_lossy().starts_with("part-") {
            continue;
        }
        let path = entry.path();
        let file = fs::File::open(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        for (nth, line) in (1..).zip(BufReader::new(file).lines()) {
            let wrong = |why: &dyn std::fmt::Display| format!("{}, line {nth}: {why}", path.display());
            let line = line.map_err(|error| wrong(&error))?;
            let pair =
                line.split_once('\t').and_then(|(number, count)| Some((number.parse().ok()?, count.parse().ok()?)));
            lines.push(pair.ok_or_else(|| wrong(&format_args!("`{line}` is no count of a key")))?);
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Distribution;

    const SPACE: KeySpace = KeySpace { keys: 10, distribution: Distribution::Uniform, seed: 4 };

    #[test]
    fn counting_on_is_counting_at_once() {
        let mut at_once = Oracle::new(&SPACE, 2);
        at_once.count_to(&[9_000, 7]);
        let mut on = Oracle::new(&SPACE, 2);
        for positions in [[3, 0], [3, 2], [5, 5], [6, 7], [8_999, 7], [9_000, 7]] {
            on.count_to(&positions);
            assert_eq!(on.counts().iter().sum::<u64>(), positions.iter().sum::<u64>());
        }
        assert_eq!(on.counts(), at_once.counts());
        // After the load of the first shard alone, each of its keys has been seen once.
        let mut loaded = Oracle::new(&SPACE, 2);
        loaded.count_to(&[5, 0]);
        assert_eq!(loaded.counts(), [1, 0, 1, 0, 1, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn what_is_lost_or_there_twice_shows() {
        let dir = tempfile::tempdir().unwrap();
        let compare = |text: &str| {
            fs::write(dir.path().join("part-00000-000000000001.txt"), text).unwrap();
            let differences = compare_files(dir.path(), 2, &[5, 1, 2]).unwrap();
            (differences.lost, differences.duplicated)
        };
        assert_eq!(compare("2\t2\n0\t4\n0\t2\n"), (0, 0));
        assert_eq!(compare("2\t2\n0\t4\n"), (1, 0));
        assert_eq!(compare("2\t2\n0\t4\n0\t4\n0\t2\n"), (0, 1));
        assert_eq!(compare("2\t2\n0\t4\n1\t2\n0\t2\n"), (0, 1));
        assert_eq!(compare("2\t2\n0\t4\n0\t2\n9\t2\n0\t3\n"), (0, 2));
        fs::write(dir.path().join("part-00000-000000000001.txt"), "2").unwrap();
        assert!(compare_files(dir.path(), 2, &[]).unwrap_err().contains("line 1: `2` is no count"));
    }
}
