//! The first words of a job: a name, and the closure that says what flows.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use millstream_state::{JobSchemas, PageStore, TableConfig};

use super::cluster::Cluster;
use super::config::{Config, RestartStrategy};
use super::graph::{Graph, Node, NodeId};
use super::stream::Stream;
use crate::road::read::Read;
use crate::road::sink::Guarantee;
use crate::road::source::Source;
use crate::run::fault::JobError;
use crate::run::handle::{JobHandle, JobReport};
use crate::time::{BatchClock, Clock};

/// Address space for the pages of an operator that is only planned.
const PLANNED_BYTES_MAX: usize = 1 << 20;

/// The closure that says what flows. It runs once for planning and once on every shard.
pub(crate) type Factory = Arc<dyn Fn(&Flow) + Send + Sync>;

/// A job: what flows, and how it is run.
///
/// The closure is called once for planning and once on every shard's own thread, and must say the same each time. It is
/// `Send` itself, but what it makes never leaves its shard: the closures inside may hold an `Rc` or a `Cell`.
///
/// ```no_run
/// use std::time::Duration;
/// use millstream::{Count, Job, Timestamp, Tumbling, Watermarks};
/// # #[derive(Clone)] struct Click { is_robot: bool, at_ms: i64, page_id: u64 }
/// # use millstream::{Items, Sink, SinkError, SinkWriter, Guarantee, Windowed, Epoch, road::sink::*};
/// # #[derive(Clone)] struct Pages;
/// # impl Sink<Windowed<u64, u64>> for Pages {
/// #     type Writer = Pages;
/// #     fn open(&self, _: u32, _: u32) -> Result<Pages, SinkError> { Ok(Pages) }
/// #     fn guarantee(&self) -> Guarantee { Guarantee::AtLeastOnce }
/// #     fn describe(&self) -> String { "pages".into() }
/// # }
/// # impl SinkWriter<Windowed<u64, u64>> for Pages {
/// #     fn write(&mut self, _: &Windowed<u64, u64>) -> Result<(), SinkError> { Ok(()) }
/// #     fn prepare(&mut self, _: Epoch) -> SinkFuture<Committable> { Box::pin(async { Ok(Committable::Null) }) }
/// #     fn commit(&mut self, _: Committable) -> SinkFuture<()> { Box::pin(async { Ok(()) }) }
/// #     fn recover(&mut self, _: Vec<Committable>) -> SinkFuture<()> { Box::pin(async { Ok(()) }) }
/// # }
/// # let clicks = vec![Click { is_robot: false, at_ms: 0, page_id: 7 }];
///
/// let report = Job::new("clicks", move |flow| {
///     flow.source(Items::of(clicks.clone()))
///         .filter(|click| !click.is_robot)
///         .event_time(|click| Timestamp(click.at_ms), Watermarks::bounded(Duration::from_secs(1)))
///         .key_by(|click| click.page_id)
///         .window(Tumbling::of(Duration::from_secs(10)))
///         .aggregate(Count)
///         .sink(Pages);
/// })
/// .shards(4)
/// .checkpoints("/var/lib/clicks/checkpoints", Duration::from_secs(1))
/// .run()?;
/// println!("{report}");
/// # Ok::<(), millstream::JobError>(())
/// ```
#[derive(Clone)]
pub struct Job {
    pub(crate) name: String,
    pub(crate) factory: Factory,
    pub(crate) config: Config,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job {:?} with {:?}", self.name, self.config)
    }
}

impl Job {
    /// A job under a name that its checkpoints carry.
    pub fn new(name: impl Into<String>, flow: impl Fn(&Flow) + Send + Sync + 'static) -> Job {
        Job { name: name.into(), factory: Arc::new(flow), config: Config::default() }
    }

    /// Runs on so many shards (1 to 4096), each pinned to a core of its own where there are enough.
    #[must_use]
    pub fn shards(mut self, shards: u32) -> Job {
        self.config.shards = shards;
        self
    }

    /// Pins the shards to these cores, in order.
    #[must_use]
    pub fn cores(mut self, cores: impl IntoIterator<Item = usize>) -> Job {
        self.config.cores = cores.into_iter().collect();
        self
    }

    /// Takes a checkpoint into `place` every `interval`, and restarts from the newest one found there. The place is a
    /// directory or, with the feature `s3`, `gcs` or `azure`, `s3://BUCKET/PREFIX`, `gs://…`, `az://…`.
    #[must_use]
    pub fn checkpoints(mut self, place: impl Into<PathBuf>, interval: Duration) -> Job {
        self.config.checkpoint_dir = Some(place.into());
        self.config.checkpoint_interval = Some(interval);
        self
    }

    /// Begins at a savepoint, a directory or an object store's prefix, with any number of shards. A job that finds a
    /// checkpoint of its own goes on from that instead: to go back to the savepoint, name an empty place for checkpoints.
    #[must_use]
    pub fn from_savepoint(mut self, place: impl Into<PathBuf>) -> Job {
        self.config.from_savepoint = Some(place.into());
        self
    }

    /// Folds on the sending shard first (the default), or not.
    #[must_use]
    pub fn combine(mut self, combine: bool) -> Job {
        self.config.combine = combine;
        self
    }

    /// Spreads the shards over several processes, of which this is one.
    #[must_use]
    pub fn cluster(mut self, cluster: Cluster) -> Job {
        self.config.cluster = Some(cluster);
        self
    }

    /// What happens after a failure.
    #[must_use]
    pub fn restart(mut self, restart: RestartStrategy) -> Job {
        self.config.restart = restart;
        self
    }

    /// Every setting there is.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Job {
        change(&mut self.config);
        self
    }

    /// The graph in words: one operator a line.
    ///
    /// # Errors
    /// When the closure's graph cannot run; the error says what to change.
    pub fn explain(&self) -> Result<String, JobError> {
        Ok(plan(&self.factory)?.to_string())
    }

    /// The states that the job's operators keep, for `harness checkpoint migrate --to`: print them as JSON.
    ///
    /// # Errors
    /// As [`explain`](Job::explain).
    pub fn schemas(&self) -> Result<JobSchemas, JobError> {
        Ok(plan(&self.factory)?.schemas(&self.name))
    }

    /// Starts the job on threads of its own.
    ///
    /// # Errors
    /// When a setting, the machine or the checkpoint does not allow it; nothing has then been started or changed.
    pub fn start(self) -> Result<JobHandle, JobError> {
        crate::run::process::start(self)
    }

    /// Runs the job to its end: of its input, or by SIGTERM or Ctrl-C, which stop it with a last checkpoint.
    ///
    /// # Errors
    /// As [`start`](Job::start), and when the job fails for good.
    pub fn run(self) -> Result<JobReport, JobError> {
        self.start()?.wait()
    }
}

/// Runs the closure once, noting operators and building nothing.
pub(crate) fn plan(factory: &Factory) -> Result<super::graph::Plan, JobError> {
    let flow = Flow::new(Graph::new(None));
    crate::run::panics::catch(|| factory(&flow))
        .map_err(|panic| JobError::Unusable(format!("the closure that describes the job panicked: {panic}")))?;
    let graph = flow.into_graph();
    graph.plan.check()?;
    Ok(graph.plan)
}

/// Where streams begin. Handed to the job's closure.
#[derive(Clone, Debug)]
pub struct Flow {
    graph: Rc<RefCell<Graph>>,
}

impl Flow {
    pub(crate) fn new(graph: Graph) -> Flow {
        Flow { graph: Rc::new(RefCell::new(graph)) }
    }

    pub(crate) fn into_graph(self) -> Graph {
        self.graph.replace(Graph::new(None))
    }

    /// A stream of what `source` reads. One split after the other has its turn, each with its own watermark.
    pub fn source<S: Source>(&self, source: S) -> Stream<Read<S>> {
        let node = self.node("source", source.describe(), None);
        Stream { chain: Read { source, node }, flow: self.clone(), node }
    }

    /// The clock for closures that need wall time; a test can hold it still.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.graph.borrow().site.as_ref().map_or_else(Clock::system, |site| site.config.clock.clone())
    }

    /// A clock for closures that stamp every row: read once per batch.
    #[must_use]
    pub fn batch_clock(&self) -> BatchClock {
        self.graph().clock.clone()
    }

    /// How many shards the job runs on; zero while it is only planned.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.graph.borrow().shards()
    }

    pub(crate) fn node(&self, kind: &'static str, detail: String, input: Option<NodeId>) -> NodeId {
        self.graph.borrow_mut().plan.add(kind, detail, input)
    }

    /// Whether both are of one job, on one shard.
    pub(crate) fn is(&self, other: &Flow) -> bool {
        Rc::ptr_eq(&self.graph, &other.graph)
    }

    /// The number of a new edge.
    pub(crate) fn edge(&self) -> u32 {
        let edges = &mut self.graph().plan.edges;
        *edges += 1;
        *edges - 1
    }

    /// Notes which states an operator keeps: those that `declare` declares in a store that nothing is put into.
    pub(crate) fn keeps(&self, node: NodeId, declare: impl FnOnce(&PageStore)) {
        let config = TableConfig { bytes_max: PLANNED_BYTES_MAX, ..TableConfig::default() };
        match PageStore::new(config) {
            Ok(keyed) => {
                declare(&keyed);
                self.change(node, |node| node.states = Some(keyed.declared()));
            }
            // Without address space for pages, the operator itself will not get any either, and says so.
            Err(error) => tracing::debug!(%error, "an operator's states are not known while planning"),
        }
    }

    pub(crate) fn sink_node(&self, detail: String, guarantee: Guarantee, input: Option<NodeId>) -> NodeId {
        let node = self.node("sink", detail, input);
        self.change(node, |node| node.guarantee = Some(guarantee));
        node
    }

    pub(crate) fn change(&self, node: NodeId, change: impl FnOnce(&mut Node)) {
        change(&mut self.graph.borrow_mut().plan.nodes[node.0 as usize]);
    }

    pub(crate) fn graph(&self) -> std::cell::RefMut<'_, Graph> {
        self.graph.borrow_mut()
    }
}
