//! Process functions as a user writes them: rows and timers meet the states of their key.
//!
//! ```text
//! rows, marks ─▶ on_event, a row at a time ─▶ next, sides
//!                   │ sets
//!                   ▼
//!                timers (timers.rs) ─▶ on_timer, a slice per turn ─▶ next, sides
//! ```
//!
//! The operator around them is `processor.rs`; the order of rows, timers and marks is `order.rs`.

use std::error::Error;
use std::fmt;

use millstream_state::Key;
use millstream_state::schema::Described;

use super::dense::Dense;
use super::order::Moment;
use super::side::SideOutput;
use super::timers::{Pending, Timer, Timers, WallTime};
use crate::state::{Declare, KeyedState};
use crate::time::Timestamp;

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
    moment: Moment,
    out: &'a mut Dense<O>,
    pending: &'a mut Pending<K>,
    late: &'a mut u64,
}

impl<K, O> fmt::Debug for ProcessContext<'_, K, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moment { watermark, now } = self.moment;
        write!(f, "ProcessContext(at {}, watermark {watermark}, now {now})", self.at)
    }
}

impl<'a, K: Key, O> ProcessContext<'a, K, O> {
    /// Of a row or timer at `at`; what is said there goes to the rest.
    #[inline(always)]
    pub(super) fn new(
        key: K,
        at: Timestamp,
        moment: Moment,
        out: &'a mut Dense<O>,
        pending: &'a mut Pending<K>,
        late: &'a mut u64,
    ) -> ProcessContext<'a, K, O> {
        ProcessContext { key, at, moment, out, pending, late }
    }

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
        self.moment.watermark
    }

    /// Wall time, read once a turn of the shard from the job's clock. It goes back where the machine's does.
    #[must_use]
    pub fn now(&self) -> WallTime {
        self.moment.now
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
