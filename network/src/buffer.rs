//! The buffer: the unit that travels a lane, and the handle that owns it.
//!
//! ```text
//!  |◀───────────────────── BUFFER_BYTES, 64-byte aligned ─────────────────────▶|
//!  | header 64 | payload, written from the front …      | room                 | home 64 |
//! ```
//!
//! A [`Buffer`] is one pointer. The line behind it, `home`, points to the pool it was carved from; it is written once,
//! and read again only when the buffer dies.
//!
//! **Why the handle stays valid.** A pool frees its memory when its last share is gone, and every `Buffer` is a share.
//! Handing a buffer from hand to hand moves the share and touches no counter; only dropping one does, and in steady state
//! none is dropped.
//!
//! **A buffer belongs to one thread at a time, and is not [`Send`].** It may have been written with streaming stores, which
//! a plain hand-over does not order; [`Sender::send`](crate::Sender::send) and
//! [`Receiver::release`](crate::Receiver::release) do, and are the only ways to another thread.

#![expect(
    unsafe_code,
    reason = "a handle to memory that two threads use in turn; proven by tests/lanes.rs, also under AddressSanitizer"
)]

use std::fmt;
use std::ptr::NonNull;

use crate::LINE_BYTES;
use crate::frame::{HEADER_BYTES, Header};
use crate::pool::{Arena, Slot};

/// Bytes of a buffer, header included. Streamed from core to core, buffers of 16, 64 and 256 KiB moved 15, 22 and 24 GB/s:
/// beyond 64 KiB there is little to gain for four times the memory and the wait.
pub const BUFFER_BYTES: usize = 64 << 10;

/// Bytes of payload a buffer can hold: a whole number of lines.
pub const PAYLOAD_BYTES_MAX: usize = BUFFER_BYTES - HEADER_BYTES;

const _: () = assert!(PAYLOAD_BYTES_MAX.is_multiple_of(LINE_BYTES), "the last line of a payload is a whole one");

/// The owning handle of one buffer.
///
/// To drop it is sound and never what one wants in a running job: the buffer does not come back to its lane, which has one
/// less from then on ([`Sender::lost`](crate::Sender::lost) counts them). Send it, or release it.
///
/// ```compile_fail,E0277
/// fn goes_to_another_thread<T: Send>() {}
/// goes_to_another_thread::<millstream_network::Buffer>(); // only through a lane, which orders what was written
/// ```
pub struct Buffer {
    slot: NonNull<Slot>,
}

impl Buffer {
    /// Takes ownership of a slot.
    ///
    /// # Safety
    /// `slot` is fully initialised, its `home` points to the arena it lies in, that arena counts a share for it, and no
    /// other `Buffer` exists for it.
    pub(crate) unsafe fn from_slot(slot: NonNull<Slot>) -> Buffer {
        Buffer { slot }
    }

    /// The header.
    #[must_use]
    #[inline(always)]
    pub fn header(&self) -> &Header {
        // SAFETY: the slot is initialised and lives as long as its share, which is this handle; `&self` shares it for
        // reading, and whoever had it before is ordered by the lane's rings.
        unsafe { &(*self.slot.as_ptr()).header }
    }

    /// The header, for writing.
    #[inline(always)]
    pub fn header_mut(&mut self) -> &mut Header {
        // SAFETY: as in `header`, and `&mut self` is the only way to this slot. A header copied over from another
        // buffer does no harm: its payload length was within the same bound.
        unsafe { &mut (*self.slot.as_ptr()).header }
    }

    /// The payload written so far.
    #[must_use]
    #[inline(always)]
    pub fn payload(&self) -> &[u8] {
        // SAFETY: the slot's bytes were all initialised when the pool was touched, and `header` says at most
        // `PAYLOAD_BYTES_MAX` of them (`advance` checks); `&self` as in `header`.
        unsafe { std::slice::from_raw_parts((&raw const (*self.slot.as_ptr()).payload).cast(), self.len()) }
    }

    /// The frame as it travels: the header, and right behind it the payload written so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: header and payload lie one behind the other at the slot's start, as drawn above and asserted where the
        // slot is; otherwise as in `payload`.
        unsafe { std::slice::from_raw_parts(self.slot.as_ptr().cast(), HEADER_BYTES + self.len()) }
    }

    /// The memory of the whole pool that the buffer was carved from, as the kernel may be told of it: its address and
    /// bytes.
    #[must_use]
    pub(crate) fn pool_memory(&self) -> (*const u8, usize) {
        // SAFETY: the slot and its arena are alive as long as this share.
        unsafe { (*self.slot.as_ptr()).home.arena.as_ref() }.memory()
    }

    /// Bytes of payload written so far.
    #[must_use]
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.header().payload_bytes()
    }

    /// Whether no payload has been written.
    #[must_use]
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of payload that still fit.
    #[must_use]
    #[inline(always)]
    pub fn room(&self) -> usize {
        PAYLOAD_BYTES_MAX - self.len()
    }

    /// The room behind the payload, to be written and then claimed with [`advance`](Buffer::advance). It holds bytes of
    /// earlier frames.
    #[must_use]
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let len = self.len();
        // SAFETY: as in `payload`, with `&mut self` for writing.
        let whole = unsafe { &mut (*self.slot.as_ptr()).payload };
        &mut whole[len..]
    }

    /// Counts `bytes` of the room as written.
    ///
    /// # Panics
    /// When there is not that much room.
    #[inline(always)]
    pub fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.room(), "{bytes} bytes do not fit the {} left of a buffer", self.room());
        let len = self.len() + bytes;
        self.header_mut().set_payload_bytes(len);
    }

    /// Appends bytes with plain stores.
    ///
    /// # Panics
    /// When they do not fit: see [`room`](Buffer::room).
    pub fn append(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "{} bytes do not fit the {} left of a buffer", bytes.len(), self.room());
        self.spare_mut()[..bytes.len()].copy_from_slice(bytes);
        self.advance(bytes.len());
    }
}

impl Drop for Buffer {
    #[cold]
    fn drop(&mut self) {
        // SAFETY: the slot and its arena are alive as long as this share, which ends here and is not used again.
        unsafe { Arena::let_go((*self.slot.as_ptr()).home.arena) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({:?})", self.header())
    }
}
