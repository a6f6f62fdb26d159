//! What became of those that called a listener.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::listener::lock;
use crate::session::Refusal;

/// How many of those that were dropped are remembered one by one.
const LATEST_MAX: usize = 32;

/// Why a caller was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// It closed the connection in the middle of its handshake: a port scanner, a health check, a process that died.
    Closed,
    /// It took longer than a handshake may take.
    TimedOut,
    /// It had shown least when too many were there, of all or of its address.
    Crowded,
    /// It does not speak this protocol.
    NotOurProtocol,
    /// It speaks another version of it.
    Version,
    /// It does not know the secret.
    WrongSecret,
    /// It knows the secret, and states other facts.
    Differs,
    /// It announced more bytes than a message may have.
    TooLong,
    /// It sent a message out of order: a replay or a reflection.
    OutOfOrder,
    /// A message of it was altered on its way.
    Altered,
    /// It speaks without TLS where TLS is on, or its TLS makes no sense.
    Tls,
    /// It was accepted, and nobody took it.
    Unclaimed,
    /// A call of the system on its behalf failed.
    Failed,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 13] = [
        Cause::Closed,
        Cause::TimedOut,
        Cause::Crowded,
        Cause::NotOurProtocol,
        Cause::Version,
        Cause::WrongSecret,
        Cause::Differs,
        Cause::TooLong,
        Cause::OutOfOrder,
        Cause::Altered,
        Cause::Tls,
        Cause::Unclaimed,
        Cause::Failed,
    ];

    /// In a few words, for a figure's name or a log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Cause::Closed => "closed early",
            Cause::TimedOut => "too slow",
            Cause::Crowded => "too many at once",
            Cause::NotOurProtocol => "another protocol",
            Cause::Version => "another version",
            Cause::WrongSecret => "wrong secret",
            Cause::Differs => "other facts",
            Cause::TooLong => "too long",
            Cause::OutOfOrder => "out of order",
            Cause::Altered => "altered",
            Cause::Tls => "no good TLS",
            Cause::Unclaimed => "unclaimed",
            Cause::Failed => "system failure",
        }
    }

    pub(crate) fn of(error: &io::Error) -> Cause {
        use io::ErrorKind::*;
        match error.kind() {
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected => Cause::Closed,
            TimedOut => Cause::TimedOut,
            InvalidData => Cause::Tls,
            _ => Cause::Failed,
        }
    }
}

impl From<&Refusal> for Cause {
    fn from(refusal: &Refusal) -> Cause {
        match refusal {
            Refusal::NotOurProtocol => Cause::NotOurProtocol,
            Refusal::Version { .. } => Cause::Version,
            Refusal::WrongSecret => Cause::WrongSecret,
            Refusal::Differs { .. } => Cause::Differs,
            Refusal::TooLong { .. } => Cause::TooLong,
            Refusal::OutOfOrder { .. } => Cause::OutOfOrder,
            Refusal::Altered => Cause::Altered,
            Refusal::TlsExpected => Cause::Tls,
        }
    }
}

/// One that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Where it called from.
    pub from: SocketAddr,
    /// Why it was dropped.
    pub cause: Cause,
    /// The same in words, where the handshake came to a judgement.
    pub refusal: Option<Refusal>,
}

/// What became of those that called, as far as it has been written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerFigures {
    /// Connections that were opened.
    pub called: u64,
    /// Those in their handshake.
    pub pending: u64,
    /// Those that were accepted.
    pub accepted: u64,
    /// How often no descriptor or memory was left for one more.
    pub exhausted: u64,
    dropped: [u64; Cause::ALL.len()],
}

impl ListenerFigures {
    /// How many were dropped for this.
    #[must_use]
    pub fn dropped(&self, cause: Cause) -> u64 {
        self.dropped[cause as usize]
    }

    /// How many were dropped for each cause there was.
    pub fn all_dropped(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.into_iter().map(|cause| (cause, self.dropped(cause))).filter(|(_, count)| *count > 0)
    }
}

/// Written by the listener's thread, read by anybody.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    called: AtomicU64,
    pending: AtomicU64,
    accepted: AtomicU64,
    exhausted: AtomicU64,
    dropped: [AtomicU64; Cause::ALL.len()],
    latest: Mutex<VecDeque<Dropped>>,
}

impl Figures {
    pub(crate) fn called(&self) {
        self.called.fetch_add(1, Relaxed);
    }

    pub(crate) fn set_pending(&self, count: usize) {
        self.pending.store(count as u64, Relaxed);
    }

    pub(crate) fn accept_one(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(crate) fn exhausted(&self) {
        self.exhausted.fetch_add(1, Relaxed);
    }

    pub(crate) fn drop_one(&self, dropped: Dropped) {
        self.dropped[dropped.cause as usize].fetch_add(1, Relaxed);
        let mut latest = lock(&self.latest);
        if latest.len() == LATEST_MAX {
            latest.pop_front();
        }
        latest.push_back(dropped);
    }

    pub(crate) fn read(&self) -> ListenerFigures {
        ListenerFigures {
            called: self.called.load(Relaxed),
            pending: self.pending.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            exhausted: self.exhausted.load(Relaxed),
            dropped: std::array::from_fn(|cause| self.dropped[cause].load(Relaxed)),
        }
    }

    pub(crate) fn latest(&self) -> Vec<Dropped> {
        lock(&self.latest).iter().cloned().collect()
    }
}
