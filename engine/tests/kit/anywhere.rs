//! However inputs come together, however far time follows, wherever a job is stopped and on however many shards it goes on:
//! the answer is that of a batch.

use millstream::testing::Snapshot;
use proptest::prelude::*;

use crate::operators::{OPERATORS, Row};
use crate::script::{Item, Move, Rig, Script, at_once, cases, moves, play, script};

/// A generator that needs no seed of the machine's.
struct Draws(u64);

impl Draws {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Each input's rows, and time behind them, without chance.
fn drawn(rows: u64, seed: u64) -> Script {
    let mut draws = Draws(seed);
    [0, 1, 2].map(|input| {
        let (mut now, mut items) = (0, Vec::new());
        for _ in 0..rows {
            now += 2 * draws.below(4) as i64;
            let at = now - 2 * draws.below(5) as i64;
            items.push(Item::Row(Row { input, key: draws.below(4), at, value: draws.below(60) as i64 }));
            if draws.below(3) == 0 {
                items.push(Item::Watermark(now - 9));
            }
        }
        items
    })
}

/// Every operator is stopped in mid-stream, with rows, timers and windows in hand, and goes on with other numbers of shards.
#[test]
fn every_operator_goes_on_on_other_numbers_of_shards() {
    let script = drawn(40, 7);
    for operator in OPERATORS {
        let expected = at_once(operator, &script);
        assert!(!expected.rows.is_empty(), "{}", operator.name);
        assert_eq!((expected.late, expected.is_empty), (0, operator.forgets), "{}", operator.name);
        let mut draws = Draws(11);
        let mut moves = Vec::new();
        for shards in [3, 1, 8, 2] {
            moves.extend((0..35).map(|_| Move::Bring(draws.below(3) as usize)));
            moves.push(Move::Snapshot);
            moves.extend((0..10).map(|_| Move::Bring(draws.below(3) as usize)));
            moves.extend([Move::Settle, Move::Restore(shards)]);
        }
        assert_eq!(play(operator, &script, &moves, 2), expected, "{}", operator.name);
    }
}

/// One snapshot is restored on every number of shards from every number of shards.
#[test]
fn sessions_that_are_open_come_to_any_number_of_shards_from_any_other() {
    let operator = OPERATORS.iter().find(|operator| operator.name == "an evictor of time").unwrap();
    let script = drawn(12, 3);
    let expected = at_once(operator, &script);
    for from in 1..=8 {
        let mut rig = Rig::of(operator, from);
        let brings = |rig: &Rig, part: std::ops::Range<usize>| {
            for (input, items) in script.iter().enumerate() {
                items.iter().skip(part.start).take(part.len()).for_each(|item| rig.bring(input, *item));
            }
        };
        brings(&rig, 0..8);
        let mut snapshot: Snapshot = rig.job.snapshot().unwrap();
        assert!(!rig.job.state_is_empty(), "from {from}");
        brings(&rig, 8..10);
        for to in 1..=8 {
            rig.job.restore(&snapshot, to).unwrap();
            snapshot = rig.job.snapshot().unwrap();
        }
        brings(&rig, 10..usize::MAX);
        assert_eq!(rig.end(), expected, "from {from}");
    }
}

proptest! {
    #![proptest_config(cases(30))]

    /// Any interleaving that keeps each input's order.
    #[test]
    fn the_order_in_which_inputs_come_together_says_nothing(
        which in 0..OPERATORS.len(), script in script(25), moves in moves(80, false), shards in 1_u32..4,
    ) {
        let operator = &OPERATORS[which];
        prop_assert_eq!(play(operator, &script, &moves, shards), at_once(operator, &script), "{}", operator.name);
    }

    /// A snapshot between any two items, and a restore behind any other, on p and q of one to eight shards.
    #[test]
    fn a_stop_anywhere_says_nothing(
        which in 0..OPERATORS.len(), script in script(20), moves in moves(60, true), shards in 1_u32..=8,
    ) {
        let operator = &OPERATORS[which];
        prop_assert_eq!(play(operator, &script, &moves, shards), at_once(operator, &script), "{}", operator.name);
    }
}
