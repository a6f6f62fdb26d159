//! Whole jobs, each under a hundred lines: the programs in `src/bin`. They share nothing, so that each can be read alone.
//!
//! The library itself is empty but for the job in the repository's `README.md`, which is compiled here to keep it true.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
