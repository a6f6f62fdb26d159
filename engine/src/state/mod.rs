//! Keyed state for users: handles that act on the key of the row in hand.
//!
//! ```text
//! derive(KeyedState) ─▶ declare: one or a few tables per handle, all in the operator's page store
//! a row              ─▶ its key is set ─▶ the user's closure ─▶ handles ─▶ entries ─▶ pages
//! a barrier          ─▶ what is over goes, from a few pages ─▶ freeze
//! ```
//!
//! `declare` says how states come to be, `kept` what can be kept and how it is seen, `entries` are the tables; [`Value`],
//! [`List`], [`Map`], [`Reducing`] and [`Aggregating`] are what users hold.
//!
//! # What ends
//! With `#[state(ttl = "1h")]` an entry is seen for an hour after it was last written, and never again after. Time is the
//! shard's wall clock, read once a turn; it never goes back, nor does it across a restart. What is over is cleared away when
//! it is written over, and a few pages at a time with each batch and barrier.
//!
//! # What cannot go wrong
//! A view of a value borrows its handle, so the compiler refuses to write to a state while it is looked at; states of one
//! operator do not get into each other's way. A store that is full fails the job when the closure is done, not in it.

mod aggregating;
mod declare;
mod entries;
mod kept;
mod list;
mod map;
#[cfg(test)]
mod tests;
mod timed;
mod value;

pub use aggregating::{Aggregating, Greatest, Least, Reduce, Reducing, Total};
pub(crate) use declare::Bound;
pub use declare::{Declare, Handle, KeyedState, StateOptions};
pub use kept::{Archived, Change, Form, InPlace, Kept, MapKey, View};
#[doc(hidden)]
pub use kept::{Choose, Chosen, Probe, ProbeOtherwise};
pub use list::List;
pub use map::Map;
pub use millstream_macros::KeyedState;
#[doc(hidden)]
pub use millstream_state::SubKey;
pub use millstream_state::{AsKey, Seen, Stored};
#[doc(hidden)]
pub use timed::TimedRows;
pub use value::Value;
