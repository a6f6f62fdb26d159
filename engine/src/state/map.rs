//! [`Map`]: any number of entries per key, each under a key of its own within it.
//!
//! ```text
//! NAME           key, sub-key ─▶ value
//! NAME.places    key, sub-key ─▶ place       0, 1, 2 .. in the order that sub-keys came
//! NAME.order     key, place   ─▶ sub-key     what an iteration reads
//! NAME.len       key          ─▶ places
//! ```
//!
//! A look takes one access, and so does a write to an entry that is there. A new entry takes four; one that goes is replaced
//! by the one in the last place. With a time to live all four parts of an entry end together, which leaves a hole in the
//! order; each new entry looks at two places and closes the holes that it finds.

use std::borrow::Borrow;
use std::fmt;

use millstream_state::schema::Described;
use millstream_state::{AsKey, Fixed, Key, SubKey, type_text};

use super::declare::{Declare, Handle, Spec, StateOptions};
use super::entries::{Entries, FixedEntries, Upkeep};
use super::kept::{Change, Form, InPlace, Kept, MapKey, View};
use super::value::only;

/// Places looked at for holes with each new entry: more than one, or they could become more than the entries.
const LOOKS_PER_INSERT: usize = 2;

/// Any number of entries per key, each under a key of its own within it.
///
/// ```
/// # use millstream::state::{KeyedState, Map};
/// #[derive(KeyedState)]
/// struct Cart {
///     items: Map<String, u32>,
/// }
///
/// fn add(cart: &mut Cart, article: &str, pieces: u32) -> u32 {
///     if cart.items.update(article, |kept| *kept += pieces).is_none() {
///         cart.items.insert(article.to_owned(), pieces);
///     }
///     cart.items.iter().map(|(_article, pieces)| pieces).sum()
/// }
/// ```
///
/// With a `ttl`, each entry is gone so long after it was last written. Entries have no order that means anything.
pub struct Map<K2: MapKey, V: Kept> {
    values: Box<<V::Form as Form<V>>::Table<K2>>,
    places: Box<dyn FixedEntries<K2, u64>>,
    order: Box<<K2::Form as Form<K2>>::Table<u64>>,
    len: Box<dyn FixedEntries<(), u64>>,
    has_ttl: bool,
    /// Where the next look for holes begins.
    look_at: u64,
}

impl<K2: MapKey, V: Kept> fmt::Debug for Map<K2, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&type_text::<Self>())
    }
}

impl<K2: MapKey, V: Kept> Handle for Map<K2, V> {
    fn declare<K: Key + Described>(declare: &mut Declare<'_, K>, name: &'static str, options: StateOptions) -> Self {
        let spec = Spec::new(name, options);
        declare.note::<Self>(&spec);
        Map {
            values: V::Form::table::<K, K2>(declare, &spec),
            places: InPlace::table::<K, K2>(declare, &spec.beside("places")),
            order: K2::Form::table::<K, u64>(declare, &spec.beside("order")),
            len: InPlace::table::<K, ()>(declare, &spec.beside("len")),
            has_ttl: spec.ttl_ms.is_some(),
            look_at: 0,
        }
    }

    fn tables(&mut self, visit: &mut dyn FnMut(&mut dyn Upkeep)) {
        V::Form::upkeep(&mut self.values, visit);
        visit(&mut *self.places);
        K2::Form::upkeep(&mut self.order, visit);
        visit(&mut *self.len);
    }
}

impl<K2: MapKey, V: Kept> Map<K2, V> {
    /// The value of a key, where it lies. A `Map<String, V>` is asked by a `&str` too.
    #[must_use]
    pub fn get<Q: AsKey<K2> + ?Sized>(&self, key: &Q) -> Option<View<'_, V>> {
        SubKey::with(key, |sub| self.values.get(sub))
    }

    /// Whether there is a value of the key.
    #[must_use]
    pub fn contains<Q: AsKey<K2> + ?Sized>(&self, key: &Q) -> bool {
        SubKey::with(key, |sub| self.values.contains(sub))
    }

    /// Keeps a value under a key; true if it took the place of another.
    pub fn insert(&mut self, key: impl Borrow<K2>, value: impl Borrow<V>) -> bool {
        let key = key.borrow();
        SubKey::with(key, |sub| {
            let was_there = self.values.put(sub, value.borrow());
            if was_there {
                self.written(sub);
            } else {
                self.append(key, sub);
            }
            was_there
        })
    }

    /// Changes a value where it lies, and returns what `change` does; none, and `change` is not asked, if there is none.
    /// As [`Value::update`](super::Value::update).
    pub fn update<Q: AsKey<K2> + ?Sized, R>(&mut self, key: &Q, change: impl FnOnce(Change<'_, V>) -> R) -> Option<R> {
        SubKey::with(key, |sub| {
            let changed = V::Form::update(&mut *self.values, sub, change)?;
            self.written(sub);
            Some(changed)
        })
    }

    /// Takes an entry out; false if there was none.
    pub fn remove<Q: AsKey<K2> + ?Sized>(&mut self, key: &Q) -> bool {
        SubKey::with(key, |sub| {
            let place = self.places.get(sub).copied();
            let was_there = self.values.take_out(sub);
            self.places.take_out(sub);
            if let Some(place) = place {
                self.close(place);
            }
            was_there
        })
    }

    /// How many entries there are. With a time to live they are counted, otherwise the number is kept.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.has_ttl { self.keys().count() } else { self.places() as usize }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys().next().is_none()
    }

    /// All keys, where they lie.
    pub fn keys(&self) -> impl Iterator<Item = View<'_, K2>> {
        (0..self.places()).filter_map(|place| self.at(place))
    }

    /// All keys and values, where they lie.
    pub fn iter(&self) -> impl Iterator<Item = (View<'_, K2>, View<'_, V>)> {
        self.keys().filter_map(|key| {
            let value = K2::with_sub(&key, |sub| self.values.get(sub))?;
            Some((key, value))
        })
    }

    /// Takes all entries out.
    pub fn clear(&mut self) {
        for place in 0..self.places() {
            if let Some(key) = SubKey::with(&place, |sub| self.order.get(sub)) {
                K2::with_sub(&key, |sub| {
                    self.values.take_out(sub);
                    self.places.take_out(sub);
                });
            }
            SubKey::with(&place, |sub| self.order.take_out(sub));
        }
        only(|sub| self.len.take_out(sub));
    }

    /// Places that are taken, holes among them.
    fn places(&self) -> u64 {
        only(|sub| self.len.get(sub).copied().unwrap_or(0))
    }

    fn at(&self, place: u64) -> Option<View<'_, K2>> {
        SubKey::with(&place, |sub| self.order.get(sub))
    }

    /// Has the other parts of an entry that was written end when its value does.
    fn written(&mut self, sub: SubKey<'_, K2>) {
        if self.has_ttl
            && let Some(place) = self.places.value_mut(sub).copied()
        {
            SubKey::with(&place, |sub| self.order.change(sub, &mut |_| ()));
            only(|sub| self.len.value_mut(sub));
        }
    }

    /// Gives a new key the last place.
    fn append(&mut self, key: &K2, sub: SubKey<'_, K2>) {
        let places = self.places();
        self.places.put(sub, &places);
        SubKey::with(&places, |sub| self.order.put(sub, key));
        only(|sub| self.len.put(sub, &(places + 1)));
        if self.has_ttl {
            self.close_holes();
        }
    }

    /// Looks at some places, and closes those that are holes.
    fn close_holes(&mut self) {
        for _ in 0..LOOKS_PER_INSERT {
            let places = self.places();
            self.look_at = if self.look_at < places { self.look_at } else { 0 };
            if self.at(self.look_at).is_some() {
                self.look_at += 1;
            } else {
                self.close(self.look_at);
            }
        }
    }

    /// Notes that the key at a place is to have another one; false if that place is a hole.
    fn replace(&mut self, from: u64, to: u64) -> bool {
        let Some(moved) = SubKey::with(&from, |sub| self.order.get(sub)) else { return false };
        K2::with_sub(&moved, |sub| {
            if let Some(place) = self.places.value_mut_quietly(sub) {
                *place = to;
            }
        });
        true
    }

    /// Fills a place whose entry is gone by the last one.
    fn close(&mut self, place: u64) {
        let Some(last) = self.places().checked_sub(1) else { return };
        if place != last && self.replace(last, place) {
            SubKey::with(&last, |from| SubKey::with(&place, |to| self.order.rename(from, to)));
        } else {
            SubKey::with(&last, |sub| self.order.take_out(sub));
        }
        only(|sub| {
            if last == 0 {
                self.len.take_out(sub);
            } else if let Some(places) = self.len.value_mut_quietly(sub) {
                *places = last;
            }
        });
    }
}

impl<K2: MapKey, V: Kept<Form = InPlace> + Fixed> Map<K2, V> {
    /// Changes a value where it lies, which is `init` where there was none, and returns what `change` does.
    pub fn update_or<R>(&mut self, key: impl Borrow<K2>, mut init: V, change: impl FnOnce(&mut V) -> R) -> R {
        let key = key.borrow();
        SubKey::with(key, |sub| {
            let is_new = !self.values.contains(sub);
            let changed = match self.values.value_mut_or(sub, init) {
                Some(value) => change(value),
                // There is no room for it: the operator fails as soon as the closure is done, and nothing of this counts.
                None => change(&mut init),
            };
            if is_new {
                self.append(key, sub)
            } else {
                self.written(sub)
            }
            changed
        })
    }
}
