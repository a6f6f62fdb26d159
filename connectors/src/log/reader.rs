//! The reading side: [`LogReader`] goes from segment to segment, and is a split of the source.

use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use millstream::road::rows::Lines;
use millstream::road::source::{Polled, SourceError, Split};

use super::format::IndexEntry;
use super::segment::{Ending, Segment, Tail};
use super::watch::Watch;
use super::{LogError, partition_dir, partition_name, read_marker, segment_bases};

/// A read stops after this many bytes even if fewer rows were asked for than came: a batch of the longest records would
/// otherwise be 16 GiB.
const READ_BYTES_MAX: usize = 4 << 20;

/// Reads one partition forward, from any offset, as often as wanted; any number of readers at a time.
///
/// A record is handed out once its checksum is proven. What the page cache holds is read at memory speed; what it does
/// not hold is waited for, which the kernel's read-ahead makes rare for a reader that only goes forward.
///
/// ```
/// use millstream::road::rows::{Batch, Lines};
/// use millstream_connectors::log::{LogReader, LogWriter};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let temporary = tempfile::tempdir()?;
/// # let dir = temporary.path().join("ads");
/// let mut log = LogWriter::create(&dir, 1)?;
/// for event in ["view", "click", "purchase"] {
///     log.append(0, event.as_bytes())?;
/// }
/// log.flush()?;
///
/// let mut reader = LogReader::open(&dir, 0)?;
/// reader.seek_to(1)?;
/// let mut rows = Lines::default();
/// assert_eq!(reader.read(&mut rows, 1024)?, 2);
/// assert_eq!(rows.row(0), b"click");
/// assert_eq!(reader.offset(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    name: String,
    segment: Segment,
    until: Until,
}

/// Where a reader stops.
#[derive(Debug)]
enum Until {
    /// At this byte of this segment: the log's end when the reader was opened.
    End { base: u64, bytes: u64 },
    /// Never: the watch tells when there is more.
    Followed(Watch),
}

impl LogReader {
    /// Reads `partition` of the log in `dir` from its start to where it ends now.
    ///
    /// # Errors
    /// When there is no such log or partition.
    pub fn open(dir: impl AsRef<Path>, partition: u32) -> Result<LogReader, LogError> {
        let dir = existing_partition(dir.as_ref(), partition)?;
        let bases = segment_bases(&dir)?;
        let last = Segment::open(&dir, bases[bases.len() - 1])?;
        let until = Until::End { base: last.base(), bytes: last.byte_len()? };
        LogReader::at_segment(dir, partition, bases[0], until)
    }

    /// Reads `partition` from its start and never ends: [`read`](LogReader::read) brings what is there.
    ///
    /// # Errors
    /// When there is no such log or partition, or the system has no inotify descriptor left.
    pub fn follow(dir: impl AsRef<Path>, partition: u32) -> Result<LogReader, LogError> {
        let dir = existing_partition(dir.as_ref(), partition)?;
        let until = Until::Followed(Watch::new(&dir)?);
        let first = segment_bases(&dir)?[0];
        LogReader::at_segment(dir, partition, first, until)
    }

    fn at_segment(dir: PathBuf, partition: u32, base: u64, until: Until) -> Result<LogReader, LogError> {
        let segment = Segment::open(&dir, base)?;
        let mut reader = LogReader { dir, name: partition_name(partition), segment, until };
        reader.enter_segment()?;
        Ok(reader)
    }

    /// The offset of the next record.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.segment.offset()
    }

    /// Appends up to `rows_max` records to `out` and returns how many. Zero is the end: for good, or when following, for
    /// now.
    ///
    /// # Errors
    /// Damage, and whatever the file system says. The records before it were handed out by the call before.
    pub fn read(&mut self, out: &mut Lines, rows_max: usize) -> Result<usize, LogError> {
        loop {
            let rows = self.segment.drain(rows_max, READ_BYTES_MAX, |record| out.push(record))?;
            if rows > 0 || rows_max == 0 {
                return Ok(rows);
            }
            if !self.step()? {
                return Ok(0);
            }
        }
    }

    /// Moves so that the next record read is the one at `offset`, which may be the one that comes next to the log.
    ///
    /// # Errors
    /// When the log does not go back, or not yet on, to `offset`; damage between the index entry and there.
    pub fn seek_to(&mut self, offset: u64) -> Result<(), LogError> {
        let bases = segment_bases(&self.dir)?;
        let last = match self.until {
            Until::End { base, .. } => base,
            Until::Followed(_) => u64::MAX,
        };
        let Some(&base) = bases.iter().rev().find(|base| **base <= offset.min(last)) else {
            return Err(LogError::Unusable(format!(
                "{} starts at offset {}, so offset {offset} is gone: put the removed segments back, or start without \
                 the checkpoint that names it",
                self.dir.display(),
                bases[0]
            )));
        };
        self.segment = Segment::open(&self.dir, base)?;
        self.enter_segment()?;
        let index = std::fs::read(self.segment.path().with_extension("index")).unwrap_or_default();
        if let Some(entry) = IndexEntry::nearest(&index, offset)
            && u64::from(entry.byte) <= self.segment.byte_len()?
        {
            self.segment.jump(entry.offset, u64::from(entry.byte));
        }
        while self.offset() < offset {
            let ahead = usize::try_from(offset - self.offset()).unwrap_or(usize::MAX);
            if self.segment.drain(ahead, usize::MAX, |_| {})? == 0 && !self.step()? {
                return Err(LogError::Unusable(format!(
                    "{} ends at offset {}, so offset {offset}, which was read from it once, is gone: the log was cut or \
                     replaced; put the old one back, or start without the checkpoint that names it",
                    self.dir.display(),
                    self.offset()
                )));
            }
        }
        Ok(())
    }

    /// Goes on where the segment brings nothing more; false where there is nothing to go on to.
    fn step(&mut self) -> Result<bool, LogError> {
        // The successor is looked for before the file's end is: a writer closes one segment before it makes the next, so
        // what has a successor has its last length.
        let (successor, tail) = match &self.until {
            Until::End { base, .. } if *base == self.segment.base() => (None, Tail::Torn),
            until => match segment_bases(&self.dir)?.into_iter().find(|base| *base > self.segment.base()) {
                Some(successor) => (Some(successor), Tail::Whole),
                None if matches!(until, Until::Followed(_)) => (None, Tail::Growing),
                None => return Err(self.segment.damaged(&self.name, "the segments behind it are missing".to_owned())),
            },
        };
        match (self.segment.judge(&self.name, tail)?, successor) {
            (Ending::Stale, _) => Ok(true),
            (Ending::Clean, Some(successor)) if successor == self.offset() => {
                self.segment = Segment::open(&self.dir, successor)?;
                self.enter_segment()?;
                Ok(true)
            }
            (Ending::Clean, Some(successor)) => Err(self.segment.damaged(
                &self.name,
                format!("the segment ends here, but the next one starts at offset {successor}: one is missing between"),
            )),
            (Ending::Clean | Ending::Torn, None) => Ok(false),
            (Ending::Torn, Some(_)) => unreachable!("judge allows no torn tail before a successor"),
        }
    }

    /// What is due whenever another segment was opened, before anything is read from it.
    fn enter_segment(&mut self) -> Result<(), LogError> {
        match &mut self.until {
            Until::End { base, bytes } if *base == self.segment.base() => self.segment.limit(*bytes),
            Until::End { .. } => {}
            Until::Followed(watch) => watch.segment(self.segment.path())?,
        }
        Ok(())
    }
}

impl Split for LogReader {
    type Batch = Lines;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn poll(&mut self, out: &mut Lines, rows_max: usize) -> Result<Polled, SourceError> {
        Ok(match (self.read(out, rows_max)?, &self.until) {
            (0, Until::End { .. }) => Polled::End,
            (0, Until::Followed(_)) => Polled::Idle,
            _ => Polled::Rows,
        })
    }

    fn position(&self) -> u64 {
        self.offset()
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        Ok(self.seek_to(position)?)
    }

    fn wake_fd(&self) -> Option<RawFd> {
        match &self.until {
            Until::End { .. } => None,
            Until::Followed(watch) => Some(watch.as_raw_fd()),
        }
    }
}

/// The directory of a partition that the log says it has.
fn existing_partition(log: &Path, partition: u32) -> Result<PathBuf, LogError> {
    let marker = read_marker(log)?;
    if partition >= marker.partitions {
        return Err(LogError::Unusable(format!(
            "the log {} has partitions 0 to {}, and no partition {partition}",
            log.display(),
            marker.partitions - 1
        )));
    }
    Ok(partition_dir(log, partition))
}
