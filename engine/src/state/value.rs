//! [`Value`]: one value per key.

use std::borrow::Borrow;
use std::fmt;

use millstream_state::schema::Described;
use millstream_state::{Fixed, Key, SubKey, type_text};
use rkyv::api::high::HighDeserializer;
use rkyv::{Deserialize, rancor};

use super::declare::{Declare, Handle, Spec, StateOptions};
use super::entries::{Entries, Upkeep};
use super::kept::{Change, Form, InPlace, Kept, View};

/// One value per key.
///
/// ```
/// # use millstream::state::{KeyedState, Value};
/// #[derive(KeyedState)]
/// struct Visitor {
///     visits: Value<u64>,
///     last_page: Value<String>,
/// }
///
/// fn visit(state: &mut Visitor, page: &str) -> (u64, bool) {
///     let visits = state.visits.update_or(0, |visits| {
///         *visits += 1;
///         *visits
///     });
///     // Read in place: nothing is copied.
///     let is_same = state.last_page.get().is_some_and(|last| *last == *page);
///     if !is_same {
///         state.last_page.set(page.to_owned());
///     }
///     (visits, is_same)
/// }
/// ```
///
/// What [`get`](Value::get) shows cannot be held over a write to the same state:
///
/// ```compile_fail,E0502
/// # use millstream::state::Value;
/// fn grow(total: &mut Value<u64>) {
///     let before = total.get().unwrap();
///     total.set(7); // cannot borrow `*total` as mutable because it is also borrowed as immutable
///     println!("{before}");
/// }
/// ```
pub struct Value<T: Kept> {
    table: Box<<T::Form as Form<T>>::Table<()>>,
}

impl<T: Kept> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&type_text::<Self>())
    }
}

impl<T: Kept> Handle for Value<T> {
    fn declare<K: Key + Described>(declare: &mut Declare<'_, K>, name: &'static str, options: StateOptions) -> Self {
        let spec = Spec::new(name, options);
        declare.note::<Self>(&spec);
        Value { table: T::Form::table::<K, ()>(declare, &spec) }
    }

    fn tables(&mut self, visit: &mut dyn FnMut(&mut dyn Upkeep)) {
        T::Form::upkeep(&mut self.table, visit);
    }
}

/// Handles without a key of their own within the key.
#[inline(always)]
pub(super) fn only<R>(show: impl FnOnce(SubKey<'_, ()>) -> R) -> R {
    SubKey::with(&(), show)
}

impl<T: Kept> Value<T> {
    /// The value where it lies: `&T` if the type is fixed, else what stands for `&T::Archived`.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Option<View<'_, T>> {
        only(|sub| self.table.get(sub))
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_set(&self) -> bool {
        only(|sub| self.table.contains(sub))
    }

    /// Keeps a value, in place of what was there.
    #[inline]
    pub fn set(&mut self, value: impl Borrow<T>) {
        only(|sub| self.table.put(sub, value.borrow()));
    }

    /// Changes the value where it lies, and returns what `change` does; none, and `change` is not asked, if there is none.
    ///
    /// A fixed value is handed over as `&mut T`. Of another one, rkyv's [`Seal`](rkyv::seal::Seal) lets fields of fixed size
    /// change (`rkyv::munge` takes it apart); what changes in size is [`read`](Value::read) and [`set`](Value::set).
    #[inline]
    pub fn update<R>(&mut self, change: impl FnOnce(Change<'_, T>) -> R) -> Option<R> {
        only(|sub| T::Form::update(&mut *self.table, sub, change))
    }

    /// A copy of the value, made of its archived form.
    #[must_use]
    pub fn read(&self) -> Option<T>
    where
        T: Kept<Form = super::Archived>,
        T::Archived: Deserialize<T, HighDeserializer<rancor::Error>>,
    {
        let seen = self.get()?;
        Some(rkyv::deserialize::<T, rancor::Error>(&*seen).expect("what was archived and proven is a value"))
    }

    /// Forgets the value.
    pub fn clear(&mut self) {
        only(|sub| self.table.take_out(sub));
    }
}

impl<T: Kept<Form = InPlace> + Fixed> Value<T> {
    /// A copy of the value, or `otherwise`.
    #[inline]
    #[must_use]
    pub fn get_or(&self, otherwise: T) -> T {
        self.get().copied().unwrap_or(otherwise)
    }

    /// Changes the value where it lies, which is `init` where there was none, and returns what `change` does.
    #[inline]
    pub fn update_or<R>(&mut self, mut init: T, change: impl FnOnce(&mut T) -> R) -> R {
        only(|sub| match self.table.value_mut_or(sub, init) {
            Some(value) => change(value),
            // There is no room for it: the operator fails as soon as the closure is done, and nothing of this counts.
            None => change(&mut init),
        })
    }
}
