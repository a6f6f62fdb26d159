//! Sinks killed between any two calls: nothing shows early, and in the end every row is there once.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use millstream::road::sink::{Committable, Epoch, Sink, SinkError, SinkWriter};
use millstream_connectors::file::{FileSink, PartitionedSink};
use millstream_connectors::memory::{MemorySink, NullSink};

type Row = u64;

/// Runs a shard's life. What its writers still do when it ends is cut off, as by a crash.
fn on_a_shard<R>(life: impl Future<Output = R>) -> R {
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20);
    builder.preempt_timer(Duration::from_secs(3600)).make().unwrap().run(life)
}

fn file_sink(dir: &Path) -> impl Sink<Row> + use<> {
    FileSink::lines(dir, |row: &Row, out: &mut Vec<u8>| out.extend_from_slice(row.to_string().as_bytes()))
}

/// The committed rows of a directory, in the order of the names.
fn visible(dir: &Path) -> Vec<Row> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let parts = names.iter().filter(|name| name.to_str().unwrap().starts_with("part-"));
    parts
        .flat_map(|name| {
            fs::read_to_string(dir.join(name)).unwrap().lines().map(|row| row.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect()
}

fn pending(dir: &Path) -> Vec<String> {
    fs::read_dir(dir.join(".pending")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The calls of a job's life, in an order that an engine may make them: a commit can be late, and epoch 4 has no rows.
#[derive(Clone, Copy, Debug)]
enum Call {
    Rows,
    Prepare(u64),
    Commit(u64),
}

const LIFE: [Call; 15] = {
    use Call::{Commit, Prepare, Rows};
    [
        Rows,
        Rows,
        Prepare(1),
        Commit(1),
        Rows,
        Prepare(2),
        Rows,
        Prepare(3),
        Commit(2),
        Commit(3),
        Prepare(4),
        Rows,
        Commit(4),
        Prepare(5),
        Commit(5),
    ]
};
const ROWS_PER_CALL: u64 = 3;

/// The slow twin: how many rows the first epochs of the life have.
fn rows_up_to(epoch: u64) -> u64 {
    let mut rows = 0;
    for call in LIFE {
        match call {
            Call::Rows => rows += ROWS_PER_CALL,
            Call::Prepare(prepared) if prepared == epoch => return rows,
            _ => {}
        }
    }
    0
}

/// Lives from the restored epoch on, the first `calls` of what is left; returns the committables of all prepared epochs.
async fn live<S: Sink<Row>>(
    sink: &S,
    restored: u64,
    mut prepared: Vec<Committable>,
    calls: usize,
    show: impl Fn() -> Vec<Row>,
) -> Vec<Committable> {
    let mut writer = sink.open(0, 1).unwrap();
    prepared.truncate(restored as usize);
    // The checkpoint of an epoch keeps the committables since the last one that is surely committed: here all of them.
    writer.recover(prepared.clone()).await.unwrap();
    let mut committed = restored;
    assert_eq!(show(), (0..rows_up_to(committed)).collect::<Vec<_>>(), "after recovery to epoch {restored}");

    let behind = LIFE.iter().position(|call| matches!(call, Call::Prepare(epoch) if *epoch == restored));
    let behind = behind.map_or(0, |at| at + 1);
    let mut next_row = rows_up_to(restored);
    for call in LIFE[behind..].iter().take(calls) {
        match *call {
            Call::Rows => {
                for _ in 0..ROWS_PER_CALL {
                    assert!(writer.ready());
                    writer.write(&next_row).unwrap();
                    next_row += 1;
                }
            }
            Call::Prepare(epoch) => prepared.push(writer.prepare(Epoch(epoch)).await.unwrap()),
            Call::Commit(epoch) => {
                writer.commit(prepared[epoch as usize - 1].clone()).await.unwrap();
                committed = committed.max(epoch);
            }
        }
        assert_eq!(show(), (0..rows_up_to(committed)).collect::<Vec<_>>(), "after {call:?}");
    }
    prepared
}

/// Kills the life after each call, and its second life too, restoring every checkpoint that may have been the newest.
fn killed_anywhere<S: Sink<Row>>(fresh: impl FnMut() -> (S, Box<dyn Fn() -> Vec<Row>>, Box<dyn Fn()>)) {
    killed_anywhere_and_again(&[0, 1, 2, 4, 7], fresh);
}

/// The second kill comes after so many calls of the second life.
fn killed_anywhere_and_again<S: Sink<Row>>(
    second_kills: &[usize],
    mut fresh: impl FnMut() -> (S, Box<dyn Fn() -> Vec<Row>>, Box<dyn Fn()>),
) {
    let last = LIFE.iter().filter(|call| matches!(call, Call::Prepare(_))).count() as u64;
    for first_kill in 0..=LIFE.len() {
        for &second_kill in second_kills {
            let committed = LIFE[..first_kill].iter().filter(|call| matches!(call, Call::Commit(_))).count() as u64;
            let prepared = LIFE[..first_kill].iter().filter(|call| matches!(call, Call::Prepare(_))).count() as u64;
            for restored in committed..=prepared {
                let (sink, show, check_clean) = fresh();
                let first = on_a_shard(live(&sink, 0, Vec::new(), first_kill, &show));
                let second = on_a_shard(live(&sink, restored, first, second_kill, &show));
                let newest = second.len() as u64;
                let third = on_a_shard(live(&sink, newest, second, LIFE.len(), &show));
                assert_eq!(third.len() as u64, last);
                assert_eq!(show(), (0..rows_up_to(last)).collect::<Vec<_>>());
                check_clean();
            }
        }
    }
}

#[test]
fn the_file_sink_killed_between_any_two_calls_shows_each_row_once() {
    killed_anywhere(|| {
        let dir = tempfile::tempdir().unwrap();
        let (sink, path) = (file_sink(dir.path()), dir.path().to_owned());
        let clean = path.clone();
        let check_clean = move || {
            assert_eq!(pending(&clean), Vec::<String>::new());
            assert!(dir.path().exists());
        };
        (sink, Box::new(move || visible(&path)), Box::new(check_clean))
    });
}

/// Partitions two levels deep: some go on through all epochs, and new ones come.
fn partitioned_sink(dir: &Path) -> impl Sink<Row> + use<> {
    let format = |row: &Row, out: &mut Vec<u8>| out.extend_from_slice(row.to_string().as_bytes());
    PartitionedSink::lines(dir, |row: &Row| format!("eights={}/even={}", row / 8, row.is_multiple_of(2)), format)
}

/// The directories that a partitioned sink wrote in.
fn partitions(dir: &Path) -> Vec<PathBuf> {
    let inside = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    inside(dir).iter().filter(|path| !path.ends_with(".pending")).flat_map(|path| inside(path)).collect()
}

#[test]
fn the_partitioned_sink_killed_between_any_two_calls_shows_each_row_once() {
    // The files are those of the file sink: what is new is which of them there are.
    killed_anywhere_and_again(&[3], || {
        let dir = tempfile::tempdir().unwrap();
        let (sink, path) = (partitioned_sink(dir.path()), dir.path().to_owned());
        let clean = path.clone();
        let check_clean = move || {
            for partition in partitions(&clean) {
                assert_eq!(pending(&partition), Vec::<String>::new());
                let name = partition.strip_prefix(&clean).unwrap().to_str().unwrap().to_owned();
                let rows = visible(&partition);
                assert!(
                    rows.iter().all(|row| name == format!("eights={}/even={}", row / 8, row.is_multiple_of(2))),
                    "{name}"
                );
            }
            assert!(dir.path().exists());
        };
        let show = move || {
            let mut rows: Vec<Row> = partitions(&path).iter().flat_map(|partition| visible(partition)).collect();
            rows.sort_unstable();
            rows
        };
        (sink, Box::new(show), Box::new(check_clean))
    });
}

#[test]
fn a_partition_outside_of_the_directory_or_gone_from_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for partition in ["", "/tmp", "../other", "a/../../b", "./a"] {
        let sink =
            PartitionedSink::lines(dir.path(), move |_: &Row| partition.to_owned(), |_: &Row, _: &mut Vec<u8>| {});
        let refused = on_a_shard(async { sink.open(0, 1).unwrap().write(&1) }).unwrap_err().to_string();
        assert!(refused.contains("is no partition of"), "{partition:?}: {refused}");
    }
    let sink = partitioned_sink(dir.path());
    let prepared = on_a_shard(live(&sink, 0, Vec::new(), 3, Vec::new));
    fs::remove_dir_all(dir.path().join("eights=0")).unwrap();
    let refused = refusal(&sink, 0, 1, prepared);
    assert!(refused.contains("the output of partition \"eights=0/even=false\" is lost"), "{refused}");
}

#[test]
fn the_memory_sink_killed_between_any_two_calls_shows_each_row_once() {
    killed_anywhere(|| {
        let sink = MemorySink::<Row>::new();
        let rows = sink.clone();
        (sink, Box::new(move || rows.rows()), Box::new(|| {}))
    });
}

#[test]
fn the_null_sink_counts_what_is_committed_once() {
    killed_anywhere(|| {
        let sink = NullSink::new();
        let rows = sink.clone();
        (sink, Box::new(move || (0..rows.rows()).collect()), Box::new(|| {}))
    });
}

#[test]
fn long_output_is_written_behind_the_road_and_holds_it_back() {
    const ROWS: u64 = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    on_a_shard(async {
        let mut writer = file_sink(dir.path()).open(0, 1).unwrap();
        writer.recover(Vec::new()).await.unwrap();
        let mut held_back = 0;
        for row in 0..ROWS {
            while !writer.ready() {
                held_back += 1;
                glommio::timer::sleep(Duration::from_micros(100)).await;
            }
            writer.write(&row).unwrap();
        }
        assert!(held_back > 0, "nothing was written while the road ran, so ready() should have said no");
        let prepared = writer.prepare(Epoch(1)).await.unwrap();
        assert_eq!(prepared["file"]["rows"], ROWS);
        assert!(visible(dir.path()).is_empty());
        writer.commit(prepared).await.unwrap();
    });
    assert_eq!(visible(dir.path()), (0..ROWS).collect::<Vec<_>>());
}

#[test]
fn shards_share_a_directory_without_meeting() {
    const SHARDS: u32 = 4;
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for shard in 0..SHARDS {
            let dir = dir.path();
            scope.spawn(move || {
                on_a_shard(async {
                    let mut writer = file_sink(dir).open(shard, SHARDS).unwrap();
                    writer.recover(Vec::new()).await.unwrap();
                    for epoch in 1..=20 {
                        writer.write(&(u64::from(shard) * 1000 + epoch)).unwrap();
                        let prepared = writer.prepare(Epoch(epoch)).await.unwrap();
                        writer.commit(prepared).await.unwrap();
                    }
                });
            });
        }
    });
    let expected = (0..u64::from(SHARDS)).flat_map(|shard| (1..=20).map(move |epoch| shard * 1000 + epoch));
    assert_eq!(visible(dir.path()), expected.collect::<Vec<_>>());
    assert_eq!(pending(dir.path()), Vec::<String>::new());
}

#[test]
fn rows_written_while_an_epoch_is_prepared_belong_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    on_a_shard(async {
        let mut writer = file_sink(dir.path()).open(0, 1).unwrap();
        writer.recover(Vec::new()).await.unwrap();
        writer.write(&1).unwrap();
        let first = writer.prepare(Epoch(1));
        writer.write(&2).unwrap();
        let second = writer.prepare(Epoch(2));
        let (second, first) = (second.await.unwrap(), first.await.unwrap());
        writer.commit(first).await.unwrap();
        assert_eq!(visible(dir.path()), [1]);
        writer.commit(second).await.unwrap();
        assert_eq!(visible(dir.path()), [1, 2]);
    });
}

/// What `recover` says, as the error a user reads.
fn refusal(sink: &impl Sink<Row>, shard: u32, shards: u32, committables: Vec<Committable>) -> String {
    on_a_shard(async {
        let mut writer = sink.open(shard, shards).unwrap();
        let error = writer.recover(committables).await.unwrap_err();
        assert!(matches!(error, SinkError::Unusable(_)), "{error:?}");
        error.to_string()
    })
}

#[test]
fn output_of_another_run_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let sink = file_sink(dir.path());
    let prepared = on_a_shard(live(&sink, 0, Vec::new(), LIFE.len(), || visible(dir.path()))).clone();
    let all = visible(dir.path());

    assert!(refusal(&sink, 0, 1, Vec::new()).contains("output of another run"));
    let older = prepared[..2].to_vec();
    assert!(refusal(&sink, 0, 1, older).contains("is output of epoch 3, and the restored checkpoint is of epoch 2"));
    assert_eq!(visible(dir.path()), all);

    // Another shard of the same directory starts beside it; a job of fewer shards does not.
    on_a_shard(async { sink.open(1, 2).unwrap().recover(Vec::new()).await }).unwrap();
    fs::write(dir.path().join("part-00007-000000000001.txt"), "1\n").unwrap();
    assert!(refusal(&sink, 1, 2, Vec::new()).contains("part-00007"));

    let memory = MemorySink::<Row>::new();
    on_a_shard(live(&memory, 0, Vec::new(), LIFE.len(), || memory.rows()));
    assert!(refusal(&memory, 0, 1, Vec::new()).contains("up to epoch 5, and the job starts from the beginning"));
}

#[test]
fn a_checkpoint_whose_file_is_lost_cut_or_damaged_is_refused() {
    let prepare = |dir: &Path| {
        on_a_shard(async {
            let mut writer = file_sink(dir).open(0, 1).unwrap();
            writer.recover(Vec::new()).await.unwrap();
            writer.write(&12345).unwrap();
            writer.prepare(Epoch(1)).await.unwrap()
        })
    };
    type Harm = fn(&Path, &Path);
    let harms: [(Harm, &str); 4] = [
        (|pending, _| fs::remove_file(pending).unwrap(), "is lost (1 rows, 6 bytes): neither"),
        (|pending, _| fs::write(pending, "123\n").unwrap(), "has 4 bytes where the checkpoint says 6"),
        (|pending, _| fs::write(pending, "54321\n").unwrap(), "the disk damaged it"),
        (|_, visible| fs::write(visible, "12345\n").unwrap(), "exists already, and this job has not written it"),
    ];
    for (harm, says) in harms {
        let dir = tempfile::tempdir().unwrap();
        let prepared = prepare(dir.path());
        harm(
            &dir.path().join(".pending").join(&pending(dir.path())[0]),
            &dir.path().join("part-00000-000000000001.txt"),
        );
        let error = refusal(&file_sink(dir.path()), 0, 1, vec![prepared]);
        assert!(error.contains(says), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut prepared = prepare(dir.path());
    prepared["file"]["pending"] = "shard-00000-1/../../../etc/passwd".into();
    assert!(refusal(&file_sink(dir.path()), 0, 1, vec![prepared]).contains("are no files of shard 0"));
    assert!(refusal(&file_sink(dir.path()), 0, 1, vec![Committable::Null]).contains("not one of a file sink"));
    assert!(refusal(&MemorySink::<Row>::new(), 0, 1, vec![Committable::Null]).contains("not one of a memory sink"));
}

#[test]
fn a_path_that_cannot_be_an_output_directory_is_refused_at_open() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("file");
    fs::write(&file, "").unwrap();
    let error = file_sink(&file).open(0, 1).err().unwrap().to_string();
    assert!(error.contains("is a file, and the sink writes a directory of files"), "{error}");
    // Root may write anywhere, except where the kernel makes the files.
    let error = file_sink(Path::new("/proc/millstream")).open(0, 1).err().unwrap().to_string();
    assert!(error.contains("name an output directory that this user may write"), "{error}");
}

/// A file system of one megabyte, unmounted when dropped. Only root may make one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(dir.path())
            .output();
        match mount {
            Ok(output) if output.status.success() => Some(SmallDisk(dir)),
            other => {
                eprintln!("skipped: cannot mount a tmpfs here ({other:?})");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a writer that failed leaves its file to the executor to close, which may have ended before that.
        std::process::Command::new("umount").arg("-l").arg(self.0.path()).status().unwrap();
    }
}

#[test]
fn a_full_disk_fails_the_epoch_and_a_restart_with_room_mends_it() {
    let Some(disk) = SmallDisk::mount() else { return };
    let out = disk.0.path().join("out");
    let ballast = disk.0.path().join("ballast");
    let sink = file_sink(&out);
    let first = on_a_shard(async {
        let mut writer = sink.open(0, 1).unwrap();
        writer.recover(Vec::new()).await.unwrap();
        writer.write(&1).unwrap();
        let first = writer.prepare(Epoch(1)).await.unwrap();
        writer.commit(first.clone()).await.unwrap();

        fs::write(&ballast, vec![0; 900 << 10]).unwrap();
        for row in 0..100_000 {
            writer.write(&row).unwrap();
        }
        let error = writer.prepare(Epoch(2)).await.unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.contains("make room"), "{error}");
        // Every later call says the same, and what was committed stays.
        assert_eq!(writer.write(&1).unwrap_err().to_string(), error);
        assert_eq!(writer.prepare(Epoch(3)).await.unwrap_err().to_string(), error);
        assert_eq!(visible(&out), [1]);
        first
    });
    // Without a barrier the error comes to a row, and the road is not held back from it for ever.
    on_a_shard(async {
        let mut writer = sink.open(0, 1).unwrap();
        writer.recover(vec![first.clone()]).await.unwrap();
        let mut row = 0;
        let error = loop {
            while !writer.ready() {
                glommio::timer::sleep(Duration::from_micros(100)).await;
            }
            row += 1;
            assert!(row < 10_000_000, "a full disk went unnoticed");
            if let Err(error) = writer.write(&row) {
                break error;
            }
        };
        assert!(error.to_string().contains("make room"), "{error}");
    });
    fs::remove_file(&ballast).unwrap();
    on_a_shard(async {
        let mut writer = sink.open(0, 1).unwrap();
        writer.recover(vec![first]).await.unwrap();
        for row in 0..100_000 {
            writer.write(&row).unwrap();
        }
        let second = writer.prepare(Epoch(2)).await.unwrap();
        writer.commit(second).await.unwrap();
        assert_eq!(visible(&out).len(), 100_001);
    });
}

#[test]
fn a_full_disk_fails_the_log_writer_and_a_reopen_with_room_mends_it() {
    use millstream_connectors::log::{LogReader, LogWriter};
    let Some(disk) = SmallDisk::mount() else { return };
    let dir = disk.0.path().join("log");
    let ballast = disk.0.path().join("ballast");
    let mut writer = LogWriter::create(&dir, 1).unwrap();
    writer.append(0, b"first").unwrap();
    writer.flush().unwrap();
    fs::write(&ballast, vec![0; 800 << 10]).unwrap();
    let error = (0..10_000).find_map(|_| writer.append(0, &[7; 100]).err()).unwrap().to_string();
    assert!(error.contains("free space"), "{error}");
    for error in [writer.append(0, b"more").unwrap_err(), writer.flush().unwrap_err()] {
        assert!(error.to_string().contains("open the log again"), "{error}");
    }
    drop(writer);
    fs::remove_file(&ballast).unwrap();

    let mut writer = LogWriter::append_to(&dir).unwrap();
    let offset = writer.append(0, b"after").unwrap();
    writer.flush().unwrap();
    let mut reader = LogReader::open(&dir, 0).unwrap();
    reader.seek_to(offset).unwrap();
    let mut rows = millstream::road::rows::Lines::default();
    assert_eq!(reader.read(&mut rows, 10).unwrap(), 1);
}

/// Shards `0..before` prepare an epoch each, and die; then those of `after` take over what they left.
async fn handed_over<S: Sink<Row>>(sink: &S, before: u32, after: u32, epoch: u64) -> Vec<S::Writer> {
    let mut prepared = Vec::new();
    for shard in 0..before {
        let mut writer = sink.open(shard, before).unwrap();
        if epoch > 1 {
            writer.restored(Epoch(epoch - 1));
        }
        writer.recover(Vec::new()).await.unwrap();
        writer.write(&(epoch * 100 + u64::from(shard))).unwrap();
        prepared.push(writer.prepare(Epoch(epoch)).await.unwrap());
        // Of the epoch after it there is no checkpoint.
        writer.write(&666).unwrap();
        writer.prepare(Epoch(epoch + 1)).await.unwrap();
    }
    let mut writers = Vec::new();
    for shard in 0..after {
        let mut writer = sink.open(shard, after).unwrap();
        writer.restored(Epoch(epoch));
        let ours = prepared.iter().skip(shard as usize).step_by(after as usize);
        writer.recover(ours.cloned().collect()).await.unwrap();
        writers.push(writer);
    }
    writers
}

#[test]
fn output_of_shards_that_are_no_more_is_committed_and_what_they_left_is_cleared_away() {
    on_a_shard(async {
        let dir = tempfile::tempdir().unwrap();
        let sink = file_sink(dir.path());
        // Four shards, then two, then four again: those who come back find their own old files, and are not afraid of them.
        handed_over(&sink, 4, 2, 1).await;
        assert_eq!(visible(dir.path()), [100, 101, 102, 103]);
        assert!(pending(dir.path()).is_empty(), "{:?}", pending(dir.path()));
        handed_over(&sink, 2, 4, 2).await;
        let mut rows = visible(dir.path());
        rows.sort_unstable();
        assert_eq!(rows, [100, 101, 102, 103, 200, 201]);
        assert!(pending(dir.path()).is_empty(), "{:?}", pending(dir.path()));
        // What is ahead of the checkpoint is in the way, whichever shard wrote it.
        fs::write(dir.path().join("part-00003-000000000009.txt"), "1\n").unwrap();
        let mut writer = sink.open(1, 2).unwrap();
        writer.restored(Epoch(2));
        let error = writer.recover(Vec::new()).await.unwrap_err().to_string();
        assert!(error.contains("part-00003") && error.contains("epoch 9"), "{error}");
    });
}

#[test]
fn sinks_in_memory_go_on_with_other_shards() {
    on_a_shard(async {
        let memory = MemorySink::<Row>::new();
        handed_over(&memory, 3, 2, 1).await;
        handed_over(&memory, 2, 5, 2).await;
        let mut rows = memory.rows();
        rows.sort_unstable();
        assert_eq!(rows, [100, 101, 102, 200, 201]);

        let counted = NullSink::new();
        let mut writers = handed_over(&counted, 5, 2, 1).await;
        assert_eq!(counted.rows(), 5);
        for writer in &mut writers {
            SinkWriter::<Row>::write(writer, &7).unwrap();
            let prepared = SinkWriter::<Row>::prepare(writer, Epoch(2)).await.unwrap();
            SinkWriter::<Row>::commit(writer, prepared).await.unwrap();
        }
        assert_eq!(counted.rows(), 7);
    });
}
