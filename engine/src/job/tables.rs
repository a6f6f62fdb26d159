//! An operator's table on one shard: opened empty, or as the restored checkpoint left it.

use millstream_state::{Fixed, Key, Table, TableConfig};

use super::graph::Site;
use crate::run::fault::JobError;
use crate::run::metrics::RestoreFigures;
use crate::time::Clock;

/// An operator's table and the small state that was filed with it, `None` where there is no checkpoint of it.
pub(crate) fn open<K: Key, V: Fixed>(
    site: &Site,
    uid: &str,
) -> Result<(Table<K, V>, Option<serde_json::Value>), JobError> {
    let unusable = |error: &dyn std::fmt::Display| JobError::Unusable(format!("operator \"{uid}\": {error}"));
    let config = table_config(site, uid);
    let (Some(part), Some(store)) = (site.restored(uid), &site.store) else {
        return Ok((Table::new(config).map_err(|error| unusable(&error))?, None));
    };
    let files = part.tables.first().map_or(&[][..], |table| &table.files[..]);
    let clock = Clock::system();
    let began = clock.now();
    let (table, restored) = Table::restore(config, store, files).map_err(|error| unusable(&error))?;
    let took_us = clock.now().since(began).as_micros() as u64;
    tracing::info!(
        operator = uid,
        shard = site.shard,
        bytes = restored.bytes_read,
        pages = restored.pages,
        took_us,
        "state restored"
    );
    let before = site.restores.get();
    site.restores.set(RestoreFigures {
        bytes_read: before.bytes_read + restored.bytes_read,
        pages: before.pages + restored.pages as u64,
        entries: before.entries + restored.entries as u64,
        took_us: before.took_us + took_us,
    });
    Ok((table, Some(part.blob.clone())))
}

/// Whose table it is and where its pages lie: the one place that knows both the job's settings and the table's.
fn table_config(site: &Site, uid: &str) -> TableConfig {
    TableConfig { operator: uid.to_string(), shard: site.shard, ..TableConfig::default() }
}
