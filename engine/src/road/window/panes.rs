//! How event time is cut: tumbling windows, and the panes of all windows.

use std::time::Duration;

use super::Window;
use crate::time::Timestamp;

/// Windows of one size, end to end, aligned to the epoch (plus an offset).
///
/// ```
/// use std::time::Duration;
/// use millstream::{Timestamp, Tumbling};
/// let tens = Tumbling::of(Duration::from_secs(10));
/// assert_eq!(tens.window_of(Timestamp(12_345)).start, Timestamp(10_000));
/// assert_eq!(tens.window_of(Timestamp(-1)).start, Timestamp(-10_000));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tumbling {
    size_ms: i64,
    offset_ms: i64,
}

impl Tumbling {
    /// Windows of `size`.
    ///
    /// # Panics
    /// When `size` is under a millisecond or over 100 years: no such window can be meant.
    #[must_use]
    pub fn of(size: Duration) -> Tumbling {
        Tumbling::try_of_ms(millis(size), 0).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Windows of `size_ms` milliseconds that begin `offset_ms` after a multiple of it, before it where negative.
    ///
    /// ```
    /// use millstream::Tumbling;
    /// assert!(Tumbling::try_of_ms(10_000, -1_000).is_ok());
    /// assert!(Tumbling::try_of_ms(10_000, 20_000).is_err());
    /// ```
    ///
    /// # Errors
    /// When `size_ms` is under one or over 100 years, or the offset as long as the size.
    pub fn try_of_ms(size_ms: i64, offset_ms: i64) -> Result<Tumbling, WindowError> {
        check_length("size", size_ms)?;
        check_offset(offset_ms, "size", size_ms)?;
        Ok(Tumbling { size_ms, offset_ms: offset_ms.rem_euclid(size_ms) })
    }

    /// Windows that begin `offset` after a multiple of the size, as days that begin at another time zone's midnight.
    ///
    /// # Panics
    /// When `offset` is not shorter than the size: less of it does the same.
    #[must_use]
    pub fn offset(self, offset: Duration) -> Tumbling {
        Tumbling::try_of_ms(self.size_ms, millis(offset)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The window that `at` falls into.
    #[must_use]
    pub fn window_of(self, at: Timestamp) -> Window {
        self.panes().window(self.panes().start_of(at))
    }

    /// Size and offset, ms.
    pub(super) fn parts(self) -> (i64, i64) {
        (self.size_ms, self.offset_ms)
    }

    pub(crate) fn panes(self) -> Panes {
        Panes::new(self.size_ms, self.offset_ms)
    }
}

/// A definition of windows that cannot be meant.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WindowError {
    /// A size or slide that is no length, or beyond reason.
    #[error("windows with a {what} of {ms} ms cannot be: it lies between one millisecond and a hundred years")]
    Length {
        /// Which of them.
        what: &'static str,
        /// Its milliseconds.
        ms: i64,
    },
    /// An offset that moves windows by a whole one or more.
    #[error(
        "windows with an offset of {offset_ms} ms cannot be: it must be shorter than the {of} of {ms} ms, after which \
         they repeat; take the rest of its division by that"
    )]
    Offset {
        /// The offset's milliseconds.
        offset_ms: i64,
        /// What it must be shorter than.
        of: &'static str,
        /// That one's milliseconds.
        ms: i64,
    },
    /// A window or a pane of no rows.
    #[error("a {what} of no rows cannot be: it is one at least")]
    Rows {
        /// Which of them.
        what: &'static str,
    },
}

/// A hundred years.
const LENGTH_MS_MAX: i64 = 100 * 366 * 86_400_000;

pub(super) fn check_length(what: &'static str, ms: i64) -> Result<(), WindowError> {
    if (1..=LENGTH_MS_MAX).contains(&ms) { Ok(()) } else { Err(WindowError::Length { what, ms }) }
}

pub(super) fn check_offset(offset_ms: i64, of: &'static str, ms: i64) -> Result<(), WindowError> {
    let shorter = offset_ms.unsigned_abs() < ms.unsigned_abs();
    if shorter { Ok(()) } else { Err(WindowError::Offset { offset_ms, of, ms }) }
}

/// A duration's whole milliseconds, as many as there can be.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// How event time is cut into panes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Panes {
    size_ms: i64,
    offset_ms: i64,
}

impl Panes {
    /// Panes of `size_ms`, of which one starts at `offset_ms`.
    pub(super) fn new(size_ms: i64, offset_ms: i64) -> Panes {
        Panes { size_ms, offset_ms: offset_ms.rem_euclid(size_ms) }
    }

    /// The start of the pane that `at` falls into. One that starts before time does begins with it.
    #[inline(always)]
    pub(crate) fn start_of(self, at: Timestamp) -> i64 {
        at.0.saturating_sub(self.inside(at.0))
    }

    /// How far `at` lies behind its pane's start.
    #[inline(always)]
    fn inside(self, at: i64) -> i64 {
        let inside = at.rem_euclid(self.size_ms) - self.offset_ms;
        if inside < 0 { inside + self.size_ms } else { inside }
    }

    /// Where the pane of `start` starts, be it before time does.
    pub(super) fn exact(self, start: i64) -> i128 {
        i128::from(start) - i128::from(self.inside(start))
    }

    /// The pane that all rows of a batch fall into; `None` where they span several, or lie at an end of time.
    ///
    /// A row costs a load and a predicted branch. The least and the greatest time were tried: the compiler gathers them
    /// from rows that are not one word apart, 3 ns a row where this takes a third of one.
    #[inline(always)]
    pub(crate) fn of_all(self, rows: usize, at: impl Fn(usize) -> Timestamp) -> Option<i64> {
        let start = self.start_of(at(0));
        let whole = start.checked_add(self.size_ms).is_some() && start.checked_sub(self.size_ms).is_some();
        let inside = |at: Timestamp| (at.0.wrapping_sub(start) as u64) < self.size_ms as u64;
        (whole && (1..rows).all(|index| inside(at(index)))).then_some(start)
    }

    /// As [`of_all`](Panes::of_all), of times end to end, at least one: several are compared at once.
    #[inline(always)]
    pub(crate) fn of_times(self, times: &[Timestamp]) -> Option<i64> {
        let start = self.start_of(times[0]);
        let whole = start.checked_add(self.size_ms).is_some() && start.checked_sub(self.size_ms).is_some();
        let outside = |at: &Timestamp| (at.0.wrapping_sub(start) as u64) >= self.size_ms as u64;
        // Without an early end, or it would be one by one.
        let any_outside = times.iter().fold(false, |any, at| any | outside(at));
        (whole && !any_outside).then_some(start)
    }

    /// The last instant inside the pane: the watermark that completes it.
    pub(super) fn last_of(self, start: i64) -> Timestamp {
        Timestamp(self.plus(start, self.size_ms - 1))
    }

    pub(super) fn window(self, start: i64) -> Window {
        Window { start: Timestamp(start), end: Timestamp(self.plus(start, self.size_ms)) }
    }

    /// So long after the pane's start, which may lie before time begins.
    fn plus(self, start: i64, ms: i64) -> i64 {
        let at = self.exact(start) + i128::from(ms);
        i64::try_from(at).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panes_start_at_multiples_of_the_size() {
        let panes = Tumbling::of(Duration::from_millis(10)).panes();
        for (at, start) in [(0, 0), (9, 0), (10, 10), (-1, -10), (-10, -10), (-11, -20)] {
            assert_eq!(panes.start_of(Timestamp(at)), start, "{at}");
        }
        let shifted = Tumbling::of(Duration::from_millis(10)).offset(Duration::from_millis(3)).panes();
        for (at, start) in [(2, -7), (3, 3), (12, 3), (13, 13)] {
            assert_eq!(shifted.start_of(Timestamp(at)), start, "{at}");
        }
        assert_eq!(panes.start_of(Timestamp::MIN), i64::MIN, "the ends of time saturate");
        assert_eq!(panes.exact(i64::MIN), i128::from(i64::MIN) - 2);
        assert_eq!(shifted.start_of(Timestamp(i64::MIN + 1)), i64::MIN + 1);
        assert_eq!(panes.last_of(panes.start_of(Timestamp::MAX)), Timestamp::MAX);
        // i64::MIN ends in 808.
        let first = panes.window(panes.start_of(Timestamp::MIN));
        assert_eq!((first.start, first.end), (Timestamp::MIN, Timestamp(i64::MIN + 8)));
        assert_eq!(panes.last_of(i64::MIN), Timestamp(i64::MIN + 7));
    }

    #[test]
    fn a_batch_is_of_one_pane_if_each_row_is() {
        let panes = Tumbling::of(Duration::from_millis(10)).offset(Duration::from_millis(3)).panes();
        let ends = [i64::MIN, i64::MIN + 1, i64::MIN + 9, i64::MIN + 20, i64::MAX - 20, i64::MAX - 9, i64::MAX];
        let times: Vec<i64> = (-25..25).chain(ends).collect();
        for first in &times {
            for second in &times {
                let at = |index: usize| Timestamp([*first, *second][index]);
                let same = panes.start_of(at(0)) == panes.start_of(at(1));
                assert_eq!(panes.of_times(&[at(0), at(1)]), panes.of_all(2, at), "{first} {second}");
                match panes.of_all(2, at) {
                    Some(start) => assert!(same && start == panes.start_of(at(0)), "{first} {second}"),
                    // Where a pane's start saturates, rows go the long way.
                    None => assert!(!same || first.unsigned_abs() > 1 << 62, "{first} {second}"),
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (size, offset) in [(-1_000, 0), (0, 0), (i64::MAX, 0), (10_000, 20_000), (10_000, -11_000), (10, i64::MIN)]
        {
            assert!(Tumbling::try_of_ms(size, offset).is_err(), "{size} {offset}");
        }
        let error = Tumbling::try_of_ms(10_000, -11_000).unwrap_err();
        assert!(error.to_string().contains("an offset of -11000 ms"), "{error}");
        let back = Tumbling::try_of_ms(10, -3).unwrap();
        assert_eq!(back, Tumbling::of(Duration::from_millis(10)).offset(Duration::from_millis(7)));
    }
}
