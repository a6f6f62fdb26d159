//! A result as a line of text, fields joined by `|`, and what a line adds to the checksum.

use std::fmt;

use millstream::Text;

/// What has a place in a line: a number, a text, or several fields one behind the other.
///
/// ```
/// use millstream_harness::nexmark::row::Fields;
/// let mut line = Vec::new();
/// (7, "boise", [1_u64, 0]).write(&mut line);
/// assert_eq!(line, b"7|boise|1|0");
/// ```
pub trait Fields: 'static {
    /// Appends the fields, `|` between them and none behind.
    fn write(&self, line: &mut Vec<u8>);
}

impl Fields for u64 {
    fn write(&self, line: &mut Vec<u8>) {
        let mut digits = [0; 20];
        let mut first = digits.len();
        let mut rest = *self;
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        line.extend_from_slice(&digits[first..]);
    }
}

impl Fields for i64 {
    fn write(&self, line: &mut Vec<u8>) {
        if *self < 0 {
            line.push(b'-');
        }
        self.unsigned_abs().write(line);
    }
}

impl Fields for i32 {
    fn write(&self, line: &mut Vec<u8>) {
        i64::from(*self).write(line);
    }
}

impl Fields for &'static str {
    fn write(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(self.as_bytes());
    }
}

impl Fields for String {
    fn write(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(self.as_bytes());
    }
}

impl<const N: usize> Fields for Text<N> {
    fn write(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(self.as_str().as_bytes());
    }
}

impl<F: Fields, const N: usize> Fields for [F; N] {
    fn write(&self, line: &mut Vec<u8>) {
        for (index, field) in self.iter().enumerate() {
            if index > 0 {
                line.push(b'|');
            }
            field.write(line);
        }
    }
}

macro_rules! tuples_are_fields {
    ($(($first:ident $($more:ident)*))*) => {$(
        impl<$first: Fields, $($more: Fields),*> Fields for ($first, $($more,)*) {
            #[expect(non_snake_case, reason = "a field's type and its name are one word here")]
            fn write(&self, line: &mut Vec<u8>) {
                let ($first, $($more,)*) = self;
                $first.write(line);
                $(
                    line.push(b'|');
                    $more.write(line);
                )*
            }
        }
    )*};
}
tuples_are_fields! { (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) }

/// FNV-1a, 64 bits, of a line without its end.
///
/// ```
/// assert_eq!(millstream_harness::nexmark::row::fnv(b"a"), 0xaf63_dc4c_8601_ec8c);
/// ```
#[must_use]
pub fn fnv(line: &[u8]) -> u64 {
    line.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// How many lines, and the sum of their hashes, which the order of lines does not change.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LineSum {
    /// Lines.
    pub rows: u64,
    /// The sum of their [`fnv`], modulo 2⁶⁴.
    pub fnv: u64,
}

impl LineSum {
    /// Adds a line.
    pub fn add(&mut self, line: &[u8]) {
        self.rows += 1;
        self.fnv = self.fnv.wrapping_add(fnv(line));
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: LineSum) -> LineSum {
        LineSum { rows: self.rows + other.rows, fnv: self.fnv.wrapping_add(other.fnv) }
    }

    /// The hashes' sum as scripts read it: 16 hex digits.
    #[must_use]
    pub fn fnv_text(&self) -> String {
        format!("{:016x}", self.fnv)
    }
}

impl fmt::Display for LineSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows, checksum {}", crate::report::count(self.rows), self.fnv_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_everywhere() {
        for number in [0, 7, 10, 99, 1_436_918_400_000, i64::MAX, -1, -8_000, i64::MIN] {
            let mut line = Vec::new();
            number.write(&mut line);
            assert_eq!(line, number.to_string().as_bytes());
        }
        let mut line = Vec::new();
        u64::MAX.write(&mut line);
        assert_eq!(line, u64::MAX.to_string().as_bytes());
    }

    #[test]
    fn the_order_of_lines_does_not_matter() {
        let sum = |lines: &[&str]| {
            let mut sum = LineSum::default();
            lines.iter().for_each(|line| sum.add(line.as_bytes()));
            sum
        };
        assert_eq!(sum(&["1|2", "3|4"]), sum(&["3|4", "1|2"]));
        assert_eq!(sum(&["1|2"]).plus(sum(&["3|4"])), sum(&["3|4", "1|2"]));
        assert_ne!(sum(&["1|2", "3|4"]), sum(&["1|2"]));
        assert_ne!(sum(&["1|2"]), sum(&["12|"]));
    }
}
