//! A table of clicks and its checkpoints, for tests of the places where these are kept.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use glommio::{LocalExecutorBuilder, Placement};
use millstream_state::{
    DiskFault, DiskOperation, Drained, Epoch, FORMAT_VERSION, FileRef, Manifest, Namespace, OperatorPart, Part,
    SnapshotFile, Store, StoreError, Table, TableConfig, TablePart, type_text,
};

pub(crate) const NS: Namespace = Namespace(-60_000);

pub(crate) fn on_a_shard<T: 'static>(work: impl std::future::Future<Output = T> + 'static) -> T {
    LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20).make().unwrap().run(work)
}

pub(crate) fn config() -> TableConfig {
    TableConfig { operator: "clicks".into(), shard: 1, bytes_max: 64 << 20 }
}

pub(crate) fn add(table: &mut Table<u64, u64>, keys: std::ops::Range<u64>) {
    let keys: Vec<u64> = keys.collect();
    table.fold(NS, keys.len(), |row| keys[row], || 0, |value, _row| *value += 1).unwrap();
}

pub(crate) fn manifest(epoch: u64, files: Vec<FileRef>) -> Manifest {
    let (key_type, value_type) = (type_text::<u64>(), type_text::<u64>());
    let table = TablePart { name: "count".into(), key_type, value_type, files };
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
