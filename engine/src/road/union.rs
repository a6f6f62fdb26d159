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
use super::has_time::TimeKind;
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
    type Time = <C::Time as TimeKind>::And<D::Time>;

    fn attach<N: Stage<C::Out>>(self, next: N, graph: &mut Graph) {
        let shared = Rc::new(RefCell::new(Shared { meeting: Meeting::new(), next }));
        self.one.attach(Port { number: 0, shared: shared.clone() }, graph);
        self.other.attach(Port { number: 1, shared }, graph);
    }
}

const PORTS: usize = 2;

/// The marks of two chains as one chain's.
pub(crate) struct Meeting {
    align: Aligner,
    time: WatermarkMerge,
}

impl Meeting {
    pub(crate) fn new() -> Meeting {
        Meeting { align: Aligner::new(PORTS), time: WatermarkMerge::new(PORTS) }
    }

    /// The same, where a chain has nothing to say of time until it ends: it is not waited for.
    pub(crate) fn without_time_of(number: usize) -> Meeting {
        let mut meeting = Meeting::new();
        let said = meeting.time.idle(number);
        debug_assert_eq!(said.signals().next(), None, "the other has said nothing yet");
        meeting
    }

    /// Whether the chain has met a barrier that the other has not, and must not be read.
    pub(crate) fn holds_back(&self, number: usize) -> bool {
        self.align.holds_back(number)
    }

    /// Takes a chain's signal, and passes on what both of them say together.
    pub(crate) fn signal(
        &mut self,
        number: usize,
        signal: Signal,
        mut pass: impl FnMut(Signal) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let said = match signal {
            Signal::Watermark(watermark) => self.time.watermark(number, watermark),
            Signal::Idle => self.time.idle(number),
            Signal::Active => self.time.active(number),
            Signal::Barrier(barrier) => {
                return self.align.meet(number, barrier).map_or(Ok(()), |met| pass(Signal::Barrier(met)));
            }
            Signal::Split(standing) => {
                let standing = match standing {
                    SplitStanding::Active(at) => SplitStanding::Active(split(number, at)),
                    SplitStanding::Idle(at) => SplitStanding::Idle(split(number, at)),
                    SplitStanding::Ended(at) => SplitStanding::Ended(split(number, at)),
                };
                return pass(Signal::Split(standing));
            }
            Signal::Flush => return pass(signal),
        };
        said.signals().try_for_each(pass)
    }
}

/// A split's number among those of both: even ones are the one's, odd ones the other's.
pub(crate) fn split(number: usize, split: usize) -> usize {
    split * PORTS + number
}

/// Where the two meet. It is borrowed for one call at a time: the tasks of a shard work one after the other.
struct Shared<N> {
    meeting: Meeting,
    next: N,
}

struct Port<N> {
    number: usize,
    shared: Rc<RefCell<Shared<N>>>,
}

impl<T: ?Sized + 'static, N: Stage<T>> Stage<T> for Port<N> {
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let read_from = cx.split;
        cx.split = split(self.number, read_from);
        let passed = self.shared.borrow_mut().next.batch(rows, cx);
        cx.split = read_from;
        passed
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let Shared { meeting, next } = &mut *self.shared.borrow_mut();
        meeting.signal(self.number, signal, |signal| next.signal(signal, cx))
    }

    fn ready(&mut self) -> bool {
        let shared = &mut *self.shared.borrow_mut();
        !shared.meeting.holds_back(self.number) && shared.next.ready()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn a_chain_without_time_is_not_waited_for_until_it_ends() {
        let mut meeting = Meeting::without_time_of(1);
        let mut said = Vec::new();
        let max = Signal::Watermark(Timestamp::MAX);
        for (number, signal) in
            [(0, Signal::Watermark(Timestamp(5))), (0, Signal::Idle), (0, Signal::Active), (0, max), (1, max)]
        {
            let passed = meeting.signal(number, signal, |signal| {
                said.push((number, signal));
                Ok(())
            });
            assert!(passed.is_ok());
        }
        let five = Signal::Watermark(Timestamp(5));
        assert_eq!(said, [(0, five), (0, Signal::Idle), (0, Signal::Active), (0, Signal::Idle), (1, max)]);
    }
}
