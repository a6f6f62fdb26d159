//! Timers: moments at which a process function wants to be called again, for a key.
//!
//! ```text
//! set     ─▶ index (new?) ─▶ page                          an entry (key, time) of a state of the operator, without a value
//! fire    ─▶ index, first in time ─▶ page ─▶ on_timer
//! restore ─▶ pages ─▶ index
//! ```
//!
//! A timer lies in the operator's pages under its key and time, so that snapshot, restore and rescale are those of every
//! other state; one of a key, a time and a kind is there once, however often it is set. Pages have no order of time: beside
//! them, in memory, the same timers lie sorted. The index holds exactly what the pages hold, deleted timers leave both, so
//! nothing has to be cleared away later, and a restore makes it anew.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;

use millstream_state::schema::{Described, Schema};
use millstream_state::{Key, Namespace, PageStore, StateError, SubKey, Table, Within, bytes_of};

use crate::time::Timestamp;

/// A kind's timers are one part of its table.
const ALL_TIMERS: Namespace = Namespace(0);
/// Timers that are asked for ahead of their firing.
const AHEAD: usize = 32;

/// Wall time in milliseconds since the Unix epoch: a type of its own, so that it is not taken for event time.
///
/// ```
/// use millstream::WallTime;
/// assert!(WallTime(1_000).plus_ms(500) > WallTime(1_000));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct WallTime(pub i64);

impl WallTime {
    /// The moment `ms` milliseconds later, saturating at the ends.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> WallTime {
        WallTime(self.0.saturating_add(ms))
    }
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

impl fmt::Debug for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A timer that fires.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Timer {
    /// Event time has come to this moment: the watermark is at it or past it.
    Event(Timestamp),
    /// Wall time has come to this moment.
    Processing(WallTime),
}

impl fmt::Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Timer::Event(at) => write!(f, "the event-time timer at {at}"),
            Timer::Processing(at) => write!(f, "the processing-time timer at {at}"),
        }
    }
}

/// The timers of one key; from [`ProcessContext::timers`](crate::ProcessContext::timers).
///
/// There is one timer of a key, a time and a kind: setting it twice sets it once.
pub struct Timers<'a, K> {
    pub(crate) pending: &'a mut Pending<K>,
    pub(crate) key: K,
}

impl<K> fmt::Debug for Timers<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (event, processing) = (self.pending.event.index.len(), self.pending.processing.index.len());
        write!(f, "Timers(of one key, among {event} of event time and {processing} of processing time)")
    }
}

impl<K: Key> Timers<'_, K> {
    /// Fires once the watermark comes to `at`. One at or before the watermark fires before the next row is taken.
    pub fn event(&mut self, at: Timestamp) {
        let set = self.pending.event.set(self.key, at.0);
        self.pending.keep(set);
    }

    /// Fires once wall time comes to `at`.
    pub fn processing(&mut self, at: WallTime) {
        let set = self.pending.processing.set(self.key, at.0);
        self.pending.keep(set);
    }

    /// Takes back an event-time timer; false if there is none at `at`.
    pub fn delete_event(&mut self, at: Timestamp) -> bool {
        self.pending.event.delete(self.key, at.0)
    }

    /// Takes back a processing-time timer; false if there is none at `at`.
    pub fn delete_processing(&mut self, at: WallTime) -> bool {
        self.pending.processing.delete(self.key, at.0)
    }
}

/// All timers of an operator on one shard.
pub(crate) struct Pending<K> {
    pub(crate) event: Sorted<K>,
    pub(crate) processing: Sorted<K>,
    failed: Option<StateError>,
}

impl<K: Key + Described> Pending<K> {
    /// Declares them in the operator's store. No field of a struct of states can have their names.
    pub(crate) fn declare(store: &PageStore) -> Pending<K> {
        let key = || Schema::Tuple(vec![K::schema(), i64::schema()]);
        Pending::declare_as(store, key)
    }
}

impl<K: Key> Pending<K> {
    /// As [`declare`](Pending::declare), with what checkpoints shall say of a timer.
    pub(crate) fn declare_as(store: &PageStore, key: impl Fn() -> Schema) -> Pending<K> {
        let (event, processing) =
            (Sorted::declare(store, "event timers", key()), Sorted::declare(store, "processing timers", key()));
        Pending { event, processing, failed: None }
    }

    /// Sorts what a restore has put into the pages.
    pub(crate) fn restored(&mut self) {
        self.event.sort();
        self.processing.sort();
    }

    /// Keeps the first error until the operator asks, as handles of states do.
    fn keep(&mut self, set: Result<(), StateError>) {
        if let Err(error) = set {
            self.failed.get_or_insert(error);
        }
    }

    pub(crate) fn take_failure(&mut self) -> Option<StateError> {
        self.failed.take()
    }
}

/// The timers of one kind.
pub(crate) struct Sorted<K> {
    table: Table<Within<K, i64>, ()>,
    index: BTreeSet<Due<K>>,
    /// The first one's time: looked at after every row.
    first_at: Option<i64>,
}

impl<K: Key> Sorted<K> {
    fn declare(store: &PageStore, name: &str, key: Schema) -> Sorted<K> {
        Sorted { table: store.table_as(name, key, Schema::Unit), index: BTreeSet::new(), first_at: None }
    }
}

impl<K: Key> Sorted<K> {
    fn set(&mut self, key: K, at: i64) -> Result<(), StateError> {
        if self.index.insert(Due { at, key }) {
            self.first_at = Some(self.first_at.map_or(at, |first| first.min(at)));
            self.table.put(ALL_TIMERS, &entry(key, at), ())?;
        }
        Ok(())
    }

    fn delete(&mut self, key: K, at: i64) -> bool {
        let was_set = self.index.remove(&Due { at, key });
        if was_set {
            self.table.remove(ALL_TIMERS, &entry(key, at));
            self.look();
        }
        was_set
    }

    fn look(&mut self) {
        self.first_at = self.index.first().map(|due| due.at);
    }

    /// When the first one is to fire.
    pub(crate) fn first_at(&self) -> Option<i64> {
        self.first_at
    }

    /// Whether one is to fire by now.
    #[inline(always)]
    pub(crate) fn is_due(&self, now: i64) -> bool {
        self.first_at.is_some_and(|at| at <= now)
    }

    /// Takes out the first one that is to fire by now.
    pub(crate) fn take_due(&mut self, now: i64) -> Option<(K, i64)> {
        if !self.is_due(now) {
            return None;
        }
        let Due { at, key } = self.index.pop_first()?;
        self.table.remove(ALL_TIMERS, &entry(key, at));
        self.look();
        Some((key, at))
    }

    /// Asks the memory for the entries of those that fire next, and hands the hashes of their keys to `ask`.
    pub(crate) fn look_ahead(&self, now: i64, ask: impl FnOnce(&[u64])) {
        let (mut keys, mut entries, mut count) = ([0; AHEAD], [0; AHEAD], 0);
        for due in self.index.iter().take(AHEAD).take_while(|due| due.at <= now) {
            keys[count] = due.key.hash64();
            entries[count] = entry(due.key, due.at).hash64();
            count += 1;
        }
        self.table.prefetch(ALL_TIMERS, &entries[..count]);
        ask(&keys[..count]);
    }

    fn sort(&mut self) {
        let mut all = Vec::with_capacity(self.table.len(ALL_TIMERS));
        self.table.scan(ALL_TIMERS, |entry, ()| {
            let (key, at) = entry.parts();
            all.push(Due { at, key });
        });
        self.index = all.into_iter().collect();
        self.look();
    }
}

/// What a timer lies in its page under.
#[inline(always)]
fn entry<K: Key>(key: K, at: i64) -> Within<K, i64> {
    SubKey::with(&at, |at| Within::new(key, at))
}

/// A timer in the index: by time, and of one time by key, so that shards and restarts make no difference.
#[derive(Clone, Copy)]
struct Due<K> {
    at: i64,
    key: K,
}

impl<K: Key> Ord for Due<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        // Keys are equal exactly when their bytes are; another order they need not have.
        self.at.cmp(&other.at).then_with(|| bytes_of(&self.key).cmp(bytes_of(&other.key)))
    }
}

impl<K: Key> PartialOrd for Due<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Key> PartialEq for Due<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<K: Key> Eq for Due<K> {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millstream_state::TableConfig;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::road::trial::cases;

    fn pending() -> (PageStore, Pending<u32>) {
        let store = PageStore::new(TableConfig { bytes_max: 1 << 26, ..TableConfig::default() }).unwrap();
        let pending = Pending::declare(&store);
        (store, pending)
    }

    #[test]
    fn a_timer_is_set_once_and_deleted_once() {
        let (_store, mut pending) = pending();
        let mut timers = Timers { pending: &mut pending, key: 7 };
        timers.event(Timestamp(5));
        timers.event(Timestamp(5));
        timers.processing(WallTime(5));
        assert!(timers.delete_event(Timestamp(5)) && !timers.delete_event(Timestamp(5)));
        assert!(!timers.delete_processing(WallTime(6)));
        assert_eq!(
            (pending.event.index.len(), pending.processing.index.len()),
            (0, 1),
            "kinds do not know of each other"
        );
        assert_eq!(pending.event.first_at(), None);
    }

    #[test]
    fn the_ends_of_time_and_the_key_of_zeros_are_timers_like_others() {
        let (_store, mut pending) = pending();
        for at in [i64::MAX, 0, i64::MIN] {
            Timers { pending: &mut pending, key: 0 }.event(Timestamp(at));
        }
        assert_eq!(pending.event.take_due(i64::MIN), Some((0, i64::MIN)));
        assert_eq!(pending.event.take_due(i64::MAX - 1), Some((0, 0)));
        assert_eq!(pending.event.take_due(i64::MAX - 1), None);
        assert_eq!(pending.event.take_due(i64::MAX), Some((0, i64::MAX)));
        assert_eq!(pending.event.table.len(ALL_TIMERS), 0);
    }

    proptest! {
        #![proptest_config(cases(64))]

        /// Set, deleted, fired and sorted anew in any order: a sorted map, and the pages hold what the index holds.
        #[test]
        fn pages_and_index_are_a_sorted_set(steps in vec((0_u8..10, 0_u32..20, -5_i64..30), 0..600)) {
            let (_store, mut pending) = pending();
            let mut model: BTreeMap<(i64, [u8; 4]), u32> = BTreeMap::new();
            for (step, key, at) in steps {
                match step {
                    0 => {
                        let due = model.first_key_value().filter(|((first, _), _)| *first <= at);
                        let due = due.map(|((first, bytes), key)| ((*first, *bytes), *key));
                        if let Some((place, _)) = due {
                            model.remove(&place);
                        }
                        prop_assert_eq!(pending.event.take_due(at), due.map(|((first, _), key)| (key, first)));
                    }
                    1 => pending.restored(),
                    2..=4 => {
                        let was_set = model.remove(&(at, key.to_le_bytes())).is_some();
                        let deleted = Timers { pending: &mut pending, key }.delete_event(Timestamp(at));
                        prop_assert_eq!(deleted, was_set);
                    }
                    _ => {
                        model.insert((at, key.to_le_bytes()), key);
                        Timers { pending: &mut pending, key }.event(Timestamp(at));
                    }
                }
                prop_assert_eq!(pending.event.first_at(), model.keys().next().map(|(at, _)| *at));
                prop_assert_eq!(pending.event.index.len(), model.len());
                prop_assert_eq!(pending.event.table.len(ALL_TIMERS), model.len());
            }
        }
    }
}
