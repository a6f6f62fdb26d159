//! Which pages there are, which lines of them changed since the last barrier, and which pages were given up.
//!
//! Every write goes by [`Pages::mark`] before it happens: an OR on the page's mask and one branch, taken once per page
//! and barrier. Behind that branch sits copy-on-write: the first write to a page that an open snapshot has yet to write
//! puts the page's record into the snapshot first ([`freeze`](crate::freeze)).

use crate::chain::{Chain, SnapshotNumber};
use crate::directory::Space;
use crate::freeze::Open;
use crate::hash::HashRange;
use crate::segment::{Descriptor, Kind, NO_PAGE, Segment};
use crate::shape::{Layout, State};
use crate::slotted;
use crate::snapshot::{Header, Writer};
use crate::table::{StateError, TableConfig};

/// The pages of one store, of all its states and their namespaces; knows sizes, but no types.
pub(crate) struct Pages {
    pub(crate) config: TableConfig,
    pub(crate) states: Vec<State>,
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
    pub(crate) fn new(config: TableConfig, segment: Segment, header: Header) -> Pages {
        Pages {
            config,
            states: Vec::new(),
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
    pub(crate) fn hand_out(&mut self, state: u16, namespace: i64, prefix: u64, depth: u8, kind: Kind) -> Option<u32> {
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
        self.segment
            .descriptors
            .set(page, Descriptor { namespace, prefix, count: 0, depth, kind, state, next: NO_PAGE });
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
        self.entry_bytes -= self.entry_bytes_of(page);
        if self.keeps_for_snapshot(page) {
            return;
        }
        self.release(page);
    }

    /// Takes back the pages of a long value.
    pub(crate) fn give_up_chain(&mut self, first: u32) {
        let mut page = first;
        while page != NO_PAGE {
            let next = slotted::overflow_next(self.segment.page(page));
            self.give_up(page);
            page = next;
        }
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
    pub(crate) fn adopt(&mut self, handed_out: u32) {
        self.handed_out = handed_out;
        for page in (0..handed_out).rev() {
            let descriptor = self.segment.descriptors.get(page);
            if descriptor.kind == Kind::Free {
                self.free.push(page);
            } else {
                self.in_use += 1;
                self.entry_bytes += self.entry_bytes_of(page);
            }
        }
    }

    /// Where a namespace of a state is in the state's list, new if need be.
    pub(crate) fn space_at(&mut self, state: u16, namespace: i64) -> usize {
        let range = self.config.range;
        let spaces = &mut self.states[state as usize].spaces;
        match spaces.binary_search_by_key(&namespace, |space| space.namespace) {
            Ok(at) => at,
            Err(at) => {
                spaces.insert(at, Space::new(namespace, range));
                at
            }
        }
    }

    /// Where it is, if there is one.
    pub(crate) fn find_space(&self, state: u16, namespace: i64) -> Option<usize> {
        self.states[state as usize].spaces.binary_search_by_key(&namespace, |space| space.namespace).ok()
    }

    #[inline(always)]
    pub(crate) fn space(&self, state: u16, at: usize) -> &Space {
        &self.states[state as usize].spaces[at]
    }

    #[inline(always)]
    pub(crate) fn space_mut(&mut self, state: u16, at: usize) -> &mut Space {
        &mut self.states[state as usize].spaces[at]
    }

    /// Gives up the half of a page's stretch that lies outside the shard's, where there is one: splitting the page would hand
    /// out another for keys that never come.
    pub(crate) fn narrow(&mut self, page: u32) -> bool {
        let range = self.config.range;
        let descriptor = self.segment.descriptors.get(page);
        let Descriptor { prefix, depth, .. } = descriptor;
        let upper = prefix | 1u64 << (63 - depth);
        let prefix = match (HashRange::of_prefix(prefix, depth + 1), HashRange::of_prefix(upper, depth + 1)) {
            (_, other) if !other.meets(range) => prefix,
            (other, _) if !other.meets(range) => upper,
            _ => return false,
        };
        // Only a whole record tells of a page's prefix.
        self.mark(page, u64::MAX);
        self.segment.descriptors.set(page, Descriptor { prefix, depth: depth + 1, ..descriptor });
        true
    }

    /// Forgets a namespace of a state: its pages are free at once, and the next snapshot says so. No work per key.
    pub(crate) fn drop_namespace(&mut self, state: u16, namespace: i64) {
        let Some(at) = self.find_space(state, namespace) else { return };
        let state = &mut self.states[state as usize];
        let space = state.spaces.remove(at);
        state.expected = space.len;
        if state.layout == Layout::Slotted {
            for &page in &space.pages {
                for first in slotted::first_overflows(self.segment.page(page)) {
                    self.give_up_chain(first);
                }
            }
        }
        // Last in, first out: the next namespace gets them in ascending order.
        for page in space.pages.into_iter().rev() {
            self.give_up(page);
        }
    }

    pub(crate) fn full(&self) -> StateError {
        let TableConfig { operator, shard, bytes_max, .. } = self.config.clone();
        StateError::Full { operator, shard, bytes_max }
    }

    /// Bytes of keys and values in a page.
    pub(crate) fn entry_bytes_of(&self, page: u32) -> usize {
        let descriptor = self.segment.descriptors.get(page);
        match (descriptor.kind, &self.states[descriptor.state as usize].layout) {
            (Kind::Flat | Kind::Zero, Layout::Flat(geometry)) => {
                descriptor.count as usize * (geometry.key_bytes + geometry.value_bytes)
            }
            (Kind::Slotted, _) => slotted::used_bytes(self.segment.page(page)),
            (Kind::Overflow, _) => slotted::overflow_bytes(self.segment.page(page)),
            (Kind::Free, _) | (_, Layout::Slotted) => 0,
        }
    }

    /// `by` entries more, or less, in a page whose bucket was marked.
    pub(crate) fn count(&mut self, page: u32, by: i32) {
        let mut descriptor = self.segment.descriptors.get(page);
        descriptor.count = descriptor.count.checked_add_signed(by as i16).expect("a page's entries are counted");
        self.segment.descriptors.set(page, descriptor);
    }
}
