//! A restore into another number of shards, or of values whose type has changed: pages are taken over where they fit, and
//! entries where they do not.
//!
//! ```text
//! a part, read as it was ─▶ its pages ─▶ all of it ours, and of the same type?  ─▶ taken over as it is
//!                                        straddles an end, or a long value?     ─▶ its entries, those that are ours
//!                                        values of an older type?               ─▶ its entries, brought up to date
//! then: directories from the pages taken over, empty pages where none owns the hashes, and the entries put in
//! ```
//!
//! A page owns a stretch of the hash space. If that lies within what its old shard owned and within what the new one does,
//! nobody else has any of it, and the page has no key that is not ours. At most a few pages of a namespace straddle.

use std::convert::Infallible;

use crate::backing::Backing;
use crate::dirty::Pages;
use crate::evolution::Intake;
use crate::hash::HashRange;
use crate::manifest::TablePart;
use crate::page_store::PageStore;
use crate::pending::Pending;
use crate::restore::{RestoreError, Restored, read_chain};
use crate::segment::{Descriptor, Kind, NO_PAGE};
use crate::shape::{EntryBytes, Layout, StatePart, Ways};
use crate::{Store, TableConfig, slotted};

impl PageStore {
    /// A part of a checkpoint of whose types nobody here knows, as it was: for looking into it.
    ///
    /// # Errors
    /// When its files cannot be read or believed.
    pub fn restore_unknown(
        config: TableConfig,
        store: &Store,
        part: &TablePart,
    ) -> Result<(PageStore, Restored), RestoreError> {
        let config = TableConfig { range: part.range, backing: Backing::Anonymous, ..config };
        let contradiction = |what| {
            let TableConfig { operator, shard, .. } = config.clone();
            Err(RestoreError::Contradiction { operator, shard, what })
        };
        if part.range.first > part.range.last {
            return contradiction(format!("its hashes begin at {} and end at {}", part.range.first, part.range.last));
        }
        let mut pages = PageStore::new(config.clone())?;
        for (number, state) in part.states.iter().enumerate() {
            if number > usize::from(u16::MAX) || part.states[..number].iter().any(|other| other.name == state.name) {
                return contradiction(format!("state '{}' is there twice, or one of too many", state.name));
            }
            let Some(layout) = Layout::of_part(state.layout) else {
                return contradiction(format!("state '{}' has entries that no page can hold", state.name));
            };
            pages.declare(state.clone(), layout, Ways::unknown());
        }
        let mut restored = read_chain(&mut pages.pages, store, part)?;
        pages.adopt(&mut restored)?;
        // Where types are known, a page's proof counts its entries; here they are shown, and so counted.
        let mut entries = 0;
        let Ok(()) = pages.entries(|_, _| {
            entries += 1;
            Ok::<(), Infallible>(())
        });
        match restored.entries {
            counted if counted == entries => Ok((pages, restored)),
            counted => contradiction(format!("its pages hold {entries} entries and should hold {counted}")),
        }
    }

    /// Shows every entry of every state, as bytes, in the order of their pages in memory.
    ///
    /// # Errors
    /// The first that `visit` returns.
    pub fn entries<E>(&self, mut visit: impl FnMut(&StatePart, EntryBytes<'_>) -> Result<(), E>) -> Result<(), E> {
        for page in 0..self.pages.handed_out {
            let descriptor = self.pages.segment.descriptors.get(page);
            if descriptor.kind != Kind::Free {
                let part = &self.pages.states[descriptor.state as usize].part;
                self.pages.entries_of(page, |entry| visit(part, entry))?;
            }
        }
        Ok(())
    }
}

/// Fills the store from parts of any shards.
pub(crate) fn restore(
    store: &mut PageStore,
    from: &Store,
    parts: &[TablePart],
    allow_dropped: bool,
) -> Result<Restored, RestoreError> {
    let range = store.range();
    let mut restored = Restored::default();
    let mut pending = Pending::default();
    for part in parts.iter().filter(|part| part.range.meets(range)) {
        let config = store.pages.config.clone();
        let (old, read) = PageStore::restore_unknown(config, from, part)?;
        restored.files += read.files;
        restored.bytes_read += read.bytes_read;
        let intakes = store.intakes(&part.states, allow_dropped)?;
        take_over(store, &old, part.range, &intakes, &mut pending)?;
    }
    restored.pages_moved = store.pages.in_use as usize;
    restored.entries_moved = pending.len();
    store.adopt_taken_over(&mut restored)?;
    restored.entries += pending.insert_into(store)?;
    restored.pages = store.pages.in_use as usize;
    let held: usize = store.pages.states.iter().flat_map(|state| &state.spaces).map(|space| space.len).sum();
    if held != restored.entries {
        let TableConfig { operator, shard, .. } = store.pages.config.clone();
        let what =
            format!("of {} entries, {} have keys that others have too", restored.entries, restored.entries - held);
        return Err(RestoreError::Contradiction { operator, shard, what });
    }
    Ok(restored)
}

/// Takes the pages and entries of one part that are ours.
fn take_over(
    store: &mut PageStore,
    old: &PageStore,
    old_range: HashRange,
    intakes: &[Intake],
    pending: &mut Pending,
) -> Result<(), RestoreError> {
    let range = store.range();
    let old: &Pages = &old.pages;
    for page in 0..old.handed_out {
        let descriptor = old.segment.descriptors.get(page);
        if !matches!(descriptor.kind, Kind::Flat | Kind::Zero | Kind::Slotted) {
            continue;
        }
        let owned = HashRange::of_prefix(descriptor.prefix, descriptor.depth);
        if descriptor.kind != Kind::Zero && !owned.meets(range) {
            continue;
        }
        let Intake::Into { state, by_page, migrate } = &intakes[descriptor.state as usize] else { continue };
        let (body, state) = (old.segment.page(page), *state);
        let is_movable = match descriptor.kind {
            Kind::Flat => *by_page,
            Kind::Slotted => *by_page && slotted::longs(body) == 0,
            _ => false,
        };
        if is_movable && range.covers(owned) && old_range.covers(owned) {
            let Descriptor { namespace, prefix, depth, kind, count, .. } = descriptor;
            let pages = &mut *store.pages;
            let to = pages.hand_out(state, namespace, prefix, depth, kind).ok_or_else(|| pages.full())?;
            *pages.segment.page_mut(to) = *body;
            pages.segment.descriptors.set(to, Descriptor { count, ..pages.segment.descriptors.get(to) });
            pages.entry_bytes += pages.entry_bytes_of(to);
            continue;
        }
        let contradiction = |what: &str| RestoreError::Contradiction {
            operator: store.pages.config.operator.clone(),
            shard: store.pages.config.shard,
            what: format!("page {page}: {what}"),
        };
        let ways = &store.pages.states[state as usize].ways;
        old.entries_of(page, |entry| {
            if !(ways.is_key)(entry.key) || !(migrate.is_some() || (ways.is_value)(entry.value)) {
                return Err(contradiction("it has a key or value that is not one of its type"));
            }
            let hash = (ways.hash)(entry.key);
            if !old_range.contains(hash) || (descriptor.kind != Kind::Zero && !owned.contains(hash)) {
                return Err(contradiction(
                    "it has a key that its hash does not lead to; was the key's hash64 changed?",
                ));
            }
            if range.contains(hash) {
                match migrate {
                    Some(migrate) => {
                        let value = migrate(entry.value).map_err(|error| contradiction(&error.to_string()))?;
                        pending.push(state, EntryBytes { value: &value, ..entry });
                    }
                    None => pending.push(state, entry),
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

impl PageStore {
    /// Builds the namespaces of pages that were taken over, with empty pages where none of them owns the hashes.
    fn adopt_taken_over(&mut self, restored: &mut Restored) -> Result<(), RestoreError> {
        self.adopt_with_holes(restored)?;
        for state in 0..self.pages.states.len() {
            for at in 0..self.pages.states[state].spaces.len() {
                while let Some((prefix, depth)) = self.pages.space(state as u16, at).first_hole() {
                    let kind = match self.pages.states[state].layout {
                        Layout::Flat(_) => Kind::Flat,
                        Layout::Slotted => Kind::Slotted,
                    };
                    let namespace = self.pages.space(state as u16, at).namespace;
                    let pages = &mut *self.pages;
                    let page =
                        pages.hand_out(state as u16, namespace, prefix, depth, kind).ok_or_else(|| pages.full())?;
                    if kind == Kind::Slotted {
                        slotted::clear(pages.segment.page_mut(page));
                    }
                    debug_assert_ne!(page, NO_PAGE);
                    pages.space_mut(state as u16, at).fill_hole(prefix, depth, page);
                }
            }
        }
        Ok(())
    }
}
