//! The shard's part of its links to other processes: when they begin, when they are looked at, and what ends a sleep.

use std::time::Duration;

use millstream_network::{Doorbell, LinkConfig, Links, Peer};

use crate::run::fault::Fault;
use crate::run::task::Progress;
use crate::time::Nanos;

/// The links of a shard, if it has neighbours in other processes.
pub(super) struct Linked {
    shard: u32,
    config: LinkConfig,
    /// What they will serve. A peer may restore for minutes without a word, so nobody is listened to before all are ready.
    waiting: Vec<Peer>,
    links: Option<Links>,
    /// Notes of the links that the log has.
    told: usize,
}

impl Linked {
    pub(super) fn new(shard: u32, peers: Vec<Peer>, config: LinkConfig) -> Linked {
        Linked { shard, config, waiting: peers, links: None, told: 0 }
    }

    /// Every shard is ready: frames may come and go.
    pub(super) fn go(&mut self, doorbell: &Doorbell) -> Result<(), Fault> {
        let peers = std::mem::take(&mut self.waiting);
        if !peers.is_empty() {
            let links = Links::new(self.shard as u16, doorbell.fd(), peers, self.config);
            self.links = Some(links.map_err(|error| Fault::shard(error.to_string()))?);
        }
        Ok(())
    }

    /// Moves what can be moved.
    #[inline]
    pub(super) fn tick(&mut self, now: Nanos) -> Result<Progress, Fault> {
        let Some(links) = &mut self.links else { return Ok(Progress::Idle) };
        let moved = links.tick(now.0).map_err(|error| Fault::shard(error.to_string()))?;
        if self.told < links.notes().len() {
            links.notes()[self.told..].iter().for_each(|note| tracing::info!(shard = self.shard, "{note}"));
            self.told = links.notes().len();
        }
        Ok(if moved { Progress::Worked } else { Progress::Idle })
    }

    /// Has the kernel ring when something comes; false if something has come meanwhile.
    pub(super) fn may_sleep(&mut self) -> bool {
        self.links.as_mut().is_none_or(|links| !links.arm())
    }

    pub(super) fn woken(&mut self) {
        if let Some(links) = &mut self.links {
            links.disarm();
        }
    }

    /// When they want to be looked at even if nothing comes.
    pub(super) fn sleep_at_most(&self, now: Nanos) -> Option<Duration> {
        self.links.as_ref().map(|links| Nanos(links.wake_at_ns()).since(now))
    }
}
