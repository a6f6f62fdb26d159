//! Backfill, then live: one source behind another, shard by shard.
//!
//! ```text
//! splits of the first   ─ read to their ends ─┐
//! splits of the second  ─ wait, and time does not wait for them ─▶ begin ─▶ are read for ever
//! ```
//!
//! A shard goes over to the second source by itself. Behind an exchange time is the least of all shards', so a shard that is
//! still busy with the past holds it back for all, and nothing is late because another one was faster.

use std::cell::Cell;
use std::fmt;
use std::os::fd::RawFd;
use std::rc::Rc;

use super::rows::Batch;
use super::source::{Polled, Source, SourceError, Split};

/// A moment that has passed: ask again before the shard sleeps.
const AT_ONCE_MS: i64 = 0;

/// A source, and another one that is read where the first has ended; made by [`Source::then`].
#[derive(Clone, Debug)]
pub struct Then<A, B> {
    pub(crate) first: A,
    pub(crate) second: B,
}

impl<A, B> Source for Then<A, B>
where
    A: Source,
    B: Source<Batch = A::Batch>,
{
    type Batch = A::Batch;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = A::Batch>>>, SourceError> {
        let (first, second) = (self.first.open(shard, shards)?, self.second.open(shard, shards)?);
        let progress = Rc::new(Handover { unread: Cell::new(first.len()), unbegun: Cell::new(second.len()) });
        let part = |is_first| {
            let progress = progress.clone();
            move |split| -> Box<dyn Split<Batch = A::Batch>> {
                Box::new(Part { split, is_first, has_turned: false, progress: progress.clone() })
            }
        };
        Ok(first.into_iter().map(part(true)).chain(second.into_iter().map(part(false))).collect())
    }

    fn splits_are_fixed(&self) -> bool {
        self.first.splits_are_fixed() && self.second.splits_are_fixed()
    }

    fn describe(&self) -> String {
        format!("{}, then {}", self.first.describe(), self.second.describe())
    }
}

/// How far a shard is on its way from the first source to the second.
struct Handover {
    /// Splits of the first that have not ended.
    unread: Cell<usize>,
    /// Splits of the second that have not been polled since.
    unbegun: Cell<usize>,
}

/// A split of either.
struct Part<B> {
    split: Box<dyn Split<Batch = B>>,
    is_first: bool,
    /// Of the first: it has been read to its end. Of the second: it has begun.
    has_turned: bool,
    progress: Rc<Handover>,
}

impl<B: Batch> fmt::Debug for Part<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({}, first: {}, turned: {})", self.split.name(), self.is_first, self.has_turned)
    }
}

impl<B: Batch> Part<B> {
    /// Notes once that this split has come to where it hands over, or takes over.
    fn turn(&mut self, count: fn(&Handover) -> &Cell<usize>) {
        if !std::mem::replace(&mut self.has_turned, true) {
            let count = count(&self.progress);
            count.set(count.get() - 1);
        }
    }
}

impl<B: Batch> Split for Part<B> {
    type Batch = B;

    fn name(&self) -> String {
        // Both may call a split by the same name.
        format!("{} {}", if self.is_first { "first" } else { "then" }, self.split.name())
    }

    fn poll(&mut self, out: &mut B, rows_max: usize) -> Result<Polled, SourceError> {
        if !self.is_first {
            if self.progress.unread.get() > 0 {
                return Ok(Polled::NotBegun);
            }
            let polled = self.split.poll(out, rows_max)?;
            self.turn(|progress| &progress.unbegun);
            return Ok(polled);
        }
        let polled = self.split.poll(out, rows_max)?;
        if polled != Polled::End || !out.is_empty() {
            return Ok(polled);
        }
        self.turn(|progress| &progress.unread);
        // The end of the first must not be heard while the second is thought to be idle: it would be the end of time.
        let is_taken_over = self.progress.unread.get() > 0 || self.progress.unbegun.get() == 0;
        Ok(if is_taken_over { Polled::End } else { Polled::IdleUntilMs(AT_ONCE_MS) })
    }

    fn position(&self) -> u64 {
        self.split.position()
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.split.seek(position)
    }

    fn wake_fd(&self) -> Option<RawFd> {
        self.split.wake_fd()
    }

    fn pending(&self) -> Option<u64> {
        self.split.pending()
    }
}
