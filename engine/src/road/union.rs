//! Two chains into one: both drive the same next stage, in turn, on one shard.
//!
//! ```text
//! task of one   ─▶ Port ─┐
//!                        ├─▶ barriers aligned, watermarks merged ─▶ next
//! task of other ─▶ Port ─┘
//! ```
//!
//! A port whose barrier waits for the other's says that it is not ready, and its task reads nothing until then.

use std::cell::RefCell;
use std::rc::Rc;

use super::chain::{Chain, Signal, SplitStanding, Stage};
use super::rows::Rows;
use crate::epoch::align::{Aligner, WatermarkMerge};
use crate::job::graph::Graph;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};

/// The rows of two chains.
#[derive(Debug)]
pub struct Union<C, D> {
    pub(crate) one: C,
    pub(crate) other: D,
}

impl<C: Chain, D: Chain<Out = C::Out>> Chain for Union<C, D> {
    type Out = C::Out;

    fn attach<N: Stage<C::Out>>(self, next: N, graph: &mut Graph) {
        let shared =
            Rc::new(RefCell::new(Shared { align: Aligner::new(PORTS), time: WatermarkMerge::new(PORTS), next }));
        self.one.attach(Port { number: 0, shared: shared.clone() }, graph);
        self.other.attach(Port { number: 1, shared }, graph);
    }
}

const PORTS: usize = 2;

/// Where the two meet. It is borrowed for one call at a time: the tasks of a shard work one after the other.
struct Shared<N> {
    align: Aligner,
    time: WatermarkMerge,
    next: N,
}

struct Port<N> {
    number: usize,
    shared: Rc<RefCell<Shared<N>>>,
}

impl<N> Port<N> {
    /// A split's number among those of both: even ones are the one's, odd ones the other's.
    fn split(&self, split: usize) -> usize {
        split * PORTS + self.number
    }
}

impl<T: ?Sized + 'static, N: Stage<T>> Stage<T> for Port<N> {
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let read_from = cx.split;
        cx.split = self.split(read_from);
        let passed = self.shared.borrow_mut().next.batch(rows, cx);
        cx.split = read_from;
        passed
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let Shared { align, time, next } = &mut *self.shared.borrow_mut();
        let said = match signal {
            Signal::Watermark(watermark) => time.watermark(self.number, watermark),
            Signal::Idle => time.idle(self.number),
            Signal::Active => time.active(self.number),
            Signal::Barrier(barrier) => {
                return align.meet(self.number, barrier).map_or(Ok(()), |met| next.signal(Signal::Barrier(met), cx));
            }
            Signal::Split(standing) => {
                let standing = match standing {
                    SplitStanding::Active(split) => SplitStanding::Active(self.split(split)),
                    SplitStanding::Idle(split) => SplitStanding::Idle(self.split(split)),
                    SplitStanding::Ended(split) => SplitStanding::Ended(self.split(split)),
                };
                return next.signal(Signal::Split(standing), cx);
            }
            Signal::Flush => return next.signal(signal, cx),
        };
        said.signals().try_for_each(|signal| next.signal(signal, cx))
    }

    fn ready(&mut self) -> bool {
        let shared = &mut *self.shared.borrow_mut();
        !shared.align.holds_back(self.number) && shared.next.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.shared.borrow_mut().next.resume(cx)
    }

    /// What is behind both is shown once.
    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        if self.number == 0 {
            self.shared.borrow_mut().next.states(visitor);
        }
    }
}
