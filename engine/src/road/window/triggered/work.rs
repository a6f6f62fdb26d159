//! What becomes of a row and of a timer: the window's slot is looked up, and its trigger judges.

use std::marker::PhantomData;

use millstream_state::schema::Described;
use millstream_state::{Both, Fixed, Key};

use super::super::Window;
use super::contents::Contents;
use super::kinds::{Meeting, WindowKind};
use super::slot::{ALL, ARMED, Cell, Core, FILLED, Of, Slot, Stored, WindowSlots, WindowTimers, is_same, slot, within};
use super::trigger::{TriggerContext, TriggerFor, Verdict};
use super::{Pane, Timing};
use crate::road::dense::Dense;
use crate::road::order::Moment;
use crate::road::timers::{Pending, Timers, WallTime};
use crate::time::Timestamp;

/// What is said of windows and their results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<W, R> {
    pub(crate) kind: W,
    pub(crate) trigger: R,
    /// A window's contents are dropped each time that it is emitted.
    pub(crate) is_discarding: bool,
    /// How long a window is kept after its end.
    pub(crate) lateness_ms: i64,
    /// Results are windows of their own, as those of a count are: none comes early.
    pub(crate) is_counted: bool,
}

/// A window, and what of it time has to come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) window: Option<Window>,
    /// Its last instant.
    pub(super) last: Timestamp,
    /// When it goes.
    pub(super) cleanup: Timestamp,
    pub(super) is_processing: bool,
    /// A row that comes now comes too late.
    pub(super) is_over: bool,
    pub(super) has_ended: bool,
}

impl<W, R> Rules<W, R> {
    #[inline]
    pub(super) fn frame<T>(&self, window: Window, moment: Moment) -> Frame
    where
        W: WindowKind<T>,
    {
        let is_processing = self.kind.is_processing();
        // A window that reaches beyond time has all of it.
        let last = if window.end == Timestamp::MAX { Timestamp::MAX } else { window.end.plus_ms(-1) };
        let cleanup = if is_processing { last } else { last.plus_ms(self.lateness_ms) };
        // A window of processing time goes at its end: while it is there, that has not come.
        let has_ended = !is_processing && moment.watermark >= last;
        let is_over = !is_processing && moment.watermark >= cleanup;
        let window = (!W::IS_GLOBAL).then_some(window);
        Frame { window, last, cleanup, is_processing, is_over, has_ended }
    }
}

/// A window's timers, of which the operator's own is not the trigger's to delete.
struct Guarded<'a, K> {
    timers: Timers<'a, Of<K>>,
    /// The operator's own, and whether it is of processing time.
    own: Option<(i64, bool)>,
}

impl<K: Key> WindowTimers for Guarded<'_, K> {
    fn set_event(&mut self, at: Timestamp) {
        self.timers.event(at);
    }

    fn set_processing(&mut self, at: WallTime) {
        self.timers.processing(at);
    }

    fn delete_event(&mut self, at: Timestamp) -> bool {
        self.own != Some((at.0, false)) && self.timers.delete_event(at)
    }

    fn delete_processing(&mut self, at: WallTime) -> bool {
        self.own != Some((at.0, true)) && self.timers.delete_processing(at)
    }
}

/// Has a trigger look at a window.
#[inline]
pub(super) fn judged<K: Key, S: Fixed, V>(
    pending: &mut Pending<Of<K>>,
    timed: Of<K>,
    (state, core, frame): (&mut S, &Core, &Frame),
    moment: Moment,
    judge: impl FnOnce(&mut TriggerContext<'_, S>) -> V,
) -> V {
    let own = core.has(ARMED).then_some((core.armed_at, frame.is_processing));
    let mut timers = Guarded { timers: Timers { pending, key: timed }, own };
    let Moment { watermark, now } = moment;
    let Frame { window, last, has_ended, .. } = *frame;
    judge(&mut TriggerContext { state, window, last, has_ended, watermark, now, timers: &mut timers })
}

/// Sets the operator's own timer: at the window's last instant, and behind that at its cleanup. A window that has grown
/// keeps the earlier timer, which sets the next when it fires; so a session has one, however many rows it has.
#[inline]
pub(super) fn arm<K: Key>(pending: &mut Pending<Of<K>>, timed: Of<K>, core: &mut Core, frame: &Frame, behind: i64) {
    let at = if frame.last.0 > behind { frame.last.0 } else { frame.cleanup.0 };
    if core.has(ARMED) && core.armed_at <= at {
        return;
    }
    let mut timers = Timers { pending, key: timed };
    if frame.is_processing {
        timers.processing(WallTime(at))
    } else {
        timers.event(Timestamp(at))
    }
    core.armed_at = at;
    core.set(ARMED, true);
}

/// What rows and timers work on.
pub(crate) struct Work<T, K, W, R, C>
where
    K: Key,
    W: WindowKind<T>,
    R: TriggerFor<W::Meeting, T>,
    C: Contents<K, T>,
{
    pub(super) rules: Rules<W, R>,
    pub(super) kept: WindowSlots<K, C::Kept, R::State>,
    pub(super) contents: C,
    pub(super) out: Dense<C::Out>,
    windows: Vec<Window>,
    row: PhantomData<fn(&T)>,
}

impl<T, K, W, R, C> Work<T, K, W, R, C>
where
    T: Fixed,
    K: Key + Described,
    W: WindowKind<T>,
    R: TriggerFor<W::Meeting, T>,
    C: Contents<K, T>,
{
    pub(crate) fn new(rules: Rules<W, R>, kept: WindowSlots<K, C::Kept, R::State>, contents: C) -> Self {
        Work { rules, kept, contents, out: Dense::default(), windows: Vec::new(), row: PhantomData }
    }

    /// Where what is told of a slot lies that is not constant, so it cannot be asked for before its row is looked at.
    pub(super) fn place_ahead(&self) -> Option<Cell> {
        if W::Meeting::MERGES {
            return Some(Cell::number(0));
        }
        W::IS_GLOBAL.then_some(Cell { first: i64::MIN, second: i64::MAX })
    }

    /// Puts a row into its windows; false if it came too late for all of them.
    pub(super) fn on_row(&mut self, key: K, at: Timestamp, row: &T, moment: Moment) -> Stored<bool> {
        let is_processing = self.rules.kind.is_processing();
        let time = if is_processing { Timestamp(moment.now.0) } else { at };
        let mut windows = std::mem::take(&mut self.windows);
        windows.clear();
        self.rules.kind.assign(row, time, &mut windows);
        let mut is_in = false;
        for window in &windows {
            if W::Meeting::MERGES {
                is_in |= self.join(key, *window, (time, row), moment)?;
                continue;
            }
            let frame = self.rules.frame(*window, moment);
            if !frame.is_over {
                let cell = Cell::of(*window);
                self.add((key, cell, cell), &frame, || Core::new(*window, 0), (time, row), moment)?;
                is_in = true;
            }
        }
        self.windows = windows;
        Ok(is_in || is_processing || at.plus_ms(self.rules.lateness_ms) > moment.watermark)
    }

    /// Puts a row into the window in a place, whose timers are another cell's; `core` is of a window that is new.
    pub(super) fn add(
        &mut self,
        (key, place, cell): (K, Cell, Cell),
        frame: &Frame,
        core: impl Fn() -> Core,
        (at, row): (Timestamp, &T),
        moment: Moment,
    ) -> Stored<()> {
        let Work { rules, kept: WindowSlots { slots, pending }, contents, out, .. } = self;
        let place = within(key, place);
        let slot = match slots.get_mut(ALL, &place) {
            Some(slot) => slot,
            None => slots.get_mut_or(ALL, &place, || slot(contents.fresh(), rules.trigger.state(), core()))?,
        };
        let is_left = take(rules, pending, contents, out, (key, cell, slot), frame, (at, row), moment)?;
        if !is_left {
            slots.remove(ALL, &place);
        }
        Ok(())
    }

    /// A timer of a window fires.
    pub(super) fn on_timer(&mut self, timed: Of<K>, at: i64, is_processing: bool, moment: Moment) -> Stored<()> {
        let (key, cell) = timed.parts();
        let place = if W::Meeting::MERGES { self.place_of(key, cell) } else { Some(cell) };
        let Some(place) = place else { return Ok(()) };
        let Work { rules, kept: WindowSlots { slots, pending }, contents, out, .. } = self;
        let Some(Both(kept, Both(state, core))) = slots.get_mut(ALL, &within(key, place)) else {
            return Ok(());
        };
        let mut noted = core.get();
        let frame = rules.frame(noted.window(), moment);
        let is_own_kind = frame.is_processing == is_processing;
        let is_own = is_own_kind && noted.has(ARMED) && noted.armed_at == at;
        if is_own {
            noted.set(ARMED, false);
        }
        let is_end = is_own_kind && at == frame.last.0;
        let verdict = state.with(|state| {
            judged(pending, timed, (state, &noted, &frame), moment, |cx| match (is_end, is_processing) {
                (true, _) => rules.trigger.on_end(cx),
                (false, false) => rules.trigger.on_event_time(Timestamp(at), cx),
                (false, true) => rules.trigger.on_processing_time(WallTime(at), cx),
            })
        });
        if verdict != Verdict::Continue {
            // A watermark may have leapt over this timer and the window's end: they come one after the other.
            let is_early = if is_own_kind { at < frame.last.0 } else { !frame.has_ended };
            let timing = match (is_end, is_early) {
                (true, _) => Timing::OnTime,
                (false, true) => Timing::Early,
                (false, false) => Timing::Late,
            };
            kept.with(|kept| settle(rules, contents, out, (key, cell, kept), &mut noted, &frame, (verdict, timing)))?;
        }
        let goes = is_own_kind && at == frame.cleanup.0;
        if goes || (W::IS_GLOBAL && !noted.has(FILLED) && is_same(&state.get(), &rules.trigger.state())) {
            state.with(|state| {
                judged(pending, timed, (state, &noted, &frame), moment, |cx| rules.trigger.clear(cx));
            });
            kept.with(|kept| contents.clear(key, [cell.first, cell.second], kept));
            core.set(noted);
            if W::Meeting::MERGES {
                return self.leave(key, place);
            }
            slots.remove(ALL, &within(key, place));
            return Ok(());
        }
        if !W::IS_GLOBAL && !noted.has(ARMED) {
            arm(pending, timed, &mut noted, &frame, at);
        }
        core.set(noted);
        Ok(())
    }
}

/// Puts a row into a window; false if nothing is left of that which is worth a slot.
#[inline]
#[expect(
    clippy::too_many_arguments,
    reason = "the operator's parts are borrowed one by one, as the slot is one of them"
)]
pub(super) fn take<T, K, W, R, C>(
    rules: &Rules<W, R>,
    pending: &mut Pending<Of<K>>,
    contents: &mut C,
    out: &mut Dense<C::Out>,
    (key, cell, slot): (K, Cell, &mut Slot<C::Kept, R::State>),
    frame: &Frame,
    (at, row): (Timestamp, &T),
    moment: Moment,
) -> Stored<bool>
where
    K: Key,
    W: WindowKind<T>,
    R: TriggerFor<W::Meeting, T>,
    C: Contents<K, T>,
{
    let Both(kept, Both(state, core)) = slot;
    let timed = within(key, cell);
    let mut noted = core.get();
    if !W::IS_GLOBAL {
        let behind = if frame.is_processing { moment.now.0.saturating_sub(1) } else { moment.watermark.0 };
        arm(pending, timed, &mut noted, frame, behind);
    }
    noted.set(FILLED, true);
    kept.with(|kept| contents.add(key, [cell.first, cell.second], kept, row, at))?;
    let verdict = state.with(|state| {
        judged(pending, timed, (state, &noted, frame), moment, |cx| rules.trigger.on_element(row, at, cx))
    });
    if verdict != Verdict::Continue {
        let timing = if frame.has_ended { Timing::Late } else { Timing::Early };
        kept.with(|kept| settle(rules, contents, out, (key, cell, kept), &mut noted, frame, (verdict, timing)))?;
    }
    core.set(noted);
    if !W::IS_GLOBAL || noted.has(FILLED) || !is_same(&state.get(), &rules.trigger.state()) {
        return Ok(true);
    }
    state.with(|state| judged(pending, timed, (state, &noted, frame), moment, |cx| rules.trigger.clear(cx)));
    Ok(false)
}

/// Does what a trigger said.
pub(super) fn settle<T, K, W, R, C>(
    rules: &Rules<W, R>,
    contents: &mut C,
    out: &mut Dense<C::Out>,
    (key, cell, kept): (K, Cell, &mut C::Kept),
    core: &mut Core,
    frame: &Frame,
    (verdict, timing): (Verdict, Timing),
) -> Stored<()>
where
    K: Key,
    C: Contents<K, T>,
{
    let cell = [cell.first, cell.second];
    if verdict.fires() && core.has(FILLED) {
        let timing = if rules.is_counted { Timing::OnTime } else { timing };
        let pane = Pane { timing, index: u64::from(core.panes) };
        let is_left = contents.fire(key, cell, kept, frame.window, pane, &mut |row| out.push(row, frame.last))?;
        core.set(FILLED, is_left);
        core.panes = core.panes.saturating_add(u32::from(is_left));
    }
    if verdict.purges() || (verdict.fires() && rules.is_discarding) {
        contents.clear(key, cell, kept);
        core.set(FILLED, false);
    }
    Ok(())
}
