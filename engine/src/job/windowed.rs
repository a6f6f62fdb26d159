//! A keyed stream in windows: what a user says between `window` and an aggregate.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use millstream_state::{Fixed, Key, PageStore, Table, TableConfig};
use serde::Deserialize;

use super::graph::{EdgeEnds, Graph, NodeId, Site};
use super::keyed::{KeyedStream, attach_keyed};
use super::stream::Stream;
use crate::road::aggregate::Aggregate;
use crate::road::chain::{Chain, Stage};
use crate::road::combine::Combine;
use crate::road::exchange::ToShards;
use crate::road::has_time::Timed;
use crate::road::keyed::{Combined, Folding, KeyedOut, Keying, Raw};
use crate::road::merge::Merge;
use crate::road::window::{
    DropLate, LateRows, LateTo, Lateness, Opened, Overlapping, Panes, Slides, Sliding, Tumbling, Windowed, Windows,
    WindowsBlob, millis,
};
use crate::run::fault::JobError;
use crate::time::Timestamp;

/// A keyed stream cut into windows.
#[must_use = "a stream that no sink ends does nothing"]
#[derive(Debug)]
pub struct WindowedStream<C, G, W = Tumbling> {
    pub(super) keyed: KeyedStream<C, G>,
    pub(super) window: W,
}

/// Windows of event time, and what they do with rows that come late.
pub trait Windowing: Sized {
    /// What becomes of rows that are too late for all their windows.
    type Late;

    /// The same windows as ones that may wait for late rows.
    fn lenient(self) -> Lenient<Self::Late>;
}

impl Windowing for Tumbling {
    type Late = DropLate;

    fn lenient(self) -> Lenient<DropLate> {
        Lenient { kind: format!("{self:?}"), slides: self.into(), lateness_ms: 0, late: DropLate }
    }
}

impl Windowing for Sliding {
    type Late = DropLate;

    fn lenient(self) -> Lenient<DropLate> {
        Lenient { kind: format!("{self:?}"), slides: self.into(), lateness_ms: 0, late: DropLate }
    }
}

/// Windows that late rows can reach still, and where those go that cannot.
#[derive(Clone, Debug)]
pub struct Lenient<L> {
    kind: String,
    pub(super) slides: Slides,
    pub(super) lateness_ms: i64,
    pub(super) late: L,
}

impl<L> Windowing for Lenient<L> {
    type Late = L;

    fn lenient(self) -> Lenient<L> {
        self
    }
}

impl<C: Chain, G: Keying<C::Out>, W: Windowing> WindowedStream<C, G, W> {
    /// Keeps each window for `lateness` after the watermark has passed its end: a row that comes meanwhile is folded in,
    /// and the window is emitted once more for its key at once, with all its rows so far.
    ///
    /// What follows has to take the later result for the better one. With rows that are folded before an exchange
    /// ([`Job::combine`](crate::Job::combine)), one such result may stand for several rows.
    pub fn allowed_lateness(self, lateness: Duration) -> WindowedStream<C, G, Lenient<W::Late>> {
        let window = Lenient { lateness_ms: millis(lateness), ..self.window.lenient() };
        WindowedStream { keyed: self.keyed, window }
    }

    /// Writes rows that are too late for all their windows to a sink of their own, exactly once like the rest: each as
    /// its key, what the aggregate takes of it, and its event time.
    ///
    /// Rows are then not folded before an exchange.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use millstream::{Late, Sink, Sliding, Stream, Sum, TimedChain};
    /// # struct Sale { shop: u64, cents: i64 }
    /// # fn of(sales: Stream<impl TimedChain<Out = Sale>>, sums: impl Sink<i64>, late: impl Sink<Late<u64, i64>>) {
    /// sales
    ///     .key_by(|sale| sale.shop)
    ///     .window(Sliding::of(Duration::from_secs(60)).every(Duration::from_secs(1)))
    ///     .allowed_lateness(Duration::from_secs(10))
    ///     .late_to(late)
    ///     .aggregate(Sum::of(|sale: &Sale| sale.cents))
    ///     .map(|window| window.value)
    ///     .sink(sums);
    /// # }
    /// ```
    pub fn late_to<S>(self, sink: S) -> WindowedStream<C, G, Lenient<LateTo<S>>> {
        let Lenient { kind, slides, lateness_ms, .. } = self.window.lenient();
        WindowedStream { keyed: self.keyed, window: Lenient { kind, slides, lateness_ms, late: LateTo { sink } } }
    }
}

impl<C: Chain, G: Keying<C::Out>> WindowedStream<C, G, Tumbling> {
    /// Folds every key and window into one result, emitted when the watermark passes the window's end.
    ///
    /// A window without events emits nothing. A row that comes after its window was emitted is dropped and counted as
    /// late; see [`Watermarks::bounded`](crate::Watermarks::bounded),
    /// [`allowed_lateness`](WindowedStream::allowed_lateness) and [`late_to`](WindowedStream::late_to).
    pub fn aggregate<A: Aggregate<C::Out> + 'static>(self, aggregate: A) -> Stream<WindowAggregate<C, G, A>> {
        let WindowedStream { keyed: KeyedStream { stream, key }, window } = self;
        let (node, edge) = plan::<_, G::Key, A::Acc>(&stream, format!("{window:?}"));
        let chain = WindowAggregate { upstream: stream.chain, key, aggregate, panes: window.panes(), node, edge };
        Stream { chain, flow: stream.flow, node }
    }
}

impl<C: Chain, G: Keying<C::Out>> WindowedStream<C, G, Sliding> {
    /// Folds every key and window into one result, emitted when the watermark passes the window's end, windows in the
    /// order of their ends.
    ///
    /// A window in which a key has no row emits nothing for it. A row that is late for some of its windows counts in the
    /// others; one that is late for all is dropped and counted as late. Each row is folded once. A window is summed up
    /// from the one before where the aggregate can take rows out again ([`Aggregate::remove`]), from its panes otherwise.
    pub fn aggregate<A: Aggregate<C::Out> + 'static>(
        self,
        aggregate: A,
    ) -> Stream<LenientAggregate<C, G, A, DropLate>> {
        let WindowedStream { keyed, window } = self;
        WindowedStream { keyed, window: window.lenient() }.aggregate(aggregate)
    }
}

impl<C: Chain, G: Keying<C::Out>, L> WindowedStream<C, G, Lenient<L>> {
    /// Folds every key and window into one result, emitted when the watermark passes the window's end, and for each row
    /// that comes later and within the allowed lateness.
    pub fn aggregate<A>(self, aggregate: A) -> Stream<LenientAggregate<C, G, A, L>>
    where
        A: Aggregate<C::Out> + 'static,
        L: Lateness<G::Key, A::Input>,
    {
        let WindowedStream { keyed: KeyedStream { stream, key }, window } = self;
        let Lenient { kind, slides, lateness_ms, late } = window;
        let (node, edge) = plan::<_, G::Key, A::Acc>(&stream, kind);
        if lateness_ms > 0 {
            // No part of what must be the same for a checkpoint to fit: panes are kept longer from then on.
            stream.flow.change(node, |node| node.notes = vec![format!("allowed lateness: {lateness_ms} ms")]);
        }
        let late_node = late.note().map(|(what, guarantee)| stream.flow.sink_node(what, guarantee, Some(node)));
        let chain = LenientAggregate {
            upstream: stream.chain,
            key,
            aggregate,
            slides,
            lateness_ms,
            late,
            late_node,
            node,
            edge,
        };
        Stream { chain, flow: stream.flow, node }
    }
}

/// Notes a window operator with its one state and its edge.
fn plan<C, K: Key, S: Fixed>(stream: &Stream<C>, detail: String) -> (NodeId, u32) {
    let node = stream.flow.node("window", detail, Some(stream.node));
    stream.flow.keeps(node, |keyed| drop(panes_table::<K, S>(keyed)));
    (node, stream.flow.edge())
}

/// A windowed aggregation: on one shard a stage of the chain, on several the end of a chain, an edge, and a task.
#[derive(Debug)]
pub struct WindowAggregate<C, G, A> {
    upstream: C,
    key: G,
    aggregate: A,
    panes: Panes,
    node: NodeId,
    edge: u32,
}

impl<C, G, A> Chain for WindowAggregate<C, G, A>
where
    C: Chain,
    G: Keying<C::Out>,
    A: Aggregate<C::Out> + 'static,
{
    type Out = Windowed<G::Key, A::Out>;
    type Time = Timed;

    fn attach<N: Stage<Self::Out>>(self, next: N, graph: &mut Graph) {
        let WindowAggregate { upstream, key, aggregate, panes, node, edge } = self;
        let aggregate = Rc::new(aggregate);
        let Some(before) = Before::new(upstream, key, &aggregate, panes, node, edge, graph) else { return };
        if before.combine {
            let Some(windows) = open_windows::<_, G::Key, _, Combined, N>(aggregate, panes, node, next, graph) else {
                return;
            };
            before.folding(windows, graph);
        } else {
            let Some(windows) = open_windows::<_, G::Key, _, Raw, N>(aggregate, panes, node, next, graph) else {
                return;
            };
            before.one_by_one(windows, graph);
        }
    }
}

/// As [`WindowAggregate`], over windows that share panes or wait for late rows.
#[derive(Debug)]
pub struct LenientAggregate<C, G, A, L> {
    upstream: C,
    key: G,
    aggregate: A,
    slides: Slides,
    lateness_ms: i64,
    late: L,
    late_node: Option<NodeId>,
    node: NodeId,
    edge: u32,
}

impl<C, G, A, L> Chain for LenientAggregate<C, G, A, L>
where
    C: Chain,
    G: Keying<C::Out>,
    A: Aggregate<C::Out> + 'static,
    L: Lateness<G::Key, A::Input>,
{
    type Out = Windowed<G::Key, A::Out>;
    type Time = Timed;

    fn attach<N: Stage<Self::Out>>(self, next: N, graph: &mut Graph) {
        let LenientAggregate { upstream, key, aggregate, slides, lateness_ms, late, late_node, node, edge } = self;
        let aggregate = Rc::new(aggregate);
        let Some(before) = Before::new(upstream, key, &aggregate, slides.panes(), node, edge, graph) else { return };
        let Some(opened) = graph.on_site(|site, plan| open(site, &plan.uid(node))) else { return };
        if before.combine && !L::SINGLE {
            let windows: Overlapping<_, _, _, Combined, _> =
                Overlapping::new(opened, aggregate, slides, lateness_ms, LateRows::dropped(), node, next);
            before.folding(windows, graph);
        } else {
            let Some(late) = late.open(late_node, graph) else { return };
            let windows: Overlapping<_, _, _, Raw, _> =
                Overlapping::new(opened, aggregate, slides, lateness_ms, late, node, next);
            before.one_by_one(windows, graph);
        }
    }
}

/// What comes before windows. Four ways to one result: folded first or not, across an edge or straight into them.
struct Before<C, G, A> {
    upstream: C,
    key: G,
    aggregate: Rc<A>,
    panes: Panes,
    node: NodeId,
    edge: Option<EdgeEnds>,
    shard: u32,
    combine: bool,
}

impl<C, G, A> Before<C, G, A>
where
    C: Chain,
    G: Keying<C::Out>,
    A: Aggregate<C::Out> + 'static,
{
    /// Nothing while planning.
    fn new(
        upstream: C,
        key: G,
        aggregate: &Rc<A>,
        panes: Panes,
        node: NodeId,
        edge: u32,
        graph: &mut Graph,
    ) -> Option<Self> {
        let (combine, shard) = graph.site.as_ref().map(|site| (site.config.combine, site.shard))?;
        let edge = graph.take_edge(edge);
        Some(Before { upstream, key, aggregate: aggregate.clone(), panes, node, edge, shard, combine })
    }

    fn folding<O: KeyedOut<G::Key, A::Acc>>(self, windows: O, graph: &mut Graph) {
        let Before { upstream, key, aggregate, panes, node, edge, shard, .. } = self;
        match edge {
            None => upstream.attach(Combine::new(key, aggregate, panes, node, windows), graph),
            Some(edge) => {
                let to_shards = ToShards::<G::Key, A::Acc>::new(shard, edge.to);
                upstream.attach(Combine::new(key, aggregate, panes, node, to_shards), graph);
                graph.tasks.push(Box::new(Merge::new(edge.from, windows)));
            }
        }
    }

    fn one_by_one<O: KeyedOut<G::Key, A::Input>>(self, windows: O, graph: &mut Graph) {
        let Before { upstream, key, aggregate, node, edge, shard, .. } = self;
        attach_keyed(upstream, key, aggregate, windows, (node, shard, edge), graph);
    }
}

/// Opens an operator's windows, empty or as the restored checkpoint left them.
fn open_windows<T, K, A, M, N>(
    aggregate: Rc<A>,
    panes: Panes,
    node: NodeId,
    next: N,
    graph: &mut Graph,
) -> Option<Windows<T, K, Rc<A>, M, N>>
where
    T: ?Sized + 'static,
    K: Key,
    A: Aggregate<T> + 'static,
    M: Folding<T, Rc<A>>,
    N: Stage<Windowed<K, A::Out>>,
{
    graph.on_site(|site, plan| {
        let (table, restored) = restore(site, &plan.uid(node))?;
        Ok(Windows::new(table, restored, aggregate, panes, node, next))
    })
}

/// As [`open_windows`], what windows that share panes need.
fn open<K: Key, S: Fixed>(site: &Site, uid: &str) -> Result<Opened<K, S>, JobError> {
    let (table, restored) = restore(site, uid)?;
    let config = TableConfig { operator: uid.to_owned(), shard: site.shard, ..TableConfig::default() };
    let places = Table::new(config).map_err(|error| unusable(uid, &error))?;
    Ok(Opened { table, places, restored })
}

/// Declares a window operator's one state.
fn panes_table<K: Key, V: Fixed>(keyed: &PageStore) -> Table<K, V> {
    keyed.table("panes")
}

/// An operator's table and what it keeps beside it: fresh, or from the checkpoint.
fn restore<K: Key, V: Fixed>(site: &Site, uid: &str) -> Result<(Table<K, V>, WindowsBlob), JobError> {
    restore_with(site, uid, |keyed| panes_table(keyed))
}

/// As [`restore`], what `declare` declares.
pub(super) fn restore_with<D>(
    site: &Site,
    uid: &str,
    declare: impl FnOnce(&PageStore) -> D,
) -> Result<(D, WindowsBlob), JobError> {
    let (mut keyed, parts) = site.keyed_state(uid)?;
    let declared = declare(&keyed);
    let mut merged: Option<WindowsBlob> = None;
    for part in &parts {
        let of_part = WindowsBlob::deserialize(&part.blob).map_err(|error| unusable(uid, &error))?;
        merged = Some(merged.map_or(of_part, |merged| merged.merge(of_part)));
    }
    let merged = merged.unwrap_or(WindowsBlob { watermark: Timestamp::MIN, late: 0 });
    site.restore_keyed(uid, &mut keyed, &parts)?;
    // What all shards counted together is counted on by one of them.
    Ok((declared, WindowsBlob { late: if site.shard == 0 { merged.late } else { 0 }, ..merged }))
}

fn unusable(uid: &str, error: &dyn fmt::Display) -> JobError {
    JobError::Unusable(format!("operator \"{uid}\": {error}"))
}
