//! A schema as text: in Rust's words for people, and canonically for the fingerprint.

use std::fmt::{self, Write};

use super::{Field, Schema};

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Writer { out: f, names: true, around: Vec::new() }.schema(self)
    }
}

impl Schema {
    /// What the fingerprint covers: all that the bytes depend on, and no more. Names of types are left out, as are old
    /// names and defaults, which say how to read older bytes and nothing of these.
    pub(super) fn canonical(&self) -> String {
        let mut text = String::new();
        Writer { out: &mut text, names: false, around: Vec::new() }.schema(self).expect("a String takes any text");
        text
    }
}

struct Writer<'a, W> {
    out: &'a mut W,
    /// For people, with the names of types.
    names: bool,
    around: Vec<&'a str>,
}

impl<'a, W: Write> Writer<'a, W> {
    fn schema(&mut self, schema: &'a Schema) -> fmt::Result {
        match schema {
            Schema::Unit => self.out.write_str("()"),
            Schema::Bool => self.out.write_str("bool"),
            Schema::Char => self.out.write_str("char"),
            Schema::U8 => self.out.write_str("u8"),
            Schema::U16 => self.out.write_str("u16"),
            Schema::U32 => self.out.write_str("u32"),
            Schema::U64 => self.out.write_str("u64"),
            Schema::U128 => self.out.write_str("u128"),
            Schema::I8 => self.out.write_str("i8"),
            Schema::I16 => self.out.write_str("i16"),
            Schema::I32 => self.out.write_str("i32"),
            Schema::I64 => self.out.write_str("i64"),
            Schema::I128 => self.out.write_str("i128"),
            Schema::F32 => self.out.write_str("f32"),
            Schema::F64 => self.out.write_str("f64"),
            Schema::Text(bytes_max) => write!(self.out, "Text<{bytes_max}>"),
            Schema::String => self.out.write_str("String"),
            Schema::Str => self.out.write_str("Box<str>"),
            Schema::Array(item, count) => {
                self.out.write_char('[')?;
                self.schema(item)?;
                write!(self.out, "; {count}]")
            }
            Schema::Tuple(items) => {
                self.out.write_char('(')?;
                self.listed(items.iter())?;
                self.out.write_str(if items.len() < 2 { ",)" } else { ")" })
            }
            Schema::List(item) => self.generic("Vec", [&**item]),
            Schema::HashMap(key, value) => self.generic("HashMap", [&**key, &**value]),
            Schema::HashSet(item) => self.generic("HashSet", [&**item]),
            Schema::BTreeMap(key, value) => self.generic("BTreeMap", [&**key, &**value]),
            Schema::BTreeSet(item) => self.generic("BTreeSet", [&**item]),
            Schema::Option(item) => self.generic("Option", [&**item]),
            Schema::Boxed(item) => self.generic("Box", [&**item]),
            Schema::Struct { name, fields } => {
                self.around.push(name);
                self.out.write_str(if self.names { name } else { "struct" })?;
                self.fields(fields)?;
                self.around.pop();
                Ok(())
            }
            Schema::Enum { name, variants } => {
                self.around.push(name);
                self.out.write_str(if self.names { name } else { "enum" })?;
                self.out.write_str(" {")?;
                for (i, variant) in variants.iter().enumerate() {
                    self.out.write_str(if i == 0 { " " } else { ", " })?;
                    self.out.write_str(&variant.name)?;
                    if !self.names {
                        write!(self.out, " = {}", variant.tag)?;
                    }
                    self.fields(&variant.fields)?;
                }
                self.around.pop();
                self.out.write_str(" }")
            }
            Schema::Again(up) => match self.around.iter().rev().nth(*up) {
                Some(name) if self.names => self.out.write_str(name),
                _ => write!(self.out, "^{up}"),
            },
            Schema::Opaque { name, .. } if self.names => self.out.write_str(name),
            Schema::Opaque { name, bytes, align } => write!(self.out, "opaque({name}, {bytes}, {align})"),
        }
    }

    fn generic<const N: usize>(&mut self, name: &str, arguments: [&'a Schema; N]) -> fmt::Result {
        write!(self.out, "{name}<")?;
        self.listed(arguments.into_iter())?;
        self.out.write_char('>')
    }

    fn listed(&mut self, items: impl Iterator<Item = &'a Schema>) -> fmt::Result {
        for (i, item) in items.enumerate() {
            if i > 0 {
                self.out.write_str(", ")?;
            }
            self.schema(item)?;
        }
        Ok(())
    }

    fn fields(&mut self, fields: &'a [Field]) -> fmt::Result {
        if fields.is_empty() {
            return Ok(());
        }
        if self.names && is_numbered(fields.iter().map(|field| field.name.as_str())) {
            self.out.write_char('(')?;
            self.listed(fields.iter().map(|field| &field.schema))?;
            return self.out.write_char(')');
        }
        for (i, field) in fields.iter().enumerate() {
            write!(self.out, "{}{}: ", if i == 0 { " { " } else { ", " }, field.name)?;
            self.schema(&field.schema)?;
        }
        self.out.write_str(" }")
    }
}

/// Whether the fields are those of a tuple struct: named by their place.
pub(super) fn is_numbered<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    names.enumerate().all(|(i, name)| name.parse() == Ok(i))
}
