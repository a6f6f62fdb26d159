//! Hand-written loops: what the machine can do with the query when nothing but the query is done.
//!
//! No engine, no state that could be snapshot, no restart; the best loop we can write for each shape, so that a ratio
//! to it means something. A weak loop here would flatter the engine and is a defect.
//!
//! ```text
//! fused  each shard: make → views → join → count → fire                                 no exchange
//! spsc   each shard: make → views → join → partition ═ rings between cores ═ count → fire   every row to its owner
//! tcp    the same over loopback connections: what two processes on one machine could reach
//! table  each shard: keys → partition ═ rings between cores ═ count in one large table     no window; one shard: no exchange
//! ```
//!
//! Making the events is inside every figure. Each run's counts are checked against the slow answer afterwards.

mod exchange;
mod flat;
mod fused;
mod query;
mod ring;
mod stages;
mod table;
mod tcp;

use std::sync::{Arc, Barrier};

pub use stages::{STAGES, StageTimes};

use crate::keys::KeySpace;
use crate::machine::{self, Machine};
use crate::ysb::generate::GeneratorConfig;
use crate::ysb::oracle::{Differences, Oracle};
use millstream::time::{Clock, Nanos};
use query::{Json, Key, Long, Query, Row, Uuid};

/// The form of a hand-written loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// The query, each shard for itself: no exchange.
    Fused,
    /// The query, each row handed to the shard that owns its campaign, through rings between the cores.
    Spsc,
    /// As spsc, through TCP connections on the loopback.
    Tcp,
    /// A running count for each key of a large table.
    Table,
}

/// How rows come to the shard that owns their campaign.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exchange {
    /// Not at all: each shard counts a part of every campaign.
    None,
    /// Through rings between the cores.
    Rings,
    /// Through connections on the loopback.
    Sockets,
}

/// How events are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// Binary fields, 40 bytes.
    Long,
    /// Ids as 36 characters, 160 bytes.
    Uuid,
    /// Lines of JSON, about 240 bytes, parsed inside the figure.
    Json,
}

/// A run of the query.
#[derive(Clone, Debug)]
pub struct QueryLimit {
    /// How rows come to the shard that owns their campaign.
    pub exchange: Exchange,
    /// How events are written.
    pub encoding: Encoding,
    /// The events.
    pub events: GeneratorConfig,
    /// One core for each shard.
    pub cores: Vec<usize>,
    /// Whether to take the time of each stage, which slows the run by 1 to 2 %.
    pub stages: bool,
    /// The events, counted already: for whoever runs the same input more than once.
    pub counted: Option<Arc<Oracle>>,
}

/// A run of the keyed count.
#[derive(Clone, Debug)]
pub struct TableLimit {
    /// The keys, over all shards, and how often each comes.
    pub space: KeySpace,
    /// How many updates, over all shards.
    pub updates: u64,
    /// One core for each shard.
    pub cores: Vec<usize>,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct LimitOutcome {
    /// Events or updates.
    pub events: u64,
    /// From the first event taken to the last row made.
    pub seconds: f64,
    /// What the check of the result found.
    pub differences: Differences,
    /// For each stage, summed over the shards.
    pub stages: Option<StageTimes>,
    /// The machine, just after the run.
    pub machine: Machine,
}

impl LimitOutcome {
    /// The figure.
    #[must_use]
    pub fn events_per_s(&self) -> f64 {
        self.events as f64 / self.seconds
    }
}

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// A core that cannot be had.
    #[error(
        "Shard {shard} cannot run on core {core}: {source}. This process may use the cores {allowed:?}; name some of \
         them with --cores, or ask for fewer shards."
    )]
    Core {
        /// The shard.
        shard: usize,
        /// Its core.
        core: usize,
        /// The cores that could be had.
        allowed: Vec<usize>,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The loopback cannot be used.
    #[error("No connection can be made on the loopback interface (127.0.0.1): {0}. Bring it up, or use --shape spsc.")]
    Loopback(std::io::Error),
}

/// Runs the query by hand.
///
/// # Errors
/// When a core or a connection cannot be had.
pub fn run_query(limit: &QueryLimit) -> Result<LimitOutcome, LimitError> {
    match limit.encoding {
        Encoding::Long => run_encoded::<Long>(limit),
        Encoding::Uuid => run_encoded::<Uuid>(limit),
        Encoding::Json => run_encoded::<Json>(limit),
    }
}

fn run_encoded<Q: Query>(limit: &QueryLimit) -> Result<LimitOutcome, LimitError> {
    let query = Q::new(&limit.events.population);
    let Timed { parts, seconds } =
        if limit.stages { run_shape::<Q, true>(&query, limit)? } else { run_shape::<Q, false>(&query, limit)? };
    let machine = Machine::probe(&limit.cores);
    let oracle = limit.counted.clone().unwrap_or_else(|| Arc::new(Oracle::of_generator(limit.events)));
    // Without an exchange each shard counts a part of every row.
    let parts_max = if limit.exchange == Exchange::None { limit.cores.len() as u32 } else { 1 };
    let rows = parts.iter().flat_map(|part| &part.rows);
    let rows = rows.map(|row| (row.campaign, row.window_start_ms, row.count));
    Ok(LimitOutcome {
        events: oracle.events(),
        seconds,
        differences: oracle.compare(rows, parts_max),
        stages: limit.stages.then(|| parts.iter().map(|part| part.stages).sum()),
        machine,
    })
}

fn run_shape<Q: Query, const STAGED: bool>(query: &Q, limit: &QueryLimit) -> Result<Timed<Part<Key<Q>>>, LimitError> {
    match limit.exchange {
        Exchange::None => fused::run::<Q, STAGED>(query, limit),
        Exchange::Rings => exchange::run::<Q, _, _, STAGED>(query, limit, || Ok(ring::ring())),
        Exchange::Sockets => {
            exchange::run::<Q, _, _, STAGED>(query, limit, || tcp::connection(<Q::Slot as flat::Slot>::NO_KEY))
        }
    }
}

/// Runs the keyed count by hand.
///
/// # Errors
/// When a core cannot be had.
pub fn run_table(limit: &TableLimit) -> Result<LimitOutcome, LimitError> {
    table::run(limit)
}

/// One shard's part of the result.
struct Part<K> {
    rows: Vec<Row<K>>,
    stages: StageTimes,
}

/// What all shards brought, and how long they took.
struct Timed<T> {
    parts: Vec<T>,
    seconds: f64,
}

/// Runs one thread on each of `cores`: `prepare` outside the measured time, what it returns inside. The time is from the
/// first thread's start to the last one's end.
fn run_pinned<T, R>(cores: &[usize], prepare: impl Fn(usize) -> R + Sync) -> Result<Timed<T>, LimitError>
where
    T: Send,
    R: FnOnce() -> T,
{
    let ready = Barrier::new(cores.len());
    let shard_of = |shard: usize| -> Result<(Nanos, Nanos, T), std::io::Error> {
        let pinned = machine::pin(cores[shard]);
        let run = prepare(shard);
        // Waited for even where pinning failed, or the others would wait for ever.
        ready.wait();
        pinned?;
        let clock = Clock::system();
        let start = clock.now();
        let part = run();
        Ok((start, clock.now(), part))
    };
    let ended = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.len()).map(|shard| scope.spawn(move || shard_of(shard))).collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    let (mut start, mut end, mut parts) = (Nanos(u64::MAX), Nanos(0), Vec::new());
    for (shard, ended) in ended.into_iter().enumerate() {
        let ended = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (shard_start, shard_end, part) = ended.map_err(|source| LimitError::Core {
            shard,
            core: cores[shard],
            allowed: machine::allowed_cores(),
            source,
        })?;
        start = start.min(shard_start);
        end = end.max(shard_end);
        parts.push(part);
    }
    Ok(Timed { parts, seconds: end.since(start).as_secs_f64() })
}
