//! The operator of windows with triggers: rows, timers and marks in one order that nothing overtakes.
//!
//! It is the order of process functions (`road/process.rs`). A watermark passes on behind the timers that it fires, a
//! slice of them a turn, and what comes meanwhile waits here. When the input ends, windows of processing time fire as
//! well: nobody would wait for their ends.

use std::borrow::Borrow;
use std::collections::VecDeque;

use millstream_state::schema::Described;
use millstream_state::{Fixed, Key, PageStore};

use super::super::WindowsBlob;
use super::super::lateness::LateRows;
use super::contents::Contents;
use super::kinds::WindowKind;
use super::slot::{ALL, within};
use super::trigger::TriggerFor;
use super::work::{Moment, Work};
use crate::job::graph::NodeId;
use crate::road::chain::{Signal, Stage};
use crate::road::keyed::{Contributions, KeyedOut};
use crate::road::rows::BATCH_ROWS;
use crate::road::timers::WallTime;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// Rows whose state is asked for before the first of them is handled, as in `stateful.rs`.
const AHEAD_ROWS: usize = 64;
/// Timers fired, or rows that waited for them taken, in one slice: sixteen slices make a turn.
const SLICE: usize = 128;

/// What came while timers fire, in its order.
enum Held<K, T> {
    Row(K, Timestamp, T),
    Watermark(Timestamp),
    Idle,
    Active,
}

/// How a step of deferred work went.
#[derive(PartialEq, Eq)]
enum Step {
    /// There was none.
    Nothing,
    Done,
    /// A mark has gone to the next stage, which may not be ready any more.
    Told,
}

/// The operator.
pub(crate) struct Triggered<T, K, W, R, C, N>
where
    K: Key,
    W: WindowKind<T>,
    R: TriggerFor<W::Meeting, T>,
    C: Contents<K, T>,
{
    work: Work<T, K, W, R, C>,
    store: PageStore,
    watermark: Timestamp,
    /// A watermark that passes on once its timers have fired.
    owed: Option<Timestamp>,
    held: VecDeque<Held<K, T>>,
    /// The last barrier has passed: timers that are left belong to the next run.
    is_closed: bool,
    late: u64,
    late_rows: LateRows<K, T>,
    node: NodeId,
    next: N,
}

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
        let (owed, held, is_closed) = Default::default();
        let WindowsBlob { watermark, late } = restored;
        Triggered { work, store, watermark, owed, held, is_closed, late, late_rows, node, next }
    }

    /// The input has ended, and windows of processing time have not.
    fn outlives_input(&self) -> bool {
        self.watermark == Timestamp::MAX
            && self.work.rules.kind.is_processing()
            && self.work.kept.pending.processing.first_at().is_some()
    }

    /// Timers have to fire before anything else is done.
    #[inline(always)]
    fn is_due(&self) -> bool {
        self.work.kept.pending.event.is_due(self.watermark.0) || self.outlives_input()
    }

    /// Whether what comes now has to wait for what came before.
    #[inline(always)]
    fn is_firing(&self) -> bool {
        self.is_due() || self.owed.is_some() || !self.held.is_empty()
    }

    /// Whether there is room behind, on both sides.
    fn has_room(&mut self) -> bool {
        self.next.ready() && self.late_rows.ready()
    }

    /// Tells the stages behind.
    fn tell(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.late_rows.signal(signal, cx)?;
        self.next.signal(signal, cx)
    }

    /// Hands on what is there, unless a state could not be written: then nothing of it counts.
    fn hand_on(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if let Some(error) = self.work.kept.pending.take_failure() {
            return Err(Fault::state(self.node, error));
        }
        self.late_rows.batch_done(cx)?;
        if !self.work.out.is_empty() {
            for piece in self.work.out.pieces(BATCH_ROWS) {
                self.next.batch(&piece, cx)?;
            }
            self.work.out.clear();
        }
        cx.enter(self.node);
        Ok(())
    }

    #[inline]
    fn on_row(&mut self, key: K, at: Timestamp, row: T, cx: &Cx<'_>) -> Result<(), Fault> {
        let moment = Moment { watermark: self.watermark, now: WallTime(cx.now_ms) };
        let in_time = self.work.on_row(key, at, &row, moment).map_err(|error| Fault::state(self.node, error))?;
        if !in_time {
            if self.watermark == Timestamp::MAX {
                return Err(Fault::after_the_end(self.node, 1));
            }
            self.late += 1;
            self.late_rows.take(&key, row, at);
        }
        Ok(())
    }

    /// Takes rows until one of them has set a timer that fires at once; how many were taken.
    fn take<B: Contributions<K, T>>(&mut self, batch: &B, cx: &mut Cx<'_>) -> Result<usize, Fault> {
        let ahead = self.work.place_ahead();
        let mut hashes = [0; AHEAD_ROWS];
        for from in (0..batch.len()).step_by(AHEAD_ROWS) {
            let to = batch.len().min(from + AHEAD_ROWS);
            if let Some(cell) = ahead {
                for index in from..to {
                    hashes[index - from] = within(*batch.key(index).borrow(), cell).hash64();
                }
                self.work.kept.slots.prefetch(ALL, &hashes[..to - from]);
            }
            for index in from..to {
                let key: K = *batch.key(index).borrow();
                self.on_row(key, batch.at(index), batch.value(index), cx)?;
                if self.work.out.len() >= BATCH_ROWS {
                    self.hand_on(cx)?;
                }
                if self.is_due() {
                    return Ok(index + 1);
                }
            }
        }
        Ok(batch.len())
    }

    /// The first timer that is to fire before anything else.
    fn take_due(&mut self) -> Option<(super::slot::Of<K>, i64, bool)> {
        let is_over = self.outlives_input();
        let pending = &mut self.work.kept.pending;
        if let Some((timed, at)) = pending.event.take_due(self.watermark.0) {
            return Some((timed, at, false));
        }
        let (timed, at) = if is_over { pending.processing.take_due(i64::MAX)? } else { return None };
        Some((timed, at, true))
    }

    /// One timer, mark or row of what there is to do, in order.
    fn go_on(&mut self, cx: &mut Cx<'_>) -> Result<Step, Fault> {
        if let Some((timed, at, is_processing)) = self.take_due() {
            self.on_timer(timed, at, is_processing, cx)?;
            return Ok(Step::Done);
        }
        if let Some(watermark) = self.owed.take() {
            self.hand_on(cx)?;
            self.tell(Signal::Watermark(watermark), cx)?;
            return Ok(Step::Told);
        }
        match self.held.pop_front() {
            Some(Held::Row(key, at, row)) => self.on_row(key, at, row, cx)?,
            Some(Held::Watermark(watermark)) => {
                self.watermark = self.watermark.max(watermark);
                self.owed = Some(watermark);
            }
            Some(Held::Idle) => {
                self.hand_on(cx)?;
                self.tell(Signal::Idle, cx)?;
                return Ok(Step::Told);
            }
            Some(Held::Active) => {
                self.hand_on(cx)?;
                self.tell(Signal::Active, cx)?;
                return Ok(Step::Told);
            }
            None => {
                let due = self.processing_until(cx).and_then(|now| self.work.kept.pending.processing.take_due(now));
                let Some((timed, at)) = due else { return Ok(Step::Nothing) };
                self.on_timer(timed, at, true, cx)?;
            }
        }
        Ok(Step::Done)
    }

    fn on_timer(&mut self, timed: super::slot::Of<K>, at: i64, is_processing: bool, cx: &Cx<'_>) -> Result<(), Fault> {
        let moment = Moment { watermark: self.watermark, now: WallTime(cx.now_ms) };
        self.work.on_timer(timed, at, is_processing, moment).map_err(|error| Fault::state(self.node, error))
    }

    /// Up to when processing-time timers fire by themselves; none do once the input has ended.
    fn processing_until(&self, cx: &Cx<'_>) -> Option<i64> {
        (self.watermark < Timestamp::MAX).then_some(cx.now_ms)
    }
}

impl<T, K, W, R, C, N> KeyedOut<K, T> for Triggered<T, K, W, R, C, N>
where
    T: Fixed,
    K: Key + Described,
    W: WindowKind<T>,
    R: TriggerFor<W::Meeting, T>,
    C: Contents<K, T>,
    N: Stage<C::Out>,
{
    fn accept<B: Contributions<K, T>>(&mut self, batch: &B, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        let mut taken = 0;
        if !self.is_firing() {
            taken = self.take(batch, cx)?;
            self.hand_on(cx)?;
        }
        for index in taken..batch.len() {
            let key: K = *batch.key(index).borrow();
            self.held.push_back(Held::Row(key, batch.at(index), batch.value(index)));
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        match signal {
            Signal::Watermark(watermark) if self.is_firing() => {
                self.held.push_back(Held::Watermark(watermark));
                Ok(())
            }
            Signal::Watermark(watermark) => {
                self.watermark = self.watermark.max(watermark);
                if self.is_due() {
                    self.owed = Some(watermark);
                    return Ok(());
                }
                self.tell(signal, cx)
            }
            Signal::Idle if self.is_firing() => {
                self.held.push_back(Held::Idle);
                Ok(())
            }
            Signal::Active if self.is_firing() => {
                self.held.push_back(Held::Active);
                Ok(())
            }
            Signal::Barrier(barrier) => {
                assert!(!self.is_firing(), "a barrier waits until the firing is done");
                let small = WindowsBlob { watermark: self.watermark, late: self.late };
                let small = serde_json::to_value(small).expect("numbers are plain JSON");
                cx.freeze(self.node, &mut self.store, barrier, small);
                self.is_closed |= barrier.last;
                self.tell(signal, cx)
            }
            other => self.tell(other, cx),
        }
    }

    fn ready(&mut self) -> bool {
        !self.is_firing() && self.has_room()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        let deeper = self.next.resume(cx)?;
        if self.is_closed {
            return Ok(deeper);
        }
        let processing_until = self.processing_until(cx);
        if !self.is_firing() && !processing_until.is_some_and(|now| self.work.kept.pending.processing.is_due(now)) {
            if processing_until.is_some()
                && let Some(at) = self.work.kept.pending.processing.first_at()
            {
                cx.wake_at(at);
            }
            return Ok(deeper);
        }
        if !self.has_room() {
            return Ok(deeper.or(Progress::Blocked));
        }
        cx.enter(self.node);
        for _ in 0..SLICE {
            if self.work.out.len() >= BATCH_ROWS || self.go_on(cx)? != Step::Done {
                break;
            }
        }
        self.hand_on(cx)?;
        Ok(Progress::Worked)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        visitor.keyed(self.node, &mut self.store);
        visitor.late(self.late);
        self.late_rows.states(visitor);
        self.next.states(visitor);
    }
}
