//! A channel: messages of bytes in order, for what processes have to tell each other besides frames: orders and news.
//!
//! Bytes, limits and checks are drawn in `docs/formats/channel.md`. The [`Decoder`] is pure; the two halves put it on a socket.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use mio::Interest;
use socket2::Socket;

use crate::deadline::Deadline;
use crate::waiting::Waiting;

/// Bytes of the longest message.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How long a peer may take nothing off its end before a send gives up.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A peer that takes less than this each second, on average over a message, is as good as stuck.
const BYTES_PER_SECOND_MIN: usize = 1 << 20;

/// Bytes that are asked for at once.
const PIECE_BYTES: usize = 64 << 10;

// | body bytes 4 | kind 1 | zero 3 | crc32c of the body 4 | crc32c of these 12 bytes 4 |
const HEADER_BYTES: usize = 16;

const MESSAGE: u8 = 1;
const HEARTBEAT: u8 = 2;
const GOODBYE: u8 = 3;

/// What has come over a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message, whole and unharmed.
    Message(Vec<u8>),
    /// A sign of life.
    Heartbeat,
    /// Nothing, in the time given.
    Nothing,
}

/// Why a channel is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other end has said that nothing more follows.
    #[error("the other end has closed the channel")]
    Closed,
    /// The other end is gone without a word: its process has died, or the connection was cut.
    #[error("the other end is gone without a word: its process has ended, or the connection was cut")]
    Reset,
    /// The other end does not take what it is sent.
    #[error("the other end takes nothing off the channel: it is stopped or overloaded, or the road to it is cut")]
    Stuck,
    /// What has come is no message.
    #[error(
        "what came over the channel is no message: {what}. The other end is of another build, or bytes were damaged."
    )]
    BadMessage {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The message is longer than [`MESSAGE_BYTES_MAX`]; nothing of it was sent, and the channel is as good as before.
    #[error("a message of {bytes} bytes is too long for a channel: at most {MESSAGE_BYTES_MAX} are allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// The system's answer, where it is none of the above.
    #[error("the channel failed: {0}")]
    Io(io::Error),
}

/// Puts a channel on a connected socket.
pub(crate) fn over(socket: OwnedFd) -> io::Result<(ChannelSender, ChannelReceiver)> {
    let socket = Socket::from(socket);
    // Of both halves: they are two descriptors of one socket. Who waits does so by the clock.
    socket.set_nonblocking(true)?;
    let other = socket.try_clone()?;
    let sender = ChannelSender {
        waiting: Waiting::for_socket(socket.as_raw_fd(), Interest::WRITABLE)?,
        socket,
        patience: PATIENCE,
        open: true,
    };
    let receiver = ChannelReceiver {
        waiting: Waiting::for_socket(other.as_raw_fd(), Interest::READABLE)?,
        socket: other,
        decoder: Decoder::default(),
        incoming: vec![0; PIECE_BYTES].into_boxed_slice(),
    };
    Ok((sender, receiver))
}

/// The half that speaks. Dropped without [`close`](Self::close), it leaves the other end with [`ChannelError::Reset`].
#[derive(Debug)]
pub struct ChannelSender {
    waiting: Waiting,
    socket: Socket,
    patience: Duration,
    /// Nothing may follow a message of which only a part was sent.
    open: bool,
}

impl ChannelSender {
    /// Sends a message, and returns when the kernel has it. A peer that takes nothing for [`PATIENCE`], or less than a mebibyte a
    /// second, is given up.
    ///
    /// # Errors
    /// [`TooLong`](ChannelError::TooLong) leaves the channel as it was; after any other, nothing more can be sent.
    pub fn send(&mut self, message: &[u8]) -> Result<(), ChannelError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(ChannelError::TooLong { bytes: message.len() });
        }
        self.send_kind(MESSAGE, message)
    }

    /// Sends a sign of life.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn heartbeat(&mut self) -> Result<(), ChannelError> {
        self.send_kind(HEARTBEAT, &[])
    }

    /// Says that nothing more follows: the other end gets all that was sent, then [`ChannelError::Closed`].
    pub fn close(mut self) {
        // Who is no longer there needs no goodbye.
        let _ = self.send_kind(GOODBYE, &[]);
    }

    /// How long the peer may take nothing before a send gives up, instead of [`PATIENCE`].
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    fn send_kind(&mut self, kind: u8, body: &[u8]) -> Result<(), ChannelError> {
        if !self.open {
            return Err(ChannelError::Closed);
        }
        let sent = self.write(&header(kind, body), body);
        self.open = sent.is_ok();
        sent
    }

    fn write(&mut self, header: &[u8], body: &[u8]) -> Result<(), ChannelError> {
        let bytes = header.len() + body.len();
        let whole = Deadline::after(self.patience + Duration::from_secs((bytes / BYTES_PER_SECOND_MIN) as u64));
        let mut sent = 0;
        while sent < bytes {
            // Both in one call, so that they leave in one packet where they fit.
            let parts = [&header[sent.min(header.len())..], &body[sent.saturating_sub(header.len())..]];
            let parts = parts.map(io::IoSlice::new);
            let deadline = whole.min(Deadline::after(self.patience));
            let attempt = || self.socket.send_vectored_with_flags(&parts, libc::MSG_NOSIGNAL);
            sent += self.waiting.until(deadline, attempt).map_err(failed)?;
            if sent < bytes && whole.left().is_none() {
                return Err(ChannelError::Stuck);
            }
        }
        Ok(())
    }
}

impl Drop for ChannelSender {
    fn drop(&mut self) {
        // The other half holds the socket open still; what was sent goes out first.
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

/// The half that listens.
#[derive(Debug)]
pub struct ChannelReceiver {
    waiting: Waiting,
    socket: Socket,
    decoder: Decoder,
    incoming: Box<[u8]>,
}

impl ChannelReceiver {
    /// Waits for what comes next, for `at_most` so long. With no time at all it only looks. Part of a message that has come is
    /// kept for the next call.
    ///
    /// # Errors
    /// [`Closed`](ChannelError::Closed) after all that was sent, if the other end has said so;
    /// [`Reset`](ChannelError::Reset) if it is gone otherwise. All errors are final.
    pub fn receive(&mut self, at_most: Duration) -> Result<Received, ChannelError> {
        let deadline = Deadline::after(at_most);
        loop {
            match self.decoder.decoded() {
                Ok(None) => {}
                Ok(Some(Decoded::Message(message))) => return Ok(Received::Message(message)),
                Ok(Some(Decoded::Heartbeat)) => return Ok(Received::Heartbeat),
                Ok(Some(Decoded::Goodbye)) => return Err(ChannelError::Closed),
                Err(BadMessage(what)) => return Err(ChannelError::BadMessage { what }),
            }
            match self.waiting.until(deadline, || (&self.socket).read(&mut self.incoming)) {
                Ok(0) => return Err(ChannelError::Reset),
                Ok(bytes) => self.decoder.feed(&self.incoming[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(Received::Nothing),
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

fn failed(error: io::Error) -> ChannelError {
    use io::ErrorKind::*;
    match error.kind() {
        TimedOut => ChannelError::Stuck,
        ConnectionReset | BrokenPipe | ConnectionAborted => ChannelError::Reset,
        _ => ChannelError::Io(error),
    }
}

/// The bytes of a message as they are sent.
///
/// # Errors
/// If it is longer than [`MESSAGE_BYTES_MAX`].
pub fn encode(message: &[u8]) -> Result<Vec<u8>, ChannelError> {
    match message.len() {
        ..=MESSAGE_BYTES_MAX => Ok([&header(MESSAGE, message)[..], message].concat()),
        bytes => Err(ChannelError::TooLong { bytes }),
    }
}

fn header(kind: u8, body: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[4] = kind;
    header[8..12].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let own = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&own.to_le_bytes());
    header
}

/// What the bytes of a channel say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A message, whole and unharmed.
    Message(Vec<u8>),
    /// A sign of life.
    Heartbeat,
    /// Nothing more follows.
    Goodbye,
}

/// What is wrong with bytes that are no channel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMessage(pub &'static str);

/// Makes messages of the bytes of a channel, wherever they were cut. Pure.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; HEADER_BYTES],
    header_have: usize,
    body: Vec<u8>,
    decoded: VecDeque<Decoded>,
    /// The goodbye, or why nothing more can be made of what comes.
    end: Option<Result<Decoded, BadMessage>>,
}

impl Decoder {
    /// Takes bytes as they have come. What follows a goodbye, or bytes that are no message, is not looked at.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.end.is_none() {
            if self.header_have < HEADER_BYTES {
                let taken = bytes.len().min(HEADER_BYTES - self.header_have);
                self.header[self.header_have..][..taken].copy_from_slice(&bytes[..taken]);
                self.header_have += taken;
                bytes = &bytes[taken..];
            }
            if self.header_have == HEADER_BYTES {
                match self.read_body(&mut bytes) {
                    Ok(None) => {}
                    Ok(Some(decoded)) => {
                        self.header_have = 0;
                        match decoded {
                            Decoded::Goodbye => self.end = Some(Ok(Decoded::Goodbye)),
                            decoded => self.decoded.push_back(decoded),
                        }
                    }
                    Err(bad) => self.end = Some(Err(bad)),
                }
            }
        }
    }

    /// What has come, in order. A goodbye comes last, and again and again.
    ///
    /// # Errors
    /// If bytes have come that are no message; then for ever.
    pub fn decoded(&mut self) -> Result<Option<Decoded>, BadMessage> {
        match self.decoded.pop_front() {
            None => self.end.clone().transpose(),
            decoded => Ok(decoded),
        }
    }

    /// With a whole header, takes what is there of the body.
    fn read_body(&mut self, bytes: &mut &[u8]) -> Result<Option<Decoded>, BadMessage> {
        let word = |at: usize| {
            let word = self.header[at..at + 4].try_into().expect("four bytes of sixteen");
            u32::from_le_bytes(word)
        };
        let (body_bytes, crc) = (word(0) as usize, word(8));
        if self.body.is_empty() {
            // Before any memory is asked for: a length that was damaged is not believed.
            if crc32c::crc32c(&self.header[..12]) != word(12) {
                return Err(BadMessage("the header's checksum is wrong"));
            }
            if body_bytes > MESSAGE_BYTES_MAX {
                return Err(BadMessage("it says that it is longer than a message may be"));
            }
            match self.header[4..8] {
                [MESSAGE, 0, 0, 0] => {}
                [HEARTBEAT | GOODBYE, 0, 0, 0] if body_bytes == 0 => {}
                _ => return Err(BadMessage("no kind of message is known that looks like this")),
            }
        }
        let taken = bytes.len().min(body_bytes - self.body.len());
        // Memory comes with the bytes, and not for the asking.
        self.body.extend_from_slice(&bytes[..taken]);
        *bytes = &bytes[taken..];
        if self.body.len() < body_bytes {
            return Ok(None);
        }
        if crc32c::crc32c(&self.body) != crc {
            return Err(BadMessage("its checksum is wrong"));
        }
        Ok(Some(match self.header[4] {
            MESSAGE => Decoded::Message(std::mem::take(&mut self.body)),
            HEARTBEAT => Decoded::Heartbeat,
            _ => Decoded::Goodbye,
        }))
    }
}
