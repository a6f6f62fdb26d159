//! The last stage of a chain on trial: keeps what reaches it, and checks the grammar of it.

use std::cell::RefCell;
use std::rc::Rc;

use crate::job::stream::Stream;
use crate::road::chain::{Chain, Signal, Stage};
use crate::road::rows::{BATCH_ROWS, Rows};
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// What came out of one shard, item by item, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Out {
    Row(String),
    Watermark(i64),
    Idle,
    Active,
    Barrier(u64),
}

/// The last stage of a chain on trial. Clones are handles to the same record.
#[derive(Clone)]
pub(super) struct Record(Rc<RefCell<Recorded>>);

struct Recorded {
    items: Vec<Out>,
    room: usize,
    held: usize,
    /// The answer to the last `ready`.
    granted: bool,
    watermark: i64,
    closed: bool,
}

impl Record {
    pub(super) fn new(room: usize) -> Record {
        let recorded =
            Recorded { items: Vec::new(), room, held: 0, granted: false, watermark: i64::MIN, closed: false };
        Record(Rc::new(RefCell::new(recorded)))
    }

    /// Makes room for the next turn.
    pub(super) fn empty(&self) {
        self.0.borrow_mut().held = 0;
    }

    pub(super) fn items(&self) -> Vec<Out> {
        self.0.borrow().items.clone()
    }

    /// What came after the barrier is lost in a crash, and what comes next is a new chain's.
    pub(super) fn cut_after(&self, epoch: u64) {
        let mut record = self.0.borrow_mut();
        let at = record.items.iter().position(|item| *item == Out::Barrier(epoch)).expect("the epoch was closed");
        record.items.truncate(at + 1);
        record.held = 0;
        record.granted = false;
        let watermarks =
            record.items.iter().filter_map(|item| if let Out::Watermark(at) = item { Some(*at) } else { None });
        record.watermark = watermarks.max().unwrap_or(i64::MIN);
    }
}

impl Stage<String> for Record {
    fn batch<R: Rows<Item = String>>(&mut self, rows: &R, _cx: &mut Cx<'_>) -> Result<(), Fault> {
        let mut record = self.0.borrow_mut();
        assert!((1..=BATCH_ROWS).contains(&rows.len()), "a batch of {} rows", rows.len());
        assert!(record.granted, "a batch came though the record had not said that it was ready");
        assert!(!record.closed, "rows behind the last barrier");
        for index in 0..rows.len() {
            record.items.push(Out::Row(rows.row(index).clone()));
        }
        record.held += rows.len();
        Ok(())
    }

    fn signal(&mut self, signal: Signal, _cx: &mut Cx<'_>) -> Result<(), Fault> {
        let mut record = self.0.borrow_mut();
        let item = match signal {
            Signal::Watermark(Timestamp(at)) => {
                assert!(at > record.watermark, "the watermark {at} does not go on from {}", record.watermark);
                record.watermark = at;
                Out::Watermark(at)
            }
            Signal::Idle => Out::Idle,
            Signal::Active => Out::Active,
            Signal::Barrier(barrier) => {
                let before = record
                    .items
                    .iter()
                    .rev()
                    .find_map(|item| if let Out::Barrier(epoch) = item { Some(*epoch) } else { None });
                assert!(before.is_none_or(|before| before < barrier.epoch.0), "barriers go on");
                record.closed |= barrier.last;
                Out::Barrier(barrier.epoch.0)
            }
            Signal::Flush | Signal::Split(_) => return Ok(()),
        };
        assert!(!record.closed || matches!(item, Out::Barrier(_)), "{item:?} behind the last barrier");
        record.items.push(item);
        Ok(())
    }

    fn ready(&mut self) -> bool {
        let mut record = self.0.borrow_mut();
        record.granted = record.held < record.room;
        record.granted
    }

    fn resume(&mut self, _cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        Ok(Progress::Idle)
    }

    fn states(&mut self, _visitor: &mut dyn StateVisitor) {}
}

/// Ends a chain in a record.
pub(super) fn record<C: Chain<Out = String>>(stream: Stream<C>, record: Record) {
    let graph = &mut stream.flow.graph();
    stream.chain.attach(record, graph);
}
