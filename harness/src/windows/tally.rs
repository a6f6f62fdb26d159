//! Where results go: each into a digest that does not mind their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream::road::sink::{Committable, Epoch, SinkFuture};
use millstream::{Guarantee, Sink, SinkError, SinkWriter};

use crate::ysb::scatter;

/// One result: a key's count in a window.
#[derive(Clone, Copy)]
pub(super) struct Counted {
    pub(super) key: u64,
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    pub(super) count: u64,
}

/// What results come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    /// How many there are.
    pub rows: u64,
    /// Their counts together.
    pub events: u64,
    /// Of keys, windows and counts.
    pub sum: u64,
}

impl Digest {
    #[inline(always)]
    pub(super) fn add(&mut self, row: Counted) {
        self.rows += 1;
        self.events += row.count;
        let window = scatter(row.start_ms as u64).wrapping_add(row.end_ms as u64);
        self.sum = self.sum.wrapping_add(scatter(row.key ^ scatter(window ^ scatter(row.count))));
    }

    pub(super) fn plus(self, other: Digest) -> Digest {
        let Digest { rows, events, sum } = other;
        Digest { rows: self.rows + rows, events: self.events + events, sum: self.sum.wrapping_add(sum) }
    }
}

/// The job's sink. What a restart would have to take back it could not: the run has none.
#[derive(Clone, Default)]
pub(super) struct Tally(Arc<[AtomicU64; 3]>);

impl Tally {
    pub(super) fn digest(&self) -> Digest {
        let [rows, events, sum] = [0, 1, 2].map(|at| self.0[at].load(Ordering::Relaxed));
        Digest { rows, events, sum }
    }
}

pub(super) struct TallyWriter {
    tally: Tally,
    own: Digest,
}

impl Sink<Counted> for Tally {
    type Writer = TallyWriter;

    fn open(&self, _shard: u32, _shards: u32) -> Result<TallyWriter, SinkError> {
        Ok(TallyWriter { tally: self.clone(), own: Digest::default() })
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn describe(&self) -> String {
        "tally".to_owned()
    }
}

impl SinkWriter<Counted> for TallyWriter {
    fn write(&mut self, row: &Counted) -> Result<(), SinkError> {
        self.own.add(*row);
        Ok(())
    }

    fn prepare(&mut self, _epoch: Epoch) -> SinkFuture<Committable> {
        let Digest { rows, events, sum } = std::mem::take(&mut self.own);
        for (total, part) in self.tally.0.iter().zip([rows, events, sum]) {
            total.fetch_add(part, Ordering::Relaxed);
        }
        Box::pin(async { Ok(Committable::Null) })
    }

    fn commit(&mut self, _committable: Committable) -> SinkFuture<()> {
        Box::pin(async { Ok(()) })
    }

    fn recover(&mut self, _committables: Vec<Committable>) -> SinkFuture<()> {
        Box::pin(async { Ok(()) })
    }
}
