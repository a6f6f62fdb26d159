//! Placeholder until the schema room is merged.
use serde::{Deserialize, Serialize};
/// A type.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Schema(pub String);
impl Schema {
    /// Of a text.
    pub fn of_type_text(text: &str, _bytes: usize, _align: usize) -> Schema {
        Schema(text.to_owned())
    }
    /// Stable.
    pub fn fingerprint(&self) -> u64 {
        self.0
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }
}
impl std::fmt::Display for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
