//! What comes out of a job under test: a sink that shows rows as they come, and which of them are committed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::road::sink::{Committable, Epoch, Guarantee, Sink, SinkError, SinkFuture, SinkWriter};

/// A sink in memory for tests. Clones are handles to the same rows; of side and late outputs it is the sink as well.
///
/// It has two views. *Uncommitted*: all rows that ever reached it, in the order they came, those that came again after a
/// restore too ([`take`](Collected::take), [`rows`](Collected::rows)). *Committed*: what a reader sees that only believes in
/// checkpoints ([`committed`](Collected::committed)).
///
/// ```
/// use millstream::Timestamp;
/// use millstream::testing::{Collected, Pushed, TestJob};
///
/// let (input, out) = (Pushed::<u64>::new(), Collected::<u64>::new());
/// let (pushed, collected) = (input.clone(), out.clone());
/// let mut job = TestJob::new(1, move |flow| flow.pushed(&pushed).sink(collected.clone()))?;
/// input.push(1, Timestamp(0));
/// let snapshot = job.snapshot()?;
/// input.push(2, Timestamp(0));
/// job.settle()?;
/// assert_eq!((out.rows(), out.committed()), (vec![1, 2], vec![1]));
/// job.restore(&snapshot, 1)?; // as after a crash: what came behind the snapshot comes again
/// job.snapshot()?;
/// assert_eq!((out.rows(), out.committed()), (vec![1, 2, 2], vec![1, 2]));
/// # Ok::<(), millstream::JobError>(())
/// ```
pub struct Collected<T> {
    held: Arc<Mutex<Held<T>>>,
}

struct Held<T> {
    rows: Vec<T>,
    taken: usize,
    /// By epoch and shard.
    prepared: BTreeMap<Part, Vec<T>>,
    committed: BTreeMap<Part, Vec<T>>,
}

/// Whose rows, and the only thing that a manifest keeps of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Part {
    epoch: Epoch,
    shard: u32,
}

impl<T> Clone for Collected<T> {
    fn clone(&self) -> Collected<T> {
        Collected { held: self.held.clone() }
    }
}

impl<T> Default for Collected<T> {
    fn default() -> Collected<T> {
        Collected::new()
    }
}

impl<T> std::fmt::Debug for Collected<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collected({} rows)", self.lock().rows.len())
    }
}

impl<T> Collected<T> {
    /// A sink that holds nothing yet.
    #[must_use]
    pub fn new() -> Collected<T> {
        let held = Held { rows: Vec::new(), taken: 0, prepared: BTreeMap::new(), committed: BTreeMap::new() };
        Collected { held: Arc::new(Mutex::new(held)) }
    }

    fn lock(&self) -> MutexGuard<'_, Held<T>> {
        // Each change is whole before the next can panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Collected<T> {
    /// The rows that came since the last call, committed or not, in the order they came.
    #[must_use]
    pub fn take(&self) -> Vec<T> {
        let held = &mut *self.lock();
        let from = std::mem::replace(&mut held.taken, held.rows.len());
        held.rows[from..].to_vec()
    }

    /// As [`take`](Collected::take), sorted: the order of different keys is nobody's promise.
    #[must_use]
    pub fn take_sorted(&self) -> Vec<T>
    where
        T: Ord,
    {
        let mut rows = self.take();
        rows.sort();
        rows
    }

    /// All rows that ever came, committed or not, in the order they came.
    #[must_use]
    pub fn rows(&self) -> Vec<T> {
        self.lock().rows.clone()
    }

    /// The rows that checkpoints have made visible, epoch by epoch.
    #[must_use]
    pub fn committed(&self) -> Vec<T> {
        self.lock().committed.values().flatten().cloned().collect()
    }
}

impl<T: Clone + Send + 'static> Sink<T> for Collected<T> {
    type Writer = CollectedWriter<T>;

    fn open(&self, shard: u32, shards: u32) -> Result<CollectedWriter<T>, SinkError> {
        Ok(CollectedWriter { sink: self.clone(), shard, shards, restored: None, rows: Vec::new() })
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn describe(&self) -> String {
        "collected".to_owned()
    }
}

/// One shard's end of a [`Collected`].
pub struct CollectedWriter<T> {
    sink: Collected<T>,
    shard: u32,
    shards: u32,
    restored: Option<Epoch>,
    /// Since the last barrier.
    rows: Vec<T>,
}

impl<T> std::fmt::Debug for CollectedWriter<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CollectedWriter(shard {}, {} rows)", self.shard, self.rows.len())
    }
}

impl<T> Held<T> {
    fn commit(&mut self, committable: Committable) -> Result<(), SinkError> {
        let part: Part = serde_json::from_value(committable).map_err(|error| {
            SinkError::Unusable(format!("the snapshot's entry for this sink is not one of a collected one: {error}"))
        })?;
        if let Some(rows) = self.prepared.remove(&part) {
            self.committed.entry(part).or_default().extend(rows);
        }
        Ok(())
    }
}

impl<T: Clone + Send + 'static> SinkWriter<T> for CollectedWriter<T> {
    fn write(&mut self, row: &T) -> Result<(), SinkError> {
        self.rows.push(row.clone());
        self.sink.lock().rows.push(row.clone());
        Ok(())
    }

    fn prepare(&mut self, epoch: Epoch) -> SinkFuture<Committable> {
        let part = Part { epoch, shard: self.shard };
        self.sink.lock().prepared.entry(part).or_default().append(&mut self.rows);
        Box::pin(async move { Ok(serde_json::to_value(part).expect("two numbers are plain JSON")) })
    }

    fn commit(&mut self, committable: Committable) -> SinkFuture<()> {
        let committed = self.sink.lock().commit(committable);
        Box::pin(async move { committed })
    }

    fn restored(&mut self, epoch: Epoch) {
        self.restored = Some(epoch);
    }

    fn recover(&mut self, committables: Vec<Committable>) -> SinkFuture<()> {
        let held = &mut *self.sink.lock();
        let recovered = committables.into_iter().try_for_each(|committable| held.commit(committable));
        let (shard, shards) = (self.shard, self.shards);
        held.prepared.retain(|part, _| part.shard % shards != shard);
        // Back to an older snapshot is a world in which what followed has not happened.
        if let Some(restored) = self.restored {
            held.committed.retain(|part, _| part.epoch <= restored);
        }
        Box::pin(async move { recovered })
    }
}
