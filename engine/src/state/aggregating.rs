//! [`Reducing`] and [`Aggregating`]: values that are made of all that was added.

use std::fmt;
use std::marker::PhantomData;

use millstream_state::schema::Described;
use millstream_state::{Fixed, Key, type_text};

use super::declare::{Declare, Handle, Spec, StateOptions};
use super::entries::{FixedEntries, Upkeep};
use super::kept::{InPlace, Kept};
use super::value::only;
use crate::road::aggregate::{Aggregate, Number};
use crate::state::Form;

/// How a [`Reducing`] state makes one value of two. The function is a type, since the state's field says it by its type alone.
///
/// ```
/// use millstream::state::Reduce;
///
/// /// The longer of two stays.
/// struct Longer;
///
/// impl Reduce<u32> for Longer {
///     fn reduce(kept: &mut u32, added: &u32) {
///         *kept = (*kept).max(*added);
///     }
/// }
/// ```
pub trait Reduce<T>: 'static {
    /// Takes what is added into what is kept.
    fn reduce(kept: &mut T, added: &T);
}

/// The sum of all that was added.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total;

/// The greatest that was added.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greatest;

/// The least that was added.
#[derive(Clone, Copy, Debug, Default)]
pub struct Least;

impl<T: Number> Reduce<T> for Total {
    fn reduce(kept: &mut T, added: &T) {
        *kept = T::plus(*kept, *added);
    }
}

impl<T: PartialOrd + Copy> Reduce<T> for Greatest {
    fn reduce(kept: &mut T, added: &T) {
        if *added > *kept {
            *kept = *added;
        }
    }
}

impl<T: PartialOrd + Copy> Reduce<T> for Least {
    fn reduce(kept: &mut T, added: &T) {
        if *added < *kept {
            *kept = *added;
        }
    }
}

/// One value per key, made of all that was added by [`R`](Reduce). The type is fixed.
///
/// ```
/// # use millstream::state::{Greatest, KeyedState, Reducing, Total};
/// #[derive(KeyedState)]
/// struct Card {
///     spent: Reducing<u64, Total>,
///     dearest: Reducing<u64, Greatest>,
/// }
///
/// fn pay(card: &mut Card, cents: u64) -> u64 {
///     card.dearest.add(cents);
///     card.spent.add(cents)
/// }
/// ```
pub struct Reducing<T: Kept<Form = InPlace> + Fixed, R: Reduce<T>> {
    table: Box<dyn FixedEntries<(), T>>,
    reduce: PhantomData<fn() -> R>,
}

impl<T: Kept<Form = InPlace> + Fixed, R: Reduce<T>> fmt::Debug for Reducing<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&type_text::<Self>())
    }
}

impl<T: Kept<Form = InPlace> + Fixed, R: Reduce<T>> Handle for Reducing<T, R> {
    fn declare<K: Key + Described>(declare: &mut Declare<'_, K>, name: &'static str, options: StateOptions) -> Self {
        let spec = Spec::new(name, options);
        declare.note::<Self>(&spec);
        Reducing { table: InPlace::table::<K, ()>(declare, &spec), reduce: PhantomData }
    }

    fn tables(&mut self, visit: &mut dyn FnMut(&mut dyn Upkeep)) {
        visit(&mut *self.table);
    }
}

impl<T: Kept<Form = InPlace> + Fixed, R: Reduce<T>> Reducing<T, R> {
    /// Adds a value, and returns what all of them come to.
    pub fn add(&mut self, value: T) -> T {
        only(|sub| match self.table.value_mut(sub) {
            Some(kept) => {
                R::reduce(kept, &value);
                *kept
            }
            None => {
                self.table.put(sub, &value);
                value
            }
        })
    }

    /// What all values come to; none before the first.
    #[must_use]
    pub fn get(&self) -> Option<T> {
        only(|sub| self.table.get(sub).copied())
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        only(|sub| self.table.take_out(sub));
    }
}

/// One accumulator per key, of an [`Aggregate`] of events of type `T`, which is made by `A::default()`.
///
/// ```
/// # use millstream::{Aggregate, Both};
/// # use millstream::state::{Aggregating, KeyedState};
/// /// How far prices lie apart.
/// #[derive(Default)]
/// struct Spread;
///
/// impl Aggregate<i64> for Spread {
///     // the least, the greatest
///     type Acc = Both<i64, i64>;
/// #   type Input = i64;
/// #   type Out = i64;
/// #   fn lift(&self, price: &i64) -> i64 { *price }
/// #   fn init(&self) -> Both<i64, i64> { Both(i64::MAX, i64::MIN) }
/// #   fn add(&self, acc: &mut Both<i64, i64>, price: i64) { self.merge(acc, &Both(price, price)); }
/// #   fn merge(&self, into: &mut Both<i64, i64>, other: &Both<i64, i64>) {
/// #       *into = Both(into.0.min(other.0), into.1.max(other.1));
/// #   }
/// #   fn finish(&self, acc: &Both<i64, i64>) -> i64 { acc.1 - acc.0 }
///     // and its functions, as in a window's aggregate
/// }
///
/// #[derive(KeyedState)]
/// struct Stock {
///     spread: Aggregating<Spread, i64>,
/// }
///
/// fn trade(stock: &mut Stock, price: i64) -> i64 {
///     stock.spread.add(&price);
///     stock.spread.result()
/// }
/// ```
pub struct Aggregating<A, T>
where
    A: Aggregate<T, Acc: Kept<Form = InPlace>>,
    T: ?Sized,
{
    table: Box<dyn FixedEntries<(), A::Acc>>,
    aggregate: A,
}

impl<A, T> fmt::Debug for Aggregating<A, T>
where
    A: Aggregate<T, Acc: Kept<Form = InPlace>>,
    T: ?Sized,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&type_text::<Self>())
    }
}

impl<A, T> Handle for Aggregating<A, T>
where
    A: Aggregate<T, Acc: Kept<Form = InPlace>> + Default + 'static,
    T: ?Sized + 'static,
{
    fn declare<K: Key + Described>(declare: &mut Declare<'_, K>, name: &'static str, options: StateOptions) -> Self {
        let spec = Spec::new(name, options);
        declare.note::<Self>(&spec);
        Aggregating { table: InPlace::table::<K, ()>(declare, &spec), aggregate: A::default() }
    }

    fn tables(&mut self, visit: &mut dyn FnMut(&mut dyn Upkeep)) {
        visit(&mut *self.table);
    }
}

impl<A, T> Aggregating<A, T>
where
    A: Aggregate<T, Acc: Kept<Form = InPlace>>,
    T: ?Sized,
{
    /// Adds an event.
    pub fn add(&mut self, event: &T) {
        let input = self.aggregate.lift(event);
        only(|sub| {
            // Where there is no room, the operator fails as soon as the closure is done.
            if let Some(acc) = self.table.value_mut_or(sub, self.aggregate.init()) {
                self.aggregate.add(acc, input);
            }
        });
    }

    /// What all events come to; before the first, what none come to.
    #[must_use]
    pub fn result(&self) -> A::Out {
        only(|sub| match self.table.get(sub) {
            Some(acc) => self.aggregate.finish(acc),
            None => self.aggregate.finish(&self.aggregate.init()),
        })
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        only(|sub| self.table.take_out(sub));
    }
}
