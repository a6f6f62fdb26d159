//! Several aggregates over the same events: tuples of two to six.

use millstream_state::Both;

use super::Aggregate;

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
fn flat5<A, B, C, D, E>(a: A, (b, c, d, e): (B, C, D, E)) -> (A, B, C, D, E) {
    (a, b, c, d, e)
}

fn flat6<A, B, C, D, E, F>(a: A, (b, c, d, e, f): (B, C, D, E, F)) -> (A, B, C, D, E, F) {
    (a, b, c, d, e, f)
}

longer_tuple!((A, B 1, C 2, D 3), rest (B, C, D), flat4);
longer_tuple!((A, B 1, C 2, D 3, E 4), rest (B, C, D, E), flat5);
longer_tuple!((A, B 1, C 2, D 3, E 4, F 5), rest (B, C, D, E, F), flat6);
