//! A tmpfs without room: an error where pages cannot grow, a slower restart where the log cannot, and never a crash.

use std::path::{Path, PathBuf};
use std::process::Command;

use millstream_state::{Backing, Doubt, How, Namespace, StateError, Table, TableConfig};

use crate::crash::copy_segment;
use crate::world::{Step, Twin, World, config, shared_memory};

/// A tmpfs of a few mebibytes, gone with the test; none where this process may not mount one.
struct Small {
    at: PathBuf,
    _room: tempfile::TempDir,
}

impl Small {
    fn of(mebibytes: u32) -> Option<Small> {
        let room = tempfile::tempdir().unwrap();
        let at = room.path().join("small");
        std::fs::create_dir(&at).unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "small"]).arg(&at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Small { at, _room: room });
        }
        eprintln!("not tested: this system does not allow to mount a tmpfs");
        None
    }

    fn config(&self) -> TableConfig {
        TableConfig { bytes_max: 64 << 20, ..config(&self.at) }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.at).status().unwrap();
    }
}

#[test]
fn pages_that_find_no_room_are_an_error_that_says_where() {
    let Some(small) = Small::of(4) else { return };
    let mut table = Table::<u64, u64>::new(small.config()).unwrap();
    let mut next = 1;
    let error = loop {
        let first = next;
        match table.fold(Namespace(0), 1000, |row| first + row as u64, || 0, |count, _| *count += 1) {
            Ok(()) => next += 1000,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StateError::BackingFull { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains(small.at.to_str().unwrap()) && said.contains("No space left"), "{said}");
    assert!(next > 50_000, "some of it found room: {next}");
    (1..next).for_each(|key| assert_eq!(table.get(Namespace(0), &key), Some(1)));
}

#[test]
fn a_head_that_finds_no_room_is_an_error() {
    let Some(small) = Small::of(1) else { return };
    std::fs::write(small.at.join("all-of-it"), vec![1; (1 << 20) - 8192]).unwrap();
    let mut table = Table::<u64, u64>::new(small.config()).unwrap();
    let error = table.fold(Namespace(0), 1, |_| 1, || 0, |_, _| {}).unwrap_err();
    assert!(matches!(error, StateError::BackingFull { .. }), "{error}");
}

fn restored_aside(room: &Path, small: &Small, seed_steps: &[(u64, Step)]) -> How {
    let aside = room.join("aside");
    copy_segment(&small.at, &aside);
    let (world, frozen, restored) = World::restored(
        TableConfig { backing: Backing::File(aside.clone()), ..small.config() },
        &room.join("checkpoints"),
    );
    let mut twin = Twin::default();
    seed_steps.iter().filter(|(nth, _)| *nth < frozen).for_each(|&(nth, step)| twin.step(nth, step));
    world.check(&twin);
    drop(world);
    std::fs::remove_dir_all(&aside).unwrap();
    restored.unwrap().how
}

#[test]
fn a_log_that_finds_no_room_is_given_up_until_the_next_barrier() {
    let Some(small) = Small::of(6) else { return };
    let room = shared_memory();
    let mut world = World::new(small.config(), &room.path().join("checkpoints"));
    let fold = |keys| Step::Fold { namespace: 0, first: 1, keys, stride: 1 };
    let checkpoint = [Step::Freeze, Step::Publish, Step::Confirm];
    let mut done = Vec::new();
    let mut run = |world: &mut World, steps: &[Step]| {
        for &step in steps {
            let nth = done.len() as u64 + 1;
            world.step(nth, step);
            done.push((nth, step));
        }
        done.clone()
    };
    // Some four mebibytes of pages, so that all of them have no room once more.
    run(&mut world, &[fold(200_000)]);
    let so_far = run(&mut world, &checkpoint);
    assert!(matches!(restored_aside(room.path(), &small, &so_far), How::Fast { .. }));
    let so_far = run(&mut world, &[fold(200_000)]);
    assert_eq!(restored_aside(room.path(), &small, &so_far), How::Full { why: Doubt::Barrier });
    run(&mut world, &checkpoint);
    let so_far = run(&mut world, &[fold(50)]);
    assert!(matches!(restored_aside(room.path(), &small, &so_far), How::Fast { .. }));
}
