//! Where the counts go: each is seen, and dropped or, every so many of a key, written to a file.

use std::path::PathBuf;

use millstream::road::sink::{Committable, Epoch, SinkFuture};
use millstream::{Guarantee, Sink, SinkError, SinkWriter, Updated};
use millstream_connectors::file::{FileSink, FileWriter};

use super::gate::{Gate, Phase};
use crate::keys;

/// Counts written to files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// The directory.
    pub dir: PathBuf,
    /// Of each key, every so many counts one is written.
    pub every: u64,
}

impl Files {
    /// A count as a line: `number of the key TAB count`.
    fn write_line(row: &Updated<u64, u64>, line: &mut Vec<u8>) {
        use std::io::Write as _;
        write!(line, "{}\t{}", keys::number(row.key).unwrap_or(u64::MAX), row.value).expect("a vector takes all bytes");
    }
}

type WriteLine = fn(&Updated<u64, u64>, &mut Vec<u8>);

/// The job's sink.
#[derive(Clone)]
pub(super) struct Output {
    pub(super) files: Option<Files>,
    pub(super) gate: Gate,
}

pub(super) struct OutputWriter {
    files: Option<(FileWriter<WriteLine>, u64)>,
    gate: Gate,
    shard: usize,
    rows: u64,
    is_reading: bool,
    /// Whether anybody wants to see the counts themselves.
    is_looked_at: bool,
}

impl OutputWriter {
    /// Kept out of the loop over a batch, which only counts where nobody looks.
    #[inline(never)]
    fn show(&mut self, row: &Updated<u64, u64>) -> Result<(), SinkError> {
        if self.is_reading {
            self.gate.note(row.key, row.value);
        }
        match &mut self.files {
            Some((files, every)) if row.value.is_multiple_of(*every) => files.write(row),
            _ => Ok(()),
        }
    }
}

impl Sink<Updated<u64, u64>> for Output {
    type Writer = OutputWriter;

    fn open(&self, shard: u32, shards: u32) -> Result<OutputWriter, SinkError> {
        let open = |files: &Files| {
            let write: WriteLine = Files::write_line;
            Ok((FileSink::lines(&files.dir, write).open(shard, shards)?, files.every))
        };
        self.gate.came_out(shard as usize, 0);
        Ok(OutputWriter {
            files: self.files.as_ref().map(open).transpose()?,
            gate: self.gate.clone(),
            shard: shard as usize,
            rows: 0,
            is_reading: false,
            is_looked_at: self.files.is_some(),
        })
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn describe(&self) -> String {
        match &self.files {
            Some(Files { dir, every }) => format!("every {every} counts of a key to {}", dir.display()),
            None => "null".to_owned(),
        }
    }
}

impl SinkWriter<Updated<u64, u64>> for OutputWriter {
    #[inline(always)]
    fn write(&mut self, row: &Updated<u64, u64>) -> Result<(), SinkError> {
        self.rows += 1;
        if self.is_looked_at { self.show(row) } else { Ok(()) }
    }

    // Asked before every batch: often enough to tell, seldom enough to cost nothing.
    fn ready(&mut self) -> bool {
        self.gate.came_out(self.shard, self.rows);
        self.is_reading = self.gate.phase() == Phase::Read;
        self.is_looked_at = self.is_reading || self.files.is_some();
        self.files.as_mut().is_none_or(|(files, _)| SinkWriter::<Updated<u64, u64>>::ready(files))
    }

    fn prepare(&mut self, epoch: Epoch) -> SinkFuture<Committable> {
        match &mut self.files {
            Some((files, _)) => SinkWriter::<Updated<u64, u64>>::prepare(files, epoch),
            None => Box::pin(async { Ok(Committable::Null) }),
        }
    }

    fn commit(&mut self, committable: Committable) -> SinkFuture<()> {
        match &mut self.files {
            Some((files, _)) => SinkWriter::<Updated<u64, u64>>::commit(files, committable),
            None => Box::pin(async { Ok(()) }),
        }
    }

    fn recover(&mut self, committables: Vec<Committable>) -> SinkFuture<()> {
        match &mut self.files {
            Some((files, _)) => SinkWriter::<Updated<u64, u64>>::recover(files, committables),
            None => Box::pin(async { Ok(()) }),
        }
    }
}
