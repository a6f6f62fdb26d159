//! The operator of windows with triggers: what [`Work`] makes of rows and timers, in the order of `road/order.rs`.
//!
//! When the input ends, windows of processing time fire as well: nobody would wait for their ends.

use std::convert::Infallible;

use millstream_state::schema::Described;
use millstream_state::{Fixed, Key, PageStore, StateError};
use serde_json::Value as Json;

use super::super::WindowsBlob;
use super::super::lateness::LateRows;
use super::contents::Contents;
use super::kinds::{Meeting, WindowKind};
use super::slot::{ALL, Cell, Of, WindowSlots, within};
use super::trigger::TriggerFor;
use super::work::Work;
use crate::job::graph::NodeId;
use crate::road::chain::Stage;
use crate::road::dense::Dense;
use crate::road::order::{InOrder, Moment, WithTimers};
use crate::road::timers::{AHEAD, Pending, Timer};
use crate::run::fault::Fault;
use crate::time::Timestamp;

/// The operator.
pub(crate) type Triggered<T, K, W, R, C, N> = InOrder<T, K, Emitting<T, K, W, R, C>, N>;

impl<T, K, W, R, C, N> Triggered<T, K, W, R, C, N>
where
    T: Fixed,
    K: Key + Described,
    W: WindowKind<T>,
    R: TriggerFor<W::Meeting, T>,
    C: Contents<K, T>,
    N: Stage<C::Out>,
{
    pub(crate) fn new(
        work: Work<T, K, W, R, C>,
        store: PageStore,
        restored: WindowsBlob,
        late_rows: LateRows<K, T>,
        node: NodeId,
        next: N,
    ) -> Self {
        let WindowsBlob { watermark, late } = restored;
        InOrder::of(Emitting { work, store, late, late_rows, node }, watermark, next)
    }
}

/// Windows, and the rows that came too late for them.
pub(crate) struct Emitting<T, K, W, R, C>
where
    K: Key,
    W: WindowKind<T>,
    R: TriggerFor<W::Meeting, T>,
    C: Contents<K, T>,
{
    work: Work<T, K, W, R, C>,
    store: PageStore,
    late: u64,
    late_rows: LateRows<K, T>,
    node: NodeId,
}

impl<T, K, W, R, C> WithTimers<K, T> for Emitting<T, K, W, R, C>
where
    T: Fixed,
    K: Key + Described,
    W: WindowKind<T>,
    R: TriggerFor<W::Meeting, T>,
    C: Contents<K, T>,
{
    type Of = Of<K>;
    /// Windows have one input.
    type Shared = Infallible;
    type Out = C::Out;
    type Sides = LateRows<K, T>;

    #[inline(always)]
    fn node(&self) -> NodeId {
        self.node
    }

    fn store(&mut self) -> &mut PageStore {
        &mut self.store
    }

    #[inline(always)]
    fn pending(&mut self) -> &mut Pending<Of<K>> {
        &mut self.work.kept.pending
    }

    #[inline(always)]
    fn out(&mut self) -> &mut Dense<C::Out> {
        &mut self.work.out
    }

    fn sides(&mut self) -> &mut LateRows<K, T> {
        &mut self.late_rows
    }

    fn late(&self) -> u64 {
        self.late
    }

    fn take_failure(&mut self) -> Option<StateError> {
        self.work.kept.pending.take_failure()
    }

    fn fires_at_the_end(&self) -> bool {
        self.work.rules.kind.is_processing()
    }

    fn look_ahead(&mut self, watermark: Timestamp) {
        let WindowSlots { slots, pending } = &self.work.kept;
        let (mut hashes, mut count) = ([0; AHEAD], 0);
        pending.event.look_ahead(watermark.0, |of| {
            // A window that merges is found from its key's first place.
            let of = if W::Meeting::MERGES { within(of.parts().0, Cell::number(0)) } else { *of };
            hashes[count] = of.hash64();
            count += 1;
        });
        slots.prefetch(ALL, &hashes[..count]);
    }

    #[inline(always)]
    fn hash_ahead(&self, key: &K) -> Option<u64> {
        self.work.place_ahead().map(|cell| within(*key, cell).hash64())
    }

    #[inline(always)]
    fn prefetch(&mut self, hashes: &[u64]) {
        self.work.kept.slots.prefetch(ALL, hashes);
    }

    #[inline]
    fn on_row(&mut self, key: K, at: Timestamp, row: T, moment: Moment) -> Result<(), Fault> {
        let in_time = self.work.on_row(key, at, &row, moment).map_err(|error| Fault::state(self.node, error))?;
        if !in_time {
            if moment.watermark == Timestamp::MAX {
                return Err(Fault::after_the_end(self.node, 1));
            }
            self.late += 1;
            self.late_rows.take(&key, row, at);
        }
        Ok(())
    }

    fn on_shared(&mut self, _at: Timestamp, row: Infallible, _moment: Moment) -> Result<(), Fault> {
        match row {}
    }

    fn on_timer(&mut self, of: Of<K>, timer: Timer, moment: Moment) -> Result<(), Fault> {
        let (at, is_processing) = match timer {
            Timer::Event(at) => (at.0, false),
            Timer::Processing(at) => (at.0, true),
        };
        self.work.on_timer(of, at, is_processing, moment).map_err(|error| Fault::state(self.node, error))
    }

    fn file(&mut self, moment: Moment) -> Result<Json, Fault> {
        let small = WindowsBlob { watermark: moment.watermark, late: self.late };
        Ok(serde_json::to_value(small).expect("numbers are plain JSON"))
    }
}
