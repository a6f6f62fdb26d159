//! A checkpoint's whole way, on a real file system: table, snapshot file, manifest, restore; and what happens when the
//! disk does not do as it is told.

mod clicks;

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use clicks::{NS, add, checkpoint, config, entries, manifest, on_a_shard, restore, whatever_fails, write};
use millstream_state::{Epoch, FileRef, HashRange, Key, RestoreError, Store, Table, TableConfig};

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

#[test]
fn whatever_fails_the_checkpoint_before_stands_and_the_next_has_it_all() {
    let directories = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    // List, create, chunks, sync; list, create, write, sync, link, sync.
    whatever_fails(9, || {
        Store::open(directories.path().join(count.fetch_add(1, Ordering::Relaxed).to_string())).unwrap()
    });
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
        error.contains("operator 'clicks'") && error.contains("its value") && error.contains("was `u64` and is `i64`"),
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

#[test]
fn what_nothing_names_is_deleted_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    clicks::clears_what_nothing_names(&Store::open(directory.path()).unwrap());
}

#[test]
fn nothing_is_deleted_while_a_manifest_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    clicks::deletes_nothing_unread(&Store::open(directory.path()).unwrap());
}

#[test]
fn a_file_written_by_hand_is_whole_or_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    clicks::writes_whole_files_or_none(&store);
    let left = clicks::names(&store);
    assert_eq!(left.len(), 1, "{left:?}");
    let error = store.create_blocking(&left[0]).unwrap_err().to_string();
    assert!(error.contains("cannot create the file"), "what is there is not written over: {error}");
}

/// A disk that cannot read a file today will not read it tomorrow: the checkpoint before is taken.
#[test]
fn a_disk_that_cannot_read_falls_back_to_the_checkpoint_before() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    clicks::take(&store, &[0..1_000, 500..2_000]);
    for unread in ["manifest-00000000000000000002.json", "epoch-2-clicks-1.snap"] {
        let faulty = store.clone().with_fault(clicks::unreadable(unread));
        let newest = faulty.newest().unwrap();
        assert_eq!((newest.manifest.unwrap().epoch, newest.highest), (Epoch(1), Epoch(2)));
        let why = newest.rejected[0].why.to_string();
        assert!(why.contains("cannot be read") && why.contains("Input/output error"), "{why}");
    }
    let chain: Vec<FileRef> = store.newest().unwrap().manifest.unwrap().files().cloned().collect();
    let faulty = store.clone().with_fault(clicks::unreadable("epoch-2-clicks-1.snap"));
    let error = Table::<u64, u64>::restore(config(), &faulty, &chain).err().unwrap();
    assert!(matches!(error, RestoreError::Read { .. }), "{error}");
    assert!(store.with_fault(clicks::unreadable("")).newest().is_err(), "a directory that cannot be listed");
}

#[test]
fn a_manifest_torn_at_any_byte_is_not_believed_and_keeps_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    clicks::take(&store, &[0..10, 5..20]);
    let path = store.manifest_path(Epoch(2));
    let whole = std::fs::read(&path).unwrap();
    let on_disk = OpenOptions::new().write(true).open(&path).unwrap();
    for len in (0..whole.len()).rev() {
        on_disk.set_len(len as u64).unwrap();
        let newest = store.newest().unwrap();
        assert_eq!((newest.manifest.unwrap().epoch, newest.highest), (Epoch(1), Epoch(2)), "cut to {len}");
        assert_eq!(newest.rejected[0].path, path);
    }
    assert!(store.publish(&manifest(2, Vec::new())).unwrap_err().is_fenced());
    store.publish(&manifest(3, Vec::new())).unwrap();
}

#[test]
fn a_manifest_that_names_a_file_that_is_gone_is_not_published() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let file = FileRef { name: "epoch-1-clicks-1.snap".into(), bytes: 4096, crc32c: 0 };
    let error = store.publish(&manifest(1, vec![file])).unwrap_err().to_string();
    assert!(error.contains("epoch-1-clicks-1.snap: cannot find the snapshot"), "{error}");
    assert!(clicks::names(&store).is_empty());
}

#[test]
fn addresses_are_followed_or_refused_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("file://{}/inside", directory.path().display());
    let store = Store::open(&address).unwrap();
    assert_eq!(store.directory(), directory.path().join("inside"));
    let refused = |address: &str, words: &str| {
        let error = Store::open(address).unwrap_err().to_string();
        assert!(error.contains(address) && error.contains(words), "{error}");
    };
    refused("file://host/path", "three slashes");
    refused("ftp://bucket/prefix", "s3://, gs://, az:// or file://");
    for (address, feature, is_there) in [
        ("s3://bucket/prefix", "`--features s3`", cfg!(feature = "s3")),
        ("gs://bucket/prefix", "`--features gcs`", cfg!(feature = "gcs")),
        ("az://bucket/prefix", "`--features azure`", cfg!(feature = "azure")),
    ] {
        if !is_there {
            refused(address, feature);
        }
    }
}

/// A shard's stretch of the hash space need not be a half, or a quarter: no page is handed out for what lies outside.
#[test]
fn a_shard_of_any_share_is_restored_as_it_was() {
    for (shard, shards) in [(0, 3), (1, 3), (2, 3), (4, 7), (99, 100)] {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let range = HashRange::of_shard(shard, shards);
        on_a_shard(async move {
            let config = TableConfig { range, ..config() };
            let mut table = Table::<u64, u64>::new(config.clone()).unwrap();
            for (epoch, keys) in [(1, 300), (2, 200_000), (3, 200_100)] {
                let keys: Vec<u64> = (0..keys).filter(|key| range.contains(Key::hash64(key))).collect();
                table.fold(NS, keys.len(), |row| keys[row], || 0, |value, _row| *value += 1).unwrap();
                checkpoint(&mut table, &store, epoch).await.unwrap();
                let (restored, _) = Table::<u64, u64>::restore(config.clone(), &store, &table.chain(None)).unwrap();
                assert_eq!(entries(&restored), entries(&table));
                let pages = table.bytes().live / 4096;
                assert!(
                    pages <= keys.len() / 60 + 4,
                    "shard {shard} of {shards}: {pages} pages for {} keys",
                    keys.len()
                );
            }
        });
    }
}
