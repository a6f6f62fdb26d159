//! What the user says: a flow of streams, and how it is run.
pub mod config;
pub mod connect;
pub(crate) mod fit;
pub mod flow;
pub(crate) mod graph;
pub mod joins;
pub mod keyed;
pub mod process;
pub mod stateful;
pub mod stream;
pub mod triggered;
pub mod windowed;
