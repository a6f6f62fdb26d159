//! What all aggregates have in common: partial results meet in any order.

use millstream_state::{Both, bytes_of};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::time::Timestamp;

/// When and what.
type Event = Both<i64, u64>;

fn fold<A: Aggregate<Event>>(aggregate: &A, events: &[Event]) -> A::Acc {
    let mut acc = aggregate.init();
    events.iter().for_each(|event| aggregate.add(&mut acc, aggregate.lift(event)));
    acc
}

/// Deals the events out to a few, in another order, and merges what those have, in another order: the bytes are the same.
fn check<A: Aggregate<Event>>(aggregate: &A, events: &[Event], mut seed: u64) -> Result<(), TestCaseError> {
    let mut draw = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let mut parts = vec![Vec::new(); 4];
    events.iter().for_each(|event| parts[draw(4)].push(*event));
    for part in &mut parts {
        for index in (1..part.len()).rev() {
            part.swap(index, draw(index + 1));
        }
    }
    let mut accs: Vec<A::Acc> = parts.iter().map(|part| fold(aggregate, part)).collect();
    while accs.len() > 1 {
        let one = accs.swap_remove(draw(accs.len()));
        let into = draw(accs.len());
        aggregate.merge(&mut accs[into], &one);
    }
    let raw = fold(aggregate, events);
    prop_assert_eq!(bytes_of(&accs[0]), bytes_of(&raw));
    let mut of_nothing = aggregate.init();
    aggregate.merge(&mut of_nothing, &accs[0]);
    prop_assert_eq!(bytes_of(&of_nothing), bytes_of(&accs[0]));
    Ok(())
}

fn number(event: &Event) -> u64 {
    event.1
}

fn at(event: &Event) -> Timestamp {
    Timestamp(event.0)
}

proptest! {
    /// Folded apart and merged, or all in one: the same accumulator.
    #[test]
    fn combined_equals_raw(
        events in vec((-5i64..5, prop_oneof![0u64..10, 0u64..5_000, any::<u64>()]), 0..300),
        ends in vec(prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0)], 0..3),
        seed: u64,
    ) {
        let at_ends = ends.into_iter().map(|at| Both(at, 3));
        let events: Vec<Event> = events.into_iter().map(|(at, number)| Both(at, number)).chain(at_ends).collect();
        check(&Count, &events, seed)?;
        check(&(Sum::of(number), Min::of(number), Max::of(number)), &events, seed)?;
        check(&First::by(at, number), &events, seed)?;
        check(&Last::by(at, number), &events, seed)?;
        check(&Top::<1, _, _>::of(number), &events, seed)?;
        check(&Top::<5, _, _>::of(|event: &Event| Both(event.1 % 7, event.0)), &events, seed)?;
        check(&Distinct::<16, _, _>::of(number), &events, seed)?;
        check(&Distinct::<256, _, _>::of(|event: &Event| event.0), &events, seed)?;
        check(&Quantiles::<16, _>::of(|event: &Event| event.1 as f64), &events, seed)?;
        check(&Quantiles::<128, _>::of(|event: &Event| event.1 as f64 / 1e6), &events, seed)?;
        check(&Reduced::by(|a: &Event, b: &Event| Both(a.0.min(b.0), a.1.wrapping_mul(b.1 | 1))), &[], seed)?;
        check(&Reduced::by(|a: &Event, b: &Event| Both(a.0.min(b.0), a.1 ^ b.1)), &events, seed)?;
        let six = (Count, Sum::of(number), Min::of(number), Max::of(number), First::by(at, number), Last::by(at, number));
        check(&six, &events, seed)?;
    }
}

#[test]
fn tuples_compose_and_merge() {
    let all = (Count, Sum::of(|n: &i64| *n), Max::of(|n: &i64| *n), Avg::of(|n: &i64| *n));
    let fold = |rows: &[i64]| {
        let mut acc = Aggregate::<i64>::init(&all);
        for row in rows {
            let input = all.lift(row);
            Aggregate::<i64>::add(&all, &mut acc, input);
        }
        acc
    };
    let mut left = fold(&[3, -5]);
    Aggregate::<i64>::merge(&all, &mut left, &fold(&[10]));
    assert_eq!(Aggregate::<i64>::finish(&all, &left), (3, 8, 10, 8.0 / 3.0));
}

#[test]
fn tuples_of_six_are_flat_and_in_order() {
    let events = [Both(5, 30), Both(-2, 20), Both(9, 10)];
    let six = (Count, Sum::of(number), Min::of(number), Max::of(number), First::by(at, number), Last::by(at, number));
    assert_eq!(six.finish(&fold(&six, &events)), (3, 60, 10, 30, 20, 10));
    let five = (Max::of(number), Min::of(number), Sum::of(number), Count, Avg::of(number));
    assert_eq!(five.finish(&fold(&five, &events)), (30, 10, 60, 3, 20.0));
}

#[test]
fn the_least_of_events() {
    let least = Min::of(|n: &f64| *n);
    let mut acc = Aggregate::<f64>::init(&least);
    for row in [2.5, -1.0, 9.0] {
        Aggregate::<f64>::add(&least, &mut acc, row);
    }
    assert_eq!(Aggregate::<f64>::finish(&least, &acc), -1.0);
}

#[test]
fn the_ends_of_time_are_times_too() {
    let events = [Both(i64::MAX, 1), Both(i64::MAX, 2)];
    let ends = (First::by(at, number), Last::by(at, number));
    assert_eq!(ends.finish(&fold(&ends, &events)), (1, 1), "always the same one");
    assert_eq!(ends.finish(&fold(&ends, &[Both(i64::MIN, 7)])), (7, 7));
}

#[test]
fn the_greatest_few_with_ties_and_with_too_few() {
    let top = Top::<3, _, _>::of(number);
    let of = |numbers: &[u64]| {
        let events: Vec<Event> = numbers.iter().map(|number| Both(0, *number)).collect();
        top.finish(&fold(&top, &events))
    };
    assert_eq!(of(&[]), [0_u64; 0]);
    assert_eq!(of(&[4]), [4]);
    assert_eq!(of(&[4, 9, 4, 9, 1]), [9, 9, 4]);
    assert_eq!(of(&[1, 2, 3, 4]), [4, 3, 2]);
}

#[test]
fn what_was_merged_in_is_taken_out_where_that_is_exact() {
    let exact = (Count, Sum::of(|n: &i64| *n), Sum::of(|n: &i64| *n as u32));
    let fold = |n: i64| {
        let mut acc = Aggregate::<i64>::init(&exact);
        Aggregate::<i64>::add(&exact, &mut acc, exact.lift(&n));
        acc
    };
    let mut acc = fold(i64::MAX);
    Aggregate::<i64>::merge(&exact, &mut acc, &fold(7));
    assert!(Aggregate::<i64>::remove(&exact, &mut acc, &fold(i64::MAX)));
    assert_eq!(acc, fold(7));
    assert!(!Aggregate::<f64>::remove(&Sum::of(|n: &f64| *n), &mut 1.0, &1.0));
    assert!(!Aggregate::<i64>::remove(&Max::of(|n: &i64| *n), &mut 1, &1));
    let mixed = (Count, Max::of(|n: &i64| *n));
    let nothing = Aggregate::<i64>::init(&mixed);
    assert!(!Aggregate::<i64>::remove(&mixed, &mut nothing.clone(), &nothing));
}
