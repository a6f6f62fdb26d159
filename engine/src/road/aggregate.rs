//! Aggregates are values that compose: `(Count, Max::of(|e: &Bid| e.price))`.
//!
//! An aggregate says what of an event it needs ([`Aggregate::lift`]); only that travels to the key's shard. `Count` needs
//! nothing, so a counted event crosses as its key and timestamp. What it keeps per key and window is its accumulator,
//! which lives in pages and therefore has a fixed archived size.

use std::marker::PhantomData;
use std::rc::Rc;

use millstream_state::{Both, Fixed};

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
///   the property test `combined_equals_raw` for the aggregates of this crate.)
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

/// A number that can be summed and compared in pages. Integers wrap on overflow, as a release build does.
pub trait Number: Fixed + PartialOrd {
    /// The sum of nothing.
    const ZERO: Self;
    /// At or above every number.
    const GREATEST: Self;
    /// At or below every number.
    const LEAST: Self;
    /// The sum.
    #[must_use]
    fn plus(self, other: Self) -> Self;
    /// What was there before `other` was added, bit for bit; none, always, where that cannot be told.
    #[must_use]
    fn minus(self, _other: Self) -> Option<Self> {
        None
    }
    /// As a float, for averages.
    fn as_f64(self) -> f64;
}

macro_rules! integer_numbers {
    ($($int:ty),*) => {$(
        impl Number for $int {
            const ZERO: Self = 0;
            const GREATEST: Self = <$int>::MAX;
            const LEAST: Self = <$int>::MIN;

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline(always)]
            fn minus(self, other: Self) -> Option<Self> {
                Some(self.wrapping_sub(other))
            }

            fn as_f64(self) -> f64 {
                self as f64
            }
        }
    )*};
}
integer_numbers!(i64, u64, i32, u32);

impl Number for f64 {
    const ZERO: Self = 0.0;
    const GREATEST: Self = f64::INFINITY;
    const LEAST: Self = f64::NEG_INFINITY;

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn as_f64(self) -> f64 {
        self
    }
}

/// Declares an aggregate that folds one number of an event into one number.
macro_rules! number_fold {
    ($(#[$doc:meta])* $name:ident, $init:expr, $fold:expr $(, $unfold:expr)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<N, F> {
            of: F,
            number: PhantomData<fn() -> N>,
        }

        impl<N: Number, F> $name<N, F> {
            /// Takes the number from an event.
            pub fn of<T: ?Sized>(of: F) -> Self
            where
                F: Fn(&T) -> N,
            {
                $name { of, number: PhantomData }
            }
        }

        impl<T: ?Sized, N: Number, F: Fn(&T) -> N> Aggregate<T> for $name<N, F> {
            type Input = N;
            type Acc = N;
            type Out = N;

            #[inline(always)]
            fn lift(&self, event: &T) -> N {
                (self.of)(event)
            }

            #[inline(always)]
            fn init(&self) -> N {
                $init
            }

            #[inline(always)]
            fn add(&self, acc: &mut N, input: N) {
                *acc = $fold(*acc, input);
            }

            #[inline(always)]
            fn merge(&self, into: &mut N, other: &N) {
                *into = $fold(*into, *other);
            }
            $(
            #[inline(always)]
            fn remove(&self, from: &mut N, other: &N) -> bool {
                let rest: Option<N> = $unfold(*from, *other);
                *from = rest.unwrap_or(*from);
                rest.is_some()
            }
            )?
            fn finish(&self, acc: &N) -> N {
                *acc
            }
        }
    };
}

number_fold!(
    /// The sum of a number of each event.
    Sum, N::ZERO, N::plus, N::minus
);
number_fold!(
    /// The least of a number of each event.
    Min, N::GREATEST, |a: N, b: N| if b < a { b } else { a }
);
number_fold!(
    /// The greatest of a number of each event.
    Max, N::LEAST, |a: N, b: N| if b > a { b } else { a }
);

/// The mean of a number of each event.
#[derive(Clone, Copy, Debug)]
pub struct Avg<N, F> {
    of: F,
    number: PhantomData<fn() -> N>,
}

impl<N: Number, F> Avg<N, F> {
    /// Takes the number from an event.
    pub fn of<T: ?Sized>(of: F) -> Self
    where
        F: Fn(&T) -> N,
    {
        Avg { of, number: PhantomData }
    }
}

impl<T: ?Sized, N: Number, F: Fn(&T) -> N> Aggregate<T> for Avg<N, F> {
    type Input = f64;
    type Acc = Both<f64, u64>;
    type Out = f64;

    #[inline(always)]
    fn lift(&self, event: &T) -> f64 {
        (self.of)(event).as_f64()
    }

    #[inline(always)]
    fn init(&self) -> Both<f64, u64> {
        Both(0.0, 0)
    }

    #[inline(always)]
    fn add(&self, acc: &mut Both<f64, u64>, input: f64) {
        acc.0 += input;
        acc.1 += 1;
    }

    #[inline(always)]
    fn merge(&self, into: &mut Both<f64, u64>, other: &Both<f64, u64>) {
        into.0 += other.0;
        into.1 += other.1;
    }

    fn finish(&self, acc: &Both<f64, u64>) -> f64 {
        acc.0 / acc.1 as f64
    }
}

/// Two aggregates over the same events; longer tuples nest.
impl<T: ?Sized, A: Aggregate<T>, B: Aggregate<T>> Aggregate<T> for (A, B) {
    type Input = Both<A::Input, B::Input>;
    type Acc = Both<A::Acc, B::Acc>;
    type Out = (A::Out, B::Out);

    #[inline(always)]
    fn lift(&self, event: &T) -> Self::Input {
        Both(self.0.lift(event), self.1.lift(event))
    }

    #[inline(always)]
    fn init(&self) -> Self::Acc {
        Both(self.0.init(), self.1.init())
    }

    #[inline(always)]
    fn add(&self, acc: &mut Self::Acc, input: Self::Input) {
        self.0.add(&mut acc.0, input.0);
        self.1.add(&mut acc.1, input.1);
    }

    #[inline(always)]
    fn merge(&self, into: &mut Self::Acc, other: &Self::Acc) {
        self.0.merge(&mut into.0, &other.0);
        self.1.merge(&mut into.1, &other.1);
    }

    #[inline(always)]
    fn remove(&self, from: &mut Self::Acc, other: &Self::Acc) -> bool {
        self.0.remove(&mut from.0, &other.0) & self.1.remove(&mut from.1, &other.1)
    }

    fn finish(&self, acc: &Self::Acc) -> Self::Out {
        (self.0.finish(&acc.0), self.1.finish(&acc.1))
    }
}

/// Longer tuples fold as a first and a pair of the rest, and give a flat result.
macro_rules! longer_tuple {
    (($first:ident $(, $name:ident $at:tt)+), rest ($($rest:ident),+), $nested:ident) => {
        impl<T: ?Sized, $first: Aggregate<T>, $($name: Aggregate<T>),+> Aggregate<T> for ($first, $($name),+) {
            type Input = Both<$first::Input, <($($rest),+) as Aggregate<T>>::Input>;
            type Acc = Both<$first::Acc, <($($rest),+) as Aggregate<T>>::Acc>;
            type Out = ($first::Out, $($name::Out),+);

            #[inline(always)]
            fn lift(&self, event: &T) -> Self::Input {
                Both(self.0.lift(event), ($(&self.$at),+).lift(event))
            }

            #[inline(always)]
            fn init(&self) -> Self::Acc {
                Both(self.0.init(), Aggregate::<T>::init(&($(&self.$at),+)))
            }

            #[inline(always)]
            fn add(&self, acc: &mut Self::Acc, input: Self::Input) {
                self.0.add(&mut acc.0, input.0);
                Aggregate::<T>::add(&($(&self.$at),+), &mut acc.1, input.1);
            }

            #[inline(always)]
            fn merge(&self, into: &mut Self::Acc, other: &Self::Acc) {
                self.0.merge(&mut into.0, &other.0);
                Aggregate::<T>::merge(&($(&self.$at),+), &mut into.1, &other.1);
            }

            #[inline(always)]
            fn remove(&self, from: &mut Self::Acc, other: &Self::Acc) -> bool {
                self.0.remove(&mut from.0, &other.0)
                    & Aggregate::<T>::remove(&($(&self.$at),+), &mut from.1, &other.1)
            }

            fn finish(&self, acc: &Self::Acc) -> Self::Out {
                $nested(self.0.finish(&acc.0), Aggregate::<T>::finish(&($(&self.$at),+), &acc.1))
            }
        }
    };
}

fn flat3<A, B, C>(a: A, (b, c): (B, C)) -> (A, B, C) {
    (a, b, c)
}

fn flat4<A, B, C, D>(a: A, (b, c, d): (B, C, D)) -> (A, B, C, D) {
    (a, b, c, d)
}

longer_tuple!((A, B 1, C 2), rest (B, C), flat3);
longer_tuple!((A, B 1, C 2, D 3), rest (B, C, D), flat4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_compose_and_merge() {
        let all = (Count, Sum::of(|n: &i64| *n), Max::of(|n: &i64| *n), Avg::of(|n: &i64| *n));
        let fold = |rows: &[i64]| {
            let mut acc = Aggregate::<i64>::init(&all);
            for row in rows {
                let input = all.lift(row);
                Aggregate::<i64>::add(&all, &mut acc, input);
            }
            acc
        };
        let mut left = fold(&[3, -5]);
        Aggregate::<i64>::merge(&all, &mut left, &fold(&[10]));
        assert_eq!(Aggregate::<i64>::finish(&all, &left), (3, 8, 10, 8.0 / 3.0));
    }

    #[test]
    fn what_was_merged_in_is_taken_out_where_that_is_exact() {
        let exact = (Count, Sum::of(|n: &i64| *n), Sum::of(|n: &i64| *n as u32));
        let fold = |n: i64| {
            let mut acc = Aggregate::<i64>::init(&exact);
            Aggregate::<i64>::add(&exact, &mut acc, exact.lift(&n));
            acc
        };
        let mut acc = fold(i64::MAX);
        Aggregate::<i64>::merge(&exact, &mut acc, &fold(7));
        assert!(Aggregate::<i64>::remove(&exact, &mut acc, &fold(i64::MAX)));
        assert_eq!(acc, fold(7));
        assert!(!Aggregate::<f64>::remove(&Sum::of(|n: &f64| *n), &mut 1.0, &1.0));
        assert!(!Aggregate::<i64>::remove(&Max::of(|n: &i64| *n), &mut 1, &1));
        let mixed = (Count, Max::of(|n: &i64| *n));
        let nothing = Aggregate::<i64>::init(&mixed);
        assert!(!Aggregate::<i64>::remove(&mixed, &mut nothing.clone(), &nothing));
    }

    #[test]
    fn the_least_of_events() {
        let least = Min::of(|n: &f64| *n);
        let mut acc = Aggregate::<f64>::init(&least);
        for row in [2.5, -1.0, 9.0] {
            Aggregate::<f64>::add(&least, &mut acc, row);
        }
        assert_eq!(Aggregate::<f64>::finish(&least, &acc), -1.0);
    }
}
