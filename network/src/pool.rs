//! The pool: the memory of one lane, allocated once.
//!
//! ```text
//!  | slot 0: buffer 64 KiB | home 64 | slot 1: buffer 64 KiB | home 64 | …     aligned to 4 KiB, or 2 MiB when that large
//! ```
//!
//! * **Touched by the sender.** The memory is reserved when the lane is laid, by whichever thread that is, and first
//!   written by the thread that fills it, so that the kernel places its pages on that thread's node.
//! * **Freed by the last share.** Shares are the pool's own and one per buffer. Ends of a lane come and go in any order,
//!   and a buffer may outlive both.
//!
//! The home line costs 0.1 % of the memory. It also keeps the headers of neighbouring buffers out of the same cache set,
//! where 64 KiB apart they would all be.

#![expect(
    unsafe_code,
    reason = "one aligned allocation carved into slots; proven by tests/lanes.rs, also under AddressSanitizer"
)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use crate::LINE_BYTES;
use crate::buffer::{BUFFER_BYTES, Buffer, PAYLOAD_BYTES_MAX};
use crate::frame::{Header, Route};
use crate::stage::drain_stores;

const PAGE_BYTES: usize = 4 << 10;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A buffer and its way home.
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) header: Header,
    pub(crate) payload: [u8; PAYLOAD_BYTES_MAX],
    pub(crate) home: Home,
}

/// The line behind a buffer.
#[repr(C, align(64))]
pub(crate) struct Home {
    pub(crate) arena: NonNull<Arena>,
}

const _: () = {
    assert!(std::mem::offset_of!(Slot, header) == 0 && std::mem::offset_of!(Slot, payload) == size_of::<Header>());
    assert!(std::mem::offset_of!(Slot, payload) + PAYLOAD_BYTES_MAX == BUFFER_BYTES);
    assert!(std::mem::offset_of!(Slot, home) == BUFFER_BYTES && size_of::<Slot>() == BUFFER_BYTES + LINE_BYTES);
};

/// The allocation and the count of those who hold a share in it.
pub(crate) struct Arena {
    slots: NonNull<Slot>,
    layout: Layout,
    shares: AtomicUsize,
}

impl Arena {
    /// Where the slots lie, and how many bytes they are.
    pub(crate) fn memory(&self) -> (*const u8, usize) {
        (self.slots.as_ptr().cast::<u8>(), self.layout.size())
    }

    /// Gives one share back; the last frees the memory.
    ///
    /// # Safety
    /// The caller owns a share, and uses neither it nor anything of the arena again.
    pub(crate) unsafe fn let_go(arena: NonNull<Arena>) {
        // Streaming stores of this thread must have landed before another thread can free the memory under them.
        drain_stores();
        // SAFETY: the caller's share keeps the arena alive up to here.
        let shares = unsafe { arena.as_ref() }.shares.fetch_sub(1, Ordering::Release);
        if shares == 1 {
            // Everybody's last use came before their `Release` above.
            fence(Ordering::Acquire);
            // SAFETY: the last share: nobody else knows the arena any more. It came from `Box::leak`, and the slots
            // from `alloc` with this layout.
            unsafe {
                let arena = Box::from_raw(arena.as_ptr());
                dealloc(arena.slots.as_ptr().cast(), arena.layout);
            }
        }
    }
}

/// The sender's share of a lane's memory, before and after its first use.
pub(crate) struct Pool {
    arena: NonNull<Arena>,
    buffers: usize,
    /// Buffers handed out by `touch`: none, or all.
    touched: usize,
}

// SAFETY: `arena` points to a heap allocation whose only shared part, the count, is atomic; the slots are reached through
// it by `touch` alone, which has `&mut self`, and before any buffer exists.
unsafe impl Send for Pool {}

impl Pool {
    /// Reserves the memory of `buffers` buffers without touching it.
    ///
    /// # Panics
    /// When `buffers` is zero, or more than the address space holds.
    pub(crate) fn reserve(buffers: usize) -> Pool {
        assert!(buffers > 0, "a lane without buffers moves nothing");
        let (slots, _) =
            Layout::new::<Slot>().repeat(buffers).expect("the caller asks for less than the address space");
        let align = if slots.size() >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { PAGE_BYTES };
        let layout = slots.align_to(align).expect("a power of two, and far from the end of the address space");
        // SAFETY: the layout is not empty.
        let Some(slots) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        if align == HUGE_PAGE_BYTES {
            // Advice only: where huge pages are off, the pool works with small ones, so the answer does not matter.
            // SAFETY: the range is our own allocation, and MADV_HUGEPAGE changes no content.
            unsafe { libc::madvise(slots.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        let arena = Arena { slots: slots.cast(), layout, shares: AtomicUsize::new(1) };
        Pool { arena: NonNull::from(Box::leak(Box::new(arena))), buffers, touched: 0 }
    }

    /// Writes the whole memory for the first time and hands out its buffers, each the start of a frame on `route`.
    ///
    /// # Panics
    /// When called twice.
    pub(crate) fn touch(&mut self, route: Route) -> impl Iterator<Item = Buffer> {
        assert_eq!(self.touched, 0, "a pool hands its buffers out once");
        // SAFETY: our own share keeps the arena alive.
        let arena = unsafe { self.arena.as_ref() };
        arena.shares.fetch_add(self.buffers, Ordering::Relaxed);
        self.touched = self.buffers;
        let (home, slots) = (self.arena, arena.slots);
        (0..self.buffers).map(move |index| {
            // SAFETY: `index` is within the allocation, whose slots no buffer shows yet. The slot is written whole,
            // payload included, before anybody can read it; its share was counted above.
            unsafe {
                let slot = slots.add(index);
                slot.write_bytes(0, 1);
                (&raw mut (*slot.as_ptr()).header).write(Header::new(route));
                (&raw mut (*slot.as_ptr()).home).write(Home { arena: home });
                Buffer::from_slot(slot)
            }
        })
    }

    /// Whether `touch` has been called.
    #[inline(always)]
    pub(crate) fn is_touched(&self) -> bool {
        self.touched > 0
    }

    /// Buffers the memory is carved into.
    pub(crate) fn buffers(&self) -> usize {
        self.buffers
    }

    /// Buffers that were dropped, and will not come back.
    pub(crate) fn lost(&self) -> usize {
        // SAFETY: our own share keeps the arena alive.
        let shares = unsafe { self.arena.as_ref() }.shares.load(Ordering::Relaxed);
        self.touched + 1 - shares
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the pool's share ends here.
        unsafe { Arena::let_go(self.arena) }
    }
}
