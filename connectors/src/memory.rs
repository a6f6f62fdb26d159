//! Sinks without a system behind them: [`MemorySink`] shows committed rows to other threads, [`NullSink`] counts them.
//!
//! Both are exactly-once for as long as the process lives, restarts of the job in it included: what a memory sink has
//! prepared is kept beside the shards, as a file sink's rows are on its disk.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millstream::road::sink::{Committable, Epoch, Guarantee, Sink, SinkError, SinkFuture, SinkWriter};

/// Keeps committed rows in memory, in the order of the commits. Clones are handles to the same rows.
///
/// ```
/// use millstream_connectors::memory::MemorySink;
///
/// let sink = MemorySink::<String>::new();
/// let rows = sink.clone(); // one goes into the job, the other one looks
/// assert!(rows.is_empty());
/// ```
pub struct MemorySink<T> {
    held: Arc<Mutex<Held<T>>>,
}

/// All rows of all shards.
struct Held<T> {
    /// Epoch by epoch, as they were handed over: a commit moves no row.
    committed: Vec<Vec<T>>,
    /// Epochs are committed in order, so the newest one says which were.
    newest: BTreeMap<u32, Epoch>,
    prepared: BTreeMap<(u32, Epoch), Vec<T>>,
}

impl<T> MemorySink<T> {
    /// A sink that holds nothing yet.
    #[must_use]
    pub fn new() -> MemorySink<T> {
        let held = Held { committed: Vec::new(), newest: BTreeMap::new(), prepared: BTreeMap::new() };
        MemorySink { held: Arc::new(Mutex::new(held)) }
    }

    /// The committed rows so far.
    #[must_use]
    pub fn rows(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.lock().committed.concat()
    }

    /// How many rows are committed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().committed.iter().map(Vec::len).sum()
    }

    /// Nothing is committed yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Held<T>> {
        // Each change below is whole before the next can panic, so a poisoned lock still guards a consistent value.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Held<T> {
    fn commit(&mut self, prepared: Prepared) -> Result<(), SinkError> {
        let Prepared { shard, epoch, rows } = prepared;
        if self.newest.get(&shard).is_some_and(|newest| epoch <= *newest) {
            return Ok(());
        }
        let held = self.prepared.remove(&(shard, epoch)).unwrap_or_default();
        if held.len() as u64 != rows {
            return Err(SinkError::Unusable(format!(
                "the memory sink no longer has the {rows} rows of shard {shard} in epoch {}: they went with the process that \
                 prepared them; use a file sink where a job must outlive its process, or start without a checkpoint",
                epoch.0
            )));
        }
        self.committed.push(held);
        self.newest.insert(shard, epoch);
        Ok(())
    }

    /// Commits what was prepared, and forgets the rest, of all shards that `ours` says yes to.
    fn recover(
        &mut self,
        ours: impl Fn(u32) -> bool,
        restored: Option<Epoch>,
        prepared: Vec<Prepared>,
    ) -> Result<(), SinkError> {
        let restored = prepared.iter().map(|prepared| prepared.epoch).chain(restored).max();
        let is_ahead = |newest: Epoch| restored.is_none_or(|restored| newest > restored);
        if let Some((shard, newest)) = self.newest.iter().find(|(shard, newest)| ours(**shard) && is_ahead(**newest)) {
            return Err(SinkError::Unusable(format!(
                "the memory sink holds rows of shard {shard} up to epoch {}, and the job starts {}: going on would repeat \
                 them; give each run a sink of its own",
                newest.0,
                restored.map_or("from the beginning".to_owned(), |epoch| format!("behind epoch {}", epoch.0))
            )));
        }
        prepared.into_iter().try_for_each(|prepared| self.commit(prepared))?;
        self.prepared.retain(|(of, _), _| !ours(*of));
        Ok(())
    }
}

/// What the manifest keeps of an epoch; the rows stay here.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Prepared {
    shard: u32,
    epoch: Epoch,
    rows: u64,
}

impl Prepared {
    fn parse(committable: Committable) -> Result<Prepared, SinkError> {
        serde_json::from_value(committable).map_err(|error| {
            SinkError::Unusable(format!(
                "the checkpoint's entry for this sink is not one of a memory sink ({error}): start from a checkpoint that \
                 this job wrote, or from none"
            ))
        })
    }
}

impl<T: Send + Clone + 'static> Sink<T> for MemorySink<T> {
    type Writer = MemoryWriter<T>;

    fn open(&self, shard: u32, shards: u32) -> Result<MemoryWriter<T>, SinkError> {
        Ok(MemoryWriter { sink: self.clone(), shard, shards, restored: None, rows: Vec::new() })
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

/// One shard's end of a [`MemorySink`].
pub struct MemoryWriter<T> {
    sink: MemorySink<T>,
    shard: u32,
    shards: u32,
    restored: Option<Epoch>,
    rows: Vec<T>,
}

impl<T> MemoryWriter<T> {
    fn set_aside(&mut self, epoch: Epoch) -> Result<Committable, SinkError> {
        // The next epoch is likely to have as many.
        let room = Vec::with_capacity(self.rows.len());
        let rows = std::mem::replace(&mut self.rows, room);
        let prepared = Prepared { shard: self.shard, epoch, rows: rows.len() as u64 };
        if self.sink.lock().prepared.insert((self.shard, epoch), rows).is_some() {
            return Err(SinkError::Unusable(
                "two steps of the job write to the same memory sink: give each one of its own".to_owned(),
            ));
        }
        Ok(serde_json::to_value(prepared).expect("a committable is plain JSON"))
    }
}

impl<T: Send + Clone + 'static> SinkWriter<T> for MemoryWriter<T> {
    fn write(&mut self, row: &T) -> Result<(), SinkError> {
        self.rows.push(row.clone());
        Ok(())
    }

    fn prepare(&mut self, epoch: Epoch) -> SinkFuture<Committable> {
        let prepared = self.set_aside(epoch);
        Box::pin(async move { prepared })
    }

    fn commit(&mut self, committable: Committable) -> SinkFuture<()> {
        let sink = self.sink.clone();
        Box::pin(async move { sink.lock().commit(Prepared::parse(committable)?) })
    }

    fn restored(&mut self, epoch: Epoch) {
        self.restored = Some(epoch);
    }

    fn recover(&mut self, committables: Vec<Committable>) -> SinkFuture<()> {
        let (sink, shard, shards, restored) = (self.sink.clone(), self.shard, self.shards, self.restored);
        Box::pin(async move {
            let prepared = committables.into_iter().map(Prepared::parse).collect::<Result<_, _>>()?;
            sink.lock().recover(|of| of % shards == shard, restored, prepared)
        })
    }
}

/// Drops all rows and counts the committed ones. Clones are handles to the same count.
///
/// Unlike [`MemorySink`] it outlives its process: a committable holds the whole count.
#[derive(Clone, Default, Debug)]
pub struct NullSink {
    newest_by_shard: Arc<Mutex<BTreeMap<u32, Counted>>>,
}

impl NullSink {
    /// A sink that has counted nothing yet.
    #[must_use]
    pub fn new() -> NullSink {
        NullSink::default()
    }

    /// How many rows are committed.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.lock().values().map(|counted| counted.rows_total).sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Counted>> {
        self.newest_by_shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the manifest keeps for a null sink: the rows of the shard up to this epoch, all runs together.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Counted {
    shard: u32,
    epoch: Epoch,
    rows_total: u64,
}

impl Counted {
    fn parse(committable: Committable) -> Result<Counted, SinkError> {
        serde_json::from_value(committable).map_err(|error| {
            SinkError::Unusable(format!(
                "the checkpoint's entry for this sink is not one of a null sink ({error}): start from a checkpoint that \
                 this job wrote, or from none"
            ))
        })
    }
}

impl<T: 'static> Sink<T> for NullSink {
    type Writer = NullWriter;

    fn open(&self, shard: u32, shards: u32) -> Result<NullWriter, SinkError> {
        Ok(NullWriter { sink: self.clone(), shard, shards, rows_total: Rc::default() })
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn describe(&self) -> String {
        "null".to_owned()
    }
}

/// One shard's end of a [`NullSink`].
#[derive(Debug)]
pub struct NullWriter {
    sink: NullSink,
    shard: u32,
    shards: u32,
    rows_total: Rc<Cell<u64>>,
}

impl<T: 'static> SinkWriter<T> for NullWriter {
    #[inline]
    fn write(&mut self, _row: &T) -> Result<(), SinkError> {
        self.rows_total.set(self.rows_total.get() + 1);
        Ok(())
    }

    fn prepare(&mut self, epoch: Epoch) -> SinkFuture<Committable> {
        let counted = Counted { shard: self.shard, epoch, rows_total: self.rows_total.get() };
        let committable = serde_json::to_value(counted).expect("a committable is plain JSON");
        Box::pin(async move { Ok(committable) })
    }

    fn commit(&mut self, committable: Committable) -> SinkFuture<()> {
        let sink = self.sink.clone();
        Box::pin(async move {
            let counted = Counted::parse(committable)?;
            let mut newest = sink.lock();
            // A commit that comes again may be of an epoch before the newest.
            if newest.get(&counted.shard).is_none_or(|newest| newest.epoch < counted.epoch) {
                newest.insert(counted.shard, counted);
            }
            Ok(())
        })
    }

    fn recover(&mut self, committables: Vec<Committable>) -> SinkFuture<()> {
        let (sink, shard, shards, rows_total) =
            (self.sink.clone(), self.shard, self.shards, Rc::clone(&self.rows_total));
        Box::pin(async move {
            // The newest of each shard whose count goes on here, all of them together.
            let mut newest = BTreeMap::<u32, Counted>::new();
            for committable in committables {
                let counted = Counted::parse(committable)?;
                let of_shard = newest.entry(counted.shard).or_insert(counted);
                if of_shard.epoch < counted.epoch {
                    *of_shard = counted;
                }
            }
            let epoch = newest.values().map(|counted| counted.epoch).max().unwrap_or(Epoch(0));
            let counted = Counted { shard, epoch, rows_total: newest.values().map(|counted| counted.rows_total).sum() };
            rows_total.set(counted.rows_total);
            let mut by_shard = sink.lock();
            by_shard.retain(|of, _| of % shards != shard);
            by_shard.insert(shard, counted);
            Ok(())
        })
    }
}

impl<T> Clone for MemorySink<T> {
    fn clone(&self) -> MemorySink<T> {
        MemorySink { held: Arc::clone(&self.held) }
    }
}

impl<T> Default for MemorySink<T> {
    fn default() -> MemorySink<T> {
        MemorySink::new()
    }
}

/// Rows may be many and need not be printable: only their number is shown.
impl<T> fmt::Debug for MemorySink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySink").field("rows", &self.len()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for MemoryWriter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryWriter")
            .field("shard", &self.shard)
            .field("rows", &self.rows.len())
            .finish_non_exhaustive()
    }
}
