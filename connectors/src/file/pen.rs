//! A pending file while it is written: the road hands over pieces, a task beside the road puts them down.

use std::cell::{Cell, OnceCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::Task;
use glommio::channels::local_channel::{self, LocalReceiver, LocalSender};
use glommio::io::{BufferedFile, Directory, OpenOptions};
use millstream::road::sink::SinkError;

use super::{IntoIoError, Place, doing};

/// What is on its way to the disk for one writer, and the failure that ended it all.
///
/// A failed write poisons the writer for good: every later call gets the same answer until the job has restarted.
#[derive(Default, Debug)]
pub(super) struct Afloat {
    bytes: Cell<usize>,
    failure: OnceCell<Failure>,
}

/// An error that can be told more than once.
#[derive(Debug)]
struct Failure {
    what: String,
    kind: io::ErrorKind,
    os: Option<i32>,
}

impl Afloat {
    /// Bytes handed over and not yet taken by the file system.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// The failure, if there was one.
    #[inline]
    pub(super) fn check(&self) -> Result<(), SinkError> {
        match self.failure.get() {
            None => Ok(()),
            Some(Failure { what, kind, os }) => Err(SinkError::Io {
                what: what.clone(),
                source: os.map_or_else(|| (*kind).into(), io::Error::from_raw_os_error),
            }),
        }
    }

    fn fail(&self, path: &Path, error: &io::Error) {
        let what = format!(
            "cannot write {} (make room or mend the disk, then start the job again: what is committed stays, what is not \
             is written anew)",
            path.display()
        );
        // The first failure is the cause; what follows from it on another file adds nothing.
        let _ = self.failure.set(Failure { what, kind: error.kind(), os: error.raw_os_error() });
    }
}

/// The right to add to one pending file. Dropped without [`close`](Pen::close), the file is left as it is, for the next
/// start of the shard to delete.
#[derive(Debug)]
pub(super) struct Pen {
    name: String,
    pieces: LocalSender<Vec<u8>>,
    task: Task<()>,
    afloat: Rc<Afloat>,
}

impl Pen {
    /// Starts the task that makes the file `name`.
    pub(super) fn start(place: &Place, name: String, afloat: &Rc<Afloat>) -> Pen {
        let (pieces, received) = local_channel::new_unbounded();
        let (path, pending) = (place.pending.join(&name), place.pending.clone());
        let shared = Rc::clone(afloat);
        let task = glommio::spawn_local(async move {
            if let Err(error) = put_down(&path, pending, received, &shared).await {
                shared.fail(&path, &error);
            }
        });
        Pen { name, pieces, task, afloat: Rc::clone(afloat) }
    }

    /// Hands a piece over. The channel has no bound of its own: `ready` keeps the road back before it grows.
    pub(super) fn send(&self, piece: Vec<u8>) {
        self.afloat.bytes.set(self.afloat.bytes.get() + piece.len());
        // A task that failed has closed the channel and left its reason in `afloat`.
        let _ = self.pieces.try_send(piece);
    }

    /// The file's name in the directory of pending files.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the whole file and its name are on the disk.
    pub(super) async fn close(self) -> Result<(), SinkError> {
        drop(self.pieces);
        self.task.await;
        self.afloat.check()
    }
}

/// Writes one file from its first piece to its sync. Buffered: what a job puts out in an epoch is mostly less than a
/// direct write's alignment is worth, and it is synced at the barrier anyway.
async fn put_down(
    path: &Path,
    pending: PathBuf,
    pieces: LocalReceiver<Vec<u8>>,
    afloat: &Afloat,
) -> Result<(), io::Error> {
    let options = OpenOptions::new().write(true).create_new(true).buffered_open(path).await;
    let file: BufferedFile = options.map_err(IntoIoError::into_io_error)?;
    let mut at = 0;
    while let Some(piece) = pieces.recv().await {
        let length = piece.len();
        let written = file.write_at(piece, at).await.map_err(IntoIoError::into_io_error)?;
        if written < length {
            // The kernel took what fitted. The piece went with the call, and the rest would be refused anyway.
            return Err(io::ErrorKind::StorageFull.into());
        }
        at += length as u64;
        afloat.bytes.set(afloat.bytes.get() - length);
    }
    file.fdatasync().await.map_err(IntoIoError::into_io_error)?;
    file.close().await.map_err(IntoIoError::into_io_error)?;
    sync_dir(&pending).await
}

/// Makes the names in a directory survive the machine.
pub(super) async fn sync_dir(dir: &Path) -> Result<(), io::Error> {
    // glommio 0.9.0 opens a directory relative to descriptor -1, which only an absolute path does not mind.
    let dir = Directory::open(std::path::absolute(dir)?).await.map_err(IntoIoError::into_io_error)?;
    dir.sync().await.map_err(IntoIoError::into_io_error)?;
    dir.close().await.map_err(IntoIoError::into_io_error)
}

/// As [`sync_dir`], for those who answer to the engine.
pub(super) async fn sync_names(dir: &Path) -> Result<(), SinkError> {
    sync_dir(dir).await.map_err(doing("cannot sync the directory", dir))
}
