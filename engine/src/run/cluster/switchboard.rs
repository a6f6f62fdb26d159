//! Where the other processes of a job call: one listener a process, which lives as long as the process has the job, and
//! whose callers are put through by what they want.
//!
//! ```text
//!              ┌─ Work ──▶ the lead's list of workers      (nobody is there in a worker: the caller tries again)
//! listener ────┤
//!              └─ Link ──▶ waits for its shard's attempt to ask for it
//! ```

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use millstream_network::{Accepted, Facts, LinkConfig, Listener, Trust, dial};

use super::wire::{AttemptId, Greeting, from_bytes, to_bytes};
use crate::run::crew::Wires;
use crate::run::fault::JobError;
use crate::run::process::spawn_named;
use crate::time::Clock;

/// How often who waits here looks whether he still should.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two calls to somebody who does not answer yet.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// A worker that calls.
pub(super) struct Caller {
    pub(super) process: Option<u32>,
    pub(super) address: String,
    pub(super) incarnation: u64,
    pub(super) accepted: Accepted,
}

/// The listener and who waits behind it.
pub(super) struct Switchboard {
    listener: Arc<Listener>,
    trust: Trust,
    facts: Facts,
    workers: Receiver<Caller>,
    links: Arc<Links>,
    /// Whether this process leads: only then are workers let in.
    leads: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Connections of the newest attempt that anybody has called for, by the shard there and the one here.
#[derive(Default)]
struct Links {
    waiting: Mutex<HashMap<(u32, u32), Waiting>>,
    came: Condvar,
}

struct Waiting {
    attempt: AttemptId,
    from: String,
    socket: OwnedFd,
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, HashMap<(u32, u32), Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is to be connected in an attempt.
pub(super) struct Wiring<'a> {
    pub(super) attempt: AttemptId,
    /// This process.
    pub(super) process: u32,
    /// By shard: its process.
    pub(super) processes: &'a [u32],
    /// By process: its address.
    pub(super) addresses: &'a [String],
    pub(super) links: LinkConfig,
    pub(super) give_up_after: Duration,
}

impl Switchboard {
    /// Listens at `address`.
    pub(super) fn open(address: &str, trust: Trust, facts: Facts) -> Result<Switchboard, JobError> {
        let listener = Listener::bind(address, trust.clone(), facts.clone());
        let listener = Arc::new(listener.map_err(|error| JobError::Unusable(error.to_string()))?);
        let (tell, workers) = unbounded();
        let (links, leads, closing) =
            (Arc::<Links>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let desk = Desk { listener: listener.clone(), workers: tell, links: links.clone(), leads: leads.clone() };
        let ends = closing.clone();
        let thread = spawn_named("millstream-switchboard", move || desk.put_through(&ends))
            .map_err(|error| JobError::Machine(format!("the switchboard's thread cannot be started: {error}")))?;
        Ok(Switchboard { listener, trust, facts, workers, links, leads, closing, thread: Some(thread) })
    }

    /// Where it listens.
    pub(super) fn port(&self) -> u16 {
        self.listener.address().port()
    }

    /// Lets workers in, or no more; those that were let in and not looked at are hung up on.
    pub(super) fn lead(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
        self.workers.try_iter().for_each(drop);
    }

    /// The next worker that has called, if one does within `at_most`.
    pub(super) fn worker(&self, at_most: Duration) -> Option<Caller> {
        self.workers.recv_timeout(at_most).ok()
    }

    /// Calls a process, and again while it does not answer, for so long.
    pub(super) fn call(
        &self,
        address: &str,
        greeting: &Greeting,
        give_up_after: Duration,
        clock: &Clock,
        go_on: &dyn Fn() -> bool,
    ) -> Result<millstream_network::Connection, JobError> {
        let began = clock.now();
        loop {
            let left = give_up_after.saturating_sub(clock.now().since(began));
            let at_once = left.clamp(LOOK_EVERY, Duration::from_secs(1));
            match dial(address, &self.trust, &self.facts, &to_bytes(greeting), at_once) {
                Ok(connection) => return Ok(connection),
                Err(error) if !error.retryable() => return Err(JobError::Mismatch(error.to_string())),
                Err(error) if left.is_zero() || !go_on() => {
                    return Err(JobError::Failed { cause: error.to_string(), restarts: 0 });
                }
                Err(_) => std::thread::park_timeout(TRY_AGAIN),
            }
        }
    }

    /// Connects every shard of this process with every shard of others: of each two, the lower one calls.
    pub(super) fn connect(
        &self,
        wiring: &Wiring<'_>,
        clock: &Clock,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Wires, JobError> {
        let Wiring { attempt, process, processes, addresses, links, give_up_after } = *wiring;
        self.links.lock().retain(|_, waiting| waiting.attempt >= attempt);
        let is_here = |shard: u32| processes[shard as usize] == process;
        let name = |shard: u32| {
            let process = processes[shard as usize];
            format!("shard {shard} in process {process} at {}", addresses[process as usize])
        };
        let mut wires = Wires { config: links, ..Wires::default() };
        let shards = processes.len() as u32;
        let pairs = (0..shards).filter(|shard| is_here(*shard));
        let pairs = pairs.flat_map(|here| (0..shards).filter(|there| !is_here(*there)).map(move |there| (here, there)));
        let (calls, called): (Vec<_>, Vec<_>) = pairs.partition(|(here, there)| here < there);
        for (here, there) in calls {
            let address = &addresses[processes[there as usize] as usize];
            let greeting = Greeting::Link { attempt, from: here, to: there };
            let connection = self.call(address, &greeting, give_up_after, clock, go_on)?;
            wires.sockets.insert((here, there), (name(there), connection.into_socket()));
        }
        let began = clock.now();
        for (here, there) in called {
            let mut waiting = self.links.lock();
            loop {
                if waiting.get(&(there, here)).is_some_and(|waiting| waiting.attempt == attempt) {
                    break;
                }
                if clock.now().since(began) >= give_up_after || !go_on() {
                    let (cause, restarts) = (format!("{} has not called", name(there)), 0);
                    return Err(JobError::Failed { cause, restarts });
                }
                let woken = self.links.came.wait_timeout(waiting, LOOK_EVERY);
                waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            if let Some(Waiting { from, socket, .. }) = waiting.remove(&(there, here)) {
                wires.sockets.insert((here, there), (format!("{} ({from})", name(there)), socket));
            }
        }
        Ok(wires)
    }
}

impl Drop for Switchboard {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been told on stderr.
            drop(thread.join());
        }
    }
}

/// What the switchboard's thread works with.
struct Desk {
    listener: Arc<Listener>,
    workers: Sender<Caller>,
    links: Arc<Links>,
    leads: Arc<AtomicBool>,
}

impl Desk {
    /// Takes callers apart until the board closes.
    fn put_through(&self, closing: &AtomicBool) {
        while !closing.load(Ordering::Relaxed) {
            let accepted = match self.listener.accepted().recv_timeout(LOOK_EVERY) {
                Ok(accepted) => accepted,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match from_bytes::<Greeting>(&accepted.greeting) {
                // One that nobody takes is hung up on, and calls again.
                Ok(Greeting::Work { .. }) if !self.leads.load(Ordering::Relaxed) => {}
                Ok(Greeting::Work { process, address, incarnation }) => {
                    drop(self.workers.send(Caller { process, address, incarnation, accepted }));
                }
                Ok(Greeting::Link { attempt, from, to }) => {
                    let (caller, socket) = (accepted.from.to_string(), accepted.connection.into_socket());
                    let mut waiting = self.links.lock();
                    if waiting.get(&(from, to)).is_none_or(|known| known.attempt < attempt) {
                        waiting.insert((from, to), Waiting { attempt, from: caller, socket });
                    }
                    self.links.came.notify_all();
                }
                Err(why) => tracing::warn!(from = %accepted.from, why, "a peer of another build has called"),
            }
        }
    }
}
