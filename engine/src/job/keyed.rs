//! A keyed stream: what a user says after `key_by`.

use std::rc::Rc;

use millstream_state::{Fixed, Key, PageStore, Table};

use super::graph::{EdgeEnds, Graph, NodeId};
use super::stream::Stream;
use super::windows::Windows;
use crate::road::aggregate::Aggregate;
use crate::road::chain::{Chain, Stage};
use crate::road::exchange::ToShards;
use crate::road::keyed::{Contribute, KeyedOut, Keying};
use crate::road::merge::Merge;
use crate::road::running::{Running, Updated};

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

    /// Cuts each key's rows into windows: [`Tumbling`](crate::Tumbling), [`Sliding`](crate::Sliding),
    /// [`Session`](crate::Session), [`CountWindow`](crate::CountWindow) or [`Global`](crate::Global).
    pub fn window<W: Windows<C, G>>(self, window: W) -> W::Windowed {
        window.on(self)
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
    type Time = C::Time;

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
        let ends = graph.take_edge(edge);
        attach_keyed(upstream, key, aggregate, running, (node, shard, ends), graph);
    }
}

/// Brings what a chain's rows contribute to `out` on the shard of their key: across an edge, where there is one. `at` is the
/// operator, the shard, and its ends of the edge.
pub(super) fn attach_keyed<C, G, A, O>(
    upstream: C,
    key: G,
    aggregate: A,
    out: O,
    at: (NodeId, u32, Option<EdgeEnds>),
    graph: &mut Graph,
) where
    C: Chain,
    G: Keying<C::Out>,
    A: Aggregate<C::Out> + 'static,
    O: KeyedOut<G::Key, A::Input>,
{
    let (node, shard, ends) = at;
    match ends {
        None => upstream.attach(Contribute::new(key, aggregate, node, out), graph),
        Some(ends) => {
            let to_shards = ToShards::<G::Key, A::Input>::new(shard, ends.to);
            upstream.attach(Contribute::new(key, aggregate, node, to_shards), graph);
            graph.tasks.push(Box::new(Merge::new(ends.from, out)));
        }
    }
}

/// Declares a running aggregate's one state.
fn accumulators_table<K: Key, V: Fixed>(keyed: &PageStore) -> Table<K, V> {
    keyed.table("accumulators")
}
