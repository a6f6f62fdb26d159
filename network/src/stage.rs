//! The stage: where rows for one destination gather until they fill whole lines.
//!
//! ```text
//!   push ─▶ | line 0 | line 1 | … | partial |      in the first-level cache, overwritten in place
//!                │        │           └──── carried to the front after a flush
//!                ▼        ▼
//!   buffer  | … | line n | line n+1 |                streamed to memory past the cache, each line once
//! ```
//!
//! A plain store first fetches its line, and a buffer's lines lie in the cache of the core that read them last. Between
//! cores that share no cache such a fetch takes 400 ns, and no prefetch hides it: buffers filled with plain stores arrive at
//! 2 GB/s there, and at 9 to 14 GB/s between cores that share one. A non-temporal store of a whole line fetches nothing: 22 GB/s
//! either way. It needs the whole line at hand, hence the stage.
//!
//! Non-temporal stores are ordered only by a fence. The lane issues one before it hands a buffer over.

#![expect(
    unsafe_code,
    reason = "unaligned row stores and streaming line stores; tests/stage.rs compares with a slow twin, also under AddressSanitizer"
)]

use crate::LINE_BYTES;
use crate::buffer::{Buffer, PAYLOAD_BYTES_MAX};

/// A value whose bytes are all there: it can be seen as `[u8]`.
///
/// # Safety
/// The type has no padding and no part that may be uninitialised. It holds no reference or pointer, which would mean
/// nothing at the other end.
///
/// ```
/// #[derive(Clone, Copy)]
/// #[repr(C, packed)]
/// struct Sample {
///     at: i64,
///     level: u16,
/// }
/// // SAFETY: packed, so there is no padding, and both fields are integers.
/// unsafe impl millstream_network::Solid for Sample {}
/// ```
pub unsafe trait Solid: Copy + 'static {}

macro_rules! solid_integers {
    ($($integer:ty)*) => {
        $(
            // SAFETY: an integer or float is all value bits.
            unsafe impl Solid for $integer {}
        )*
    };
}
solid_integers!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64);

// SAFETY: an array has no padding beyond that of its elements, and they have none.
unsafe impl<T: Solid, const N: usize> Solid for [T; N] {}

/// How lines leave a stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Streaming {
    /// Past the cache, for a destination on another core.
    NonTemporal,
    /// Through the cache, for a destination that runs on the same core.
    Plain,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

/// The rows gathered for one destination.
///
/// ```
/// use millstream_network::{Stage, Streaming};
///
/// let mut stage = Stage::new(1024, Streaming::NonTemporal);
/// assert_eq!(stage.room() / size_of::<u64>(), 128);
/// stage.push(7_u64);
/// assert_eq!(stage.len(), 8);
/// ```
pub struct Stage {
    /// One line more than `bytes_max` needs: the partial line behind a full stage can be carried without a bound.
    lines: Box<[Line]>,
    len: usize,
    bytes_max: usize,
    how: Streaming,
}

impl Stage {
    /// A stage for at most `bytes_max` bytes. All stages of an exchange together should leave most of the first-level
    /// cache to the loop that fills them.
    ///
    /// # Panics
    /// When `bytes_max` is zero, or more than a buffer holds.
    #[must_use]
    pub fn new(bytes_max: usize, how: Streaming) -> Stage {
        assert!(
            (1..=PAYLOAD_BYTES_MAX).contains(&bytes_max),
            "a stage of {bytes_max} bytes: it holds between 1 and {PAYLOAD_BYTES_MAX}, one buffer's worth",
        );
        let lines = vec![Line([0; LINE_BYTES]); bytes_max.div_ceil(LINE_BYTES) + 1].into_boxed_slice();
        Stage { lines, len: 0, bytes_max, how }
    }

    /// Bytes gathered.
    #[must_use]
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is gathered.
    #[must_use]
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that still fit.
    #[must_use]
    #[inline(always)]
    pub fn room(&self) -> usize {
        self.bytes_max - self.len
    }

    /// Appends a row, without padding between rows.
    ///
    /// # Panics
    /// When the row does not fit: see [`room`](Stage::room).
    #[inline(always)]
    pub fn push<R: Solid>(&mut self, row: R) {
        if size_of::<R>() > self.room() {
            overfull(size_of::<R>(), self.room());
        }
        // SAFETY: the row ends within `bytes_max`, as just checked, which is within `lines`.
        unsafe { self.lines.as_mut_ptr().cast::<u8>().add(self.len).cast::<R>().write_unaligned(row) };
        self.len += size_of::<R>();
    }

    /// Appends a row without a look at the room. Of 0.43 ns a row it saves 0.07 where all rows go to one stage; where they
    /// spread over several, nothing: there each row waits for the length that the last one left.
    ///
    /// # Safety
    /// `room() >= size_of::<R>()`.
    #[inline(always)]
    pub unsafe fn push_unchecked<R: Solid>(&mut self, row: R) {
        debug_assert!(size_of::<R>() <= self.room(), "the caller promised room for the row");
        // SAFETY: the caller promises that the row ends within `bytes_max`, which is within `lines`.
        unsafe { self.lines.as_mut_ptr().cast::<u8>().add(self.len).cast::<R>().write_unaligned(row) };
        self.len += size_of::<R>();
    }

    /// Moves whole lines to the end of `into`, as many as are there and fit, and carries the rest to the front.
    /// Returns the bytes moved.
    #[inline]
    pub fn flush_lines(&mut self, into: &mut Buffer) -> usize {
        self.flush(self.len.min(into.room()) / LINE_BYTES * LINE_BYTES, into)
    }

    /// Moves everything that fits to the end of `into`, the partial line included, and carries the rest to the front.
    /// Returns the bytes moved. What is flushed into the same buffer afterwards starts in the middle of a line, and is
    /// copied instead of streamed.
    #[inline]
    pub fn flush_all(&mut self, into: &mut Buffer) -> usize {
        self.flush(self.len.min(into.room()), into)
    }

    /// Moves exactly `bytes`, a partial line included: what fills a buffer up to a boundary of the caller's.
    ///
    /// # Panics
    /// When so many are not there, or do not fit.
    #[inline]
    pub fn flush_bytes(&mut self, bytes: usize, into: &mut Buffer) {
        assert!(bytes <= self.len.min(into.room()), "{bytes} bytes are not there, or do not fit");
        self.flush(bytes, into);
    }

    /// Moves everything to the end of `into`.
    pub fn drain_to(&mut self, into: &mut Vec<u8>) {
        // SAFETY: every byte of `lines` is initialised, by `new` and by rows that are `Solid`.
        into.extend_from_slice(unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<u8>(), self.len) });
        self.len = 0;
    }

    fn flush(&mut self, bytes: usize, into: &mut Buffer) -> usize {
        let spare = into.spare_mut();
        if self.how == Streaming::NonTemporal && spare.as_ptr().cast::<Line>().is_aligned() {
            // A partial line is streamed whole: what lies behind it in the buffer is room, and of no value.
            let lines = bytes.div_ceil(LINE_BYTES);
            debug_assert!(lines * LINE_BYTES <= spare.len(), "from a line's start, the room is whole lines");
            // SAFETY: source and target are aligned and apart. `lines` holds `bytes`, rounded up to lines. So does
            // `spare`: it starts on a line, at least `bytes` long, and a payload ends on a line.
            unsafe { stream_lines(self.lines.as_ptr(), spare.as_mut_ptr().cast(), lines) };
        } else {
            // SAFETY: every byte of `lines` is initialised, by `new` and by rows that are `Solid`.
            let gathered = unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<u8>(), self.len) };
            spare[..bytes].copy_from_slice(&gathered[..bytes]);
        }
        into.advance(bytes);
        self.carry(bytes);
        bytes
    }

    /// Moves what lies behind the first `bytes` to the front.
    #[inline(always)]
    fn carry(&mut self, bytes: usize) {
        let rest = self.len - bytes;
        if bytes.is_multiple_of(LINE_BYTES) && rest < LINE_BYTES {
            // The usual case, and no loop: a partial line behind whole ones. With nothing left it copies a dead line.
            self.lines[0] = self.lines[bytes / LINE_BYTES];
        } else {
            let front = self.lines.as_mut_ptr().cast::<u8>();
            // SAFETY: both ranges are within the first `len` bytes of `lines`, and `copy` allows them to overlap.
            unsafe { front.copy_from(front.add(bytes), rest) };
        }
        self.len = rest;
    }
}

/// Spreads rows over two stages, where `row` says which: false the first, true the second.
///
/// Every row is written to both and only the right one moves on, so that nothing depends on which it was: no branch to
/// mispredict, and both lengths stay in registers, where [`push`](Stage::push) makes a row wait for the length that the
/// last one stored. Measured 0.82 ns a row against 1.3 to 1.5 with two stages; with four it loses.
///
/// # Panics
/// When one of them has no room for all `rows`.
#[inline(always)]
pub fn spread_over_two<R: Solid>(
    first: &mut Stage,
    second: &mut Stage,
    rows: usize,
    mut row: impl FnMut(usize) -> (bool, R),
) {
    let bytes = rows * size_of::<R>();
    assert!(bytes <= first.room() && bytes <= second.room(), "flush before a group that may not fit");
    let (first_at, second_at) = (first.lines.as_mut_ptr().cast::<u8>(), second.lines.as_mut_ptr().cast::<u8>());
    let (mut first_len, mut second_len) = (first.len, second.len);
    for index in 0..rows {
        let (is_second, row) = row(index);
        // SAFETY: neither length grows by more than `bytes`, for which there is room; a row that is not kept is
        // overwritten or lies behind the length, within `lines`.
        unsafe {
            first_at.add(first_len).cast::<R>().write_unaligned(row);
            second_at.add(second_len).cast::<R>().write_unaligned(row);
        }
        first_len += size_of::<R>() * usize::from(!is_second);
        second_len += size_of::<R>() * usize::from(is_second);
    }
    (first.len, second.len) = (first_len, second_len);
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stage({} of {} bytes, {:?})", self.len, self.bytes_max, self.how)
    }
}

#[cold]
#[inline(never)]
fn overfull(row_bytes: usize, room: usize) -> ! {
    panic!("a row of {row_bytes} bytes does not fit the {room} left of a stage: flush before its room runs out")
}

/// Copies whole lines past the cache, in the widest stores the build allows. Narrower ones are no slower as long as a
/// line's stores come together: the core gathers them.
///
/// # Safety
/// `from` and `to` are aligned to a line, valid for `lines` of them and apart. The stores are ordered only by
/// [`drain_stores`], which must come before the target is handed to another thread or freed.
#[inline(always)]
unsafe fn stream_lines(from: *const Line, to: *mut Line, lines: usize) {
    for line in 0..lines {
        // SAFETY: within both ranges, as the caller promises, and aligned for the widest store.
        unsafe { stream_line(from.add(line), to.add(line)) }
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "avx512f"))]
#[inline(always)]
unsafe fn stream_line(from: *const Line, to: *mut Line) {
    use std::arch::x86_64::{_mm512_load_si512, _mm512_stream_si512};
    // SAFETY: the caller promises both lines, aligned, which is what these ask for.
    unsafe { _mm512_stream_si512(to.cast(), _mm512_load_si512(from.cast())) }
}

#[cfg(all(target_arch = "x86_64", target_feature = "avx", not(target_feature = "avx512f")))]
#[inline(always)]
unsafe fn stream_line(from: *const Line, to: *mut Line) {
    use std::arch::x86_64::{__m256i, _mm256_load_si256, _mm256_stream_si256};
    let (from, to) = (from.cast::<__m256i>(), to.cast::<__m256i>());
    // SAFETY: the caller promises both lines, aligned; two halves of 32 bytes each.
    unsafe {
        _mm256_stream_si256(to, _mm256_load_si256(from));
        _mm256_stream_si256(to.add(1), _mm256_load_si256(from.add(1)));
    }
}

#[cfg(all(target_arch = "x86_64", not(target_feature = "avx")))]
#[inline(always)]
unsafe fn stream_line(from: *const Line, to: *mut Line) {
    use std::arch::x86_64::{__m128i, _mm_load_si128, _mm_stream_si128};
    let (from, to) = (from.cast::<__m128i>(), to.cast::<__m128i>());
    for quarter in 0..4 {
        // SAFETY: the caller promises both lines, aligned; four quarters of 16 bytes each.
        unsafe { _mm_stream_si128(to.add(quarter), _mm_load_si128(from.add(quarter))) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn stream_line(from: *const Line, to: *mut Line) {
    // SAFETY: the caller promises both lines.
    unsafe { *to = *from }
}

/// Waits until this thread's streaming stores are as ordered as any other: no later store is seen before them.
#[inline(always)]
pub(crate) fn drain_stores() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a fence; every x86-64 has it.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
