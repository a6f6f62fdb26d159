//! Joins of two keyed streams: what a user says with `join_unbounded`, `join_within` and `interval_join`.

use std::any::type_name;
use std::time::Duration;

use millstream_state::schema::Described;

use super::connect::{CoProcessed, Connected};
use super::keyed::KeyedStream;
use super::stream::Stream;
use crate::road::chain::Chain;
use crate::road::has_time::HasEventTime;
use crate::road::join::{Bounds, FullOuter, Inner, Interval, JoinRow, LeftOuter, Pairing, Regular, RightOuter};
use crate::road::keyed::Keying;
use crate::road::stateful::KeyedRow;

/// A regular join, as a stream.
type Joined<C, G, D, H, F> = Stream<CoProcessed<C, G, D, H, Regular<<C as Chain>::Out, <D as Chain>::Out, F>>>;

impl<C, G> KeyedStream<C, G>
where
    C: Chain<Out: Sized + KeyedRow + JoinRow>,
    G: Keying<C::Out, Key: Described>,
{
    /// Joins every pair of rows that have their key in common, whenever the two come, and keeps all rows of both streams
    /// **for ever**: its state grows with the input. That is what has to be asked for by this name; where rows that can meet
    /// lie close together in time, [`interval_join`](KeyedStream::interval_join) keeps no more than those.
    ///
    /// A pair is emitted when the later of the two comes, at that one's event time.
    ///
    /// ```
    /// # use millstream::{Items, Job};
    /// # use millstream_connectors::memory::MemorySink;
    /// # let sink = MemorySink::new();
    /// # let rows = sink.clone();
    /// Job::new("offers", move |flow| {
    ///     let sellers = flow.source(Items::of(vec![[7_u64, 700], [9, 900]])).key_by(|seller| seller[0]);
    ///     let offers = flow.source(Items::of(vec![[1_u64, 7], [2, 9], [3, 7], [4, 8]])).key_by(|offer| offer[1]);
    ///     sellers.join_unbounded(offers, |seller, offer| (offer[0], seller[1])).named("offers").sink(sink.clone());
    /// })
    /// .run()?;
    /// # let mut rows = rows.rows();
    /// # rows.sort();
    /// assert_eq!(rows, [(1, 700), (2, 900), (3, 700)]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    ///
    /// # Panics
    /// When the other stream is of another job's flow.
    pub fn join_unbounded<D, H, U, F>(self, right: KeyedStream<D, H>, join: F) -> Joined<C, G, D, H, F>
    where
        D: Chain<Out: Sized + KeyedRow + JoinRow>,
        H: Keying<D::Out, Key = G::Key>,
        U: 'static,
        F: Fn(&C::Out, &D::Out) -> U + 'static,
    {
        self.connect(right).operate("join", "", Regular::new(None, join))
    }

    /// As [`join_unbounded`](KeyedStream::join_unbounded), with each row forgotten so long after it came: a pair whose rows
    /// come further apart than that, by the wall clock, is missed.
    ///
    /// Which pairs these are depends on when rows are read, so it is not the same after a restart; a bound in event time, which
    /// is, is what [`interval_join`](KeyedStream::interval_join) has.
    ///
    /// # Panics
    /// When the other stream is of another job's flow.
    pub fn join_within<D, H, U, F>(self, right: KeyedStream<D, H>, ttl: Duration, join: F) -> Joined<C, G, D, H, F>
    where
        D: Chain<Out: Sized + KeyedRow + JoinRow>,
        H: Keying<D::Out, Key = G::Key>,
        U: 'static,
        F: Fn(&C::Out, &D::Out) -> U + 'static,
    {
        let what = format!("{} within {ttl:?} -> {}", type_name::<G::Key>(), type_name::<U>());
        self.connect(right).operate_as("join", what, Regular::new(Some(ttl), join))
    }

    /// Joins rows that have their key in common and lie close together in event time: a left row of time `l` with the right
    /// ones of `l + lower ..= l + upper`, as [`between`](IntervalJoin::between) says.
    ///
    /// A pair is emitted when the later of the two comes, at the greater of their times. A row is kept until the watermark has
    /// come to the end of what it can meet, and no longer. A row that comes behind the watermark is dropped and counted as late.
    ///
    /// Payments, each with the clicks of the minute before it:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use millstream::{Items, Job, Timestamp, Watermarks};
    /// # use millstream_connectors::memory::MemorySink;
    /// #[millstream::event]
    /// #[derive(Clone, Copy)]
    /// struct Event {
    ///     visitor: u64,
    ///     at_ms: i64,
    /// }
    /// # let event = |visitor, at_ms| Event { visitor, at_ms };
    ///
    /// let payments = vec![event(7, 100_000), event(9, 120_000)];
    /// let clicks = vec![event(7, 30_000), event(7, 50_000), event(7, 100_000), event(9, 130_000)];
    /// # let sink = MemorySink::new();
    /// # let rows = sink.clone();
    /// Job::new("paid", move |flow| {
    ///     let at = |event: &Event| Timestamp(event.at_ms);
    ///     let payments = flow.source(Items::of(payments.clone())).event_time(at, Watermarks::monotonic());
    ///     let clicks = flow.source(Items::of(clicks.clone())).event_time(at, Watermarks::monotonic());
    ///     payments
    ///         .key_by(|payment| payment.visitor)
    ///         .interval_join(clicks.key_by(|click| click.visitor))
    ///         .between(-60_000, 0)
    ///         .inner(|payment, click| (payment.visitor, payment.at_ms, click.at_ms))
    ///         .named("paid")
    ///         .sink(sink.clone());
    /// })
    /// .run()?;
    /// # let mut rows = rows.rows();
    /// # rows.sort();
    /// assert_eq!(rows, [(7, 100_000, 50_000), (7, 100_000, 100_000)]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    ///
    /// # Panics
    /// When the other stream is of another job's flow.
    pub fn interval_join<D, H>(self, right: KeyedStream<D, H>) -> IntervalJoin<C, G, D, H>
    where
        C::Time: HasEventTime,
        D: Chain<Out: Sized + KeyedRow + JoinRow, Time: HasEventTime>,
        H: Keying<D::Out, Key = G::Key>,
    {
        IntervalJoin { connected: self.connect(right) }
    }
}

/// Two streams to be joined by how far apart their rows lie.
#[must_use = "a join without bounds does nothing: say between(..)"]
#[derive(Debug)]
pub struct IntervalJoin<C, G, D, H> {
    connected: Connected<C, G, D, H>,
}

impl<C, G, D, H> IntervalJoin<C, G, D, H> {
    /// How far behind its left row a right one may lie: from `lower_ms` to `upper_ms` milliseconds, both among it; less than
    /// zero is before it.
    pub fn between(self, lower_ms: i64, upper_ms: i64) -> IntervalBetween<C, G, D, H> {
        IntervalBetween { connected: self.connected, bounds: Bounds { lower_ms, upper_ms } }
    }
}

/// Two streams to be joined, and the bounds; what is left to say is what is made of them.
#[must_use = "a join that makes nothing does nothing: end it with inner(..) or an outer one"]
#[derive(Debug)]
pub struct IntervalBetween<C, G, D, H> {
    connected: Connected<C, G, D, H>,
    bounds: Bounds,
}

/// An interval join, as a stream.
type IntervalJoined<C, G, D, H, P> = Stream<CoProcessed<C, G, D, H, Interval<<C as Chain>::Out, <D as Chain>::Out, P>>>;

impl<C, G, D, H> IntervalBetween<C, G, D, H>
where
    C: Chain<Out: Sized + KeyedRow + JoinRow>,
    D: Chain<Out: Sized + KeyedRow + JoinRow>,
    G: Keying<C::Out, Key: Described>,
    H: Keying<D::Out, Key = G::Key>,
{
    /// Leaves the lower bound itself out.
    pub fn lower_exclusive(mut self) -> Self {
        self.bounds.lower_ms = self.bounds.lower_ms.saturating_add(1);
        self
    }

    /// Leaves the upper bound itself out.
    pub fn upper_exclusive(mut self) -> Self {
        self.bounds.upper_ms = self.bounds.upper_ms.saturating_sub(1);
        self
    }

    /// Emits every pair.
    ///
    /// # Panics
    /// When the bounds leave nothing between them.
    pub fn inner<U, F>(self, join: F) -> IntervalJoined<C, G, D, H, Inner<F>>
    where
        U: 'static,
        F: Fn(&C::Out, &D::Out) -> U + 'static,
    {
        self.operate("inner", Inner(join))
    }

    /// Emits every pair, and each left row that has met none, once the watermark shows that it cannot meet any: at its time
    /// plus the upper bound, or at its own where that is later, so that it is not late for what follows.
    ///
    /// # Panics
    /// When the bounds leave nothing between them.
    pub fn left_outer<U, F>(self, join: F) -> IntervalJoined<C, G, D, H, LeftOuter<F>>
    where
        U: 'static,
        F: Fn(&C::Out, Option<&D::Out>) -> U + 'static,
    {
        self.operate("left outer", LeftOuter(join))
    }

    /// As [`left_outer`](IntervalBetween::left_outer), of right rows: at their time minus the lower bound, or at their own.
    ///
    /// # Panics
    /// When the bounds leave nothing between them.
    pub fn right_outer<U, F>(self, join: F) -> IntervalJoined<C, G, D, H, RightOuter<F>>
    where
        U: 'static,
        F: Fn(Option<&C::Out>, &D::Out) -> U + 'static,
    {
        self.operate("right outer", RightOuter(join))
    }

    /// Emits every pair, and the rows of both sides that have met none; one of the closure's two rows is always there.
    ///
    /// # Panics
    /// When the bounds leave nothing between them.
    pub fn full_outer<U, F>(self, join: F) -> IntervalJoined<C, G, D, H, FullOuter<F>>
    where
        U: 'static,
        F: Fn(Option<&C::Out>, Option<&D::Out>) -> U + 'static,
    {
        self.operate("full outer", FullOuter(join))
    }

    fn operate<P: Pairing<C::Out, D::Out>>(self, kind: &str, pairing: P) -> IntervalJoined<C, G, D, H, P> {
        let Bounds { lower_ms, upper_ms } = self.bounds;
        assert!(
            lower_ms <= upper_ms,
            "no two rows lie between {lower_ms} and {upper_ms} ms: the lower bound has to be the lesser one"
        );
        let how = format!("{kind}, {lower_ms}..={upper_ms} ms");
        self.connected.operate("interval_join", &how, Interval::new(self.bounds, pairing))
    }
}
