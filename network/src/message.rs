//! The messages of the handshake: what they look like on the wire, whoever says them.

/// The handshake's version. Ends of different versions do not understand each other, and say so.
pub const VERSION: u16 = 1;

pub(crate) const MAGIC: [u8; 4] = *b"MILH";

// | magic 4 | version 2 | kind 1 | zero 1 | body bytes 4 |
pub(crate) const HEADER_BYTES: usize = 12;

/// What a message is. The numbers are the format's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    Challenge = 2,
    DiallerProof = 3,
    AcceptorProof = 4,
    Greeting = 5,
    Welcome = 6,
    Differs = 7,
    /// Instead of a challenge or a proof, and proven by nobody: its body is one [`Reason`].
    Refused = 8,
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Hello, Challenge, DiallerProof, AcceptorProof, Greeting, Welcome, Differs, Refused]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Why an acceptor sends somebody away whom it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reason {
    Version = 1,
    WrongSecret = 2,
    TlsExpected = 3,
}

/// A message: its header, and the parts of its body.
pub(crate) fn message(kind: Kind, parts: &[&[u8]]) -> Vec<u8> {
    let body_bytes: usize = parts.iter().map(|part| part.len()).sum();
    let mut message = Vec::with_capacity(HEADER_BYTES + body_bytes);
    message.extend(MAGIC);
    message.extend(VERSION.to_le_bytes());
    message.extend([kind as u8, 0]);
    message.extend((body_bytes as u32).to_le_bytes());
    parts.iter().for_each(|part| message.extend(*part));
    message
}

/// What an acceptor that speaks TLS only says to a dialler that does not.
#[cfg(feature = "tls")]
pub(crate) fn tls_expected() -> Vec<u8> {
    message(Kind::Refused, &[&[Reason::TlsExpected as u8]])
}

/// Whether this first byte may be that of a handshake without TLS.
pub(crate) fn is_plain(first: u8) -> bool {
    first == MAGIC[0]
}
