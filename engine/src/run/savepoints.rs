//! Savepoints of a running job: each is made of a checkpoint that is complete and committed, by a thread of its own, while
//! the job goes on and nothing deletes the checkpoint's files.
//!
//! ```text
//! handle: request ─▶ lead: a checkpoint now ─▶ its manifest, pinned ─▶ all sinks have committed ─▶ thread: convert, unpin, answer
//! ```

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};
use millstream_state::{Epoch, Manifest, Savepoint, SavepointReport, Store, StoreConfig};

use super::process::spawn_named;
use crate::epoch::Barrier;

/// What the handle asks for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) place: PathBuf,
    /// The job is to stop with it.
    pub(crate) stops: bool,
    pub(crate) answer: Sender<Result<SavepointReport, String>>,
}

/// Files that retention spares, by who needs them.
#[derive(Clone, Default, Debug)]
pub(crate) struct Pins(Arc<Mutex<BTreeMap<u64, HashSet<String>>>>);

impl Pins {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<u64, HashSet<String>>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All files that are spared.
    pub(crate) fn names(&self) -> HashSet<String> {
        let mut names = HashSet::new();
        self.change(|pins| names.extend(pins.values().flatten().cloned()));
        names
    }
}

/// The lead's savepoints.
pub(crate) struct Savepoints {
    requests: Receiver<Request>,
    waiting: Vec<Waiting>,
    /// The newest checkpoint that was to be made durable.
    newest: Option<Arc<Manifest>>,
    pub(crate) pins: Pins,
    next_pin: u64,
    making: Vec<JoinHandle<()>>,
}

/// A savepoint on its way to its checkpoint.
struct Waiting {
    request: Request,
    /// Of the checkpoint it is made of; none before that is begun.
    epoch: Option<Epoch>,
    /// That checkpoint, once it is to be made durable, and what spares its files.
    manifest: Option<(Arc<Manifest>, u64)>,
}

impl Savepoints {
    /// Nothing asked for yet, and where to ask.
    pub(crate) fn new() -> (Savepoints, Sender<Request>) {
        let (ask, requests) = unbounded();
        let (waiting, making) = (Vec::new(), Vec::new());
        (Savepoints { requests, waiting, newest: None, pins: Pins::default(), next_pin: 0, making }, ask)
    }

    /// Takes what is asked for; says whether a checkpoint is wanted for it, and whether the job is to stop.
    pub(crate) fn take(&mut self) -> (bool, bool) {
        let (mut wanted, mut stops) = (false, false);
        while let Ok(request) = self.requests.try_recv() {
            wanted = true;
            stops |= request.stops;
            self.waiting.push(Waiting { request, epoch: None, manifest: None });
        }
        (wanted, stops)
    }

    /// An attempt begins; says whether it is waited for.
    pub(crate) fn attempt_begins(&mut self) -> bool {
        self.newest = None;
        for waiting in &mut self.waiting {
            waiting.epoch = None;
            if let Some((_, pin)) = waiting.manifest.take() {
                self.pins.change(|pins| drop(pins.remove(&pin)));
            }
        }
        !self.waiting.is_empty()
    }

    /// A checkpoint begins: all that was asked for before is in it. A job that is to stop with a savepoint does so with its
    /// last checkpoint, and another one may be on its way when that is asked for.
    pub(crate) fn begun(&mut self, barrier: Barrier) {
        let is_for = |waiting: &&mut Waiting| waiting.epoch.is_none() && (barrier.last || !waiting.request.stops);
        for waiting in self.waiting.iter_mut().filter(is_for) {
            waiting.epoch = Some(barrier.epoch);
        }
    }

    /// A checkpoint is about to be made durable: from here on its files are spared.
    pub(crate) fn persisting(&mut self, manifest: &Manifest) {
        let manifest = Arc::new(manifest.clone());
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.epoch == Some(manifest.epoch)) {
            waiting.pin(&manifest, &self.pins, &mut self.next_pin);
        }
        self.newest = Some(manifest);
    }

    /// A checkpoint is given up, and with it the savepoints that were to be made of it.
    pub(crate) fn aborted(&mut self, epoch: Epoch, why: &str) {
        let (of_it, others) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.epoch == Some(epoch));
        self.waiting = others;
        for waiting in of_it {
            waiting.refuse(&self.pins, &format!("the checkpoint that it was to be made of failed: {why}"));
        }
    }

    /// All sinks have committed the checkpoint: what was waiting for it is made, each by a thread of its own.
    pub(crate) fn committed(&mut self, epoch: Epoch, store: Option<&Store>, config: &StoreConfig) {
        self.making.retain(|thread| !thread.is_finished());
        let (ready, others) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| waiting.epoch.is_some_and(|of| of <= epoch));
        self.waiting = others;
        for waiting in ready {
            self.make(waiting, store, config);
        }
    }

    /// The job has finished: what was asked for too late for a checkpoint is made of the last one, which holds all there
    /// is.
    pub(crate) fn finished(&mut self, store: Option<&Store>, config: &StoreConfig) {
        self.take();
        let Some(manifest) = self.newest.clone() else { return };
        for waiting in &mut self.waiting {
            waiting.epoch = Some(manifest.epoch);
            waiting.pin(&manifest, &self.pins, &mut self.next_pin);
        }
        self.committed(manifest.epoch, store, config);
    }

    fn make(&mut self, waiting: Waiting, store: Option<&Store>, config: &StoreConfig) {
        let Some(store) = store.cloned() else {
            let why = "it is made of a checkpoint, and the job keeps none: give it a place, with .checkpoints(..)";
            return waiting.refuse(&self.pins, why);
        };
        let Waiting { request: Request { place, answer, .. }, manifest, .. } = waiting;
        let Some((manifest, pin)) = manifest else {
            // The shards have acknowledged the epoch, or it would not be committed.
            unreachable!("an epoch that is committed was made durable before")
        };
        let (pins, config) = (self.pins.clone(), config.clone());
        let told = answer.clone();
        let thread = spawn_named("millstream-savepoint", move || {
            let made = Savepoint::of_checkpoint(&store, &manifest, &place, &config, true);
            pins.change(|pins| drop(pins.remove(&pin)));
            match &made {
                Ok(made) => tracing::info!(
                    path = %made.path.display(), epoch = made.epoch.0, entries = made.entries, bytes = made.bytes,
                    "a savepoint was made"
                ),
                Err(error) => tracing::warn!(place = %place.display(), %error, "no savepoint was made"),
            }
            // Whoever asked may have gone.
            drop(answer.send(made.map_err(|error| error.to_string())));
        });
        match thread {
            Ok(thread) => self.making.push(thread),
            Err(error) => {
                self.pins.change(|pins| drop(pins.remove(&pin)));
                drop(told.send(Err(format!("its thread cannot be started: {error}"))));
            }
        }
    }

    /// The job has ended: waits for what is being made, and tells the others.
    pub(crate) fn end(mut self) {
        self.take();
        for waiting in std::mem::take(&mut self.waiting) {
            waiting.refuse(&self.pins, "the job ended before its checkpoint was complete");
        }
        for thread in self.making.drain(..) {
            // A panic there has been told on stderr, and the answer's end tells whoever waits.
            drop(thread.join());
        }
    }
}

impl Waiting {
    fn pin(&mut self, manifest: &Arc<Manifest>, pins: &Pins, next: &mut u64) {
        if self.manifest.is_none() {
            let names = manifest.files().map(|file| file.name.clone()).collect();
            pins.change(|pins| drop(pins.insert(*next, names)));
            self.manifest = Some((manifest.clone(), *next));
            *next += 1;
        }
    }

    fn refuse(self, pins: &Pins, why: &str) {
        if let Some((_, pin)) = self.manifest {
            pins.change(|pins| drop(pins.remove(&pin)));
        }
        tracing::warn!(place = %self.request.place.display(), why, "no savepoint was made");
        drop(self.request.answer.send(Err(why.to_owned())));
    }
}
