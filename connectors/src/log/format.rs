//! The bytes of a log: records, index entries, the marker. `docs/formats/log.md` draws the same for other programs.
//!
//! ```text
//! record       | length 4 | crc32c 4 | bytes … |             crc over the length and the bytes
//! index entry  | offset 8 | byte 4   | crc32c 4 |            crc over the offset and the byte
//! ```
//! All numbers are little endian. The record's crc covers its length, so that eight zero bytes, which a file system may
//! leave behind after a power cut, are no record of length zero.

use std::fmt;

/// The longest record. It bounds what a reader must hold, and how long a torn tail can be.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// What stands before a record's bytes.
pub(super) const HEADER_BYTES: usize = CRC + 4;
const CRC: usize = LENGTH + 4;
const LENGTH: usize = 0;

/// No tail that one interrupted append leaves behind is longer.
pub(super) const TAIL_BYTES_MAX: usize = HEADER_BYTES + RECORD_BYTES_MAX;

/// Appends the record of `bytes`.
pub(super) fn put_record(out: &mut Vec<u8>, bytes: &[u8]) {
    assert!(bytes.len() <= RECORD_BYTES_MAX, "the writer refuses longer records");
    let length = bytes.len() as u32;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&record_crc(length, bytes).to_le_bytes());
    out.extend_from_slice(bytes);
}

#[inline(always)]
fn record_crc(length: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), bytes)
}

/// What the first bytes of a slice are.
#[derive(Debug)]
pub(super) enum Parsed<'a> {
    /// A record, proven by its checksum; it takes `HEADER_BYTES` more than this.
    Whole(&'a [u8]),
    /// The beginning of what may be a record: more bytes are needed to tell.
    Short,
    /// No record.
    Bad(Fault),
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Length(u32),
    Crc { stored: u32, computed: u32 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Length(length) => {
                write!(f, "it claims {length} bytes, and no record is longer than {RECORD_BYTES_MAX}")
            }
            Fault::Crc { stored, computed } => {
                write!(f, "its crc32c is {stored:#010x} where its bytes give {computed:#010x}")
            }
        }
    }
}

/// Reads the record at the start of `bytes`, believing nothing before its checksum.
#[inline(always)]
pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Parsed::Short };
    let length = u32_at(header, LENGTH);
    if length as usize > RECORD_BYTES_MAX {
        return Parsed::Bad(Fault::Length(length));
    }
    let Some(record) = rest.get(..length as usize) else { return Parsed::Short };
    let (stored, computed) = (u32_at(header, CRC), record_crc(length, record));
    if stored == computed { Parsed::Whole(record) } else { Parsed::Bad(Fault::Crc { stored, computed }) }
}

/// Whether a whole record lies anywhere in `tail`: the proof that what stands before it was not the last append.
///
/// A number that is no length rules most positions out at once. A payload that itself contains records of a log passes
/// for proof; the reader then reports damage where it might have gone on, never the other way round.
pub(super) fn holds_record(tail: &[u8]) -> bool {
    (0..tail.len()).any(|at| matches!(parse(&tail[at..]), Parsed::Whole(_)))
}

/// One line of a segment's sparse index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IndexEntry {
    /// A record's offset in the partition.
    pub(super) offset: u64,
    /// The byte of the segment file at which it starts.
    pub(super) byte: u32,
}

impl IndexEntry {
    const BYTES: usize = 16;

    fn put(self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.byte.to_le_bytes());
        let crc = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }

    fn parse(bytes: &[u8]) -> Option<IndexEntry> {
        let (fields, crc) = bytes.split_at_checked(12)?;
        let (offset, byte) = fields.split_first_chunk::<8>()?;
        (u32_at(crc, 0) == crc32c::crc32c(fields))
            .then(|| IndexEntry { offset: u64::from_le_bytes(*offset), byte: u32_at(byte, 0) })
    }

    /// The best place in `index` to start looking for `offset`; `None` is the start of the segment. Entries that fail
    /// their checksum are passed over: an index is a help, and its loss costs a scan.
    pub(super) fn nearest(index: &[u8], offset: u64) -> Option<IndexEntry> {
        let entries = index.chunks_exact(IndexEntry::BYTES).filter_map(IndexEntry::parse);
        entries.filter(|entry| entry.offset <= offset).max_by_key(|entry| entry.offset)
    }
}

/// Decides which records get an index entry. It sees every record of a segment in order, when written or when read back,
/// and so the rebuilt index is the written one.
#[derive(Debug)]
pub(super) struct Indexer {
    every_bytes: u32,
    next_byte: u64,
}

impl Indexer {
    pub(super) fn new(every_bytes: u32) -> Indexer {
        Indexer { every_bytes, next_byte: u64::from(every_bytes) }
    }

    /// Appends an entry for the record at `byte` if one is due.
    pub(super) fn pass(&mut self, offset: u64, byte: u64, index: &mut Vec<u8>) {
        if byte < self.next_byte {
            return;
        }
        let byte = u32::try_from(byte).expect("a segment is at most u32::MAX bytes before its last record");
        IndexEntry { offset, byte }.put(index);
        self.next_byte = u64::from(byte) + u64::from(self.every_bytes);
    }
}

/// The content of `log.json`. It is written last when a log is made, and never changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Marker {
    pub(super) format: MarkerFormat,
    pub(super) version: u16,
    pub(super) partitions: u32,
    pub(super) segment_bytes_max: u32,
    pub(super) index_every_bytes: u32,
}

/// The word by which `log.json` is told from other JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(super) enum MarkerFormat {
    #[serde(rename = "millstream-log")]
    MillstreamLog,
}

/// The version this build writes, and the only one it reads.
pub(super) const VERSION: u16 = 1;

#[inline(always)]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_whole_only_to_its_last_byte() {
        let mut bytes = Vec::new();
        put_record(&mut bytes, b"mill");
        assert_eq!(bytes.len(), HEADER_BYTES + 4);
        for short in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..short]), Parsed::Short));
        }
        assert!(matches!(parse(&bytes), Parsed::Whole(b"mill")));
    }

    #[test]
    fn zeros_are_no_record_and_hold_none() {
        assert!(matches!(parse(&[0; 64]), Parsed::Bad(Fault::Crc { stored: 0, .. })));
        assert!(!holds_record(&[0; 4096]));
    }

    #[test]
    fn an_empty_record_is_a_record() {
        let mut bytes = Vec::new();
        put_record(&mut bytes, b"");
        assert!(matches!(parse(&bytes), Parsed::Whole(b"")));
    }

    #[test]
    fn a_record_behind_garbage_is_found() {
        let mut bytes = vec![0xA5; 37];
        put_record(&mut bytes, b"still here");
        assert!(holds_record(&bytes));
        assert!(!holds_record(&bytes[..bytes.len() - 1]));
    }

    #[test]
    fn a_bad_index_entry_is_passed_over() {
        let mut index = Vec::new();
        let mut indexer = Indexer::new(100);
        for (offset, byte) in [(7, 0), (8, 99), (9, 100), (10, 150), (11, 230)] {
            indexer.pass(offset, byte, &mut index);
        }
        assert_eq!(IndexEntry::nearest(&index, 8), None);
        assert_eq!(IndexEntry::nearest(&index, 10), Some(IndexEntry { offset: 9, byte: 100 }));
        assert_eq!(IndexEntry::nearest(&index, 99), Some(IndexEntry { offset: 11, byte: 230 }));
        let last = index.len() - 1;
        index[last] ^= 1;
        assert_eq!(IndexEntry::nearest(&index, 99), Some(IndexEntry { offset: 9, byte: 100 }));
    }
}
