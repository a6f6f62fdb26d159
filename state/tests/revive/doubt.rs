//! Segments with which nothing is wrong but that they are another's, or in use.

use std::fs;

use millstream_state::{Backing, Doubt, HashRange, How, PageStore, StateError, TableConfig, sweep_segments};

use crate::world::{Step, Twin, World, config, newest, segment_in, shared_memory};

/// A room with a checkpoint, and a segment that knows it.
struct Left {
    room: tempfile::TempDir,
    seed: u64,
}

impl Left {
    fn behind(seed: u64) -> Left {
        let left = Left { room: shared_memory(), seed };
        let mut world = World::new(left.config(), &left.checkpoints());
        for nth in 0..400 {
            world.step(nth, Step::nth(seed, nth));
        }
        assert!(newest(&world.checkpoints).is_some(), "another seed: this one has no checkpoint");
        left
    }

    fn config(&self) -> TableConfig {
        config(&self.room.path().join("segments"))
    }

    fn checkpoints(&self) -> std::path::PathBuf {
        self.room.path().join("checkpoints")
    }

    fn restore(&self, config: TableConfig) -> How {
        let (world, nth, restored) = World::restored(config, &self.checkpoints());
        world.check(&Twin::before(self.seed, nth));
        restored.unwrap().how
    }
}

fn full(why: Doubt) -> How {
    How::Full { why }
}

#[test]
fn without_a_doubt_it_is_fast_any_number_of_times() {
    let left = Left::behind(1);
    for _ in 0..3 {
        let how = left.restore(left.config());
        assert!(matches!(how, How::Fast { .. }), "{how:?}");
    }
}

#[test]
fn memory_of_the_process_has_nothing_to_go_on_with() {
    let left = Left::behind(2);
    let how = left.restore(TableConfig { backing: Backing::Anonymous, ..left.config() });
    assert_eq!(how, full(Doubt::Anonymous));
}

#[test]
fn an_empty_directory_has_nothing() {
    let left = Left::behind(3);
    let elsewhere = left.room.path().join("elsewhere");
    assert_eq!(left.restore(config(&elsewhere)), full(Doubt::Nothing));
    // What was read is there from then on.
    assert!(matches!(left.restore(config(&elsewhere)), How::Fast { .. }));
}

/// Writes over the head's text and seals it again: a segment that is sound, and of another boot, or build.
fn rewrite_head(left: &Left, from: &str, to: impl Fn(&str) -> String) {
    let path = segment_in(&left.room.path().join("segments"));
    let mut bytes = fs::read(&path).unwrap();
    let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let mut head: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let text = head[from].to_string();
    head[from] = serde_json::from_str(&to(&text)).unwrap();
    let text = serde_json::to_vec(&head).unwrap();
    let length = (text.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), &text).to_le_bytes();
    bytes[..8 + text.len()].copy_from_slice(&[&length[..], &crc, &text].concat());
    fs::write(&path, bytes).unwrap();
}

#[test]
fn another_boot_is_not_believed() {
    let left = Left::behind(4);
    rewrite_head(&left, "boot_id", |_| "\"00000000-0000-4000-8000-000000000000\"".into());
    assert_eq!(left.restore(left.config()), full(Doubt::Boot));
    assert!(matches!(left.restore(left.config()), How::Fast { .. }));
}

#[test]
fn another_build_has_every_entry_proven_and_is_fast_all_the_same() {
    let left = Left::behind(5);
    rewrite_head(&left, "build", |_| "7".into());
    assert!(matches!(left.restore(left.config()), How::Fast { .. }));
}

#[test]
fn another_version_is_not_looked_into() {
    let left = Left::behind(6);
    rewrite_head(&left, "version", |_| "2".into());
    assert_eq!(left.restore(left.config()), full(Doubt::Identity));
}

#[test]
fn another_stretch_of_the_hash_space_is_another_segment() {
    let left = Left::behind(7);
    let config = TableConfig { range: HashRange::of_shard(0, 2), ..left.config() };
    let keyed = PageStore::new(config).unwrap();
    let (counts, _names) = (keyed.table::<u64, u64>("counts"), keyed.slotted::<String, String>("names"));
    let checkpoints = millstream_state::Store::open(left.checkpoints()).unwrap();
    let (_, part) = newest(&checkpoints).unwrap();
    let restored = keyed.clone().restore(&checkpoints, &[part]).unwrap();
    assert_eq!(restored.how, full(Doubt::Parts));
    drop((keyed, counts, _names));
    assert_eq!(left.restore(left.config()), full(Doubt::Identity), "it is the half's now");
}

#[test]
fn another_limit_lays_the_file_out_differently() {
    let left = Left::behind(8);
    let config = TableConfig { bytes_max: 16 << 20, ..left.config() };
    assert_eq!(left.restore(config), full(Doubt::Identity));
}

#[test]
fn other_states_are_not_looked_into() {
    let left = Left::behind(9);
    let mut keyed = PageStore::new(left.config()).unwrap();
    // The same states, and one more before them: pages name their state by its number.
    let _first = keyed.table::<u64, u32>("first");
    let (_counts, _names) = (keyed.table::<u64, u64>("counts"), keyed.slotted::<String, String>("names"));
    let checkpoints = millstream_state::Store::open(left.checkpoints()).unwrap();
    let (_, part) = newest(&checkpoints).unwrap();
    assert_eq!(keyed.restore(&checkpoints, &[part]).unwrap().how, full(Doubt::States));
}

#[test]
fn the_checkpoint_before_the_last_confirmed_is_read() {
    let left = Left::behind(10);
    let checkpoints = millstream_state::Store::open(left.checkpoints()).unwrap();
    let newest = checkpoints.newest().unwrap().manifest.unwrap();
    let before = checkpoints.newest_before(Some(newest.epoch)).unwrap().manifest.unwrap();
    let mut world = World::new(left.config(), &left.checkpoints());
    let part = before.parts[0].operators[0].tables[0].clone();
    let how = world.keyed.restore(&checkpoints, &[part]).unwrap().how;
    world.check(&Twin::before(left.seed, before.created_ms as u64));
    // Unless the newest was published and not confirmed: then both are known.
    assert!(how == full(Doubt::Barrier) || matches!(how, How::Fast { .. }), "{how:?}");
}

#[test]
fn what_is_in_use_cannot_be_had_twice() {
    let left = Left::behind(11);
    let first = PageStore::new(left.config()).unwrap();
    let error = PageStore::new(left.config()).unwrap_err();
    assert!(matches!(error, StateError::Backing { .. }) && error.to_string().contains("in use"), "{error}");
    drop(first);
    assert!(matches!(left.restore(left.config()), How::Fast { .. }), "the first has changed nothing");
}

#[test]
fn a_store_that_is_not_restored_begins_anew() {
    let left = Left::behind(12);
    let mut world = World::new(left.config(), &left.room.path().join("none"));
    world.check(&Twin::default());
    world.step(0, Step::Fold { namespace: 0, first: 1, keys: 5, stride: 1 });
    let mut twin = Twin::default();
    twin.step(0, Step::Fold { namespace: 0, first: 1, keys: 5, stride: 1 });
    world.check(&twin);
    drop(world);
    assert_eq!(left.restore(left.config()), full(Doubt::Barrier));
}

#[test]
fn a_disk_is_refused() {
    let proc = TableConfig { backing: Backing::File("/proc".into()), ..TableConfig::default() };
    let error = PageStore::new(proc).unwrap_err().to_string();
    assert!(error.contains("not on a tmpfs") && error.contains("/dev/shm"), "{error}");
}

#[test]
fn segments_of_nobody_are_swept() {
    let left = Left::behind(13);
    let directory = left.room.path().join("segments");
    let other = PageStore::new(TableConfig { shard: 7, ..left.config() }).unwrap();
    assert_eq!(sweep_segments(&directory, ["revived"].into_iter(), 8).unwrap(), 0, "both are of shards that there are");
    assert_eq!(sweep_segments(&directory, ["revived"].into_iter(), 4).unwrap(), 0, "the other is in use");
    drop(other);
    assert_eq!(sweep_segments(&directory, ["revived"].into_iter(), 4).unwrap(), 1);
    assert!(matches!(left.restore(left.config()), How::Fast { .. }));
    assert_eq!(sweep_segments(&directory, ["another"].into_iter(), 4).unwrap(), 1);
    assert_eq!(left.restore(left.config()), full(Doubt::Nothing));
    assert_eq!(sweep_segments(&left.room.path().join("nowhere"), ["revived"].into_iter(), 4).unwrap(), 0);
}

#[test]
fn the_file_can_be_removed_at_the_end() {
    let left = Left::behind(14);
    let (world, _, _) = World::restored(left.config(), &left.checkpoints());
    world.keyed.remove_backing().unwrap();
    world.check(&Twin::before(left.seed, newest(&world.checkpoints).unwrap().0));
    drop(world);
    assert_eq!(left.restore(left.config()), full(Doubt::Nothing));
}
