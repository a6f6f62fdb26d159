//! [`FromValue`]: the way back, from what bytes said to a type.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use super::read::prepend;
use super::{Name, Value};
use crate::fixed::Both;
use crate::stored::AsArchived;
use crate::text::Text;

/// A type that can be made from a [`Value`], of its own schema or of an older one.
///
/// `#[millstream::event]` implements it. Fields are found by name, else by what they were called; a field that is not
/// there takes its default. Nothing is widened: an `u32` does not become an `u64`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made of older state",
    note = "put #[millstream::event] on it"
)]
pub trait FromValue: Sized {
    /// Makes one.
    ///
    /// # Errors
    /// The value is of another type; [`compare`](super::compare) says so beforehand.
    fn from_value(value: &Value) -> Result<Self, ValueError>;
}

/// A value that is not what a type is made from.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {why}", if path.is_empty() { "the value" } else { path })]
pub struct ValueError {
    /// Where in the value: `history[3].amount`.
    pub path: String,
    /// What is wrong.
    pub why: String,
}

impl ValueError {
    fn new(why: String) -> ValueError {
        ValueError { path: String::new(), why }
    }

    /// The value is not one of `wanted`.
    #[must_use]
    pub fn not(wanted: &str, found: &Value) -> ValueError {
        ValueError::new(format!("wanted {wanted}, found {}", found.kind()))
    }

    /// The enum has no such variant.
    #[must_use]
    pub fn unknown_variant(name: &str, variant: &str) -> ValueError {
        ValueError::new(format!(
            "{name} has no variant `{variant}`; say which one it became with #[state(was = \"{variant}\")]"
        ))
    }

    fn within(mut self, segment: impl std::fmt::Display) -> ValueError {
        prepend(&mut self.path, segment);
        self
    }
}

/// The fields of a struct or variant, to be taken one by one.
#[derive(Debug)]
pub struct Fields<'a> {
    fields: &'a [(Name, Value)],
    /// Where the next field is if nothing changed, which is nearly always.
    next: usize,
}

impl<'a> Fields<'a> {
    fn find(&mut self, name: &str, was: Option<&str>) -> Option<&'a Value> {
        let place = match self.fields.get(self.next) {
            Some((own, _)) if **own == *name => self.next,
            _ => {
                let by_name = |name: &str| self.fields.iter().position(|(own, _)| **own == *name);
                by_name(name).or_else(|| was.and_then(by_name))?
            }
        };
        self.next = place + 1;
        Some(&self.fields[place].1)
    }

    /// The field of this name, or of the name it had.
    ///
    /// # Errors
    /// There is none, or it is of another type.
    pub fn take<T: FromValue>(&mut self, name: &str, was: Option<&str>) -> Result<T, ValueError> {
        match self.find(name, was) {
            Some(value) => T::from_value(value).map_err(|error| error.within(name)),
            None => {
                let why =
                    "the field is not there; give it #[state(default)], or #[state(was = \"..\")] with the name it had";
                Err(ValueError::new(why.to_owned()).within(name))
            }
        }
    }

    /// The field of this name, or of the name it had, or the default.
    ///
    /// # Errors
    /// It is of another type.
    pub fn take_or<T: FromValue>(
        &mut self,
        name: &str,
        was: Option<&str>,
        default: impl FnOnce() -> T,
    ) -> Result<T, ValueError> {
        match self.find(name, was) {
            Some(value) => T::from_value(value).map_err(|error| error.within(name)),
            None => Ok(default()),
        }
    }
}

impl Value {
    /// The fields of a struct; `wanted` is its name, for the complaint.
    ///
    /// # Errors
    /// The value is no struct.
    pub fn fields(&self, wanted: &str) -> Result<Fields<'_>, ValueError> {
        match self {
            Value::Struct(fields) => Ok(Fields { fields, next: 0 }),
            other => Err(ValueError::not(wanted, other)),
        }
    }

    /// The name and the fields of a variant; `wanted` is the enum's name, for the complaint.
    ///
    /// # Errors
    /// The value is no variant.
    pub fn variant(&self, wanted: &str) -> Result<(&str, Fields<'_>), ValueError> {
        match self {
            Value::Variant(name, fields) => Ok((name, Fields { fields, next: 0 })),
            other => Err(ValueError::not(wanted, other)),
        }
    }

    pub(super) fn opaque(&self, wanted: &str) -> Result<&[u8], ValueError> {
        match self {
            Value::Opaque(bytes) => Ok(bytes),
            other => Err(ValueError::not(wanted, other)),
        }
    }

    fn items(&self) -> Result<&[Value], ValueError> {
        match self {
            Value::List(items) => Ok(items),
            other => Err(ValueError::not("a list", other)),
        }
    }

    fn entries(&self) -> Result<&[(Value, Value)], ValueError> {
        match self {
            Value::Map(entries) => Ok(entries),
            other => Err(ValueError::not("a map", other)),
        }
    }
}

macro_rules! plain {
    ($($rust:ty: $kind:ident),*) => {$(
        impl FromValue for $rust {
            fn from_value(value: &Value) -> Result<Self, ValueError> {
                match value {
                    Value::$kind(own) => Ok(own.clone()),
                    other => Err(ValueError::not(stringify!($rust), other)),
                }
            }
        }
    )*};
}
plain!(bool: Bool, char: Char, f32: F32, f64: F64, String: Text);

macro_rules! integers {
    ($kind:ident: $($rust:ty),*) => {$(
        impl FromValue for $rust {
            fn from_value(value: &Value) -> Result<Self, ValueError> {
                match value {
                    Value::$kind(number) => <$rust>::try_from(*number)
                        .map_err(|_| ValueError::new(format!("{number} is no {}", stringify!($rust)))),
                    other => Err(ValueError::not(stringify!($rust), other)),
                }
            }
        }
    )*};
}
integers!(Unsigned: u8, u16, u32, u64, u128, usize);
integers!(Signed: i8, i16, i32, i64, i128, isize);

impl FromValue for () {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        if *value == Value::Unit { Ok(()) } else { Err(ValueError::not("()", value)) }
    }
}

impl<T: ?Sized> FromValue for PhantomData<T> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        <()>::from_value(value).map(|()| PhantomData)
    }
}

impl<const N: usize> FromValue for Text<N> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::Text(text) => Text::try_from(text.as_str()).map_err(|error| ValueError::new(error.to_string())),
            other => Err(ValueError::not("a text", other)),
        }
    }
}

/// The items of a list, gathered into whatever holds them.
fn gathered<T: FromValue, C: FromIterator<T>>(value: &Value) -> Result<C, ValueError> {
    let item = |(i, item)| T::from_value(item).map_err(|error| error.within(format_args!("[{i}]")));
    value.items()?.iter().enumerate().map(item).collect()
}

fn gathered_entries<K: FromValue, V: FromValue, C: FromIterator<(K, V)>>(value: &Value) -> Result<C, ValueError> {
    let entry = |(key, value): &(Value, Value)| {
        let own_key = K::from_value(key).map_err(|error| error.within("{key}"))?;
        Ok((own_key, V::from_value(value).map_err(|error| error.within(format_args!("{{{key}}}")))?))
    };
    value.entries()?.iter().map(entry).collect()
}

impl<T: FromValue, const N: usize> FromValue for [T; N] {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let items: Vec<T> = gathered(value)?;
        let count = items.len();
        items.try_into().map_err(|_| ValueError::new(format!("wanted {N} items, found {count}")))
    }
}

impl<A: FromValue, B: FromValue> FromValue for Both<A, B> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        <(A, B)>::from_value(value).map(|(first, second)| Both(first, second))
    }
}

impl<T: FromValue> FromValue for AsArchived<T> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        <(T,)>::from_value(value).map(|(own,)| AsArchived(own))
    }
}

macro_rules! tuples {
    ($($count:literal ($($item:ident $i:tt),*))*) => {$(
        impl<$($item: FromValue),*> FromValue for ($($item,)*) {
            fn from_value(value: &Value) -> Result<Self, ValueError> {
                match value.items()? {
                    items if items.len() == $count => {
                        Ok(($($item::from_value(&items[$i]).map_err(|error| error.within($i))?,)*))
                    }
                    items => Err(ValueError::new(format!("wanted a tuple of {}, found one of {}", $count, items.len()))),
                }
            }
        }
    )*};
}
tuples!(
    1 (A 0) 2 (A 0, B 1) 3 (A 0, B 1, C 2) 4 (A 0, B 1, C 2, D 3) 5 (A 0, B 1, C 2, D 3, E 4)
    6 (A 0, B 1, C 2, D 3, E 4, F 5) 7 (A 0, B 1, C 2, D 3, E 4, F 5, G 6)
    8 (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7)
);

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::Option(None) => Ok(None),
            Value::Option(Some(value)) => T::from_value(value).map(Some),
            other => Err(ValueError::not("an option", other)),
        }
    }
}

impl<T: FromValue, E: FromValue> FromValue for Result<T, E> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value.variant("a Result")? {
            ("Ok", mut fields) => fields.take("0", None).map(Ok),
            ("Err", mut fields) => fields.take("0", None).map(Err),
            (other, _) => Err(ValueError::unknown_variant("Result", other)),
        }
    }
}

macro_rules! pointers {
    ($($pointer:ident),*) => {$(
        impl<T: FromValue> FromValue for $pointer<T> {
            fn from_value(value: &Value) -> Result<Self, ValueError> {
                T::from_value(value).map($pointer::new)
            }
        }

        impl<T: FromValue> FromValue for $pointer<[T]> {
            fn from_value(value: &Value) -> Result<Self, ValueError> {
                gathered(value)
            }
        }

        impl FromValue for $pointer<str> {
            fn from_value(value: &Value) -> Result<Self, ValueError> {
                String::from_value(value).map($pointer::from)
            }
        }
    )*};
}
pointers!(Box, Rc, Arc);

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        gathered(value)
    }
}

impl<T: FromValue> FromValue for VecDeque<T> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        gathered(value)
    }
}

impl<T: FromValue + Eq + Hash, S: BuildHasher + Default> FromValue for HashSet<T, S> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        gathered(value)
    }
}

impl<T: FromValue + Ord> FromValue for BTreeSet<T> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        gathered(value)
    }
}

impl<K: FromValue + Eq + Hash, V: FromValue, S: BuildHasher + Default> FromValue for HashMap<K, V, S> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        gathered_entries(value)
    }
}

impl<K: FromValue + Ord, V: FromValue> FromValue for BTreeMap<K, V> {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        gathered_entries(value)
    }
}
