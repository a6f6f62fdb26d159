//! A record's road, in the order it is taken.
pub mod rows;
pub mod sink;
pub mod source;
