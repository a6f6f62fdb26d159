//! The entry of a key and window, and what it lies under.

use millstream_state::schema::{Described, Schema};
use millstream_state::{Both, Fixed, Key, Packed, PageStore, StateError, SubKey, Table, Within, bytes_of};

use super::super::Window;
use crate::road::timers::{Pending, Timers, WallTime};
use crate::time::Timestamp;

/// All of an operator's slots are one part of its table.
pub(super) const ALL: millstream_state::Namespace = millstream_state::Namespace(0);

/// Which of a key's windows: where they stay apart its start and end; where they merge a place in the key's row of them,
/// or the number that a window keeps while it grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, rkyv::Archive)]
#[repr(C)]
pub(crate) struct Cell {
    pub(super) first: i64,
    pub(super) second: i64,
}

impl Key for Cell {}

impl Cell {
    pub(super) fn of(window: Window) -> Cell {
        Cell { first: window.start.0, second: window.end.0 }
    }

    pub(super) fn number(number: u32) -> Cell {
        Cell { first: i64::from(number), second: 0 }
    }
}

/// A key's window, in tables and timers.
pub(crate) type Of<K> = Within<K, Cell>;

/// Puts a key and one of its windows together.
#[inline(always)]
pub(super) fn within<K: Key, S: Key>(key: K, sub: S) -> Within<K, S> {
    SubKey::with(&sub, |sub| Within::new(key, sub))
}

/// What the operator notes of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, rkyv::Archive)]
#[repr(C)]
pub(crate) struct Core {
    pub(super) start: i64,
    pub(super) end: i64,
    /// The operator's own timer, if `ARMED`.
    pub(super) armed_at: i64,
    /// Results emitted so far.
    pub(super) panes: u32,
    /// Where windows merge: what its timers and its rows are kept under.
    pub(super) number: u32,
    /// Where windows merge, in the key's first place: how many places are taken.
    pub(super) places: u32,
    pub(super) flags: u32,
}

/// There are rows in it.
pub(super) const FILLED: u32 = 1;
/// The operator has a timer of its own.
pub(super) const ARMED: u32 = 2;

impl Core {
    pub(super) fn new(window: Window, number: u32) -> Core {
        Core { start: window.start.0, end: window.end.0, armed_at: 0, panes: 0, number, places: 1, flags: 0 }
    }

    pub(super) fn window(&self) -> Window {
        Window { start: Timestamp(self.start), end: Timestamp(self.end) }
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn set(&mut self, flag: u32, to: bool) {
        self.flags = if to { self.flags | flag } else { self.flags & !flag };
    }
}

/// The entry: what is kept of the rows, the trigger's state, and the operator's notes.
pub(crate) type Slot<A, S> = Both<Packed<A>, Both<Packed<S>, Packed<Core>>>;

pub(super) fn slot<A: Fixed, S: Fixed>(kept: A, trigger: S, core: Core) -> Slot<A, S> {
    Both(Packed::new(kept), Both(Packed::new(trigger), Packed::new(core)))
}

/// Whether two values are the same, byte by byte.
pub(super) fn is_same<S: Fixed>(one: &S, other: &S) -> bool {
    bytes_of(one) == bytes_of(other)
}

/// An operator's slots and timers, declared in its store.
pub(crate) struct WindowSlots<K, A, S> {
    pub(super) slots: Table<Of<K>, Slot<A, S>>,
    pub(super) pending: Pending<Of<K>>,
}

impl<K: Key + Described, A: Fixed, S: Fixed> WindowSlots<K, A, S> {
    pub(crate) fn declare(store: &PageStore) -> WindowSlots<K, A, S> {
        let key = |numbers| Schema::Tuple(vec![K::schema(), Schema::Array(Box::new(Schema::I64), numbers)]);
        let text = millstream_state::type_text::<Slot<A, S>>();
        let value = Schema::of_type_text(&text, size_of::<Slot<A, S>>(), align_of::<Slot<A, S>>());
        let slots = store.table_as("windows", key(2), value);
        WindowSlots { slots, pending: Pending::declare_as(store, || key(3)) }
    }

    /// Makes ready what a restore has put into the pages.
    pub(crate) fn restored(&mut self) {
        self.pending.restored();
    }
}

/// A window's timers, its key's type erased.
pub(super) trait WindowTimers {
    fn set_event(&mut self, at: Timestamp);
    fn set_processing(&mut self, at: WallTime);
    fn delete_event(&mut self, at: Timestamp) -> bool;
    fn delete_processing(&mut self, at: WallTime) -> bool;
}

impl<K: Key> WindowTimers for Timers<'_, K> {
    fn set_event(&mut self, at: Timestamp) {
        self.event(at);
    }

    fn set_processing(&mut self, at: WallTime) {
        self.processing(at);
    }

    fn delete_event(&mut self, at: Timestamp) -> bool {
        Timers::delete_event(self, at)
    }

    fn delete_processing(&mut self, at: WallTime) -> bool {
        Timers::delete_processing(self, at)
    }
}

/// What goes wrong with state: the store is full.
pub(super) type Stored<T> = Result<T, StateError>;
