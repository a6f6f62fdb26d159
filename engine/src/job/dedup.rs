//! A keyed stream without rows that come again: what a user says with `dedup`.

use std::any::type_name;
use std::time::Duration;

use millstream_state::schema::Described;

use super::keyed::KeyedStream;
use super::process::Processed;
use super::stream::Stream;
use crate::road::chain::Chain;
use crate::road::dedup::Dedup;
use crate::road::has_time::HasEventTime;
use crate::road::keyed::Keying;
use crate::road::stateful::KeyedRow;
use crate::road::window::millis;

/// Rows of which each key has one, as a stream.
type Deduped<C, G> = Stream<Processed<C, G, Dedup<<C as Chain>::Out>>>;

impl<C, G> KeyedStream<C, G>
where
    C: Chain<Out: Sized + KeyedRow>,
    G: Keying<C::Out, Key: Described>,
{
    /// Lets the first row of each key pass, and drops those of the key that come after it with a time of less than `ttl` after
    /// its own. Time is event time, so the answer does not depend on when rows are read.
    ///
    /// The first is the first to come. A row that is earlier than the one that passed, but comes after it, is dropped as well; one
    /// that comes behind the watermark is dropped and counted as late. A key is kept until the watermark has come to the end
    /// of its `ttl`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use millstream::{Items, Job, Timestamp, Watermarks};
    /// # use millstream_connectors::memory::MemorySink;
    /// # let sink = MemorySink::new();
    /// # let rows = sink.clone();
    /// Job::new("once", move |flow| {
    ///     flow.source(Items::of(vec![[7, 1_000], [9, 2_000], [7, 8_000], [7, 61_000]]))
    ///         .event_time(|row| Timestamp(row[1]), Watermarks::monotonic())
    ///         .key_by(|row| row[0])
    ///         .dedup(Duration::from_secs(60))
    ///         .sink(sink.clone());
    /// })
    /// .run()?;
    /// assert_eq!(rows.rows(), [[7, 1_000], [9, 2_000], [7, 61_000]]);
    /// # Ok::<(), millstream::JobError>(())
    /// ```
    pub fn dedup(self, ttl: Duration) -> Deduped<C, G>
    where
        C::Time: HasEventTime,
    {
        let ttl_ms = millis(ttl);
        let what = format!("{ttl_ms} ms, {} -> {}", type_name::<G::Key>(), type_name::<C::Out>());
        self.operate("dedup", what, Dedup::new(Some(ttl_ms)))
    }

    /// Lets the first row of each key pass, and no other, ever. Its keys are never forgotten: what it holds grows with the
    /// number of different keys, which is why it has to be asked for by this name. It needs no event time.
    pub fn dedup_unbounded(self) -> Deduped<C, G> {
        let what = format!("{} -> {}", type_name::<G::Key>(), type_name::<C::Out>());
        self.operate("dedup_unbounded", what, Dedup::new(None))
    }
}
