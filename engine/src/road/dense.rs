//! Rows that a stage made, and how it makes them: a batch at a time, lengths set once at its end.

use std::mem::MaybeUninit;

use super::rows::{BATCH_ROWS, Rows};
use crate::time::Timestamp;

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
        for (index, at) in at.iter().enumerate().skip(taken + 1) {
            if let Some(row) = make(index) {
                self.push(row, *at);
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

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use super::super::rows::Projected;
    use super::*;

    /// Rows whose times do not lie end to end.
    struct Scattered<'a>(&'a [(u32, i64)]);

    impl Rows for Scattered<'_> {
        type Item = u32;

        fn len(&self) -> usize {
            self.0.len()
        }

        fn row(&self, index: usize) -> &u32 {
            &self.0[index].0
        }

        fn at(&self, index: usize) -> Timestamp {
            Timestamp(self.0[index].1)
        }

        fn origin(&self, _index: usize) -> Option<usize> {
            None
        }
    }

    fn all<T: Copy>(rows: &Piece<'_, T>) -> Vec<(T, i64)> {
        (0..rows.len()).map(|index| (*rows.row(index), rows.at(index).0)).collect()
    }

    #[test]
    fn rows_keep_their_times_wherever_those_lie_and_whichever_are_dropped() {
        let pairs: Vec<(u32, i64)> = (0..7).map(|row| (row, i64::from(row) * 10)).collect();
        let scattered = Scattered(&pairs);
        let mut dense = Dense::default();
        pairs.iter().for_each(|(row, at)| dense.push(*row, Timestamp(*at)));
        let mut out = Dense::default();
        for kept in 0..1_u32 << pairs.len() {
            let keep = |index: usize| (kept >> index & 1 == 1).then_some(index as u32 + 100);
            let expected: Vec<(u32, i64)> =
                pairs.iter().filter_map(|(row, at)| Some((keep(*row as usize)?, *at))).collect();
            assert_eq!(all(&out.some_of(&dense.view(), keep)), expected, "{kept:b}");
            assert_eq!(all(&out.some_of(&scattered, keep)), expected, "{kept:b}");
        }
        // A part that tells the rows apart, so that a wrong row or time would show.
        fn whole(row: &u32) -> &u32 {
            row
        }
        let itself = Projected { rows: &scattered, part: &whole, of: PhantomData };
        assert_eq!(all(&out.some_of(&itself, |index| Some(*itself.row(index)))), pairs);
        let doubled: Vec<(u32, i64)> = pairs.iter().map(|(row, at)| (row * 2, *at)).collect();
        assert_eq!(all(&out.each_of(&dense.view(), |index| index as u32 * 2)), doubled);
        assert_eq!(all(&out.each_of(&scattered, |index| index as u32 * 2)), doubled);
    }
}
