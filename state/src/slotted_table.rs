//! [`SlottedTable`]: `(namespace, key) → value` for keys and values of any size.
//!
//! ```text
//! hash ─▶ directory ─▶ page ─▶ slot ─▶ compare ─▶ mark ─▶ change in place                a value that still fits
//!                                            └─▶ take out ─▶ room? ─▶ compact | split | next page ─▶ put in
//! ```
#![expect(unsafe_code, reason = "bytes of this table's own pages are seen as its keys and values")]

use std::marker::PhantomData;
use std::ops::Deref;

use rkyv::seal::Seal;
use rkyv::util::AlignedVec;

use crate::fixed::type_text;
use crate::fold::AHEAD_FROM_BYTES;
use crate::page_store::{PageStore, Shared};
use crate::road::prefetch_line;
use crate::schema::Schema;
use crate::segment::{Descriptor, Kind, LINE_BYTES, NO_PAGE, PAGE_BYTES};
use crate::shape::{Layout, LayoutPart, StatePart, Ways};
use crate::slotted::{self, Body, Cell, Content, OVERFLOW_BYTES};
use crate::stored::{AsKey, SlotKey, Stored, archive, is_value, view};
use crate::{Fixed, Namespace, StateError};

/// State of any size per entry: `(namespace, key) → value`, in the pages of a [`PageStore`], values read in place in their
/// archived form.
///
/// An entry may end by itself: one put with a time is not seen from that time on, and is cleared away by
/// [`expire`](SlottedTable::expire), or when it is in the way.
///
/// ```
/// use millstream_state::{Namespace, PageStore};
///
/// let store = PageStore::new(Default::default())?;
/// let mut visits = store.slotted::<String, Vec<u32>>("visits");
/// visits.put(Namespace(0), &"mill".to_owned(), &vec![7, 9])?;
/// let visitors = visits.get(Namespace(0), &"mill".to_owned(), |ids| ids.iter().map(|id| id.to_native()).sum::<u32>());
/// assert_eq!(visitors, Some(16));
/// # Ok::<(), millstream_state::StateError>(())
/// ```
pub struct SlottedTable<K, V> {
    store: PageStore,
    pub(crate) state: u16,
    /// What time it is, as far as entries that end are concerned.
    now_ms: i64,
    scratch: AlignedVec,
    _entries: PhantomData<(K, V)>,
}

impl<K, V> std::fmt::Debug for SlottedTable<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SlottedTable({:?} of {:?})", self.store.pages.states[self.state as usize].part.name, self.store)
    }
}

impl PageStore {
    /// Adds a state of keys and values of any size.
    ///
    /// # Panics
    /// If the store has a state of that name.
    #[must_use]
    pub fn slotted<K: SlotKey, V: Stored>(&self, name: &str) -> SlottedTable<K, V> {
        let of = |text: String| Schema::of_type_text(&text, 0, 1);
        self.slotted_as(name, of(type_text::<K>()), of(type_text::<V>()))
    }

    /// As [`slotted`](PageStore::slotted), with what checkpoints shall say of the types.
    #[must_use]
    pub fn slotted_as<K: SlotKey, V: Stored>(&self, name: &str, key: Schema, value: Schema) -> SlottedTable<K, V> {
        let ways = Ways {
            pack: |_, _| unreachable!("a slotted page is recorded as it is"),
            unpack: |_, _, _, _, _, _| unreachable!("a slotted page is put back as it was"),
            prove: prove::<K, V>,
            is_key: K::is_valid,
            is_value: is_value::<V>,
            // SAFETY: called with the bytes of keys that were proven, where they lie in cells.
            hash: |key| unsafe { K::hash_of(key) },
            insert: insert::<K, V>,
        };
        let state = self.declare(StatePart::new(name, key, value, LayoutPart::Slotted), Layout::Slotted, ways);
        SlottedTable::of(self, state)
    }
}

/// Checks the cells of a page that was read.
fn prove<K: SlotKey, V: Stored>(descriptor: &Descriptor, body: &Body) -> Result<(), String> {
    slotted::prove(body, descriptor.count as usize)?;
    for slot in 0..slotted::len(body) {
        let cell = slotted::cell(body, slot);
        let key = cell.key(body);
        if !K::is_valid(key) || !(cell.is_long || is_value::<V>(cell.value(body))) {
            return Err(format!("has a key or value that is not one of its type (slot {slot})"));
        }
        // SAFETY: just found valid, in a cell, which starts on a multiple of 16.
        let hash = unsafe { K::hash_of(key) };
        let leads_here = crate::hash::prefix_of_depth(hash, descriptor.depth) == descriptor.prefix;
        if !leads_here || slotted::find(body, hash, key) != Some(slot) {
            return Err(format!(
                "has a key that its hash does not lead to; was the key's hash64 changed? (slot {slot})"
            ));
        }
    }
    Ok(())
}

fn insert<K: SlotKey, V: Stored>(
    store: &PageStore,
    state: u16,
    namespace: i64,
    key: &[u8],
    value: &[u8],
    expires_ms: i64,
) -> Result<(), StateError> {
    let mut table = SlottedTable::<K, V>::of(store, state);
    // SAFETY: the caller has proven the key and laid it on a multiple of 16.
    let hash = unsafe { K::hash_of(key) };
    table.put_bytes(Namespace(namespace), hash, key, value, expires_ms).map(drop)
}

/// Where an entry is.
#[derive(Clone, Copy)]
struct Place {
    page: u32,
    slot: usize,
    cell: Cell,
}

impl<K: SlotKey, V: Stored> SlottedTable<K, V> {
    fn of(store: &PageStore, state: u16) -> Self {
        SlottedTable { store: store.clone(), state, now_ms: 0, scratch: AlignedVec::new(), _entries: PhantomData }
    }

    fn pages(&self) -> &Shared {
        &self.store.pages
    }

    pub(crate) fn pages_mut(&mut self) -> &mut Shared {
        &mut self.store.pages
    }

    /// Lets time pass for entries that end: those whose time is `now_ms` or before are seen no more.
    pub fn set_now(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
    }

    fn is_over(&self, cell: &Cell) -> bool {
        cell.expires_ms != 0 && cell.expires_ms <= self.now_ms
    }

    /// Where the key's entry is, over or not.
    fn find(&self, namespace: Namespace, hash: u64, key: &[u8]) -> Option<Place> {
        let pages = self.pages();
        let at = pages.find_space(self.state, namespace.0)?;
        let mut page = pages.space(self.state, at).page_of(hash);
        while page != NO_PAGE {
            let body = pages.segment.page(page);
            if let Some(slot) = slotted::find(body, hash, key) {
                return Some(Place { page, slot, cell: slotted::cell(body, slot) });
            }
            page = pages.segment.descriptors.get(page).next;
        }
        None
    }

    /// Shows the value's bytes, gathered if it is long.
    fn with_value<R>(&self, place: &Place, show: impl FnOnce(&[u8]) -> R) -> R {
        let body = self.pages().segment.page(place.page);
        if place.cell.is_long {
            let gathered = self.gather(place.cell.first_overflow(body), place.cell.value_bytes);
            show(&gathered)
        } else {
            show(place.cell.value(body))
        }
    }

    fn gather(&self, first: u32, bytes: usize) -> AlignedVec {
        let mut gathered = AlignedVec::with_capacity(bytes);
        let mut page = first;
        while page != NO_PAGE {
            let body = self.pages().segment.page(page);
            gathered.extend_from_slice(slotted::overflow(body));
            page = slotted::overflow_next(body);
        }
        assert_eq!(gathered.len(), bytes, "a long value's pages hold all of it");
        gathered
    }

    /// Shows the value of a key in place; a value longer than a page is put together first.
    pub fn get<Q: AsKey<K> + ?Sized, R>(
        &self,
        namespace: Namespace,
        key: &Q,
        show: impl FnOnce(&V::Archived) -> R,
    ) -> Option<R> {
        let place = self.place_of(namespace, key)?;
        if self.is_over(&place.cell) {
            return None;
        }
        // SAFETY: what a cell holds was archived here or proven, and lies on a multiple of 16, as gathered bytes do.
        Some(self.with_value(&place, |bytes| show(unsafe { view::<V>(bytes) })))
    }

    fn place_of<Q: AsKey<K> + ?Sized>(&self, namespace: Namespace, key: &Q) -> Option<Place> {
        key.with_key_bytes(|bytes| self.find(namespace, key.key_hash(), bytes))
    }

    /// The value of a key, to be held while the table is not changed: in place, or put together if it is longer than a page.
    #[must_use]
    pub fn look<Q: AsKey<K> + ?Sized>(&self, namespace: Namespace, key: &Q) -> Option<Seen<'_, V>> {
        let place = self.place_of(namespace, key).filter(|place| !self.is_over(&place.cell))?;
        let body = self.pages().segment.page(place.page);
        Some(Seen(if place.cell.is_long {
            Held::Gathered(self.gather(place.cell.first_overflow(body), place.cell.value_bytes))
        } else {
            // SAFETY: what a cell holds was archived here or proven, and lies on a multiple of 16; it is of this table's pages,
            // and nobody writes to those while the table is borrowed.
            Held::InPlace(unsafe { view::<V>(place.cell.value(body)) })
        }))
    }

    /// Whether there is a value of the key.
    #[must_use]
    pub fn contains<Q: AsKey<K> + ?Sized>(&self, namespace: Namespace, key: &Q) -> bool {
        let place = self.place_of(namespace, key);
        place.is_some_and(|place| !self.is_over(&place.cell))
    }

    /// Keeps a value under a key, in place of what was there.
    ///
    /// # Errors
    /// When the store is full, the key too long, or the value's own serialisation fails.
    pub fn put<Q: AsKey<K> + ?Sized>(&mut self, namespace: Namespace, key: &Q, value: &V) -> Result<(), StateError> {
        self.put_until(namespace, key, value, 0).map(drop)
    }

    /// As [`put`](SlottedTable::put), for an entry that ends at `expires_ms`; 0: never. True if there was a value.
    ///
    /// # Errors
    /// As [`put`](SlottedTable::put).
    pub fn put_until<Q: AsKey<K> + ?Sized>(
        &mut self,
        namespace: Namespace,
        key: &Q,
        value: &V,
        expires_ms: i64,
    ) -> Result<bool, StateError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let archived = archive(value, &mut scratch).map_err(|source| StateError::Value {
            operator: self.pages().config.operator.clone(),
            what: source.to_string(),
        });
        let put = archived.and_then(|()| {
            key.with_key_bytes(|bytes| self.put_bytes(namespace, key.key_hash(), bytes, &scratch, expires_ms))
        });
        self.scratch = scratch;
        put
    }

    /// Changes a value in place; false if there is none. What `change` may touch are fields of fixed size: rkyv's seal
    /// keeps it from everything else. The whole value counts as changed.
    pub fn update<Q: AsKey<K> + ?Sized>(
        &mut self,
        namespace: Namespace,
        key: &Q,
        change: impl FnOnce(Seal<'_, V::Archived>),
    ) -> bool {
        let Some(place) = self.place_of(namespace, key) else { return false };
        self.update_at(&place, place.cell.expires_ms, change)
    }

    /// As [`update`](SlottedTable::update), for an entry that from now on ends at `expires_ms`; 0: never.
    pub fn update_until<Q: AsKey<K> + ?Sized>(
        &mut self,
        namespace: Namespace,
        key: &Q,
        expires_ms: i64,
        change: impl FnOnce(Seal<'_, V::Archived>),
    ) -> bool {
        self.place_of(namespace, key).is_some_and(|place| self.update_at(&place, expires_ms, change))
    }

    fn update_at(&mut self, place: &Place, expires_ms: i64, change: impl FnOnce(Seal<'_, V::Archived>)) -> bool {
        if self.is_over(&place.cell) {
            return false;
        }
        if place.cell.is_long {
            let first = place.cell.first_overflow(self.pages().segment.page(place.page));
            let mut gathered = self.gather(first, place.cell.value_bytes);
            // SAFETY: a valid value's bytes, on a multiple of 16; the seal lets nothing change that would unmake it.
            change(unsafe { rkyv::access_unchecked_mut::<V::Archived>(&mut gathered) });
            self.fill_overflow(first, &gathered);
            if expires_ms != place.cell.expires_ms {
                self.pages_mut().mark(place.page, place.cell.value_lines());
                slotted::restamp(self.pages_mut().segment.page_mut(place.page), &place.cell, expires_ms);
            }
            return true;
        }
        let value = self.value_mut(place, expires_ms);
        // SAFETY: as above, in a cell. No reference to the store's bookkeeping is held: `value` is of the mapping, and of a
        // page of this table, which is borrowed exclusively.
        change(unsafe { rkyv::access_unchecked_mut::<V::Archived>(value) });
        true
    }

    /// The bytes of a value that is not long, marked as changed and ending at `expires_ms`.
    fn value_mut(&mut self, place: &Place, expires_ms: i64) -> &mut [u8] {
        self.pages_mut().mark(place.page, place.cell.value_lines());
        let body = self.pages_mut().segment.page_mut(place.page);
        slotted::restamp(body, &place.cell, expires_ms);
        &mut body[place.cell.value_at()..][..place.cell.value_bytes]
    }

    /// Gives an entry another key, in place of what that one had; false if there is none. When it ends stays.
    ///
    /// # Errors
    /// As [`put`](SlottedTable::put).
    pub fn rename<Q: AsKey<K> + ?Sized>(&mut self, namespace: Namespace, from: &Q, to: &Q) -> Result<bool, StateError> {
        let Some(place) = self.place_of(namespace, from) else { return Ok(false) };
        if self.is_over(&place.cell) {
            return Ok(false);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        self.with_value(&place, |value| scratch.extend_from_slice(value));
        self.take_out(namespace, &place);
        let expires_ms = place.cell.expires_ms;
        let put =
            to.with_key_bytes(|bytes| self.put_bytes(namespace, to.key_hash(), bytes, &scratch, expires_ms).map(drop));
        self.scratch = scratch;
        put.map(|()| true)
    }

    /// Asks for the lines where searches for these hashes begin, ahead of them.
    pub fn prefetch(&self, namespace: Namespace, hashes: &[u64]) {
        let pages = self.pages();
        let Some(at) = pages.find_space(self.state, namespace.0) else { return };
        let space = pages.space(self.state, at);
        if space.pages.len() * PAGE_BYTES <= AHEAD_FROM_BYTES || space.directory()[0] == NO_PAGE {
            return;
        }
        for &hash in hashes {
            let page = pages.segment.pages_start().wrapping_add(space.page_of(hash) as usize * PAGE_BYTES);
            prefetch_line(page);
            prefetch_line(page.wrapping_add(LINE_BYTES));
        }
    }

    /// Takes an entry out; false if there was none.
    pub fn remove<Q: AsKey<K> + ?Sized>(&mut self, namespace: Namespace, key: &Q) -> bool {
        let Some(place) = self.place_of(namespace, key) else { return false };
        let was_there = !self.is_over(&place.cell);
        self.take_out(namespace, &place);
        was_there
    }

    fn take_out(&mut self, namespace: Namespace, place: &Place) {
        let state = self.state;
        if place.cell.is_long {
            let first = place.cell.first_overflow(self.pages().segment.page(place.page));
            self.pages_mut().give_up_chain(first);
        }
        let pages = self.pages_mut();
        let lines = slotted::remove_lines(pages.segment.page(place.page), place.slot);
        pages.mark(place.page, lines);
        slotted::remove(pages.segment.page_mut(place.page), place.slot);
        pages.count(place.page, -1);
        pages.entry_bytes -= place.cell.bytes();
        let at = pages.find_space(state, namespace.0).expect("the entry was in it");
        pages.space_mut(state, at).len -= 1;
    }

    /// Keeps bytes that are a key and an archived value.
    fn put_bytes(
        &mut self,
        namespace: Namespace,
        hash: u64,
        key: &[u8],
        value: &[u8],
        expires_ms: i64,
    ) -> Result<bool, StateError> {
        if key.len() > slotted::KEY_BYTES_MAX {
            let operator = self.pages().config.operator.clone();
            return Err(StateError::Key { operator, bytes: key.len(), bytes_max: slotted::KEY_BYTES_MAX });
        }
        let is_long = slotted::is_long(key.len(), value.len());
        let mut was_there = false;
        if let Some(place) = self.find(namespace, hash, key) {
            was_there = !self.is_over(&place.cell);
            let fits = !is_long && !place.cell.is_long;
            if fits && Content::Here(value).cell_bytes(key.len()) == place.cell.bytes() {
                self.pages_mut().mark(place.page, place.cell.value_lines());
                let body = self.pages_mut().segment.page_mut(place.page);
                slotted::overwrite(body, &place.cell, Content::Here(value), expires_ms);
                return Ok(was_there);
            }
            if is_long && place.cell.is_long && chain_pages(place.cell.value_bytes) == chain_pages(value.len()) {
                let first = place.cell.first_overflow(self.pages().segment.page(place.page));
                self.fill_overflow(first, value);
                self.pages_mut().mark(place.page, place.cell.value_lines());
                let body = self.pages_mut().segment.page_mut(place.page);
                slotted::overwrite(body, &place.cell, Content::Long(value.len(), first), expires_ms);
                return Ok(was_there);
            }
            self.take_out(namespace, &place);
        }
        let content = if is_long {
            Content::Long(value.len(), self.hand_out_chain(namespace, value)?)
        } else {
            Content::Here(value)
        };
        let page = self.page_with_room(namespace, hash, content.cell_bytes(key.len()))?;
        let state = self.state;
        let pages = self.pages_mut();
        let bytes = content.cell_bytes(key.len());
        let lines = slotted::push_lines(pages.segment.page(page), bytes);
        pages.mark(page, lines);
        slotted::push(pages.segment.page_mut(page), hash, key, content, expires_ms);
        pages.count(page, 1);
        pages.entry_bytes += bytes;
        let at = pages.find_space(state, namespace.0).expect("its page has room");
        pages.space_mut(state, at).len += 1;
        Ok(was_there)
    }

    /// A page where a search for the hash comes by, with a free stretch for a cell.
    fn page_with_room(&mut self, namespace: Namespace, hash: u64, cell_bytes: usize) -> Result<u32, StateError> {
        let state = self.state;
        let at = self.pages_mut().space_at(state, namespace.0);
        if self.pages().space(state, at).directory()[0] == NO_PAGE {
            let (prefix, depth) = self.pages().config.range.prefix();
            let page = self.hand_out(namespace, prefix, depth)?;
            self.pages_mut().space_mut(state, at).start_with(page);
        }
        loop {
            let first = self.pages().space(state, at).page_of(hash);
            let mut page = first;
            loop {
                let pages = self.pages_mut();
                if slotted::has_free(pages.segment.page(page), cell_bytes) {
                    return Ok(page);
                }
                if slotted::has_room(pages.segment.page(page), cell_bytes) {
                    pages.mark(page, u64::MAX);
                    slotted::compact(pages.segment.page_mut(page));
                    return Ok(page);
                }
                match pages.segment.descriptors.get(page).next {
                    NO_PAGE => break,
                    next => page = next,
                }
            }
            let descriptor = self.pages().segment.descriptors.get(page);
            if page == first && self.pages().space(state, at).may_split(descriptor.depth) {
                self.split(at, page)?;
                continue;
            }
            let next = self.hand_out(namespace, descriptor.prefix, descriptor.depth)?;
            let pages = self.pages_mut();
            // No mark: which page follows which is found out anew by every restore.
            pages.segment.descriptors.set(page, Descriptor { next, ..descriptor });
            pages.space_mut(state, at).pages.push(next);
            return Ok(next);
        }
    }

    fn hand_out(&mut self, namespace: Namespace, prefix: u64, depth: u8) -> Result<u32, StateError> {
        let state = self.state;
        let pages = self.pages_mut();
        let page = pages.hand_out(state, namespace.0, prefix, depth, Kind::Slotted).ok_or_else(|| pages.full())?;
        slotted::clear(pages.segment.page_mut(page));
        Ok(page)
    }

    /// Gives half of a page's hashes, and the entries that have them, to a new page.
    fn split(&mut self, at: usize, page: u32) -> Result<(), StateError> {
        let state = self.state;
        let mut descriptor = self.pages().segment.descriptors.get(page);
        let Descriptor { namespace, prefix: lower, depth, .. } = descriptor;
        if self.pages_mut().narrow(page) {
            return Ok(());
        }
        let bit = 1u64 << (63 - depth);
        let sibling = self.hand_out(Namespace(namespace), lower | bit, depth + 1)?;
        let pages = self.pages_mut();
        pages.mark(page, u64::MAX);
        pages.space_mut(state, at).split(lower, depth, sibling);
        (descriptor.depth, descriptor.count) = (depth + 1, 0);
        let mut sibling_descriptor = pages.segment.descriptors.get(sibling);
        let before = Box::new(Copied(*pages.segment.page(page)));
        slotted::clear(pages.segment.page_mut(page));
        for slot in 0..slotted::len(&before.0) {
            let cell = slotted::cell(&before.0, slot);
            // SAFETY: a key of this table, in a copy of its page that starts on a multiple of 16.
            let hash = unsafe { K::hash_of(cell.key(&before.0)) };
            let (to, count) =
                if hash & bit == 0 { (page, &mut descriptor.count) } else { (sibling, &mut sibling_descriptor.count) };
            *count += 1;
            slotted::push_cell(pages.segment.page_mut(to), hash, &before.0, &cell);
        }
        pages.segment.descriptors.set(page, descriptor);
        pages.segment.descriptors.set(sibling, sibling_descriptor);
        Ok(())
    }

    /// Writes a long value into pages of its own; the first of them.
    fn hand_out_chain(&mut self, namespace: Namespace, value: &[u8]) -> Result<u32, StateError> {
        let state = self.state;
        let mut next = NO_PAGE;
        // From the last to the first, so that each knows the one behind it.
        for piece in value.chunks(OVERFLOW_BYTES).rev() {
            let pages = self.pages_mut();
            let Some(page) = pages.hand_out(state, namespace.0, 0, 0, Kind::Overflow) else {
                if next != NO_PAGE {
                    pages.give_up_chain(next);
                }
                return Err(pages.full());
            };
            pages.count(page, 1);
            slotted::put_overflow(pages.segment.page_mut(page), next, piece);
            pages.entry_bytes += piece.len();
            next = page;
        }
        Ok(next)
    }

    /// Writes another value over a long one that takes as many pages.
    fn fill_overflow(&mut self, first: u32, value: &[u8]) {
        let mut page = first;
        for piece in value.chunks(OVERFLOW_BYTES) {
            let pages = self.pages_mut();
            let before = pages.segment.page(page);
            let (next, here) = (slotted::overflow_next(before), slotted::overflow_bytes(before));
            pages.mark(page, slotted::lines_of(0, PAGE_BYTES - OVERFLOW_BYTES + here.max(piece.len())));
            slotted::put_overflow(pages.segment.page_mut(page), next, piece);
            pages.entry_bytes = pages.entry_bytes + piece.len() - here;
            page = next;
        }
    }

    /// Shows every entry of a namespace that is not over, in the order of its pages in memory.
    pub fn scan(&self, namespace: Namespace, mut visit: impl FnMut(&K::View, &V::Archived)) {
        let Some(at) = self.pages().find_space(self.state, namespace.0) else { return };
        let mut numbers = self.pages().space(self.state, at).pages.clone();
        numbers.sort_unstable();
        for page in numbers {
            for slot in 0..slotted::len(self.pages().segment.page(page)) {
                let body = self.pages().segment.page(page);
                let cell = slotted::cell(body, slot);
                if self.is_over(&cell) {
                    continue;
                }
                // SAFETY: keys and values of this table, archived here or proven, on multiples of 16.
                let key = unsafe { K::view(cell.key(body)) };
                let place = Place { page, slot, cell };
                // SAFETY: as above.
                self.with_value(&place, |bytes| visit(key, unsafe { view::<V>(bytes) }));
            }
        }
    }

    /// Takes out entries of a namespace that are over, page by page from where it stopped the last time, until `pages_max`
    /// were looked at; how many went. Called now and then it finds them all.
    pub fn expire(&mut self, namespace: Namespace, cursor: &mut usize, pages_max: usize) -> usize {
        let Some(at) = self.pages().find_space(self.state, namespace.0) else { return 0 };
        let mut gone = 0;
        for _ in 0..pages_max.min(self.pages().space(self.state, at).pages.len()) {
            let numbers = &self.pages().space(self.state, at).pages;
            *cursor %= numbers.len();
            let page = numbers[*cursor];
            *cursor += 1;
            let mut slot = 0;
            while slot < slotted::len(self.pages().segment.page(page)) {
                let cell = slotted::cell(self.pages().segment.page(page), slot);
                if self.is_over(&cell) {
                    // The last slot takes this one's place and is looked at next.
                    self.take_out(namespace, &Place { page, slot, cell });
                    gone += 1;
                } else {
                    slot += 1;
                }
            }
        }
        gone
    }

    /// Entries of a namespace, those that are over and not yet cleared away among them.
    #[must_use]
    pub fn len(&self, namespace: Namespace) -> usize {
        self.pages().find_space(self.state, namespace.0).map_or(0, |at| self.pages().space(self.state, at).len)
    }

    /// Whether there is no namespace at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages().states[self.state as usize].spaces.is_empty()
    }

    /// The namespaces there are, ascending.
    #[must_use]
    pub fn namespaces(&self) -> Vec<Namespace> {
        self.pages().states[self.state as usize].spaces.iter().map(|space| Namespace(space.namespace)).collect()
    }

    /// Forgets a namespace: its pages are free at once, and the next snapshot says so.
    pub fn drop_namespace(&mut self, namespace: Namespace) {
        let state = self.state;
        self.pages_mut().drop_namespace(state, namespace.0);
    }

    /// The store it is a state of.
    #[must_use]
    pub fn store(&self) -> &PageStore {
        &self.store
    }
}

impl<K: SlotKey, V: Stored + Fixed> SlottedTable<K, V> {
    /// The longest value that always lies in its cell, whatever its key.
    pub const FIXED_BYTES_MAX: usize = slotted::KEY_BYTES_MAX;

    const IN_CELL: () = assert!(
        size_of::<V>() <= Self::FIXED_BYTES_MAX && align_of::<V>() <= slotted::CELL_ALIGN,
        "a fixed value in a slotted page has at most 1,984 bytes, aligned to 16: keep it in a Vec or a Box"
    );

    /// The value of a key, where it lies.
    #[must_use]
    pub fn get_ref<Q: AsKey<K> + ?Sized>(&self, namespace: Namespace, key: &Q) -> Option<&V> {
        let () = const { (V::PROOF, Self::IN_CELL).1 };
        let place = self.place_of(namespace, key).filter(|place| !self.is_over(&place.cell))?;
        let value = place.cell.value(self.pages().segment.page(place.page));
        // SAFETY: a valid value, whose archived form is its own memory, on a multiple of 16; as in `look`.
        Some(unsafe { &*value.as_ptr().cast::<V>() })
    }

    /// The same to be changed, of an entry that from now on ends at `expires_ms`, 0: never; none: when it did. It counts as
    /// changed at once: it must not be held over a barrier.
    pub fn get_mut<Q: AsKey<K> + ?Sized>(
        &mut self,
        namespace: Namespace,
        key: &Q,
        expires_ms: Option<i64>,
    ) -> Option<&mut V> {
        let () = const { (V::PROOF, Self::IN_CELL).1 };
        let place = self.place_of(namespace, key).filter(|place| !self.is_over(&place.cell))?;
        let value = self.value_mut(&place, expires_ms.unwrap_or(place.cell.expires_ms));
        // SAFETY: as in `get_ref`; the table is borrowed exclusively, and every bit of a fixed value may be written.
        Some(unsafe { &mut *value.as_mut_ptr().cast::<V>() })
    }
}

/// A value as [`SlottedTable::look`] shows it. It stands for `V::Archived`.
pub struct Seen<'a, V: Stored>(Held<'a, V>);

enum Held<'a, V: Stored> {
    InPlace(&'a V::Archived),
    Gathered(AlignedVec),
}

impl<V: Stored> Deref for Seen<'_, V> {
    type Target = V::Archived;

    #[inline]
    fn deref(&self) -> &V::Archived {
        match &self.0 {
            Held::InPlace(value) => value,
            // SAFETY: a valid value's bytes, gathered on a multiple of 16.
            Held::Gathered(bytes) => unsafe { view::<V>(bytes) },
        }
    }
}

impl<V: Stored<Archived: std::fmt::Debug>> std::fmt::Debug for Seen<'_, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl<V: Stored<Archived: std::fmt::Display>> std::fmt::Display for Seen<'_, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

/// How many pages a long value takes.
fn chain_pages(bytes: usize) -> usize {
    bytes.div_ceil(OVERFLOW_BYTES)
}

/// A page copied out, at the alignment of a line.
#[repr(align(64))]
struct Copied([u8; PAGE_BYTES]);
