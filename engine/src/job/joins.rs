//! Joins of two keyed streams: what a user says with `join_unbounded`, `join_within` and `interval_join`.

use std::any::type_name;
use std::time::Duration;

use millstream_state::schema::Described;

use super::connect::CoProcessed;
use super::keyed::KeyedStream;
use super::stream::Stream;
use crate::road::chain::Chain;
use crate::road::join::{JoinRow, Regular};
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
        let what = format!("{} -> {}", type_name::<G::Key>(), type_name::<U>());
        self.connect(right).operate("join", what, Regular::new(None, join))
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
        self.connect(right).operate("join", what, Regular::new(Some(ttl), join))
    }
}
