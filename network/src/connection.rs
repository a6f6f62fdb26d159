//! A connection whose other end has proven to know the secret, and what it is used for: a channel, or a socket for a link.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use socket2::SockRef;

use crate::channel::{ChannelReceiver, ChannelSender};
use crate::road::Road;

/// Bytes that a socket's buffers hold at least, each way, where the kernel's limits allow it.
pub const SOCKET_BYTES_MIN: usize = 1 << 20;

/// How the bytes of a [`Connection`] travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// As they are, over TCP.
    Plain,
    /// Inside TLS, by the kernel: the socket is TCP and is used as if it were plain.
    KernelTls,
    /// Inside TLS, by a thread of this process: the socket is one end of a unix pair, and each byte is copied once more.
    Relayed,
}

/// A connection to a peer that knows the secret and agrees on the facts. Nothing that came behind the handshake has been read.
pub struct Connection {
    socket: OwnedFd,
    peer: String,
    reply: Vec<u8>,
    carried: Carried,
}

impl Connection {
    /// What a handshake has left: the socket blocks again, and is set up for much traffic.
    pub(crate) fn new(road: Road, peer: String, reply: Vec<u8>) -> io::Result<Connection> {
        prepare(road.socket())?;
        let (socket, carried) = match road {
            Road::Plain(socket) => {
                socket.set_nonblocking(false)?;
                (OwnedFd::from(socket), Carried::Plain)
            }
            #[cfg(feature = "tls")]
            Road::Tls(stream) => stream.into_socket(&peer)?,
        };
        Ok(Connection { socket, peer, reply, carried })
    }

    /// The socket, for a link of its own making: stream-oriented, blocking, without Nagle's delay, its buffers
    /// [`SOCKET_BYTES_MIN`] or more where the kernel allows it.
    ///
    /// It is a TCP socket, or a unix one if the connection is [`Carried::Relayed`].
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Who is at the other end, for messages: the name that was dialled, or the address that called.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// What the acceptor has answered to this dialler's greeting; empty at the acceptor.
    #[must_use]
    pub fn reply(&self) -> &[u8] {
        &self.reply
    }

    /// How its bytes travel.
    #[must_use]
    pub fn carried(&self) -> Carried {
        self.carried
    }

    /// A channel for messages over this connection, its two halves.
    ///
    /// # Errors
    /// If the process has no file descriptor left for the second half.
    pub fn into_channel(self) -> io::Result<(ChannelSender, ChannelReceiver)> {
        crate::channel::over(self.socket)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("peer", &self.peer)
            .field("carried", &self.carried)
            .finish_non_exhaustive()
    }
}

/// Sets a TCP socket up for much traffic. Larger buffers are asked for only where the kernel allows them: otherwise it would cap
/// them, and no longer let them grow as it does by itself.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let allowed = |path| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<usize>().ok());
    let socket = SockRef::from(socket);
    if allowed("/proc/sys/net/core/wmem_max").is_some_and(|bytes_max| bytes_max >= SOCKET_BYTES_MIN) {
        socket.set_send_buffer_size(SOCKET_BYTES_MIN)?;
    }
    if allowed("/proc/sys/net/core/rmem_max").is_some_and(|bytes_max| bytes_max >= SOCKET_BYTES_MIN) {
        socket.set_recv_buffer_size(SOCKET_BYTES_MIN)?;
    }
    Ok(())
}
