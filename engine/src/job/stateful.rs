//! A keyed stream and its states: what a user says with `map_with_state`.

use std::any::type_name;
use std::marker::PhantomData;

use millstream_state::Key;
use millstream_state::schema::Described;

use super::graph::{Graph, NodeId, Site};
use super::keyed::{KeyedStream, attach_keyed};
use super::stream::Stream;
use crate::road::chain::{Chain, Stage};
use crate::road::keyed::Keying;
use crate::road::stateful::{Any, Handling, KeyedRow, One, Stateful, WholeRow};
use crate::run::fault::JobError;
use crate::state::{Bound, KeyedState};

impl<C, G> KeyedStream<C, G>
where
    C: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
{
    /// Turns every row into another, with the states of its key at hand.
    ///
    /// A key's rows come one after the other, in the order in which each of their sources gave them; states are restored with
    /// the job, into any number of shards. Results have their row's event time.
    ///
    /// ```
    /// # use millstream::{Items, Job};
    /// # use millstream_connectors::memory::MemorySink;
    /// use millstream::state::{KeyedState, Value};
    ///
    /// #[derive(KeyedState)]
    /// struct Seen {
    ///     count: Value<u64>,
    /// }
    ///
    /// # let sink = MemorySink::new();
    /// # let rows = sink.clone();
    /// Job::new("nth", move |flow| {
    ///     flow.source(Items::of(vec![7u64, 9, 7]))
    ///         .key_by(|visitor| *visitor)
    ///         .map_with_state(|seen: &mut Seen, visitor| {
    ///             let nth = seen.count.update_or(0, |count| {
    ///                 *count += 1;
    ///                 *count
    ///             });
    ///             (*visitor, nth)
    ///         })
    ///         .sink(sink.clone());
    /// })
    /// .run()?;
    /// # let mut rows = rows.rows();
    /// # rows.sort();
    /// assert_eq!(rows, [(7, 1), (7, 2), (9, 1)]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    ///
    /// What a state shows stays with the state; a result is a value of its own:
    ///
    /// ```compile_fail
    /// # use millstream::{Chain, Stream, state::{KeyedState, Value}};
    /// # #[derive(KeyedState)] struct Seen { count: Value<u64> }
    /// # fn of(visitors: Stream<impl Chain<Out = u64>>) {
    /// let _ = visitors.key_by(|visitor| *visitor).map_with_state(|seen: &mut Seen, _| seen.count.get()); // a borrow
    /// # }
    /// ```
    ///
    /// Rows cross to their key's shard as they lie in memory, so they must be fixed:
    ///
    /// ```compile_fail
    /// # use millstream::{Chain, Stream, state::{KeyedState, Value}};
    /// # #[derive(KeyedState)] struct Seen { count: Value<u64> }
    /// # fn of(names: Stream<impl Chain<Out = String>>) {
    /// // rows of type `String` cannot be brought to their key's shard
    /// let _ = names.key_by(|name| name.len() as u64).map_with_state(|_: &mut Seen, _| 0);
    /// # }
    /// ```
    pub fn map_with_state<S, U, F>(self, map: F) -> Stream<WithState<C, G, S, One<F>>>
    where
        S: KeyedState,
        U: 'static,
        F: Fn(&mut S, &C::Out) -> U + 'static,
    {
        self.with_state("map_with_state", type_name::<U>(), One(map))
    }

    /// As [`map_with_state`](KeyedStream::map_with_state), with any number of rows for each.
    pub fn flat_map_with_state<S, I, F>(self, map: F) -> Stream<WithState<C, G, S, Any<F>>>
    where
        S: KeyedState,
        I: IntoIterator<Item: 'static>,
        F: Fn(&mut S, &C::Out) -> I + 'static,
    {
        self.with_state("flat_map_with_state", type_name::<I::Item>(), Any(map))
    }

    fn with_state<S, H>(self, kind: &'static str, out: &str, handling: H) -> Stream<WithState<C, G, S, H>>
    where
        S: KeyedState,
        H: Handling<S, C::Out>,
    {
        let KeyedStream { stream, key } = self;
        // Which states there are is no part of what must be the same for a checkpoint to fit: each is compared on its own.
        let node = stream.flow.node(kind, format!("{} -> {out}", type_name::<G::Key>()), Some(stream.node));
        stream.flow.keeps(node, |keyed| {
            let notes = Bound::<G::Key, S>::declare(keyed.clone()).notes;
            stream.flow.change(node, |node| node.notes = notes);
        });
        let edge = stream.flow.edge();
        let chain = WithState { upstream: stream.chain, key, handling, node, edge, state: PhantomData };
        Stream { chain, flow: stream.flow, node }
    }
}

/// Rows that meet the states of their key: on one shard a stage of the chain, on several the end of a chain, an edge, and a
/// task.
#[derive(Debug)]
pub struct WithState<C, G, S, H> {
    upstream: C,
    key: G,
    handling: H,
    node: NodeId,
    edge: u32,
    state: PhantomData<fn() -> S>,
}

impl<C, G, S, H> Chain for WithState<C, G, S, H>
where
    C: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
    S: KeyedState,
    H: Handling<S, C::Out>,
{
    type Out = H::Out;
    type Time = C::Time;

    fn attach<N: Stage<H::Out>>(self, next: N, graph: &mut Graph) {
        let WithState { upstream, key, handling, node, edge, .. } = self;
        let ends = graph.take_edge(edge);
        let opened = graph.on_site(|site, plan| {
            let bound = open::<G::Key, S>(site, &plan.uid(node))?;
            Ok((site.shard, Stateful::new(bound, handling, node, next)))
        });
        let Some((shard, stateful)) = opened else { return };
        attach_keyed(upstream, key, WholeRow, stateful, (node, shard, ends), graph);
    }
}

/// An operator's states on this shard, empty or as the restored checkpoint left them.
fn open<K: Key + Described, S: KeyedState>(site: &Site, uid: &str) -> Result<Bound<K, S>, JobError> {
    let (keyed, parts) = site.keyed_state(uid)?;
    let mut bound = Bound::declare(keyed);
    for part in &parts {
        if let Some(now_ms) = part.blob["now_ms"].as_i64() {
            bound.set_now(now_ms);
        }
    }
    site.restore_keyed(uid, &mut bound.store, &parts)?;
    Ok(bound)
}
