//! The operator of tumbling windows: each window is a pane, and a row comes in time or not at all.

use std::marker::PhantomData;

use millstream_state::{Key, Namespace, ScanCursor, Table};

use super::{ByPane, FIRE_ROWS, Panes, Picked, Windowed, WindowsBlob};
use crate::job::graph::NodeId;
use crate::road::aggregate::Aggregate;
use crate::road::chain::{Signal, Stage};
use crate::road::dense::Dense;
use crate::road::keyed::{Contributions, Folding, KeyedOut};
use crate::road::rows::BATCH_ROWS;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// The window operator: folds contributions `M::Value` into panes of `A::Acc` and hands results to `next`.
pub(crate) struct Windows<T: ?Sized, K, A: Aggregate<T>, M, N> {
    table: Table<K, A::Acc>,
    aggregate: A,
    panes: Panes,
    watermark: Timestamp,
    /// The watermark at which the first open pane is complete; none is open otherwise.
    complete_at: Option<Timestamp>,
    firing: Option<Firing>,
    /// The input fell idle during a firing; the next stage hears of it after the watermark.
    idle_after: bool,
    late: u64,
    by_pane: ByPane,
    out: Dense<Windowed<K, A::Out>>,
    node: NodeId,
    next: N,
    mode: PhantomData<fn(&T) -> M>,
}

/// A pane on its way out.
struct Firing {
    start: i64,
    cursor: ScanCursor,
}

impl<T, K, A, M, N> Windows<T, K, A, M, N>
where
    T: ?Sized + 'static,
    K: Key,
    A: Aggregate<T> + 'static,
    M: Folding<T, A>,
    N: Stage<Windowed<K, A::Out>>,
{
    /// A window operator over `table`, which a restore may have filled.
    pub(crate) fn new(
        table: Table<K, A::Acc>,
        restored: WindowsBlob,
        aggregate: A,
        panes: Panes,
        node: NodeId,
        next: N,
    ) -> Self {
        let mut windows = Windows {
            table,
            aggregate,
            panes,
            watermark: restored.watermark,
            complete_at: None,
            firing: None,
            idle_after: false,
            late: restored.late,
            by_pane: ByPane::default(),
            out: Dense::default(),
            node,
            next,
            mode: PhantomData,
        };
        windows.complete_at = windows.first_complete_at();
        windows
    }

    fn first_complete_at(&self) -> Option<Timestamp> {
        self.table.namespaces().next().map(|pane| self.panes.last_of(pane.0))
    }

    #[inline(always)]
    fn fold<C: Contributions<K, M::Value>>(&mut self, start: i64, batch: &C) -> Result<(), Fault> {
        let last = self.panes.last_of(start);
        if last <= self.watermark {
            if self.watermark == Timestamp::MAX {
                return Err(Fault::after_the_end(self.node, batch.len()));
            }
            self.late += batch.len() as u64;
            return Ok(());
        }
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

    /// Sorts the rows of a batch that spans panes by pane, and folds pane after pane.
    #[cold]
    fn fold_split<C: Contributions<K, M::Value>>(&mut self, batch: &C) -> Result<(), Fault> {
        let mut by_pane = std::mem::take(&mut self.by_pane);
        by_pane.sort(self.panes, batch);
        let folded = by_pane.lists().try_for_each(|(start, picked)| self.fold(start, &Picked { batch, picked }));
        self.by_pane = by_pane;
        folded
    }

    /// Emits one slice of the firing pane; true when a slice was emitted.
    fn fire_slice(&mut self, cx: &mut Cx<'_>) -> Result<bool, Fault> {
        if self.firing.is_none() && self.is_firing() {
            let pane = self.table.namespaces().next().expect("a complete pane is an open one");
            self.firing = Some(Firing { start: pane.0, cursor: ScanCursor::default() });
        }
        let Some(firing) = self.firing.take() else { return Ok(false) };
        cx.enter(self.node);
        let window = self.panes.window(firing.start);
        let at = window.end.plus_ms(-1);
        self.out.clear();
        let (out, aggregate) = (&mut self.out, &self.aggregate);
        let pane = Namespace(firing.start);
        let more = self.table.scan_slice(pane, firing.cursor, FIRE_ROWS, |key, acc| {
            out.push(Windowed { key: *key, window, value: aggregate.finish(acc) }, at);
        });
        match more {
            Some(cursor) => self.firing = Some(Firing { cursor, ..firing }),
            None => {
                self.table.drop_namespace(pane);
                self.complete_at = self.first_complete_at();
            }
        }
        for piece in self.out.pieces(BATCH_ROWS) {
            self.next.batch(&piece, cx)?;
        }
        Ok(true)
    }

    fn is_firing(&self) -> bool {
        self.firing.is_some() || self.complete_at.is_some_and(|first| first <= self.watermark)
    }
}

impl<T, K, A, M, N> KeyedOut<K, M::Value> for Windows<T, K, A, M, N>
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
        cx.enter(self.node);
        match self.panes.of_all(batch.len(), |index| batch.at(index)) {
            Some(start) => self.fold(start, batch),
            None => self.fold_split(batch),
        }
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        match signal {
            Signal::Watermark(watermark) => {
                self.watermark = self.watermark.max(watermark);
                // With nothing to fire the watermark passes at once; otherwise it follows the last slice.
                if self.is_firing() { Ok(()) } else { self.next.signal(signal, cx) }
            }
            Signal::Barrier(barrier) => {
                assert!(!self.is_firing(), "a barrier waits until the firing is done");
                let small = WindowsBlob { watermark: self.watermark, late: self.late };
                let small = serde_json::to_value(small).expect("numbers are plain JSON");
                cx.freeze(self.node, &mut self.table.store(), barrier, small);
                self.next.signal(signal, cx)
            }
            Signal::Idle if self.is_firing() => {
                self.idle_after = true;
                Ok(())
            }
            Signal::Active if self.idle_after => {
                self.idle_after = false;
                Ok(())
            }
            other => self.next.signal(other, cx),
        }
    }

    fn ready(&mut self) -> bool {
        !self.is_firing() && self.next.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        let deeper = self.next.resume(cx)?;
        if !self.is_firing() {
            return Ok(deeper);
        }
        if !self.next.ready() {
            return Ok(deeper.or(Progress::Blocked));
        }
        let emitted = self.fire_slice(cx)?;
        if !self.is_firing() {
            self.next.signal(Signal::Watermark(self.watermark), cx)?;
            if std::mem::take(&mut self.idle_after) {
                self.next.signal(Signal::Idle, cx)?;
            }
        }
        Ok(if emitted { Progress::Worked } else { deeper })
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        visitor.keyed(self.node, &mut self.table.store());
        visitor.late(self.late);
        self.next.states(visitor);
    }
}
