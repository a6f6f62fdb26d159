//! Checkpoints in an object store, against a real server: the whole way of a table, races, faults, and a server that is
//! away for a while.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![expect(clippy::disallowed_methods, reason = "racing coordinators are threads")]

mod clicks;
mod s3;

use std::io::{Read, Write};
use std::sync::Barrier;
use std::time::Duration;

use clicks::{add, checkpoint, config, entries, manifest, names, on_a_shard, restore, take, whatever_fails};
use millstream_state::{
    CHUNK_BYTES, Epoch, FileRef, Manifest, Patience, RestoreError, Store, StoreConfig, StoreError, Table,
};
use s3::{Road, server};

fn open(place: &str) -> Store {
    let config = StoreConfig { settings: server().settings(), ..StoreConfig::default() };
    Store::open_with(place, &config).unwrap()
}

fn newest(store: &Store) -> Manifest {
    let newest = store.newest().unwrap();
    assert!(newest.rejected.is_empty(), "{:?}", newest.rejected);
    newest.manifest.unwrap()
}

#[test]
fn state_goes_to_the_store_and_comes_back() {
    let store = open(&s3::place());
    assert!(store.newest().unwrap().manifest.is_none());
    let expected = take(&store, &[0..250_000, 0..500_000, 0..1_000_000, 7..300]);
    let manifest = newest(&store);
    assert_eq!(manifest.epoch, Epoch(4));
    assert!(manifest.files().any(|file| file.bytes > 8 << 20), "a multipart upload");
    assert!(manifest.files().any(|file| file.bytes < 8 << 20), "and a plain put");
    assert_eq!(entries(&restore(&store, &manifest)), expected);

    assert!(store.retain(1).unwrap() >= 3);
    let mut named: Vec<String> = manifest.files().map(|file| file.name.clone()).collect();
    named.push("manifest-00000000000000000004.json".into());
    named.sort_unstable();
    assert_eq!(names(&store), named);
    assert_eq!(entries(&restore(&store, &manifest)), expected);
}

#[test]
fn whatever_fails_the_checkpoint_before_stands_and_the_next_has_it_all() {
    // Create, chunks, sync; list, put.
    whatever_fails(5, || open(&s3::place()));
}

#[test]
fn what_nothing_names_is_deleted_and_nothing_else() {
    clicks::clears_what_nothing_names(&open(&s3::place()));
}

#[test]
fn nothing_is_deleted_while_a_manifest_cannot_be_read() {
    clicks::deletes_nothing_unread(&open(&s3::place()));
}

#[test]
fn a_file_written_by_hand_is_whole_or_not_there() {
    clicks::writes_whole_files_or_none(&open(&s3::place()));
}

#[test]
fn a_file_of_several_parts_is_read_from_anywhere() {
    let place = s3::place();
    let store = open(&place);
    let bytes: Vec<u8> =
        (0..45u64 << 17).flat_map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect();
    let mut file = store.create_blocking("long.part").unwrap();
    file.write_all(&bytes).unwrap();
    assert_eq!(file.finish().unwrap(), bytes.len() as u64);
    assert_eq!(store.list("long").unwrap()[0].bytes, bytes.len() as u64);

    let mut reader = store.reader_of("long.part").unwrap();
    assert_eq!(reader.len(), bytes.len() as u64);
    let mut chunk = vec![0; CHUNK_BYTES];
    for expected in bytes.chunks(CHUNK_BYTES) {
        reader.read_exact(&mut chunk[..expected.len()]).unwrap();
        assert!(chunk[..expected.len()] == *expected);
    }
    assert_eq!(reader.read(&mut chunk).unwrap(), 0);
    for (at, len) in [(0, 1), (12_345_678, 4321), (bytes.len() - 7, 7)] {
        assert!(reader.get_range(at as u64, len).unwrap() == bytes[at..at + len]);
    }
    assert!(reader.get_range(bytes.len() as u64 - 1, 2).is_err());

    // One that is given up leaves neither an object nor a part of one.
    let mut file = store.create_blocking("given-up.part").unwrap();
    file.write_all(&bytes).unwrap();
    drop(file);
    let mut tries = 0;
    while server().unfinished(&place) > 0 {
        tries += 1;
        assert!(tries < 1000, "the upload is not aborted");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(names(&store), ["long.part"]);
}

#[test]
fn a_store_inside_another_keeps_its_files_apart() {
    let store = open(&s3::place());
    let sub = store.sub("savepoints/one").unwrap();
    store.put("a", b"outer").unwrap();
    sub.put("a", b"inner").unwrap();
    sub.put("empty", b"").unwrap();
    assert_eq!((names(&store), names(&sub)), (vec!["a".to_owned()], vec!["a".to_owned(), "empty".to_owned()]));
    assert_eq!(
        (store.get("a").unwrap(), sub.get("a").unwrap(), sub.get("empty").unwrap()),
        (b"outer".into(), b"inner".into(), b"".into())
    );
    assert_eq!(store.get("savepoints/one/a").unwrap(), b"inner");
    store.put("a", b"again").unwrap();
    assert_eq!(store.get("a").unwrap(), b"again");
    store.delete(&["a".into(), "never-there".into()]).unwrap();
    assert!(store.get("a").unwrap_err().to_string().contains("/a: cannot read the file"));
}

/// Eight coordinators, thirty epochs: each epoch is committed by exactly one, and the others are told so.
fn race(open: impl Fn() -> Store + Sync) {
    const RACERS: usize = 8;
    const ROUNDS: u64 = 30;
    let barrier = Barrier::new(RACERS);
    let wins: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let racer = || {
            let store = open();
            let mut won = Vec::new();
            for epoch in 1..=ROUNDS {
                barrier.wait();
                // All the same, to the byte.
                match store.publish(&manifest(epoch, Vec::new())) {
                    Ok(()) => won.push(epoch),
                    Err(error @ StoreError::Fenced { .. }) => {
                        assert!(
                            error.to_string().contains(&format!("another coordinator has committed epoch {epoch}"))
                        );
                    }
                    Err(error) => panic!("{error}"),
                }
                barrier.wait();
            }
            won
        };
        let racers: Vec<_> = (0..RACERS).map(|_| scope.spawn(racer)).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let mut won: Vec<u64> = wins.into_iter().flatten().collect();
    won.sort_unstable();
    assert_eq!(won, (1..=ROUNDS).collect::<Vec<_>>());
    assert_eq!(newest(&open()).epoch, Epoch(ROUNDS));
}

#[test]
fn an_epoch_is_committed_by_one_coordinator_in_an_object_store() {
    let place = s3::place();
    race(|| open(&place));
}

#[test]
fn an_epoch_is_committed_by_one_coordinator_in_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    race(|| Store::open(directory.path()).unwrap());
}

#[test]
fn a_coordinator_that_was_overtaken_is_fenced() {
    let store = open(&s3::place());
    store.publish(&manifest(7, Vec::new())).unwrap();
    let error = store.publish(&manifest(5, Vec::new())).unwrap_err();
    assert!(matches!(error, StoreError::Fenced { epoch: Epoch(7), .. }), "{error}");
    store.publish(&manifest(8, Vec::new())).unwrap();
}

/// A store behind a road that can be closed, with little patience.
fn behind(road: &Road, place: &str, total: Duration) -> Store {
    let ms = Duration::from_millis;
    let patience = Patience { total, request: ms(1_000), wait_initial: ms(5), wait_max: ms(50) };
    Store::open_with(place, &StoreConfig { settings: road.settings(), patience }).unwrap()
}

#[test]
fn an_answer_that_was_lost_is_looked_up() {
    let road = Road::to(server());
    let store = behind(&road, &s3::place(), Duration::from_secs(20));
    for epoch in 1..=3 {
        road.lose_answer_to("PUT ");
        store.publish(&manifest(epoch, Vec::new())).unwrap();
        assert!(road.has_lost());
    }
    assert_eq!(newest(&store).epoch, Epoch(3));
    // The same for what a rival has put meanwhile: it is not taken for our own.
    assert!(store.publish(&manifest(3, Vec::new())).unwrap_err().is_fenced());
}

#[test]
fn checkpoints_fail_while_the_store_is_away_and_the_next_has_it_all() {
    let road = Road::to(server());
    let place = s3::place();
    let store = behind(&road, &place, Duration::from_millis(500));
    on_a_shard(async move {
        let mut table = Table::new(config()).unwrap();
        add(&mut table, 0..600_000);
        checkpoint(&mut table, &store, 1).await.unwrap();
        road.close();
        for epoch in 2..=3 {
            add(&mut table, 0..700_000);
            let error = checkpoint(&mut table, &store, epoch).await.unwrap_err();
            assert!(!error.is_fenced() && error.to_string().contains("s3://"), "{error}");
        }
        // Nothing is known of what is there: the checkpoint before is not taken for the newest, and nothing deleted.
        assert!(store.newest().is_err() && store.retain(1).is_err() && store.sweep().is_err());
        road.open();
        add(&mut table, 5..10);
        checkpoint(&mut table, &store, 4).await.unwrap();
        let manifest = newest(&store);
        assert_eq!((manifest.epoch, entries(&restore(&store, &manifest))), (Epoch(4), entries(&table)));
    });
    // A short absence is only a wait.
    let road = Road::to(server());
    let store = behind(&road, &place, Duration::from_secs(30));
    road.close();
    std::thread::scope(|scope| {
        let published = scope.spawn(|| store.publish(&manifest(5, Vec::new())));
        std::thread::sleep(Duration::from_millis(300));
        road.open();
        published.join().unwrap().unwrap();
    });
}

#[test]
fn a_damaged_or_missing_object_is_found_out_and_the_checkpoint_before_is_taken() {
    let store = open(&s3::place());
    take(&store, &[0..60_000, 0..120_000]);
    let chain: Vec<FileRef> = newest(&store).files().cloned().collect();
    let name = chain.last().unwrap().name.clone();
    let bytes = store.get(&name).unwrap();
    assert!(bytes.len() > CHUNK_BYTES);
    let last_at = (bytes.len() - 1) / CHUNK_BYTES * CHUNK_BYTES;
    for at in [3, 700, CHUNK_BYTES / 2, last_at + 1, last_at + 20, last_at + 200] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        store.put(&name, &flipped).unwrap();
        let error = Table::<u64, u64>::restore(config(), &store, &chain).err().expect("a flipped bit is noticed");
        assert!(matches!(error, RestoreError::Damaged { .. }), "{error}");
        if at >= last_at {
            let newest = store.newest().unwrap();
            assert_eq!((newest.manifest.unwrap().epoch, newest.highest), (Epoch(1), Epoch(2)));
            assert!(newest.rejected[0].why.to_string().contains(&name), "{}", newest.rejected[0].why);
        }
    }
    for cut in [0, 1, CHUNK_BYTES, bytes.len() - 1] {
        store.put(&name, &bytes[..cut]).unwrap();
        assert!(Table::<u64, u64>::restore(config(), &store, &chain).is_err(), "cut to {cut}");
        assert_eq!(store.newest().unwrap().manifest.unwrap().epoch, Epoch(1), "cut to {cut}");
    }
    store.delete(std::slice::from_ref(&name)).unwrap();
    let newest = store.newest().unwrap();
    assert!(newest.rejected[0].why.to_string().contains("cannot be read"), "{}", newest.rejected[0].why);
    assert_eq!(newest.manifest.unwrap().epoch, Epoch(1));
}
