//! Where the bytes of a schema's values lie.

use std::sync::Arc;

use super::{Field, Name, Schema};

/// A schema that no type can have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SchemaError {
    /// It holds itself without a pointer between.
    #[error("the schema holds itself without a pointer between, so it has no size; it was not written by this program")]
    Endless,
    /// It says "again" outside of so many structs and enums.
    #[error("the schema refers to a type around it that is not there; it was not written by this program")]
    NothingAround,
    /// It is larger than any memory.
    #[error("the schema describes a type larger than any memory; it was not written by this program")]
    TooLarge,
    /// Its alignment is no power of two.
    #[error("the schema aligns the opaque type {0} to {1} bytes, which is no power of two")]
    Alignment(String, usize),
}

/// A schema made ready to walk bytes: flat, each type with its layout, types that hold themselves tied together.
#[derive(Debug)]
pub(super) struct Shapes {
    shapes: Vec<Shape>,
    root: usize,
}

/// A type's layout.
#[derive(Debug)]
pub(super) struct Shape {
    pub bytes: usize,
    /// A power of two; 0 while the size is not known yet.
    pub align: usize,
    pub kind: Kind,
}

/// What to do with the bytes. Types inside are given by their number.
#[derive(Debug)]
pub(super) enum Kind {
    Unit,
    Bool,
    Char,
    Unsigned,
    Signed,
    F32,
    F64,
    Text,
    String,
    Str,
    Opaque,
    Array { item: usize, count: usize },
    Tuple(Vec<Part>),
    List(usize),
    HashMap { key: usize, value: usize },
    HashSet { key: usize, unit: usize },
    BTreeMap { key: usize, value: usize },
    BTreeSet { key: usize, unit: usize },
    Option { item: usize, at: usize },
    Boxed(usize),
    Struct(Vec<(Name, Part)>),
    Enum(Vec<(u8, Name, Vec<(Name, Part)>)>),
}

/// Something inside, and how many bytes behind the beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub shape: usize,
    pub at: usize,
}

/// A struct as C lays it out: each field behind the one before, at its alignment.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    bytes: usize,
    align: usize,
}

impl Layout {
    pub(super) const EMPTY: Layout = Layout { bytes: 0, align: 1 };
    /// What an enum begins with.
    const TAG: Layout = Layout { bytes: 1, align: 1 };

    /// Appends a field, and says where it lies.
    pub(super) fn push(&mut self, bytes: usize, align: usize) -> Result<usize, SchemaError> {
        let at = self.bytes.checked_next_multiple_of(align).ok_or(SchemaError::TooLarge)?;
        self.bytes = at.checked_add(bytes).ok_or(SchemaError::TooLarge)?;
        self.align = self.align.max(align);
        Ok(at)
    }

    /// The same as the first field of another: with the padding at its end.
    pub(super) fn closed(self) -> Result<Layout, SchemaError> {
        Ok(Layout { bytes: self.bytes()?, ..self })
    }

    /// Its size, with the padding at its end.
    pub(super) fn bytes(self) -> Result<usize, SchemaError> {
        let bytes = self.bytes.checked_next_multiple_of(self.align).ok_or(SchemaError::TooLarge)?;
        if bytes > isize::MAX as usize { Err(SchemaError::TooLarge) } else { Ok(bytes) }
    }
}

impl Shapes {
    pub(super) fn new(schema: &Schema) -> Result<Shapes, SchemaError> {
        let mut shapes = Shapes { shapes: Vec::new(), root: 0 };
        shapes.root = shapes.add(schema, &mut Vec::new())?;
        Ok(shapes)
    }

    pub(super) fn root(&self) -> &Shape {
        &self.shapes[self.root]
    }

    pub(super) fn root_index(&self) -> usize {
        self.root
    }

    pub(super) fn get(&self, shape: usize) -> &Shape {
        &self.shapes[shape]
    }

    /// Adds a schema, and answers its number. `around` are the numbers of the structs and enums it stands in.
    fn add(&mut self, schema: &Schema, around: &mut Vec<usize>) -> Result<usize, SchemaError> {
        if let Schema::Again(up) = schema {
            return around.iter().rev().nth(*up).copied().ok_or(SchemaError::NothingAround);
        }
        let own = self.shapes.len();
        // Its place is taken before the types inside are seen, for they may be this one again.
        self.shapes.push(Shape { bytes: 0, align: 0, kind: Kind::Unit });
        let is_named = matches!(schema, Schema::Struct { .. } | Schema::Enum { .. });
        if is_named {
            around.push(own);
        }
        self.shapes[own] = self.shape(schema, around)?;
        if is_named {
            around.pop();
        }
        Ok(own)
    }

    fn shape(&mut self, schema: &Schema, around: &mut Vec<usize>) -> Result<Shape, SchemaError> {
        let shape = |bytes, align, kind| Ok(Shape { bytes, align, kind });
        match schema {
            Schema::Unit => shape(0, 1, Kind::Unit),
            Schema::Bool => shape(1, 1, Kind::Bool),
            Schema::Char => shape(4, 4, Kind::Char),
            Schema::U8 => shape(1, 1, Kind::Unsigned),
            Schema::U16 => shape(2, 2, Kind::Unsigned),
            Schema::U32 => shape(4, 4, Kind::Unsigned),
            Schema::U64 => shape(8, 8, Kind::Unsigned),
            Schema::U128 => shape(16, 16, Kind::Unsigned),
            Schema::I8 => shape(1, 1, Kind::Signed),
            Schema::I16 => shape(2, 2, Kind::Signed),
            Schema::I32 => shape(4, 4, Kind::Signed),
            Schema::I64 => shape(8, 8, Kind::Signed),
            Schema::I128 => shape(16, 16, Kind::Signed),
            Schema::F32 => shape(4, 4, Kind::F32),
            Schema::F64 => shape(8, 8, Kind::F64),
            &Schema::Text(bytes_max) => shape(bytes_max, 1, Kind::Text),
            // A pointer and a length, of four bytes each.
            Schema::String => shape(8, 4, Kind::String),
            Schema::Str => shape(8, 4, Kind::Str),
            Schema::List(item) => shape(8, 4, Kind::List(self.add(item, around)?)),
            Schema::Boxed(item) => shape(4, 4, Kind::Boxed(self.add(item, around)?)),
            // A pointer, a length, a capacity.
            Schema::HashMap(key, value) => {
                let (key, value) = (self.add(key, around)?, self.add(value, around)?);
                shape(12, 4, Kind::HashMap { key, value })
            }
            Schema::HashSet(key) => {
                let (key, unit) = (self.add(key, around)?, self.add(&Schema::Unit, around)?);
                shape(12, 4, Kind::HashSet { key, unit })
            }
            // A pointer to the root, and a length.
            Schema::BTreeMap(key, value) => {
                let (key, value) = (self.add(key, around)?, self.add(value, around)?);
                shape(8, 4, Kind::BTreeMap { key, value })
            }
            Schema::BTreeSet(key) => {
                let (key, unit) = (self.add(key, around)?, self.add(&Schema::Unit, around)?);
                shape(8, 4, Kind::BTreeSet { key, unit })
            }
            Schema::Array(item, count) => {
                let item = self.add(item, around)?;
                let (bytes, align) = self.sized(item)?;
                let bytes = bytes.checked_mul(*count).ok_or(SchemaError::TooLarge)?;
                shape(Layout { bytes, align }.bytes()?, align, Kind::Array { item, count: *count })
            }
            Schema::Tuple(items) => {
                let mut layout = Layout::EMPTY;
                let parts = items
                    .iter()
                    .map(|item| self.part(item, &mut layout, around))
                    .collect::<Result<_, SchemaError>>()?;
                shape(layout.bytes()?, layout.align, Kind::Tuple(parts))
            }
            Schema::Option(item) => {
                let mut layout = Layout::TAG;
                let part = self.part(item, &mut layout, around)?;
                shape(layout.bytes()?, layout.align, Kind::Option { item: part.shape, at: part.at })
            }
            Schema::Struct { fields, .. } => {
                let mut layout = Layout::EMPTY;
                let parts = self.fields(fields, &mut layout, around)?;
                shape(layout.bytes()?, layout.align, Kind::Struct(parts))
            }
            Schema::Enum { variants, .. } => {
                // Each variant is a struct that begins with the tag; the enum is as large as the largest.
                let mut whole = Layout::TAG;
                let mut kinds = Vec::with_capacity(variants.len());
                for variant in variants {
                    let mut layout = Layout::TAG;
                    let parts = self.fields(&variant.fields, &mut layout, around)?;
                    whole.bytes = whole.bytes.max(layout.bytes()?);
                    whole.align = whole.align.max(layout.align);
                    kinds.push((variant.tag, Arc::from(variant.name.as_str()), parts));
                }
                shape(whole.bytes()?, whole.align, Kind::Enum(kinds))
            }
            Schema::Opaque { name, bytes, align } => {
                if !align.is_power_of_two() {
                    return Err(SchemaError::Alignment(name.clone(), *align));
                }
                shape(Layout { bytes: *bytes, align: *align }.bytes()?, *align, Kind::Opaque)
            }
            Schema::Again(_) => unreachable!("`add` answers these without a shape of their own"),
        }
    }

    fn fields(
        &mut self,
        fields: &[Field],
        layout: &mut Layout,
        around: &mut Vec<usize>,
    ) -> Result<Vec<(Name, Part)>, SchemaError> {
        let part = |field: &Field| Ok((Arc::from(field.name.as_str()), self.part(&field.schema, layout, around)?));
        fields.iter().map(part).collect()
    }

    fn part(&mut self, schema: &Schema, layout: &mut Layout, around: &mut Vec<usize>) -> Result<Part, SchemaError> {
        let shape = self.add(schema, around)?;
        let (bytes, align) = self.sized(shape)?;
        Ok(Part { shape, at: layout.push(bytes, align)? })
    }

    /// The layout of what lies inside another type, and so must be known before that one's.
    fn sized(&self, shape: usize) -> Result<(usize, usize), SchemaError> {
        let Shape { bytes, align, .. } = self.shapes[shape];
        if align == 0 { Err(SchemaError::Endless) } else { Ok((bytes, align)) }
    }
}
