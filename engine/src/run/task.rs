//! A task is one chain on one shard; [`Cx`] is what its stages may ask of the shard.

use std::cell::Cell;
use std::time::Duration;

use millstream_state::{Epoch, PageStore};

use super::fault::Fault;
use super::time_report::SplitReport;
use crate::epoch::Barrier;
use crate::epoch::snapshot::OpenEpoch;
use crate::job::graph::NodeId;
use crate::road::sink::{Committable, SinkFuture};
use crate::time::{BatchClock, Nanos, Timestamp};

/// A step that has taken so long begins nothing more. Rows that cost a microsecond each, or pages that come to be, would make
/// a turn of tens of milliseconds, for which a barrier and all other tasks wait.
const STEP: Duration = Duration::from_micros(500);

/// Whether a step got anywhere; the loop above decides when to sleep.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing to do.
    Idle,
    /// Something was done.
    Worked,
    /// There is work, and no room for its output.
    Blocked,
}

impl Progress {
    /// The stronger of two: worked over blocked over idle.
    pub fn or(self, other: Progress) -> Progress {
        match (self, other) {
            (Progress::Worked, _) | (_, Progress::Worked) => Progress::Worked,
            (Progress::Blocked, _) | (_, Progress::Blocked) => Progress::Blocked,
            _ => Progress::Idle,
        }
    }
}

/// One chain on one shard, stepped by the shard's loop.
pub(crate) trait Task {
    /// Takes what it can within a budget, never waits.
    fn step(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault>;

    /// Sends on what waits for company.
    fn flush(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault>;

    /// Asks a source to put the barrier into its stream; other tasks meet it on their edges.
    fn inject(&mut self, _barrier: Barrier) {}

    /// What a test pushes into this task ends here.
    #[cfg(feature = "testing")]
    fn end_of_input(&mut self) {}

    /// Whether this task is a source's, and its input has ended.
    fn input_ended(&self) -> Option<bool> {
        None
    }

    /// A source's descriptors that wake the shard.
    fn wake_fds(&self) -> Vec<std::os::fd::RawFd> {
        Vec::new()
    }

    /// When an idle source wants to be asked again at the latest, wall time in ms.
    fn wake_at_ms(&self, _now_ms: i64) -> Option<i64> {
        None
    }

    /// Rows a source task has taken in.
    fn rows_in(&self) -> u64 {
        0
    }

    /// Shows the state of every stage.
    fn states(&mut self, visitor: &mut dyn StateVisitor);
}

/// Where the rows of a batch come from, for messages.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) split: std::rc::Rc<str>,
    pub(crate) first: u64,
}

/// What a stage may ask of its shard while it works.
pub struct Cx<'a> {
    /// The split that the current batch was read from.
    pub(crate) split: usize,
    pub(crate) origin: Option<Origin>,
    pub(crate) now_ms: i64,
    pub(crate) skipped_rows: u64,
    /// When a stage wants its turn, or its flush, at the latest, wall time in ms.
    pub(crate) wake_at_ms: Option<i64>,
    current: &'a Cell<NodeId>,
    clock: &'a BatchClock,
    began: Nanos,
    epoch: Option<&'a mut OpenEpoch>,
}

impl std::fmt::Debug for Cx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cx in operator {}, split {}", self.current.get().0, self.split)
    }
}

impl<'a> Cx<'a> {
    pub(crate) fn new(
        now_ms: i64,
        current: &'a Cell<NodeId>,
        clock: &'a BatchClock,
        epoch: Option<&'a mut OpenEpoch>,
    ) -> Cx<'a> {
        let began = clock.now();
        Cx { split: 0, origin: None, now_ms, skipped_rows: 0, wake_at_ms: None, current, clock, began, epoch }
    }

    /// Notes whose code runs, once per batch, so that a panic can be laid at the right door, and that its moment is
    /// another than the last one's.
    #[inline(always)]
    pub(crate) fn enter(&mut self, node: NodeId) {
        self.current.set(node);
        self.clock.forget();
    }

    /// Another task's step begins.
    pub(crate) fn begin(&mut self) {
        self.began = self.clock.now();
    }

    /// Whether the task's step is young enough to begin something more: a batch, or a slice.
    pub(crate) fn has_time(&self) -> bool {
        self.clock.now().since(self.began) < STEP
    }

    /// As [`has_time`](Cx::has_time), after so many batches. Reading the clock costs 25 ns, half a percent of a batch of rows
    /// that cost next to nothing, so it is read after the first two batches and every fourth one.
    #[inline(always)]
    pub(crate) fn has_time_after(&self, batches: usize) -> bool {
        !(batches < 3 || batches.is_multiple_of(4)) || self.has_time()
    }

    /// Asks for a turn at `at_ms` of wall time, should the shard sleep until then; in answer to a flush, for another flush. A
    /// stage asks each time for as long as it wants to be woken.
    pub(crate) fn wake_at(&mut self, at_ms: i64) {
        self.wake_at_ms = Some(self.wake_at_ms.map_or(at_ms, |earlier| earlier.min(at_ms)));
    }

    fn epoch(&mut self) -> &mut OpenEpoch {
        self.epoch.as_deref_mut().expect("a barrier travels only while its epoch is open")
    }

    /// The epoch whose barrier is on the shard's roads, or has been and is still being settled.
    pub(crate) fn open_epoch(&self) -> Option<Epoch> {
        self.epoch.as_ref().map(|epoch| epoch.barrier.epoch)
    }

    /// Freezes an operator's keyed state at the barrier and files its small state.
    pub(crate) fn freeze(&mut self, node: NodeId, store: &mut PageStore, barrier: Barrier, small: serde_json::Value) {
        let epoch = self.epoch();
        epoch.file(node, small);
        epoch.freeze(node, store, barrier.epoch);
    }

    /// Files a source's positions at the barrier.
    pub(crate) fn file(&mut self, node: NodeId, small: serde_json::Value) {
        self.epoch().file(node, small);
    }

    /// Hands over a sink's work of making its epoch durable.
    pub(crate) fn prepare(&mut self, node: NodeId, work: SinkFuture<Committable>) {
        self.epoch().prepare(node, work);
    }

    /// The task has met the barrier with all its stages.
    pub(crate) fn passed(&mut self) {
        self.epoch().passed();
    }

    /// The place of a row of the current batch, in words.
    pub(crate) fn place(&self, origin: Option<usize>) -> String {
        match (&self.origin, origin) {
            (Some(batch), Some(index)) => format!("{}, offset {}", batch.split, batch.first + index as u64),
            (Some(batch), None) => format!("{}, in the batch from offset {}", batch.split, batch.first),
            (None, _) => "behind an exchange".to_string(),
        }
    }
}

/// Sees every piece of state of a task, in the order of the road.
pub trait StateVisitor {
    /// An operator's keyed state.
    fn keyed(&mut self, _node: NodeId, _store: &mut PageStore) {}
    /// A sink's end.
    fn sink(&mut self, _node: NodeId, _sink: &mut dyn SinkEnd) {}
    /// How far time has come where rows are given theirs, and in which splits.
    fn time(&mut self, _node: NodeId, _watermark: Timestamp, _splits: &dyn Fn() -> Vec<SplitReport>) {}
    /// Rows that came too late for their window.
    fn late(&mut self, _rows: u64) {}
}

/// The barrier's side of a sink, without its type.
pub trait SinkEnd {
    /// Makes a prepared epoch visible.
    fn commit(&mut self, committable: Committable) -> SinkFuture<()>;
    /// Says which epoch the restored checkpoint ended.
    fn restored(&mut self, epoch: Epoch);
    /// Brings a fresh writer to the state of a restored checkpoint.
    fn recover(&mut self, committables: Vec<Committable>) -> SinkFuture<()>;
}
