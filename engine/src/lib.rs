//! Millstream: a thread-per-core stream processor. A job is an ordinary program against this crate.
//!
//! ```text
//! a record   source ─▶ chain ─▶ exchange ─▶ edge ─▶ merge ─▶ windows ─▶ chain ─▶ sink
//! a barrier  inject ─▶ exchange (to all) ─▶ align ─▶ freeze ─▶ snapshot ─▶ manifest ─▶ commit
//! a restart  manifest ─▶ restore ─▶ sources seek ─▶ as above
//! ```
//!
//! Everything begins with a [`Job`]:
//!
//! ```
//! use std::time::Duration;
//! use millstream::{Count, Items, Job, Timestamp, Tumbling, Watermarks};
//! use millstream_connectors::memory::MemorySink;
//!
//! let visits = Items::of(vec![("mill", 7, 1_000), ("weir", 8, 2_000), ("mill", 7, 3_000), ("mill", 9, 3_500)]);
//! let sink = MemorySink::new();
//! let counts = sink.clone();
//! let report = Job::new("visits", move |flow| {
//!     flow.source(visits.clone())
//!         .filter(|(place, _, _)| *place == "mill")
//!         .event_time(|(_, _, at_ms)| Timestamp(*at_ms), Watermarks::monotonic())
//!         .key_by(|(_, visitor_id, _)| *visitor_id)
//!         .window(Tumbling::of(Duration::from_secs(10)))
//!         .aggregate(Count)
//!         .map(|row| (row.key, row.value))
//!         .sink(sink.clone());
//! })
//! .run()?;
//! let mut counts = counts.rows();
//! counts.sort();
//! assert_eq!(counts, [(7, 2), (9, 1)]);
//! # Ok::<(), millstream::JobError>(())
//! ```
//!
//! The rooms, in the order in which a reader may want them:
//!
//! * [`job`]: what a user says, a typed flow of streams.
//! * [`road`]: the record's road, module by module in the order a record takes it.
//! * [`epoch`]: the barrier's road; its protocols own no file, no socket and no clock.
//! * [`run`]: what moves the two: the shard's loop, and the lead that starts, coordinates and restarts shards.
//! * [`time`]: event time, and the one door to the wall clock.
//!
//! **What is deliberately not here.** This crate opens no file and no socket of its own: pages and checkpoints are
//! `millstream-state`'s, buffers and rings `millstream-network`'s, the outside world the connectors'.

#[cfg(test)]
extern crate self as millstream; // the macros speak of us by this name

pub mod time;
pub mod job;
pub mod state;
pub mod road;
pub mod epoch;
pub mod run;
#[cfg(feature = "testing")]
pub mod testing;

pub use job::broadcast::{Broadcast, BroadcastConnected};
pub use job::cluster::{Cluster, Fewer, LeadIs};
pub use job::cluster_settings::ClusterSettingsError;
pub use job::config::{Config, RestartStrategy, StateBacking};
pub use job::connect::Connected;
pub use job::flow::{Flow, Job};
pub use job::joins::{IntervalBetween, IntervalJoin};
pub use job::keyed::KeyedStream;
pub use job::stream::Stream;
pub use job::temporal::AsOf;
pub use job::triggered::{KeepsRows, TriggeredStream};
pub use job::window_joins::{CoGroup, CoGroupWindows, WindowJoin, WindowJoinWindows};
pub use job::windowed::{Lenient, WindowedStream, Windowing};
pub use job::windows::Windows;
pub use millstream_macros::{KeyedState, event};
pub use millstream_network::{Secret, SecretError};
pub use millstream_state::{
    Both, Epoch, Fixed, JobSchemas, Key, Patience, SavepointReport, SnapshotSize, StoreConfig, Text, schema,
};
pub use road::aggregate::{
    Aggregate, Avg, Count, Distinct, First, Last, Max, Min, Number, Quantiles, Reduced, Sketch, Sum, Top,
};
pub use road::broadcast::{BroadcastContext, BroadcastProcess};
pub use road::chain::Chain;
pub use road::connect::CoProcess;
pub use road::fallible::{DeadLetter, OnError};
pub use road::has_time::{HasEventTime, TimeKind, Timed, TimedChain, Untimed};
pub use road::join::JoinRow;
pub use road::lookup::LookupTable;
pub use road::pacing::Alignment;
pub use road::process::{BoxError, Process, ProcessContext};
pub use road::requests::{RequestRow, Requests};
pub use road::running::Updated;
pub use road::side::SideOutput;
pub use road::sink::{Guarantee, Sink, SinkError, SinkWriter};
pub use road::source::{Items, Polled, Source, SourceError, Split};
pub use road::then::Then;
pub use road::timers::{Timer, Timers, WallTime};
pub use road::watermarks::{WatermarkGenerator, WatermarkStrategy, Watermarks};
pub use road::window::{
    Assigner, AtEndOfInput, Continuous, CountWindow, Delta, Element, Every, Evictor, Fired, Global, Keep, Late,
    MergingTrigger, Never, OnCount, OnTime, Pane, Session, Sliding, SlidingSize, Timing, Trigger, TriggerContext,
    Tumbling, Verdict, Window, WindowError, Windowed,
};
pub use run::fault::JobError;
pub use run::handle::{CheckpointFigures, CheckpointReport, JobHandle, JobReport, RestoreReport};
pub use run::metrics::{ShardCounters, ShardReport};
pub use run::time_report::{OperatorTime, SplitReport, SplitStands, WatermarkReport};
pub use time::{BatchClock, Clock, Timestamp};

/// The archiver, for those who derive by hand; [`event`] does it for everybody else.
pub use rkyv;
