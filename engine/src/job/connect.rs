//! Two keyed streams that meet: what a user says with `connect`.

use std::any::type_name;
use std::fmt;
use std::rc::Rc;

use millstream_state::schema::Described;

use super::graph::{Graph, NodeId};
use super::keyed::{KeyedStream, attach_keyed};
use super::process::{Branches, note_states, open};
use super::stream::Stream;
use crate::road::chain::{Chain, Stage};
use crate::road::connect::{CoProcess, OneOf, Paired, ports};
use crate::road::has_time::TimeKind;
use crate::road::keyed::Keying;
use crate::road::processor::Processor;
use crate::road::side::{Side, SideOutput};
use crate::road::stateful::{KeyedRow, WholeRow};

impl<C, G> KeyedStream<C, G>
where
    C: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
{
    /// Brings the rows of two streams to the states of their key; [`Connected::process`] says what is done with them.
    ///
    /// Every purchase with the price that its article had last, in whatever order the two came:
    ///
    /// ```
    /// use millstream::state::{KeyedState, Value};
    /// use millstream::{BoxError, CoProcess, Items, Job, ProcessContext};
    /// use millstream_connectors::memory::MemorySink;
    ///
    /// #[derive(KeyedState)]
    /// struct Article {
    ///     cents: Value<u64>,
    ///     unpriced: Value<u64>,
    /// }
    ///
    /// struct Priced;
    ///
    /// type Cx<'a> = ProcessContext<'a, u64, (u64, u64)>;
    ///
    /// impl CoProcess<u64, u64, [u64; 2]> for Priced {
    ///     type State = Article;
    ///     type Out = (u64, u64);
    ///
    ///     fn on_left(&mut self, article: &mut Article, number: u64, cx: &mut Cx<'_>) -> Result<(), BoxError> {
    ///         match article.cents.get() {
    ///             Some(cents) => cx.emit((number, *cents)),
    ///             None => article.unpriced.update_or(0, |purchases| *purchases += 1),
    ///         }
    ///         Ok(())
    ///     }
    ///
    ///     fn on_right(&mut self, article: &mut Article, price: [u64; 2], cx: &mut Cx<'_>) -> Result<(), BoxError> {
    ///         let [number, cents] = price;
    ///         article.cents.set(cents);
    ///         (0..article.unpriced.get_or(0)).for_each(|_| cx.emit((number, cents)));
    ///         article.unpriced.clear();
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let sink = MemorySink::new();
    /// let priced = sink.clone();
    /// Job::new("priced", move |flow| {
    ///     let purchases = flow.source(Items::of(vec![7_u64, 9, 7])).key_by(|number| *number);
    ///     let prices = flow.source(Items::of(vec![[7_u64, 250], [9, 399]])).key_by(|price| price[0]);
    ///     purchases.connect(prices).process(Priced).named("priced").sink(sink.clone());
    /// })
    /// .run()?;
    /// let mut priced = priced.rows();
    /// priced.sort();
    /// assert_eq!(priced, [(7, 250), (7, 250), (9, 399)]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    ///
    /// Both have the same type of key:
    ///
    /// ```compile_fail,E0271
    /// # use millstream::{Chain, Stream};
    /// # fn of(orders: Stream<impl Chain<Out = u64>>, clients: Stream<impl Chain<Out = u32>>) {
    /// let _ = orders.key_by(|order| *order).connect(clients.key_by(|client| *client));
    /// # }
    /// ```
    ///
    /// # Panics
    /// When the other stream is of another job's flow.
    pub fn connect<D, H>(self, other: KeyedStream<D, H>) -> Connected<C, G, D, H>
    where
        D: Chain<Out: Sized + KeyedRow>,
        H: Keying<D::Out, Key = G::Key>,
    {
        assert!(self.stream.flow.is(&other.stream.flow), "two streams of one flow can be connected");
        Connected { left: self, right: other }
    }
}

/// Two streams with one kind of key.
#[must_use = "two streams that nothing processes do nothing"]
#[derive(Debug)]
pub struct Connected<C, G, D, H> {
    left: KeyedStream<C, G>,
    right: KeyedStream<D, H>,
}

impl<C, G, D, H> Connected<C, G, D, H>
where
    C: Chain<Out: Sized + KeyedRow>,
    D: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
    H: Keying<D::Out, Key = G::Key>,
{
    /// Has a function take the rows of both streams, with states, timers and side outputs of their key at hand.
    ///
    /// A key's rows of one stream come in the order in which each of their sources gave them; there is no order between the
    /// two streams. The watermark is the least of the two, and a stream that is idle or has ended is not waited for.
    pub fn process<P>(self, process: P) -> Stream<CoProcessed<C, G, D, H, P>>
    where
        P: CoProcess<G::Key, C::Out, D::Out>,
    {
        self.operate("connect", "", process)
    }

    /// The same under another name, and with what else is to be said of it.
    pub(super) fn operate<P>(self, kind: &'static str, how: &str, process: P) -> Stream<CoProcessed<C, G, D, H, P>>
    where
        P: CoProcess<G::Key, C::Out, D::Out>,
    {
        let comma = if how.is_empty() { "" } else { ", " };
        let what = format!("{how}{comma}{} -> {}", type_name::<G::Key>(), type_name::<P::Out>());
        self.operate_as(kind, what, process)
    }

    /// The same in words of its own. A checkpoint fits a job of the same words, so they stay as they are.
    pub(super) fn operate_as<P>(
        self,
        kind: &'static str,
        what: String,
        process: P,
    ) -> Stream<CoProcessed<C, G, D, H, P>>
    where
        P: CoProcess<G::Key, C::Out, D::Out>,
    {
        let Connected { left, right } = self;
        let flow = left.stream.flow;
        let detail = format!("{what}, and {}", flow.graph().plan.uid(right.stream.node));
        let node = flow.node(kind, detail, Some(left.stream.node));
        flow.change(node, |node| node.also = Some(right.stream.node));
        let process = Paired(process);
        note_states::<G::Key, OneOf<C::Out, D::Out>, _>(&process, node, &flow);
        let edges = [flow.edge(), flow.edge()];
        let chain = CoProcessed {
            left: left.stream.chain,
            left_key: left.key,
            right: right.stream.chain,
            right_key: right.key,
            process: process.0,
            sides: Rc::default(),
            node,
            edges,
        };
        Stream { chain, flow, node }
    }
}

/// Rows of two streams that one function takes: on one shard a stage behind two chains, on several the ends of two chains,
/// two edges, and a task behind each.
pub struct CoProcessed<C, G, D, H, P> {
    left: C,
    left_key: G,
    right: D,
    right_key: H,
    process: P,
    sides: Branches,
    node: NodeId,
    edges: [u32; 2],
}

impl<C, G, D, H, P> fmt::Debug for CoProcessed<C, G, D, H, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CoProcessed(operator {}, {} sides)", self.node.0, self.sides.borrow().len())
    }
}

impl<C: Chain, G, D: Chain, H, P> Stream<CoProcessed<C, G, D, H, P>> {
    /// The stream of what the function writes to a side output. The main stream has to be ended by a sink as well.
    ///
    /// # Panics
    /// If the side output has a stream already.
    pub fn side<X: 'static>(&self, side: &SideOutput<X>) -> Stream<Side<X, <C::Time as TimeKind>::And<D::Time>>> {
        self.beside(&self.chain.sides, side)
    }
}

impl<C, G, D, H, P> Chain for CoProcessed<C, G, D, H, P>
where
    C: Chain<Out: Sized + KeyedRow>,
    D: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
    H: Keying<D::Out, Key = G::Key>,
    P: CoProcess<G::Key, C::Out, D::Out>,
{
    type Out = P::Out;
    type Time = <C::Time as TimeKind>::And<D::Time>;

    fn attach<N: Stage<P::Out>>(self, next: N, graph: &mut Graph) {
        let CoProcessed { left, left_key, right, right_key, process, sides, node, edges } = self;
        let mut process = Paired(process);
        let opened = graph.on_site(|site, plan| {
            let (kept, restored) = open(&mut process, site, &plan.uid(node))?;
            Ok((site.shard, Processor::new(process, kept, restored, sides.take(), node, next)))
        });
        let Some((shard, processor)) = opened else { return };
        let (left_port, right_port) = ports(processor, OneOf::Left, OneOf::Right);
        let [left_ends, right_ends] = edges.map(|edge| graph.take_edge(edge));
        attach_keyed(left, left_key, WholeRow, left_port, (node, shard, left_ends), graph);
        attach_keyed(right, right_key, WholeRow, right_port, (node, shard, right_ends), graph);
    }
}
