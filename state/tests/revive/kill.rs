//! Real processes, killed at any instruction: folding, freezing, draining, publishing, confirming, and reviving.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use millstream_state::How;

use crate::crash::copy_segment;
use crate::world::{Random, Step, Twin, World, config, newest, shared_memory};

const ROOM: &str = "MILLSTREAM_REVIVE_ROOM";
const SEED: &str = "MILLSTREAM_REVIVE_SEED";
/// What a child says once it goes on with the script.
const READY: &str = "the script goes on";

/// Not a test by itself: what the processes that are killed do.
#[test]
#[ignore = "runs until it is killed; the test below starts it"]
fn child() {
    let (Ok(room), Ok(seed)) = (std::env::var(ROOM), std::env::var(SEED)) else { return };
    let (room, seed) = (Path::new(&room), seed.parse().unwrap());
    println!("{READY}: soon");
    let (mut world, mut nth, _) = World::restored(config(&room.join("segments")), &room.join("checkpoints"));
    println!("{READY}");
    loop {
        world.step(nth, Step::nth(seed, nth));
        nth += 1;
        if nth > 40_000 {
            return;
        }
    }
}

fn start(room: &Path, seed: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "kill::child", "--ignored", "--nocapture"]);
    command.env(ROOM, room).env(SEED, seed.to_string()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Kills so many children, one after the other, over one directory; how many restarts were fast.
fn kills(seed: u64, kills: u32) -> usize {
    let room = shared_memory();
    let room = room.path();
    let mut random = Random(seed);
    let mut fast = 0;
    for kill in 0..kills {
        let mut child = start(room, seed);
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        // One in three is killed while it starts, the others at work.
        let awaited = if random.below(3) == 0 { "the script goes on: soon" } else { READY };
        while said.next().unwrap().unwrap() != awaited {}
        let micros = if awaited == READY { random.below(20_000) } else { random.below(3_000) };
        std::thread::park_timeout(Duration::from_micros(micros));
        // The scheduler adds its own.
        child.kill().unwrap();
        child.wait().unwrap();
        // The child's successor is to meet what the child left, so this looks at a copy.
        let aside = room.join("aside");
        copy_segment(&room.join("segments"), &aside);
        let (world, nth, restored) = World::restored(config(&aside), &room.join("checkpoints"));
        if let Some(restored) = restored {
            // A segment that was damaged would be a mistake of ours: a kill leaves none.
            assert!(matches!(restored.how, How::Fast { .. }), "kill {kill} of seed {seed}, step {nth}: {restored:?}");
            fast += 1;
        }
        world.check(&Twin::before(seed, nth));
        let newest = newest(&world.checkpoints).map_or(0, |(nth, _)| nth);
        assert_eq!(newest, nth);
        drop(world);
        std::fs::remove_dir_all(&aside).unwrap();
    }
    fast
}

#[test]
fn killed_anywhere_and_revived() {
    let fast: usize = (0..5).map(|seed| kills(1000 + seed, 50)).sum();
    assert!(fast > 200, "too few fast restarts to mean anything: {fast}");
}
