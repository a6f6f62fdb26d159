//! A barrier's road through a table: freeze → drain → take chunks → confirm, or abort.
//!
//! ```text
//!  freeze   masks ⇄ frozen, the list of dirty pages set aside: O(1)
//!  drain    1 pages   a record for every frozen page: its dirty lines, or all of it where that is shorter
//!           2 gone    a record for every page given up
//!           3 sweep   whole records of pages nobody asked for, round robin, so that old files fall out of the chain
//!  confirm  the frozen masks are cleared, the chain gains a file
//!  abort    the frozen masks are ORed back, the sweep goes back to where it was
//! ```
//!
//! **Copy-on-write is serialisation.** A write to a page that phase 1 has not reached emits the page's record first.
//!
//! **Whole pages are those with a full mask.** A new page's mask is full, so its first record is whole. A page that the
//! sweep wants but that was written since the barrier can no longer be recorded as it was; its mask is filled instead,
//! and the next snapshot has it whole. An abort ORs full masks back like any other. So wholeness needs no flag.
//!
//! **The bound.** Every page leans on the file of its last whole record. Sweeping a share r of what the snapshot wrote
//! anyway, the sweep comes round once per 1/r times the size of all whole records, so the chain is 1 + 1/r times that,
//! and one snapshot. Whole records leave out empty slots and pages are at most 90 % full. Where the smooth sweep would
//! not do, after a big drop or with snapshots about as big as the state, one snapshot is taken whole
//! ([`Open::everything`]): the chain is then that one file.
//!
//! **The budget.** The sweep writes no more than its owner allows for this snapshot, a byte rate times the time since the
//! last one. Where a whole snapshot would take more than that, the sweep takes what it may each time instead, and comes
//! round in as many snapshots as it needs.

use crate::Epoch;
use crate::chain::SnapshotNumber;
use crate::dirty::Pages;
use crate::segment::{Kind, PAGE_BYTES};
use crate::snapshot::{self, FileRef, lines_bytes};

/// The sweep's share of a snapshot's other bytes. With 0.65 a scattered update costs 1.65 × 72 bytes, and the chain
/// settles at 1 + 1/0.65 = 2.54 × the whole records, themselves at most 0.92 of the pages: 2.34.
const SWEEP_SHARE: f64 = 0.65;

/// What a restore reads is kept below this times the pages in use, with a margin below the promised 2.5 …
const CHAIN_BYTES_PER_LIVE_BYTE: f64 = 2.4;
/// … and below this constant besides, so that a table of three pages does not count its files' padding.
const CHAIN_BYTES_FREE: u64 = 256 << 10;

/// What a sweep pays for passing by a page, so that a table full of free pages does not hold the loop up.
const PASSING_BYTES: i64 = 16;

/// How far a [`drain`](crate::Table::drain) came.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// There is more to write: call again, next turn.
    More,
    /// Every record is in a chunk, the last chunk included.
    Done,
}

/// What one snapshot wrote, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct SnapshotSize {
    /// Pages with lines changed since the barrier before.
    pub dirty_pages: u64,
    /// Those lines.
    pub dirty_lines: u64,
    /// Bytes of the records that hold them.
    pub dirty_bytes: u64,
    /// Bytes of the records written to keep restores short.
    pub swept_bytes: u64,
}

/// An open snapshot: between freeze and confirm or abort.
pub(crate) struct Open {
    pub(crate) number: SnapshotNumber,
    epoch: Epoch,
    /// Pages whose frozen mask may not be zero; some twice.
    pages: Vec<u32>,
    pages_done: usize,
    gone: Vec<(u32, SnapshotNumber)>,
    gone_done: usize,
    /// Pages given up before they were written, kept as they are until then.
    limbo: Vec<u32>,
    /// Pages written whole, and their bases before.
    rebased: Vec<(u32, SnapshotNumber)>,
    /// Whether every page is written whole, because the chain has grown too long.
    everything: bool,
    /// Whether the sweep takes all it may, for the same reason.
    catching_up: bool,
    sweep_from: u32,
    /// Pages numbered below this are swept: those there were at the barrier.
    sweep_below: u32,
    sweep_left: u32,
    sweep_owed: Option<i64>,
    size: SnapshotSize,
    ended: bool,
}

impl Pages {
    pub(crate) fn freeze(&mut self, epoch: Epoch) {
        assert!(self.open.is_none(), "the snapshot before {epoch:?} is still open");
        self.segment.swap_masks();
        let pages = std::mem::take(&mut self.dirty);
        let guess = pages.len() as f64 * self.bytes_per_dirty_page as f64 * (1.0 + SWEEP_SHARE);
        let too_long = self.chain.bytes() as f64 + guess > self.chain_bytes_max();
        let rest = self.in_use as f64 * PAGE_BYTES as f64 - pages.len() as f64 * self.bytes_per_dirty_page as f64;
        let everything = too_long && rest <= self.consolidation_bytes_max as f64;
        self.open = Some(Open {
            number: self.chain.open(),
            epoch,
            pages,
            pages_done: 0,
            gone: std::mem::take(&mut self.gone),
            gone_done: 0,
            limbo: Vec::new(),
            rebased: Vec::new(),
            everything,
            catching_up: too_long && !everything,
            sweep_from: self.sweep_at,
            sweep_below: self.handed_out,
            sweep_left: self.handed_out,
            sweep_owed: None,
            size: SnapshotSize::default(),
            ended: false,
        });
        self.note_freeze();
    }

    fn chain_bytes_max(&self) -> f64 {
        CHAIN_BYTES_PER_LIVE_BYTE * self.in_use as f64 * PAGE_BYTES as f64 + CHAIN_BYTES_FREE as f64
    }

    /// Whether the open snapshot still needs the page as it is. Pages handed out since the barrier count as drained.
    fn awaits(&self, open: &Open, page: u32) -> bool {
        self.segment.drained.get(page) != open.number && (open.everything || self.segment.frozen.get(page) != 0)
    }

    /// Copy-on-write: to be called before a page's first change since the barrier.
    pub(crate) fn emit_before_write(&mut self, page: u32) {
        if let Some(mut open) = self.open.take() {
            if !open.ended && self.awaits(&open, page) {
                self.emit(&mut open, page);
            }
            self.open = Some(open);
        }
    }

    /// Whether a page being given up must wait for the open snapshot; it is released when that has written it.
    pub(crate) fn keeps_for_snapshot(&mut self, page: u32) -> bool {
        let Some(mut open) = self.open.take() else { return false };
        let keeps = !open.ended && self.awaits(&open, page);
        if keeps {
            open.limbo.push(page);
        }
        self.open = Some(open);
        keeps
    }

    /// Bytes of a page's whole record.
    fn whole_bytes(&self, page: u32) -> usize {
        let descriptor = self.segment.descriptors.get(page);
        let layout = &self.states[descriptor.state as usize].layout;
        snapshot::whole_bytes(layout, &descriptor, self.segment.page(page))
    }

    /// The frozen page's record: its dirty lines, or all of it.
    fn emit(&mut self, open: &mut Open, page: u32) {
        let descriptor = self.segment.descriptors.get(page);
        let mask = self.segment.frozen.get(page);
        let whole = self.whole_bytes(page);
        self.begin(open);
        let bytes = if open.everything || mask == u64::MAX || whole <= lines_bytes(mask) {
            self.emit_whole(open, page);
            whole
        } else {
            self.writer.lines(page, descriptor.count, mask, self.segment.page(page));
            lines_bytes(mask)
        };
        self.segment.drained.set(page, open.number);
        if mask != 0 {
            self.note_checksum(page);
            open.size.dirty_pages += 1;
            open.size.dirty_lines += u64::from(mask.count_ones());
            open.size.dirty_bytes += bytes as u64;
        } else {
            open.size.swept_bytes += bytes as u64;
        }
    }

    fn emit_whole(&mut self, open: &mut Open, page: u32) {
        let base = self.segment.base.get(page);
        let descriptor = self.segment.descriptors.get(page);
        let state = &self.states[descriptor.state as usize];
        self.writer.whole(&state.layout, state.ways.pack, page, &descriptor, self.segment.page(page));
        if base != open.number {
            self.chain.leave(base);
            self.chain.lean(open.number);
            open.rebased.push((page, base));
            self.segment.base.set(page, open.number);
            self.note_base(page, open.number, base);
        }
    }

    /// The first record brings the file into being.
    fn begin(&mut self, open: &Open) {
        if !self.writer.has_begun() {
            self.header.epoch = open.epoch;
            self.writer.begin(&self.header);
        }
    }

    pub(crate) fn drain(&mut self, bytes_max: usize) -> Drained {
        let Some(mut open) = self.open.take() else { return Drained::Done };
        let drained = self.drain_open(&mut open, i64::try_from(bytes_max).unwrap_or(i64::MAX));
        self.open = Some(open);
        drained
    }

    fn drain_open(&mut self, open: &mut Open, mut slice: i64) -> Drained {
        if open.ended {
            return Drained::Done;
        }
        while let Some(&page) = open.pages.get(open.pages_done) {
            if slice <= 0 {
                return Drained::More;
            }
            open.pages_done += 1;
            slice -= PASSING_BYTES;
            // Not every page in the list awaits: some were written to already, some given up before the barrier.
            if self.segment.drained.get(page) != open.number && self.segment.frozen.get(page) != 0 {
                let before = open.size;
                self.emit(open, page);
                slice -= (open.size.dirty_bytes - before.dirty_bytes) as i64;
            }
        }
        while let Some(&(page, base)) = open.gone.get(open.gone_done) {
            if slice <= 0 {
                return Drained::More;
            }
            open.gone_done += 1;
            slice -= PASSING_BYTES;
            self.chain.leave(base);
            // Handed out again before the barrier, the page has a whole record, which says enough.
            if self.segment.frozen.get(page) == 0 {
                self.begin(open);
                self.writer.gone(page);
            }
        }
        if !self.sweep(open, &mut slice) {
            return Drained::More;
        }
        // Pages in limbo were frozen, or everything was to be written: by now they are.
        for page in std::mem::take(&mut open.limbo) {
            self.release(page);
        }
        if self.writer.has_begun() {
            self.writer.end();
        }
        let dirty_pages = open.size.dirty_pages.max(1);
        self.bytes_per_dirty_page = open.size.dirty_bytes.div_ceil(dirty_pages);
        open.ended = true;
        Drained::Done
    }

    /// Writes whole pages until enough are written; false if the slice ends before that.
    fn sweep(&mut self, open: &mut Open, slice: &mut i64) -> bool {
        let dirty_bytes = open.size.dirty_bytes as f64;
        // The bigger the snapshots, the fewer of them a round of the sweep takes, and the more the last one weighs in the
        // chain: so the share grows with the snapshot's part of the state.
        let share = SWEEP_SHARE + (dirty_bytes / (self.in_use.max(1) as f64 * PAGE_BYTES as f64)).min(0.5);
        let budget = i64::try_from(self.consolidation_bytes_max).unwrap_or(i64::MAX);
        let due = if open.catching_up { budget } else { (dirty_bytes * share) as i64 + self.sweep_carry };
        let mut owed = open.sweep_owed.unwrap_or(due.min(budget));
        while open.sweep_left > 0 && (owed > 0 || open.everything) {
            if *slice <= 0 {
                open.sweep_owed = Some(owed);
                return false;
            }
            let page = if self.sweep_at < open.sweep_below { self.sweep_at } else { 0 };
            self.sweep_at = page + 1;
            open.sweep_left -= 1;
            *slice -= PASSING_BYTES;
            let descriptor = self.segment.descriptors.get(page);
            let fresh = self.segment.drained.get(page) == open.number && self.segment.frozen.get(page) == 0;
            if descriptor.kind == Kind::Free || self.segment.base.get(page) == open.number || fresh {
                continue;
            }
            let bytes = self.whole_bytes(page);
            if self.segment.masks.get(page) == 0 {
                // Untouched since the barrier, whether the snapshot has lines of it or not.
                self.begin(open);
                self.emit_whole(open, page);
                self.segment.drained.set(page, open.number);
                open.size.swept_bytes += bytes as u64;
                *slice -= bytes as i64;
            } else {
                self.segment.masks.set(page, u64::MAX);
            }
            owed -= bytes as i64;
        }
        // What the last page was too much is taken off the next sweep; what a round could not find is forgiven.
        self.sweep_carry = owed.min(0);
        true
    }

    pub(crate) fn size(&self) -> SnapshotSize {
        self.open.as_ref().map_or(SnapshotSize::default(), |open| open.size)
    }

    pub(crate) fn files(&self, newest: Option<&FileRef>) -> Vec<FileRef> {
        self.chain.files(newest)
    }

    /// The same, said before the manifest with this chain is written: from then on there may be a checkpoint of it.
    pub(crate) fn files_of_open(&mut self, newest: Option<&FileRef>) -> Vec<FileRef> {
        let files = self.files(newest);
        if self.open.as_ref().is_some_and(|open| open.ended) {
            self.note_chain(&files, self.chain.numbers(newest.is_some()));
        }
        files
    }

    pub(crate) fn confirm(&mut self, file: Option<FileRef>) {
        let open = self.open.take().expect("confirm follows freeze");
        assert!(open.ended, "a snapshot is drained before it is confirmed");
        assert!(self.writer.is_empty(), "every chunk is taken before the snapshot is confirmed");
        for page in open.pages {
            self.segment.frozen.set(page, 0);
        }
        // There is a manifest, even where nobody asked for the chain that it names.
        self.note_chain(&self.files(file.as_ref()), self.chain.numbers(file.is_some()));
        self.chain.confirm(file);
        self.note_confirm();
    }

    pub(crate) fn abort(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.note_abort();
        self.writer.abandon();
        for page in open.limbo {
            self.release(page);
        }
        let mut base_before = std::collections::HashMap::with_capacity(open.rebased.len());
        for (page, base) in open.rebased {
            self.chain.leave(open.number);
            self.chain.lean(base);
            // A page given up since, and perhaps handed out again, leans on nothing; its grave below does.
            if self.segment.base.get(page) == open.number {
                self.segment.base.set(page, base);
            } else {
                base_before.insert(page, base);
            }
        }
        let mut gone = open.gone;
        for &(_, base) in &gone[..open.gone_done] {
            self.chain.lean(base);
        }
        for (page, base) in std::mem::take(&mut self.gone) {
            let base = if base == open.number { base_before.get(&page).copied().unwrap_or(0) } else { base };
            if base != 0 {
                gone.push((page, base));
            }
        }
        self.gone = gone;
        for page in open.pages {
            let frozen = self.segment.frozen.get(page);
            self.segment.frozen.set(page, 0);
            if frozen != 0 && self.segment.descriptors.get(page).kind != Kind::Free {
                let mask = self.segment.masks.get(page);
                self.segment.masks.set(page, mask | frozen);
                if mask == 0 {
                    self.dirty.push(page);
                }
            }
        }
        self.sweep_at = open.sweep_from;
        self.chain.withdraw();
    }
}
