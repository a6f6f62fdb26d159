//! The log against its slow twin (a vector of records), cut at every byte, flipped at every byte, followed while written.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::path::{Path, PathBuf};

use millstream::road::rows::{Batch, Lines};
use millstream::road::source::{Polled, Source, SourceError};
use millstream_connectors::log::{LogError, LogOptions, LogReader, LogSource, LogWriter, PartitionWriter};
use proptest::prelude::*;
use tempfile::TempDir;

const SMALL: LogOptions = LogOptions { segment_bytes_max: 120, index_every_bytes: 30 };

/// A log of one partition that holds `records`.
fn log_of(records: &[&[u8]], options: LogOptions) -> (TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("log");
    let mut log = LogWriter::create_with(&dir, 1, options).unwrap();
    for record in records {
        log.append(0, record).unwrap();
    }
    drop(log);
    (temporary, dir)
}

fn segments(log: &Path) -> Vec<PathBuf> {
    files(log, "log")
}

fn files(log: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(log.join("partition-00000")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|is| is == extension)).collect();
    paths.sort();
    paths
}

/// All that a reader brings, `step` rows at a time, and how it ended.
fn read_all(reader: &mut LogReader, step: usize) -> (Vec<Vec<u8>>, Result<(), LogError>) {
    let mut records = Vec::new();
    loop {
        let mut rows = Lines::default();
        match reader.read(&mut rows, step) {
            Ok(0) => return (records, Ok(())),
            Ok(read) => {
                assert_eq!(read, rows.len());
                records.extend((0..read).map(|row| rows.row(row).to_vec()));
            }
            Err(error) => return (records, Err(error)),
        }
    }
}

fn read_back(log: &Path) -> Vec<Vec<u8>> {
    let (records, end) = read_all(&mut LogReader::open(log, 0).unwrap(), 1024);
    end.unwrap();
    records
}

const RECORDS: [&[u8]; 9] = [
    b"view",
    b"",
    b"click click",
    b"purchase",
    b"a much longer record than all the others are",
    b"x",
    b"yy",
    b"",
    b"zz",
];

#[test]
fn what_is_written_is_read_over_segments_and_from_every_offset() {
    let (_temporary, log) = log_of(&RECORDS, SMALL);
    assert!(segments(&log).len() > 1, "the log should have rolled");
    assert_eq!(read_back(&log), RECORDS);
    let mut reader = LogReader::open(&log, 0).unwrap();
    for from in 0..=RECORDS.len() {
        reader.seek_to(from as u64).unwrap();
        assert_eq!(reader.offset(), from as u64);
        assert_eq!(read_all(&mut reader, 2).0, RECORDS[from..]);
        assert_eq!(reader.offset(), RECORDS.len() as u64);
    }
    let error = reader.seek_to(RECORDS.len() as u64 + 1).unwrap_err();
    assert!(error.to_string().contains("ends at offset 9, so offset 10"), "{error}");
}

#[test]
fn a_bounded_reader_ends_where_the_log_ended_when_it_was_opened() {
    let (_temporary, log) = log_of(&RECORDS, SMALL);
    let mut reader = LogReader::open(&log, 0).unwrap();
    let mut writer = LogWriter::append_to(&log).unwrap();
    for record in RECORDS {
        writer.append(0, record).unwrap();
    }
    writer.flush().unwrap();
    assert_eq!(read_all(&mut reader, 3).0, RECORDS);
    assert!(reader.seek_to(10).is_err(), "offset 10 was not there when it was opened");
    assert_eq!(read_back(&log).len(), 2 * RECORDS.len());
}

#[test]
fn a_tail_torn_at_any_byte_is_not_there_yet_and_is_cut_off_by_the_next_writer() {
    for records in 1..=RECORDS.len() {
        let (_temporary, log) = log_of(&RECORDS[..records], LogOptions { segment_bytes_max: 1 << 20, ..SMALL });
        let segment = &segments(&log)[0];
        let whole = fs::read(segment).unwrap();
        let last_record = whole.len() - RECORDS[records - 1].len() - 8;
        for length in last_record..whole.len() {
            fs::write(segment, &whole[..length]).unwrap();
            assert_eq!(read_back(&log), RECORDS[..records - 1], "torn at byte {length}");

            let mut following = LogReader::follow(&log, 0).unwrap();
            let mut rows = Lines::default();
            assert_eq!(following.read(&mut rows, 99).unwrap(), records - 1);
            assert_eq!(following.read(&mut rows, 99).unwrap(), 0);

            // The same reader goes on behind the mended place, with the bytes it saw before now different.
            let mut writer = PartitionWriter::open(&log, 0).unwrap();
            assert_eq!(writer.append(b"another record, longer than what was torn").unwrap(), records as u64 - 1);
            writer.flush().unwrap();
            rows.clear();
            assert_eq!(following.read(&mut rows, 99).unwrap(), 1);
            assert_eq!(rows.row(0), b"another record, longer than what was torn");
            assert_eq!(read_back(&log).len(), records);
        }
    }
}

#[test]
fn a_flip_of_any_bit_is_damage_with_its_place_or_a_torn_last_record() {
    for options in [SMALL, LogOptions { segment_bytes_max: 1 << 20, ..SMALL }] {
        let (_temporary, log) = log_of(&RECORDS, options);
        let segments = segments(&log);
        for (number, segment) in segments.iter().enumerate() {
            let base: usize = segment.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            let whole = fs::read(segment).unwrap();
            for byte in 0..whole.len() {
                for bit in 0..8 {
                    let mut flipped = whole.clone();
                    flipped[byte] ^= 1 << bit;
                    fs::write(segment, flipped).unwrap();

                    // The slow twin: which record does the byte belong to?
                    let (mut hit, mut start) = (base, 0);
                    while start + 8 + RECORDS[hit].len() <= byte {
                        start += 8 + RECORDS[hit].len();
                        hit += 1;
                    }
                    let (records, end) = read_all(&mut LogReader::open(&log, 0).unwrap(), 2);
                    assert_eq!(records, RECORDS[..hit], "byte {byte} bit {bit}");
                    let is_last = number == segments.len() - 1 && hit == RECORDS.len() - 1;
                    match end {
                        Ok(()) => assert!(is_last, "byte {byte} bit {bit} of record {hit} was taken for a torn tail"),
                        Err(LogError::Damaged { partition, offset, byte: at, .. }) => {
                            assert_eq!((partition.as_str(), offset, at), ("partition-00000", hit as u64, start as u64));
                        }
                        Err(other) => panic!("{other}"),
                    }
                    // A writer agrees with the reader about its segment, and cuts nothing off that may be whole.
                    if number == segments.len() - 1 {
                        assert_eq!(PartitionWriter::open(&log, 0).is_ok(), is_last);
                        assert!(is_last || fs::metadata(segment).unwrap().len() == whole.len() as u64);
                    }
                }
            }
            fs::write(segment, whole).unwrap();
        }
    }
}

#[test]
fn an_earlier_segment_has_no_torn_tail_and_none_is_missing() {
    let (_temporary, log) = log_of(&RECORDS, SMALL);
    let first = &segments(&log)[0];
    let whole = fs::read(first).unwrap();
    fs::write(first, &whole[..whole.len() - 1]).unwrap();
    let (_, end) = read_all(&mut LogReader::open(&log, 0).unwrap(), 99);
    assert!(matches!(end, Err(LogError::Damaged { .. })), "{end:?}");
    let (_, end) = read_all(&mut LogReader::follow(&log, 0).unwrap(), 99);
    assert!(matches!(end, Err(LogError::Damaged { .. })), "{end:?}");
    fs::write(first, &whole).unwrap();

    let mut log_options = SMALL;
    log_options.segment_bytes_max = 20;
    let (_temporary, log) = log_of(&RECORDS, log_options);
    fs::remove_file(&segments(&log)[2]).unwrap();
    let (_, end) = read_all(&mut LogReader::open(&log, 0).unwrap(), 99);
    assert!(end.unwrap_err().to_string().contains("one is missing between"));
    fs::remove_file(&segments(&log)[0]).unwrap();
    let error = LogReader::open(&log, 0).unwrap().seek_to(0).unwrap_err();
    assert!(error.to_string().contains("offset 0 is gone"), "{error}");
}

#[test]
fn damage_is_found_while_following_once_more_has_been_appended() {
    let (_temporary, log) = log_of(&RECORDS[..2], SMALL);
    let segment = &segments(&log)[0];
    let mut bytes = fs::read(segment).unwrap();
    bytes[0] = 40; // "view" now claims 40 bytes, which are not there yet
    fs::write(segment, &bytes).unwrap();
    let mut following = LogReader::follow(&log, 0).unwrap();
    let mut rows = Lines::default();
    assert_eq!(following.read(&mut rows, 99).unwrap(), 0);
    bytes.extend(fs::read(&segments(&log_of(&RECORDS[2..5], SMALL).1)[0]).unwrap());
    fs::write(segment, &bytes).unwrap();
    assert!(matches!(following.read(&mut rows, 99), Err(LogError::Damaged { offset: 0, byte: 0, .. })));
}

#[test]
fn a_record_longer_than_the_buffer_comes_whole_and_one_too_long_is_refused() {
    let long = vec![7; 3 << 20];
    let (_temporary, log) = log_of(&[b"a", &long, b"b"], LogOptions::default());
    assert_eq!(read_back(&log), [b"a".to_vec(), long, b"b".to_vec()]);
    let mut writer = LogWriter::append_to(&log).unwrap();
    let too_long = vec![0; millstream_connectors::log::RECORD_BYTES_MAX + 1];
    assert!(matches!(writer.append(0, &too_long), Err(LogError::Unusable(_))));
    assert_eq!(writer.append(0, b"c").unwrap(), 3);
    assert!(writer.append(1, b"c").unwrap_err().to_string().contains("partitions are 0 to 0"));
}

#[test]
fn a_partition_has_one_writer() {
    let (_temporary, log) = log_of(&RECORDS, SMALL);
    let first = PartitionWriter::open(&log, 0).unwrap();
    let error = PartitionWriter::open(&log, 0).unwrap_err();
    assert!(error.to_string().contains("another writer holds"), "{error}");
    drop(first);
    PartitionWriter::open(&log, 0).unwrap();
}

#[test]
fn what_is_no_log_is_told_apart_and_says_what_to_do() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    fs::create_dir(path("empty")).unwrap();
    fs::create_dir(path("photos")).unwrap();
    fs::write(path("photos/mill.jpg"), b"").unwrap();
    fs::create_dir(path("alien")).unwrap();
    fs::write(path("alien/log.json"), b"{\"version\": 1}").unwrap();
    fs::create_dir(path("future")).unwrap();
    fs::write(path("future/log.json"), b"{\"format\": \"millstream-log\", \"version\": 2}").unwrap();
    fs::write(path("file"), b"").unwrap();
    LogWriter::create(path("amputated"), 3).unwrap();
    fs::remove_dir_all(path("amputated/partition-00001")).unwrap();
    LogWriter::create(path("emptied"), 1).unwrap();
    fs::remove_file(path("emptied/partition-00000/00000000000000000000.log")).unwrap();

    for (name, says) in [
        ("missing", "there is no log at"),
        ("empty", "is empty and holds no log yet"),
        ("photos", "is not a log, it has no log.json"),
        ("alien", "its log.json does not say so"),
        ("future", "format version 2, and this build reads version 1"),
        ("file", "is a file, and a log is a directory"),
        ("amputated", "should have 3 partitions, but partition-00001 is missing"),
        ("emptied", "holds no segment"),
    ] {
        let Err(SourceError::Unusable(what)) = LogSource::new(path(name)).open(0, 1) else {
            panic!("{name} should be unusable")
        };
        assert!(what.contains(says), "{name}: {what}");
        assert!(!what.contains('\n') && what.contains(temporary.path().to_str().unwrap()), "{name}: {what}");
    }
    assert!(matches!(LogReader::open(path("emptied"), 1), Err(LogError::Unusable(_))));
    let error = LogWriter::create(path("photos"), 1).unwrap_err();
    assert!(error.to_string().contains("holds files but no log"), "{error}");
    let error = LogWriter::create(path("emptied"), 1).unwrap_err();
    assert!(error.to_string().contains("already holds a log"), "{error}");
}

#[test]
fn an_empty_log_ends_at_once_and_every_shard_gets_its_partitions() {
    let temporary = tempfile::tempdir().unwrap();
    LogWriter::create(temporary.path(), 5).unwrap();
    let source = LogSource::new(temporary.path());
    let mut names = Vec::new();
    for shard in 0..7 {
        for mut split in source.open(shard, 7).unwrap() {
            let mut rows = Lines::default();
            assert_eq!(split.poll(&mut rows, 10).unwrap(), Polled::End);
            names.push(split.name());
        }
    }
    assert_eq!(names, (0..5).map(|partition| format!("partition-{partition:05}")).collect::<Vec<_>>());
}

/// Waits until `fd` is readable and drops what it says, as a shard does.
#[expect(unsafe_code, reason = "poll(2) and read(2) on a descriptor that the split owns")]
fn wait_and_drain(fd: std::os::fd::RawFd, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd, and the count says one.
    let ready = unsafe { libc::poll(&mut poll, 1, timeout_ms) } == 1;
    if ready {
        let mut events = [0_u8; 4096];
        // SAFETY: the buffer is as long as said and lives through the call.
        assert!(unsafe { libc::read(fd, events.as_mut_ptr().cast(), events.len()) } > 0);
    }
    ready
}

#[test]
fn a_follower_sleeps_until_the_writer_appends_or_rolls() {
    let (_temporary, log) = log_of(&[], LogOptions { segment_bytes_max: 4096, index_every_bytes: 512 });
    const ROWS: u64 = 5_000;
    let mut split = LogSource::new(&log).follow().open(0, 1).unwrap().remove(0);
    let fd = split.wake_fd().unwrap();
    let mut rows = Lines::default();
    assert_eq!(split.poll(&mut rows, 10).unwrap(), Polled::Idle);
    assert!(!wait_and_drain(fd, 50), "an idle log wakes nobody");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = PartitionWriter::open(&log, 0).unwrap();
            for row in 0..ROWS {
                writer.append(format!("row {row}").as_bytes()).unwrap();
                if row % 7 == 0 {
                    writer.flush().unwrap();
                }
            }
        });
        let mut seen = 0;
        while seen < ROWS {
            rows.clear();
            match split.poll(&mut rows, 100).unwrap() {
                Polled::Rows => {
                    for row in 0..rows.len() {
                        assert_eq!(rows.row(row), format!("row {seen}").as_bytes());
                        seen += 1;
                    }
                }
                Polled::Idle => assert!(wait_and_drain(fd, 10_000), "nobody woke the reader at row {seen}"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(split.position(), ROWS);
    });
    assert!(segments(&log).len() > 10);
}

#[test]
#[expect(unsafe_code, reason = "a duplicate of the split's descriptor, owned by the file that reads it")]
fn a_ring_waits_for_a_follower_instead_of_asking_again_and_again() {
    use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd};
    let (_temporary, log) = log_of(&[b"before"], LogOptions::default());
    let mut writer = PartitionWriter::open(&log, 0).unwrap();
    let executor = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound).io_memory(1 << 20).make().unwrap();
    executor.run(async {
        let mut split = LogSource::new(&log).follow().open(0, 1).unwrap().remove(0);
        let mut rows = Lines::default();
        assert_eq!(split.poll(&mut rows, 10).unwrap(), Polled::Rows);
        assert_eq!(split.poll(&mut rows, 10).unwrap(), Polled::Idle);
        // SAFETY: the split, and so its descriptor, lives to the end of this block.
        let wake = unsafe { BorrowedFd::borrow_raw(split.wake_fd().unwrap()) };
        let duplicate = wake.as_fd().try_clone_to_owned().unwrap().into_raw_fd();
        // SAFETY: the duplicate is open and was just given up by its only owner.
        let wake = unsafe { glommio::io::BufferedFile::from_raw_fd(duplicate) };
        let woken = glommio::spawn_local(async move {
            let events = wake.read_at(0, 4096).await.unwrap();
            wake.close().await.unwrap();
            events.len()
        });
        glommio::timer::sleep(std::time::Duration::from_millis(20)).await;
        writer.append(b"after").unwrap();
        writer.flush().unwrap();
        assert!(woken.await > 0, "a descriptor that does not block is answered at once, with an error");
        rows.clear();
        assert_eq!(split.poll(&mut rows, 10).unwrap(), Polled::Rows);
        assert_eq!(rows.row(0), b"after");
    });
}

/// What a writer does in the property test below.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u8>),
    Flush,
    Reopen,
    /// The writer dies and the last segment keeps this share of the bytes that were not flushed with it.
    Tear(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => proptest::collection::vec(any::<u8>(), 0..90).prop_map(Step::Append),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => any::<u8>().prop_map(Step::Tear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_log_is_the_vector_of_its_records(steps in proptest::collection::vec(step(), 1..80), from in 0_usize..80) {
        let (_temporary, log) = log_of(&[], LogOptions { segment_bytes_max: 400, index_every_bytes: 64 });
        let mut twin: Vec<Vec<u8>> = Vec::new();
        let mut writer = Some(PartitionWriter::open(&log, 0).unwrap());
        for step in steps {
            match step {
                Step::Append(bytes) => {
                    prop_assert_eq!(writer.as_mut().unwrap().append(&bytes).unwrap(), twin.len() as u64);
                    twin.push(bytes);
                }
                Step::Flush => {
                    writer.as_mut().unwrap().flush().unwrap();
                    prop_assert_eq!(&read_back(&log), &twin);
                }
                Step::Reopen => {
                    writer = None;
                    writer.replace(PartitionWriter::open(&log, 0).unwrap());
                }
                Step::Tear(share) => {
                    drop(writer.take());
                    let segment = segments(&log).pop().unwrap();
                    let base: usize = segment.file_stem().unwrap().to_str().unwrap().parse().unwrap();
                    let bytes = fs::read(&segment).unwrap();
                    let kept = bytes.len() * usize::from(share) / 255;
                    fs::write(&segment, &bytes[..kept]).unwrap();
                    let mut end = 0;
                    let whole = twin[base..].iter().take_while(|record| { end += 8 + record.len(); end <= kept }).count();
                    twin.truncate(base + whole);
                    prop_assert_eq!(&read_back(&log), &twin);
                    writer = Some(PartitionWriter::open(&log, 0).unwrap());
                }
            }
            prop_assert_eq!(writer.as_ref().unwrap().offset_next(), twin.len() as u64);
        }
        drop(writer);

        let from = from.min(twin.len());
        let mut reader = LogReader::open(&log, 0).unwrap();
        reader.seek_to(from as u64).unwrap();
        prop_assert_eq!(&read_all(&mut reader, 7).0, &twin[from..]);

        // The index that a scan makes is the index that was written.
        let index = files(&log, "index").pop().unwrap();
        let written = fs::read(&index).unwrap();
        fs::remove_file(&index).unwrap();
        reader.seek_to(from as u64).unwrap();
        prop_assert_eq!(&read_all(&mut reader, 7).0, &twin[from..]);
        PartitionWriter::open(&log, 0).unwrap();
        prop_assert_eq!(fs::read(&index).unwrap(), written);
    }
}
