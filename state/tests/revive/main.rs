//! A segment in shared memory that a process left behind, at any instruction and damaged in any way: what a restart makes of
//! it must be the checkpoint's state, always, and without reading the checkpoint where nothing is wrong.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod corrupt;
mod crash;
mod doubt;
mod full;
mod kill;
mod measure;
mod world;
