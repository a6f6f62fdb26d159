//! Why two processes that met do not work together, in words that say what to do.

/// Why a handshake came to nothing, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The first bytes are of some other protocol.
    #[error(
        "the other end does not speak Millstream's handshake: is this the right address and port, and is TLS on or off at \
         both ends?"
    )]
    NotOurProtocol,
    /// The other end speaks another version of the handshake.
    #[error(
        "the other end speaks version {theirs} of the handshake, and this one version {ours}: run the same build of \
         Millstream at both ends"
    )]
    Version {
        /// What this end speaks.
        ours: u16,
        /// What the other end speaks.
        theirs: u16,
    },
    /// The other end has not proven to know the secret; or said that this one has not.
    #[error(
        "the two ends do not know the same cluster secret: give both the same file (`sha256sum` it at both), or somebody \
         who is not of this cluster is calling"
    )]
    WrongSecret,
    /// Both know the secret, and are not of one mind.
    #[error("the two ends differ in their {name}: {ours} here, {theirs} at the other end. Run the same job at both.")]
    Differs {
        /// The first fact that differs.
        name: String,
        /// What this end states.
        ours: String,
        /// What the other end states.
        theirs: String,
    },
    /// Something is longer than its limit.
    #[error("the {what} has {bytes} bytes, and at most {bytes_max} are allowed")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// How long it is, or says that it is.
        bytes: usize,
        /// How long it may be.
        bytes_max: usize,
    },
    /// A message of this protocol in the wrong place, or one that this end has sent itself.
    #[error(
        "the other end does not keep to the order of the handshake (message {kind}): a replay, a reflection or a bug"
    )]
    OutOfOrder {
        /// The number of the message.
        kind: u8,
    },
    /// A message changed on its way, behind proofs that were right; or cannot be read although it is unchanged.
    #[error(
        "a message of the handshake changed on its way: somebody in between alters the bytes, or a device does. TLS on both \
         ends helps against the former."
    )]
    Altered,
    /// The acceptor speaks TLS only.
    #[error("the other end expects TLS, and this one has it switched off: switch it on here, or off there")]
    TlsExpected,
}
