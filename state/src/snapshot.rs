//! A snapshot file: chunks of records, written once, in order, and believed chunk by chunk.
//!
//! ```text
//! file    | chunk 0, 512 KiB | chunk 1, 512 KiB | … | last chunk, up to 512 KiB, whole blocks of 4 KiB |
//! chunk   | magic 4 | used 4 | index 4 | crc32c 4 | records … | zero … |     used: header and records; crc: all of it
//! record  | page 4 | count 2 | tag 1 | detail 1 | body |
//! ```
//!
//! | tag        | detail | body                                                                      |
//! |------------|--------|---------------------------------------------------------------------------|
//! | 1 flat, 2 zero, 8 slotted, 9 overflow | depth | namespace 8, prefix 8, state 2, zero 2, length 4, contents, padding to 8 |
//! | 3 lines    | 0      | mask 8, the lines whose bits are set                                      |
//! | 4 line     | which  | the line                                                                  |
//! | 5 gone     | 0      | nothing: the page was given up                                            |
//! | 6 header   | version | who wrote it, for which epoch, of which types; first in chunk 0          |
//! | 7 footer   | 0      | records in the file, crc32c over the chunks' crc32c; last in the last chunk |
//!
//! The one-line record is what a scattered update costs: 72 bytes for a dirty line, 16 for the mask where a page has
//! several. A page written whole leaves out what of it is empty, so that a page with many dirty lines is cheaper whole:
//! of a flat page its contents are a bitmap of taken slots, their keys, their values; of the others the used bytes at both
//! ends.
//! `docs/formats/snapshot.md` draws every field.

use std::collections::VecDeque;
use std::fmt;

use glommio::io::DmaBuffer;
use serde::{Deserialize, Serialize};

use crate::Epoch;
use crate::hash::HashRange;
use crate::page::{Geometry, LINES, Pack, Packed};
use crate::segment::{Descriptor, Kind, LINE_BYTES, PAGE_BYTES};
use crate::shape::{Layout, StatePart};
use crate::slotted;

/// Bytes of a chunk. Direct writes of 256 KiB reach 3.8 GB/s and of 1 MiB 4.2, and one is filled in about 50 µs, a good
/// slice for one turn of a shard's loop.
pub const CHUNK_BYTES: usize = 512 << 10;
/// Files end on whole blocks, as direct I/O wants them.
pub const BLOCK_BYTES: usize = 4096;
/// The format's version, in every header.
pub(crate) const VERSION: u8 = 2;

const MAGIC: u32 = u32::from_le_bytes(*b"MSsn");
const USED: usize = 4;
const INDEX: usize = USED + 4;
const CRC: usize = INDEX + 4;
const CHUNK_HEADER_BYTES: usize = CRC + 4;

pub(crate) const RECORD_HEADER_BYTES: usize = 8;
const NAMESPACE: usize = RECORD_HEADER_BYTES;
const PREFIX: usize = NAMESPACE + 8;
const STATE: usize = PREFIX + 8;
const LENGTH: usize = STATE + 4;
const WHOLE_HEADER_BYTES: usize = LENGTH + 4;
const TAG_LINES: u8 = 3;
const TAG_LINE: u8 = 4;
const TAG_GONE: u8 = 5;
const TAG_HEADER: u8 = 6;
const TAG_FOOTER: u8 = 7;
const FOOTER_BYTES: usize = RECORD_HEADER_BYTES + 8 + 4 + 4;

/// Chunks kept for the next snapshot: always this many, and as many as the last one had under way at once. Memory fresh
/// from the kernel costs 1.5 µs a page of it, as much as packing it full; but one big snapshot shall not be paid for ever.
const SPARE_CHUNKS_MIN: usize = 4;

/// A file of a checkpoint, as a manifest names it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FileRef {
    /// Its name in the checkpoint directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Of its chunks' checksums, which cover all the rest.
    pub crc32c: u32,
}

/// A piece of a snapshot file, to be written behind the one before it; comes from
/// [`Table::take_chunk`](crate::Table::take_chunk) and goes back to [`Table::give_back`](crate::Table::give_back).
pub struct Chunk {
    // Room for CHUNK_BYTES unless it was trimmed to be the last.
    pub(crate) buffer: DmaBuffer,
}

impl Chunk {
    pub(crate) fn new() -> Chunk {
        Chunk { buffer: glommio::allocate_dma_buffer_global(CHUNK_BYTES) }
    }

    /// What to write: whole blocks, the memory aligned to a block.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.as_bytes()
    }

    /// Its own checksum, which the file's is made of.
    pub(crate) fn crc32c(&self) -> u32 {
        u32_at(self.bytes(), CRC)
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk {{ index: {}, bytes: {} }}", u32_at(self.bytes(), INDEX), self.bytes().len())
    }
}

/// What a file says of itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) operator: String,
    pub(crate) shard: u32,
    pub(crate) range: HashRange,
    pub(crate) epoch: Epoch,
    pub(crate) states: Vec<StatePart>,
}

/// Bytes of a page's whole record.
pub(crate) fn whole_bytes(layout: &Layout, descriptor: &Descriptor, body: &[u8; PAGE_BYTES]) -> usize {
    WHOLE_HEADER_BYTES + contents_bytes(layout, descriptor, body).next_multiple_of(8)
}

/// Bytes of what a page's whole record has of the page itself.
fn contents_bytes(layout: &Layout, descriptor: &Descriptor, body: &[u8; PAGE_BYTES]) -> usize {
    match (descriptor.kind, layout) {
        (Kind::Flat | Kind::Zero, Layout::Flat(geometry)) => {
            geometry.bitmap_bytes() + descriptor.count as usize * (geometry.key_bytes + geometry.value_bytes)
        }
        (kind, _) => {
            let (low_end, high_at) = slotted::extents(kind, body);
            EXTENTS_BYTES + low_end + PAGE_BYTES - high_at
        }
    }
}

/// Before the used bytes at a page's both ends: where the first end and the second begin, 2 bytes each, and 4 of zero.
const EXTENTS_BYTES: usize = 8;

/// Bytes of a page's record of these lines.
pub(crate) fn lines_bytes(mask: u64) -> usize {
    let lines = mask.count_ones() as usize;
    RECORD_HEADER_BYTES + if lines == 1 { 0 } else { 8 } + lines * LINE_BYTES
}

/// Packs records into chunks.
#[derive(Default)]
pub(crate) struct Writer {
    filling: Option<Chunk>,
    used: usize,
    index: u32,
    records: u64,
    crcs: u32,
    full: VecDeque<Chunk>,
    spare: Vec<Chunk>,
    /// Chunks being filled, full, or taken and not given back; the most there were in this snapshot, and in the last one.
    under_way: usize,
    under_way_max: usize,
    under_way_max_before: usize,
    packed: Option<Packed>,
}

impl Writer {
    /// A place for a record of `bytes` in the chunk being filled, or in the next one.
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        debug_assert!(bytes <= CHUNK_BYTES - CHUNK_HEADER_BYTES);
        if self.filling.is_some() && self.used + bytes > CHUNK_BYTES {
            self.seal(CHUNK_BYTES);
        }
        if self.filling.is_none() {
            self.used = CHUNK_HEADER_BYTES;
        }
        let chunk = self.filling.get_or_insert_with(|| {
            self.under_way += 1;
            self.under_way_max = self.under_way_max.max(self.under_way);
            self.spare.pop().unwrap_or_else(Chunk::new)
        });
        let at = self.used;
        self.used += bytes;
        self.records += 1;
        &mut chunk.buffer.as_bytes_mut()[at..at + bytes]
    }

    /// Closes the chunk being filled, to be `bytes` long.
    fn seal(&mut self, bytes: usize) {
        let Some(mut chunk) = self.filling.take() else { return };
        let body = chunk.buffer.as_bytes_mut();
        // What lies behind the records is whatever the memory held before, and must not reach the disk.
        body[self.used..bytes].fill(0);
        body[..USED].copy_from_slice(&MAGIC.to_le_bytes());
        body[USED..INDEX].copy_from_slice(&(self.used as u32).to_le_bytes());
        body[INDEX..CRC].copy_from_slice(&self.index.to_le_bytes());
        let crc = chunk_crc(&body[..self.used]);
        body[CRC..CHUNK_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        self.crcs = crc32c::crc32c_append(self.crcs, &crc.to_le_bytes());
        if bytes < chunk.buffer.len() {
            chunk.buffer.trim_to_size(bytes);
        }
        self.index += 1;
        self.full.push_back(chunk);
    }

    /// Starts a file.
    pub(crate) fn begin(&mut self, header: &Header) {
        self.under_way_max_before = std::mem::take(&mut self.under_way_max);
        // What a failed write lost is not missed.
        self.under_way = 0;
        self.spare.truncate(self.under_way_max_before.max(SPARE_CHUNKS_MIN));
        debug_assert!(self.is_empty());
        let text = serde_json::to_vec(header).expect("a header of texts and numbers always serialises");
        let bytes = (RECORD_HEADER_BYTES + 4 + text.len()).next_multiple_of(8);
        let room = self.room(bytes);
        put_header(room, u32::MAX, 0, TAG_HEADER, VERSION);
        room[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + 4].copy_from_slice(&(text.len() as u32).to_le_bytes());
        let (body, padding) = room[RECORD_HEADER_BYTES + 4..].split_at_mut(text.len());
        body.copy_from_slice(&text);
        padding.fill(0);
    }

    /// Ends the file: the chunks to be taken are now all there are.
    pub(crate) fn end(&mut self) {
        // The footer's checksum covers the chunks before its own; sealing first where it does not fit keeps that so.
        if self.used + FOOTER_BYTES > CHUNK_BYTES {
            self.seal(CHUNK_BYTES);
        }
        let (records, crcs) = (self.records, self.crcs);
        let room = self.room(FOOTER_BYTES);
        put_header(room, u32::MAX, 0, TAG_FOOTER, 0);
        room[8..16].copy_from_slice(&records.to_le_bytes());
        room[16..20].copy_from_slice(&crcs.to_le_bytes());
        room[20..24].fill(0);
        self.seal(self.used.next_multiple_of(BLOCK_BYTES));
        (self.index, self.records, self.crcs) = (0, 0, 0);
    }

    /// Whether nothing of a file is waiting to be taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.filling.is_none() && self.full.is_empty()
    }

    /// Whether a file has begun and not ended.
    pub(crate) fn has_begun(&self) -> bool {
        self.records > 0
    }

    /// Forgets the file begun.
    pub(crate) fn abandon(&mut self) {
        let chunks = self.filling.take().into_iter().chain(std::mem::take(&mut self.full)).collect::<Vec<_>>();
        chunks.into_iter().for_each(|chunk| self.give_back(chunk));
        (self.used, self.index, self.records, self.crcs) = (0, 0, 0, 0);
    }

    pub(crate) fn take(&mut self) -> Option<Chunk> {
        self.full.pop_front()
    }

    pub(crate) fn give_back(&mut self, chunk: Chunk) {
        self.under_way = self.under_way.saturating_sub(1);
        let kept = self.under_way_max.max(self.under_way_max_before).max(SPARE_CHUNKS_MIN);
        if self.spare.len() + self.under_way < kept && chunk.buffer.len() == CHUNK_BYTES {
            self.spare.push(chunk);
        }
    }

    /// The whole of a page: what it is, and what of it is in use.
    pub(crate) fn whole(
        &mut self,
        layout: &Layout,
        pack: Pack,
        page: u32,
        descriptor: &Descriptor,
        body: &[u8; PAGE_BYTES],
    ) {
        let mut packed = std::mem::take(&mut self.packed).unwrap_or_default();
        let bytes = contents_bytes(layout, descriptor, body);
        let room = self.room(WHOLE_HEADER_BYTES + bytes.next_multiple_of(8));
        put_header(room, page, descriptor.count, descriptor.kind as u8, descriptor.depth);
        room[NAMESPACE..PREFIX].copy_from_slice(&descriptor.namespace.to_le_bytes());
        room[PREFIX..STATE].copy_from_slice(&descriptor.prefix.to_le_bytes());
        room[STATE..LENGTH].copy_from_slice(&u32::from(descriptor.state).to_le_bytes());
        room[LENGTH..WHOLE_HEADER_BYTES].copy_from_slice(&(bytes as u32).to_le_bytes());
        let (contents, padding) = room[WHOLE_HEADER_BYTES..].split_at_mut(bytes);
        padding.fill(0);
        match (descriptor.kind, layout) {
            (kind @ (Kind::Flat | Kind::Zero), Layout::Flat(geometry)) => {
                let (bitmap, entries) = contents.split_at_mut(geometry.bitmap_bytes());
                let (keys, values) = entries.split_at_mut(descriptor.count as usize * geometry.key_bytes);
                if kind == Kind::Flat {
                    pack(body, &mut packed);
                    assert_eq!(
                        packed.taken(),
                        descriptor.count as usize,
                        "page {page} holds what its descriptor counts"
                    );
                    for (to, word) in bitmap.as_chunks_mut::<8>().0.iter_mut().zip(packed.bitmap) {
                        *to = word.to_le_bytes();
                    }
                    keys.copy_from_slice(packed.keys());
                    values.copy_from_slice(packed.values());
                } else {
                    // Its key, all zero bytes, does not show in the page.
                    bitmap.fill(0);
                    bitmap[0] = 1;
                    keys.fill(0);
                    values.copy_from_slice(&body[geometry.values_at..][..geometry.value_bytes]);
                }
            }
            (kind @ (Kind::Slotted | Kind::Overflow), _) => {
                let (low_end, high_at) = slotted::extents(kind, body);
                contents[..2].copy_from_slice(&(low_end as u16).to_le_bytes());
                contents[2..4].copy_from_slice(&(high_at as u16).to_le_bytes());
                contents[4..EXTENTS_BYTES].fill(0);
                let (low, high) = contents[EXTENTS_BYTES..].split_at_mut(low_end);
                low.copy_from_slice(&body[..low_end]);
                high.copy_from_slice(&body[high_at..]);
            }
            (kind, layout) => unreachable!("a page of kind {kind:?} has no record in a state of {layout:?}"),
        }
        self.packed = Some(packed);
    }

    /// The lines of a page whose bits are set.
    pub(crate) fn lines(&mut self, page: u32, count: u16, mask: u64, body: &[u8; PAGE_BYTES]) {
        let room = self.room(lines_bytes(mask));
        let lines = if mask.count_ones() == 1 {
            put_header(room, page, count, TAG_LINE, mask.trailing_zeros() as u8);
            &mut room[RECORD_HEADER_BYTES..]
        } else {
            put_header(room, page, count, TAG_LINES, 0);
            room[8..16].copy_from_slice(&mask.to_le_bytes());
            &mut room[16..]
        };
        for (to, line) in lines.chunks_exact_mut(LINE_BYTES).zip(bits_of(mask)) {
            to.copy_from_slice(&body[line * LINE_BYTES..][..LINE_BYTES]);
        }
    }

    /// A page given up.
    pub(crate) fn gone(&mut self, page: u32) {
        put_header(self.room(RECORD_HEADER_BYTES), page, 0, TAG_GONE, 0);
    }
}

/// One record, borrowed from a chunk that was verified.
pub(crate) enum Record<'a> {
    Header { version: u8, text: &'a [u8] },
    Whole { page: u32, descriptor: Descriptor, contents: &'a [u8] },
    Lines { page: u32, count: u16, mask: u64, lines: &'a [u8] },
    Gone { page: u32 },
    Footer { records: u64, crcs: u32 },
}

/// Why a chunk's bytes are not believed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Damage {
    #[error("it is not a chunk of a snapshot")]
    Magic,
    #[error("it is chunk {found} where {wanted} should be")]
    Index { found: u32, wanted: u32 },
    #[error("its checksum does not match its bytes")]
    Checksum,
    #[error("the record at byte {at} of the chunk is not one")]
    Record { at: usize },
}

/// A chunk whose checksum held.
pub(crate) struct VerifiedChunk<'a> {
    body: &'a [u8],
    pub(crate) crc32c: u32,
}

/// Proves a chunk read from a file: `bytes` from its start, up to a whole chunk.
pub(crate) fn verify(bytes: &[u8], wanted: u32) -> Result<VerifiedChunk<'_>, Damage> {
    if bytes.len() < CHUNK_HEADER_BYTES || u32_at(bytes, 0) != MAGIC {
        return Err(Damage::Magic);
    }
    let (used, found, crc32c) = (u32_at(bytes, USED) as usize, u32_at(bytes, INDEX), u32_at(bytes, CRC));
    if used < CHUNK_HEADER_BYTES || used > bytes.len() || chunk_crc(&bytes[..used]) != crc32c {
        return Err(Damage::Checksum);
    }
    if found != wanted {
        return Err(Damage::Index { found, wanted });
    }
    // The padding is under no checksum; what is not zero there was not written by us.
    if bytes[used..].iter().any(|&byte| byte != 0) {
        return Err(Damage::Checksum);
    }
    Ok(VerifiedChunk { body: &bytes[..used], crc32c })
}

impl<'a> VerifiedChunk<'a> {
    /// If this is a file's last chunk: the checksum over the checksums of those before it.
    pub(crate) fn footer_crcs(&self) -> Option<u32> {
        let footer = &self.body[self.body.len().checked_sub(FOOTER_BYTES)?..];
        (footer[6] == TAG_FOOTER && u32_at(footer, 0) == u32::MAX).then(|| u32_at(footer, 16))
    }

    /// Shows every record in turn.
    pub(crate) fn records<E: From<Damage>>(&self, mut visit: impl FnMut(Record<'a>) -> Result<(), E>) -> Result<(), E> {
        let mut at = CHUNK_HEADER_BYTES;
        while at < self.body.len() {
            let (record, bytes) = parse(&self.body[at..]).ok_or(Damage::Record { at })?;
            visit(record)?;
            at += bytes;
        }
        Ok(())
    }
}

/// The first record of `bytes`, and its length.
fn parse(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let (page, count) = (u32_at(header, 0), u16::from_le_bytes([header[4], header[5]]));
    let (tag, detail) = (header[6], header[7]);
    if let Some(kind) = Kind::from_number(tag) {
        let whole = bytes.get(..WHOLE_HEADER_BYTES)?;
        let length = u32_at(whole, LENGTH) as usize;
        let end = WHOLE_HEADER_BYTES + length.checked_next_multiple_of(8)?;
        let contents = &bytes.get(..end)?[WHOLE_HEADER_BYTES..WHOLE_HEADER_BYTES + length];
        let descriptor = Descriptor {
            namespace: u64_at(whole, NAMESPACE) as i64,
            prefix: u64_at(whole, PREFIX),
            count,
            depth: detail,
            kind,
            state: u16::try_from(u32_at(whole, STATE)).ok()?,
            next: crate::segment::NO_PAGE,
        };
        return Some((Record::Whole { page, descriptor, contents }, end));
    }
    match tag {
        TAG_LINE if (detail as usize) < LINES => {
            let mask = 1u64 << detail;
            let lines = bytes.get(RECORD_HEADER_BYTES..lines_bytes(mask))?;
            Some((Record::Lines { page, count, mask, lines }, lines_bytes(mask)))
        }
        TAG_LINES => {
            let mask = u64_at(bytes.get(..16)?, 8);
            // One line has a record of its own, and none has no record.
            let lines = if mask.count_ones() > 1 { bytes.get(16..lines_bytes(mask))? } else { return None };
            Some((Record::Lines { page, count, mask, lines }, lines_bytes(mask)))
        }
        TAG_GONE => Some((Record::Gone { page }, RECORD_HEADER_BYTES)),
        TAG_HEADER => {
            let len = u32_at(bytes.get(..RECORD_HEADER_BYTES + 4)?, RECORD_HEADER_BYTES) as usize;
            let end = (RECORD_HEADER_BYTES + 4).checked_add(len)?.checked_next_multiple_of(8)?;
            let text = &bytes.get(..end)?[RECORD_HEADER_BYTES + 4..][..len];
            Some((Record::Header { version: detail, text }, end))
        }
        TAG_FOOTER => {
            let footer = bytes.get(..FOOTER_BYTES)?;
            Some((Record::Footer { records: u64_at(footer, 8), crcs: u32_at(footer, 16) }, FOOTER_BYTES))
        }
        _ => None,
    }
}

/// The contents of a flat page's record: the bitmap of its taken slots, their keys, their values; none if it has not
/// what `count` entries need.
pub(crate) fn flat_contents<'a>(
    geometry: &Geometry,
    count: u16,
    contents: &'a [u8],
) -> Option<(&'a [u8], &'a [u8], &'a [u8])> {
    let (bitmap, entries) = contents.split_at_checked(geometry.bitmap_bytes())?;
    let (keys, values) = entries.split_at_checked(count as usize * geometry.key_bytes)?;
    let mut words = bitmap.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    let taken: u32 = words.clone().map(u64::count_ones).sum();
    let behind = words.next_back().unwrap_or(0).checked_shr((geometry.capacity - 1) as u32 % 64 + 1).unwrap_or(0);
    let sound = taken == u32::from(count) && behind == 0 && values.len() == count as usize * geometry.value_bytes;
    sound.then_some((bitmap, keys, values))
}

/// Puts the contents of another page's record back, but leaves lines alone that `filled` has; false if they are none.
#[must_use]
pub(crate) fn put_back_ends(body: &mut [u8; PAGE_BYTES], filled: u64, contents: &[u8]) -> bool {
    let Some((extents, ends)) = contents.split_first_chunk::<EXTENTS_BYTES>() else { return false };
    let low_end = u16::from_le_bytes([extents[0], extents[1]]) as usize;
    let high_at = u16::from_le_bytes([extents[2], extents[3]]) as usize;
    if low_end > high_at || high_at > PAGE_BYTES || ends.len() != low_end + PAGE_BYTES - high_at {
        return false;
    }
    let mut whole = [0; PAGE_BYTES];
    whole[..low_end].copy_from_slice(&ends[..low_end]);
    whole[high_at..].copy_from_slice(&ends[low_end..]);
    for line in bits_of(!filled) {
        let at = line * LINE_BYTES;
        body[at..at + LINE_BYTES].copy_from_slice(&whole[at..at + LINE_BYTES]);
    }
    true
}

/// The numbers of the bits that are set, lowest first.
pub(crate) fn bits_of(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}

/// Of the chunk's header before the checksum, and of the records behind it.
fn chunk_crc(used: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&used[..CRC]), &used[CHUNK_HEADER_BYTES..])
}

fn put_header(room: &mut [u8], page: u32, count: u16, tag: u8, detail: u8) {
    room[..4].copy_from_slice(&page.to_le_bytes());
    room[4..6].copy_from_slice(&count.to_le_bytes());
    room[6] = tag;
    room[7] = detail;
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
