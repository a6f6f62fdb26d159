//! What the operator of process functions asks of the function in it, whether that has one input, two, or one that all shards
//! hear.

use millstream_state::Key;
use millstream_state::schema::Described;
use serde_json::Value as Json;

use super::broadcast::BroadcastContext;
use super::process::{BoxError, Process, ProcessContext};
use super::timers::Timer;
use crate::state::{Declare, KeyedState};

/// A function in its operator. Rows of several inputs are one of several.
pub(crate) trait Operate<K, T>: 'static {
    type State: KeyedState;
    type Out: 'static;

    fn declare<D: Key + Described>(&self, declare: &mut Declare<'_, D>) -> Self::State;

    fn open(&mut self) -> Result<(), BoxError>;

    fn on_row(
        &mut self,
        state: &mut Self::State,
        row: T,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    ) -> Result<(), BoxError>;

    fn on_timer(
        &mut self,
        state: &mut Self::State,
        timer: Timer,
        cx: &mut ProcessContext<'_, K, Self::Out>,
    ) -> Result<(), BoxError>;

    /// Takes a row that every shard gets, and that has no key.
    fn on_shared(&mut self, _row: T, _cx: &BroadcastContext) -> Result<(), BoxError> {
        Ok(())
    }

    /// What all shards hold in common, from the one that files it.
    fn shared(&self) -> Result<Json, BoxError> {
        Ok(Json::Null)
    }

    /// Takes up what a checkpoint holds of it.
    fn restore_shared(&mut self, _shared: Json) -> Result<(), BoxError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), BoxError>;
}

/// What is alike in all functions, however many inputs they have, and goes to the one in a field: what it keeps and makes, its
/// begin and its end.
macro_rules! lifecycle {
    ($process:tt) => {
        type State = P::State;
        type Out = P::Out;

        fn declare<D: millstream_state::Key + millstream_state::schema::Described>(
            &self,
            declare: &mut $crate::state::Declare<'_, D>,
        ) -> P::State {
            self.$process.declare(declare)
        }

        fn open(&mut self) -> Result<(), $crate::road::process::BoxError> {
            self.$process.open()
        }

        fn close(&mut self) -> Result<(), $crate::road::process::BoxError> {
            self.$process.close()
        }
    };
}
pub(crate) use lifecycle;

/// A function of one input.
pub(crate) struct Plain<P>(pub(crate) P);

impl<K: 'static, T: 'static, P: Process<K, T>> Operate<K, T> for Plain<P> {
    lifecycle!(0);

    #[inline(always)]
    fn on_row(&mut self, state: &mut P::State, row: T, cx: &mut ProcessContext<'_, K, P::Out>) -> Result<(), BoxError> {
        self.0.on_event(state, row, cx)
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
