//! One shard's part of an epoch, from the first stage that meets the barrier to the acknowledgement.
//!
//! ```text
//! stages:  file small state · freeze tables · hand over sinks' work      while the barrier travels the tasks
//! turns:   drain frozen tables a chunk at a time ─▶ Upload ─▶ disk       beside the record's road
//! then:    every task passed, every file and sink durable ─▶ Part for the manifest
//! ```

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::task::Poll;

use millstream_state::{
    Chunk, Drained, Epoch, FileRef, OperatorPart, PageStore, Part, SnapshotFile, SnapshotSize, Store, StoreError,
    TablePart,
};

use super::Barrier;
use crate::job::graph::{NodeId, Plan};
use crate::road::sink::{Committable, SinkError, SinkFuture};
use crate::run::io::{IoRoom, Slot};
use crate::run::task::{StateVisitor, Task};

/// Full chunks that may wait for the disk before draining pauses: beyond that the snapshot would grow in memory.
const CHUNKS_WAITING_MAX: usize = 4;

/// An epoch whose barrier is on this shard's roads.
pub(crate) struct OpenEpoch {
    pub(crate) barrier: Barrier,
    io: Rc<IoRoom>,
    small: BTreeMap<NodeId, serde_json::Value>,
    uploads: BTreeMap<NodeId, Upload>,
    prepares: Vec<(NodeId, Slot<Result<Committable, SinkError>>)>,
    tasks_to_pass: usize,
    /// What each operator's snapshot may write beside what changed.
    consolidation_bytes_max: u64,
}

/// What became of a shard's part of an epoch.
pub(crate) struct Closed {
    pub(crate) epoch: Epoch,
    /// New snapshot files, by operator, to be confirmed with the checkpoint.
    pub(crate) files: BTreeMap<NodeId, Option<FileRef>>,
    pub(crate) bytes: u64,
    /// What its records hold, all tables together.
    pub(crate) snapshot: SnapshotSize,
    small: BTreeMap<NodeId, serde_json::Value>,
    chains: BTreeMap<NodeId, TablePart>,
    pub(crate) committables: Vec<(NodeId, Committable)>,
}

impl OpenEpoch {
    pub(crate) fn new(barrier: Barrier, tasks: usize, io: Rc<IoRoom>, consolidation_bytes_max: u64) -> OpenEpoch {
        OpenEpoch {
            barrier,
            io,
            small: BTreeMap::new(),
            uploads: BTreeMap::new(),
            prepares: Vec::new(),
            tasks_to_pass: tasks,
            consolidation_bytes_max,
        }
    }

    pub(crate) fn file(&mut self, node: NodeId, small: serde_json::Value) {
        let twice = self.small.insert(node, small);
        assert!(twice.is_none(), "an operator meets a barrier once");
    }

    pub(crate) fn freeze(&mut self, node: NodeId, keyed: &mut PageStore, epoch: Epoch) {
        let Some(store) = &self.io.store else { return };
        keyed.limit_consolidation(self.consolidation_bytes_max);
        keyed.freeze(epoch);
        let stem = format!("epoch-{:010}-shard-{:04}-operator-{}", epoch.0, self.io.shard, node.0);
        self.uploads.insert(node, Upload::start(&self.io, store.clone(), stem));
    }

    pub(crate) fn prepare(&mut self, node: NodeId, work: SinkFuture<Committable>) {
        self.prepares.push((node, self.io.spawn(work)));
    }

    pub(crate) fn passed(&mut self) {
        assert!(self.tasks_to_pass > 0, "a task passes a barrier once");
        self.tasks_to_pass -= 1;
    }

    /// Moves frozen state towards the disk; true when something moved.
    pub(crate) fn drain(&mut self, tasks: &mut [Box<dyn Task>], bytes_max: usize) -> bool {
        if self.uploads.values().all(|upload| upload.drained) {
            return false;
        }
        let mut visit = DrainVisitor { uploads: &mut self.uploads, bytes_max, moved: false };
        for task in tasks {
            task.states(&mut visit);
        }
        visit.moved
    }

    /// Whether every task has passed and every file and sink has come to an end.
    pub(crate) fn is_settled(&self) -> bool {
        self.tasks_to_pass == 0
            && self.uploads.values().all(|upload| upload.done.is_filled())
            && self.prepares.iter().all(|(_, slot)| slot.is_filled())
    }

    /// The settled epoch's results, or why it failed. Sinks that are prepared stay so either way: their committables
    /// come back in both cases.
    pub(crate) fn close(self, tasks: &mut [Box<dyn Task>]) -> (Closed, Result<(), String>) {
        let mut failure = Ok(());
        let (mut files, mut written) = (BTreeMap::new(), BTreeMap::new());
        for (node, upload) in self.uploads {
            written.insert(node, upload.queue.written.take());
            match upload.done.take() {
                Ok(file) => {
                    files.insert(node, file);
                }
                Err(error) => failure = Err(error.to_string()),
            }
        }
        let mut committables = Vec::new();
        for (node, slot) in self.prepares {
            match slot.take() {
                Ok(committable) => committables.push((node, committable)),
                Err(error) => failure = Err(error.to_string()),
            }
        }
        let mut chains =
            ChainVisitor { files: &files, written, chains: BTreeMap::new(), snapshot: SnapshotSize::default() };
        for task in tasks {
            task.states(&mut chains);
        }
        let ChainVisitor { chains, snapshot, .. } = chains;
        let bytes = files.values().flatten().map(|file| file.bytes).sum();
        (Closed { epoch: self.barrier.epoch, files, bytes, snapshot, small: self.small, chains, committables }, failure)
    }
}

impl Closed {
    /// What the manifest says of this shard. `uncommitted` are all committables that wait for a checkpoint.
    pub(crate) fn part(&self, shard: u32, plan: &Plan, uncommitted: &[(NodeId, Committable)]) -> Part {
        let mut operators: BTreeMap<NodeId, OperatorPart> = BTreeMap::new();
        let nodes = self.small.keys().chain(self.chains.keys()).chain(uncommitted.iter().map(|(node, _)| node));
        for node in nodes {
            operators.entry(*node).or_insert_with(|| OperatorPart {
                uid: plan.uid(*node),
                blob: self.small.get(node).cloned().unwrap_or_default(),
                tables: self.chains.get(node).cloned().into_iter().collect(),
                committables: uncommitted.iter().filter(|(of, _)| of == node).map(|(_, held)| held.clone()).collect(),
            });
        }
        Part { shard, operators: operators.into_values().collect() }
    }
}

struct DrainVisitor<'a> {
    uploads: &'a mut BTreeMap<NodeId, Upload>,
    bytes_max: usize,
    moved: bool,
}

impl StateVisitor for DrainVisitor<'_> {
    fn keyed(&mut self, node: NodeId, keyed: &mut PageStore) {
        let Some(upload) = self.uploads.get_mut(&node) else { return };
        while let Some(chunk) = upload.queue.written.borrow_mut().pop() {
            keyed.give_back(chunk);
        }
        if upload.drained || self.moved || upload.queue.waiting.borrow().len() >= CHUNKS_WAITING_MAX {
            return;
        }
        upload.drained = keyed.drain(self.bytes_max) == Drained::Done;
        while let Some(chunk) = keyed.take_chunk() {
            upload.queue.push(chunk);
        }
        if upload.drained {
            upload.queue.close();
        }
        self.moved = true;
    }
}

struct ChainVisitor<'a> {
    files: &'a BTreeMap<NodeId, Option<FileRef>>,
    /// Chunks that reached the disk when all was drained.
    written: BTreeMap<NodeId, Vec<Chunk>>,
    chains: BTreeMap<NodeId, TablePart>,
    snapshot: SnapshotSize,
}

impl StateVisitor for ChainVisitor<'_> {
    fn keyed(&mut self, node: NodeId, keyed: &mut PageStore) {
        for chunk in self.written.remove(&node).into_iter().flatten() {
            keyed.give_back(chunk);
        }
        let Some(file) = self.files.get(&node) else { return };
        let size = keyed.snapshot_size();
        self.snapshot.dirty_pages += size.dirty_pages;
        self.snapshot.dirty_lines += size.dirty_lines;
        self.snapshot.dirty_bytes += size.dirty_bytes;
        self.snapshot.swept_bytes += size.swept_bytes;
        let (range, states, files) = (keyed.range(), keyed.parts(), keyed.chain(file.as_ref()));
        self.chains.insert(node, TablePart { name: "keyed".into(), range, states, files });
    }
}

/// A checkpoint's end, told to every table of a shard.
pub(crate) enum Verdict<'a> {
    Confirm(&'a BTreeMap<NodeId, Option<FileRef>>),
    Abort,
}

impl StateVisitor for Verdict<'_> {
    fn keyed(&mut self, node: NodeId, keyed: &mut PageStore) {
        match self {
            Verdict::Confirm(files) => {
                if let Some(file) = files.get(&node) {
                    keyed.confirm(file.clone());
                }
            }
            Verdict::Abort => keyed.abort(),
        }
    }
}

/// One table's snapshot on its way to the disk.
struct Upload {
    queue: Rc<ChunkQueue>,
    drained: bool,
    done: Slot<Result<Option<FileRef>, StoreError>>,
}

impl Upload {
    fn start(io: &Rc<IoRoom>, store: Rc<Store>, stem: String) -> Upload {
        let queue = Rc::new(ChunkQueue::default());
        let done = io.spawn(write_file(io.clone(), store, stem, queue.clone()));
        Upload { queue, drained: false, done }
    }
}

/// Writes chunks as they come. A table without a dirty line leaves no file.
async fn write_file(
    io: Rc<IoRoom>,
    store: Rc<Store>,
    stem: String,
    queue: Rc<ChunkQueue>,
) -> Result<Option<FileRef>, StoreError> {
    let Some(mut chunk) = queue.next().await else { return Ok(None) };
    let mut file = SnapshotFile::create(&store, &stem).await?;
    loop {
        // In two steps: a borrow taken before the await would be held across it, while the loop goes on.
        let written = file.write(chunk).await?;
        queue.written.borrow_mut().push(written);
        // A loop with no rows to move sleeps while the queue is full.
        io.ring();
        match queue.next().await {
            Some(next) => chunk = next,
            None => return Ok(Some(file.finish().await?)),
        }
    }
}

/// Chunks between the shard's loop and the task that writes them, on one thread.
#[derive(Default)]
struct ChunkQueue {
    waiting: RefCell<VecDeque<Chunk>>,
    written: RefCell<Vec<Chunk>>,
    closed: Cell<bool>,
    writer: Cell<Option<std::task::Waker>>,
}

impl ChunkQueue {
    fn push(&self, chunk: Chunk) {
        self.waiting.borrow_mut().push_back(chunk);
        self.wake();
    }

    fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    async fn next(&self) -> Option<Chunk> {
        std::future::poll_fn(|cx| match self.waiting.borrow_mut().pop_front() {
            Some(chunk) => Poll::Ready(Some(chunk)),
            None if self.closed.get() => Poll::Ready(None),
            None => {
                self.writer.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}
