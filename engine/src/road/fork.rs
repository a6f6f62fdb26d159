//! A fork: one chain becomes two, by rows or for all of them.
//!
//! ```text
//! rows ─▶ Fork ─▶ next                 split: rows that are asked for     tee: every row
//!            └──▶ side, and its chain  split: all others                  tee: every row, cloned
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
pub trait Parting<T>: 'static {
    /// Whether a row goes on along the main way, beside its clone, or instead of one.
    fn parts(&self, row: &T) -> Ways;
}

/// Where a row goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ways {
    /// Straight on.
    Main,
    /// To the side.
    Side,
    /// Both ways.
    Both,
}

/// By a user's question: those for which it is true go straight on.
#[derive(Debug)]
pub struct Asked<F>(pub(crate) F);

impl<T, F: Fn(&T) -> bool + 'static> Parting<T> for Asked<F> {
    #[inline(always)]
    fn parts(&self, row: &T) -> Ways {
        if (self.0)(row) { Ways::Main } else { Ways::Side }
    }
}

/// Every row both ways.
#[derive(Clone, Copy, Debug)]
pub struct Doubled;

impl<T> Parting<T> for Doubled {
    #[inline(always)]
    fn parts(&self, _row: &T) -> Ways {
        Ways::Both
    }
}

/// A chain that forks.
pub struct Fork<C: Chain<Out: Sized>, P> {
    pub(crate) upstream: C,
    pub(crate) parting: P,
    pub(crate) side: SideOutput<C::Out>,
    pub(crate) branch: Rc<dyn Branch>,
    pub(crate) node: NodeId,
}

impl<C: Chain<Out: Sized>, P> fmt::Debug for Fork<C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fork(operator {})", self.node.0)
    }
}

struct ForkStage<T, P, N> {
    parting: P,
    side: SideOutput<T>,
    branch: Rc<dyn Branch>,
    selected: Box<[u16; BATCH_ROWS]>,
    node: NodeId,
    next: N,
}

impl<C, P> Chain for Fork<C, P>
where
    C: Chain<Out: Clone>,
    P: Parting<C::Out>,
{
    type Out = C::Out;

    fn attach<N: Stage<C::Out>>(self, next: N, graph: &mut Graph) {
        let Fork { upstream, parting, side, branch, node } = self;
        let selected = Box::new([0; BATCH_ROWS]);
        upstream.attach(ForkStage { parting, side, branch, selected, node, next }, graph);
    }
}

impl<T: Clone + 'static, P: Parting<T>, N: Stage<T>> Stage<T> for ForkStage<T, P, N> {
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        assert!(rows.len() <= BATCH_ROWS, "a batch never exceeds BATCH_ROWS");
        let mut kept = 0;
        for index in 0..rows.len() {
            let row = rows.row(index);
            let ways = self.parting.parts(row);
            if ways != Ways::Main {
                self.side.push(row.clone(), rows.at(index));
            }
            if ways != Ways::Side {
                self.selected[kept] = index as u16;
                kept += 1;
            }
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
