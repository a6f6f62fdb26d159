//! What became of a type between two builds, and how old bytes become new values.

use std::fmt;
use std::marker::PhantomData;

use super::read::prepend;
use super::{Described, Field, FromValue, ReadError, Reader, Schema, SchemaError, Value, ValueError, Variant};

/// What [`compare`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The bytes mean the same: they can be used as they are.
    Same,
    /// Each stored value becomes a wanted one; none loses anything.
    Additive(Plan),
}

/// What a migration does to each value, for people to read. It displays as one line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// At least one step.
    pub steps: Vec<Step>,
}

/// One difference between a stored and a wanted schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A field that older values lack takes its default.
    Added {
        /// Which field.
        path: String,
        /// Its type, in Rust's words.
        schema: String,
    },
    /// A field or a variant has another name.
    Renamed {
        /// Its name now.
        path: String,
        /// Its name before.
        was: String,
    },
    /// Fields or variants stand in another order.
    Reordered {
        /// Of which struct or enum.
        path: String,
    },
    /// A variant that no older value is.
    NewVariant {
        /// Which variant.
        path: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Added { path, schema } => write!(f, "`{path}: {schema}` is new and takes its default"),
            Step::Renamed { path, was } => write!(f, "`{path}` was `{was}`"),
            Step::Reordered { path } if path.is_empty() => f.write_str("the order changed"),
            Step::Reordered { path } => write!(f, "the order in `{path}` changed"),
            Step::NewVariant { path } => write!(f, "`{path}` is a new variant"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            write!(f, "{}{step}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// A change that no migration follows: the first one found.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{} was `{stored}` and is `{wanted}`: {why}", if path.is_empty() { "the type".to_owned() } else { format!("`{path}`") })]
pub struct Incompatible {
    /// Which field: `history[].amount`; empty for the whole.
    pub path: String,
    /// Its stored type, in Rust's words; `nothing` if it was not there.
    pub stored: String,
    /// Its type now; `nothing` if it is not there.
    pub wanted: String,
    /// What can be done.
    pub why: &'static str,
}

const OTHER_TYPE: &str =
    "stored values cannot become this type; keep the old one, or store the new one in another state";
const REMOVED: &str = "what is stored there would be lost; keep it, or say what it became with #[state(was = \"..\")]";
const NO_DEFAULT: &str =
    "stored values lack it; give it #[state(default)], or #[state(was = \"..\")] with the name it had";
const TAKEN_TWICE: &str = "two of the type's fields are read from it; each stored one can become one";
const NOTHING: &str = "nothing";

/// Says whether stored values are wanted ones, can become such, or neither.
///
/// Names of types do not matter; names of fields and variants do.
///
/// # Errors
/// Stored values cannot become wanted ones: the first place where, and both types there.
pub fn compare(stored: &Schema, wanted: &Schema) -> Result<Change, Incompatible> {
    let mut plan = Plan::default();
    difference(stored, wanted, &mut plan).map_err(|error| *error)?;
    Ok(if plan.steps.is_empty() { Change::Same } else { Change::Additive(plan) })
}

type Compared = Result<(), Box<Incompatible>>;

fn refusal(stored: impl fmt::Display, wanted: impl fmt::Display, why: &'static str) -> Compared {
    let (stored, wanted) = (stored.to_string(), wanted.to_string());
    Err(Box::new(Incompatible { path: String::new(), stored, wanted, why }))
}

/// Compares what lies inside, and puts `segment` in front of all that is said about it.
fn inside(segment: impl fmt::Display, plan: &mut Plan, compare: impl FnOnce(&mut Plan) -> Compared) -> Compared {
    let first = plan.steps.len();
    let compared = compare(plan);
    for step in &mut plan.steps[first..] {
        let (Step::Added { path, .. }
        | Step::Renamed { path, .. }
        | Step::Reordered { path }
        | Step::NewVariant { path }) = step;
        prepend(path, &segment);
    }
    compared.map_err(|mut error| {
        prepend(&mut error.path, &segment);
        error
    })
}

fn difference(stored: &Schema, wanted: &Schema, plan: &mut Plan) -> Compared {
    match (stored, wanted) {
        (Schema::Array(a, a_count), Schema::Array(b, b_count)) if a_count == b_count => {
            inside("[]", plan, |plan| difference(a, b, plan))
        }
        (Schema::List(a), Schema::List(b))
        | (Schema::HashSet(a), Schema::HashSet(b))
        | (Schema::BTreeSet(a), Schema::BTreeSet(b)) => inside("[]", plan, |plan| difference(a, b, plan)),
        (Schema::Option(a), Schema::Option(b)) | (Schema::Boxed(a), Schema::Boxed(b)) => difference(a, b, plan),
        (Schema::HashMap(a_key, a), Schema::HashMap(b_key, b))
        | (Schema::BTreeMap(a_key, a), Schema::BTreeMap(b_key, b)) => {
            inside("{key}", plan, |plan| difference(a_key, b_key, plan))?;
            inside("{value}", plan, |plan| difference(a, b, plan))
        }
        (Schema::Tuple(a), Schema::Tuple(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                inside(i, plan, |plan| difference(a, b, plan))?;
            }
            Ok(())
        }
        (Schema::Struct { fields: a, .. }, Schema::Struct { fields: b, .. }) => fields(a, b, plan),
        (Schema::Enum { variants: a, .. }, Schema::Enum { variants: b, .. }) => variants(a, b, plan),
        (a, b) if a == b => Ok(()),
        (a, b) => refusal(a, b, OTHER_TYPE),
    }
}

/// Finds the stored place of each wanted name: by the name, else by the name it had.
fn places<'a>(stored: &[&str], wanted: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Vec<Option<usize>> {
    let place = |name: &str| stored.iter().position(|&own| own == name);
    wanted.map(|(name, was)| place(name).or_else(|| was.and_then(place))).collect()
}

fn fields(stored: &[Field], wanted: &[Field], plan: &mut Plan) -> Compared {
    let names: Vec<&str> = stored.iter().map(|field| field.name.as_str()).collect();
    let places = places(&names, wanted.iter().map(|field| (field.name.as_str(), field.was.as_deref())));
    for (i, field) in stored.iter().enumerate() {
        match places.iter().filter(|&&place| place == Some(i)).count() {
            1 => {}
            0 => return inside(&field.name, plan, |_| refusal(&field.schema, NOTHING, REMOVED)),
            _ => return inside(&field.name, plan, |_| refusal(&field.schema, &field.schema, TAKEN_TWICE)),
        }
    }
    if !places.iter().flatten().is_sorted() {
        plan.steps.push(Step::Reordered { path: String::new() });
    }
    for (field, place) in wanted.iter().zip(places) {
        inside(&field.name, plan, |plan| match place {
            Some(place) => {
                if stored[place].name != field.name {
                    plan.steps.push(Step::Renamed { path: String::new(), was: stored[place].name.clone() });
                }
                difference(&stored[place].schema, &field.schema, plan)
            }
            None if field.has_default => {
                plan.steps.push(Step::Added { path: String::new(), schema: field.schema.to_string() });
                Ok(())
            }
            None => refusal(NOTHING, &field.schema, NO_DEFAULT),
        })?;
    }
    Ok(())
}

fn variants(stored: &[Variant], wanted: &[Variant], plan: &mut Plan) -> Compared {
    let names: Vec<&str> = stored.iter().map(|variant| variant.name.as_str()).collect();
    let places = places(&names, wanted.iter().map(|variant| (variant.name.as_str(), variant.was.as_deref())));
    for (i, variant) in stored.iter().enumerate() {
        let segment = format!("::{}", variant.name);
        match places.iter().filter(|&&place| place == Some(i)).count() {
            1 => {}
            0 => return inside(segment, plan, |_| refusal("a variant", NOTHING, REMOVED)),
            _ => return inside(segment, plan, |_| refusal("one variant", "two", TAKEN_TWICE)),
        }
    }
    let is_moved = |(variant, place): (&Variant, &Option<usize>)| place.is_some_and(|i| stored[i].tag != variant.tag);
    if !places.iter().flatten().is_sorted() || wanted.iter().zip(&places).any(is_moved) {
        plan.steps.push(Step::Reordered { path: String::new() });
    }
    for (variant, place) in wanted.iter().zip(places) {
        inside(format_args!("::{}", variant.name), plan, |plan| match place {
            Some(place) => {
                if stored[place].name != variant.name {
                    plan.steps.push(Step::Renamed { path: String::new(), was: stored[place].name.clone() });
                }
                fields(&stored[place].fields, &variant.fields, plan)
            }
            None => {
                plan.steps.push(Step::NewVariant { path: String::new() });
                Ok(())
            }
        })?;
    }
    Ok(())
}

/// Turns stored bytes into values of today's `T`.
///
/// ```
/// use millstream_state::schema::{Change, Described, Migration};
///
/// let stored = <(u64, String)>::schema(); // read from a manifest
/// let migration = Migration::<(u64, String)>::new(&stored)?;
/// assert_eq!(migration.change(), &Change::Same);
/// let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&(7u64, "seven".to_owned()))?;
/// assert_eq!(migration.apply(&bytes, bytes.len() - 16)?, (7, "seven".to_owned()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Migration<T> {
    change: Change,
    reader: Reader,
    wanted: PhantomData<fn() -> T>,
}

impl<T: Described + FromValue> Migration<T> {
    /// A migration of all values of the stored schema.
    ///
    /// # Errors
    /// They cannot become `T`s.
    pub fn new(stored: &Schema) -> Result<Migration<T>, MigrateError> {
        let change = compare(stored, &T::schema())?;
        Ok(Migration { change, reader: Reader::new(stored)?, wanted: PhantomData })
    }

    /// What it does.
    #[must_use]
    pub fn change(&self) -> &Change {
        &self.change
    }

    /// Bytes and alignment of a stored value's own part.
    #[must_use]
    pub fn stored_layout(&self) -> (usize, usize) {
        (self.reader.root_bytes(), self.reader.root_align())
    }

    /// Makes a `T` of the stored value whose own part begins at `root_at`. The caller archives it anew.
    ///
    /// # Errors
    /// The bytes are no value of the stored schema.
    pub fn apply(&self, bytes: &[u8], root_at: usize) -> Result<T, MigrateError> {
        let value: Value = self.reader.read(bytes, root_at)?;
        Ok(T::from_value(&value)?)
    }
}

/// Turns one stored value into a `T`; for many, keep a [`Migration`].
///
/// # Errors
/// The schemas are incompatible, or the bytes are no value of the stored one.
pub fn migrate<T: Described + FromValue>(stored: &Schema, bytes: &[u8], root_at: usize) -> Result<T, MigrateError> {
    Migration::new(stored)?.apply(bytes, root_at)
}

/// Why stored bytes did not become a value of today's type.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MigrateError {
    /// The type changed in a way that cannot be followed.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// The stored schema is none.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The bytes are no value of the stored schema.
    #[error("the stored value cannot be read: {0}")]
    Read(#[from] ReadError),
    /// What was read does not make a value of today's type, though the schemas say it should.
    #[error("the stored value does not fit the type: {0}")]
    Value(#[from] ValueError),
    /// The value could not be archived anew: its own serialisation failed.
    #[error("the value cannot be archived: {0}")]
    Archive(String),
}
