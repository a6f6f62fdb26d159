//! What a slotted page can hold: any key that has bytes, any value that rkyv archives.
#![expect(unsafe_code, reason = "bytes that were proven are seen as keys and values")]

use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Portable, Serialize};

use crate::fixed::{bytes_of, is_valid};
use crate::slotted::CELL_ALIGN;
use crate::{Key, hash};

/// A key of any size: what a slotted table keeps values under.
///
/// Every [`Key`] is one, and so are `String`, `Vec<u8>` and [`Archived`](AsArchived) values of any other type.
///
/// # Contract
/// * Two keys are equal exactly when their bytes are. (Tables compare bytes.)
/// * Equal keys hash alike, in every build that reads the state. (Checked when a checkpoint is restored.)
pub trait SlotKey: 'static {
    /// The key as it is seen in a page.
    type View: ?Sized;

    /// Its hash: the top 12 bits choose the shard, the others the page and the slot.
    fn hash64(&self) -> u64;

    /// Shows the key's bytes.
    fn with_bytes<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R;

    /// Whether bytes read from outside are such a key's. They start on a multiple of 16.
    fn is_valid(bytes: &[u8]) -> bool;

    /// The key whose bytes these are.
    ///
    /// # Safety
    /// The bytes come from `with_bytes` or were found valid, and start on a multiple of 16.
    unsafe fn view(bytes: &[u8]) -> &Self::View;

    /// The hash of the key whose bytes these are.
    ///
    /// # Safety
    /// As for [`view`](SlotKey::view).
    unsafe fn hash_of(bytes: &[u8]) -> u64;
}

impl<K: Key> SlotKey for K {
    type View = K;

    #[inline]
    fn hash64(&self) -> u64 {
        Key::hash64(self)
    }

    #[inline]
    fn with_bytes<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R {
        show(bytes_of(self))
    }

    fn is_valid(bytes: &[u8]) -> bool {
        const { assert!(align_of::<K>() <= CELL_ALIGN, "a key in a slotted page is aligned to 16 bytes at most") };
        // SAFETY: as long as a `K`, and on a multiple of 16, which is enough for it.
        bytes.len() == size_of::<K>() && unsafe { is_valid::<K>(bytes.as_ptr()) }
    }

    unsafe fn view(bytes: &[u8]) -> &K {
        debug_assert_eq!(bytes.len(), size_of::<K>());
        // SAFETY: by the caller's word these are a valid key's bytes, aligned to 16.
        unsafe { &*bytes.as_ptr().cast() }
    }

    unsafe fn hash_of(bytes: &[u8]) -> u64 {
        // SAFETY: as the caller says.
        Key::hash64(unsafe { Self::view(bytes) })
    }
}

impl SlotKey for String {
    type View = str;

    #[inline]
    fn hash64(&self) -> u64 {
        hash::bytes(self.as_bytes())
    }

    #[inline]
    fn with_bytes<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R {
        show(self.as_bytes())
    }

    fn is_valid(bytes: &[u8]) -> bool {
        std::str::from_utf8(bytes).is_ok()
    }

    unsafe fn view(bytes: &[u8]) -> &str {
        // SAFETY: by the caller's word these are a string's bytes.
        unsafe { std::str::from_utf8_unchecked(bytes) }
    }

    unsafe fn hash_of(bytes: &[u8]) -> u64 {
        hash::bytes(bytes)
    }
}

impl SlotKey for Vec<u8> {
    type View = [u8];

    #[inline]
    fn hash64(&self) -> u64 {
        hash::bytes(self)
    }

    #[inline]
    fn with_bytes<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R {
        show(self)
    }

    fn is_valid(_: &[u8]) -> bool {
        true
    }

    unsafe fn view(bytes: &[u8]) -> &[u8] {
        bytes
    }

    unsafe fn hash_of(bytes: &[u8]) -> u64 {
        hash::bytes(bytes)
    }
}

/// What a key can be sought by: the key itself, or what it borrows as, a `str` for a `String`. Sealed, for the bytes that it
/// shows become a key's where an entry is new.
pub trait AsKey<K: SlotKey>: sealed::Sealed<K> {
    /// The key's hash.
    fn key_hash(&self) -> u64;

    /// Shows the key's bytes.
    fn with_key_bytes<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R;
}

/// Who may say that its bytes are a key's.
pub(crate) mod sealed {
    pub trait Sealed<K> {}
    impl<K> Sealed<K> for K {}
    impl Sealed<String> for str {}
    impl Sealed<String> for rkyv::string::ArchivedString {}
    impl Sealed<Vec<u8>> for [u8] {}
}

impl<K: SlotKey> AsKey<K> for K {
    #[inline]
    fn key_hash(&self) -> u64 {
        self.hash64()
    }

    #[inline]
    fn with_key_bytes<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R {
        self.with_bytes(show)
    }
}

impl AsKey<String> for str {
    #[inline]
    fn key_hash(&self) -> u64 {
        hash::bytes(self.as_bytes())
    }

    #[inline]
    fn with_key_bytes<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R {
        show(self.as_bytes())
    }
}

impl AsKey<String> for rkyv::string::ArchivedString {
    #[inline]
    fn key_hash(&self) -> u64 {
        self.as_str().key_hash()
    }

    #[inline]
    fn with_key_bytes<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R {
        show(self.as_bytes())
    }
}

impl AsKey<Vec<u8>> for [u8] {
    #[inline]
    fn key_hash(&self) -> u64 {
        hash::bytes(self)
    }

    #[inline]
    fn with_key_bytes<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R {
        show(self)
    }
}

/// A value that a slotted page can hold: whatever derives rkyv's traits, as `#[millstream::event]` has it do.
///
/// It is kept in its archived form and read in place.
pub trait Stored:
    Archive<Archived: Portable + for<'a> CheckBytes<HighValidator<'a, rancor::Error>>>
    + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>
    + 'static
{
}

impl<T> Stored for T where
    T: Archive<Archived: Portable + for<'a> CheckBytes<HighValidator<'a, rancor::Error>>>
        + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>
        + 'static
{
}

/// Writes a value's archived form into `scratch`, from its beginning.
pub(crate) fn archive<V: Stored>(value: &V, scratch: &mut AlignedVec) -> Result<(), rancor::Error> {
    const {
        assert!(align_of::<V::Archived>() <= CELL_ALIGN, "a value in a slotted page is aligned to 16 bytes at most");
    };
    let mut buffer = std::mem::take(scratch);
    buffer.clear();
    *scratch = rkyv::api::high::to_bytes_in(value, buffer)?;
    Ok(())
}

/// The value whose archived form these bytes are.
///
/// # Safety
/// They come from [`archive`], or were found valid, and start on a multiple of 16.
#[inline(always)]
pub(crate) unsafe fn view<V: Stored>(bytes: &[u8]) -> &V::Archived {
    // SAFETY: as the caller says.
    unsafe { rkyv::access_unchecked::<V::Archived>(bytes) }
}

/// Whether bytes read from outside are a value's archived form. They start on a multiple of 16.
pub(crate) fn is_value<V: Stored>(bytes: &[u8]) -> bool {
    rkyv::access::<V::Archived, rancor::Error>(bytes).is_ok()
}

/// A key of any type, kept under its archived bytes: an enum, a struct with strings in it.
///
/// Equal values must archive to equal bytes. Whatever is made of numbers, strings, lists and options does; a hash map,
/// whose order is its own, does not.
///
/// ```
/// use millstream_state::{AsArchived, Namespace, PageStore};
///
/// let store = PageStore::new(Default::default())?;
/// let mut routes = store.slotted::<AsArchived<(String, String)>, u32>("routes");
/// let route = AsArchived(("mill".to_owned(), "weir".to_owned()));
/// routes.put(Namespace(0), &route, &7)?;
/// assert_eq!(routes.get(Namespace(0), &route, |miles| miles.to_native()), Some(7));
/// # Ok::<(), millstream_state::StateError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct AsArchived<T>(pub T);

impl<T: Stored> SlotKey for AsArchived<T> {
    type View = T::Archived;

    fn hash64(&self) -> u64 {
        self.with_bytes(hash::bytes)
    }

    fn with_bytes<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R {
        let bytes = rkyv::to_bytes::<rancor::Error>(&self.0)
            .expect("an archive in memory fails only where a type's own serialisation does");
        show(&bytes)
    }

    fn is_valid(bytes: &[u8]) -> bool {
        is_value::<T>(bytes)
    }

    unsafe fn view(bytes: &[u8]) -> &T::Archived {
        // SAFETY: as the caller says.
        unsafe { view::<T>(bytes) }
    }

    unsafe fn hash_of(bytes: &[u8]) -> u64 {
        hash::bytes(bytes)
    }
}
