//! Benchmarks, verification and reports.

pub mod keys;
pub mod limit;
pub mod machine;
pub mod ysb;
