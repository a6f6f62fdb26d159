//! Every interleaving of a sleeper and those who ring, walked by loom; a lost wake-up is a deadlock, which loom reports:
//! `RUSTFLAGS="--cfg loom" cargo test -p millstream-network --test loom_doorbell --release`
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use millstream_network::Doorbell;
use millstream_network::ring::ring;

/// A neighbour's ring is what the shard looks at before it sleeps.
#[test]
fn a_push_and_a_ring_wake_the_shard() {
    loom::model(|| {
        let bell = Arc::new(Doorbell::new().expect("a model has no limits"));
        let (mut producer, mut consumer) = ring(2);
        let neighbour = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || {
                for number in 0..2 {
                    producer.push(number).expect("two fit");
                    bell.ring();
                }
            })
        };
        for number in 0..2 {
            let item = loop {
                if let Some(item) = consumer.pop() {
                    break item;
                }
                bell.announce();
                if consumer.is_empty() {
                    bell.wait().expect("a model has no errors");
                }
                bell.retract();
            };
            assert_eq!(item, number);
        }
        neighbour.join().expect("the neighbour does not panic");
    });
}

/// Two neighbours ring at once: one of them writes, and the shard sees the work of both before it sleeps for good.
#[test]
fn one_write_serves_two_neighbours() {
    // Three threads have too many interleavings to walk all; bugs of this kind need few switches at the wrong moment.
    let mut few_switches = loom::model::Builder::new();
    few_switches.preemption_bound = Some(3);
    few_switches.check(|| {
        let bell = Arc::new(Doorbell::new().expect("a model has no limits"));
        let work = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let neighbours: Vec<_> = (0..2)
            .map(|me| {
                let (bell, work) = (Arc::clone(&bell), Arc::clone(&work));
                thread::spawn(move || {
                    work[me].store(1, Ordering::Relaxed);
                    bell.ring();
                })
            })
            .collect();
        let seen = || work.iter().map(|work| work.load(Ordering::Relaxed)).sum::<usize>();
        while seen() < 2 {
            bell.announce();
            if seen() < 2 {
                bell.wait().expect("a model has no errors");
            }
            bell.retract();
        }
        for neighbour in neighbours {
            neighbour.join().expect("a neighbour does not panic");
        }
    });
}
