//! A keyed stream: what a user says between `key_by` and an aggregate, over windows or over all time.

use std::rc::Rc;

use millstream_state::{Fixed, Key, PageStore, Table};
use serde::Deserialize;

use super::flow::Flow;
use super::graph::{Graph, NodeId, Site};
use super::stream::Stream;
use crate::road::aggregate::Aggregate;
use crate::road::chain::{Chain, Stage};
use crate::road::combine::Combine;
use crate::road::exchange::ToShards;
use crate::road::keyed::{Combined, Contribute, Folding, Keying, Raw};
use crate::road::merge::Merge;
use crate::road::running::{Running, Updated};
use crate::road::window::{Panes, Tumbling, Windowed, Windows, WindowsBlob};
use crate::run::fault::JobError;
use crate::time::Timestamp;

/// A stream whose rows have a key.
#[must_use = "a stream that no sink ends does nothing"]
#[derive(Debug)]
pub struct KeyedStream<C, G> {
    pub(super) stream: Stream<C>,
    pub(super) key: G,
}

impl<C: Chain, G: Keying<C::Out>> KeyedStream<C, G> {
    pub(crate) fn new(stream: Stream<C>, key: G) -> Self {
        KeyedStream { stream, key }
    }

    /// Cuts each key's rows into windows of event time.
    pub fn window(self, window: Tumbling) -> WindowedStream<C, G> {
        WindowedStream { keyed: self, window }
    }

    /// Folds every row into its key's accumulator, which is kept for ever, and yields the result so far: one row for each
    /// row, at its time and in its order, as if rows were taken one by one.
    ///
    /// It needs no event time. Its keys are never forgotten: what it holds grows with the number of different keys.
    ///
    /// ```
    /// use millstream::{Count, Items, Job, Updated};
    /// use millstream_connectors::memory::MemorySink;
    ///
    /// let sink = MemorySink::new();
    /// let counts = sink.clone();
    /// Job::new("words", move |flow| {
    ///     flow.source(Items::of(vec!["mill", "weir", "mill"]))
    ///         .key_by(|word| word.len() as u64 + u64::from(word.as_bytes()[0]))
    ///         .running(Count)
    ///         .map(|row: &Updated<u64, u64>| row.value)
    ///         .sink(sink.clone());
    /// })
    /// .run()?;
    /// assert_eq!(counts.rows(), [1, 1, 2]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    pub fn running<A: Aggregate<C::Out> + 'static>(self, aggregate: A) -> Stream<RunningAggregate<C, G, A>> {
        let KeyedStream { stream, key } = self;
        let node = stream.flow.node("running", String::new(), Some(stream.node));
        stream.flow.keeps(node, |keyed| drop(accumulators_table::<G::Key, A::Acc>(keyed)));
        let edge = stream.flow.edge();
        let chain = RunningAggregate { upstream: stream.chain, key, aggregate, node, edge };
        Stream { chain, flow: stream.flow, node }
    }
}

/// A keyed stream cut into windows.
#[must_use = "a stream that no sink ends does nothing"]
#[derive(Debug)]
pub struct WindowedStream<C, G> {
    keyed: KeyedStream<C, G>,
    window: Tumbling,
}

impl<C: Chain, G: Keying<C::Out>> WindowedStream<C, G> {
    /// Folds every key and window into one result, emitted when the watermark passes the window's end.
    ///
    /// A window without events emits nothing. A row that comes after its window was emitted is dropped and counted as
    /// late; see [`Watermarks::bounded`](crate::Watermarks::bounded).
    pub fn aggregate<A: Aggregate<C::Out> + 'static>(self, aggregate: A) -> Stream<WindowAggregate<C, G, A>> {
        let WindowedStream { keyed: KeyedStream { stream, key }, window } = self;
        let node = stream.flow.node("window", format!("{window:?}"), Some(stream.node));
        stream.flow.keeps(node, |keyed| drop(panes_table::<G::Key, A::Acc>(keyed)));
        let flow: Flow = stream.flow;
        let edge = flow.edge();
        let chain = WindowAggregate { upstream: stream.chain, key, aggregate, panes: window.panes(), node, edge };
        Stream { chain, flow, node }
    }
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

    fn attach<N: Stage<Self::Out>>(self, next: N, graph: &mut Graph) {
        let WindowAggregate { upstream, key, aggregate, panes, node, edge } = self;
        let aggregate = Rc::new(aggregate);
        let Some((combine, shard)) = graph.site.as_ref().map(|site| (site.config.combine, site.shard)) else { return };
        let edge = graph.take_edge(edge);
        // Four ways to one result: folded first or not, across an edge or straight into the windows.
        if combine {
            let Some(windows) = open_windows::<_, G::Key, _, Combined, N>(aggregate.clone(), panes, node, next, graph)
            else {
                return;
            };
            match edge {
                None => upstream.attach(Combine::new(key, aggregate, panes, node, windows), graph),
                Some(edge) => {
                    let to_shards = ToShards::<G::Key, A::Acc>::new(shard, edge.to);
                    upstream.attach(Combine::new(key, aggregate, panes, node, to_shards), graph);
                    graph.tasks.push(Box::new(Merge::new(edge.from, windows)));
                }
            }
        } else {
            let Some(windows) = open_windows::<_, G::Key, _, Raw, N>(aggregate.clone(), panes, node, next, graph)
            else {
                return;
            };
            match edge {
                None => upstream.attach(Contribute::new(key, aggregate, node, windows), graph),
                Some(edge) => {
                    let to_shards = ToShards::<G::Key, A::Input>::new(shard, edge.to);
                    upstream.attach(Contribute::new(key, aggregate, node, to_shards), graph);
                    graph.tasks.push(Box::new(Merge::new(edge.from, windows)));
                }
            }
        }
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
/// A running aggregation: on one shard a stage of the chain, on several the end of a chain, an edge, and a task.
#[derive(Debug)]
pub struct RunningAggregate<C, G, A> {
    upstream: C,
    key: G,
    aggregate: A,
    node: NodeId,
    edge: u32,
}

impl<C, G, A> Chain for RunningAggregate<C, G, A>
where
    C: Chain,
    G: Keying<C::Out>,
    A: Aggregate<C::Out> + 'static,
{
    type Out = Updated<G::Key, A::Out>;

    fn attach<N: Stage<Self::Out>>(self, next: N, graph: &mut Graph) {
        let RunningAggregate { upstream, key, aggregate, node, edge } = self;
        let aggregate = Rc::new(aggregate);
        let running = graph.on_site(|site, plan| {
            let uid = plan.uid(node);
            let (mut keyed, parts) = site.keyed_state(&uid)?;
            let table = accumulators_table(&keyed);
            site.restore_keyed(&uid, &mut keyed, &parts)?;
            Ok((Running::<C::Out, G::Key, _, N>::new(table, aggregate.clone(), node, next), site.shard))
        });
        let Some((running, shard)) = running else { return };
        match graph.take_edge(edge) {
            None => upstream.attach(Contribute::new(key, aggregate, node, running), graph),
            Some(edge) => {
                let to_shards = ToShards::<G::Key, A::Input>::new(shard, edge.to);
                upstream.attach(Contribute::new(key, aggregate, node, to_shards), graph);
                graph.tasks.push(Box::new(Merge::new(edge.from, running)));
            }
        }
    }
}

/// Declares a running aggregate's one state.
fn accumulators_table<K: Key, V: Fixed>(keyed: &PageStore) -> Table<K, V> {
    keyed.table("accumulators")
}

/// Declares a window operator's one state.
fn panes_table<K: Key, V: Fixed>(keyed: &PageStore) -> Table<K, V> {
    keyed.table("panes")
}

/// An operator's table and what it keeps beside it: fresh, or from the checkpoint.
fn restore<K: Key, V: Fixed>(site: &Site, uid: &str) -> Result<(Table<K, V>, WindowsBlob), JobError> {
    let unusable = |error: &dyn std::fmt::Display| JobError::Unusable(format!("operator \"{uid}\": {error}"));
    let (mut keyed, parts) = site.keyed_state(uid)?;
    let table = panes_table(&keyed);
    let mut merged: Option<WindowsBlob> = None;
    for part in &parts {
        let of_part = WindowsBlob::deserialize(&part.blob).map_err(|error| unusable(&error))?;
        merged = Some(merged.map_or(of_part, |merged| merged.merge(of_part)));
    }
    let merged = merged.unwrap_or(WindowsBlob { watermark: Timestamp::MIN, late: 0 });
    site.restore_keyed(uid, &mut keyed, &parts)?;
    // What all shards counted together is counted on by one of them.
    Ok((table, WindowsBlob { late: if site.shard == 0 { merged.late } else { 0 }, ..merged }))
}
