//! The exchange: every contribution goes to the shard that owns its key, written once, read where it lies.
//!
//! ```text
//! contribution ─▶ hash64(key) ─▶ Assignment ─▶ stage of that shard ──whole lines──▶ open buffer ─▶ lane
//! ```
//!
//! A row on an edge is `| at 8 | key | value |` without padding, each part in its archived form, which for a
//! [`Fixed`] type is its own memory. Rows do not straddle buffers. Marks ride in the header of the buffer they follow.

#![expect(
    unsafe_code,
    reason = "rows are written to and read from raw buffer bytes; trial/edge.rs reads back what was written"
)]

use std::borrow::Borrow;
use std::marker::PhantomData;

use millstream_network::{
    Buffer, Control, PAYLOAD_BYTES_MAX, Sender, Solid, Stage as LineStage, Streaming, spread_over_two,
};
use millstream_state::{Fixed, Key, are_bytes_of};

use super::chain::Signal;
use super::keyed::{Contributions, KeyedOut};
use super::rows::BATCH_ROWS;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::time::Timestamp;

/// Rows spread over the stages before lines are flushed: few enough that all stages stay in the first-level cache.
const GROUP_ROWS: usize = 256;
/// A stage's share of a group, at most; rows over 64 bytes make smaller groups.
const GROUP_BYTES: usize = 16 << 10;
/// Lines leave a stage once so many bytes are there: eight lines amortise the call.
const FLUSH_BYTES: usize = 512;

/// One row on an edge.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Row<K, V> {
    at: i64,
    key: K,
    value: V,
}

// SAFETY: packed, so there is no padding between the fields, and `Fixed` proves that there is none inside them.
unsafe impl<K: Key, V: Fixed> Solid for Row<K, V> {}

/// Which shard owns which slice of the hash space: a table over the top 12 bits.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    shard_of: Box<[u16; 4096]>,
}

impl Assignment {
    /// Equal slices, in order.
    pub(crate) fn even(shards: u32) -> Assignment {
        assert!((1..=4096).contains(&shards), "between 1 and 4096 shards can share the hash space");
        let mut shard_of = Box::new([0; 4096]);
        for (slice, shard) in shard_of.iter_mut().enumerate() {
            *shard = (slice * shards as usize / 4096) as u16;
        }
        Assignment { shard_of }
    }

    #[inline(always)]
    pub(crate) fn shard_of(&self, hash: u64) -> usize {
        self.shard_of[(hash >> 52) as usize] as usize
    }
}

/// The sending end of an edge: one outlet per shard.
pub(crate) struct ToShards<K, V> {
    assignment: Assignment,
    outlets: Vec<Outlet>,
    /// The newest watermark met; it leaves with the next flush.
    watermark: Timestamp,
    /// No watermark is to be expected; this too leaves with the next flush, and a watermark takes it back.
    idle: bool,
    group_rows: usize,
    row: PhantomData<fn() -> (K, V)>,
}

/// The way to one shard: what is staged, the buffer being filled, the lane.
struct Outlet {
    stage: LineStage,
    open: Option<Buffer>,
    lane: Sender,
    /// How many buffers the lane has.
    buffers: usize,
    /// Rows of a batch that outgrew the buffers at hand, in order; nothing new is taken until they have left.
    spill: Vec<u8>,
    row_bytes: usize,
    sent_watermark: Timestamp,
    sent_idle: bool,
}

impl<K: Key, V: Fixed> ToShards<K, V> {
    const ROW_BYTES: usize = size_of::<Row<K, V>>();

    /// The end of the edge on `shard`, with a lane to every shard.
    pub(crate) fn new(shard: u32, lanes: Vec<Sender>) -> ToShards<K, V> {
        let () = const { K::PROOF };
        let () = const { V::PROOF };
        let group_rows = (GROUP_BYTES / Self::ROW_BYTES).clamp(1, GROUP_ROWS);
        let stage_bytes = group_rows * Self::ROW_BYTES + FLUSH_BYTES;
        let assignment = Assignment::even(lanes.len() as u32);
        let outlets = lanes
            .into_iter()
            .enumerate()
            .map(|(to, mut lane)| {
                // A shard reads its own lane on the core that fills it: there the lines had better stay in the cache.
                let how = if to == shard as usize { Streaming::Plain } else { Streaming::NonTemporal };
                let stage = LineStage::new(stage_bytes, how);
                let (row_bytes, buffers) = (Self::ROW_BYTES, lane.available());
                Outlet {
                    stage,
                    open: None,
                    lane,
                    buffers,
                    spill: Vec::new(),
                    row_bytes,
                    sent_watermark: Timestamp::MIN,
                    sent_idle: false,
                }
            })
            .collect();
        ToShards { assignment, outlets, watermark: Timestamp::MIN, idle: false, group_rows, row: PhantomData }
    }

    fn flush(&mut self) {
        for outlet in &mut self.outlets {
            outlet.flush(self.watermark, self.idle);
        }
    }
}

impl Outlet {
    /// Payload of a full buffer: whole rows.
    fn payload_max(&self) -> usize {
        PAYLOAD_BYTES_MAX / self.row_bytes * self.row_bytes
    }

    /// Buffers that a batch of the largest size may fill, beside the open one. Of rows that are so wide that half the lane
    /// would not do, what outgrows it spills.
    fn ready(&mut self) -> bool {
        self.unspill();
        let filled = (BATCH_ROWS * self.row_bytes).div_ceil(PAYLOAD_BYTES_MAX);
        self.spill.is_empty() && self.lane.available() > filled.min(self.buffers / 2)
    }

    fn open(&mut self) -> Option<Buffer> {
        self.open.take().or_else(|| self.lane.acquire())
    }

    fn send(&mut self, mut buffer: Buffer) {
        let rows = buffer.len() / self.row_bytes;
        buffer.header_mut().set_count(rows as u32);
        self.lane.send(buffer);
    }

    /// Moves whole lines out of the stage.
    #[inline]
    fn flush_lines(&mut self) {
        let payload_max = self.payload_max();
        while self.spill.is_empty()
            && let Some(mut buffer) = self.open()
        {
            let room = payload_max - buffer.len();
            if self.stage.len() <= room {
                self.stage.flush_lines(&mut buffer);
                self.open = Some(buffer);
                return;
            }
            self.stage.flush_bytes(room, &mut buffer);
            self.send(buffer);
        }
        self.spill();
    }

    /// No buffer is at hand in the middle of a batch, whose rows cannot be refused any more: they wait in memory, at
    /// most one batch's expansion of them.
    #[cold]
    fn spill(&mut self) {
        self.stage.drain_to(&mut self.spill);
    }

    /// Brings spilled rows to buffers that have come back.
    fn unspill(&mut self) {
        let payload_max = self.payload_max();
        while !self.spill.is_empty() {
            let Some(mut buffer) = self.open() else { return };
            let bytes = self.spill.len().min(payload_max - buffer.len());
            buffer.append(&self.spill[..bytes]);
            self.spill.drain(..bytes);
            if buffer.len() < payload_max {
                self.open = Some(buffer);
                return;
            }
            self.send(buffer);
        }
    }

    /// Sends everything that is here, with the marks behind it. Without a buffer it stays for the next time.
    fn flush(&mut self, watermark: Timestamp, idle: bool) {
        if let Some(buffer) = self.collect(watermark, idle) {
            self.send(buffer);
        }
    }

    /// The buffer that holds the last of what is here and the marks behind it; `None` if there is nothing to say or no
    /// buffer to say it in.
    fn collect(&mut self, watermark: Timestamp, idle: bool) -> Option<Buffer> {
        let held = self.open.as_ref().is_some_and(|buffer| !buffer.is_empty());
        let marks = watermark > self.sent_watermark || idle != self.sent_idle;
        if !held && self.stage.is_empty() && self.spill.is_empty() && !marks {
            return None;
        }
        self.unspill();
        if !self.spill.is_empty() {
            return None;
        }
        let payload_max = self.payload_max();
        loop {
            let mut buffer = self.open()?;
            let room = payload_max - buffer.len();
            if self.stage.len() > room {
                self.stage.flush_bytes(room, &mut buffer);
                self.send(buffer);
                continue;
            }
            self.stage.flush_all(&mut buffer);
            // Who was idle and is not any more says so by a watermark, if need be the last one again.
            if watermark > self.sent_watermark || (self.sent_idle && !idle) {
                buffer.header_mut().put(Control::Watermark(watermark.0));
                self.sent_watermark = watermark;
                self.sent_idle = false;
            }
            if idle && !self.sent_idle {
                buffer.header_mut().put(Control::Idle);
                self.sent_idle = true;
            }
            return Some(buffer);
        }
    }

    /// As `flush`, for a barrier, which must leave behind everything else: it comes only when [`ready`](Outlet::ready)
    /// said so after a flush.
    fn mark(&mut self, watermark: Timestamp, idle: bool, controls: &[Control]) {
        assert!(self.spill.is_empty(), "a barrier never overtakes spilled rows");
        let mut buffer = self
            .collect(watermark, idle)
            .or_else(|| self.open())
            .expect("a barrier comes only when the outlet is ready, and then a buffer is at hand");
        for control in controls {
            buffer.header_mut().put(*control);
        }
        self.send(buffer);
    }
}

impl<K: Key, V: Fixed> KeyedOut<K, V> for ToShards<K, V> {
    #[inline]
    fn accept<C: Contributions<K, V>>(&mut self, batch: &C, _cx: &mut Cx<'_>) -> Result<(), Fault> {
        let count = batch.len();
        let mut from = 0;
        while from < count {
            let to = (from + self.group_rows).min(count);
            let assignment = &self.assignment;
            let row = |index: usize| {
                let key = batch.key(index);
                let key: &K = key.borrow();
                let shard = assignment.shard_of(key.hash64());
                (shard, Row { at: batch.at(index).0, key: *key, value: batch.value(index) })
            };
            // A stage has room for a whole group beyond what is left in it after a flush, which is under `FLUSH_BYTES`.
            if let [first, second] = &mut self.outlets[..] {
                spread_over_two(&mut first.stage, &mut second.stage, to - from, |index| {
                    let (shard, row) = row(from + index);
                    (shard == 1, row)
                });
            } else {
                for index in from..to {
                    let (shard, row) = row(index);
                    self.outlets[shard].stage.push(row);
                }
            }
            for outlet in &mut self.outlets {
                if outlet.stage.len() >= FLUSH_BYTES {
                    outlet.flush_lines();
                }
            }
            from = to;
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal, _cx: &mut Cx<'_>) -> Result<(), Fault> {
        match signal {
            // It leaves with the next flush, behind every row that came before it; a flush comes within the linger.
            Signal::Watermark(watermark) => {
                self.watermark = self.watermark.max(watermark);
                self.idle = false;
                if watermark == Timestamp::MAX {
                    self.flush();
                }
            }
            Signal::Flush => self.flush(),
            // It need not find a buffer at hand, so it waits for a flush like a watermark.
            Signal::Idle => self.idle = true,
            Signal::Active => self.idle = false,
            Signal::Barrier(barrier) => {
                let marks = [Control::Barrier(barrier.epoch.0), Control::End];
                let marks = if barrier.last { &marks[..] } else { &marks[..1] };
                for outlet in &mut self.outlets {
                    outlet.mark(self.watermark, self.idle, marks);
                }
            }
            Signal::Split(_) => {}
        }
        Ok(())
    }

    fn ready(&mut self) -> bool {
        self.outlets.iter_mut().all(Outlet::ready)
    }

    fn resume(&mut self, _cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        Ok(Progress::Idle)
    }

    fn states(&mut self, _visitor: &mut dyn StateVisitor) {}
}

/// The sending end of an edge whose rows go to all shards. They have no key.
pub(crate) struct ToAll<V>(ToShards<u8, V>);

impl<V: Fixed> ToAll<V> {
    /// As [`ToShards::new`].
    pub(crate) fn new(shard: u32, lanes: Vec<Sender>) -> ToAll<V> {
        ToAll(ToShards::new(shard, lanes))
    }
}

impl<V: Fixed> KeyedOut<u8, V> for ToAll<V> {
    fn accept<C: Contributions<u8, V>>(&mut self, batch: &C, _cx: &mut Cx<'_>) -> Result<(), Fault> {
        for from in (0..batch.len()).step_by(self.0.group_rows) {
            let to = (from + self.0.group_rows).min(batch.len());
            for outlet in &mut self.0.outlets {
                for index in from..to {
                    outlet.stage.push(Row { at: batch.at(index).0, key: 0_u8, value: batch.value(index) });
                }
                if outlet.stage.len() >= FLUSH_BYTES {
                    outlet.flush_lines();
                }
            }
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.0.signal(signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.0.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.0.resume(cx)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.0.states(visitor);
    }
}

/// The sending end of an edge whose rows go to the shards in turn. They have no key.
pub(crate) struct ToEachInTurn<V> {
    to: ToShards<u8, V>,
    turn: usize,
}

impl<V: Fixed> ToEachInTurn<V> {
    /// As [`ToShards::new`]. The first row stays, so that shards with few rows do not all give theirs to the first one.
    pub(crate) fn new(shard: u32, lanes: Vec<Sender>) -> ToEachInTurn<V> {
        ToEachInTurn { to: ToShards::new(shard, lanes), turn: shard as usize }
    }
}

impl<V: Fixed> KeyedOut<u8, V> for ToEachInTurn<V> {
    fn accept<C: Contributions<u8, V>>(&mut self, batch: &C, _cx: &mut Cx<'_>) -> Result<(), Fault> {
        let ToEachInTurn { to, turn } = self;
        for from in (0..batch.len()).step_by(to.group_rows) {
            for index in from..batch.len().min(from + to.group_rows) {
                to.outlets[*turn].stage.push(Row { at: batch.at(index).0, key: 0_u8, value: batch.value(index) });
                *turn = if *turn + 1 == to.outlets.len() { 0 } else { *turn + 1 };
            }
            for outlet in &mut to.outlets {
                if outlet.stage.len() >= FLUSH_BYTES {
                    outlet.flush_lines();
                }
            }
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.to.signal(signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.to.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.to.resume(cx)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.to.states(visitor);
    }
}

/// The rows of a received buffer, read where they lie.
pub(crate) struct Packed<'a, K, V> {
    rows: &'a [Row<K, V>],
}

impl<'a, K: Key, V: Fixed> Packed<'a, K, V> {
    /// Sees a payload as rows: of our own process, or one that [`are_rows`](Packed::are_rows) has looked at.
    pub(crate) fn new(payload: &'a [u8]) -> Packed<'a, K, V> {
        let bytes = size_of::<Row<K, V>>();
        assert!(payload.len().is_multiple_of(bytes), "rows do not straddle buffers");
        // SAFETY: the payload was written by `ToShards<K, V>` of the same edge, row after row, in this process; or it was
        // written in another and its values are such as the types have. A packed row asks for no alignment.
        let rows = unsafe { std::slice::from_raw_parts(payload.as_ptr().cast(), payload.len() / bytes) };
        Packed { rows }
    }

    /// Whether a payload that another process has written is rows: whole ones, each of values that its types have. Of types
    /// that have every value, nothing is read.
    pub(crate) fn are_rows(payload: &[u8]) -> bool {
        let (bytes, key_at) = (size_of::<Row<K, V>>(), size_of::<i64>());
        let value_at = key_at + size_of::<K>();
        let is_row = |row: &[u8]| are_bytes_of::<K>(&row[key_at..value_at]) && are_bytes_of::<V>(&row[value_at..]);
        payload.len().is_multiple_of(bytes) && payload.chunks_exact(bytes).all(is_row)
    }

    /// The rows from `from` on, at most `rows_max`.
    #[inline]
    pub(crate) fn batch(&self, from: usize, rows_max: usize) -> Packed<'a, K, V> {
        Packed { rows: &self.rows[from..(from + rows_max).min(self.rows.len())] }
    }
}

/// A key of a received row: where it lies if every address will do for it, else a copy.
pub(crate) enum RowKey<'a, K> {
    At(&'a K),
    Copied(K),
}

impl<K> Borrow<K> for RowKey<'_, K> {
    #[inline(always)]
    fn borrow(&self) -> &K {
        match self {
            RowKey::At(key) => key,
            RowKey::Copied(key) => key,
        }
    }
}

impl<K: Key, V: Fixed> Contributions<K, V> for Packed<'_, K, V> {
    type KeyOut<'b>
        = RowKey<'b, K>
    where
        Self: 'b;

    #[inline(always)]
    fn len(&self) -> usize {
        self.rows.len()
    }

    #[inline(always)]
    fn at(&self, index: usize) -> Timestamp {
        Timestamp(self.rows[index].at)
    }

    #[inline(always)]
    fn key(&self, index: usize) -> RowKey<'_, K> {
        let row = &self.rows[index];
        if const { align_of::<K>() == 1 } {
            let key = &raw const row.key;
            // SAFETY: a field of a row that is borrowed as long; no address is misaligned for it.
            RowKey::At(unsafe { &*key })
        } else {
            RowKey::Copied(row.key)
        }
    }

    #[inline(always)]
    fn value(&self, index: usize) -> V {
        self.rows[index].value
    }
}
