//! The temporal join of two keyed streams: what a user says with `as_of`.

use millstream_state::schema::Described;

use super::connect::{CoProcessed, Connected};
use super::keyed::KeyedStream;
use super::stream::Stream;
use crate::road::chain::Chain;
use crate::road::has_time::HasEventTime;
use crate::road::join::{Inner, JoinRow, LeftOuter, Temporal};
use crate::road::keyed::Keying;
use crate::road::stateful::KeyedRow;

impl<C, G> KeyedStream<C, G>
where
    C: Chain<Out: Sized + KeyedRow + JoinRow>,
    G: Keying<C::Out, Key: Described>,
{
    /// Joins each row with the version of its key that was valid at the row's event time: the last one of `versions` whose time
    /// is not after it.
    ///
    /// A row is emitted when the watermark has come to its time, for then all versions up to it are there, at that time.
    /// Versions that are over are forgotten; the valid one is kept until another follows, so there is one a key. A row that comes
    /// behind the watermark is dropped and counted as late. A version that does is valid for the rows to come, unless a later
    /// one is already.
    ///
    /// Each order at the rate of its currency:
    ///
    /// ```
    /// # use millstream::{Items, Job, Timestamp, Watermarks};
    /// # use millstream_connectors::memory::MemorySink;
    /// # let sink = MemorySink::new();
    /// # let rows = sink.clone();
    /// Job::new("converted", move |flow| {
    ///     // A currency, a time, and an amount or a rate.
    ///     let at = |row: &[i64; 3]| Timestamp(row[1]);
    ///     let orders = vec![[978, 1_500, 20], [978, 2_500, 30], [840, 2_600, 40]];
    ///     let rates = vec![[978, 1_000, 114], [978, 2_000, 116], [978, 3_000, 119]];
    ///     let orders = flow.source(Items::of(orders)).event_time(at, Watermarks::monotonic());
    ///     let rates = flow.source(Items::of(rates)).event_time(at, Watermarks::monotonic());
    ///     orders
    ///         .key_by(|order| order[0])
    ///         .as_of(rates.key_by(|rate| rate[0]))
    ///         .left_outer(|order, rate| (order[1], rate.map(|rate| order[2] * rate[2])))
    ///         .named("converted")
    ///         .sink(sink.clone());
    /// })
    /// .run()?;
    /// # let mut rows = rows.rows();
    /// # rows.sort();
    /// assert_eq!(rows, [(1_500, Some(2_280)), (2_500, Some(3_480)), (2_600, None)]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    ///
    /// # Panics
    /// When the other stream is of another job's flow.
    pub fn as_of<D, H>(self, versions: KeyedStream<D, H>) -> AsOf<C, G, D, H>
    where
        C::Time: HasEventTime,
        D: Chain<Out: Sized + KeyedRow + JoinRow, Time: HasEventTime>,
        H: Keying<D::Out, Key = G::Key>,
    {
        AsOf { connected: self.connect(versions) }
    }
}

/// A stream, and the versions that its rows are to be joined with.
#[must_use = "a join that makes nothing does nothing: end it with inner(..) or left_outer(..)"]
#[derive(Debug)]
pub struct AsOf<C, G, D, H> {
    connected: Connected<C, G, D, H>,
}

/// A temporal join, as a stream.
type TemporalStream<C, G, D, H, P> = Stream<CoProcessed<C, G, D, H, Temporal<<C as Chain>::Out, <D as Chain>::Out, P>>>;

impl<C, G, D, H> AsOf<C, G, D, H>
where
    C: Chain<Out: Sized + KeyedRow + JoinRow>,
    D: Chain<Out: Sized + KeyedRow + JoinRow>,
    G: Keying<C::Out, Key: Described>,
    H: Keying<D::Out, Key = G::Key>,
{
    /// Emits the rows for whose time there is a version.
    pub fn inner<U, F>(self, join: F) -> TemporalStream<C, G, D, H, Inner<F>>
    where
        U: 'static,
        F: Fn(&C::Out, &D::Out) -> U + 'static,
    {
        self.connected.operate("as_of", "inner", Temporal::new(Inner(join)))
    }

    /// Emits all rows, without a version where none was valid.
    pub fn left_outer<U, F>(self, join: F) -> TemporalStream<C, G, D, H, LeftOuter<F>>
    where
        U: 'static,
        F: Fn(&C::Out, Option<&D::Out>) -> U + 'static,
    {
        self.connected.operate("as_of", "left outer", Temporal::new(LeftOuter(join)))
    }
}
