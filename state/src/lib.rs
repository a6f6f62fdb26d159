//! Keyed state in memory-mapped pages: tables, dirty lines, snapshots, manifests.
//!
//! ```text
//! an update's road    key ─▶ hash ─▶ directory ─▶ page ─▶ line ─▶ mark ─▶ value
//! a barrier's road    freeze ─▶ drain ─▶ snapshot file ─▶ manifest ─▶ confirm | abort
//! a restart           manifest ─▶ chain of files ─▶ pages ─▶ directories
//! ```
//!
//! Hashing bucket, dirty tracking, copy-on-write, snapshot I/O, checksum and restore all speak of one thing, the page of
//! 4 KiB, so that there is one mechanism instead of seven. Invariant: this crate knows no network and no clock.
//!
//! The rooms, in the order an entry meets them: `fixed`, `key`, `text` and [`hash`] say what can be kept; `fold`, `road`, `removal`,
//! `table`, `directory`, `page` and `segment` keep it; `dirty`, `freeze`, `snapshot` and `chain` write it down; `file`,
//! `store` and `manifest` make it a checkpoint; `restore` and `rescale` bring it back, as `evolution` allows; `savepoint`
//! keeps it apart from pages and shards. Where pages lie in a file that outlives the process, `backing` and `sweep` have the file, `undo`
//! what pages were at the last barriers, and `revive` brings them back without reading any. [`schema`] says what the bytes of
//! all this mean, for those who do not know the types.

#[cfg(test)]
mod auditor;
mod backing;
mod chain;
mod directory;
mod dirty;
mod evolution;
mod file;
mod fixed;
mod fold;
mod freeze;
pub mod hash;
mod judge;
mod key;
mod manifest;
mod page;
mod page_store;
mod within;
mod packed;
mod pending;
mod rescale;
mod removal;
mod residence;
mod restore;
mod revive;
mod road;
mod savepoint;
pub mod schema;
mod segment;
mod shape;
mod slotted;
mod slotted_table;
mod snapshot;
mod store;
mod stored;
mod sweep;
mod table;
mod text;
mod undo;

pub use backing::Backing;
pub use evolution::{DeclaredState, Fit};
pub use file::SnapshotFile;
pub use fixed::{Both, Fixed, are_bytes_of, bytes_of, type_text};
pub use freeze::{Drained, SnapshotSize};
pub use hash::HashRange;
pub use judge::{JobSchemas, Judged, OperatorSchemas, StateVerdict};
pub use key::Key;
pub use manifest::{FORMAT_VERSION, Manifest, ManifestError, OperatorPart, Part, TablePart};
pub use packed::Packed;
pub use page::{is_zero, same_bytes};
pub use page_store::PageStore;
pub use residence::{major_faults_of_thread, memory_bytes_max};
pub use restore::{How, RestoreError, Restored};
pub use revive::Doubt;
pub use savepoint::{
    SAVEPOINT_FILE, SAVEPOINT_VERSION, SavedEntry, SavedFile, SavedOperator, SavedPart, SavedState, Savepoint,
    SavepointError, SavepointManifest, SavepointReport,
};
pub use segment::{LINE_BYTES, PAGE_BYTES};
pub use shape::{EntryBytes, LayoutPart, StatePart};
pub use slotted_table::{Seen, SlottedTable};
pub use snapshot::{BLOCK_BYTES, CHUNK_BYTES, Chunk, FileRef};
#[cfg(feature = "testing")]
pub use store::TemporaryPlace;
pub use store::{
    DiskFault, DiskOperation, Listed, Listing, Newest, Patience, RETAINED_DEFAULT, Reader, Register, Rejected,
    RejectedWhy, Store, StoreConfig, StoreError, Version, Writing,
};
pub use stored::{AsArchived, AsKey, SlotKey, Stored};
pub use sweep::{segments_of_job, sweep_segments};
pub use table::{Namespace, ScanCursor, StateError, Table, TableBytes, TableConfig};
pub use text::{Text, TextError};
pub use within::{SlotWithin, SlotWithinRef, SubKey, Within};

/// The stretch of a stream between two barriers, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);
