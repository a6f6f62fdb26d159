//! The appending side: one [`PartitionWriter`] a partition, and [`LogWriter`] for those who write them all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::format::{self, HEADER_BYTES, Indexer, Marker, MarkerFormat, RECORD_BYTES_MAX, VERSION};
use super::segment::{Segment, Tail};
use super::{LogError, doing, partition_dir, partition_name, read_marker, segment_bases, segment_path};

/// Appends go to the file in pieces of about this size, whole records each: a reader's buffer is as large, and a write
/// of 256 KiB costs some 30 µs for about a thousand records.
const PIECE_BYTES: usize = 256 << 10;

/// What is fixed for a log when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// A segment that would grow beyond this is closed, and the next one begun.
    pub segment_bytes_max: u32,
    /// The distance of two index entries. 64 KiB, the default, make an index of 64 KiB for a segment of 256 MiB, and a
    /// seek takes some 76 µs; every 4 KiB would save the scan, under 20 µs of them, for sixteen times the index.
    pub index_every_bytes: u32,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { segment_bytes_max: 256 << 20, index_every_bytes: 64 << 10 }
    }
}

/// Writes all partitions of a log.
///
/// ```
/// use millstream_connectors::log::LogWriter;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let temporary = tempfile::tempdir()?;
/// # let dir = temporary.path().join("ads");
/// let mut log = LogWriter::create(&dir, 2)?;
/// assert_eq!(log.append(0, b"view")?, 0);
/// assert_eq!(log.append(0, b"click")?, 1);
/// log.sync()?; // survives the machine; `flush` makes it visible to readers
/// drop(log);
///
/// let mut log = LogWriter::append_to(&dir)?;
/// assert_eq!(log.append(0, b"purchase")?, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LogWriter {
    partitions: Vec<PartitionWriter>,
}

impl LogWriter {
    /// Makes a log of `partitions` empty partitions in `dir`, which is missing or empty.
    ///
    /// # Errors
    /// When `dir` holds anything, or cannot be written.
    pub fn create(dir: impl AsRef<Path>, partitions: u32) -> Result<LogWriter, LogError> {
        LogWriter::create_with(dir, partitions, LogOptions::default())
    }

    /// As [`create`](LogWriter::create), with other sizes.
    ///
    /// # Errors
    /// As [`create`](LogWriter::create).
    pub fn create_with(dir: impl AsRef<Path>, partitions: u32, options: LogOptions) -> Result<LogWriter, LogError> {
        let dir = dir.as_ref();
        let shown = dir.display();
        if partitions == 0 {
            return Err(LogError::Unusable(format!("a log has at least one partition, and {shown} was to have none")));
        }
        if dir.join("log.json").exists() {
            return Err(LogError::Unusable(format!(
                "{shown} already holds a log: append to it, or name an empty directory"
            )));
        }
        fs::create_dir_all(dir).map_err(|error| {
            LogError::Unusable(format!(
                "cannot make the log directory {shown}: {error}. Name one that does not exist yet, where this user may \
                 write"
            ))
        })?;
        let mut entries = fs::read_dir(dir).map_err(doing("cannot list", dir))?;
        if entries.next().is_some() {
            return Err(LogError::Unusable(format!(
                "{shown} holds files but no log: name an empty directory, or empty this one if a writer died making it"
            )));
        }
        for partition in 0..partitions {
            let dir = partition_dir(dir, partition);
            fs::create_dir(&dir).map_err(doing("cannot make the partition", &dir))?;
            let first = segment_path(&dir, 0);
            File::create_new(&first).map_err(doing("cannot make the segment", &first))?;
            sync_dir(&dir)?;
        }
        sync_dir(dir)?;
        sync_dir(parent(dir))?;
        // The marker comes last and whole: what has one is a log with all its partitions.
        let marker = Marker {
            format: MarkerFormat::MillstreamLog,
            version: VERSION,
            partitions,
            segment_bytes_max: options.segment_bytes_max,
            index_every_bytes: options.index_every_bytes,
        };
        let (next, path) = (dir.join("log.json.next"), dir.join("log.json"));
        let mut text = serde_json::to_vec_pretty(&marker).expect("a marker is plain numbers");
        text.push(b'\n');
        let write = || {
            let mut file = File::create(&next)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&next, &path)
        };
        write().map_err(doing("cannot write", &path))?;
        sync_dir(dir)?;
        LogWriter::append_to(dir)
    }

    /// Goes on with the log in `dir`. A torn tail, left by a writer that died, is cut off.
    ///
    /// # Errors
    /// When `dir` holds no log, one of its partitions has a writer, or the last segment is damaged.
    pub fn append_to(dir: impl AsRef<Path>) -> Result<LogWriter, LogError> {
        let dir = dir.as_ref();
        let partitions = super::partition_count(dir)?;
        let partitions =
            (0..partitions).map(|partition| PartitionWriter::open(dir, partition)).collect::<Result<_, _>>()?;
        Ok(LogWriter { partitions })
    }

    /// Appends a record and returns its offset. Readers see it after [`flush`](LogWriter::flush).
    ///
    /// # Errors
    /// As [`PartitionWriter::append`], and when there is no such partition.
    pub fn append(&mut self, partition: u32, bytes: &[u8]) -> Result<u64, LogError> {
        let partitions = self.partitions.len();
        match self.partitions.get_mut(partition as usize) {
            Some(writer) => writer.append(bytes),
            None => Err(LogError::Unusable(format!(
                "a record for partition {partition} came to a log whose partitions are 0 to {}",
                partitions - 1
            ))),
        }
    }

    /// Makes all records visible to readers. They survive this process, not the machine.
    ///
    /// # Errors
    /// When the file system does not take them.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.partitions.iter_mut().try_for_each(PartitionWriter::flush)
    }

    /// Makes all records survive the machine.
    ///
    /// # Errors
    /// When the file system does not take them.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.partitions.iter_mut().try_for_each(PartitionWriter::sync)
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    /// The writers one by one, for as many threads; number `p` writes partition `p`.
    #[must_use]
    pub fn into_partitions(self) -> Vec<PartitionWriter> {
        self.partitions
    }
}

/// The one writer of one partition: holding it is the right to append.
///
/// Dropping it flushes what it can; only [`flush`](PartitionWriter::flush) and [`sync`](PartitionWriter::sync) can tell
/// of a failure. After a failed write nothing is assumed of the file, and every later call fails too: open it again.
#[derive(Debug)]
pub struct PartitionWriter {
    dir: PathBuf,
    options: LogOptions,
    segment: OpenSegment,
    /// Whole records that are not in the file yet, and the index entries that point into them or before them.
    records: Vec<u8>,
    entries: Vec<u8>,
    offset_next: u64,
    poisoned: bool,
    /// Held for as long as it is open, by the advisory lock of the kernel: a dead writer's lock is gone with it.
    _lock: File,
}

/// The segment that is appended to.
#[derive(Debug)]
struct OpenSegment {
    path: PathBuf,
    file: File,
    index: File,
    indexer: Indexer,
    /// Bytes appended, those still in memory included.
    byte_next: u64,
}

impl PartitionWriter {
    /// Goes on with a partition of the log in `dir`.
    ///
    /// The last segment is read and proven whole, and its index made again: at most 256 MiB, some tenth of a second.
    ///
    /// # Errors
    /// When `dir` holds no log with this partition, the partition has a writer, or its last segment is damaged.
    pub fn open(dir: impl AsRef<Path>, partition: u32) -> Result<PartitionWriter, LogError> {
        let log = dir.as_ref();
        let marker = read_marker(log)?;
        let dir = partition_dir(log, partition);
        if partition >= marker.partitions {
            return Err(LogError::Unusable(format!(
                "the log {} has partitions 0 to {}, and no partition {partition}",
                log.display(),
                marker.partitions - 1
            )));
        }
        let lock = lock(&dir.join("lock"))?;
        let options =
            LogOptions { segment_bytes_max: marker.segment_bytes_max, index_every_bytes: marker.index_every_bytes };
        let bases = segment_bases(&dir)?;
        let (segment, offset_next) = OpenSegment::mend(&dir, partition, bases[bases.len() - 1], options)?;
        Ok(PartitionWriter {
            dir,
            options,
            segment,
            records: Vec::with_capacity(PIECE_BYTES * 2),
            entries: Vec::new(),
            offset_next,
            poisoned: false,
            _lock: lock,
        })
    }

    /// Appends a record and returns its offset. Readers see it after [`flush`](PartitionWriter::flush), or when enough
    /// others came behind it.
    ///
    /// # Errors
    /// When the record is longer than [`RECORD_BYTES_MAX`], or the file system does not take it.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64, LogError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(LogError::Unusable(format!(
                "a record of {} bytes does not fit into {}: the longest is {RECORD_BYTES_MAX}",
                bytes.len(),
                self.dir.display()
            )));
        }
        self.guarded(|_| Ok(()))?;
        let byte_end = self.segment.byte_next + (HEADER_BYTES + bytes.len()) as u64;
        if byte_end > u64::from(self.options.segment_bytes_max) && self.segment.byte_next > 0 {
            self.roll()?;
        }
        let offset = self.offset_next;
        self.segment.indexer.pass(offset, self.segment.byte_next, &mut self.entries);
        format::put_record(&mut self.records, bytes);
        self.segment.byte_next += (HEADER_BYTES + bytes.len()) as u64;
        self.offset_next += 1;
        if self.records.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(offset)
    }

    /// The offset that the next record gets.
    #[must_use]
    pub fn offset_next(&self) -> u64 {
        self.offset_next
    }

    /// Makes all records visible to readers. They survive this process, not the machine.
    ///
    /// # Errors
    /// When the file system does not take them.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.guarded(|writer| {
            writer.segment.file.write_all(&writer.records)?;
            writer.records.clear();
            // The index follows the records, so that an entry never points at what is not there.
            writer.segment.index.write_all(&writer.entries)?;
            writer.entries.clear();
            Ok(())
        })
    }

    /// Makes all records survive the machine.
    ///
    /// # Errors
    /// When the file system does not take them.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.flush()?;
        self.guarded(|writer| {
            writer.segment.file.sync_data()?;
            writer.segment.index.sync_data()
        })
    }

    /// Closes the segment and begins the next one. The old one is synced first: only a last segment can be torn.
    fn roll(&mut self) -> Result<(), LogError> {
        self.sync()?;
        self.poisoned = true; // until the new segment stands
        self.segment = OpenSegment::begin(&self.dir, self.offset_next, self.options)?;
        self.poisoned = false;
        Ok(())
    }

    /// A failed write leaves an unknown part of it in the file, and a failed sync may have dropped pages that the kernel
    /// now calls clean: neither is ever tried again.
    fn guarded(&mut self, write: impl FnOnce(&mut Self) -> std::io::Result<()>) -> Result<(), LogError> {
        if self.poisoned {
            return Err(LogError::Unusable(format!(
                "an earlier write to {} failed, so its end is unknown: open the log again, which mends it",
                self.segment.path.display()
            )));
        }
        let written = write(self);
        self.poisoned = written.is_err();
        written.map_err(doing(
            "cannot append to (free space on its file system, then open the log again)",
            &self.segment.path,
        ))
    }
}

impl Drop for PartitionWriter {
    fn drop(&mut self) {
        if !self.poisoned {
            // A failure has nobody to go to here; whoever must know calls `flush`.
            let _ = self.flush();
        }
    }
}

impl OpenSegment {
    /// Makes the empty segment that starts at offset `base`.
    fn begin(dir: &Path, base: u64, options: LogOptions) -> Result<OpenSegment, LogError> {
        let path = segment_path(dir, base);
        File::create_new(&path).map_err(doing("cannot make the segment", &path))?;
        sync_dir(dir)?;
        OpenSegment::at_end(path, Indexer::new(options.index_every_bytes), 0)
    }

    /// Opens the last segment after a writer that may have died: proves every record, makes the index again, cuts off a
    /// torn tail. Returns the offset of the next record, too.
    fn mend(dir: &Path, partition: u32, base: u64, options: LogOptions) -> Result<(OpenSegment, u64), LogError> {
        let mut scan = Segment::open(dir, base)?;
        let mut indexer = Indexer::new(options.index_every_bytes);
        let mut index = Vec::new();
        let (mut offset, mut byte) = (base, 0);
        scan.drain(usize::MAX, usize::MAX, |record| {
            indexer.pass(offset, byte, &mut index);
            offset += 1;
            byte += (HEADER_BYTES + record.len()) as u64;
        })?;
        // Nobody else appends, so the verdict is about a file that stands still.
        let _clean_or_torn = scan.judge(&partition_name(partition), Tail::Torn)?;

        // The index is cut before the log: an entry that outlived its record would one day point into another.
        let path = scan.path().to_owned();
        let index_path = path.with_extension("index");
        if fs::read(&index_path).is_ok_and(|written| written != index) || !index_path.exists() {
            let write = || {
                let mut file = File::create(&index_path)?;
                file.write_all(&index)?;
                file.sync_data()
            };
            write().map_err(doing("cannot write the index", &index_path))?;
        }
        if scan.byte_len()? > byte {
            let cut = || {
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len(byte)?;
                file.sync_data()
            };
            cut().map_err(doing("cannot cut the torn record off", &path))?;
        }
        Ok((OpenSegment::at_end(path, indexer, byte)?, offset))
    }

    fn at_end(path: PathBuf, indexer: Indexer, byte_next: u64) -> Result<OpenSegment, LogError> {
        let open = |path: &Path| {
            OpenOptions::new().append(true).create(true).open(path).map_err(doing("cannot append to", path))
        };
        let (file, index) = (open(&path)?, open(&path.with_extension("index"))?);
        Ok(OpenSegment { path, file, index, indexer, byte_next })
    }
}

/// Takes the right to write, or says who has it.
fn lock(path: &Path) -> Result<File, LogError> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let file = file.map_err(doing("cannot open the lock", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::Unusable(format!(
            "another writer holds {}: a partition has one writer at a time; stop the other one, or write another log",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(doing("cannot lock", path)(error)),
    }
}

/// Where `dir` itself is a name.
fn parent(dir: &Path) -> &Path {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a directory survive the machine.
fn sync_dir(dir: &Path) -> Result<(), LogError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(doing("cannot sync the directory", dir))
}
