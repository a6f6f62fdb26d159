//! The events at an end: the first and the last in time, and the greatest few.

use std::marker::PhantomData;

use millstream_state::{Both, Fixed, bytes_of};

use super::Aggregate;
use crate::time::Timestamp;

/// When, whether there was anything at all, and what.
type Dated<V> = Both<i64, Both<u64, V>>;

/// Declares an aggregate that keeps a value of the event at one end of time.
macro_rules! at_an_end_of_time {
    ($(#[$doc:meta])* $name:ident, $before:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<V, F, G> {
            of: F,
            time: G,
            value: PhantomData<fn() -> V>,
        }

        impl<V: Fixed + Default, F, G> $name<V, F, G> {
            /// Takes the value of the event for which `time` is at that end.
            pub fn by<T: ?Sized>(time: G, of: F) -> Self
            where
                F: Fn(&T) -> V,
                G: Fn(&T) -> Timestamp,
            {
                $name { of, time, value: PhantomData }
            }
        }

        impl<T, V, F, G> Aggregate<T> for $name<V, F, G>
        where
            T: ?Sized,
            V: Fixed + Default,
            F: Fn(&T) -> V,
            G: Fn(&T) -> Timestamp,
        {
            type Input = Both<i64, V>;
            type Acc = Dated<V>;
            type Out = V;

            #[inline(always)]
            fn lift(&self, event: &T) -> Both<i64, V> {
                Both((self.time)(event).0, (self.of)(event))
            }

            fn init(&self) -> Dated<V> {
                Both(0, Both(0, V::default()))
            }

            #[inline(always)]
            fn add(&self, acc: &mut Dated<V>, Both(at, value): Both<i64, V>) {
                Aggregate::<T>::merge(self, acc, &Both(at, Both(1, value)));
            }

            #[inline(always)]
            fn merge(&self, into: &mut Dated<V>, other: &Dated<V>) {
                let (is_some, other_is_some) = (into.1.0 != 0, other.1.0 != 0);
                let before: fn(i64, i64) -> bool = $before;
                // Of two at one time it must not matter which came first, so their bytes decide.
                let wins = || {
                    before(other.0, into.0) || (other.0 == into.0 && bytes_of(&other.1.1) < bytes_of(&into.1.1))
                };
                if other_is_some && (!is_some || wins()) {
                    *into = *other;
                }
            }

            fn finish(&self, acc: &Dated<V>) -> V {
                acc.1.1
            }
        }
    };
}

at_an_end_of_time!(
    /// A value of the earliest event, whatever the order in which events come. Of several at that time always the same one
    /// is taken, but which is not said.
    ///
    /// The value is a fixed one whose size is a multiple of eight bytes, and of nothing it is the default.
    ///
    /// ```
    /// # use millstream::{Chain, First, Last, Stream, TimedChain, Timestamp, Tumbling, Windowed};
    /// # use std::time::Duration;
    /// # struct Quote { share: u64, at_ms: i64, cents: u64 }
    /// # fn of(quotes: Stream<impl TimedChain<Out = Quote>>) -> Stream<impl Chain<Out = Windowed<u64, (u64, u64)>>> {
    /// let at = |quote: &Quote| Timestamp(quote.at_ms);
    /// let cents = |quote: &Quote| quote.cents;
    /// quotes
    ///     .key_by(|quote| quote.share)
    ///     .window(Tumbling::of(Duration::from_secs(60)))
    ///     .aggregate((First::by(at, cents), Last::by(at, cents)))
    /// # }
    /// ```
    First, |one, other| one < other
);
at_an_end_of_time!(
    /// A value of the latest event; see [`First`].
    Last, |one, other| one > other
);

/// The `N` greatest values, the greatest first; equal ones count as often as they come.
///
/// To know whose they are, take a [`Both`] of the number and of who; it is compared in that order.
///
/// ```
/// # use millstream::{Aggregate, Both, Top};
/// # struct Bid { cents: u64, bidder: u64 }
/// let dearest = Top::<3, _, _>::of(|bid: &Bid| Both(bid.cents, bid.bidder));
/// let mut acc = dearest.init();
/// for (cents, bidder) in [(5, 1), (9, 2), (2, 3), (7, 4)] {
///     dearest.add(&mut acc, dearest.lift(&Bid { cents, bidder }));
/// }
/// assert_eq!(dearest.finish(&acc), [Both(9, 2), Both(7, 4), Both(5, 1)]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Top<const N: usize, V, F> {
    of: F,
    value: PhantomData<fn() -> V>,
}

impl<const N: usize, V: Fixed + Ord + Default, F> Top<N, V, F> {
    /// Takes the value from an event.
    pub fn of<T: ?Sized>(of: F) -> Self
    where
        F: Fn(&T) -> V,
    {
        const { assert!(N > 0, "the greatest none of them are always the same") };
        Top { of, value: PhantomData }
    }
}

/// Puts a value where it belongs, if it is among the greatest; false if it is not.
fn insert<const N: usize, V: Copy + Ord>(into: &mut Both<u64, [V; N]>, value: V) -> bool {
    let Both(held, values) = into;
    let count = *held as usize;
    let at = values[..count].partition_point(|other| *other >= value);
    if at == N {
        return false;
    }
    let count = (count + 1).min(N);
    values.copy_within(at..count - 1, at + 1);
    values[at] = value;
    *held = count as u64;
    true
}

impl<const N: usize, T: ?Sized, V: Fixed + Ord + Default, F: Fn(&T) -> V> Aggregate<T> for Top<N, V, F> {
    type Input = V;
    type Acc = Both<u64, [V; N]>;
    type Out = Vec<V>;

    #[inline(always)]
    fn lift(&self, event: &T) -> V {
        (self.of)(event)
    }

    fn init(&self) -> Self::Acc {
        Both(0, [V::default(); N])
    }

    #[inline(always)]
    fn add(&self, acc: &mut Self::Acc, value: V) {
        insert(acc, value);
    }

    fn merge(&self, into: &mut Self::Acc, other: &Self::Acc) {
        // They are in order: behind one that finds no place, none does.
        let _all = other.1[..other.0 as usize].iter().all(|value| insert(into, *value));
    }

    fn finish(&self, acc: &Self::Acc) -> Vec<V> {
        acc.1[..acc.0 as usize].to_vec()
    }
}
