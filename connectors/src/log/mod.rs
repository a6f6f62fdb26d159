//! A partitioned, replayable log of files: what stands in for Kafka where one machine is enough.
//!
//! ```text
//! DIR/log.json                                         the marker: format version, partitions
//! DIR/partition-00000/00000000000000000000.log         records, appended; the name is the first record's offset
//!                    /00000000000000000000.index       offset → byte, every 64 KiB; rebuilt when in doubt
//!                    /00000000000001048576.log         the next segment, from the offset where the last one ended
//!                    /lock                             held by the partition's one writer
//! ```
//!
//! One writer appends to a partition ([`PartitionWriter`]; a [`LogWriter`] is one for each), any number of readers follow
//! it ([`LogReader`]), and a job reads the whole through [`LogSource`]. The rooms, in the order the bytes meet them:
//! `format` (what a byte means), `writer`, `segment` (one file read forward), `reader` (segment after segment), `watch`
//! (how an idle reader sleeps).
//!
//! # Torn or damaged
//! A writer that dies leaves whole records and then a part of one: the *torn tail*. To a reader that is not there yet, and
//! the next writer cuts it off. Everything else that is no record is *damage*, and an error that names partition, offset
//! and byte. In the last segment the two are told apart by what lies behind: a tail that is no longer than one record can
//! be, and that holds no whole record anywhere, is torn. In any earlier segment there are no torn tails, because a
//! segment is synced before its successor is made.
//!
//! A reader that follows does not judge a record that is merely incomplete, since with a live writer that is every other
//! look: it waits. Should a rotten length have made it incomplete, the damage is found when more has been appended.
//!
//! What the format cannot tell: a last record that rotted after it was synced looks like a torn one. The reader that had
//! already read it notices, because its position is then behind the log's end.

mod format;
mod reader;
mod segment;
mod watch;
mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use millstream::road::rows::Lines;
use millstream::road::source::{Source, SourceError, Split};

pub use format::RECORD_BYTES_MAX;
pub use reader::LogReader;
pub use writer::{LogOptions, LogWriter, PartitionWriter};

use format::{Marker, VERSION};

/// Reads a log as the input of a job: partition `p` belongs to shard `p % shards`, and each partition is a split.
///
/// Bounded unless [`follow`](LogSource::follow) is asked for: it then ends where the log ended when the split was opened.
///
/// ```
/// use millstream::road::source::Source;
/// use millstream_connectors::log::{LogSource, LogWriter};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let temporary = tempfile::tempdir()?;
/// # let dir = temporary.path().join("ads");
/// let mut log = LogWriter::create(&dir, 3)?;
/// log.append(2, b"view")?;
/// log.flush()?;
///
/// let source = LogSource::new(&dir);
/// assert_eq!(source.open(0, 2)?.len(), 2); // partitions 0 and 2
/// assert_eq!(source.open(1, 2)?[0].name(), "partition-00001");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LogSource {
    dir: PathBuf,
    follow: bool,
}

impl LogSource {
    /// The log in `dir`, read to its end.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> LogSource {
        LogSource { dir: dir.into(), follow: false }
    }

    /// At the end, wait for more.
    #[must_use]
    pub fn follow(mut self) -> LogSource {
        self.follow = true;
        self
    }
}

impl Source for LogSource {
    type Batch = Lines;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Lines>>>, SourceError> {
        let open = if self.follow { LogReader::follow } else { LogReader::open };
        (shard..partition_count(&self.dir)?)
            .step_by(shards as usize)
            .map(|partition| Ok(Box::new(open(&self.dir, partition)?) as Box<dyn Split<Batch = Lines>>))
            .collect()
    }

    fn splits_are_fixed(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        let follow = if self.follow { ", followed" } else { "" };
        format!("log {}{follow}", self.dir.display())
    }
}

/// How many partitions the log in `dir` has.
///
/// # Errors
/// When `dir` is missing, holds no log, or lacks one of its partitions.
pub fn partition_count(dir: impl AsRef<Path>) -> Result<u32, LogError> {
    let dir = dir.as_ref();
    let marker = read_marker(dir)?;
    for partition in 0..marker.partitions {
        if !partition_dir(dir, partition).is_dir() {
            return Err(LogError::Unusable(format!(
                "the log {} should have {} partitions, but {} is missing: put it back from wherever the log was copied, \
                 or write the log anew into an empty directory",
                dir.display(),
                marker.partitions,
                partition_name(partition),
            )));
        }
    }
    Ok(marker.partitions)
}

/// Why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The environment: retry or mend.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The data: bytes that cannot be what was written.
    #[error("damaged log: {partition}, offset {offset}, byte {byte}: {what}")]
    Damaged {
        /// The partition's name.
        partition: String,
        /// The offset of the record that should be there.
        offset: u64,
        /// The byte of the segment file at which it should start.
        byte: u64,
        /// The file, and what is wrong with it.
        what: String,
    },
    /// The operator: a path that is no log, a position that is gone, a partition that has its writer.
    #[error("{0}")]
    Unusable(String),
}

impl From<LogError> for SourceError {
    fn from(error: LogError) -> SourceError {
        match error {
            LogError::Io { what, source } => SourceError::Io { what, source },
            LogError::Damaged { partition, offset, byte, what } => {
                SourceError::Damaged { partition, offset, byte, what }
            }
            LogError::Unusable(what) => SourceError::Unusable(what),
        }
    }
}

/// Says what was being done, to whom it failed.
fn doing<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> LogError + use<'a> {
    move |source| LogError::Io { what: format!("{what} {}", path.display()), source }
}

const HOW_TO_MAKE_ONE: &str = "make one with `harness generate ysb --out DIR --events N --partitions P`, \
                               or name a directory that holds one (it has a file log.json)";

/// Reads and believes `log.json`, or says which of the many things `dir` is instead of a log.
fn read_marker(dir: &Path) -> Result<Marker, LogError> {
    let path = dir.join("log.json");
    let shown = dir.display();
    let unusable = |what: &str| LogError::Unusable(format!("{what}: {HOW_TO_MAKE_ONE}"));
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(unusable(&format!("{shown} is a file, and a log is a directory")));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(match fs::read_dir(dir).map(|entries| entries.count()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    unusable(&format!("there is no log at {shown}"))
                }
                Err(error) => doing("cannot list the log directory", dir)(error),
                Ok(0) => unusable(&format!("the directory {shown} is empty and holds no log yet")),
                Ok(_) => unusable(&format!("{shown} is not a log, it has no log.json")),
            });
        }
        Err(error) => return Err(doing("cannot read", &path)(error)),
    };
    // The version is looked at first and alone: a newer build may have changed every other field.
    #[derive(serde::Deserialize)]
    struct Version {
        version: u16,
    }
    let not_a_marker = |error| unusable(&format!("{shown} is not a log: its log.json does not say so ({error})"));
    let Version { version } = serde_json::from_slice(&text).map_err(not_a_marker)?;
    if version != VERSION {
        return Err(LogError::Unusable(format!(
            "the log {shown} has format version {version}, and this build reads version {VERSION}: read it with the build \
             that wrote it, or write the log anew into another directory"
        )));
    }
    serde_json::from_slice(&text).map_err(not_a_marker)
}

fn partition_name(partition: u32) -> String {
    format!("partition-{partition:05}")
}

fn partition_dir(dir: &Path, partition: u32) -> PathBuf {
    dir.join(partition_name(partition))
}

fn segment_path(partition_dir: &Path, base: u64) -> PathBuf {
    partition_dir.join(format!("{base:020}.log"))
}

/// The first offsets of a partition's segments, in order; there is always at least one.
fn segment_bases(partition_dir: &Path) -> Result<Vec<u64>, LogError> {
    let listing = doing("cannot list the partition", partition_dir);
    let names = fs::read_dir(partition_dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>());
    let mut bases: Vec<u64> =
        names.map_err(listing)?.iter().filter_map(|name| name.to_str()?.strip_suffix(".log")?.parse().ok()).collect();
    bases.sort_unstable();
    if bases.is_empty() {
        return Err(LogError::Unusable(format!(
            "{} holds no segment (*.log), though a partition is made with one: its files were removed; {HOW_TO_MAKE_ONE}",
            partition_dir.display()
        )));
    }
    Ok(bases)
}
