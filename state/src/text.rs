//! [`Text`]: a short text that is a fixed value, and so can be a key.
#![expect(unsafe_code, reason = "tells rkyv that a text is its own archived form, and how to check one")]

use std::fmt;
use std::str::FromStr;

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Fallible, Source, fail};
use rkyv::traits::{CopyOptimization, NoUndef};
use rkyv::{Archive, Place, Portable};

use crate::key::Key;

/// A text of at most `N` bytes, kept inline and padded with zero bytes: `Text<36>` holds a UUID.
///
/// ```
/// use millstream_state::Text;
///
/// let shop: Text<8> = "Café".parse()?;
/// assert_eq!(shop.as_str(), "Café");
/// assert_eq!(Text::<3>::try_from("Café").unwrap_err().to_string(), "a text of 5 bytes does not fit into 3: \"Café\"");
/// # Ok::<(), millstream_state::TextError>(())
/// ```
///
/// A zero byte ends the text, so there can be none inside it. Texts order as their bytes do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    /// The empty text.
    pub const EMPTY: Text<N> = Text([0; N]);

    /// The text of these bytes, which must be UTF-8 without a zero byte.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        Text::try_from(std::str::from_utf8(bytes).map_err(|_| TextError::NotText)?)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0[..self.len()]).expect("every way into a text checks that it is one")
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().position(|&byte| byte == 0).unwrap_or(N)
    }

    /// Whether it is the empty text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All `N` bytes, the padding with them.
    #[must_use]
    pub const fn as_padded(&self) -> &[u8; N] {
        &self.0
    }
}

/// The padding is hashed with the text, so that the length is known when compiled: 36 bytes cost four multiplications.
impl<const N: usize> Key for Text<N> {}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Text::EMPTY
    }
}

impl<const N: usize> TryFrom<&str> for Text<N> {
    type Error = TextError;

    fn try_from(text: &str) -> Result<Self, TextError> {
        if text.len() > N {
            return Err(TextError::TooLong { bytes: text.len(), bytes_max: N, text: text.chars().take(80).collect() });
        }
        if text.as_bytes().contains(&0) {
            return Err(TextError::NotText);
        }
        let mut padded = [0; N];
        padded[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Text(padded))
    }
}

impl<const N: usize> FromStr for Text<N> {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        Text::try_from(text)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> serde::Serialize for Text<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, const N: usize> serde::Deserialize<'de> for Text<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const N: usize>;
        impl<const N: usize> serde::de::Visitor<'_> for Visitor<N> {
            type Value = Text<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a text of at most {N} bytes")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text<N>, E> {
                Text::try_from(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// Why something is not a [`Text`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TextError {
    /// It is longer than the type allows.
    #[error("a text of {bytes} bytes does not fit into {bytes_max}: {text:?}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// What the type holds.
        bytes_max: usize,
        /// How it begins.
        text: String,
    },
    /// Its bytes are not UTF-8, or a zero byte is among them or not behind them.
    #[error("the bytes are not UTF-8 text without zero bytes")]
    NotText,
}

// SAFETY: `repr(transparent)` over an array of bytes.
unsafe impl<const N: usize> Portable for Text<N> {}
// SAFETY: bytes only, so no padding.
unsafe impl<const N: usize> NoUndef for Text<N> {}

impl<const N: usize> Archive for Text<N> {
    // SAFETY: bytes only, so no padding, and the archived form is the type itself.
    const COPY_OPTIMIZATION: CopyOptimization<Self> = unsafe { CopyOptimization::enable() };
    type Archived = Self;
    type Resolver = ();

    fn resolve(&self, (): (), out: Place<Self>) {
        out.write(*self);
    }
}

impl<S: Fallible + ?Sized, const N: usize> rkyv::Serialize<S> for Text<N> {
    fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

impl<D: Fallible + ?Sized, const N: usize> rkyv::Deserialize<Self, D> for Text<N> {
    fn deserialize(&self, _: &mut D) -> Result<Self, D::Error> {
        Ok(*self)
    }
}

// SAFETY: any bytes are a valid `[u8; N]`; beyond that, `as_str` needs UTF-8, and equality needs nothing behind its end.
unsafe impl<C: Fallible<Error: Source> + ?Sized, const N: usize> CheckBytes<C> for Text<N> {
    unsafe fn check_bytes(value: *const Self, _: &mut C) -> Result<(), C::Error> {
        // SAFETY: the caller's `value` is readable for `N` initialised bytes.
        let text = unsafe { &*value };
        let (inside, behind) = text.0.split_at(text.len());
        if behind.iter().any(|&byte| byte != 0) || std::str::from_utf8(inside).is_err() {
            fail!(TextError::NotText);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixed::is_valid;

    #[test]
    fn a_text_is_what_went_in() {
        let text: Text<5> = "héy".parse().unwrap();
        assert_eq!((text.as_str(), text.len(), format!("{text:?} {text:>6}")), ("héy", 4, "\"héy\"    héy".to_owned()));
        assert_eq!(serde_json::to_string(&text).unwrap(), "\"héy\"");
        assert_eq!(serde_json::from_str::<Text<5>>("\"h\\u00e9y\"").unwrap(), text);
        assert!(serde_json::from_str::<Text<3>>("\"héy\"").is_err());
        assert!(Text::<3>::default().is_empty());
        assert_eq!(Text::<3>::from_bytes(b"a\xff"), Err(TextError::NotText));
        assert_eq!(Text::<3>::try_from("a\0b"), Err(TextError::NotText));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        for (bytes, valid) in
            [(*b"abc", true), (*b"a\0\0", true), (*b"\0\0\0", true), (*b"a\0c", false), (*b"a\xff\0", false)]
        {
            // SAFETY: three initialised bytes, and a text has no alignment to speak of.
            assert_eq!(unsafe { is_valid::<Text<3>>(bytes.as_ptr()) }, valid, "{bytes:?}");
        }
    }
}
