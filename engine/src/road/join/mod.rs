//! Joins: rows of two streams that have a key in common, paired by what a join says of their times.
//!
//! ```text
//! left, right ─▶ connect (connect.rs) ─▶ a row meets the other side's rows of its key ─▶ what the closure makes of each pair
//!                                    └─▶ and is kept for those to come, for as long as the join can need it
//! ```
//!
//! | file | |
//! |---|---|
//! | `pairing.rs` | what a closure is asked for: inner and outer |
//! | `regular.rs` | all pairs of a key; kept for ever, or for a time to live |
//! | `interval.rs` | pairs whose times lie so and so far apart |
//!
//! Each is a [`CoProcess`](crate::CoProcess) over states of its own: order, snapshots, other numbers of shards and restarts
//! are those of process functions.

mod interval;
mod pairing;
mod regular;
#[cfg(test)]
mod tests;

pub(crate) use self::interval::Bounds;
pub use self::interval::{Interval, TimedSides};
pub use self::pairing::{FullOuter, Inner, LeftOuter, Pairing, RightOuter};
pub use self::regular::{BothSides, PerPair, Regular};

use millstream_state::Fixed;

use crate::state::{InPlace, Kept};

/// Rows that a join keeps: fixed ones, which lie in pages as they lie in memory.
#[diagnostic::on_unimplemented(
    message = "rows of type `{Self}` cannot be kept by a join",
    label = "before `key_by`, map them to a fixed type",
    note = "a fixed type is `Copy`, made of numbers, Text<N> and arrays of them, and has #[millstream::event] on it"
)]
pub trait JoinRow: Kept<Form = InPlace> + Fixed {}

#[diagnostic::do_not_recommend]
impl<T: Kept<Form = InPlace> + Fixed> JoinRow for T {}
