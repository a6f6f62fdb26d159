//! Joining a stream with a table that does not change: hash, prefetch, then touch.
//!
//! A closure that looks into a `HashMap` misses the cache once per row when the table is large. Here a batch's slots are
//! all asked for before the first is read, so that the misses overlap.

use std::sync::Arc;

use millstream_state::Key;

use super::chain::{Chain, Stage, pass_signals};
use super::rows::{BATCH_ROWS, Dense, Rows};
use crate::job::graph::{Graph, NodeId};
use crate::run::fault::Fault;
use crate::run::task::Cx;

/// A read-only table for [`Stream::lookup`](crate::Stream::lookup), shared by all shards. Cloning shares it.
///
/// ```
/// use millstream::LookupTable;
/// let ads = LookupTable::from_iter([(7u64, 70u64), (8, 80)]);
/// assert_eq!(ads.get(&7), Some(&70));
/// assert_eq!(ads.get(&9), None);
/// ```
#[derive(Clone, Debug)]
pub struct LookupTable<K, V> {
    /// Open addressing with linear probing, at most half full; a power of two of slots.
    slots: Arc<[Option<(K, V)>]>,
    entries: usize,
}

impl<K: Key, V: Copy + 'static> FromIterator<(K, V)> for LookupTable<K, V> {
    /// Builds the table; of several values for one key the last stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> LookupTable<K, V> {
        let pairs: Vec<(K, V)> = pairs.into_iter().collect();
        let mut slots = vec![None; (pairs.len() * 2).next_power_of_two().max(2)];
        let mask = slots.len() - 1;
        let mut entries = 0;
        for (key, value) in pairs {
            let mut index = key.hash64() as usize & mask;
            while slots[index].is_some_and(|(held, _): (K, V)| held != key) {
                index = (index + 1) & mask;
            }
            entries += usize::from(slots[index].is_none());
            slots[index] = Some((key, value));
        }
        LookupTable { slots: slots.into(), entries }
    }
}

impl<K: Key, V: Copy + 'static> LookupTable<K, V> {
    /// Entries held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// No entries held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The value of a key.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.get_from(key, key.hash64() as usize)
    }

    #[inline(always)]
    fn get_from(&self, key: &K, hash: usize) -> Option<&V> {
        let mask = self.slots.len() - 1;
        let mut index = hash & mask;
        loop {
            match &self.slots[index] {
                Some((held, value)) if held == key => return Some(value),
                Some(_) => index = (index + 1) & mask,
                None => return None,
            }
        }
    }

    /// Larger than the caches that are near: asking ahead pays. Below, the instruction only costs.
    fn worth_prefetching(&self) -> bool {
        std::mem::size_of_val(&*self.slots) > 256 << 10
    }

    #[inline(always)]
    fn prefetch(&self, hash: usize) {
        let slot = &self.slots[hash & (self.slots.len() - 1)];
        crate::road::prefetch(slot);
    }
}

/// Joins every row with the table's value for its key; rows without one are dropped.
#[derive(Debug)]
pub struct Lookup<C, K, V, F, G> {
    pub(crate) upstream: C,
    pub(crate) table: LookupTable<K, V>,
    pub(crate) key: F,
    pub(crate) join: G,
    pub(crate) node: NodeId,
}

struct LookupStage<K, V, F, G, U, N> {
    table: LookupTable<K, V>,
    key: F,
    join: G,
    hashes: Box<[usize; BATCH_ROWS]>,
    prefetch: bool,
    out: Dense<U>,
    node: NodeId,
    next: N,
}

impl<C, K, V, F, G, U> Chain for Lookup<C, K, V, F, G>
where
    C: Chain,
    K: Key,
    V: Copy + 'static,
    U: 'static,
    F: Fn(&C::Out) -> K + 'static,
    G: Fn(&C::Out, &V) -> U + 'static,
{
    type Out = U;

    fn attach<N: Stage<U>>(self, next: N, graph: &mut Graph) {
        let prefetch = self.table.worth_prefetching();
        let stage = LookupStage {
            table: self.table,
            key: self.key,
            join: self.join,
            hashes: Box::new([0; BATCH_ROWS]),
            prefetch,
            out: Dense::default(),
            node: self.node,
            next,
        };
        self.upstream.attach(stage, graph);
    }
}

impl<T, K, V, F, G, U, N> Stage<T> for LookupStage<K, V, F, G, U, N>
where
    T: ?Sized + 'static,
    K: Key,
    V: Copy + 'static,
    U: 'static,
    F: Fn(&T) -> K + 'static,
    G: Fn(&T, &V) -> U + 'static,
    N: Stage<U>,
{
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        let (table, key, join) = (&self.table, &self.key, &self.join);
        let at = |index| rows.at(index);
        if self.prefetch {
            for index in 0..rows.len() {
                let hash = key(rows.row(index)).hash64() as usize;
                self.hashes[index & (BATCH_ROWS - 1)] = hash;
                table.prefetch(hash);
            }
            let hashes = &self.hashes;
            let joined = |index: usize| {
                let row = rows.row(index);
                table.get_from(&key(row), hashes[index & (BATCH_ROWS - 1)]).map(|value| join(row, value))
            };
            self.out.fill_some(rows.len(), joined, at);
        } else {
            let joined = |index: usize| {
                let row = rows.row(index);
                table.get(&key(row)).map(|value| join(row, value))
            };
            self.out.fill_some(rows.len(), joined, at);
        }
        if self.out.is_empty() {
            return Ok(());
        }
        self.next.batch(&self.out, cx)
    }

    pass_signals!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_keys_stays_and_every_key_is_found() {
        let table: LookupTable<u64, u64> = (0..5_000u64).map(|key| (key % 1_000, key)).collect();
        assert_eq!(table.len(), 1_000);
        for key in 0..1_000 {
            assert_eq!(table.get(&key), Some(&(key + 4_000)));
        }
        assert_eq!(table.get(&1_000), None);
        let empty: LookupTable<u64, u64> = LookupTable::from_iter([]);
        assert!(empty.is_empty() && empty.get(&1).is_none());
    }
}
