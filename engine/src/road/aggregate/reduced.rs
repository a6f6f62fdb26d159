//! A fold by a closure of two.

use millstream_state::{Both, Fixed};

use super::Aggregate;

/// All events made into one of their kind, two at a time.
///
/// The closure must be associative and commutative, as every [`Aggregate`]'s merge: events meet in any order. Events are
/// fixed, of a size that is a multiple of eight bytes; of nothing the result is the default.
///
/// ```
/// # use millstream::{Aggregate, Reduced};
/// let product = Reduced::by(|a: &u64, b: &u64| a.wrapping_mul(*b));
/// let mut acc = product.init();
/// for factor in [2, 3, 7] {
///     product.add(&mut acc, product.lift(&factor));
/// }
/// assert_eq!(product.finish(&acc), 42);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Reduced<F> {
    two: F,
}

impl<F> Reduced<F> {
    /// Makes two events into one.
    pub fn by<T: Fixed + Default>(two: F) -> Self
    where
        F: Fn(&T, &T) -> T,
    {
        Reduced { two }
    }
}

impl<T: Fixed + Default, F: Fn(&T, &T) -> T> Aggregate<T> for Reduced<F> {
    type Input = T;
    /// Whether there was anything, and what.
    type Acc = Both<u64, T>;
    type Out = T;

    #[inline(always)]
    fn lift(&self, event: &T) -> T {
        *event
    }

    fn init(&self) -> Both<u64, T> {
        Both(0, T::default())
    }

    #[inline(always)]
    fn add(&self, acc: &mut Both<u64, T>, event: T) {
        self.merge(acc, &Both(1, event));
    }

    #[inline(always)]
    fn merge(&self, into: &mut Both<u64, T>, other: &Both<u64, T>) {
        match (into.0, other.0) {
            (_, 0) => {}
            (0, _) => *into = *other,
            _ => into.1 = (self.two)(&into.1, &other.1),
        }
    }

    fn finish(&self, acc: &Both<u64, T>) -> T {
        acc.1
    }
}
