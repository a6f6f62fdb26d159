//! Reads archived bytes by their schema alone. Nothing is believed: every offset, length, tag and text is checked.

use std::fmt;

use super::shape::{Kind, Layout, Part, SchemaError, Shapes};
use super::{Name, Schema, Value};

/// Values inside values are read this deep; only a type that holds itself can go on for longer.
const LEVELS_MAX: usize = 256;
/// How often an archive's bytes may be read over, since shared pointers may lead to the same place.
const READS_MAX: usize = 16;
/// And so many bytes more, for small archives that share much.
const READS_MORE: usize = 1 << 16;
/// Values of no bytes in one archive: they are bounded by nothing else.
const EMPTY_MAX: usize = 1 << 16;
/// What a relative pointer holds that leads nowhere.
const NOWHERE: i32 = 1;
/// The bytes of a string that lie in its own place.
const INLINE_BYTES: usize = 8;
/// A hash table's control bytes are a multiple of this, and so many more less one.
const GROUP: usize = 16;
/// Entries of a node of a tree.
const NODE_ENTRIES: usize = 5;
/// A tree of 2^32 entries is lower than this.
const HEIGHT_MAX: usize = 16;

/// Reads one value.
///
/// `root_at` is where the value's own part begins; rkyv puts it last. For many values of one schema, keep a [`Reader`].
///
/// ```
/// use millstream_state::schema::{Described, read};
///
/// let visits = vec![Some(7u64), None];
/// let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&visits)?;
/// let value = read(&<Vec<Option<u64>>>::schema(), &bytes, bytes.len() - 8)?;
/// assert_eq!(value.to_string(), "[7,null]");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The bytes are no value of this schema, or the schema is none.
pub fn read(schema: &Schema, bytes: &[u8], root_at: usize) -> Result<Value, ReadError> {
    Reader::new(schema).map_err(|error| ReadError::at(root_at, error.into()))?.read(bytes, root_at)
}

/// Reads values of one schema.
///
/// It needs no alignment, reads nothing outside the bytes given, and ends on any: in time and memory proportional to them.
#[derive(Debug)]
pub struct Reader {
    shapes: Shapes,
    bare: Option<Bare>,
}

/// What a table keeps as it is when it is a key: see [`SlotKey`](crate::SlotKey).
#[derive(Debug)]
enum Bare {
    /// A `String`: its text.
    Text,
    /// A `Vec<u8>`: its bytes.
    Bytes,
    /// A key and one within it, end to end: see [`Within`](crate::Within).
    Pair(Box<[Reader; 2]>),
}

impl Reader {
    /// A reader of this schema's values.
    ///
    /// # Errors
    /// No type has this schema.
    pub fn new(schema: &Schema) -> Result<Reader, SchemaError> {
        let bare = match schema {
            Schema::String => Some(Bare::Text),
            Schema::List(item) if **item == Schema::U8 => Some(Bare::Bytes),
            Schema::Tuple(items) => match &items[..] {
                [key, sub] => Some(Bare::Pair(Box::new([Reader::new(key)?, Reader::new(sub)?]))),
                _ => None,
            },
            _ => None,
        };
        Ok(Reader { shapes: Shapes::new(schema)?, bare })
    }

    /// The bytes of a value's own part, without what it points to.
    #[must_use]
    pub fn root_bytes(&self) -> usize {
        self.shapes.root().bytes
    }

    /// Its alignment.
    #[must_use]
    pub fn root_align(&self) -> usize {
        self.shapes.root().align
    }

    /// Reads the value whose own part begins at `root_at`.
    ///
    /// # Errors
    /// The bytes are no value of this schema.
    pub fn read(&self, bytes: &[u8], root_at: usize) -> Result<Value, ReadError> {
        let reads_left = bytes.len().saturating_mul(READS_MAX).saturating_add(READS_MORE);
        let mut walk = Walk { shapes: &self.shapes, bytes, reads_left, empty_left: EMPTY_MAX, level: 0 };
        if bytes.len().checked_sub(root_at).is_none_or(|left| left < self.root_bytes()) {
            return Err(ReadError::at(root_at, ReadWhy::Outside));
        }
        walk.value(self.shapes.root_index(), root_at)
    }

    /// Reads the value that is all of these bytes, its own part last, as `rkyv::to_bytes` lays it.
    ///
    /// # Errors
    /// The bytes are no value of this schema.
    pub fn read_whole(&self, bytes: &[u8]) -> Result<Value, ReadError> {
        let root_at = bytes.len().checked_sub(self.root_bytes()).ok_or_else(|| ReadError::at(0, ReadWhy::Outside))?;
        self.read(bytes, root_at)
    }

    /// Reads a key from the bytes that a table keeps of it: a `String` is its text and a `Vec<u8>` its bytes, a tuple of two
    /// is a key and one within it, any other key is archived.
    ///
    /// # Errors
    /// The bytes are no key of this schema.
    pub fn read_key(&self, bytes: &[u8]) -> Result<Value, ReadError> {
        match &self.bare {
            None => self.read_whole(bytes),
            Some(Bare::Pair(pair)) => {
                let [key, sub] = &**pair;
                // In flat pages nothing lies between the two; in slotted ones the second begins on a multiple of 16.
                let is_flat = sub.bare.is_none() && bytes.len() == key.root_bytes() + sub.root_bytes();
                let sub_at = if is_flat { key.root_bytes() } else { key.root_bytes().next_multiple_of(16) };
                let outside = || ReadError::at(bytes.len(), ReadWhy::Outside);
                let first = bytes.get(..key.root_bytes()).ok_or_else(outside)?;
                let second = bytes.get(sub_at..).ok_or_else(outside)?;
                Ok(Value::List(vec![key.read_key(first)?, sub.read_key(second)?]))
            }
            Some(Bare::Bytes) => Ok(Value::List(bytes.iter().map(|&byte| Value::Unsigned(byte.into())).collect())),
            Some(Bare::Text) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Value::Text(text.to_owned())),
                Err(error) => Err(ReadError::at(error.valid_up_to(), ReadWhy::Text)),
            },
        }
    }
}

/// Bytes that are no value of the schema they were read by.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{} at byte {at}: {why}", if path.is_empty() { "the value" } else { path })]
pub struct ReadError {
    /// Where in the value: `history[3].amount`.
    pub path: String,
    /// Where in the bytes.
    pub at: usize,
    /// What is wrong.
    pub why: ReadWhy,
}

/// What is wrong with bytes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadWhy {
    /// They end too early, or a pointer leads out of them.
    #[error("it lies outside of the bytes given")]
    Outside,
    /// A byte that should be 0 or 1, or name a variant, does not.
    #[error("the byte {0:#04x} means nothing here")]
    Tag(u8),
    /// Not a Unicode scalar value.
    #[error("{0:#x} is no char")]
    Char(u32),
    /// Not UTF-8, or a zero byte in a text that ends with zero bytes.
    #[error("the bytes are no text")]
    Text,
    /// A string in its own place whose length says it is not.
    #[error("a string of {0} bytes has no place of its own")]
    ShortString(usize),
    /// A hash table holds another number of entries than it says.
    #[error("a table of {expected} entries holds {found}")]
    Entries {
        /// What it says.
        expected: usize,
        /// What it holds.
        found: usize,
    },
    /// It goes too deep.
    #[error("it is deeper than {LEVELS_MAX} levels")]
    TooDeep,
    /// Pointers lead to the same bytes over and over, or there are too many values of no bytes.
    #[error("it is many times larger than its bytes")]
    TooLarge,
    /// The schema is none.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

impl ReadError {
    fn at(at: usize, why: ReadWhy) -> ReadError {
        ReadError { path: String::new(), at, why }
    }

    fn within(mut self, segment: impl fmt::Display) -> ReadError {
        prepend(&mut self.path, segment);
        self
    }
}

/// Puts a step in front of a path: `amount` behind `[3]` behind `history` makes `history[3].amount`.
pub(super) fn prepend(path: &mut String, segment: impl fmt::Display) {
    let dot = if path.is_empty() || path.starts_with(['[', '{', ':']) { "" } else { "." };
    *path = format!("{segment}{dot}{path}");
}

struct Walk<'a> {
    shapes: &'a Shapes,
    bytes: &'a [u8],
    reads_left: usize,
    empty_left: usize,
    level: usize,
}

type Read<T> = Result<T, ReadError>;

impl Walk<'_> {
    /// Reads the value at `at`.
    fn value(&mut self, shape: usize, at: usize) -> Read<Value> {
        if self.level >= LEVELS_MAX {
            return Err(ReadError::at(at, ReadWhy::TooDeep));
        }
        self.level += 1;
        let shapes = self.shapes;
        let shape = shapes.get(shape);
        let value = match &shape.kind {
            Kind::Array { item, count } => self.array(*item, *count, at).map(Value::List),
            Kind::Tuple(parts) => self.tuple(parts, at),
            Kind::List(item) => self.list(*item, at),
            Kind::HashMap { key, value } => self.table(*key, *value, at).map(Value::Map),
            Kind::HashSet { key, unit } => self.table(*key, *unit, at).map(keys),
            Kind::BTreeMap { key, value } => self.tree(*key, *value, at).map(Value::Map),
            Kind::BTreeSet { key, unit } => self.tree(*key, *unit, at).map(keys),
            Kind::Option { item, at: item_at } => self.option(*item, at, at + item_at),
            Kind::Boxed(item) => self.boxed(*item, at),
            Kind::Struct(fields) => self.fields(fields, at).map(Value::Struct),
            Kind::Enum(variants) => self.variant(variants, at),
            kind => self.leaf(kind, at, shape.bytes),
        };
        self.level -= 1;
        value
    }

    /// Reads a value that holds no other.
    fn leaf(&mut self, kind: &Kind, at: usize, bytes: usize) -> Read<Value> {
        Ok(match kind {
            Kind::Unit => Value::Unit,
            Kind::Bool => Value::Bool(self.flag(at)?),
            Kind::Char => {
                let code = self.u32(at)?;
                Value::Char(char::from_u32(code).ok_or_else(|| ReadError::at(at, ReadWhy::Char(code)))?)
            }
            Kind::Unsigned => Value::Unsigned(self.number(at, bytes)?),
            Kind::Signed => {
                let unused_bits = 128 - 8 * bytes as u32;
                // The shift to the top and back spreads the sign over the bits that were not stored.
                Value::Signed((self.number(at, bytes)? << unused_bits) as i128 >> unused_bits)
            }
            Kind::F32 => Value::F32(f32::from_bits(self.u32(at)?)),
            Kind::F64 => Value::F64(f64::from_bits(self.number(at, bytes)? as u64)),
            Kind::Text => {
                let all = self.slice(at, bytes)?;
                let length = all.iter().position(|&byte| byte == 0).unwrap_or(all.len());
                if all[length..].iter().any(|&byte| byte != 0) {
                    return Err(ReadError::at(at, ReadWhy::Text));
                }
                self.text(at, length)?
            }
            Kind::String => self.string(at)?,
            Kind::Str => {
                let length = self.u32(at + 4)? as usize;
                let text_at = self.follow(at, length)?;
                self.text(text_at, length)?
            }
            _ => Value::Opaque(self.slice(at, bytes)?.to_vec()),
        })
    }

    fn slice(&self, at: usize, bytes: usize) -> Read<&[u8]> {
        let end = at.checked_add(bytes);
        end.and_then(|end| self.bytes.get(at..end)).ok_or_else(|| ReadError::at(at, ReadWhy::Outside))
    }

    /// An unsigned number of up to 16 bytes.
    fn number(&self, at: usize, bytes: usize) -> Read<u128> {
        let mut wide = [0; 16];
        wide[..bytes].copy_from_slice(self.slice(at, bytes)?);
        Ok(u128::from_le_bytes(wide))
    }

    fn u32(&self, at: usize) -> Read<u32> {
        Ok(self.number(at, 4)? as u32)
    }

    fn byte(&self, at: usize) -> Read<u8> {
        Ok(self.slice(at, 1)?[0])
    }

    fn flag(&self, at: usize) -> Read<bool> {
        match self.byte(at)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(ReadError::at(at, ReadWhy::Tag(other))),
        }
    }

    fn text(&self, at: usize, bytes: usize) -> Read<Value> {
        match std::str::from_utf8(self.slice(at, bytes)?) {
            Ok(text) => Ok(Value::Text(text.to_owned())),
            Err(_) => Err(ReadError::at(at, ReadWhy::Text)),
        }
    }

    /// Follows the relative pointer at `at` to `bytes` bytes, all of which are there.
    fn follow(&mut self, at: usize, bytes: usize) -> Read<usize> {
        let offset = self.u32(at)? as i32;
        self.region(at, at as i128 + i128::from(offset), bytes)
    }

    /// Checks that these bytes are there, and that they are not read more often than they could be.
    fn region(&mut self, from: usize, to: i128, bytes: usize) -> Read<usize> {
        let to = usize::try_from(to).map_err(|_| ReadError::at(from, ReadWhy::Outside))?;
        if self.slice(to, bytes).is_err() {
            return Err(ReadError::at(from, ReadWhy::Outside));
        }
        match self.reads_left.checked_sub(bytes) {
            Some(left) => self.reads_left = left,
            None => return Err(ReadError::at(from, ReadWhy::TooLarge)),
        }
        Ok(to)
    }

    /// The bytes of `count` items, and room for as many values.
    fn items(&mut self, count: usize, item_bytes: usize, at: usize) -> Read<usize> {
        let bytes = count.checked_mul(item_bytes).ok_or_else(|| ReadError::at(at, ReadWhy::Outside))?;
        if item_bytes == 0 {
            match self.empty_left.checked_sub(count) {
                Some(left) => self.empty_left = left,
                None => return Err(ReadError::at(at, ReadWhy::TooLarge)),
            }
        }
        Ok(bytes)
    }

    /// A string of up to 8 bytes lies in its own place, ended by `0xff`; a longer one leaves its length, the two bits
    /// `10` pushed in above the lowest six, and a pointer.
    fn string(&mut self, at: usize) -> Read<Value> {
        let own = self.slice(at, INLINE_BYTES)?;
        if own[0] & 0xc0 != 0x80 {
            let length = own.iter().position(|&byte| byte == 0xff).unwrap_or(INLINE_BYTES);
            return self.text(at, length);
        }
        let word = self.u32(at)?;
        let length = (word & 0x3f | (word & !0xff) >> 2) as usize;
        if length <= INLINE_BYTES {
            return Err(ReadError::at(at, ReadWhy::ShortString(length)));
        }
        // The pointer counts from the string's beginning, not from its own.
        let offset = self.u32(at + 4)? as i32;
        let text_at = self.region(at, at as i128 + i128::from(offset), length)?;
        self.text(text_at, length)
    }

    fn array(&mut self, item: usize, count: usize, at: usize) -> Read<Vec<Value>> {
        let item_bytes = self.shapes.get(item).bytes;
        self.items(count, item_bytes, at)?;
        let mut values = Vec::with_capacity(count);
        for i in 0..count {
            values.push(self.value(item, at + i * item_bytes).map_err(|error| error.within(format_args!("[{i}]")))?);
        }
        Ok(values)
    }

    fn tuple(&mut self, parts: &[Part], at: usize) -> Read<Value> {
        let mut values = Vec::with_capacity(parts.len());
        for (i, part) in parts.iter().enumerate() {
            values.push(self.value(part.shape, at + part.at).map_err(|error| error.within(i))?);
        }
        Ok(Value::List(values))
    }

    fn fields(&mut self, fields: &[(Name, Part)], at: usize) -> Read<Vec<(Name, Value)>> {
        let mut values = Vec::with_capacity(fields.len());
        for (name, part) in fields {
            let value = self.value(part.shape, at + part.at).map_err(|error| error.within(name))?;
            values.push((name.clone(), value));
        }
        Ok(values)
    }

    fn variant(&mut self, variants: &[(u8, Name, Vec<(Name, Part)>)], at: usize) -> Read<Value> {
        let tag = self.byte(at)?;
        let (_, name, fields) =
            variants.iter().find(|(own, ..)| *own == tag).ok_or_else(|| ReadError::at(at, ReadWhy::Tag(tag)))?;
        let fields = self.fields(fields, at).map_err(|error| error.within(format_args!("::{name}")))?;
        Ok(Value::Variant(name.clone(), fields))
    }

    fn option(&mut self, item: usize, tag_at: usize, at: usize) -> Read<Value> {
        Ok(Value::Option(if self.flag(tag_at)? { Some(Box::new(self.value(item, at)?)) } else { None }))
    }

    fn boxed(&mut self, item: usize, at: usize) -> Read<Value> {
        let item_at = self.follow(at, self.shapes.get(item).bytes)?;
        self.value(item, item_at)
    }

    fn list(&mut self, item: usize, at: usize) -> Read<Value> {
        let count = self.u32(at + 4)? as usize;
        if count == 0 {
            return Ok(Value::List(Vec::new()));
        }
        let item_bytes = self.shapes.get(item).bytes;
        let bytes = count.checked_mul(item_bytes).ok_or_else(|| ReadError::at(at, ReadWhy::Outside))?;
        let first_at = self.follow(at, bytes)?;
        self.array(item, count, first_at).map(Value::List)
    }

    /// A hash table: a pointer, a length, a capacity. The pointer leads to a control byte per bucket, the high bit set
    /// where it is empty; the buckets lie before them, the first nearest.
    fn table(&mut self, key: usize, value: usize, at: usize) -> Read<Vec<(Value, Value)>> {
        let (count, buckets) = (self.u32(at + 4)? as usize, self.u32(at + 8)? as usize);
        if count == 0 {
            return Ok(Vec::new());
        }
        let too_large = |error: SchemaError| ReadError::at(at, error.into());
        let (key_shape, value_shape) = (self.shapes.get(key), self.shapes.get(value));
        let mut bucket = Layout::EMPTY;
        let key_in = bucket.push(key_shape.bytes, key_shape.align).map_err(too_large)?;
        let value_in = bucket.push(value_shape.bytes, value_shape.align).map_err(too_large)?;
        let bucket_bytes = bucket.bytes().map_err(too_large)?;
        let before = self.items(buckets, bucket_bytes, at)?;
        let controls = buckets.next_multiple_of(GROUP) + GROUP - 1;
        let all = before.checked_add(controls).ok_or_else(|| ReadError::at(at, ReadWhy::Outside))?;
        let offset = self.u32(at)? as i32;
        let first_at = self.region(at, at as i128 + i128::from(offset) - before as i128, all)?;
        let controls_at = first_at + before;
        let mut entries = Vec::with_capacity(count.min(buckets));
        for i in 0..buckets {
            if self.byte(controls_at + i)? & 0x80 == 0 {
                entries.push(self.entry(key, value, controls_at - (i + 1) * bucket_bytes, key_in, value_in)?);
            }
        }
        if entries.len() != count {
            return Err(ReadError::at(at, ReadWhy::Entries { expected: count, found: entries.len() }));
        }
        Ok(entries)
    }

    fn entry(&mut self, key: usize, value: usize, at: usize, key_in: usize, value_in: usize) -> Read<(Value, Value)> {
        let key = self.value(key, at + key_in).map_err(|error| error.within("{key}"))?;
        let value = self.value(value, at + value_in).map_err(|error| error.within(format_args!("{{{key}}}")))?;
        Ok((key, value))
    }

    /// A tree: a pointer to its root, and a length.
    fn tree(&mut self, key: usize, value: usize, at: usize) -> Read<Vec<(Value, Value)>> {
        let count = self.u32(at + 4)? as usize;
        if count == 0 {
            return Ok(Vec::new());
        }
        let node = Node::new(self.shapes, key, value).map_err(|error| ReadError::at(at, error.into()))?;
        let mut entries = Vec::new();
        self.node(&node, at, &mut entries, HEIGHT_MAX)?;
        if entries.len() != count {
            return Err(ReadError::at(at, ReadWhy::Entries { expected: count, found: entries.len() }));
        }
        Ok(entries)
    }

    /// The node that the pointer at `pointer_at` leads to, and those below it, in order.
    fn node(&mut self, node: &Node, pointer_at: usize, entries: &mut Vec<(Value, Value)>, height: usize) -> Read<()> {
        if height == 0 || self.level >= LEVELS_MAX {
            return Err(ReadError::at(pointer_at, ReadWhy::TooDeep));
        }
        let at = self.follow(pointer_at, node.leaf_bytes.min(node.inner_bytes))?;
        let is_inner = self.flag(at)?;
        self.slice(at, if is_inner { node.inner_bytes } else { node.leaf_bytes })?;
        let count = if is_inner { NODE_ENTRIES } else { self.u32(at + node.length_in)? as usize };
        if count > NODE_ENTRIES {
            return Err(ReadError::at(at, ReadWhy::Entries { expected: NODE_ENTRIES, found: count }));
        }
        for i in 0..count {
            if is_inner {
                self.below(node, at + node.lesser_in + 4 * i, entries, height)?;
            }
            let (key_in, value_in) = (node.keys_in + i * node.key_bytes, node.values_in + i * node.value_bytes);
            entries.push(self.entry(node.key, node.value, at, key_in, value_in)?);
        }
        if is_inner {
            self.below(node, at + node.greater_in, entries, height)?;
        }
        Ok(())
    }

    fn below(&mut self, node: &Node, pointer_at: usize, entries: &mut Vec<(Value, Value)>, height: usize) -> Read<()> {
        if self.u32(pointer_at)? as i32 == NOWHERE {
            return Ok(());
        }
        self.level += 1;
        self.node(node, pointer_at, entries, height - 1)?;
        self.level -= 1;
        Ok(())
    }
}

fn keys(entries: Vec<(Value, Value)>) -> Value {
    Value::List(entries.into_iter().map(|(key, _)| key).collect())
}

/// Where the parts of a tree's node lie: `kind 1 | keys | values`, then a leaf's length or an inner node's pointers.
struct Node {
    key: usize,
    value: usize,
    key_bytes: usize,
    value_bytes: usize,
    keys_in: usize,
    values_in: usize,
    length_in: usize,
    lesser_in: usize,
    greater_in: usize,
    leaf_bytes: usize,
    inner_bytes: usize,
}

impl Node {
    fn new(shapes: &Shapes, key: usize, value: usize) -> Result<Node, SchemaError> {
        let (key_shape, value_shape) = (shapes.get(key), shapes.get(value));
        let five = |bytes: usize| bytes.checked_mul(NODE_ENTRIES).ok_or(SchemaError::TooLarge);
        let mut entries = Layout::EMPTY;
        entries.push(1, 1)?;
        let keys_in = entries.push(five(key_shape.bytes)?, key_shape.align)?;
        let values_in = entries.push(five(value_shape.bytes)?, value_shape.align)?;
        let entries = entries.closed()?;
        let (mut leaf, mut inner) = (entries, entries);
        Ok(Node {
            key,
            value,
            key_bytes: key_shape.bytes,
            value_bytes: value_shape.bytes,
            keys_in,
            values_in,
            length_in: leaf.push(4, 4)?,
            lesser_in: inner.push(4 * NODE_ENTRIES, 4)?,
            greater_in: inner.push(4, 4)?,
            leaf_bytes: leaf.bytes()?,
            inner_bytes: inner.bytes()?,
        })
    }
}
