//! A fork: one chain becomes two.
//!
//! ```text
//! rows ─▶ Fork ─▶ next                 split: rows that are asked for   tee: all           branch: all
//!            └──▶ side, and its chain  split: all others                tee: all, cloned   branch: what is made of some
//! ```
//!
//! Marks go both ways, as at an operator with side outputs (`side.rs`): the fork is ready when both ways are.

use std::fmt;
use std::rc::Rc;

use super::chain::{Chain, Signal, Stage};
use super::rows::{BATCH_ROWS, Rows, Selected};
use super::side::{Branch, SideOutput};
use crate::job::graph::{Graph, NodeId};
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};

/// Which way rows go.
pub trait Parting<T: ?Sized>: 'static {
    /// A row of the side.
    type Side: 'static;

    /// Whether a row goes straight on, and what of it goes to the side.
    fn part(&self, row: &T) -> (bool, Option<Self::Side>);
}

/// By a user's question: those for which it is true go straight on, all others to the side.
#[derive(Debug)]
pub struct Asked<F>(pub(crate) F);

impl<T: Clone + 'static, F: Fn(&T) -> bool + 'static> Parting<T> for Asked<F> {
    type Side = T;

    #[inline(always)]
    fn part(&self, row: &T) -> (bool, Option<T>) {
        let is_first = (self.0)(row);
        (is_first, (!is_first).then(|| row.clone()))
    }
}

/// Every row both ways.
#[derive(Clone, Copy, Debug)]
pub struct Doubled;

impl<T: Clone + 'static> Parting<T> for Doubled {
    type Side = T;

    #[inline(always)]
    fn part(&self, row: &T) -> (bool, Option<T>) {
        (true, Some(row.clone()))
    }
}

/// Every row straight on, and what a user's closure makes of some of them to the side.
#[derive(Debug)]
pub struct Picked<F>(pub(crate) F);

impl<T: ?Sized, X: 'static, F: Fn(&T) -> Option<X> + 'static> Parting<T> for Picked<F> {
    type Side = X;

    #[inline(always)]
    fn part(&self, row: &T) -> (bool, Option<X>) {
        (true, (self.0)(row))
    }
}

/// A chain that forks.
pub struct Fork<C: Chain, P: Parting<C::Out>> {
    pub(crate) upstream: C,
    pub(crate) parting: P,
    pub(crate) side: SideOutput<P::Side>,
    pub(crate) branch: Rc<dyn Branch>,
    pub(crate) node: NodeId,
}

impl<C: Chain, P: Parting<C::Out>> fmt::Debug for Fork<C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fork(operator {}, {:?})", self.node.0, self.side)
    }
}

struct ForkStage<X, P, N> {
    parting: P,
    side: SideOutput<X>,
    branch: Rc<dyn Branch>,
    selected: Box<[u16; BATCH_ROWS]>,
    node: NodeId,
    next: N,
}

impl<C: Chain, P: Parting<C::Out>> Chain for Fork<C, P> {
    type Out = C::Out;
    type Time = C::Time;

    fn attach<N: Stage<C::Out>>(self, next: N, graph: &mut Graph) {
        let Fork { upstream, parting, side, branch, node } = self;
        let selected = Box::new([0; BATCH_ROWS]);
        upstream.attach(ForkStage { parting, side, branch, selected, node, next }, graph);
    }
}

impl<T: ?Sized + 'static, P: Parting<T>, N: Stage<T>> Stage<T> for ForkStage<P::Side, P, N> {
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        assert!(rows.len() <= BATCH_ROWS, "a batch never exceeds BATCH_ROWS");
        let mut kept = 0;
        for index in 0..rows.len() {
            let (goes_on, aside) = self.parting.part(rows.row(index));
            if let Some(aside) = aside {
                self.side.push(aside, rows.at(index));
            }
            self.selected[kept & (BATCH_ROWS - 1)] = index as u16;
            kept += usize::from(goes_on);
        }
        self.branch.hand_on(cx)?;
        match kept {
            0 => Ok(()),
            _ if kept == rows.len() => self.next.batch(rows, cx),
            _ => self.next.batch(&Selected { rows, selected: &self.selected[..kept] }, cx),
        }
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.branch.signal(signal, cx)?;
        self.next.signal(signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.next.ready() && self.branch.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        let aside = self.branch.resume(cx)?;
        Ok(self.next.resume(cx)?.or(aside))
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.branch.states(visitor);
        self.next.states(visitor);
    }
}
