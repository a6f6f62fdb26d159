//! Under construction.
pub mod road;
pub mod time;
