//! An input that is idle does not stop time, and one that speaks again does not move it back: behind two inputs, and for
//! windows with triggers.

use millstream::Timestamp;

use crate::operators::{OPERATORS, Row};
use crate::script::{Item, Rig, at_once};

/// What becomes of a row behind the watermark.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Late {
    Counted,
    /// A function of a user's takes it like any other: its timer fires at once.
    Taken,
}

const CASES: [(&str, Late); 9] = [
    ("tumbling windows", Late::Counted),
    ("sessions", Late::Counted),
    ("early panes, discarding", Late::Counted),
    ("an evictor of time", Late::Counted),
    ("a process function with timers", Late::Taken),
    ("two inputs with timers", Late::Taken),
    ("an interval join", Late::Counted),
    ("a co-group", Late::Counted),
    ("a temporal join", Late::Counted),
];

fn row(input: u64, at: i64) -> Item {
    Item::Row(Row { input, key: 7, at, value: 1 })
}

#[test]
fn an_idle_input_does_not_stop_time_and_a_revived_one_does_not_move_it_back() {
    for (name, late) in CASES {
        let operator = OPERATORS.iter().find(|operator| operator.name == name).unwrap();
        // What only tells of its keys at the end of the input is left to itself.
        let tells = name != "early panes, discarding";
        for shards in 1..=3 {
            let what = format!("{name} on {shards} shards");
            let mut rig = Rig::of(operator, shards);
            // What is right of the others meets none of them.
            let first = [vec![row(0, 2)], vec![row(1, 4)], vec![row(2, 40)]];
            first.iter().enumerate().for_each(|(input, items)| rig.bring(input, items[0]));
            rig.bring(0, Item::Watermark(100));
            rig.job.settle().unwrap();
            assert_eq!(rig.out.take_sorted(), [""; 0], "{what}: two inputs have said nothing");
            rig.inputs[1].idle();
            rig.job.settle().unwrap();
            assert_eq!(rig.out.take_sorted(), [""; 0], "{what}: one input has said nothing");
            rig.inputs[2].idle();
            rig.job.settle().unwrap();
            let expected = at_once(operator, &first).rows;
            if tells {
                assert_eq!(rig.out.take_sorted(), expected, "{what}: the others are idle");
            }

            // It speaks again, of what is over.
            rig.bring(2, row(2, 30));
            rig.job.settle().unwrap();
            let came = rig.out.take_sorted();
            let counts = late == Late::Counted;
            assert_eq!((rig.job.late(), came.is_empty()), (u64::from(counts), counts), "{what}: {came:?}");
            rig.bring(2, Item::Watermark(60));
            rig.job.settle().unwrap();
            assert_eq!(rig.out.take_sorted(), [""; 0], "{what}: time has been further");

            // Until it has caught up it is not waited for.
            rig.bring(0, row(0, 150));
            rig.bring(0, Item::Watermark(200));
            rig.job.settle().unwrap();
            assert_eq!(rig.out.take_sorted().len(), usize::from(tells), "{what}: it is behind");
            // From then on it is.
            rig.bring(2, Item::Watermark(220));
            rig.job.settle().unwrap();
            rig.bring(0, row(0, 250));
            rig.bring(0, Item::Watermark(400));
            rig.job.settle().unwrap();
            assert_eq!(rig.out.take_sorted(), [""; 0], "{what}: it has come to 220");
            rig.inputs[2].end();
            rig.job.settle().unwrap();
            assert_eq!(rig.out.take_sorted().len(), usize::from(tells), "{what}: it has ended");
            assert_eq!(rig.job.late(), u64::from(counts), "{what}");
        }
    }
}

/// Where all are idle, time stands where the fastest left it; a row then comes to the rest of its window.
#[test]
fn time_stands_where_the_fastest_left_it() {
    for name in ["sessions", "two inputs with timers", "a co-group"] {
        let operator = OPERATORS.iter().find(|operator| operator.name == name).unwrap();
        for shards in 1..=3 {
            let mut rig = Rig::of(operator, shards);
            rig.bring(0, row(0, 2));
            rig.bring(2, row(2, 6));
            rig.bring(0, Item::Watermark(1));
            rig.bring(2, Item::Watermark(5));
            rig.job.settle().unwrap();
            rig.inputs.iter().for_each(|input| input.idle());
            rig.job.settle().unwrap();
            assert_eq!(rig.out.take_sorted(), [""; 0], "{name} on {shards} shards");
            // Behind the slowest, ahead of the fastest.
            rig.bring(1, row(1, 8));
            rig.inputs[1].push_batch([(Row { input: 1, key: 7, at: 4, value: 1 }, Timestamp(4))]);
            rig.bring(1, Item::Watermark(50));
            rig.job.settle().unwrap();
            let all = [vec![row(0, 2)], vec![row(1, 8), row(1, 4)], vec![row(2, 6)]];
            assert_eq!(rig.out.take_sorted(), at_once(operator, &all).rows, "{name} on {shards} shards");
            assert_eq!(rig.job.late(), 0, "{name} on {shards} shards");
        }
    }
}
