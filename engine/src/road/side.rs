//! Side outputs: further streams that an operator feeds, beside the one that it returns.
//!
//! ```text
//! context.side(&tag, row) ─▶ the tag's rows ─▶ the chain behind Stream::side, attached to the tag when its sink is named
//! ```
//!
//! An operator with sides is where a chain forks: what it tells the next stage, it tells every side, so barriers and
//! watermarks reach all of them, and it is ready when all are.

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use super::chain::{Chain, Signal, Stage};
use super::dense::Dense;
use super::has_time::{TimeKind, Timed};
use super::rows::BATCH_ROWS;
use crate::job::graph::Graph;
use crate::job::stream::DenseStage;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// A side output of rows of `X`. Clones are the same one: the process function keeps one to write to, and the stream of
/// what is written comes from another by [`Stream::side`](crate::Stream::side).
///
/// It belongs to one shard, so it is made in the job's closure; one that is made outside cannot be used in it:
///
/// ```compile_fail
/// # use millstream::{Job, SideOutput};
/// let late = SideOutput::<u64>::new();
/// let job = Job::new("side", move |_flow| drop(late.clone())); // cannot be sent between threads safely
/// ```
pub struct SideOutput<X> {
    end: Rc<End<X>>,
}

/// What all clones share.
struct End<X> {
    is_taken: Cell<bool>,
    rows: RefCell<Dense<X>>,
    /// Rows on their way: an operator behind may write to the tag while they go.
    going: RefCell<Dense<X>>,
    next: RefCell<Option<Box<dyn DenseStage<X>>>>,
}

impl<X> Clone for SideOutput<X> {
    fn clone(&self) -> SideOutput<X> {
        SideOutput { end: self.end.clone() }
    }
}

impl<X> fmt::Debug for SideOutput<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SideOutput<{}>", type_name::<X>())
    }
}

impl<X: 'static> Default for SideOutput<X> {
    fn default() -> SideOutput<X> {
        SideOutput::new()
    }
}

impl<X: 'static> SideOutput<X> {
    /// A side output that no stream comes from yet.
    #[must_use]
    pub fn new() -> SideOutput<X> {
        let (is_taken, rows, going, next) = Default::default();
        SideOutput { end: Rc::new(End { is_taken, rows, going, next }) }
    }

    #[inline]
    pub(crate) fn push(&self, row: X, at: Timestamp) {
        if self.end.is_taken.get() {
            self.end.rows.borrow_mut().push(row, at);
        }
    }

    /// The operator's end, and the beginning of the side's chain.
    ///
    /// # Panics
    /// If it was asked for before.
    pub(crate) fn take<E>(&self) -> (Rc<dyn Branch>, Side<X, E>) {
        assert!(
            !self.end.is_taken.replace(true),
            "a side output of {} has a stream already; make another SideOutput for another stream or operator",
            type_name::<X>()
        );
        (self.end.clone(), Side { end: self.end.clone(), time: PhantomData })
    }
}

/// A chain that begins at a side output.
pub struct Side<X, E = Timed> {
    end: Rc<End<X>>,
    time: PhantomData<E>,
}

impl<X, E> fmt::Debug for Side<X, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Side")
    }
}

impl<X: 'static, E: TimeKind> Chain for Side<X, E> {
    type Out = X;
    type Time = E;

    fn attach<N: Stage<X>>(self, next: N, _graph: &mut Graph) {
        *self.end.next.borrow_mut() = Some(Box::new(next));
    }
}

/// A side as its operator sees it: the stages behind, and rows that wait for them. One that no sink ends takes everything.
pub(crate) trait Branch {
    /// Hands on the rows that were written since the last time.
    fn hand_on(&self, cx: &mut Cx<'_>) -> Result<(), Fault>;
    fn signal(&self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault>;
    fn ready(&self) -> bool;
    fn resume(&self, cx: &mut Cx<'_>) -> Result<Progress, Fault>;
    fn states(&self, visitor: &mut dyn StateVisitor);
}

impl<X: 'static> Branch for End<X> {
    fn hand_on(&self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if self.rows.borrow().is_empty() {
            return Ok(());
        }
        let mut going = self.going.borrow_mut();
        std::mem::swap(&mut *going, &mut *self.rows.borrow_mut());
        if let Some(next) = &mut *self.next.borrow_mut() {
            for piece in going.pieces(BATCH_ROWS) {
                next.dense(&piece, cx)?;
            }
        }
        going.clear();
        Ok(())
    }

    fn signal(&self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.next.borrow_mut().as_mut().map_or(Ok(()), |next| next.signal(signal, cx))
    }

    fn ready(&self) -> bool {
        self.next.borrow_mut().as_mut().is_none_or(|next| next.ready())
    }

    fn resume(&self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.next.borrow_mut().as_mut().map_or(Ok(Progress::Idle), |next| next.resume(cx))
    }

    fn states(&self, visitor: &mut dyn StateVisitor) {
        if let Some(next) = &mut *self.next.borrow_mut() {
            next.states(visitor);
        }
    }
}

/// All that an operator feeds beside the next stage.
pub(crate) trait Sides: 'static {
    /// Hands on the rows that were written since the last time.
    fn hand_on(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault>;
    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault>;
    /// Whether there is room on all of them.
    fn ready(&mut self) -> bool;
    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault>;
    fn states(&mut self, visitor: &mut dyn StateVisitor);
}

impl Sides for Vec<Rc<dyn Branch>> {
    fn hand_on(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.iter().try_for_each(|side| side.hand_on(cx))
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.iter().try_for_each(|side| side.signal(signal, cx))
    }

    fn ready(&mut self) -> bool {
        self.iter().all(|side| side.ready())
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.iter().try_fold(Progress::Idle, |deeper, side| Ok(deeper.or(side.resume(cx)?)))
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.iter().for_each(|side| side.states(visitor));
    }
}
