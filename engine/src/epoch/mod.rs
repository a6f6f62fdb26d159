//! A barrier's road: inject → align → freeze → snapshot → manifest → commit.
pub(crate) mod align;
pub(crate) mod coordinator;
pub(crate) mod snapshot;

pub use millstream_state::Epoch;

/// The mark in the stream between two epochs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Barrier {
    /// The epoch that it closes.
    pub epoch: Epoch,
    /// Nothing follows it: the input has ended, or the job was asked to stop.
    pub last: bool,
}
