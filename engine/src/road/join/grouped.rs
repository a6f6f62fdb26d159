//! Window joins and co-groups: the rows of a key that fall into one window, of both sides together.
//!
//! A row is kept once, however many windows it falls into, until the last of them is complete. Of a key's windows that are
//! not complete one has a timer, the first with rows: when it fires, it sets that of the next which shares rows with it.

use std::fmt;
use std::marker::PhantomData;

use millstream_state::Key;

use super::interval::TimedSides;
use super::{JoinRow, clipped};
use crate::road::connect::CoProcess;
use crate::road::process::{BoxError, ProcessContext};
use crate::road::timers::Timer;
use crate::road::window::{Slides, Window};
use crate::state::TimedRows;
use crate::time::Timestamp;

/// What is made of the rows of a key and a window.
pub trait Grouping<K, L, R>: 'static {
    /// What goes on from here.
    type Out: 'static;

    /// Makes it, and hands it to `emit`. At least one of the sides has rows.
    fn group(&self, key: &K, window: Window, left: &[L], right: &[R], emit: &mut dyn FnMut(Self::Out));
}

/// A row for every pair.
#[derive(Clone, Copy, Debug)]
pub struct EachPair<F>(pub(crate) F);

impl<K, L, R, U: 'static, F: Fn(&L, &R) -> U + 'static> Grouping<K, L, R> for EachPair<F> {
    type Out = U;

    fn group(&self, _: &K, _: Window, left: &[L], right: &[R], emit: &mut dyn FnMut(U)) {
        left.iter().for_each(|left| right.iter().for_each(|right| emit((self.0)(left, right))));
    }
}

/// Any number of rows for both lists.
#[derive(Clone, Copy, Debug)]
pub struct BothLists<F>(pub(crate) F);

impl<K, L, R, I, F> Grouping<K, L, R> for BothLists<F>
where
    I: IntoIterator<Item: 'static>,
    F: Fn(&K, Window, &[L], &[R]) -> I + 'static,
{
    type Out = I::Item;

    fn group(&self, key: &K, window: Window, left: &[L], right: &[R], emit: &mut dyn FnMut(I::Item)) {
        (self.0)(key, window, left, right).into_iter().for_each(emit);
    }
}

/// The join of [`KeyedStream::window_join`](crate::KeyedStream::window_join) and
/// [`co_group`](crate::KeyedStream::co_group).
pub struct Grouped<L, R, P> {
    slides: Slides,
    grouping: P,
    /// A window's rows, while it is told of.
    left: Vec<L>,
    right: Vec<R>,
    rows: PhantomData<fn(L, R)>,
}

impl<L, R, P> Grouped<L, R, P> {
    pub(crate) fn new(slides: Slides, grouping: P) -> Self {
        Grouped { slides, grouping, left: Vec::new(), right: Vec::new(), rows: PhantomData }
    }
}

impl<L, R, P> fmt::Debug for Grouped<L, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grouped({:?})", self.slides)
    }
}

impl<L: JoinRow, R: JoinRow, P> Grouped<L, R, P> {
    /// Looks are for whole windows: two stretches at most.
    fn stretch_ms(&self) -> i64 {
        clipped(self.slides.size_ms())
    }

    /// Keeps a row for the windows that it falls into.
    fn take<K: Key, A: JoinRow, U>(&self, row: &A, own: &mut TimedRows<A>, cx: &mut ProcessContext<'_, K, U>) {
        let (at, done) = (cx.timestamp(), i128::from(cx.watermark().0));
        let pane = self.slides.pane_of(at);
        let (first, last) = self.slides.starts(pane);
        if first > last {
            return; // It lies between two windows.
        }
        let Some(open) = self.slides.first_open(pane, done) else { return cx.is_late() };
        let ends_at = clipped(self.slides.last_of(last));
        own.keep(row, at.0, ends_at, false, self.stretch_ms());
        cx.timers().event(Timestamp(clipped(self.slides.last_of(open))));
    }

    /// Tells of the window that starts at `start`; the greatest time in it, if there is any.
    fn tell<K: Key>(
        &mut self,
        start: i128,
        sides: &mut TimedSides<L, R>,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Option<i64>
    where
        P: Grouping<K, L, R>,
    {
        let times = (clipped(start), clipped(self.slides.last_of(start)));
        let mut newest = None;
        self.left.clear();
        self.right.clear();
        let stretch_ms = self.stretch_ms();
        sides.left.look(times, stretch_ms, false, |row, at| {
            newest = newest.max(Some(at));
            self.left.push(*row);
        });
        sides.right.look(times, stretch_ms, false, |row, at| {
            newest = newest.max(Some(at));
            self.right.push(*row);
        });
        if newest.is_some() {
            let (key, window) = (*cx.key(), self.slides.window(start));
            self.grouping.group(&key, window, &self.left, &self.right, &mut |row| cx.emit(row));
        }
        newest
    }
}

impl<K, L, R, P> CoProcess<K, L, R> for Grouped<L, R, P>
where
    K: Key,
    L: JoinRow,
    R: JoinRow,
    P: Grouping<K, L, R>,
{
    type State = TimedSides<L, R>;
    type Out = P::Out;

    fn on_left(
        &mut self,
        sides: &mut TimedSides<L, R>,
        row: L,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        self.take(&row, &mut sides.left, cx);
        Ok(())
    }

    fn on_right(
        &mut self,
        sides: &mut TimedSides<L, R>,
        row: R,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        self.take(&row, &mut sides.right, cx);
        Ok(())
    }

    fn on_timer(
        &mut self,
        sides: &mut TimedSides<L, R>,
        _: Timer,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        let (slides, last) = (self.slides, cx.timestamp());
        if last < Timestamp::MAX {
            let start = slides.that_ends_with(last.0.into());
            let newest = self.tell(start, sides, cx);
            let next = slides.next(start);
            if newest.is_some_and(|newest| i128::from(newest) >= next) {
                cx.timers().event(Timestamp(clipped(slides.last_of(next))));
            }
        } else {
            // All windows that reach the end of time, or beyond it, end there.
            let (_, behind) = slides.starts(slides.pane_of(last));
            let first = slides.first_incomplete(i128::from(last.0) - 1);
            for start in slides.every(first, behind) {
                self.tell(start, sides, cx);
            }
        }
        sides.left.end(last.0, |_, _, _| ());
        sides.right.end(last.0, |_, _, _| ());
        Ok(())
    }
}
