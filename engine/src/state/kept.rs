//! [`Kept`]: what can be kept under a key, and how it is seen where it lies.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;

use millstream_state::schema::{Described, FromValue};
use millstream_state::{Both, Fixed, Key, Seen, SlotKey, Stored, SubKey, Text};
use rkyv::Archive;
use rkyv::seal::Seal;

use super::declare::{Declare, Spec};
use super::entries::{Entries, FixedEntries, Flat, Slotted, SlottedFixed, Upkeep};

/// What can be kept under a key: fixed types, in place as they are, and all others in their archived form.
///
/// `#[millstream::event]` implements it, and it is implemented for numbers, texts, and the standard library's strings,
/// options, tuples, lists, maps and sets. A type is *fixed* if it is `Copy` and its archived form is its own memory
/// (see [`Fixed`]); which of the two it is, the compiler finds out.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be kept as state",
    note = "put #[millstream::event] on it; closures, references and handles of the system cannot be kept at all"
)]
pub trait Kept: Stored + Described + FromValue {
    /// How it lies in pages: [`InPlace`] or [`Archived`].
    type Form: Form<Self>;
}

/// A key within a key: what a [`Map`](super::Map) keeps its values under.
///
/// Every fixed key is one (numbers, texts, `#[millstream::event(key)]`), and so are `String` and `Vec<u8>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key of a map",
    note = "numbers, Text<N>, String, Vec<u8> and structs with #[millstream::event(key)] can"
)]
pub trait MapKey: Kept + SlotKey {
    #[doc(hidden)]
    fn with_sub<R>(view: &View<'_, Self>, show: impl FnOnce(SubKey<'_, Self>) -> R) -> R;
}

/// What is seen of a `T` where it lies: `&T` if it is fixed, else a [`Seen`], which stands for `&T::Archived`.
pub type View<'a, T> = <<T as Kept>::Form as Form<T>>::View<'a>;

/// A `T` to be changed where it lies: `&mut T` if it is fixed, else rkyv's [`Seal`], which lets fields of fixed size change.
pub type Change<'a, T> = <<T as Kept>::Form as Form<T>>::Mut<'a>;

/// How a type lies in pages. There are two forms, and users need neither.
pub trait Form<T: Kept<Form = Self>>: Sized + 'static {
    /// See [`View`].
    type View<'a>;
    /// See [`Change`].
    type Mut<'a>;
    /// The table of a handle that keeps values of `T` under keys of `S` within the key.
    #[doc(hidden)]
    type Table<S: MapKey>: ?Sized + Entries<S, T>;

    /// Declares a table of such values.
    #[doc(hidden)]
    fn table<K: Key + Described, S: MapKey>(declare: &mut Declare<'_, K>, spec: &Spec) -> Box<Self::Table<S>>;

    /// Declares a table of fixed values under such keys, flat if that is possible.
    #[doc(hidden)]
    fn fixed_under<K: Key + Described, V>(declare: &mut Declare<'_, K>, spec: &Spec) -> Box<dyn FixedEntries<T, V>>
    where
        T: MapKey,
        V: Kept<Form = InPlace> + Fixed;

    /// Has a value changed where it lies; none if there is none.
    #[doc(hidden)]
    fn update<S: MapKey, R>(
        table: &mut Self::Table<S>,
        sub: SubKey<'_, S>,
        change: impl FnOnce(Self::Mut<'_>) -> R,
    ) -> Option<R>;

    /// Shows a table to the operator.
    #[doc(hidden)]
    fn upkeep<S: MapKey>(table: &mut Self::Table<S>, visit: &mut dyn FnMut(&mut dyn Upkeep));
}

/// The form of fixed types: values lie in pages as they lie in memory.
#[derive(Clone, Copy, Debug)]
pub struct InPlace;

/// The form of all other types: values lie in pages in rkyv's archived form.
#[derive(Clone, Copy, Debug)]
pub struct Archived;

impl<T: Kept<Form = InPlace> + Fixed> Form<T> for InPlace {
    type View<'a> = &'a T;
    type Mut<'a> = &'a mut T;
    type Table<S: MapKey> = dyn FixedEntries<S, T>;

    fn table<K: Key + Described, S: MapKey>(declare: &mut Declare<'_, K>, spec: &Spec) -> Box<dyn FixedEntries<S, T>> {
        S::Form::fixed_under::<K, T>(declare, spec)
    }

    fn fixed_under<K: Key + Described, V>(declare: &mut Declare<'_, K>, spec: &Spec) -> Box<dyn FixedEntries<T, V>>
    where
        T: MapKey,
        V: Kept<Form = InPlace> + Fixed,
    {
        // Only slotted pages know when an entry ends.
        if spec.ttl_ms.is_some() {
            return Box::new(SlottedFixed::<K, T, V>::declare(declare, spec));
        }
        Box::new(Flat::<K, T, V>::declare(declare, spec))
    }

    #[inline]
    fn update<S: MapKey, R>(
        table: &mut Self::Table<S>,
        sub: SubKey<'_, S>,
        change: impl FnOnce(&mut T) -> R,
    ) -> Option<R> {
        table.value_mut(sub).map(change)
    }

    fn upkeep<S: MapKey>(table: &mut Self::Table<S>, visit: &mut dyn FnMut(&mut dyn Upkeep)) {
        visit(table);
    }
}

impl<T: Kept<Form = Archived>> Form<T> for Archived {
    type View<'a> = Seen<'a, T>;
    type Mut<'a> = Seal<'a, T::Archived>;
    type Table<S: MapKey> = dyn Entries<S, T>;

    fn table<K: Key + Described, S: MapKey>(declare: &mut Declare<'_, K>, spec: &Spec) -> Box<dyn Entries<S, T>> {
        Box::new(Slotted::<K, S, T>::declare(declare, spec))
    }

    fn fixed_under<K: Key + Described, V>(declare: &mut Declare<'_, K>, spec: &Spec) -> Box<dyn FixedEntries<T, V>>
    where
        T: MapKey,
        V: Kept<Form = InPlace> + Fixed,
    {
        Box::new(SlottedFixed::<K, T, V>::declare(declare, spec))
    }

    fn update<S: MapKey, R>(
        table: &mut Self::Table<S>,
        sub: SubKey<'_, S>,
        change: impl FnOnce(Seal<'_, T::Archived>) -> R,
    ) -> Option<R> {
        let (mut change, mut changed) = (Some(change), None);
        table.change(sub, &mut |value| changed = change.take().map(|change| change(value)));
        changed
    }

    fn upkeep<S: MapKey>(table: &mut Self::Table<S>, visit: &mut dyn FnMut(&mut dyn Upkeep)) {
        visit(table);
    }
}

// ---- what the macro chooses by ----------------------------------------------------------------------------------------

/// The form of a type, by whether it is fixed.
#[doc(hidden)]
#[derive(Debug)]
pub struct Choose<const IS_FIXED: bool>;

/// What [`Choose`] comes to.
#[doc(hidden)]
pub trait Chosen {
    type Form;
}

impl Chosen for Choose<true> {
    type Form = InPlace;
}

impl Chosen for Choose<false> {
    type Form = Archived;
}

/// Whether a type is fixed: `Probe::<T>::IS_FIXED` is the constant of its own where `T` is `Copy`, else the trait's.
#[doc(hidden)]
#[derive(Debug)]
pub struct Probe<T: ?Sized>(PhantomData<T>);

#[doc(hidden)]
pub trait ProbeOtherwise {
    const IS_FIXED: bool = false;
}

impl<T: ?Sized> ProbeOtherwise for Probe<T> {}

impl<T: Copy + Archive> Probe<T> {
    #[doc(hidden)]
    pub const IS_FIXED: bool = T::COPY_OPTIMIZATION.is_enabled()
        && size_of::<T>() == size_of::<T::Archived>()
        && align_of::<T>() <= 16
        && size_of::<T>() <= FIXED_BYTES_MAX;
}

/// The longest fixed value: longer ones are archived, and may go over several pages.
const FIXED_BYTES_MAX: usize = 1 << 10;

macro_rules! in_place {
    ($($rust:ty),*) => {$(
        impl Kept for $rust {
            type Form = InPlace;
        }

        impl<const N: usize> Kept for [$rust; N] {
            type Form = InPlace;
        }
    )*};
}
in_place!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128, f32, f64, bool, char);

impl Kept for () {
    type Form = InPlace;
}

impl<const N: usize> Kept for Text<N> {
    type Form = InPlace;
}

impl<A, B> Kept for Both<A, B>
where
    A: Fixed + Described + FromValue,
    B: Fixed + Described + FromValue,
    Both<A, B>: Fixed + Stored,
{
    type Form = InPlace;
}

macro_rules! archived {
    ($([$($generics:tt)*] $rust:ty),* $(,)?) => {$(
        impl<$($generics)*> Kept for $rust
        where
            Self: Stored + Described + FromValue,
        {
            type Form = Archived;
        }
    )*};
}
archived!(
    [] String,
    [T] Vec<T>,
    [T] VecDeque<T>,
    [T] Option<T>,
    [T] Box<T>,
    [] Box<str>,
    [K: Eq + Hash, V, H: BuildHasher + Default] HashMap<K, V, H>,
    [T: Eq + Hash, H: BuildHasher + Default] HashSet<T, H>,
    [K: Ord, V] BTreeMap<K, V>,
    [T: Ord] BTreeSet<T>,
    [A, B] (A, B),
    [A, B, C] (A, B, C),
    [A, B, C, D] (A, B, C, D),
    [A, B, C, D, E] (A, B, C, D, E),
    [A, B, C, D, E, F] (A, B, C, D, E, F),
);

macro_rules! map_keys {
    ($([$($generics:tt)*] $rust:ty),* $(,)?) => {$(
        impl<$($generics)*> MapKey for $rust {
            #[inline]
            fn with_sub<R>(view: &View<'_, Self>, show: impl FnOnce(SubKey<'_, Self>) -> R) -> R {
                SubKey::with(*view, show)
            }
        }
    )*};
}
map_keys!(
    [] u8, [] u16, [] u32, [] u64, [] u128, [] i8, [] i16, [] i32, [] i64, [] i128, [] bool, [] char, [] (),
    [const N: usize] [u8; N],
    [const N: usize] Text<N>,
);

impl MapKey for String {
    fn with_sub<R>(view: &Seen<'_, String>, show: impl FnOnce(SubKey<'_, String>) -> R) -> R {
        SubKey::with(view.as_str(), show)
    }
}

impl MapKey for Vec<u8> {
    fn with_sub<R>(view: &Seen<'_, Vec<u8>>, show: impl FnOnce(SubKey<'_, Vec<u8>>) -> R) -> R {
        SubKey::with(view.as_slice(), show)
    }
}
