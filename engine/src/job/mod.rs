//! What the user says: a flow of streams, and how it is run.
pub mod config;
pub(crate) mod fit;
pub mod flow;
pub(crate) mod graph;
pub mod grouped;
pub mod keyed;
pub mod process;
pub mod stateful;
pub mod stream;
pub mod triggered;
pub mod windowed;
