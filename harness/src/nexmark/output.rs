//! The queries' sink: it sums up lines exactly once, and writes them to files if asked.
//!
//! What a shard commits is the sum of all its lines since the job began, so that a sum, too, survives a restart: the
//! committed rows of a job that was killed twenty times are those of one that never was.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use millstream::road::sink::{Committable, Epoch, SinkFuture};
use millstream::{Guarantee, Sink, SinkError, SinkWriter};
use millstream_connectors::file::{FileSink, FileWriter};
use serde::{Deserialize, Serialize};

use super::row::{Fields, LineSum};

/// Copies a finished line.
type CopyLine = fn(&Vec<u8>, &mut Vec<u8>);

/// A sink of results of any kind. Clones sum up together.
#[derive(Clone, Default, Debug)]
pub struct Output {
    files: Option<PathBuf>,
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
        Output { files: Some(dir), committed: Committed::default() }
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
        let files = self.files.as_ref().map(|dir| FileSink::lines(dir, copy).open(shard, shards)).transpose()?;
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
    files: Option<FileWriter<CopyLine>>,
    committed: Committed,
    row: PhantomData<fn(&R)>,
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
        self.files.as_mut().map_or(Ok(()), |files| files.write(&self.line))
    }

    fn ready(&mut self) -> bool {
        self.files.as_mut().is_none_or(|files| files.ready())
    }

    fn prepare(&mut self, epoch: Epoch) -> SinkFuture<Committable> {
        let LineSum { rows, fnv } = self.sum;
        let files = self.files.as_mut().map(|files| files.prepare(epoch));
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
        let parsed = Prepared::parse(committable)
            .map(|(sum, files)| (sum, self.files.as_mut().zip(files).map(|(writer, files)| writer.commit(files))));
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
        if let Some(files) = &mut self.files {
            files.restored(epoch);
        }
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
        match &mut self.files {
            Some(files) => files.recover(of_files.into_iter().flatten().collect()),
            None => Box::pin(async { Ok(()) }),
        }
    }
}
