//! Events as lines of JSON, in a log of files.

use std::path::Path;

use millstream_connectors::log::{LogError, LogWriter};

use super::source::Share;

/// How many lines are written between two words on how far it is.
const TOLD_EVERY: u64 = 4096;

/// Writes the first `events` events into a new log: event `i` goes to partition `i mod partitions`, so that all partitions
/// move through event time together.
///
/// # Errors
/// When the log cannot be made or written.
///
/// # Panics
/// When `partitions` is zero.
pub fn generate(out: &Path, events: u64, partitions: u32, tell: &mut dyn FnMut(u64)) -> Result<(), LogError> {
    let mut log = LogWriter::create(out, partitions)?;
    for event in Share::all(events) {
        let line = serde_json::to_vec(&event.event).expect("numbers and texts are plain JSON");
        log.append((event.number % u64::from(partitions)) as u32, &line)?;
        if event.number.is_multiple_of(TOLD_EVERY) {
            tell(event.number);
        }
    }
    log.sync()
}
