//! Operators and whole jobs on the test kit: turned by hand, in one thread, with a clock that stands still. The same jobs on
//! threads of their own are in `jobs` and `states`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod anywhere;
mod conservation;
mod ends_of_time;
mod features;
mod idleness;
mod itself;
mod operators;
mod script;
mod sine;
mod wall_time;
