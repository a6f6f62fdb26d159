//! The keyed running count: many keys, no window, and nothing in the job but its state.
//!
//! ```text
//! source: load ─▶ updates ─▶ (read) ─▶ key_by ─▶ running count ─▶ output: counted and dropped, or every n-th to files
//!            └── gate ───────────┴──────────────────────────────────┘
//! ```
//!
//! A run has phases, and a gate between them that only opens when all rows so far have come out at the end: first every
//! key is put in, then the clock starts and updates come. What came of it is compared with a plain array of counts: read
//! from the retained checkpoints where there are any, else asked of the running job, which is given every key once more.

mod counts;
mod disk;
mod gate;
pub mod oracle;
mod output;
pub mod run;
mod source;

pub use disk::DiskUse;
