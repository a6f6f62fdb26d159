//! A checkpoint's whole way, on a real file system: table, snapshot file, manifest, restore; and what happens when the
//! disk does not do as it is told.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use glommio::{LocalExecutorBuilder, Placement};
use millstream_state::{
    DiskFault, DiskOperation, Drained, Epoch, FORMAT_VERSION, FileRef, HashRange, Manifest, Namespace, OperatorPart,
    Part, RestoreError, SnapshotFile, Store, StoreError, Table, TableConfig, TablePart,
};

const NS: Namespace = Namespace(-60_000);

fn on_a_shard<T: 'static>(work: impl std::future::Future<Output = T> + 'static) -> T {
    LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20).make().unwrap().run(work)
}

fn config() -> TableConfig {
    TableConfig { operator: "clicks".into(), shard: 1, bytes_max: 64 << 20, ..TableConfig::default() }
}

fn add(table: &mut Table<u64, u64>, keys: std::ops::Range<u64>) {
    let keys: Vec<u64> = keys.collect();
    table.fold(NS, keys.len(), |row| keys[row], || 0, |value, _row| *value += 1).unwrap();
}

fn manifest(epoch: u64, files: Vec<FileRef>) -> Manifest {
    let table = TablePart { name: "count".into(), range: HashRange::ALL, states: Vec::new(), files };
    let operator = OperatorPart {
        uid: "clicks".into(),
        blob: serde_json::Value::Null,
        tables: vec![table],
        committables: Vec::new(),
    };
    Manifest {
        format_version: FORMAT_VERSION,
        job: "test".into(),
        epoch: Epoch(epoch),
        created_ms: 0,
        graph_fingerprint: 1,
        graph: "clicks".into(),
        shards: 2,
        parts: vec![Part { shard: 1, operators: vec![operator] }],
    }
}

/// What the engine does at a barrier, without a road going on beside it.
async fn checkpoint(table: &mut Table<u64, u64>, store: &Store, epoch: u64) -> Result<(), StoreError> {
    table.freeze(Epoch(epoch));
    let checkpointed = write(table, store, epoch).await;
    match checkpointed {
        Ok(file) => {
            table.confirm(file);
            Ok(())
        }
        Err(error) => {
            table.abort();
            Err(error)
        }
    }
}

async fn write(table: &mut Table<u64, u64>, store: &Store, epoch: u64) -> Result<Option<FileRef>, StoreError> {
    let mut file: Option<SnapshotFile> = None;
    loop {
        let drained = table.drain(64 << 10);
        while let Some(chunk) = table.take_chunk() {
            let writing = match &mut file {
                Some(writing) => writing,
                None => file.insert(SnapshotFile::create(store, &format!("epoch-{epoch}-clicks-1")).await?),
            };
            let chunk = writing.write(chunk).await?;
            table.give_back(chunk);
        }
        if drained == Drained::Done {
            break;
        }
    }
    let file = match file {
        Some(file) => Some(file.finish().await?),
        None => None,
    };
    store.publish(&manifest(epoch, table.chain(file.as_ref())))?;
    Ok(file)
}

fn restore(store: &Store, manifest: &Manifest) -> Table<u64, u64> {
    Table::restore(config(), store, &manifest.parts[0].operators[0].tables[0].files).unwrap().0
}

fn entries(table: &Table<u64, u64>) -> Vec<(u64, u64)> {
    let mut entries = Vec::new();
    table.scan(NS, |key, value| entries.push((*key, *value)));
    entries.sort_unstable();
    entries
}

#[test]
fn state_goes_to_disk_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("made/on/the/way")).unwrap();
    assert!(store.newest().unwrap().manifest.is_none());
    let store_on_shard = store.clone();
    let expected = on_a_shard(async move {
        let store = store_on_shard;
        let mut table = Table::new(config()).unwrap();
        let mut expected = Vec::new();
        for epoch in 1..=6 {
            add(&mut table, 0..epoch * 40_000);
            expected = entries(&table);
            checkpoint(&mut table, &store, epoch).await.unwrap();
        }
        add(&mut table, 0..10);
        expected
    });
    let newest = store.newest().unwrap();
    assert!(newest.rejected.is_empty());
    let manifest = newest.manifest.unwrap();
    assert_eq!(manifest.epoch, Epoch(6));
    assert!(manifest.files().any(|file| file.bytes > 1 << 20), "more than one chunk");
    assert_eq!(entries(&restore(&store, &manifest)), expected);

    assert!(store.retain(1).unwrap() >= 5);
    let left: HashSet<String> = std::fs::read_dir(store.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut named: HashSet<String> = manifest.files().map(|file| file.name.clone()).collect();
    named.insert("manifest-00000000000000000006.json".into());
    assert_eq!(left, named);
    assert_eq!(entries(&restore(&store, &manifest)), expected);
}

#[test]
fn a_name_that_is_taken_is_not_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    std::fs::write(store.path("epoch-1-clicks-1.snap"), b"of the first try").unwrap();
    let writing = store.clone();
    on_a_shard(async move {
        let mut table = Table::new(config()).unwrap();
        add(&mut table, 0..10);
        checkpoint(&mut table, &writing, 1).await.unwrap();
    });
    let manifest = store.newest().unwrap().manifest.unwrap();
    assert_eq!(manifest.files().next().unwrap().name, "epoch-1-clicks-1-2.snap");
    assert_eq!(std::fs::read(store.path("epoch-1-clicks-1.snap")).unwrap(), b"of the first try");
}

/// Fails the operation number `nth` of those that come.
fn fail_nth(nth: usize, count: &Arc<AtomicUsize>) -> DiskFault {
    let count = Arc::clone(count);
    Arc::new(move |operation: DiskOperation, _: &Path| {
        if count.fetch_add(1, Ordering::Relaxed) == nth {
            let number = if operation == DiskOperation::Write { libc::ENOSPC } else { libc::EIO };
            return Err(io::Error::from_raw_os_error(number));
        }
        Ok(())
    })
}

#[test]
fn whatever_fails_the_checkpoint_before_stands_and_the_next_has_it_all() {
    for nth in 0.. {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (asked, count) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let faulty = store.clone().with_fault(fail_nth(nth, &count));
        let (on_shard, asked_on_shard) = (store.clone(), Arc::clone(&asked));
        let failed = on_a_shard(async move {
            let mut table = Table::new(config()).unwrap();
            add(&mut table, 0..60_000);
            checkpoint(&mut table, &on_shard, 1).await.unwrap();
            let first = entries(&table);
            add(&mut table, 0..100_000);

            let failed = checkpoint(&mut table, &faulty, 2).await;
            let newest = on_shard.newest().unwrap();
            assert!(newest.rejected.is_empty());
            let manifest = newest.manifest.unwrap();
            if let Err(error) = &failed {
                assert!(error.to_string().contains(on_shard.directory().to_str().unwrap()), "{error}");
                assert_eq!(manifest.epoch, Epoch(1));
                assert_eq!(entries(&restore(&on_shard, &manifest)), first);
                asked_on_shard.fetch_add(1, Ordering::Relaxed);
            } else {
                assert_eq!(manifest.epoch, Epoch(2));
            }

            add(&mut table, 5..10);
            checkpoint(&mut table, &on_shard, 3).await.unwrap();
            let manifest = on_shard.newest().unwrap().manifest.unwrap();
            assert_eq!((manifest.epoch, entries(&restore(&on_shard, &manifest))), (Epoch(3), entries(&table)));
            failed.is_err()
        });
        store.retain(3).unwrap();
        if !failed {
            assert!(nth >= 9, "create, chunks, sync; create, write, sync, rename, sync: only {nth} operations");
            return;
        }
    }
}

#[test]
fn a_damaged_file_is_found_out_and_the_checkpoint_before_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let writing = store.clone();
    on_a_shard(async move {
        let mut table = Table::new(config()).unwrap();
        for epoch in 1..=2 {
            add(&mut table, epoch * 1000..epoch * 1000 + 500);
            checkpoint(&mut table, &writing, epoch).await.unwrap();
        }
    });
    let manifest = store.newest().unwrap().manifest.unwrap();
    let file = manifest.files().last().unwrap().clone();
    let path = store.path(&file.name);
    let bytes = std::fs::read(&path).unwrap();
    let chain: Vec<FileRef> = manifest.files().cloned().collect();
    // In place: a file that is cut to nothing and written anew is flushed to the disk by ext4, which takes 10 ms.
    let on_disk = OpenOptions::new().write(true).open(&path).unwrap();
    for at in (0..bytes.len() * 8).step_by(7) {
        on_disk.write_all_at(&[bytes[at / 8] ^ 1 << (at % 8)], at as u64 / 8).unwrap();
        let error = Table::<u64, u64>::restore(config(), &store, &chain).err().expect("a flipped bit is noticed");
        assert!(matches!(error, RestoreError::Damaged { .. }), "bit {at}: {error}");
        if at % 1000 == 0 {
            let newest = store.newest().unwrap();
            assert_eq!((newest.manifest.unwrap().epoch, newest.rejected.len()), (Epoch(1), 1), "bit {at}");
        }
        on_disk.write_all_at(&bytes[at / 8..=at / 8], at as u64 / 8).unwrap();
    }
    for len in (0..bytes.len()).rev().step_by(509) {
        on_disk.set_len(len as u64).unwrap();
        assert!(Table::<u64, u64>::restore(config(), &store, &chain).is_err(), "cut to {len}");
        assert_eq!(store.newest().unwrap().manifest.unwrap().epoch, Epoch(1));
    }
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(store.newest().unwrap().manifest.unwrap().epoch, Epoch(2));
    std::fs::remove_file(&path).unwrap();
    let newest = store.newest().unwrap();
    assert!(newest.rejected[0].why.to_string().contains("cannot be read"), "{}", newest.rejected[0].why);
    assert_eq!(store.newest_before(Some(Epoch(1))).unwrap().manifest, None);
}

#[test]
fn state_of_other_types_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let writing = store.clone();
    on_a_shard(async move {
        let mut table = Table::new(config()).unwrap();
        add(&mut table, 0..10);
        checkpoint(&mut table, &writing, 1).await.unwrap();
    });
    let chain: Vec<FileRef> = store.newest().unwrap().manifest.unwrap().files().cloned().collect();
    let error = Table::<u64, i64>::restore(config(), &store, &chain).err().unwrap().to_string();
    assert!(
        error.contains("operator 'clicks'") && error.contains("value type is u64, and the job's is i64"),
        "{error}"
    );
    let error = Table::<u64, u64>::restore(TableConfig { bytes_max: 1, ..config() }, &store, &chain);
    assert!(error.is_ok(), "sixteen pages are always allowed");
}

#[test]
fn a_directory_that_cannot_be_written_to_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Store::open(file.path().join("inside/a/file")).unwrap_err().to_string();
    assert!(error.contains("inside/a/file") && error.contains("make it writable"), "{error}");
}

/// Pages laid out ahead hold nothing, and are a part of every snapshot all the same.
#[test]
fn a_namespace_prepared_for_many_comes_back_with_few() {
    on_a_shard(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut table = Table::new(config()).unwrap();
        add(&mut table, 0..20_000);
        let many = table.bytes().live;
        table.drop_namespace(NS);
        add(&mut table, 7..10);
        assert!(table.bytes().live * 2 >= many, "{} of {many}", table.bytes().live);
        checkpoint(&mut table, &store, 1).await.unwrap();
        table.freeze(Epoch(2));
        let file = write(&mut table, &store, 2).await.unwrap();
        let mut restored = restore(&store, &manifest(2, table.chain(file.as_ref())));
        assert_eq!(entries(&restored), [(7, 1), (8, 1), (9, 1)]);
        add(&mut restored, 0..5_000);
        assert_eq!(entries(&restored).len(), 5_000);
    });
}

#[test]
fn a_full_table_says_so_and_stays_whole() {
    let mut table = Table::new(TableConfig { bytes_max: 64 << 10, ..config() }).unwrap();
    let keys: Vec<u64> = (0..100_000).collect();
    let error = table.fold(NS, keys.len(), |row| keys[row], || 0u64, |value, _| *value += 1).unwrap_err().to_string();
    assert!(error.contains("operator 'clicks' on shard 1") && error.contains("limit of 65536 bytes"), "{error}");
    let held = entries(&table);
    assert!(held.len() > 1500 && held.iter().all(|&(_, value)| value == 1), "{} entries", held.len());
}
