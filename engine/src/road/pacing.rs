//! Alignment of sources: those that are far ahead in event time pause until the others have come up.
//!
//! ```text
//! event-time stage ─ its watermark ─▶ board of the alignment ─ the least of all ─▶ ahead of it by more than the drift?
//!                                                                                    └─▶ pace ─▶ its source is not polled
//! ```
//!
//! What a fast source has read must be kept until the slow one's time has come to it: in windows, in joins, in memory. A
//! source that pauses goes on passing barriers. It stays awake to look again every few milliseconds, which costs little
//! beside what it saves.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::time::Timestamp;

/// When a source that pauses is asked again, ms.
pub(crate) const LOOK_AGAIN_MS: i64 = 5;

/// Sources whose watermarks stay within a drift of each other; for [`Stream::aligned`](crate::Stream::aligned).
///
/// Clones are the same one. It is made outside the job's closure, so that all shards share it; one that is made inside
/// aligns the sources of each shard by themselves.
///
/// ```
/// use std::time::Duration;
/// let abreast = millstream::Alignment::within(Duration::from_secs(60));
/// ```
#[derive(Clone)]
pub struct Alignment {
    drift_ms: i64,
    board: Arc<Board>,
}

/// The watermarks of those who take part. Who has gone, with the attempt it belonged to, is left out.
#[derive(Default)]
struct Board(Mutex<Vec<Weak<AtomicI64>>>);

impl fmt::Debug for Alignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Alignment(within {} ms)", self.drift_ms)
    }
}

impl Alignment {
    /// Nobody is further than `drift` ahead of the slowest that is not idle; a batch of rows is the grain.
    #[must_use]
    pub fn within(drift: Duration) -> Alignment {
        Alignment { drift_ms: i64::try_from(drift.as_millis()).unwrap_or(i64::MAX), board: Arc::default() }
    }

    /// Takes part from now on.
    pub(crate) fn join(&self) -> Pacing {
        let watermark = Arc::new(AtomicI64::new(Timestamp::MIN.0));
        let mut members = self.board.0.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(&watermark));
        Pacing { alignment: self.clone(), watermark, limit: i64::MIN, pace: Pace::default(), looked_ms: i64::MIN }
    }

    /// How far one may be.
    fn limit(&self) -> i64 {
        let members = self.board.0.lock().unwrap_or_else(PoisonError::into_inner);
        let watermarks = members.iter().filter_map(Weak::upgrade).map(|member| member.load(Ordering::Relaxed));
        watermarks.min().map_or(i64::MAX, |least| least.saturating_add(self.drift_ms))
    }
}

/// Whether a source is to pause; shared by its task and the stage that gives its rows their time.
#[derive(Clone, Default, Debug)]
pub(crate) struct Pace(Rc<Cell<bool>>);

impl Pace {
    pub(crate) fn pauses(&self) -> bool {
        self.0.get()
    }
}

/// One that takes part.
pub(crate) struct Pacing {
    alignment: Alignment,
    watermark: Arc<AtomicI64>,
    /// How far it may be, as of when that was last asked for.
    limit: i64,
    pub(crate) pace: Pace,
    looked_ms: i64,
}

impl Pacing {
    /// Its time has come to `watermark`, the end of time if nobody is to wait for it. It pauses at once if that is too far.
    pub(crate) fn tell(&mut self, watermark: Timestamp) {
        self.watermark.store(watermark.0, Ordering::Relaxed);
        if watermark == Timestamp::MAX || watermark.0 <= self.limit {
            self.pace.0.set(false);
        } else {
            self.ask();
        }
    }

    /// Looks, once a millisecond, whether it has paused for long enough.
    pub(crate) fn look(&mut self, now_ms: i64) {
        if self.pace.pauses() && now_ms != std::mem::replace(&mut self.looked_ms, now_ms) {
            self.ask();
        }
    }

    fn ask(&mut self) {
        self.limit = self.alignment.limit();
        self.pace.0.set(self.watermark.load(Ordering::Relaxed) > self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_ahead_pauses_until_the_slowest_comes_up_or_leaves() {
        let alignment = Alignment::within(Duration::from_millis(10));
        let (mut fast, mut slow) = (alignment.join(), alignment.join());
        let mut now_ms = 0;
        let mut pauses = |fast: &mut Pacing| {
            now_ms += 1;
            fast.look(now_ms);
            fast.pace.pauses()
        };
        assert!(!pauses(&mut fast), "neither has begun");
        fast.tell(Timestamp(5));
        assert!(pauses(&mut fast), "the other one has not begun");
        slow.tell(Timestamp(-5));
        assert!(!pauses(&mut fast), "just within");
        fast.tell(Timestamp(6));
        assert!(pauses(&mut fast));
        slow.tell(Timestamp::MAX);
        assert!(!pauses(&mut fast), "who is idle or has ended is not waited for");
        slow.tell(Timestamp(-4));
        fast.tell(Timestamp(i64::MAX - 1));
        assert!(pauses(&mut fast));
        drop(slow);
        assert!(!pauses(&mut fast), "nor is one whose attempt is over");
    }
}
