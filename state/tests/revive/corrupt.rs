//! Segments damaged at random: a restart notices, and reads the checkpoint, or was not touched by it at all.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use millstream_state::How;

use crate::crash::copy_segment;
use crate::world::{Random, Step, Twin, World, config, segment_in, shared_memory};

/// Where anything was written, in pages of the file.
fn written_pages(bytes: &[u8]) -> Vec<usize> {
    let pages = bytes.chunks(4096).enumerate();
    pages.filter(|(_, page)| **page != [0; 4096][..page.len()]).map(|(at, _)| at).collect()
}

/// Damages the file in one way; says how.
fn damage(path: &Path, random: &mut Random) -> String {
    let bytes = fs::read(path).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let pages = written_pages(&bytes);
    // The head, the columns, the pages, the log: whichever part, it shall be hit often enough.
    let page = if random.below(2) == 0 {
        pages[random.below(pages.len() as u64) as usize]
    } else {
        pages[random.below(pages.len().min(24) as u64) as usize]
    };
    // Most of a page is empty often: something that is there is hit.
    let used: Vec<usize> = (page * 4096..(page + 1) * 4096).filter(|&at| bytes[at] != 0).collect();
    let at = used[random.below(used.len() as u64) as usize];
    match random.below(5) {
        0 | 1 => {
            let flipped = bytes[at] ^ 1 << random.below(8);
            file.write_at(&[flipped], at as u64).unwrap();
            format!("bit of byte {at} flipped")
        }
        2 => {
            let len = 1 + random.below(20_000) as usize;
            file.write_at(&vec![0; len.min(bytes.len() - at)], at as u64).unwrap();
            format!("{len} bytes zeroed from {at}")
        }
        3 => {
            let noise: Vec<u8> = (0..1 + random.below(200)).map(|_| random.next() as u8).collect();
            file.write_at(&noise, at.min(bytes.len() - noise.len()) as u64).unwrap();
            format!("{} bytes of noise at {at}", noise.len())
        }
        _ => {
            file.set_len(at as u64).unwrap();
            // Half of them as long as before, with a hole.
            if random.below(2) == 0 {
                file.set_len(bytes.len() as u64).unwrap();
            }
            format!("cut off at {at}")
        }
    }
}

#[test]
fn damage_is_noticed_and_the_checkpoint_read() {
    let (mut full, mut fast) = (0, 0);
    for seed in 500..504 {
        let room = shared_memory();
        let checkpoints = room.path().join("checkpoints");
        let backing = room.path().join("segments");
        let mut world = World::new(config(&backing), &checkpoints);
        let mut random = Random(seed);
        let mut nth = 0;
        for _ in 0..6 {
            for _ in 0..80 {
                world.step(nth, Step::nth(seed, nth));
                nth += 1;
            }
            for _ in 0..12 {
                let aside = room.path().join("aside");
                copy_segment(&backing, &aside);
                let how = damage(&segment_in(&aside), &mut random);
                let (restored_world, at, restored) = World::restored(config(&aside), &checkpoints);
                let Some(restored) = restored else { continue };
                restored_world.check(&Twin::before(seed, at));
                match restored.how {
                    How::Fast { .. } => fast += 1,
                    How::Full { .. } => full += 1,
                }
                drop(restored_world);
                // And again, over what the restart has made of it.
                let (again, at, restored) = World::restored(config(&aside), &checkpoints);
                assert!(matches!(restored.unwrap().how, How::Fast { .. }), "after {how}: {restored:?}");
                again.check(&Twin::before(seed, at));
                drop(again);
                fs::remove_dir_all(&aside).unwrap();
            }
        }
    }
    // What is fast was damaged where nothing counts: a page that is free, a log of an older barrier, the other slot.
    assert!(full > 100, "too little damage was noticed to mean anything: {full} of {}", full + fast);
}
