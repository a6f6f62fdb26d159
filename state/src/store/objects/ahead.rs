//! A file read from its beginning to its end, some ranges ahead of the reader.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::Receiver;

use bytes::{Buf, Bytes};
use object_store::path::Path as Key;

use super::{Bucket, runtime, within};

/// Bytes of one request.
const RANGE_BYTES: u64 = 4 << 20;
/// Requests under way at once: with what is being read, a reader holds 20 MiB at most.
const RANGES_AHEAD: usize = 4;

/// Sequential reads of one object.
pub(in crate::store) struct Ahead {
    bucket: Bucket,
    key: Key,
    len: u64,
    asked: u64,
    coming: VecDeque<Receiver<io::Result<Bytes>>>,
    current: Bytes,
}

impl Ahead {
    /// Nothing is asked for before the first read.
    pub(in crate::store) fn new(bucket: &Bucket, name: &str, len: u64) -> Ahead {
        let (bucket, key) = (bucket.clone(), bucket.key(name));
        Ahead { bucket, key, len, asked: 0, coming: VecDeque::new(), current: Bytes::new() }
    }

    pub(in crate::store) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            self.ask()?;
            let Some(next) = self.coming.pop_front() else { return Ok(0) };
            self.current = runtime::wait(&next)?;
            self.ask()?;
        }
        let len = into.len().min(self.current.len());
        self.current.copy_to_slice(&mut into[..len]);
        Ok(len)
    }

    /// Bytes from anywhere, exactly so many.
    pub(in crate::store) fn get_range(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let (bucket, key) = (self.bucket.clone(), self.key.clone());
        let range = async move { within(bucket.patience.total, bucket.range(&key, offset, len as u64)).await };
        runtime::run(range).map(|bytes| bytes.to_vec())
    }

    /// Keeps as many requests under way as there may be.
    fn ask(&mut self) -> io::Result<()> {
        while self.coming.len() < RANGES_AHEAD && self.asked < self.len {
            let (at, len) = (self.asked, RANGE_BYTES.min(self.len - self.asked));
            let (bucket, key) = (self.bucket.clone(), self.key.clone());
            let range = async move { within(bucket.patience.total, bucket.range(&key, at, len)).await };
            self.coming.push_back(runtime::start_work(range)?);
            self.asked += len;
        }
        Ok(())
    }
}
