//! A place for checkpoints that goes away with the test that made it.

use std::rc::Rc;

use tempfile::TempDir;

use super::{Store, StoreError};

/// A directory of its own below the system's temporary one, removed when its last clone is dropped.
#[derive(Clone, Debug)]
pub struct TemporaryPlace {
    store: Store,
    _directory: Rc<TempDir>,
}

impl TemporaryPlace {
    /// Makes the directory.
    ///
    /// # Errors
    /// When there cannot be one: `TMPDIR` may name another place to make it in.
    pub fn new() -> Result<TemporaryPlace, StoreError> {
        let parent = std::env::temp_dir();
        let directory = tempfile::Builder::new()
            .prefix("millstream-test-")
            .tempdir()
            .map_err(|source| StoreError::Directory { directory: parent, what: "written to", source })?;
        let store = Store::open(directory.path())?;
        Ok(TemporaryPlace { store, _directory: Rc::new(directory) })
    }

    /// The store of what is kept there.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }
}
