//! A stream that every shard hears: what a user says with `broadcast` and `connect_broadcast`.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use millstream_state::schema::Described;

use super::graph::{Graph, NodeId};
use super::keyed::{KeyedStream, attach_keyed};
use super::process::{Branches, note_states, open};
use super::stream::Stream;
use crate::road::broadcast::{BROADCAST, BroadcastProcess, Broadcasting, SharedPort};
use crate::road::chain::{Chain, Stage};
use crate::road::connect::{Met, OneOf, Port};
use crate::road::exchange::ToAll;
use crate::road::join::{JoinRow, WithTable};
use crate::road::keyed::{ByValue, Contribute, Keying};
use crate::road::merge::Merge;
use crate::road::processor::Processor;
use crate::road::side::{Side, SideOutput};
use crate::road::stateful::{KeyedRow, WholeRow};
use crate::road::union::Meeting;

/// A stream whose rows go to every shard; from [`Stream::broadcast`].
#[must_use = "a broadcast that no stream is connected with does nothing"]
#[derive(Debug)]
pub struct Broadcast<D> {
    stream: Stream<D>,
}

impl<D: Chain<Out: Sized + KeyedRow>> Stream<D> {
    /// Has every shard get every row: rules, limits, small tables that change. See
    /// [`connect_broadcast`](KeyedStream::connect_broadcast).
    ///
    /// If it has event time, its watermark counts like that of any other input; without, nobody waits for it.
    pub fn broadcast(self) -> Broadcast<D> {
        Broadcast { stream: self }
    }
}

impl<C, G> KeyedStream<C, G>
where
    C: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
{
    /// Lets the rows of each key see what a broadcast has said; [`BroadcastConnected::process`] says what is made of both.
    ///
    /// # Panics
    /// When the broadcast is of another job's flow.
    pub fn connect_broadcast<D>(self, broadcast: Broadcast<D>) -> BroadcastConnected<C, G, D> {
        assert!(self.stream.flow.is(&broadcast.stream.flow), "two streams of one flow can be connected");
        BroadcastConnected { keyed: self, broadcast }
    }

    /// Joins each row with what a table has of its key. The table is what a broadcast has brought so far: `key_of` says which
    /// key a row of it is of, and the newest of a key is its entry. `join` is asked for every row, with or without an entry, and
    /// drops it by answering none.
    ///
    /// A row is joined at once, with the table as its shard has it then; where the entry of the row's own time is meant,
    /// [`as_of`](KeyedStream::as_of) waits for that. All of the table lies in memory on every shard, and its entries stay. For a
    /// table that does not change there is [`lookup`](Stream::lookup).
    ///
    /// ```
    /// # use millstream::{Items, Job, Stream, Chain};
    /// # use millstream_connectors::memory::MemorySink;
    /// /// Purchases of an article, each with its price.
    /// fn priced(
    ///     purchases: Stream<impl Chain<Out = u64>>,
    ///     prices: Stream<impl Chain<Out = [u64; 2]>>,
    /// ) -> Stream<impl Chain<Out = (u64, u64)>> {
    ///     let by_article = purchases.key_by(|article| *article);
    ///     by_article.join_broadcast(prices.broadcast(), |price| price[0], |article, price| Some((*article, price?[1])))
    /// }
    /// ```
    ///
    /// # Panics
    /// When the broadcast is of another job's flow.
    pub fn join_broadcast<D, U, Q, F>(
        self,
        table: Broadcast<D>,
        key_of: Q,
        join: F,
    ) -> Stream<Broadcasted<C, G, D, WithTable<C::Out, D::Out, Q, F>>>
    where
        D: Chain<Out: Sized + KeyedRow + JoinRow>,
        U: 'static,
        Q: Fn(&D::Out) -> G::Key + 'static,
        F: Fn(&C::Out, Option<&D::Out>) -> Option<U> + 'static,
    {
        self.connect_broadcast(table).operate("join_broadcast", WithTable::new(key_of, join))
    }
}

/// A keyed stream, and a broadcast that it sees.
#[must_use = "two streams that nothing processes do nothing"]
#[derive(Debug)]
pub struct BroadcastConnected<C, G, D> {
    keyed: KeyedStream<C, G>,
    broadcast: Broadcast<D>,
}

impl<C, G, D> BroadcastConnected<C, G, D>
where
    C: Chain<Out: Sized + KeyedRow>,
    D: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
{
    /// Has a function take the rows of keys, with their states, timers and side outputs at hand, and those of the broadcast,
    /// which change what all shards hold in common. That is part of every checkpoint and savepoint, and comes to all shards
    /// of the job that goes on, however many these are.
    ///
    /// There is no order between the two streams: a row may see a rule a little earlier or later than another row of its time
    /// on another shard. Where it must not, compare times, or keep rows until the watermark has come to theirs.
    pub fn process<P>(self, process: P) -> Stream<Broadcasted<C, G, D, P>>
    where
        P: BroadcastProcess<G::Key, C::Out, D::Out>,
    {
        self.operate("connect_broadcast", process)
    }

    /// The same under another name.
    fn operate<P>(self, kind: &'static str, process: P) -> Stream<Broadcasted<C, G, D, P>>
    where
        P: BroadcastProcess<G::Key, C::Out, D::Out>,
    {
        let BroadcastConnected { keyed: KeyedStream { stream, key }, broadcast: Broadcast { stream: broadcast } } =
            self;
        let flow = stream.flow;
        let (heard, is_timed) = {
            let plan = &flow.graph().plan;
            (plan.uid(broadcast.node), plan.gives_event_time(broadcast.node))
        };
        let detail = format!("{} -> {}, and {heard}", type_name::<G::Key>(), type_name::<P::Out>());
        let node = flow.node(kind, detail, Some(stream.node));
        flow.change(node, |node| node.also = Some(broadcast.node));
        let planned = Broadcasting::<G::Key, C::Out, D::Out, P>::new(process, false);
        note_states::<G::Key, OneOf<C::Out, D::Out>, _>(&planned, node, &flow);
        let process = planned.into_process();
        let edges = [flow.edge(), flow.edge()];
        let (upstream, broadcast) = (stream.chain, broadcast.chain);
        let chain = Broadcasted { upstream, key, broadcast, process, sides: Rc::default(), node, edges, is_timed };
        Stream { chain, flow, node }
    }
}

/// Rows of keys that see a broadcast: on one shard a stage behind two chains, on several the ends of two chains, two edges,
/// and a task behind each.
pub struct Broadcasted<C, G, D, P> {
    upstream: C,
    key: G,
    broadcast: D,
    process: P,
    sides: Branches,
    node: NodeId,
    edges: [u32; 2],
    /// The broadcast has event time.
    is_timed: bool,
}

impl<C, G, D, P> fmt::Debug for Broadcasted<C, G, D, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broadcasted(operator {}, {} sides)", self.node.0, self.sides.borrow().len())
    }
}

impl<C: Chain, G, D, P> Stream<Broadcasted<C, G, D, P>> {
    /// The stream of what the function writes to a side output. The main stream has to be ended by a sink as well.
    ///
    /// # Panics
    /// If the side output has a stream already.
    pub fn side<X: 'static>(&self, side: &SideOutput<X>) -> Stream<Side<X, C::Time>> {
        self.beside(&self.chain.sides, side)
    }
}

impl<C, G, D, P> Chain for Broadcasted<C, G, D, P>
where
    C: Chain<Out: Sized + KeyedRow>,
    D: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
    P: BroadcastProcess<G::Key, C::Out, D::Out>,
{
    type Out = P::Out;
    type Time = C::Time;

    fn attach<N: Stage<P::Out>>(self, next: N, graph: &mut Graph) {
        let Broadcasted { upstream, key, broadcast, process, sides, node, edges, is_timed } = self;
        let opened = graph.on_site(|site, plan| {
            let mut process = Broadcasting::new(process, site.shard == 0);
            let (kept, restored) = open(&mut process, site, &plan.uid(node))?;
            Ok((site.shard, Processor::new(process, kept, restored, sides.take(), node, next)))
        });
        let Some((shard, processor)) = opened else { return };
        let meeting = if is_timed { Meeting::new() } else { Meeting::without_time_of(BROADCAST) };
        let met = Met::of(processor, meeting);
        let [keyed_ends, broadcast_ends] = edges.map(|edge| graph.take_edge(edge));
        let left = Port::left(met.clone(), OneOf::Left);
        attach_keyed(upstream, key, WholeRow, left, (node, shard, keyed_ends), graph);
        let port = SharedPort::<G::Key, _, _>::new(met, OneOf::Right);
        let no_key = ByValue(|_: &D::Out| 0_u8, PhantomData);
        match broadcast_ends {
            None => broadcast.attach(Contribute::new(no_key, WholeRow, node, port), graph),
            Some(ends) => {
                let to_all = ToAll::<D::Out>::new(shard, ends.to);
                broadcast.attach(Contribute::new(no_key, WholeRow, node, to_all), graph);
                graph.tasks.push(Box::new(Merge::new(ends.from, port)));
            }
        }
    }
}
