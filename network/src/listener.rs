//! Being called: one thread that accepts, and shakes hands with everybody at once without waiting for anybody.
//!
//! A stranger costs a descriptor and a place in a table of fixed size, for [`Trust::handshake_max`] at most. Nothing is told to
//! it and no memory is asked for on its behalf before it has shown that it speaks the protocol, and nothing of this cluster
//! before it has proven the secret.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Socket, Type};

use crate::caller::Caller;
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::facts::Facts;
use crate::figures::{Cause, Dropped, Figures, ListenerFigures};
use crate::pending::{Origin, Pending, Ticket};
use crate::secret::Secret;
use crate::session::{Agreed, REPLY_BYTES_MAX, Refusal};
use crate::trust::{Tls, Trust, resolve};

/// Connections that the kernel keeps for the listener until it gets to them.
const BACKLOG: i32 = 4096;

/// Connections that wait for somebody to take them out of [`Listener::accepted`]. One more is dropped.
pub const UNCLAIMED_MAX: usize = 4096;

/// Connections accepted in one go, before those that are in their handshake have their turn.
const ACCEPTED_AT_ONCE: usize = 16;

/// How long one is let be although too many have come from its address, while there is room for others.
const YOUNG: Duration = Duration::from_millis(100);

/// How long to wait with accepting when the process has no descriptor left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

/// A caller that has proven the secret and agrees on the facts.
#[derive(Debug)]
pub struct Accepted {
    /// What it says of itself and of what it wants.
    pub greeting: Vec<u8>,
    /// Where it called from.
    pub from: SocketAddr,
    /// The way to it.
    pub connection: Connection,
}

/// What the thread and its owner share.
#[derive(Debug)]
pub(crate) struct Shared {
    facts: Mutex<Facts>,
    reply: Mutex<Arc<[u8]>>,
    figures: Figures,
    stop: AtomicBool,
}

/// A listening socket and the thread "millstream-listener" that serves it. Dropping it stops the thread and closes the socket;
/// connections that were accepted live on.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    accepted: channel::Receiver<Accepted>,
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens at `address` (`host:port`; port 0 is any that is free) for callers that know the secret and agree on the facts.
    ///
    /// # Errors
    /// If the address cannot be resolved or is in use; if it is not of this host alone and there is no secret; if TLS is on in a
    /// build without it; if the process has no descriptor or thread left.
    pub fn bind(address: &str, trust: Trust, facts: Facts) -> io::Result<Listener> {
        let said = |source: io::Error| io::Error::new(source.kind(), in_words(address, &source));
        let found = resolve(address).map_err(|source| {
            let told = format!("{address} cannot be listened at, because it cannot be resolved: {source}");
            io::Error::new(source.kind(), told)
        })?;
        if trust.tls == Tls::On && cfg!(not(feature = "tls")) {
            let told = "TLS is on, and this build of Millstream has none: build it with the feature `tls`";
            return Err(io::Error::new(io::ErrorKind::Unsupported, told));
        }
        let secret = found.iter().map(|address| trust.secret_for(address.ip())).collect::<Option<Vec<_>>>();
        let Some(secret) = secret.and_then(|mut secrets| secrets.pop()) else {
            let told = format!(
                "{address} can be reached from other hosts, and there is no cluster secret to tell friends by: give all \
                 processes the same secret file, or listen at 127.0.0.1 or [::1]"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, told));
        };
        let mut failed = None;
        let mut listen = |address: &SocketAddr| listen(*address).map_err(|error| failed = Some(error)).ok();
        let Some(socket) = found.iter().find_map(&mut listen) else {
            return Err(said(failed.expect("each address of a name that has one was tried")));
        };
        let address = socket.local_addr()?;
        let (claimed, accepted) = channel::bounded(UNCLAIMED_MAX);
        let shared = Arc::new(Shared {
            facts: Mutex::new(facts),
            reply: Mutex::new(Arc::new([])),
            figures: Figures::default(),
            stop: AtomicBool::new(false),
        });
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), LISTENER, Interest::READABLE)?;
        let server = Server {
            handshake_max: trust.handshake_max,
            pending: Pending::new(trust.pending_max, trust.per_address_max),
            #[cfg(feature = "tls")]
            tls: match trust.tls {
                Tls::On => Some(crate::tls::Acceptor::new()?),
                Tls::Off => None,
            },
            poll,
            socket,
            secret,
            shared: shared.clone(),
            claimed,
            more_to_accept: true,
            pause: None,
        };
        let thread = std::thread::Builder::new().name("millstream-listener".into()).spawn(move || server.run())?;
        Ok(Listener { address, accepted, shared, waker, thread: Some(thread) })
    }

    /// Where it listens, with the port it was given.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From the next handshake on, these are the facts to agree on.
    pub fn set_facts(&self, facts: Facts) {
        *lock(&self.shared.facts) = facts;
    }

    /// From the next handshake on, this is said to each caller that is accepted; at first, nothing is.
    ///
    /// # Panics
    /// If it is longer than [`REPLY_BYTES_MAX`].
    pub fn set_reply(&self, reply: &[u8]) {
        assert!(
            reply.len() <= REPLY_BYTES_MAX,
            "a reply of {} bytes: at most {REPLY_BYTES_MAX} can be sent",
            reply.len()
        );
        *lock(&self.shared.reply) = reply.into();
    }

    /// Where those come out that were accepted. It ends when the listener's thread has, which is by a failure of the system.
    #[must_use]
    pub fn accepted(&self) -> &channel::Receiver<Accepted> {
        &self.accepted
    }

    /// How many came, and what became of them.
    #[must_use]
    pub fn figures(&self) -> ListenerFigures {
        self.shared.figures.read()
    }

    /// The last few that were sent away, oldest first: for the operator who wonders why a process does not join.
    #[must_use]
    pub fn dropped(&self) -> Vec<Dropped> {
        self.shared.figures.latest()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        // If the thread cannot be woken, waiting for it would be for ever.
        if self.waker.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// A value, whoever has died while holding it: each write is whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A process that is started again need not wait for the connections of its predecessor to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn in_words(address: &str, source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{address} is in use: another process listens there (`ss -ltnp` shows which). Stop it, or choose another port; \
             port 0 is any that is free."
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "{address} is no address of this host (`ip address` shows which are): listen at one of them, or at 0.0.0.0 or [::]."
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!(
                "this process may not listen at {address}: ports below 1024 are for privileged ones. Choose a higher port."
            )
        }
        _ => format!("{address} cannot be listened at: {source}"),
    }
}

/// The thread.
struct Server {
    poll: Poll,
    socket: TcpListener,
    secret: Arc<Secret>,
    handshake_max: Duration,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Acceptor>,
    shared: Arc<Shared>,
    claimed: channel::Sender<Accepted>,
    pending: Pending<Caller>,
    /// Whether the kernel may have more connections: it says so only once.
    more_to_accept: bool,
    /// No descriptor is left until then.
    pause: Option<Deadline>,
}

impl Server {
    fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        while !self.shared.stop.load(Relaxed) {
            let wait = self.wait_at_most();
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The sender of `accepted` goes with this thread, by which its owner learns of it.
                Err(_) => return,
                Ok(()) => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.more_to_accept = true,
                    WAKER => {}
                    Token(place) => self.serve(place),
                }
            }
            self.accept();
            self.drop_the_slow();
            self.shared.figures.set_pending(self.pending.len());
        }
    }

    fn wait_at_most(&mut self) -> Option<Duration> {
        if self.more_to_accept && self.pause.is_none() {
            return Some(Duration::ZERO);
        }
        let oldest = self.pending.oldest().map(|(_, caller)| caller.deadline);
        let next = oldest.into_iter().chain(self.pause).min()?;
        Some(next.left().unwrap_or_default())
    }

    /// Takes in some of those that have called.
    fn accept(&mut self) {
        self.pause = self.pause.filter(|pause| pause.left().is_some());
        for _ in 0..ACCEPTED_AT_ONCE {
            if !self.more_to_accept || self.pause.is_some() {
                return;
            }
            match self.socket.accept() {
                Ok((socket, from)) => self.admit(socket, from),
                Err(error) => match error.raw_os_error() {
                    _ if error.kind() == io::ErrorKind::WouldBlock => self.more_to_accept = false,
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        self.shared.figures.exhausted();
                        self.pause = Some(Deadline::after(EXHAUSTED_PAUSE));
                    }
                    // It went before it came.
                    _ => {}
                },
            }
        }
    }

    fn admit(&mut self, socket: TcpStream, from: SocketAddr) {
        self.shared.figures.called();
        let origin = Origin::of(from.ip());
        let young = Deadline::after(self.handshake_max.saturating_sub(YOUNG));
        if let Some(ticket) = self.pending.in_the_way(origin, |caller| caller.deadline > young) {
            self.remove(ticket, Cause::Crowded, None);
        }
        let place = self.pending.next_place().expect("who was in the way has been taken out");
        let interest = Interest::READABLE | Interest::WRITABLE;
        let watched = socket
            .set_nonblocking(true)
            .and_then(|()| socket.set_nodelay(true))
            .and_then(|()| self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(place), interest));
        if watched.is_err() {
            self.shared.figures.drop_one(Dropped { from, cause: Cause::Failed, refusal: None });
            return;
        }
        let ticket = self.pending.add(origin, Caller::new(socket, from, Deadline::after(self.handshake_max)));
        // A friend has sent its hello by now. It is heard at once, so that those behind it in a crowd do not push it out unheard.
        self.serve(ticket.place);
    }

    /// Something has happened to the caller in this place, or to one that was there before.
    fn serve(&mut self, place: usize) {
        let Some((ticket, caller, shown)) = self.pending.at(place) else { return };
        let terms = crate::caller::Terms {
            secret: &self.secret,
            facts: &self.shared.facts,
            reply: &self.shared.reply,
            #[cfg(feature = "tls")]
            tls: self.tls.as_ref(),
        };
        match caller.advance(&terms) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => *shown = caller.shown(),
            Err(error) => {
                let refusal = None;
                self.remove(ticket, Cause::of(&error), refusal);
            }
            Ok(Err(refusal)) => self.remove(ticket, Cause::from(&refusal), Some(refusal)),
            Ok(Ok(agreed)) => self.hand_over(ticket, agreed),
        }
    }

    fn hand_over(&mut self, ticket: Ticket, Agreed { said: greeting }: Agreed) {
        let caller = self.pending.remove(ticket).expect("it was there a moment ago");
        let from = caller.from;
        let dropped = |cause| Dropped { from, cause, refusal: None };
        let Some(road) = caller.into_road() else { return };
        let _ = self.poll.registry().deregister(&mut SourceFd(&road.socket().as_raw_fd()));
        match Connection::new(road, from.to_string(), Vec::new()) {
            Err(_) => self.shared.figures.drop_one(dropped(Cause::Failed)),
            Ok(_) if self.claimed.is_full() => self.shared.figures.drop_one(dropped(Cause::Unclaimed)),
            Ok(connection) => {
                // Counted first: who takes it out finds it in the figures.
                self.shared.figures.accept_one();
                // Nobody else sends, so that there is room; and without a receiver this thread is about to be stopped.
                let _ = self.claimed.try_send(Accepted { greeting, from, connection });
            }
        }
    }

    fn drop_the_slow(&mut self) {
        while let Some((ticket, caller)) = self.pending.oldest() {
            if caller.deadline.left().is_some() {
                return;
            }
            self.remove(ticket, Cause::TimedOut, None);
        }
    }

    /// Sends one away. Closing its socket takes it out of the poll.
    fn remove(&mut self, ticket: Ticket, cause: Cause, refusal: Option<Refusal>) {
        if let Some(caller) = self.pending.remove(ticket) {
            self.shared.figures.drop_one(Dropped { from: caller.from, cause, refusal });
        }
    }
}
