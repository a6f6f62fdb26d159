//! What moves between two stages of a chain: a batch of rows, seen through [`Rows`].
//!
//! A source fills a [`Batch`]; a stage sees it as [`Rows`] and hands its own view on. A filter hands on a selection of
//! the same rows, a map rows of its own. Every view is a concrete type, so that a chain is one inlined loop per stage.

use std::mem::MaybeUninit;

use crate::time::Timestamp;

/// How many rows move through a chain at a time. They stay in the second-level cache; 256 cost 1–2 % more per event,
/// 64 cost 7 %, and up to 64 K gain nothing.
pub const BATCH_ROWS: usize = 1024;

/// A container that a source fills and a chain reads: cleared and used again, never reallocated in steady state.
pub trait Batch: Default + 'static {
    /// One row; `[u8]` for raw bytes.
    type Item: ?Sized + 'static;

    /// The rows as a chain reads them.
    type View<'a>: Rows<Item = Self::Item>
    where
        Self: 'a;

    /// The rows held, their addresses with them: a loop that read those through the batch itself would have to read them
    /// again after every row it writes, for all the compiler knows.
    fn view(&self) -> Self::View<'_>;

    /// Rows held.
    fn len(&self) -> usize;

    /// The row at `index < len()`.
    fn row(&self, index: usize) -> &Self::Item;

    /// Forgets the rows, keeps the memory.
    fn clear(&mut self);

    /// No rows held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: 'static> Batch for Vec<T> {
    type Item = T;
    type View<'a> = Whole<'a, T>;

    #[inline(always)]
    fn view(&self) -> Whole<'_, T> {
        Whole(self)
    }

    #[inline(always)]
    fn len(&self) -> usize {
        Vec::len(self)
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &T {
        &self[index]
    }

    fn clear(&mut self) {
        Vec::clear(self);
    }
}

/// Rows of raw bytes, end to end in one allocation: lines of JSON, records of a log.
#[derive(Default, Debug)]
pub struct Lines {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Lines {
    /// Appends one row.
    ///
    /// # Panics
    /// When a batch would pass 4 GiB.
    pub fn push(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        self.end_row();
    }

    /// The tail to append a row's bytes to; [`end_row`](Lines::end_row) closes the row.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Closes the row made of all bytes appended since the last one.
    ///
    /// # Panics
    /// When a batch would pass 4 GiB.
    pub fn end_row(&mut self) {
        self.ends.push(u32::try_from(self.bytes.len()).expect("a batch of lines stays under 4 GiB"));
    }

    /// Bytes held.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }
}

impl Batch for Lines {
    type Item = [u8];
    type View<'a> = WholeLines<'a>;

    #[inline(always)]
    fn view(&self) -> WholeLines<'_> {
        WholeLines { bytes: &self.bytes, ends: &self.ends }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.ends.len()
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &[u8] {
        line(&self.bytes, &self.ends, index)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// What a stage sees of a batch: rows by index, each with its event time.
pub trait Rows {
    /// One row.
    type Item: ?Sized;

    /// Rows in view.
    fn len(&self) -> usize;

    /// The row at `index < len()`.
    fn row(&self, index: usize) -> &Self::Item;

    /// Its event time; [`Timestamp::MIN`] before one was given.
    fn at(&self, index: usize) -> Timestamp;

    /// Its index in the batch that the source filled, by which an error finds the offset; `None` once a stage has made
    /// rows of its own.
    fn origin(&self, index: usize) -> Option<usize>;

    /// All event times, where they lie end to end.
    fn times(&self) -> Option<&[Timestamp]> {
        None
    }

    /// No rows in view.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A source's batch as it came: no event time yet.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a, T>(&'a [T]);

impl<T> Rows for Whole<'_, T> {
    type Item = T;

    #[inline(always)]
    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &T {
        &self.0[index]
    }

    #[inline(always)]
    fn at(&self, _index: usize) -> Timestamp {
        Timestamp::MIN
    }

    #[inline(always)]
    fn origin(&self, index: usize) -> Option<usize> {
        Some(index)
    }
}

/// As [`Whole`], of [`Lines`].
#[derive(Clone, Copy, Debug)]
pub struct WholeLines<'a> {
    bytes: &'a [u8],
    ends: &'a [u32],
}

impl Rows for WholeLines<'_> {
    type Item = [u8];

    #[inline(always)]
    fn len(&self) -> usize {
        self.ends.len()
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &[u8] {
        line(self.bytes, self.ends, index)
    }

    #[inline(always)]
    fn at(&self, _index: usize) -> Timestamp {
        Timestamp::MIN
    }

    #[inline(always)]
    fn origin(&self, index: usize) -> Option<usize> {
        Some(index)
    }
}

#[inline(always)]
fn line<'a>(bytes: &'a [u8], ends: &[u32], index: usize) -> &'a [u8] {
    let start = if index == 0 { 0 } else { ends[index - 1] as usize };
    &bytes[start..ends[index] as usize]
}

/// Rows whose event time is read off the row where it is needed: two rows in three that a filter drops never pay.
#[derive(Debug)]
pub(crate) struct Timed<'a, R, F> {
    pub(crate) rows: &'a R,
    pub(crate) time: &'a F,
}

impl<R: Rows, F: Fn(&R::Item) -> Timestamp> Rows for Timed<'_, R, F> {
    type Item = R::Item;

    #[inline(always)]
    fn len(&self) -> usize {
        self.rows.len()
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &R::Item {
        self.rows.row(index)
    }

    #[inline(always)]
    fn at(&self, index: usize) -> Timestamp {
        (self.time)(self.rows.row(index))
    }

    #[inline(always)]
    fn origin(&self, index: usize) -> Option<usize> {
        self.rows.origin(index)
    }
}

/// The rows that a filter kept, by their indexes.
#[derive(Debug)]
pub(crate) struct Selected<'a, R> {
    pub(crate) rows: &'a R,
    pub(crate) selected: &'a [u16],
}

impl<R: Rows> Rows for Selected<'_, R> {
    type Item = R::Item;

    #[inline(always)]
    fn len(&self) -> usize {
        self.selected.len()
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &R::Item {
        self.rows.row(self.selected[index] as usize)
    }

    #[inline(always)]
    fn at(&self, index: usize) -> Timestamp {
        self.rows.at(self.selected[index] as usize)
    }

    #[inline(always)]
    fn origin(&self, index: usize) -> Option<usize> {
        self.rows.origin(self.selected[index] as usize)
    }
}

/// Rows that a stage made: owned, end to end, each beside its event time.
#[derive(Debug)]
pub struct Dense<T> {
    rows: Vec<T>,
    at: Vec<Timestamp>,
}

impl<T> Default for Dense<T> {
    fn default() -> Dense<T> {
        Dense { rows: Vec::with_capacity(BATCH_ROWS), at: Vec::with_capacity(BATCH_ROWS) }
    }
}

impl<T> Dense<T> {
    /// Forgets the rows, keeps the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.at.clear();
    }

    /// Rows held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// No rows held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Appends a row.
    pub fn push(&mut self, row: T, at: Timestamp) {
        self.rows.push(row);
        self.at.push(at);
    }

    /// All rows.
    #[inline(always)]
    pub(crate) fn view(&self) -> Piece<'_, T> {
        Piece { rows: &self.rows, at: &self.at }
    }

    /// The rows in pieces of at most `rows_max`.
    pub(crate) fn pieces(&self, rows_max: usize) -> impl Iterator<Item = Piece<'_, T>> {
        self.rows.chunks(rows_max).zip(self.at.chunks(rows_max)).map(|(rows, at)| Piece { rows, at })
    }

    /// The rows of `make`, one for each of `rows` and at its time.
    ///
    /// Times that lie end to end already are handed on where they are; others cost a load and a store a row.
    #[inline(always)]
    pub(crate) fn each_of<'a, R: Rows>(&'a mut self, rows: &'a R, make: impl Fn(usize) -> T) -> Piece<'a, T> {
        if let Some(at) = rows.times() {
            self.rows.clear();
            self.rows.extend((0..rows.len()).map(make));
            return Piece { rows: &self.rows, at };
        }
        self.gather(rows.len(), |places| {
            for index in 0..rows.len() {
                places.put(make(index), rows.at(index));
            }
        });
        self.view()
    }

    /// The rows of `make` that are some, each at the time of the row it comes from.
    ///
    /// As [`each_of`](Dense::each_of), up to the first that is none.
    #[inline(always)]
    pub(crate) fn some_of<'a, R: Rows>(&'a mut self, rows: &'a R, make: impl Fn(usize) -> Option<T>) -> Piece<'a, T> {
        let Some(at) = rows.times() else {
            self.fill_some(rows.len(), make, |index| rows.at(index));
            return self.view();
        };
        self.clear();
        self.rows.reserve(rows.len());
        let places = self.rows.spare_capacity_mut();
        let mut taken = 0;
        while taken < rows.len()
            && let Some(row) = make(taken)
        {
            places[taken].write(row);
            taken += 1;
        }
        // SAFETY: the first `taken` places have been written.
        #[expect(unsafe_code, reason = "the length is set once per batch; every stage's test reads it back")]
        unsafe {
            self.rows.set_len(taken);
        }
        if taken == rows.len() {
            return Piece { rows: &self.rows, at };
        }
        self.at.extend_from_slice(&at[..taken]);
        for index in taken + 1..rows.len() {
            if let Some(row) = make(index) {
                self.push(row, at[index]);
            }
        }
        self.view()
    }

    /// Replaces the rows by those of `make(0..rows)` that are some.
    #[inline(always)]
    fn fill_some(&mut self, rows: usize, make: impl Fn(usize) -> Option<T>, at: impl Fn(usize) -> Timestamp) {
        self.gather(rows, |places| {
            for index in 0..rows {
                if let Some(row) = make(index) {
                    places.put(row, at(index));
                }
            }
        });
    }

    /// Replaces the rows by those that `make(0..rows)` brings; `refuse` hears of its errors, and may end it with one of
    /// its own, after which the rows count for nothing.
    #[inline(always)]
    pub(crate) fn try_fill<E, F>(
        &mut self,
        rows: usize,
        make: impl Fn(usize) -> Result<T, E>,
        mut refuse: impl FnMut(usize, E) -> Result<(), F>,
        at: impl Fn(usize) -> Timestamp,
    ) -> Result<(), F> {
        self.gather(rows, |places| {
            // What a parser returns comes through memory, field by field, and is moved on word by word: a load that spans
            // two fresh stores waits some fifteen cycles for them. A row or two later they have settled.
            let pairs = rows / 2 * 2;
            for index in (0..pairs).step_by(2) {
                let (first, second) = (make(index), make(index + 1));
                places.take(index, first, &mut refuse, &at)?;
                places.take(index + 1, second, &mut refuse, &at)?;
            }
            (pairs..rows).try_for_each(|index| places.take(index, make(index), &mut refuse, &at))
        })
    }

    /// Replaces the rows by those that `put` puts, at most `rows_max`.
    ///
    /// The count stays in a register; pushing to two vectors would store and load two lengths per row, some five cycles
    /// each. A panic on the way leaks what was put, which is allowed, and nothing else.
    #[inline(always)]
    fn gather<R>(&mut self, rows_max: usize, put: impl FnOnce(&mut Places<'_, T>) -> R) -> R {
        self.clear();
        self.rows.reserve(rows_max);
        self.at.reserve(rows_max);
        let mut places = Places { rows: self.rows.spare_capacity_mut(), at: self.at.spare_capacity_mut(), taken: 0 };
        let result = put(&mut places);
        let taken = places.taken;
        // SAFETY: the first `taken` places of both have been written.
        #[expect(unsafe_code, reason = "lengths are set once per batch; every stage's test reads them back")]
        unsafe {
            self.rows.set_len(taken);
            self.at.set_len(taken);
        }
        result
    }
}

/// Room for rows, taken from the front.
struct Places<'a, T> {
    rows: &'a mut [MaybeUninit<T>],
    at: &'a mut [MaybeUninit<Timestamp>],
    taken: usize,
}

impl<T> Places<'_, T> {
    /// Puts the row of a result, or lets `refuse` hear of its error.
    #[inline(always)]
    fn take<E, F>(
        &mut self,
        index: usize,
        result: Result<T, E>,
        refuse: &mut impl FnMut(usize, E) -> Result<(), F>,
        at: &impl Fn(usize) -> Timestamp,
    ) -> Result<(), F> {
        match result {
            Ok(row) => {
                self.put(row, at(index));
                Ok(())
            }
            Err(error) => refuse(index, error),
        }
    }

    #[inline(always)]
    fn put(&mut self, row: T, at: Timestamp) {
        self.rows[self.taken].write(row);
        self.at[self.taken].write(at);
        self.taken += 1;
    }
}

/// Neighbouring rows of a [`Dense`].
#[derive(Debug)]
pub(crate) struct Piece<'a, T> {
    rows: &'a [T],
    at: &'a [Timestamp],
}

impl<T> Rows for Piece<'_, T> {
    type Item = T;

    #[inline(always)]
    fn len(&self) -> usize {
        self.rows.len()
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &T {
        &self.rows[index]
    }

    #[inline(always)]
    fn at(&self, index: usize) -> Timestamp {
        self.at[index]
    }

    #[inline(always)]
    fn origin(&self, _index: usize) -> Option<usize> {
        None
    }

    #[inline(always)]
    fn times(&self) -> Option<&[Timestamp]> {
        Some(self.at)
    }
}
