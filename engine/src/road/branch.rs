//! A chain that forks: all rows go on, and what is made of some of them begins another stream.

use std::fmt;
use std::rc::Rc;

use super::chain::{Chain, Signal, Stage};
use super::rows::Rows;
use super::side::{Branch, SideOutput};
use crate::job::graph::{Graph, NodeId};
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};

/// The rows of a chain, of which some are told to another stream as well.
pub struct Branched<C, X, F> {
    pub(crate) upstream: C,
    pub(crate) pick: F,
    pub(crate) to: SideOutput<X>,
    pub(crate) branch: Rc<dyn Branch>,
    pub(crate) node: NodeId,
}

impl<C, X, F> fmt::Debug for Branched<C, X, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Branched(operator {}, {:?})", self.node.0, self.to)
    }
}

struct BranchStage<X, F, N> {
    pick: F,
    to: SideOutput<X>,
    branch: Rc<dyn Branch>,
    node: NodeId,
    next: N,
}

impl<C, X, F> Chain for Branched<C, X, F>
where
    C: Chain,
    X: 'static,
    F: Fn(&C::Out) -> Option<X> + 'static,
{
    type Out = C::Out;

    fn attach<N: Stage<C::Out>>(self, next: N, graph: &mut Graph) {
        let Branched { upstream, pick, to, branch, node } = self;
        upstream.attach(BranchStage { pick, to, branch, node, next }, graph);
    }
}

impl<T, X, F, N> Stage<T> for BranchStage<X, F, N>
where
    T: ?Sized + 'static,
    X: 'static,
    F: Fn(&T) -> Option<X> + 'static,
    N: Stage<T>,
{
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        for index in 0..rows.len() {
            if let Some(picked) = (self.pick)(rows.row(index)) {
                self.to.push(picked, rows.at(index));
            }
        }
        self.branch.hand_on(cx)?;
        self.next.batch(rows, cx)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.branch.signal(signal, cx)?;
        self.next.signal(signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.branch.ready() && self.next.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        let branch = self.branch.resume(cx)?;
        Ok(branch.or(self.next.resume(cx)?))
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.branch.states(visitor);
        self.next.states(visitor);
    }
}
