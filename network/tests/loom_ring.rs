//! Every interleaving of the ring's two ends, walked by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p millstream-network --test loom_ring --release`
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use millstream_network::ring::ring;

/// Three items through two slots: the ring is empty, part full and full, and each counter passes the end of the slots.
#[test]
fn every_item_arrives_once_and_in_order() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(2);
        let pushing = thread::spawn(move || {
            for number in 0..3 {
                let mut item = Box::new(number);
                while let Err(back) = producer.push(item) {
                    item = back;
                    thread::yield_now();
                }
            }
        });
        for number in 0..3 {
            let item = loop {
                match consumer.pop() {
                    Some(item) => break item,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(*item, number);
        }
        assert!(consumer.pop().is_none());
        pushing.join().expect("the producer does not panic");
    });
}

/// Either end may go first, while the other is at work; what is left is dropped once.
#[test]
fn what_is_left_is_dropped_with_the_last_end() {
    loom::model(|| {
        let item = Arc::new(());
        let (mut producer, mut consumer) = ring(2);
        let pushed = [Arc::clone(&item), Arc::clone(&item)];
        let pushing = thread::spawn(move || {
            for item in pushed {
                producer.push(item).expect("two fit");
            }
        });
        let popped = consumer.pop();
        drop(consumer);
        pushing.join().expect("the producer does not panic");
        assert_eq!(Arc::strong_count(&item), 1 + usize::from(popped.is_some()));
    });
}

/// What the two ends say of room and length is a bound the other end can only improve.
#[test]
fn room_and_length_are_promises() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(2);
        producer.push(0).expect("two fit");
        let pushing = thread::spawn(move || {
            for number in 1..=producer.room() {
                producer.push(number).expect("there was room");
            }
        });
        for number in 0..consumer.len() {
            assert_eq!(consumer.pop(), Some(number));
        }
        pushing.join().expect("the producer does not panic");
    });
}
