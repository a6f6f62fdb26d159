//! Connections in their handshake, and who has to go when there are too many. Pure: it holds what it is given, and knows no socket.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// Where a connection comes from, as far as that tells one caller from another: an address, or for IPv6 the /64 network, of which
/// one host has all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin([u8; 16]);

impl Origin {
    pub(crate) fn of(address: IpAddr) -> Origin {
        match address.to_canonical() {
            IpAddr::V4(address) => Origin(address.to_ipv6_mapped().octets()),
            IpAddr::V6(address) => {
                let mut network = address.octets();
                network[8..].fill(0);
                Origin(network)
            }
        }
    }
}

/// A place in the table, good until what is in it is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) place: usize,
    number: u64,
}

struct Entry<T> {
    number: u64,
    origin: Origin,
    /// How much it has shown of itself; see `Session::shown`.
    shown: u8,
    what: T,
}

/// At most `pending_max` connections; of one origin, `per_origin_max` are enough.
pub(crate) struct Pending<T> {
    entries: Vec<Option<Entry<T>>>,
    free: Vec<usize>,
    /// How many there are of each origin; none of which there are none.
    crowds: HashMap<Origin, usize>,
    /// Oldest first. Some have gone meanwhile.
    order: VecDeque<Ticket>,
    per_origin_max: usize,
    next_number: u64,
}

impl<T> Pending<T> {
    /// Room for so many, taken at once: a flood of strangers asks for no memory.
    pub(crate) fn new(pending_max: usize, per_origin_max: usize) -> Pending<T> {
        let pending_max = pending_max.max(1);
        Pending {
            entries: (0..pending_max).map(|_| None).collect(),
            free: (0..pending_max).rev().collect(),
            crowds: HashMap::with_capacity(pending_max),
            order: VecDeque::with_capacity(2 * pending_max),
            per_origin_max: per_origin_max.max(1),
            next_number: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Who has to go so that one more from `origin` may come: nobody, or the oldest of those that have shown least, among those of
    /// the same origin if that has too many, and of the origin that has most if there are too many altogether. So a flood from
    /// one address costs only that address, and silent callers make way for one that speaks.
    ///
    /// Of too many from one origin, those that are `young` are let be while there is room for more: they may be friends that came
    /// together, and have not got to speak yet.
    pub(crate) fn in_the_way(&self, origin: Origin, young: impl Fn(&T) -> bool) -> Option<Ticket> {
        if self.crowds.get(&origin).is_some_and(|count| *count >= self.per_origin_max) {
            let ticket = self.least(origin, |entry| !young(&entry.what));
            if ticket.is_some() {
                return ticket;
            }
        }
        if !self.free.is_empty() {
            return None;
        }
        let (crowd, _) = self.crowds.iter().max_by_key(|(_, count)| **count)?;
        self.least(*crowd, |_| true)
    }

    /// Of those of one origin that may go, the oldest of those that have shown least.
    fn least(&self, origin: Origin, may_go: impl Fn(&Entry<T>) -> bool) -> Option<Ticket> {
        let present = self.entries.iter().enumerate().filter_map(|(place, entry)| Some((place, entry.as_ref()?)));
        present
            .filter(|(_, entry)| entry.origin == origin && may_go(entry))
            .min_by_key(|(_, entry)| (entry.shown, entry.number))
            .map(|(place, entry)| Ticket { place, number: entry.number })
    }

    /// The place that the next one will have.
    pub(crate) fn next_place(&self) -> Option<usize> {
        self.free.last().copied()
    }

    /// Adds one.
    ///
    /// # Panics
    /// If there is no room: who is in the way has to be taken out before.
    pub(crate) fn add(&mut self, origin: Origin, what: T) -> Ticket {
        let place = self.free.pop().expect("who was in the way has been taken out");
        let ticket = Ticket { place, number: self.next_number };
        self.next_number += 1;
        *self.crowds.entry(origin).or_default() += 1;
        self.entries[place] = Some(Entry { number: ticket.number, origin, shown: 0, what });
        self.order.push_back(ticket);
        // Those that have gone are forgotten before they outnumber those that are here.
        if self.order.len() >= 2 * self.entries.len() {
            let entries = &self.entries;
            self.order.retain(|ticket| Self::holds(entries, *ticket));
        }
        ticket
    }

    fn holds(entries: &[Option<Entry<T>>], ticket: Ticket) -> bool {
        entries[ticket.place].as_ref().is_some_and(|entry| entry.number == ticket.number)
    }

    /// Who is in this place, and how much it has shown, to be written down.
    pub(crate) fn at(&mut self, place: usize) -> Option<(Ticket, &mut T, &mut u8)> {
        let entry = self.entries.get_mut(place)?.as_mut()?;
        Some((Ticket { place, number: entry.number }, &mut entry.what, &mut entry.shown))
    }

    /// Takes one out, if it is still there.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        if !Self::holds(&self.entries, ticket) {
            return None;
        }
        let entry = self.entries[ticket.place].take()?;
        self.free.push(ticket.place);
        let crowd = self.crowds.get_mut(&entry.origin).expect("it was counted when it came");
        *crowd -= 1;
        if *crowd == 0 {
            self.crowds.remove(&entry.origin);
        }
        Some(entry.what)
    }

    /// The oldest.
    pub(crate) fn oldest(&mut self) -> Option<(Ticket, &mut T)> {
        while let Some(ticket) = self.order.front().copied() {
            if Self::holds(&self.entries, ticket) {
                break;
            }
            self.order.pop_front();
        }
        let ticket = *self.order.front()?;
        let entry = self.entries[ticket.place].as_mut().expect("the ticket is good");
        Some((ticket, &mut entry.what))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin(number: u8) -> Origin {
        Origin::of(IpAddr::from([10, 0, 0, number]))
    }

    #[test]
    fn one_host_is_one_origin() {
        let of = |address: &str| Origin::of(address.parse().unwrap());
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("fd00::1"), of("fd00::abcd:1"));
        assert_ne!(of("fd00::1"), of("fd00:0:0:1::1"));
    }

    #[test]
    fn a_crowd_makes_way_for_its_own_and_the_silent_for_those_who_speak() {
        let mut pending = Pending::new(4, 3);
        let first = pending.add(origin(1), ());
        let second = pending.add(origin(1), ());
        *pending.at(first.place).unwrap().2 = 1; // the oldest has spoken
        let old = |_: &()| false;
        assert_eq!(pending.in_the_way(origin(1), old), None);
        pending.add(origin(1), ());
        assert_eq!(pending.in_the_way(origin(1), old), Some(second), "the oldest of those that have shown nothing");
        assert_eq!(pending.in_the_way(origin(2), old), None, "another address is not concerned");
        pending.add(origin(2), ());
        assert_eq!(pending.in_the_way(origin(3), old), Some(second), "of the address that has most");
        pending.remove(second).unwrap();
        assert_eq!(pending.remove(second), None, "once");
        assert_eq!(pending.in_the_way(origin(3), old), None);
    }

    #[test]
    fn friends_that_come_together_are_let_be_while_there_is_room() {
        let mut pending = Pending::new(4, 2);
        let young = |age: &u32| *age < 10;
        let [first, second] = [15, 5].map(|age| pending.add(origin(1), age));
        *pending.at(first.place).unwrap().2 = 1;
        assert_eq!(pending.in_the_way(origin(1), young), Some(first), "the other one is young");
        *pending.at(first.place).unwrap().1 = 7;
        assert_eq!(pending.in_the_way(origin(1), young), None, "both are");
        for _ in 0..2 {
            let ticket = pending.add(origin(1), 1);
            *pending.at(ticket.place).unwrap().2 = 1;
        }
        assert_eq!(pending.in_the_way(origin(2), young), Some(second), "there is no room, and this one is silent");
    }

    #[derive(Clone, Copy, Debug)]
    enum Action {
        Add(u8),
        Remove(usize),
        Show(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            3 => (0..4_u8).prop_map(Action::Add),
            1 => (0..8_usize).prop_map(Action::Remove),
            1 => (0..8_usize).prop_map(Action::Show),
        ]
    }

    proptest! {
        /// A plain list, searched for everything.
        #[test]
        fn the_table_is_a_list(actions in proptest::collection::vec(action(), 0..200)) {
            let mut pending = Pending::new(8, 3);
            let mut list: Vec<(Ticket, u8, u8)> = Vec::new(); // ticket, origin, shown; oldest first
            for action in actions {
                match action {
                    Action::Add(from) => {
                        if let Some(ticket) = pending.in_the_way(origin(from), |_| false) {
                            let at = list.iter().position(|(known, ..)| *known == ticket).unwrap();
                            let (_, of, shown) = list.remove(at);
                            prop_assert!(list.iter().all(|(_, other, least)| *other != of || *least >= shown));
                            prop_assert!(pending.remove(ticket).is_some());
                        }
                        list.push((pending.add(origin(from), ()), from, 0));
                        prop_assert!(list.len() <= 8);
                        prop_assert!((0..4).all(|of| list.iter().filter(|(_, from, _)| *from == of).count() <= 3));
                    }
                    Action::Remove(place) => {
                        let ticket = pending.at(place).map(|(ticket, ..)| ticket);
                        prop_assert_eq!(ticket.is_some(), list.iter().any(|(ticket, ..)| ticket.place == place));
                        if let Some(ticket) = ticket {
                            prop_assert!(pending.remove(ticket).is_some());
                            list.retain(|(known, ..)| *known != ticket);
                        }
                    }
                    Action::Show(place) => {
                        if let Some((ticket, _, shown)) = pending.at(place) {
                            *shown += 1;
                            list.iter_mut().filter(|(known, ..)| *known == ticket).for_each(|entry| entry.2 += 1);
                        }
                    }
                }
                prop_assert_eq!(pending.len(), list.len());
                prop_assert_eq!(pending.oldest().map(|(ticket, _)| ticket), list.first().map(|(ticket, ..)| *ticket));
            }
        }
    }
}
