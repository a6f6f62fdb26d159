//! What is inside a slotted page: cells of any size, found through slots.
//!
//! ```text
//! page   | slots 2 | heap 2 | used 2 | long 2 | slot 0 | slot 1 | … →      free      ← … | cell | cell |
//! slot   | offset of the cell 2 | tag 2: the low bits of the key's hash |
//! cell   | key bytes 2 | flags 2 | value bytes 4 | expires 8 | key, padded to 16 | value, padded to 16 |
//! long   in place of the value: | first overflow page 4 | zero 12 |, the value's bytes in a chain of pages
//! chain  | next page 4 | bytes here 4 | bytes … |
//! ```
//!
//! Slots grow upwards and cells downwards. A search compares tags, then keys. A cell that goes leaves a gap, and its slot
//! is filled by the last one; when the free stretch between is too short for a cell that the gaps would take, the cells are
//! moved together. Everything here is a function of one page's bytes, and says which lines it changed.
//! `docs/formats/page.md` draws it with its numbers.

use crate::segment::{Kind, LINE_BYTES, PAGE_BYTES};

pub(crate) type Body = [u8; PAGE_BYTES];

const SLOTS: usize = 0;
const HEAP: usize = SLOTS + 2;
const USED: usize = HEAP + 2;
const LONG: usize = USED + 2;
const HEADER_BYTES: usize = LONG + 2;
const SLOT_BYTES: usize = 4;

const CELL_HEADER_BYTES: usize = 16;
/// What cells, keys and values start on a multiple of: the widest alignment of an archived type.
pub(crate) const CELL_ALIGN: usize = 16;
/// The value lies in a chain of overflow pages.
const FLAG_LONG: u16 = 1;

const NEXT: usize = 0;
const HERE: usize = NEXT + 4;
const OVERFLOW_HEADER_BYTES: usize = HERE + 4;
/// Bytes of a value that one page of a chain holds.
pub(crate) const OVERFLOW_BYTES: usize = PAGE_BYTES - OVERFLOW_HEADER_BYTES;
/// Bytes of a long value's stand-in.
const STUB_BYTES: usize = 16;

/// Bytes that cells and slots of a page can have.
const ROOM_BYTES: usize = PAGE_BYTES - HEADER_BYTES;
/// The longest key: half a page, so that every key has room beside a long value's stand-in, and two in one page.
pub(crate) const KEY_BYTES_MAX: usize = PAGE_BYTES / 2 - 64;

/// One entry of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    at: usize,
    pub(crate) key_bytes: usize,
    /// Of the value itself, wherever it lies.
    pub(crate) value_bytes: usize,
    pub(crate) is_long: bool,
    /// When it ends, in milliseconds; 0: never.
    pub(crate) expires_ms: i64,
}

impl Cell {
    pub(crate) fn key<'a>(&self, body: &'a Body) -> &'a [u8] {
        &body[self.at + CELL_HEADER_BYTES..][..self.key_bytes]
    }

    /// Where in the page the value, or a long one's stand-in, begins.
    pub(crate) fn value_at(&self) -> usize {
        self.at + CELL_HEADER_BYTES + self.key_bytes.next_multiple_of(CELL_ALIGN)
    }

    /// The value's bytes, if they lie here.
    pub(crate) fn value<'a>(&self, body: &'a Body) -> &'a [u8] {
        debug_assert!(!self.is_long);
        &body[self.value_at()..][..self.value_bytes]
    }

    /// The first page of a long value.
    pub(crate) fn first_overflow(&self, body: &Body) -> u32 {
        debug_assert!(self.is_long);
        u32_at(body, self.value_at())
    }

    pub(crate) fn bytes(&self) -> usize {
        cell_bytes(self.key_bytes, self.value_bytes, self.is_long)
    }

    /// The lines of its value and of what its header says of it.
    pub(crate) fn value_lines(&self) -> u64 {
        lines_of(self.at, self.at + CELL_HEADER_BYTES) | lines_of(self.value_at(), self.at + self.bytes())
    }
}

/// Bytes of a cell.
pub(crate) fn cell_bytes(key_bytes: usize, value_bytes: usize, is_long: bool) -> usize {
    let value = if is_long { STUB_BYTES } else { value_bytes.next_multiple_of(CELL_ALIGN) };
    CELL_HEADER_BYTES + key_bytes.next_multiple_of(CELL_ALIGN) + value
}

/// Whether a value must leave its cell because a page could not hold it.
pub(crate) fn is_long(key_bytes: usize, value_bytes: usize) -> bool {
    // Whole cells, so that one fits an empty page wherever the heap begins.
    value_bytes > PAGE_BYTES || cell_bytes(key_bytes, value_bytes, false) + SLOT_BYTES > ROOM_BYTES - CELL_ALIGN
}

/// The lines that hold the bytes from `from` to before `to`.
pub(crate) fn lines_of(from: usize, to: usize) -> u64 {
    if from >= to {
        return 0;
    }
    let (first, last) = (from / LINE_BYTES, (to - 1) / LINE_BYTES);
    (u64::MAX >> (63 - (last - first))) << first
}

fn u16_at(body: &Body, at: usize) -> usize {
    u16::from_le_bytes([body[at], body[at + 1]]) as usize
}

fn u32_at(body: &Body, at: usize) -> u32 {
    u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]])
}

fn set_u16(body: &mut Body, at: usize, value: usize) {
    body[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
}

/// Makes a page of zeros an empty slotted one.
pub(crate) fn clear(body: &mut Body) {
    body.fill(0);
    set_u16(body, HEAP, PAGE_BYTES);
}

/// Entries of the page.
pub(crate) fn len(body: &Body) -> usize {
    u16_at(body, SLOTS)
}

/// Bytes of its cells.
pub(crate) fn used_bytes(body: &Body) -> usize {
    u16_at(body, USED)
}

/// How many of its values are long.
pub(crate) fn longs(body: &Body) -> usize {
    u16_at(body, LONG)
}

/// Where the used bytes at the page's low end stop, and those at its high end begin.
pub(crate) fn extents(kind: Kind, body: &Body) -> (usize, usize) {
    if kind == Kind::Overflow {
        return (OVERFLOW_HEADER_BYTES + overflow_bytes(body), PAGE_BYTES);
    }
    (HEADER_BYTES + len(body) * SLOT_BYTES, u16_at(body, HEAP))
}

/// The entry of a slot.
pub(crate) fn cell(body: &Body, slot: usize) -> Cell {
    cell_at(body, u16_at(body, HEADER_BYTES + slot * SLOT_BYTES))
}

fn cell_at(body: &Body, at: usize) -> Cell {
    Cell {
        at,
        key_bytes: u16_at(body, at),
        value_bytes: u32_at(body, at + 4) as usize,
        is_long: u16_at(body, at + 2) & FLAG_LONG as usize != 0,
        expires_ms: i64::from_le_bytes(std::array::from_fn(|i| body[at + 8 + i])),
    }
}

/// The slot of a key.
pub(crate) fn find(body: &Body, hash: u64, key: &[u8]) -> Option<usize> {
    let tag = hash as u16;
    let slots = body[HEADER_BYTES..].as_chunks::<SLOT_BYTES>().0;
    slots[..len(body)].iter().position(|slot| {
        u16::from_le_bytes([slot[2], slot[3]]) == tag && {
            let cell = cell_at(body, u16::from_le_bytes([slot[0], slot[1]]) as usize);
            cell.key_bytes == key.len() && cell.key(body) == key
        }
    })
}

/// Whether a cell of so many bytes has room, once the cells are moved together.
pub(crate) fn has_room(body: &Body, cell_bytes: usize) -> bool {
    HEADER_BYTES + (len(body) + 1) * SLOT_BYTES + used_bytes(body) + cell_bytes <= PAGE_BYTES - CELL_ALIGN
}

/// Whether it has room as things are.
pub(crate) fn has_free(body: &Body, cell_bytes: usize) -> bool {
    HEADER_BYTES + (len(body) + 1) * SLOT_BYTES + cell_bytes <= u16_at(body, HEAP)
}

/// The lines that [`push`] would change, given that the page [`has_free`] bytes.
pub(crate) fn push_lines(body: &Body, cell_bytes: usize) -> u64 {
    let heap = u16_at(body, HEAP);
    let slot_at = HEADER_BYTES + len(body) * SLOT_BYTES;
    1 | lines_of(slot_at, slot_at + SLOT_BYTES) | lines_of(heap - cell_bytes, heap)
}

/// What a new cell's value is.
#[derive(Clone, Copy)]
pub(crate) enum Content<'a> {
    Here(&'a [u8]),
    /// So many bytes, in a chain that begins with this page.
    Long(usize, u32),
}

impl Content<'_> {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Content::Here(value) => value.len(),
            Content::Long(bytes, _) => *bytes,
        }
    }

    fn is_long(&self) -> bool {
        matches!(self, Content::Long(..))
    }

    pub(crate) fn cell_bytes(&self, key_bytes: usize) -> usize {
        cell_bytes(key_bytes, self.bytes(), self.is_long())
    }
}

/// The first pages of the page's long values.
pub(crate) fn first_overflows(body: &Body) -> Vec<u32> {
    if longs(body) == 0 {
        return Vec::new();
    }
    let cells = (0..len(body)).map(|slot| cell(body, slot));
    cells.filter(|cell| cell.is_long).map(|cell| cell.first_overflow(body)).collect()
}

/// Puts an entry into the free stretch.
pub(crate) fn push(body: &mut Body, hash: u64, key: &[u8], content: Content<'_>, expires_ms: i64) {
    let bytes = content.cell_bytes(key.len());
    assert!(has_free(body, bytes), "the caller has looked for room");
    let at = u16_at(body, HEAP) - bytes;
    let cell = &mut body[at..at + bytes];
    cell.fill(0);
    cell[..2].copy_from_slice(&(key.len() as u16).to_le_bytes());
    cell[2..4].copy_from_slice(&(if content.is_long() { FLAG_LONG } else { 0 }).to_le_bytes());
    cell[4..8].copy_from_slice(&(content.bytes() as u32).to_le_bytes());
    cell[8..16].copy_from_slice(&expires_ms.to_le_bytes());
    cell[CELL_HEADER_BYTES..][..key.len()].copy_from_slice(key);
    let value_at = CELL_HEADER_BYTES + key.len().next_multiple_of(CELL_ALIGN);
    match content {
        Content::Here(value) => cell[value_at..][..value.len()].copy_from_slice(value),
        Content::Long(_, first) => cell[value_at..][..4].copy_from_slice(&first.to_le_bytes()),
    }
    push_slot(body, at, bytes, hash as u16, content.is_long());
}

fn push_slot(body: &mut Body, at: usize, bytes: usize, tag: u16, is_long: bool) {
    let slots = len(body);
    set_u16(body, HEADER_BYTES + slots * SLOT_BYTES, at);
    set_u16(body, HEADER_BYTES + slots * SLOT_BYTES + 2, tag as usize);
    set_u16(body, SLOTS, slots + 1);
    set_u16(body, HEAP, at);
    set_u16(body, USED, used_bytes(body) + bytes);
    set_u16(body, LONG, longs(body) + usize::from(is_long));
}

/// Puts a cell of another page in, as it is.
pub(crate) fn push_cell(body: &mut Body, hash: u64, from: &Body, cell: &Cell) {
    let bytes = cell.bytes();
    assert!(has_free(body, bytes), "the caller has looked for room");
    let at = u16_at(body, HEAP) - bytes;
    body[at..at + bytes].copy_from_slice(&from[cell.at..cell.at + bytes]);
    push_slot(body, at, bytes, hash as u16, cell.is_long);
}

/// Writes another value over one that takes as many bytes of the page.
pub(crate) fn overwrite(body: &mut Body, cell: &Cell, content: Content<'_>, expires_ms: i64) {
    assert!(content.cell_bytes(cell.key_bytes) == cell.bytes() && content.is_long() == cell.is_long);
    body[cell.at + 4..cell.at + 8].copy_from_slice(&(content.bytes() as u32).to_le_bytes());
    body[cell.at + 8..cell.at + 16].copy_from_slice(&expires_ms.to_le_bytes());
    let place = &mut body[cell.value_at()..cell.at + cell.bytes()];
    place.fill(0);
    match content {
        Content::Here(value) => place[..value.len()].copy_from_slice(value),
        Content::Long(_, first) => place[..4].copy_from_slice(&first.to_le_bytes()),
    }
}

/// The lines that [`remove`] would change.
pub(crate) fn remove_lines(body: &Body, slot: usize) -> u64 {
    let slot_at = HEADER_BYTES + slot * SLOT_BYTES;
    let last_at = HEADER_BYTES + (len(body) - 1) * SLOT_BYTES;
    1 | lines_of(slot_at, slot_at + SLOT_BYTES) | lines_of(last_at, last_at + SLOT_BYTES)
}

/// Takes a slot's entry out; its cell becomes a gap.
pub(crate) fn remove(body: &mut Body, slot: usize) {
    let cell = cell(body, slot);
    let last = len(body) - 1;
    let (slot_at, last_at) = (HEADER_BYTES + slot * SLOT_BYTES, HEADER_BYTES + last * SLOT_BYTES);
    body.copy_within(last_at..last_at + SLOT_BYTES, slot_at);
    body[last_at..last_at + SLOT_BYTES].fill(0);
    set_u16(body, SLOTS, last);
    set_u16(body, USED, used_bytes(body) - cell.bytes());
    set_u16(body, LONG, longs(body) - usize::from(cell.is_long));
    if last == 0 {
        set_u16(body, HEAP, PAGE_BYTES);
    }
}

/// Moves the cells together, so that the gaps join the free stretch. Changes every line.
pub(crate) fn compact(body: &mut Body) {
    let before = *body;
    let tags = |slot: usize| u16_at(&before, HEADER_BYTES + slot * SLOT_BYTES + 2);
    clear(body);
    for slot in 0..len(&before) {
        push_cell(body, tags(slot) as u64, &before, &cell(&before, slot));
    }
}

/// Bytes of a value in an overflow page.
pub(crate) fn overflow_bytes(body: &Body) -> usize {
    (u32_at(body, HERE) as usize).min(OVERFLOW_BYTES)
}

/// The bytes themselves.
pub(crate) fn overflow(body: &Body) -> &[u8] {
    &body[OVERFLOW_HEADER_BYTES..][..overflow_bytes(body)]
}

/// The page where the value goes on.
pub(crate) fn overflow_next(body: &Body) -> u32 {
    u32_at(body, NEXT)
}

/// Fills an overflow page; returns the lines that changed.
pub(crate) fn put_overflow(body: &mut Body, next: u32, piece: &[u8]) {
    body[NEXT..HERE].copy_from_slice(&next.to_le_bytes());
    body[HERE..OVERFLOW_HEADER_BYTES].copy_from_slice(&(piece.len() as u32).to_le_bytes());
    body[OVERFLOW_HEADER_BYTES..][..piece.len()].copy_from_slice(piece);
}

/// Proves that the bytes are a page of `count` cells, none of which overlaps another; `Err` says what they are not.
pub(crate) fn prove(body: &Body, count: usize) -> Result<(), String> {
    let (slots, heap) = (len(body), u16_at(body, HEAP));
    if slots != count {
        return Err(format!("has {slots} entries and should have {count}"));
    }
    let low_end = HEADER_BYTES + slots * SLOT_BYTES;
    if low_end > heap || heap > PAGE_BYTES {
        return Err("has slots and cells that overlap".to_owned());
    }
    let mut stretches = Vec::with_capacity(slots);
    let (mut used, mut long) = (0, 0);
    for slot in 0..slots {
        let at = u16_at(body, HEADER_BYTES + slot * SLOT_BYTES);
        if at < heap || !at.is_multiple_of(CELL_ALIGN) || at + CELL_HEADER_BYTES > PAGE_BYTES {
            return Err(format!("has no cell where slot {slot} says"));
        }
        let cell = cell_at(body, at);
        let flags = u16_at(body, at + 2);
        let fits = cell.key_bytes <= PAGE_BYTES && (cell.is_long || cell.value_bytes <= PAGE_BYTES);
        if !fits || flags > FLAG_LONG as usize || at + cell.bytes() > PAGE_BYTES {
            return Err(format!("has a cell of slot {slot} that does not end in the page"));
        }
        stretches.push((at, at + cell.bytes()));
        used += cell.bytes();
        long += usize::from(cell.is_long);
    }
    stretches.sort_unstable();
    if stretches.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err("has cells that overlap".to_owned());
    }
    if used != used_bytes(body) || long != longs(body) {
        return Err("counts its cells' bytes wrongly".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Box<Body> {
        let mut body = Box::new([7; PAGE_BYTES]);
        clear(&mut body);
        body
    }

    fn put(body: &mut Body, key: &[u8], value: &[u8]) -> bool {
        let (hash, content) = (key.iter().map(|&byte| u64::from(byte)).sum(), Content::Here(value));
        let bytes = content.cell_bytes(key.len());
        if !has_room(body, bytes) {
            return false;
        }
        if !has_free(body, bytes) {
            compact(body);
        }
        let (before, lines) = (*body, push_lines(body, bytes));
        push(body, hash, key, content, 0);
        changed_only(&before, body, lines);
        true
    }

    fn changed_only(before: &Body, after: &Body, lines: u64) {
        for at in (0..PAGE_BYTES).filter(|&at| before[at] != after[at]) {
            assert!(lines >> (at / LINE_BYTES) & 1 == 1, "byte {at} changed");
        }
    }

    fn get<'a>(body: &'a Body, key: &[u8]) -> Option<&'a [u8]> {
        let hash = key.iter().map(|&byte| u64::from(byte)).sum();
        find(body, hash, key).map(|slot| cell(body, slot).value(body))
    }

    #[test]
    fn cells_come_and_go() {
        let mut body = page();
        assert!(put(&mut body, b"mill", b"flour") && put(&mut body, b"liml", b"water") && put(&mut body, b"", b""));
        assert_eq!((get(&body, b"mill"), get(&body, b"liml")), (Some(&b"flour"[..]), Some(&b"water"[..])));
        assert_eq!((get(&body, b""), get(&body, b"weir")), (Some(&b""[..]), None));
        prove(&body, 3).unwrap();
        let before = *body;
        let lines = remove_lines(&body, 0);
        remove(&mut body, 0);
        changed_only(&before, &body, lines);
        assert_eq!((get(&body, b"mill"), get(&body, b"liml"), len(&body)), (None, Some(&b"water"[..]), 2));
        let at = find(&body, b"liml".iter().map(|&byte| u64::from(byte)).sum(), b"liml").unwrap();
        let found = cell(&body, at);
        let (before, lines) = (*body, found.value_lines());
        overwrite(&mut body, &found, Content::Here(b"wind"), 5);
        changed_only(&before, &body, lines);
        assert_eq!((get(&body, b"liml"), cell(&body, at).expires_ms), (Some(&b"wind"[..]), 5));
        prove(&body, 2).unwrap();
    }

    #[test]
    fn gaps_are_used_again() {
        let mut body = page();
        let mut keys = Vec::new();
        for number in 0u32.. {
            if !put(&mut body, &number.to_le_bytes(), &[number as u8; 100]) {
                break;
            }
            keys.push(number);
        }
        assert!(keys.len() > 25, "{}", keys.len());
        for round in 0..200u32 {
            let victim = keys.remove(round as usize * 7 % keys.len());
            let slot =
                find(&body, victim.to_le_bytes().iter().map(|&byte| u64::from(byte)).sum(), &victim.to_le_bytes());
            remove(&mut body, slot.unwrap());
            assert!(put(&mut body, &(1000 + round).to_le_bytes(), &[round as u8; 100]));
            keys.push(1000 + round);
            prove(&body, keys.len()).unwrap();
            assert!(keys.iter().all(|key| get(&body, &key.to_le_bytes()).is_some()));
        }
    }

    #[test]
    fn a_value_of_nearly_a_page_is_not_long() {
        assert!(!is_long(8, 4000) && is_long(8, 4096) && is_long(KEY_BYTES_MAX, 4000));
        let mut body = page();
        assert!(put(&mut body, b"12345678", &[1; 4000]));
        assert!(!put(&mut body, b"another", b"one more"));
        assert!(has_room(&page(), cell_bytes(KEY_BYTES_MAX, 100_000, true)));
    }

    #[test]
    fn no_bytes_make_a_proof_panic() {
        let mut random = 88_172_645_463_325_252u64;
        let mut sound = page();
        assert!(put(&mut sound, b"mill", b"flour") && put(&mut sound, b"weir", &[3; 300]));
        for _ in 0..200_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut body = sound.clone();
            let at = if random.is_multiple_of(2) { random as usize / 2 % 64 } else { random as usize / 2 % PAGE_BYTES };
            body[at] ^= (random >> 32) as u8;
            if prove(&body, len(&body)).is_ok() {
                for slot in 0..len(&body) {
                    let cell = cell(&body, slot);
                    let _ = cell.key(&body);
                    let _ = if cell.is_long { cell.first_overflow(&body) as usize } else { cell.value(&body).len() };
                }
            }
        }
    }
}
