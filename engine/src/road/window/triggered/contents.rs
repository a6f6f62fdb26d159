//! What a window keeps of its rows: an accumulator, or the rows themselves.

use std::collections::HashSet;
use std::hash::Hash;
use std::marker::PhantomData;

use millstream_state::schema::{Described, Schema};
use millstream_state::{Both, Fixed, Key, Packed, PageStore, StateError, Table, Within};

use super::super::Window;
use super::evictor::Evictor;
use super::slot::{ALL, Cell, Of, within};
use super::{Fired, Pane};
use crate::road::aggregate::Aggregate;
use crate::time::Timestamp;

/// What windows of rows of `T` keep, and what they yield.
pub trait Contents<K, T>: 'static {
    /// What lies in the slot.
    type Kept: Fixed;
    /// What goes on from here.
    type Out: 'static;

    #[doc(hidden)]
    fn fresh(&self) -> Self::Kept;

    #[doc(hidden)]
    fn add(&mut self, key: K, cell: [i64; 2], kept: &mut Self::Kept, row: &T, at: Timestamp) -> Result<(), StateError>;

    /// Takes over what another window of the key has kept.
    #[doc(hidden)]
    fn merge(
        &mut self,
        key: K,
        into: ([i64; 2], &mut Self::Kept),
        from: ([i64; 2], &Self::Kept),
    ) -> Result<(), StateError>;

    #[doc(hidden)]
    fn clear(&mut self, key: K, cell: [i64; 2], kept: &mut Self::Kept);

    /// Makes results of what is kept; false if nothing is left to make one of.
    #[doc(hidden)]
    fn fire(
        &mut self,
        key: K,
        cell: [i64; 2],
        kept: &mut Self::Kept,
        window: Option<Window>,
        pane: Pane,
        emit: &mut dyn FnMut(Self::Out),
    ) -> Result<bool, StateError>;
}

/// Rows are folded into an accumulator as they come.
#[derive(Clone, Copy, Debug)]
pub struct Folded<A> {
    pub(crate) aggregate: A,
}

impl<K: Key, T: 'static, A: Aggregate<T> + 'static> Contents<K, T> for Folded<A> {
    type Kept = A::Acc;
    type Out = Fired<K, A::Out>;

    fn fresh(&self) -> A::Acc {
        self.aggregate.init()
    }

    #[inline]
    fn add(&mut self, _: K, _: [i64; 2], kept: &mut A::Acc, row: &T, _: Timestamp) -> Result<(), StateError> {
        self.aggregate.add(kept, self.aggregate.lift(row));
        Ok(())
    }

    fn merge(&mut self, _: K, into: ([i64; 2], &mut A::Acc), from: ([i64; 2], &A::Acc)) -> Result<(), StateError> {
        self.aggregate.merge(into.1, from.1);
        Ok(())
    }

    fn clear(&mut self, _: K, _: [i64; 2], kept: &mut A::Acc) {
        *kept = self.aggregate.init();
    }

    fn fire(
        &mut self,
        key: K,
        _: [i64; 2],
        kept: &mut A::Acc,
        window: Option<Window>,
        pane: Pane,
        emit: &mut dyn FnMut(Fired<K, A::Out>),
    ) -> Result<bool, StateError> {
        emit(Fired { key, window, pane, value: self.aggregate.finish(kept) });
        Ok(true)
    }
}

/// A row in a window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Element<T> {
    /// Its event time; where windows are of processing time, when it came.
    pub at: Timestamp,
    /// The row.
    pub row: T,
    /// Its place in the list.
    place: u64,
}

/// What is made of the rows of a window.
pub trait Results<K, T>: 'static {
    /// What goes on from here.
    type Out: 'static;

    #[doc(hidden)]
    fn make(&self, key: K, window: Option<Window>, pane: Pane, rows: &[Element<T>], emit: &mut dyn FnMut(Self::Out));
}

/// A fold of them all.
#[derive(Clone, Copy, Debug)]
pub struct MakesResults<A>(pub(crate) A);

impl<K: Key, T: 'static, A: Aggregate<T> + 'static> Results<K, T> for MakesResults<A> {
    type Out = Fired<K, A::Out>;

    fn make(
        &self,
        key: K,
        window: Option<Window>,
        pane: Pane,
        rows: &[Element<T>],
        emit: &mut dyn FnMut(Fired<K, A::Out>),
    ) {
        let mut acc = self.0.init();
        rows.iter().for_each(|element| self.0.add(&mut acc, self.0.lift(&element.row)));
        emit(Fired { key, window, pane, value: self.0.finish(&acc) });
    }
}

/// A user's closure.
#[derive(Clone, Copy, Debug)]
pub struct Processing<F>(pub(crate) F);

impl<K, T, I, F> Results<K, T> for Processing<F>
where
    K: 'static,
    T: 'static,
    I: IntoIterator<Item: 'static>,
    F: Fn(&K, Option<Window>, Pane, &[Element<T>]) -> I + 'static,
{
    type Out = I::Item;

    fn make(&self, key: K, window: Option<Window>, pane: Pane, rows: &[Element<T>], emit: &mut dyn FnMut(I::Item)) {
        (self.0)(&key, window, pane, rows).into_iter().for_each(emit);
    }
}

/// How many different values rows have, exactly.
#[derive(Clone, Copy, Debug)]
pub struct CountsDistinct<F>(pub(crate) F);

impl<K, T, V, F> Results<K, T> for CountsDistinct<F>
where
    K: Key,
    T: 'static,
    V: Eq + Hash,
    F: Fn(&T) -> V + 'static,
{
    type Out = Fired<K, u64>;

    fn make(
        &self,
        key: K,
        window: Option<Window>,
        pane: Pane,
        rows: &[Element<T>],
        emit: &mut dyn FnMut(Fired<K, u64>),
    ) {
        let different: HashSet<V> = rows.iter().map(|element| (self.0)(&element.row)).collect();
        emit(Fired { key, window, pane, value: different.len() as u64 });
    }
}

impl<K, T, E: Evictor<T>, R> std::fmt::Debug for Listed<K, T, E, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listed({:?})", self.evictor)
    }
}

/// The place of the first row, and the one behind the last. They count up until the list is empty.
type Ends = Both<u64, u64>;

/// A row of a list: the window's, and its place there.
type Place<K> = Within<Of<K>, u64>;

/// Rows are kept in a list.
pub struct Listed<K, T, E, R> {
    elements: Table<Place<K>, Both<Packed<i64>, Packed<T>>>,
    evictor: E,
    results: R,
    /// Rows of the window that is emitted.
    rows: Vec<Element<T>>,
    of: PhantomData<fn() -> K>,
}

impl<K: Key + Described, T: Fixed, E, R> Listed<K, T, E, R> {
    pub(crate) fn declare(store: &PageStore, evictor: E, results: R) -> Listed<K, T, E, R> {
        type Row<T> = Both<Packed<i64>, Packed<T>>;
        let key = Schema::Tuple(vec![K::schema(), Schema::Array(Box::new(Schema::I64), 3)]);
        let text = millstream_state::type_text::<Row<T>>();
        let value = Schema::of_type_text(&text, size_of::<Row<T>>(), align_of::<Row<T>>());
        let elements = store.table_as("elements", key, value);
        Listed { elements, evictor, results, rows: Vec::new(), of: PhantomData }
    }
}

impl<K: Key, T: Fixed, E, R> Listed<K, T, E, R> {
    fn place(key: K, cell: [i64; 2], place: u64) -> Place<K> {
        let [first, second] = cell;
        within(within(key, Cell { first, second }), place)
    }

    /// Takes out of the list what is no more among the rows in hand.
    fn keep_what_is_left(&mut self, key: K, cell: [i64; 2], ends: &mut Ends) -> Result<(), StateError> {
        let left = self.rows.len() as u64;
        let is_newest = self.rows.first().is_none_or(|first| first.place == ends.1 - left);
        let from = ends.1 - left;
        if is_newest && self.rows.iter().zip(from..).all(|(element, place)| element.place == place) {
            // Only the oldest are gone, or all.
            for place in ends.0..from {
                self.elements.remove(ALL, &Self::place(key, cell, place));
            }
            ends.0 = from;
        } else {
            for place in ends.0..ends.1 {
                self.elements.remove(ALL, &Self::place(key, cell, place));
            }
            for (element, place) in self.rows.iter().zip(ends.0..) {
                let row = Both(Packed::new(element.at.0), Packed::new(element.row));
                self.elements.put(ALL, &Self::place(key, cell, place), row)?;
            }
            ends.1 = ends.0 + left;
        }
        if left == 0 {
            *ends = Both(0, 0);
        }
        Ok(())
    }
}

impl<K, T, E, R> Contents<K, T> for Listed<K, T, E, R>
where
    K: Key,
    T: Fixed,
    E: Evictor<T>,
    R: Results<K, T>,
{
    type Kept = Ends;
    type Out = R::Out;

    fn fresh(&self) -> Ends {
        Both(0, 0)
    }

    fn add(&mut self, key: K, cell: [i64; 2], ends: &mut Ends, row: &T, at: Timestamp) -> Result<(), StateError> {
        let row = Both(Packed::new(at.0), Packed::new(*row));
        self.elements.put(ALL, &Self::place(key, cell, ends.1), row)?;
        ends.1 += 1;
        Ok(())
    }

    fn merge(&mut self, key: K, into: ([i64; 2], &mut Ends), from: ([i64; 2], &Ends)) -> Result<(), StateError> {
        let (cell, ends) = into;
        for place in from.1.0..from.1.1 {
            if let Some(row) = self.elements.remove(ALL, &Self::place(key, from.0, place)) {
                self.elements.put(ALL, &Self::place(key, cell, ends.1), row)?;
                ends.1 += 1;
            }
        }
        Ok(())
    }

    fn clear(&mut self, key: K, cell: [i64; 2], ends: &mut Ends) {
        for place in ends.0..ends.1 {
            self.elements.remove(ALL, &Self::place(key, cell, place));
        }
        *ends = Both(0, 0);
    }

    fn fire(
        &mut self,
        key: K,
        cell: [i64; 2],
        ends: &mut Ends,
        window: Option<Window>,
        pane: Pane,
        emit: &mut dyn FnMut(R::Out),
    ) -> Result<bool, StateError> {
        self.rows.clear();
        for place in ends.0..ends.1 {
            let kept = self.elements.get_ref(ALL, &Self::place(key, cell, place));
            self.rows.extend(kept.map(|row| Element { at: Timestamp(row.0.get()), row: row.1.get(), place }));
        }
        let count = self.rows.len();
        self.evictor.evict(window, &mut self.rows);
        if self.rows.len() < count {
            self.keep_what_is_left(key, cell, ends)?;
        }
        if self.rows.is_empty() {
            return Ok(false);
        }
        self.results.make(key, window, pane, &self.rows, emit);
        Ok(true)
    }
}
