//! `#[millstream::event]`: what it makes of a user's types.

use std::time::Duration;

use millstream::rkyv::rancor::Error;
use millstream::rkyv::{access, deserialize, to_bytes};
use millstream::{Aggregate, Fixed, Items, Job, Key, Text, Timestamp, Tumbling, Watermarks, Windowed};
use millstream_connectors::memory::MemorySink;

#[millstream::event(key)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Seat {
    room: u32,
    row: u16,
    number: u16,
}

#[millstream::event]
#[derive(Clone, Copy, PartialEq, Debug)]
struct Takings {
    cents: i64,
    tickets: u32,
    dearest_cents: i32,
}

#[millstream::event]
#[derive(PartialEq, Debug)]
enum Order {
    Placed { items: Vec<String>, seat: Seat },
    Paid(Takings),
    Cancelled,
}

#[millstream::event]
#[derive(Clone, Copy, PartialEq, Debug)]
struct Sack<const N: usize> {
    miller: Text<N>,
    sides_cm: [[u16; 2]; 2],
}

/// Folds prices into a struct of the user's.
struct Sell;

impl Aggregate<(Seat, i64, i32)> for Sell {
    type Input = i32;
    type Acc = Takings;
    type Out = Takings;

    fn lift(&self, ticket: &(Seat, i64, i32)) -> i32 {
        ticket.2
    }

    fn init(&self) -> Takings {
        Takings { cents: 0, tickets: 0, dearest_cents: i32::MIN }
    }

    fn add(&self, acc: &mut Takings, cents: i32) {
        let one = Takings { cents: i64::from(cents), tickets: 1, dearest_cents: cents };
        Aggregate::<(Seat, i64, i32)>::merge(self, acc, &one);
    }

    fn merge(&self, into: &mut Takings, other: &Takings) {
        into.cents += other.cents;
        into.tickets += other.tickets;
        into.dearest_cents = into.dearest_cents.max(other.dearest_cents);
    }

    fn finish(&self, acc: &Takings) -> Takings {
        *acc
    }
}

#[test]
fn a_fixed_struct_is_a_key_and_another_an_accumulator() {
    let seat = |i: i64| Seat { room: (i % 3) as u32, row: (i % 5) as u16, number: 1 };
    let tickets: Vec<_> = (0..3_000).map(|i| (seat(i), i, (i % 7) as i32 - 2)).collect();
    for (shards, combine) in [(1, true), (1, false), (2, true), (2, false)] {
        let sink = MemorySink::new();
        let (rows, sold) = (sink.clone(), tickets.clone());
        Job::new("theatre", move |flow| {
            flow.source(Items::of(sold.clone()))
                .event_time(|ticket| Timestamp(ticket.1), Watermarks::monotonic())
                .key_by(|ticket| ticket.0)
                .window(Tumbling::of(Duration::from_secs(1)))
                .aggregate(Sell)
                .sink(sink.clone());
        })
        .shards(shards)
        .combine(combine)
        .run()
        .expect("the job ends");

        let rows: Vec<Windowed<Seat, Takings>> = rows.rows();
        assert_eq!(rows.len(), 3 * 15, "three windows of fifteen seats each, on {shards} shards");
        for row in rows {
            let mut expected = Takings { cents: 0, tickets: 0, dearest_cents: i32::MIN };
            for (_, _, cents) in
                tickets.iter().filter(|(seat, at, _)| *seat == row.key && at / 1000 == row.window.start.0 / 1000)
            {
                expected.cents += i64::from(*cents);
                expected.tickets += 1;
                expected.dearest_cents = expected.dearest_cents.max(*cents);
            }
            assert_eq!(row.value, expected, "{row:?}, {shards} shards, combine {combine}");
        }
    }
}

#[test]
fn a_fixed_struct_is_its_own_archived_form() {
    const { Seat::PROOF };
    const { Takings::PROOF };
    let seat = Seat { room: 0x0403_0201, row: 0x0605, number: 0x0807 };
    let bytes = to_bytes::<Error>(&seat).expect("memory is left");
    assert_eq!(bytes[..], [1, 2, 3, 4, 5, 6, 7, 8], "little endian, in declared order");
    assert_eq!(seat.hash64(), Seat { ..seat }.hash64());
    assert_ne!(seat.hash64(), Seat { number: 0, ..seat }.hash64());
}

#[test]
fn a_struct_may_be_generic() {
    let sack = Sack::<8> { miller: "Anna".parse().expect("it fits"), sides_cm: [[60, 40], [30, 10]] };
    let bytes = to_bytes::<Error>(&sack).expect("memory is left");
    let archived = access::<ArchivedSack<8>, Error>(&bytes).expect("what was written is valid");
    assert_eq!(deserialize::<Sack<8>, Error>(archived).expect("memory is left"), sack);
}

#[test]
fn an_enum_with_anything_in_it_archives_and_comes_back() {
    let seat = Seat { room: 1, row: 2, number: 3 };
    let orders = [
        Order::Placed { items: vec!["flour".into(), "a very long description of a sack of rye".into()], seat },
        Order::Paid(Takings { cents: -5, tickets: 2, dearest_cents: 7 }),
        Order::Cancelled,
    ];
    for order in orders {
        let bytes = to_bytes::<Error>(&order).expect("memory is left");
        let archived = access::<ArchivedOrder, Error>(&bytes).expect("what was written is valid");
        assert_eq!(deserialize::<Order, Error>(archived).expect("memory is left"), order);
    }
}

#[test]
fn bytes_that_are_no_order_are_not_taken_for_one() {
    let mut bytes = to_bytes::<Error>(&Order::Cancelled).expect("memory is left");
    bytes.fill(0xee);
    assert!(access::<ArchivedOrder, Error>(&bytes).is_err());
}
