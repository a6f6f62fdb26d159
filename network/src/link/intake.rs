//! The receiving half of a link, without I/O.

/// What is wrong with bytes that came over a link.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// placeholder
    #[error("the frame")]
    Frame,
}
