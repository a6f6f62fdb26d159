//! What a page store keeps: its states, each with a name, types, a layout and its namespaces.
//!
//! Pages are moved, snapshot, restored and split by code that knows sizes and no types. What it cannot do without them
//! stands in [`Ways`], a few functions compiled for each pair of types.

use rkyv::util::AlignedVec;
use serde::{Deserialize, Serialize};

use crate::directory::Space;
use crate::dirty::Pages;
use crate::evolution::Migrations;
use crate::page::{Geometry, Pack, Unpack, entries, unpack_as};
use crate::schema::Schema;
use crate::segment::{Descriptor, Kind, NO_PAGE, PAGE_BYTES};
use crate::slotted;
use crate::{PageStore, StateError};

/// A state of an operator as checkpoints tell of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatePart {
    /// Its name, unique in its operator.
    pub name: String,
    /// The keys' type.
    pub key: Schema,
    /// The values' type.
    pub value: Schema,
    /// Of both: two states of equal fingerprints are kept alike.
    pub fingerprint: u64,
    /// How entries lie in pages.
    pub layout: LayoutPart,
}

/// How entries lie in pages, with all that is needed to find them there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LayoutPart {
    /// Keys and values of fixed size in line buckets.
    Flat {
        /// Of a key.
        key_bytes: usize,
        /// Of a value.
        value_bytes: usize,
        /// What a value's address is a multiple of.
        value_align: usize,
    },
    /// Keys and values of any size in cells.
    Slotted,
}

impl StatePart {
    pub(crate) fn new(name: &str, key: Schema, value: Schema, layout: LayoutPart) -> StatePart {
        let fingerprint = fingerprint(&key, &value);
        StatePart { name: name.to_owned(), key, value, fingerprint, layout }
    }
}

/// Of a key's and a value's type together.
fn fingerprint(key: &Schema, value: &Schema) -> u64 {
    key.fingerprint().rotate_left(1) ^ value.fingerprint()
}

/// As [`LayoutPart`], worked out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layout {
    Flat(Geometry),
    Slotted,
}

impl Layout {
    /// None where no page could hold an entry of these sizes: a file that says so is damaged.
    pub(crate) fn of_part(part: LayoutPart) -> Option<Layout> {
        match part {
            LayoutPart::Flat { key_bytes, value_bytes, value_align } => {
                Geometry::try_of_sizes(key_bytes, value_bytes, value_align).map(Layout::Flat)
            }
            LayoutPart::Slotted => Some(Layout::Slotted),
        }
    }
}

/// What only code that knows the types can do.
pub(crate) struct Ways {
    /// Packs a flat page's entries for a record.
    pub(crate) pack: Pack,
    /// Puts them back.
    pub(crate) unpack: Unpack,
    /// Checks a page's entries before anybody sees them as keys and values; `Err` says what is wrong with which.
    pub(crate) prove: fn(&Descriptor, &[u8; PAGE_BYTES]) -> Result<(), String>,
    /// Whether bytes on a multiple of 16 are a key.
    pub(crate) is_key: fn(&[u8]) -> bool,
    /// Whether bytes on a multiple of 16 are a value.
    pub(crate) is_value: fn(&[u8]) -> bool,
    /// The hash of a key that was proven.
    pub(crate) hash: fn(&[u8]) -> u64,
    /// Puts an entry in that was proven, with the time it ends, replacing the one of an equal key.
    pub(crate) insert: fn(&PageStore, u16, i64, &[u8], &[u8], i64) -> Result<(), StateError>,
}

impl Ways {
    /// Of a state of which a file tells and whose types nobody here knows: its entries can be shown, as bytes.
    pub(crate) fn unknown() -> Ways {
        Ways {
            pack: |_, _| unreachable!("state of unknown types is not written"),
            unpack: unpack_as,
            prove: |descriptor, body| match descriptor.kind {
                Kind::Slotted => slotted::prove(body, descriptor.count as usize),
                _ => Ok(()),
            },
            is_key: |_| true,
            is_value: |_| true,
            hash: |_| unreachable!("keys of unknown types are not sought"),
            insert: |_, _, _, _, _, _| unreachable!("nothing is put into state of unknown types"),
        }
    }
}

/// An entry as bytes, on multiples of 16: what restores, savepoints and dumps speak of.
#[derive(Clone, Copy, Debug)]
pub struct EntryBytes<'a> {
    /// The part of the state it belongs to.
    pub namespace: i64,
    /// Its key.
    pub key: &'a [u8],
    /// Its value, in its archived form.
    pub value: &'a [u8],
    /// When it ends, in milliseconds; 0: never.
    pub expires_ms: i64,
}

impl Pages {
    /// Shows every entry of a page that was proven.
    pub(crate) fn entries_of<E>(
        &self,
        page: u32,
        mut visit: impl FnMut(EntryBytes<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Descriptor { namespace, kind, state, .. } = self.segment.descriptors.get(page);
        let body = self.segment.page(page);
        let (mut key_room, mut value_room) = (AlignedVec::<16>::new(), AlignedVec::<16>::new());
        match (kind, &self.states[state as usize].layout) {
            (Kind::Zero, Layout::Flat(geometry)) => {
                key_room.resize(geometry.key_bytes, 0);
                value_room.extend_from_slice(&body[geometry.values_at..][..geometry.value_bytes]);
                visit(EntryBytes { namespace, key: &key_room, value: &value_room, expires_ms: 0 })
            }
            (Kind::Flat, Layout::Flat(geometry)) => entries(geometry, body, |key, value| {
                key_room.clear();
                key_room.extend_from_slice(key);
                value_room.clear();
                value_room.extend_from_slice(value);
                visit(EntryBytes { namespace, key: &key_room, value: &value_room, expires_ms: 0 })
            }),
            (Kind::Slotted, Layout::Slotted) => (0..slotted::len(body)).try_for_each(|slot| {
                let cell = slotted::cell(body, slot);
                let (key, expires_ms) = (cell.key(body), cell.expires_ms);
                if !cell.is_long {
                    return visit(EntryBytes { namespace, key, value: cell.value(body), expires_ms });
                }
                let mut value = AlignedVec::<16>::with_capacity(cell.value_bytes);
                let mut piece = cell.first_overflow(body);
                while piece != NO_PAGE {
                    value.extend_from_slice(slotted::overflow(self.segment.page(piece)));
                    piece = slotted::overflow_next(self.segment.page(piece));
                }
                visit(EntryBytes { namespace, key, value: &value, expires_ms })
            }),
            _ => Ok(()),
        }
    }
}

/// One state of a store.
pub(crate) struct State {
    pub(crate) part: StatePart,
    /// What older checkpoints call it.
    pub(crate) was: Option<String>,
    pub(crate) layout: Layout,
    pub(crate) ways: Ways,
    /// How values of older types are brought up to date; none where that is not asked for.
    pub(crate) migrations: Option<Migrations>,
    /// Ascending by namespace.
    pub(crate) spaces: Vec<Space>,
    /// Entries of the namespace that was dropped last: what the next new one may expect.
    pub(crate) expected: usize,
}
