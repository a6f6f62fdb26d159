//! Aggregates are values that compose: `(Count, Max::of(|e: &Bid| e.price))`.
//!
//! An aggregate says what of an event it needs ([`Aggregate::lift`]); only that travels to the key's shard. `Count` needs
//! nothing, so a counted event crosses as its key and timestamp. What it keeps per key and window is its accumulator,
//! which lives in pages and therefore has a fixed archived size.
//!
//! ```text
//! numbers    Sum, Min, Max, Avg            distinct   how many different ones, near enough
//! extremes   First, Last, Top              quantiles  half of them, 99 of 100 of them, near enough
//! reduced    a closure of two              tuples     several at once
//! ```
//!
//! **What is not here**: an aggregate that grows with what it is fed, such as an exact count of different values or a list
//! of all of them. Keep those in a [`Map`](crate::state::Map) or a [`List`](crate::state::List) of the key's own.

mod distinct;
mod extremes;
mod numbers;
mod quantiles;
mod reduced;
#[cfg(test)]
mod tests;
mod tuples;

use std::rc::Rc;

use millstream_state::Fixed;

pub use distinct::{Distinct, Registers};
pub use extremes::{First, Last, Top};
pub use numbers::{Avg, Max, Min, Number, Sum};
pub use quantiles::{Counts, Quantiles, Sketch};
pub use reduced::Reduced;

/// A fold over the events of one key and window.
///
/// ```
/// use millstream::{Aggregate, Both};
///
/// /// How far prices lie apart.
/// struct Spread;
///
/// impl Aggregate<i64> for Spread {
///     type Input = i64;
///     type Acc = Both<i64, i64>; // the least, the greatest
///     type Out = i64;
///
///     fn lift(&self, price: &i64) -> i64 {
///         *price
///     }
///     fn init(&self) -> Both<i64, i64> {
///         Both(i64::MAX, i64::MIN)
///     }
///     fn add(&self, acc: &mut Both<i64, i64>, price: i64) {
///         self.merge(acc, &Both(price, price));
///     }
///     fn merge(&self, into: &mut Both<i64, i64>, other: &Both<i64, i64>) {
///         *into = Both(into.0.min(other.0), into.1.max(other.1));
///     }
///     fn finish(&self, acc: &Both<i64, i64>) -> i64 {
///         acc.1 - acc.0
///     }
/// }
/// ```
///
/// # Contract
/// * `merge` is associative and commutative, and `merge(init, a) == a`: partial results meet in any order. (Checked by
///   the property tests `combined_equals_raw` for the aggregates of this crate.)
/// * Nothing but the arguments decides the result; a replay must give it again. (Only the author can know.)
pub trait Aggregate<T: ?Sized> {
    /// What of an event travels to the shard that owns its key.
    type Input: Fixed;
    /// What is kept for each key and window.
    type Acc: Fixed;
    /// What a complete window yields.
    type Out: 'static;

    /// Takes from an event what the fold needs. Runs on the shard that read the event.
    fn lift(&self, event: &T) -> Self::Input;

    /// The accumulator of nothing.
    fn init(&self) -> Self::Acc;

    /// Folds one event's input in.
    fn add(&self, acc: &mut Self::Acc, input: Self::Input);

    /// Folds another accumulator of the same key and window in.
    fn merge(&self, into: &mut Self::Acc, other: &Self::Acc);

    /// Takes an accumulator that was merged in out again, exactly, or says false: the default. The answer is always the
    /// same. Sliding windows then go on from one to the next, instead of beginning each anew.
    ///
    /// Sums of integers and counts can do it. Sums of floats cannot: what is left would depend on what had been there.
    fn remove(&self, _from: &mut Self::Acc, _other: &Self::Acc) -> bool {
        false
    }

    /// The result.
    fn finish(&self, acc: &Self::Acc) -> Self::Out;
}

/// A shared or borrowed aggregate folds as its owner does.
macro_rules! folds_as_its_owner {
    ($($shared:ty),*) => {$(
        impl<T: ?Sized, A: Aggregate<T>> Aggregate<T> for $shared {
            type Input = A::Input;
            type Acc = A::Acc;
            type Out = A::Out;

            #[inline(always)]
            fn lift(&self, event: &T) -> A::Input {
                (**self).lift(event)
            }

            #[inline(always)]
            fn init(&self) -> A::Acc {
                (**self).init()
            }

            #[inline(always)]
            fn add(&self, acc: &mut A::Acc, input: A::Input) {
                (**self).add(acc, input);
            }

            #[inline(always)]
            fn merge(&self, into: &mut A::Acc, other: &A::Acc) {
                (**self).merge(into, other);
            }

            #[inline(always)]
            fn remove(&self, from: &mut A::Acc, other: &A::Acc) -> bool {
                (**self).remove(from, other)
            }

            fn finish(&self, acc: &A::Acc) -> A::Out {
                (**self).finish(acc)
            }
        }
    )*};
}
folds_as_its_owner!(&A, Rc<A>);

/// How many events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count;

impl<T: ?Sized> Aggregate<T> for Count {
    type Input = ();
    type Acc = u64;
    type Out = u64;

    #[inline(always)]
    fn lift(&self, _event: &T) {}

    #[inline(always)]
    fn init(&self) -> u64 {
        0
    }

    #[inline(always)]
    fn add(&self, acc: &mut u64, (): ()) {
        *acc += 1;
    }

    #[inline(always)]
    fn merge(&self, into: &mut u64, other: &u64) {
        *into += other;
    }

    #[inline(always)]
    fn remove(&self, from: &mut u64, other: &u64) -> bool {
        *from -= other;
        true
    }

    fn finish(&self, acc: &u64) -> u64 {
        *acc
    }
}
