//! The regular join: every pair of rows that have their key in common, whenever the two come.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use millstream_state::Key;
use millstream_state::schema::Described;

use super::JoinRow;
use crate::road::connect::CoProcess;
use crate::road::process::{BoxError, ProcessContext};
use crate::state::{Declare, Handle, KeyedState, List, StateOptions};

/// What a closure makes of each pair.
pub trait PerPair<L, R>: 'static {
    /// What goes on from here.
    type Out: 'static;

    /// Makes it.
    fn make(&self, left: &L, right: &R) -> Self::Out;
}

impl<L, R, U: 'static, F: Fn(&L, &R) -> U + 'static> PerPair<L, R> for F {
    type Out = U;

    #[inline(always)]
    fn make(&self, left: &L, right: &R) -> U {
        self(left, right)
    }
}

/// The join of [`KeyedStream::join_unbounded`](crate::KeyedStream::join_unbounded) and
/// [`join_within`](crate::KeyedStream::join_within).
pub struct Regular<L, R, F> {
    ttl: Option<Duration>,
    make: F,
    rows: PhantomData<fn(L, R)>,
}

impl<L, R, F> Regular<L, R, F> {
    pub(crate) fn new(ttl: Option<Duration>, make: F) -> Self {
        Regular { ttl, make, rows: PhantomData }
    }
}

impl<L, R, F> fmt::Debug for Regular<L, R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Regular(ttl {:?})", self.ttl)
    }
}

/// The rows of a key, of both sides.
#[derive(Debug)]
pub struct BothSides<L: JoinRow, R: JoinRow> {
    left: List<L>,
    right: List<R>,
}

impl<L: JoinRow, R: JoinRow> BothSides<L, R> {
    fn with<K: Key + Described>(declare: &mut Declare<'_, K>, options: StateOptions) -> Self {
        let left = List::declare(declare, "left", options);
        let right = List::declare(declare, "right", options);
        BothSides { left, right }
    }
}

impl<L: JoinRow, R: JoinRow> KeyedState for BothSides<L, R> {
    fn declare<K: Key + Described>(declare: &mut Declare<'_, K>) -> Self {
        BothSides::with(declare, StateOptions::default())
    }

    fn for_each(&mut self, visit: &mut dyn FnMut(&mut dyn Handle)) {
        visit(&mut self.left);
        visit(&mut self.right);
    }
}

impl<K, L, R, F> CoProcess<K, L, R> for Regular<L, R, F>
where
    K: Key,
    L: JoinRow,
    R: JoinRow,
    F: PerPair<L, R>,
{
    type State = BothSides<L, R>;
    type Out = F::Out;

    fn declare<D: Key + Described>(&self, declare: &mut Declare<'_, D>) -> BothSides<L, R> {
        let options = StateOptions::default();
        BothSides::with(declare, self.ttl.map_or(options, |ttl| options.ttl(ttl)))
    }

    fn on_left(
        &mut self,
        sides: &mut BothSides<L, R>,
        row: L,
        cx: &mut ProcessContext<'_, K, F::Out>,
    ) -> Result<(), BoxError> {
        sides.right.iter().for_each(|other| cx.emit(self.make.make(&row, other)));
        sides.left.push(row);
        Ok(())
    }

    fn on_right(
        &mut self,
        sides: &mut BothSides<L, R>,
        row: R,
        cx: &mut ProcessContext<'_, K, F::Out>,
    ) -> Result<(), BoxError> {
        sides.left.iter().for_each(|other| cx.emit(self.make.make(other, &row)));
        sides.right.push(row);
        Ok(())
    }
}
