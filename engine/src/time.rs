//! Time: event time as a number, and the one door to the wall clock.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Event time in milliseconds since the Unix epoch; may be negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[repr(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Before every event: the watermark of an input that has said nothing yet.
    pub const MIN: Timestamp = Timestamp(i64::MIN);
    /// After every event: the watermark of a bounded input that has ended.
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// The timestamp `ms` milliseconds later, saturating at the ends.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(ms))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Timestamp::MIN => f.write_str("-inf"),
            Timestamp::MAX => f.write_str("+inf"),
            Timestamp(ms) => write!(f, "{ms} ms"),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Nanoseconds of a clock that never goes back; only differences mean something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Time from `earlier` to `self`, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Nanos) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The one door to wall time. Cloning is cheap; clones share a held hand.
///
/// A test holds it still with [`Clock::held`], or has its wall time jump with [`Clock::jumping`], and moves either with
/// [`Clock::advance_ms`].
#[derive(Clone, Default, Debug)]
pub struct Clock {
    hand: Hand,
}

#[derive(Clone, Default, Debug)]
enum Hand {
    #[default]
    System,
    /// Both times stand where the number says.
    Held(Arc<AtomicI64>),
    /// Wall time is off by the number.
    Off(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Clock {
        Clock { hand: Hand::System }
    }

    /// A clock that stands at `ms` until moved.
    #[must_use]
    pub fn held(ms: i64) -> Clock {
        Clock { hand: Hand::Held(Arc::new(AtomicI64::new(ms))) }
    }

    /// The system's clock, except that wall time can be set: what an operator or a time service does to a machine.
    #[must_use]
    pub fn jumping() -> Clock {
        Clock { hand: Hand::Off(Arc::default()) }
    }

    /// Moves a held clock on by `ms`, or the wall time of a jumping one, backwards too; the system's clock is not moved.
    pub fn advance_ms(&self, ms: i64) {
        if let Hand::Held(by) | Hand::Off(by) = &self.hand {
            by.fetch_add(ms, Ordering::Relaxed);
        }
    }

    /// Wall time, milliseconds since the Unix epoch.
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        match &self.hand {
            // A test may hold it at an end of time, of which there are no microseconds.
            Hand::Held(at) => at.load(Ordering::Relaxed),
            Hand::System | Hand::Off(_) => self.wall_us().div_euclid(1000),
        }
    }

    /// Wall time, microseconds since the Unix epoch.
    #[must_use]
    pub fn wall_us(&self) -> i64 {
        let wall_us = || read_clock(libc::CLOCK_REALTIME) as i64 / 1000;
        match &self.hand {
            Hand::System => wall_us(),
            Hand::Held(at) => at.load(Ordering::Relaxed).saturating_mul(1000),
            Hand::Off(by) => wall_us() + by.load(Ordering::Relaxed) * 1000,
        }
    }

    /// Monotonic time, for durations.
    #[must_use]
    pub fn now(&self) -> Nanos {
        match &self.hand {
            Hand::Held(at) => Nanos((at.load(Ordering::Relaxed).max(0) as u64).saturating_mul(1_000_000)),
            Hand::System | Hand::Off(_) => Nanos(read_clock(libc::CLOCK_MONOTONIC)),
        }
    }
}

/// Wall time that is read once for each batch that an operator works on, at the first row that asks. A row waits
/// microseconds in its batch, and a reading costs 25 ns: where a window yields a million rows, that is the road's tenth.
///
/// From [`Flow::batch_clock`](crate::Flow::batch_clock), for the closures of one shard.
///
/// ```
/// # use millstream::{Flow, Items};
/// # fn build(flow: &Flow, sink: impl millstream::Sink<(u64, i64)>) {
/// let clock = flow.batch_clock();
/// flow.source(Items::of(vec![1u64, 2, 3])).map(move |number| (*number, clock.wall_ms())).sink(sink);
/// # }
/// ```
#[derive(Clone, Default, Debug)]
pub struct BatchClock {
    read_ms: Rc<Cell<Option<i64>>>,
    clock: Clock,
}

impl BatchClock {
    pub(crate) fn of(clock: Clock) -> BatchClock {
        BatchClock { read_ms: Rc::default(), clock }
    }

    /// Wall time, milliseconds since the Unix epoch, of the first call in this batch.
    #[inline]
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        match self.read_ms.get() {
            Some(ms) => ms,
            None => {
                let ms = self.clock.wall_ms();
                self.read_ms.set(Some(ms));
                ms
            }
        }
    }

    /// Monotonic time, read anew.
    #[must_use]
    pub(crate) fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// Another batch begins.
    #[inline(always)]
    pub(crate) fn forget(&self) {
        self.read_ms.set(None);
    }
}

fn read_clock(clock: libc::clockid_t) -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is a valid timespec for the call to fill, and both clock ids exist on every Linux.
    #[expect(unsafe_code, reason = "std's Instant is no number that can be compared across threads")]
    unsafe {
        libc::clock_gettime(clock, &mut at);
    }
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}
