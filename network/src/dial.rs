//! Calling a listener.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use mio::Interest;

use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::facts::Facts;
use crate::road::{Handshake, Road};
use crate::session::{Agreed, GREETING_BYTES_MAX, Refusal, Session};
use crate::trust::{Tls, Trust, nonce, resolve};
use crate::waiting::Waiting;

/// Why there is no connection. [`retryable`](Self::retryable) says whether it is worth another try.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address, or is none.
    #[error("{address} cannot be resolved: {source}. It must be `host:port`, and the host known to the resolver here.")]
    Resolve {
        /// What was dialled.
        address: String,
        /// The resolver's answer.
        source: io::Error,
    },
    /// A secret is needed for another host.
    #[error(
        "{address} is on another host, and there is no cluster secret to meet it with: give all processes the same \
         secret file. Without one, only processes of one host may meet, over 127.0.0.1 or [::1]."
    )]
    NoSecret {
        /// What was dialled.
        address: String,
    },
    /// TLS is asked for, and this build has none.
    #[error("TLS is on, and this build of Millstream has none: build it with the feature `tls`")]
    NoTls,
    /// Nobody listens there.
    #[error(
        "nobody listens at {address} (connection refused): is the process there running yet, and is this its port?"
    )]
    Refused {
        /// What was dialled.
        address: String,
    },
    /// The time given is over.
    #[error(
        "{address} did not answer within {} ms, while {doing}: is it overloaded or stopped, or does a firewall drop what \
         is sent to it?", after.as_millis()
    )]
    TimedOut {
        /// What was dialled.
        address: String,
        /// How long it was given.
        after: Duration,
        /// What was awaited.
        doing: &'static str,
    },
    /// The other end closed the connection in the middle of the handshake.
    #[error(
        "{address} closed the connection in the middle of the handshake: it may be stopping, have too many callers, or not \
         be what listens there{}",
        if *tls { " (or it has TLS switched off)" } else { "" }
    )]
    Closed {
        /// What was dialled.
        address: String,
        /// Whether TLS was spoken.
        tls: bool,
    },
    /// No way leads there, or the way failed.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// What was dialled.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// What answers is not TLS as this end speaks it.
    #[error("{address} does not speak TLS as this end does: {source}. Is TLS on at both ends?")]
    Tls {
        /// What was dialled.
        address: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The two ends met, and did not agree.
    #[error("no agreement with {address}: {refusal}")]
    Disagreed {
        /// What was dialled.
        address: String,
        /// On what.
        refusal: Refusal,
    },
    /// This process has no descriptor, or no randomness, left.
    #[error("{address} cannot be dialled from here: {source}")]
    Here {
        /// What was dialled.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl DialError {
    /// Whether the same call may succeed later, with nobody changing any setting: the other process may not be up yet, its host's
    /// name not yet published, the road to it closed for a while.
    #[must_use]
    pub fn retryable(&self) -> bool {
        use DialError::*;
        match self {
            Resolve { .. } | Refused { .. } | TimedOut { .. } | Closed { .. } | Unreachable { .. } | Here { .. } => {
                true
            }
            Disagreed { refusal, .. } => *refusal == Refusal::Altered,
            NoSecret { .. } | NoTls | Tls { .. } => false,
        }
    }
}

/// Calls the listener at `address` (`host:port`; IPv4, `[IPv6]` or a name), says who is calling, and returns when both ends have
/// proven the secret and agree on the facts.
///
/// Each address of a name is tried once, in the resolver's order, until one of them is a peer. It blocks for `give_up_after`
/// at most, and for as long as the resolver takes; it does not try again by itself, see [`DialError::retryable`].
///
/// # Errors
/// In words that say what to do about it.
pub fn dial(
    address: &str,
    trust: &Trust,
    facts: &Facts,
    greeting: &[u8],
    give_up_after: Duration,
) -> Result<Connection, DialError> {
    let name = || address.to_owned();
    if greeting.len() > GREETING_BYTES_MAX {
        let refusal = Refusal::TooLong { what: "greeting", bytes: greeting.len(), bytes_max: GREETING_BYTES_MAX };
        return Err(DialError::Disagreed { address: name(), refusal });
    }
    if trust.tls == Tls::On && cfg!(not(feature = "tls")) {
        return Err(DialError::NoTls);
    }
    let found = resolve(address).map_err(|source| DialError::Resolve { address: name(), source })?;
    let call = Call { address, trust, facts, greeting, give_up_after, deadline: Deadline::after(give_up_after) };
    let mut failed = None;
    for (tried, to) in found.iter().enumerate() {
        // A share of the time for each, so that one that does not answer leaves some for the next.
        let share = (found.len() - tried) as u32;
        match call.try_one(*to, share) {
            Ok(connection) => return Ok(connection),
            Err(error) if error.retryable() => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(failed.expect("a name that resolves has an address, and each that was tried has failed"))
}

struct Call<'a> {
    address: &'a str,
    trust: &'a Trust,
    facts: &'a Facts,
    greeting: &'a [u8],
    give_up_after: Duration,
    deadline: Deadline,
}

impl Call<'_> {
    fn try_one(&self, to: SocketAddr, share: u32) -> Result<Connection, DialError> {
        let address = || self.address.to_owned();
        let here = |source| DialError::Here { address: address(), source };
        let secret = self.trust.secret_for(to.ip()).ok_or_else(|| DialError::NoSecret { address: address() })?;
        let left = self.deadline.left().ok_or_else(|| self.timed_out("connecting"))?;
        let socket = TcpStream::connect_timeout(&to, (left / share).max(Duration::from_millis(1)))
            .map_err(|source| self.failed(source, "connecting"))?;
        // A port that nobody listens at may be given to the caller itself, which then talks to itself.
        if socket.local_addr().is_ok_and(|own| own == to) {
            return Err(DialError::Refused { address: address() });
        }
        socket.set_nonblocking(true).map_err(here)?;
        socket.set_nodelay(true).map_err(here)?;
        let mut waiting =
            Waiting::for_socket(socket.as_raw_fd(), Interest::READABLE | Interest::WRITABLE).map_err(here)?;
        let (mut road, binding) = match self.trust.tls {
            Tls::Off => (Road::Plain(socket), None),
            #[cfg(feature = "tls")]
            Tls::On => {
                let mut stream = crate::tls::Stream::dial(socket).map_err(here)?;
                let binding =
                    waiting.until(self.deadline, || stream.handshake()).map_err(|source| self.tls_failed(source))?;
                (Road::Tls(Box::new(stream)), Some(binding))
            }
            #[cfg(not(feature = "tls"))]
            Tls::On => return Err(DialError::NoTls),
        };
        let disagreed = |refusal| DialError::Disagreed { address: address(), refusal };
        let session = Session::dial(&secret, self.facts, self.greeting, nonce().map_err(here)?, binding);
        let mut handshake = Handshake::new(session.map_err(disagreed)?);
        let happened = waiting.until(self.deadline, || handshake.advance(&mut road));
        let Agreed { said } = happened.map_err(|source| self.failed(source, "shaking hands"))?.map_err(disagreed)?;
        Connection::new(road, address(), said).map_err(here)
    }

    fn timed_out(&self, doing: &'static str) -> DialError {
        DialError::TimedOut { address: self.address.to_owned(), after: self.give_up_after, doing }
    }

    fn failed(&self, source: io::Error, doing: &'static str) -> DialError {
        let address = self.address.to_owned();
        match source.kind() {
            io::ErrorKind::ConnectionRefused => DialError::Refused { address },
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => self.timed_out(doing),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                DialError::Closed { address, tls: self.trust.tls == Tls::On }
            }
            _ => DialError::Unreachable { address, source },
        }
    }

    #[cfg(feature = "tls")]
    fn tls_failed(&self, source: io::Error) -> DialError {
        match source.kind() {
            io::ErrorKind::InvalidData => DialError::Tls { address: self.address.to_owned(), source },
            _ => self.failed(source, "opening TLS"),
        }
    }
}
