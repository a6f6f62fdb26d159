//! What a trigger is: it says when a window is emitted, and whether its contents are dropped then.

use std::fmt;

use millstream_state::Fixed;

use super::super::Window;
use super::kinds::{Apart, Merging};
use super::slot::WindowTimers;
use crate::road::timers::WallTime;
use crate::time::Timestamp;

/// What a trigger wants done with its window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// Nothing.
    Continue,
    /// Emit it. Its contents stay.
    Fire,
    /// Emit it and drop its contents.
    FireAndPurge,
    /// Drop its contents.
    Purge,
}

impl Verdict {
    pub(super) fn fires(self) -> bool {
        matches!(self, Verdict::Fire | Verdict::FireAndPurge)
    }

    pub(super) fn purges(self) -> bool {
        matches!(self, Verdict::Purge | Verdict::FireAndPurge)
    }
}

/// Says when a window of rows of `T` is emitted; for [`trigger`](crate::TriggeredStream::trigger).
///
/// A firing of a window without contents emits nothing. Rows are judged one by one, each after it has been put into the
/// window. A window whose end has come, and whose allowed lateness is over, is dropped whatever the trigger says.
///
/// Emits a window as soon as its rows' numbers sum up to a thousand, and what is left at its end:
///
/// ```
/// use millstream::{Timestamp, Trigger, TriggerContext, Verdict};
///
/// #[derive(Debug)]
/// struct Thousand;
///
/// impl Trigger<i64> for Thousand {
///     type State = i64;
///
///     fn state(&self) -> i64 {
///         0
///     }
///
///     fn on_element(&self, row: &i64, _: Timestamp, cx: &mut TriggerContext<'_, i64>) -> Verdict {
///         *cx.state() += row;
///         if *cx.state() < 1_000 {
///             return Verdict::Continue;
///         }
///         *cx.state() = 0;
///         Verdict::FireAndPurge
///     }
///
///     fn on_end(&self, _: &mut TriggerContext<'_, i64>) -> Verdict {
///         Verdict::Fire
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no trigger of windows of `{T}` rows",
    note = "triggers are OnTime, OnCount, Continuous, AtEndOfInput, Delta, Never and what implements Trigger<{T}>"
)]
pub trait Trigger<T>: fmt::Debug + 'static {
    /// What is kept for each key and window; `()` if nothing is.
    type State: Fixed;

    /// The state of a new window.
    fn state(&self) -> Self::State;

    /// A row has been put into the window.
    fn on_element(&self, row: &T, at: Timestamp, cx: &mut TriggerContext<'_, Self::State>) -> Verdict;

    /// Time has come to the window's last instant: the watermark, or wall time where windows are of processing time. Not
    /// for the window that all rows are in, unless the trigger has set a timer at its last instant, which is the end of
    /// the input. Unless told otherwise, continues.
    fn on_end(&self, _cx: &mut TriggerContext<'_, Self::State>) -> Verdict {
        Verdict::Continue
    }

    /// An event-time timer fires. It may be one that the operator has set for itself: compare `at` to what was asked for.
    /// Unless told otherwise, continues.
    fn on_event_time(&self, _at: Timestamp, _cx: &mut TriggerContext<'_, Self::State>) -> Verdict {
        Verdict::Continue
    }

    /// A processing-time timer fires, as [`on_event_time`](Trigger::on_event_time).
    fn on_processing_time(&self, _at: WallTime, _cx: &mut TriggerContext<'_, Self::State>) -> Verdict {
        Verdict::Continue
    }

    /// The window goes: delete the timers that were set for it. Unless told otherwise, does nothing.
    fn clear(&self, _cx: &mut TriggerContext<'_, Self::State>) {}

    /// Whether it makes no sense without event time. Windows of event time need that anyway.
    fn needs_event_time(&self) -> bool {
        false
    }
}

/// A trigger that knows what to do when windows merge, as [`Session`](crate::Session) windows do.
pub trait MergingTrigger<T>: Trigger<T> {
    /// Takes over the state of a window that has been merged into this one, whose timers [`clear`](Trigger::clear) has
    /// deleted. The context's window is the merged one already.
    fn on_merge(&self, from: &Self::State, cx: &mut TriggerContext<'_, Self::State>);
}

/// A trigger that fits windows which merge ([`Merging`]) or do not ([`Apart`]).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the trigger of windows that merge, such as sessions",
    label = "it does not say what becomes of its state when two windows become one",
    note = "implement MergingTrigger<{T}> for it, whose on_merge takes over the state of a merged window",
    note = "of the triggers that are there, OnTime, OnCount, Continuous, AtEndOfInput and Never can"
)]
pub trait TriggerFor<M, T>: Trigger<T> {
    #[doc(hidden)]
    fn merged(&self, from: &Self::State, cx: &mut TriggerContext<'_, Self::State>);
}

#[diagnostic::do_not_recommend]
impl<T, R: Trigger<T>> TriggerFor<Apart, T> for R {
    fn merged(&self, _from: &Self::State, _cx: &mut TriggerContext<'_, Self::State>) {}
}

#[diagnostic::do_not_recommend]
impl<T, R: MergingTrigger<T>> TriggerFor<Merging, T> for R {
    fn merged(&self, from: &Self::State, cx: &mut TriggerContext<'_, Self::State>) {
        self.on_merge(from, cx);
    }
}

/// What a trigger may ask and do while it judges a window.
pub struct TriggerContext<'a, S> {
    pub(super) state: &'a mut S,
    pub(super) window: Option<Window>,
    pub(super) last: Timestamp,
    pub(super) is_processing: bool,
    pub(super) watermark: Timestamp,
    pub(super) now: WallTime,
    pub(super) timers: &'a mut dyn WindowTimers,
}

impl<S> fmt::Debug for TriggerContext<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TriggerContext(window {:?}, watermark {}, now {})", self.window, self.watermark, self.now)
    }
}

impl<S> TriggerContext<'_, S> {
    /// The trigger's state of this key and window.
    pub fn state(&mut self) -> &mut S {
        self.state
    }

    /// The window; none where all rows are in one.
    #[must_use]
    pub fn window(&self) -> Option<Window> {
        self.window
    }

    /// The last instant inside the window; [`Timestamp::MAX`] where all rows are in one. Of a window of processing time it
    /// is wall time.
    #[must_use]
    pub fn last_instant(&self) -> Timestamp {
        self.last
    }

    /// Whether the window's last instant has come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        if self.is_processing { self.now.0 >= self.last.0 } else { self.watermark >= self.last }
    }

    /// How far event time has come.
    #[must_use]
    pub fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// Wall time, read once a turn of the shard.
    #[must_use]
    pub fn now(&self) -> WallTime {
        self.now
    }

    /// Calls [`Trigger::on_event_time`] for this window once the watermark comes to `at`; at once, before the next row, if
    /// it has.
    pub fn event(&mut self, at: Timestamp) {
        self.timers.set_event(at);
    }

    /// Calls [`Trigger::on_processing_time`] for this window once wall time comes to `at`.
    pub fn processing(&mut self, at: WallTime) {
        self.timers.set_processing(at);
    }

    /// Takes back an event-time timer of this window; false if there is none at `at`.
    pub fn delete_event(&mut self, at: Timestamp) -> bool {
        self.timers.delete_event(at)
    }

    /// Takes back a processing-time timer of this window; false if there is none at `at`.
    pub fn delete_processing(&mut self, at: WallTime) -> bool {
        self.timers.delete_processing(at)
    }
}
