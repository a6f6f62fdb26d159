//! The Yahoo streaming benchmark: its events, the query's tables, and the slow obvious answer.

mod columns;
pub mod encode;
pub mod event;
pub mod generate;
pub mod oracle;
pub mod parse;
pub mod result;
pub mod source;

pub(crate) use columns::scatter;
