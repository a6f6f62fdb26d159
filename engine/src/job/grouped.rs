//! The short form of a batch job: one result for each key, when the input has ended.

use millstream_state::Key;
use millstream_state::schema::Described;

use super::keyed::KeyedStream;
use super::stream::Stream;
use super::triggered::{Folding, TriggeredWindows};
use crate::road::aggregate::{Aggregate, Count, Number, Sum};
use crate::road::chain::Chain;
use crate::road::keyed::{ByValue, Keying};
use crate::road::stateful::KeyedRow;
use crate::road::window::{AtEndOfInput, DropLate, Global};

/// One result for each key, when the input has ended.
pub type Grouped<C, G, A> = Stream<TriggeredWindows<C, G, Global, AtEndOfInput, DropLate, Folding<A>>>;

impl<C: Chain> Stream<C> {
    /// Groups rows by a key, as [`key_by`](Stream::key_by), for a result each when the input has ended:
    /// [`sum`](KeyedStream::sum), [`count`](KeyedStream::count) or [`aggregate`](KeyedStream::aggregate).
    ///
    /// ```
    /// use millstream::{Items, Job};
    /// use millstream_connectors::memory::MemorySink;
    ///
    /// #[millstream::event]
    /// #[derive(Clone, Copy)]
    /// struct Sale {
    ///     shop: u64,
    ///     cents: i64,
    /// }
    ///
    /// let sales = vec![Sale { shop: 1, cents: 250 }, Sale { shop: 2, cents: 90 }, Sale { shop: 1, cents: 50 }];
    /// let sink = MemorySink::new();
    /// let sums = sink.clone();
    /// Job::new("totals", move |flow| {
    ///     flow.source(Items::of(sales.clone()))
    ///         .group_by(|sale| sale.shop)
    ///         .sum(|sale| sale.cents)
    ///         .map(|total| (total.key, total.value))
    ///         .sink(sink.clone());
    /// })
    /// .run()?;
    /// let mut sums = sums.rows();
    /// sums.sort();
    /// assert_eq!(sums, [(1, 300), (2, 90)]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    pub fn group_by<K: Key, F: Fn(&C::Out) -> K + 'static>(self, key: F) -> KeyedStream<C, ByValue<K, F>> {
        self.key_by(key)
    }
}

impl<C, G> KeyedStream<C, G>
where
    C: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
{
    /// The sum of a number of each row, when the input has ended. An input that never ends yields nothing; see
    /// [`running`](KeyedStream::running) for results on the way, and [`window`](KeyedStream::window) for those of a time.
    pub fn sum<N: Number, F: Fn(&C::Out) -> N + 'static>(self, number: F) -> Grouped<C, G, Sum<N, F>> {
        self.aggregate(Sum::of(number))
    }

    /// How many rows there are, when the input has ended; as [`sum`](KeyedStream::sum).
    pub fn count(self) -> Grouped<C, G, Count> {
        self.aggregate(Count)
    }

    /// A fold of all rows of a key, when the input has ended; as [`sum`](KeyedStream::sum). It is short for
    /// [`Global`] windows with the trigger [`AtEndOfInput`].
    pub fn aggregate<A: Aggregate<C::Out> + 'static>(self, aggregate: A) -> Grouped<C, G, A> {
        self.window(Global).trigger(AtEndOfInput).aggregate(aggregate)
    }
}
