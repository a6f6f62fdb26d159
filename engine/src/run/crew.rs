//! The shards of this process: laid out, started, ordered about, watched, seen off.
//!
//! ```text
//! the lead ─── Order ───▶ ┌───────────── crew ─────────────┐
//!                         │ shard 0   shard 1   shard 2 …  │   a thread each; lanes between them
//!          ◀── News ───── └────────────────────────────────┘
//! ```
//!
//! Whoever leads them, this process's lead or another one's through a connection, speaks to them in orders and hears news.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crossbeam::channel::{Sender, unbounded};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use millstream_network::frame::Route;
use millstream_network::lane::BUFFERS_PER_LANE;
use millstream_network::{Doorbell, LaneConfig, LinkConfig, Peer, lane};
use millstream_state::{Manifest, Savepoint, Store};

use super::fault::JobError;
use super::metrics::{ShardCounters, ShardReport};
use super::shard::{self, News, Order, ShardStart};
use super::time_report::Way;
use crate::job::config::Config;
use crate::job::flow::Factory;
use crate::job::graph::{EdgeEnds, Plan};
use crate::time::Nanos;

/// A shard that has not turned for so long is woken by force. glommio 0.9.0 can park with runnable tasks: when a cancelled
/// timer's completion reaches its latency ring between its pass over the rings and its look at the queues, it takes that
/// for a preemption, runs nothing, and sleeps. For a shard that sleeps rightly the wake costs one look at its wait point.
const STUCK_AFTER: Duration = Duration::from_millis(200);

/// What every shard of an attempt is started with.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) config: Arc<Config>,
    pub(super) factory: Factory,
    pub(super) plan: Arc<Plan>,
    pub(super) restored: Option<Arc<Manifest>>,
    /// Where the keyed state of `restored` is, if that is no checkpoint.
    pub(super) savepoint: Option<Arc<Savepoint>>,
    pub(super) store: Option<Store>,
}

/// A shard that this process is to run.
pub(super) struct Place {
    pub(super) shard: u32,
    /// The core it is pinned to; none where shards outnumber cores and float.
    pub(super) core: Option<usize>,
    pub(super) counters: Arc<ShardCounters>,
}

/// Connections of shards here to shards of other processes.
#[derive(Default)]
pub(super) struct Wires {
    /// By the shard here and the one there: where that is, and a socket.
    pub(super) sockets: HashMap<(u32, u32), (String, OwnedFd)>,
    pub(super) config: LinkConfig,
}

/// The running shards of this process.
#[derive(Default)]
pub(super) struct Crew {
    seats: Vec<Seat>,
}

/// A shard as others see it.
struct Seat {
    shard: u32,
    orders: Sender<Order>,
    doorbell: Arc<Doorbell>,
    waker: Arc<Mutex<Option<Waker>>>,
    counters: Arc<ShardCounters>,
    thread: ExecutorJoinHandle<ShardReport>,
    seen_turns: (u64, Nanos),
}

impl Seat {
    fn order(&self, order: Order) {
        // A shard that has failed no longer listens; its news says so.
        drop(self.orders.send(order));
        self.doorbell.ring();
    }
}

impl Crew {
    /// Starts a thread for each place. After an error some may run: they are to be halted and seen off like others.
    pub(super) fn start(
        &mut self,
        terms: &Terms,
        places: Vec<Place>,
        mut wires: Wires,
        news: &Sender<(u32, News)>,
    ) -> Result<(), JobError> {
        let doorbells: Vec<_> = places
            .iter()
            .map(|place| Ok((place.shard, Arc::new(Doorbell::new()?))))
            .collect::<std::io::Result<_>>()
            .map_err(|error| {
                JobError::Machine(format!("an event descriptor cannot be had: {error}. Raise `ulimit -n`"))
            })?;
        let laid = lay_edges(terms.plan.edges, terms.config.shards, &doorbells, BUFFERS_PER_LANE);
        for ((Place { shard, core, counters }, (_, doorbell)), ends) in places.into_iter().zip(doorbells).zip(laid) {
            let (orders, take_orders) = unbounded();
            let waker = Arc::new(Mutex::new(None));
            let mut peers = Vec::new();
            for Remote { shard: there, outgoing, incoming } in ends.remotes {
                let (name, socket) = wires.sockets.remove(&(shard, there)).ok_or_else(|| {
                    JobError::Machine(format!("shard {shard} has no connection to shard {there} of another process"))
                })?;
                peers.push(Peer { shard: there as u16, name, socket, outgoing, incoming });
            }
            let start = ShardStart {
                shard,
                config: terms.config.clone(),
                factory: terms.factory.clone(),
                plan: terms.plan.clone(),
                edges: ends.edges,
                peers,
                links: wires.config,
                doorbell: doorbell.clone(),
                orders: take_orders,
                news: news.clone(),
                restored: terms.restored.clone(),
                savepoint: terms.savepoint.clone(),
                store: terms.store.clone(),
                counters: counters.clone(),
                waker: waker.clone(),
            };
            let thread = LocalExecutorBuilder::new(core.map_or(Placement::Unbound, Placement::Fixed))
                .name(&format!("shard-{shard}"))
                .preempt_timer(Duration::from_secs(3600))
                .io_memory(1 << 20)
                .spawn(move || shard::run(start))
                .map_err(|error| JobError::Machine(format!("shard {shard}'s executor cannot be started: {error}")))?;
            let seen_turns = (0, terms.config.clock.now());
            self.seats.push(Seat { shard, orders, doorbell, waker, counters, thread, seen_turns });
        }
        Ok(())
    }

    /// Orders one shard, or none if it is another process's.
    pub(super) fn order(&self, shard: u32, order: Order) {
        if let Some(seat) = self.seats.iter().find(|seat| seat.shard == shard) {
            seat.order(order);
        }
    }

    /// Orders all of them.
    pub(super) fn order_all(&self, order: impl Fn() -> Order) {
        self.seats.iter().for_each(|seat| seat.order(order()));
    }

    /// Ways to the shards that need not go through whoever leads them.
    pub(super) fn ways(&self) -> impl Iterator<Item = Way> {
        self.seats.iter().map(|seat| -> Way {
            let (orders, doorbell) = (seat.orders.clone(), seat.doorbell.clone());
            Box::new(move |order| {
                if orders.send(order).is_ok() {
                    doorbell.ring();
                }
            })
        })
    }

    /// Wakes shards that stand still, whether or not they have announced a sleep: the timer that should end it may be what
    /// glommio has slept through.
    pub(super) fn wake_stuck(&mut self, now: Nanos) {
        for seat in &mut self.seats {
            let turns = seat.counters.turns();
            if seat.seen_turns.0 != turns {
                seat.seen_turns = (turns, now);
            } else if now.since(seat.seen_turns.1) >= STUCK_AFTER {
                seat.seen_turns.1 = now;
                let waker = seat.waker.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(waker) = waker.as_ref() {
                    waker.wake_by_ref();
                }
            }
        }
    }

    /// Takes the reports of shards that have dropped their end of the news: of each, or why it has none.
    pub(super) fn join(self) -> impl Iterator<Item = (u32, Result<ShardReport, String>)> {
        self.seats.into_iter().map(|seat| {
            let report = seat.thread.join();
            (seat.shard, report.map_err(|error| format!("shard {}'s executor ended: {error}", seat.shard)))
        })
    }
}

/// One shard's ends of all lanes.
#[derive(Default)]
pub(crate) struct Laid {
    /// Of every edge; none on a single shard.
    pub(crate) edges: Vec<EdgeEnds>,
    /// The other ends of those that lead to and from shards of other processes.
    remotes: Vec<Remote>,
}

/// What the link to a shard of another process serves.
struct Remote {
    shard: u32,
    outgoing: Vec<millstream_network::Receiver>,
    incoming: Vec<millstream_network::Sender>,
}

/// Lays the lanes of all edges with `buffers` each, from every shard to every shard, as far as `ours` are concerned: for
/// each of them in turn, its ends. A single shard needs none.
pub(crate) fn lay_edges(edges: u32, shards: u32, ours: &[(u32, Arc<Doorbell>)], buffers: usize) -> Vec<Laid> {
    let mut laid: Vec<Laid> = ours.iter().map(|_| Laid::default()).collect();
    if shards == 1 {
        return laid;
    }
    let is_ours = |shard: u32| ours.iter().position(|(own, _)| *own == shard);
    for ends in &mut laid {
        let others = (0..shards).filter(|shard| is_ours(*shard).is_none());
        ends.remotes = others.map(|shard| Remote { shard, outgoing: Vec::new(), incoming: Vec::new() }).collect();
    }
    for edge in 0..edges {
        for ends in &mut laid {
            ends.edges.push(EdgeEnds { to: Vec::new(), from: Vec::new() });
        }
        for (from, to) in (0..shards).flat_map(|from| (0..shards).map(move |to| (from, to))) {
            let (sender_at, receiver_at) = (is_ours(from), is_ours(to));
            // A link is served by its shard, so both ends of its lanes have that one's bell.
            let Some(at) = sender_at.or(receiver_at) else { continue };
            let (from_bell, to_bell) = (&ours[sender_at.unwrap_or(at)].1, &ours[receiver_at.unwrap_or(at)].1);
            let route = Route { edge, from_shard: from as u16, to_shard: to as u16 };
            let (sender, receiver) = lane(LaneConfig { route, buffers }, to_bell.clone(), from_bell.clone());
            match sender_at {
                Some(at) => laid[at].edges[edge as usize].to.push(sender),
                None => laid[at].remote(from).incoming.push(sender),
            }
            match receiver_at {
                Some(at) if sender_at.is_none() => {
                    laid[at].edges[edge as usize].from.push(receiver.from_elsewhere());
                }
                Some(at) => laid[at].edges[edge as usize].from.push(receiver),
                None => laid[at].remote(to).outgoing.push(receiver),
            }
        }
    }
    laid
}

impl Laid {
    fn remote(&mut self, shard: u32) -> &mut Remote {
        let remote = self.remotes.iter_mut().find(|remote| remote.shard == shard);
        remote.expect("every shard of another process has a place")
    }
}
