//! What a savepoint's bytes mean: `savepoint.json`, blocks, records.
//!
//! ```text
//! file    block … block                       each begins on a multiple of 4096
//! block   magic 4 │ version u32 │ index u32 │ records u32 │ payload bytes u32 │ payload crc32c u32 │ 0 u32 │
//!         crc32c of these 28 bytes u32 │ payload │ zeros to the next multiple of 4096
//! record  state u16 │ namespace i64 │ expires_ms i64 │ key bytes u32 │ value bytes u32 │ key │ value
//! ```

use serde::{Deserialize, Serialize};

use crate::manifest::{ManifestError, sealed, unsealed};
use crate::schema::Schema;
use crate::{Epoch, HashRange};

/// The version this build writes.
pub const SAVEPOINT_VERSION: u32 = 1;

pub(super) const BLOCK_ALIGN: usize = 4096;
pub(super) const BLOCK_HEADER_BYTES: usize = 32;
/// A block is closed once its payload has so many bytes; a longer value has a block of its own length.
pub(super) const BLOCK_PAYLOAD_BYTES: usize = (256 << 10) - BLOCK_HEADER_BYTES;
const RECORD_HEADER_BYTES: usize = 2 + 8 + 8 + 4 + 4;
const MAGIC: [u8; 4] = *b"MSVP";

/// What a savepoint consists of: its `savepoint.json`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavepointManifest {
    /// At most [`SAVEPOINT_VERSION`].
    pub savepoint_version: u32,
    /// The job's name.
    pub job: String,
    /// The epoch that it ends.
    pub epoch: Epoch,
    /// When its checkpoint was complete, wall time.
    pub created_ms: i64,
    /// Of the graph.
    pub graph_fingerprint: u64,
    /// The graph for reading.
    pub graph: String,
    /// How many shards the job had.
    pub shards: u32,
    /// The job's operators that keep anything.
    pub operators: Vec<SavedOperator>,
}

/// One operator, of all shards.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedOperator {
    /// The operator's stable name.
    pub uid: String,
    /// What it keeps besides keyed state, shard by shard.
    pub parts: Vec<SavedPart>,
    /// Its states. A record says by number which of these it is of.
    pub states: Vec<SavedState>,
    /// Its entries, in no order.
    pub files: Vec<SavedFile>,
}

/// What an operator kept on one shard besides keyed state.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPart {
    /// Whose it was.
    pub shard: u32,
    /// A source's positions, a window's watermark.
    pub blob: serde_json::Value,
    /// What its sink prepared, where it is not certain that it was committed: only in savepoints that were made of a
    /// checkpoint without the job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub committables: Vec<serde_json::Value>,
}

/// A state.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedState {
    /// Its name, unique in its operator.
    pub name: String,
    /// The keys' type.
    pub key: Schema,
    /// The values' type.
    pub value: Schema,
    /// Entries of it in all files.
    pub entries: u64,
}

/// A file of entries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedFile {
    /// Its name, beside `savepoint.json`.
    pub name: String,
    /// The stretch of the hash space that its keys are from.
    pub range: HashRange,
    /// Its length.
    pub bytes: u64,
    /// Its entries.
    pub entries: u64,
    /// Of its blocks' headers, one after the other, which have the checksums of all the rest.
    pub crc32c: u32,
}

impl SavepointManifest {
    /// As it is written.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        sealed(self)
    }

    /// Proves bytes that were read.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<SavepointManifest, ManifestError> {
        let body = unsealed(bytes)?;
        // The version first: another version's fields need not be ours.
        #[derive(Deserialize)]
        struct Versioned {
            savepoint_version: u32,
        }
        let versioned: Versioned = serde_json::from_slice(body).map_err(ManifestError::Fields)?;
        if !(1..=SAVEPOINT_VERSION).contains(&versioned.savepoint_version) {
            return Err(ManifestError::Version { found: versioned.savepoint_version });
        }
        serde_json::from_slice(body).map_err(ManifestError::Fields)
    }

    /// The operator of that name.
    #[must_use]
    pub fn operator(&self, uid: &str) -> Option<&SavedOperator> {
        self.operators.iter().find(|operator| operator.uid == uid)
    }
}

/// A block in the making.
#[derive(Default)]
pub(super) struct BlockWriter {
    bytes: Vec<u8>,
    records: u32,
}

impl BlockWriter {
    pub(super) fn push(&mut self, state: u16, namespace: i64, expires_ms: i64, key: &[u8], value: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.resize(BLOCK_HEADER_BYTES, 0);
        }
        self.bytes.extend_from_slice(&state.to_le_bytes());
        self.bytes.extend_from_slice(&namespace.to_le_bytes());
        self.bytes.extend_from_slice(&expires_ms.to_le_bytes());
        // Archived values are under 2 GiB, since their pointers have 31 bits and a sign; keys fit into a page.
        self.bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.records += 1;
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= BLOCK_HEADER_BYTES + BLOCK_PAYLOAD_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Closes the block as number `index` of its file. The bytes are good until it is [cleared](BlockWriter::clear).
    pub(super) fn close(&mut self, index: u32) -> &[u8] {
        let payload = &self.bytes[BLOCK_HEADER_BYTES..];
        let mut header = [0; BLOCK_HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        let numbers = [SAVEPOINT_VERSION, index, self.records, payload.len() as u32, crc32c::crc32c(payload), 0];
        for (at, number) in numbers.into_iter().enumerate() {
            header[4 + 4 * at..][..4].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&header[..28]);
        header[28..].copy_from_slice(&crc.to_le_bytes());
        self.bytes[..BLOCK_HEADER_BYTES].copy_from_slice(&header);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK_ALIGN), 0);
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.records = 0;
    }
}

/// A block's header, proven.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockHeader {
    pub(super) records: u32,
    pub(super) payload_bytes: usize,
    payload_crc: u32,
}

impl BlockHeader {
    /// Of block number `index` of its file, whose first bytes these are.
    pub(super) fn of(bytes: &[u8], index: u32) -> Result<BlockHeader, &'static str> {
        let header = bytes.get(..BLOCK_HEADER_BYTES).ok_or("it ends inside a block's header")?;
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..4] != MAGIC {
            return Err("no block begins here");
        }
        if crc32c::crc32c(&header[..28]) != number(28) {
            return Err("a block's header has another checksum");
        }
        if !(1..=SAVEPOINT_VERSION).contains(&number(4)) || number(8) != index || number(24) != 0 {
            return Err("a block is not the one that belongs here");
        }
        Ok(BlockHeader { records: number(12), payload_bytes: number(16) as usize, payload_crc: number(20) })
    }

    /// The block's length, its header and the zeros behind it included.
    pub(super) fn block_bytes(&self) -> usize {
        (BLOCK_HEADER_BYTES + self.payload_bytes).next_multiple_of(BLOCK_ALIGN)
    }

    /// The records of a whole block, once its checksum is proven.
    pub(super) fn records<'a>(&self, block: &'a [u8]) -> Result<Records<'a>, &'static str> {
        let rest = block.get(BLOCK_HEADER_BYTES..self.block_bytes()).ok_or("it ends inside a block")?;
        let (payload, padding) = rest.split_at(self.payload_bytes);
        if crc32c::crc32c(payload) != self.payload_crc {
            return Err("a block has another checksum");
        }
        if padding.iter().any(|&byte| byte != 0) {
            return Err("there is something behind a block's end");
        }
        Ok(Records { rest: payload, left: self.records })
    }
}

/// A record, its key and value wherever they lie in the block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record<'a> {
    pub(super) state: u16,
    pub(super) namespace: i64,
    pub(super) expires_ms: i64,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

/// The records of a block's payload.
pub(super) struct Records<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Records<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    fn take_bytes(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn record(&mut self) -> Option<Record<'a>> {
        if self.rest.len() < RECORD_HEADER_BYTES {
            return None;
        }
        let state = u16::from_le_bytes(self.take()?);
        let namespace = i64::from_le_bytes(self.take()?);
        let expires_ms = i64::from_le_bytes(self.take()?);
        let key_bytes = u32::from_le_bytes(self.take()?) as usize;
        let value_bytes = u32::from_le_bytes(self.take()?) as usize;
        Some(Record {
            state,
            namespace,
            expires_ms,
            key: self.take_bytes(key_bytes)?,
            value: self.take_bytes(value_bytes)?,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let behind = !std::mem::take(&mut self.rest).is_empty();
            return behind.then_some(Err("there is something behind a block's last record"));
        }
        self.left -= 1;
        let record = self.record();
        if record.is_none() {
            (self.left, self.rest) = (0, &[]);
        }
        Some(record.ok_or("a record does not fit into its block"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(block: &[u8], index: u32) -> Result<Vec<Record<'_>>, &'static str> {
        let header = BlockHeader::of(block, index)?;
        header.records(block)?.collect()
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_were(
            entries in prop::collection::vec(
                (any::<u16>(), any::<i64>(), any::<i64>(),
                 prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..600)),
                1..40,
            ),
            index in any::<u32>(),
        ) {
            let mut writer = BlockWriter::default();
            for (state, namespace, expires_ms, key, value) in &entries {
                writer.push(*state, *namespace, *expires_ms, key, value);
            }
            let block = writer.close(index);
            prop_assert_eq!(block.len() % BLOCK_ALIGN, 0);
            let records = decode(block, index).map_err(TestCaseError::fail)?;
            let found: Vec<_> = records.iter().map(|r| (r.state, r.namespace, r.expires_ms, r.key.to_vec(), r.value.to_vec())).collect();
            prop_assert_eq!(found, entries);
            prop_assert!(decode(block, index.wrapping_add(1)).is_err(), "a block out of its place");
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..5000), records in 0u32..200) {
            prop_assert!(decode(&bytes, 0).is_err());
            // Behind a checksum that holds, too: a record reader believes nothing.
            let seen = Records { rest: &bytes, left: records }.take_while(Result::is_ok).count();
            prop_assert!(seen <= records as usize && seen * RECORD_HEADER_BYTES <= bytes.len());
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_block_is_noticed() {
        let mut writer = BlockWriter::default();
        writer.push(3, -60_000, 0, b"mill", b"weir");
        let block = writer.close(0).to_vec();
        assert!(decode(&block, 0).is_ok());
        for at in 0..block.len() * 8 {
            let mut flipped = block.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(decode(&flipped, 0).is_err(), "bit {at}");
        }
        for end in 0..block.len() {
            assert!(decode(&block[..end], 0).is_err(), "torn at {end}");
        }
    }
}
