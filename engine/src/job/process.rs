//! A keyed stream and a process function: what a user says with `process`, and the streams that come of it.

use std::any::type_name;
use std::cell::RefCell;
use std::rc::Rc;

use millstream_state::schema::Described;
use millstream_state::{Key, PageStore};
use serde::Deserialize;

use super::flow::Flow;
use super::graph::{Graph, NodeId, Site};
use super::keyed::{KeyedStream, attach_keyed};
use super::stream::Stream;
use crate::road::chain::{Chain, Stage};
use crate::road::keyed::Keying;
use crate::road::operate::{Operate, Plain};
use crate::road::process::{BoxError, Process};
use crate::road::processor::{Kept, ProcessBlob, Processor};
use crate::road::side::{Branch, Side, SideOutput};
use crate::road::stateful::{KeyedRow, WholeRow};
use crate::road::timers::Pending;
use crate::run::fault::{JobError, in_words};
use crate::state::Bound;

impl<C, G> KeyedStream<C, G>
where
    C: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
{
    /// Has a process function take every row, with states, timers and side outputs of its key at hand.
    ///
    /// A key's rows come as they do to [`map_with_state`](KeyedStream::map_with_state), which is the short form. Event-time
    /// timers fire when the watermark comes to them, before it goes on downstream, and all that are left when the input
    /// ends. Processing-time timers fire when wall time comes to them; those that are left when the input ends do not.
    ///
    /// Rows that are repeated within ten seconds are dropped, and told of on the side:
    ///
    /// ```
    /// use millstream::state::{KeyedState, Value};
    /// use millstream::{BoxError, Items, Job, Process, ProcessContext, SideOutput, Timer, Timestamp, Watermarks};
    /// use millstream_connectors::memory::MemorySink;
    ///
    /// #[derive(KeyedState)]
    /// struct Seen {
    ///     is_seen: Value<bool>,
    /// }
    ///
    /// struct Once {
    ///     repeated: SideOutput<u64>,
    /// }
    ///
    /// type Cx<'a> = ProcessContext<'a, u64, u64>;
    ///
    /// impl Process<u64, u64> for Once {
    ///     type State = Seen;
    ///     type Out = u64;
    ///
    ///     fn on_event(&mut self, seen: &mut Seen, number: u64, cx: &mut Cx<'_>) -> Result<(), BoxError> {
    ///         if seen.is_seen.is_set() {
    ///             cx.side(&self.repeated, number);
    ///             return Ok(());
    ///         }
    ///         seen.is_seen.set(true);
    ///         let forget_at = cx.timestamp().plus_ms(10_000);
    ///         cx.timers().event(forget_at);
    ///         cx.emit(number);
    ///         Ok(())
    ///     }
    ///
    ///     fn on_timer(&mut self, seen: &mut Seen, _: Timer, _: &mut Cx<'_>) -> Result<(), BoxError> {
    ///         seen.is_seen.clear();
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let (sink, side_sink) = (MemorySink::new(), MemorySink::new());
    /// let (numbers, repeated) = (sink.clone(), side_sink.clone());
    /// Job::new("once", move |flow| {
    ///     let repeated = SideOutput::new();
    ///     let once = flow
    ///         .source(Items::of(vec![7u64, 9, 7]))
    ///         .event_time(|_| Timestamp(0), Watermarks::monotonic())
    ///         .key_by(|number| *number)
    ///         .process(Once { repeated: repeated.clone() })
    ///         .named("once");
    ///     once.side(&repeated).sink(side_sink.clone());
    ///     once.sink(sink.clone());
    /// })
    /// .run()?;
    /// assert_eq!((numbers.rows(), repeated.rows()), (vec![7, 9], vec![7]));
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    pub fn process<P>(self, process: P) -> Stream<Processed<C, G, P>>
    where
        P: Process<G::Key, C::Out>,
    {
        let detail = format!("{} -> {}", type_name::<G::Key>(), type_name::<P::Out>());
        self.operate("process", detail, process)
    }

    /// The same under another name.
    pub(super) fn operate<P>(self, kind: &'static str, detail: String, process: P) -> Stream<Processed<C, G, P>>
    where
        P: Process<G::Key, C::Out>,
    {
        let KeyedStream { stream, key } = self;
        let node = stream.flow.node(kind, detail, Some(stream.node));
        let process = Plain(process);
        note_states::<G::Key, C::Out, _>(&process, node, &stream.flow);
        let edge = stream.flow.edge();
        let chain = Processed { upstream: stream.chain, key, process: process.0, sides: Rc::default(), node, edge };
        Stream { chain, flow: stream.flow, node }
    }
}

/// Rows that a process function takes: on one shard a stage of the chain, on several the end of a chain, an edge, and a task.
pub struct Processed<C, G, P> {
    upstream: C,
    key: G,
    process: P,
    sides: Branches,
    node: NodeId,
    edge: u32,
}

impl<C, G, P> std::fmt::Debug for Processed<C, G, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Processed(operator {}, {} sides)", self.node.0, self.sides.borrow().len())
    }
}

impl<C: Chain, G, P> Stream<Processed<C, G, P>> {
    /// The stream of what the process function writes to a side output. The main stream has to be ended by a sink as well.
    ///
    /// # Panics
    /// If the side output has a stream already.
    pub fn side<X: 'static>(&self, side: &SideOutput<X>) -> Stream<Side<X, C::Time>> {
        self.beside(&self.chain.sides, side)
    }
}

impl<C, G, P> Chain for Processed<C, G, P>
where
    C: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
    P: Process<G::Key, C::Out>,
{
    type Out = P::Out;
    type Time = C::Time;

    fn attach<N: Stage<P::Out>>(self, next: N, graph: &mut Graph) {
        let Processed { upstream, key, process, sides, node, edge } = self;
        let mut process = Plain(process);
        let ends = graph.take_edge(edge);
        let opened = graph.on_site(|site, plan| {
            let (kept, restored) = open(&mut process, site, &plan.uid(node))?;
            Ok((site.shard, Processor::new(process, kept, restored, sides.take(), node, next)))
        });
        let Some((shard, processor)) = opened else { return };
        attach_keyed(upstream, key, WholeRow, processor, (node, shard, ends), graph);
    }
}

/// The side outputs of a process function that have a stream.
pub(super) type Branches = Rc<RefCell<Vec<Rc<dyn Branch>>>>;

impl<C> Stream<C> {
    /// The stream of what the last operator, which has these sides, writes to another.
    pub(super) fn beside<X: 'static, E>(&self, sides: &Branches, side: &SideOutput<X>) -> Stream<Side<X, E>> {
        let (branch, chain) = side.take();
        sides.borrow_mut().push(branch);
        let node = self.flow.node("side", type_name::<X>().to_owned(), Some(self.node));
        Stream { chain, flow: self.flow.clone(), node }
    }
}

/// Notes which states a process function keeps.
pub(super) fn note_states<K: Key + Described, T, P: Operate<K, T>>(process: &P, node: NodeId, flow: &Flow) {
    flow.keeps(node, |keyed| {
        let notes = declare(process, keyed).bound.notes;
        flow.change(node, |node| node.notes = notes);
    });
}

/// Declares an operator's states and timers.
fn declare<K: Key + Described, T, P: Operate<K, T>>(process: &P, keyed: &PageStore) -> Kept<K, P::State> {
    let bound = Bound::declare_by(keyed.clone(), |declare| process.declare(declare));
    Kept { bound, pending: Pending::declare(keyed) }
}

/// Opens a process function on this shard, and what it keeps there: empty, or as the restored checkpoint left it.
pub(super) fn open<K: Key + Described, T, P: Operate<K, T>>(
    process: &mut P,
    site: &Site,
    uid: &str,
) -> Result<(Kept<K, P::State>, ProcessBlob), JobError> {
    let (keyed, parts) = site.keyed_state(uid)?;
    let mut kept = declare(process, &keyed);
    let mut merged: Option<ProcessBlob> = None;
    for part in &parts {
        let of_part = ProcessBlob::deserialize(&part.blob)
            .map_err(|error| JobError::Unusable(format!("operator \"{uid}\": {error}")))?;
        merged = Some(match merged {
            Some(merged) => merged.merge(of_part),
            None => of_part,
        });
    }
    let mut merged = merged.unwrap_or(ProcessBlob::FIRST);
    process.restore_shared(merged.shared.take()).map_err(|error: BoxError| {
        JobError::Unusable(format!("operator \"{uid}\": its shared state is of another type: {}", in_words(&*error)))
    })?;
    kept.bound.set_now(merged.now_ms);
    site.restore_keyed(uid, &mut kept.bound.store, &parts)?;
    kept.pending.restored();
    process.open().map_err(|error: BoxError| {
        let cause = format!("operator \"{uid}\": it cannot be opened: {}", in_words(&*error));
        JobError::Failed { cause, restarts: 0 }
    })?;
    // What all shards counted together is counted on by one of them.
    Ok((kept, ProcessBlob { late: if site.shard == 0 { merged.late } else { 0 }, ..merged }))
}
