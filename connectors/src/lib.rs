//! Sources and sinks for real systems: where a record's road begins and where it ends.
//!
//! ```text
//!   [log]  partitions of files ──▶ the engine's road ──▶ [file]    files that appear by rename
//!                                                    └─▶ [memory]  rows another thread can look at, or a count
//! ```
//!
//! Each connector is one room behind one cargo feature (`log`, `file`; `memory` is always there). A connector knows the
//! engine's [`Source`](millstream::road::source::Source) and [`Sink`](millstream::road::sink::Sink), never another
//! connector, and decides nothing about epochs: it closes, shows and forgets output when it is told to.

#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "log")]
pub mod log;
pub mod memory;
