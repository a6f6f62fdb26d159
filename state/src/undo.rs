//! The undo log of a segment in a file: what every page was at the last barriers, from its first change on.
//!
//! ```text
//! barrier 7 ──────────────── barrier 8 ──────────────── now
//!           log of 7: pages             log of 8: pages
//!           first changed here          first changed here       as they were at the barrier
//! ```
//!
//! Pages that changed since barrier 7 are what the logs of 7 and 8 have, the older record counting; all others are as they
//! were. So a process that ended anywhere left a segment from which either barrier can be had without reading a file.
//!
//! **Order is all.** A record is whole before it is counted, and counted before the page changes. A thread that is killed
//! leaves a prefix of its stores, in the order of the program: [`SegmentFile::publish`] keeps the compiler to it. Whatever is
//! more than one word is written beside what holds, and a word then says that it holds.
//!
//! **The bound.** Of a page there is one record per barrier that can be returned to, and there are two at most: the last
//! confirmed and the open one. Aborted snapshots leave their logs to the barrier before; where that takes more than room for
//! three times the pages, or memory is short, the log is given up, and until the next barrier is confirmed a restart reads
//! the checkpoint. What a confirmed barrier makes superfluous is used again; of that, as much as the last epoch took is kept.

use std::collections::{HashSet, VecDeque};
use std::io;

use serde::{Deserialize, Serialize};

use crate::backing::{
    DESCRIPTOR_BYTES, KIND_AT, MARKS_AT, PIECE_RECORDS, SLOT_BYTES, SLOTS_AT, SegmentFile, checksum, seal_text,
    sealed_text,
};
use crate::dirty::Pages;
use crate::hash;
use crate::revive::Doubt;
use crate::segment::{Kind, PAGE_BYTES};
use crate::snapshot::FileRef;

/// Where the counts of the logs lie: a word for each generation, in turn.
const COUNTS_AT: usize = MARKS_AT + 64;
/// So many generations can be told apart; the logs of more are given up.
const GENERATIONS_MAX: u32 = 64;
/// What is mixed into the word that says which slot holds, so that no count is taken for it.
const WHICH_SLOT: u32 = u32::from_le_bytes(*b"slot");

const PIECE_MAGIC: u32 = u32::from_le_bytes(*b"MSun");
const RECORD_BYTES: usize = 64;

/// Pieces that are always kept for the next log, and how many are given back at one barrier at most: 4 MiB take the kernel
/// some 300 µs.
const SPARE_PIECES: usize = 4;
const CUT_PIECES: usize = 16;

/// What a segment knows, as it is written into a slot.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Slot {
    /// The number of the newest log.
    pub(crate) generation: u32,
    /// Of the states and their order.
    pub(crate) states: u64,
    /// The newest snapshot's number: no later one may have it too.
    pub(crate) last_number: u32,
    /// The barriers that can be returned to, the older one first.
    pub(crate) barriers: Vec<Barrier>,
}

/// A barrier that can be returned to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Barrier {
    /// The first log of what changed since.
    pub(crate) generation: u32,
    /// Pages there were.
    pub(crate) handed_out: u32,
    /// Of the chain of files that a checkpoint of it has; none until all of its snapshot is written.
    pub(crate) chain: Option<u64>,
    /// The numbers of those files, by which pages say on which they lean.
    pub(crate) numbers: Vec<u32>,
}

/// The log of one segment.
#[derive(Default)]
pub(crate) struct Undo {
    /// While nobody has decided about what the file holds: what speaks against it so far.
    pub(crate) found: Option<Option<Doubt>>,
    sequence: u32,
    slot: Slot,
    /// The newest barrier's snapshot is neither confirmed nor aborted.
    open: bool,
    /// In the newest log.
    records: u32,
    /// Pieces in use, in the order of their records, with the log they belong to.
    pieces: VecDeque<(u32, u32)>,
    spare: Vec<u32>,
    /// Pieces that may have no memory.
    cut: Vec<u32>,
    /// Pieces numbered below this are in one of the lists.
    pieces_known: u32,
    /// By page, the last log that has it.
    logged: Vec<u32>,
    /// How many states there were when they were looked at, and what came of it.
    states: (usize, u64),
}

/// One page as it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) page: u32,
    pub(crate) descriptor: [u8; DESCRIPTOR_BYTES],
    pub(crate) checksum: u32,
}

impl Record {
    /// Whether there are contents with it.
    pub(crate) fn in_use(&self) -> bool {
        self.descriptor[KIND_AT] != Kind::Free as u8
    }
}

/// Which chain of files a checkpoint has: of equal chains, the state is equal.
pub(crate) fn chain_print(files: &[FileRef]) -> u64 {
    let mut bytes = Vec::new();
    for file in files {
        bytes.extend_from_slice(&(file.name.len() as u64).to_le_bytes());
        bytes.extend_from_slice(file.name.as_bytes());
        bytes.extend_from_slice(&file.bytes.to_le_bytes());
        bytes.extend_from_slice(&file.crc32c.to_le_bytes());
    }
    hash::bytes(&bytes)
}

/// A number and its checksum in one word.
fn sealed_word(number: u32, salt: u32) -> u64 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &number.to_le_bytes());
    u64::from(number) | u64::from(crc) << 32
}

fn number_of(word: u64, salt: u32) -> Option<u32> {
    (sealed_word(word as u32, salt) == word).then_some(word as u32)
}

fn count_at(generation: u32) -> usize {
    COUNTS_AT + (generation % GENERATIONS_MAX) as usize * 8
}

/// The slot that holds, and its number; none if it is not what was written.
pub(crate) fn read_slot(file: &SegmentFile) -> Option<(u32, Slot)> {
    let sequence = number_of(file.word(MARKS_AT), WHICH_SLOT)?;
    let text = sealed_text(file.bytes(SLOTS_AT + (sequence as usize & 1) * SLOT_BYTES, SLOT_BYTES))?;
    let (written, text) = text.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*written) == sequence).then_some(())?;
    Some((sequence, serde_json::from_slice(text).ok()?))
}

/// How many records a log has; none if that is not what was written.
pub(crate) fn read_count(file: &SegmentFile, generation: u32) -> Option<u32> {
    number_of(file.word(count_at(generation)), generation)
}

/// Of which log a piece is, and which of its pieces; none if it is of none.
pub(crate) fn read_piece(file: &SegmentFile, piece: u32) -> Option<(u32, u32)> {
    let mut header = [0; 16];
    file.read_log(piece, &mut header).ok()?;
    let (generation, nth) = (u32_at(&header, 4), u32_at(&header, 8));
    (header == piece_header(generation, nth)).then_some((generation, nth))
}

fn piece_header(generation: u32, nth: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&PIECE_MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&generation.to_le_bytes());
    header[8..12].copy_from_slice(&nth.to_le_bytes());
    let crc = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Where in a piece a record's header and contents lie.
fn places(file: &SegmentFile, piece: u32, index: u32) -> (usize, usize) {
    let at = 1 + index as usize % PIECE_RECORDS;
    (file.piece_at(piece) + at * RECORD_BYTES, file.piece_at(piece) + at * PAGE_BYTES)
}

/// The records of a piece of a log, `records` from the one of number `first`, without their contents; none if they are not
/// what was written.
pub(crate) fn read_records(
    file: &SegmentFile,
    piece: u32,
    generation: u32,
    first: u32,
    records: u32,
) -> Option<Vec<Record>> {
    let mut headers = [0; PAGE_BYTES];
    file.read_log(piece, &mut headers).ok()?;
    let headers = headers.as_chunks::<RECORD_BYTES>().0.iter().skip(1);
    let read = |(header, index): (&[u8; RECORD_BYTES], u32)| {
        let descriptor = header[16..16 + DESCRIPTOR_BYTES].try_into().expect("as many bytes");
        let record = Record { page: u32_at(header, 0), descriptor, checksum: u32_at(header, 12) };
        (*header == record_header(generation, index, &record)).then_some(record)
    };
    headers.zip(first..first + records).map(read).collect()
}

fn record_header(generation: u32, index: u32, record: &Record) -> [u8; RECORD_BYTES] {
    let mut header = [0; RECORD_BYTES];
    for (at, number) in [record.page, generation, index, record.checksum].into_iter().enumerate() {
        header[at * 4..at * 4 + 4].copy_from_slice(&number.to_le_bytes());
    }
    header[16..16 + DESCRIPTOR_BYTES].copy_from_slice(&record.descriptor);
    let crc = crc32c::crc32c(&header[..RECORD_BYTES - 4]);
    header[RECORD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

impl Undo {
    /// Of a file about whose contents nobody has decided.
    pub(crate) fn new(doubt: Option<Doubt>) -> Undo {
        Undo { found: Some(doubt), ..Undo::default() }
    }

    /// Throws away what the file holds.
    pub(crate) fn make_anew(&mut self, file: &mut SegmentFile) -> bool {
        match file.make_anew() {
            Ok(()) => {
                *self = Undo::default();
                self.publish(file);
                true
            }
            Err(error) => {
                file.trouble = Some(error);
                false
            }
        }
    }

    /// Goes on with what a file holds: the slot that held, the one barrier that was returned to, and the pieces in use, in
    /// the order of their records.
    pub(crate) fn go_on(
        &mut self,
        file: &mut SegmentFile,
        (sequence, slot): (u32, Slot),
        barrier: Barrier,
        pieces: Vec<(u32, u32)>,
    ) -> io::Result<()> {
        self.sequence = sequence;
        self.records = read_count(file, slot.generation).unwrap_or(0);
        self.slot = Slot { barriers: vec![barrier], ..slot };
        self.open = false;
        // The next record goes into the last of them.
        pieces.last().map_or(Ok(()), |&(_, piece)| file.allocate_piece(piece))?;
        let known = file.pieces();
        self.pieces_known = known.iter().max().map_or(0, |piece| piece + 1);
        let used: HashSet<u32> = pieces.iter().map(|&(_, piece)| piece).collect();
        self.cut = known.into_iter().filter(|piece| !used.contains(piece)).collect();
        // Two pieces must never say the same of themselves: one may have been begun for a record that was never counted.
        self.cut.iter().try_for_each(|&piece| file.blot_piece(piece))?;
        self.pieces = pieces.into();
        self.publish(file);
        Ok(())
    }

    /// A page that one of the logs has.
    pub(crate) fn note_logged(&mut self, page: u32) {
        let at = page as usize;
        if at >= self.logged.len() {
            self.logged.resize(at + 1, 0);
        }
        self.logged[at] = self.slot.generation;
    }

    fn publish(&mut self, file: &mut SegmentFile) {
        self.sequence += 1;
        let seal = |slot: &Slot, sequence: u32| {
            let text = serde_json::to_vec(slot).expect("numbers always serialise");
            seal_text(&[&sequence.to_le_bytes()[..], &text].concat())
        };
        let mut sealed = seal(&self.slot, self.sequence);
        if sealed.len() > SLOT_BYTES {
            // Without the numbers every page is taken to lean on the oldest file, which is never wrong.
            self.slot.barriers.iter_mut().for_each(|barrier| barrier.numbers.clear());
            sealed = seal(&self.slot, self.sequence);
        }
        let at = SLOTS_AT + (self.sequence as usize & 1) * SLOT_BYTES;
        file.bytes_mut(at, sealed.len()).copy_from_slice(&sealed);
        file.publish(MARKS_AT, sealed_word(self.sequence, WHICH_SLOT));
    }

    /// To be called before a page's contents or descriptor change: puts it into the log, if a barrier needs it as it is.
    fn before_change(&mut self, file: &mut SegmentFile, page: u32) {
        let Some(newest) = self.slot.barriers.last() else { return };
        let logged = self.logged.get(page as usize).copied().unwrap_or(0);
        if page >= newest.handed_out || logged >= newest.generation {
            return;
        }
        if !self.append(file, page) {
            self.forget(file);
            return;
        }
        self.note_logged(page);
    }

    fn append(&mut self, file: &mut SegmentFile, page: u32) -> bool {
        let index = self.records;
        if (index as usize).is_multiple_of(PIECE_RECORDS) && !self.add_piece(file, index / PIECE_RECORDS as u32) {
            return false;
        }
        let &(_, piece) = self.pieces.back().expect("the log's first record has brought a piece");
        let (header_at, contents_at) = places(file, piece, index);
        let descriptor = file.descriptor(page);
        let in_use = descriptor[KIND_AT] != Kind::Free as u8;
        if in_use {
            file.copy_page(file.page_at(page), contents_at);
        }
        let contents = if in_use { file.bytes(contents_at, PAGE_BYTES) } else { &[] };
        let checksum = checksum(page, &descriptor, contents);
        let record = Record { page, descriptor, checksum };
        let header = record_header(self.slot.generation, index, &record);
        file.bytes_mut(header_at, RECORD_BYTES).copy_from_slice(&header);
        self.records += 1;
        file.publish(count_at(self.slot.generation), sealed_word(self.records, self.slot.generation));
        true
    }

    fn add_piece(&mut self, file: &mut SegmentFile, nth: u32) -> bool {
        let piece = self.spare.pop().or_else(|| {
            let piece = self.cut.pop().unwrap_or(self.pieces_known);
            let has_memory = piece < file.pieces_max && file.allocate_piece(piece).is_ok();
            if has_memory {
                self.pieces_known = self.pieces_known.max(piece + 1);
            } else if piece < self.pieces_known {
                self.cut.push(piece);
            }
            has_memory.then_some(piece)
        });
        let Some(piece) = piece else { return false };
        let header = piece_header(self.slot.generation, nth);
        let at = file.piece_at(piece);
        file.bytes_mut(at, header.len()).copy_from_slice(&header);
        self.pieces.push_back((self.slot.generation, piece));
        true
    }

    /// No barrier can be returned to until the next one.
    fn forget(&mut self, file: &mut SegmentFile) {
        self.slot.barriers.clear();
        self.open = false;
        self.publish(file);
        self.free_logs_before(file, u32::MAX);
    }

    fn freeze(&mut self, file: &mut SegmentFile, barrier: Barrier, states: u64) {
        let generation = self.slot.generation + 1;
        if self.slot.barriers.first().is_some_and(|oldest| generation - oldest.generation >= GENERATIONS_MAX) {
            self.forget(file);
        }
        self.records = 0;
        file.publish(count_at(generation), sealed_word(0, generation));
        self.slot.generation = generation;
        self.slot.states = states;
        self.slot.barriers.push(Barrier { generation, ..barrier });
        self.open = true;
        self.publish(file);
    }

    fn free_logs_before(&mut self, file: &mut SegmentFile, generation: u32) {
        let spare_before = self.spare.len();
        while let Some(&(of, piece)) = self.pieces.front()
            && of < generation
        {
            self.pieces.pop_front();
            self.spare.push(piece);
        }
        let keep = (self.spare.len() - spare_before).max(SPARE_PIECES);
        for _ in 0..self.spare.len().saturating_sub(keep).min(CUT_PIECES) {
            let piece = self.spare.remove(0);
            match file.cut_piece(piece) {
                Ok(()) => self.cut.push(piece),
                Err(_) => self.spare.push(piece),
            }
        }
    }

    fn states_of(&mut self, states: &[crate::StatePart]) -> u64 {
        if self.states.0 != states.len() {
            self.states = (states.len(), states_print(states));
        }
        self.states.1
    }
}

/// Of states and their order, in which pages name them.
pub(crate) fn states_print(states: &[crate::StatePart]) -> u64 {
    hash::bytes(&serde_json::to_vec(states).expect("texts and numbers always serialise"))
}

/// What the rest of the store tells the log. Where pages are in no file, all of it is one branch.
impl Pages {
    /// To be called before a page's contents or descriptor change.
    pub(crate) fn before_change(&mut self, page: u32) {
        if let (Some(undo), Some(file)) = (&mut self.undo, &mut self.segment.file) {
            undo.before_change(file, page);
        }
    }

    /// Whether pages may be handed out: what an earlier run left behind is thrown away if nobody has asked for it.
    pub(crate) fn is_ready(&mut self) -> bool {
        match (&mut self.undo, &mut self.segment.file) {
            (Some(undo), Some(file)) if undo.found.is_some() => undo.make_anew(file),
            _ => true,
        }
    }

    /// Notes what a page is at a barrier whose snapshot has just recorded it.
    pub(crate) fn note_checksum(&mut self, page: u32) {
        if let Some(file) = &mut self.segment.file {
            let checksum = file.checksum_of(page);
            file.set_checksum(page, checksum);
        }
    }

    /// Notes on which file a page leans, and on which it did.
    pub(crate) fn note_base(&mut self, page: u32, number: u32, before: u32) {
        if let Some(file) = &mut self.segment.file {
            file.set_base(page, number, before);
        }
    }

    pub(crate) fn note_freeze(&mut self) {
        if self.undo.is_none() || !self.is_ready() {
            return;
        }
        let (handed_out, last_number) = (self.handed_out, self.chain.last_number());
        if let (Some(undo), Some(file)) = (&mut self.undo, &mut self.segment.file) {
            let states = undo.states_of(&self.header.states);
            undo.slot.last_number = last_number;
            let barrier = Barrier { generation: 0, handed_out, chain: None, numbers: Vec::new() };
            undo.freeze(file, barrier, states);
        }
    }

    /// The chain of files that a checkpoint of the open barrier will have.
    pub(crate) fn note_chain(&mut self, files: &[FileRef], numbers: Vec<u32>) {
        if let (Some(undo), Some(file)) = (&mut self.undo, &mut self.segment.file)
            && undo.open
            && let Some(newest) = undo.slot.barriers.last_mut()
        {
            (newest.chain, newest.numbers) = (Some(chain_print(files)), numbers);
            undo.publish(file);
        }
    }

    pub(crate) fn note_confirm(&mut self) {
        if let (Some(undo), Some(file)) = (&mut self.undo, &mut self.segment.file)
            && std::mem::take(&mut undo.open)
        {
            let newest = undo.slot.barriers.pop().expect("the open barrier is the newest");
            let generation = newest.generation;
            undo.slot.barriers = vec![newest];
            undo.publish(file);
            undo.free_logs_before(file, generation);
        }
    }

    pub(crate) fn note_abort(&mut self) {
        if let (Some(undo), Some(file)) = (&mut self.undo, &mut self.segment.file)
            && std::mem::take(&mut undo.open)
        {
            undo.slot.barriers.pop();
            undo.publish(file);
            if undo.slot.barriers.is_empty() {
                undo.free_logs_before(file, u32::MAX);
            }
        }
    }

    /// All pages are as a checkpoint has them, which was just read into a fresh segment: that is a barrier too.
    pub(crate) fn note_restored(&mut self, files: &[FileRef]) {
        if self.segment.file.is_none() || !self.is_ready() {
            return;
        }
        for page in 0..self.handed_out {
            self.note_checksum(page);
            let base = self.segment.base.get(page);
            self.note_base(page, base, base);
        }
        self.note_freeze();
        self.note_chain(files, self.chain.numbers(false));
        self.note_confirm();
    }
}
