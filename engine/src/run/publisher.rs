//! The publisher: the thread that makes checkpoints exist and deletes old ones, so that the lead never waits for a disk or
//! an object store while shards need it.

use std::io;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};
use millstream_state::{Epoch, Manifest, Store, StoreError};

use super::process::spawn_named;
use super::savepoints::Pins;

/// How a manifest's publication ended.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) epoch: Epoch,
    pub(crate) result: Result<(), StoreError>,
}

/// The lead's hold on the thread. Dropped, it waits for what is under way: what is newest in the store must be certain
/// before anybody asks for it.
pub(crate) struct Publisher {
    // None only in the drop.
    manifests: Option<Sender<Manifest>>,
    pub(crate) published: Receiver<Published>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    pub(crate) fn start(store: Option<Store>, retained: usize, pins: Pins) -> io::Result<Publisher> {
        let (manifests, take) = unbounded();
        let (tell, published) = unbounded();
        let thread =
            spawn_named("millstream-publisher", move || publish_all(store.as_ref(), retained, &pins, &take, &tell))?;
        Ok(Publisher { manifests: Some(manifests), published, thread: Some(thread) })
    }

    /// Publishes when what came before has been; the answer comes by `published`.
    pub(crate) fn publish(&self, manifest: Manifest) {
        let manifests = self.manifests.as_ref().expect("they are taken only in the drop");
        // The thread ends only with us, or by a panic of our own, which the closed `published` tells.
        drop(manifests.send(manifest));
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.manifests = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been told on stderr.
            drop(thread.join());
        }
    }
}

fn publish_all(
    store: Option<&Store>,
    retained: usize,
    pins: &Pins,
    manifests: &Receiver<Manifest>,
    published: &Sender<Published>,
) {
    for manifest in manifests {
        let result = store.map_or(Ok(()), |store| store.publish(&manifest));
        let is_new = result.is_ok();
        // Told first: sinks wait for it. Whatever is written from now on is of later epochs, which are spared below.
        drop(published.send(Published { epoch: manifest.epoch, result }));
        if let Some(store) = store.filter(|_| is_new) {
            // What is left over is only disk space: the next checkpoint clears it.
            if let Err(error) = store.retain_but(retained, &pins.names()) {
                tracing::warn!(%error, "old checkpoints could not be deleted");
            }
        }
    }
}
