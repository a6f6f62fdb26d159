//! Benchmarks, verification and reports.
//!
//! ```text
//! cli ─▶ limit    hand-written loops, no engine: what the machine can do
//!     ├▶ ysb      the Yahoo benchmark: events → query → result rows → the slow answer
//!     ├▶ windows  a window kind and many keys → a digest of all results → the slow answer
//!     ├▶ nexmark  the Nexmark queries: events → query → rows, their checksum → the slow answer
//!     ├▶ cases    facts about what comes out: files of them, asked of the engine's own operators
//!     └▶ state    the keyed count: keys → running count → its checkpoints → the slow answer
//!        keys     keys for the keyed count      machine   cores, distance, usage
//!        report   what a run says at its end
//! ```
//!
//! No figure without a check: every run's counts are compared with an answer computed a slow and obvious way.

pub mod cases;
pub mod chaos;
pub mod cli;
pub mod keys;
pub mod limit;
pub mod machine;
pub mod nexmark;
pub mod processes;
pub mod report;
pub mod state;
pub mod windows;
pub mod ysb;
