//! TLS where the kernel does not do it: a thread between the TCP socket, which carries records, and a unix socket, on whose other
//! end the connection's user reads and writes what it likes.
//!
//! What it costs beyond the encryption itself: each byte is copied into and out of the unix socket and through this thread's memory,
//! each way, and a thread for each connection. It holds at most [`PIECE_BYTES`] each way, as records and as text, so that back
//! pressure goes through it: what one end does not take, the other end cannot send.
//!
//! An end of the stream is passed on as such, in each direction by itself; it is not vouched for. Who has to know that nothing was
//! cut off says so in the stream, as channels and frames do.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

use crate::connection::SOCKET_BYTES_MIN;

/// Bytes that are moved at once.
const PIECE_BYTES: usize = 64 << 10;

const NEAR: Token = Token(0);
const FAR: Token = Token(1);

/// Starts the thread "millstream-tls". `tls` has no limit of its own on what it buffers: all of a piece is sent before the next.
/// It ends when both directions have, or when either socket fails.
pub(crate) fn start(tls: rustls::Connection, far: TcpStream, peer: &str) -> io::Result<OwnedFd> {
    let (given, near) = UnixStream::pair()?;
    for socket in [&given, &near] {
        // The kernel caps what it does not allow; unlike TCP's, these buffers do not grow by themselves.
        SockRef::from(socket).set_send_buffer_size(SOCKET_BYTES_MIN)?;
    }
    near.set_nonblocking(true)?;
    let poll = Poll::new()?;
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut SourceFd(&near.as_raw_fd()), NEAR, interest)?;
    poll.registry().register(&mut SourceFd(&far.as_raw_fd()), FAR, interest)?;
    let relay = Relay {
        poll,
        tls,
        near,
        far: BufReader::with_capacity(PIECE_BYTES, far),
        text: vec![0; PIECE_BYTES].into_boxed_slice(),
        outward: Direction::Open,
        inward: Direction::Open,
        gone: false,
        arrived: 0..0,
        arrivals: vec![0; PIECE_BYTES].into_boxed_slice(),
    };
    let name = "millstream-tls".to_owned();
    let failed = |error| io::Error::other(format!("no thread for the TLS of {peer} can be started: {error}"));
    std::thread::Builder::new().name(name).spawn(move || relay.run()).map_err(failed)?;
    Ok(given.into())
}

/// How far one direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Open,
    /// Nothing more comes; the rest is on its way.
    Ending,
    Ended,
}

struct Relay {
    poll: Poll,
    tls: rustls::Connection,
    near: UnixStream,
    far: BufReader<TcpStream>,
    /// Text on its way out.
    text: Box<[u8]>,
    outward: Direction,
    inward: Direction,
    /// The user has closed its end for good.
    gone: bool,
    /// Text on its way in: what of `arrivals` the user has not taken yet.
    arrived: std::ops::Range<usize>,
    arrivals: Box<[u8]>,
}

impl Relay {
    fn run(mut self) {
        let mut events = Events::with_capacity(2);
        while self.outward != Direction::Ended || self.inward != Direction::Ended {
            if self.gone {
                // Nobody reads what still comes; what was written before still goes out.
                self.inward = Direction::Ended;
            }
            let moved = self.move_outward().and_then(|out| Ok(out | self.move_inward()?));
            match moved {
                // Both sockets close; each end sees it.
                Err(_) => return,
                Ok(true) => continue,
                Ok(false) => {}
            }
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
                _ => {}
            }
            self.gone |= events.iter().any(|event| event.token() == NEAR && event.is_write_closed());
        }
    }

    /// From the user to the peer. Says whether there was anything to do.
    fn move_outward(&mut self) -> io::Result<bool> {
        let mut moved = false;
        loop {
            while self.outward != Direction::Ended && self.tls.wants_write() {
                match waited(|| self.tls.write_tls(self.far.get_mut()))? {
                    Some(_) => moved = true,
                    None => return Ok(moved),
                }
            }
            match self.outward {
                Direction::Open => match waited(|| self.near.read(&mut self.text)) {
                    Ok(None) => return Ok(moved),
                    // A user that went without reading all there was leaves an error; it has ended none the less.
                    Ok(Some(0)) | Err(_) => self.outward = Direction::Ending,
                    Ok(Some(bytes)) => self.tls.writer().write_all(&self.text[..bytes])?,
                },
                Direction::Ending => {
                    // The peer may have closed already.
                    let _ = self.far.get_ref().shutdown(Shutdown::Write);
                    self.outward = Direction::Ended;
                    return Ok(true);
                }
                Direction::Ended => return Ok(moved),
            }
        }
    }

    /// From the peer to the user.
    fn move_inward(&mut self) -> io::Result<bool> {
        let mut moved = false;
        loop {
            while !self.arrived.is_empty() {
                match waited(|| self.near.write(&self.arrivals[self.arrived.clone()])) {
                    Ok(Some(bytes)) => {
                        self.arrived.start += bytes;
                        moved = true;
                    }
                    Ok(None) => return Ok(moved),
                    // The user listens no more. It may still speak.
                    Err(_) => {
                        self.arrived = 0..0;
                        self.inward = Direction::Ending;
                    }
                }
            }
            match self.inward {
                Direction::Open => match waited(|| self.tls.reader().read(&mut self.arrivals)) {
                    Ok(Some(0)) => self.inward = Direction::Ending,
                    Ok(Some(bytes)) => self.arrived = 0..bytes,
                    Ok(None) => match waited(|| self.tls.read_tls(&mut self.far))? {
                        None => return Ok(moved),
                        Some(_) => {
                            let state = self.tls.process_new_packets().map_err(io::Error::other)?;
                            moved = true;
                            if state.peer_has_closed() && state.plaintext_bytes_to_read() == 0 {
                                self.inward = Direction::Ending;
                            }
                        }
                    },
                    // The stream ended, and not by TLS's own word for it, of which nobody here makes use.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.inward = Direction::Ending,
                    Err(error) => return Err(error),
                },
                Direction::Ending => {
                    let _ = self.near.shutdown(Shutdown::Write);
                    self.inward = Direction::Ended;
                    return Ok(true);
                }
                Direction::Ended => return Ok(moved),
            }
        }
    }
}

/// None where the socket is to be waited for.
fn waited(mut attempt: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match attempt() {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
