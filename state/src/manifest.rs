//! The manifest: what a checkpoint consists of. Once it has its name, the checkpoint exists.
//!
//! ```text
//! {                                            JSON, to be read with `less`
//!   "format_version": 1,
//!   "job": "…", "epoch": 7, …
//!   "parts": [ … ]
//! }
//! crc32c 8a2f01bc over 1234 bytes              the last line: checksum and length of all before it
//! ```

use serde::{Deserialize, Serialize};

use crate::Epoch;
use crate::hash::HashRange;
use crate::shape::StatePart;
use crate::snapshot::FileRef;

/// The version this build writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 2;

/// A checkpoint: for every shard, what its operators were at the barrier.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The job's name.
    pub job: String,
    /// The epoch that the checkpoint ends.
    pub epoch: Epoch,
    /// When it was complete, wall time.
    pub created_ms: i64,
    /// Of the graph, to refuse a job that is another.
    pub graph_fingerprint: u64,
    /// The graph for reading, to say how it differs.
    pub graph: String,
    /// How many shards took part.
    pub shards: u32,
    /// One per shard.
    pub parts: Vec<Part>,
}

/// One shard's part of a checkpoint.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Whose it is.
    pub shard: u32,
    /// Its operators.
    pub operators: Vec<OperatorPart>,
}

/// One operator on one shard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorPart {
    /// The operator's stable name.
    pub uid: String,
    /// What it keeps besides tables: a source's positions, open windows, timers.
    pub blob: serde_json::Value,
    /// Its tables.
    pub tables: Vec<TablePart>,
    /// What its sink prepared and has yet to commit.
    pub committables: Vec<serde_json::Value>,
}

/// One page store on one shard: an operator's states.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TablePart {
    /// Which of its operator's.
    pub name: String,
    /// The stretch of the hash space that its keys are from.
    pub range: HashRange,
    /// What it keeps.
    pub states: Vec<StatePart>,
    /// The chain to restore it from, the oldest first.
    pub files: Vec<FileRef>,
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It ends before its last line, or the last line is damaged.
    #[error("it is torn: the last line with its checksum is missing or damaged")]
    Torn,
    /// It is not what was written.
    #[error("its checksum does not match: written {written:08x}, found {found:08x}")]
    Checksum {
        /// What the last line says.
        written: u32,
        /// What the bytes have.
        found: u32,
    },
    /// Another build's.
    #[error(
        "it has format version {found}, and this build reads {FORMAT_VERSION}: run the job with the build that wrote it"
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// Its checksum holds, but its fields are not those of a manifest.
    #[error("its fields are not a manifest's: {0}")]
    Fields(serde_json::Error),
}

impl Manifest {
    /// Every file that a restore reads.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> {
        let operators = self.parts.iter().flat_map(|part| &part.operators);
        operators.flat_map(|operator| &operator.tables).flat_map(|table| &table.files)
    }

    /// As it is written.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        sealed(self)
    }

    /// Proves bytes that were read. No prefix of a manifest is one, and no manifest with anything behind it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let body = unsealed(bytes)?;
        // The version first: another version's fields need not be ours.
        #[derive(Deserialize)]
        struct Versioned {
            format_version: u32,
        }
        let versioned: Versioned = serde_json::from_slice(body).map_err(ManifestError::Fields)?;
        if versioned.format_version != FORMAT_VERSION {
            return Err(ManifestError::Version { found: versioned.format_version });
        }
        serde_json::from_slice(body).map_err(ManifestError::Fields)
    }
}

/// JSON and its last line.
pub(crate) fn sealed(json: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(json).expect("texts, numbers and JSON values always serialise");
    bytes.push(b'\n');
    let seal = seal(&bytes);
    bytes.extend_from_slice(seal.as_bytes());
    bytes
}

/// The JSON of bytes whose last line is right.
pub(crate) fn unsealed(bytes: &[u8]) -> Result<&[u8], ManifestError> {
    let body_end = bytes.strip_suffix(b"\n").and_then(|lines| lines.iter().rposition(|&byte| byte == b'\n'));
    let (body, last) = bytes.split_at(body_end.ok_or(ManifestError::Torn)? + 1);
    if last != seal(body).as_bytes() {
        let written = std::str::from_utf8(last).ok().and_then(|line| line.strip_prefix("crc32c "));
        let written = written.and_then(|line| u32::from_str_radix(line.get(..8)?, 16).ok());
        let written = written.ok_or(ManifestError::Torn)?;
        return Err(ManifestError::Checksum { written, found: crc32c::crc32c(body) });
    }
    Ok(body)
}

/// The last line.
fn seal(body: &[u8]) -> String {
    format!("crc32c {:08x} over {} bytes\n", crc32c::crc32c(body), body.len())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn manifest(epoch: u64, files: &[FileRef]) -> Manifest {
        let table =
            TablePart { name: "count".into(), range: HashRange::ALL, states: Vec::new(), files: files.to_vec() };
        let operator = OperatorPart {
            uid: "clicks".into(),
            blob: serde_json::json!({ "offset": 17 }),
            tables: vec![table],
            committables: vec![serde_json::json!("part-7")],
        };
        Manifest {
            format_version: FORMAT_VERSION,
            job: "test".into(),
            epoch: Epoch(epoch),
            created_ms: 1_700_000_000_000,
            graph_fingerprint: u64::MAX - 1,
            graph: "source -> count\n  -> sink".into(),
            shards: 1,
            parts: vec![Part { shard: 0, operators: vec![operator] }],
        }
    }

    #[test]
    fn a_manifest_comes_back_as_it_was() {
        let manifest = manifest(7, &[FileRef { name: "a".into(), bytes: 4096, crc32c: 5 }]);
        assert_eq!(Manifest::from_bytes(&manifest.to_bytes()).unwrap(), manifest);
    }

    #[test]
    fn a_manifest_torn_at_any_byte_is_not_one() {
        let bytes = manifest(7, &[]).to_bytes();
        for end in 0..bytes.len() {
            assert!(Manifest::from_bytes(&bytes[..end]).is_err(), "torn at {end}");
            let mut zeroed = bytes.clone();
            zeroed[end..].fill(0);
            assert!(Manifest::from_bytes(&zeroed).is_err(), "zero from {end}");
        }
        assert!(Manifest::from_bytes(&[&bytes[..], b"\n"].concat()).is_err());
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let bytes = manifest(7, &[]).to_bytes();
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(Manifest::from_bytes(&flipped).is_err(), "bit {at}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut other = manifest(7, &[]);
        other.format_version = 3;
        let error = Manifest::from_bytes(&other.to_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::Version { found: 3 }), "{error}");
    }
}
