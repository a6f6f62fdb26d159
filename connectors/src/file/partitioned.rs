//! The file sink with a directory for each partition: rows say where they belong, `dt=2015-07-15/hm=00:07`, and each
//! partition's directory is one of the file sink's, exactly once like it.
//!
//! ```text
//! DIR/dt=2015-07-15/hm=00:07/.pending/…
//! DIR/dt=2015-07-15/hm=00:07/part-00003-000000000042.txt
//! ```
//!
//! A partition's writer is opened by its first row of an epoch and let go with the epoch, so that yesterday's partitions
//! cost nothing. A restart cleans up in all partitions that it finds: those that were begun after the checkpoint are in no
//! committable.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use millstream::road::sink::{Committable, Epoch, Guarantee, Sink, SinkError, SinkFuture, SinkWriter};

use super::{FileWriter, Place, doing};

/// Writes rows to files in a directory for each partition, exactly once.
///
/// ```
/// use millstream::road::sink::Sink;
/// use millstream_connectors::file::PartitionedSink;
///
/// let sink = PartitionedSink::lines(
///     "/data/out",
///     |row: &(u64, u64)| format!("shop={}", row.0),
///     |row: &(u64, u64), out: &mut Vec<u8>| out.extend_from_slice(row.1.to_string().as_bytes()),
/// );
/// assert_eq!(Sink::<(u64, u64)>::describe(&sink), "file /data/out, partitioned");
/// ```
#[derive(Debug)]
pub struct PartitionedSink<P, F> {
    dir: PathBuf,
    partition_of: Rc<P>,
    format: Rc<F>,
    row_end: &'static [u8],
}

impl<P, F> PartitionedSink<P, F> {
    /// A sink into directories in `dir`. `partition_of` says a row's, which may be some levels deep: names with `/` between
    /// them, none of them `.` or `..`. `format` appends a row's bytes, and a newline follows them.
    #[must_use]
    pub fn lines<T>(dir: impl Into<PathBuf>, partition_of: P, format: F) -> PartitionedSink<P, F>
    where
        P: Fn(&T) -> String + 'static,
        F: Fn(&T, &mut Vec<u8>) + 'static,
    {
        PartitionedSink {
            dir: dir.into(),
            partition_of: Rc::new(partition_of),
            format: Rc::new(format),
            row_end: b"\n",
        }
    }
}

impl<T, P, F> Sink<T> for PartitionedSink<P, F>
where
    T: 'static,
    P: Fn(&T) -> String + 'static,
    F: Fn(&T, &mut Vec<u8>) + 'static,
{
    type Writer = PartitionedWriter<P, F>;

    fn open(&self, shard: u32, shards: u32) -> Result<PartitionedWriter<P, F>, SinkError> {
        let root = Place { dir: self.dir.clone(), pending: self.dir.join(".pending"), shard, shards };
        root.make()?;
        Ok(PartitionedWriter {
            root,
            partition_of: Rc::clone(&self.partition_of),
            format: Rc::clone(&self.format),
            row_end: self.row_end,
            open: BTreeMap::new(),
            restored: None,
        })
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn describe(&self) -> String {
        format!("file {}, partitioned", self.dir.display())
    }
}

/// Writes one shard's files of all partitions. Made by [`PartitionedSink`]; its calls need a glommio executor around them.
#[derive(Debug)]
pub struct PartitionedWriter<P, F> {
    root: Place,
    partition_of: Rc<P>,
    format: Rc<F>,
    row_end: &'static [u8],
    /// Those that have rows of the open epoch.
    open: BTreeMap<String, FileWriter<F>>,
    restored: Option<Epoch>,
}

impl<P, F> PartitionedWriter<P, F> {
    fn place(&self, partition: &str) -> Result<Place, SinkError> {
        let is_inside =
            !partition.is_empty() && Path::new(partition).components().all(|part| matches!(part, Component::Normal(_)));
        if !is_inside {
            return Err(SinkError::Unusable(format!(
                "\"{partition}\" is no partition of {}: give it names with / between them, none of them . or ..",
                self.root.dir.display()
            )));
        }
        let dir = self.root.dir.join(partition);
        Ok(Place { pending: dir.join(".pending"), dir, shard: self.root.shard, shards: self.root.shards })
    }

    /// A writer for a partition whose directories are there.
    fn writer(&self, partition: &str) -> Result<FileWriter<F>, SinkError> {
        Ok(FileWriter::new(self.place(partition)?, Rc::clone(&self.format), self.row_end))
    }
}

/// The committables of an epoch, by partition.
type ByPartition = BTreeMap<String, Committable>;

fn parse(committable: Committable) -> Result<ByPartition, SinkError> {
    serde_json::from_value(committable).map_err(|error| {
        SinkError::Unusable(format!(
            "the checkpoint's entry for this sink is not one of a partitioned file sink ({error}): start from a checkpoint \
             that this job wrote, or from none"
        ))
    })
}

impl<T, P, F> SinkWriter<T> for PartitionedWriter<P, F>
where
    T: 'static,
    P: Fn(&T) -> String + 'static,
    F: Fn(&T, &mut Vec<u8>) + 'static,
{
    fn write(&mut self, row: &T) -> Result<(), SinkError> {
        let partition = (self.partition_of)(row);
        if let Some(writer) = self.open.get_mut(&partition) {
            return writer.write(row);
        }
        // A few system calls on the road, once for each partition and epoch.
        self.place(&partition)?.make()?;
        let mut writer = self.writer(&partition)?;
        let written = writer.write(row);
        self.open.insert(partition, writer);
        written
    }

    fn ready(&mut self) -> bool {
        self.open.values_mut().all(|writer| SinkWriter::<T>::ready(writer))
    }

    fn prepare(&mut self, epoch: Epoch) -> SinkFuture<Committable> {
        let open = std::mem::take(&mut self.open);
        let prepared: Vec<_> = open
            .into_iter()
            .map(|(partition, mut writer)| (partition, SinkWriter::<T>::prepare(&mut writer, epoch)))
            .collect();
        Box::pin(async move {
            let mut committables = ByPartition::new();
            for (partition, prepared) in prepared {
                committables.insert(partition, prepared.await?);
            }
            Ok(serde_json::to_value(committables).expect("texts and plain JSON are plain JSON"))
        })
    }

    fn commit(&mut self, committable: Committable) -> SinkFuture<()> {
        let commits = parse(committable).and_then(|committables| {
            let commit = |(partition, committable): (String, Committable)| {
                Ok(SinkWriter::<T>::commit(&mut self.writer(&partition)?, committable))
            };
            committables.into_iter().map(commit).collect::<Result<Vec<_>, SinkError>>()
        });
        Box::pin(async move {
            for commit in commits? {
                commit.await?;
            }
            Ok(())
        })
    }

    fn restored(&mut self, epoch: Epoch) {
        self.restored = Some(epoch);
    }

    fn recover(&mut self, committables: Vec<Committable>) -> SinkFuture<()> {
        let recoveries = self.recoveries(committables).and_then(|committables| {
            let recover = |(partition, committables)| {
                let mut writer = self.writer(partition)?;
                if let Some(epoch) = self.restored {
                    SinkWriter::<T>::restored(&mut writer, epoch);
                }
                Ok(SinkWriter::<T>::recover(&mut writer, committables))
            };
            let recoveries = committables.iter().map(|(partition, list)| recover((partition, list.clone())));
            recoveries.collect::<Result<Vec<SinkFuture<()>>, SinkError>>()
        });
        Box::pin(async move {
            for recovery in recoveries? {
                recovery.await?;
            }
            Ok(())
        })
    }
}

impl<P, F> PartitionedWriter<P, F> {
    /// What each partition has to recover: those that the checkpoint names, and all that are there.
    fn recoveries(&self, committables: Vec<Committable>) -> Result<BTreeMap<String, Vec<Committable>>, SinkError> {
        let mut found = BTreeSet::new();
        partitions(&self.root.dir, String::new(), &mut found)
            .map_err(doing("cannot look for partitions in", &self.root.dir))?;
        let mut recoveries: BTreeMap<String, Vec<Committable>> =
            found.into_iter().map(|partition| (partition, Vec::new())).collect();
        for committable in committables {
            for (partition, committable) in parse(committable)? {
                let Some(recovery) = recoveries.get_mut(&partition) else {
                    return Err(SinkError::Unusable(format!(
                        "the output of partition \"{partition}\" is lost: {} is not there; put it back, or start without a \
                         checkpoint into an empty directory",
                        self.root.dir.join(&partition).display()
                    )));
                };
                recovery.push(committable);
            }
        }
        Ok(recoveries)
    }
}

/// The directories below `dir`, `prefix` in front of their names, that files were written in.
fn partitions(dir: &Path, prefix: String, found: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name == ".pending" || !entry.file_type()?.is_dir() {
            continue;
        }
        let partition = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if entry.path().join(".pending").is_dir() {
            found.insert(partition.clone());
        }
        partitions(&entry.path(), partition, found)?;
    }
    Ok(())
}
