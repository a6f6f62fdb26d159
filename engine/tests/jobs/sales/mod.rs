//! The job that these tests run again and again: sales per shop and second, from a source that can be paced and made to
//! fail, into files, beside the slow and obvious answer.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream::{
    Clock, Count, Job, Max, Polled, RestartStrategy, Source, SourceError, Split, Sum, Timestamp, Tumbling, Watermarks,
    Windowed,
};
use millstream_connectors::file::FileSink;

/// One sale; everything about it follows from its number.
#[millstream::event]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sale {
    pub(crate) number: u64,
    pub(crate) shop: u64,
    pub(crate) at_ms: i64,
    pub(crate) cents: i64,
}

impl Sale {
    pub(crate) fn number(number: u64) -> Sale {
        let mix = |x: u64| (x ^ (x >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 7;
        Sale {
            number,
            shop: mix(number) % 997,
            at_ms: (number / 10) as i64,
            cents: (mix(number + 1) % 1000) as i64 - 300,
        }
    }
}

/// The slow twin: no watermarks, no shards, no batches. One line per shop and second, sorted.
pub(crate) fn oracle(sales: u64) -> Vec<String> {
    let mut windows: BTreeMap<(u64, i64), (u64, i64, i64)> = BTreeMap::new();
    for sale in (0..sales).map(Sale::number) {
        let window = windows.entry((sale.shop, sale.at_ms / 1000 * 1000)).or_insert((0, 0, i64::MIN));
        *window = (window.0 + 1, window.1 + sale.cents, window.2.max(sale.cents));
    }
    let lines =
        windows.into_iter().map(|((shop, start), (count, sum, max))| format!("{shop},{start},{count},{sum},{max}"));
    let mut lines: Vec<String> = lines.collect();
    lines.sort_unstable();
    lines
}

/// A moment in a stream of sales that comes once, whichever shard meets it and however often the stream is replayed.
#[derive(Clone, Debug)]
pub(crate) struct Once(Arc<AtomicU64>);

impl Once {
    pub(crate) fn at(sale: u64) -> Once {
        Once(Arc::new(AtomicU64::new(sale)))
    }

    /// True for the first time that this sale is seen.
    pub(crate) fn is(&self, sale: u64) -> bool {
        self.0.load(Ordering::Relaxed) == sale && self.0.swap(u64::MAX, Ordering::Relaxed) == sale
    }
}

/// Sales `0..sales`, dealt out to the shards in turn, one split each.
#[derive(Clone, Debug)]
pub(crate) struct Sales {
    pub(crate) sales: u64,
    /// Sales of a split per millisecond of wall time; zero: as fast as they go.
    pub(crate) pace: u64,
    /// Sales from this number on are not there yet.
    pub(crate) gate: Arc<AtomicU64>,
    /// The split that is about to read this sale answers with an error instead.
    pub(crate) trip: Option<Once>,
}

impl Sales {
    pub(crate) fn of(sales: u64) -> Sales {
        Sales { sales, pace: 0, gate: Arc::new(AtomicU64::new(u64::MAX)), trip: None }
    }
}

impl Source for Sales {
    type Batch = Vec<Sale>;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<Sale>>>>, SourceError> {
        let clock = Clock::system();
        let begun_ms = clock.wall_ms();
        let sales = self.clone();
        Ok(vec![Box::new(Share {
            sales,
            shard: shard.into(),
            shards: shards.into(),
            next: 0,
            polled: 0,
            begun_ms,
            clock,
        })])
    }

    fn describe(&self) -> String {
        format!("{} sales", self.sales)
    }
}

struct Share {
    sales: Sales,
    shard: u64,
    shards: u64,
    next: u64,
    polled: u64,
    begun_ms: i64,
    clock: Clock,
}

impl Split for Share {
    type Batch = Vec<Sale>;

    fn name(&self) -> String {
        format!("share-{}", self.shard)
    }

    fn poll(&mut self, out: &mut Vec<Sale>, rows_max: usize) -> Result<Polled, SourceError> {
        let now_ms = self.clock.wall_ms();
        let gate = self.sales.gate.load(Ordering::Relaxed);
        let mut rows = rows_max as u64;
        if self.sales.pace > 0 {
            rows = rows.min(((now_ms - self.begun_ms) as u64 * self.sales.pace).saturating_sub(self.polled));
            if rows == 0 {
                return Ok(Polled::IdleUntilMs(now_ms + 1));
            }
        }
        for _ in 0..rows {
            let number = self.next * self.shards + self.shard;
            if number >= self.sales.sales {
                return Ok(if out.is_empty() { Polled::End } else { Polled::Rows });
            }
            if number >= gate {
                return Ok(if out.is_empty() { Polled::IdleUntilMs(now_ms + 1) } else { Polled::Rows });
            }
            if self.sales.trip.as_ref().is_some_and(|trip| trip.is(number)) {
                let source = io::Error::other("the cable was pulled");
                return Err(SourceError::Io { what: format!("cannot read sale {number}"), source });
            }
            out.push(Sale::number(number));
            self.next += 1;
            self.polled += 1;
        }
        Ok(Polled::Rows)
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.next = position;
        Ok(())
    }
}

/// The job: sales per shop and second into files of `out`. `look` is shown every sale, `show` every line.
pub(crate) fn job(
    source: Sales,
    out: &Path,
    look: impl Fn(&Sale) + Clone + Send + Sync + 'static,
    show: impl Fn(&str) + Clone + Send + Sync + 'static,
) -> Job {
    let out = out.to_owned();
    Job::new("sales", move |flow| {
        let (look, show) = (look.clone(), show.clone());
        flow.source(source.clone())
            .named("till")
            .map(move |sale| {
                look(sale);
                *sale
            })
            .named("look")
            .event_time(|sale| Timestamp(sale.at_ms), Watermarks::monotonic())
            .key_by(|sale| sale.shop)
            .window(Tumbling::of(Duration::from_secs(1)))
            .aggregate((Count, Sum::of(|sale: &Sale| sale.cents), Max::of(|sale: &Sale| sale.cents)))
            .named("per-shop")
            .map(move |row: &Windowed<u64, (u64, i64, i64)>| {
                let (count, sum, max) = row.value;
                let line = format!("{},{},{count},{sum},{max}", row.key, row.window.start.0);
                show(&line);
                line
            })
            .named("print")
            .sink(FileSink::lines(&out, |line: &String, bytes: &mut Vec<u8>| bytes.extend_from_slice(line.as_bytes())));
    })
    .restart(RestartStrategy { initial: Duration::from_millis(1), max: Duration::from_millis(1), attempts: 3 })
}

/// A place for checkpoints and output.
pub(crate) struct Place {
    dir: PathBuf,
    _gone_with_the_test: Option<tempfile::TempDir>,
}

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        Place { dir: dir.path().to_owned(), _gone_with_the_test: Some(dir) }
    }

    /// A place that another process made.
    pub(crate) fn at(dir: impl Into<PathBuf>) -> Place {
        Place { dir: dir.into(), _gone_with_the_test: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// All committed lines, sorted.
    pub(crate) fn lines(&self) -> Vec<String> {
        lines(&self.out())
    }

    /// The epochs that have a manifest, in order.
    pub(crate) fn epochs(&self) -> Vec<u64> {
        let names = names(&self.checkpoints());
        names.iter().filter_map(|name| name.strip_prefix("manifest-")?.strip_suffix(".json")?.parse().ok()).collect()
    }

    pub(crate) fn manifest(&self, epoch: u64) -> PathBuf {
        self.checkpoints().join(format!("manifest-{epoch:020}.json"))
    }

    /// Forgets the output committed after `epoch`, as if the machine had stopped there.
    pub(crate) fn forget_output_after(&self, epoch: u64) {
        for name in names(&self.out()) {
            if epoch_of(&name).is_some_and(|of| of > epoch) {
                fs::remove_file(self.out().join(name)).unwrap();
            }
        }
    }

    /// The newest epoch with output of its own.
    pub(crate) fn newest_output(&self) -> u64 {
        names(&self.out()).iter().filter_map(|name| epoch_of(name)).max().unwrap()
    }

    /// Everything there is: each file's name and bytes.
    pub(crate) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut contents = BTreeMap::new();
        let mut open = vec![self.dir.clone()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    open.push(entry);
                } else {
                    let bytes = fs::read(&entry).unwrap();
                    contents.insert(entry, bytes);
                }
            }
        }
        contents
    }

    /// Makes the files be what `contents` says, and no others.
    pub(crate) fn put_back(&self, contents: &BTreeMap<PathBuf, Vec<u8>>) {
        for path in self.contents().into_keys() {
            fs::remove_file(path).unwrap();
        }
        for (path, bytes) in contents {
            fs::write(path, bytes).unwrap();
        }
    }
}

/// The epoch in whose commit the file `part-SHARD-EPOCH.txt` got its name; `None` for any other file.
fn epoch_of(name: &str) -> Option<u64> {
    name.strip_prefix("part-").and_then(|rest| rest[6..18].parse().ok())
}

/// The lines that a file sink has committed to `dir`, sorted.
pub(crate) fn lines(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for name in names(dir).iter().filter(|name| name.starts_with("part-")) {
        lines.extend(fs::read_to_string(dir.join(name)).unwrap().lines().map(str::to_owned));
    }
    lines.sort_unstable();
    lines
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Compares line by line, and says where they part instead of printing thousands of lines.
#[track_caller]
pub(crate) fn assert_same(got: &[String], expected: &[String], what: &str) {
    let part = got.iter().zip(expected).position(|(got, expected)| got != expected);
    let index = part.unwrap_or(got.len().min(expected.len()));
    assert!(
        part.is_none() && got.len() == expected.len(),
        "{what}: {} lines, expected {}; line {index} is {:?} and should be {:?}",
        got.len(),
        expected.len(),
        got.get(index),
        expected.get(index)
    );
}
