//! The exactly-once file sink: each epoch of each shard becomes one file, which appears whole or not at all.
//!
//! ```text
//! DIR/.pending/shard-00003-4711-0        rows of the open epoch, and of epochs that wait for their commit
//! DIR/part-00003-000000000042.txt        the rows of shard 3 in epoch 42: committed, never touched again
//! ```
//!
//! Rows go to a pending file (`pen`), `prepare` makes it durable under its pending name, and `commit` renames it to its
//! final name (`publish`): the rename is the commit. Reading `part-*` in the order of the names gives every shard's rows
//! in the order in which it wrote them; which keys are a shard's changes with the number of shards. An epoch without rows
//! makes no file.
//!
//! What the names hold is all the state there is. A committable says which pending file becomes which final one, and so
//! a commit that comes twice finds the pending name gone and the final one there. Whatever else is pending when a shard
//! starts is output whose checkpoint never came about, and is deleted. A final file of an epoch that the restored
//! checkpoint has not seen belongs to another run: the sink refuses to add to it.
//!
//! A job that goes on with another number of shards commits what the shards before prepared, and deletes what they left
//! pending: shard `i` of `q` does so for every shard `j` with `j % q == i`. No new file gets the name of an old one, since
//! epochs go on and a name has its epoch in it.
//!
//! Deliberately absent: any lock on `DIR`. Shards share it without meeting, since each touches its own names only.

mod partitioned;
mod pen;
mod publish;
mod writer;

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;

use glommio::GlommioError;
use millstream::road::sink::{Epoch, Guarantee, Sink, SinkError};

pub use partitioned::{PartitionedSink, PartitionedWriter};
pub use writer::FileWriter;

/// Writes rows to files in one directory, exactly once.
///
/// ```
/// use millstream::road::sink::{Guarantee, Sink};
/// use millstream_connectors::file::FileSink;
///
/// let sink = FileSink::lines("/data/out", |row: &(u64, u64), out: &mut Vec<u8>| {
///     out.extend_from_slice(format!("{},{}", row.0, row.1).as_bytes());
/// });
/// assert_eq!(Sink::<(u64, u64)>::guarantee(&sink), Guarantee::ExactlyOnce);
/// ```
#[derive(Debug)]
pub struct FileSink<F> {
    dir: PathBuf,
    format: Rc<F>,
    row_end: &'static [u8],
}

impl<F> FileSink<F> {
    /// A sink into `dir`, which is made if it is missing. `format` appends a row's bytes, all of them.
    #[must_use]
    pub fn new<T>(dir: impl Into<PathBuf>, format: F) -> FileSink<F>
    where
        F: Fn(&T, &mut Vec<u8>) + 'static,
    {
        FileSink { dir: dir.into(), format: Rc::new(format), row_end: b"" }
    }

    /// As [`new`](FileSink::new), with a newline after each row.
    #[must_use]
    pub fn lines<T>(dir: impl Into<PathBuf>, format: F) -> FileSink<F>
    where
        F: Fn(&T, &mut Vec<u8>) + 'static,
    {
        FileSink { row_end: b"\n", ..FileSink::new(dir, format) }
    }
}

impl<T: 'static, F: Fn(&T, &mut Vec<u8>) + 'static> Sink<T> for FileSink<F> {
    type Writer = FileWriter<F>;

    fn open(&self, shard: u32, shards: u32) -> Result<FileWriter<F>, SinkError> {
        let place = Place { dir: self.dir.clone(), pending: self.dir.join(".pending"), shard, shards };
        place.make()?;
        Ok(FileWriter::new(place, Rc::clone(&self.format), self.row_end))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn describe(&self) -> String {
        format!("file {}", self.dir.display())
    }
}

/// Where one shard writes, and which names there are its own.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    pending: PathBuf,
    shard: u32,
    shards: u32,
}

impl Place {
    /// Whether this shard answers for what a shard of that number left, be it one that this job does not have.
    fn answers_for(&self, shard: u32) -> bool {
        shard % self.shards == self.shard
    }

    /// Makes the directories, and tries now whether files can be made in them rather than at the first barrier.
    fn make(&self) -> Result<(), SinkError> {
        if self.dir.exists() && !self.dir.is_dir() {
            return Err(SinkError::Unusable(format!(
                "{} is a file, and the sink writes a directory of files: name another path",
                self.dir.display()
            )));
        }
        let probe = self.pending.join(format!("probe-{:05}-{}", self.shard, std::process::id()));
        fs::create_dir_all(&self.pending)
            .and_then(|()| File::create(&probe))
            .and_then(|_| fs::remove_file(&probe))
            .and_then(|()| File::open(&self.dir)?.sync_all()) // the name `.pending` survives the machine
            .map_err(doing("cannot make files (name an output directory that this user may write) in", &self.dir))
    }
}

fn final_name(shard: u32, epoch: Epoch) -> String {
    format!("part-{shard:05}-{:012}.txt", epoch.0)
}

/// The shard and epoch in a final name; other files in the directory are nobody's business.
fn parse_final_name(name: &str) -> Option<(u32, Epoch)> {
    let (shard, epoch) = name.strip_prefix("part-")?.strip_suffix(".txt")?.split_once('-')?;
    Some((shard.parse().ok()?, Epoch(epoch.parse().ok()?)))
}

/// Pending names carry the process and a number, so that a restarted shard never meets the file of its former life: the
/// kernel may still be making that when the new one starts, or a process that was given up be continued. In containers all
/// processes may have the same number, so something random goes with it.
fn pending_name(shard: u32, number: u64) -> String {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    // Keys that the standard library draws for each process.
    let process = PROCESS.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    format!("shard-{shard:05}-{}-{process:016x}-{number}", std::process::id())
}

fn parse_pending_name(name: &str) -> Option<u32> {
    name.strip_prefix("shard-")?.split_once('-')?.0.parse().ok()
}

/// Says what was being done, to whom it failed.
fn doing<E: IntoIoError>(what: &str, path: &Path) -> impl FnOnce(E) -> SinkError + use<E> {
    let what = format!("{what} {}", path.display());
    move |error| SinkError::Io { what, source: error.into_io_error() }
}

/// The system's own answer, without the words a library put around it.
trait IntoIoError {
    fn into_io_error(self) -> io::Error;
}

impl IntoIoError for io::Error {
    fn into_io_error(self) -> io::Error {
        self
    }
}

impl IntoIoError for GlommioError<()> {
    fn into_io_error(self) -> io::Error {
        match self {
            GlommioError::EnhancedIoError { source, .. } => source,
            other => other.into(),
        }
    }
}
