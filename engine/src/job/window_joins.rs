//! Joins of what falls into one window: what a user says with `window_join` and `co_group`.

use millstream_state::schema::Described;

use super::connect::{CoProcessed, Connected};
use super::keyed::KeyedStream;
use super::stream::Stream;
use crate::road::chain::Chain;
use crate::road::has_time::HasEventTime;
use crate::road::join::{BothLists, EachPair, Grouped, JoinRow};
use crate::road::keyed::Keying;
use crate::road::stateful::KeyedRow;
use crate::road::window::{Slides, Sliding, Window};

impl<C, G> KeyedStream<C, G>
where
    C: Chain<Out: Sized + KeyedRow + JoinRow>,
    G: Keying<C::Out, Key: Described>,
{
    /// Joins rows that have their key in common and fall into the same window; see [`WindowJoin::window`].
    ///
    /// All pairs of a window are emitted when the watermark has come to its end, at its last instant. A row that falls into
    /// several windows is kept once, until the last of them is complete; one whose windows all are is dropped and counted as
    /// late.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use millstream::{Items, Job, Timestamp, Tumbling, Watermarks};
    /// # use millstream_connectors::memory::MemorySink;
    /// # let sink = MemorySink::new();
    /// # let rows = sink.clone();
    /// Job::new("both-ways", move |flow| {
    ///     // A visitor, and a time.
    ///     let at = |row: &[i64; 2]| Timestamp(row[1]);
    ///     let came = flow.source(Items::of(vec![[7, 1_000], [9, 2_000]])).event_time(at, Watermarks::monotonic());
    ///     let left = flow.source(Items::of(vec![[7, 8_000], [9, 11_000]])).event_time(at, Watermarks::monotonic());
    ///     came.key_by(|row| row[0])
    ///         .window_join(left.key_by(|row| row[0]))
    ///         .window(Tumbling::of(Duration::from_secs(10)))
    ///         .inner(|came, left| (came[0], left[1] - came[1]))
    ///         .sink(sink.clone());
    /// })
    /// .run()?;
    /// assert_eq!(rows.rows(), [(7, 7_000)]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    ///
    /// # Panics
    /// When the other stream is of another job's flow.
    pub fn window_join<D, H>(self, right: KeyedStream<D, H>) -> WindowJoin<C, G, D, H>
    where
        C::Time: HasEventTime,
        D: Chain<Out: Sized + KeyedRow + JoinRow, Time: HasEventTime>,
        H: Keying<D::Out, Key = G::Key>,
    {
        WindowJoin { connected: self.connect(right) }
    }

    /// Hands both streams' rows of a key and a window to a closure, also where only one of them has any: what every other
    /// join of windows can be made of; see [`CoGroup::window`]. When and what it keeps is as with
    /// [`window_join`](KeyedStream::window_join).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use millstream::{Items, Job, Timestamp, Tumbling, Watermarks};
    /// # use millstream_connectors::memory::MemorySink;
    /// # let sink = MemorySink::new();
    /// # let rows = sink.clone();
    /// Job::new("unanswered", move |flow| {
    ///     // A number, and a time.
    ///     let at = |row: &[i64; 2]| Timestamp(row[1]);
    ///     let asked = flow.source(Items::of(vec![[7, 1_000], [9, 2_000]])).event_time(at, Watermarks::monotonic());
    ///     let answered = flow.source(Items::of(vec![[7, 8_000], [8, 9_000]])).event_time(at, Watermarks::monotonic());
    ///     asked
    ///         .key_by(|row| row[0])
    ///         .co_group(answered.key_by(|row| row[0]))
    ///         .window(Tumbling::of(Duration::from_secs(10)))
    ///         .apply(|number, _, asked, answered| (!asked.is_empty() && answered.is_empty()).then_some(*number))
    ///         .sink(sink.clone());
    /// })
    /// .run()?;
    /// assert_eq!(rows.rows(), [9]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    ///
    /// # Panics
    /// When the other stream is of another job's flow.
    pub fn co_group<D, H>(self, right: KeyedStream<D, H>) -> CoGroup<C, G, D, H>
    where
        C::Time: HasEventTime,
        D: Chain<Out: Sized + KeyedRow + JoinRow, Time: HasEventTime>,
        H: Keying<D::Out, Key = G::Key>,
    {
        CoGroup { connected: self.connect(right) }
    }
}

/// Two streams to be joined by windows.
#[must_use = "a window join without windows does nothing: say window(..)"]
#[derive(Debug)]
pub struct WindowJoin<C, G, D, H> {
    connected: Connected<C, G, D, H>,
}

impl<C, G, D, H> WindowJoin<C, G, D, H> {
    /// The windows: [`Tumbling`](crate::Tumbling) or [`Sliding`]. A pair that lies in several windows is
    /// emitted for each of them.
    pub fn window(self, windows: impl Into<Sliding>) -> WindowJoinWindows<C, G, D, H> {
        WindowJoinWindows { connected: self.connected, windows: windows.into() }
    }
}

/// Two streams to be joined by windows, and these.
#[must_use = "a join that makes nothing does nothing: end it with inner(..)"]
#[derive(Debug)]
pub struct WindowJoinWindows<C, G, D, H> {
    connected: Connected<C, G, D, H>,
    windows: Sliding,
}

/// Two streams to be grouped by windows.
#[must_use = "a co-group without windows does nothing: say window(..)"]
#[derive(Debug)]
pub struct CoGroup<C, G, D, H> {
    connected: Connected<C, G, D, H>,
}

impl<C, G, D, H> CoGroup<C, G, D, H> {
    /// The windows: [`Tumbling`](crate::Tumbling) or [`Sliding`].
    pub fn window(self, windows: impl Into<Sliding>) -> CoGroupWindows<C, G, D, H> {
        CoGroupWindows { connected: self.connected, windows: windows.into() }
    }
}

/// Two streams to be grouped by windows, and these.
#[must_use = "a co-group that makes nothing does nothing: end it with apply(..)"]
#[derive(Debug)]
pub struct CoGroupWindows<C, G, D, H> {
    connected: Connected<C, G, D, H>,
    windows: Sliding,
}

/// A join of windows, as a stream.
type GroupedStream<C, G, D, H, P> = Stream<CoProcessed<C, G, D, H, Grouped<<C as Chain>::Out, <D as Chain>::Out, P>>>;

impl<C, G, D, H> WindowJoinWindows<C, G, D, H>
where
    C: Chain<Out: Sized + KeyedRow + JoinRow>,
    D: Chain<Out: Sized + KeyedRow + JoinRow>,
    G: Keying<C::Out, Key: Described>,
    H: Keying<D::Out, Key = G::Key>,
{
    /// Emits every pair of every window.
    pub fn inner<U, F>(self, join: F) -> GroupedStream<C, G, D, H, EachPair<F>>
    where
        U: 'static,
        F: Fn(&C::Out, &D::Out) -> U + 'static,
    {
        let join = Grouped::new(Slides::from(self.windows), EachPair(join));
        self.connected.operate("window_join", &format!("{:?}", self.windows), join)
    }
}

impl<C, G, D, H> CoGroupWindows<C, G, D, H>
where
    C: Chain<Out: Sized + KeyedRow + JoinRow>,
    D: Chain<Out: Sized + KeyedRow + JoinRow>,
    G: Keying<C::Out, Key: Described>,
    H: Keying<D::Out, Key = G::Key>,
{
    /// Emits what the closure makes of a key, a window and both lists, of which one may be empty. Rows lie in a list in no
    /// order that means anything.
    pub fn apply<I, F>(self, group: F) -> GroupedStream<C, G, D, H, BothLists<F>>
    where
        I: IntoIterator<Item: 'static>,
        F: Fn(&G::Key, Window, &[C::Out], &[D::Out]) -> I + 'static,
    {
        let group = Grouped::new(Slides::from(self.windows), BothLists(group));
        self.connected.operate("co_group", &format!("{:?}", self.windows), group)
    }
}
