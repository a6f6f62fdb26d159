//! Lanes: their credit and their memory, and two threads that fill, check and sleep.

use std::sync::Arc;

use millstream_network::frame::{Control, Route};
use millstream_network::lane::BUFFERS_PER_LANE;
use millstream_network::{Buffer, Doorbell, LaneConfig, PAYLOAD_BYTES_MAX, Receiver, Sender, Stage, Streaming, lane};

const ROUTE: Route = Route { edge: 4, from_shard: 1, to_shard: 2 };

fn bell() -> Arc<Doorbell> {
    Arc::new(Doorbell::new().expect("a descriptor is left"))
}

fn quiet_lane(buffers: usize) -> (Sender, Receiver) {
    lane(LaneConfig { route: ROUTE, buffers }, bell(), bell())
}

#[test]
fn the_pool_is_the_credit() {
    let (mut sender, mut receiver) = quiet_lane(3);
    assert_eq!((sender.available(), receiver.is_empty()), (3, true));
    for mark in 0..3 {
        let mut buffer = sender.acquire().expect("three were there");
        buffer.header_mut().set_mark(mark);
        sender.send(buffer);
    }
    assert_eq!((sender.available(), receiver.len()), (0, 3));
    assert!(sender.acquire().is_none(), "all are under way");

    let buffer = receiver.receive().expect("three were sent");
    assert_eq!((buffer.header().mark(), buffer.header().sequence(), buffer.header().route()), (0, 0, ROUTE));
    assert_eq!(sender.available(), 0, "one being read is not yet back");
    receiver.release(buffer);
    assert_eq!(sender.available(), 1);
    assert_eq!(sender.lost(), 0);
}

#[test]
fn an_acquired_buffer_is_empty_whatever_it_carried_before() {
    let (mut sender, mut receiver) = quiet_lane(1);
    let mut buffer = sender.acquire().expect("the lane is fresh");
    buffer.append(&[7; PAYLOAD_BYTES_MAX]);
    let header = buffer.header_mut();
    header.set_count(9);
    header.set_mark(9);
    header.put(Control::End);
    assert_eq!(buffer.room(), 0);
    sender.send(buffer);
    let buffer = receiver.receive().expect("one was sent");
    assert_eq!(buffer.payload(), [7; PAYLOAD_BYTES_MAX]);
    receiver.release(buffer);

    let buffer = sender.acquire().expect("it came back");
    assert!(buffer.is_empty() && buffer.payload().is_empty() && !buffer.header().has_control());
    assert_eq!((buffer.header().count(), buffer.header().mark(), buffer.header().route()), (0, 0, ROUTE));
}

#[test]
fn memory_is_aligned_to_lines_and_lives_as_long_as_its_last_buffer() {
    // 32 buffers pass 2 MiB, from where on the pool is made of huge pages.
    for buffers in [1, BUFFERS_PER_LANE, 32] {
        for ends_first in [true, false] {
            let (mut sender, mut receiver) = quiet_lane(buffers);
            let in_hand: Vec<Buffer> = std::iter::from_fn(|| sender.acquire()).collect();
            assert_eq!(in_hand.len(), buffers);
            for buffer in &in_hand {
                assert_eq!(std::ptr::from_ref(buffer.header()).addr() % 64, 0);
            }
            let mut in_hand = in_hand.into_iter();
            sender.send(in_hand.next().expect("at least one"));
            if let Some(buffer) = in_hand.next() {
                sender.send(buffer);
                let buffer = receiver.receive().expect("two were sent");
                receiver.release(buffer);
            }
            // Now one is in each ring, and the rest are in hand.
            if ends_first {
                drop(sender);
                drop(receiver);
                for mut buffer in in_hand {
                    buffer.append(&[1; PAYLOAD_BYTES_MAX]);
                    assert!(buffer.payload().iter().all(|byte| *byte == 1));
                }
            } else {
                let outside = in_hand.len();
                drop(in_hand);
                assert_eq!(sender.lost(), outside);
                drop(receiver);
                drop(sender);
            }
        }
    }
    // A lane that was never used owns memory too.
    drop(quiet_lane(40));
}

#[test]
#[should_panic(expected = "a buffer is sent on the lane it was acquired from")]
fn a_buffer_keeps_to_its_lane() {
    let (mut sender, _receiver) = quiet_lane(1);
    let other = Route { edge: 5, ..ROUTE };
    let (mut other, _other_receiver) = lane(LaneConfig { route: other, buffers: 1 }, bell(), bell());
    other.send(sender.acquire().expect("the lane is fresh"));
}

#[test]
#[should_panic(expected = "2 bytes do not fit the 1 left of a buffer")]
fn a_buffer_keeps_to_its_bounds() {
    let (mut sender, _receiver) = quiet_lane(1);
    let mut buffer = sender.acquire().expect("the lane is fresh");
    buffer.append(&[0; PAYLOAD_BYTES_MAX - 1]);
    buffer.advance(2);
}

/// The rows of the stress: each of 8 bytes, no two alike.
fn row(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Ends the process when its thread panics: the other end would wait for it in its sleep.
struct NobodyWaitsForUs;

impl Drop for NobodyWaitsForUs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("one end of a lane panicked, as said above");
            std::process::abort();
        }
    }
}

/// Fills and sends `frames` frames of changing length, sleeping whenever no buffer is left.
fn fill(mut sender: Sender, bell: &Doorbell, frames: u64, how: Streaming) {
    let _guard = NobodyWaitsForUs;
    let mut stage = Stage::new(1024, how);
    let mut number = 0;
    for frame in 0..frames {
        let mut buffer = loop {
            if let Some(buffer) = sender.acquire() {
                break buffer;
            }
            bell.announce();
            if sender.available() == 0 {
                bell.wait().expect("the doorbell is open");
            }
            bell.retract();
        };
        // From a line or two to a whole buffer, so that both ends get to sleep.
        let rows = 1 + row(frame) % if frame % 8 == 0 { PAYLOAD_BYTES_MAX as u64 / 8 } else { 100 };
        for _ in 0..rows {
            if stage.room() == 0 {
                stage.flush_lines(&mut buffer);
            }
            stage.push(row(number));
            number += 1;
        }
        stage.flush_all(&mut buffer);
        assert!(stage.is_empty());
        buffer.header_mut().set_count(rows as u32);
        if frame == frames - 1 {
            buffer.header_mut().put(Control::End);
        }
        sender.send(buffer);
    }
}

/// Receives until the end and checks every row; sleeps whenever nothing is there.
fn check(mut receiver: Receiver, bell: &Doorbell) -> u64 {
    let _guard = NobodyWaitsForUs;
    let (mut frames, mut number) = (0, 0);
    loop {
        let Some(buffer) = receiver.receive() else {
            bell.announce();
            if receiver.is_empty() {
                bell.wait().expect("the doorbell is open");
            }
            bell.retract();
            continue;
        };
        assert_eq!(buffer.header().sequence(), frames);
        assert_eq!(buffer.len(), buffer.header().count() as usize * 8);
        for bytes in buffer.payload().chunks_exact(8) {
            let arrived = u64::from_le_bytes(bytes.try_into().expect("a chunk of eight"));
            assert_eq!(arrived, row(number), "row {number}, frame {frames}");
            number += 1;
        }
        frames += 1;
        let ended = buffer.header().controls().any(|control| control == Control::End);
        receiver.release(buffer);
        if ended {
            assert!(receiver.is_empty());
            return frames;
        }
    }
}

#[test]
fn two_threads_fill_check_and_sleep() {
    const FRAMES: u64 = 20_000;
    for how in [Streaming::NonTemporal, Streaming::Plain] {
        for buffers in [1, 2, BUFFERS_PER_LANE] {
            let (at_sender, at_receiver) = (bell(), bell());
            let config = LaneConfig { route: ROUTE, buffers };
            let (sender, receiver) = lane(config, Arc::clone(&at_receiver), Arc::clone(&at_sender));
            let checked = std::thread::scope(|threads| {
                threads.spawn(move || fill(sender, &at_sender, FRAMES, how));
                threads.spawn(move || check(receiver, &at_receiver)).join().expect("every row is as it was pushed")
            });
            assert_eq!(checked, FRAMES);
        }
    }
}
