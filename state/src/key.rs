//! [`Key`]: what state is kept under.

use crate::fixed::{Fixed, bytes_of};
use crate::hash;

/// What state is kept under.
///
/// A struct of fixed fields becomes a key with an empty `impl`:
///
/// ```
/// #[derive(Clone, Copy, PartialEq, Eq, rkyv::Archive)]
/// #[repr(C)]
/// struct Seat { room: u32, row: u16, number: u16 }
/// impl millstream_state::Key for Seat {}
/// ```
///
/// # Contract
/// * Two keys are equal exactly when their bytes are. (Tables compare bytes. Floats, where `0.0 == -0.0`, are no keys;
///   a type with an `Eq` of its own must see to it.)
/// * Equal keys hash alike, in every build that reads the state. (Checked when a checkpoint is restored: a key that would
///   not be found again is reported, not lost.)
pub trait Key: Fixed + Eq {
    /// The key's hash: its top 12 bits choose the shard, the others the page and the line.
    #[inline(always)]
    fn hash64(&self) -> u64 {
        hash::bytes(bytes_of(self))
    }
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Key for $integer {
            #[inline(always)]
            fn hash64(&self) -> u64 {
                hash::integer(*self as u64)
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, i8, i16, i32, i64, bool, char);

/// The key of what has none: one value per namespace.
impl Key for () {}
impl<const N: usize> Key for [u8; N] {}
impl Key for u128 {}
impl Key for i128 {}
