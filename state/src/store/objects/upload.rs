//! A file on its way into an object store, without its writer waiting for the way.
//!
//! The writer hands chunks over and goes on. The client's thread gathers them into parts, sends some at a time, and rings
//! when there is room again, when all is done, or when something failed. A file of less than a part is put in one piece;
//! a longer one is a multipart upload, which is aborted unless it is finished.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::bell::{Bell, Ear};
use super::parcel::{Parcel, SentBuffer};
use super::retry::plain;
use super::{Bucket, runtime, within};
use crate::snapshot::{CHUNK_BYTES, Chunk};

/// Bytes of a part: stores want 5 MiB and all but the last of one length; 10,000 of them make a file of 80 GB.
const PART_BYTES: usize = 16 * CHUNK_BYTES;
/// Bytes that every file may have in memory, so that each can fill a part whatever the others do.
const OWN_BYTES: usize = PART_BYTES;
/// Bytes that all files of the process may have in memory beyond that.
const COMMON_BYTES: usize = 64 << 20;
/// Buffers kept for the writer's next chunks.
const SPARE_MAX: usize = 8;
/// An abort is a courtesy: what it leaves behind, the bucket's own rule for unfinished uploads deletes.
const ABORT: Duration = Duration::from_secs(10);

static COMMON_USED: AtomicUsize = AtomicUsize::new(0);

/// An upload, at its writer's end. Dropped before it is finished, it leaves nothing behind.
pub(crate) struct Upload {
    shared: Arc<Shared>,
    to_client: UnboundedSender<Message>,
    /// None on a plain thread.
    ear: Option<Ear>,
    finished: bool,
}

enum Message {
    Bytes(Bytes),
    Finish,
}

/// What both ends see.
pub(super) struct Shared {
    bell: Bell,
    abandoned: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes handed over and not yet in the store; what exceeds [`OWN_BYTES`] is taken from the common room.
    held: usize,
    spare: Vec<SentBuffer>,
    outcome: Option<Result<(), io::Error>>,
}

impl State {
    fn of_common(held: usize) -> usize {
        held.saturating_sub(OWN_BYTES)
    }

    fn admit(&mut self, bytes: usize) -> bool {
        let more = State::of_common(self.held + bytes) - State::of_common(self.held);
        let room = |used: usize| (used + more <= COMMON_BYTES).then_some(used + more);
        let admitted = more == 0 || COMMON_USED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        if admitted {
            self.held += bytes;
        }
        admitted
    }

    fn release(&mut self, bytes: usize) {
        let less = State::of_common(self.held) - State::of_common(self.held - bytes);
        COMMON_USED.fetch_sub(less, Ordering::Relaxed);
        self.held -= bytes;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn give_back(&self, buffer: SentBuffer) {
        let mut state = self.state();
        if state.spare.len() < SPARE_MAX {
            state.spare.push(buffer);
        }
    }

    /// The first outcome stands.
    fn settle(&self, outcome: io::Result<()>) {
        self.state().outcome.get_or_insert(outcome);
        self.bell.ring();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.release(state.held);
    }
}

impl Upload {
    /// Starts on a shard, inside its executor. Nothing has been asked of the store when this returns.
    pub(crate) fn on_shard(bucket: &Bucket, name: &str) -> io::Result<Upload> {
        let mut upload = Upload::on_thread(bucket, name)?;
        upload.ear = Some(upload.shared.bell.ear()?);
        Ok(upload)
    }

    /// Starts on a thread that may wait.
    pub(crate) fn on_thread(bucket: &Bucket, name: &str) -> io::Result<Upload> {
        let (to_client, messages) = unbounded_channel();
        let shared =
            Arc::new(Shared { bell: Bell::new()?, abandoned: AtomicBool::new(false), state: Mutex::default() });
        runtime::handle()?.spawn(upload(bucket.clone(), bucket.key(name), messages, shared.clone()));
        Ok(Upload { shared, to_client, ear: None, finished: false })
    }

    /// Hands a chunk over and gives another one for it, as soon as there is room.
    pub(crate) async fn write(&mut self, chunk: Chunk) -> io::Result<Chunk> {
        let len = chunk.bytes().len();
        while !self.is_admitted(len)? {
            self.heard().await?;
        }
        let spare = self.shared.state().spare.pop();
        let parcel = Parcel::new(chunk.buffer, self.shared.clone());
        self.send(Message::Bytes(Bytes::from_owner(parcel)));
        Ok(spare.map_or_else(Chunk::new, |SentBuffer(buffer)| Chunk { buffer }))
    }

    /// Waits until the file is in the store, whole.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        self.send(Message::Finish);
        loop {
            if let Some(outcome) = self.outcome() {
                self.finished = outcome.is_ok();
                return outcome;
            }
            self.heard().await?;
        }
    }

    /// [`write`](Upload::write) on a thread that may wait.
    pub(crate) fn write_blocking(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        while !self.is_admitted(bytes.len())? {
            self.shared.bell.wait()?;
        }
        self.send(Message::Bytes(Bytes::from(bytes)));
        Ok(())
    }

    /// [`finish`](Upload::finish) on a thread that may wait.
    pub(crate) fn finish_blocking(mut self) -> io::Result<()> {
        self.send(Message::Finish);
        loop {
            if let Some(outcome) = self.outcome() {
                self.finished = outcome.is_ok();
                return outcome;
            }
            self.shared.bell.wait()?;
        }
    }

    fn send(&self, message: Message) {
        // The client's end closes only after it has settled the outcome, which says why.
        let _ = self.to_client.send(message);
    }

    fn outcome(&self) -> Option<io::Result<()>> {
        self.shared.state().outcome.take()
    }

    fn is_admitted(&self, bytes: usize) -> io::Result<bool> {
        let mut state = self.shared.state();
        match state.outcome.take() {
            Some(Err(error)) => Err(error),
            Some(Ok(())) => unreachable!("a file that is not finished is not done"),
            None => Ok(state.admit(bytes)),
        }
    }

    async fn heard(&self) -> io::Result<()> {
        match &self.ear {
            Some(ear) => ear.wait().await,
            None => unreachable!("only an upload of a shard is awaited"),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // The client's end sees that the messages have ended, or at its own end that nobody wants the file any more.
        self.shared.abandoned.store(!self.finished, Ordering::Release);
    }
}

/// The client's end.
async fn upload(bucket: Bucket, key: Key, messages: UnboundedReceiver<Message>, shared: Arc<Shared>) {
    let mut multipart = None;
    let total = bucket.patience.total;
    let outcome = within(total, gather(&bucket, &key, messages, &shared, &mut multipart)).await;
    if outcome.is_err()
        && let Some(mut multipart) = multipart
    {
        let abort = async { multipart.abort().await.map_err(plain) };
        // Best effort, as the constant says.
        let _ = within(ABORT.min(total), abort).await;
    }
    if outcome.is_ok() && shared.abandoned.load(Ordering::Acquire) {
        // Best effort: an orphan is removed with the next old checkpoint.
        let delete = async { bucket.client.delete(&key).await.map_err(plain) };
        let _ = within(ABORT.min(total), delete).await;
    }
    shared.settle(outcome);
}

/// Makes parts of what comes, sends them, and completes the file.
async fn gather(
    bucket: &Bucket,
    key: &Key,
    mut messages: UnboundedReceiver<Message>,
    shared: &Arc<Shared>,
    multipart: &mut Option<Box<dyn MultipartUpload>>,
) -> io::Result<()> {
    let mut parts = JoinSet::new();
    let (mut part, mut part_bytes, mut bytes) = (Vec::new(), 0, 0);
    let mut ended = false;
    while !ended {
        match messages.recv().await {
            Some(Message::Bytes(chunk)) => {
                part_bytes += chunk.len();
                bytes += chunk.len() as u64;
                part.push(chunk);
            }
            Some(Message::Finish) => ended = true,
            None => return Err(io::Error::other("the file was abandoned by its writer")),
        }
        while let Some(done) = parts.try_join_next() {
            done.map_err(io::Error::other)??;
        }
        if part_bytes < PART_BYTES && !(ended && multipart.is_some() && part_bytes > 0) {
            continue;
        }
        let upload = match multipart {
            Some(upload) => upload,
            None => {
                let begin = |client: Arc<dyn ObjectStore>, key| async move { client.put_multipart(&key).await };
                multipart.insert(bucket.ask(key, begin).await.map_err(plain)?)
            }
        };
        let len = std::mem::take(&mut part_bytes);
        let permit = bucket.requests.clone().acquire_owned().await.map_err(io::Error::other)?;
        let sending = upload.put_part(PutPayload::from_iter(part.drain(..)));
        let shared = shared.clone();
        parts.spawn(async move {
            let sent = sending.await.map_err(plain);
            drop(permit);
            match &sent {
                Ok(()) => shared.state().release(len),
                // The writer may be waiting for room that will never come.
                Err(error) => shared.settle(Err(io::Error::new(error.kind(), error.to_string()))),
            }
            shared.bell.ring();
            sent
        });
    }
    let Some(upload) = multipart else {
        return bucket.put_whole(key, PutPayload::from_iter(part)).await;
    };
    while let Some(done) = parts.join_next().await {
        done.map_err(io::Error::other)??;
    }
    let Err(error) = upload.complete().await else { return Ok(()) };
    // The answer may have been lost, and the question asked again of a store that had done it. The name is ours alone.
    match bucket.client.head(key).await {
        Ok(found) if found.size == bytes => Ok(()),
        _ => Err(plain(error)),
    }
}
