//! Elections in a simulated world: candidates whose clocks differ, that are paused, killed and replaced, and a register whose
//! questions and answers are delayed, overtaken and lost. One seed, one thread.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use millstream_network::election::{Action, Ask, Candidate, Lease, Patience, Put, Unanswered};
use proptest::prelude::*;

use super::world::Random;

const LEASE_MAX: Duration = Duration::from_secs(1);

/// How cruel a world is.
#[derive(Clone, Copy)]
struct Cruelty {
    /// A question or an answer in so many is lost; 0: none is.
    lost_one_in: usize,
    /// How long each takes at most, in microseconds.
    delay_max: usize,
    /// In so many turns a candidate is paused, and in as many one is killed; 0: never.
    harmed_one_in: usize,
    /// Clocks run at rates from this to its inverse.
    slowest_clock: f64,
}

const CALM: Cruelty = Cruelty { lost_one_in: 0, delay_max: 20_000, harmed_one_in: 0, slowest_clock: 1.0 };
/// The ratio of two rates is below four thirds.
const CRUEL: Cruelty = Cruelty { lost_one_in: 6, delay_max: 400_000, harmed_one_in: 60, slowest_clock: 0.88 };
const MAD: Cruelty = Cruelty { lost_one_in: 4, delay_max: 400_000, harmed_one_in: 100, slowest_clock: 0.2 };

#[derive(Debug)]
enum Question {
    Read,
    Put { instead_of: Option<Lease>, lease: Lease },
}

#[derive(Debug)]
enum Answer {
    Read(Result<Option<Lease>, Unanswered>),
    Put(Put),
}

#[derive(Debug)]
enum Event {
    Tick {
        generation: u64,
    },
    /// A question has got to the register.
    Asked {
        ask: Ask,
        question: Question,
    },
    /// An answer has got back.
    Answered {
        ask: Ask,
        answer: Answer,
    },
}

struct Node {
    candidate: Candidate,
    /// Which candidate this is, of all that ever were.
    incarnation: usize,
    rate: f64,
    offset: f64,
    paused_until: u64,
    generation: u64,
    resigned: bool,
}

impl Node {
    /// What its clock says.
    fn clock(&self, now: u64) -> Duration {
        Duration::from_micros((self.offset + now as f64 * self.rate) as u64)
    }

    fn when(&self, clock: Duration) -> u64 {
        ((clock.as_micros() as f64 - self.offset) / self.rate).max(0.0) as u64
    }
}

struct World {
    seed: u64,
    random: Random,
    cruelty: Cruelty,
    now: u64,
    nodes: Vec<Node>,
    register: Option<Lease>,
    /// By time, and those of one time in the order they were made; the event lies in the list beside.
    queue: BinaryHeap<Reverse<(u64, usize)>>,
    events: Vec<Option<(usize, usize, Event)>>,
    incarnations: usize,
    /// Who led each term.
    terms: HashMap<u64, usize>,
    /// What must never happen, checked only where clocks are good.
    one_at_a_time: bool,
}

impl World {
    fn new(seed: u64, count: usize, cruelty: Cruelty) -> World {
        let mut world = World {
            seed,
            random: Random::new(seed),
            cruelty,
            now: 0,
            nodes: Vec::new(),
            register: None,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            incarnations: 0,
            terms: HashMap::new(),
            one_at_a_time: cruelty.slowest_clock >= 0.88,
        };
        for at in 0..count {
            let node = world.node();
            world.nodes.push(node);
            world.after(at);
        }
        world
    }

    /// A new candidate, with a clock of its own.
    fn node(&mut self) -> Node {
        self.incarnations += 1;
        let part = self.random.below(2_001) as f64 / 1_000.0;
        let rate = self.cruelty.slowest_clock.powf(1.0 - part);
        let offset = self.random.below(1 << 40) as f64;
        let clock = Duration::from_micros((offset + self.now as f64 * rate) as u64);
        let name = format!("process {}", self.incarnations);
        let candidate = Candidate::new(&name, "here", Patience::of_lease(LEASE_MAX), clock);
        Node {
            candidate,
            incarnation: self.incarnations,
            rate,
            offset,
            paused_until: 0,
            generation: 0,
            resigned: false,
        }
    }

    fn schedule(&mut self, at: u64, node: usize, event: Event) {
        self.queue.push(Reverse((at, self.events.len())));
        self.events.push(Some((node, self.nodes[node].incarnation, event)));
    }

    fn delay(&mut self) -> u64 {
        // Mostly short.
        let most = 1 + self.random.below(self.cruelty.delay_max);
        1 + self.random.below(most) as u64
    }

    fn lost(&mut self) -> bool {
        self.cruelty.lost_one_in > 0 && self.random.below(self.cruelty.lost_one_in) == 0
    }

    /// Does what a candidate wants done, and looks whether all is as it must be.
    fn after(&mut self, at: usize) {
        while let Some(action) = self.nodes[at].candidate.poll() {
            let (ask, question) = match action {
                Action::Read(ask) => (ask, Question::Read),
                Action::Put { ask, instead_of, lease } => (ask, Question::Put { instead_of, lease }),
                Action::BecomeLeader { term } => {
                    let before = self.terms.insert(term, self.nodes[at].incarnation);
                    assert_eq!(before, None, "seed {}: term {term} is led twice", self.seed);
                    continue;
                }
                Action::StepDown { term } => {
                    assert_eq!(self.terms[&term], self.nodes[at].incarnation, "seed {}", self.seed);
                    continue;
                }
            };
            if !self.lost() {
                let arrives = self.now + self.delay();
                self.schedule(arrives, at, Event::Asked { ask, question });
            }
        }
        let node = &mut self.nodes[at];
        node.generation += 1;
        let (generation, wake_at) = (node.generation, node.when(node.candidate.wake_at()).max(self.now + 1));
        self.schedule(wake_at, at, Event::Tick { generation });
        if self.one_at_a_time {
            let leaders: Vec<u64> =
                self.nodes.iter().filter_map(|node| node.candidate.leads(node.clock(self.now))).collect();
            assert!(leaders.len() <= 1, "seed {}: terms {leaders:?} are led at once", self.seed);
        }
    }

    /// The register: one thing after another, each whole.
    fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Read => Answer::Read(Ok(self.register.clone())),
            Question::Put { instead_of, lease } if self.register == instead_of => {
                if let Some(old) = self.register.replace(lease.clone()) {
                    let renewed = lease.term == old.term && lease.renewed == old.renewed + 1;
                    let same = renewed && (lease.holder == old.holder || lease.holder.is_empty());
                    let next = lease.term == old.term + 1 && lease.renewed == 0;
                    assert!(same || next, "seed {}: {old:?} became {lease:?}", self.seed);
                }
                Answer::Put(Put::Done)
            }
            Question::Put { .. } => Answer::Put(Put::Conflict),
        }
    }

    fn run_until(&mut self, end: u64) {
        while let Some(Reverse((at, number))) = self.queue.pop() {
            if at > end {
                self.queue.push(Reverse((at, number)));
                break;
            }
            self.now = at;
            let (node, incarnation, event) = self.events[number].take().expect("each event happens once");
            if let Event::Asked { ask, question } = event {
                // Whoever asked may be dead: what it asked for happens all the same.
                let answer = self.answer(question);
                let answer = match (self.lost(), self.lost(), answer) {
                    (true, _, _) => continue,
                    (_, true, Answer::Read(_)) => Answer::Read(Err(Unanswered)),
                    (_, true, Answer::Put(_)) => Answer::Put(Put::Unknown),
                    (_, _, answer) => answer,
                };
                if self.nodes[node].incarnation == incarnation {
                    let arrives = self.now + self.delay();
                    self.schedule(arrives, node, Event::Answered { ask, answer });
                }
                continue;
            }
            if self.nodes[node].incarnation != incarnation {
                continue;
            }
            if self.nodes[node].paused_until > self.now {
                let resumes = self.nodes[node].paused_until;
                self.schedule(resumes, node, event);
                continue;
            }
            self.turn(node, event);
            if self.cruelty.harmed_one_in > 0 {
                self.harm();
            }
        }
        self.now = end;
    }

    fn turn(&mut self, at: usize, event: Event) {
        let clock = self.nodes[at].clock(self.now);
        let node = &mut self.nodes[at];
        match event {
            Event::Tick { generation } if generation != node.generation => return,
            Event::Tick { .. } => node.candidate.tick(clock),
            Event::Answered { ask, answer: Answer::Read(answer) } => node.candidate.was_read(clock, ask, answer),
            Event::Answered { ask, answer: Answer::Put(answer) } => node.candidate.was_put(clock, ask, answer),
            Event::Asked { .. } => unreachable!("the register was asked"),
        }
        self.after(at);
    }

    fn harm(&mut self) {
        let at = self.random.below(self.nodes.len());
        match self.random.below(self.cruelty.harmed_one_in) {
            0 => self.nodes[at].paused_until = self.now + self.random.below(4_000_000) as u64,
            // Killed, and another one started in its place.
            1 => {
                self.nodes[at] = self.node();
                self.after(at);
            }
            2 => {
                let clock = self.nodes[at].clock(self.now);
                self.nodes[at].candidate.resign(clock);
                self.nodes[at].resigned = true;
                self.after(at);
            }
            _ => {}
        }
    }

    /// From here on nothing bad happens any more.
    fn calm_down(&mut self) {
        self.cruelty = Cruelty { slowest_clock: self.cruelty.slowest_clock, ..CALM };
        for at in 0..self.nodes.len() {
            self.nodes[at].paused_until = self.now;
            // Those that have resigned are replaced, as their owners would.
            if self.nodes[at].resigned {
                self.nodes[at] = self.node();
            }
            self.after(at);
        }
    }

    fn leaders(&self) -> Vec<usize> {
        let leads = |at: &usize| self.nodes[*at].candidate.leads(self.nodes[*at].clock(self.now)).is_some();
        (0..self.nodes.len()).filter(leads).collect()
    }

    /// Exactly one leads, all know it, and it goes on so.
    fn assert_one_leads(&mut self) {
        let leaders = self.leaders();
        assert_eq!(leaders.len(), 1, "seed {}: {:?}", self.seed, self.register);
        let name = format!("process {}", self.nodes[leaders[0]].incarnation);
        for node in &self.nodes {
            assert_eq!(node.candidate.seen().map(|lease| &lease.holder), Some(&name), "seed {}", self.seed);
        }
        let term = self.register.as_ref().map(|lease| lease.term);
        self.run_until(self.now + 3_000_000);
        assert_eq!(self.leaders(), leaders, "seed {}", self.seed);
        assert_eq!(self.register.as_ref().map(|lease| lease.term), term, "seed {}: no term is wasted", self.seed);
    }
}

#[test]
fn in_a_calm_world_one_leads_from_the_start_and_stays() {
    for seed in 0..100 {
        let mut world = World::new(seed, 1 + seed as usize % 5, CALM);
        world.run_until(1_000_000);
        world.assert_one_leads();
        assert_eq!(world.terms.len(), 1, "seed {seed}");
    }
}

#[test]
fn in_a_cruel_world_never_two_lead_and_once_it_is_calm_one_does() {
    let mut terms = 0;
    for seed in 0..7_000 {
        let mut world = World::new(seed, 3 + seed as usize % 3, CRUEL);
        world.run_until(5_000_000);
        world.calm_down();
        // A lease that nobody renews, seen by the slowest clock; what was on its way; and the election.
        world.run_until(world.now + 3_500_000);
        world.assert_one_leads();
        terms += world.terms.len();
    }
    assert!(terms > 14_000, "elections are rare in this world: {terms}");
}

#[test]
fn whatever_clocks_do_no_term_is_led_twice() {
    let (mut terms, mut both) = (0, 0);
    for seed in 0..3_000 {
        let mut world = World::new(seed, 5, MAD);
        for step in 1..20 {
            world.run_until(step * 500_000);
            both += usize::from(world.leaders().len() > 1);
        }
        terms += world.terms.len();
    }
    assert!(terms > 3_000, "elections are rare in this world: {terms}");
    // Otherwise the clocks were not mad, and terms alone were not what kept them apart.
    assert!(both > 0, "two leaders of different terms were never met");
}

#[test]
fn a_leader_that_resigns_is_followed_at_once() {
    let mut world = World::new(1, 3, CALM);
    world.run_until(2_000_000);
    let [leader] = world.leaders()[..] else { panic!("one leads") };
    let clock = world.nodes[leader].clock(world.now);
    world.nodes[leader].candidate.resign(clock);
    world.after(leader);
    assert_eq!(world.leaders(), []);
    // Within the time between two looks, and not after a lease that nobody renews.
    world.run_until(world.now + 400_000);
    let [next] = world.leaders()[..] else { panic!("one leads") };
    assert_ne!(next, leader);
    assert_eq!(world.nodes[leader].candidate.wake_at(), Duration::MAX);
    assert_eq!(world.register.as_ref().map(|lease| lease.term), Some(2));
}

#[test]
fn a_leader_that_hears_nothing_steps_down_before_others_may_take_over() {
    let patience = Patience::of_lease(LEASE_MAX);
    let at = Duration::from_millis;
    let mut candidate = Candidate::new("a", "here", patience, at(0));
    let Some(Action::Read(ask)) = candidate.poll() else { panic!("it looks first") };
    candidate.was_read(at(10), ask, Ok(None));
    let Some(Action::Put { ask, instead_of: None, lease }) = candidate.poll() else { panic!("nobody leads") };
    assert_eq!(lease, Lease { term: 1, holder: "a".into(), address: "here".into(), renewed: 0 });
    candidate.was_put(at(30), ask, Put::Done);
    assert_eq!(candidate.poll(), Some(Action::BecomeLeader { term: 1 }));
    // The put was begun at 10 ms. From then on nothing is heard; it asks and asks.
    let (mut puts, mut now) = (0, at(30));
    let stepped_down = loop {
        match candidate.poll() {
            Some(Action::Put { .. }) => puts += 1,
            Some(Action::StepDown { term: 1 }) => break now,
            Some(other) => panic!("{other:?}"),
            None => {
                now = candidate.wake_at();
                candidate.tick(now);
            }
        }
    };
    assert_eq!(stepped_down, at(10) + LEASE_MAX * 3 / 4);
    assert!(puts >= 3, "{puts}");
    assert_eq!(candidate.leads(now), None);
}

#[test]
fn a_lease_counts_from_when_its_put_was_begun_however_late_the_leader_hears_of_it() {
    let at = Duration::from_millis;
    let mut candidate = Candidate::new("a", "here", Patience::of_lease(LEASE_MAX), at(0));
    let Some(Action::Read(ask)) = candidate.poll() else { panic!("it looks first") };
    candidate.was_read(at(0), ask, Ok(None));
    let Some(Action::Put { ask, lease: first, .. }) = candidate.poll() else { panic!("nobody leads") };
    // Written, and the answer lost: it tries again, meets itself, and looks.
    candidate.was_put(at(100), ask, Put::Unknown);
    assert_eq!((candidate.poll(), candidate.leads(at(100))), (None, None), "nobody knows yet");
    let again = candidate.wake_at();
    assert!(again > at(100), "not at once");
    candidate.tick(again);
    let Some(Action::Put { ask, instead_of: None, lease }) = candidate.poll() else { panic!("it tries again") };
    assert_eq!(lease, first);
    candidate.was_put(at(300), ask, Put::Conflict);
    let Some(Action::Read(ask)) = candidate.poll() else { panic!("what is there?") };
    candidate.was_read(at(500), ask, Ok(Some(first.clone())));
    assert_eq!(candidate.poll(), Some(Action::BecomeLeader { term: 1 }));
    assert_eq!((candidate.leads(at(749)), candidate.leads(at(750))), (Some(1), None));
    // Since it is so late, it renews at once; and the same holds for that.
    let Some(Action::Put { ask, instead_of, lease: second }) = candidate.poll() else { panic!("it renews") };
    assert_eq!((instead_of.as_ref(), second.renewed), (Some(&first), 1));
    candidate.was_put(at(600), ask, Put::Unknown);
    candidate.tick(candidate.wake_at());
    let Some(Action::Put { ask, lease, .. }) = candidate.poll() else { panic!("it tries again") };
    assert_eq!(lease, second);
    candidate.was_put(at(740), ask, Put::Done);
    assert_eq!((candidate.leads(at(1_249)), candidate.leads(at(1_250))), (Some(1), None));

    // And who hears of it when it is as good as over does not begin with it, but takes the next term.
    let mut late = Candidate::new("b", "there", Patience::of_lease(LEASE_MAX), at(0));
    let Some(Action::Read(ask)) = late.poll() else { panic!("it looks first") };
    late.was_read(at(0), ask, Ok(None));
    let Some(Action::Put { ask, lease, .. }) = late.poll() else { panic!("nobody leads") };
    late.was_put(at(800), ask, Put::Done);
    let Some(Action::Put { instead_of, lease: next, .. }) = late.poll() else { panic!("it takes the next") };
    assert_eq!((instead_of, next.term), (Some(lease), 2));
}

#[test]
fn what_is_in_the_register_can_be_read_by_people_and_nothing_else_is_taken_for_it() {
    let lease = Lease { term: 7, holder: "host-3 4711 9f3a".into(), address: "10.0.0.3:7000".into(), renewed: 41 };
    let text = String::from_utf8(lease.encode()).unwrap();
    let expected = "millstream lease 1\nterm 7\nrenewed 41\nholder host-3 4711 9f3a\naddress 10.0.0.3:7000\ncrc32c ";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(Lease::decode(text.as_bytes()), Ok(lease.clone()));
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        assert!(Lease::decode(&bytes).is_err(), "byte {at}");
        assert!(Lease::decode(&text.as_bytes()[..at]).is_err(), "cut at {at}");
    }
    assert!(Lease::decode(format!("{text}\n").as_bytes()).is_err());
    assert!(Lease::decode(b"").is_err());
}

proptest! {
    #[test]
    fn every_lease_is_read_as_it_was_written(term: u64, renewed: u64, holder in "[^\n]{0,20}", address in "[^\n]{0,20}") {
        let lease = Lease { term, holder, address, renewed };
        prop_assert_eq!(Lease::decode(&lease.encode()), Ok(lease));
    }

    #[test]
    fn no_bytes_are_too_odd_to_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Lease::decode(&bytes).is_err());
    }
}
