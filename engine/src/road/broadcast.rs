//! A stream that every shard hears: its rows change what all shards hold in common, and the rows of a keyed stream see that.
//!
//! ```text
//! rows of keys ─▶ edge to the key's shard ─▶ Merge ─▶ Port ───────┐
//!                                                                 ├─▶ Processor (processor.rs)
//! broadcast    ─▶ edge to all shards      ─▶ Merge ─▶ SharedPort ─┘
//! ```
//!
//! What is held in common lies in memory, the same on every shard, and is filed with a checkpoint by the first of them.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use millstream_state::Key;
use millstream_state::schema::Described;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::chain::Signal;
use super::connect::{Met, OfBoth, OneOf};
use super::keyed::{Contributions, KeyedOut};
use super::operate::{Operate, lifecycle};
use super::order::Moment;
use super::process::{BoxError, ProcessContext};
use super::timers::{Timer, WallTime};
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::state::{Declare, KeyedState};
use crate::time::Timestamp;

/// A function over the rows of a keyed stream, and over those of another that all shards hear; for
/// [`BroadcastConnected::process`](crate::BroadcastConnected::process).
///
/// What the broadcast says is kept in [`Shared`](BroadcastProcess::Shared), of which every shard has a copy. The rows of keys
/// see it and cannot change it: if they did, the copies would differ.
///
/// Payments over a limit, which may change:
///
/// ```
/// use millstream::state::{KeyedState, Value};
/// use millstream::{BoxError, BroadcastContext, BroadcastProcess, ProcessContext};
///
/// #[derive(KeyedState)]
/// struct Card {
///     alarms: Value<u64>,
/// }
///
/// struct Limit;
///
/// type Cx<'a> = ProcessContext<'a, u64, (u64, u64)>;
///
/// /// A payment is `[card, cents]`, a broadcast row the limit from now on.
/// impl BroadcastProcess<u64, [u64; 2], u64> for Limit {
///     type State = Card;
///     type Shared = Option<u64>;
///     type Out = (u64, u64);
///
///     fn on_event(
///         &mut self,
///         card: &mut Card,
///         limit: &Option<u64>,
///         [number, cents]: [u64; 2],
///         cx: &mut Cx<'_>,
///     ) -> Result<(), BoxError> {
///         if limit.is_some_and(|limit| cents > limit) {
///             card.alarms.update_or(0, |alarms| *alarms += 1);
///             cx.emit((number, card.alarms.get_or(0)));
///         }
///         Ok(())
///     }
///
///     fn on_broadcast(&mut self, limit: &mut Option<u64>, new: u64, _: &BroadcastContext) -> Result<(), BoxError> {
///         *limit = Some(new);
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not process rows of type `{T}` under keys of type `{K}` beside a broadcast of `{B}`",
    note = "implement BroadcastProcess<{K}, {T}, {B}> for it"
)]
pub trait BroadcastProcess<K, T, B>: 'static {
    /// The states of each key: a struct of handles, `#[derive(KeyedState)]`.
    type State: KeyedState;

    /// What all shards hold in common. It lies in memory and, as JSON, in every checkpoint's manifest: something small, such
    /// as a map of rules. JSON knows no map whose keys are structs and no number that is not finite; a list of pairs, or an
    /// option, does.
    type Shared: Serialize + DeserializeOwned + Default + 'static;

    /// What goes on from here.
    type Out: 'static;

    /// Declares the states; see [`Process::declare`](crate::Process::declare).
    fn declare<D: Key + Described>(&self, declare: &mut Declare<'_, D>) -> Self::State {
        Self::State::declare(declare)
    }

    /// Called once on every shard before its first row, after each restart too.
    ///
    /// # Errors
    /// The attempt has failed, and the job restarts as its strategy says.
    fn open(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    /// Takes a row of the keyed stream, with the states of its key at hand, and what is held in common in sight.
    ///
    /// # Errors
    /// The attempt has failed; nothing of what the row has changed or emitted since the last checkpoint counts.
    fn on_event(
        &mut self,
        state: &mut Self::State,
        shared: &Self::Shared,
        row: T,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    ) -> Result<(), BoxError>;

    /// Takes a row of the broadcast. Every shard does, so it must come to the same on each: it has no key, and emits nothing.
    /// Rows of one split of its source come in their order on all shards; those of several may be mixed differently.
    ///
    /// # Errors
    /// As [`on_event`](BroadcastProcess::on_event).
    fn on_broadcast(&mut self, shared: &mut Self::Shared, row: B, cx: &BroadcastContext) -> Result<(), BoxError>;

    /// Takes a timer that fires, with the states of its key at hand. Unless told otherwise, does nothing.
    ///
    /// # Errors
    /// As [`on_event`](BroadcastProcess::on_event).
    fn on_timer(
        &mut self,
        _state: &mut Self::State,
        _shared: &Self::Shared,
        _timer: Timer,
        _cx: &mut ProcessContext<'_, K, Self::Out>,
    ) -> Result<(), BoxError> {
        Ok(())
    }

    /// Called once on every shard behind its last row and timer; see [`Process::close`](crate::Process::close).
    ///
    /// # Errors
    /// The attempt has failed.
    fn close(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// What a function may ask while it handles a row of a broadcast.
pub struct BroadcastContext {
    at: Timestamp,
    moment: Moment,
}

impl fmt::Debug for BroadcastContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moment { watermark, now } = self.moment;
        write!(f, "BroadcastContext(at {}, watermark {watermark}, now {now})", self.at)
    }
}

impl BroadcastContext {
    pub(super) fn new(at: Timestamp, moment: Moment) -> BroadcastContext {
        BroadcastContext { at, moment }
    }

    /// The event time of the row; [`Timestamp::MIN`] where it was given none.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.at
    }

    /// How far event time has come, of both streams. Shards may see a row at different watermarks.
    #[must_use]
    pub fn watermark(&self) -> Timestamp {
        self.moment.watermark
    }

    /// Wall time, as [`ProcessContext::now`](crate::ProcessContext::now). It is another on each shard, and after a restart.
    #[must_use]
    pub fn now(&self) -> WallTime {
        self.moment.now
    }
}

/// Such a function in its operator, and what this shard holds of what all do.
pub(crate) struct Broadcasting<K, T, B, P: BroadcastProcess<K, T, B>> {
    process: P,
    shared: P::Shared,
    /// This shard files it with checkpoints: one copy is enough.
    files_shared: bool,
    rows: PhantomData<fn(K, T, B)>,
}

impl<K, T, B, P: BroadcastProcess<K, T, B>> Broadcasting<K, T, B, P> {
    pub(crate) fn new(process: P, files_shared: bool) -> Self {
        Broadcasting { process, shared: P::Shared::default(), files_shared, rows: PhantomData }
    }

    /// The function alone.
    pub(crate) fn into_process(self) -> P {
        self.process
    }
}

impl<K, T, B, P> Operate<K, OneOf<T, B>> for Broadcasting<K, T, B, P>
where
    K: 'static,
    T: 'static,
    B: 'static,
    P: BroadcastProcess<K, T, B>,
{
    lifecycle!(process);

    #[inline(always)]
    fn on_row(
        &mut self,
        state: &mut P::State,
        row: OneOf<T, B>,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        match row {
            OneOf::Left(row) => self.process.on_event(state, &self.shared, row, cx),
            OneOf::Right(_) => unreachable!("rows of a broadcast have no key"),
        }
    }

    fn on_timer(
        &mut self,
        state: &mut P::State,
        timer: Timer,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        self.process.on_timer(state, &self.shared, timer, cx)
    }

    fn on_shared(&mut self, row: OneOf<T, B>, cx: &BroadcastContext) -> Result<(), BoxError> {
        match row {
            OneOf::Left(_) => unreachable!("rows of keys are not broadcast"),
            OneOf::Right(row) => self.process.on_broadcast(&mut self.shared, row, cx),
        }
    }

    fn shared(&self) -> Result<Json, BoxError> {
        if !self.files_shared {
            return Ok(Json::Null);
        }
        // In an array: a state that is itself null must be told from none.
        Ok(Json::Array(vec![serde_json::to_value(&self.shared)?]))
    }

    fn restore_shared(&mut self, shared: Json) -> Result<(), BoxError> {
        if let Json::Array(mut filed) = shared
            && let Some(shared) = filed.pop()
        {
            self.shared = serde_json::from_value(shared)?;
        }
        Ok(())
    }
}

/// Who takes rows that all shards get.
pub(crate) trait SharedOut<T>: 'static {
    fn accept_shared<C: Contributions<u8, T>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault>;
}

/// The broadcast edge's way to an operator that has another input.
pub(crate) struct SharedPort<K, O, F> {
    row_of: F,
    met: Rc<RefCell<Met<O>>>,
    key: PhantomData<fn(K)>,
}

/// The broadcast's place among the two inputs.
pub(crate) const BROADCAST: usize = 1;

impl<K, O, F> SharedPort<K, O, F> {
    pub(crate) fn new(met: Rc<RefCell<Met<O>>>, row_of: F) -> Self {
        SharedPort { row_of, met, key: PhantomData }
    }
}

impl<K, V, W, O, F> KeyedOut<u8, V> for SharedPort<K, O, F>
where
    K: 'static,
    V: 'static,
    O: KeyedOut<K, W> + SharedOut<W>,
    F: Fn(V) -> W + 'static,
{
    fn accept<C: Contributions<u8, V>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.met.borrow_mut().out.accept_shared(&OfBoth::new(batch, &self.row_of), cx)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.met.borrow_mut().signal(BROADCAST, signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.met.borrow_mut().ready(BROADCAST)
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.met.borrow_mut().out.resume(cx)
    }

    /// The other input shows what is behind both.
    fn states(&mut self, _visitor: &mut dyn StateVisitor) {}
}
