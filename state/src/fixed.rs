//! [`Fixed`]: values whose archived form is their own memory.
#![expect(unsafe_code, reason = "a fixed value is seen as its bytes, and its bytes, once checked, as the value")]

use rkyv::Archive;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Fallible, Strategy, Trace};
use rkyv::traits::CopyOptimization;
use rkyv::{Place, Portable, Serialize};

/// A `Copy` type whose archived form is its own memory: no padding, fields in declared order, little endian.
///
/// It is implemented for every type that qualifies: integers, floats, `bool`, `char`, arrays of them, `()`,
/// [`Text`](crate::Text), [`Both`], and any struct of such with `#[repr(C)]` and rkyv's derive. The one thing a type
/// system cannot say, that there is no padding, is proven when a table of the type is compiled:
///
/// ```
/// #[derive(Clone, Copy, rkyv::Archive)]
/// #[repr(C)]
/// struct Spend { cents: u64, clicks: u32, last_shop: u32 }
///
/// let table = millstream_state::Table::<u64, Spend>::new(Default::default())?;
/// # Ok::<(), millstream_state::StateError>(())
/// ```
///
/// ```compile_fail
/// #[derive(Clone, Copy, rkyv::Archive)]
/// #[repr(C)]
/// struct Spend { cents: u64, clicks: u32 } // four bytes of padding behind `clicks`: add a field `_pad: u32`
///
/// let table = millstream_state::Table::<u64, Spend>::new(Default::default());
/// ```
pub trait Fixed: Copy + Archive<Archived: CheckBytes<Strategy<(), Failure>>> + 'static {
    /// Fails to compile where the type is not its own archived form.
    const PROOF: ();
}

impl<T> Fixed for T
where
    T: Copy + Archive + 'static,
    T::Archived: CheckBytes<Strategy<(), Failure>>,
{
    const PROOF: () = {
        assert!(cfg!(target_endian = "little"), "state is little endian, as is every file of it; this target is not");
        assert!(
            T::COPY_OPTIMIZATION.is_enabled(),
            "this type cannot be kept in place: it has padding, or its fields are not stored as declared. \
             Give it #[repr(C)] and #[derive(rkyv::Archive)], use only fixed fields (no String, no usize, no enum), \
             order them from wide to narrow, and make what padding is left a field of its own, such as `_pad: [u8; 4]`"
        );
        assert!(size_of::<T>() == size_of::<T::Archived>(), "the archived form has another size");
        assert!(align_of::<T>() <= 64, "an alignment over a line of 64 bytes cannot be kept in a page");
    };
}

/// The bytes of a value, none of them padding.
#[inline(always)]
#[must_use]
pub fn bytes_of<T: Fixed>(value: &T) -> &[u8] {
    const { T::PROOF };
    // SAFETY: `PROOF` says that `T` has no padding, so all its bytes are initialised; the slice borrows the value.
    unsafe { std::slice::from_raw_parts((value as *const T).cast::<u8>(), size_of::<T>()) }
}

/// Whether bytes read from outside are a `T`.
///
/// # Safety
/// `at` is aligned for `T` and readable for its size, all bytes initialised.
pub(crate) unsafe fn is_valid<T: Fixed>(at: *const u8) -> bool {
    const { T::PROOF };
    // SAFETY: by the caller's word. `Archived` asks for no more alignment than `T`, whose size it has.
    unsafe { rkyv::bytecheck::check_bytes::<T::Archived, Failure>(at.cast()) }.is_ok()
}

/// Whether bytes that lie anywhere are those of a `T`: as many as it has, and values that it can have. Where a type has every
/// value, as integers do, only the number is looked at.
///
/// ```
/// use millstream_state::are_bytes_of;
/// assert!(are_bytes_of::<bool>(&[1]) && !are_bytes_of::<bool>(&[2]));
/// assert!(!are_bytes_of::<u64>(&[0; 7]));
/// ```
#[inline(always)]
#[must_use]
pub fn are_bytes_of<T: Fixed>(bytes: &[u8]) -> bool {
    if bytes.len() != size_of::<T>() {
        return false;
    }
    let mut copy = std::mem::MaybeUninit::<T>::uninit();
    // SAFETY: `copy` is aligned for `T` and has room for the bytes, of which there are as many as a `T` has, all initialised.
    unsafe {
        bytes.as_ptr().copy_to_nonoverlapping(copy.as_mut_ptr().cast(), bytes.len());
        is_valid::<T>(copy.as_ptr().cast())
    }
}

/// The name of a type as a manifest shows it: `Both<u64, Spend>`, without the paths of modules, which move.
#[must_use]
pub fn type_text<T>() -> String {
    let full = std::any::type_name::<T>();
    let mut text = String::with_capacity(full.len());
    let mut word_start = 0;
    for part in full.chars() {
        if part == ':' {
            text.truncate(word_start);
        } else {
            text.push(part);
            if !part.is_alphanumeric() && part != '_' {
                word_start = text.len();
            }
        }
    }
    text
}

/// Two fixed values side by side: what a pair of accumulators is kept as.
///
/// A tuple will not do, because Rust does not promise the order of its fields, and a generic struct with rkyv's derive
/// will not either, because the derive proves nothing about generics. Padding between or behind the two is refused when
/// compiled, as in every [`Fixed`]; swap the two, or nest them differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Both<A, B>(pub A, pub B);

// SAFETY: `repr(C)` over two portable fields, neither of which can hold an `UnsafeCell`.
unsafe impl<A: Portable, B: Portable> Portable for Both<A, B> {}

impl<A: Archive, B: Archive> Archive for Both<A, B> {
    // SAFETY: enabled only where both halves are their own archived form, nothing lies between or behind them, and the
    // archived halves start where the live ones do.
    const COPY_OPTIMIZATION: CopyOptimization<Self> = unsafe {
        CopyOptimization::enable_if(
            A::COPY_OPTIMIZATION.is_enabled()
                && B::COPY_OPTIMIZATION.is_enabled()
                && size_of::<A>() + size_of::<B>() == size_of::<Both<A, B>>()
                && std::mem::offset_of!(Both<A, B>, 1) == std::mem::offset_of!(Both<A::Archived, B::Archived>, 1),
        )
    };
    type Archived = Both<A::Archived, B::Archived>;
    type Resolver = (A::Resolver, B::Resolver);

    fn resolve(&self, resolver: Self::Resolver, out: Place<Self::Archived>) {
        // SAFETY: both pointers are to fields of the place being written, inside its allocation.
        let (first, second) = unsafe {
            let at = out.ptr();
            (Place::from_field_unchecked(out, &raw mut (*at).0), Place::from_field_unchecked(out, &raw mut (*at).1))
        };
        self.0.resolve(resolver.0, first);
        self.1.resolve(resolver.1, second);
    }
}

impl<S: Fallible + ?Sized, A: Serialize<S>, B: Serialize<S>> Serialize<S> for Both<A, B> {
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        Ok((self.0.serialize(serializer)?, self.1.serialize(serializer)?))
    }
}

// SAFETY: valid if both halves are, and both are checked where they lie.
unsafe impl<C, A, B> CheckBytes<C> for Both<A, B>
where
    C: Fallible<Error: Trace> + ?Sized,
    A: CheckBytes<C>,
    B: CheckBytes<C>,
{
    unsafe fn check_bytes(value: *const Self, context: &mut C) -> Result<(), C::Error> {
        // SAFETY: the caller's `value` is aligned and readable, and so are its fields.
        unsafe {
            A::check_bytes(&raw const (*value).0, context)?;
            B::check_bytes(&raw const (*value).1, context)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn is_fixed<T: Fixed>() {
        T::PROOF
    }

    #[test]
    fn the_types_people_use_are_fixed() {
        const {
            is_fixed::<u8>();
            is_fixed::<i16>();
            is_fixed::<u32>();
            is_fixed::<i64>();
            is_fixed::<u128>();
            is_fixed::<f64>();
            is_fixed::<bool>();
            is_fixed::<()>();
            is_fixed::<[u8; 36]>();
            is_fixed::<[[i32; 2]; 3]>();
            is_fixed::<Both<u64, Both<i64, f64>>>();
            is_fixed::<Both<(), u32>>();
        }
        assert!(!<Both<u64, u32> as Archive>::COPY_OPTIMIZATION.is_enabled(), "padding behind the u32");
        assert!(!<Both<u32, u64> as Archive>::COPY_OPTIMIZATION.is_enabled(), "padding before the u64");
        assert!(!<usize as Archive>::COPY_OPTIMIZATION.is_enabled(), "an archived usize has 32 bits");
    }

    #[test]
    fn bytes_are_checked_before_they_are_believed() {
        let (yes, no) = ([1u8], [2u8]);
        // SAFETY: one initialised byte each, and a bool has no alignment to speak of.
        unsafe {
            assert!(is_valid::<bool>(yes.as_ptr()));
            assert!(!is_valid::<bool>(no.as_ptr()));
            assert!(!is_valid::<Both<u8, bool>>([7u8, 9u8].as_ptr()));
        }
    }

    #[test]
    fn a_pair_archives_to_its_own_bytes() {
        let pair = Both(7u64, Both(-1i64, 0.5f64));
        let archived = rkyv::to_bytes::<rkyv::rancor::Error>(&pair).expect("fixed values always archive");
        assert_eq!(&archived[..], bytes_of(&pair));
    }

    #[test]
    fn a_type_is_named_without_its_modules() {
        assert_eq!(type_text::<Both<u64, std::num::NonZeroU8>>(), "Both<u64, NonZero<u8>>");
        assert_eq!(type_text::<[u8; 36]>(), "[u8; 36]");
    }
}
