//! [`Value`]: what archived bytes say, in the words of a schema.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};

use super::write::is_numbered;

/// The name of a field or a variant, shared by all values that have it.
pub type Name = Arc<str>;

/// A value of any schema: what [`read`](super::read) makes of bytes.
///
/// It serialises (and displays) as JSON that any reader takes:
///
/// | value | JSON |
/// |---|---|
/// | number | number; as a text where 64 bits do not hold it, and for `NaN`, `Infinity`, `-Infinity` |
/// | text, `char` | string |
/// | struct | object; a tuple struct is an array |
/// | enum | `"Variant"`, or `{"Variant": fields}` |
/// | option | `null`, or what is in it; where that is itself an option or `()`, an array of one |
/// | list, set, tuple, array | array |
/// | map | object, where all keys are texts, numbers or `bool`; else array of `[key, value]` |
/// | `()` | `null` |
/// | opaque | its bytes in hexadecimal |
///
/// Floats are equal when their bits are, so that a value is always equal to itself.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing to say.
    Unit,
    /// `bool`.
    Bool(bool),
    /// `char`.
    Char(char),
    /// An unsigned integer of any width.
    Unsigned(u128),
    /// A signed integer of any width.
    Signed(i128),
    /// `f32`.
    F32(f32),
    /// `f64`.
    F64(f64),
    /// Any text.
    Text(String),
    /// List, set, array or tuple.
    List(Vec<Value>),
    /// A map's entries, in the order in which they lie.
    Map(Vec<(Value, Value)>),
    /// An option.
    Option(Option<Box<Value>>),
    /// A struct's fields.
    Struct(Vec<(Name, Value)>),
    /// An enum's variant and its fields.
    Variant(Name, Vec<(Name, Value)>),
    /// The bytes of a type of which only the name is known.
    Opaque(Vec<u8>),
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Unit, Value::Unit) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Char(a), Value::Char(b)) => a == b,
            (Value::Unsigned(a), Value::Unsigned(b)) => a == b,
            (Value::Signed(a), Value::Signed(b)) => a == b,
            (Value::F32(a), Value::F32(b)) => a.to_bits() == b.to_bits(),
            (Value::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::List(a), Value::List(b)) => a == b,
            (Value::Map(a), Value::Map(b)) => a == b,
            (Value::Option(a), Value::Option(b)) => a == b,
            (Value::Struct(a), Value::Struct(b)) => a == b,
            (Value::Variant(a, a_fields), Value::Variant(b, b_fields)) => a == b && a_fields == b_fields,
            (Value::Opaque(a), Value::Opaque(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl Value {
    /// What kind of value it is, for complaints.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Unit => "()",
            Value::Bool(_) => "a bool",
            Value::Char(_) => "a char",
            Value::Unsigned(_) => "an unsigned number",
            Value::Signed(_) => "a signed number",
            Value::F32(_) => "an f32",
            Value::F64(_) => "an f64",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Option(_) => "an option",
            Value::Struct(_) => "a struct",
            Value::Variant(..) => "an enum",
            Value::Opaque(_) => "opaque bytes",
        }
    }

    /// Whether its JSON may be `null`, so that an option around it must show that it is there.
    fn may_be_null(&self) -> bool {
        matches!(self, Value::Unit | Value::Option(_))
    }

    /// As the key of a JSON object, if it can be one.
    fn as_json_key(&self) -> Option<String> {
        match self {
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Char(char) => Some(char.to_string()),
            Value::Unsigned(number) => Some(number.to_string()),
            Value::Signed(number) => Some(number.to_string()),
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Unit | Value::Option(None) => serializer.serialize_unit(),
            Value::Bool(flag) => serializer.serialize_bool(*flag),
            Value::Char(char) => serializer.serialize_char(*char),
            Value::Unsigned(number) => match u64::try_from(*number) {
                Ok(number) => serializer.serialize_u64(number),
                Err(_) => serializer.collect_str(number),
            },
            Value::Signed(number) => match i64::try_from(*number) {
                Ok(number) => serializer.serialize_i64(number),
                Err(_) => serializer.collect_str(number),
            },
            Value::F32(float) if float.is_finite() => serializer.serialize_f32(*float),
            Value::F32(float) => serializer.serialize_str(not_finite(f64::from(*float))),
            Value::F64(float) if float.is_finite() => serializer.serialize_f64(*float),
            Value::F64(float) => serializer.serialize_str(not_finite(*float)),
            Value::Text(text) => serializer.serialize_str(text),
            Value::List(items) => serializer.collect_seq(items),
            Value::Map(entries) => {
                match entries.iter().map(|(key, _)| key.as_json_key()).collect::<Option<Vec<String>>>() {
                    Some(keys) => {
                        serializer.collect_map(keys.iter().zip(entries).map(|(key, (_, value))| (key, value)))
                    }
                    None => serializer.collect_seq(entries),
                }
            }
            Value::Option(Some(value)) if value.may_be_null() => serializer.collect_seq([value]),
            Value::Option(Some(value)) => value.serialize(serializer),
            Value::Struct(fields) => JsonFields(fields).serialize(serializer),
            Value::Variant(name, fields) if fields.is_empty() => serializer.serialize_str(name),
            Value::Variant(name, fields) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(&**name, &JsonFields(fields))?;
                map.end()
            }
            Value::Opaque(bytes) => serializer.collect_str(&Hex(bytes)),
        }
    }
}

/// Its JSON.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

fn not_finite(float: f64) -> &'static str {
    match float {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    }
}

/// Fields as an object, or as an array where their names are numbers.
struct JsonFields<'a>(&'a [(Name, Value)]);

impl Serialize for JsonFields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.0.is_empty() && is_numbered(self.0.iter().map(|(name, _)| &**name)) {
            let mut items = serializer.serialize_seq(Some(self.0.len()))?;
            for (_, value) in self.0 {
                items.serialize_element(value)?;
            }
            return items.end();
        }
        serializer.collect_map(self.0.iter().map(|(name, value)| (&**name, value)))
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
