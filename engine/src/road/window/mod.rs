//! Windows: contributions are folded into panes, and a window's keys are emitted when the watermark passes its end.
//!
//! A pane is a namespace of the table, so that firing scans its pages in memory order and dropping it frees them; there
//! is no timer and no delete per key. A firing is budgeted like input: it goes on a slice per turn, and holds back only
//! what must come after it.
//!
//! | room | what happens there |
//! |---|---|
//! | `panes.rs` | how event time is cut: tumbling windows, and the panes of all windows |
//! | `sliding.rs` | sliding windows: which of them hold a pane, which comes next |
//! | `tumbling.rs` | the operator where each window is a pane, and a row comes in time or not at all |
//! | `overlapping.rs` | the operator where windows share panes, or wait for rows that are late |
//! | `sums.rs` | a running sum of the panes of one window, which becomes the next one's |
//! | `lateness.rs` | what becomes of rows that are too late for all their windows |

mod lateness;
mod overlapping;
mod panes;
mod sliding;
mod sums;
mod triggered;
mod tumbling;

use serde::{Deserialize, Serialize};

use super::keyed::Contributions;
use super::rows::BATCH_ROWS;
use crate::time::Timestamp;

pub use self::lateness::{DropLate, Late, LateRows, LateTo, Lateness};
pub(crate) use self::overlapping::{Opened, Overlapping};
pub(crate) use self::panes::{Panes, millis};
pub use self::panes::{Tumbling, WindowError};
pub(crate) use self::sliding::Slides;
pub use self::sliding::{Sliding, SlidingSize};
pub use self::triggered::{
    Aligned, Apart, Assigned, Assigner, AtEndOfInput, Contents, Continuous, ContinuousWall, CountWindow,
    CountsDistinct, Delta, Element, Every, Evictor, Fired, Folded, Gaps, Global, Keep, KeepAll, Listed, MakesResults,
    Meeting, Merging, MergingTrigger, Never, OnCount, OnTime, OnTimePanes, Pane, Processing, ProcessingTime, Results,
    Session, SlidingCount, Timing, Trigger, TriggerContext, TriggerFor, Verdict, WindowKind,
};
pub(crate) use self::triggered::{Rules, Triggered, WindowSlots, Work};
pub(crate) use self::tumbling::Windows;

/// A stretch of event time, `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Window {
    /// The first instant inside.
    pub start: Timestamp,
    /// The first instant after.
    pub end: Timestamp,
}

/// What a window yields for one key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Windowed<K, R> {
    /// The key.
    pub key: K,
    /// The window.
    pub window: Window,
    /// The aggregate's result.
    pub value: R,
}

/// Rows after which a slice of a firing ends, at the end of a page: with the pages of common keys one batch.
const FIRE_ROWS: usize = BATCH_ROWS * 3 / 4;

/// What a window operator keeps of itself beside its panes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct WindowsBlob {
    /// How far time had come.
    pub(crate) watermark: Timestamp,
    /// Rows that came too late for their window, since the job began.
    pub(crate) late: u64,
}

impl WindowsBlob {
    /// What two shards kept, as one. A barrier finds the same watermark on every shard; if not, the earlier one promises
    /// less.
    pub(crate) fn merge(self, other: WindowsBlob) -> WindowsBlob {
        WindowsBlob { watermark: self.watermark.min(other.watermark), late: self.late + other.late }
    }
}

/// Rows of a batch that spans panes, pane by pane.
#[derive(Default)]
struct ByPane {
    lists: Vec<(i64, Vec<u16>)>,
    used: usize,
}

impl ByPane {
    /// Sorts the rows of a batch by pane.
    fn sort<K, V, C: Contributions<K, V>>(&mut self, panes: Panes, batch: &C) {
        let lists = &mut self.lists;
        let mut used = 0;
        let mut last_hit = 0;
        for index in 0..batch.len() {
            let start = panes.start_of(batch.at(index));
            if last_hit >= used || lists[last_hit].0 != start {
                last_hit = match lists[..used].iter().position(|(pane, _)| *pane == start) {
                    Some(hit) => hit,
                    None => {
                        if used == lists.len() {
                            lists.push((start, Vec::with_capacity(BATCH_ROWS)));
                        }
                        lists[used].0 = start;
                        lists[used].1.clear();
                        used += 1;
                        used - 1
                    }
                };
            }
            lists[last_hit].1.push(index as u16);
        }
        self.used = used;
    }

    /// Each pane's start and rows, in the order in which panes came.
    fn lists(&self) -> impl Iterator<Item = (i64, &[u16])> {
        self.lists[..self.used].iter().map(|(start, picked)| (*start, &**picked))
    }
}

/// Some rows of a batch, seen as a batch.
struct Picked<'a, C> {
    batch: &'a C,
    picked: &'a [u16],
}

impl<K, V, C: Contributions<K, V>> Contributions<K, V> for Picked<'_, C> {
    type KeyOut<'b>
        = C::KeyOut<'b>
    where
        Self: 'b;

    fn len(&self) -> usize {
        self.picked.len()
    }

    fn at(&self, index: usize) -> Timestamp {
        self.batch.at(self.picked[index] as usize)
    }

    fn key(&self, index: usize) -> C::KeyOut<'_> {
        self.batch.key(self.picked[index] as usize)
    }

    fn value(&self, index: usize) -> V {
        self.batch.value(self.picked[index] as usize)
    }
}
