//! The far end of an edge: one task reads the buffers of all shards, aligns their barriers and merges their watermarks.

use std::marker::PhantomData;

use millstream_network::{Buffer, Control, Receiver};
use millstream_state::{Epoch, Fixed, Key};

use super::chain::Signal;
use super::exchange::Packed;
use super::keyed::{Contributions, KeyedOut};
use super::rows::BATCH_ROWS;
use crate::epoch::Barrier;
use crate::epoch::align::{Aligner, Said, WatermarkMerge};
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor, Task};
use crate::time::Timestamp;

/// Buffers taken from one input before the next one has its turn.
const BUFFERS_PER_TURN: usize = 4;
/// Rows handed over at once where they take long.
const BATCH_ROWS_MIN: usize = 64;
/// Slices of deferred work (a firing) done per turn, before input.
const SLICES_PER_TURN: usize = 16;

/// The task behind an exchange.
pub(crate) struct Merge<K, V, O> {
    inputs: Vec<Input>,
    align: Aligner,
    time: WatermarkMerge,
    /// Rows handed over at once: fewer while what is behind takes long.
    rows_max: usize,
    /// Batches of this step.
    batches: usize,
    out: O,
    row: PhantomData<fn() -> (K, V)>,
}

struct Input {
    receiver: Receiver,
    /// A buffer with rows for which there was no room behind, and how many of its rows have been taken.
    open: Option<(Buffer, usize)>,
    /// A barrier whose buffer was read while the windows before it still fire.
    barrier: Option<Barrier>,
}

impl<K: Key, V: Fixed, O: KeyedOut<K, V>> Merge<K, V, O> {
    pub(crate) fn new(receivers: Vec<Receiver>, out: O) -> Merge<K, V, O> {
        let inputs: Vec<_> =
            receivers.into_iter().map(|receiver| Input { receiver, open: None, barrier: None }).collect();
        let count = inputs.len();
        let (align, time) = (Aligner::new(count), WatermarkMerge::new(count));
        Merge { inputs, align, time, rows_max: BATCH_ROWS, batches: 0, out, row: PhantomData }
    }

    /// Takes the rows of a buffer from `taken` on for as long as there is time, and room behind, then the marks in its header;
    /// it then goes back to where it came from. True if there is time for another.
    fn take(&mut self, input: usize, buffer: Buffer, mut taken: usize, cx: &mut Cx<'_>) -> Result<bool, Fault> {
        if taken == 0 && self.inputs[input].receiver.is_from_elsewhere() && !Packed::<K, V>::are_rows(buffer.payload())
        {
            let from = buffer.header().route().from_shard;
            return Err(Fault::shard(format!(
                "what shard {from} in another process has sent is no rows of this job, though it came as it was sent: does \
                 that process run another build of the program? Start all of them from the same one"
            )));
        }
        let rows = Packed::<K, V>::new(buffer.payload());
        let mut has_time = true;
        while taken < rows.len() {
            if !self.out.ready() || !has_time {
                self.inputs[input].open = Some((buffer, taken));
                return Ok(false);
            }
            let batch = rows.batch(taken, self.rows_max);
            taken += batch.len();
            self.out.accept(&batch, cx)?;
            self.batches += 1;
            has_time = if self.rows_max < BATCH_ROWS { cx.has_time() } else { cx.has_time_after(self.batches) };
            let fitting = if has_time { self.rows_max * 2 } else { self.rows_max / 2 };
            self.rows_max = fitting.clamp(BATCH_ROWS_MIN, BATCH_ROWS);
        }
        self.mark(input, &buffer, cx)?;
        self.inputs[input].receiver.release(buffer);
        Ok(has_time)
    }

    /// Takes the marks in a buffer's header.
    fn mark(&mut self, input: usize, buffer: &Buffer, cx: &mut Cx<'_>) -> Result<(), Fault> {
        for control in buffer.header().controls() {
            let said = match control {
                Control::Watermark(watermark) => self.time.watermark(input, Timestamp(watermark)),
                Control::Idle => self.time.idle(input),
                Control::Barrier(epoch) => {
                    self.inputs[input].barrier = Some(Barrier { epoch: Epoch(epoch), last: false });
                    continue;
                }
                Control::End => {
                    let barrier = self.inputs[input].barrier.as_mut();
                    barrier.expect("an edge ends with a barrier").last = true;
                    continue;
                }
            };
            self.pass(said, cx)?;
        }
        Ok(())
    }

    fn pass(&mut self, said: Said, cx: &mut Cx<'_>) -> Result<(), Fault> {
        said.signals().try_for_each(|signal| self.out.signal(signal, cx))
    }

    /// Lets `input` meet the barrier it has read; passes it on when it was the last.
    fn meet(&mut self, input: usize, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let Some(barrier) = self.inputs[input].barrier.take() else { return Ok(()) };
        if let Some(barrier) = self.align.meet(input, barrier) {
            self.out.signal(Signal::Barrier(barrier), cx)?;
            cx.passed();
        }
        Ok(())
    }
}

impl<K: Key, V: Fixed, O: KeyedOut<K, V>> Task for Merge<K, V, O> {
    fn step(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.batches = 0;
        let mut progress = Progress::Idle;
        for _ in 0..SLICES_PER_TURN {
            match self.out.resume(cx)? {
                Progress::Worked => progress = Progress::Worked,
                stuck => {
                    progress = progress.or(stuck);
                    break;
                }
            }
            if !cx.has_time() {
                break;
            }
        }
        for input in 0..self.inputs.len() {
            for _ in 0..BUFFERS_PER_TURN {
                if self.align.holds_back(input) {
                    break;
                }
                if !self.out.ready() {
                    return Ok(progress.or(Progress::Blocked));
                }
                if self.inputs[input].barrier.is_some() {
                    // As at a source: what a flush sets off comes before the barrier.
                    self.out.signal(Signal::Flush, cx)?;
                    if !self.out.ready() {
                        return Ok(progress.or(Progress::Blocked));
                    }
                    self.meet(input, cx)?;
                    progress = Progress::Worked;
                    continue;
                }
                let Input { receiver, open, .. } = &mut self.inputs[input];
                let Some((buffer, taken)) = open.take().or_else(|| Some((receiver.receive()?, 0))) else { break };
                progress = Progress::Worked;
                if !self.take(input, buffer, taken, cx)? {
                    break;
                }
            }
        }
        Ok(progress)
    }

    fn flush(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.out.signal(Signal::Flush, cx)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.out.states(visitor);
    }
}
