//! The order of rows, timers and marks, for every operator that has timers: nothing overtakes what came before it.
//!
//! ```text
//!              nothing fires ─▶ on_row, a batch at once ──┐
//! rows, marks ─┤                                          ├─▶ hand on ─▶ sides, next
//!              timers fire ──▶ held ─▶ a slice per turn ──┘
//!                                      on_timer, then the mark, then what is held
//! ```
//!
//! **Order.** A watermark fires the event-time timers that it has come to, the earliest first, and passes on behind them.
//! There may be a million of them, so they fire a slice at a time, and what comes meanwhile waits: rows and marks in a queue
//! here, which holds no more than the stages before had begun to hand over (also where a batch of slow rows is cut short), barriers and batches in front of the chain, which
//! is not ready. So a row behind a watermark finds that watermark's timers fired, however rows are cut into batches.
//!
//! **Wall time.** Processing-time timers fire when the shard's turn finds them due, between batches, and never in the middle
//! of what has an order. A shard that would sleep past the first of them is told to wake.
//!
//! What becomes of a row and of a timer is another room's: `processor.rs` calls a user's function, `window/triggered/` puts
//! rows into windows and asks their triggers. Either is a [`WithTimers`] in an [`InOrder`], inlined into its loops.

use std::borrow::Borrow;
use std::collections::VecDeque;

use millstream_state::{Key, PageStore, StateError};
use serde_json::Value as Json;

use super::broadcast::SharedOut;
use super::chain::{Signal, Stage};
use super::dense::Dense;
use super::keyed::{Contributions, KeyedOut};
use super::rows::BATCH_ROWS;
use super::side::Sides;
use super::timers::{AHEAD, Pending, Timer, WallTime};
use crate::epoch::Barrier;
use crate::job::graph::NodeId;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// Rows whose state is asked for before the first of them is handled, as in `stateful.rs`.
const AHEAD_ROWS: usize = 64;
/// Timers fired, or rows that waited for them taken, in one slice: sixteen slices make a turn.
const SLICE: usize = 128;

/// How far both times have come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) watermark: Timestamp,
    pub(crate) now: WallTime,
}

/// What an operator with timers does with a row and with a timer, and what it keeps for that.
pub(crate) trait WithTimers<K, T>: 'static {
    /// What a timer is of: a key, or a key's window.
    type Of: Key;
    /// A row that every shard gets, and that has no key.
    type Shared: 'static;
    /// What goes on to the next stage.
    type Out: 'static;
    /// What is fed beside it.
    type Sides: Sides;

    fn node(&self) -> NodeId;

    /// Where timers and everything else that is kept lie.
    fn store(&mut self) -> &mut PageStore;

    fn pending(&mut self) -> &mut Pending<Self::Of>;

    /// Rows that wait to be handed on.
    fn out(&mut self) -> &mut Dense<Self::Out>;

    fn sides(&mut self) -> &mut Self::Sides;

    /// Rows that came too late, since the job began.
    fn late(&self) -> u64;

    /// The first state that could not be written since the last time.
    fn take_failure(&mut self) -> Option<StateError>;

    /// Timers of processing time that are left when the input ends fire then: nobody would wait for their time.
    fn fires_at_the_end(&self) -> bool {
        false
    }

    /// Before rows are taken as they come.
    fn before_batch(&mut self, _moment: Moment) {}

    /// Before a slice of what fires, or was held.
    fn before_slice(&mut self, _moment: Moment) {}

    /// Asks the memory for what the timers meet that fire next.
    fn look_ahead(&mut self, watermark: Timestamp);

    /// Where what a row of the key meets will lie; none where that is not known before the row is looked at.
    fn hash_ahead(&self, key: &K) -> Option<u64>;

    /// Asks the memory for what lies there.
    fn prefetch(&mut self, hashes: &[u64]);

    fn on_row(&mut self, key: K, at: Timestamp, row: T, moment: Moment) -> Result<(), Fault>;

    fn on_shared(&mut self, at: Timestamp, row: Self::Shared, moment: Moment) -> Result<(), Fault>;

    fn on_timer(&mut self, of: Self::Of, timer: Timer, moment: Moment) -> Result<(), Fault>;

    /// What is kept beside the pages, at a barrier.
    fn file(&mut self, moment: Moment) -> Result<Json, Fault>;

    /// Behind the last barrier.
    fn close(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

/// What came while timers fire, in its order.
enum Held<K, T, S> {
    Row(K, Timestamp, T),
    Shared(Timestamp, S),
    Mark(Signal),
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

/// The operator: what it does, and the order in which it is done.
pub(crate) struct InOrder<T, K, W: WithTimers<K, T>, N> {
    work: W,
    watermark: Timestamp,
    /// A watermark that passes on once its timers have fired.
    owed: Option<Timestamp>,
    held: VecDeque<Held<K, T, W::Shared>>,
    /// The last barrier has passed: timers that are left belong to the next run.
    is_closed: bool,
    next: N,
}

impl<T, K, W, N> InOrder<T, K, W, N>
where
    T: 'static,
    K: Key,
    W: WithTimers<K, T>,
    N: Stage<W::Out>,
{
    /// One that begins where event time has come to `watermark`.
    pub(crate) fn of(work: W, watermark: Timestamp, next: N) -> Self {
        InOrder { work, watermark, owed: None, held: VecDeque::new(), is_closed: false, next }
    }

    #[inline(always)]
    fn moment(&self, cx: &Cx<'_>) -> Moment {
        Moment { watermark: self.watermark, now: WallTime(cx.now_ms) }
    }

    /// The input has ended, and timers of processing time are left that fire then.
    #[inline(always)]
    fn outlives_input(&mut self) -> bool {
        self.watermark == Timestamp::MAX
            && self.work.fires_at_the_end()
            && self.work.pending().processing.first_at().is_some()
    }

    /// Timers have to fire before anything else is done.
    #[inline(always)]
    fn is_due(&mut self) -> bool {
        self.work.pending().event.is_due(self.watermark.0) || self.outlives_input()
    }

    /// Whether what comes now has to wait for what came before.
    #[inline(always)]
    fn is_firing(&mut self) -> bool {
        self.is_due() || self.owed.is_some() || !self.held.is_empty()
    }

    /// Whether there is room behind, on all sides.
    fn has_room(&mut self) -> bool {
        self.next.ready() && self.work.sides().ready()
    }

    /// Tells the stages behind.
    fn tell(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.work.sides().signal(signal, cx)?;
        self.next.signal(signal, cx)
    }

    /// Hands on what is there, unless a state could not be written: then nothing of it counts.
    fn hand_on(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if let Some(error) = self.work.take_failure() {
            return Err(Fault::state(self.work.node(), error));
        }
        self.work.sides().hand_on(cx)?;
        let out = self.work.out();
        if !out.is_empty() {
            for piece in out.pieces(BATCH_ROWS) {
                self.next.batch(&piece, cx)?;
            }
            out.clear();
        }
        cx.enter(self.work.node());
        Ok(())
    }

    /// Takes rows until one of them has set a timer that fires at once, or the step has taken long; how many were taken.
    fn take<C: Contributions<K, T>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<usize, Fault> {
        let mut hashes = [0; AHEAD_ROWS];
        for from in (0..batch.len()).step_by(AHEAD_ROWS) {
            let to = batch.len().min(from + AHEAD_ROWS);
            let mut known = 0;
            for index in from..to {
                let Some(hash) = self.work.hash_ahead(batch.key(index).borrow()) else { break };
                hashes[known] = hash;
                known += 1;
            }
            self.work.prefetch(&hashes[..known]);
            for index in from..to {
                let key: K = *batch.key(index).borrow();
                self.work.on_row(key, batch.at(index), batch.value(index), self.moment(cx))?;
                if self.work.out().len() >= BATCH_ROWS {
                    self.hand_on(cx)?;
                }
                if self.is_due() {
                    return Ok(index + 1);
                }
            }
            if !cx.has_time() {
                return Ok(to);
            }
        }
        Ok(batch.len())
    }

    /// The first timer that is to fire before anything else.
    fn take_due(&mut self) -> Option<(W::Of, Timer)> {
        if let Some((of, at)) = self.work.pending().event.take_due(self.watermark.0) {
            return Some((of, Timer::Event(Timestamp(at))));
        }
        if self.outlives_input() { self.take_processing(i64::MAX) } else { None }
    }

    /// The first timer of processing time that is to fire by then.
    fn take_processing(&mut self, until: i64) -> Option<(W::Of, Timer)> {
        let (of, at) = self.work.pending().processing.take_due(until)?;
        Some((of, Timer::Processing(WallTime(at))))
    }

    /// One timer, mark or row of what there is to do, in order.
    fn go_on(&mut self, cx: &mut Cx<'_>) -> Result<Step, Fault> {
        if let Some((of, timer)) = self.take_due() {
            self.work.on_timer(of, timer, self.moment(cx))?;
            return Ok(Step::Done);
        }
        if let Some(watermark) = self.owed.take() {
            return self.pass(Signal::Watermark(watermark), cx);
        }
        match self.held.pop_front() {
            Some(Held::Row(key, at, row)) => self.work.on_row(key, at, row, self.moment(cx))?,
            Some(Held::Shared(at, row)) => self.work.on_shared(at, row, self.moment(cx))?,
            Some(Held::Mark(Signal::Watermark(watermark))) => {
                self.watermark = self.watermark.max(watermark);
                self.owed = Some(watermark);
            }
            Some(Held::Mark(mark)) => return self.pass(mark, cx),
            None => {
                let due = self.processing_until(cx).and_then(|now| self.take_processing(now));
                let Some((of, timer)) = due else { return Ok(Step::Nothing) };
                self.work.on_timer(of, timer, self.moment(cx))?;
            }
        }
        Ok(Step::Done)
    }

    /// Tells the stages behind, after all that came before.
    fn pass(&mut self, mark: Signal, cx: &mut Cx<'_>) -> Result<Step, Fault> {
        self.hand_on(cx)?;
        self.tell(mark, cx)?;
        Ok(Step::Told)
    }

    /// Up to when processing-time timers fire by themselves; none do once the input has ended.
    fn processing_until(&self, cx: &Cx<'_>) -> Option<i64> {
        (self.watermark < Timestamp::MAX).then_some(cx.now_ms)
    }

    /// The barrier: what is kept is frozen, and behind the last one nothing is done any more.
    fn freeze(&mut self, barrier: Barrier, cx: &mut Cx<'_>) -> Result<(), Fault> {
        assert!(!self.is_firing(), "a barrier waits until the firing is done");
        let small = self.work.file(self.moment(cx))?;
        cx.freeze(self.work.node(), self.work.store(), barrier, small);
        self.tell(Signal::Barrier(barrier), cx)?;
        if barrier.last {
            self.is_closed = true;
            cx.enter(self.work.node());
            self.work.close()?;
        }
        Ok(())
    }
}

impl<T, K, W, N> KeyedOut<K, T> for InOrder<T, K, W, N>
where
    T: 'static,
    K: Key,
    W: WithTimers<K, T>,
    N: Stage<W::Out>,
{
    fn accept<C: Contributions<K, T>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.work.node());
        let mut taken = 0;
        if !self.is_firing() {
            self.work.before_batch(self.moment(cx));
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
            Signal::Barrier(barrier) => self.freeze(barrier, cx),
            Signal::Watermark(_) | Signal::Idle | Signal::Active if self.is_firing() => {
                self.held.push_back(Held::Mark(signal));
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
            other => self.tell(other, cx),
        }
    }

    fn ready(&mut self) -> bool {
        !self.is_firing() && self.has_room()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        let deeper = self.next.resume(cx)?;
        let deeper = deeper.or(self.work.sides().resume(cx)?);
        if self.is_closed {
            return Ok(deeper);
        }
        let processing_until = self.processing_until(cx);
        let is_firing = self.is_firing();
        let processing = &self.work.pending().processing;
        if !is_firing && !processing_until.is_some_and(|now| processing.is_due(now)) {
            if processing_until.is_some()
                && let Some(at) = processing.first_at()
            {
                cx.wake_at(at);
            }
            return Ok(deeper);
        }
        if !self.has_room() {
            return Ok(deeper.or(Progress::Blocked));
        }
        cx.enter(self.work.node());
        self.work.before_slice(self.moment(cx));
        for step in 0..SLICE {
            if step % AHEAD == 0 {
                if step > 0 && !cx.has_time() {
                    break;
                }
                if self.work.pending().event.is_due(self.watermark.0) {
                    self.work.look_ahead(self.watermark);
                }
            }
            if self.work.out().len() >= BATCH_ROWS || self.go_on(cx)? != Step::Done {
                break;
            }
        }
        self.hand_on(cx)?;
        Ok(Progress::Worked)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        visitor.keyed(self.work.node(), self.work.store());
        visitor.late(self.work.late());
        self.work.sides().states(visitor);
        self.next.states(visitor);
    }
}

impl<T, K, W, N> SharedOut<W::Shared> for InOrder<T, K, W, N>
where
    T: 'static,
    K: Key,
    W: WithTimers<K, T>,
    N: Stage<W::Out>,
{
    fn accept_shared<C: Contributions<u8, W::Shared>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.work.node());
        let is_firing = self.is_firing();
        for index in 0..batch.len() {
            let (at, row) = (batch.at(index), batch.value(index));
            if is_firing {
                self.held.push_back(Held::Shared(at, row));
            } else {
                self.work.on_shared(at, row, self.moment(cx))?;
            }
        }
        Ok(())
    }
}
