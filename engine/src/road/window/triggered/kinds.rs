//! Which windows there are: sessions, counts, one of all rows, those of processing time, and user-written ones.

use std::fmt;
use std::time::Duration;

use super::super::panes::{check_length, millis};
use super::super::{Slides, Sliding, Tumbling, Window, WindowError};
use super::evictor::Keep;
use super::triggers::OnCount;
use crate::time::Timestamp;

/// Windows stay what they are.
#[derive(Clone, Copy, Debug)]
pub struct Apart;

/// Windows become one where they touch.
#[derive(Clone, Copy, Debug)]
pub struct Merging;

/// Whether windows merge: [`Apart`] or [`Merging`].
pub trait Meeting: 'static {
    #[doc(hidden)]
    const MERGES: bool;
}

impl Meeting for Apart {
    const MERGES: bool = false;
}

impl Meeting for Merging {
    const MERGES: bool = true;
}

/// A kind of windows of rows of `T`: the engine's own, and those of an [`Assigner`].
pub trait WindowKind<T>: fmt::Debug + 'static {
    /// Whether they merge.
    type Meeting: Meeting;

    /// The one window is of all rows, and has no end.
    #[doc(hidden)]
    const IS_GLOBAL: bool = false;

    /// Instants are of wall time.
    #[doc(hidden)]
    fn is_processing(&self) -> bool {
        false
    }

    /// The row's windows: `at` is its event time, or now.
    #[doc(hidden)]
    fn assign(&self, row: &T, at: Timestamp, windows: &mut Vec<Window>);
}

/// Says which windows a row is in: for windows of your own, with [`window_by`](crate::KeyedStream::window_by).
///
/// Nights, from eight in the evening to eight in the morning, of which days are in none:
///
/// ```
/// use millstream::{Assigner, Timestamp, Window};
///
/// #[derive(Debug)]
/// struct Nights;
///
/// impl<T> Assigner<T> for Nights {
///     fn assign(&self, _: &T, at: Timestamp, windows: &mut Vec<Window>) {
///         const HOUR: i64 = 3_600_000;
///         let evening = at.plus_ms(-20 * HOUR).0.div_euclid(24 * HOUR) * 24 * HOUR + 20 * HOUR;
///         if at.0 - evening < 12 * HOUR {
///             windows.push(Window { start: Timestamp(evening), end: Timestamp(evening + 12 * HOUR) });
///         }
///     }
/// }
/// ```
///
/// # Contract
/// * The same row at the same time is in the same windows. (Only the author can know.)
pub trait Assigner<T>: fmt::Debug + 'static {
    /// Adds the row's windows. One that ends before it starts, or then, is of its first millisecond.
    fn assign(&self, row: &T, at: Timestamp, windows: &mut Vec<Window>);

    /// Whether `at` is wall time instead of the row's event time, and so are the windows. Unless told otherwise, it is not.
    fn is_processing_time(&self) -> bool {
        false
    }
}

/// The windows of an [`Assigner`].
#[derive(Clone, Copy, Debug)]
pub struct Assigned<A>(pub(crate) A);

impl<T, A: Assigner<T>> WindowKind<T> for Assigned<A> {
    type Meeting = Apart;

    fn is_processing(&self) -> bool {
        self.0.is_processing_time()
    }

    fn assign(&self, row: &T, at: Timestamp, windows: &mut Vec<Window>) {
        self.0.assign(row, at, windows);
        for window in windows {
            window.end = window.end.max(window.start.plus_ms(1));
        }
    }
}

/// Tumbling or sliding windows as triggers see them.
#[derive(Clone, Copy)]
pub struct Aligned {
    pub(crate) slides: Slides,
    pub(crate) is_processing: bool,
}

impl fmt::Debug for Aligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.slides, if self.is_processing { " of processing time" } else { "" })
    }
}

impl<T> WindowKind<T> for Aligned {
    type Meeting = Apart;

    fn is_processing(&self) -> bool {
        self.is_processing
    }

    fn assign(&self, _row: &T, at: Timestamp, windows: &mut Vec<Window>) {
        let panes = self.slides.panes();
        let (first, last) = self.slides.starts(panes.exact(panes.start_of(at)));
        windows.extend(self.slides.every(first, last).map(|start| self.slides.window(start)));
    }
}

/// Tumbling, sliding or session windows of processing time: a row is in those of the moment at which it comes.
///
/// Rows need no event time, none is late, and after a restart those that are read again are in other windows. What is in
/// windows at the end of the input is emitted then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessingTime<W>(pub(crate) W);

impl Tumbling {
    /// The same windows of processing time.
    #[must_use]
    pub fn processing_time(self) -> ProcessingTime<Tumbling> {
        ProcessingTime(self)
    }
}

impl Sliding {
    /// The same windows of processing time.
    #[must_use]
    pub fn processing_time(self) -> ProcessingTime<Sliding> {
        ProcessingTime(self)
    }
}

impl<G> Session<G> {
    /// The same windows of processing time: a key is silent while none of its rows comes.
    #[must_use]
    pub fn processing_time(self) -> ProcessingTime<Session<G>> {
        ProcessingTime(Session { is_processing: true, ..self })
    }
}

/// Sessions: a key's rows belong together until it has been silent for the gap.
///
/// A row's window is `[at, at + gap)`; windows that intersect or touch become one, also when a row that is late closes the
/// gap between two.
///
/// ```
/// use std::time::Duration;
/// use millstream::Session;
/// # struct Click { is_robot: bool }
/// let visits = Session::gap(Duration::from_secs(1_800));
/// let by_visitor = Session::by(|click: &Click| Duration::from_secs(if click.is_robot { 1 } else { 1_800 }));
/// ```
#[derive(Clone, Copy)]
pub struct Session<G = Gap> {
    gap: G,
    is_processing: bool,
}

/// One gap for all rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    ms: i64,
}

impl fmt::Debug for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.ms)
    }
}

/// A gap for each row.
#[derive(Clone, Copy)]
pub struct GapBy<F>(F);

impl<F> fmt::Debug for GapBy<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a gap by row")
    }
}

impl Session {
    /// Sessions that end after `gap` without a row.
    ///
    /// # Panics
    /// When `gap` is under a millisecond or over 100 years: no such sessions can be meant.
    #[must_use]
    pub fn gap(gap: Duration) -> Session {
        Session::try_gap_ms(millis(gap)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Sessions that end after `gap_ms` milliseconds without a row.
    ///
    /// # Errors
    /// When `gap_ms` is under one or over 100 years.
    pub fn try_gap_ms(gap_ms: i64) -> Result<Session, WindowError> {
        check_length("gap", gap_ms)?;
        Ok(Session { gap: Gap { ms: gap_ms }, is_processing: false })
    }

    /// Sessions in which each row says how long a silence it bears. A gap under a millisecond counts as one.
    #[must_use]
    pub fn by<T, F: Fn(&T) -> Duration + 'static>(gap: F) -> Session<GapBy<F>> {
        Session { gap: GapBy(gap), is_processing: false }
    }
}

impl<G: fmt::Debug> fmt::Debug for Session<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sessions of {:?}{}", self.gap, if self.is_processing { " of processing time" } else { "" })
    }
}

/// How a session's gap is found.
pub trait Gaps<T>: fmt::Debug + 'static {
    #[doc(hidden)]
    fn gap_ms(&self, row: &T) -> i64;
}

impl<T> Gaps<T> for Gap {
    fn gap_ms(&self, _row: &T) -> i64 {
        self.ms
    }
}

impl<T, F: Fn(&T) -> Duration + 'static> Gaps<T> for GapBy<F> {
    fn gap_ms(&self, row: &T) -> i64 {
        millis((self.0)(row)).max(1)
    }
}

impl<T, G: Gaps<T>> WindowKind<T> for Session<G> {
    type Meeting = Merging;

    fn is_processing(&self) -> bool {
        self.is_processing
    }

    fn assign(&self, row: &T, at: Timestamp, windows: &mut Vec<Window>) {
        windows.push(Window { start: at, end: at.plus_ms(self.gap.gap_ms(row)) });
    }
}

/// One window for all of a key's rows, without an end. It is emitted when a trigger says so, and kept until the input has
/// ended; where the trigger drops its contents and is as it was at first, it is forgotten until the key's next row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Global;

impl<T> WindowKind<T> for Global {
    type Meeting = Apart;
    const IS_GLOBAL: bool = true;

    fn assign(&self, _row: &T, _at: Timestamp, windows: &mut Vec<Window>) {
        windows.push(Window { start: Timestamp::MIN, end: Timestamp::MAX });
    }
}

/// Windows of so many rows of a key: emitted when the last of them comes. What is left when the input ends is not emitted.
///
/// ```
/// use millstream::CountWindow;
/// let hundreds = CountWindow::of(100);
/// let last_hundred = CountWindow::of(100).every(10);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CountWindow {
    rows: u64,
}

impl CountWindow {
    /// Windows of `rows` rows, one behind the other.
    ///
    /// # Panics
    /// When `rows` is zero.
    #[must_use]
    pub fn of(rows: u64) -> CountWindow {
        CountWindow::try_of(rows).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`of`](CountWindow::of).
    ///
    /// # Errors
    /// When `rows` is zero.
    pub fn try_of(rows: u64) -> Result<CountWindow, WindowError> {
        check_rows("size", rows)?;
        Ok(CountWindow { rows })
    }

    /// After every `every` rows of a key, the last ones of them: as many as the size says, or as there are. The rows are
    /// kept.
    ///
    /// # Panics
    /// When `every` is zero.
    #[must_use]
    pub fn every(self, every: u64) -> SlidingCount {
        self.try_every(every).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`every`](CountWindow::every).
    ///
    /// # Errors
    /// When `every` is zero.
    pub fn try_every(self, every: u64) -> Result<SlidingCount, WindowError> {
        check_rows("slide", every)?;
        Ok(SlidingCount { rows: self.rows, every })
    }

    pub(crate) fn trigger(self) -> OnCount {
        OnCount::of(self.rows)
    }
}

pub(super) fn check_rows(what: &'static str, rows: u64) -> Result<(), WindowError> {
    if rows > 0 { Ok(()) } else { Err(WindowError::Rows { what }) }
}

/// Windows of the last so many rows of a key, after every so many; from [`CountWindow::every`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlidingCount {
    rows: u64,
    every: u64,
}

impl SlidingCount {
    pub(crate) fn trigger(self) -> OnCount {
        OnCount::of(self.every)
    }

    pub(crate) fn keep(self) -> Keep {
        Keep::last(self.rows)
    }
}
