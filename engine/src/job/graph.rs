//! The job as a graph: its operators for people and checkpoints, its tasks for the shard.
//!
//! The closure given to [`Job::new`](crate::Job::new) runs once for planning, where only the operators are noted, and
//! once on every shard, where the same words build tasks. Both must give the same graph; its fingerprint says whether.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use millstream_network::{Receiver, Sender};
use millstream_state::{
    Backing, DeclaredState, HashRange, How, JobSchemas, Manifest, OperatorPart, OperatorSchemas, PageStore,
    RestoreError, Restored, Savepoint, Store, TableConfig, TablePart,
};

use super::config::{Config, StateBacking};
use crate::road::pacing::Pace;
use crate::road::sink::Guarantee;
use crate::run::fault::JobError;
use crate::run::io::IoRoom;
use crate::run::task::Task;
use crate::time::BatchClock;

/// An operator's place in the graph: the order in which the job's closure named it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub(crate) u32);

/// One operator as the job's author sees it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: &'static str,
    /// Types, sizes, paths: what must be the same for a checkpoint to fit.
    pub(crate) detail: String,
    pub(crate) name: Option<String>,
    pub(crate) input: Option<NodeId>,
    /// A second one, where two streams meet.
    pub(crate) also: Option<NodeId>,
    /// The states it declares, in words; for people alone.
    pub(crate) notes: Vec<String>,
    /// A sink's promise.
    pub(crate) guarantee: Option<Guarantee>,
    /// The states it keeps; none where it does not say so while planning.
    pub(crate) states: Option<Vec<DeclaredState>>,
}

/// The operators of a job.
#[derive(Clone, Default, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: Vec<Node>,
    pub(crate) edges: u32,
}

impl Plan {
    pub(crate) fn add(&mut self, kind: &'static str, detail: String, input: Option<NodeId>) -> NodeId {
        let (notes, guarantee, states) = (Vec::new(), None, None);
        self.nodes.push(Node { kind, detail, name: None, input, also: None, guarantee, notes, states });
        NodeId(self.nodes.len() as u32 - 1)
    }

    /// The stable name under which the operator's state is kept: the one it was given, or one made of its place.
    pub(crate) fn uid(&self, node: NodeId) -> String {
        let index = node.0 as usize;
        self.nodes[index].name.clone().unwrap_or_else(|| format!("{}-{index}", self.nodes[index].kind))
    }

    /// FNV-1a over the graph's text.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.lines()
            .concat()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }

    /// The states of its operators, as far as these say.
    pub(crate) fn schemas(&self, job: &str) -> JobSchemas {
        let nodes = self.nodes.iter().enumerate();
        let operators = nodes.filter_map(|(index, node)| {
            Some(OperatorSchemas { uid: self.uid(NodeId(index as u32)), states: node.states.clone()? })
        });
        JobSchemas { job: job.to_owned(), operators: operators.collect() }
    }

    /// What the job promises: the weakest of its sinks.
    pub(crate) fn guarantee(&self) -> Guarantee {
        self.nodes.iter().filter_map(|node| node.guarantee).min().unwrap_or(Guarantee::ExactlyOnce)
    }

    /// What is wrong with the plan, if anything.
    pub(crate) fn check(&self) -> Result<(), JobError> {
        if !self.nodes.iter().any(|node| node.kind == "sink") {
            return Err(JobError::Unusable(
                "the job has no sink, so nothing would run: end every stream with .sink(..)".into(),
            ));
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let uid = self.uid(NodeId(index as u32));
            let twin = (0..index).find(|other| self.uid(NodeId(*other as u32)) == uid);
            if let Some(twin) = twin {
                return Err(JobError::Unusable(format!(
                    "operators {twin} and {index} are both named \"{uid}\": a name must be unique, since state is kept under it"
                )));
            }
            let follows = |other: &Node| other.input == node.input || other.also == node.input;
            let is_main = |other: &Node| follows(other) && other.kind != "side";
            if node.kind == "side" && !self.nodes.iter().any(is_main) {
                return Err(JobError::Unusable(format!(
                    "nothing comes behind \"{}\" but its side outputs, so it would not run: end its main stream with .sink(..)",
                    node.input.map_or(String::new(), |input| self.uid(input))
                )));
            }
            if matches!(node.kind, "window" | "interval_join" | "window_join" | "co_group" | "as_of" | "dedup")
                && !self.has_event_time(NodeId(index as u32))
            {
                return Err(JobError::Unusable(format!(
                    "{} \"{uid}\" needs event time, and nothing before it gives any: put .event_time(|e| .., Watermarks::..) before .key_by(..)",
                    node.kind
                )));
            }
        }
        Ok(())
    }

    /// Whether all rows that reach the operator have an event time.
    fn has_event_time(&self, node: NodeId) -> bool {
        let Node { kind, input, also, .. } = &self.nodes[node.0 as usize];
        // Time does not wait for a broadcast that has none.
        let also = also.filter(|_| !matches!(*kind, "connect_broadcast" | "join_broadcast"));
        input.is_some() && input.iter().chain(&also).all(|upstream| self.gives_event_time(*upstream))
    }

    /// Whether all rows that the operator hands on have an event time.
    pub(crate) fn gives_event_time(&self, node: NodeId) -> bool {
        matches!(self.nodes[node.0 as usize].kind, "event_time" | "window") || self.has_event_time(node)
    }
}

impl Plan {
    /// The graph's text, an operator a line.
    fn lines(&self) -> Vec<String> {
        let line = |index: usize, node: &Node| {
            let detail = if node.detail.is_empty() { String::new() } else { format!(" {}", node.detail) };
            let input = node.input.map_or(String::new(), |input| format!(" <- {}", self.uid(input)));
            format!("{index:>3} {}: {}{detail}{input}\n", self.uid(NodeId(index as u32)), node.kind)
        };
        self.nodes.iter().enumerate().map(|(index, node)| line(index, node)).collect()
    }
}

/// The graph's text, and the states below their operators.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (line, node) in self.lines().iter().zip(&self.nodes) {
            f.write_str(line)?;
            node.notes.iter().try_for_each(|note| writeln!(f, "      {note}"))?;
        }
        Ok(())
    }
}

/// What one shard has to build its tasks with; absent while planning.
pub(crate) struct Site {
    pub(crate) shard: u32,
    pub(crate) config: Arc<Config>,
    pub(crate) store: Option<Rc<Store>>,
    /// Where what has to wait is awaited.
    pub(crate) io: Rc<IoRoom>,
    pub(crate) restored: Option<Arc<Manifest>>,
    /// Where the keyed state of `restored` is, if that is no checkpoint.
    pub(crate) savepoint: Option<Arc<Savepoint>>,
    /// What filling the operators' pages took so far.
    pub(crate) taken: Cell<Restored>,
    /// This shard's ends of every edge, in the order the edges are named.
    pub(crate) edges: Vec<EdgeEnds>,
    /// And how long, µs.
    pub(crate) taken_us: Cell<u64>,
}

/// One shard's ends of one edge, indexed by the shard at the other end.
pub(crate) struct EdgeEnds {
    pub(crate) to: Vec<Sender>,
    pub(crate) from: Vec<Receiver>,
}

/// A graph in the making.
pub struct Graph {
    pub(crate) plan: Plan,
    pub(crate) site: Option<Site>,
    pub(crate) tasks: Vec<Box<dyn Task>>,
    /// What the job's closures read; told of each batch.
    pub(crate) clock: BatchClock,
    /// What the sources of the chain that is being attached keep to.
    pub(crate) pace: Option<Pace>,
    pub(crate) error: Option<JobError>,
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.plan)
    }
}

impl Graph {
    pub(crate) fn new(site: Option<Site>) -> Graph {
        let clock = site.as_ref().map_or_else(BatchClock::default, |site| BatchClock::of(site.config.clock.clone()));
        Graph { plan: Plan::default(), site, tasks: Vec::new(), clock, pace: None, error: None }
    }

    /// Takes this shard's ends of an edge.
    pub(crate) fn take_edge(&mut self, edge: u32) -> Option<EdgeEnds> {
        let ends = self.site.as_mut()?.edges.get_mut(edge as usize)?;
        Some(EdgeEnds { to: std::mem::take(&mut ends.to), from: std::mem::take(&mut ends.from) })
    }

    /// Runs `build` on a shard; notes its error. Nothing is built while planning.
    pub(crate) fn on_site<R>(&mut self, build: impl FnOnce(&Site, &Plan) -> Result<R, JobError>) -> Option<R> {
        match build(self.site.as_ref()?, &self.plan) {
            Ok(built) => Some(built),
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }

    /// How many shards will run the graph; one while planning for one.
    pub(crate) fn shards(&self) -> u32 {
        self.site.as_ref().map_or(0, |site| site.config.shards)
    }
}

impl Site {
    /// What the restored checkpoint holds for an operator, of every shard that took it.
    pub(crate) fn restored(&self, uid: &str) -> Vec<&OperatorPart> {
        let parts = self.restored.iter().flat_map(|manifest| &manifest.parts);
        parts.flat_map(|part| &part.operators).filter(|operator| operator.uid == uid).collect()
    }

    /// An operator's pages on this shard, still empty, and what is to be restored into them once its states are declared.
    pub(crate) fn keyed_state(&self, uid: &str) -> Result<(PageStore, Vec<&OperatorPart>), JobError> {
        let range = HashRange::of_shard(self.shard, self.config.shards);
        let backing = match &self.config.state_backing {
            StateBacking::Anonymous => Backing::Anonymous,
            StateBacking::File(directory) => Backing::File(directory.clone()),
        };
        let config =
            TableConfig { operator: uid.to_string(), shard: self.shard, range, backing, ..TableConfig::default() };
        let keyed =
            PageStore::new(config).map_err(|error| JobError::Unusable(format!("operator \"{uid}\": {error}")))?;
        Ok((keyed, self.restored(uid)))
    }

    /// Fills an operator's pages with what the checkpoint has for this shard's share of the keys.
    pub(crate) fn restore_keyed(
        &self,
        uid: &str,
        keyed: &mut PageStore,
        parts: &[&OperatorPart],
    ) -> Result<(), JobError> {
        let began = self.config.clock.now();
        let restored = match (&self.savepoint, &self.store) {
            (Some(savepoint), _) => {
                let Some(operator) = savepoint.manifest().operator(uid) else { return Ok(()) };
                keyed.restore_savepoint(savepoint, operator, self.config.allow_dropped)
            }
            (None, None) => return Ok(()),
            (None, Some(store)) => {
                let ours = |part: &&TablePart| part.range.meets(keyed.range());
                let tables: Vec<TablePart> = parts.iter().flat_map(|part| &part.tables).filter(ours).cloned().collect();
                if tables.is_empty() {
                    return Ok(());
                }
                keyed.restore_some(store, &tables, self.config.allow_dropped)
            }
        };
        let is_away = self.store.as_ref().is_some_and(|store| !store.is_local());
        let restored = restored.map_err(|error| match error {
            // The store is away and the checkpoint as good as ever: an older one must not be taken for it.
            RestoreError::Read { source, .. } if is_away && source.kind() != io::ErrorKind::NotFound => {
                JobError::Failed { cause: format!("operator \"{uid}\": {source}"), restarts: 0 }
            }
            RestoreError::Read { .. } | RestoreError::Damaged { .. } | RestoreError::Contradiction { .. } => {
                JobError::Damaged(format!("operator \"{uid}\": {error}"))
            }
            error => JobError::Unusable(format!("operator \"{uid}\": {error}")),
        })?;
        let took_us = self.config.clock.now().since(began).as_micros() as u64;
        let (shard, bytes, pages, entries) = (self.shard, restored.bytes_read, restored.pages, restored.entries);
        match restored.how {
            How::Fast { pages_undone, .. } => {
                tracing::info!(
                    operator = uid,
                    shard,
                    pages_undone,
                    pages,
                    entries,
                    took_us,
                    "state taken over from its segment"
                );
            }
            How::Full { why } => {
                tracing::info!(operator = uid, shard, bytes, pages, entries, took_us, pages_moved = restored.pages_moved, entries_moved = restored.entries_moved, %why, "state restored from the checkpoint");
            }
        }
        self.taken.set(self.taken.get() + restored);
        self.taken_us.set(self.taken_us.get() + took_us);
        Ok(())
    }
}
