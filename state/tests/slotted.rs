//! States of any size, and several states in one store, against maps.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod world;

use proptest::prelude::*;
use world::{ALL_KINDS, Kind, Step, World, cases, steps};

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn a_state_under_numbers_is_a_map(steps in steps(60, 1)) {
        World::run(&[Kind::Numbers], 1, &steps);
    }

    #[test]
    fn a_state_under_strings_is_a_map(steps in steps(60, 1)) {
        World::run(&[Kind::Strings], 1, &steps);
    }

    #[test]
    fn a_state_under_bytes_is_a_map(steps in steps(40, 1)) {
        World::run(&[Kind::Bytes], 1, &steps);
    }

    #[test]
    fn a_state_under_things_is_a_map(steps in steps(40, 1)) {
        World::run(&[Kind::Things], 1, &steps);
    }

    #[test]
    fn a_state_under_colliding_keys_is_a_map(steps in steps(40, 1)) {
        World::run(&[Kind::Crowded], 1, &steps);
    }

    #[test]
    fn several_states_of_one_store_are_maps(steps in steps(120, 1)) {
        World::run(&ALL_KINDS, 1, &steps);
    }
}

fn put(first: u32, keys: u32, len: u32) -> Step {
    Step::Put { state: 0, namespace: 0, first, keys, stride: 1, len, ends_in_ms: None }
}

/// Values grow into pages of their own and shrink back, with a barrier open that has not written them.
#[test]
fn values_grow_long_and_short_again() {
    for bytes in [1, 3_000, 50_000] {
        let mut world = World::new(&[Kind::Strings, Kind::Flat], 1);
        for len in [10, 5_000, 20_000, 0, 4_090, 4_200, 300] {
            world.step(&put(0, 150, len));
            world.step(&Step::Freeze);
            world.step(&Step::Drain { bytes });
            world.step(&put(20, 60, 20_000 - len));
            world.step(&Step::Drain { bytes });
            world.step(&Step::Bump { state: 0, namespace: 0, first: 50, keys: 60, stride: 1 });
            world.step(&Step::Remove { state: 0, namespace: 0, first: 100, keys: 20, stride: 2 });
            world.check();
            world.step(&Step::Confirm);
            world.step(&put(5, 5, 7_000));
            world.step(&Step::Freeze);
            world.step(&Step::Abort);
            world.check();
        }
        world.step(&Step::Restore { shards: 1 });
    }
}

/// What was written behind a barrier does not come back with it, wherever the long values' pages went meanwhile.
#[test]
fn pages_of_long_values_are_given_up_and_handed_out_under_an_open_snapshot() {
    for bytes in [1, 5_000] {
        let mut world = World::new(&[Kind::Numbers], 1);
        world.step(&put(0, 40, 9_000));
        world.step(&Step::Freeze);
        world.step(&Step::Drain { bytes });
        world.step(&Step::Drop { state: 0, namespace: 0 });
        world.step(&put(100, 40, 12_000));
        world.step(&Step::Drain { bytes });
        world.step(&Step::Remove { state: 0, namespace: 0, first: 100, keys: 20, stride: 1 });
        world.step(&Step::Confirm);
        world.step(&Step::Restore { shards: 1 });
        world.step(&put(0, 40, 100));
        world.step(&Step::Freeze);
        world.step(&Step::Confirm);
        world.step(&Step::Restore { shards: 1 });
    }
}

#[test]
fn what_has_ended_is_not_seen_and_goes() {
    let mut world = World::new(&[Kind::Things, Kind::Crowded], 1);
    for state in 0..2 {
        let put =
            |first, ends_in_ms| Step::Put { state, namespace: 7, first, keys: 200, stride: 2, len: 90, ends_in_ms };
        world.step(&put(0, Some(100)));
        world.step(&put(1, None));
        world.step(&put(3000, Some(1_000)));
    }
    world.step(&Step::Freeze);
    world.step(&Step::Confirm);
    world.step(&Step::Pass { ms: 100 });
    world.step(&Step::Restore { shards: 1 });
    for pages_max in [1, 2, usize::MAX] {
        for state in 0..2 {
            world.step(&Step::Expire { state, namespace: 7, pages_max });
        }
        world.check();
    }
    world.step(&Step::Restore { shards: 3 });
    world.step(&Step::Pass { ms: 1_000 });
    world.check();
}
