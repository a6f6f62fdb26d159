//! Windows with triggers: any kind of window, any rule of when it is emitted and what is left of it then.
//!
//! ```text
//! row ─▶ kind: which windows ─▶ slot of key and window ─▶ contents: folded, or kept ─▶ trigger ─▶ continue | fire | purge
//! timer of key and window ─▶ slot ─▶ trigger ─▶ fire | purge; at the window's cleanup the slot goes
//! ```
//!
//! A key and a window have one entry, the *slot*: the contents' accumulator, the trigger's state, and what the operator
//! notes of the window. A row in a window that is there costs one look-up. Windows of event time that fire at their end
//! and nowhere else are cheaper on panes (`tumbling.rs`, `overlapping.rs`), so these come here only when asked for more.
//!
//! The order of rows, timers and marks is that of process functions (`road/order.rs`): a watermark passes on behind the
//! timers that it fires, and what comes meanwhile waits. What differs is what a timer is of: not of a key but of a key's
//! window, so that a key with a thousand windows is not searched for the one that is meant.
//!
//! | room | what happens there |
//! |---|---|
//! | `kinds.rs` | which windows there are: sessions, counts, global, of processing time, user-written |
//! | `trigger.rs` | what a trigger is |
//! | `triggers.rs` | the triggers that are there |
//! | `contents.rs` | what a window keeps of its rows: an accumulator, or the rows |
//! | `evictor.rs` | which rows are left out before a result is made |
//! | `slot.rs` | the entry of a key and window |
//! | `work.rs` | what becomes of a row and of a timer |
//! | `merging.rs` | the same where windows merge |
//! | `operator.rs` | the operator: that work, in the order of rows, timers and marks |

mod contents;
mod evictor;
mod kinds;
mod merging;
mod operator;
mod slot;
mod trigger;
mod triggers;
#[cfg(test)]
mod tests;
mod work;

use std::fmt;

use super::Window;

pub use self::contents::{Contents, CountsDistinct, Element, Folded, Listed, MakesResults, Processing, Results};
pub use self::evictor::{Evictor, Keep, KeepAll};
pub use self::kinds::{
    Aligned, Apart, Assigned, Assigner, CountWindow, Gaps, Global, Meeting, Merging, ProcessingTime, Session,
    SlidingCount, WindowKind,
};
pub(crate) use self::operator::Triggered;
pub(crate) use self::slot::WindowSlots;
pub use self::trigger::{MergingTrigger, Trigger, TriggerContext, TriggerFor, Verdict};
pub use self::triggers::{AtEndOfInput, Continuous, ContinuousWall, Delta, Every, Never, OnCount, OnTime, OnTimePanes};
pub(crate) use self::work::{Rules, Work};

/// When a window was emitted, as its end sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timing {
    /// Before time came to the window's end.
    Early,
    /// When it came.
    OnTime,
    /// After that, for rows that were late and allowed.
    Late,
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Timing::Early => "early",
            Timing::OnTime => "on time",
            Timing::Late => "late",
        })
    }
}

/// Which of a window's results one is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pane {
    /// When it was emitted.
    pub timing: Timing,
    /// How many came before it of this key and window.
    pub index: u64,
}

impl fmt::Display for Pane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pane {}", self.timing, self.index)
    }
}

/// What a window yields for one key, each time that its trigger says so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fired<K, R> {
    /// The key.
    pub key: K,
    /// The window; none where all rows are in one.
    pub window: Option<Window>,
    /// Which of the window's results it is.
    pub pane: Pane,
    /// The result.
    pub value: R,
}

impl<K: fmt::Display, R: fmt::Display> fmt::Display for Fired<K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let Some(window) = self.window {
            write!(f, " in [{}, {})", window.start, window.end)?;
        }
        write!(f, ": {} ({})", self.value, self.pane)
    }
}
