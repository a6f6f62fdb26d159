//! Who leads, where the processes elect their lead: the thread that stands for this one, over a register in the store of
//! checkpoints, which is there anyway.
//!
//! ```text
//!                     ┌── candidate: no I/O ──┐
//! register ◀── read, replace ──  thread  ─────┴──▶ Standing: leads in a term, follows an address
//! ```
//!
//! A term is led once. What the lead makes durable carries it: the epoch that a term begins with is fenced off from those of
//! earlier terms by a manifest of its own ([`Lead::fence`](super::Lead)).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use millstream_network::election::{Action, Candidate, Lease, Patience, Put, Unanswered};
use millstream_state::{Register, Version};

use crate::run::fault::JobError;
use crate::run::process::spawn_named;
use crate::time::Clock;

/// The candidate is looked at so often: a lease lasts seconds.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What this process is at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// The lead, in this term.
    Leads(u64),
    /// One of those that work for the lead at this address.
    Follows(String),
    /// Nobody leads yet.
    Nobody,
}

/// This process's part in the election, until it is dropped.
pub(super) struct Election {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    candidate: Mutex<Candidate>,
    name: String,
    over: AtomicBool,
    clock: Clock,
}

/// The right to lead in one term, as long as it lasts.
#[derive(Clone)]
pub(in crate::run) struct Mandate {
    shared: Arc<Shared>,
    term: u64,
}

impl Mandate {
    /// Whether this process may still act as the lead of the term.
    pub(in crate::run) fn holds(&self) -> bool {
        self.shared.lock().leads(self.shared.now()) == Some(self.term)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Candidate> {
        self.candidate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.now().0)
    }
}

impl Election {
    /// Stands for election under a name that nobody else has; the lead is reached at `address`.
    pub(super) fn stand(
        register: Register,
        name: String,
        address: &str,
        lease_max: Duration,
        clock: Clock,
    ) -> Result<Election, JobError> {
        let now = Duration::from_nanos(clock.now().0);
        let candidate = Mutex::new(Candidate::new(&name, address, Patience::of_lease(lease_max), now));
        let shared = Arc::new(Shared { candidate, name, over: AtomicBool::new(false), clock });
        let stands = shared.clone();
        let thread =
            spawn_named("millstream-election", move || Campaign { shared: stands, register, known: None }.run())
                .map_err(|error| JobError::Machine(format!("the election's thread cannot be started: {error}")))?;
        Ok(Election { shared, thread: Some(thread) })
    }

    pub(super) fn standing(&self) -> Standing {
        let candidate = self.shared.lock();
        match (candidate.leads(self.shared.now()), candidate.seen()) {
            (Some(term), _) => Standing::Leads(term),
            (None, Some(lease)) if lease.holder != self.shared.name => Standing::Follows(lease.address.clone()),
            (None, _) => Standing::Nobody,
        }
    }

    pub(super) fn mandate(&self, term: u64) -> Mandate {
        Mandate { shared: self.shared.clone(), term }
    }
}

impl Drop for Election {
    /// Gives up the lead, if this process has it, so that the others need not wait until its lease is over.
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been told on stderr.
            drop(thread.join());
        }
    }
}

/// The thread's own.
struct Campaign {
    shared: Arc<Shared>,
    register: Register,
    /// What the register held when it was last heard of, by what it was.
    known: Option<(Version, Lease)>,
}

impl Campaign {
    fn run(mut self) {
        let mut resigned = None;
        loop {
            let now = self.shared.now();
            if resigned.is_none() && self.shared.over.load(Ordering::Relaxed) {
                resigned = Some(now);
                self.shared.lock().resign(now);
            }
            let action = {
                let mut candidate = self.shared.lock();
                if candidate.wake_at() <= now {
                    candidate.tick(now);
                }
                candidate.poll()
            };
            match action {
                Some(action) => self.carry_out(action),
                None if resigned.is_some_and(|since| now >= since + 2 * LOOK_EVERY) => return,
                None => std::thread::park_timeout(LOOK_EVERY),
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Read(ask) => {
                let read = self.register.read();
                let answer = match read {
                    Ok(None) => Ok(None),
                    Ok(Some((version, bytes))) => match Lease::decode(&bytes) {
                        Ok(lease) => {
                            self.known = Some((version, lease.clone()));
                            Ok(Some(lease))
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the lease of the lead cannot be read");
                            Err(Unanswered)
                        }
                    },
                    Err(error) => {
                        tracing::warn!(%error, "the place of checkpoints does not say who leads");
                        Err(Unanswered)
                    }
                };
                self.shared.lock().was_read(self.shared.now(), ask, answer);
            }
            Action::Put { ask, instead_of, lease } => {
                let version = match (&instead_of, &self.known) {
                    (None, _) => Some(None),
                    (Some(lease), Some((version, known))) if lease == known => Some(Some(*version)),
                    // What it is to replace was seen by nobody here: it is read first.
                    (Some(_), _) => None,
                };
                let put = match version.map(|version| self.register.replace(version, &lease.encode())) {
                    Some(Ok(Some(version))) => {
                        self.known = Some((version, lease));
                        Put::Done
                    }
                    Some(Ok(None)) | None => Put::Conflict,
                    Some(Err(error)) => {
                        tracing::warn!(%error, "the lease of the lead cannot be written");
                        Put::Unknown
                    }
                };
                self.shared.lock().was_put(self.shared.now(), ask, put);
            }
            Action::BecomeLeader { term } => tracing::info!(term, "this process leads now"),
            Action::StepDown { term } => tracing::warn!(term, "this process leads no more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_state::Store;

    use super::*;

    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..1_000 {
            if holds() {
                return;
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
        panic!("{what} within ten seconds");
    }

    #[test]
    fn one_leads_the_others_follow_and_the_next_one_takes_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let stand = |name: &str| {
            let address = format!("{name}:1");
            let lease_max = Duration::from_millis(400);
            Election::stand(store.register("lease"), name.to_owned(), &address, lease_max, Clock::system()).unwrap()
        };
        let mut all: Vec<Election> = ["a", "b", "c"].map(stand).into();
        for round in 1..=3u64 {
            let leads = |election: &Election| matches!(election.standing(), Standing::Leads(_));
            until("somebody leads", || all.iter().any(leads));
            let lead = all.iter().position(leads).unwrap();
            let Standing::Leads(term) = all[lead].standing() else { continue };
            assert!(term >= round, "terms go up");
            let mandate = all[lead].mandate(term);
            assert!(mandate.holds());
            let old = all.remove(lead);
            let address = old.shared.lock().seen().map(|lease| lease.address.clone());
            until("all follow", || {
                all.iter().all(|other| Some(other.standing()) == address.clone().map(Standing::Follows))
            });
            drop(old);
            assert!(!mandate.holds(), "who has resigned has no right to lead");
        }
    }
}
