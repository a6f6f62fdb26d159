//! Keys within keys: what the entries of a key's list or map are kept under.
//!
//! ```text
//! Within       | key | sub-key |                     without padding, in flat pages
//! SlotWithin   | key, padded to 16 | sub-key |       in slotted pages; without padding where there is no sub-key
//! hash         | the key's top 12 bits | of both |   so that a shard that owns the key owns all that is kept under it
//! ```
#![expect(unsafe_code, reason = "sub-keys are seen as their bytes, and the bytes of pairs as pairs")]

use std::fmt;
use std::marker::PhantomData;

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Fallible, Source, fail};
use rkyv::traits::CopyOptimization;
use rkyv::{Archive, Place, Portable};

use crate::fixed::{Fixed, bytes_of, is_valid};
use crate::slotted::CELL_ALIGN;
use crate::stored::{AsKey, SlotKey, sealed};
use crate::{Key, hash};

/// Bytes of a pair that are put together on the stack.
const ROOM_BYTES: usize = 192;

/// A sub-key, by its hash and its bytes.
pub struct SubKey<'a, S> {
    hash: u64,
    bytes: &'a [u8],
    of: PhantomData<fn() -> S>,
}

impl<S> Clone for SubKey<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for SubKey<'_, S> {}

impl<S> fmt::Debug for SubKey<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubKey({:02x?})", self.bytes)
    }
}

impl<S: SlotKey> SubKey<'_, S> {
    /// Shows what a sub-key comes to.
    #[inline(always)]
    pub fn with<Q: AsKey<S> + ?Sized, R>(key: &Q, show: impl FnOnce(SubKey<'_, S>) -> R) -> R {
        let hash = key.key_hash();
        key.with_key_bytes(|bytes| show(SubKey { hash, bytes, of: PhantomData }))
    }
}

/// The hash of both: the key's own where there is no sub-key.
#[inline(always)]
fn hash_of<S>(key: u64, sub: u64) -> u64 {
    if size_of::<S>() == 0 { key } else { hash::part(key, sub) }
}

/// A fixed key, and a fixed key within it, end to end.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Within<K, S>(K, S);

impl<K: Key, S: Fixed + SlotKey> Within<K, S> {
    /// Puts the two together.
    #[inline(always)]
    #[must_use]
    pub fn new(key: K, sub: SubKey<'_, S>) -> Within<K, S> {
        assert!(sub.bytes.len() == size_of::<S>(), "the bytes of a fixed key are its memory");
        // SAFETY: a `SubKey<S>` is made of an `S` alone, or of what borrows as one, whose bytes are those of an `S`.
        Within(key, unsafe { sub.bytes.as_ptr().cast::<S>().read_unaligned() })
    }

    /// Takes the two apart.
    #[inline(always)]
    #[must_use]
    pub fn parts(&self) -> (K, S) {
        (self.0, self.1)
    }
}

impl<K: Key, S: Fixed> PartialEq for Within<K, S> {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        bytes_of(self) == bytes_of(other)
    }
}

impl<K: Key, S: Fixed> Eq for Within<K, S> {}

impl<K: Key, S: Fixed> fmt::Debug for Within<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Within({:02x?})", bytes_of(self))
    }
}

impl<K: Key, S: Fixed + SlotKey> Key for Within<K, S> {
    #[inline(always)]
    fn hash64(&self) -> u64 {
        let (key, sub) = (self.0, self.1);
        hash_of::<S>(Key::hash64(&key), if size_of::<S>() == 0 { 0 } else { sub.hash64() })
    }
}

// SAFETY: packed, so without padding, over two types that are their own archived forms: `Fixed` proves that, and that the
// target is little endian, wherever a table of the pair is compiled.
unsafe impl<K: Fixed, S: Fixed> Portable for Within<K, S> {}

impl<K: Fixed, S: Fixed> Archive for Within<K, S> {
    // SAFETY: enabled only where both halves are their own archived form; nothing lies between or behind them.
    const COPY_OPTIMIZATION: CopyOptimization<Self> =
        unsafe { CopyOptimization::enable_if(K::COPY_OPTIMIZATION.is_enabled() && S::COPY_OPTIMIZATION.is_enabled()) };
    type Archived = Within<K, S>;
    type Resolver = ();

    fn resolve(&self, (): (), out: Place<Within<K, S>>) {
        let () = const { (K::PROOF, S::PROOF).1 };
        // SAFETY: the place is to be written, and every byte of the pair is initialised.
        unsafe { out.write_unchecked(*self) };
    }
}

/// What bytes that are no pair are refused with.
#[derive(Debug, thiserror::Error)]
#[error("not a key within a key")]
struct NoPair;

// SAFETY: valid if both halves are, and both are checked, in copies that are aligned for them.
unsafe impl<C, K, S> CheckBytes<C> for Within<K, S>
where
    C: Fallible<Error: Source> + ?Sized,
    K: Fixed,
    S: Fixed,
{
    unsafe fn check_bytes(value: *const Self, _: &mut C) -> Result<(), C::Error> {
        use std::mem::MaybeUninit;
        // SAFETY: the caller's bytes are readable and initialised; a copy as `MaybeUninit` asks nothing of them.
        let valid = unsafe {
            let key = (&raw const (*value).0).cast::<MaybeUninit<K>>().read_unaligned();
            let sub = (&raw const (*value).1).cast::<MaybeUninit<S>>().read_unaligned();
            is_valid::<K>(key.as_ptr().cast()) && is_valid::<S>(sub.as_ptr().cast())
        };
        if valid { Ok(()) } else { fail!(NoPair) }
    }
}

/// A fixed key, and a key of any size within it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotWithin<K, S>(pub K, pub S);

impl<K: Key, S: SlotKey> SlotWithin<K, S> {
    /// Where in the pair's bytes the sub-key begins.
    const SUB_AT: usize =
        if size_of::<S>() == 0 { size_of::<K>() } else { size_of::<K>().next_multiple_of(CELL_ALIGN) };
}

impl<K: Key, S: SlotKey> SlotKey for SlotWithin<K, S> {
    type View = [u8];

    fn hash64(&self) -> u64 {
        hash_of::<S>(Key::hash64(&self.0), self.1.hash64())
    }

    fn with_bytes<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R {
        SubKey::with(&self.1, |sub| SlotWithinRef { key: self.0, sub }.with_key_bytes(show))
    }

    fn is_valid(bytes: &[u8]) -> bool {
        let Some((key, sub)) = bytes.split_at_checked(Self::SUB_AT) else { return false };
        let (key, padding) = key.split_at(size_of::<K>());
        <K as SlotKey>::is_valid(key) && padding.iter().all(|&byte| byte == 0) && S::is_valid(sub)
    }

    unsafe fn view(bytes: &[u8]) -> &[u8] {
        bytes
    }

    unsafe fn hash_of(bytes: &[u8]) -> u64 {
        let (key, sub) = bytes.split_at(Self::SUB_AT);
        // SAFETY: by the caller's word these are a pair's bytes on a multiple of 16, so both halves' bytes are too; of a
        // sub-key without bytes nothing is read.
        let (key, sub) = unsafe {
            let sub = if size_of::<S>() == 0 { 0 } else { S::hash_of(sub) };
            (<K as SlotKey>::hash_of(&key[..size_of::<K>()]), sub)
        };
        hash_of::<S>(key, sub)
    }
}

/// What a [`SlotWithin`] is sought by.
#[derive(Clone, Copy, Debug)]
pub struct SlotWithinRef<'a, K, S> {
    /// The key.
    pub key: K,
    /// The one within it.
    pub sub: SubKey<'a, S>,
}

impl<K: Key, S: SlotKey> sealed::Sealed<SlotWithin<K, S>> for SlotWithinRef<'_, K, S> {}

impl<K: Key, S: SlotKey> AsKey<SlotWithin<K, S>> for SlotWithinRef<'_, K, S> {
    #[inline]
    fn key_hash(&self) -> u64 {
        hash_of::<S>(Key::hash64(&self.key), self.sub.hash)
    }

    #[inline]
    fn with_key_bytes<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R {
        let (key, at) = (bytes_of(&self.key), SlotWithin::<K, S>::SUB_AT);
        let bytes = at + self.sub.bytes.len();
        if bytes > ROOM_BYTES {
            let mut room = Vec::with_capacity(bytes);
            room.extend_from_slice(key);
            room.resize(at, 0);
            room.extend_from_slice(self.sub.bytes);
            return show(&room);
        }
        let mut room = [0; ROOM_BYTES];
        room[..key.len()].copy_from_slice(key);
        room[at..bytes].copy_from_slice(self.sub.bytes);
        show(&room[..bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{HashRange, SHARD_BITS};
    use crate::{Namespace, PageStore, TableConfig, Text};

    fn pair(key: u64, sub: u32) -> Within<u64, u32> {
        SubKey::with(&sub, |sub| Within::new(key, sub))
    }

    #[test]
    fn what_is_kept_under_a_key_stays_in_the_keys_shard_and_spreads_there() {
        let mut prefixes = std::collections::HashSet::new();
        for key in 0..50u64 {
            let own = Key::hash64(&key);
            for sub in 0..1000u32 {
                let hash = Key::hash64(&pair(key, sub));
                assert_eq!(hash >> (64 - SHARD_BITS), own >> (64 - SHARD_BITS));
                SubKey::with(&sub, |sub| assert_eq!(SlotWithinRef { key, sub }.key_hash(), hash));
                prefixes.insert(hash >> 42);
            }
            SubKey::with(&(), |sub: SubKey<'_, ()>| assert_eq!(Key::hash64(&Within::new(key, sub)), own));
        }
        assert!(prefixes.len() > 20_000, "{}", prefixes.len());
    }

    #[test]
    fn both_kinds_of_pairs_are_found_checked_and_told_apart() {
        let range = HashRange::ALL;
        let store = PageStore::new(TableConfig { range, bytes_max: 1 << 26, ..TableConfig::default() }).unwrap();
        let mut flat = store.table::<Within<Text<5>, u32>, u64>("flat");
        let mut slotted = store.slotted::<SlotWithin<Text<5>, String>, Vec<u32>>("slotted");
        let long = "x".repeat(300);
        for round in 0..3_000u32 {
            let key: Text<5> = format!("k{}", round % 7).parse().unwrap();
            let sub = round / 7;
            SubKey::with(&sub, |sub| *flat.get_mut_or(Namespace(0), &Within::new(key, sub), || 0).unwrap() += 1);
            let name = if sub.is_multiple_of(9) { format!("{long}{sub}") } else { sub.to_string() };
            SubKey::with(name.as_str(), |sub| {
                slotted.put(Namespace(0), &SlotWithinRef { key, sub }, &vec![round]).unwrap();
            });
            let owned = SlotWithin(key, name);
            assert_eq!(slotted.get(Namespace(0), &owned, |list| list[0].to_native()), Some(round));
            owned.with_bytes(|bytes| {
                let mut aligned = rkyv::util::AlignedVec::<16>::new();
                aligned.extend_from_slice(bytes);
                assert!(SlotWithin::<Text<5>, String>::is_valid(&aligned));
                // SAFETY: the bytes of a pair, on a multiple of 16.
                assert_eq!(unsafe { SlotWithin::<Text<5>, String>::hash_of(&aligned) }, owned.hash64());
                aligned[15] = 1;
                assert!(!SlotWithin::<Text<5>, String>::is_valid(&aligned), "padding is zero");
                assert!(!SlotWithin::<Text<5>, String>::is_valid(&aligned[..7]));
            });
        }
        assert_eq!((flat.len(Namespace(0)), slotted.len(Namespace(0))), (3_000, 3_000));
        flat.scan(Namespace(0), |_, count| assert_eq!(*count, 1));
        assert_eq!(pair(7, 9).parts(), (7, 9));
    }
}
