//! A stream: what a user says between a source and a sink.

use std::any::type_name;
use std::marker::PhantomData;

use super::flow::Flow;
use super::graph::{Graph, NodeId};
use super::keyed::KeyedStream;
use crate::road::chain::{Chain, Filter, FilterMap, FlatMap, Inspect, Map, Project, Signal, Stage};
use crate::road::dense::{Dense, Piece};
use crate::road::event_time::EventTime;
use crate::road::fallible::{DeadLetter, OnError, TryMap, TryMapOr};
use crate::road::has_time::{TimeKind, Timed};
use crate::road::ingestion::IngestionTime;
use crate::road::keyed::{ByValue, InRow};
use crate::road::lookup::{Lookup, LookupTable};
use crate::road::pacing::Alignment;
use crate::road::rows::Rows;
use crate::road::sink::{Sink, SinkStage};
use crate::road::union::Union;
use crate::road::watermarks::WatermarkStrategy;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;
use millstream_state::Key;

/// A stream of rows, not yet ended by a sink.
///
/// Its type is the chain of operators so far, which compiles into one loop per operator. In a helper's signature write
/// `Stream<impl Chain<Out = T>>`, or `Stream<impl TimedChain<Out = T>>` where rows have event time, or erase the chain with [`boxed`](Stream::boxed).
///
/// ```
/// use millstream::{Chain, Stream};
///
/// fn even(numbers: Stream<impl Chain<Out = u64>>) -> Stream<impl Chain<Out = u64>> {
///     numbers.filter(|n| n % 2 == 0).named("even")
/// }
/// ```
#[must_use = "a stream that no sink ends does nothing"]
#[derive(Debug)]
pub struct Stream<C> {
    pub(crate) chain: C,
    pub(crate) flow: Flow,
    pub(crate) node: NodeId,
}

impl<C: Chain> Stream<C> {
    fn then<D>(self, kind: &'static str, detail: &str, chain: impl FnOnce(C, NodeId) -> D) -> Stream<D> {
        let node = self.flow.node(kind, detail.to_string(), Some(self.node));
        Stream { chain: chain(self.chain, node), flow: self.flow, node }
    }

    /// Names the last operator: the label of its metrics, and the name under which its state is kept across versions.
    pub fn named(self, name: impl Into<String>) -> Stream<C> {
        self.flow.change(self.node, |node| node.name = Some(name.into()));
        self
    }

    /// Keeps the rows for which `keep` is true.
    pub fn filter<F: Fn(&C::Out) -> bool + 'static>(self, keep: F) -> Stream<Filter<C, F>> {
        self.then("filter", "", |upstream, node| Filter { upstream, keep, node })
    }

    /// Turns every row into another.
    pub fn map<U: 'static, F: Fn(&C::Out) -> U + 'static>(self, map: F) -> Stream<Map<C, F>> {
        self.then("map", type_name::<U>(), |upstream, node| Map { upstream, map, node })
    }

    /// Goes on with a part of every row, which stays where it is: nothing is copied, and `part` is asked once for each time
    /// that a later operator looks. A panic in it is laid at that operator's door.
    ///
    /// ```
    /// # use millstream::{Chain, Stream};
    /// # struct Click { page: u64, at_ms: i64 }
    /// # fn of(clicks: Stream<impl Chain<Out = Click>>) -> Stream<impl Chain<Out = u64>> {
    /// clicks.project(|click| &click.page)
    /// # }
    /// ```
    pub fn project<U: ?Sized + 'static, F: Fn(&C::Out) -> &U + 'static>(self, part: F) -> Stream<Project<C, F, U>> {
        self.then("project", type_name::<U>(), |upstream, node| Project { upstream, part, node, of: PhantomData })
    }

    /// Turns a row into another, or drops it.
    pub fn filter_map<U: 'static, F: Fn(&C::Out) -> Option<U> + 'static>(self, map: F) -> Stream<FilterMap<C, F>> {
        self.then("filter_map", type_name::<U>(), |upstream, node| FilterMap { upstream, map, node })
    }

    /// Turns a row into any number of rows.
    pub fn flat_map<I: IntoIterator, F: Fn(&C::Out) -> I + 'static>(self, map: F) -> Stream<FlatMap<C, F>>
    where
        I::Item: 'static,
    {
        self.then("flat_map", type_name::<I::Item>(), |upstream, node| FlatMap { upstream, map, node })
    }

    /// Turns every row into another, or says why it cannot; `on_error` says what then happens.
    pub fn try_map<U: 'static, E: std::fmt::Display, F: Fn(&C::Out) -> Result<U, E> + 'static>(
        self,
        map: F,
        on_error: OnError,
    ) -> Stream<TryMap<C, F>> {
        self.then("try_map", type_name::<U>(), |upstream, node| TryMap { upstream, map, on_error, node })
    }

    /// As [`try_map`](Stream::try_map), with rows that fail written to a sink of their own, exactly once like the rest.
    pub fn try_map_or_dead_letter<U, E, F, S>(self, map: F, dead_letters: S) -> Stream<TryMapOr<C, F, S>>
    where
        C::Out: AsRef<[u8]>,
        U: 'static,
        E: std::fmt::Display,
        F: Fn(&C::Out) -> Result<U, E> + 'static,
        S: Sink<DeadLetter>,
    {
        let flow = self.flow.clone();
        self.then("try_map", type_name::<U>(), |upstream, node| {
            let letters_node = flow.sink_node(dead_letters.describe(), dead_letters.guarantee(), Some(node));
            TryMapOr { upstream, map, dead_letters, node, letters_node }
        })
    }

    /// Shows every row and its event time to `look`.
    pub fn inspect<F: Fn(&C::Out, Timestamp) + 'static>(self, look: F) -> Stream<Inspect<C, F>> {
        self.then("inspect", "", |upstream, node| Inspect { upstream, look, node })
    }

    /// Joins every row with the table's value for its key; rows without one are dropped. A large table is read with
    /// prefetching, a batch of rows at a time.
    pub fn lookup<K, V, U, F, J>(
        self,
        table: LookupTable<K, V>,
        key: F,
        join: J,
    ) -> Stream<Lookup<C, K, V, ByValue<K, F>, J>>
    where
        K: Key,
        V: Copy + 'static,
        U: 'static,
        F: Fn(&C::Out) -> K + 'static,
        J: Fn(&C::Out, &V) -> U + 'static,
    {
        let key = ByValue(key, PhantomData);
        self.then("lookup", type_name::<U>(), |upstream, node| Lookup { upstream, table, key, join, node })
    }

    /// As [`lookup`](Stream::lookup), with a key that lies in the row: long keys are then not copied to be hashed.
    pub fn lookup_ref<K, V, U, F, J>(
        self,
        table: LookupTable<K, V>,
        key: F,
        join: J,
    ) -> Stream<Lookup<C, K, V, InRow<K, F>, J>>
    where
        K: Key,
        V: Copy + 'static,
        U: 'static,
        F: Fn(&C::Out) -> &K + 'static,
        J: Fn(&C::Out, &V) -> U + 'static,
    {
        let key = InRow(key, PhantomData);
        self.then("lookup", type_name::<U>(), |upstream, node| Lookup { upstream, table, key, join, node })
    }

    /// Reads event time off the rows, and says how the watermark follows it: one of
    /// [`Watermarks`](crate::Watermarks)' ways, or a [`WatermarkGenerator`](crate::WatermarkGenerator) of your own.
    pub fn event_time<F, W>(self, time: F, watermarks: W) -> Stream<EventTime<C, F, W>>
    where
        F: Fn(&C::Out) -> Timestamp + 'static,
        W: WatermarkStrategy<C::Out>,
    {
        self.then("event_time", "", |upstream, node| EventTime { upstream, time, watermarks, alignment: None, node })
    }

    /// Takes the wall time at which a row is read for its event time. Time goes on by itself, also while nothing comes, so
    /// no row is ever late.
    ///
    /// After a restart, rows that are read again get other times: windows of ingestion time are not the same again. Where
    /// that matters, use times that lie in the rows, with [`event_time`](Stream::event_time).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use millstream::{Chain, Count, Stream, Tumbling, Windowed};
    /// # fn of(clicks: Stream<impl Chain<Out = u64>>) -> Stream<impl Chain<Out = Windowed<u64, u64>>> {
    /// clicks.ingestion_time().key_by(|page| *page).window(Tumbling::of(Duration::from_secs(1))).aggregate(Count)
    /// # }
    /// ```
    pub fn ingestion_time(self) -> Stream<IngestionTime<C>> {
        self.then("event_time", "ingestion", |upstream, node| IngestionTime { upstream, node })
    }

    /// The rows of both streams, as they come. Time is the least of the two; one that is idle or has ended is not waited for.
    ///
    /// Give both their event time before, or the union after: a split keeps a watermark of its own either way.
    ///
    /// ```
    /// # use millstream::{Items, Job};
    /// # use millstream_connectors::memory::MemorySink;
    /// # let sink = MemorySink::new();
    /// # let both = sink.clone();
    /// Job::new("both", move |flow| {
    ///     let old = flow.source(Items::of(vec![1, 2, 3]));
    ///     let new = flow.source(Items::of(vec![10, 20])).map(|tens| tens / 10);
    ///     old.union(new).sink(sink.clone());
    /// })
    /// .run()?;
    /// # let mut both = both.rows();
    /// # both.sort();
    /// assert_eq!(both, [1, 1, 2, 2, 3]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    ///
    /// # Panics
    /// When the other stream is of another job's flow.
    pub fn union<D: Chain<Out = C::Out>>(self, other: Stream<D>) -> Stream<Union<C, D>> {
        assert!(self.flow.is(&other.flow), "a union is of two streams of one flow");
        let detail = format!("and {}", self.flow.graph().plan.uid(other.node));
        let united = self.then("union", &detail, |one, _| Union { one, other: other.chain });
        united.flow.change(united.node, |node| node.also = Some(other.node));
        united
    }

    /// Brings rows with equal keys to the shard that owns the key.
    pub fn key_by<K: Key, F: Fn(&C::Out) -> K + 'static>(self, key: F) -> KeyedStream<C, ByValue<K, F>> {
        KeyedStream::new(self, ByValue(key, PhantomData))
    }

    /// As [`key_by`](Stream::key_by), with a key that lies in the row: long keys are then not copied to be hashed.
    pub fn key_by_ref<K: Key, F: Fn(&C::Out) -> &K + 'static>(self, key: F) -> KeyedStream<C, InRow<K, F>> {
        KeyedStream::new(self, InRow(key, PhantomData))
    }

    /// Windows are of a keyed stream. This is here to say so where the key was forgotten.
    #[doc(hidden)]
    pub fn window<W>(self, _window: W) -> std::convert::Infallible
    where
        Self: Keyed,
    {
        self.never()
    }

    /// Erases the chain's type, at the price of a copy of every row and a dynamic call per batch.
    pub fn boxed(self) -> Stream<Boxed<C::Out, C::Time>>
    where
        C::Out: Clone,
    {
        self.boxed_as()
    }

    /// The same, where it is known by other means whether rows have event time. The plan is checked all the same.
    pub(super) fn boxed_as<E>(self) -> Stream<Boxed<C::Out, E>>
    where
        C::Out: Clone,
    {
        let chain = self.chain;
        let attach = move |next: Box<dyn DenseStage<C::Out>>, graph: &mut Graph| {
            chain.attach(BoxedStage { rows: Dense::default(), next }, graph);
        };
        Stream { chain: Boxed { attach: Box::new(attach), time: PhantomData }, flow: self.flow, node: self.node }
    }

    /// Ends the stream: its rows become visible with the epoch they belong to.
    pub fn sink<S: Sink<C::Out>>(self, sink: S)
    where
        C::Out: Sized,
    {
        self.end(None, sink);
    }

    /// The same, with a name for the sink: the label of its metrics, and the name under which a checkpoint keeps what it
    /// prepared. Without one, a job whose graph has changed goes on from savepoints alone.
    pub fn sink_named<S: Sink<C::Out>>(self, name: impl Into<String>, sink: S)
    where
        C::Out: Sized,
    {
        self.end(Some(name.into()), sink);
    }

    fn end<S: Sink<C::Out>>(self, name: Option<String>, sink: S)
    where
        C::Out: Sized,
    {
        let node = self.flow.sink_node(sink.describe(), sink.guarantee(), Some(self.node));
        self.flow.change(node, |node| node.name = name);
        let graph = &mut self.flow.graph();
        if let Some(stage) = SinkStage::open(&sink, node, graph) {
            self.chain.attach(stage, graph);
        }
    }
}

impl<C, F, W> Stream<EventTime<C, F, W>> {
    /// Has the sources of this stream pause while it is far ahead of others that are aligned with it in event time, so that
    /// what the fast ones read does not have to be kept until the slow ones come up. Said right behind
    /// [`event_time`](Stream::event_time).
    ///
    /// A stream that is idle is not waited for. One that pauses goes on taking part in checkpoints.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use millstream::{Alignment, Items, Job, Timestamp, Watermarks};
    /// # use millstream_connectors::memory::NullSink;
    /// let abreast = Alignment::within(Duration::from_secs(30));
    /// Job::new("both", move |flow| {
    ///     let orders = flow
    ///         .source(Items::of(vec![1_i64, 2, 3]))
    ///         .event_time(|at| Timestamp(*at), Watermarks::monotonic())
    ///         .aligned(&abreast);
    ///     let payments = flow
    ///         .source(Items::of(vec![4_i64, 5]))
    ///         .event_time(|at| Timestamp(*at), Watermarks::monotonic())
    ///         .aligned(&abreast);
    ///     orders.union(payments).sink(NullSink::new());
    /// })
    /// .run()?;
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    pub fn aligned(mut self, alignment: &Alignment) -> Self {
        self.chain.alignment = Some(alignment.clone());
        self
    }
}

/// What no [`Stream`] is before `key_by`.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "windows are of rows with a key, and this stream has none",
    label = "say `.key_by(|row| ..)` before `.window(..)`",
    note = "for one window over all rows, give them all the same key: .key_by(|_| 0_u64)"
)]
pub trait Keyed: Sized {
    /// Nobody can call it.
    fn never(self) -> std::convert::Infallible;
}

/// A chain whose type has been erased, but for its rows' and whether they have event time.
pub struct Boxed<T, E = Timed> {
    attach: Box<dyn FnOnce(Box<dyn DenseStage<T>>, &mut Graph)>,
    time: PhantomData<E>,
}

impl<T, E> std::fmt::Debug for Boxed<T, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Boxed")
    }
}

impl<T: 'static, E: TimeKind> Chain for Boxed<T, E> {
    type Out = T;
    type Time = E;

    fn attach<N: Stage<T>>(self, next: N, graph: &mut Graph) {
        (self.attach)(Box::new(next), graph);
    }
}

/// What of a stage fits behind a pointer: it takes rows in one shape only.
pub(crate) trait DenseStage<T> {
    fn dense(&mut self, rows: &Piece<'_, T>, cx: &mut Cx<'_>) -> Result<(), Fault>;
    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault>;
    fn ready(&mut self) -> bool;
    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault>;
    fn states(&mut self, visitor: &mut dyn StateVisitor);
}

impl<T: 'static, N: Stage<T>> DenseStage<T> for N {
    fn dense(&mut self, rows: &Piece<'_, T>, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.batch(rows, cx)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        Stage::signal(self, signal, cx)
    }

    fn ready(&mut self) -> bool {
        Stage::ready(self)
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        Stage::resume(self, cx)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        Stage::states(self, visitor);
    }
}

struct BoxedStage<T> {
    rows: Dense<T>,
    next: Box<dyn DenseStage<T>>,
}

impl<T: Clone + 'static> Stage<T> for BoxedStage<T> {
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let rows = self.rows.each_of(rows, |index| rows.row(index).clone());
        self.next.dense(&rows, cx)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.next.signal(signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.next.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.next.resume(cx)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.next.states(visitor);
    }
}
