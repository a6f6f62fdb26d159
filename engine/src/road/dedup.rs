//! Rows that come again are dropped: one value a key, and where it ends, a timer.

use std::fmt;
use std::marker::PhantomData;

use millstream_state::Key;
use millstream_state::schema::Described;

use super::process::{BoxError, Process, ProcessContext};
use super::timers::Timer;
use crate::state::{Declare, Handle, KeyedState, StateOptions, Value};
use crate::time::Timestamp;

/// The operator of [`KeyedStream::dedup`](crate::KeyedStream::dedup) and
/// [`dedup_unbounded`](crate::KeyedStream::dedup_unbounded).
pub struct Dedup<T> {
    /// How long a key's first row stands for those that follow; for ever if none.
    ttl_ms: Option<i64>,
    row: PhantomData<fn(T)>,
}

impl<T> Dedup<T> {
    pub(crate) fn new(ttl_ms: Option<i64>) -> Dedup<T> {
        Dedup { ttl_ms, row: PhantomData }
    }
}

impl<T> fmt::Debug for Dedup<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dedup(ttl {:?} ms)", self.ttl_ms)
    }
}

/// Until when rows of a key are taken for the one that passed.
#[derive(Debug)]
pub struct Passed {
    until: Value<i64>,
}

impl KeyedState for Passed {
    fn declare<K: Key + Described>(declare: &mut Declare<'_, K>) -> Self {
        Passed { until: Value::declare(declare, "until", StateOptions::default()) }
    }

    fn for_each(&mut self, visit: &mut dyn FnMut(&mut dyn Handle)) {
        visit(&mut self.until);
    }
}

impl<K: Key, T: 'static> Process<K, T> for Dedup<T> {
    type State = Passed;
    type Out = T;

    fn on_event(&mut self, passed: &mut Passed, row: T, cx: &mut ProcessContext<'_, K, T>) -> Result<(), BoxError> {
        let Some(ttl_ms) = self.ttl_ms else {
            if !passed.until.is_set() {
                passed.until.set(i64::MAX);
                cx.emit(row);
            }
            return Ok(());
        };
        let at = cx.timestamp();
        if at < cx.watermark() {
            cx.is_late();
            return Ok(());
        }
        // One that ends with time itself may reach beyond it.
        if passed.until.get().is_none_or(|until| *until <= at.0 && *until < i64::MAX) {
            let until = at.plus_ms(ttl_ms);
            passed.until.set(until.0);
            cx.timers().event(until);
            cx.emit(row);
        }
        Ok(())
    }

    fn on_timer(&mut self, passed: &mut Passed, _: Timer, cx: &mut ProcessContext<'_, K, T>) -> Result<(), BoxError> {
        // Another row may have passed since, which has a timer of its own.
        if passed.until.get().is_some_and(|until| Timestamp(*until) <= cx.timestamp()) {
            passed.until.clear();
        }
        Ok(())
    }
}
