//! How a store is opened and how long it is waited for.

use std::fmt;
use std::time::Duration;

/// What opening a [`Store`](super::Store) takes besides its place. The default is right for a local directory, and for an
/// object store whose settings are in the environment.
#[derive(Clone, Default)]
pub struct StoreConfig {
    /// Settings of an object store, by the names that they have in the environment (`AWS_ENDPOINT`, …), which they go
    /// before.
    pub settings: Vec<(String, String)>,
    /// How long an object store is waited for.
    pub patience: Patience,
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets are among the values.
        let names: Vec<&str> = self.settings.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("StoreConfig").field("settings", &names).field("patience", &self.patience).finish()
    }
}

/// How long an object store is waited for: what fails for reasons that pass is tried again, after waits that double and
/// vary, until the time is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For an operation with all its retries: one file's upload, one manifest. A job sets it to its checkpoint timeout.
    pub total: Duration,
    /// For one request and its answer.
    pub request: Duration,
    /// The wait before the first retry.
    pub wait_initial: Duration,
    /// No wait is longer.
    pub wait_max: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            total: Duration::from_secs(600),
            request: Duration::from_secs(30),
            wait_initial: Duration::from_millis(100),
            wait_max: Duration::from_secs(10),
        }
    }
}
