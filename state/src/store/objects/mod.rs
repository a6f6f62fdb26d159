//! An object store: S3, Google Cloud Storage, Azure Blob Storage, or anything that speaks like one of them.
//!
//! ```text
//! a shard     ─ chunks ──▶ upload ─ parts of 8 MiB ─▶ ┐
//!             ◀─ a bell ─                             │ millstream-objects: one thread,
//! the lead    ─ a request, and waits ───────────────▶ │ one client, all requests        ─▶ the store
//! a restore   ◀─ ranges, read ahead ───────────────── ┘
//! ```
//!
//! What fails for reasons that pass is tried again by the client itself; what the client must not repeat on its own, a
//! put that may have been applied, is decided here by looking at what is there.

mod address;
mod ahead;
mod bell;
mod parcel;
mod retry;
mod runtime;
mod upload;

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{
    Attribute, AttributeValue, Attributes, Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub(super) use ahead::Ahead;
pub(crate) use upload::Upload;

use super::config::{Patience, StoreConfig};
use super::{Listed, StoreError};
use retry::{Retries, is_transient, plain};

/// An object store that is opened shows in this time that it is there.
const PROBE: Duration = Duration::from_secs(10);
/// Requests of a kind under way at once, so that many files do not mean many connections.
const REQUESTS_MAX: usize = 16;
/// Who put a manifest, among its attributes: two coordinators may put the same bytes. Letters only, as Azure wants it.
const WRITER: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("millstreamwriter"));

/// A prefix in a bucket. Clones are the same.
#[derive(Clone)]
pub(crate) struct Bucket {
    client: Arc<dyn ObjectStore>,
    prefix: Key,
    patience: Patience,
    /// Part of the name of every file that this process writes: no other process writes one of that name.
    token: u64,
    /// For the parts of all uploads of this store.
    requests: Arc<Semaphore>,
}

impl Bucket {
    /// Connects, and asks for nothing yet.
    pub(super) fn look(address: &Path, config: &StoreConfig) -> Result<Bucket, StoreError> {
        let (client, prefix) = address::connect(address, config)?;
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        Ok(Bucket { client, prefix, patience: config.patience, token: random(), requests })
    }

    /// Connects, and proves that objects can be put.
    pub(super) fn open(address: &Path, config: &StoreConfig) -> Result<Bucket, StoreError> {
        // Whoever has mistyped an endpoint is not to wait for it as for one that is known to exist.
        let mut hasty = config.clone();
        hasty.patience.total = hasty.patience.total.min(PROBE);
        let trial = Bucket::look(address, &hasty)?;
        let probe = format!("{}{:016x}", super::local::PROBE_PREFIX, random());
        let proof = trial.put(&probe, b"probe").and_then(|()| trial.delete(std::slice::from_ref(&probe)));
        proof.map_err(|source| StoreError::Bucket { place: address.to_owned(), what: "written to", source })?;
        Bucket::look(address, config)
    }

    /// What is under `directory` of this one.
    pub(super) fn sub(&self, directory: &str) -> Bucket {
        let mut sub = self.clone();
        sub.prefix = self.key(directory);
        sub
    }

    fn key(&self, name: &str) -> Key {
        // A name may have directories in it.
        let parts = self.prefix.parts().chain(name.split('/').filter(|part| !part.is_empty()).map(Into::into));
        Key::from_iter(parts)
    }

    /// A name that nothing has, from a readable stem and its suffix.
    pub(crate) fn unused_name(&self, stem: &str, suffix: &str) -> String {
        // One process may open a file of that stem again after it has failed.
        static NUMBERS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let nth = NUMBERS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        format!("{stem}-{:016x}-{nth}{suffix}", self.token)
    }

    /// Does `work` on the client's thread while this one waits, for as long as patience lasts.
    fn run<T: Send + 'static>(&self, work: impl Future<Output = io::Result<T>> + Send + 'static) -> io::Result<T> {
        runtime::run(within(self.patience.total, work))
    }

    /// Asks for one thing, again and again where that helps.
    async fn ask<T, W>(
        &self,
        key: &Key,
        one: impl Fn(Arc<dyn ObjectStore>, Key) -> W + Send + Sync,
    ) -> object_store::Result<T>
    where
        W: Future<Output = object_store::Result<T>> + Send + 'static,
    {
        Retries::new(&self.patience).run(|| Box::pin(one(self.client.clone(), key.clone()))).await
    }

    /// The files of this prefix whose names begin with `prefix`; not those of directories in it.
    pub(super) fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let (bucket, prefix) = (self.clone(), prefix.to_owned());
        self.run(async move {
            let list = |client: Arc<dyn ObjectStore>, key| async move { client.list_with_delimiter(Some(&key)).await };
            let found = bucket.ask(&bucket.prefix, list).await.map_err(plain)?;
            let listed = found.objects.into_iter().filter_map(|object| {
                let name = object.location.filename()?.to_owned();
                name.starts_with(&prefix).then_some(Listed { name, bytes: object.size })
            });
            Ok(listed.collect())
        })
    }

    pub(super) fn get(&self, name: &str) -> io::Result<Vec<u8>> {
        let (bucket, key) = (self.clone(), self.key(name));
        self.run(async move { bucket.get_whole(&key).await.map(|(bytes, _)| bytes.to_vec()).map_err(plain) })
    }

    /// An object, and who put it.
    async fn get_whole(&self, key: &Key) -> object_store::Result<(Bytes, Option<AttributeValue>)> {
        let get = |client: Arc<dyn ObjectStore>, key| async move {
            let got = client.get_opts(&key, GetOptions::default()).await?;
            let writer = got.attributes.get(&WRITER).cloned();
            Ok((got.bytes().await?, writer))
        };
        self.ask(key, get).await
    }

    pub(super) fn len(&self, name: &str) -> io::Result<u64> {
        let (bucket, key) = (self.clone(), self.key(name));
        self.run(async move { bucket.len_of(&key).await.map_err(plain) })
    }

    async fn len_of(&self, key: &Key) -> object_store::Result<u64> {
        let head = |client: Arc<dyn ObjectStore>, key| async move { client.head(&key).await };
        Ok(self.ask(key, head).await?.size)
    }

    /// Bytes of an object, exactly so many.
    async fn range(&self, key: &Key, offset: u64, len: u64) -> io::Result<Bytes> {
        let range = offset..offset + len;
        let get = move |client: Arc<dyn ObjectStore>, key| {
            let range = range.clone();
            async move { client.get_range(&key, range).await }
        };
        let bytes = self.ask(key, get).await.map_err(plain)?;
        if bytes.len() as u64 != len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} bytes came instead of {len}", bytes.len()),
            ));
        }
        Ok(bytes)
    }

    /// Of every file, its length and the bytes from where its last chunk should begin.
    pub(super) fn tails(&self, files: Vec<(String, u64)>) -> io::Result<Vec<io::Result<(u64, Vec<u8>)>>> {
        let bucket = self.clone();
        self.run(async move { all(files.into_iter().map(|(name, last_at)| bucket.clone().tail(name, last_at))).await })
    }

    async fn tail(self, name: String, last_at: u64) -> io::Result<(u64, Vec<u8>)> {
        let key = self.key(&name);
        let len = self.len_of(&key).await.map_err(plain)?;
        let last = match len.checked_sub(last_at) {
            Some(rest) if rest > 0 && rest <= crate::CHUNK_BYTES as u64 => {
                self.range(&key, last_at, rest).await?.to_vec()
            }
            // It is not as long as it should be, and nobody will look at its bytes.
            _ => Vec::new(),
        };
        Ok((len, last))
    }

    /// Makes an object be `bytes`, whether or not there was one.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (bucket, key, payload) = (self.clone(), self.key(name), PutPayload::from(bytes.to_vec()));
        self.run(async move { bucket.put_whole(&key, payload).await })
    }

    async fn put_whole(&self, key: &Key, payload: PutPayload) -> io::Result<()> {
        let put = move |client: Arc<dyn ObjectStore>, key| {
            let payload = payload.clone();
            async move { client.put(&key, payload).await }
        };
        self.ask(key, put).await.map(drop).map_err(plain)
    }

    /// Puts an object of a name that nothing has yet; false where somebody else's has it.
    pub(super) fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        let (bucket, key, bytes) = (self.clone(), self.key(name), Bytes::copy_from_slice(bytes));
        self.run(async move { bucket.create(&key, bytes).await })
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> io::Result<bool> {
        let writer = AttributeValue::from(format!("{:016x}", random()));
        let attributes = Attributes::from_iter([(WRITER, writer.clone())]);
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        let mut retries = Retries::new(&self.patience);
        loop {
            let put = self.client.put_opts(key, PutPayload::from(bytes.clone()), options.clone()).await;
            let Err(refused) = put else { return Ok(true) };
            // Whatever the answer, the put may have been applied, by this try or by one that the client repeated: what is
            // there decides.
            match self.get_whole(key).await {
                Ok((found, by)) => return Ok(found == bytes && by.as_ref() == Some(&writer)),
                Err(Error::NotFound { .. }) if matches!(refused, Error::AlreadyExists { .. }) => {
                    // It was somebody's, who has deleted it since.
                    return Ok(false);
                }
                Err(Error::NotFound { .. }) if is_transient(&refused) => {}
                Err(unknown) if is_transient(&unknown) => {}
                Err(_) => return Err(plain(refused)),
            }
            if !retries.wait().await {
                return Err(plain(refused));
            }
        }
    }

    /// Deletes objects; those that are not there are no error.
    pub(super) fn delete(&self, names: &[String]) -> io::Result<()> {
        let (bucket, keys): (_, Vec<Key>) = (self.clone(), names.iter().map(|name| self.key(name)).collect());
        self.run(
            async move { all(keys.into_iter().map(|key| bucket.clone().delete_one(key))).await?.into_iter().collect() },
        )
    }

    async fn delete_one(self, key: Key) -> io::Result<()> {
        let delete = |client: Arc<dyn ObjectStore>, key| async move { client.delete(&key).await };
        match self.ask(&key, delete).await {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other.map_err(plain),
        }
    }
}

/// Does everything, some at a time; the answers are in order.
async fn all<T, W>(works: impl Iterator<Item = W>) -> io::Result<Vec<io::Result<T>>>
where
    T: Send + 'static,
    W: Future<Output = io::Result<T>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(REQUESTS_MAX));
    let mut running = JoinSet::new();
    let mut answers = Vec::new();
    for (at, work) in works.enumerate() {
        answers.push(None);
        let permits = permits.clone();
        running.spawn(async move {
            let _permit = permits.acquire_owned().await;
            (at, work.await)
        });
    }
    while let Some(done) = running.join_next().await {
        let (at, answer) = done.map_err(io::Error::other)?;
        answers[at] = Some(answer);
    }
    Ok(answers.into_iter().map(|answer| answer.expect("every work was joined")).collect())
}

/// The work's answer, or that it did not come in time.
async fn within<T>(total: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("the object store did not answer within {total:?}"));
    tokio::time::timeout(total, work).await.unwrap_or_else(|_| Err(late()))
}

/// A number that nobody else has.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's own source of randomness, seeded by the system.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
