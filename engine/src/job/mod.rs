//! What the user says: a flow of streams, and how it is run.
pub mod cluster;
pub mod cluster_settings;
pub mod config;
pub mod flow;
pub(crate) mod fit;
pub(crate) mod graph;

// Streams without a key.
pub mod rebalance;
pub mod requests;
pub mod stream;
pub mod ways;

// Streams with one.
pub mod dedup;
pub mod grouped;
pub mod keyed;
pub mod process;
pub mod stateful;
pub mod triggered;
pub mod windowed;
pub mod windows;

// Two streams that meet.
pub mod broadcast;
pub mod connect;
pub mod joins;
pub mod temporal;
pub mod window_joins;
