//! Entries that wait for their pages: restored ones, until all whole pages are in place.

use rkyv::util::AlignedVec;

use crate::page_store::PageStore;
use crate::restore::RestoreError;
use crate::shape::EntryBytes;

/// Memory is taken a piece of this at a time, so that nothing is ever copied to grow.
const PIECE_BYTES: usize = 1 << 20;
/// Keys and values begin on a multiple of this.
const ALIGN: usize = 16;

/// Entries of a store's states, each proven to be one of its state's types.
#[derive(Default)]
pub(crate) struct Pending {
    pieces: Vec<AlignedVec<ALIGN>>,
    entries: Vec<Place>,
}

/// Where an entry lies: its key, and behind it, on the next multiple of 16, its value.
struct Place {
    piece: u32,
    at: u32,
    key_bytes: u32,
    value_bytes: u32,
    state: u16,
    namespace: i64,
    expires_ms: i64,
}

impl Pending {
    pub(crate) fn push(&mut self, state: u16, entry: EntryBytes<'_>) {
        let EntryBytes { namespace, key, value, expires_ms } = entry;
        let needed = key.len().next_multiple_of(ALIGN) + value.len().next_multiple_of(ALIGN);
        let has_room = |piece: &AlignedVec<ALIGN>| piece.capacity() - piece.len() >= needed;
        if !self.pieces.last().is_some_and(has_room) {
            self.pieces.push(AlignedVec::with_capacity(needed.max(PIECE_BYTES)));
        }
        let number = self.pieces.len() as u32 - 1;
        let piece = self.pieces.last_mut().expect("one was just added, if there was none");
        let at = piece.len() as u32;
        for bytes in [key, value] {
            piece.extend_from_slice(bytes);
            piece.resize(piece.len().next_multiple_of(ALIGN), 0);
        }
        let (key_bytes, value_bytes) = (key.len() as u32, value.len() as u32);
        self.entries.push(Place { piece: number, at, key_bytes, value_bytes, state, namespace, expires_ms });
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Puts all of them in; returns how many they were.
    pub(crate) fn insert_into(self, store: &PageStore) -> Result<usize, RestoreError> {
        for place in &self.entries {
            let piece = &self.pieces[place.piece as usize];
            let key = &piece[place.at as usize..][..place.key_bytes as usize];
            let value_at = (place.at + place.key_bytes).next_multiple_of(ALIGN as u32);
            let value = &piece[value_at as usize..][..place.value_bytes as usize];
            let insert = store.pages.states[place.state as usize].ways.insert;
            insert(store, place.state, place.namespace, key, value, place.expires_ms)?;
        }
        Ok(self.entries.len())
    }
}
