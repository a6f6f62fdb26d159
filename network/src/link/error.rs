//! What ends a link, in words that say what to do.

use std::io;

use super::intake::Fault;

/// Why a link, or all links of a shard, cannot go on. After one of them the links are of no use but to be dropped.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other process closed the connection and had not said goodbye.
    #[error(
        "the link to shard {shard} at {peer} was closed without a goodbye: that process ended, or gave this one up. Its log \
         says why. The job goes on from its last checkpoint once the process is back"
    )]
    Closed {
        /// Where the peer is: [`Peer::name`](super::Peer::name).
        peer: String,
        /// The shard at the other end.
        shard: u16,
    },
    /// The connection broke.
    #[error(
        "the link to shard {shard} at {peer} broke: {source}. That process died, or the network between here and there \
         fails: look at its log, then at the network. The job goes on from its last checkpoint once both are back"
    )]
    Reset {
        /// Where the peer is.
        peer: String,
        /// The shard at the other end.
        shard: u16,
        /// The system's answer.
        source: io::Error,
    },
    /// Nothing was heard for too long, not even a heartbeat.
    #[error(
        "shard {shard} at {peer} has been silent for {silent_ms} ms, longer than failure_timeout ({silence_max_ms} ms) allows: \
         its host is down, its process is stopped, or the network lets nothing through. If such pauses are normal there, \
         raise failure_timeout"
    )]
    Silent {
        /// Where the peer is.
        peer: String,
        /// The shard at the other end.
        shard: u16,
        /// How long it has been silent.
        silent_ms: u64,
        /// How long it may be.
        silence_max_ms: u64,
    },
    /// What came over the link is not what a peer sends.
    #[error(
        "shard {shard} at {peer} sent what no peer sends: {source}. If both processes run the same build, bytes were damaged \
         on the way or by a host's memory: replace what the link runs through, and look for other failures of that host"
    )]
    BadFrame {
        /// Where the peer is.
        peer: String,
        /// The shard at the other end.
        shard: u16,
        /// What is wrong with it.
        source: Fault,
    },
    /// The kernel refuses the ring that drives the links of this shard.
    #[error(
        "io_uring refuses to {doing} for the links of shard {shard}, the first of which leads to {peer}: {source}. \
         `ulimit -l` and `ulimit -n` bound what it may use; the job's start-up check says what this machine allows"
    )]
    Ring {
        /// The peer at hand, or the first one.
        peer: String,
        /// The shard whose links these are.
        shard: u16,
        /// What was asked of the kernel.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl LinkError {
    /// The peer whose link failed, or the first one where it is the ring: its [`name`](super::Peer::name).
    #[must_use]
    pub fn peer(&self) -> &str {
        match self {
            LinkError::Closed { peer, .. }
            | LinkError::Reset { peer, .. }
            | LinkError::Silent { peer, .. }
            | LinkError::BadFrame { peer, .. }
            | LinkError::Ring { peer, .. } => peer,
        }
    }
}
