//! [`Schema`]: what a state's keys and values look like in archived bytes, for readers that do not know the types.
//!
//! ```text
//! a checkpoint   T ─▶ Described::schema ─▶ Schema ─▶ JSON in the manifest
//! a dump         Schema + bytes ─▶ Reader ─▶ Value ─▶ JSON
//! a restore      stored Schema, wanted Schema ─▶ compare ─▶ Same | Additive ─▶ Migration: bytes ─▶ Value ─▶ T
//! ```
//!
//! A schema holds no offsets. Everything that rkyv archives is laid out by the rule of C (fields in declared order, each at
//! its alignment), so the types alone say where each byte lies; `shape` computes it, and tests hold it against the compiler.
//! The JSON and what may change from one build to the next are drawn in `docs/formats/schema.md`.

mod compare;
mod described;
mod from_value;
mod parse;
mod read;
mod shape;
#[cfg(test)]
mod evolution;
#[cfg(test)]
mod tests;
mod value;
mod write;

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

pub use compare::{Change, Incompatible, MigrateError, Migration, Plan, Step, compare, migrate};
pub use described::Described;
pub use from_value::{Fields, FromValue, ValueError};
pub use read::{ReadError, ReadWhy, Reader, read};
pub use shape::SchemaError;
pub use value::{Name, Value};

/// The type of a key or a value, as a manifest keeps it.
///
/// ```
/// use std::collections::HashMap;
/// use millstream_state::schema::{Described, Schema};
///
/// let schema = <HashMap<u64, Vec<Option<String>>>>::schema();
/// assert_eq!(schema.to_string(), "HashMap<u64, Vec<Option<String>>>");
/// assert_eq!(serde_json::to_string(&schema)?, r#"{"hash_map":["u64",{"list":{"option":"string"}}]}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schema {
    /// `()`, and whatever else takes no byte.
    Unit,
    /// `bool`.
    Bool,
    /// `char`.
    Char,
    /// `u8`.
    U8,
    /// `u16`.
    U16,
    /// `u32`, and `usize`, which is archived in 32 bits.
    U32,
    /// `u64`.
    U64,
    /// `u128`.
    U128,
    /// `i8`.
    I8,
    /// `i16`.
    I16,
    /// `i32`, and `isize`, which is archived in 32 bits.
    I32,
    /// `i64`.
    I64,
    /// `i128`.
    I128,
    /// `f32`.
    F32,
    /// `f64`.
    F64,
    /// [`Text`](crate::Text) of at most so many bytes.
    Text(usize),
    /// `[T; N]`.
    Array(Box<Schema>, usize),
    /// A tuple, or nested [`Both`](crate::Both).
    Tuple(Vec<Schema>),
    /// `String`.
    String,
    /// `Box<str>`.
    Str,
    /// `Vec`, `VecDeque` or `Box<[T]>`.
    List(Box<Schema>),
    /// `HashMap`.
    HashMap(Box<Schema>, Box<Schema>),
    /// `HashSet`.
    HashSet(Box<Schema>),
    /// `BTreeMap`.
    #[serde(rename = "btree_map")]
    BTreeMap(Box<Schema>, Box<Schema>),
    /// `BTreeSet`.
    #[serde(rename = "btree_set")]
    BTreeSet(Box<Schema>),
    /// `Option`.
    Option(Box<Schema>),
    /// `Box`, `Rc` or `Arc` of a sized type.
    Boxed(Box<Schema>),
    /// A struct. One whose fields are named `0`, `1` and so on is a tuple struct.
    Struct {
        /// What the type is called. It may change freely.
        name: String,
        /// Its fields, in declared order.
        fields: Vec<Field>,
    },
    /// An enum.
    Enum {
        /// What the type is called. It may change freely.
        name: String,
        /// Its variants, in declared order.
        variants: Vec<Variant>,
    },
    /// The struct or enum around this place, `0` being the nearest, `1` the one around that: a type that holds itself.
    Again(usize),
    /// A type of which only its name and layout are known. It holds no pointers.
    Opaque {
        /// Its name, as [`type_text`](crate::type_text) gives it. Two opaque types are the same if this is.
        name: String,
        /// Its archived size.
        bytes: usize,
        /// Its archived alignment, a power of two.
        align: usize,
    },
}

/// A field of a struct or of an enum's variant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Field {
    /// Its name; in a tuple struct its number.
    pub name: String,
    /// What it was called in older state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// Whether older state may lack it.
    #[serde(default, skip_serializing_if = "is_false", rename = "default")]
    pub has_default: bool,
    /// Its type.
    pub schema: Schema,
}

/// A variant of an enum.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// What it was called in older state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// The byte that says it is this one.
    pub tag: u8,
    /// What it holds; in a variant like a tuple, the names are numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
}

thread_local! {
    /// The types being described on this thread, from the outermost to the innermost.
    static AROUND: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, a type is being described. Dropping it is the end of that, even by a panic.
struct Inside;

impl Inside {
    fn new(name: &'static str) -> Inside {
        AROUND.with_borrow_mut(|around| around.push(name));
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        AROUND.with_borrow_mut(Vec::pop);
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Schema {
    /// The schema of a struct or enum, built with its name; inside itself it becomes [`Again`](Schema::Again).
    ///
    /// Every [`Struct`](Schema::Struct) and [`Enum`](Schema::Enum) is made here, so that the levels are counted alike.
    ///
    /// ```
    /// use millstream_state::schema::{Described, Field, Schema};
    ///
    /// struct Chain { next: Option<Box<Chain>> }
    /// impl Described for Chain {
    ///     fn schema() -> Schema {
    ///         Schema::named::<Self>(|name| Schema::Struct { name, fields: vec![Field::of::<Option<Box<Chain>>>("next")] })
    ///     }
    /// }
    /// assert_eq!(Chain::schema().to_string(), "Chain { next: Option<Box<Chain>> }");
    /// ```
    pub fn named<T>(build: impl FnOnce(String) -> Schema) -> Schema {
        let own = std::any::type_name::<T>();
        let up = AROUND.with_borrow(|around| around.iter().rev().position(|&name| name == own));
        if let Some(up) = up {
            return Schema::Again(up);
        }
        let _inside = Inside::new(own);
        build(crate::fixed::type_text::<T>())
    }

    /// The schema of a fixed type by its name: see [`of_type_text`](Schema::of_type_text).
    #[must_use]
    pub fn of_fixed<T: crate::Fixed>() -> Schema {
        Schema::of_type_text(&crate::fixed::type_text::<T>(), size_of::<T>(), align_of::<T>())
    }

    /// An opaque schema for an archived form without pointers.
    #[must_use]
    pub fn opaque<T: rkyv::Archive>() -> Schema {
        let (bytes, align) = (size_of::<T::Archived>(), align_of::<T::Archived>());
        Schema::Opaque { name: crate::fixed::type_text::<T>(), bytes, align }
    }

    /// Equal exactly where [`compare`] answers [`Change::Same`]: it covers what the bytes mean, not the names of types.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        crate::hash::bytes(self.canonical().as_bytes())
    }

    /// Bytes and alignment of the archived form.
    ///
    /// # Errors
    /// No type has this schema: it holds itself without a pointer between, or is larger than any memory.
    pub fn layout(&self) -> Result<(usize, usize), SchemaError> {
        shape::Shapes::new(self).map(|shapes| (shapes.root().bytes, shapes.root().align))
    }
}

impl Field {
    /// A field of this type.
    #[must_use]
    pub fn of<T: Described>(name: &str) -> Field {
        Field { name: name.to_owned(), was: None, has_default: false, schema: T::schema() }
    }

    /// The same, found under another name in older state.
    #[must_use]
    pub fn was(self, name: &str) -> Field {
        Field { was: Some(name.to_owned()), ..self }
    }

    /// The same, allowed to lack in older state.
    #[must_use]
    pub fn with_default(self) -> Field {
        Field { has_default: true, ..self }
    }
}

impl Variant {
    /// A variant of these fields.
    #[must_use]
    pub fn of(name: &str, tag: u8, fields: Vec<Field>) -> Variant {
        Variant { name: name.to_owned(), was: None, tag, fields }
    }

    /// The same, found under another name in older state.
    #[must_use]
    pub fn was(self, name: &str) -> Variant {
        Variant { was: Some(name.to_owned()), ..self }
    }
}
