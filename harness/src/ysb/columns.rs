//! A few dozen events as columns: what the generator computes, before it is encoded.
//!
//! The loops below run over arrays of fixed length and have no branch, so the compiler turns each into vector code: eight
//! events in one multiply where the core has 512-bit registers. Made row by row, a binary event cost 3.6 ns and one with
//! three ids as text 66 ns; from columns they cost 2.9 and 11 ns.

use super::event::{AD_TYPES, AdEvent, EVENT_TYPES, IP};
use super::generate::Population;

/// How many events are drawn at a time: all their columns, text included, stay in the first-level cache.
pub(crate) const COLUMN_ROWS: usize = 64;

/// One number of each of [`COLUMN_ROWS`] events.
pub(crate) type Column<T> = [T; COLUMN_ROWS];

/// The drawn events.
#[derive(Clone)]
pub struct Columns {
    pub(crate) user_id: Column<u64>,
    pub(crate) page_id: Column<u64>,
    /// The ad's number, below the number of ads; only the slow answer looks at it.
    pub(crate) ad: Column<u32>,
    pub(crate) ad_id: Column<u64>,
    pub(crate) time_ms: Column<i64>,
    pub(crate) ad_type: Column<u8>,
    pub(crate) event_type: Column<u8>,
    /// The ids as text, where the encoding asked for it.
    pub(crate) texts: IdTexts,
}

impl Columns {
    pub(crate) fn new() -> Columns {
        Columns {
            user_id: [0; COLUMN_ROWS],
            page_id: [0; COLUMN_ROWS],
            ad: [0; COLUMN_ROWS],
            ad_id: [0; COLUMN_ROWS],
            time_ms: [0; COLUMN_ROWS],
            ad_type: [0; COLUMN_ROWS],
            event_type: [0; COLUMN_ROWS],
            texts: IdTexts { user: UuidColumn::ZERO, page: UuidColumn::ZERO, ad: UuidColumn::ZERO },
        }
    }

    /// Draws the events `index`, `index + stride`, …; their times are for the caller to fill in.
    #[inline]
    pub(crate) fn draw(&mut self, population: &Population, ads: u32, index: u64, stride: u64) {
        for row in 0..COLUMN_ROWS {
            let words = Words::of(population.seed, index.wrapping_add(row as u64 * stride));
            self.user_id[row] = words.user;
            self.page_id[row] = words.page;
            let ad = words.ad(ads);
            self.ad[row] = ad;
            self.ad_id[row] = population.ad_id(ad);
            self.ad_type[row] = words.ad_type();
            self.event_type[row] = words.event_type();
        }
    }

    /// Writes the texts of the ids.
    pub(crate) fn write_texts(&mut self) {
        self.texts.user.write(&self.user_id);
        self.texts.page.write(&self.page_id);
        self.texts.ad.write(&self.ad_id);
    }

    /// Shifts each time as the original's disorder would.
    #[inline]
    pub(crate) fn skew(&mut self) {
        for (time_ms, user_id) in self.time_ms.iter_mut().zip(&self.user_id) {
            *time_ms = skewed(*time_ms, *user_id);
        }
    }
}

/// The random words of one event.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    user: u64,
    page: u64,
    pick: u64,
}

impl Words {
    /// A folded product of 64 × 64 bits would be one multiply a word instead of two, but no vector instruction makes it.
    #[inline(always)]
    pub(crate) fn of(seed: u64, index: u64) -> Words {
        let at = (seed << 48 ^ seed >> 16).wrapping_add(index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let user = scatter(at);
        // Nothing in the query looks at the page: one multiply away from the user is random enough.
        let page = user.rotate_left(32).wrapping_mul(0xa076_1d64_78bd_642f);
        Words { user, page, pick: scatter(at ^ 0xe703_7ed1_a0b4_28db) }
    }

    /// A number below `ads`: the upper half of a product picks without a division.
    #[inline(always)]
    fn ad(self, ads: u32) -> u32 {
        (((self.pick >> 32) * u64::from(ads)) >> 32) as u32
    }

    /// Sixteen bits are enough for types that are equally likely to one in 65,536.
    #[inline(always)]
    fn ad_type(self) -> u8 {
        (((self.pick >> 16 & 0xffff) * AD_TYPES.len() as u64) >> 16) as u8
    }

    #[inline(always)]
    fn event_type(self) -> u8 {
        (((self.pick & 0xffff) * EVENT_TYPES.len() as u64) >> 16) as u8
    }

    /// The event of these words at time 0.
    pub(crate) fn event(self, population: &Population, ads: u32) -> AdEvent {
        AdEvent {
            user_id: self.user,
            page_id: self.page,
            ad_id: population.ad_id(self.ad(ads)),
            event_time_ms: 0,
            ip: IP,
            ad_type: self.ad_type(),
            event_type: self.event_type(),
            reserved: [0; 2],
        }
    }
}

/// A bijection that leaves no pattern (the finalizer of splitmix64); only zero becomes zero.
#[inline(always)]
pub(crate) fn scatter(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The original's disorder, drawn from the event's own random user: −49 … +50 ms for each event, and for one in 100,000
/// up to 60 s more into the past.
#[inline(always)]
pub(crate) fn skewed(time_ms: i64, user_id: u64) -> i64 {
    let word = scatter(user_id ^ 0x5bf0_3635_d1d1_4d5e);
    let shift_ms = 50 - (((word & 0xffff_ffff) * 100) >> 32) as i64;
    let is_late = ((word >> 32) * 100_000) >> 32 == 0;
    let late_ms = ((scatter(word) >> 32) * 60_000) >> 32;
    time_ms + shift_ms - if is_late { late_ms as i64 } else { 0 }
}

/// The texts of all ids of some [`Columns`].
#[derive(Clone)]
pub(crate) struct IdTexts {
    pub(crate) user: UuidColumn,
    pub(crate) page: UuidColumn,
    pub(crate) ad: UuidColumn,
}

/// The texts of a column of ids, in words of eight characters as they lie in memory; the fifth holds the last four.
#[derive(Clone)]
pub(crate) struct UuidColumn([Column<u64>; 5]);

impl UuidColumn {
    const ZERO: UuidColumn = UuidColumn([[0; COLUMN_ROWS]; 5]);

    /// Writes the texts of `ids`.
    #[inline(never)] // inlined three times into one loop, it is no longer vectorised
    fn write(&mut self, ids: &Column<u64>) {
        let [w0, w1, w2, w3, w4] = &mut self.0;
        for row in 0..COLUMN_ROWS {
            [w0[row], w1[row], w2[row], w3[row], w4[row]] = uuid_words(ids[row]);
        }
    }

    /// The text of the id in `row`.
    #[inline(always)]
    pub(crate) fn text(&self, row: usize) -> [u8; 36] {
        let [w0, w1, w2, w3, w4] = &self.0;
        text_of_words([w0[row], w1[row], w2[row], w3[row], w4[row]])
    }

    /// Writes the text of the id in `row` into the middle of a line: five loads, five stores, and no more.
    ///
    /// Left to itself the compiler gathers the words there and lays them on the stack first. Where the stack happened to
    /// lie across the end of a page, a line of three texts took 11 ns more.
    #[inline(always)]
    pub(crate) fn put(&self, row: usize, text: &mut [u8; 36]) {
        for (piece, column) in text.chunks_mut(8).zip(&self.0) {
            let word = &column[row];
            // SAFETY: a reference is valid for a read.
            #[expect(unsafe_code, reason = "volatile loads are not gathered; every_encoding_says_the_same reads them")]
            let word = unsafe { std::ptr::from_ref(word).read_volatile() };
            piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
        }
    }
}

/// The text of one id.
pub(crate) fn uuid_text_of(id: u64) -> [u8; 36] {
    text_of_words(uuid_words(id))
}

#[inline(always)]
fn text_of_words(words: [u64; 5]) -> [u8; 36] {
    let mut text = [0; 36];
    for (piece, word) in text.chunks_mut(8).zip(words) {
        piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
    }
    text
}

/// The 36 characters of the UUID of version 4 that stands for `id`.
///
/// ```text
/// digits   |01234567|89abcdef|ghijklmn|opqrstuv|
/// text     |01234567|-89ab-cd|ef-ghij-|klmnopqr|stuv|
/// ```
#[inline(always)]
fn uuid_words(id: u64) -> [u64; 5] {
    // The version overwrites four bits of the upper half. The lower half is an odd multiple of the id less its two top
    // bits, so the id's low 62 bits can still be told from it and nothing is lost.
    let high = id & !0xf000 | 0x4000;
    let low = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) & u64::MAX >> 2 | 1 << 63;
    let [d0, d1, d2, d3] = [hex_digits(high >> 32), hex_digits(high), hex_digits(low >> 32), hex_digits(low)];
    const HYPHEN: u64 = b'-' as u64;
    [
        d0,
        HYPHEN | (d1 & 0xffff_ffff) << 8 | HYPHEN << 40 | d1 >> 32 << 48,
        d1 >> 48 | HYPHEN << 16 | (d2 & 0xffff_ffff) << 24 | HYPHEN << 56,
        d2 >> 32 | d3 << 32,
        d3 >> 32,
    ]
}

/// The eight hexadecimal digits of the low 32 bits, the first in the lowest byte.
#[inline(always)]
fn hex_digits(x: u64) -> u64 {
    // Half as many bits a lane in each step, the upper half going to the lower address.
    let x = (x & 0xffff) << 32 | x >> 16 & 0xffff;
    let x = (x & 0x0000_00ff_0000_00ff) << 16 | x >> 8 & 0x0000_00ff_0000_00ff;
    let x = (x & 0x000f_000f_000f_000f) << 8 | x >> 4 & 0x000f_000f_000f_000f;
    // 6 added to a digit from 10 on carries into the fifth bit.
    let letters = (x + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    x + 0x3030_3030_3030_3030 + letters * (b'a' - b'0' - 10) as u64
}
