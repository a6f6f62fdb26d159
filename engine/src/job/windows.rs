//! What `window` takes: each kind of windows, and the stream that a keyed stream becomes when it is cut into them.

use super::keyed::KeyedStream;
use super::triggered::{KeepsRows, TriggeredStream};
use super::windowed::WindowedStream;
use crate::road::chain::Chain;
use crate::road::has_time::HasEventTime;
use crate::road::window::{
    Aligned, CountWindow, DropLate, Gaps, Global, Keep, Never, OnCount, OnTime, ProcessingTime, Session, Sliding,
    SlidingCount, Tumbling,
};

/// A kind of windows that a keyed stream can be cut into.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no kind of windows of such a stream",
    note = "Tumbling, Sliding, Session, CountWindow and Global are; your own Assigner goes into .window_by(..)",
    note = "a session's gap by row takes a reference to a row: Session::by(|row: &Row| ..)"
)]
pub trait Windows<C, G> {
    /// The stream, cut into them.
    type Windowed;

    #[doc(hidden)]
    fn on(self, keyed: KeyedStream<C, G>) -> Self::Windowed;
}

impl<C: Chain<Time: HasEventTime>, G> Windows<C, G> for Tumbling {
    type Windowed = WindowedStream<C, G, Tumbling>;

    fn on(self, keyed: KeyedStream<C, G>) -> Self::Windowed {
        WindowedStream { keyed, window: self }
    }
}

impl<C: Chain<Time: HasEventTime>, G> Windows<C, G> for Sliding {
    type Windowed = WindowedStream<C, G, Sliding>;

    fn on(self, keyed: KeyedStream<C, G>) -> Self::Windowed {
        WindowedStream { keyed, window: self }
    }
}

impl<C, G> Windows<C, G> for ProcessingTime<Tumbling> {
    type Windowed = TriggeredStream<C, G, Aligned, OnTime>;

    fn on(self, keyed: KeyedStream<C, G>) -> Self::Windowed {
        TriggeredStream::new(keyed, Aligned { slides: self.0.into(), is_processing: true }, OnTime)
    }
}

impl<C, G> Windows<C, G> for ProcessingTime<Sliding> {
    type Windowed = TriggeredStream<C, G, Aligned, OnTime>;

    fn on(self, keyed: KeyedStream<C, G>) -> Self::Windowed {
        TriggeredStream::new(keyed, Aligned { slides: self.0.into(), is_processing: true }, OnTime)
    }
}

impl<C: Chain<Out: Sized, Time: HasEventTime>, G, P: Gaps<C::Out>> Windows<C, G> for Session<P> {
    type Windowed = TriggeredStream<C, G, Session<P>, OnTime>;

    fn on(self, keyed: KeyedStream<C, G>) -> Self::Windowed {
        TriggeredStream::new(keyed, self, OnTime)
    }
}

impl<C: Chain<Out: Sized>, G, P: Gaps<C::Out>> Windows<C, G> for ProcessingTime<Session<P>> {
    type Windowed = TriggeredStream<C, G, Session<P>, OnTime>;

    fn on(self, keyed: KeyedStream<C, G>) -> Self::Windowed {
        TriggeredStream::new(keyed, self.0, OnTime)
    }
}

impl<C, G> Windows<C, G> for Global {
    type Windowed = TriggeredStream<C, G, Global, Never>;

    fn on(self, keyed: KeyedStream<C, G>) -> Self::Windowed {
        TriggeredStream::new(keyed, self, Never)
    }
}

impl<C, G> Windows<C, G> for CountWindow {
    type Windowed = TriggeredStream<C, G, Global, OnCount>;

    fn on(self, keyed: KeyedStream<C, G>) -> Self::Windowed {
        TriggeredStream::new(keyed, Global, self.trigger()).discarding().counted()
    }
}

impl<C, G> Windows<C, G> for SlidingCount {
    type Windowed = TriggeredStream<C, G, Global, OnCount, DropLate, KeepsRows<Keep>>;

    fn on(self, keyed: KeyedStream<C, G>) -> Self::Windowed {
        TriggeredStream::new(keyed, Global, self.trigger()).keeping(KeepsRows { evictor: self.keep() }).counted()
    }
}
