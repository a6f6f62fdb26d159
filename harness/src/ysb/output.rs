//! Where the query's rows go, and how late they are.
//!
//! One sink type over all of them, so that the query is compiled once per encoding. A row passes here once per window and
//! campaign, so the branch costs nothing.

use std::path::PathBuf;

use millstream::road::sink::{Committable, Epoch, SinkFuture};
use millstream::{Clock, Guarantee, Sink, SinkError, SinkWriter};
use millstream_connectors::file::{FileSink, FileWriter};
use millstream_connectors::memory::{MemorySink, MemoryWriter, NullSink, NullWriter};

use super::latency::{Latency, Stopwatch, WindowEnds};
use super::oracle::CampaignName;
use super::result::{ResultRow, WINDOW_MS};

/// Appends a row as a line.
type WriteLine<C> = fn(&ResultRow<C>, &mut Vec<u8>);

/// The query's sink.
#[derive(Clone)]
pub struct Output<C> {
    target: Target<C>,
    latency: Option<Latency>,
}

#[derive(Clone)]
enum Target<C> {
    Memory(MemorySink<ResultRow<C>>),
    File(PathBuf),
    Null(NullSink),
}

impl<C: CampaignName> Output<C> {
    /// Rows stay in memory; the second value sees those that are committed.
    #[must_use]
    pub fn memory() -> (Output<C>, MemorySink<ResultRow<C>>) {
        let sink = MemorySink::new();
        (Output { target: Target::Memory(sink.clone()), latency: None }, sink)
    }

    /// Rows become lines of files in `dir`.
    #[must_use]
    pub fn file(dir: PathBuf) -> Output<C> {
        Output { target: Target::File(dir), latency: None }
    }

    /// Rows are dropped.
    #[must_use]
    pub fn null() -> Output<C> {
        Output { target: Target::Null(NullSink::new()), latency: None }
    }

    /// Measures how late each row is.
    #[must_use]
    pub fn timed(mut self, ends: WindowEnds) -> (Output<C>, Latency) {
        let latency = Latency::new(ends);
        self.latency = Some(latency.clone());
        (self, latency)
    }
}

fn write_line<C: CampaignName>(row: &ResultRow<C>, line: &mut Vec<u8>) {
    let ResultRow { campaign, window_start_ms, count, updated_ms } = *row;
    ResultRow { campaign: campaign.show(), window_start_ms, count, updated_ms }.write_line(line);
}

/// One shard's end of the output.
pub struct OutputWriter<C> {
    target: TargetWriter<C>,
    stopwatch: Option<Stopwatch>,
}

enum TargetWriter<C> {
    Memory(MemoryWriter<ResultRow<C>>),
    File(FileWriter<WriteLine<C>>),
    Null(NullWriter),
}

impl<C: CampaignName + Send + 'static> Sink<ResultRow<C>> for Output<C> {
    type Writer = OutputWriter<C>;

    fn open(&self, shard: u32, shards: u32) -> Result<OutputWriter<C>, SinkError> {
        let target = match &self.target {
            Target::Memory(sink) => TargetWriter::Memory(sink.open(shard, shards)?),
            Target::File(dir) => {
                let write: WriteLine<C> = write_line;
                TargetWriter::File(FileSink::lines(dir, write).open(shard, shards)?)
            }
            Target::Null(sink) => TargetWriter::Null(Sink::<ResultRow<C>>::open(sink, shard, shards)?),
        };
        let stopwatch = self.latency.as_ref().map(|latency| latency.stopwatch(Clock::system()));
        Ok(OutputWriter { target, stopwatch })
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn describe(&self) -> String {
        match &self.target {
            Target::Memory(_) => "memory".into(),
            Target::File(dir) => format!("file {}", dir.display()),
            Target::Null(_) => "null".into(),
        }
    }
}

/// Does the same with whichever writer it is.
macro_rules! each {
    ($writer:expr, $inner:ident => $work:expr) => {
        match $writer {
            TargetWriter::Memory($inner) => $work,
            TargetWriter::File($inner) => $work,
            TargetWriter::Null($inner) => $work,
        }
    };
}

impl<C: CampaignName + Send + 'static> SinkWriter<ResultRow<C>> for OutputWriter<C> {
    fn write(&mut self, row: &ResultRow<C>) -> Result<(), SinkError> {
        if let Some(stopwatch) = &mut self.stopwatch {
            stopwatch.row(row.window_start_ms + WINDOW_MS);
        }
        each!(&mut self.target, writer => writer.write(row))
    }

    fn ready(&mut self) -> bool {
        each!(&mut self.target, writer => SinkWriter::<ResultRow<C>>::ready(writer))
    }

    fn prepare(&mut self, epoch: Epoch) -> SinkFuture<Committable> {
        if let Some(stopwatch) = &mut self.stopwatch {
            stopwatch.barrier();
        }
        each!(&mut self.target, writer => SinkWriter::<ResultRow<C>>::prepare(writer, epoch))
    }

    fn commit(&mut self, committable: Committable) -> SinkFuture<()> {
        each!(&mut self.target, writer => SinkWriter::<ResultRow<C>>::commit(writer, committable))
    }

    fn restored(&mut self, epoch: Epoch) {
        each!(&mut self.target, writer => SinkWriter::<ResultRow<C>>::restored(writer, epoch));
    }

    fn recover(&mut self, committables: Vec<Committable>) -> SinkFuture<()> {
        each!(&mut self.target, writer => SinkWriter::<ResultRow<C>>::recover(writer, committables))
    }
}
