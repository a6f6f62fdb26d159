//! Timers: moments at which a process function wants to be called again, for a key.
//!
//! ```text
//! set     ─▶ page (new?) ─▶ list of its time               an entry (key, time) of a state of the operator, without a value
//! fire    ─▶ the earliest list ─▶ page ─▶ on_timer
//! restore ─▶ pages ─▶ lists
//! ```
//!
//! A timer lies in the operator's pages under its key and time, so that snapshot, restore and rescale are those of every
//! other state; one of a key, a time and a kind is there once, however often it is set. Pages have no order of time: beside
//! them, in memory, there is a list of keys for each time. Among timers of one time there is no order. (They were a tree,
//! sorted by time and key: to set and to fire a million of them took twice as long, most of it on the way down the tree.)
//!
//! **A deleted timer** stays on its list, for nobody knows where on it, and is noted to be passed over. Each deletion looks at
//! the next few places of its list and clears away what it finds there, so that a list is never mostly of what is gone,
//! however far ahead its time is.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use millstream_state::schema::{Described, Schema};
use millstream_state::{Key, Namespace, PageStore, StateError, SubKey, Table, Within, bytes_of};

use crate::time::Timestamp;

/// A kind's timers are one part of its table.
const ALL_TIMERS: Namespace = Namespace(0);
/// Timers that are asked for ahead of their firing.
pub(crate) const AHEAD: usize = 32;
/// Places of a list that a deletion looks at: with four, no more than a quarter of a list is of what is gone.
const SWEPT: usize = 4;
/// Emptied lists that are kept for other times.
const SPARE_MAX: usize = 4;

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

impl<K: Key> fmt::Debug for Timers<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (event, processing) = (self.pending.event.len(), self.pending.processing.len());
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

    /// Puts on lists what a restore has put into the pages.
    pub(crate) fn restored(&mut self) {
        self.event.list_all();
        self.processing.list_all();
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

/// The timers of one kind, by time.
pub(crate) struct Sorted<K> {
    table: Table<Within<K, i64>, ()>,
    lists: BTreeMap<i64, List<K>>,
    /// Timers that are on their list and no more in the pages.
    deleted: HashSet<Due<K>, BuildHasherDefault<DefaultHasher>>,
    /// The first list's time: looked at after every row.
    first_at: Option<i64>,
    /// Emptied lists: times come and go, and their memory stays.
    spare: Vec<Vec<K>>,
}

/// The keys that have a timer at one time; no key is on it twice.
struct List<K> {
    keys: Vec<K>,
    /// So many have fired.
    fired: usize,
    /// Where the next deletion looks.
    swept: usize,
}

impl<K: Key> List<K> {
    fn is_over(&self) -> bool {
        self.fired == self.keys.len()
    }
}

impl<K: Key> Sorted<K> {
    fn declare(store: &PageStore, name: &str, key: Schema) -> Sorted<K> {
        let (lists, deleted, first_at, spare) = Default::default();
        Sorted { table: store.table_as(name, key, Schema::Unit), lists, deleted, first_at, spare }
    }

    fn len(&self) -> usize {
        self.table.len(ALL_TIMERS)
    }

    fn set(&mut self, key: K, at: i64) -> Result<(), StateError> {
        let entry = entry(key, at);
        if self.table.get_ref(ALL_TIMERS, &entry).is_some() {
            return Ok(());
        }
        self.table.put(ALL_TIMERS, &entry, ())?;
        // One that was deleted may have its place still.
        if self.deleted.is_empty() || !self.deleted.remove(&Due { at, key }) {
            self.list(key, at);
        }
        Ok(())
    }

    fn list(&mut self, key: K, at: i64) {
        let spare = &mut self.spare;
        let list = self.lists.entry(at).or_insert_with(|| {
            self.first_at = Some(self.first_at.map_or(at, |first| first.min(at)));
            List { keys: spare.pop().unwrap_or_default(), fired: 0, swept: 0 }
        });
        list.keys.push(key);
    }

    fn delete(&mut self, key: K, at: i64) -> bool {
        if self.table.remove(ALL_TIMERS, &entry(key, at)).is_none() {
            return false;
        }
        self.deleted.insert(Due { at, key });
        self.sweep(at);
        true
    }

    /// Clears away what is deleted in the next few places of a list.
    fn sweep(&mut self, at: i64) {
        let Some(list) = self.lists.get_mut(&at) else { return };
        for _ in 0..SWEPT {
            if list.swept < list.fired || list.swept >= list.keys.len() {
                list.swept = list.fired;
            }
            let Some(key) = list.keys.get(list.swept) else { break };
            if self.deleted.remove(&Due { at, key: *key }) {
                list.keys.swap_remove(list.swept);
            } else {
                list.swept += 1;
            }
        }
        if list.is_over() {
            self.forget(at);
        }
    }

    /// A list is over.
    fn forget(&mut self, at: i64) {
        let Some(List { mut keys, .. }) = self.lists.remove(&at) else { return };
        if self.spare.len() < SPARE_MAX {
            keys.clear();
            self.spare.push(keys);
        }
        self.first_at = self.lists.keys().next().copied();
    }

    /// When the first one is to fire, or was before it was deleted.
    pub(crate) fn first_at(&self) -> Option<i64> {
        self.first_at
    }

    /// Whether one is to fire by now, or was before it was deleted.
    #[inline(always)]
    pub(crate) fn is_due(&self, now: i64) -> bool {
        self.first_at.is_some_and(|at| at <= now)
    }

    /// Takes out the first one that is to fire by now.
    pub(crate) fn take_due(&mut self, now: i64) -> Option<(K, i64)> {
        while self.is_due(now) {
            let mut first = self.lists.first_entry()?;
            let (at, list) = (*first.key(), first.get_mut());
            let key = list.keys[list.fired];
            list.fired += 1;
            if list.is_over() {
                self.forget(at);
            }
            if !self.deleted.is_empty() && self.deleted.remove(&Due { at, key }) {
                continue;
            }
            self.table.remove(ALL_TIMERS, &entry(key, at));
            return Some((key, at));
        }
        None
    }

    /// Asks the memory for the entries of the next [`AHEAD`] that fire, and hands their keys to `ask`.
    pub(crate) fn look_ahead(&self, now: i64, mut ask: impl FnMut(&K)) {
        let (mut entries, mut count) = ([0; AHEAD], 0);
        let due = self.lists.range(..=now).flat_map(|(at, list)| list.keys[list.fired..].iter().map(|key| (*at, key)));
        for (at, key) in due.take(AHEAD) {
            ask(key);
            entries[count] = entry(*key, at).hash64();
            count += 1;
        }
        self.table.prefetch(ALL_TIMERS, &entries[..count]);
    }

    fn list_all(&mut self) {
        (self.lists, self.deleted, self.first_at) = Default::default();
        let mut all = Vec::with_capacity(self.len());
        self.table.scan(ALL_TIMERS, |entry, ()| all.push(entry.parts()));
        all.into_iter().for_each(|(key, at)| self.list(key, at));
    }
}

/// What a timer lies in its page under.
#[inline(always)]
fn entry<K: Key>(key: K, at: i64) -> Within<K, i64> {
    SubKey::with(&at, |at| Within::new(key, at))
}

/// A timer, to be found among others.
#[derive(Clone, Copy)]
struct Due<K> {
    at: i64,
    key: K,
}

impl<K: Key> Hash for Due<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash64().hash(state);
        self.at.hash(state);
    }
}

impl<K: Key> PartialEq for Due<K> {
    fn eq(&self, other: &Self) -> bool {
        // Keys are equal exactly when their bytes are.
        self.at == other.at && bytes_of(&self.key) == bytes_of(&other.key)
    }
}

impl<K: Key> Eq for Due<K> {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
        assert_eq!((pending.event.len(), pending.processing.len()), (0, 1), "kinds do not know of each other");
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

        /// Set, deleted, fired and listed anew in any order: a sorted set, lists hold what the pages hold, and of what is gone
        /// no more than it takes to come across it.
        #[test]
        fn pages_and_lists_are_a_sorted_set(steps in vec((0_u8..10, 0_u32..20, -5_i64..9), 0..600)) {
            let (_store, mut pending) = pending();
            let mut model: BTreeSet<(i64, u32)> = BTreeSet::new();
            for (step, key, at) in steps {
                match step {
                    0 => {
                        let first = model.first().map(|(first, _)| *first).filter(|first| *first <= at);
                        let fired = pending.event.take_due(at);
                        prop_assert_eq!(fired.map(|(_, at)| at), first);
                        if let Some((key, at)) = fired {
                            prop_assert!(model.remove(&(at, key)), "{} fired at {} and was not set", key, at);
                        }
                    }
                    1 => pending.restored(),
                    2..=4 => {
                        let was_set = model.remove(&(at, key));
                        let deleted = Timers { pending: &mut pending, key }.delete_event(Timestamp(at));
                        prop_assert_eq!(deleted, was_set);
                    }
                    _ => {
                        model.insert((at, key));
                        Timers { pending: &mut pending, key }.event(Timestamp(at));
                    }
                }
                let Sorted { table, lists, deleted, first_at, .. } = &pending.event;
                prop_assert_eq!(table.len(ALL_TIMERS), model.len());
                prop_assert_eq!(*first_at, lists.keys().next().copied());
                prop_assert!(model.first().is_none_or(|(at, _)| first_at.is_some_and(|first| first <= *at)));
                let listed: Vec<_> =
                    lists.iter().flat_map(|(at, list)| list.keys[list.fired..].iter().map(|key| (*at, *key))).collect();
                prop_assert_eq!(listed.len(), model.len() + deleted.len(), "nothing is listed twice");
                let live = listed.into_iter().filter(|(at, key)| !deleted.contains(&Due { at: *at, key: *key }));
                prop_assert_eq!(&live.collect::<BTreeSet<_>>(), &model);
            }
        }
    }

    /// Timers that are put off again and again, as of a silence: lists ahead hold little of what is gone.
    #[test]
    fn timers_that_are_put_off_leave_little_behind() {
        let (_store, mut pending) = pending();
        let mut at = [0_i64; 500];
        for step in 0..200_000_u64 {
            let key = (step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u32 % 500;
            let mut timers = Timers { pending: &mut pending, key };
            timers.delete_event(Timestamp(at[key as usize]));
            // Far ahead, and many keys at one time.
            at[key as usize] = 1_000_000 + (step / 10_000) as i64 % 3;
            timers.event(Timestamp(at[key as usize]));
        }
        assert_eq!(pending.event.len(), 500);
        let gone = pending.event.deleted.len();
        assert!(gone < 500, "{gone} deleted timers are on lists of 500");
    }
}
