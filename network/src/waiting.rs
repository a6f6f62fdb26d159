//! Waiting for one socket that does not block, until a moment.

use std::io;
use std::os::fd::RawFd;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::deadline::Deadline;

/// One socket, and what is awaited of it. It is to be dropped before the socket is closed.
#[derive(Debug)]
pub(crate) struct Waiting {
    poll: Poll,
    events: Events,
}

impl Waiting {
    pub(crate) fn for_socket(socket: RawFd, interest: Interest) -> io::Result<Waiting> {
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&socket), Token(0), interest)?;
        Ok(Waiting { poll, events: Events::with_capacity(1) })
    }

    /// Tries until it is more than a matter of waiting. Each attempt must go on until the socket would block: what has been
    /// told of it once is not told again.
    ///
    /// # Errors
    /// `TimedOut` when the moment has come; otherwise those of the attempt.
    pub(crate) fn until<T>(&mut self, deadline: Deadline, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                ended => return ended,
            }
            let left = deadline.left().ok_or(io::ErrorKind::TimedOut)?;
            match self.poll.poll(&mut self.events, Some(left)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                polled => polled?,
            }
        }
    }
}
