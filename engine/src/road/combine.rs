//! Combine before the exchange: fold on the sending shard first, in a small table per open pane.
//!
//! A hot key then costs one contribution per flush instead of one per event. The table is flushed when a watermark, a
//! barrier or the linger asks for it, and when it is full. Where keys hardly repeat (a million campaigns) folding only
//! adds work, so a table that fills up without having halved its input steps aside for a while.

use std::borrow::Borrow;
use std::marker::PhantomData;

use millstream_state::{Key, same_bytes};

use super::aggregate::Aggregate;
use super::chain::{Signal, Stage};
use super::keyed::{Contributions, KeyedOut, Keying};
use super::rows::{BATCH_ROWS, Rows};
use super::window::Panes;
use crate::job::graph::NodeId;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// Slots of one pane's table. With 8-byte keys and counts 96 KiB: the second-level cache, of which few keys touch few lines.
const SLOTS: usize = 4096;
/// Slots tried before a key counts as not fitting.
const PROBES: usize = 8;
/// A table fuller than this is flushed after the batch.
const ENTRIES_MAX: usize = SLOTS / 2;
/// Panes with a table of their own; disorder rarely spreads a batch over more.
const PANES_MAX: usize = 8;
/// Rows that pass unfolded before folding is tried again.
const STEP_ASIDE_ROWS: u64 = 1 << 20;

/// The stage that folds rows before it hands them on.
pub(crate) struct Combine<G, A, O, T: ?Sized>
where
    G: Keying<T>,
    A: Aggregate<T>,
{
    pub(crate) key: G,
    pub(crate) aggregate: A,
    pub(crate) panes: Panes,
    pub(crate) node: NodeId,
    pub(crate) out: O,
    tables: Vec<PaneTable<G::Key, A::Acc>>,
    pane_of: Box<[i64; BATCH_ROWS]>,
    /// Rows still to pass unfolded.
    aside_rows: u64,
    held: bool,
    /// Waits for the flush of the events it follows.
    watermark: Option<Timestamp>,
    event: PhantomData<fn(&T)>,
}

struct PaneTable<K, S> {
    start: i64,
    slots: Box<[Slot<K, S>; SLOTS]>,
    /// Indexes of the slots in use, in the order they were taken: a flush visits only those.
    taken: Vec<u16>,
    rows_folded: u64,
}

#[derive(Clone, Copy)]
struct Slot<K, S> {
    entry: Option<(K, S)>,
}

impl<K: Key, S: Copy> PaneTable<K, S> {
    fn new(start: i64) -> PaneTable<K, S> {
        let slots = vec![Slot { entry: None }; SLOTS].try_into().ok().expect("as many as were asked for");
        PaneTable { start, slots, taken: Vec::with_capacity(SLOTS), rows_folded: 0 }
    }

    /// Folds one value in; false when its probe window is full.
    #[inline(always)]
    fn fold(&mut self, key: &K, init: impl FnOnce() -> S, add: impl FnOnce(&mut S)) -> bool {
        let first = key.hash64() as usize;
        let slots = &mut *self.slots;
        for probe in 0..PROBES {
            let index = (first + probe) & (SLOTS - 1);
            match &mut slots[index].entry {
                Some((held, acc)) if same(held, key) => {
                    add(acc);
                    return true;
                }
                Some(_) => {}
                empty => {
                    let mut acc = init();
                    add(&mut acc);
                    *empty = Some((*key, acc));
                    self.taken.push(index as u16);
                    return true;
                }
            }
        }
        false
    }
}

/// Equal keys are equal bytes, and bytes are compared in words.
#[inline(always)]
fn same<K: Key>(one: &K, other: &K) -> bool {
    // SAFETY: both are whole keys, and a `Key` has no padding.
    #[expect(unsafe_code, reason = "the state's comparison takes addresses; combined_equals_raw would see a wrong one")]
    unsafe {
        same_bytes::<K>(std::ptr::from_ref(one).cast(), std::ptr::from_ref(other).cast())
    }
}

/// A pane's partial results as contributions: each at the pane's start.
struct Partials<'a, K, S>(&'a PaneTable<K, S>, &'a [u16]);

impl<K: Key, S: Copy> Contributions<K, S> for Partials<'_, K, S> {
    type KeyOut<'b>
        = &'b K
    where
        Self: 'b;

    fn len(&self) -> usize {
        self.1.len()
    }

    fn at(&self, _index: usize) -> Timestamp {
        Timestamp(self.0.start)
    }

    fn key(&self, index: usize) -> &K {
        &self.0.slots[self.1[index] as usize].entry.as_ref().expect("a taken slot holds an entry").0
    }

    fn value(&self, index: usize) -> S {
        self.0.slots[self.1[index] as usize].entry.expect("a taken slot holds an entry").1
    }
}

/// Rows that pass unfolded: each a partial result of its own.
struct Singles<'a, R, G, A> {
    rows: &'a R,
    key: &'a G,
    aggregate: &'a A,
    from: usize,
    to: usize,
}

impl<R: Rows<Item: 'static>, G: Keying<R::Item>, A: Aggregate<R::Item>> Contributions<G::Key, A::Acc>
    for Singles<'_, R, G, A>
{
    type KeyOut<'b>
        = G::Out<'b>
    where
        Self: 'b;

    #[inline(always)]
    fn len(&self) -> usize {
        self.to - self.from
    }

    #[inline(always)]
    fn at(&self, index: usize) -> Timestamp {
        self.rows.at(self.from + index)
    }

    #[inline(always)]
    fn key(&self, index: usize) -> G::Out<'_> {
        self.key.key(self.rows.row(self.from + index))
    }

    #[inline(always)]
    fn value(&self, index: usize) -> A::Acc {
        let mut acc = self.aggregate.init();
        self.aggregate.add(&mut acc, self.aggregate.lift(self.rows.row(self.from + index)));
        acc
    }
}

impl<G, A, O, T> Combine<G, A, O, T>
where
    T: ?Sized + 'static,
    G: Keying<T>,
    A: Aggregate<T> + 'static,
    O: KeyedOut<G::Key, A::Acc>,
{
    pub(crate) fn new(key: G, aggregate: A, panes: Panes, node: NodeId, out: O) -> Self {
        Combine {
            key,
            aggregate,
            panes,
            node,
            out,
            tables: Vec::with_capacity(PANES_MAX),
            pane_of: Box::new([0; BATCH_ROWS]),
            aside_rows: 0,
            held: false,
            watermark: None,
            event: PhantomData,
        }
    }

    /// Hands everything held to the next stage, and steps aside if folding did not pay.
    fn flush(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        if !self.held {
            return Ok(());
        }
        self.held = false;
        for index in 0..self.tables.len() {
            self.flush_table(index, cx)?;
        }
        match self.watermark.take() {
            Some(watermark) => self.out.signal(Signal::Watermark(watermark), cx),
            None => Ok(()),
        }
    }

    fn flush_table(&mut self, index: usize, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let table = &mut self.tables[index];
        for taken in table.taken.chunks(BATCH_ROWS) {
            self.out.accept(&Partials(table, taken), cx)?;
        }
        let full = table.taken.len() > ENTRIES_MAX / 2;
        if full && table.rows_folded < 2 * table.taken.len() as u64 {
            self.aside_rows = STEP_ASIDE_ROWS;
        }
        for slot in table.taken.drain(..) {
            table.slots[slot as usize].entry = None;
        }
        table.rows_folded = 0;
        Ok(())
    }

    /// The index of the pane's table; a new pane takes over an empty table, or the first one after a flush.
    fn table_of(&mut self, start: i64, cx: &mut Cx<'_>) -> Result<usize, Fault> {
        if let Some(index) = self.tables.iter().position(|table| table.start == start) {
            return Ok(index);
        }
        let reused = match self.tables.iter().position(|table| table.taken.is_empty()) {
            Some(empty) => empty,
            None if self.tables.len() < PANES_MAX => {
                self.tables.push(PaneTable::new(start));
                return Ok(self.tables.len() - 1);
            }
            None => {
                self.flush_table(0, cx)?;
                0
            }
        };
        self.tables[reused].start = start;
        Ok(reused)
    }

    /// Folds rows `from..to`, all of one pane.
    #[inline(always)]
    fn fold_run<R: Rows<Item = T>>(
        &mut self,
        rows: &R,
        from: usize,
        to: usize,
        start: i64,
        cx: &mut Cx<'_>,
    ) -> Result<(), Fault> {
        let table_index = self.table_of(start, cx)?;
        let table = &mut self.tables[table_index];
        let aggregate = &self.aggregate;
        for index in from..to {
            let row = rows.row(index);
            let folded = table.fold(
                self.key.key(row).borrow(),
                || aggregate.init(),
                |acc| aggregate.add(acc, aggregate.lift(row)),
            );
            if !folded {
                let single = Singles { rows, key: &self.key, aggregate, from: index, to: index + 1 };
                self.out.accept(&single, cx)?;
            }
        }
        table.rows_folded += (to - from) as u64;
        self.held = true;
        if table.taken.len() > ENTRIES_MAX {
            self.flush_table(table_index, cx)?;
        }
        Ok(())
    }
}

impl<G, A, O, T> Stage<T> for Combine<G, A, O, T>
where
    T: ?Sized + 'static,
    G: Keying<T>,
    A: Aggregate<T> + 'static,
    O: KeyedOut<G::Key, A::Acc>,
{
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        let count = rows.len();
        if self.aside_rows > 0 {
            // A watermark that is held back goes behind these rows too: no row follows one in the same breath, which may
            // have set off a firing.
            let watermark = self.watermark.take();
            self.flush(cx)?;
            self.aside_rows = self.aside_rows.saturating_sub(count as u64);
            let singles = Singles { rows, key: &self.key, aggregate: &self.aggregate, from: 0, to: count };
            self.out.accept(&singles, cx)?;
            return watermark.map_or(Ok(()), |watermark| self.out.signal(Signal::Watermark(watermark), cx));
        }
        let pane = match rows.times() {
            Some(times) => self.panes.of_times(times),
            None => self.panes.of_all(count, |index| rows.at(index)),
        };
        if let Some(pane) = pane {
            return self.fold_run(rows, 0, count, pane, cx);
        }
        for index in 0..count {
            self.pane_of[index] = self.panes.start_of(rows.at(index));
        }
        let mut from = 0;
        while from < count {
            let start = self.pane_of[from];
            let run = self.pane_of[from..count].iter().take_while(|pane| **pane == start).count();
            self.fold_run(rows, from, from + run, start, cx)?;
            from += run;
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        // Under load a watermark follows every batch, and flushing for each would undo the folding: it waits for the
        // next flush (the linger at most) behind the events it must not overtake.
        match signal {
            Signal::Watermark(watermark) if self.held && watermark < Timestamp::MAX => {
                self.watermark = Some(watermark);
                return Ok(());
            }
            _ => self.flush(cx)?,
        }
        self.out.signal(signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.out.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.out.resume(cx)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.out.states(visitor);
    }
}
