//! Crashes between any two steps, and in the middle of a fold: the segment is copied aside as it is, and revived there.

use std::fs;
use std::path::Path;
use std::process::Command;

use millstream_state::How;

use crate::world::{Random, Step, Twin, World, config, newest, segment_in, shared_memory};

/// Copies a segment, so that nobody's lock is on it.
pub(crate) fn copy_segment(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let from = segment_in(from);
    // Of a file that is mostly holes, `cp` copies the rest.
    let copied = Command::new("cp").arg("--sparse=always").arg(&from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Runs the script, with a crash now and then; how many restarts were fast, and how many there were.
fn run(seed: u64, steps: u64) -> (usize, usize) {
    let room = shared_memory();
    let checkpoints = room.path().join("checkpoints");
    let mut random = Random(seed);
    let (mut fast, mut crashes) = (0, 0);
    let mut backing = room.path().join("0");
    let mut world = World::new(config(&backing), &checkpoints);
    let mut nth = 0;
    for life in 0..steps {
        let step = Step::nth(seed, nth);
        let aside = room.path().join(format!("{}", life + 1));
        let crashes_now = random.below(12) == 0;
        let crashes_between = crashes_now && random.below(2) == 0;
        let mut copied = false;
        world.step_with(nth, step, &mut || {
            if crashes_between {
                copy_segment(&backing, &aside);
                copied = true;
            }
        });
        nth += 1;
        if !crashes_now {
            continue;
        }
        if !copied {
            copy_segment(&backing, &aside);
        }
        crashes += 1;
        drop(world);
        fs::remove_dir_all(&backing).unwrap();
        backing = aside;
        let restored;
        (world, nth, restored) = World::restored(config(&backing), &checkpoints);
        if let Some(restored) = restored {
            assert!(matches!(restored.how, How::Fast { .. }), "seed {seed}, step {nth}: {restored:?}");
            fast += 1;
        }
        world.check(&Twin::before(seed, nth));
    }
    (fast, crashes)
}

#[test]
fn a_crash_anywhere_loses_nothing_and_reads_nothing() {
    let mut total = (0, 0);
    for seed in 0..16 {
        let (fast, crashes) = run(seed, 500);
        total = (total.0 + fast, total.1 + crashes);
    }
    assert!(total.0 > 250, "too few fast restarts to mean anything: {total:?}");
}

/// What a fast restart went on with makes good checkpoints, that a full restore believes.
#[test]
fn checkpoints_after_a_fast_restart_can_be_restored_without_the_segment() {
    for seed in 100..112 {
        let room = shared_memory();
        let checkpoints = room.path().join("checkpoints");
        let backing = room.path().join("segments");
        let (mut nth, mut fast) = (0, 0);
        for _life in 0..12 {
            let (mut world, from, restored) = World::restored(config(&backing), &checkpoints);
            fast += usize::from(restored.is_some_and(|restored| matches!(restored.how, How::Fast { .. })));
            nth = from;
            for _ in 0..120 {
                world.step(nth, Step::nth(seed, nth));
                nth += 1;
            }
            drop(world);
            let Some((frozen, part)) = newest(&millstream_state::Store::open(&checkpoints).unwrap()) else { continue };
            let empty = room.path().join("empty");
            let mut world = World::new(config(&empty), &checkpoints);
            let restored = world.keyed.restore(&world.checkpoints, &[part]).unwrap();
            assert!(matches!(restored.how, How::Full { .. }), "{restored:?}");
            world.check(&Twin::before(seed, frozen));
            drop(world);
            fs::remove_dir_all(&empty).unwrap();
        }
        assert!(fast >= 8, "seed {seed}, step {nth}: {fast} fast restarts");
    }
}
