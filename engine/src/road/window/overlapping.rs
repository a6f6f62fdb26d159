//! The operator where windows share panes, or wait for rows that are late.
//!
//! ```text
//! row ─▶ its pane                            ahead of the watermark: all there is to do, as for tumbling windows
//!          └─▶ sums, if the pane is in them ─▶ its windows that were emitted and may be changed, at once
//! watermark ─▶ window by window, in the order of their ends: panes that come ─▶ emit ─▶ panes that leave ─▶ drop panes
//! ```
//!
//! A window of one pane is emitted from the pane. Others are summed up: where the aggregate can take rows out again, from
//! the window before, so that a pane costs two folds however long the window is; where it cannot, from all their panes.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::Range;

use millstream_state::{Key, Namespace, ScanCursor, StateError, Table};

use super::sums::Sums;
use super::{ByPane, FIRE_ROWS, LateRows, Picked, Slides, Windowed, WindowsBlob};
use crate::job::graph::NodeId;
use crate::road::aggregate::Aggregate;
use crate::road::chain::{Signal, Stage};
use crate::road::dense::Dense;
use crate::road::keyed::{Contributions, Folding, KeyedOut};
use crate::road::rows::BATCH_ROWS;
use crate::road::side::Sides;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// The window operator: folds contributions `M::Value` into panes of `A::Acc` and hands results to `next`.
pub(crate) struct Overlapping<T: ?Sized, K, A: Aggregate<T>, M: Folding<T, A>, N> {
    table: Table<K, A::Acc>,
    aggregate: A,
    slides: Slides,
    lateness_ms: i128,
    watermark: Timestamp,
    /// Windows whose last instant is not behind this one have been emitted.
    done: i128,
    /// The last instant of the first window that is to be emitted and has any row.
    complete_at: Option<i128>,
    firing: Option<Firing>,
    /// The input fell idle during a firing; the next stage hears of it after the watermark.
    idle_after: bool,
    sums: Sums<K, A::Acc>,
    /// Sums are kept from window to window.
    keeps_sums: bool,
    late: LateRows<K, M::Value>,
    late_rows: u64,
    by_pane: ByPane,
    out: Dense<Windowed<K, A::Out>>,
    node: NodeId,
    next: N,
    mode: PhantomData<fn(&T) -> M>,
}

/// A window on its way out.
struct Firing {
    start: i128,
    steps: VecDeque<Step>,
    cursor: ScanCursor,
    /// Sums emitted so far.
    emitted: usize,
}

#[derive(Clone, Copy)]
enum Step {
    /// The window is this pane.
    EmitPane(Namespace),
    Add(Namespace),
    EmitSums,
    Subtract(Namespace),
}

/// What the table and the job say of an operator.
pub(crate) struct Opened<K, S> {
    /// The panes, which a restore may have filled.
    pub(crate) table: Table<K, S>,
    /// An empty table that no snapshot holds.
    pub(crate) places: Table<K, u32>,
    pub(crate) restored: WindowsBlob,
}

impl<T, K, A, M, N> Overlapping<T, K, A, M, N>
where
    T: ?Sized + 'static,
    K: Key,
    A: Aggregate<T> + 'static,
    M: Folding<T, A>,
    N: Stage<Windowed<K, A::Out>>,
{
    pub(crate) fn new(
        opened: Opened<K, A::Acc>,
        aggregate: A,
        slides: Slides,
        lateness_ms: i64,
        late: LateRows<K, M::Value>,
        node: NodeId,
        next: N,
    ) -> Self {
        let Opened { table, places, restored } = opened;
        let keeps_sums = slides.overlap() && aggregate.remove(&mut aggregate.init(), &aggregate.init());
        let mut windows = Overlapping {
            table,
            aggregate,
            slides,
            lateness_ms: lateness_ms.into(),
            watermark: restored.watermark,
            done: reach(restored.watermark),
            complete_at: None,
            firing: None,
            idle_after: false,
            sums: Sums::new(places),
            keeps_sums,
            late,
            late_rows: restored.late,
            by_pane: ByPane::default(),
            out: Dense::default(),
            node,
            next,
            mode: PhantomData,
        };
        windows.complete_at = windows.first_complete_at();
        windows
    }

    /// Where a pane starts, be it before time does.
    fn exact(&self, pane: Namespace) -> i128 {
        self.slides.panes().exact(pane.0)
    }

    /// Panes come in the order of time, and a pane's first window is never before that of the pane before.
    fn first_complete_at(&self) -> Option<i128> {
        let first = self.table.namespaces().find_map(|pane| self.slides.first_open(self.exact(pane), self.done));
        first.map(|start| self.slides.last_of(start))
    }

    #[inline(always)]
    fn fold<C: Contributions<K, M::Value>>(&mut self, start: i64, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let pane = self.slides.panes().exact(start);
        if self.slides.last_of_pane(pane) <= reach(self.watermark) {
            return self.fold_behind(Namespace(start), pane, batch, cx);
        }
        let Some(first) = self.slides.first_open(pane, self.done) else {
            return self.leave_out(pane, batch, cx);
        };
        let last = self.slides.last_of(first);
        self.complete_at = Some(self.complete_at.map_or(last, |first| first.min(last)));
        let aggregate = &self.aggregate;
        self.table
            .fold(
                Namespace(start),
                batch.len(),
                |index| batch.key(index),
                || aggregate.init(),
                |acc, index| M::fold(aggregate, acc, batch.value(index)),
            )
            .map_err(|error| Fault::state(self.node, error))
    }

    /// Folds rows of a pane that the watermark has passed, one by one: each may change windows that were emitted.
    #[cold]
    fn fold_behind<C: Contributions<K, M::Value>>(
        &mut self,
        start: Namespace,
        pane: i128,
        batch: &C,
        cx: &mut Cx<'_>,
    ) -> Result<(), Fault> {
        if self.watermark == Timestamp::MAX {
            return Err(Fault::after_the_end(self.node, batch.len()));
        }
        let (first, last) = self.slides.starts(pane);
        if first > last || self.slides.last_of(last) + self.lateness_ms <= reach(self.watermark) {
            return self.leave_out(pane, batch, cx);
        }
        self.out.clear();
        for index in 0..batch.len() {
            let key = batch.key(index);
            self.join(start, pane, key.borrow(), batch.value(index))?;
        }
        self.hand_on(cx)
    }

    /// Rows that no window takes. Where no window is, there is none to be late for, but a row that time has passed by is
    /// late all the same.
    #[cold]
    fn leave_out<C: Contributions<K, M::Value>>(
        &mut self,
        pane: i128,
        batch: &C,
        cx: &mut Cx<'_>,
    ) -> Result<(), Fault> {
        let now = reach(self.watermark);
        for index in 0..batch.len() {
            let at = batch.at(index);
            let last = if M::IS_EVENT { at.0.into() } else { self.slides.last_of_pane(pane) };
            if last + self.lateness_ms <= now {
                self.late_rows += 1;
                self.late.take(batch.key(index).borrow(), batch.value(index), at);
            }
        }
        self.late.hand_on(cx)
    }

    /// Folds one row behind the watermark, and emits those of its windows anew that were emitted and are kept.
    fn join(&mut self, start: Namespace, pane: i128, key: &K, value: M::Value) -> Result<(), Fault> {
        let (aggregate, node) = (&self.aggregate, self.node);
        let is_new = self.table.get_ref(start, key).is_none();
        let acc = self.table.get_mut_or(start, key, || aggregate.init()).map_err(|error| Fault::state(node, error))?;
        M::fold(aggregate, acc, value);
        if self.sums.range().is_some_and(|range| range.contains(&pane)) {
            let fold = |acc: &mut A::Acc| M::fold(aggregate, acc, value);
            self.sums.join(key, is_new, || aggregate.init(), fold).map_err(|error| Fault::state(node, error))?;
        }
        if let Some(open) = self.slides.first_open(pane, self.done) {
            let last = self.slides.last_of(open);
            self.complete_at = Some(self.complete_at.map_or(last, |first| first.min(last)));
        }
        let (first, last) = self.slides.starts(pane);
        let first_kept = self.slides.first_incomplete(reach(self.watermark) - self.lateness_ms);
        for window in self.slides.every(first.max(first_kept), last) {
            if self.slides.last_of(window) > self.done {
                break;
            }
            let mut total = self.aggregate.init();
            for pane in self.panes_of(window..self.slides.last_of(window) + 1) {
                if let Some(acc) = self.table.get_ref(pane, key) {
                    self.aggregate.merge(&mut total, acc);
                }
            }
            let window = self.slides.window(window);
            let row = Windowed { key: *key, window, value: self.aggregate.finish(&total) };
            self.out.push(row, window.end.plus_ms(-1));
        }
        Ok(())
    }

    /// Sorts the rows of a batch that spans panes by pane, and folds pane after pane; but one after the other where some may
    /// emit windows anew: what such a window holds by then is what came before, whatever pane it is of.
    #[cold]
    fn fold_split<C: Contributions<K, M::Value>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let mut by_pane = std::mem::take(&mut self.by_pane);
        by_pane.sort(self.slides.panes(), batch);
        let is_behind = |start: i64| self.slides.last_of_pane(self.exact(Namespace(start))) <= reach(self.watermark);
        let folded = if by_pane.lists().any(|(start, _)| is_behind(start)) {
            self.fold_in_order(batch, cx)
        } else {
            by_pane.lists().try_for_each(|(start, picked)| self.fold(start, &Picked { batch, picked }, cx))
        };
        self.by_pane = by_pane;
        folded
    }

    /// Folds rows in their order, as many at once as are of one pane.
    fn fold_in_order<C: Contributions<K, M::Value>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let panes = self.slides.panes();
        let rows: Vec<u16> = (0..batch.len() as u16).collect();
        let start_of = |row: &u16| panes.start_of(batch.at(usize::from(*row)));
        for picked in rows.chunk_by(|one, next| start_of(one) == start_of(next)) {
            self.fold(start_of(&picked[0]), &Picked { batch, picked }, cx)?;
        }
        Ok(())
    }

    /// The panes that lie in a stretch of time and have rows.
    fn panes_of(&self, range: Range<i128>) -> impl Iterator<Item = Namespace> {
        let slides = self.slides;
        let exact = move |pane: &Namespace| slides.panes().exact(pane.0);
        let (from, to) = (range.start, range.end);
        let panes = self.table.namespaces();
        panes.skip_while(move |pane| exact(pane) < from).take_while(move |pane| exact(pane) < to)
    }

    /// Emission of the window that starts at `start`, in steps.
    fn plan(&mut self, start: i128) -> Firing {
        let end = self.slides.last_of(start) + 1;
        let known = self.sums.range().filter(|range| self.keeps_sums && range.start == start);
        let mut steps: VecDeque<Step> = VecDeque::new();
        if known.is_none() {
            self.sums.clear();
        }
        let come = known.map_or(start, |range| range.end);
        steps.extend(self.panes_of(come..end).map(Step::Add));
        match steps.front() {
            Some(Step::Add(only)) if !self.keeps_sums && steps.len() == 1 => steps = [Step::EmitPane(*only)].into(),
            _ => steps.push_back(Step::EmitSums),
        }
        if self.keeps_sums {
            steps.extend(self.panes_of(start..self.slides.next(start)).map(Step::Subtract));
        }
        Firing { start, steps, cursor: ScanCursor::default(), emitted: 0 }
    }

    /// Does one slice of the firing; true when there was one to do.
    fn fire_slice(&mut self, cx: &mut Cx<'_>) -> Result<bool, Fault> {
        if self.firing.is_none() && self.is_firing() {
            let last = self.complete_at.expect("a firing has a window that is complete");
            self.firing = Some(self.plan(self.slides.that_ends_with(last)));
        }
        let Some(mut firing) = self.firing.take() else { return Ok(false) };
        cx.enter(self.node);
        self.out.clear();
        let step = *firing.steps.front().expect("a firing ends with its last step");
        let is_done = self.slice_of(step, &mut firing).map_err(|error| Fault::state(self.node, error))?;
        if is_done {
            firing.steps.pop_front();
        }
        if firing.steps.is_empty() {
            self.close(firing.start);
        } else {
            self.firing = Some(firing);
        }
        self.hand_on(cx)?;
        Ok(true)
    }

    /// Does one slice of a step; true when it was the last.
    fn slice_of(&mut self, step: Step, firing: &mut Firing) -> Result<bool, StateError> {
        let Overlapping { table, aggregate, sums, out, .. } = self;
        let window = self.slides.window(firing.start);
        let at = window.end.plus_ms(-1);
        let cursor = std::mem::take(&mut firing.cursor);
        let more = match step {
            Step::EmitPane(pane) => table.scan_slice(pane, cursor, FIRE_ROWS, |key, acc| {
                out.push(Windowed { key: *key, window, value: aggregate.finish(acc) }, at);
            }),
            Step::EmitSums => {
                let some = sums.some(firing.emitted, FIRE_ROWS);
                for sum in some {
                    out.push(Windowed { key: sum.key, window, value: aggregate.finish(&sum.acc) }, at);
                }
                firing.emitted += some.len();
                return Ok(some.len() < FIRE_ROWS);
            }
            Step::Add(pane) | Step::Subtract(pane) => {
                let slice = sums.slice();
                let more = table.scan_slice(pane, cursor, FIRE_ROWS, |key, acc| slice.push((*key, *acc)));
                match step {
                    Step::Add(_) => sums.add(|into, acc| aggregate.merge(into, acc))?,
                    _ => sums.subtract(|from, acc| {
                        let removed = aggregate.remove(from, acc);
                        assert!(removed, "an aggregate that can take rows out again always can");
                    })?,
                }
                more
            }
        };
        match more {
            Some(cursor) => {
                firing.cursor = cursor;
                Ok(false)
            }
            None => Ok(true),
        }
    }

    /// A window has been emitted: what no window needs any more is dropped.
    fn close(&mut self, start: i128) {
        self.done = self.slides.last_of(start);
        if self.keeps_sums {
            self.sums.holds(self.slides.next(start)..self.done + 1);
        } else {
            self.sums.clear();
        }
        self.complete_at = self.first_complete_at();
        if !self.is_firing() {
            self.done = reach(self.watermark);
        }
        self.drop_panes();
    }

    /// Drops the panes whose last window was emitted and can no more be changed.
    fn drop_panes(&mut self) {
        loop {
            let first = self.table.namespaces().next();
            let Some(pane) = first else { return };
            let (_, last) = self.slides.starts(self.exact(pane));
            let last = self.slides.last_of(last);
            if last > self.done || last + self.lateness_ms > reach(self.watermark) {
                return;
            }
            self.table.drop_namespace(pane);
        }
    }

    /// Hands on what was put out.
    fn hand_on(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        for piece in self.out.pieces(BATCH_ROWS) {
            self.next.batch(&piece, cx)?;
        }
        Ok(())
    }

    /// Passes a signal to all that follows.
    fn pass(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.late.signal(signal, cx)?;
        self.next.signal(signal, cx)
    }

    fn is_firing(&self) -> bool {
        self.firing.is_some() || self.complete_at.is_some_and(|first| first <= reach(self.watermark))
    }
}

/// The instants that a watermark completes: all there are once the input has ended, none while it has said nothing.
fn reach(watermark: Timestamp) -> i128 {
    match watermark {
        Timestamp::MAX => i128::MAX / 2,
        Timestamp::MIN => i128::from(i64::MIN) - 1,
        Timestamp(at) => at.into(),
    }
}

impl<T, K, A, M, N> KeyedOut<K, M::Value> for Overlapping<T, K, A, M, N>
where
    T: ?Sized + 'static,
    K: Key,
    A: Aggregate<T> + 'static,
    M: Folding<T, A>,
    N: Stage<Windowed<K, A::Out>>,
{
    #[inline]
    fn accept<C: Contributions<K, M::Value>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if batch.len() == 0 {
            return Ok(());
        }
        assert!(!self.is_firing(), "rows wait until the firing is done");
        cx.enter(self.node);
        match self.slides.panes().of_all(batch.len(), |index| batch.at(index)) {
            Some(start) => self.fold(start, batch, cx),
            None => self.fold_split(batch, cx),
        }
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        match signal {
            Signal::Watermark(watermark) => {
                self.watermark = self.watermark.max(watermark);
                // With nothing to fire the watermark passes at once; otherwise it follows the last slice.
                if self.is_firing() {
                    return Ok(());
                }
                self.done = reach(self.watermark);
                self.drop_panes();
                self.pass(signal, cx)
            }
            Signal::Barrier(barrier) => {
                assert!(!self.is_firing(), "a barrier waits until the firing is done");
                let small = WindowsBlob { watermark: self.watermark, late: self.late_rows };
                let small = serde_json::to_value(small).expect("numbers are plain JSON");
                cx.freeze(self.node, &mut self.table.store(), barrier, small);
                self.pass(signal, cx)
            }
            Signal::Idle if self.is_firing() => {
                self.idle_after = true;
                Ok(())
            }
            Signal::Active if self.idle_after => {
                self.idle_after = false;
                Ok(())
            }
            other => self.pass(other, cx),
        }
    }

    fn ready(&mut self) -> bool {
        !self.is_firing() && self.late.ready() && self.next.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        let deeper = self.next.resume(cx)?;
        if !self.is_firing() {
            return Ok(deeper);
        }
        if !self.next.ready() {
            return Ok(deeper.or(Progress::Blocked));
        }
        let worked = self.fire_slice(cx)?;
        if !self.is_firing() {
            self.pass(Signal::Watermark(self.watermark), cx)?;
            if std::mem::take(&mut self.idle_after) {
                self.pass(Signal::Idle, cx)?;
            }
        }
        Ok(if worked { Progress::Worked } else { deeper })
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        visitor.keyed(self.node, &mut self.table.store());
        visitor.late(self.late_rows);
        self.late.states(visitor);
        self.next.states(visitor);
    }
}
