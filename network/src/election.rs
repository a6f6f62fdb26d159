//! Who leads: an election over one register that can be replaced on condition, such as an object in a store or a key in etcd.
//!
//! Pure: the time and the register's answers go in, what to ask of the register comes out. It owns no socket and reads no clock.
//!
//! ```text
//!   Follower ──the lease is not renewed for lease_max──▶ put {term + 1, me} ──done──▶ Leader ──┐
//!      ▲  ▲                                                  │ somebody else was first      │ put {renewed + 1}
//!      │  └──────────────────────────────────────────────────┘                             │ every lease_max / 4
//!      └────────────── cannot renew for 3/4 lease_max, or somebody took it ◀───────────────┴──┘
//! ```
//!
//! **What is promised.** A term has at most one leader, whatever clocks, networks and processes do: a term is taken by one
//! conditional put, and no term is ever led twice. That alone must be relied upon: whatever a leader writes is to carry its
//! term, and to be refused where a later one has written. Clocks are for haste only: while they run at rates within a
//! third of each other and no process stands still, there are never two leaders at once either; a leader that was paused may
//! believe in itself until it looks at its clock ([`Candidate::leads`]).

use std::collections::VecDeque;
use std::time::Duration;

/// What the register holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which leader this is; each has a higher one than all before it.
    pub term: u64,
    /// Who: a name that no other process has, nor had. Empty if the leader has given it up.
    pub holder: String,
    /// Where it can be reached.
    pub address: String,
    /// How often it has been renewed in this term.
    pub renewed: u64,
}

/// Bytes that are no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the register of the election holds something that is no lease: something else may have been written under its name. \
     If no job uses it, delete it."
)]
pub struct NoLease;

/// The first line of a lease: what it is, and the version of its format.
const TITLE: &str = "millstream lease 1";

impl Lease {
    /// The lease as it is written: lines of text, for whoever looks into the store. Drawn in `docs/formats/lease.md`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Lease { term, holder, address, renewed } = self;
        let text = format!("{TITLE}\nterm {term}\nrenewed {renewed}\nholder {holder}\naddress {address}\n");
        format!("{text}crc32c {:08x}\n", crc32c::crc32c(text.as_bytes())).into_bytes()
    }

    /// What [`encode`](Self::encode) has written.
    ///
    /// # Errors
    /// If it has not.
    pub fn decode(bytes: &[u8]) -> Result<Lease, NoLease> {
        Lease::parse(bytes).ok_or(NoLease)
    }

    fn parse(bytes: &[u8]) -> Option<Lease> {
        let mut lines = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.split('\n');
        if lines.next()? != TITLE {
            return None;
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let (term, renewed) = (field("term")?.parse().ok()?, field("renewed")?.parse().ok()?);
        let (holder, address) = (field("holder")?.to_owned(), field("address")?.to_owned());
        let lease = Lease { term, holder, address, renewed };
        // Written again it is the same: so the checksum is right, and nothing follows.
        (lease.encode() == bytes).then_some(lease)
    }
}

/// A number for each question put to the register, by which its answer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask(u64);

/// What a candidate wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read the register, and hand the answer to [`Candidate::was_read`].
    Read(Ask),
    /// Write `lease`, if the register still holds what was read as `instead_of` (nothing, if it was empty); then call
    /// [`Candidate::was_put`]. A store that compares versions compares with the version of that read, or of the last put that
    /// was done.
    Put {
        /// The question's number.
        ask: Ask,
        /// What must be there.
        instead_of: Option<Lease>,
        /// What is to be there.
        lease: Lease,
    },
    /// This candidate leads now. Whatever it writes carries this term.
    BecomeLeader {
        /// The term, in which nobody else leads, led, or will.
        term: u64,
    },
    /// It leads no more.
    StepDown {
        /// The term that is over.
        term: u64,
    },
}

/// The register's answer to a [`Action::Put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is written.
    Done,
    /// Something else was there, and still is.
    Conflict,
    /// Nobody knows: the answer was lost, or an error. It may be written, now or later.
    Unknown,
}

/// The register did not answer a [`Action::Read`], or answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered;

/// How patient a candidate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long a lease that is not renewed is left alone.
    pub lease_max: Duration,
    /// How long to wait for the register's answer before it is asked again.
    pub answer_max: Duration,
}

impl Patience {
    /// For a lease of this time; an answer may take a sixth of it, so that a leader asks more than once before it steps down.
    #[must_use]
    pub fn of_lease(lease_max: Duration) -> Patience {
        Patience { lease_max, answer_max: lease_max / 6 }
    }

    /// How often a leader renews, and a follower looks.
    fn renew_every(&self) -> Duration {
        self.lease_max / 4
    }

    /// How long a leader believes in a lease. Others leave it alone for longer, by a quarter of `lease_max`: that is what clocks may
    /// differ by in this time.
    fn believe_max(&self) -> Duration {
        self.lease_max * 3 / 4
    }
}

/// What a candidate is at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    Follower,
    /// Leads by this lease; `believed_since` is when the put was begun that the register holds.
    Leader {
        lease: Lease,
        believed_since: Duration,
    },
}

/// What the register held when it was last heard of.
#[derive(Clone, Debug)]
struct Seen {
    lease: Option<Lease>,
    /// When it was first seen so.
    since: Duration,
    /// A put has failed since then: it holds something else.
    outdated: bool,
}

/// The question that is out.
#[derive(Clone, Debug)]
struct Asked {
    ask: Ask,
    at: Duration,
    /// For a put: what is to be there.
    putting: Option<Lease>,
}

/// One process that leads or would. Times are those of one clock of its own that never goes back, from any beginning.
///
/// Its owner calls [`tick`](Self::tick) whenever [`wake_at`](Self::wake_at) has come, hands in the register's answers, and does after
/// each call what [`poll`](Self::poll) says. The register must be linearizable, and is never to be emptied.
#[derive(Debug)]
pub struct Candidate {
    name: String,
    address: String,
    patience: Patience,
    role: Role,
    seen: Option<Seen>,
    /// The last thing that was put, and when that was first tried: it may turn up in the register at any time from then on.
    claimed: Option<(Lease, Duration)>,
    /// The last term that is over for this candidate: it is never led by it again.
    done_with: u64,
    /// The highest term it has heard of.
    highest: u64,
    asked: Option<Asked>,
    asks: u64,
    /// When to ask the register next.
    ask_at: Duration,
    resigned: bool,
    actions: VecDeque<Action>,
}

impl Candidate {
    /// A candidate that has seen nothing yet. `name` must be one that no other process has or had: a host and a process number
    /// come again, so add something random. `address` is where it can be reached as leader.
    ///
    /// # Panics
    /// If the name is empty, or either has a line break.
    #[must_use]
    pub fn new(name: &str, address: &str, patience: Patience, now: Duration) -> Candidate {
        assert!(!name.is_empty(), "a candidate has a name");
        assert!(!name.contains('\n') && !address.contains('\n'), "names are written on a line: {name:?}, {address:?}");
        let mut candidate = Candidate {
            name: name.to_owned(),
            address: address.to_owned(),
            patience,
            role: Role::Follower,
            seen: None,
            claimed: None,
            done_with: 0,
            highest: 0,
            asked: None,
            asks: 0,
            ask_at: now,
            resigned: false,
            actions: VecDeque::new(),
        };
        candidate.settle(now);
        candidate
    }

    /// What to do next, if anything.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The term in which this candidate leads, by its clock. To be asked before anything is done in the name of it, since a process
    /// may have been paused; and even then what it does must carry the term.
    #[must_use]
    pub fn leads(&self, now: Duration) -> Option<u64> {
        match &self.role {
            Role::Leader { lease, believed_since } if self.believed(*believed_since, now) => Some(lease.term),
            _ => None,
        }
    }

    /// The lease as it was seen last: who leads, and where it can be reached. It may be out of date.
    #[must_use]
    pub fn seen(&self) -> Option<&Lease> {
        self.seen.as_ref()?.lease.as_ref().filter(|lease| !lease.holder.is_empty())
    }

    /// When [`tick`](Self::tick) is due; never, if it has resigned and the register knows.
    #[must_use]
    pub fn wake_at(&self) -> Duration {
        let ask = self.asked.as_ref().map_or(self.ask_at, |asked| asked.at + self.patience.answer_max);
        match &self.role {
            Role::Leader { believed_since, .. } => ask.min(*believed_since + self.patience.believe_max()),
            Role::Follower => ask,
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        // An answer that takes too long is not waited for; if it comes after all, it is not listened to.
        if self.asked.as_ref().is_some_and(|asked| now >= asked.at + self.patience.answer_max) {
            self.asked = None;
            self.ask_at = now;
        }
        self.settle(now);
    }

    /// What was read: the lease, nothing, or no answer.
    pub fn was_read(&mut self, now: Duration, ask: Ask, answer: Result<Option<Lease>, Unanswered>) {
        let Some(asked) = self.asked.take_if(|asked| asked.ask == ask && asked.putting.is_none()) else { return };
        match answer {
            Ok(lease) => self.see(now, lease),
            // Not at once, or a store that fails quickly would be asked without end.
            Err(Unanswered) => self.ask_at = asked.at + self.patience.answer_max,
        }
        self.settle(now);
    }

    /// What became of a put.
    pub fn was_put(&mut self, now: Duration, ask: Ask, answer: Put) {
        let Some(asked) = self.asked.take_if(|asked| asked.ask == ask && asked.putting.is_some()) else { return };
        match (answer, &mut self.seen) {
            (Put::Done, _) => self.see(now, asked.putting),
            (Put::Conflict, seen) => {
                seen.iter_mut().for_each(|seen| seen.outdated = true);
                self.ask_at = now;
            }
            // It is tried again: if it had been written, the second one meets it.
            (Put::Unknown, _) => self.ask_at = asked.at + self.patience.answer_max,
        }
        self.settle(now);
    }

    /// Gives up leading, if it does, and lets somebody else do so at once; never leads again.
    pub fn resign(&mut self, now: Duration) {
        self.resigned = true;
        self.step_down();
        // What was asked before is of no more interest.
        self.asked = None;
        self.ask_at = now;
        self.settle(now);
    }

    fn believed(&self, since: Duration, now: Duration) -> bool {
        now < since + self.patience.believe_max()
    }

    /// The register was seen to hold this.
    fn see(&mut self, now: Duration, lease: Option<Lease>) {
        self.highest = self.highest.max(lease.as_ref().map_or(0, |lease| lease.term));
        let mine = lease.as_ref().filter(|lease| lease.holder == self.name);
        // Since when it may have been there, if this candidate has put it there.
        let begun =
            self.claimed.as_ref().filter(|(claimed, _)| Some(claimed) == lease.as_ref()).map(|(_, begun)| *begun);
        match (&mut self.role, mine) {
            (Role::Leader { lease: held, believed_since }, Some(lease)) if lease.term == held.term => {
                *held = lease.clone();
                *believed_since = begun.unwrap_or(*believed_since);
            }
            (Role::Leader { .. }, _) => self.step_down(),
            (Role::Follower, Some(lease)) if !self.resigned && lease.term > self.done_with => {
                let lease = lease.clone();
                match begun {
                    Some(begun) if self.believed(begun, now) => {
                        self.actions.push_back(Action::BecomeLeader { term: lease.term });
                        self.role = Role::Leader { lease, believed_since: begun };
                    }
                    // It took so long to hear of it that others may be about to take it.
                    _ => self.done_with = lease.term,
                }
            }
            (Role::Follower, _) => {}
        }
        let since = match &self.seen {
            Some(seen) if seen.lease == lease => seen.since,
            _ => now,
        };
        self.seen = Some(Seen { lease, since, outdated: false });
        self.ask_at = match (&self.role, self.takeable_at()) {
            // From when it was begun, not from when it was heard of: a slow register is asked sooner.
            (Role::Leader { believed_since, .. }, _) => (*believed_since + self.patience.renew_every()).max(now),
            (Role::Follower, None) => now + self.patience.renew_every(),
            (Role::Follower, Some(_)) if self.resigned => now,
            (Role::Follower, Some(at)) => at.min(now + self.patience.renew_every()).max(now),
        };
    }

    fn step_down(&mut self) {
        if let Role::Leader { lease, .. } = std::mem::replace(&mut self.role, Role::Follower) {
            self.done_with = lease.term;
            self.actions.push_back(Action::StepDown { term: lease.term });
        }
    }

    /// From when on what was seen in the register may be replaced by somebody who does not lead; unknown if it is not known what is
    /// there.
    fn takeable_at(&self) -> Option<Duration> {
        let seen = self.seen.as_ref().filter(|seen| !seen.outdated)?;
        match &seen.lease {
            None => Some(seen.since),
            // Given up; or of a term that only this candidate could have led, and does not.
            Some(lease) if lease.holder.is_empty() || lease.holder == self.name => Some(seen.since),
            Some(_) => Some(seen.since + self.patience.lease_max),
        }
    }

    /// After each input: what has to be done at this time.
    fn settle(&mut self, now: Duration) {
        if self.leads(now).is_none() {
            self.step_down();
        }
        if self.asked.is_some() || now < self.ask_at {
            return;
        }
        let seen = self.seen.as_ref().filter(|seen| !seen.outdated).map(|seen| seen.lease.clone());
        let takeable = self.takeable_at().is_some_and(|at| now >= at);
        match (&self.role, seen) {
            (Role::Leader { lease, .. }, Some(seen)) => {
                let renewed = Lease { renewed: lease.renewed + 1, ..lease.clone() };
                self.put(now, seen, renewed);
            }
            (Role::Follower, Some(Some(seen))) if self.resigned => match seen.holder == self.name {
                true => {
                    let renewed = seen.renewed + 1;
                    let given_up = Lease { holder: String::new(), address: String::new(), renewed, ..seen.clone() };
                    self.put(now, Some(seen), given_up);
                }
                false => self.ask_at = Duration::MAX,
            },
            (Role::Follower, Some(None)) if self.resigned => self.ask_at = Duration::MAX,
            (Role::Follower, Some(seen)) if takeable => {
                let (holder, address) = (self.name.clone(), self.address.clone());
                self.put(now, seen, Lease { term: self.highest + 1, holder, address, renewed: 0 });
            }
            (_, _) => {
                let ask = self.ask(now, None);
                self.actions.push_back(Action::Read(ask));
            }
        }
    }

    fn put(&mut self, now: Duration, instead_of: Option<Lease>, lease: Lease) {
        if self.claimed.as_ref().is_none_or(|(claimed, _)| *claimed != lease) {
            self.claimed = Some((lease.clone(), now));
        }
        let ask = self.ask(now, Some(lease.clone()));
        self.actions.push_back(Action::Put { ask, instead_of, lease });
    }

    fn ask(&mut self, at: Duration, putting: Option<Lease>) -> Ask {
        self.asks += 1;
        let ask = Ask(self.asks);
        self.asked = Some(Asked { ask, at, putting });
        ask
    }
}
