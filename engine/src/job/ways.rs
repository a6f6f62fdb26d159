//! One stream into several, and round again: what a user says with `split`, `tee`, `branch` and `iterate`.

use std::any::type_name;

use super::stream::{Boxed, Stream};
use crate::road::chain::Chain;
use crate::road::fork::{Asked, Doubled, Fork, Parting, Picked};
use crate::road::side::{Side, SideOutput};

/// The stream that goes on, and the one beside it.
pub type Forked<C, P, X> = (Stream<Fork<C, P>>, Stream<Side<X, <C as Chain>::Time>>);

impl<C: Chain> Stream<C> {
    /// Forks the stream: the first goes on with all rows, the second with what `pick` makes of some of them, at their times.
    ///
    /// Each is a stream like any other, and both need a sink, of their own or where they meet again.
    ///
    /// ```
    /// # use millstream::{Items, Job};
    /// # use millstream_connectors::memory::MemorySink;
    /// # let (sink, even_sink) = (MemorySink::new(), MemorySink::new());
    /// # let (all, even) = (sink.clone(), even_sink.clone());
    /// Job::new("fork", move |flow| {
    ///     let (all, even) = flow.source(Items::of(vec![1, 2, 3])).branch(|n| (n % 2 == 0).then_some(n * 10));
    ///     all.sink(sink.clone());
    ///     even.sink(even_sink.clone());
    /// })
    /// .run()?;
    /// assert_eq!((all.rows(), even.rows()), (vec![1, 2, 3], vec![20]));
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    pub fn branch<X, F>(self, pick: F) -> Forked<C, Picked<F>, X>
    where
        X: 'static,
        F: Fn(&C::Out) -> Option<X> + 'static,
    {
        self.fork("branch", Picked(pick))
    }

    fn fork<P: Parting<C::Out>>(self, kind: &'static str, parting: P) -> Forked<C, P, P::Side> {
        let side = SideOutput::new();
        let (branch, chain) = side.take();
        let Stream { chain: upstream, flow, node: before } = self;
        let node = flow.node(kind, String::new(), Some(before));
        let beside = flow.node("side", type_name::<P::Side>().to_owned(), Some(node));
        let main = Stream { chain: Fork { upstream, parting, side, branch, node }, flow: flow.clone(), node };
        (main, Stream { chain, flow, node: beside })
    }
}

impl<C: Chain<Out: Clone>> Stream<C> {
    /// Two streams: of the rows for which `is_first` is true, and of all others. Both have to be ended by a sink.
    ///
    /// ```
    /// # use millstream::{Items, Job};
    /// # use millstream_connectors::memory::MemorySink;
    /// # let (even_sink, odd_sink) = (MemorySink::new(), MemorySink::new());
    /// # let (evens, odds) = (even_sink.clone(), odd_sink.clone());
    /// Job::new("parity", move |flow| {
    ///     let (even, odd) = flow.source(Items::of(vec![1, 2, 3, 4])).split(|number| number % 2 == 0);
    ///     even.sink(even_sink.clone());
    ///     odd.map(|number| number * 100).sink(odd_sink.clone());
    /// })
    /// .run()?;
    /// # let (mut evens, mut odds) = (evens.rows(), odds.rows());
    /// # evens.sort();
    /// # odds.sort();
    /// assert_eq!((evens, odds), (vec![2, 4], vec![100, 300]));
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    pub fn split<F>(self, is_first: F) -> Forked<C, Asked<F>, <C as Chain>::Out>
    where
        F: Fn(&C::Out) -> bool + 'static,
    {
        self.fork("split", Asked(is_first))
    }

    /// Two streams of the same rows, to do two things with them: each row is cloned once. Both have to be ended by a sink.
    ///
    /// ```
    /// # use millstream::{Chain, Sink, Stream};
    /// # fn of(orders: Stream<impl Chain<Out = u64>>, all: impl Sink<u64>, large: impl Sink<u64>) {
    /// let (orders, copy) = orders.tee();
    /// orders.sink(all);
    /// copy.filter(|cents| *cents > 100_000).sink(large);
    /// # }
    /// ```
    pub fn tee(self) -> Forked<C, Doubled, <C as Chain>::Out> {
        self.fork("tee", Doubled)
    }

    /// Sends rows through `body` again and again, until `is_done` is true of what comes out, or they have been through it
    /// `rounds` times. What comes out of the last round goes on, done or not.
    ///
    /// Rounds are laid out one behind the other when the job is built, each with operators and states of its own: time,
    /// barriers and back-pressure are those of any chain, and a row never meets rows of another round of itself. `body` is
    /// given the round's number, from 0, to name its operators by.
    ///
    /// ```
    /// # use millstream::{Items, Job};
    /// # use millstream_connectors::memory::MemorySink;
    /// # let sink = MemorySink::new();
    /// # let rows = sink.clone();
    /// Job::new("halve", move |flow| {
    ///     flow.source(Items::of(vec![96_u64, 7, 40]))
    ///         .iterate(4, |_, numbers| numbers.map(|number| number / 2), |number| number % 2 == 1)
    ///         .sink(sink.clone());
    /// })
    /// .run()?;
    /// # let mut rows = rows.rows();
    /// # rows.sort();
    /// assert_eq!(rows, [3, 5, 6]); // 7 -> 3, 40 -> 20 -> 10 -> 5, 96 -> 48 -> 24 -> 12 -> 6 and no further
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    ///
    /// # Panics
    /// If `rounds` is 0.
    pub fn iterate<D, B, F>(self, rounds: u32, body: B, is_done: F) -> Stream<Boxed<C::Out, D::Time>>
    where
        D: Chain<Out = C::Out>,
        B: Fn(u32, Stream<Boxed<C::Out, C::Time>>) -> Stream<D>,
        F: Fn(&C::Out) -> bool + Clone + 'static,
    {
        assert!(rounds > 0, "an iteration has one round at least");
        let mut going = body(0, self.boxed());
        let mut done = Vec::new();
        for round in 1..rounds {
            let is_done = is_done.clone();
            let (again, out) = going.split(move |row| !is_done(row));
            done.push(out);
            going = body(round, again.boxed_as());
        }
        // All of them have been through the body once at least.
        done.into_iter().fold(going.boxed(), |all, out| all.union(out).boxed_as())
    }
}
