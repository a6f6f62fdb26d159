//! Buffers, pools, rings between cores and links between processes: how bytes get from one shard to another.
//!
//! A buffer's road, in the order the modules are met:
//!
//! ```text
//!   sending shard                                                   receiving shard
//!
//!   Stage ──whole lines──▶ Buffer ──send──▶ forward ring ──receive──▶ Buffer ──▶ read in place
//!  (stage)   (streamed)   (buffer)  (lane)     (ring)       (lane)      │
//!                            ▲                                          │ release
//!                            └──acquire── return ring ◀─────────────────┘
//!                  pool: the lane's one allocation, touched first by the sender
//!
//!   every send and every release knocks at the other end's doorbell, which wakes it if it sleeps
//! ```
//!
//! To a shard of another process a lane leads only as far as the thread it starts on. A [`Links`] receives from it, has the
//! kernel send the very bytes, and at the other end has it write them to a buffer of a lane there ([`link`]).
//!
//! * A buffer moves as one pointer. Its bytes are written once by the sending core and read where they lie.
//! * A lane's ring holds as many buffers as its pool owns, so `send` cannot fail: the pool is the credit.
//! * A shard sleeps on exactly one descriptor, that of its [`Doorbell`].
//!
//! How processes meet, before anything moves between them:
//!
//! ```text
//!   Secret, Facts ──▶ dial ──hello─▶ ◀─challenge── ──proofs─▶ ◀── … ──▶ Listener ──▶ Accepted
//!                      │               (session, over road)                │
//!                      └──────────────▶ Connection ◀───────────────────────┘
//!                                           ├──▶ a channel, for orders and news
//!                                           └──▶ its socket, for a link of frames
//! ```
//!
//! **What is deliberately not here.** This crate has no word for record, key, window or epoch: it moves bytes and opaque
//! numbers. What moves buffers starts no thread, reads no clock and never blocks, except in
//! [`Doorbell::wait`](doorbell::Doorbell::wait) and where [`Links`] are dropped, which waits until the kernel is done with
//! their buffers. What meets other processes does, because strangers stall: a [`Listener`] has a thread, and so has a
//! connection inside TLS that the kernel does not carry; `deadline` is the one door to the clock.

// What travels, and the memory it lives in.
pub mod buffer;
pub mod frame;
mod pool;

// How it is filled.
pub mod stage;

// How it is handed over, and how a sleeper hears of it.
pub mod lane;
pub mod ring;

pub mod doorbell;

// How processes meet: who knows the secret and agrees on the facts, gets a connection.
mod facts;
mod message;
mod refusal;
pub mod secret;
pub mod session;
pub mod trust;

mod caller;
pub mod dial;
mod figures;
pub mod listener;
mod pending;
mod road;

#[cfg(feature = "tls")]
mod kernel_tls;
#[cfg(feature = "tls")]
mod relay;
#[cfg(feature = "tls")]
mod tls;

pub mod channel;
pub mod connection;

// How it gets to the shards of other processes.
pub mod link;
// Which of them leads.
pub mod election;

// What all this stands on: the machine, its atomics, and the clock.
mod atomics;
mod deadline;
pub mod probe;
mod waiting;

pub use buffer::{BUFFER_BYTES, Buffer, PAYLOAD_BYTES_MAX};
pub use channel::{ChannelError, ChannelReceiver, ChannelSender, Received};
pub use connection::{Carried, Connection};
pub use dial::{DialError, dial};
pub use doorbell::Doorbell;
pub use facts::{FACTS_BYTES_MAX, Facts};
pub use figures::{Cause, Dropped, ListenerFigures};
pub use frame::{Control, Header};
pub use lane::{LaneConfig, Receiver, Sender, lane};
pub use link::{LinkConfig, LinkError, LinkFigures, Links, Peer, SendZc};
pub use listener::{Accepted, Listener};
pub use refusal::Refusal;
pub use secret::{Secret, SecretError};
pub use stage::{Solid, Stage, Streaming, spread_over_two};
pub use trust::{Tls, Trust};

/// Bytes of one cache line, the unit in which memory moves between cores.
pub const LINE_BYTES: usize = 64;

const _: () = assert!(cfg!(target_endian = "little"), "frames are little endian, and used where they lie");
