//! Benchmarks, verification and reports.

pub mod ysb;
