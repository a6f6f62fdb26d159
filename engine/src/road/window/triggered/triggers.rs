//! The triggers that are there.

use std::fmt;
use std::time::Duration;

use millstream_state::{Both, Fixed, Packed};

use super::super::WindowError;
use super::super::panes::{check_length, millis};
use super::kinds::check_rows;
use super::trigger::{MergingTrigger, Trigger, TriggerContext, Verdict};
use crate::road::timers::WallTime;
use crate::time::Timestamp;

/// Emits a window when its end comes, and after that for each row that is late and allowed. Windows that have an end do so
/// unless told otherwise.
///
/// [`early`](OnTime::early) emits it before as well, and [`late`](OnTime::late) says how often after:
///
/// ```
/// use std::time::Duration;
/// use millstream::{Every, OnTime};
/// let alert_and_count = OnTime::new().early(Every::count(10));
/// let dashboard = OnTime::new().early(Every::delay(Duration::from_secs(1))).late(Every::count(1));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OnTime;

impl OnTime {
    /// The trigger.
    #[must_use]
    pub fn new() -> OnTime {
        OnTime
    }

    /// Emits the window before its end too.
    #[must_use]
    pub fn early(self, every: Every) -> OnTimePanes {
        OnTimePanes { early: Some(every), late: Every::count(1) }
    }

    /// Emits the window for so many late rows, or so long after the first of them.
    #[must_use]
    pub fn late(self, every: Every) -> OnTimePanes {
        OnTimePanes { early: None, late: every }
    }
}

impl<T> Trigger<T> for OnTime {
    type State = ();

    fn state(&self) {}

    fn on_element(&self, _row: &T, _at: Timestamp, cx: &mut TriggerContext<'_, ()>) -> Verdict {
        if cx.has_ended() { Verdict::Fire } else { Verdict::Continue }
    }

    fn on_end(&self, _cx: &mut TriggerContext<'_, ()>) -> Verdict {
        Verdict::Fire
    }
}

impl<T> MergingTrigger<T> for OnTime {
    fn on_merge(&self, (): &(), _cx: &mut TriggerContext<'_, ()>) {}
}

/// How often panes come before or behind the one that is on time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Every(Often);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Often {
    Rows(u64),
    DelayMs(i64),
}

impl Every {
    /// Each time that so many rows have come since the pane before.
    ///
    /// # Panics
    /// When `rows` is zero.
    #[must_use]
    pub fn count(rows: u64) -> Every {
        Every::try_count(rows).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`count`](Every::count).
    ///
    /// # Errors
    /// When `rows` is zero.
    pub fn try_count(rows: u64) -> Result<Every, WindowError> {
        check_rows("pane", rows)?;
        Ok(Every(Often::Rows(rows)))
    }

    /// So long, of processing time, after the first row since the pane before.
    ///
    /// # Panics
    /// When `delay` is under a millisecond or over 100 years.
    #[must_use]
    pub fn delay(delay: Duration) -> Every {
        Every::try_delay_ms(millis(delay)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`delay`](Every::delay).
    ///
    /// # Errors
    /// When `delay_ms` is under one or over 100 years.
    pub fn try_delay_ms(delay_ms: i64) -> Result<Every, WindowError> {
        check_length("delay", delay_ms)?;
        Ok(Every(Often::DelayMs(delay_ms)))
    }
}

/// Emits a window early, at its end, and for late rows; from [`OnTime::early`] and [`OnTime::late`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OnTimePanes {
    early: Option<Every>,
    late: Every,
}

/// Rows since the last pane, and the processing-time timer of the next; none is set if there are no rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, rkyv::Archive)]
#[repr(C)]
pub struct PaneState {
    rows: u64,
    due_ms: i64,
    is_due: u64,
}

impl OnTimePanes {
    /// Emits the window for so many late rows, or so long after the first of them.
    #[must_use]
    pub fn late(self, every: Every) -> OnTimePanes {
        OnTimePanes { late: every, ..self }
    }

    /// The pane is full, or begun: a timer says when it is over.
    fn judge(every: Option<Every>, cx: &mut TriggerContext<'_, PaneState>) -> Verdict {
        let state = *cx.state();
        match every.map(|every| every.0) {
            Some(Often::Rows(rows)) if state.rows >= rows => OnTimePanes::fire(cx),
            Some(Often::DelayMs(delay_ms)) if state.is_due == 0 => {
                let due = cx.now().plus_ms(delay_ms);
                cx.processing(due);
                *cx.state() = PaneState { due_ms: due.0, is_due: 1, ..state };
                Verdict::Continue
            }
            _ => Verdict::Continue,
        }
    }

    /// The pane is over.
    fn fire(cx: &mut TriggerContext<'_, PaneState>) -> Verdict {
        OnTimePanes::forget_timer(cx);
        *cx.state() = EMPTY_PANE;
        Verdict::Fire
    }

    fn forget_timer(cx: &mut TriggerContext<'_, PaneState>) {
        if cx.state().is_due == 1 {
            let due = WallTime(cx.state().due_ms);
            cx.delete_processing(due);
            cx.state().is_due = 0;
        }
    }
}

const EMPTY_PANE: PaneState = PaneState { rows: 0, due_ms: 0, is_due: 0 };

impl<T> Trigger<T> for OnTimePanes {
    type State = PaneState;

    fn state(&self) -> PaneState {
        EMPTY_PANE
    }

    fn on_element(&self, _row: &T, _at: Timestamp, cx: &mut TriggerContext<'_, PaneState>) -> Verdict {
        cx.state().rows += 1;
        let every = if cx.has_ended() { Some(self.late) } else { self.early };
        OnTimePanes::judge(every, cx)
    }

    fn on_end(&self, cx: &mut TriggerContext<'_, PaneState>) -> Verdict {
        OnTimePanes::fire(cx)
    }

    fn on_processing_time(&self, at: WallTime, cx: &mut TriggerContext<'_, PaneState>) -> Verdict {
        let state = *cx.state();
        if state.is_due == 1 && state.due_ms == at.0 { OnTimePanes::fire(cx) } else { Verdict::Continue }
    }

    fn clear(&self, cx: &mut TriggerContext<'_, PaneState>) {
        OnTimePanes::forget_timer(cx);
    }
}

impl<T> MergingTrigger<T> for OnTimePanes {
    fn on_merge(&self, from: &PaneState, cx: &mut TriggerContext<'_, PaneState>) {
        cx.state().rows += from.rows;
        let state = *cx.state();
        if from.is_due == 1 && (state.is_due == 0 || from.due_ms < state.due_ms) {
            OnTimePanes::forget_timer(cx);
            cx.processing(WallTime(from.due_ms));
            *cx.state() = PaneState { due_ms: from.due_ms, is_due: 1, ..state };
        }
    }
}

/// Emits a window each time that so many of its rows have come; not at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OnCount {
    rows: u64,
}

impl OnCount {
    /// After every `rows` rows.
    ///
    /// # Panics
    /// When `rows` is zero.
    #[must_use]
    pub fn of(rows: u64) -> OnCount {
        OnCount::try_of(rows).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`of`](OnCount::of).
    ///
    /// # Errors
    /// When `rows` is zero.
    pub fn try_of(rows: u64) -> Result<OnCount, WindowError> {
        check_rows("count", rows)?;
        Ok(OnCount { rows })
    }
}

impl<T> Trigger<T> for OnCount {
    type State = u64;

    fn state(&self) -> u64 {
        0
    }

    fn on_element(&self, _row: &T, _at: Timestamp, cx: &mut TriggerContext<'_, u64>) -> Verdict {
        *cx.state() += 1;
        if *cx.state() < self.rows {
            return Verdict::Continue;
        }
        *cx.state() = 0;
        Verdict::Fire
    }
}

impl<T> MergingTrigger<T> for OnCount {
    fn on_merge(&self, from: &u64, cx: &mut TriggerContext<'_, u64>) {
        *cx.state() += from;
    }
}

/// Emits a window at each multiple of an interval of event time that comes after its first row, and at its end.
///
/// For wall time see [`every_wall`](Continuous::every_wall).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Continuous {
    every_ms: i64,
}

impl Continuous {
    /// At each multiple of `interval` since the epoch.
    ///
    /// # Panics
    /// When `interval` is under a millisecond or over 100 years.
    #[must_use]
    pub fn every(interval: Duration) -> Continuous {
        Continuous::try_every_ms(millis(interval)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`every`](Continuous::every).
    ///
    /// # Errors
    /// When `interval_ms` is under one or over 100 years.
    pub fn try_every_ms(interval_ms: i64) -> Result<Continuous, WindowError> {
        check_length("interval", interval_ms)?;
        Ok(Continuous { every_ms: interval_ms })
    }

    /// At each multiple of `interval` of wall time, and at the window's end.
    ///
    /// # Panics
    /// When `interval` is under a millisecond or over 100 years.
    #[must_use]
    pub fn every_wall(interval: Duration) -> ContinuousWall {
        ContinuousWall { every_ms: Continuous::every(interval).every_ms }
    }

    /// Sets the timer of the next multiple, if the window lives to see it; a session that grows may do so later. A multiple
    /// that time is past already is made up for at `soonest`.
    fn arm(cx: &mut TriggerContext<'_, Multiple>, soonest: Timestamp) {
        let (last, watermark) = (cx.last_instant(), cx.watermark());
        let state = cx.state();
        state.timer_ms = state.timer_ms.max(soonest.0);
        let timer = Timestamp(state.timer_ms);
        // A window without an end has multiples for ever: none is made up for when the input has ended.
        let goes_on = watermark < Timestamp::MAX || last < Timestamp::MAX;
        if state.is_set == 1 && timer < last && goes_on {
            cx.event(timer);
        }
    }
}

/// The multiple of an interval that comes behind an instant.
fn next_multiple(behind: i64, every_ms: i64) -> i64 {
    behind.saturating_sub(behind.rem_euclid(every_ms)).saturating_add(every_ms)
}

/// The multiple that comes next, and the timer for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, rkyv::Archive)]
#[repr(C)]
pub struct Multiple {
    next_ms: i64,
    timer_ms: i64,
    is_set: u64,
}

const NO_MULTIPLE: Multiple = Multiple { next_ms: 0, timer_ms: 0, is_set: 0 };

impl<T> Trigger<T> for Continuous {
    type State = Multiple;

    fn state(&self) -> Multiple {
        NO_MULTIPLE
    }

    fn on_element(&self, _row: &T, at: Timestamp, cx: &mut TriggerContext<'_, Multiple>) -> Verdict {
        if cx.has_ended() {
            return Verdict::Fire;
        }
        if cx.state().is_set == 0 {
            let next_ms = next_multiple(at.0, self.every_ms);
            *cx.state() = Multiple { next_ms, timer_ms: next_ms, is_set: 1 };
        }
        let soonest = cx.watermark().plus_ms(1);
        Continuous::arm(cx, soonest);
        Verdict::Continue
    }

    fn on_end(&self, _cx: &mut TriggerContext<'_, Multiple>) -> Verdict {
        Verdict::Fire
    }

    fn on_event_time(&self, at: Timestamp, cx: &mut TriggerContext<'_, Multiple>) -> Verdict {
        let state = *cx.state();
        // Behind the window's end the timer was never set: this one is the operator's.
        if state.is_set == 0 || state.timer_ms != at.0 || at > cx.last_instant() {
            return Verdict::Continue;
        }
        // Multiples that lie behind a watermark are made up for one by one.
        let next_ms = next_multiple(state.next_ms, self.every_ms);
        *cx.state() = Multiple { next_ms, timer_ms: next_ms, is_set: 1 };
        Continuous::arm(cx, at);
        Verdict::Fire
    }

    fn clear(&self, cx: &mut TriggerContext<'_, Multiple>) {
        if cx.state().is_set == 1 {
            let timer = Timestamp(cx.state().timer_ms);
            cx.delete_event(timer);
        }
    }

    fn needs_event_time(&self) -> bool {
        true
    }
}

impl<T> MergingTrigger<T> for Continuous {
    fn on_merge(&self, from: &Multiple, cx: &mut TriggerContext<'_, Multiple>) {
        let state = *cx.state();
        if from.is_set == 1 && (state.is_set == 0 || from.next_ms < state.next_ms) {
            <Continuous as Trigger<T>>::clear(self, cx);
            *cx.state() = *from;
        }
        let soonest = cx.watermark().plus_ms(1);
        Continuous::arm(cx, soonest);
    }
}

/// Emits a window at each multiple of an interval of wall time; from [`Continuous::every_wall`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContinuousWall {
    every_ms: i64,
}

impl ContinuousWall {
    fn go_on(self, cx: &mut TriggerContext<'_, Multiple>) {
        let next_ms = next_multiple(cx.now().0, self.every_ms);
        *cx.state() = Multiple { next_ms, timer_ms: next_ms, is_set: 1 };
        // At the end of the input nothing is waited for.
        if cx.watermark() < Timestamp::MAX {
            cx.processing(WallTime(next_ms));
        }
    }
}

impl<T> Trigger<T> for ContinuousWall {
    type State = Multiple;

    fn state(&self) -> Multiple {
        NO_MULTIPLE
    }

    fn on_element(&self, _row: &T, _at: Timestamp, cx: &mut TriggerContext<'_, Multiple>) -> Verdict {
        if cx.has_ended() {
            return Verdict::Fire;
        }
        if cx.state().is_set == 0 {
            self.go_on(cx);
        }
        Verdict::Continue
    }

    fn on_end(&self, cx: &mut TriggerContext<'_, Multiple>) -> Verdict {
        // Rows that are late fire at once: there is nothing more to come at a multiple.
        <ContinuousWall as Trigger<T>>::clear(self, cx);
        *cx.state() = NO_MULTIPLE;
        Verdict::Fire
    }

    fn on_processing_time(&self, at: WallTime, cx: &mut TriggerContext<'_, Multiple>) -> Verdict {
        let state = *cx.state();
        if state.is_set == 0 || state.timer_ms != at.0 {
            return Verdict::Continue;
        }
        self.go_on(cx);
        Verdict::Fire
    }

    fn clear(&self, cx: &mut TriggerContext<'_, Multiple>) {
        if cx.state().is_set == 1 {
            let timer = WallTime(cx.state().timer_ms);
            cx.delete_processing(timer);
        }
    }
}

impl<T> MergingTrigger<T> for ContinuousWall {
    fn on_merge(&self, from: &Multiple, cx: &mut TriggerContext<'_, Multiple>) {
        let state = *cx.state();
        if from.is_set == 1 && (state.is_set == 0 || from.next_ms < state.next_ms) {
            <ContinuousWall as Trigger<T>>::clear(self, cx);
            *cx.state() = *from;
            cx.processing(WallTime(from.timer_ms));
        }
    }
}

/// Emits a window once, when the input has ended: with [`Global`](crate::Global) windows, what a batch job does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AtEndOfInput;

impl AtEndOfInput {
    /// Sets the timer, unless it is: a look at the state costs less than another at the timers.
    fn wait(cx: &mut TriggerContext<'_, bool>) {
        if !*cx.state() {
            *cx.state() = true;
            cx.event(Timestamp::MAX);
        }
    }
}

impl<T> Trigger<T> for AtEndOfInput {
    /// Whether the timer is set.
    type State = bool;

    fn state(&self) -> bool {
        false
    }

    fn on_element(&self, _row: &T, _at: Timestamp, cx: &mut TriggerContext<'_, bool>) -> Verdict {
        AtEndOfInput::wait(cx);
        Verdict::Continue
    }

    fn on_end(&self, cx: &mut TriggerContext<'_, bool>) -> Verdict {
        if cx.watermark() == Timestamp::MAX { Verdict::Fire } else { Verdict::Continue }
    }

    fn on_event_time(&self, at: Timestamp, _cx: &mut TriggerContext<'_, bool>) -> Verdict {
        if at == Timestamp::MAX { Verdict::Fire } else { Verdict::Continue }
    }

    fn clear(&self, cx: &mut TriggerContext<'_, bool>) {
        cx.delete_event(Timestamp::MAX);
    }
}

impl<T> MergingTrigger<T> for AtEndOfInput {
    fn on_merge(&self, from: &bool, cx: &mut TriggerContext<'_, bool>) {
        if *from {
            AtEndOfInput::wait(cx);
        }
    }
}

/// Never emits a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Never;

impl<T> Trigger<T> for Never {
    type State = ();

    fn state(&self) {}

    fn on_element(&self, _row: &T, _at: Timestamp, _cx: &mut TriggerContext<'_, ()>) -> Verdict {
        Verdict::Continue
    }
}

impl<T> MergingTrigger<T> for Never {
    fn on_merge(&self, (): &(), _cx: &mut TriggerContext<'_, ()>) {}
}

/// Emits a window when a row lies further than a threshold from the one that it was last emitted for, or from its first;
/// not at its end. It cannot say which of two rows that is when windows merge, so it is none for sessions.
///
/// ```
/// use millstream::Delta;
/// # #[millstream::event] #[derive(Clone, Copy, Default)] struct Reading { celsius: f64 }
/// let by_five_degrees = Delta::over(5.0, |last: &Reading, now: &Reading| (now.celsius - last.celsius).abs());
/// ```
#[derive(Clone, Copy)]
pub struct Delta<F> {
    threshold: f64,
    distance: F,
}

impl<F> Delta<F> {
    /// When `distance` of the last row and the new one is over the threshold.
    pub fn over<T>(threshold: f64, distance: F) -> Delta<F>
    where
        T: Fixed + Default,
        F: Fn(&T, &T) -> f64 + 'static,
    {
        Delta { threshold, distance }
    }
}

impl<F> fmt::Debug for Delta<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delta(over {})", self.threshold)
    }
}

impl<T: Fixed + Default, F: Fn(&T, &T) -> f64 + 'static> Trigger<T> for Delta<F> {
    /// Whether there is a last row, and which.
    type State = Both<Packed<bool>, Packed<T>>;

    fn state(&self) -> Self::State {
        Both(Packed::new(false), Packed::new(T::default()))
    }

    fn on_element(&self, row: &T, _at: Timestamp, cx: &mut TriggerContext<'_, Self::State>) -> Verdict {
        let Both(is_set, last) = cx.state();
        if is_set.get() && (self.distance)(&last.get(), row) <= self.threshold {
            return Verdict::Continue;
        }
        last.set(*row);
        if is_set.get() {
            return Verdict::Fire;
        }
        is_set.set(true);
        Verdict::Continue
    }
}
