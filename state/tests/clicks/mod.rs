//! A table of clicks and its checkpoints, for tests of the places where these are kept.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use glommio::{LocalExecutorBuilder, Placement};
use millstream_state::{
    DiskFault, DiskOperation, Drained, Epoch, FORMAT_VERSION, FileRef, HashRange, Manifest, Namespace, OperatorPart,
    Part, SnapshotFile, Store, StoreError, Table, TableConfig, TablePart,
};

pub(crate) const NS: Namespace = Namespace(-60_000);

pub(crate) fn on_a_shard<T: 'static>(work: impl std::future::Future<Output = T> + 'static) -> T {
    LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20).make().unwrap().run(work)
}

pub(crate) fn config() -> TableConfig {
    TableConfig { operator: "clicks".into(), shard: 1, bytes_max: 64 << 20, ..TableConfig::default() }
}

pub(crate) fn add(table: &mut Table<u64, u64>, keys: std::ops::Range<u64>) {
    let keys: Vec<u64> = keys.collect();
    table.fold(NS, keys.len(), |row| keys[row], || 0, |value, _row| *value += 1).unwrap();
}

pub(crate) fn manifest(epoch: u64, files: Vec<FileRef>) -> Manifest {
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
pub(crate) async fn checkpoint(table: &mut Table<u64, u64>, store: &Store, epoch: u64) -> Result<(), StoreError> {
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

pub(crate) async fn write(
    table: &mut Table<u64, u64>,
    store: &Store,
    epoch: u64,
) -> Result<Option<FileRef>, StoreError> {
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

pub(crate) fn restore(store: &Store, manifest: &Manifest) -> Table<u64, u64> {
    Table::restore(config(), store, &manifest.parts[0].operators[0].tables[0].files).unwrap().0
}

pub(crate) fn entries(table: &Table<u64, u64>) -> Vec<(u64, u64)> {
    let mut entries = Vec::new();
    table.scan(NS, |key, value| entries.push((*key, *value)));
    entries.sort_unstable();
    entries
}

/// Fails the operation number `nth` of those that come.
pub(crate) fn fail_nth(nth: usize, count: &Arc<AtomicUsize>) -> DiskFault {
    let count = Arc::clone(count);
    Arc::new(move |operation: DiskOperation, _: &Path| {
        if count.fetch_add(1, Ordering::Relaxed) == nth {
            let number = if operation == DiskOperation::Write { libc::ENOSPC } else { libc::EIO };
            return Err(io::Error::from_raw_os_error(number));
        }
        Ok(())
    })
}

/// Lets one operation after the other fail while the second of three checkpoints is taken: the one before stands, and the
/// next has it all. `operations` is how many there are at least, `open` opens an empty store.
pub(crate) fn whatever_fails(operations: usize, open: impl Fn() -> Store) {
    for nth in 0.. {
        let store = open();
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
            assert!(nth >= operations, "only {nth} operations");
            return;
        }
    }
}

pub(crate) fn names(store: &Store) -> Vec<String> {
    let mut names: Vec<String> = store.list("").unwrap().into_iter().map(|file| file.name).collect();
    names.sort_unstable();
    names
}

/// Takes a checkpoint after each of these ranges of keys was counted; returns what was counted in the end.
pub(crate) fn take(store: &Store, ranges: &'static [std::ops::Range<u64>]) -> Vec<(u64, u64)> {
    let store = store.clone();
    on_a_shard(async move {
        let mut table = Table::new(config()).unwrap();
        for (range, epoch) in ranges.iter().zip(1..) {
            add(&mut table, range.clone());
            checkpoint(&mut table, &store, epoch).await.unwrap();
        }
        entries(&table)
    })
}

/// What is deleted when, in an empty store.
pub(crate) fn clears_what_nothing_names(store: &Store) {
    let expected = take(store, &[0..1_000, 500..2_000, 3..9, 0..100, 7..8]);
    let manifest_name = |epoch: u64| format!("manifest-{epoch:020}.json");
    let strays = ["epoch-5-stray-0.snap", "epoch-6-of-a-rival-0.snap", "manifest-00000000000000000005.json.1-2.next"];
    for stray in strays {
        store.put(stray, b"half of it").unwrap();
    }
    store.put("not-ours.txt", b"stays").unwrap();
    let sub = store.sub("savepoints/first").unwrap();
    sub.put("epoch-1-clicks-1.snap", b"stays").unwrap();

    store.retain(2).unwrap();
    let mut kept = vec![manifest_name(4), manifest_name(5), strays[1].into(), strays[2].into(), "not-ours.txt".into()];
    for epoch in [4, 5] {
        let manifest = Manifest::from_bytes(&store.get(&manifest_name(epoch)).unwrap()).unwrap();
        kept.extend(manifest.files().map(|file| file.name.clone()));
    }
    kept.sort_unstable();
    kept.dedup();
    assert_eq!(names(store), kept);

    assert_eq!(store.sweep().unwrap(), 2);
    kept.retain(|name| !strays.contains(&&**name));
    assert_eq!(names(store), kept);
    assert_eq!(names(&sub), ["epoch-1-clicks-1.snap"]);
    let newest = store.newest().unwrap();
    assert_eq!(entries(&restore(store, &newest.manifest.unwrap())), expected);

    // A manifest that is damaged is not counted and keeps nothing; its name is a number that is taken.
    let newest_bytes = store.get(&manifest_name(5)).unwrap();
    store.put(&manifest_name(6), &newest_bytes[..newest_bytes.len() - 1]).unwrap();
    store.retain(2).unwrap();
    assert_eq!(store.list("manifest-").unwrap().len(), 3);
    let newest = store.newest().unwrap();
    assert_eq!((newest.manifest.unwrap().epoch, newest.highest, newest.rejected.len()), (Epoch(5), Epoch(6), 1));
    assert!(store.publish(&manifest(6, Vec::new())).unwrap_err().is_fenced());
    // One of another version may need any file: nothing goes.
    let version = format!("\"format_version\": {FORMAT_VERSION}");
    let other = String::from_utf8(newest_bytes).unwrap().replacen(&version, "\"format_version\": 9", 1);
    let body = &other[..other.trim_end().rfind('\n').unwrap() + 1];
    let sealed = format!("{body}crc32c {:08x} over {} bytes\n", crc32c::crc32c(body.as_bytes()), body.len());
    store.put(&manifest_name(7), sealed.as_bytes()).unwrap();
    let before = names(store);
    let error = store.retain(1).unwrap_err().to_string();
    assert!(error.contains("nothing was deleted") && error.contains("version 9"), "{error}");
    assert_eq!(names(store), before);
}

/// Fails all reads of files whose names contain `words`.
pub(crate) fn unreadable(words: &'static str) -> DiskFault {
    Arc::new(move |operation: DiskOperation, path: &Path| {
        if operation == DiskOperation::Read && path.to_str().unwrap().contains(words) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    })
}

/// A manifest that cannot be read deletes nothing, in an empty store.
pub(crate) fn deletes_nothing_unread(store: &Store) {
    take(store, &[0..1_000, 500..2_000, 3..9]);
    store.put("epoch-1-stray-0.snap", b"half of it").unwrap();
    let before = names(store);
    for unread in ["manifest-00000000000000000003", "manifest-00000000000000000002"] {
        let faulty = store.clone().with_fault(unreadable(unread));
        for error in [faulty.retain(2).unwrap_err(), faulty.sweep().unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("nothing was deleted") && error.contains(unread), "{error}");
        }
        assert_eq!(names(store), before);
    }
    // An older one than those that are kept goes unread.
    store.clone().with_fault(unreadable("manifest-00000000000000000001")).retain(2).unwrap();
    assert_eq!(store.list("manifest-").unwrap().len(), 2);
}

/// Writes by hand, as a savepoint does, each operation failing in turn: there is the whole file or none.
pub(crate) fn writes_whole_files_or_none(store: &Store) {
    let bytes: Vec<u8> = (0..3 << 19).map(|at: u32| (at % 251) as u8).collect();
    for nth in 0.. {
        let count = Arc::default();
        let faulty = store.clone().with_fault(fail_nth(nth, &count));
        let name = format!("by-hand-{nth}");
        let written = faulty.create_blocking(&name).map_err(io::Error::other).and_then(|mut file| {
            bytes.chunks(1 << 19).try_for_each(|chunk| io::Write::write_all(&mut file, chunk))?;
            file.finish().map_err(io::Error::other)
        });
        match written {
            Ok(len) => {
                assert_eq!(len, bytes.len() as u64);
                assert!(store.get(&name).unwrap() == bytes);
                assert!(
                    store.reader_of(&name).unwrap().get_range(1_000_000, 300).unwrap() == bytes[1_000_000..][..300]
                );
                assert!(nth >= 5, "create, three writes, sync: only {nth} operations");
                return;
            }
            Err(_) => assert!(store.get(&name).is_err(), "{name} is there"),
        }
    }
}
