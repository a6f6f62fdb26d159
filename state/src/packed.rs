//! [`Packed`]: a fixed value at any address, so that values of any alignment can lie side by side.
#![expect(unsafe_code, reason = "a value that may not be aligned is read, written and lent by its address")]

use std::fmt;

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Fallible, Source, fail};
use rkyv::traits::CopyOptimization;
use rkyv::{Archive, Place, Portable};

use crate::fixed::{Fixed, is_valid};

/// A fixed value that may lie at any address: beside another one ([`Both`](crate::Both)) there is never padding.
///
/// ```
/// use millstream_state::{Both, Packed};
/// let mut pair = Both(Packed::new(7u8), Packed::new(9u64));
/// pair.1.with(|count| *count += 1);
/// assert_eq!((size_of_val(&pair), pair.1.get()), (9, 10));
/// ```
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Packed<T>(T);

impl<T: Fixed> Packed<T> {
    /// Of a value.
    #[inline(always)]
    #[must_use]
    pub fn new(value: T) -> Packed<T> {
        Packed(value)
    }

    /// A copy of the value.
    #[inline(always)]
    #[must_use]
    pub fn get(&self) -> T {
        self.0
    }

    /// Puts another value in its place.
    #[inline(always)]
    pub fn set(&mut self, value: T) {
        self.0 = value;
    }

    /// Has the value changed: where it lies, if that is aligned for it, else in a copy that is put back.
    #[inline(always)]
    pub fn with<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let at = &raw mut self.0;
        if at.is_aligned() {
            // SAFETY: aligned, valid as every `Packed` is, and borrowed exclusively with `self`.
            return change(unsafe { &mut *at });
        }
        let mut copy = self.0;
        let changed = change(&mut copy);
        self.0 = copy;
        changed
    }
}

impl<T: Fixed + fmt::Debug> fmt::Debug for Packed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

// SAFETY: packed, so without padding, over a type that is its own archived form: `Fixed` proves that, and that the target
// is little endian, wherever a table of it is compiled.
unsafe impl<T: Fixed> Portable for Packed<T> {}

impl<T: Fixed> Archive for Packed<T> {
    // SAFETY: enabled only where the value is its own archived form; nothing lies before or behind it.
    const COPY_OPTIMIZATION: CopyOptimization<Self> =
        unsafe { CopyOptimization::enable_if(T::COPY_OPTIMIZATION.is_enabled()) };
    type Archived = Packed<T>;
    type Resolver = ();

    fn resolve(&self, (): (), out: Place<Packed<T>>) {
        let () = const { T::PROOF };
        // SAFETY: the place is to be written, and every byte of the value is initialised.
        unsafe { out.write_unchecked(*self) };
    }
}

/// What bytes that are no such value are refused with.
#[derive(Debug, thiserror::Error)]
#[error("not a packed value")]
struct NoValue;

// SAFETY: valid if the value is, which is checked in a copy that is aligned for it.
unsafe impl<C, T> CheckBytes<C> for Packed<T>
where
    C: Fallible<Error: Source> + ?Sized,
    T: Fixed,
{
    unsafe fn check_bytes(value: *const Self, _: &mut C) -> Result<(), C::Error> {
        use std::mem::MaybeUninit;
        // SAFETY: the caller's bytes are readable and initialised; a copy as `MaybeUninit` asks nothing of them.
        let valid = unsafe {
            let copy = (&raw const (*value).0).cast::<MaybeUninit<T>>().read_unaligned();
            is_valid::<T>(copy.as_ptr().cast())
        };
        if valid { Ok(()) } else { fail!(NoValue) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Both, Namespace, Table, bytes_of};

    #[test]
    fn values_of_any_alignment_lie_side_by_side() {
        type Three = Both<Packed<u8>, Both<Packed<u128>, Packed<u32>>>;
        let mut table = Table::<u64, Three>::new(Default::default()).unwrap();
        for round in 1..=100u64 {
            for key in 0..50 {
                let first = || Both(Packed::new(0), Both(Packed::new(0), Packed::new(0)));
                let kept = table.get_mut_or(Namespace(0), &key, first).unwrap();
                kept.0.with(|byte| *byte = byte.wrapping_add(3));
                kept.1.0.with(|wide| *wide += u128::from(u64::MAX));
                kept.1.1.set(kept.1.1.get() + key as u32);
                assert_eq!(kept.1.0.get(), u128::from(u64::MAX) * u128::from(round), "key {key}");
            }
        }
        let kept = table.get(Namespace(0), &7).unwrap();
        assert_eq!((kept.0.get(), kept.1.1.get(), size_of::<Three>()), (44, 700, 21));
        assert_eq!(bytes_of(&kept)[17..], 700u32.to_le_bytes());
    }

    #[test]
    fn bytes_are_checked_as_the_values_are() {
        let bytes = [0u8, 1, 2];
        // SAFETY: initialised bytes, and no alignment is asked for.
        unsafe {
            assert!(is_valid::<Packed<bool>>(bytes.as_ptr()) && is_valid::<Packed<bool>>(bytes[1..].as_ptr()));
            assert!(!is_valid::<Packed<bool>>(bytes[2..].as_ptr()));
        }
    }
}
