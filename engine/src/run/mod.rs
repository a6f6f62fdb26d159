//! What moves the two roads: the shard's loop, the lead, and what they say when something is wrong.
#[cfg(feature = "testing")]
pub(crate) mod by_hand;
pub mod fault;
pub mod handle;
pub(crate) mod io;
pub(crate) mod machine;
pub mod metrics;
pub(crate) mod panics;
pub(crate) mod residence;
pub(crate) mod process;
pub(crate) mod publisher;
pub(crate) mod resume;
pub(crate) mod savepoints;
pub(crate) mod shard;
pub mod time_report;
pub mod task;
