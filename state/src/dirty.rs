//! Which pages there are, which lines of them changed since the last barrier, and which pages were given up.
//!
//! Every write goes by [`Pages::mark`] before it happens: an OR on the page's mask and one branch, taken once per page
//! and barrier. Behind that branch sits copy-on-write: the first write to a page that an open snapshot has yet to write
//! puts the page's record into the snapshot first ([`freeze`](crate::freeze)).

use crate::chain::{Chain, SnapshotNumber};
use crate::freeze::Open;
use crate::page::{Geometry, Pack};
use crate::segment::{Descriptor, Kind, Segment};
use crate::snapshot::{Header, Writer};

/// The pages of one table, of all its namespaces; knows sizes, but no types (how to pack a page aside).
pub(crate) struct Pages {
    pub(crate) geometry: Geometry,
    pub(crate) pack: Pack,
    pub(crate) segment: Segment,
    /// Pages ever handed out: they are numbered below this.
    pub(crate) handed_out: u32,
    /// Pages in use, of any kind.
    pub(crate) in_use: u32,
    /// Bytes of keys and values in them.
    pub(crate) entry_bytes: usize,
    free: Vec<u32>,
    /// Pages with a mask that was zero at the last barrier, each at least once.
    pub(crate) dirty: Vec<u32>,
    /// Pages given up since the last barrier that files know of, and their bases.
    pub(crate) gone: Vec<(u32, SnapshotNumber)>,
    pub(crate) chain: Chain,
    pub(crate) open: Option<Open>,
    pub(crate) writer: Writer,
    /// What every file begins with, the epoch aside.
    pub(crate) header: Header,
    /// Where the next sweep goes on.
    pub(crate) sweep_at: u32,
    /// What the last sweep wrote too much, as a negative number.
    pub(crate) sweep_carry: i64,
    /// Bytes per dirty page in the last snapshot, to guess the next one's size.
    pub(crate) bytes_per_dirty_page: u64,
}

impl Pages {
    pub(crate) fn new(geometry: Geometry, pack: Pack, segment: Segment, header: Header) -> Pages {
        Pages {
            geometry,
            pack,
            segment,
            handed_out: 0,
            in_use: 0,
            entry_bytes: 0,
            free: Vec::new(),
            dirty: Vec::new(),
            gone: Vec::new(),
            chain: Chain::default(),
            open: None,
            writer: Writer::default(),
            header,
            sweep_at: 0,
            sweep_carry: 0,
            bytes_per_dirty_page: 0,
        }
    }

    /// To be called before lines of a page change.
    #[inline(always)]
    pub(crate) fn mark(&mut self, page: u32, lines: u64) {
        let mask = self.segment.masks.get(page);
        self.segment.masks.set(page, mask | lines);
        if mask == 0 {
            self.first_touch(page);
        }
    }

    /// The page's mask was zero until just now; its lines are still as they were.
    #[cold]
    #[inline(never)]
    pub(crate) fn first_touch(&mut self, page: u32) {
        self.dirty.push(page);
        self.emit_before_write(page);
    }

    /// A page without entries, wholly dirty; none if the reservation is used up.
    pub(crate) fn hand_out(&mut self, namespace: i64, prefix: u64, depth: u8, kind: Kind) -> Option<u32> {
        let page = match self.free.pop() {
            Some(page) => {
                self.segment.page_mut(page).fill(0);
                page
            }
            None if self.handed_out < self.segment.pages_max() => {
                self.handed_out += 1;
                self.segment.grown_to(self.handed_out);
                self.handed_out - 1
            }
            None => return None,
        };
        let next = crate::segment::NO_PAGE;
        self.segment.descriptors.set(page, Descriptor { namespace, prefix, count: 0, depth, kind, next });
        self.segment.base.set(page, 0);
        // An open snapshot is of a time before this page.
        self.segment.drained.set(page, self.open.as_ref().map_or(0, |open| open.number));
        self.segment.masks.set(page, u64::MAX);
        self.dirty.push(page);
        self.in_use += 1;
        Some(page)
    }

    /// Takes a page back that no directory leads to any more. An open snapshot that has yet to write the page keeps it
    /// until then; nobody can write to it, so nothing need be copied.
    pub(crate) fn give_up(&mut self, page: u32) {
        self.segment.masks.set(page, 0);
        let entries = self.segment.descriptors.get(page).count as usize;
        self.entry_bytes -= entries * (self.geometry.key_bytes + self.geometry.value_bytes);
        if self.keeps_for_snapshot(page) {
            return;
        }
        self.release(page);
    }

    pub(crate) fn release(&mut self, page: u32) {
        let base = self.segment.base.get(page);
        if base != 0 {
            self.gone.push((page, base));
        }
        self.segment.descriptors.set(page, Descriptor::default());
        self.segment.base.set(page, 0);
        self.in_use -= 1;
        self.free.push(page);
    }

    /// After a restore put pages where they were: everything between them is free.
    pub(crate) fn adopt(&mut self, handed_out: u32, chain: Chain) {
        self.handed_out = handed_out;
        self.chain = chain;
        for page in (0..handed_out).rev() {
            let descriptor = self.segment.descriptors.get(page);
            if descriptor.kind == Kind::Free {
                self.free.push(page);
            } else {
                self.in_use += 1;
                self.entry_bytes += descriptor.count as usize * (self.geometry.key_bytes + self.geometry.value_bytes);
                self.chain.lean(self.segment.base.get(page));
            }
        }
    }

    /// One entry more in a page whose bucket was marked.
    pub(crate) fn count_up(&mut self, page: u32) {
        let mut descriptor = self.segment.descriptors.get(page);
        descriptor.count += 1;
        self.segment.descriptors.set(page, descriptor);
        self.entry_bytes += self.geometry.key_bytes + self.geometry.value_bytes;
    }
}
