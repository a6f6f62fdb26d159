//! Sliding windows: which of them hold a pane, and which comes next.
//!
//! Panes are as long as the greatest length that both size and slide are multiples of, so each lies in a window or
//! outside it as a whole. Instants are `i128` here: the windows at the ends of time reach beyond them.

use std::time::Duration;

use super::panes::{check_length, check_offset, millis};
use super::{Panes, Tumbling, Window, WindowError};
use crate::time::Timestamp;

/// Windows of one size, of which one begins at each multiple of the slide (plus an offset). An event is in all windows
/// that span it: in `size / slide` of them, or in none where the slide is longer than the size.
///
/// An event is folded once, into the pane that its windows share. Panes are as long as the greatest length that both size
/// and slide are multiples of, and each costs at least a page of 4 KiB on each shard while it is open: an hour every 10
/// minutes is six panes, an hour every 601 seconds 3,600.
///
/// ```
/// use std::time::Duration;
/// use millstream::{Sliding, Timestamp, Window};
/// let window = |start, end| Window { start: Timestamp(start), end: Timestamp(end) };
/// let minutes = Sliding::of(Duration::from_secs(60)).every(Duration::from_secs(30));
/// assert_eq!(minutes.windows_of(Timestamp(1)), [window(-30_000, 30_000), window(0, 60_000)]);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sliding {
    size_ms: i64,
    slide_ms: i64,
    offset_ms: i64,
}

/// The size of sliding windows, of which the slide is still to be said.
#[must_use = "say how often a window begins with .every(..)"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlidingSize {
    size: Duration,
}

impl SlidingSize {
    /// Windows of that size, one beginning `every` so often.
    ///
    /// # Panics
    /// When the size or `every` is under a millisecond or over 100 years: no such windows can be meant.
    #[must_use]
    pub fn every(self, every: Duration) -> Sliding {
        Sliding::try_of_ms(millis(self.size), millis(every), 0).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Sliding {
    /// Windows of `size`; say how often one begins with [`every`](SlidingSize::every).
    pub fn of(size: Duration) -> SlidingSize {
        SlidingSize { size }
    }

    /// Windows of `size_ms` milliseconds, one beginning every `slide_ms`, `offset_ms` after a multiple of that, before it
    /// where negative.
    ///
    /// # Errors
    /// When the size or the slide is under one or over 100 years, or the offset as long as the slide.
    pub fn try_of_ms(size_ms: i64, slide_ms: i64, offset_ms: i64) -> Result<Sliding, WindowError> {
        check_length("size", size_ms)?;
        check_length("slide", slide_ms)?;
        check_offset(offset_ms, "slide", slide_ms)?;
        Ok(Sliding { size_ms, slide_ms, offset_ms: offset_ms.rem_euclid(slide_ms) })
    }

    /// Windows that begin `offset` after a multiple of the slide.
    ///
    /// # Panics
    /// When `offset` is not shorter than the slide: less of it does the same.
    #[must_use]
    pub fn offset(self, offset: Duration) -> Sliding {
        Sliding::try_of_ms(self.size_ms, self.slide_ms, millis(offset)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The windows that `at` falls into, the earliest first.
    #[must_use]
    pub fn windows_of(self, at: Timestamp) -> Vec<Window> {
        let slides = Slides::from(self);
        let panes = slides.panes();
        let (first, last) = slides.starts(panes.exact(panes.start_of(at)));
        slides.every(first, last).map(|start| slides.window(start)).collect()
    }
}

/// How windows lie on panes: also those of tumbling windows, where each holds one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slides {
    size_ms: i128,
    slide_ms: i128,
    offset_ms: i128,
    pane_ms: i128,
    panes: Panes,
}

impl From<Sliding> for Slides {
    fn from(windows: Sliding) -> Slides {
        let Sliding { size_ms, slide_ms, offset_ms } = windows;
        let (mut pane_ms, mut rest) = (size_ms, slide_ms);
        while rest > 0 {
            (pane_ms, rest) = (rest, pane_ms % rest);
        }
        let panes = Panes::new(pane_ms, offset_ms);
        let [size_ms, slide_ms, offset_ms, pane_ms] = [size_ms, slide_ms, offset_ms, pane_ms].map(i128::from);
        Slides { size_ms, slide_ms, offset_ms, pane_ms, panes }
    }
}

/// The definition that they came of, in words.
impl std::fmt::Display for Slides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Slides { size_ms, slide_ms, offset_ms, .. } = self;
        write!(f, "windows of {size_ms} ms")?;
        if slide_ms != size_ms {
            write!(f, " every {slide_ms} ms")?;
        }
        if *offset_ms != 0 { write!(f, " from {offset_ms} ms") } else { Ok(()) }
    }
}

impl From<Tumbling> for Slides {
    fn from(windows: Tumbling) -> Slides {
        let (size_ms, offset_ms) = windows.parts();
        Slides::from(Sliding { size_ms, slide_ms: size_ms, offset_ms })
    }
}

impl Slides {
    pub(crate) fn panes(self) -> Panes {
        self.panes
    }

    /// Windows have panes in common.
    pub(super) fn overlap(self) -> bool {
        self.slide_ms < self.size_ms
    }

    /// The last instant of the pane that starts at `pane`.
    pub(super) fn last_of_pane(self, pane: i128) -> i128 {
        pane + self.pane_ms - 1
    }

    /// The last instant of the window that starts at `start`: the watermark that completes it.
    pub(super) fn last_of(self, start: i128) -> i128 {
        start + self.size_ms - 1
    }

    /// The start of the window whose last instant is `last`.
    pub(super) fn that_ends_with(self, last: i128) -> i128 {
        last + 1 - self.size_ms
    }

    /// Where the window after the one that starts at `start` starts.
    pub(super) fn next(self, start: i128) -> i128 {
        start + self.slide_ms
    }

    /// The starts of the first and the last window that hold the pane that starts at `pane`; the first behind the last
    /// where none does.
    pub(super) fn starts(self, pane: i128) -> (i128, i128) {
        (self.at_or_after(pane + self.pane_ms - self.size_ms), self.at_or_before(pane))
    }

    /// The start of the first window that holds the pane and is not complete at `done`.
    pub(super) fn first_open(self, pane: i128, done: i128) -> Option<i128> {
        let (first, last) = self.starts(pane);
        let open = first.max(self.first_incomplete(done));
        (open <= last).then_some(open)
    }

    /// The start of the first window that is not complete at `done`.
    pub(super) fn first_incomplete(self, done: i128) -> i128 {
        self.at_or_after(done + 2 - self.size_ms)
    }

    /// The starts of windows from `first` to `last`.
    pub(super) fn every(self, first: i128, last: i128) -> impl Iterator<Item = i128> {
        std::iter::successors(Some(first), move |start| Some(start + self.slide_ms))
            .take_while(move |start| *start <= last)
    }

    /// The window that starts at `start`, as far as time goes.
    pub(super) fn window(self, start: i128) -> Window {
        Window { start: clamped(start), end: clamped(start + self.size_ms) }
    }

    fn at_or_before(self, at: i128) -> i128 {
        at - (at - self.offset_ms).rem_euclid(self.slide_ms)
    }

    fn at_or_after(self, at: i128) -> i128 {
        self.at_or_before(at + self.slide_ms - 1)
    }
}

fn clamped(at: i128) -> Timestamp {
    Timestamp(at.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(sliding: Sliding, at: i64) -> Vec<(i64, i64)> {
        sliding.windows_of(Timestamp(at)).iter().map(|window| (window.start.0, window.end.0)).collect()
    }

    #[test]
    fn an_event_is_in_all_windows_that_span_it() {
        let fives = Sliding::of(Duration::from_secs(5)).every(Duration::from_secs(1));
        let all =
            |first: i64| (first..first + 5).map(|second| (second * 1000, second * 1000 + 5000)).collect::<Vec<_>>();
        assert_eq!(windows(fives, 0), all(-4));
        assert_eq!(windows(fives, 4_999), all(0));
        assert_eq!(windows(fives, 5_000), all(1));
        let shifted = Sliding::try_of_ms(5_000, 3_000, -1_000).unwrap();
        assert_eq!(windows(shifted, 0), [(-4_000, 1_000), (-1_000, 4_000)]);
        assert_eq!(
            shifted,
            Sliding::of(Duration::from_secs(5)).every(Duration::from_secs(3)).offset(Duration::from_secs(2))
        );
    }

    /// Against every window there could be, by trying.
    #[test]
    fn windows_are_those_that_span_an_instant() {
        for size in 1..=12 {
            for slide in 1..=15 {
                for offset in 1 - slide..slide {
                    let sliding = Sliding::try_of_ms(size, slide, offset).unwrap();
                    let slides = Slides::from(sliding);
                    for at in -20..20 {
                        let starts = (-60..60).map(|n| n * slide + offset);
                        let expected: Vec<_> = starts
                            .filter(|start| (*start..start + size).contains(&at))
                            .map(|start| (start, start + size))
                            .collect();
                        assert_eq!(windows(sliding, at), expected, "{sliding:?} at {at}");
                        let panes = slides.panes();
                        let pane = panes.exact(panes.start_of(Timestamp(at)));
                        assert!((pane..=slides.last_of_pane(pane)).contains(&at.into()));
                        for done in -20..20 {
                            let open =
                                expected.iter().find(|(_, end)| end - 1 > done).map(|(start, _)| i128::from(*start));
                            assert_eq!(slides.first_open(pane, done.into()), open, "{sliding:?} at {at}, done {done}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn windows_at_the_ends_of_time_saturate() {
        let sliding = Sliding::try_of_ms(10, 5, 0).unwrap();
        let max = i64::MAX; // ends in 807
        assert_eq!(windows(sliding, max), [(max - 7, max), (max - 2, max)]);
        assert_eq!(windows(sliding, i64::MIN), [(i64::MIN, i64::MIN + 3), (i64::MIN, i64::MIN + 8)]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (size, slide, offset) in [
            (-2_000, 1_000, 0),
            (2_000, -1_000, 0),
            (20, 0, 0),
            (0, 5, 0),
            (20_000, 10_000, -11_000),
            (20_000, 10_000, 11_000),
        ] {
            assert!(Sliding::try_of_ms(size, slide, offset).is_err(), "{size} {slide} {offset}");
        }
    }
}
