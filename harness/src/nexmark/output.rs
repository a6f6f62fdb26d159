//! The queries' sink: it sums up lines exactly once, and writes them to files if asked.
//!
//! What a shard commits is the sum of all its lines since the job began, so that a sum, too, survives a restart: the
//! committed rows of a job that was killed twenty times are those of one that never was.
//!
//! Files are those of the connectors' file sink, or of its partitioned one where a line says where it belongs.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use millstream::road::sink::{Committable, Epoch, SinkFuture};
use millstream::{Guarantee, Sink, SinkError, SinkWriter};
use millstream_connectors::file::{FileSink, FileWriter, PartitionedSink, PartitionedWriter};
use serde::{Deserialize, Serialize};

use super::row::{Fields, LineSum};

/// Copies a finished line.
type CopyLine = fn(&Vec<u8>, &mut Vec<u8>);
/// Says in which directory a finished line belongs.
type PartitionOf = fn(&Vec<u8>) -> String;

/// A sink of results of any kind. Clones sum up together.
#[derive(Clone, Default, Debug)]
pub struct Output {
    files: Option<PathBuf>,
    partition_of: Option<PartitionOf>,
    committed: Committed,
}

/// What each shard has committed.
#[derive(Clone, Default, Debug)]
struct Committed(Arc<Mutex<BTreeMap<u32, LineSum>>>);

impl Committed {
    fn set(&self, shard: u32, sum: LineSum) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, sum);
    }
}

impl Output {
    /// Lines are summed up and dropped.
    #[must_use]
    pub fn sums() -> Output {
        Output::default()
    }

    /// They go to files in `dir` as well.
    #[must_use]
    pub fn files(dir: PathBuf) -> Output {
        Output { files: Some(dir), ..Output::default() }
    }

    /// Where they go to files, each goes to those of the partition that it says.
    #[must_use]
    pub fn partitioned(mut self, partition_of: PartitionOf) -> Output {
        self.partition_of = Some(partition_of);
        self
    }

    /// All that is committed.
    #[must_use]
    pub fn committed(&self) -> LineSum {
        let shards = self.committed.0.lock().unwrap_or_else(PoisonError::into_inner);
        shards.values().fold(LineSum::default(), |sum, shard| sum.plus(*shard))
    }
}

impl<R: Fields> Sink<R> for Output {
    type Writer = OutputWriter<R>;

    fn open(&self, shard: u32, shards: u32) -> Result<OutputWriter<R>, SinkError> {
        let copy: CopyLine = |line, out| out.extend_from_slice(line);
        let files = match (&self.files, self.partition_of) {
            (None, _) => Files::None,
            (Some(dir), None) => Files::Of(FileSink::lines(dir, copy).open(shard, shards)?),
            (Some(dir), Some(of)) => Files::ByPartition(PartitionedSink::lines(dir, of, copy).open(shard, shards)?),
        };
        let committed = self.committed.clone();
        Ok(OutputWriter { shard, sum: LineSum::default(), line: Vec::new(), files, committed, row: PhantomData })
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn describe(&self) -> String {
        self.files.as_ref().map_or_else(|| "line sums".to_owned(), |dir| format!("file {}", dir.display()))
    }
}

/// One shard's end of the output.
#[derive(Debug)]
pub struct OutputWriter<R> {
    shard: u32,
    /// Of all lines since the job began.
    sum: LineSum,
    line: Vec<u8>,
    files: Files,
    committed: Committed,
    row: PhantomData<fn(&R)>,
}

/// Where lines go besides.
#[derive(Debug)]
enum Files {
    None,
    Of(FileWriter<CopyLine>),
    ByPartition(PartitionedWriter<PartitionOf, CopyLine>),
}

/// Does the same with whichever files there are; the last is for none.
macro_rules! each {
    ($files:expr, $writer:ident => $work:expr, $none:expr) => {
        match $files {
            Files::Of($writer) => $work,
            Files::ByPartition($writer) => $work,
            Files::None => $none,
        }
    };
}

/// What a checkpoint keeps of a shard's output.
#[derive(Serialize, Deserialize)]
struct Prepared {
    rows: u64,
    fnv: u64,
    files: Option<Committable>,
}

impl Prepared {
    fn parse(committable: Committable) -> Result<(LineSum, Option<Committable>), SinkError> {
        let Prepared { rows, fnv, files } = serde_json::from_value(committable).map_err(|error| {
            SinkError::Unusable(format!(
                "the checkpoint's entry for this sink is not one of a Nexmark query ({error}): start from a checkpoint \
                 that the query wrote, or from none"
            ))
        })?;
        Ok((LineSum { rows, fnv }, files))
    }
}

impl<R: Fields> SinkWriter<R> for OutputWriter<R> {
    fn write(&mut self, row: &R) -> Result<(), SinkError> {
        self.line.clear();
        row.write(&mut self.line);
        self.sum.add(&self.line);
        each!(&mut self.files, files => files.write(&self.line), Ok(()))
    }

    fn ready(&mut self) -> bool {
        each!(&mut self.files, files => files.ready(), true)
    }

    fn prepare(&mut self, epoch: Epoch) -> SinkFuture<Committable> {
        let LineSum { rows, fnv } = self.sum;
        let files = each!(&mut self.files, files => Some(files.prepare(epoch)), None);
        Box::pin(async move {
            let files = match files {
                Some(files) => Some(files.await?),
                None => None,
            };
            Ok(serde_json::to_value(Prepared { rows, fnv, files }).expect("a committable is plain JSON"))
        })
    }

    fn commit(&mut self, committable: Committable) -> SinkFuture<()> {
        let (committed, shard) = (self.committed.clone(), self.shard);
        let parsed = Prepared::parse(committable).map(|(sum, committable)| {
            let files = committable
                .and_then(|committable| each!(&mut self.files, files => Some(files.commit(committable)), None));
            (sum, files)
        });
        Box::pin(async move {
            let (sum, files) = parsed?;
            if let Some(files) = files {
                files.await?;
            }
            committed.set(shard, sum);
            Ok(())
        })
    }

    fn restored(&mut self, epoch: Epoch) {
        each!(&mut self.files, files => files.restored(epoch), ());
    }

    fn recover(&mut self, committables: Vec<Committable>) -> SinkFuture<()> {
        let parsed = committables.into_iter().map(Prepared::parse).collect::<Result<Vec<_>, _>>();
        let (sums, of_files): (Vec<LineSum>, Vec<Option<Committable>>) = match parsed {
            Ok(parsed) => parsed.into_iter().unzip(),
            Err(error) => return Box::pin(async { Err(error) }),
        };
        // Shards before may have been more than now: this one goes on with the sums of all that it answers for.
        self.sum = sums.into_iter().fold(LineSum::default(), LineSum::plus);
        self.committed.set(self.shard, self.sum);
        let of_files = of_files.into_iter().flatten().collect();
        each!(&mut self.files, files => files.recover(of_files), Box::pin(async { Ok(()) }))
    }
}
