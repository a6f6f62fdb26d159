//! [`List`]: any number of elements per key, in the order they came.
//!
//! ```text
//! NAME             key ─▶ first, behind the last
//! NAME.elements    key, index ─▶ element
//! ```
//!
//! So a push changes a line or two, however long the list is.

use std::borrow::Borrow;
use std::fmt;

use millstream_state::schema::Described;
use millstream_state::{Both, Key, SubKey, type_text};

use super::declare::{Declare, Handle, Spec, StateOptions};
use super::entries::{Entries, FixedEntries, Upkeep};
use super::kept::{Form, InPlace, Kept, View};
use super::value::only;

/// The index of the first element, and the one behind the last. They only ever count up, until the list is empty.
type Ends = Both<u64, u64>;

/// Elements that are over and taken out at each push: more than come in, so that they go however it goes on.
const OVER_PER_PUSH: usize = 2;

/// Any number of elements per key, in the order they came.
///
/// ```
/// # use millstream::state::{KeyedState, List};
/// #[derive(KeyedState)]
/// struct Sensor {
///     readings: List<f64>,
/// }
///
/// /// The mean of a sensor's last ten readings.
/// fn smooth(sensor: &mut Sensor, reading: f64) -> f64 {
///     sensor.readings.push(reading);
///     sensor.readings.keep_last(10);
///     sensor.readings.iter().sum::<f64>() / sensor.readings.len() as f64
/// }
/// ```
///
/// With a `ttl`, each element is gone so long after it was pushed.
pub struct List<T: Kept> {
    ends: Box<dyn FixedEntries<(), Ends>>,
    elements: Box<<T::Form as Form<T>>::Table<u64>>,
    has_ttl: bool,
}

impl<T: Kept> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&type_text::<Self>())
    }
}

impl<T: Kept> Handle for List<T> {
    fn declare<K: Key + Described>(declare: &mut Declare<'_, K>, name: &'static str, options: StateOptions) -> Self {
        let spec = Spec::new(name, options);
        declare.note::<Self>(&spec);
        List {
            ends: InPlace::table::<K, ()>(declare, &spec),
            elements: T::Form::table::<K, u64>(declare, &spec.beside("elements")),
            has_ttl: spec.ttl_ms.is_some(),
        }
    }

    fn tables(&mut self, visit: &mut dyn FnMut(&mut dyn Upkeep)) {
        visit(&mut *self.ends);
        T::Form::upkeep(&mut self.elements, visit);
    }
}

impl<T: Kept> List<T> {
    /// Appends an element.
    pub fn push(&mut self, element: impl Borrow<T>) {
        let (first, end) = self.stored();
        SubKey::with(&end, |sub| self.elements.put(sub, element.borrow()));
        let mut live = first;
        for _ in 0..OVER_PER_PUSH {
            if !self.has_ttl || live == end || self.has(live) {
                break;
            }
            SubKey::with(&live, |sub| self.elements.take_out(sub));
            live += 1;
        }
        self.store(live, end + 1);
    }

    /// The element at an index, the first being 0, where it lies.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<View<'_, T>> {
        let (first, end) = self.live();
        let at = first.checked_add(index as u64).filter(|at| *at < end)?;
        self.element(at)
    }

    /// The oldest element.
    #[must_use]
    pub fn first(&self) -> Option<View<'_, T>> {
        self.get(0)
    }

    /// The newest element.
    #[must_use]
    pub fn last(&self) -> Option<View<'_, T>> {
        let (first, end) = self.live();
        if first < end { self.element(end - 1) } else { None }
    }

    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let (first, end) = self.live();
        (end - first) as usize
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All elements from the oldest to the newest, where they lie.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = View<'_, T>> {
        let (first, end) = self.live();
        (first..end).filter_map(|at| self.element(at))
    }

    /// Takes out the newest element; false if there is none.
    pub fn remove_last(&mut self) -> bool {
        let (first, end) = self.live();
        if first == end {
            return false;
        }
        SubKey::with(&(end - 1), |sub| self.elements.take_out(sub));
        self.store(first, end - 1);
        true
    }

    /// Takes out the oldest element; false if there is none.
    pub fn remove_first(&mut self) -> bool {
        let len = self.len();
        self.keep_last(len.saturating_sub(1));
        len > 0
    }

    /// Takes out the oldest elements until no more than so many are left.
    pub fn keep_last(&mut self, elements: usize) {
        let (first, end) = self.stored();
        let keep = end.saturating_sub(elements as u64).max(first);
        if keep == first {
            return;
        }
        for at in first..keep {
            SubKey::with(&at, |sub| self.elements.take_out(sub));
        }
        self.store(keep, end);
    }

    /// Takes out every element for which `keep` is false; the others stay in order.
    pub fn retain(&mut self, mut keep: impl FnMut(View<'_, T>) -> bool) {
        let (first, end) = self.stored();
        let mut to = first;
        for at in first..end {
            if !self.element(at).is_some_and(&mut keep) {
                SubKey::with(&at, |sub| self.elements.take_out(sub));
                continue;
            }
            if to != at {
                SubKey::with(&at, |from| SubKey::with(&to, |to| self.elements.rename(from, to)));
            }
            to += 1;
        }
        if to != end {
            self.store(first, to);
        }
    }

    /// Takes out all elements.
    pub fn clear(&mut self) {
        self.keep_last(0);
    }

    fn element(&self, at: u64) -> Option<View<'_, T>> {
        SubKey::with(&at, |sub| self.elements.get(sub))
    }

    fn has(&self, at: u64) -> bool {
        SubKey::with(&at, |sub| self.elements.contains(sub))
    }

    /// Where the list begins and ends, elements that are over among it.
    fn stored(&self) -> (u64, u64) {
        only(|sub| self.ends.get(sub).map_or((0, 0), |ends| (ends.0, ends.1)))
    }

    /// Where what is not over begins and ends. Elements end in the order they came, for time never goes back.
    fn live(&self) -> (u64, u64) {
        let (mut first, end) = self.stored();
        if !self.has_ttl || first == end || self.has(first) {
            return (first, end);
        }
        // The first element that is there lies behind `first`, and at or before `known`.
        let mut known = end;
        while known - first > 1 {
            let middle = first + (known - first) / 2;
            if self.has(middle) { known = middle } else { first = middle }
        }
        (known, end)
    }

    fn store(&mut self, first: u64, end: u64) {
        only(|sub| {
            if first == end {
                self.ends.take_out(sub);
            } else {
                self.ends.put(sub, &Both(first, end));
            }
        });
    }
}
