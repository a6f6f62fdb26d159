//! What a handshake goes through: a socket, or TLS over a socket. And how it is driven over one that never blocks.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::session::{Agreed, Refusal, Session, Step};
#[cfg(feature = "tls")]
use crate::tls;

/// A socket that does not block, plain or inside TLS.
pub(crate) enum Road {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tls::Stream>),
}

impl Road {
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Road::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Road::Tls(stream) => stream.socket(),
        }
    }
}

impl Read for Road {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Road::Plain(socket) => socket.read(bytes),
            #[cfg(feature = "tls")]
            Road::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Write for Road {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Road::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "tls")]
            Road::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Road::Plain(_) => Ok(()),
            #[cfg(feature = "tls")]
            Road::Tls(stream) => stream.flush(),
        }
    }
}

/// A session on its road, and what of its last message is not sent yet.
pub(crate) struct Handshake {
    session: Session,
    outgoing: Vec<u8>,
    sent: usize,
}

impl Handshake {
    pub(crate) fn new(session: Session) -> Handshake {
        Handshake { session, outgoing: Vec::new(), sent: 0 }
    }

    /// How much the other end has shown of itself; see [`Session::shown`].
    pub(crate) fn shown(&self) -> u8 {
        self.session.shown()
    }

    /// Goes on as far as the road allows.
    ///
    /// # Errors
    /// `WouldBlock` when the other end is to be waited for, `UnexpectedEof` when it has closed; others as they come.
    pub(crate) fn advance(&mut self, road: &mut (impl Read + Write)) -> io::Result<Result<Agreed, Refusal>> {
        let mut incoming = [0; 4096];
        loop {
            while self.sent < self.outgoing.len() {
                match road.write(&self.outgoing[self.sent..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(bytes) => self.sent += bytes,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            road.flush()?;
            match self.session.step() {
                Step::Send(bytes) => (self.outgoing, self.sent) = (bytes, 0),
                Step::Done(agreed) => return Ok(Ok(agreed)),
                Step::Refused(refusal) => return Ok(Err(refusal)),
                Step::NeedMore => {
                    // No more than belongs to the handshake: what comes behind it is somebody else's.
                    let wants = self.session.wants().min(incoming.len());
                    match road.read(&mut incoming[..wants]) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(bytes) => {
                            self.session.receive(&incoming[..bytes]);
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}
