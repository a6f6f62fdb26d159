//! A restore into any other number of shards: every entry is there once, on the shard that owns it, and the chain that
//! begins with it is sound.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod world;

use proptest::prelude::*;
use world::{ALL_KINDS, Kind, Step, World, cases, steps};

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn several_states_on_changing_shards_are_maps(shards in 1u32..9, steps in steps(100, 9)) {
        World::run(&ALL_KINDS, shards, &steps);
    }

    #[test]
    fn a_flat_state_on_changing_shards_is_a_map(shards in 1u32..30, steps in steps(60, 300)) {
        World::run(&[Kind::Flat], shards, &steps);
    }

    #[test]
    fn colliding_keys_on_changing_shards_are_maps(shards in 1u32..20, steps in steps(60, 300)) {
        World::run(&[Kind::FlatCrowded, Kind::Crowded], shards, &steps);
    }
}

fn put(state: usize, keys: u32, len: u32, ends_in_ms: Option<i64>) -> Step {
    Step::Put { state, namespace: -5_000, first: 0, keys, stride: 1, len, ends_in_ms }
}

/// A world with splits, overfull pages, the zero key, long values and entries that end.
fn full(shards: u32) -> World {
    let mut world = World::new(&ALL_KINDS, shards);
    for state in 0..ALL_KINDS.len() {
        world.step(&put(state, 900, 60, None));
        world.step(&put(state, 30, 9_000, None));
        world.step(&put(state, 5, 10, Some(100)));
    }
    world.step(&Step::Freeze);
    world.step(&Step::Confirm);
    world
}

#[test]
fn from_any_number_of_shards_to_any_other() {
    for before in 1..=8 {
        let mut world = full(before);
        for after in 1..=8 {
            world.step(&Step::Restore { shards: after });
            // The first snapshot after has all of it, and the next ones lean on it.
            for round in 0..3 {
                world.step(&Step::Bump { state: round, namespace: -5_000, first: 0, keys: 50, stride: 3 });
                world.step(&Step::Freeze);
                world.step(&Step::Confirm);
            }
            world.step(&Step::Restore { shards: after });
            world.step(&Step::Restore { shards: before });
        }
        world.step(&Step::Pass { ms: 200 });
        world.check();
    }
}

/// Few keys on many shards: their pages own little of the hash space, and one shard has to take them.
#[test]
fn a_handful_of_keys_comes_back_from_thousands_of_shards() {
    for (keys, shards) in [(1, 4096), (3, 1000), (40, 257)] {
        for kinds in [&[Kind::Flat][..], &[Kind::Crowded, Kind::FlatCrowded], &[Kind::Strings]] {
            let mut world = World::new(kinds, shards);
            (0..kinds.len()).for_each(|state| world.step(&put(state, keys, 50, None)));
            world.step(&Step::Freeze);
            world.step(&Step::Confirm);
            for shards in [1, 2, 7] {
                world.step(&Step::Restore { shards });
                world.step(&put(0, 500, 20, None));
                world.check();
            }
        }
    }
}
