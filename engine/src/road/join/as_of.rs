//! The temporal join: each left row with the version of its key that was valid at its time.
//!
//! Versions and left rows wait for the watermark to come to their time, and are then taken in the order of time, by a timer
//! at that moment: a version becomes the one that is valid, a left row meets that one. So of a key's versions, those that are
//! over are gone, and one that is valid stays, for as long as none follows.

use std::fmt;
use std::marker::PhantomData;

use millstream_state::Key;
use millstream_state::schema::Described;

use super::JoinRow;
use super::pairing::Pairing;
use crate::road::connect::CoProcess;
use crate::road::process::{BoxError, ProcessContext};
use crate::road::timers::Timer;
use crate::state::{Declare, Handle, KeyedState, StateOptions, TimedRows, Value};
use crate::time::Timestamp;

/// Nothing here looks for a stretch of time: one holds all.
const STRETCH_MS: i64 = i64::MAX;

/// The join of [`KeyedStream::as_of`](crate::KeyedStream::as_of).
pub struct Temporal<L, R, P> {
    pairing: P,
    rows: PhantomData<fn(L, R)>,
}

impl<L, R, P> Temporal<L, R, P> {
    pub(crate) fn new(pairing: P) -> Self {
        Temporal { pairing, rows: PhantomData }
    }
}

impl<L, R, P> fmt::Debug for Temporal<L, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Temporal")
    }
}

/// The rows of a key that wait for their time, and the version that is valid.
#[derive(Debug)]
pub struct Versions<L: JoinRow, R: JoinRow> {
    waiting: TimedRows<L>,
    to_come: TimedRows<R>,
    valid: Value<R>,
    valid_from: Value<i64>,
}

impl<L: JoinRow, R: JoinRow> KeyedState for Versions<L, R> {
    fn declare<K: Key + Described>(declare: &mut Declare<'_, K>) -> Self {
        let options = StateOptions::default();
        Versions {
            waiting: TimedRows::declare(declare, "left", options),
            to_come: TimedRows::declare(declare, "right", options),
            valid: Value::declare(declare, "valid", options),
            valid_from: Value::declare(declare, "valid_from", options),
        }
    }

    fn for_each(&mut self, visit: &mut dyn FnMut(&mut dyn Handle)) {
        visit(&mut self.waiting);
        visit(&mut self.to_come);
        visit(&mut self.valid);
        visit(&mut self.valid_from);
    }
}

impl<L: JoinRow, R: JoinRow> Versions<L, R> {
    fn make_valid(&mut self, version: &R, from: i64) {
        self.valid.set(*version);
        self.valid_from.set(from);
    }
}

impl<K, L, R, P> CoProcess<K, L, R> for Temporal<L, R, P>
where
    K: Key,
    L: JoinRow,
    R: JoinRow,
    P: Pairing<L, R>,
{
    type State = Versions<L, R>;
    type Out = P::Out;

    fn on_left(
        &mut self,
        versions: &mut Versions<L, R>,
        row: L,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        let at = cx.timestamp();
        if at < cx.watermark() {
            cx.is_late();
            return Ok(());
        }
        versions.waiting.keep(&row, at.0, at.0, false, STRETCH_MS);
        cx.timers().event(at);
        Ok(())
    }

    fn on_right(
        &mut self,
        versions: &mut Versions<L, R>,
        row: R,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        let at = cx.timestamp();
        if at >= cx.watermark() {
            versions.to_come.keep(&row, at.0, at.0, false, STRETCH_MS);
            cx.timers().event(at);
        } else if versions.valid_from.get().is_none_or(|from| *from <= at.0) {
            // Left rows of its time are through, but those to come find it valid.
            versions.make_valid(&row, at.0);
        } else {
            cx.is_late();
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        versions: &mut Versions<L, R>,
        _: Timer,
        cx: &mut ProcessContext<'_, K, P::Out>,
    ) -> Result<(), BoxError> {
        let Timestamp(now) = cx.timestamp();
        let mut newest = None;
        // The last to come is shown first: of versions of one time it is the one that is valid.
        versions.to_come.end(now, |version, _, _| {
            newest.get_or_insert(*version);
        });
        if let Some(version) = newest {
            versions.make_valid(&version, now);
        }
        let Versions { waiting, valid, .. } = versions;
        let valid = valid.get();
        waiting.end(now, |left, _, _| match valid {
            Some(version) => cx.emit(self.pairing.pair(left, version)),
            None => {
                if let Some(row) = self.pairing.left_alone(left) {
                    cx.emit(row);
                }
            }
        });
        Ok(())
    }
}
