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
//! | `grouped.rs` | what falls into one window: pairs, or both lists |
//! | `as_of.rs` | each row with the version that was valid at its time |
//! | `table.rs` | each row with what a broadcast table has of its key |
//!
//! Each is a [`CoProcess`](crate::CoProcess), or a [`BroadcastProcess`](crate::BroadcastProcess), over states of its own: order, snapshots, other numbers of shards and restarts
//! are those of process functions.

mod as_of;
mod grouped;
mod interval;
mod pairing;
mod regular;
mod table;
#[cfg(test)]
mod tests;

pub use self::as_of::{Temporal, Versions};
pub use self::grouped::{BothLists, EachPair, Grouped, Grouping};
pub(crate) use self::interval::Bounds;
pub use self::interval::{Interval, TimedSides};
pub use self::pairing::{FullOuter, Inner, LeftOuter, Pairing, RightOuter};
pub use self::regular::{BothSides, PerPair, Regular};
pub use self::table::{Stateless, Table, WithTable};

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

/// A moment, or the end of time that it lies beyond.
fn clipped(at: i128) -> i64 {
    at.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}
