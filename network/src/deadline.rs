//! The door to the clock: how long a handshake or a message may still take. Nothing else in this crate asks for the time.

use std::time::{Duration, Instant};

/// A moment by which something must be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub(crate) fn after(time: Duration) -> Deadline {
        // Who asks for more than the clock can count waits for a day, and asks again.
        let now = now();
        Deadline(now.checked_add(time).unwrap_or_else(|| now + Duration::from_secs(86_400)))
    }

    /// What is left until then; nothing, if it has passed.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(now()).filter(|left| !left.is_zero())
    }
}

#[expect(clippy::disallowed_methods, reason = "the door: peers that stall can only be told by a clock")]
fn now() -> Instant {
    Instant::now()
}
