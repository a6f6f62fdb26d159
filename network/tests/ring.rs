//! The ring against its slow twin, a `VecDeque`; then two threads.

use std::collections::VecDeque;
use std::sync::Arc;

use millstream_network::ring::ring;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    Pop,
    AskRoom,
    AskLen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step =
        prop_oneof![4 => Just(Step::Push), 4 => Just(Step::Pop), 1 => Just(Step::AskRoom), 1 => Just(Step::AskLen)];
    prop::collection::vec(step, 0..300)
}

proptest! {
    #[test]
    fn it_is_a_bounded_queue(items_min in 1_usize..20, steps in steps()) {
        // What is pushed counts its owners, so that an item dropped twice or never is seen.
        let item = Arc::new(());
        let capacity = items_min.next_power_of_two();
        let (mut producer, mut consumer) = ring(items_min);
        let mut twin = VecDeque::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push => {
                    let fits = twin.len() < capacity;
                    prop_assert_eq!(producer.push((number, Arc::clone(&item))).is_ok(), fits);
                    if fits {
                        twin.push_back(number);
                    }
                }
                Step::Pop => prop_assert_eq!(consumer.pop().map(|(number, _)| number), twin.pop_front()),
                Step::AskRoom => prop_assert_eq!(producer.room(), capacity - twin.len()),
                Step::AskLen => prop_assert_eq!((consumer.len(), consumer.is_empty()), (twin.len(), twin.is_empty())),
            }
            prop_assert_eq!(Arc::strong_count(&item), 1 + twin.len());
        }
        drop(producer);
        prop_assert_eq!(Arc::strong_count(&item), 1 + twin.len(), "what was pushed outlives its producer");
        drop(consumer);
        prop_assert_eq!(Arc::strong_count(&item), 1, "what was never popped is dropped with the ring");
    }
}

#[test]
fn two_threads_see_every_item_once_and_in_order() {
    const ITEMS: usize = 500_000;
    let (mut producer, mut consumer) = ring(8);
    std::thread::scope(|threads| {
        threads.spawn(move || {
            for number in 0..ITEMS {
                let mut item = Box::new(number);
                while let Err(back) = producer.push(item) {
                    item = back;
                    std::thread::yield_now();
                }
            }
        });
        for number in 0..ITEMS {
            let item = loop {
                match consumer.pop() {
                    Some(item) => break item,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(*item, number);
        }
        assert!(consumer.is_empty());
    });
}
