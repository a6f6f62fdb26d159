//! Two keyed streams and one operator: rows of both meet the states of their key, in the one order of process functions.
//!
//! ```text
//! left  ─▶ edge ─▶ Merge ─▶ Port ─┐
//!                                 ├─▶ barriers aligned, watermarks merged ─▶ Processor (processor.rs)
//! right ─▶ edge ─▶ Merge ─▶ Port ─┘
//! ```
//!
//! The operator is that of a process function over rows which are one of two: so states, timers, sides, snapshots and the
//! order of them all are the same. On a single shard there is no edge, and the chains drive their ports themselves.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

use millstream_state::Key;
use millstream_state::schema::Described;

use super::chain::Signal;
use super::keyed::{Contributions, KeyedOut};
use super::operate::{Operate, lifecycle};
use super::process::{BoxError, ProcessContext};
use super::timers::Timer;
use super::union::Meeting;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::state::{Declare, KeyedState};
use crate::time::Timestamp;

/// A function over the rows of two streams with one kind of key, with states, timers and side outputs; for
/// [`Connected::process`](crate::Connected::process).
///
/// It is a [`Process`](crate::Process) whose rows come from two sides: a key's rows of both, and its timers, come one after
/// the other and see the same states. The watermark is the least of the two.
///
/// Payments that their order announces within a minute:
///
/// ```
/// use millstream::state::{KeyedState, Value};
/// use millstream::{BoxError, CoProcess, ProcessContext, Timer};
///
/// #[millstream::event]
/// #[derive(Clone, Copy)]
/// struct Order {
///     number: u64,
/// }
///
/// #[millstream::event]
/// #[derive(Clone, Copy)]
/// struct Payment {
///     order: u64,
///     cents: u64,
/// }
///
/// #[derive(KeyedState)]
/// struct Announced {
///     is_open: Value<bool>,
/// }
///
/// struct Expected;
///
/// type Cx<'a> = ProcessContext<'a, u64, Payment>;
///
/// impl CoProcess<u64, Order, Payment> for Expected {
///     type State = Announced;
///     type Out = Payment;
///
///     fn on_left(&mut self, state: &mut Announced, _: Order, cx: &mut Cx<'_>) -> Result<(), BoxError> {
///         state.is_open.set(true);
///         let ends = cx.timestamp().plus_ms(60_000);
///         cx.timers().event(ends);
///         Ok(())
///     }
///
///     fn on_right(&mut self, state: &mut Announced, payment: Payment, cx: &mut Cx<'_>) -> Result<(), BoxError> {
///         if state.is_open.is_set() {
///             cx.emit(payment);
///         }
///         Ok(())
///     }
///
///     fn on_timer(&mut self, state: &mut Announced, _: Timer, _: &mut Cx<'_>) -> Result<(), BoxError> {
///         state.is_open.clear();
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not process rows of types `{L}` and `{R}` under keys of type `{K}`",
    note = "implement CoProcess<{K}, {L}, {R}> for it"
)]
pub trait CoProcess<K, L, R>: 'static {
    /// The states of each key: a struct of handles, `#[derive(KeyedState)]`.
    type State: KeyedState;

    /// What goes on from here.
    type Out: 'static;

    /// Declares the states; see [`Process::declare`](crate::Process::declare).
    fn declare<D: Key + Described>(&self, declare: &mut Declare<'_, D>) -> Self::State {
        Self::State::declare(declare)
    }

    /// Called once on every shard before its first row, after each restart too.
    ///
    /// # Errors
    /// The attempt has failed, and the job restarts as its strategy says.
    fn open(&mut self) -> Result<(), BoxError> {
        Ok(())
    }

    /// Takes a row of the stream that was connected, with the states of its key at hand.
    ///
    /// # Errors
    /// The attempt has failed; nothing of what the row has changed or emitted since the last checkpoint counts.
    fn on_left(
        &mut self,
        state: &mut Self::State,
        row: L,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    ) -> Result<(), BoxError>;

    /// Takes a row of the stream that it was connected with.
    ///
    /// # Errors
    /// As [`on_left`](CoProcess::on_left).
    fn on_right(
        &mut self,
        state: &mut Self::State,
        row: R,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    ) -> Result<(), BoxError>;

    /// Takes a timer that fires, with the states of its key at hand. Unless told otherwise, does nothing.
    ///
    /// # Errors
    /// As [`on_left`](CoProcess::on_left).
    fn on_timer(
        &mut self,
        _state: &mut Self::State,
        _timer: Timer,
        _cx: &mut ProcessContext<'_, K, Self::Out>,
    ) -> Result<(), BoxError> {
        Ok(())
    }

    /// Called once on every shard behind its last row and timer; see [`Process::close`](crate::Process::close).
    ///
    /// # Errors
    /// The attempt has failed.
    fn close(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// A row of one of two streams.
pub(crate) enum OneOf<L, R> {
    Left(L),
    Right(R),
}

/// A function of two inputs as one of rows which are one of two.
pub(crate) struct Paired<P>(pub(crate) P);

impl<K: 'static, L: 'static, R: 'static, P: CoProcess<K, L, R>> Operate<K, OneOf<L, R>> for Paired<P> {
    lifecycle!(0);

    #[inline(always)]
    fn on_row(
        &mut self,
        state: &mut P::State,
        row: OneOf<L, R>,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        match row {
            OneOf::Left(row) => self.0.on_left(state, row, cx),
            OneOf::Right(row) => self.0.on_right(state, row, cx),
        }
    }

    fn on_timer(
        &mut self,
        state: &mut P::State,
        timer: Timer,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        self.0.on_timer(state, timer, cx)
    }
}

/// Where two edges meet: what is behind both, and their marks. It is borrowed for one call at a time: the tasks of a shard
/// work one after the other.
pub(crate) struct Met<O> {
    meeting: Meeting,
    pub(crate) out: O,
}

impl<O> Met<O> {
    pub(crate) fn of(out: O, meeting: Meeting) -> Rc<RefCell<Met<O>>> {
        Rc::new(RefCell::new(Met { meeting, out }))
    }

    pub(crate) fn signal<K, W>(&mut self, number: usize, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault>
    where
        O: KeyedOut<K, W>,
    {
        let Met { meeting, out } = self;
        meeting.signal(number, signal, |signal| out.signal(signal, cx))
    }

    pub(crate) fn ready<K, W>(&mut self, number: usize) -> bool
    where
        O: KeyedOut<K, W>,
    {
        !self.meeting.holds_back(number) && self.out.ready()
    }
}

/// One edge's way to what is behind both.
pub(crate) struct Port<O, F> {
    number: usize,
    /// What a row of this edge is among those of both.
    row_of: F,
    met: Rc<RefCell<Met<O>>>,
}

impl<O, F> Port<O, F> {
    /// The first edge's way.
    pub(crate) fn left(met: Rc<RefCell<Met<O>>>, row_of: F) -> Self {
        Port { number: 0, row_of, met }
    }
}

/// Two ways to one operator: the left edge's and the right one's.
pub(crate) fn ports<L, R, O, F, G>(out: O, left: F, right: G) -> (Port<O, F>, Port<O, G>)
where
    F: Fn(L) -> OneOf<L, R>,
    G: Fn(R) -> OneOf<L, R>,
{
    let met = Met::of(out, Meeting::new());
    (Port::left(met.clone(), left), Port { number: 1, row_of: right, met })
}

/// Contributions of one edge, seen as those of both.
pub(crate) struct OfBoth<'a, C, V, F> {
    batch: &'a C,
    row_of: &'a F,
    of: PhantomData<fn(V)>,
}

impl<'a, C, V, F> OfBoth<'a, C, V, F> {
    pub(crate) fn new(batch: &'a C, row_of: &'a F) -> Self {
        OfBoth { batch, row_of, of: PhantomData }
    }
}

impl<K, V, W, C: Contributions<K, V>, F: Fn(V) -> W> Contributions<K, W> for OfBoth<'_, C, V, F> {
    type KeyOut<'b>
        = C::KeyOut<'b>
    where
        Self: 'b;

    #[inline(always)]
    fn len(&self) -> usize {
        self.batch.len()
    }

    #[inline(always)]
    fn at(&self, index: usize) -> Timestamp {
        self.batch.at(index)
    }

    #[inline(always)]
    fn key(&self, index: usize) -> C::KeyOut<'_> {
        self.batch.key(index)
    }

    #[inline(always)]
    fn value(&self, index: usize) -> W {
        (self.row_of)(self.batch.value(index))
    }
}

impl<K, V, W, O, F> KeyedOut<K, V> for Port<O, F>
where
    V: 'static,
    O: KeyedOut<K, W>,
    F: Fn(V) -> W + 'static,
{
    fn accept<C: Contributions<K, V>>(&mut self, batch: &C, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.met.borrow_mut().out.accept(&OfBoth::new(batch, &self.row_of), cx)
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.met.borrow_mut().signal(self.number, signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.met.borrow_mut().ready(self.number)
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        self.met.borrow_mut().out.resume(cx)
    }

    /// What is behind both is shown once.
    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        if self.number == 0 {
            self.met.borrow_mut().out.states(visitor);
        }
    }
}
