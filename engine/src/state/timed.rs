//! [`TimedRows`]: the rows of a key by their time, as joins keep them.
//!
//! ```text
//! NAME          key, stretch        ─▶ places given out, rows there
//! NAME.marks    key, stretch, place ─▶ next in the same end, time, whether it has met
//! NAME.rows     key, stretch, place ─▶ row
//! NAME.ends     key, moment         ─▶ the newest of the rows that end then
//! ```
//!
//! Pages have no order of time. Rows therefore lie in stretches of it, as long as what a look asks for, so that a look visits
//! two of them at most; and those that end at one moment hang together. Taking a row in touches four entries, taking it out
//! the same four, looking at it two. An entry of `NAME.rows` is a row, and nothing is left behind the last one.

use std::fmt;

use millstream_state::schema::Described;
use millstream_state::{Both, Fixed, Key, SubKey, type_text};

use super::declare::{Declare, Handle, Spec, StateOptions};
use super::entries::{FixedEntries, Upkeep};
use super::kept::{Form, InPlace, Kept};

/// A stretch, and a place in it that counts from 1: no place is 0.
type Place = u128;
/// Of a row: the one before it that ends at the same moment, its time, and 1 if it has met one of the other side.
type Mark = Both<Place, Both<i64, u64>>;

/// The rows of a key by their time.
pub struct TimedRows<T: Kept> {
    stretches: Box<dyn FixedEntries<i64, Both<u64, u64>>>,
    marks: Box<dyn FixedEntries<Place, Mark>>,
    rows: Box<dyn FixedEntries<Place, T>>,
    ends: Box<dyn FixedEntries<i64, Place>>,
}

impl<T: Kept> fmt::Debug for TimedRows<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&type_text::<Self>())
    }
}

impl<T: Kept<Form = InPlace> + Fixed> Handle for TimedRows<T> {
    fn declare<K: Key + Described>(declare: &mut Declare<'_, K>, name: &'static str, options: StateOptions) -> Self {
        let spec = Spec::new(name, options);
        declare.note::<Self>(&spec);
        TimedRows {
            stretches: InPlace::table::<K, i64>(declare, &spec),
            marks: InPlace::table::<K, Place>(declare, &spec.beside("marks")),
            rows: InPlace::table::<K, Place>(declare, &spec.beside("rows")),
            ends: InPlace::table::<K, i64>(declare, &spec.beside("ends")),
        }
    }

    fn tables(&mut self, visit: &mut dyn FnMut(&mut dyn Upkeep)) {
        visit(&mut *self.stretches);
        visit(&mut *self.marks);
        visit(&mut *self.rows);
        visit(&mut *self.ends);
    }
}

impl<T: Kept<Form = InPlace> + Fixed> TimedRows<T> {
    /// Keeps a row of the time `at` until [`end`](TimedRows::end) is told of `ends_at`. Stretches are `stretch_ms` long, in
    /// every call.
    pub(crate) fn keep(&mut self, row: &T, at: i64, ends_at: i64, has_met: bool, stretch_ms: i64) {
        let stretch = at.div_euclid(stretch_ms);
        let place = SubKey::with(&stretch, |sub| {
            let count = self.stretches.value_mut_or(sub, Both(0, 0))?;
            count.0 += 1;
            count.1 += 1;
            Some(place(stretch, count.0))
        });
        // Without room for it the operator fails as soon as the row is through, and nothing of this counts.
        let Some(place) = place else { return };
        let before = SubKey::with(&ends_at, |sub| {
            let newest = self.ends.value_mut_or(sub, 0)?;
            Some(std::mem::replace(newest, place))
        });
        SubKey::with(&place, |sub| {
            self.marks.put(sub, &Both(before.unwrap_or(0), Both(at, u64::from(has_met))));
            self.rows.put(sub, row);
        });
    }

    /// Shows the rows of `from..=to` with their times, in no order; notes that they have met one, if told so.
    pub(crate) fn look(
        &mut self,
        (from, to): (i64, i64),
        stretch_ms: i64,
        note_met: bool,
        mut show: impl FnMut(&T, i64),
    ) {
        for stretch in from.div_euclid(stretch_ms)..=to.div_euclid(stretch_ms) {
            let places = SubKey::with(&stretch, |sub| self.stretches.get(sub).map_or(0, |count| count.0));
            for number in 1..=places {
                SubKey::with(&place(stretch, number), |sub| {
                    // Those that have ended leave a gap until the whole stretch has.
                    let Some(Both(_, Both(at, has_met))) = self.marks.get(sub).copied() else { return };
                    if !(from..=to).contains(&at) {
                        return;
                    }
                    if let Some(row) = self.rows.get(sub) {
                        show(row, at);
                    }
                    if note_met
                        && has_met == 0
                        && let Some(mark) = self.marks.value_mut(sub)
                    {
                        mark.1.1 = 1;
                    }
                });
            }
        }
    }

    /// Takes out the rows that end at this moment, and shows them, their times, and whether they have met one.
    pub(crate) fn end(&mut self, ends_at: i64, mut show: impl FnMut(&T, i64, bool)) {
        let mut next = SubKey::with(&ends_at, |sub| {
            let newest = self.ends.get(sub).copied();
            self.ends.take_out(sub);
            newest.unwrap_or(0)
        });
        while next != 0 {
            let stretch = (next >> 64) as i64;
            next = SubKey::with(&next, |sub| {
                let Some(Both(before, Both(at, has_met))) = self.marks.get(sub).copied() else { return 0 };
                if let Some(row) = self.rows.get(sub) {
                    show(row, at, has_met == 1);
                }
                self.marks.take_out(sub);
                self.rows.take_out(sub);
                before
            });
            SubKey::with(&stretch, |sub| {
                let left = self.stretches.value_mut(sub).map(|count| {
                    count.1 -= 1;
                    count.1
                });
                if left == Some(0) {
                    self.stretches.take_out(sub);
                }
            });
        }
    }
}

fn place(stretch: i64, number: u64) -> Place {
    u128::from(stretch as u64) << 64 | u128::from(number)
}
