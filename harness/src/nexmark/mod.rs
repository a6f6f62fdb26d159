//! The Nexmark benchmark: people, auctions and bids; 22 queries as jobs on the engine, each verified.
//!
//! | room | what happens there |
//! |---|---|
//! | `source` | event `i` is made of its number `i`: splits by striding, replayable from anywhere |
//! | `query` | which queries there are |
//! | `queries` | what each is on the engine |
//! | `row` | a result as a line, and what a line adds to the checksum |
//! | `output` | the sink: exactly once, it sums up lines and writes them if asked |
//! | `run` | one run: settings in, a verified outcome out |
//! | `answer` | every query once more, slow and obvious |
//! | `verify` | committed files against the answer, row by row |
//! | `dataset` | events as lines of JSON, in a log |
//! | `byhand` | the hand-written loop of the queries without state |

pub mod answer;
pub mod byhand;
pub mod dataset;
pub mod output;
mod queries;
pub mod query;
pub mod row;
pub mod run;
pub mod source;
pub mod verify;
