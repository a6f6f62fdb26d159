//! What is inside a flat page: 64 lines, and in them buckets of keys and values.
//!
//! ```text
//! page    4096 B = 64 lines; a bucket is one line, or 2^n lines where an entry is larger than one
//! bucket  | key 0 | key 1 | … | padding | value 0 | value 1 | … |        u64 → u64: four keys, four values
//! ```
//!
//! Keys come first, so that one vector compare tests a whole line; a slot is empty when its key's bytes are all zero.
//! The hash's low bits choose the bucket, a full bucket leads on to the next one of the page, round its end. Nothing is
//! ever taken out of a page one by one, so the first bucket with an empty slot ends every search.
//! `docs/formats/page.md` draws it with its numbers.
#![expect(unsafe_code, reason = "reads and writes keys and values where they lie in a page")]

use crate::fixed::{Fixed, bytes_of};
use crate::hash::LINE_BITS;
use crate::segment::{LINE_BYTES, PAGE_BYTES};

pub(crate) const LINES: usize = PAGE_BYTES / LINE_BYTES;
const _: () = assert!(LINES == 1 << LINE_BITS && LINES == u64::BITS as usize, "a mask has a bit for every line");

/// How entries of certain sizes lie in a page. All of it is known when compiled; the hot loops use it as constants, the
/// snapshot's code, compiled once for all tables, as numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    pub(crate) key_bytes: usize,
    pub(crate) value_bytes: usize,
    /// Lines of a bucket, a power of two.
    pub(crate) bucket_lines: usize,
    /// Entries of a bucket, at most 64.
    pub(crate) slots: usize,
    /// Where in the bucket the values start.
    pub(crate) values_at: usize,
    /// Entries of a page.
    pub(crate) capacity: usize,
    /// A page with this many entries splits before the next.
    pub(crate) split_at: usize,
    /// The same in a namespace that the cache holds. What costs there is a search that goes on to the next bucket, for it
    /// is mispredicted, and memory is no matter.
    pub(crate) near_split_at: usize,
}

impl Geometry {
    pub(crate) const fn of<K: Fixed, V: Fixed>() -> Geometry {
        let () = K::PROOF;
        let () = V::PROOF;
        assert!(fits_a_page::<K, V>(), "key and value together must fit a page of 4096 bytes");
        Geometry::of_sizes(size_of::<K>(), size_of::<V>(), align_of::<V>())
    }

    /// As a file tells of it; none where no page could hold such an entry.
    pub(crate) fn try_of_sizes(key_bytes: usize, value_bytes: usize, value_align: usize) -> Option<Geometry> {
        let sane = key_bytes <= PAGE_BYTES && value_bytes <= PAGE_BYTES;
        let sane = sane && value_align.is_power_of_two() && value_align <= LINE_BYTES;
        (sane && key_bytes.next_multiple_of(value_align) + value_bytes <= PAGE_BYTES)
            .then(|| Geometry::of_sizes(key_bytes, value_bytes, value_align))
    }

    const fn of_sizes(key_bytes: usize, value_bytes: usize, value_align: usize) -> Geometry {
        let mut bucket_lines = 1;
        while key_bytes.next_multiple_of(value_align) + value_bytes > bucket_lines * LINE_BYTES {
            bucket_lines *= 2;
        }
        let mut slots = 1;
        // A key of no bytes is always the zero key, which has a page of its own: its flat pages are never used.
        while key_bytes > 0
            && slots < 64
            && ((slots + 1) * key_bytes).next_multiple_of(value_align) + (slots + 1) * value_bytes
                <= bucket_lines * LINE_BYTES
        {
            slots += 1;
        }
        let capacity = LINES / bucket_lines * slots;
        // With few slots in a bucket, searches grow long sooner: at 90 % full, an entry in a line of four is found within
        // 1.2 lines on average; where a line holds one entry, that takes a page that is 75 % full at most to be near 2.
        let split_percent = if slots >= 4 {
            90
        } else if slots >= 2 {
            80
        } else {
            75
        };
        let split_at = if capacity * split_percent / 100 == 0 { 1 } else { capacity * split_percent / 100 };
        // Half full, few buckets of four entries overflow; of buckets with one entry a third would.
        let near_split_at = if slots >= 4 { split_at.div_ceil(2) } else { split_at.div_ceil(6) };
        Geometry {
            key_bytes,
            value_bytes,
            bucket_lines,
            slots,
            values_at: (slots * key_bytes).next_multiple_of(value_align),
            capacity,
            split_at,
            near_split_at,
        }
    }

    /// Buckets of a page.
    pub(crate) const fn buckets(&self) -> usize {
        LINES / self.bucket_lines
    }

    /// Where in the page a slot's key lies; slots are numbered through the page.
    pub(crate) const fn key_at(&self, slot: usize) -> usize {
        slot / self.slots * self.bucket_lines * LINE_BYTES + slot % self.slots * self.key_bytes
    }

    /// Where in the page a slot's value lies.
    pub(crate) const fn value_at(&self, slot: usize) -> usize {
        slot / self.slots * self.bucket_lines * LINE_BYTES + self.values_at + slot % self.slots * self.value_bytes
    }

    /// The first line of the bucket where a search for this hash begins.
    #[inline(always)]
    pub(crate) const fn line(&self, hash: u64) -> usize {
        (hash as usize & (self.buckets() - 1)) * self.bucket_lines
    }

    /// The dirty bits of the bucket that starts at `line`.
    #[inline(always)]
    pub(crate) const fn bucket_mask(&self, line: usize) -> u64 {
        (u64::MAX >> (64 - self.bucket_lines)) << line
    }

    /// Bytes of the bitmap that says which slots of a page are taken, padded to eight.
    pub(crate) const fn bitmap_bytes(&self) -> usize {
        self.capacity.div_ceil(64) * 8
    }
}

/// Whether an entry of these types has room in a flat page.
pub(crate) const fn fits_a_page<K, V>() -> bool {
    size_of::<K>().next_multiple_of(align_of::<V>()) + size_of::<V>() <= PAGE_BYTES
}

/// A bit per slot of the bucket whose key is `key`, the lowest for slot 0.
///
/// # Safety
/// `bucket` is readable for a whole bucket of the geometry of `K` and `V`, all bytes initialised.
#[inline(always)]
pub(crate) unsafe fn slots_with<K: Fixed, V: Fixed>(bucket: *const u8, key: &K) -> u64 {
    let geometry = const { Geometry::of::<K, V>() };
    #[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
    if size_of::<K>() == 8 && geometry.slots == 4 {
        use std::arch::x86_64::*;
        // SAFETY: `K` has eight initialised bytes, read as a number; the bucket's first 32 bytes are its four keys.
        unsafe {
            let wanted = (key as *const K).cast::<i64>().read_unaligned();
            let keys = _mm256_loadu_si256(bucket.cast());
            let equal = _mm256_cmpeq_epi64(keys, _mm256_set1_epi64x(wanted));
            return _mm256_movemask_pd(_mm256_castsi256_pd(equal)) as u32 as u64;
        }
    }
    let mut found = 0;
    for slot in 0..geometry.slots {
        // SAFETY: the geometry keeps every slot's key inside the bucket.
        let same = unsafe { same_bytes::<K>(bucket.add(slot * size_of::<K>()), bytes_of(key).as_ptr()) };
        found |= (same as u64) << slot;
    }
    found
}

/// Whether the bytes at both places are the same, as many as a `K` has.
///
/// Word by word, the last one overlapping the one before. Comparing slices made LLVM take the words that were loaded to
/// be hashed apart into bytes and put those together again as vectors: 36 bytes took 8 ns more.
///
/// # Safety
/// Both are readable for the size of a `K`, all bytes initialised.
#[inline(always)]
pub unsafe fn same_bytes<K>(one: *const u8, other: *const u8) -> bool {
    let bytes = size_of::<K>();
    // SAFETY: every word read ends at or before `bytes`.
    unsafe {
        let differ =
            |at: usize| one.add(at).cast::<u64>().read_unaligned() ^ other.add(at).cast::<u64>().read_unaligned();
        if bytes < 8 {
            return std::slice::from_raw_parts(one, bytes) == std::slice::from_raw_parts(other, bytes);
        }
        let mut any = differ(bytes - 8);
        for at in (0..bytes - 8).step_by(8) {
            any |= differ(at);
        }
        any == 0
    }
}

/// A bit per slot of the bucket that is empty.
///
/// # Safety
/// As for [`slots_with`].
#[inline(always)]
pub(crate) unsafe fn empty_slots<K: Fixed, V: Fixed>(bucket: *const u8) -> u64 {
    let geometry = const { Geometry::of::<K, V>() };
    #[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
    if size_of::<K>() == 8 && geometry.slots == 4 {
        use std::arch::x86_64::*;
        // SAFETY: the bucket's first 32 bytes are its four keys.
        unsafe {
            let zero = _mm256_cmpeq_epi64(_mm256_loadu_si256(bucket.cast()), _mm256_setzero_si256());
            return _mm256_movemask_pd(_mm256_castsi256_pd(zero)) as u32 as u64;
        }
    }
    let mut empty = 0;
    for slot in 0..geometry.slots {
        // SAFETY: the geometry keeps every slot's key inside the bucket.
        let key = unsafe { std::slice::from_raw_parts(bucket.add(slot * size_of::<K>()), size_of::<K>()) };
        empty |= (is_zero(key) as u64) << slot;
    }
    empty
}

/// Whether the bucket has an empty slot. Slots fill from the first to the last, so the last one tells.
///
/// # Safety
/// As for [`slots_with`].
#[inline(always)]
pub(crate) unsafe fn has_empty_slot<K: Fixed, V: Fixed>(bucket: *const u8) -> bool {
    let last = const { Geometry::of::<K, V>() }.slots - 1;
    // SAFETY: the geometry keeps every slot's key inside the bucket.
    is_zero(unsafe { std::slice::from_raw_parts(bucket.add(last * size_of::<K>()), size_of::<K>()) })
}

/// Whether all bytes are zero: of a key, that its slot is empty.
#[inline(always)]
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // A long key is told by its first eight bytes, as good as always.
    match bytes.split_first_chunk::<8>() {
        Some((first, rest)) => u64::from_ne_bytes(*first) == 0 && rest.iter().all(|&byte| byte == 0),
        None => bytes.iter().fold(0, |any, byte| any | byte) == 0,
    }
}

/// Where in its bucket a slot's key lies.
#[inline(always)]
pub(crate) fn key_in<K: Fixed>(bucket: *mut u8, slot: usize) -> *mut K {
    bucket.wrapping_add(slot * size_of::<K>()).cast()
}

/// Where in its bucket a slot's value lies.
#[inline(always)]
pub(crate) fn value_in<K: Fixed, V: Fixed>(bucket: *mut u8, slot: usize) -> *mut V {
    let geometry = const { Geometry::of::<K, V>() };
    bucket.wrapping_add(geometry.values_at + slot * size_of::<V>()).cast()
}

/// A page's entries without its empty slots; room to be used again and again.
pub(crate) struct Packed {
    /// Which slots are taken, one bit each, slot 0 lowest.
    pub(crate) bitmap: [u64; PAGE_BYTES / 64],
    // Twice a page: whole buckets are copied, and what their empty slots hold is written over by the next bucket.
    keys: Box<[u8; 2 * PAGE_BYTES]>,
    values: Box<[u8; 2 * PAGE_BYTES]>,
    taken: usize,
    key_bytes: usize,
    value_bytes: usize,
}

impl Default for Packed {
    fn default() -> Packed {
        let (keys, values) = (Box::new([0; 2 * PAGE_BYTES]), Box::new([0; 2 * PAGE_BYTES]));
        Packed { bitmap: [0; PAGE_BYTES / 64], keys, values, taken: 0, key_bytes: 0, value_bytes: 0 }
    }
}

impl Packed {
    /// How many entries there are.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Their keys, in the order of their slots.
    pub(crate) fn keys(&self) -> &[u8] {
        &self.keys[..self.taken * self.key_bytes]
    }

    /// Their values, in the same order.
    pub(crate) fn values(&self) -> &[u8] {
        &self.values[..self.taken * self.value_bytes]
    }
}

/// [`pack`] for some table's types.
pub(crate) type Pack = fn(&[u8; PAGE_BYTES], &mut Packed);

/// Packs a flat page. Compiled for every pair of types, since copies of known length take 0.3 µs a page and others 1.7.
pub(crate) fn pack<K: Fixed, V: Fixed>(page: &[u8; PAGE_BYTES], packed: &mut Packed) {
    let geometry = const { Geometry::of::<K, V>() };
    let (key_bytes, value_bytes, slots) = (geometry.key_bytes, geometry.value_bytes, geometry.slots);
    let mut taken = 0;
    packed.bitmap[..geometry.bitmap_bytes() / 8].fill(0);
    for bucket in 0..geometry.buckets() {
        let body = &page[bucket * geometry.bucket_lines * LINE_BYTES..][..geometry.bucket_lines * LINE_BYTES];
        packed.keys[taken * key_bytes..][..slots * key_bytes].copy_from_slice(&body[..slots * key_bytes]);
        let values = &body[geometry.values_at..][..slots * value_bytes];
        packed.values[taken * value_bytes..][..slots * value_bytes].copy_from_slice(values);
        // SAFETY: a whole bucket.
        let empty = unsafe { empty_slots::<K, V>(body.as_ptr()) };
        // Slots fill from the first to the last, so the taken ones come first and the copies above are theirs.
        let full = (u64::MAX >> (64 - slots)) & !empty;
        debug_assert_eq!(full & full.wrapping_add(1), 0, "an empty slot before a taken one");
        let first_slot = bucket * slots;
        let (word, shift) = (first_slot / 64, first_slot % 64);
        packed.bitmap[word] |= full << shift;
        if shift + slots > 64 {
            packed.bitmap[word + 1] |= full >> (64 - shift);
        }
        taken += full.count_ones() as usize;
    }
    (packed.taken, packed.key_bytes, packed.value_bytes) = (taken, key_bytes, value_bytes);
}

/// [`unpack`] for some table's types.
pub(crate) type Unpack = fn(&Geometry, &mut [u8; PAGE_BYTES], u64, &[u8], &[u8], &[u8]);

/// The reverse: puts entries back where the bitmap says, but leaves lines alone that `filled` has.
pub(crate) fn unpack<K: Fixed, V: Fixed>(
    _: &Geometry,
    page: &mut [u8; PAGE_BYTES],
    filled: u64,
    bitmap: &[u8],
    keys: &[u8],
    values: &[u8],
) {
    unpack_as(&const { Geometry::of::<K, V>() }, page, filled, bitmap, keys, values);
}

/// The same, of sizes that only a file knows.
#[inline(always)]
pub(crate) fn unpack_as(
    geometry: &Geometry,
    page: &mut [u8; PAGE_BYTES],
    filled: u64,
    bitmap: &[u8],
    keys: &[u8],
    values: &[u8],
) {
    let words = bitmap.as_chunks::<8>().0;
    let mut nth = 0;
    for (at, word) in words.iter().enumerate() {
        let mut word = u64::from_le_bytes(*word);
        while word != 0 {
            let slot = at * 64 + word.trailing_zeros() as usize;
            word &= word - 1;
            // A bucket's lines are marked together, so its first tells for all.
            if filled >> (slot / geometry.slots * geometry.bucket_lines) & 1 == 0 {
                let (key_bytes, value_bytes) = (geometry.key_bytes, geometry.value_bytes);
                page[geometry.key_at(slot)..][..key_bytes].copy_from_slice(&keys[nth * key_bytes..][..key_bytes]);
                page[geometry.value_at(slot)..][..value_bytes]
                    .copy_from_slice(&values[nth * value_bytes..][..value_bytes]);
            }
            nth += 1;
        }
    }
}

/// Shows the key and value of every taken slot of a flat page, as bytes.
pub(crate) fn entries<'a, E>(
    geometry: &Geometry,
    page: &'a [u8; PAGE_BYTES],
    mut visit: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), E>,
) -> Result<(), E> {
    for slot in 0..geometry.capacity {
        let key = &page[geometry.key_at(slot)..][..geometry.key_bytes];
        if !is_zero(key) {
            visit(key, &page[geometry.value_at(slot)..][..geometry.value_bytes])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_fill_lines() {
        let geometry = Geometry::of::<u64, u64>();
        assert_eq!((geometry.slots, geometry.bucket_lines, geometry.values_at, geometry.capacity), (4, 1, 32, 256));
        let geometry = Geometry::of::<[u8; 36], u64>();
        assert_eq!((geometry.slots, geometry.bucket_lines, geometry.values_at, geometry.capacity), (1, 1, 40, 64));
        let geometry = Geometry::of::<u64, [u64; 24]>();
        assert_eq!((geometry.slots, geometry.bucket_lines, geometry.values_at, geometry.capacity), (1, 4, 8, 16));
        let geometry = Geometry::of::<u8, ()>();
        assert_eq!((geometry.slots, geometry.capacity), (64, 4096));
        assert_eq!(geometry.bitmap_bytes(), 512);
        let geometry = Geometry::of::<u32, [u8; 4092]>();
        assert_eq!((geometry.slots, geometry.bucket_lines, geometry.capacity, geometry.split_at), (1, 64, 1, 1));
        assert_eq!(geometry.bucket_mask(0), u64::MAX);
    }

    #[test]
    fn no_two_entries_share_a_byte() {
        fn check<K: Fixed, V: Fixed>() {
            let geometry = Geometry::of::<K, V>();
            let mut owner = vec![0u32; PAGE_BYTES];
            for slot in 0..geometry.capacity {
                let (key_at, value_at) = (geometry.key_at(slot), geometry.value_at(slot));
                assert_eq!((key_at % align_of::<K>(), value_at % align_of::<V>()), (0, 0));
                for byte in (key_at..key_at + size_of::<K>()).chain(value_at..value_at + size_of::<V>()) {
                    assert_eq!(std::mem::replace(&mut owner[byte], slot as u32 + 1), 0, "byte {byte}");
                }
            }
        }
        check::<u64, u64>();
        check::<u8, u128>();
        check::<[u8; 36], u64>();
        check::<[u8; 13], u16>();
        check::<u128, [u8; 100]>();
        check::<u32, ()>();
        check::<[u8; 1000], [u64; 3]>();
    }

    #[test]
    fn a_page_unpacks_to_what_was_packed() {
        fn check<K: Fixed, V: Fixed>() {
            let geometry = Geometry::of::<K, V>();
            let mut page = [0; PAGE_BYTES];
            let mut number = 0u32;
            for bucket in 0..geometry.buckets() {
                for slot in bucket * geometry.slots..bucket * geometry.slots + bucket * 7 % (geometry.slots + 1) {
                    number += 1;
                    page[geometry.key_at(slot)..][..geometry.key_bytes].fill(number as u8 | 1);
                    page[geometry.value_at(slot)..][..geometry.value_bytes].fill(number as u8);
                }
            }
            let mut packed = Packed::default();
            packed.bitmap.fill(u64::MAX);
            pack::<K, V>(&page, &mut packed);
            assert_eq!(packed.taken(), number as usize);
            let bitmap: Vec<u8> = packed.bitmap.iter().flat_map(|word| word.to_le_bytes()).collect();
            let bitmap = &bitmap[..geometry.bitmap_bytes()];
            let mut unpacked = [0; PAGE_BYTES];
            unpack::<K, V>(&geometry, &mut unpacked, 0, bitmap, packed.keys(), packed.values());
            assert_eq!(unpacked, page);
            let mut kept = [0xEE; PAGE_BYTES];
            unpack::<K, V>(&geometry, &mut kept, u64::MAX, bitmap, packed.keys(), packed.values());
            assert_eq!(kept, [0xEE; PAGE_BYTES]);
        }
        check::<u64, u64>();
        check::<u64, [u64; 2]>();
        check::<[u8; 13], u64>();
        check::<[u8; 36], u64>();
        check::<u8, ()>();
        check::<u32, [u8; 900]>();
    }

    #[test]
    fn slots_are_found_by_key_and_by_emptiness() {
        fn check<K: Fixed>(keys: &[K], wanted: K, found: u64, empty: u64) {
            let mut bucket = [0; 64];
            for (slot, key) in keys.iter().enumerate() {
                bucket[slot * size_of::<K>()..][..size_of::<K>()].copy_from_slice(bytes_of(key));
            }
            // SAFETY: one line, which is a whole bucket of these sizes.
            unsafe {
                assert_eq!(slots_with::<K, u64>(bucket.as_ptr(), &wanted), found);
                assert_eq!(empty_slots::<K, u64>(bucket.as_ptr()), empty);
            }
        }
        check::<u64>(&[5, 1 << 63, 6], 1 << 63, 0b0010, 0b1000);
        check::<u32>(&[5, 9, 0, 7], 9, 0b00010, 0b10100);
        check::<[u8; 13]>(&[[1; 13], [2; 13]], [3; 13], 0, 0b100);
    }
}
