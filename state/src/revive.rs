//! A restart on the same boot: the segment of the process that ended is taken over, as it was at the checkpoint's barrier.
//!
//! ```text
//! whose is it? ─▶ does it know the barrier? ─▶ is the log whole? ─▶ undo, newest first ─▶ is every page what it was?
//!      │ no             │ no                        │ no                                      │ no
//!      └────────────────┴───────────────────────────┴─────────────────────────────────────────┴─▶ full restore
//! ```
//!
//! Everything is proven before it is believed: every record of the log, and every page that none of them puts back, by a
//! checksum that was taken when the page's snapshot was. Doubt costs a full restore and never a wrong answer. A kill in the
//! middle of this leaves a segment that the next restart revives in the same way: records stay until a later barrier is
//! confirmed, and putting one back twice is as good as once.

use crate::backing::{DESCRIPTOR_BYTES, KIND_AT, PIECE_RECORDS, SegmentFile};
use crate::chain::Chain;
use crate::dirty::Pages;
use crate::page_store::PageStore;
use crate::restore::{How, Restored};
use crate::segment::{Descriptor, Kind, NO_PAGE, PAGE_BYTES};
use crate::snapshot::FileRef;
use crate::undo::{
    Barrier, Record, Slot, Undo, chain_print, read_count, read_piece, read_records, read_slot, states_print,
};

/// Why a restore read the checkpoint, and not what lay in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Doubt {
    /// The pages are not kept in a file.
    #[default]
    Anonymous,
    /// There is no segment of an earlier run.
    Nothing,
    /// The machine was started anew since, or the segment is of another machine.
    Boot,
    /// The segment is of another version, operator, shard, stretch of the hash space or size.
    Identity,
    /// Its first pages are not what was written there.
    Head,
    /// Its states are others than the operator's, or in another order.
    States,
    /// It does not know the barrier of this checkpoint.
    Barrier,
    /// A part of its file is missing.
    Hole,
    /// Its log is not what was written there.
    Log,
    /// A page, or what is said of it, is not what it was at the barrier.
    Page(u32),
    /// Its pages are each sound and together no state.
    Contradiction,
    /// The checkpoint is put together from several parts, or is of other types.
    Parts,
    /// It had state put in before the restore.
    Used,
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Doubt::Anonymous => "state is not kept in a file",
            Doubt::Nothing => "there is no segment of an earlier run",
            Doubt::Boot => "the segment is of before the machine's last start, or of another machine",
            Doubt::Identity => "the segment is of another version, operator, shard, hash range or size",
            Doubt::Head => "the segment's head is damaged",
            Doubt::States => "the segment holds other states",
            Doubt::Barrier => "the segment does not know the checkpoint's barrier",
            Doubt::Hole => "a part of the segment is missing",
            Doubt::Log => "the segment's log is damaged",
            Doubt::Page(page) => return write!(f, "page {page} of the segment is damaged"),
            Doubt::Contradiction => "the segment's pages do not fit together",
            Doubt::Parts => "the checkpoint is of another number of shards, or of other types",
            Doubt::Used => "state was put in before the restore",
        })
    }
}

impl PageStore {
    /// Takes the segment over as it was at the barrier whose checkpoint has this chain.
    ///
    /// After an error nothing of it is left, and the store is as it was made.
    pub(crate) fn revive(&mut self, files: &[FileRef]) -> Result<Restored, Doubt> {
        let pages = &mut *self.pages;
        let Some(undo) = &mut pages.undo else { return Err(Doubt::Anonymous) };
        let Some(found) = undo.found.take() else { return Err(Doubt::Used) };
        let revived = match found {
            Some(doubt) => Err(doubt),
            None => self.try_revive(files),
        };
        if revived.is_err() {
            self.pages.forget_revived();
        }
        revived
    }

    fn try_revive(&mut self, files: &[FileRef]) -> Result<Restored, Doubt> {
        let pages = &mut *self.pages;
        let (Some(undo), Some(file)) = (&mut pages.undo, &mut pages.segment.file) else { return Err(Doubt::Anonymous) };
        file.mend_head().map_err(|_| Doubt::Hole)?;
        let (sequence, slot) = read_slot(file).ok_or(Doubt::Head)?;
        let wanted = Some(chain_print(files));
        let barrier = slot.barriers.iter().find(|barrier| barrier.chain == wanted).ok_or(Doubt::Barrier)?.clone();
        if slot.states != states_print(&pages.header.states) {
            return Err(Doubt::States);
        }
        if barrier.handed_out > file.pages_max {
            return Err(Doubt::Head);
        }
        file.mend_pages(barrier.handed_out).map_err(|_| Doubt::Hole)?;
        file.populate(barrier.handed_out);
        let log = Log::find(file, &slot, &barrier)?;
        let undone = put_back(undo, file, sequence, slot.clone(), &barrier, &log)?;
        file.cut_pages(barrier.handed_out).map_err(|_| Doubt::Hole)?;
        for page in 0..barrier.handed_out {
            let is_kind = |number: u8| number == Kind::Free as u8 || Kind::from_number(number).is_some();
            let sound = undone[page as usize] || file.checksum_of(page) == file.checksum(page);
            if !sound || !is_kind(file.descriptor(page)[KIND_AT]) {
                return Err(Doubt::Page(page));
            }
        }
        let same_build = file.is_of_this_build();
        let pages_undone = undone.iter().filter(|&&undone| undone).count();
        let how = How::Fast { pages_undone, bytes_undone: (pages_undone * PAGE_BYTES) as u64 };
        let mut restored = Restored { files: files.len(), how, ..Restored::default() };
        pages.take_chain_over(files, &slot, &barrier)?;
        pages.adopt(barrier.handed_out);
        if same_build {
            pages.rebuild_spaces().map_err(|_| Doubt::Contradiction)?;
            restored.pages = pages.in_use as usize;
            restored.entries = pages.states.iter().flat_map(|state| &state.spaces).map(|space| space.len).sum();
        } else {
            // The code that hashes keys may be another: what its predecessor wrote is proven like what a file has.
            self.adopt(&mut restored).map_err(|_| Doubt::Contradiction)?;
            self.pages.sign_segment()?;
        }
        Ok(restored)
    }
}

/// The records that lead back to a barrier.
struct Log {
    /// By generation, the oldest first: its number, its pieces, and how many records they have.
    generations: Vec<(u32, Vec<u32>, u32)>,
}

impl Log {
    fn find(file: &SegmentFile, slot: &Slot, barrier: &Barrier) -> Result<Log, Doubt> {
        let mut pieces = Vec::new();
        for piece in file.pieces() {
            if let Some((generation, nth)) = read_piece(file, piece) {
                pieces.push((generation, nth, piece));
            }
        }
        pieces.sort_unstable();
        let mut generations = Vec::new();
        for generation in barrier.generation..=slot.generation {
            let records = read_count(file, generation).ok_or(Doubt::Log)?;
            let of_it = pieces.iter().filter(|&&(of, _, _)| of == generation);
            let of_it: Vec<(u32, u32)> = of_it.map(|&(_, nth, piece)| (nth, piece)).collect();
            let wanted = records.div_ceil(PIECE_RECORDS as u32);
            let whole = (0..wanted).all(|nth| of_it.get(nth as usize).is_some_and(|&(of, _)| of == nth));
            // One more may have been begun.
            if !whole || of_it.len() as u32 > wanted + 1 {
                return Err(Doubt::Log);
            }
            let of_it = of_it.into_iter().take(wanted as usize).map(|(_, piece)| piece).collect();
            generations.push((generation, of_it, records));
        }
        Ok(Log { generations })
    }

    /// Every piece, the newest first: its number, its generation, its first record and how many it has.
    fn newest_first(&self) -> impl Iterator<Item = (u32, u32, u32, u32)> {
        self.generations.iter().rev().flat_map(|&(generation, ref pieces, records)| {
            pieces.iter().enumerate().rev().map(move |(nth, &piece)| {
                let first = (nth * PIECE_RECORDS) as u32;
                (piece, generation, first, (records - first).min(PIECE_RECORDS as u32))
            })
        })
    }

    fn pieces(&self) -> Vec<(u32, u32)> {
        let of = |(generation, pieces, _): &(u32, Vec<u32>, u32)| {
            let generation = *generation;
            pieces.iter().map(move |&piece| (generation, piece)).collect::<Vec<_>>()
        };
        self.generations.iter().flat_map(of).collect()
    }
}

/// Puts every record back, the newest first, and proves it where it then lies; which pages there were.
fn put_back(
    undo: &mut Undo,
    file: &mut SegmentFile,
    sequence: u32,
    slot: Slot,
    barrier: &Barrier,
    log: &Log,
) -> Result<Vec<bool>, Doubt> {
    let mut undone = vec![false; barrier.handed_out as usize];
    // From here on the segment is on its way to this barrier, and to no other.
    undo.go_on(file, (sequence, slot), barrier.clone(), log.pieces()).map_err(|_| Doubt::Hole)?;
    for (piece, generation, first, records) in log.newest_first() {
        let records = read_records(file, piece, generation, first, records).ok_or(Doubt::Log)?;
        // A page may have come after the barrier, and changed after a later one.
        let was_there = |record: &&Record| record.page < barrier.handed_out;
        let to: Vec<Option<u32>> = records
            .iter()
            .map(|record| Some(record).filter(was_there).filter(|record| record.in_use()).map(|record| record.page))
            .collect();
        file.read_contents(piece, &to).map_err(|_| Doubt::Hole)?;
        for record in records.iter().filter(was_there) {
            undo.note_logged(record.page);
            undone[record.page as usize] = true;
            file.set_descriptor(record.page, &record.descriptor);
            file.set_checksum(record.page, record.checksum);
            if file.checksum_of(record.page) != record.checksum {
                return Err(Doubt::Log);
            }
        }
    }
    Ok(undone)
}

impl Pages {
    /// Goes on from the checkpoint's files. A page leans on the newest of them that has all of it, as far as that is known,
    /// and else on the oldest, which is never wrong: the next sweep to come by writes it anew.
    fn take_chain_over(&mut self, files: &[FileRef], slot: &Slot, barrier: &Barrier) -> Result<(), Doubt> {
        let counted: Vec<u32>;
        let numbers = if barrier.numbers.len() == files.len() {
            &barrier.numbers
        } else {
            counted = (1..=files.len() as u32).map(|nth| nth + slot.last_number).collect();
            &counted
        };
        let last_number = slot.last_number.max(numbers.last().copied().unwrap_or(0));
        self.chain = Chain::of_numbered(files, numbers, last_number);
        for page in 0..barrier.handed_out {
            let mut descriptor = self.segment.descriptors.get(page);
            descriptor.next = NO_PAGE;
            self.segment.descriptors.set(page, descriptor);
            if descriptor.kind == Kind::Free {
                continue;
            }
            if descriptor.state as usize >= self.states.len() {
                return Err(Doubt::Contradiction);
            }
            let (Some(&oldest), Some(file)) = (numbers.first(), &self.segment.file) else {
                return Err(Doubt::Contradiction);
            };
            let kept = file.base(page);
            let known = [kept.number, kept.before].into_iter().find(|number| numbers.contains(number));
            self.segment.base.set(page, known.filter(|_| kept.is_sound(page)).unwrap_or(oldest));
        }
        self.handed_out = barrier.handed_out;
        self.chain_restored();
        Ok(())
    }

    fn sign_segment(&mut self) -> Result<(), Doubt> {
        self.segment.file.as_mut().map_or(Ok(()), |file| file.sign().map_err(|_| Doubt::Head))
    }

    /// Back to a store that was just made, over a file whose contents nobody wants.
    fn forget_revived(&mut self) {
        for page in 0..self.handed_out {
            self.segment.base.set(page, 0);
        }
        for state in &mut self.states {
            state.spaces.clear();
        }
        self.forget_pages();
        self.chain = Chain::default();
        if let Some(undo) = &mut self.undo {
            **undo = Undo::new(Some(Doubt::Contradiction));
        }
    }
}

impl SegmentFile {
    fn set_descriptor(&mut self, page: u32, descriptor: &[u8; DESCRIPTOR_BYTES]) {
        let at = self.descriptors_at + page as usize * size_of::<Descriptor>();
        self.bytes_mut(at, DESCRIPTOR_BYTES).copy_from_slice(descriptor);
    }
}
