//! Where a record's road ends: a [`Sink`] opens a [`SinkWriter`] per shard.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;

use super::chain::{Signal, Stage};
use super::rows::Rows;
use crate::job::graph::{Graph, NodeId};
use crate::run::fault::{Fault, JobError};
use crate::run::task::{Cx, Progress, SinkEnd, StateVisitor};

pub use millstream_state::Epoch;

/// Work of a sink that waits for the disk or a peer. It runs beside the record's road, on the shard's I/O queue.
pub type SinkFuture<T> = Pin<Box<dyn Future<Output = Result<T, SinkError>>>>;

/// What a prepared epoch of one sink on one shard needs to become visible. It is stored in the manifest.
pub type Committable = serde_json::Value;

/// What a sink promises after a crash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guarantee {
    /// Output may be lost.
    AtMostOnce,
    /// Output may be repeated.
    AtLeastOnce,
    /// Committed output is what it would have been without the crash.
    ExactlyOnce,
}

impl std::fmt::Display for Guarantee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Guarantee::AtMostOnce => "at-most-once",
            Guarantee::AtLeastOnce => "at-least-once",
            Guarantee::ExactlyOnce => "exactly-once",
        })
    }
}

/// Where a job writes to. One value describes it; every shard opens its own writer.
pub trait Sink<T>: 'static {
    /// One shard's writer.
    type Writer: SinkWriter<T>;

    /// Opens the writer of `shard` out of `shards`.
    ///
    /// # Errors
    /// What stands in the way, said so that the reader can mend it.
    fn open(&self, shard: u32, shards: u32) -> Result<Self::Writer, SinkError>;

    /// What the sink promises.
    fn guarantee(&self) -> Guarantee;

    /// A short description for plans and logs: `file /data/out`.
    fn describe(&self) -> String;
}

/// One shard's end of a sink.
///
/// # Contract
/// * `recover` comes first and once, with the committables of the checkpoint that is restored (none on a fresh start):
///   they become visible, and whatever else an earlier run left unfinished is thrown away.
/// * Of a checkpoint taken by `p` shards, `recover` of shard `i` out of `q` gets the committables of every shard `j` with
///   `j % q == i`, and answers for what those left unfinished. It may get those of several shards, or none.
/// * `prepare(e)` closes the rows written since the last `prepare`; they stay invisible until `commit`. (Only the
///   connector can know; test it.)
/// * `commit(c)` follows once the checkpoint is durable, and may come twice after a crash. (Checked by `harness chaos`.)
/// * Epochs are prepared in order and committed in order. The committable of an epoch whose checkpoint failed is kept by
///   the engine and committed with the next epoch that completes, so a failed checkpoint asks nothing of a sink.
pub trait SinkWriter<T>: 'static {
    /// Takes one row. Never blocks: bytes are gathered in memory and written behind the road.
    ///
    /// # Errors
    /// Any error fails the job, which restarts from the last checkpoint.
    fn write(&mut self, row: &T) -> Result<(), SinkError>;

    /// False holds the road back: too much is on its way to the disk.
    fn ready(&mut self) -> bool {
        true
    }

    /// Makes the rows since the last call durable but not visible.
    fn prepare(&mut self, epoch: Epoch) -> SinkFuture<Committable>;

    /// Makes a prepared epoch visible; doing it again changes nothing.
    fn commit(&mut self, committable: Committable) -> SinkFuture<()>;

    /// Told before `recover` where the job goes on from a checkpoint: the epoch that it ended. A shard that did not exist
    /// then gets no committables, and is not at the beginning all the same.
    fn restored(&mut self, _epoch: Epoch) {}

    /// Brings a fresh writer to the state of a restored checkpoint.
    fn recover(&mut self, committables: Vec<Committable>) -> SinkFuture<()>;
}

/// Why a sink cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The environment: retry or mend.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The operator: a directory that is a file, output of another job.
    #[error("{0}")]
    Unusable(String),
}

/// The stage at the end of a chain.
pub(crate) struct SinkStage<T, W> {
    end: Written<T, W>,
    node: NodeId,
}

/// A writer and the rows it writes.
struct Written<T, W>(W, PhantomData<fn(&T)>);

impl<T: 'static, W: SinkWriter<T>> SinkStage<T, W> {
    /// Opens the sink's writer on this shard; notes the error if it cannot be opened.
    pub(crate) fn open<S: Sink<T, Writer = W>>(sink: &S, node: NodeId, graph: &mut Graph) -> Option<Self> {
        graph.on_site(|site, plan| {
            let writer = sink
                .open(site.shard, site.config.shards)
                .map_err(|error| JobError::Unusable(format!("sink \"{}\": {error}", plan.uid(node))))?;
            Ok(SinkStage { end: Written(writer, PhantomData), node })
        })
    }
}

impl<T: 'static, W: SinkWriter<T>> Stage<T> for SinkStage<T, W> {
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        for index in 0..rows.len() {
            self.end.0.write(rows.row(index)).map_err(|error| Fault::sink(self.node, error))?;
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if let Signal::Barrier(barrier) = signal {
            cx.enter(self.node);
            let work = self.end.0.prepare(barrier.epoch);
            cx.prepare(self.node, work);
        }
        Ok(())
    }

    fn ready(&mut self) -> bool {
        self.end.0.ready()
    }

    fn resume(&mut self, _cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        Ok(Progress::Idle)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        visitor.sink(self.node, &mut self.end);
    }
}

impl<T: 'static, W: SinkWriter<T>> SinkEnd for Written<T, W> {
    fn commit(&mut self, committable: Committable) -> SinkFuture<()> {
        self.0.commit(committable)
    }

    fn restored(&mut self, epoch: Epoch) {
        self.0.restored(epoch);
    }

    fn recover(&mut self, committables: Vec<Committable>) -> SinkFuture<()> {
        self.0.recover(committables)
    }
}
