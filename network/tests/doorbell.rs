//! No wake-up is lost: many threads ring, one sleeps; a lost one would leave it asleep with work at its door.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use millstream_network::Doorbell;

/// Runs `work` on a thread of its own; one that does not end within a minute is asleep for ever.
fn or_asleep_for_ever(work: impl FnOnce() + Send) {
    std::thread::scope(|threads| {
        let (done, watch) = channel();
        threads.spawn(move || {
            work();
            drop(done);
        });
        if watch.recv_timeout(Duration::from_secs(60)) != Err::<(), _>(RecvTimeoutError::Disconnected) {
            // Not a panic: the scope would wait for the sleeper.
            eprintln!("a wake-up was lost: the sleeper sleeps though work has been put at its door");
            std::process::abort();
        }
    });
}

#[test]
fn two_threads_wake_each_other_in_turn() {
    const TURNS: u64 = 50_000;
    or_asleep_for_ever(|| {
        let bells = [Doorbell::new(), Doorbell::new()].map(|bell| bell.expect("a descriptor is left"));
        let turn = AtomicU64::new(0);
        let play = |me: usize| {
            for mine in (me as u64..TURNS).step_by(2) {
                while turn.load(Ordering::Relaxed) != mine {
                    bells[me].announce();
                    if turn.load(Ordering::Relaxed) != mine {
                        bells[me].wait().expect("the doorbell is open");
                    }
                    bells[me].retract();
                }
                turn.store(mine + 1, Ordering::Relaxed);
                bells[1 - me].ring();
            }
        };
        std::thread::scope(|threads| {
            threads.spawn(|| play(0));
            threads.spawn(|| play(1));
        });
        assert_eq!(turn.into_inner(), TURNS);
    });
}

#[test]
fn many_ring_and_one_sleeps() {
    const RINGERS: u64 = 3;
    const WORK_EACH: u64 = 100_000;
    or_asleep_for_ever(|| {
        let bell = Arc::new(Doorbell::new().expect("a descriptor is left"));
        let done: [AtomicU64; RINGERS as usize] = Default::default();
        let all = || done.iter().map(|done| done.load(Ordering::Relaxed)).sum::<u64>();
        std::thread::scope(|threads| {
            for done in &done {
                let bell = Arc::clone(&bell);
                threads.spawn(move || {
                    for _ in 0..WORK_EACH {
                        done.fetch_add(1, Ordering::Relaxed);
                        bell.ring();
                    }
                });
            }
            let mut seen = 0;
            while seen < RINGERS * WORK_EACH {
                bell.announce();
                let now = all();
                if now == seen {
                    bell.wait().expect("the doorbell is open");
                }
                bell.retract();
                seen = now;
            }
        });
    });
}

#[test]
fn a_shard_at_work_is_not_written_to_and_a_stale_ring_ends_one_sleep() {
    let bell = Doorbell::new().expect("a descriptor is left");
    bell.ring(); // nobody sleeps: nothing is written
    bell.announce();
    bell.ring();
    bell.ring(); // the first took `parked` back
    bell.retract();
    bell.wait().expect("the doorbell is open"); // does not sleep: one write stands
    or_asleep_for_ever(|| {
        std::thread::scope(|threads| {
            bell.announce();
            threads.spawn(|| bell.ring());
            bell.wait().expect("the doorbell is open"); // would return at once had a second write been left
            bell.retract();
        });
    });
}
