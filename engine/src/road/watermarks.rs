//! How the watermark of a split follows its rows: three ways that are built in, and the user's own.
//!
//! Which one a stream has is known when the job is compiled, so each pays for itself alone: an ordered split for its last
//! row, one with bounded disorder for a maximum, a generator for a call a row.

use std::fmt;
use std::time::Duration;

use super::rows::Rows;
use crate::time::Timestamp;

/// How the watermark follows the timestamps seen: built in for splits that are in order, or nearly so.
///
/// ```
/// use std::time::Duration;
/// use millstream::Watermarks;
/// let ordered = Watermarks::monotonic();
/// let shuffled = Watermarks::bounded(Duration::from_secs(1)); // an event is at most one second late
/// assert_ne!(ordered, shuffled);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watermarks {
    disorder_ms: i64,
    monotonic: bool,
}

impl Watermarks {
    /// Timestamps of a split never decrease. The last row of a batch speaks for all of it, so this costs nothing per row.
    #[must_use]
    pub fn monotonic() -> Watermarks {
        Watermarks { disorder_ms: 0, monotonic: true }
    }

    /// A row comes at most `disorder` after a row with a later timestamp; what comes later than that is late.
    #[must_use]
    pub fn bounded(disorder: Duration) -> Watermarks {
        Watermarks { disorder_ms: i64::try_from(disorder.as_millis()).unwrap_or(i64::MAX), monotonic: false }
    }

    /// The watermark is in the rows: where `mark` finds one, time has come so far in this split.
    ///
    /// Marks take effect at the end of the batch that they lie in, and one that is behind the watermark says nothing.
    ///
    /// ```
    /// # use millstream::{Chain, Stream, Timestamp, Watermarks};
    /// # struct Line { at_ms: i64, closes_minute: bool }
    /// # fn of(lines: Stream<impl Chain<Out = Line>>) -> Stream<impl Chain<Out = Line>> {
    /// let marks = Watermarks::punctuated(|line: &Line, at| line.closes_minute.then_some(at));
    /// lines.event_time(|line| Timestamp(line.at_ms), marks)
    /// # }
    /// ```
    pub fn punctuated<T: ?Sized, F: Fn(&T, Timestamp) -> Option<Timestamp> + 'static>(mark: F) -> Punctuated<F> {
        Punctuated { mark }
    }

    /// A generator of the user's own; `make` makes one for each split.
    pub fn generated<G: 'static, F: Fn() -> G + 'static>(make: F) -> Generated<G, F> {
        Generated { make, splits: Vec::new() }
    }

    /// The watermark after rows whose greatest timestamp was `newest`: nothing at or below it is to come. Before any row,
    /// and below the disorder's reach, it is [`Timestamp::MIN`].
    #[must_use]
    pub fn after(self, newest: Timestamp) -> Timestamp {
        match newest {
            Timestamp::MIN => Timestamp::MIN,
            seen => seen.plus_ms(-1 - self.disorder_ms),
        }
    }
}

/// A user's own way from the rows of one split to its watermark. Each split has an instance of its own, made anew at a
/// restart; the slowest split that is not idle holds the stream's watermark.
///
/// A watermark that is behind the last one says nothing: time never goes back.
///
/// ```
/// use millstream::{Chain, Stream, Timestamp, WatermarkGenerator, Watermarks};
///
/// struct Reading {
///     at_ms: i64,
///     clock_error_ms: i64,
/// }
///
/// /// Time is as sure as the worst clock that was heard of.
/// #[derive(Default)]
/// struct AsSureAsTheClocks {
///     newest_ms: Option<i64>,
///     error_ms: i64,
/// }
///
/// impl WatermarkGenerator<Reading> for AsSureAsTheClocks {
///     fn on_event(&mut self, reading: &Reading, at: Timestamp) -> Option<Timestamp> {
///         self.newest_ms = self.newest_ms.max(Some(at.0));
///         self.error_ms = self.error_ms.max(reading.clock_error_ms);
///         None
///     }
///
///     fn on_periodic(&mut self, _now_ms: i64) -> Option<Timestamp> {
///         self.newest_ms.map(|newest_ms| Timestamp(newest_ms).plus_ms(-self.error_ms - 1))
///     }
/// }
///
/// fn timed(readings: Stream<impl Chain<Out = Reading>>) -> Stream<impl Chain<Out = Reading>> {
///     readings.event_time(|reading| Timestamp(reading.at_ms), Watermarks::generated(AsSureAsTheClocks::default))
/// }
/// ```
pub trait WatermarkGenerator<T: ?Sized>: 'static {
    /// A row of the split came, in the split's order. A watermark that it gives takes effect at the end of the row's batch.
    fn on_event(&mut self, row: &T, at: Timestamp) -> Option<Timestamp>;

    /// Asked after every batch of the split, and every 100 ms besides while the split is not idle, with the wall time in
    /// milliseconds.
    fn on_periodic(&mut self, now_ms: i64) -> Option<Timestamp> {
        let _ = now_ms;
        None
    }
}

/// What [`Stream::event_time`](crate::Stream::event_time) takes: [`Watermarks`], or what its functions give.
pub trait WatermarkStrategy<T: ?Sized>: sealed::Strategy<T> + 'static {}

impl<T: ?Sized, S: sealed::Strategy<T> + 'static> WatermarkStrategy<T> for S {}

pub(crate) mod sealed {
    use super::{Rows, Timestamp};

    /// What the stage asks of a strategy.
    pub trait Strategy<T: ?Sized> {
        /// Whether time may go on without rows.
        const IS_PERIODIC: bool;

        /// The watermark of `split` after these rows of it; [`Timestamp::MIN`] if they say nothing.
        fn after_rows<R: Rows<Item = T>>(&mut self, split: usize, rows: &R, now_ms: i64) -> Timestamp;

        /// The watermark of `split` at this wall time; [`Timestamp::MIN`] if there is nothing to say.
        fn periodic(&mut self, split: usize, now_ms: i64) -> Timestamp;
    }
}

impl<T: ?Sized> sealed::Strategy<T> for Watermarks {
    const IS_PERIODIC: bool = false;

    #[inline(always)]
    fn after_rows<R: Rows<Item = T>>(&mut self, _split: usize, rows: &R, _now_ms: i64) -> Timestamp {
        let newest = if self.monotonic {
            rows.at(rows.len() - 1)
        } else {
            (0..rows.len()).map(|index| rows.at(index)).fold(Timestamp::MIN, Timestamp::max)
        };
        self.after(newest)
    }

    fn periodic(&mut self, _split: usize, _now_ms: i64) -> Timestamp {
        Timestamp::MIN
    }
}

/// Watermarks that lie in the rows; see [`Watermarks::punctuated`].
#[derive(Clone, Copy)]
pub struct Punctuated<F> {
    mark: F,
}

impl<F> fmt::Debug for Punctuated<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Punctuated")
    }
}

impl<T: ?Sized, F: Fn(&T, Timestamp) -> Option<Timestamp>> sealed::Strategy<T> for Punctuated<F> {
    const IS_PERIODIC: bool = false;

    #[inline(always)]
    fn after_rows<R: Rows<Item = T>>(&mut self, _split: usize, rows: &R, _now_ms: i64) -> Timestamp {
        let marks = (0..rows.len()).filter_map(|index| (self.mark)(rows.row(index), rows.at(index)));
        marks.max().unwrap_or(Timestamp::MIN)
    }

    fn periodic(&mut self, _split: usize, _now_ms: i64) -> Timestamp {
        Timestamp::MIN
    }
}

/// A user's generators, one a split; see [`Watermarks::generated`].
pub struct Generated<G, F> {
    make: F,
    splits: Vec<Option<G>>,
}

impl<G, F> fmt::Debug for Generated<G, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generated by {}", std::any::type_name::<G>())
    }
}

impl<G, F: Fn() -> G> Generated<G, F> {
    fn split(&mut self, split: usize) -> &mut G {
        if self.splits.len() <= split {
            self.splits.resize_with(split + 1, || None);
        }
        self.splits[split].get_or_insert_with(&self.make)
    }
}

impl<T: ?Sized, G: WatermarkGenerator<T>, F: Fn() -> G> sealed::Strategy<T> for Generated<G, F> {
    const IS_PERIODIC: bool = true;

    #[inline(always)]
    fn after_rows<R: Rows<Item = T>>(&mut self, split: usize, rows: &R, now_ms: i64) -> Timestamp {
        let generator = self.split(split);
        let marks = (0..rows.len()).filter_map(|index| generator.on_event(rows.row(index), rows.at(index)));
        let marked = marks.max();
        marked.max(generator.on_periodic(now_ms)).unwrap_or(Timestamp::MIN)
    }

    fn periodic(&mut self, split: usize, now_ms: i64) -> Timestamp {
        self.split(split).on_periodic(now_ms).unwrap_or(Timestamp::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::super::dense::Dense;
    use super::sealed::Strategy;
    use super::*;

    /// Rows of these times, each its own time.
    fn rows(times: &[i64]) -> Dense<i64> {
        let mut rows = Dense::default();
        times.iter().for_each(|at| rows.push(*at, Timestamp(*at)));
        rows
    }

    #[test]
    fn bounded_disorder_subtracts_and_saturates() {
        let bounded = |ms| Watermarks::bounded(Duration::from_millis(ms));
        assert_eq!(bounded(50).after(Timestamp(100)), Timestamp(49));
        assert_eq!(bounded(0).after(Timestamp(100)), Watermarks::monotonic().after(Timestamp(100)));
        assert_eq!(Watermarks::monotonic().after(Timestamp::MIN), Timestamp::MIN);
        assert_eq!(bounded(10).after(Timestamp(i64::MIN + 3)), Timestamp::MIN);
        assert_eq!(bounded(10).after(Timestamp::MAX), Timestamp(i64::MAX - 11));
        assert_eq!(Watermarks::bounded(Duration::MAX).after(Timestamp(0)), Timestamp::MIN);
        assert_eq!(Watermarks::bounded(Duration::MAX).after(Timestamp::MAX), Timestamp(-1));
    }

    #[test]
    fn the_greatest_mark_of_a_batch_counts() {
        let mut marks = Watermarks::punctuated(|row: &i64, at| (row % 10 == 0).then_some(at));
        assert_eq!(marks.after_rows(0, &rows(&[10, 31, 30, 20, 35]).view(), 0), Timestamp(30));
        assert_eq!(marks.after_rows(0, &rows(&[41, 42]).view(), 0), Timestamp::MIN, "no mark, nothing to say");
    }

    /// Says the last row's time at once if it is odd, and otherwise at the next tick, one a thousand behind the clock.
    struct Fickle {
        even: Option<i64>,
    }

    impl WatermarkGenerator<i64> for Fickle {
        fn on_event(&mut self, row: &i64, at: Timestamp) -> Option<Timestamp> {
            if row % 2 == 0 {
                self.even = Some(*row);
            }
            (row % 2 == 1).then_some(at)
        }

        fn on_periodic(&mut self, now_ms: i64) -> Option<Timestamp> {
            self.even.take().map(Timestamp).max((now_ms > 0).then_some(Timestamp(now_ms - 1_000)))
        }
    }

    #[test]
    fn every_split_has_a_generator_of_its_own() {
        let mut own = Watermarks::generated(|| Fickle { even: None });
        assert_eq!(own.after_rows(1, &rows(&[3, 1]).view(), 0), Timestamp(3));
        assert_eq!(own.after_rows(0, &rows(&[8, 5]).view(), 0), Timestamp(8), "asked at the batch's end too");
        assert_eq!(Strategy::<i64>::periodic(&mut own, 0, 0), Timestamp::MIN, "it has told it");
        assert_eq!(Strategy::<i64>::periodic(&mut own, 2, 7_000), Timestamp(6_000), "a split that has brought no row");
    }
}
