//! Folds of one number of each event.

use std::marker::PhantomData;

use millstream_state::{Both, Fixed};

use super::Aggregate;

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
