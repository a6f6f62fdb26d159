//! The operator of process functions, whether they have one input, two, or one that all shards hear.
//!
//! ```text
//! InOrder (order.rs) ─▶ Function: states of the key in hand ─▶ Operate (operate.rs): the user's function
//! ```

use std::marker::PhantomData;
use std::rc::Rc;

use millstream_state::schema::Described;
use millstream_state::{Key, PageStore, StateError};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::broadcast::BroadcastContext;
use super::chain::Stage;
use super::dense::Dense;
use super::operate::Operate;
use super::order::{InOrder, Moment, WithTimers};
use super::process::ProcessContext;
use super::side::Branch;
use super::timers::{AHEAD, Pending, Timer};
use crate::job::graph::NodeId;
use crate::run::fault::Fault;
use crate::state::Bound;
use crate::time::Timestamp;

/// Pages that are looked at for entries that are over, as in `stateful.rs`.
const EXPIRED_PER_BARRIER: usize = 64;
const EXPIRED_PER_BATCH: usize = 1;

/// What a process function's operator keeps beside states and timers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ProcessBlob {
    /// How far event time had come: the earliest of several shards promises least.
    pub(crate) watermark: Timestamp,
    /// How far time to live had come.
    pub(crate) now_ms: i64,
    /// Rows that came too late, since the job began.
    #[serde(default)]
    pub(crate) late: u64,
    /// What all shards hold in common, as one of them filed it.
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub(crate) shared: Json,
}

impl ProcessBlob {
    /// Of an operator that begins.
    pub(crate) const FIRST: ProcessBlob =
        ProcessBlob { watermark: Timestamp::MIN, now_ms: i64::MIN, late: 0, shared: Json::Null };

    /// What two shards kept, as one.
    pub(crate) fn merge(self, other: ProcessBlob) -> ProcessBlob {
        ProcessBlob {
            watermark: self.watermark.min(other.watermark),
            now_ms: self.now_ms.max(other.now_ms),
            late: self.late + other.late,
            shared: if self.shared.is_null() { other.shared } else { self.shared },
        }
    }
}

/// What an operator works on.
pub(crate) struct Kept<K, S> {
    pub(crate) bound: Bound<K, S>,
    pub(crate) pending: Pending<K>,
}

/// The operator: the user's function, with states and timers of the keys that this shard owns.
pub(crate) type Processor<T, K, P, N> = InOrder<T, K, Function<T, K, P>, N>;

impl<T, K, P, N> Processor<T, K, P, N>
where
    T: 'static,
    K: Key + Described,
    P: Operate<K, T>,
    N: Stage<P::Out>,
{
    pub(crate) fn new(
        process: P,
        kept: Kept<K, P::State>,
        restored: ProcessBlob,
        sides: Vec<Rc<dyn Branch>>,
        node: NodeId,
        next: N,
    ) -> Self {
        let ProcessBlob { watermark, late, .. } = restored;
        let function = Function { process, kept, late, out: Dense::default(), sides, node, row: PhantomData };
        InOrder::of(function, watermark, next)
    }
}

/// A function, and what it works on.
pub(crate) struct Function<T, K, P: Operate<K, T>> {
    process: P,
    kept: Kept<K, P::State>,
    late: u64,
    out: Dense<P::Out>,
    sides: Vec<Rc<dyn Branch>>,
    node: NodeId,
    row: PhantomData<fn(&T)>,
}

impl<T, K, P> WithTimers<K, T> for Function<T, K, P>
where
    T: 'static,
    K: Key + Described,
    P: Operate<K, T>,
{
    type Of = K;
    type Shared = T;
    type Out = P::Out;
    type Sides = Vec<Rc<dyn Branch>>;

    #[inline(always)]
    fn node(&self) -> NodeId {
        self.node
    }

    fn store(&mut self) -> &mut PageStore {
        &mut self.kept.bound.store
    }

    #[inline(always)]
    fn pending(&mut self) -> &mut Pending<K> {
        &mut self.kept.pending
    }

    #[inline(always)]
    fn out(&mut self) -> &mut Dense<P::Out> {
        &mut self.out
    }

    fn sides(&mut self) -> &mut Vec<Rc<dyn Branch>> {
        &mut self.sides
    }

    fn late(&self) -> u64 {
        self.late
    }

    fn take_failure(&mut self) -> Option<StateError> {
        self.kept.bound.take_failure().or_else(|| self.kept.pending.take_failure())
    }

    fn before_batch(&mut self, moment: Moment) {
        self.kept.bound.set_now(moment.now.0);
        self.kept.bound.expire(EXPIRED_PER_BATCH);
    }

    fn before_slice(&mut self, moment: Moment) {
        self.kept.bound.set_now(moment.now.0);
    }

    fn look_ahead(&mut self, watermark: Timestamp) {
        let Kept { bound, pending } = &mut self.kept;
        let (mut hashes, mut count) = ([0; AHEAD], 0);
        pending.event.look_ahead(watermark.0, |key| {
            hashes[count] = key.hash64();
            count += 1;
        });
        bound.prefetch(&hashes[..count]);
    }

    #[inline(always)]
    fn hash_ahead(&self, key: &K) -> Option<u64> {
        Some(key.hash64())
    }

    #[inline(always)]
    fn prefetch(&mut self, hashes: &[u64]) {
        self.kept.bound.prefetch(hashes);
    }

    #[inline]
    fn on_row(&mut self, key: K, at: Timestamp, row: T, moment: Moment) -> Result<(), Fault> {
        let Kept { bound, pending } = &mut self.kept;
        let mut context = ProcessContext::new(key, at, moment, &mut self.out, pending, &mut self.late);
        let taken = self.process.on_row(bound.of(key), row, &mut context);
        taken.map_err(|error| Fault::process(self.node, format!("an event at {at}"), &*error))
    }

    fn on_shared(&mut self, at: Timestamp, row: T, moment: Moment) -> Result<(), Fault> {
        let taken = self.process.on_shared(row, &BroadcastContext::new(at, moment));
        taken.map_err(|error| Fault::process(self.node, format!("a broadcast row at {at}"), &*error))
    }

    fn on_timer(&mut self, key: K, timer: Timer, moment: Moment) -> Result<(), Fault> {
        let Kept { bound, pending } = &mut self.kept;
        let at = match timer {
            Timer::Event(at) => at,
            Timer::Processing(_) if moment.watermark == Timestamp::MIN => Timestamp::MIN,
            Timer::Processing(_) => moment.watermark.plus_ms(1),
        };
        let mut context = ProcessContext::new(key, at, moment, &mut self.out, pending, &mut self.late);
        let taken = self.process.on_timer(bound.of(key), timer, &mut context);
        taken.map_err(|error| Fault::process(self.node, timer.to_string(), &*error))
    }

    fn file(&mut self, moment: Moment) -> Result<Json, Fault> {
        self.kept.bound.set_now(moment.now.0);
        self.kept.bound.expire(EXPIRED_PER_BARRIER);
        let shared = self.process.shared();
        let shared =
            shared.map_err(|error| Fault::process(self.node, "the filing of its shared state".to_owned(), &*error))?;
        let (watermark, now_ms, late) = (moment.watermark, self.kept.bound.now_ms(), self.late);
        let small = ProcessBlob { watermark, now_ms, late, shared };
        Ok(serde_json::to_value(small).expect("numbers are plain JSON"))
    }

    fn close(&mut self) -> Result<(), Fault> {
        let closed = self.process.close();
        closed.map_err(|error| Fault::process(self.node, "its close".to_owned(), &*error))
    }
}
