//! One segment file, read forward: the only place where bytes of a log are believed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::format::{self, HEADER_BYTES, Parsed, TAIL_BYTES_MAX};
use super::{LogError, doing, segment_path};

/// How much is read at a time. It stays in the second-level cache between the kernel's copy and ours; a record that is
/// longer grows the buffer for as long as this segment is read.
const READ_BYTES: usize = 256 << 10;

/// A segment and the place in it. The buffer holds `buffer[start..end]`, which the file held at `byte` when it was read.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    base: u64,
    offset: u64,
    byte: u64,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    bytes_visible_max: u64,
}

/// What there is at the place where no record could be taken.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// A record after all: the buffer was older than the file.
    Stale,
    /// Nothing: the segment ends between two records.
    Clean,
    /// Less than a record.
    Torn,
}

/// What may legitimately stand at the end of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tail {
    /// Whole records only: a successor exists.
    Whole,
    /// A torn record, once it is proven to be no damage.
    Torn,
    /// A record that is just being appended: merely incomplete is fine unproven.
    Growing,
}

impl Segment {
    /// Opens the segment whose first record has offset `base`.
    pub(super) fn open(partition_dir: &Path, base: u64) -> Result<Segment, LogError> {
        let path = segment_path(partition_dir, base);
        let file = File::open(&path).map_err(doing("cannot open the segment", &path))?;
        Ok(Segment {
            path,
            file,
            base,
            offset: base,
            byte: 0,
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            bytes_visible_max: u64::MAX,
        })
    }

    /// Makes the file end at `bytes` however long it is or becomes.
    pub(super) fn limit(&mut self, bytes: u64) {
        self.bytes_visible_max = bytes;
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// The offset of the next record.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes in the file now, within the limit.
    pub(super) fn byte_len(&self) -> Result<u64, LogError> {
        let metadata = self.file.metadata().map_err(doing("cannot look at the segment", &self.path))?;
        Ok(metadata.len().min(self.bytes_visible_max))
    }

    /// Goes to the record `offset`, which starts at `byte`.
    pub(super) fn jump(&mut self, offset: u64, byte: u64) {
        (self.offset, self.byte) = (offset, byte);
        (self.start, self.end) = (0, 0);
    }

    /// Hands up to `rows_max` records to `take`, in order, and returns how many. It stops early once `bytes_max` bytes
    /// went out, or where no whole record follows; after zero, [`judge`](Segment::judge) says why.
    pub(super) fn drain(
        &mut self,
        rows_max: usize,
        bytes_max: usize,
        mut take: impl FnMut(&[u8]),
    ) -> Result<usize, LogError> {
        let (mut rows, mut bytes) = (0, 0);
        loop {
            let mut unread = &self.buffer[self.start..self.end];
            let mut short = false;
            while rows < rows_max && bytes < bytes_max {
                match format::parse(unread) {
                    Parsed::Whole(record) => {
                        take(record);
                        unread = &unread[HEADER_BYTES + record.len()..];
                        rows += 1;
                        bytes += record.len();
                    }
                    Parsed::Short => {
                        short = true;
                        break;
                    }
                    Parsed::Bad(_) => break,
                }
            }
            let taken = self.end - self.start - unread.len();
            self.start += taken;
            self.byte += taken as u64;
            if !short || self.fill()? == 0 {
                self.offset += rows as u64;
                return Ok(rows);
            }
        }
    }

    /// Reads behind what is in the buffer, which holds less than a record. Zero bytes: the file has no more.
    fn fill(&mut self) -> Result<usize, LogError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize((self.end * 2).min(TAIL_BYTES_MAX), 0);
        }
        let at = self.byte + self.end as u64;
        let room = (self.buffer.len() - self.end) as u64;
        let wanted = room.min(self.bytes_visible_max.saturating_sub(at)) as usize;
        let read = read_at(&self.file, &mut self.buffer[self.end..self.end + wanted], at);
        let read = read.map_err(doing("cannot read the segment", &self.path))?;
        self.end += read;
        Ok(read)
    }

    /// Says what stands at the place where [`drain`](Segment::drain) could take nothing.
    ///
    /// It looks at the file afresh: the buffer may hold half a record of a writer that died and whose successor has cut
    /// it off and written another one there. The buffer is dropped for the same reason.
    ///
    /// # Errors
    /// Damage, unless `tail` allows what is there.
    pub(super) fn judge(&mut self, partition: &str, tail: Tail) -> Result<Ending, LogError> {
        self.jump(self.offset, self.byte);
        let tail_bytes = self.byte_len()?.saturating_sub(self.byte);
        if tail_bytes == 0 {
            return Ok(Ending::Clean);
        }
        let mut bytes = vec![0; tail_bytes.min(TAIL_BYTES_MAX as u64) as usize];
        let read = read_at(&self.file, &mut bytes, self.byte);
        bytes.truncate(read.map_err(doing("cannot read the segment", &self.path))?);
        let what = match format::parse(&bytes) {
            Parsed::Whole(_) => return Ok(Ending::Stale),
            Parsed::Short if tail == Tail::Growing => return Ok(Ending::Torn),
            Parsed::Short => format!("only {tail_bytes} bytes are left of a record that is longer"),
            Parsed::Bad(fault) => format!("what stands there is no record, {fault}"),
        };
        let proof = if tail == Tail::Whole {
            "a later segment exists"
        } else if tail_bytes > TAIL_BYTES_MAX as u64 {
            "more follows than an interrupted append leaves"
        } else if format::holds_record(&bytes[1..]) {
            "whole records follow"
        } else {
            return Ok(Ending::Torn);
        };
        Err(self.damaged(
            partition,
            format!("{what}, and {proof}; replay from an undamaged copy of {}", self.path.display()),
        ))
    }

    /// The error for the record at the place.
    pub(super) fn damaged(&self, partition: &str, what: String) -> LogError {
        LogError::Damaged { partition: partition.to_owned(), offset: self.offset, byte: self.byte, what }
    }
}

/// Fills `buffer` from `at` on, as far as the file goes.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
