//! A ring from one thread to one other: bounded, without locks and without an atomic read-modify-write.
//!
//! ```text
//!   slots   | . | . | c | d | e | . | . | . |        head: the next to be popped, written by the consumer
//!                     ▲           ▲                  tail: the next to be pushed, written by the producer
//!                    head        tail                both count up for ever; slot = count mod capacity
//! ```
//!
//! Each end keeps the last value it saw of the other end's counter and asks again only when by that value the ring is
//! full, or empty. Between cores that share no cache a look costs 400 ns, so that under load most pushes and pops must do
//! without: one look then serves as many items as had gathered.

#![expect(unsafe_code, reason = "single-producer single-consumer slots, model-checked in tests/loom_ring.rs")]

use std::fmt;
use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;

use crate::atomics::{Arc, AtomicUsize, Ordering, UnsafeCell};

struct Slots<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    head: CachePadded<AtomicUsize>,
    tail: CachePadded<AtomicUsize>,
}

// SAFETY: a slot is used by one end at a time: the producer between the consumer's `Release` store of `head` and its own
// of `tail`, the consumer the other way round. Items pass from one thread to another, hence `T: Send`; they are never
// shared, hence no `T: Sync`.
unsafe impl<T: Send> Sync for Slots<T> {}

/// The end that pushes.
pub struct Producer<T> {
    shared: Arc<Slots<T>>,
    tail: usize,
    head_seen: usize,
}

/// The end that pops.
pub struct Consumer<T> {
    shared: Arc<Slots<T>>,
    head: usize,
    tail_seen: usize,
}

/// A ring with room for at least `items_min` items: the next power of two.
///
/// ```
/// let (mut producer, mut consumer) = millstream_network::ring::ring(2);
/// producer.push("a").unwrap();
/// producer.push("b").unwrap();
/// assert_eq!(producer.push("c"), Err("c"), "full: the item comes back");
/// assert_eq!(consumer.pop(), Some("a"));
/// ```
///
/// # Panics
/// When `items_min` is zero.
#[must_use]
pub fn ring<T: Send>(items_min: usize) -> (Producer<T>, Consumer<T>) {
    assert!(items_min > 0, "a ring without slots moves nothing");
    let slots = (0..items_min.next_power_of_two()).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let shared = Arc::new(Slots {
        slots,
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
    });
    let producer = Producer { shared: Arc::clone(&shared), tail: 0, head_seen: 0 };
    (producer, Consumer { shared, head: 0, tail_seen: 0 })
}

impl<T> Slots<T> {
    /// The slot of a count: the capacity is a power of two, so the mask keeps every count within.
    #[inline(always)]
    fn slot(&self, count: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[count & (self.slots.len() - 1)]
    }
}

impl<T: Send> Producer<T> {
    /// Items the ring can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    /// How many items surely fit: the consumer may make more room at any time.
    #[must_use]
    pub fn room(&mut self) -> usize {
        self.head_seen = self.shared.head.load(Ordering::Acquire);
        self.capacity() - self.tail.wrapping_sub(self.head_seen)
    }

    /// Appends an item.
    ///
    /// # Errors
    /// When the ring is full, the item comes back.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.tail.wrapping_sub(self.head_seen) == self.capacity() && self.room() == 0 {
            return Err(item);
        }
        self.shared.slot(self.tail).with_mut(|slot| {
            // SAFETY: `tail` belongs to the only producer (`Producer` is not `Clone`), and the consumer is done with
            // this slot: `head` had passed it when we read it with `Acquire`.
            unsafe { (*slot).write(item) };
        });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.store(self.tail, Ordering::Release);
        Ok(())
    }
}

impl<T: Send> Consumer<T> {
    /// How many items are surely there: the producer may add more at any time.
    #[must_use]
    pub fn len(&mut self) -> usize {
        self.tail_seen = self.shared.tail.load(Ordering::Acquire);
        self.tail_seen.wrapping_sub(self.head)
    }

    /// Whether nothing is there now. Looks at the producer's counter only when what was seen of it is used up.
    #[must_use]
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        self.head == self.tail_seen && self.len() == 0
    }

    /// Takes the oldest item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let item = self.shared.slot(self.head).with(|slot| {
            // SAFETY: `head` belongs to the only consumer (`Consumer` is not `Clone`), and the producer published this
            // slot with the `Release` store of `tail` that we read with `Acquire`. It is not read again before the
            // producer has written it anew, since `head` moves on below.
            unsafe { (*slot).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        self.shared.head.store(self.head, Ordering::Release);
        Some(item)
    }
}

impl<T> Drop for Slots<T> {
    fn drop(&mut self) {
        // Both ends are gone, and dropping the last `Arc` ordered their stores before this.
        let mut head = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed);
        while head != tail {
            self.slot(head).with_mut(|slot| {
                // SAFETY: the slots from `head` to `tail` hold items that were pushed and never popped.
                unsafe { (*slot).assume_init_drop() };
            });
            head = head.wrapping_add(1);
        }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("pushed", &self.tail).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("popped", &self.head).finish_non_exhaustive()
    }
}
