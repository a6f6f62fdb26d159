//! Rows and timers where windows merge: a key's windows lie in a row of places, which nearly always is one.
//!
//! A window keeps its number while it grows, and while it moves to another place: timers and kept rows are found by that.

use millstream_state::schema::Described;
use millstream_state::{Both, Fixed, Key};

use super::super::Window;
use super::contents::Contents;
use super::kinds::WindowKind;
use super::slot::{ALL, ARMED, Cell, Core, FILLED, Stored, WindowSlots, within};
use super::trigger::TriggerFor;
use super::work::{Work, judged, take};
use crate::road::order::Moment;
use crate::road::timers::{Timers, WallTime};
use crate::time::Timestamp;

/// Whether two windows are one: they intersect or touch.
fn touch(one: Window, other: Window) -> bool {
    one.start <= other.end && other.start <= one.end
}

fn hull(one: Window, other: Window) -> Window {
    Window { start: one.start.min(other.start), end: one.end.max(other.end) }
}

impl<T, K, W, R, C> Work<T, K, W, R, C>
where
    T: Fixed,
    K: Key + Described,
    W: WindowKind<T>,
    R: TriggerFor<W::Meeting, T>,
    C: Contents<K, T>,
{
    fn core(&self, key: K, place: u32) -> Option<Core> {
        let Both(_, Both(_, core)) = self.kept.slots.get_ref(ALL, &within(key, Cell::number(place)))?;
        Some(core.get())
    }

    fn change_core(&mut self, key: K, place: Cell, change: impl FnOnce(&mut Core)) {
        if let Some(Both(_, Both(_, core))) = self.kept.slots.get_mut(ALL, &within(key, place)) {
            core.with(change);
        }
    }

    /// How many windows a key has.
    fn places(&self, key: K) -> u32 {
        self.core(key, 0).map_or(0, |core| core.places)
    }

    /// Where the window of a number lies.
    pub(super) fn place_of(&self, key: K, number: Cell) -> Option<Cell> {
        let is_it = |place: &u32| self.core(key, *place).is_some_and(|core| i64::from(core.number) == number.first);
        (0..self.places(key)).find(is_it).map(Cell::number)
    }

    /// Puts a row into the session that its own window is part of; false if that is over.
    pub(super) fn join(&mut self, key: K, own: Window, row: (Timestamp, &T), moment: Moment) -> Stored<bool> {
        let Work { rules, kept: WindowSlots { slots, pending }, contents, out, .. } = self;
        let Some(slot) = slots.get_mut(ALL, &within(key, Cell::number(0))) else {
            return self.begin(key, own, (0, 0), row, moment);
        };
        let first = slot.1.1.get();
        if first.places == 1 && touch(first.window(), own) {
            // Nearly always: the key has one session, and the row is of it. It is looked up once.
            let reach = hull(first.window(), own);
            slot.1.1.set(Core { start: reach.start.0, end: reach.end.0, ..first });
            let frame = rules.frame(reach, moment);
            let of = (key, Cell::number(first.number), slot);
            take(rules, pending, contents, out, of, &frame, row, moment)?;
            return Ok(true);
        }
        let mut into: Option<Core> = None;
        let (mut reach, mut number_max, mut touched) = (own, 0, 0);
        for place in 0..first.places {
            let Some(core) = self.core(key, place) else { continue };
            number_max = number_max.max(core.number);
            if touch(core.window(), own) {
                reach = hull(reach, core.window());
                touched += 1;
                if into.is_none_or(|earliest| core.start < earliest.start) {
                    into = Some(core);
                }
            }
        }
        let Some(into) = into else { return self.begin(key, own, (first.places, number_max + 1), row, moment) };
        if touched > 1 {
            self.merge(key, into.number, own, reach, moment)?;
        }
        let number = Cell::number(into.number);
        let place = self.place_of(key, number).expect("what others merge into stays");
        self.change_core(key, place, |core| (core.start, core.end) = (reach.start.0, reach.end.0));
        let frame = self.rules.frame(reach, moment);
        self.add((key, place, number), &frame, || into, row, moment)?;
        Ok(true)
    }

    /// Begins a session of a number in the place behind the last; false if it is over before it begins.
    fn begin(
        &mut self,
        key: K,
        own: Window,
        (place, number): (u32, u32),
        row: (Timestamp, &T),
        moment: Moment,
    ) -> Stored<bool> {
        let frame = self.rules.frame(own, moment);
        if frame.is_over {
            return Ok(false);
        }
        self.add((key, Cell::number(place), Cell::number(number)), &frame, || Core::new(own, number), row, moment)?;
        if place > 0 {
            self.change_core(key, Cell::number(0), |first| first.places = place + 1);
        }
        Ok(true)
    }

    /// Merges all sessions that a window touches into the one of a number, in the order of their starts: which places
    /// they have lain in says nothing, and must not be seen in the order of kept rows.
    fn merge(&mut self, key: K, into: u32, own: Window, reach: Window, moment: Moment) -> Stored<()> {
        let all = (0..self.places(key)).filter_map(|place| self.core(key, place));
        let mut going: Vec<Core> = all.filter(|core| core.number != into && touch(core.window(), own)).collect();
        going.sort_unstable_by_key(|core| core.start);
        for core in going {
            // Looked for anew each time: one that goes may move another.
            let Some(place) = self.place_of(key, Cell::number(core.number)) else { continue };
            let frame = self.rules.frame(core.window(), moment);
            let Some(at) = self.place_of(key, Cell::number(into)) else { continue };
            let Work { rules, kept: WindowSlots { slots, pending }, contents, .. } = self;
            // The one that goes: its timers first, of which the operator's is one.
            let Some(mut gone) = slots.get(ALL, &within(key, place)) else { continue };
            let timed = within(key, Cell::number(core.number));
            // As it was: a trigger that clears away may forget what it waited for.
            let from = gone.1.0.get();
            gone.1.0.with(|state| {
                let unarmed = Core { flags: core.flags & !ARMED, ..core };
                judged(pending, timed, (state, &unarmed, &frame), moment, |cx| rules.trigger.clear(cx));
            });
            if core.has(ARMED) {
                let mut timers = Timers { pending, key: timed };
                if frame.is_processing {
                    timers.delete_processing(WallTime(core.armed_at));
                } else {
                    timers.delete_event(Timestamp(core.armed_at));
                }
            }
            // The one that stays.
            let frame = rules.frame(reach, moment);
            let timed = within(key, Cell::number(into));
            let Some(Both(kept, Both(state, noted))) = slots.get_mut(ALL, &within(key, at)) else { continue };
            let cell = |number: u32| [i64::from(number), 0];
            kept.with(|kept| contents.merge(key, (cell(into), kept), (cell(core.number), &gone.0.get())))?;
            noted.with(|noted| {
                (noted.start, noted.end) = (reach.start.0, reach.end.0);
                noted.set(FILLED, noted.has(FILLED) || core.has(FILLED));
                noted.panes = noted.panes.max(core.panes);
            });
            let noted = noted.get();
            state.with(|state| {
                judged(pending, timed, (state, &noted, &frame), moment, |cx| rules.trigger.merged(&from, cx));
            });
            self.leave(key, place)?;
        }
        Ok(())
    }

    /// Takes a session out of its place, which the last one takes.
    pub(super) fn leave(&mut self, key: K, place: Cell) -> Stored<()> {
        let places = self.places(key);
        let last = Cell::number(places.saturating_sub(1));
        let slots = &mut self.kept.slots;
        let moved = if place == last { None } else { slots.get(ALL, &within(key, last)) };
        slots.remove(ALL, &within(key, last));
        if let Some(moved) = moved {
            slots.put(ALL, &within(key, place), moved)?;
        }
        if places > 1 {
            self.change_core(key, Cell::number(0), |first| first.places = places - 1);
        }
        Ok(())
    }
}
