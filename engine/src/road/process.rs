//! Process functions: rows and timers meet the states of their key, in one order that nothing overtakes.
//!
//! ```text
//! rows, marks ─▶ on_event, a row at a time ─▶ next, sides
//!                   │ sets
//!                   ▼
//!                timers (timers.rs) ─▶ on_timer, a slice per turn ─▶ next, sides
//! ```
//!
//! **Order.** A watermark fires the event-time timers that it has come to, the earliest first, and passes on behind them.
//! There may be a million of them, so they fire a slice at a time, and what comes meanwhile waits: rows and marks in a queue
//! here, which holds no more than the stages before had begun to hand over, barriers and batches in front of the chain, which
//! is not ready. So a row behind a watermark finds that watermark's timers fired, however rows are cut into batches.
//!
//! **Wall time.** Processing-time timers fire when the shard's turn finds them due, between batches, and never in the middle
//! of what has an order. A shard that would sleep past the first of them is told to wake.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use millstream_state::Key;
use millstream_state::schema::Described;
use serde::{Deserialize, Serialize};

use super::chain::{Signal, Stage};
use super::dense::Dense;
use super::keyed::{Contributions, KeyedOut};
use super::rows::BATCH_ROWS;
use super::side::{Branch, SideOutput};
use super::timers::{Pending, Timer, Timers, WallTime};
use crate::job::graph::NodeId;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::state::{Bound, Declare, KeyedState};
use crate::time::Timestamp;

/// Rows whose state is asked for before the first of them is handled, as in `stateful.rs`.
const AHEAD_ROWS: usize = 64;
/// Timers fired, or rows that waited for them taken, in one slice: sixteen slices make a turn.
const SLICE: usize = 128;
/// Pages that are looked at for entries that are over, as in `stateful.rs`.
const EXPIRED_PER_BARRIER: usize = 64;
const EXPIRED_PER_BATCH: usize = 1;

/// What a process function fails with: any error, or a text: `Err("no such card".into())`.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A function over the rows of each key, with states, timers and side outputs; for
/// [`KeyedStream::process`](crate::KeyedStream::process).
///
/// Every shard has a value of its own, made by the job's closure; what is to survive a restart belongs into `State`. An error
/// stops the attempt, and the job restarts from its last checkpoint, as after a panic.
///
/// Tells of every card that has been silent for a minute:
///
/// ```
/// use millstream::state::{KeyedState, Value};
/// use millstream::{BoxError, Process, ProcessContext, Timer, Timestamp};
///
/// #[millstream::event]
/// #[derive(Clone, Copy)]
/// struct Payment {
///     card: u64,
///     cents: u64,
/// }
///
/// #[derive(KeyedState)]
/// struct Card {
///     silent_at: Value<i64>,
/// }
///
/// struct Silence;
///
/// type Cx<'a> = ProcessContext<'a, u64, (u64, Timestamp)>;
///
/// impl Process<u64, Payment> for Silence {
///     type State = Card;
///     type Out = (u64, Timestamp);
///
///     fn on_event(&mut self, card: &mut Card, _: Payment, cx: &mut Cx<'_>) -> Result<(), BoxError> {
///         let at = cx.timestamp().plus_ms(60_000);
///         if let Some(before) = card.silent_at.get().copied() {
///             cx.timers().delete_event(Timestamp(before));
///         }
///         card.silent_at.set(at.0);
///         cx.timers().event(at);
///         Ok(())
///     }
///
///     fn on_timer(&mut self, card: &mut Card, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
///         card.silent_at.clear();
///         cx.emit((*cx.key(), cx.timestamp()));
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not process rows of type `{T}` under keys of type `{K}`",
    note = "implement Process<{K}, {T}> for it"
)]
pub trait Process<K, T>: 'static {
    /// The states of each key: a struct of handles, `#[derive(KeyedState)]`.
    type State: KeyedState;

    /// What goes on from here.
    type Out: 'static;

    /// Declares the states, once on every shard and once while the job is planned. Unless told otherwise as the struct says;
    /// by hand where a time to live is known no earlier than when the job is built.
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

    /// Takes a row, with the states of its key at hand. A key's rows and timers come one after the other.
    ///
    /// # Errors
    /// The attempt has failed; nothing of what the row has changed or emitted since the last checkpoint counts.
    fn on_event(
        &mut self,
        state: &mut Self::State,
        event: T,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    ) -> Result<(), BoxError>;

    /// Takes a timer that fires, with the states of its key at hand. Unless told otherwise, does nothing.
    ///
    /// # Errors
    /// As [`on_event`](Process::on_event).
    fn on_timer(
        &mut self,
        _state: &mut Self::State,
        _timer: Timer,
        _cx: &mut ProcessContext<'_, K, Self::Out>,
    ) -> Result<(), BoxError> {
        Ok(())
    }

    /// Called once on every shard behind its last row and timer, when the input has ended or the job is stopped. Where an
    /// attempt fails it is not called: what has to happen even then belongs into a `Drop`.
    ///
    /// # Errors
    /// The attempt has failed.
    fn close(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// What a process function may ask and do while it handles a row or a timer.
pub struct ProcessContext<'a, K, O> {
    key: K,
    at: Timestamp,
    watermark: Timestamp,
    now: WallTime,
    out: &'a mut Dense<O>,
    pending: &'a mut Pending<K>,
    late: &'a mut u64,
}

impl<K, O> fmt::Debug for ProcessContext<'_, K, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessContext(at {}, watermark {}, now {})", self.at, self.watermark, self.now)
    }
}

impl<K: Key, O> ProcessContext<'_, K, O> {
    /// The key in hand.
    #[must_use]
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The event time of the row, or of the event-time timer. A processing-time timer has none: then it is the earliest
    /// moment that is not late yet, or [`Timestamp::MIN`] while there is no watermark. What is emitted has this time.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.at
    }

    /// How far event time has come: [`Timestamp::MIN`] at first, [`Timestamp::MAX`] once the input has ended.
    #[must_use]
    pub fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// Wall time, read once a turn of the shard from the job's clock. It goes back where the machine's does.
    #[must_use]
    pub fn now(&self) -> WallTime {
        self.now
    }

    /// The key's timers.
    pub fn timers(&mut self) -> Timers<'_, K> {
        Timers { pending: self.pending, key: self.key }
    }

    /// Hands a row on.
    pub fn emit(&mut self, row: O) {
        self.out.push(row, self.at);
    }

    /// Hands a row to a side output, whose stream is [`Stream::side`](crate::Stream::side); without one it is dropped.
    pub fn side<X: 'static>(&mut self, to: &SideOutput<X>, row: X) {
        to.push(row, self.at);
    }

    /// Hands a row on with a time of its own, which is no earlier than that of what is in hand.
    pub(crate) fn emit_at(&mut self, row: O, at: Timestamp) {
        self.out.push(row, at);
    }

    /// Counts the row in hand as one that came too late.
    pub(crate) fn is_late(&mut self) {
        *self.late += 1;
    }
}

/// What came while timers fire, in its order.
enum Held<K, T> {
    Row(K, Timestamp, T),
    Watermark(Timestamp),
    Idle,
    Active,
}

/// How a step of deferred work went.
#[derive(PartialEq, Eq)]
enum Step {
    /// There was none.
    Nothing,
    Done,
    /// A mark has gone to the next stage, which may not be ready any more.
    Told,
}

/// What a process function's operator keeps beside states and timers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ProcessBlob {
    /// How far event time had come: the earliest of several shards promises least.
    pub(crate) watermark: Timestamp,
    /// How far time to live had come.
    pub(crate) now_ms: i64,
    /// Rows that came too late, since the job began.
    #[serde(default)]
    pub(crate) late: u64,
}

impl ProcessBlob {
    /// Of an operator that begins.
    pub(crate) const FIRST: ProcessBlob = ProcessBlob { watermark: Timestamp::MIN, now_ms: i64::MIN, late: 0 };

    /// What two shards kept, as one.
    pub(crate) fn merge(self, other: ProcessBlob) -> ProcessBlob {
        ProcessBlob {
            watermark: self.watermark.min(other.watermark),
            now_ms: self.now_ms.max(other.now_ms),
            late: self.late + other.late,
        }
    }
}

/// What an operator works on.
pub(crate) struct Kept<K, S> {
    pub(crate) bound: Bound<K, S>,
    pub(crate) pending: Pending<K>,
}

/// The operator: the user's function, with states and timers of the keys that this shard owns.
pub(crate) struct Processor<T, K, P: Process<K, T>, N> {
    process: P,
    kept: Kept<K, P::State>,
    watermark: Timestamp,
    late: u64,
    /// A watermark that passes on once its timers have fired.
    owed: Option<Timestamp>,
    held: VecDeque<Held<K, T>>,
    /// The last barrier has passed: timers that are left belong to the next run.
    is_closed: bool,
    out: Dense<P::Out>,
    sides: Vec<Rc<dyn Branch>>,
    node: NodeId,
    next: N,
    row: PhantomData<fn(&T)>,
}

impl<T, K, P, N> Processor<T, K, P, N>
where
    T: 'static,
    K: Key + Described,
    P: Process<K, T>,
    N: Stage<P::Out>,
{
    pub(crate) fn new(
        process: P,
        kept: Kept<K, P::State>,
        restored: ProcessBlob,
        sides: Vec<Rc<dyn Branch>>,
        node: NodeId,
        next: N,
    ) -> Self {
        Processor {
            process,
            kept,
            watermark: restored.watermark,
            late: restored.late,
            owed: None,
            held: VecDeque::new(),
            is_closed: false,
            out: Dense::default(),
            sides,
            node,
            next,
            row: PhantomData,
        }
    }

    /// Whether what comes now has to wait for what came before.
    #[inline(always)]
    fn is_firing(&self) -> bool {
        self.kept.pending.event.is_due(self.watermark.0) || self.owed.is_some() || !self.held.is_empty()
    }

    /// Whether there is room behind, on all sides.
    fn has_room(&mut self) -> bool {
        self.next.ready() && self.sides.iter().all(|side| side.ready())
    }

    /// Tells the stages behind.
    fn tell(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.sides.iter().try_for_each(|side| side.signal(signal, cx))?;
        self.next.signal(signal, cx)
    }

    /// Hands on what is there, unless a state could not be written: then nothing of it counts.
    fn hand_on(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if let Some(error) = self.kept.bound.take_failure().or_else(|| self.kept.pending.take_failure()) {
            return Err(Fault::state(self.node, error));
        }
        for side in &self.sides {
            side.hand_on(cx)?;
        }
        if !self.out.is_empty() {
            for piece in self.out.pieces(BATCH_ROWS) {
                self.next.batch(&piece, cx)?;
            }
            self.out.clear();
        }
        cx.enter(self.node);
        Ok(())
    }

    #[inline]
    fn on_event(&mut self, key: K, at: Timestamp, row: T, cx: &Cx<'_>) -> Result<(), Fault> {
        let Kept { bound, pending } = &mut self.kept;
        let (watermark, now) = (self.watermark, WallTime(cx.now_ms));
        let mut context = ProcessContext { key, at, watermark, now, out: &mut self.out, pending, late: &mut self.late };
        let taken = self.process.on_event(bound.of(key), row, &mut context);
        taken.map_err(|error| Fault::process(self.node, format!("an event at {at}"), &*error))
    }

    fn on_timer(&mut self, key: K, timer: Timer, cx: &Cx<'_>) -> Result<(), Fault> {
        let Kept { bound, pending } = &mut self.kept;
        let (watermark, now) = (self.watermark, WallTime(cx.now_ms));
        let at = match timer {
            Timer::Event(at) => at,
            Timer::Processing(_) if watermark == Timestamp::MIN => Timestamp::MIN,
            Timer::Processing(_) => watermark.plus_ms(1),
        };
        let mut context = ProcessContext { key, at, watermark, now, out: &mut self.out, pending, late: &mut self.late };
        let taken = self.process.on_timer(bound.of(key), timer, &mut context);
        taken.map_err(|error| Fault::process(self.node, timer.to_string(), &*error))
    }

    /// Takes rows until one of them has set a timer that fires at once; how many were taken.
    fn take<C: Contributions<K, T>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<usize, Fault> {
        let mut hashes = [0; AHEAD_ROWS];
        for from in (0..batch.len()).step_by(AHEAD_ROWS) {
            let to = batch.len().min(from + AHEAD_ROWS);
            for index in from..to {
                hashes[index - from] = batch.key(index).borrow().hash64();
            }
            self.kept.bound.prefetch(&hashes[..to - from]);
            for index in from..to {
                let key: K = *batch.key(index).borrow();
                self.on_event(key, batch.at(index), batch.value(index), cx)?;
                if self.out.len() >= BATCH_ROWS {
                    self.hand_on(cx)?;
                }
                if self.kept.pending.event.is_due(self.watermark.0) {
                    return Ok(index + 1);
                }
            }
        }
        Ok(batch.len())
    }

    /// One timer, mark or row of what there is to do, in order.
    fn go_on(&mut self, cx: &mut Cx<'_>) -> Result<Step, Fault> {
        if let Some((key, at)) = self.kept.pending.event.take_due(self.watermark.0) {
            self.on_timer(key, Timer::Event(Timestamp(at)), cx)?;
            return Ok(Step::Done);
        }
        if let Some(watermark) = self.owed.take() {
            self.hand_on(cx)?;
            self.tell(Signal::Watermark(watermark), cx)?;
            return Ok(Step::Told);
        }
        match self.held.pop_front() {
            Some(Held::Row(key, at, row)) => self.on_event(key, at, row, cx)?,
            Some(Held::Watermark(watermark)) => {
                self.watermark = self.watermark.max(watermark);
                self.owed = Some(watermark);
            }
            Some(Held::Idle) => {
                self.hand_on(cx)?;
                self.tell(Signal::Idle, cx)?;
                return Ok(Step::Told);
            }
            Some(Held::Active) => {
                self.hand_on(cx)?;
                self.tell(Signal::Active, cx)?;
                return Ok(Step::Told);
            }
            None => {
                let Some((key, at)) =
                    self.processing_until(cx).and_then(|now| self.kept.pending.processing.take_due(now))
                else {
                    return Ok(Step::Nothing);
                };
                self.on_timer(key, Timer::Processing(WallTime(at)), cx)?;
            }
        }
        Ok(Step::Done)
    }

    /// Up to when processing-time timers fire; none do once the input has ended.
    fn processing_until(&self, cx: &Cx<'_>) -> Option<i64> {
        (self.watermark < Timestamp::MAX).then_some(cx.now_ms)
    }
}

impl<T, K, P, N> KeyedOut<K, T> for Processor<T, K, P, N>
where
    T: 'static,
    K: Key + Described,
    P: Process<K, T>,
    N: Stage<P::Out>,
{
    fn accept<C: Contributions<K, T>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        let mut taken = 0;
        if !self.is_firing() {
            self.kept.bound.set_now(cx.now_ms);
            self.kept.bound.expire(EXPIRED_PER_BATCH);
            taken = self.take(batch, cx)?;
            self.hand_on(cx)?;
        }
        for index in taken..batch.len() {
            let key: K = *batch.key(index).borrow();
            self.held.push_back(Held::Row(key, batch.at(index), batch.value(index)));
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        match signal {
            Signal::Watermark(watermark) if self.is_firing() => {
                self.held.push_back(Held::Watermark(watermark));
                Ok(())
            }
            Signal::Watermark(watermark) => {
                self.watermark = self.watermark.max(watermark);
                if self.kept.pending.event.is_due(self.watermark.0) {
                    self.owed = Some(watermark);
                    return Ok(());
                }
                self.tell(signal, cx)
            }
            Signal::Idle if self.is_firing() => {
                self.held.push_back(Held::Idle);
                Ok(())
            }
            Signal::Active if self.is_firing() => {
                self.held.push_back(Held::Active);
                Ok(())
            }
            Signal::Barrier(barrier) => {
                assert!(!self.is_firing(), "a barrier waits until the firing is done");
                self.kept.bound.set_now(cx.now_ms);
                self.kept.bound.expire(EXPIRED_PER_BARRIER);
                let (watermark, now_ms, late) = (self.watermark, self.kept.bound.now_ms(), self.late);
                let small = ProcessBlob { watermark, now_ms, late };
                let small = serde_json::to_value(small).expect("numbers are plain JSON");
                cx.freeze(self.node, &mut self.kept.bound.store, barrier, small);
                self.tell(signal, cx)?;
                if barrier.last {
                    self.is_closed = true;
                    cx.enter(self.node);
                    let closed = self.process.close();
                    closed.map_err(|error| Fault::process(self.node, "its close".to_owned(), &*error))?;
                }
                Ok(())
            }
            other => self.tell(other, cx),
        }
    }

    fn ready(&mut self) -> bool {
        !self.is_firing() && self.has_room()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        let mut deeper = self.next.resume(cx)?;
        for side in &self.sides {
            deeper = deeper.or(side.resume(cx)?);
        }
        if self.is_closed {
            return Ok(deeper);
        }
        let processing_until = self.processing_until(cx);
        if !self.is_firing() && !processing_until.is_some_and(|now| self.kept.pending.processing.is_due(now)) {
            if processing_until.is_some()
                && let Some(at) = self.kept.pending.processing.first_at()
            {
                cx.wake_at(at);
            }
            return Ok(deeper);
        }
        if !self.has_room() {
            return Ok(deeper.or(Progress::Blocked));
        }
        cx.enter(self.node);
        let Kept { bound, pending } = &mut self.kept;
        bound.set_now(cx.now_ms);
        pending.event.look_ahead(self.watermark.0, |hashes| bound.prefetch(hashes));
        for _ in 0..SLICE {
            if self.out.len() >= BATCH_ROWS || self.go_on(cx)? != Step::Done {
                break;
            }
        }
        self.hand_on(cx)?;
        Ok(Progress::Worked)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        visitor.keyed(self.node, &mut self.kept.bound.store);
        visitor.late(self.late);
        self.sides.iter().for_each(|side| side.states(visitor));
        self.next.states(visitor);
    }
}
