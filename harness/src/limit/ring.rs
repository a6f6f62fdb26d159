//! A ring of recycled buffers from one core to one other, rows in two columns, written by non-temporal stores.
//!
//! ```text
//! sender    stage (own cache) ──whole lines, streamed──▶ buffer at tail ──one release store──▶ receiver reads in place
//!                                                        buffers behind head are free again ◀──one release store──
//! buffer  | keys: capacity × key | times: capacity × 8, or nothing | rows | last |
//! ```
//!
//! A buffer that was read lies in the reader's cache. Plain stores into it fetch every line from there first: 1 ns an
//! event where the cores share a cache and 3.4 ns where they do not. Streamed stores take 0.5 ns in both cases.
#![expect(unsafe_code, reason = "buffers change hands by two indices; lines are streamed past the cache")]

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::exchange::{Receives, Sends};
use crate::ysb::event::UuidText;

/// Buffers of a ring: enough that neither side waits for the other's batch to end, few enough to stay in the cache.
const BUFFERS: usize = 16;

/// Bytes of a buffer, about. From 16 KiB on a larger buffer gains little, beyond 256 KiB nothing.
const BUFFER_BYTES: usize = 128 << 10;

/// Rows that fill whole lines in each column, for all key sizes that are a multiple of four bytes.
const GROUP_ROWS: usize = 16;

const LINE_BYTES: usize = 64;

/// A value that is its bytes.
///
/// # Safety
/// No padding; every pattern of bytes is a value; a multiple of four bytes.
pub(crate) unsafe trait Bytes: Copy + Send + Sync + 'static {}

// SAFETY: an integer of eight bytes.
unsafe impl Bytes for u64 {}
// SAFETY: an integer of eight bytes.
unsafe impl Bytes for i64 {}
// SAFETY: 36 bytes.
unsafe impl Bytes for UuidText {}
// SAFETY: no bytes at all: a column that is not there.
unsafe impl Bytes for () {}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

/// Values side by side, beginning on a line.
struct Column<T> {
    lines: Vec<Line>,
    values: std::marker::PhantomData<T>,
}

impl<T: Bytes> Column<T> {
    fn new(groups: usize) -> Column<T> {
        let lines = groups * GROUP_ROWS * size_of::<T>() / LINE_BYTES;
        Column { lines: vec![Line([0; LINE_BYTES]); lines], values: std::marker::PhantomData }
    }

    fn values(&self, rows: usize) -> &[T] {
        assert!(rows * size_of::<T>() <= self.lines.len() * LINE_BYTES);
        // SAFETY: the lines hold that many bytes, begin on 64, and any bytes are values of a `Bytes`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), rows) }
    }

    /// Writes `values` from row `at` on, which begins a group: whole groups past the cache, the rest plainly.
    #[inline(always)]
    fn write(&mut self, at: usize, values: &[T]) {
        let room_bytes = self.lines.len() * LINE_BYTES;
        assert!(at.is_multiple_of(GROUP_ROWS) && (at + values.len()) * size_of::<T>() <= room_bytes);
        let streamed_bytes = values.len() / GROUP_ROWS * GROUP_ROWS * size_of::<T>();
        // SAFETY: both ranges are inside their vectors, which do not overlap; the destination begins a group, and a
        // group begins on a line.
        unsafe {
            let from = values.as_ptr().cast::<u8>();
            let to = self.lines.as_mut_ptr().cast::<u8>().add(at * size_of::<T>());
            stream(to, from, streamed_bytes);
            let rest = size_of_val(values) - streamed_bytes;
            std::ptr::copy_nonoverlapping(from.add(streamed_bytes), to.add(streamed_bytes), rest);
        }
    }
}

/// Copies whole lines past the cache.
///
/// # Safety
/// `to` begins on a line, `bytes` is a multiple of one, both ranges are valid and apart.
#[inline(always)]
unsafe fn stream(to: *mut u8, from: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(LINE_BYTES) {
        #[cfg(target_feature = "avx512f")]
        // SAFETY: as the caller promised; the core has these instructions, or this was not compiled.
        unsafe {
            use std::arch::x86_64::{_mm512_loadu_si512, _mm512_stream_si512};
            _mm512_stream_si512(to.add(at).cast(), _mm512_loadu_si512(from.add(at).cast()));
        }
        #[cfg(all(target_arch = "x86_64", not(target_feature = "avx512f")))]
        for part in (at..at + LINE_BYTES).step_by(16) {
            // SAFETY: as the caller promised; every x86-64 core has these instructions.
            unsafe {
                use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};
                _mm_stream_si128(to.add(part).cast(), _mm_loadu_si128(from.add(part).cast()));
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: as the caller promised.
        unsafe {
            std::ptr::copy_nonoverlapping(from.add(at), to.add(at), LINE_BYTES);
        }
    }
}

/// Makes streamed stores visible before whatever is stored next: they are outside the usual order.
#[inline(always)]
fn fence_streams() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 core has this instruction, and it changes nothing.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Rows in columns.
struct Buffer<K, T> {
    keys: Column<K>,
    times: Column<T>,
    rows: usize,
    /// Nothing follows.
    last: bool,
}

impl<K: Bytes, T: Bytes> Buffer<K, T> {
    fn new() -> Buffer<K, T> {
        let groups = Self::capacity() / GROUP_ROWS;
        Buffer { keys: Column::new(groups), times: Column::new(groups), rows: 0, last: false }
    }

    /// How many rows fit.
    const fn capacity() -> usize {
        BUFFER_BYTES / (size_of::<K>() + size_of::<T>()) / GROUP_ROWS * GROUP_ROWS
    }

    /// The keys held.
    fn keys(&self) -> &[K] {
        self.keys.values(self.rows)
    }

    /// Their times.
    fn times(&self) -> &[T] {
        self.times.values(self.rows)
    }

    /// Whether no further row fits.
    fn is_full(&self) -> bool {
        self.rows == Self::capacity()
    }

    /// Takes as many rows as fit and says how many. All but the last rows of a ring come in whole groups.
    #[inline(always)]
    fn append(&mut self, keys: &[K], times: &[T]) -> usize {
        let rows = keys.len().min(Self::capacity() - self.rows);
        self.keys.write(self.rows, &keys[..rows]);
        self.times.write(self.rows, &times[..rows]);
        self.rows += rows;
        rows
    }
}

/// Alone on its line and on the one that is fetched along with it.
#[repr(align(128))]
struct Index(AtomicUsize);

struct Ring<K, T> {
    buffers: Vec<UnsafeCell<Buffer<K, T>>>,
    /// Buffers read so far; written by the receiver.
    head: Index,
    /// Buffers filled so far; written by the sender.
    tail: Index,
}

// SAFETY: a buffer belongs to the sender from the store of `head` that frees it to the store of `tail` that fills it,
// and to the receiver from there on. Both stores are releases, both loads acquires, and each end exists once.
unsafe impl<K: Bytes, T: Bytes> Sync for Ring<K, T> {}

/// The end that fills buffers.
pub(crate) struct Sender<K, T> {
    ring: Arc<Ring<K, T>>,
    tail: usize,
    head_seen: usize,
}

/// The end that reads them.
pub(crate) struct Receiver<K, T> {
    ring: Arc<Ring<K, T>>,
    head: usize,
    tail_seen: usize,
}

/// A ring's two ends.
pub(crate) fn ring<K: Bytes, T: Bytes>() -> (Sender<K, T>, Receiver<K, T>) {
    let ring = Arc::new(Ring {
        buffers: (0..BUFFERS).map(|_| UnsafeCell::new(Buffer::new())).collect(),
        head: Index(AtomicUsize::new(0)),
        tail: Index(AtomicUsize::new(0)),
    });
    (Sender { ring: ring.clone(), tail: 0, head_seen: 0 }, Receiver { ring, head: 0, tail_seen: 0 })
}

impl<K: Bytes, T: Bytes> Sender<K, T> {
    /// The buffer being filled; none while all are on their way.
    #[inline(always)]
    fn open(&mut self) -> Option<&mut Buffer<K, T>> {
        if self.tail - self.head_seen == BUFFERS {
            self.head_seen = self.ring.head.0.load(Ordering::Acquire);
            if self.tail - self.head_seen == BUFFERS {
                return None;
            }
        }
        // SAFETY: the receiver has freed this buffer and will not look at it before `publish`; there is one sender, and
        // the reference borrows it.
        Some(unsafe { &mut *self.ring.buffers[self.tail % BUFFERS].get() })
    }

    /// Hands over the open buffer.
    ///
    /// # Panics
    /// When none is open.
    fn publish(&mut self) {
        assert!(self.tail - self.head_seen < BUFFERS, "only an open buffer is published");
        fence_streams();
        self.tail += 1;
        self.ring.tail.0.store(self.tail, Ordering::Release);
    }
}

impl<K: Bytes, T: Bytes> Receiver<K, T> {
    /// The oldest filled buffer, until it is released.
    #[inline(always)]
    fn next(&mut self) -> Option<&Buffer<K, T>> {
        if self.head == self.tail_seen {
            self.tail_seen = self.ring.tail.0.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        // SAFETY: the sender has published this buffer and will not look at it before `release`; there is one receiver,
        // and the reference borrows it.
        Some(unsafe { &*self.ring.buffers[self.head % BUFFERS].get() })
    }

    /// Gives back the buffer that `next` showed.
    ///
    /// # Panics
    /// When there is none.
    fn release(&mut self) {
        assert!(self.head < self.tail_seen, "only a buffer that was read is released");
        // SAFETY: as in `next`. Emptied here, so that the sender finds it so.
        unsafe { (*self.ring.buffers[self.head % BUFFERS].get()).rows = 0 };
        self.head += 1;
        self.ring.head.0.store(self.head, Ordering::Release);
    }
}

impl<K: Bytes, T: Bytes> Sends<K, T> for Sender<K, T> {
    const GROUP_ROWS: usize = GROUP_ROWS;

    #[inline(always)]
    fn send(&mut self, keys: &[K], times: &[T]) -> usize {
        let Some(buffer) = self.open() else { return 0 };
        let rows = buffer.append(keys, times);
        if buffer.is_full() {
            self.publish();
        }
        rows
    }

    fn end(&mut self) -> bool {
        let Some(buffer) = self.open() else { return false };
        buffer.last = true;
        self.publish();
        true
    }
}

impl<K: Bytes, T: Bytes> Receives<K, T> for Receiver<K, T> {
    const LOOK_AFTER_BATCHES: u32 = 1;

    #[inline(always)]
    fn receive(&mut self, see: impl FnOnce(&[K], &[T], bool)) -> bool {
        let Some(buffer) = self.next() else { return false };
        see(buffer.keys(), buffer.times(), buffer.last);
        self.release();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ysb::event::uuid_text;

    /// Sends 0, 1, 2, … in portions of all sizes and finds them in order on another thread.
    fn carries<K: Bytes + PartialEq + std::fmt::Debug>(key_of: impl Fn(u64) -> K + Copy + Send) {
        const ROWS: u64 = 500_000;
        let (mut sender, mut receiver) = ring();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut next, mut portion) = (0, 0);
                while next < ROWS {
                    portion = (portion + GROUP_ROWS) % 1024;
                    let rows = (next..ROWS).take(portion);
                    let times_ms: Vec<i64> = rows.clone().map(|row| row as i64).collect();
                    let keys: Vec<K> = rows.map(key_of).collect();
                    let mut sent = 0;
                    while sent < keys.len() {
                        match sender.send(&keys[sent..], &times_ms[sent..]) {
                            0 => std::thread::yield_now(),
                            rows => sent += rows,
                        }
                    }
                    next += sent as u64;
                }
                while !sender.end() {
                    std::thread::yield_now();
                }
            });
            let (mut next, mut ended) = (0, false);
            while !ended {
                let seen = receiver.receive(|keys, times_ms, last| {
                    for (key, time_ms) in keys.iter().zip(times_ms) {
                        assert_eq!((*key, *time_ms), (key_of(next), next as i64));
                        next += 1;
                    }
                    ended = last;
                });
                if !seen {
                    std::thread::yield_now();
                }
            }
            assert_eq!(next, ROWS);
            assert!(receiver.next().is_none());
        });
    }

    #[test]
    fn rows_arrive_in_order_and_whole() {
        carries(|row| row.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        carries(uuid_text);
    }

    #[test]
    fn a_full_ring_opens_nothing_until_a_buffer_is_released() {
        let (mut sender, mut receiver) = ring::<u64, i64>();
        for key in 0..BUFFERS as u64 {
            assert_eq!(sender.open().unwrap().append(&[key], &[0]), 1);
            sender.publish();
        }
        assert!(sender.open().is_none());
        assert_eq!(receiver.next().unwrap().keys(), [0]);
        assert!(sender.open().is_none());
        receiver.release();
        assert!(sender.open().unwrap().keys().is_empty());
    }

    #[test]
    #[should_panic(expected = "only a buffer that was read is released")]
    fn nothing_is_released_unread() {
        ring::<u64, i64>().1.release();
    }
}
