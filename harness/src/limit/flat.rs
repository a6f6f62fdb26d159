//! A flat hash table: open addressing, linear probing, key and value side by side in one cache line.
//!
//! What a hand-written loop would use: a power of two of slots, huge pages, a multiply for a hash. A small table is kept
//! nearly empty, for what costs there is not the memory but the guess whether the first slot holds the key: with a
//! thousand keys in 2 Ki slots one lookup in five looked twice, and the query took 6.8 ns an event instead of 4.5. A
//! large one is at most three quarters full. Where the table is larger than the second-level cache would like, a batch's slots are asked for
//! [`AHEAD`] rows before they are touched, so that the misses overlap; below that, asking costs more than it saves.
//! A dictionary of the standard kind (hashbrown with the same hash) reaches half of it at a million keys.
#![expect(
    unsafe_code,
    reason = "slots are found by a masked hash; a bounds check for each probe is what a limit leaves out"
)]

use super::ring::Bytes;
use crate::machine::huge_vec;
use crate::ysb::event::UuidText;
use crate::ysb::oracle::CampaignName;

/// How many rows before its use a slot is asked for: 8 and 64 are slower, 32 is the same.
const AHEAD: usize = 16;

/// Tables up to this size are not prefetched, and are as sparse as it lets them be.
const NEAR_BYTES: usize = 512 << 10;

/// Slots for each key of a small table.
const SPARSE: usize = 12;

/// A key with a number, as it lies in memory. An empty slot has no key.
pub(crate) trait Slot: Copy + Send + Sync + 'static {
    /// The key.
    type Key: Bytes + CampaignName;
    /// A slot without a key.
    const EMPTY: Self;
    /// A key that no slot holds; fills memory that is not yet used.
    const NO_KEY: Self::Key;
    /// The top bits choose the slot.
    fn hash(key: &Self::Key) -> u64;
    fn of(key: Self::Key) -> Self;
    fn key(&self) -> &Self::Key;
    fn holds(&self, key: &Self::Key) -> bool;
    fn is_empty(&self) -> bool;
    fn value(&self) -> u64;
    fn value_mut(&mut self) -> &mut u64;

    /// Which of `shards` owns the key: decided by 32 bits of the hash that follow the top 20, so that the keys of one
    /// shard still spread over its whole table.
    #[inline(always)]
    fn shard(key: &Self::Key, shards: u64) -> usize {
        ((((Self::hash(key) << 20) >> 32) * shards) >> 32) as usize
    }
}

/// A number with a number; the key is not zero. Four to a line.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct NumberSlot {
    key: u64,
    value: u64,
}

impl Slot for NumberSlot {
    type Key = u64;
    const EMPTY: NumberSlot = NumberSlot { key: 0, value: 0 };
    const NO_KEY: u64 = 0;

    #[inline(always)]
    fn hash(key: &u64) -> u64 {
        key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[inline(always)]
    fn of(key: u64) -> NumberSlot {
        NumberSlot { key, value: 0 }
    }

    #[inline(always)]
    fn key(&self) -> &u64 {
        &self.key
    }

    #[inline(always)]
    fn holds(&self, key: &u64) -> bool {
        self.key == *key
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.key == 0
    }

    #[inline(always)]
    fn value(&self) -> u64 {
        self.value
    }

    #[inline(always)]
    fn value_mut(&mut self) -> &mut u64 {
        &mut self.value
    }
}

/// A text as words; the last two overlap. Taken byte by byte, the compiler does not find the five loads.
#[inline(always)]
fn words(text: &UuidText) -> [u64; 5] {
    // SAFETY: the last word ends with the text, and any eight bytes are a word.
    [0, 8, 16, 24, 28].map(|at| unsafe { text.as_ptr().add(at).cast::<u64>().read_unaligned() })
}

/// A UUID text with a number, one to a line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct TextSlot {
    key: UuidText,
    value: u64,
}

impl Slot for TextSlot {
    type Key = UuidText;
    const EMPTY: TextSlot = TextSlot { key: [0; 36], value: 0 };
    const NO_KEY: UuidText = [0; 36];

    /// All 36 bytes count; a text that is no UUID may differ anywhere.
    #[inline(always)]
    fn hash(key: &UuidText) -> u64 {
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            product as u64 ^ (product >> 64) as u64
        };
        let [a, b, c, d, e] = words(key);
        let first = fold(a ^ 0xa076_1d64_78bd_642f, b ^ 0xe703_7ed1_a0b4_28db);
        let second = fold(c ^ 0x8ebc_6af0_9c88_c6e3, d ^ 0x5899_65cc_7537_4cc3);
        fold(first ^ e, second ^ 0x1d8e_4e27_c47d_124f)
    }

    #[inline(always)]
    fn of(key: UuidText) -> TextSlot {
        TextSlot { key, value: 0 }
    }

    #[inline(always)]
    fn key(&self) -> &UuidText {
        &self.key
    }

    #[inline(always)]
    fn holds(&self, key: &UuidText) -> bool {
        // Without an early end: the first probe nearly always finds the key.
        words(&self.key).iter().zip(words(key)).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.key[0] == 0
    }

    #[inline(always)]
    fn value(&self) -> u64 {
        self.value
    }

    #[inline(always)]
    fn value_mut(&mut self) -> &mut u64 {
        &mut self.value
    }
}

/// Keys with numbers. It does not grow.
pub(crate) struct FlatTable<S> {
    slots: Vec<S>,
    /// The hash's top bits, shifted down by this, are a slot's index.
    shift: u32,
    /// Keys that may still come: the last empty slot is what ends a probe.
    room: usize,
}

impl<S: Slot> FlatTable<S> {
    /// A table for at most `keys` keys.
    pub(crate) fn with_capacity(keys: usize) -> FlatTable<S> {
        let least = (keys * 4 / 3 + 1).next_power_of_two().max(2);
        let sparse = (keys * SPARSE).next_power_of_two().min(NEAR_BYTES / size_of::<S>());
        let slots = least.max(sparse);
        FlatTable { slots: huge_vec(slots, S::EMPTY), shift: 64 - slots.ilog2(), room: slots - 1 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.slots.len() * size_of::<S>()
    }

    pub(crate) fn prefetched(&self) -> bool {
        self.bytes() > NEAR_BYTES
    }

    /// Adds one to the number of each key in turn.
    ///
    /// # Panics
    /// When more keys come than were announced.
    #[inline]
    pub(crate) fn count(&mut self, keys: &[S::Key]) {
        if self.prefetched() {
            let mut homes = self.first_homes(keys);
            for (row, key) in keys.iter().enumerate() {
                let home = self.next_home(&mut homes, keys, row);
                *self.entry_from(home, key) += 1;
            }
        } else {
            for key in keys {
                *self.entry(key) += 1;
            }
        }
    }

    /// Tells `value` the number of each key in turn.
    #[inline]
    pub(crate) fn look_up(&self, keys: &[S::Key], mut value: impl FnMut(usize, u64)) {
        if self.prefetched() {
            let mut homes = self.first_homes(keys);
            for (row, key) in keys.iter().enumerate() {
                let home = self.next_home(&mut homes, keys, row);
                value(row, self.get_from(home, key));
            }
        } else {
            for (row, key) in keys.iter().enumerate() {
                value(row, self.get(key));
            }
        }
    }

    /// The first keys' slots, asked for.
    #[inline(always)]
    fn first_homes(&self, keys: &[S::Key]) -> [usize; AHEAD] {
        let mut homes = [0; AHEAD];
        for (home, key) in homes.iter_mut().zip(keys) {
            *home = self.home(key);
            self.prefetch(*home);
        }
        homes
    }

    /// The slot of the key in `row`, remembered since it was asked for, so that no key is hashed twice; the key that
    /// comes [`AHEAD`] rows later takes its place.
    #[inline(always)]
    fn next_home(&self, homes: &mut [usize; AHEAD], keys: &[S::Key], row: usize) -> usize {
        let home = homes[row % AHEAD];
        if let Some(key) = keys.get(row + AHEAD) {
            homes[row % AHEAD] = self.home(key);
            self.prefetch(homes[row % AHEAD]);
        }
        home
    }

    /// The number of `key`, zero for a key that is not there.
    #[inline(always)]
    pub(crate) fn get(&self, key: &S::Key) -> u64 {
        self.get_from(self.home(key), key)
    }

    #[inline(always)]
    fn get_from(&self, home: usize, key: &S::Key) -> u64 {
        let mut index = home;
        loop {
            // SAFETY: an index is what `home` gave, the top `64 - shift` bits of a hash, or was masked; both are below the
            // number of slots, a power of two.
            let slot = unsafe { self.slots.get_unchecked(index) };
            // An empty slot's number is zero.
            if slot.holds(key) || slot.is_empty() {
                return slot.value();
            }
            index = (index + 1) & (self.slots.len() - 1);
        }
    }

    /// The number of `key`, zero at first.
    #[inline(always)]
    pub(crate) fn entry(&mut self, key: &S::Key) -> &mut u64 {
        self.entry_from(self.home(key), key)
    }

    #[inline(always)]
    fn entry_from(&mut self, home: usize, key: &S::Key) -> &mut u64 {
        let mut index = home;
        loop {
            // SAFETY: as in `get_from`.
            let slot = unsafe { self.slots.get_unchecked_mut(index) };
            if slot.holds(key) {
                break;
            }
            if slot.is_empty() {
                self.insert(index, key);
                break;
            }
            index = (index + 1) & (self.slots.len() - 1);
        }
        // SAFETY: as in `get_from`.
        unsafe { self.slots.get_unchecked_mut(index) }.value_mut()
    }

    #[cold]
    fn insert(&mut self, index: usize, key: &S::Key) {
        assert!(self.room > 0, "a table of {} slots was given more keys than announced", self.slots.len());
        self.room -= 1;
        self.slots[index] = S::of(*key);
    }

    /// Visits each key with its number, then forgets all.
    pub(crate) fn drain(&mut self, mut visit: impl FnMut(&S::Key, u64)) {
        for slot in &mut self.slots {
            if !slot.is_empty() {
                visit(slot.key(), slot.value());
                *slot = S::EMPTY;
            }
        }
        self.room = self.slots.len() - 1;
    }

    /// How many keys there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.slots.len() - 1 - self.room
    }

    #[inline(always)]
    fn home(&self, key: &S::Key) -> usize {
        (S::hash(key) >> self.shift) as usize
    }

    /// Asks for the line of a slot.
    #[inline(always)]
    fn prefetch(&self, home: usize) {
        prefetch(self.slots.as_ptr().wrapping_add(home));
    }
}

/// Asks for the line at `address`, which need not be valid.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program could see, and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::ysb::event::uuid_text;

    fn agrees_with_a_hash_map<S: Slot>(key_of: impl Fn(u64) -> S::Key, keys: u64)
    where
        S::Key: Eq + std::hash::Hash,
    {
        let mut table = FlatTable::<S>::with_capacity(keys as usize);
        let mut twin = HashMap::new();
        for round in 0..2 {
            let all: Vec<S::Key> = (0..3 * keys).map(|row| key_of(1 + (row * row + round) % keys)).collect();
            for batch in all.chunks(100) {
                table.count(batch);
                for key in batch {
                    *twin.entry(*key).or_insert(0_u64) += 1;
                }
            }
            assert_eq!(table.len(), twin.len());
            table.look_up(&all, |row, value| assert_eq!(value, twin[&all[row]]));
            assert_eq!(table.get(&key_of(keys + 1)), 0);
            table.drain(|key, value| assert_eq!(twin.remove(key), Some(value)));
            assert!(twin.is_empty());
            assert_eq!(table.len(), 0);
        }
    }

    #[test]
    fn numbers_are_counted_as_a_hash_map_would() {
        for keys in [1, 2, 3, 100, 50_000] {
            agrees_with_a_hash_map::<NumberSlot>(|key| key, keys);
            agrees_with_a_hash_map::<NumberSlot>(|key| key << 40, keys);
        }
    }

    #[test]
    fn texts_are_counted_as_a_hash_map_would() {
        for keys in [1, 100, 20_000] {
            agrees_with_a_hash_map::<TextSlot>(uuid_text, keys);
        }
    }

    #[test]
    fn every_byte_of_a_text_counts() {
        let text = uuid_text(1);
        for at in 0..36 {
            let mut other = text;
            other[at] ^= 1;
            assert_ne!(TextSlot::hash(&text), TextSlot::hash(&other), "byte {at}");
        }
    }

    #[test]
    #[should_panic(expected = "more keys than announced")]
    fn a_full_table_says_so() {
        let keys = NEAR_BYTES / size_of::<NumberSlot>();
        let mut table = FlatTable::<NumberSlot>::with_capacity(keys / 2);
        table.count(&(1..=keys as u64).collect::<Vec<_>>());
    }
}
