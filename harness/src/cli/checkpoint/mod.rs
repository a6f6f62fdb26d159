//! `harness checkpoint`: looks into checkpoints and savepoints. Nothing is changed but by `savepoint`, which adds one.

mod dump;
mod inspect;
mod migrate;
mod savepoint;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};
use millstream_state::{
    Epoch, Listing, Manifest, PageStore, SAVEPOINT_FILE, Savepoint, Store, StoreConfig, TableConfig, TablePart,
};

use super::Verdict;

#[derive(Args, Debug)]
pub(super) struct CheckpointArgs {
    #[command(subcommand)]
    verb: CheckpointVerb,
}

#[derive(Subcommand, Debug)]
enum CheckpointVerb {
    /// List checkpoints, prove every byte of them, and say what one holds
    Inspect(inspect::InspectArgs),
    /// Write the entries of one state as lines of JSON
    Dump(dump::DumpArgs),
    /// Say what a restore by a job with other types would do with each state
    Migrate(migrate::MigrateArgs),
    /// Make a savepoint of a checkpoint, without the job
    Savepoint(savepoint::SavepointArgs),
}

pub(super) fn run(args: &CheckpointArgs) -> Result<Verdict> {
    match &args.verb {
        CheckpointVerb::Inspect(args) => inspect::run(args),
        CheckpointVerb::Dump(args) => dump::run(args),
        CheckpointVerb::Migrate(args) => migrate::run(args),
        CheckpointVerb::Savepoint(args) => savepoint::run(args),
    }
}

/// What there is at a place.
enum Found {
    Checkpoints(Store),
    Savepoint(Savepoint),
}

impl Found {
    fn at(place: &Path) -> Result<Found> {
        let config = StoreConfig::default();
        let store = Store::look(place, &config).with_context(|| format!("cannot look into {}", place.display()))?;
        if store.list(SAVEPOINT_FILE)?.iter().any(|file| file.name == SAVEPOINT_FILE) {
            return Ok(Found::Savepoint(Savepoint::open(place, &config)?));
        }
        Ok(Found::Checkpoints(store))
    }
}

/// The checkpoint of that epoch, or else the newest whose manifest can be believed.
fn choose(store: &Store, epoch: Option<u64>) -> Result<Manifest> {
    let listed = store.checkpoints()?;
    let place = store.directory().display();
    if listed.is_empty() {
        bail!("{place}: there is neither a checkpoint nor a savepoint");
    }
    let epochs = || listed.iter().map(|listing| listing.epoch.0.to_string()).collect::<Vec<_>>().join(", ");
    let Some(epoch) = epoch else {
        let mut first_wrong = None;
        for Listing { path, manifest, .. } in store.checkpoints()? {
            match manifest {
                Ok(manifest) => return Ok(manifest),
                Err(why) => drop(first_wrong.get_or_insert(format!("{}: {why}", path.display()))),
            }
        }
        bail!("{place}: none of its checkpoints can be believed; {}", first_wrong.unwrap_or_default());
    };
    let listing = store.checkpoints()?.into_iter().find(|listing| listing.epoch == Epoch(epoch));
    let listing =
        listing.ok_or_else(|| anyhow!("{place}: there is no checkpoint of epoch {epoch}, only of {}", epochs()))?;
    listing.manifest.map_err(|why| anyhow!("{}: {why}", listing.path.display()))
}

/// The pages of a part, read as they are.
fn pages_of(store: &Store, uid: &str, shard: u32, table: &TablePart) -> Result<PageStore> {
    let config = TableConfig { operator: uid.to_owned(), shard, ..TableConfig::default() };
    Ok(PageStore::restore_unknown(config, store, table)?.0)
}

/// A place for checkpoints, or a savepoint.
#[derive(Args, Debug)]
struct PlaceArgs {
    /// A directory of checkpoints, or a savepoint
    #[arg(value_name = "DIR")]
    place: PathBuf,
}
