//! A chunk on its way to another thread, and its memory on the way back.
#![expect(unsafe_code, reason = "sends a buffer that glommio does not mark as fit to be sent")]

use std::sync::Arc;

use glommio::io::DmaBuffer;

use super::upload::Shared;
use crate::snapshot::CHUNK_BYTES;

/// The bytes of a chunk, lent to the client without a copy. Dropped, it gives the memory back to the upload.
pub(super) struct Parcel {
    // None only in the drop.
    buffer: Option<SentBuffer>,
    home: Arc<Shared>,
}

/// A buffer of a chunk. Those come from the global allocator, never from a ring's registered memory.
pub(super) struct SentBuffer(pub(super) DmaBuffer);

// SAFETY: the buffer owns memory of the global allocator (`Chunk` has no other), which any thread may read and free.
unsafe impl Send for SentBuffer {}

// SAFETY: shared, it is only read.
unsafe impl Sync for SentBuffer {}

impl Parcel {
    pub(super) fn new(buffer: DmaBuffer, home: Arc<Shared>) -> Parcel {
        Parcel { buffer: Some(SentBuffer(buffer)), home }
    }
}

impl AsRef<[u8]> for Parcel {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| buffer.0.as_bytes())
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take().filter(|buffer| buffer.0.len() == CHUNK_BYTES) {
            self.home.give_back(buffer);
        }
    }
}
