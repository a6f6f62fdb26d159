//! The schema of a fixed type, from its name alone.

use super::Schema;

impl Schema {
    /// The schema of a fixed type that has none of its own, such as an accumulator, from what
    /// [`type_text`](crate::type_text) says of it.
    ///
    /// What is not built from numbers, `Text`, arrays and `Both` alone is [`Opaque`](Schema::Opaque), as is what has another
    /// size or alignment than its name promises: a type of that name may be the user's own.
    ///
    /// ```
    /// use millstream_state::schema::Schema;
    ///
    /// assert_eq!(Schema::of_type_text("Both<u64, Both<i64, f64>>", 24, 8).to_string(), "(u64, (i64, f64))");
    /// assert!(matches!(Schema::of_type_text("Both<u64, Spend>", 24, 8), Schema::Opaque { .. }));
    /// ```
    #[must_use]
    pub fn of_type_text(text: &str, bytes: usize, align: usize) -> Schema {
        let mut rest = Rest(text);
        match rest.schema() {
            Some(schema) if rest.0.is_empty() && schema.layout() == Ok((bytes, align)) => schema,
            _ => Schema::Opaque { name: text.to_owned(), bytes, align },
        }
    }
}

/// What is left to read of the text.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn schema(&mut self) -> Option<Schema> {
        if self.take("[") {
            let item = self.schema()?;
            self.expect("; ")?;
            let count = self.number()?;
            self.expect("]")?;
            return Some(Schema::Array(Box::new(item), count));
        }
        if self.take("()") {
            return Some(Schema::Unit);
        }
        Some(match self.word() {
            "bool" => Schema::Bool,
            "char" => Schema::Char,
            "u8" => Schema::U8,
            "u16" => Schema::U16,
            "u32" => Schema::U32,
            "u64" => Schema::U64,
            "u128" => Schema::U128,
            "i8" => Schema::I8,
            "i16" => Schema::I16,
            "i32" => Schema::I32,
            "i64" => Schema::I64,
            "i128" => Schema::I128,
            "f32" => Schema::F32,
            "f64" => Schema::F64,
            "Text" => {
                self.expect("<")?;
                let bytes_max = self.number()?;
                self.expect(">")?;
                Schema::Text(bytes_max)
            }
            "Both" => {
                self.expect("<")?;
                let first = self.schema()?;
                self.expect(", ")?;
                let second = self.schema()?;
                self.expect(">")?;
                Schema::Tuple(vec![first, second])
            }
            _ => return None,
        })
    }

    fn take(&mut self, text: &str) -> bool {
        match self.0.strip_prefix(text) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, text: &str) -> Option<()> {
        self.take(text).then_some(())
    }

    fn word(&mut self) -> &'a str {
        let end = self.0.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    fn number(&mut self) -> Option<usize> {
        self.word().parse().ok()
    }
}
