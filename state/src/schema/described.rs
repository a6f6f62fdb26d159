//! [`Described`]: the types that have a schema.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use super::{Field, Schema, Variant};
use crate::fixed::Both;
use crate::stored::AsArchived;
use crate::text::Text;

/// A type whose archived form a [`Schema`] describes.
///
/// `#[millstream::event]` implements it, and it is implemented for what rkyv archives of the standard library.
///
/// # Contract
/// * The schema's layout is that of `Self::Archived`. (Checked by [`Described::checked_schema`].)
/// * What [`Reader`](super::Reader) reads from an archived `self` is what it means. (Tested for all types here; with
///   rkyv's derive it holds while no field has an attribute of rkyv's.)
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no schema, so it cannot be kept as state",
    note = "put #[millstream::event] on it"
)]
pub trait Described {
    /// What the type looks like.
    fn schema() -> Schema;

    /// The schema, held against the archived type's real size and alignment.
    ///
    /// # Panics
    /// They differ: a hand-written [`schema`](Described::schema) does not describe the type.
    #[must_use]
    fn checked_schema() -> Schema
    where
        Self: rkyv::Archive + Sized,
    {
        let schema = Self::schema();
        let real = (size_of::<Self::Archived>(), align_of::<Self::Archived>());
        assert!(
            schema.layout() == Ok(real),
            "`{schema}` has {:?} for bytes and alignment, but the archived type has {real:?}: describe it as it is archived",
            schema.layout()
        );
        schema
    }
}

macro_rules! plain {
    ($($rust:ty => $schema:ident),*) => {$(
        impl Described for $rust {
            fn schema() -> Schema {
                Schema::$schema
            }
        }
    )*};
}
plain!(
    () => Unit, bool => Bool, char => Char, String => String,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64, u128 => U128, usize => U32,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64, i128 => I128, isize => I32,
    f32 => F32, f64 => F64
);

impl<T: ?Sized> Described for PhantomData<T> {
    fn schema() -> Schema {
        Schema::Unit
    }
}

impl<const N: usize> Described for Text<N> {
    fn schema() -> Schema {
        Schema::Text(N)
    }
}

impl<T: Described, const N: usize> Described for [T; N] {
    fn schema() -> Schema {
        Schema::Array(Box::new(T::schema()), N)
    }
}

impl<A: Described, B: Described> Described for Both<A, B> {
    fn schema() -> Schema {
        Schema::Tuple(vec![A::schema(), B::schema()])
    }
}

/// A tuple of one: archived as what is in it, and yet not taken for a key that is kept as its bare text.
impl<T: Described> Described for AsArchived<T> {
    fn schema() -> Schema {
        Schema::Tuple(vec![T::schema()])
    }
}

macro_rules! tuples {
    ($(($($item:ident),*))*) => {$(
        impl<$($item: Described),*> Described for ($($item,)*) {
            fn schema() -> Schema {
                Schema::Tuple(vec![$($item::schema()),*])
            }
        }
    )*};
}
tuples!((A)(A, B)(A, B, C)(A, B, C, D)(A, B, C, D, E)(A, B, C, D, E, F)(A, B, C, D, E, F, G)(A, B, C, D, E, F, G, H));

impl<T: Described> Described for Option<T> {
    fn schema() -> Schema {
        Schema::Option(Box::new(T::schema()))
    }
}

impl<T: Described, E: Described> Described for Result<T, E> {
    fn schema() -> Schema {
        Schema::named::<Self>(|name| Schema::Enum {
            name,
            variants: vec![
                Variant::of("Ok", 0, vec![Field::of::<T>("0")]),
                Variant::of("Err", 1, vec![Field::of::<E>("0")]),
            ],
        })
    }
}

macro_rules! pointers {
    ($($pointer:ident),*) => {$(
        impl<T: Described> Described for $pointer<T> {
            fn schema() -> Schema {
                Schema::Boxed(Box::new(T::schema()))
            }
        }

        impl<T: Described> Described for $pointer<[T]> {
            fn schema() -> Schema {
                Schema::List(Box::new(T::schema()))
            }
        }

        impl Described for $pointer<str> {
            fn schema() -> Schema {
                Schema::Str
            }
        }
    )*};
}
pointers!(Box, Rc, Arc);

impl<T: Described> Described for Vec<T> {
    fn schema() -> Schema {
        Schema::List(Box::new(T::schema()))
    }
}

impl<T: Described> Described for VecDeque<T> {
    fn schema() -> Schema {
        Schema::List(Box::new(T::schema()))
    }
}

impl<K: Described, V: Described, S> Described for HashMap<K, V, S> {
    fn schema() -> Schema {
        Schema::HashMap(Box::new(K::schema()), Box::new(V::schema()))
    }
}

impl<T: Described, S> Described for HashSet<T, S> {
    fn schema() -> Schema {
        Schema::HashSet(Box::new(T::schema()))
    }
}

impl<K: Described, V: Described> Described for BTreeMap<K, V> {
    fn schema() -> Schema {
        Schema::BTreeMap(Box::new(K::schema()), Box::new(V::schema()))
    }
}

impl<T: Described> Described for BTreeSet<T> {
    fn schema() -> Schema {
        Schema::BTreeSet(Box::new(T::schema()))
    }
}

/// For types that not every value of their bytes is, so that an integer is never taken for one.
macro_rules! opaque {
    ($($rust:ty),* $(,)?) => {$(
        impl Described for $rust {
            fn schema() -> Schema {
                Schema::opaque::<$rust>()
            }
        }

        impl super::FromValue for $rust {
            fn from_value(value: &super::Value) -> Result<Self, super::ValueError> {
                let bytes = value.opaque(stringify!($rust))?;
                let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(bytes.len());
                aligned.extend_from_slice(bytes);
                rkyv::from_bytes::<$rust, rkyv::rancor::Failure>(&aligned)
                    .map_err(|_| super::ValueError::not(stringify!($rust), value))
            }
        }
    )*};
}
opaque!(
    std::time::Duration,
    std::net::IpAddr,
    std::net::Ipv4Addr,
    std::net::Ipv6Addr,
    std::net::SocketAddr,
    std::num::NonZeroU8,
    std::num::NonZeroU16,
    std::num::NonZeroU32,
    std::num::NonZeroU64,
    std::num::NonZeroI8,
    std::num::NonZeroI16,
    std::num::NonZeroI32,
    std::num::NonZeroI64,
);
