//! A keyed stream in windows with triggers: what a user says between `window` and what is made of the rows.

use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use millstream_state::schema::Described;
use millstream_state::{Fixed, Key, PageStore};

use super::graph::{Graph, NodeId};
use super::keyed::{KeyedStream, attach_keyed};
use super::stream::Stream;
use super::windowed::{Lenient, WindowedStream, Windowing, restore_with};
use crate::road::aggregate::{Aggregate, Reduced};
use crate::road::chain::{Chain, Stage};
use crate::road::keyed::Keying;
use crate::road::stateful::{KeyedRow, WholeRow};
use crate::road::window::{
    Aligned, Assigned, Assigner, Contents, CountsDistinct, DropLate, Element, Evictor, Folded, KeepAll, LateTo,
    Lateness, Listed, MakesResults, OnTime, Pane, Processing, Results, Rules, TriggerFor, Triggered, Window,
    WindowKind, WindowSlots, Work, millis,
};

/// A window keeps an accumulator of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Folds;

/// A window keeps its rows, and leaves out what an evictor says.
#[derive(Clone, Copy, Debug)]
pub struct KeepsRows<E> {
    pub(super) evictor: E,
}

/// Windows that keep their rows.
#[diagnostic::on_unimplemented(
    message = "an evictor needs the window's rows, and these windows keep only an accumulator of them",
    label = "say `.elements()` before `.evict(..)`",
    note = ".elements() keeps every row until its window is dropped; without it a row is folded and gone"
)]
pub trait HasRows {}

impl<E> HasRows for KeepsRows<E> {}

/// A keyed stream cut into windows, of which a trigger says when they are emitted.
#[must_use = "a stream that no sink ends does nothing"]
#[derive(Debug)]
pub struct TriggeredStream<C, G, W, R, L = DropLate, M = Folds> {
    keyed: KeyedStream<C, G>,
    kind: W,
    trigger: R,
    is_discarding: bool,
    is_counted: bool,
    lateness_ms: i64,
    late: L,
    keeps: M,
}

impl<C, G, W, R> TriggeredStream<C, G, W, R> {
    pub(super) fn new(keyed: KeyedStream<C, G>, kind: W, trigger: R) -> Self {
        let (is_discarding, is_counted, lateness_ms) = (false, false, 0);
        TriggeredStream { keyed, kind, trigger, is_discarding, is_counted, lateness_ms, late: DropLate, keeps: Folds }
    }
}

impl<C, G, W, R, L, M> TriggeredStream<C, G, W, R, L, M> {
    /// Emits windows when the trigger says so.
    pub fn trigger<N>(self, trigger: N) -> TriggeredStream<C, G, W, N, L, M>
    where
        C: Chain<Out: Sized>,
        W: WindowKind<C::Out>,
        N: TriggerFor<W::Meeting, C::Out>,
    {
        let TriggeredStream { keyed, kind, is_discarding, is_counted, lateness_ms, late, keeps, .. } = self;
        TriggeredStream { keyed, kind, trigger, is_discarding, is_counted, lateness_ms, late, keeps }
    }

    /// Each result of a window is of all its rows so far: what windows do unless told otherwise.
    pub fn accumulating(self) -> Self {
        TriggeredStream { is_discarding: false, ..self }
    }

    /// Each result of a window is of the rows since the one before: contents are dropped when they have been emitted.
    pub fn discarding(self) -> Self {
        TriggeredStream { is_discarding: true, ..self }
    }

    /// Keeps each window for `lateness` after the watermark has passed its end, for rows that come meanwhile. The trigger
    /// says when it is emitted again; unless told otherwise at once.
    pub fn allowed_lateness(self, lateness: Duration) -> Self {
        TriggeredStream { lateness_ms: millis(lateness), ..self }
    }

    /// Writes rows that are too late for all their windows to a sink of their own, exactly once like the rest: each as its
    /// key, the row, and its event time.
    pub fn late_to<S>(self, sink: S) -> TriggeredStream<C, G, W, R, LateTo<S>, M> {
        let TriggeredStream { keyed, kind, trigger, is_discarding, is_counted, lateness_ms, keeps, .. } = self;
        TriggeredStream { keyed, kind, trigger, is_discarding, is_counted, lateness_ms, late: LateTo { sink }, keeps }
    }

    /// Leaves rows out of a window, from then on, each time before a result is made of it. Windows have to keep their
    /// rows: [`elements`](TriggeredStream::elements) comes before.
    pub fn evict<E>(self, evictor: E) -> TriggeredStream<C, G, W, R, L, KeepsRows<E>>
    where
        M: HasRows,
    {
        self.keeping(KeepsRows { evictor })
    }

    pub(super) fn keeping<N>(self, keeps: N) -> TriggeredStream<C, G, W, R, L, N> {
        let TriggeredStream { keyed, kind, trigger, is_discarding, is_counted, lateness_ms, late, .. } = self;
        TriggeredStream { keyed, kind, trigger, is_discarding, is_counted, lateness_ms, late, keeps }
    }

    /// The windows are of so many rows, not of a time.
    pub(super) fn counted(self) -> Self {
        TriggeredStream { is_counted: true, ..self }
    }
}

impl<C, G, W, R, L> TriggeredStream<C, G, W, R, L, Folds>
where
    C: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
    W: WindowKind<C::Out>,
    R: TriggerFor<W::Meeting, C::Out>,
    L: Lateness<G::Key, C::Out>,
{
    /// Keeps the rows of each window: for an evictor, or for a result that needs them all.
    ///
    /// What is kept grows with the rows; each is looked up again whenever its window is emitted.
    pub fn elements(self) -> TriggeredStream<C, G, W, R, L, KeepsRows<KeepAll>> {
        self.keeping(KeepsRows { evictor: KeepAll })
    }

    /// Folds the rows of every key and window into one result, emitted whenever the trigger says so.
    pub fn aggregate<A>(self, aggregate: A) -> Stream<TriggeredWindows<C, G, W, R, L, Folding<A>>>
    where
        A: Aggregate<C::Out> + 'static,
    {
        self.made(Folding { aggregate })
    }

    /// Makes the rows of every key and window into one of their kind, two at a time; see [`Reduced`].
    pub fn reduce<F>(self, two: F) -> Stream<TriggeredWindows<C, G, W, R, L, Folding<Reduced<F>>>>
    where
        C::Out: Default,
        F: Fn(&C::Out, &C::Out) -> C::Out + 'static,
    {
        self.made(Folding { aggregate: Reduced::by(two) })
    }
}

impl<C, G, W, R, L, E> TriggeredStream<C, G, W, R, L, KeepsRows<E>>
where
    C: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
    W: WindowKind<C::Out>,
    R: TriggerFor<W::Meeting, C::Out>,
    L: Lateness<G::Key, C::Out>,
    E: Evictor<C::Out>,
{
    /// Folds the rows that a window has kept, whenever the trigger says so.
    pub fn aggregate<A>(self, aggregate: A) -> Stream<TriggeredWindows<C, G, W, R, L, Listing<E, MakesResults<A>>>>
    where
        A: Aggregate<C::Out> + 'static,
    {
        self.listed(MakesResults(aggregate))
    }

    /// Makes the rows that a window has kept into one of their kind, two at a time, in the order they came.
    pub fn reduce<F>(self, two: F) -> Stream<TriggeredWindows<C, G, W, R, L, Listing<E, MakesResults<Reduced<F>>>>>
    where
        C::Out: Default,
        F: Fn(&C::Out, &C::Out) -> C::Out + 'static,
    {
        self.listed(MakesResults(Reduced::by(two)))
    }

    /// Counts how many different values the rows of each key and window have, exactly: it takes all rows to know. To within a
    /// share that is known, and in a fixed size, there is [`Distinct`](crate::Distinct).
    ///
    /// ```
    /// # use millstream::{Global, Items, Job, AtEndOfInput};
    /// # use millstream_connectors::memory::MemorySink;
    /// # let sink = MemorySink::new();
    /// # let rows = sink.clone();
    /// Job::new("visitors", move |flow| {
    ///     let visits = flow.source(Items::of(vec![[7_u64, 1], [7, 2], [7, 1], [8, 1]]));
    ///     visits
    ///         .key_by(|[page, _]| *page)
    ///         .window(Global)
    ///         .trigger(AtEndOfInput)
    ///         .elements()
    ///         .count_distinct(|[_, visitor]| *visitor)
    ///         .map(|row| (row.key, row.value))
    ///         .sink(sink.clone());
    /// })
    /// .run()?;
    /// # let mut rows = rows.rows();
    /// # rows.sort();
    /// assert_eq!(rows, [(7, 2), (8, 1)]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    pub fn count_distinct<V, F>(
        self,
        value: F,
    ) -> Stream<TriggeredWindows<C, G, W, R, L, Listing<E, CountsDistinct<F>>>>
    where
        V: Eq + Hash,
        F: Fn(&C::Out) -> V + 'static,
    {
        self.listed(CountsDistinct(value))
    }

    /// Makes any number of results of the rows that a window has kept, whenever the trigger says so: the closure is given
    /// the key, the window (none where all rows are in one), which of its results this is, and the rows in the order they
    /// came. Rows of sessions that have merged lie one session's behind the other's.
    ///
    /// The median of each minute:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use millstream::{Chain, Element, Stream, Timestamp, Tumbling, Watermarks};
    /// # #[millstream::event] #[derive(Clone, Copy)] struct Reading { sensor: u64, at_ms: i64, celsius: i64 }
    /// # fn of(readings: Stream<impl Chain<Out = Reading>>) -> Stream<impl Chain<Out = (u64, i64)>> {
    /// readings
    ///     .event_time(|reading| Timestamp(reading.at_ms), Watermarks::monotonic())
    ///     .key_by(|reading| reading.sensor)
    ///     .window(Tumbling::of(Duration::from_secs(60)))
    ///     .elements()
    ///     .process(|sensor, _window, _pane, rows: &[Element<Reading>]| {
    ///         let mut celsius: Vec<i64> = rows.iter().map(|element| element.row.celsius).collect();
    ///         celsius.sort_unstable();
    ///         Some((*sensor, celsius[celsius.len() / 2]))
    ///     })
    /// # }
    /// ```
    pub fn process<I, F>(self, process: F) -> Stream<TriggeredWindows<C, G, W, R, L, Listing<E, Processing<F>>>>
    where
        I: IntoIterator<Item: 'static>,
        F: Fn(&G::Key, Option<Window>, Pane, &[Element<C::Out>]) -> I + 'static,
    {
        self.listed(Processing(process))
    }

    fn listed<Q>(self, results: Q) -> Stream<TriggeredWindows<C, G, W, R, L, Listing<E, Q>>>
    where
        Q: Results<G::Key, C::Out>,
    {
        let TriggeredStream { keyed, kind, trigger, is_discarding, is_counted, lateness_ms, late, keeps } = self;
        let keeps_rows = Listing { evictor: keeps.evictor, results };
        TriggeredStream { keyed, kind, trigger, is_discarding, is_counted, lateness_ms, late, keeps: Folds }
            .made(keeps_rows)
    }
}

impl<C, G, W, R, L> TriggeredStream<C, G, W, R, L, Folds>
where
    C: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
    W: WindowKind<C::Out>,
    R: TriggerFor<W::Meeting, C::Out>,
    L: Lateness<G::Key, C::Out>,
{
    /// Notes the operator, and the sink of rows that are late.
    fn made<B>(self, making: B) -> Stream<TriggeredWindows<C, G, W, R, L, B>>
    where
        B: Making<G::Key, C::Out>,
    {
        let TriggeredStream { keyed, kind, trigger, is_discarding, is_counted, lateness_ms, late, .. } = self;
        let KeyedStream { stream, key } = keyed;
        let of = if W::IS_GLOBAL && !trigger.needs_event_time() {
            "global_window"
        } else if kind.is_processing() {
            "processing_window"
        } else {
            "window"
        };
        let what = if is_discarding { "discarding" } else { "accumulating" };
        let detail = format!("{kind:?}, {trigger:?}, {what}{}", making.words());
        let node = stream.flow.node(of, detail, Some(stream.node));
        stream.flow.keeps(node, |store| {
            drop(WindowSlots::<G::Key, B::Kept, R::State>::declare(store));
            making.declare(store);
        });
        if lateness_ms > 0 {
            // No part of what must be the same for a checkpoint to fit: windows are kept longer from then on.
            stream.flow.change(node, |node| node.notes = vec![format!("allowed lateness: {lateness_ms} ms")]);
        }
        let edge = stream.flow.edge();
        let late_node = late.note().map(|(what, guarantee)| stream.flow.sink_node(what, guarantee, Some(node)));
        let rules = Rules { kind, trigger, is_discarding, lateness_ms, is_counted };
        let chain = TriggeredWindows { upstream: stream.chain, key, rules, late, late_node, making, node, edge };
        Stream { chain, flow: stream.flow, node }
    }
}

/// How the contents of windows come to be on a shard.
pub trait Making<K, T>: 'static {
    #[doc(hidden)]
    type Kept: Fixed;
    /// What goes on from here.
    type Out: 'static;
    #[doc(hidden)]
    type Contents: Contents<K, T, Kept = Self::Kept, Out = Self::Out>;

    #[doc(hidden)]
    fn words(&self) -> String;
    #[doc(hidden)]
    fn declare(&self, store: &PageStore);
    #[doc(hidden)]
    fn make(self, store: &PageStore) -> Self::Contents;
}

/// An accumulator of an aggregate.
#[derive(Clone, Copy, Debug)]
pub struct Folding<A> {
    aggregate: A,
}

impl<K: Key, T: 'static, A: Aggregate<T> + 'static> Making<K, T> for Folding<A> {
    type Kept = A::Acc;
    type Out = <Folded<A> as Contents<K, T>>::Out;
    type Contents = Folded<A>;

    fn words(&self) -> String {
        String::new()
    }

    fn declare(&self, _store: &PageStore) {}

    fn make(self, _store: &PageStore) -> Folded<A> {
        Folded { aggregate: self.aggregate }
    }
}

/// A list of rows.
#[derive(Clone, Copy, Debug)]
pub struct Listing<E, Q> {
    evictor: E,
    results: Q,
}

impl<K, T, E, Q> Making<K, T> for Listing<E, Q>
where
    K: Key + Described,
    T: Fixed,
    E: Evictor<T>,
    Q: Results<K, T>,
{
    type Kept = <Listed<K, T, E, Q> as Contents<K, T>>::Kept;
    type Out = Q::Out;
    type Contents = Listed<K, T, E, Q>;

    fn words(&self) -> String {
        format!(", rows kept: {:?}", self.evictor)
    }

    fn declare(&self, store: &PageStore) {
        drop(Listed::<K, T, KeepAll, ()>::declare(store, KeepAll, ()));
    }

    fn make(self, store: &PageStore) -> Listed<K, T, E, Q> {
        Listed::declare(store, self.evictor, self.results)
    }
}

/// Windows with a trigger: on one shard a stage of the chain, on several the end of a chain, an edge, and a task.
pub struct TriggeredWindows<C, G, W, R, L, B> {
    upstream: C,
    key: G,
    rules: Rules<W, R>,
    late: L,
    late_node: Option<NodeId>,
    making: B,
    node: NodeId,
    edge: u32,
}

impl<C, G, W: fmt::Debug, R: fmt::Debug, L, B> fmt::Debug for TriggeredWindows<C, G, W, R, L, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TriggeredWindows(operator {}, {:?})", self.node.0, self.rules)
    }
}

impl<C, G, W, R, L, B> Chain for TriggeredWindows<C, G, W, R, L, B>
where
    C: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
    W: WindowKind<C::Out>,
    R: TriggerFor<W::Meeting, C::Out>,
    L: Lateness<G::Key, C::Out>,
    B: Making<G::Key, C::Out>,
{
    type Out = B::Out;
    type Time = C::Time;

    fn attach<N: Stage<B::Out>>(self, next: N, graph: &mut Graph) {
        let TriggeredWindows { upstream, key, rules, late, late_node, making, node, edge } = self;
        let ends = graph.take_edge(edge);
        let opened = graph.on_site(|site, plan| {
            let declare = |store: &PageStore| (WindowSlots::declare(store), making.make(store), store.clone());
            let ((mut slots, contents, store), blob) = restore_with(site, &plan.uid(node), declare)?;
            slots.restored();
            Ok((Work::new(rules, slots, contents), store, blob, site.shard))
        });
        let Some((work, store, blob, shard)) = opened else { return };
        let Some(late) = late.open(late_node, graph) else { return };
        let windows = Triggered::new(work, store, blob, late, node, next);
        attach_keyed(upstream, key, WholeRow, windows, (node, shard, ends), graph);
    }
}

impl<C: Chain, G: Keying<C::Out>> KeyedStream<C, G> {
    /// Cuts each key's rows into windows of your own.
    pub fn window_by<A>(self, assigner: A) -> TriggeredStream<C, G, Assigned<A>, OnTime>
    where
        C::Out: Sized,
        A: Assigner<C::Out>,
    {
        TriggeredStream::new(self, Assigned(assigner), OnTime)
    }
}

impl<C: Chain, G: Keying<C::Out>, W: Windowing> WindowedStream<C, G, W> {
    fn triggered(self) -> TriggeredStream<C, G, Aligned, OnTime, W::Late> {
        let Lenient { slides, lateness_ms, late, .. } = self.window.lenient();
        let TriggeredStream { keyed, kind, trigger, is_discarding, is_counted, keeps, .. } =
            TriggeredStream::new(self.keyed, Aligned { slides, is_processing: false }, OnTime);
        TriggeredStream { keyed, kind, trigger, is_discarding, is_counted, lateness_ms, late, keeps }
    }

    /// Emits windows when the trigger says so: early, late, at counts, or as you write it.
    ///
    /// An alert once a shop has sold ten times within an hour, and the hour's count when it is complete:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use millstream::{Chain, Count, Every, Fired, OnTime, Stream, TimedChain, Tumbling};
    /// # #[millstream::event] #[derive(Clone, Copy)] struct Sale { shop: u64, cents: i64 }
    /// # fn of(sales: Stream<impl TimedChain<Out = Sale>>) -> Stream<impl Chain<Out = Fired<u64, u64>>> {
    /// sales
    ///     .key_by(|sale| sale.shop)
    ///     .window(Tumbling::of(Duration::from_secs(3_600)))
    ///     .trigger(OnTime::new().early(Every::count(10)))
    ///     .aggregate(Count)
    /// # }
    /// ```
    pub fn trigger<R>(self, trigger: R) -> TriggeredStream<C, G, Aligned, R, W::Late>
    where
        C::Out: Sized,
        R: TriggerFor<<Aligned as WindowKind<C::Out>>::Meeting, C::Out>,
    {
        self.triggered().trigger(trigger)
    }

    /// Each result of a window is of the rows since the one before: contents are dropped when they have been emitted.
    pub fn discarding(self) -> TriggeredStream<C, G, Aligned, OnTime, W::Late> {
        self.triggered().discarding()
    }

    /// Keeps the rows of each window: for an evictor, or for a result that needs them all.
    pub fn elements(self) -> TriggeredStream<C, G, Aligned, OnTime, W::Late, KeepsRows<KeepAll>> {
        self.triggered().keeping(KeepsRows { evictor: KeepAll })
    }

    /// Leaves rows out of a window before a result is made of it: for windows that keep their rows, so
    /// [`elements`](WindowedStream::elements) comes before.
    pub fn evict<E>(self, evictor: E) -> TriggeredStream<C, G, Aligned, OnTime, W::Late, KeepsRows<E>>
    where
        W: HasRows,
    {
        self.triggered().keeping(KeepsRows { evictor })
    }
}
