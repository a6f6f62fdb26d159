//! What a join's closure is asked for: pairs, and rows that have found none.

/// What becomes of pairs, and of rows without a partner.
pub trait Pairing<L, R>: 'static {
    /// What goes on from here.
    type Out: 'static;

    /// A left row that has met none is emitted too.
    const LEFT_ALONE: bool;
    /// A right row that has met none is emitted too.
    const RIGHT_ALONE: bool;

    /// Makes a row of a pair.
    fn pair(&self, left: &L, right: &R) -> Self::Out;

    /// Makes a row of a left row that has met none; none where that is not asked for.
    fn left_alone(&self, _left: &L) -> Option<Self::Out> {
        None
    }

    /// As [`left_alone`](Pairing::left_alone), of a right one.
    fn right_alone(&self, _right: &R) -> Option<Self::Out> {
        None
    }
}

/// Pairs alone.
#[derive(Clone, Copy, Debug)]
pub struct Inner<F>(pub(crate) F);

/// Pairs, and left rows without one.
#[derive(Clone, Copy, Debug)]
pub struct LeftOuter<F>(pub(crate) F);

/// Pairs, and right rows without one.
#[derive(Clone, Copy, Debug)]
pub struct RightOuter<F>(pub(crate) F);

/// Pairs, and the rows of both sides without one.
#[derive(Clone, Copy, Debug)]
pub struct FullOuter<F>(pub(crate) F);

impl<L, R, U: 'static, F: Fn(&L, &R) -> U + 'static> Pairing<L, R> for Inner<F> {
    type Out = U;
    const LEFT_ALONE: bool = false;
    const RIGHT_ALONE: bool = false;

    #[inline(always)]
    fn pair(&self, left: &L, right: &R) -> U {
        (self.0)(left, right)
    }
}

impl<L, R, U: 'static, F: Fn(&L, Option<&R>) -> U + 'static> Pairing<L, R> for LeftOuter<F> {
    type Out = U;
    const LEFT_ALONE: bool = true;
    const RIGHT_ALONE: bool = false;

    #[inline(always)]
    fn pair(&self, left: &L, right: &R) -> U {
        (self.0)(left, Some(right))
    }

    fn left_alone(&self, left: &L) -> Option<U> {
        Some((self.0)(left, None))
    }
}

impl<L, R, U: 'static, F: Fn(Option<&L>, &R) -> U + 'static> Pairing<L, R> for RightOuter<F> {
    type Out = U;
    const LEFT_ALONE: bool = false;
    const RIGHT_ALONE: bool = true;

    #[inline(always)]
    fn pair(&self, left: &L, right: &R) -> U {
        (self.0)(Some(left), right)
    }

    fn right_alone(&self, right: &R) -> Option<U> {
        Some((self.0)(None, right))
    }
}

impl<L, R, U: 'static, F: Fn(Option<&L>, Option<&R>) -> U + 'static> Pairing<L, R> for FullOuter<F> {
    type Out = U;
    const LEFT_ALONE: bool = true;
    const RIGHT_ALONE: bool = true;

    #[inline(always)]
    fn pair(&self, left: &L, right: &R) -> U {
        (self.0)(Some(left), Some(right))
    }

    fn left_alone(&self, left: &L) -> Option<U> {
        Some((self.0)(Some(left), None))
    }

    fn right_alone(&self, right: &R) -> Option<U> {
        Some((self.0)(None, Some(right)))
    }
}
