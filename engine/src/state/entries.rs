//! The tables behind handles: entries under the key in hand, the type of that key erased.
//!
//! A handle makes one dynamic call, and from there on all types are known: the key's from the operator, the value's from the
//! handle.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use millstream_state::schema::{Described, Schema};
use millstream_state::{
    Fixed, Key, Namespace, Seen, SlotKey, SlotWithin, SlotWithinRef, SlottedTable, StateError, SubKey, Table, Within,
};
use rkyv::seal::Seal;

use super::declare::{Declare, Spec};
use super::kept::{Archived, Change, InPlace, Kept, MapKey, View};

/// Handles' tables have one namespace.
const ALL: Namespace = Namespace(0);

/// What all handles of an operator share: the key of the row in hand, and what went wrong with it.
pub(crate) struct Current<K> {
    key: Cell<Option<K>>,
    failed: RefCell<Option<StateError>>,
}

impl<K: Key> Current<K> {
    pub(crate) fn new() -> Current<K> {
        Current { key: Cell::new(None), failed: RefCell::new(None) }
    }

    #[inline(always)]
    pub(crate) fn set(&self, key: K) {
        self.key.set(Some(key));
    }

    #[inline(always)]
    fn key(&self) -> K {
        self.key.get().expect("rows are handled after their key was set")
    }

    /// Keeps the first error until the operator asks: a user's closure is not troubled with it, and its results go nowhere.
    fn keep<T>(&self, result: Result<T, StateError>) -> Option<T> {
        match result {
            Ok(done) => Some(done),
            Err(error) => {
                self.failed.borrow_mut().get_or_insert(error);
                None
            }
        }
    }

    pub(crate) fn take_failure(&self) -> Option<StateError> {
        self.failed.borrow_mut().take()
    }
}

/// What an operator asks of a handle's table between rows.
pub trait Upkeep {
    /// Lets time pass for entries that end.
    fn set_now(&mut self, _now_ms: i64) {}

    /// Takes out entries that are over, from at most so many pages.
    fn expire(&mut self, _pages_max: usize) {}

    /// Asks the memory for what keys of these hashes have, ahead of their rows.
    fn prefetch(&self, _hashes: &[u64]) {}
}

/// Values of `V` under keys of `S` within the key in hand.
pub trait Entries<S: SlotKey, V: Kept>: Upkeep {
    /// The value, in place.
    fn get(&self, sub: SubKey<'_, S>) -> Option<View<'_, V>>;

    /// Whether there is one.
    fn contains(&self, sub: SubKey<'_, S>) -> bool;

    /// Keeps a value; true if there was one.
    fn put(&mut self, sub: SubKey<'_, S>, value: &V) -> bool;

    /// Has the value changed in place, and counts that as a write; false if there is none.
    fn change(&mut self, sub: SubKey<'_, S>, change: &mut dyn FnMut(Change<'_, V>)) -> bool;

    /// Takes the value out; false if there was none.
    fn take_out(&mut self, sub: SubKey<'_, S>) -> bool;

    /// Gives the value another key, in place of what was there. When it ends stays.
    fn rename(&mut self, from: SubKey<'_, S>, to: SubKey<'_, S>);
}

/// The same for fixed values.
pub trait FixedEntries<S: SlotKey, V: Kept>: Entries<S, V> {
    /// The value, to be changed in place; asking for it is a write.
    fn value_mut(&mut self, sub: SubKey<'_, S>) -> Option<&mut V>;

    /// The same, `init` being put there first if there is none; none when the store is full.
    fn value_mut_or(&mut self, sub: SubKey<'_, S>, init: V) -> Option<&mut V>;

    /// The value, to be changed in place without that being a write as far as its end is concerned.
    fn value_mut_quietly(&mut self, sub: SubKey<'_, S>) -> Option<&mut V>;
}

/// What checkpoints say of the keys.
fn key_schema<K: Described, S: Described>() -> Schema {
    if size_of::<S>() == 0 { K::schema() } else { Schema::Tuple(vec![K::schema(), S::schema()]) }
}

/// A table in flat pages.
pub(crate) struct Flat<K, S, V> {
    table: Table<Within<K, S>, V>,
    current: Rc<Current<K>>,
}

impl<K: Key + Described, S: MapKey + Fixed, V: Kept<Form = InPlace> + Fixed> Flat<K, S, V> {
    pub(crate) fn declare(declare: &mut Declare<'_, K>, spec: &Spec) -> Self {
        let table = declare.store.table_as(&spec.name, key_schema::<K, S>(), V::schema()).evolving();
        declare.renamed(spec);
        Flat { table, current: declare.current.clone() }
    }

    #[inline(always)]
    fn key(&self, sub: SubKey<'_, S>) -> Within<K, S> {
        Within::new(self.current.key(), sub)
    }
}

impl<K: Key, S: MapKey + Fixed, V: Kept<Form = InPlace> + Fixed> Upkeep for Flat<K, S, V>
where
    K: Described,
{
    fn prefetch(&self, hashes: &[u64]) {
        if size_of::<S>() == 0 {
            self.table.prefetch(ALL, hashes);
        }
    }
}

impl<K: Key + Described, S: MapKey + Fixed, V: Kept<Form = InPlace> + Fixed> Entries<S, V> for Flat<K, S, V> {
    #[inline]
    fn get(&self, sub: SubKey<'_, S>) -> Option<&V> {
        self.table.get_ref(ALL, &self.key(sub))
    }

    fn contains(&self, sub: SubKey<'_, S>) -> bool {
        self.get(sub).is_some()
    }

    fn put(&mut self, sub: SubKey<'_, S>, value: &V) -> bool {
        let key = self.key(sub);
        let put = self.table.put(ALL, &key, *value);
        self.current.keep(put).unwrap_or(false)
    }

    fn change(&mut self, sub: SubKey<'_, S>, change: &mut dyn FnMut(&mut V)) -> bool {
        self.value_mut(sub).map(change).is_some()
    }

    fn take_out(&mut self, sub: SubKey<'_, S>) -> bool {
        let key = self.key(sub);
        self.table.remove(ALL, &key).is_some()
    }

    fn rename(&mut self, from: SubKey<'_, S>, to: SubKey<'_, S>) {
        let from = self.key(from);
        if let Some(value) = self.table.remove(ALL, &from) {
            self.put(to, &value);
        }
    }
}

impl<K: Key + Described, S: MapKey + Fixed, V: Kept<Form = InPlace> + Fixed> FixedEntries<S, V> for Flat<K, S, V> {
    #[inline]
    fn value_mut(&mut self, sub: SubKey<'_, S>) -> Option<&mut V> {
        let key = self.key(sub);
        self.table.get_mut(ALL, &key)
    }

    #[inline]
    fn value_mut_or(&mut self, sub: SubKey<'_, S>, init: V) -> Option<&mut V> {
        let key = self.key(sub);
        self.current.keep(self.table.get_mut_or(ALL, &key, || init))
    }

    fn value_mut_quietly(&mut self, sub: SubKey<'_, S>) -> Option<&mut V> {
        self.value_mut(sub)
    }
}

/// A table in slotted pages.
pub(crate) struct Slotted<K: Key, S: SlotKey, V: Kept> {
    table: SlottedTable<SlotWithin<K, S>, V>,
    current: Rc<Current<K>>,
    ttl_ms: Option<i64>,
    now_ms: i64,
    /// Where the next look for what is over begins.
    expire_at: usize,
}

impl<K: Key + Described, S: MapKey, V: Kept> Slotted<K, S, V> {
    pub(crate) fn declare(declare: &mut Declare<'_, K>, spec: &Spec) -> Self {
        let table = declare.store.slotted_as(&spec.name, key_schema::<K, S>(), V::schema()).evolving();
        declare.renamed(spec);
        Slotted { table, current: declare.current.clone(), ttl_ms: spec.ttl_ms, now_ms: 0, expire_at: 0 }
    }
}

impl<K: Key, S: SlotKey, V: Kept> Slotted<K, S, V> {
    #[inline(always)]
    fn key<'a>(&self, sub: SubKey<'a, S>) -> SlotWithinRef<'a, K, S> {
        SlotWithinRef { key: self.current.key(), sub }
    }

    /// When what is written now ends; 0 where nothing does.
    #[inline(always)]
    fn ends_ms(&self) -> i64 {
        // Zero means never: what would end there ends a millisecond later.
        self.ttl_ms.map_or(0, |ttl_ms| match self.now_ms.saturating_add(ttl_ms) {
            0 => 1,
            ends_ms => ends_ms,
        })
    }
}

impl<K: Key, S: SlotKey, V: Kept> Upkeep for Slotted<K, S, V> {
    fn set_now(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        if self.ttl_ms.is_some() {
            self.table.set_now(now_ms);
        }
    }

    fn expire(&mut self, pages_max: usize) {
        if self.ttl_ms.is_some() {
            self.table.expire(ALL, &mut self.expire_at, pages_max);
        }
    }

    fn prefetch(&self, hashes: &[u64]) {
        if size_of::<S>() == 0 {
            self.table.prefetch(ALL, hashes);
        }
    }
}

impl<K: Key, S: SlotKey, V: Kept> Slotted<K, S, V> {
    fn has(&self, sub: SubKey<'_, S>) -> bool {
        self.table.contains(ALL, &self.key(sub))
    }

    fn write(&mut self, sub: SubKey<'_, S>, value: &V) -> bool {
        let (key, ends_ms) = (self.key(sub), self.ends_ms());
        let put = self.table.put_until(ALL, &key, value, ends_ms);
        self.current.keep(put).unwrap_or(false)
    }

    fn remove(&mut self, sub: SubKey<'_, S>) -> bool {
        let key = self.key(sub);
        self.table.remove(ALL, &key)
    }

    fn move_to(&mut self, from: SubKey<'_, S>, to: SubKey<'_, S>) {
        let (from, to) = (self.key(from), self.key(to));
        let renamed = self.table.rename(ALL, &from, &to);
        self.current.keep(renamed);
    }
}

impl<K: Key, S: MapKey, V: Kept<Form = Archived>> Entries<S, V> for Slotted<K, S, V> {
    fn get(&self, sub: SubKey<'_, S>) -> Option<Seen<'_, V>> {
        self.table.look(ALL, &self.key(sub))
    }

    fn contains(&self, sub: SubKey<'_, S>) -> bool {
        self.has(sub)
    }

    fn put(&mut self, sub: SubKey<'_, S>, value: &V) -> bool {
        self.write(sub, value)
    }

    fn change(&mut self, sub: SubKey<'_, S>, change: &mut dyn FnMut(Seal<'_, V::Archived>)) -> bool {
        let (key, ends_ms) = (self.key(sub), self.ends_ms());
        self.table.update_until(ALL, &key, ends_ms, change)
    }

    fn take_out(&mut self, sub: SubKey<'_, S>) -> bool {
        self.remove(sub)
    }

    fn rename(&mut self, from: SubKey<'_, S>, to: SubKey<'_, S>) {
        self.move_to(from, to);
    }
}

/// A table in slotted pages, of values that are fixed: for keys of any size, and for entries that end.
pub(crate) struct SlottedFixed<K: Key, S: SlotKey, V: Kept>(Slotted<K, S, V>);

impl<K: Key + Described, S: MapKey, V: Kept> SlottedFixed<K, S, V> {
    pub(crate) fn declare(declare: &mut Declare<'_, K>, spec: &Spec) -> Self {
        SlottedFixed(Slotted::declare(declare, spec))
    }
}

impl<K: Key, S: SlotKey, V: Kept> Upkeep for SlottedFixed<K, S, V> {
    fn set_now(&mut self, now_ms: i64) {
        self.0.set_now(now_ms);
    }

    fn expire(&mut self, pages_max: usize) {
        self.0.expire(pages_max);
    }

    fn prefetch(&self, hashes: &[u64]) {
        self.0.prefetch(hashes);
    }
}

impl<K: Key, S: MapKey, V: Kept<Form = InPlace> + Fixed> Entries<S, V> for SlottedFixed<K, S, V> {
    fn get(&self, sub: SubKey<'_, S>) -> Option<&V> {
        self.0.table.get_ref(ALL, &self.0.key(sub))
    }

    fn contains(&self, sub: SubKey<'_, S>) -> bool {
        self.0.has(sub)
    }

    fn put(&mut self, sub: SubKey<'_, S>, value: &V) -> bool {
        self.0.write(sub, value)
    }

    fn change(&mut self, sub: SubKey<'_, S>, change: &mut dyn FnMut(&mut V)) -> bool {
        self.value_mut(sub).map(change).is_some()
    }

    fn take_out(&mut self, sub: SubKey<'_, S>) -> bool {
        self.0.remove(sub)
    }

    fn rename(&mut self, from: SubKey<'_, S>, to: SubKey<'_, S>) {
        self.0.move_to(from, to);
    }
}

impl<K: Key, S: MapKey, V: Kept<Form = InPlace> + Fixed> FixedEntries<S, V> for SlottedFixed<K, S, V> {
    fn value_mut(&mut self, sub: SubKey<'_, S>) -> Option<&mut V> {
        let (key, ends_ms) = (self.0.key(sub), self.0.ends_ms());
        self.0.table.get_mut(ALL, &key, Some(ends_ms))
    }

    fn value_mut_or(&mut self, sub: SubKey<'_, S>, init: V) -> Option<&mut V> {
        if !self.0.has(sub) {
            self.0.write(sub, &init);
        }
        self.value_mut(sub)
    }

    fn value_mut_quietly(&mut self, sub: SubKey<'_, S>) -> Option<&mut V> {
        let key = self.0.key(sub);
        self.0.table.get_mut(ALL, &key, None)
    }
}
