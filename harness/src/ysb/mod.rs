//! The Yahoo streaming benchmark: its events, the query's tables, and the slow obvious answer.

mod columns;
pub mod dataset;
pub mod encode;
pub mod event;
pub mod generate;
pub mod latency;
pub mod oracle;
pub mod output;
pub mod pace;
pub mod parse;
pub mod query;
pub mod result;
pub mod run;
pub mod source;
pub mod verify;

pub(crate) use columns::scatter;
