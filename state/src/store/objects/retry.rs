//! What is tried again, and when.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};
use object_store::{BackoffConfig, Error, RetryConfig};
use tokio::time::Instant;

use crate::store::config::Patience;

/// Requests are signed for some minutes, so the client itself must not repeat one for longer.
const SIGNED_FOR: Duration = Duration::from_secs(180);

/// How the client itself tries again: connections that fail, answers that say "not now".
pub(super) fn of_client(patience: &Patience) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: patience.wait_initial, max_backoff: patience.wait_max, base: 2.0 },
        max_retries: usize::MAX,
        retry_timeout: patience.total.min(SIGNED_FOR),
    }
}

/// One try. Boxed, since the compiler cannot see of a closure's borrowing future that it may be sent.
pub(super) type Try<T> = Pin<Box<dyn Future<Output = object_store::Result<T>> + Send>>;

/// Our own tries, of what the client has given up or does not repeat: a body that broke off, a request that expired.
pub(super) struct Retries {
    deadline: Instant,
    wait: Duration,
    wait_max: Duration,
}

impl Retries {
    pub(super) fn new(patience: &Patience) -> Retries {
        #[expect(clippy::disallowed_methods, reason = "the client's thread has a clock of its own, tokio's")]
        let deadline = Instant::now() + patience.total;
        Retries { deadline, wait: patience.wait_initial, wait_max: patience.wait_max }
    }

    /// Waits for the next try; false if there is no time left for one.
    pub(super) async fn wait(&mut self) -> bool {
        // Between half of it and all: those who failed together do not come back together.
        let share = 0.5 + (super::random() >> 11) as f64 / (1u64 << 54) as f64;
        let until = {
            #[expect(clippy::disallowed_methods, reason = "the client's thread has a clock of its own, tokio's")]
            let now = Instant::now();
            now + self.wait.mul_f64(share)
        };
        if until >= self.deadline {
            return false;
        }
        tokio::time::sleep_until(until).await;
        self.wait = (self.wait * 2).min(self.wait_max);
        true
    }

    /// Tries until it is done, or has failed for a reason that does not pass, or time is up. `work` must be such that it
    /// may be done twice.
    pub(super) async fn run<T>(mut self, mut work: impl FnMut() -> Try<T> + Send) -> object_store::Result<T> {
        loop {
            match work().await {
                Err(error) if is_transient(&error) && self.wait().await => {}
                other => return other,
            }
        }
    }
}

/// Whether an error may be gone when the same is asked again: whatever happened on the way, but no answer of the store,
/// since the client has asked those that say "not now" again already.
pub(super) fn is_transient(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return http.kind() != HttpErrorKind::Decode;
        }
        cause = error.source();
    }
    false
}

/// The error in the system's words, as far as it has some.
pub(super) fn plain(error: Error) -> io::Error {
    let kind = match &error {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::AlreadyExists { .. } => io::ErrorKind::AlreadyExists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        other if is_transient(other) => io::ErrorKind::NotConnected,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
