//! Joining a stream with a table that does not change: hash, prefetch, then touch.
//!
//! A closure that looks into a `HashMap` misses the cache once per row when the table is large. Here a batch's slots are
//! all asked for before the first is read, so that the misses overlap.

#![expect(unsafe_code, reason = "slots are raw memory until they hold a key; the tests below compare with a map")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::borrow::Borrow;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use millstream_state::{Key, bytes_of, is_zero, same_bytes};

use super::chain::{Chain, Stage, pass_signals};
use super::dense::Dense;
use super::keyed::Keying;
use super::prefetch;
use super::rows::{BATCH_ROWS, Rows};
use crate::job::graph::{Graph, NodeId};
use crate::run::fault::Fault;
use crate::run::task::Cx;

/// Tables up to this size stay in near caches, where asking ahead only costs and an empty slot costs nothing.
const NEAR_BYTES: usize = 512 << 10;
/// Slots for each entry of a table that is near: a search that goes on to a second slot is a branch mispredicted, some
/// 5 ns. The Yahoo query's thousand ads took 2 ns an event more in a table half full.
const SPARSE: usize = 12;
/// Tables from this size on ask for huge pages and are aligned to one.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A read-only table for [`Stream::lookup`](crate::Stream::lookup), shared by all shards. Cloning shares it.
///
/// ```
/// use millstream::LookupTable;
/// let ads = LookupTable::from_iter([(7u64, 70u64), (8, 80)]);
/// assert_eq!(ads.get(&7), Some(&70));
/// assert_eq!(ads.get(&9), None);
/// ```
pub struct LookupTable<K, V> {
    inner: Arc<Slots<K, V>>,
}

impl<K, V> Clone for LookupTable<K, V> {
    fn clone(&self) -> LookupTable<K, V> {
        LookupTable { inner: self.inner.clone() }
    }
}

impl<K, V> fmt::Debug for LookupTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LookupTable of {} entries", self.inner.entries)
    }
}

/// Open addressing with linear probing, at most three quarters full, and nearly empty while it is small; a power of two
/// of slots. A slot whose key is all
/// zero bytes is empty; the one real key of that kind is kept apart.
struct Slots<K, V> {
    memory: NonNull<Slot<K, V>>,
    layout: Layout,
    /// Slots are found by the hash's low bits; the exchange uses the top ones.
    mask: usize,
    zero: Option<(K, V)>,
    entries: usize,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Slot<K, V> {
    key: K,
    value: V,
}

// SAFETY: plain `Copy` data without interior mutability, written only while it is built, by its only owner.
unsafe impl<K: Send + Sync, V: Send + Sync> Send for Slots<K, V> {}
// SAFETY: as above; shared, it is only read.
unsafe impl<K: Send + Sync, V: Send + Sync> Sync for Slots<K, V> {}

impl<K, V> Drop for Slots<K, V> {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout by `with_capacity`, and nothing in it needs to be dropped (`Copy`).
        unsafe { dealloc(self.memory.as_ptr().cast(), self.layout) };
    }
}

impl<K: Key, V: Copy + 'static> Slots<K, V> {
    fn with_capacity(entries: usize) -> Slots<K, V> {
        let least = (entries * 4 / 3 + 1).next_power_of_two();
        let near = (NEAR_BYTES / size_of::<Slot<K, V>>().max(1)).checked_ilog2().map_or(1, |log| 1 << log);
        let count = least.max((entries * SPARSE).next_power_of_two().min(near));
        let bytes = (count * size_of::<Slot<K, V>>()).max(1);
        let align = if bytes >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { align_of::<Slot<K, V>>().max(64) };
        let layout = Layout::from_size_align(bytes, align).expect("a table fits the address space");
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc(layout) };
        let Some(memory) = NonNull::new(memory.cast::<Slot<K, V>>()) else { handle_alloc_error(layout) };
        if align == HUGE_PAGE_BYTES {
            // SAFETY: advice about memory of ours; refusal changes nothing.
            unsafe { libc::madvise(memory.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        // Zeroed here, after the advice: memory that is asked for zeroed at this alignment comes with every page touched,
        // and pages that are there already stay small. A table of 256 MiB was read at two thirds of its speed so.
        // SAFETY: `bytes` of memory that was just allocated.
        unsafe { memory.as_ptr().cast::<u8>().write_bytes(0, bytes) };
        Slots { memory, layout, mask: count - 1, zero: None, entries: 0 }
    }

    /// The slot that holds `key`, or the empty one where the search for it ends.
    ///
    /// # Safety
    /// `key` is not all zero.
    #[inline(always)]
    unsafe fn find(&self, key: &K, hash: usize) -> (*mut Slot<K, V>, bool) {
        let mut index = hash & self.mask;
        loop {
            // SAFETY: the mask keeps the index inside; a quarter of the slots is empty, so the search ends.
            let slot = unsafe { self.memory.as_ptr().add(index) };
            // SAFETY: zeroed or written slots are initialised, and a `Key` without padding is compared as bytes by the
            // contract of `Key`; `K` is only looked at as bytes while it may be zero.
            let held = unsafe { std::slice::from_raw_parts(slot.cast::<u8>(), size_of::<K>()) };
            // SAFETY: both are the bytes of a whole key.
            if unsafe { same_bytes::<K>(held.as_ptr(), bytes_of(key).as_ptr()) } {
                return (slot, true);
            }
            if is_zero(held) {
                return (slot, false);
            }
            index = (index + 1) & self.mask;
        }
    }

    fn insert(&mut self, key: K, value: V) {
        if is_zero(bytes_of(&key)) {
            self.entries += usize::from(self.zero.is_none());
            self.zero = Some((key, value));
            return;
        }
        // SAFETY: the key is not zero; the slot found is inside and ours alone.
        unsafe {
            let (slot, found) = self.find(&key, key.hash64() as usize);
            self.entries += usize::from(!found);
            slot.write(Slot { key, value });
        }
    }

    #[inline(always)]
    fn get(&self, key: &K, hash: usize) -> Option<&V> {
        if is_zero(bytes_of(key)) {
            return self.zero.as_ref().map(|(_, value)| value);
        }
        // SAFETY: the key is not zero; a slot that was found has been written whole.
        unsafe {
            let (slot, found) = self.find(key, hash);
            if found { Some(&(*slot).value) } else { None }
        }
    }
}

impl<K: Key, V: Copy + 'static> FromIterator<(K, V)> for LookupTable<K, V> {
    /// Builds the table; of several values for one key the last stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> LookupTable<K, V> {
        let pairs: Vec<(K, V)> = pairs.into_iter().collect();
        let mut slots = Slots::with_capacity(pairs.len());
        for (key, value) in pairs {
            slots.insert(key, value);
        }
        LookupTable { inner: Arc::new(slots) }
    }
}

impl<K: Key, V: Copy + 'static> LookupTable<K, V> {
    /// Entries held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.entries
    }

    /// No entries held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.entries == 0
    }

    /// The value of a key.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.inner.get(key, key.hash64() as usize)
    }
}

/// Joins every row with the table's value for its key; rows without one are dropped.
#[derive(Debug)]
pub struct Lookup<C, K, V, G, J> {
    pub(crate) upstream: C,
    pub(crate) table: LookupTable<K, V>,
    pub(crate) key: G,
    pub(crate) join: J,
    pub(crate) node: NodeId,
}

struct LookupStage<K, V, G, J, U, N> {
    table: LookupTable<K, V>,
    key: G,
    join: J,
    hashes: Box<[usize; BATCH_ROWS]>,
    prefetch: bool,
    out: Dense<U>,
    node: NodeId,
    next: N,
}

impl<C, K, V, G, J, U> Chain for Lookup<C, K, V, G, J>
where
    C: Chain,
    K: Key,
    V: Copy + 'static,
    U: 'static,
    G: Keying<C::Out, Key = K>,
    J: Fn(&C::Out, &V) -> U + 'static,
{
    type Out = U;
    type Time = C::Time;

    fn attach<N: Stage<U>>(self, next: N, graph: &mut Graph) {
        let prefetch = self.table.inner.layout.size() > NEAR_BYTES;
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

impl<T, K, V, G, J, U, N> Stage<T> for LookupStage<K, V, G, J, U, N>
where
    T: ?Sized + 'static,
    K: Key,
    V: Copy + 'static,
    U: 'static,
    G: Keying<T, Key = K>,
    J: Fn(&T, &V) -> U + 'static,
    N: Stage<U>,
{
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        let (table, key, join) = (&*self.table.inner, &self.key, &self.join);
        let out = if self.prefetch {
            for index in 0..rows.len() {
                let hash = key.key(rows.row(index)).borrow().hash64() as usize;
                self.hashes[index & (BATCH_ROWS - 1)] = hash;
                // SAFETY: only an address is formed, inside the table.
                prefetch(unsafe { &*table.memory.as_ptr().add(hash & table.mask).cast::<u8>() });
            }
            let hashes = &self.hashes;
            let joined = |index: usize| {
                let row = rows.row(index);
                table.get(key.key(row).borrow(), hashes[index & (BATCH_ROWS - 1)]).map(|value| join(row, value))
            };
            self.out.some_of(rows, joined)
        } else {
            let joined = |index: usize| {
                let row = rows.row(index);
                let key = key.key(row);
                let key: &K = key.borrow();
                table.get(key, key.hash64() as usize).map(|value| join(row, value))
            };
            self.out.some_of(rows, joined)
        };
        if out.is_empty() {
            return Ok(());
        }
        self.next.batch(&out, cx)
    }

    pass_signals!();
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_last_of_equal_keys_stays_and_every_key_is_found() {
        for keys in [1u64, 3, 1_000, 200_000] {
            let pairs = || (0..keys * 5).map(|i| ((i % keys).wrapping_mul(0x9E37_79B9_7F4A_7C15), i));
            let (table, map): (LookupTable<u64, u64>, HashMap<u64, u64>) = (pairs().collect(), pairs().collect());
            assert_eq!(table.len(), map.len());
            for (key, value) in &map {
                assert_eq!(table.get(key), Some(value));
            }
            assert_eq!(table.get(&12_345), map.get(&12_345));
        }
        let empty: LookupTable<u64, u64> = LookupTable::from_iter([]);
        assert!(empty.is_empty() && empty.get(&0).is_none() && empty.get(&1).is_none());
    }

    #[test]
    fn the_key_of_zeros_is_a_key() {
        let table = LookupTable::from_iter([([0u8; 36], 1u32), ([7; 36], 2)]);
        assert_eq!((table.get(&[0; 36]), table.get(&[7; 36]), table.get(&[8; 36])), (Some(&1), Some(&2), None));
    }
}
