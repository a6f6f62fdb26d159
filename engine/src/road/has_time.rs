//! Whether rows have event time, as a part of their stream's type: windows over rows that have none do not compile.

use super::chain::Chain;

/// Whether a chain's rows have event time: [`Timed`] or [`Untimed`].
///
/// It is written down by [`Chain::Time`], and costs nothing when the job runs.
pub trait TimeKind: 'static {
    /// Of the rows of two streams together: timed if both are.
    type And<Other: TimeKind>: TimeKind;
}

/// Rows have an event time, and a watermark follows it.
#[derive(Clone, Copy, Debug)]
pub enum Timed {}

/// Rows have no event time yet.
#[derive(Clone, Copy, Debug)]
pub enum Untimed {}

impl TimeKind for Timed {
    type And<Other: TimeKind> = Other;
}

impl TimeKind for Untimed {
    type And<Other: TimeKind> = Untimed;
}

/// What the [`Time`](Chain::Time) of a chain has to be before windows and joins of event time.
#[diagnostic::on_unimplemented(
    message = "this needs rows with event time, and the stream has none",
    label = "say `.event_time(|row| .., Watermarks::..)` before `.key_by(..)`",
    note = "where rows carry no time of their own, `.ingestion_time()` gives them that at which they are read",
    note = "windows of wall time need none: Tumbling::of(..).processing_time()",
    note = "in the signature of a helper write Stream<impl TimedChain<Out = Row>>"
)]
pub trait HasEventTime: TimeKind {}

impl HasEventTime for Timed {}

/// A [`Chain`] whose rows have event time, for the signatures of helpers.
///
/// ```
/// # use std::time::Duration;
/// use millstream::{Chain, Count, Stream, TimedChain, Tumbling, Windowed};
///
/// fn per_second(pages: Stream<impl TimedChain<Out = u64>>) -> Stream<impl TimedChain<Out = Windowed<u64, u64>>> {
///     pages.key_by(|page| *page).window(Tumbling::of(Duration::from_secs(1))).aggregate(Count)
/// }
/// ```
pub trait TimedChain: Chain<Time = Timed> {}

impl<C: Chain<Time = Timed>> TimedChain for C {}
