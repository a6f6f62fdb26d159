//! Where a record's road begins: a [`Source`] opens splits, a [`Split`] is read batch by batch.

use std::os::fd::RawFd;

use super::rows::Batch;
use super::then::Then;

/// What a job reads from. One value describes the whole input; every shard opens its own splits of it.
/// `examples/src/bin/ysb_small.rs` makes one in forty lines.
///
/// # Contract
/// * The splits of all shards together are the input, each exactly once. (Only the source can know; test it.)
/// * After `seek(p)`, `poll` yields the same rows as it did the first time from `p`. (Checked by `harness chaos`.)
/// * A position belongs to one split: a checkpoint with a position that no split claims, or two do, is refused. (Checked
///   at the start.)
pub trait Source: 'static {
    /// The container that a split fills: `Vec<T>`, or [`Lines`](super::rows::Lines) for raw bytes.
    type Batch: Batch;

    /// Opens the splits that belong to `shard` out of `shards`; none is fine.
    ///
    /// # Errors
    /// What stands in the way, said so that the reader can mend it.
    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Self::Batch>>>, SourceError>;

    /// Whether the splits of all shards together are the same ones however many shards there are, as a log's partitions.
    ///
    /// It decides what becomes of them when a job goes on with another number of shards. The same splits are dealt out
    /// anew: each goes on from its position wherever it is read now. Otherwise, as by default, the job keeps the splits it
    /// began with: `open(share, shares)` is asked for each of the shares there were, and whole shares are dealt out.
    fn splits_are_fixed(&self) -> bool {
        false
    }

    /// A short description for plans and logs: `log /data/ads`.
    fn describe(&self) -> String;

    /// This source to its end, and then the other: backfill, then live.
    ///
    /// Every shard goes over by itself once its own splits of the first source have ended. Splits of the second are opened
    /// at once and read from where they stand then, so open them where the first ends: what is in both comes twice. They
    /// have no say in the watermark before they begin, and from then on they hold it back until they speak or are idle.
    ///
    /// ```
    /// use millstream::{Items, Job, Source};
    /// # use millstream_connectors::memory::MemorySink;
    /// # let sink = MemorySink::new();
    /// # let rows = sink.clone();
    /// Job::new("all", move |flow| {
    ///     flow.source(Items::of(vec![1, 2, 3]).then(Items::of(vec![4, 5]))).sink(sink.clone());
    /// })
    /// .run()?;
    /// assert_eq!(rows.rows(), [1, 2, 3, 4, 5]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    fn then<B: Source<Batch = Self::Batch>>(self, second: B) -> Then<Self, B>
    where
        Self: Sized,
    {
        Then { first: self, second }
    }
}

/// One ordered, replayable part of a source: a partition, a file, a generator's stride.
pub trait Split {
    /// As [`Source::Batch`].
    type Batch: Batch;

    /// A name that is unique in the source and stable across restarts; the position in a checkpoint is filed under it.
    fn name(&self) -> String;

    /// Appends up to `rows_max` rows to the empty batch `out`. Never blocks.
    ///
    /// # Errors
    /// A damaged or unreadable input: the job fails and restarts under its restart strategy.
    fn poll(&mut self, out: &mut Self::Batch, rows_max: usize) -> Result<Polled, SourceError>;

    /// The offset of the next row: `seek` with it continues exactly here.
    fn position(&self) -> u64;

    /// Moves so that the next row polled is the one at `position`.
    ///
    /// # Errors
    /// When the input no longer holds that position.
    fn seek(&mut self, position: u64) -> Result<(), SourceError>;

    /// A descriptor that becomes readable when an idle split may have more (an inotify descriptor, a socket).
    /// The shard reads and drops the bytes; without one it asks again every 100 ms.
    fn wake_fd(&self) -> Option<RawFd> {
        None
    }

    /// How many rows are known to wait behind the position, where that is known.
    fn pending(&self) -> Option<u64> {
        None
    }
}

/// What a poll brought.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polled {
    /// Rows were appended; there may be more.
    Rows,
    /// Nothing now, perhaps later: see [`Split::wake_fd`].
    Idle,
    /// Nothing now; ask again at this wall time (ms), as an open-loop generator that is ahead of its schedule.
    IdleUntilMs(i64),
    /// Nothing yet, and time is not to wait for it: the split begins where others of its source have ended. The shard does not
    /// wake for its sake.
    NotBegun,
    /// Nothing any more: the split is bounded and has been read to its end.
    End,
}

/// Why a source cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The environment: retry or mend.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The data: bytes that cannot be what was written.
    #[error("damaged input: partition {partition}, offset {offset}, byte {byte}: {what}")]
    Damaged {
        /// The split's name.
        partition: String,
        /// The record's offset in it.
        offset: u64,
        /// The byte in the file at which the record starts.
        byte: u64,
        /// What was wrong.
        what: String,
    },
    /// The operator: a path that is not a log, a position that is gone.
    #[error("{0}")]
    Unusable(String),
}

/// Rows that are already in memory, dealt out to the shards in turn: for tests, examples and small tables.
///
/// ```
/// let source = millstream::Items::of(vec!["a", "b", "c"]);
/// ```
#[derive(Clone, Debug)]
pub struct Items<T> {
    rows: std::sync::Arc<[T]>,
}

impl<T> Items<T> {
    /// A source of these rows.
    #[must_use]
    pub fn of(rows: Vec<T>) -> Items<T> {
        Items { rows: rows.into() }
    }
}

impl<T: Clone + 'static> Source for Items<T> {
    type Batch = Vec<T>;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<T>>>>, SourceError> {
        Ok(vec![Box::new(Deal { rows: self.rows.clone(), shard: shard as usize, shards: shards as usize, dealt: 0 })])
    }

    fn describe(&self) -> String {
        format!("items {}", std::any::type_name::<T>())
    }
}

/// One shard's share of the rows: those that its turn in the deal brings it.
struct Deal<T> {
    rows: std::sync::Arc<[T]>,
    shard: usize,
    shards: usize,
    dealt: usize,
}

impl<T: Clone + 'static> Split for Deal<T> {
    type Batch = Vec<T>;

    fn name(&self) -> String {
        format!("share-{:04}", self.shard)
    }

    fn poll(&mut self, out: &mut Vec<T>, rows_max: usize) -> Result<Polled, SourceError> {
        let rest = self.rows.iter().skip(self.shard + self.dealt * self.shards).step_by(self.shards);
        out.extend(rest.take(rows_max).cloned());
        self.dealt += out.len();
        Ok(if out.is_empty() { Polled::End } else { Polled::Rows })
    }

    fn position(&self) -> u64 {
        self.dealt as u64
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.dealt = position as usize;
        Ok(())
    }
}
