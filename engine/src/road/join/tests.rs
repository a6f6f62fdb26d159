//! Joins word by word, in the operator itself: what each emits when, and what it keeps.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use millstream_state::{PageStore, TableConfig};

use super::*;
use crate::job::graph::NodeId;
use crate::road::chain::{Signal, Stage};
use crate::road::connect::{CoProcess, OneOf, Paired, Port, ports};
use crate::road::keyed::{Contributions, KeyedOut};
use crate::road::operate::Operate;
use crate::road::processor::{Kept, ProcessBlob, Processor};
use crate::road::rows::Rows;
use crate::road::timers::Pending;
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::state::Bound;
use crate::time::{BatchClock, Timestamp};

/// A row of either side is its time, under one key.
type Pair = (i64, i64);

/// The last stage: rows with their times.
#[derive(Clone, Default)]
struct Out(Rc<RefCell<Vec<(Pair, i64)>>>);

impl Stage<Pair> for Out {
    fn batch<R: Rows<Item = Pair>>(&mut self, rows: &R, _: &mut Cx<'_>) -> Result<(), Fault> {
        self.0.borrow_mut().extend((0..rows.len()).map(|index| (*rows.row(index), rows.at(index).0)));
        Ok(())
    }

    fn signal(&mut self, _: Signal, _: &mut Cx<'_>) -> Result<(), Fault> {
        Ok(())
    }

    fn ready(&mut self) -> bool {
        true
    }

    fn resume(&mut self, _: &mut Cx<'_>) -> Result<Progress, Fault> {
        Ok(Progress::Idle)
    }

    fn states(&mut self, _: &mut dyn StateVisitor) {}
}

/// One row.
struct One(i64);

impl Contributions<u64, i64> for One {
    type KeyOut<'a> = u64;

    fn len(&self) -> usize {
        1
    }

    fn at(&self, _: usize) -> Timestamp {
        Timestamp(self.0)
    }

    fn key(&self, _: usize) -> u64 {
        7
    }

    fn value(&self, _: usize) -> i64 {
        self.0
    }
}

type To<P> = Port<Processor<OneOf<i64, i64>, u64, Paired<P>, Out>, fn(i64) -> OneOf<i64, i64>>;

/// An operator of two inputs, by hand.
struct Rig<P: CoProcess<u64, i64, i64>> {
    left: To<P>,
    right: To<P>,
    store: PageStore,
    out: Out,
}

impl<P: CoProcess<u64, i64, i64, Out = Pair>> Rig<P> {
    fn new(join: P) -> Rig<P> {
        let store = PageStore::new(TableConfig { bytes_max: 1 << 24, ..TableConfig::default() }).unwrap();
        let (out, join) = (Out::default(), Paired(join));
        let bound = Bound::declare_by(store.clone(), |declare| join.declare(declare));
        let kept = Kept { bound, pending: Pending::declare(&store) };
        let operator = Processor::new(join, kept, ProcessBlob::FIRST, Vec::new(), NodeId(0), out.clone());
        let (left, right) = ports(operator, OneOf::Left as fn(i64) -> _, OneOf::Right as fn(i64) -> _);
        Rig { left, right, store, out }
    }

    /// Plays words: `l4` a left row, `r4` a right one, `W4` the watermark of both. What came out, in order of its own.
    fn play(&mut self, words: &str) -> Vec<(Pair, i64)> {
        let (current, clock) = (Cell::new(NodeId(0)), BatchClock::default());
        let mut cx = Cx::new(0, &current, &clock, None);
        for word in words.split_whitespace() {
            let at = match &word[1..] {
                "max" => i64::MAX,
                "min" => i64::MIN,
                number => number.parse().unwrap(),
            };
            let went = match &word[..1] {
                "l" => self.left.accept(&One(at), &mut cx),
                "r" => self.right.accept(&One(at), &mut cx),
                _ => {
                    let said = Signal::Watermark(Timestamp(at));
                    self.left.signal(said, &mut cx).and_then(|()| self.right.signal(said, &mut cx))
                }
            };
            assert!(went.is_ok(), "{word}");
            while matches!(self.left.resume(&mut cx), Ok(Progress::Worked)) {}
        }
        let mut out = std::mem::take(&mut *self.out.0.borrow_mut());
        out.sort_unstable();
        out
    }

    fn entries(&self, state: &str) -> usize {
        self.store.entries_of(state).unwrap()
    }

    fn late(&mut self) -> u64 {
        struct Late(u64);
        impl StateVisitor for Late {
            fn late(&mut self, rows: u64) {
                self.0 += rows;
            }
        }
        let mut late = Late(0);
        self.left.states(&mut late);
        late.0
    }

    fn is_empty(&self) -> bool {
        self.store.parts().iter().all(|part| self.entries(&part.name) == 0)
    }
}

fn interval(lower_ms: i64, upper_ms: i64) -> Rig<impl CoProcess<u64, i64, i64, Out = Pair>> {
    Rig::new(Interval::new(Bounds { lower_ms, upper_ms }, Inner(|left: &i64, right: &i64| (*left, *right))))
}

fn full_interval(lower_ms: i64, upper_ms: i64) -> Rig<impl CoProcess<u64, i64, i64, Out = Pair>> {
    let either = |left: Option<&i64>, right: Option<&i64>| (*left.unwrap_or(&-1), *right.unwrap_or(&-1));
    Rig::new(Interval::new(Bounds { lower_ms, upper_ms }, FullOuter(either)))
}

#[test]
fn pairs_lie_between_the_bounds_and_have_the_greater_time() {
    // 1 ..= 3, exclusive above.
    let mut rig = interval(1, 2);
    let out = rig.play("l1 r1 l2 r2 l3 r3 l4 r4");
    let expected = [(1, 2), (1, 3), (2, 3), (2, 4), (3, 4)];
    assert_eq!(out, expected.map(|(left, right)| ((left, right), left.max(right))));
    assert_eq!(rig.play("Wmax"), []);
    assert!(rig.is_empty());
}

#[test]
fn rows_are_freed_as_the_watermark_passes() {
    let mut rig = interval(-1, 0);
    rig.play("l1 l2 l3 l4 l5 r1 r2 r3 r4 r5");
    assert_eq!((rig.entries("left.rows"), rig.entries("right.rows")), (5, 5));
    for (word, left, right) in [("W1", 4, 5), ("W4", 1, 2), ("W5", 0, 1), ("W6", 0, 0)] {
        rig.play(word);
        assert_eq!((rig.entries("left.rows"), rig.entries("right.rows")), (left, right), "{word}");
    }
    assert!(rig.is_empty());
}

#[test]
fn many_rows_of_one_time_all_meet() {
    let mut rig = interval(0, 0);
    assert_eq!(rig.play("l5 l5 l5 r5 r5").len(), 6);
    assert_eq!((rig.entries("left.rows"), rig.entries("right.rows")), (3, 2));
    rig.play("W5");
    assert!(rig.is_empty());
}

#[test]
fn late_rows_are_dropped_and_counted() {
    let mut rig = full_interval(-2, 2);
    assert_eq!(rig.play("l10 W9 r8 l3"), []);
    assert_eq!(rig.late(), 2);
    assert_eq!(rig.play("r9 W20"), [((10, 9), 10)]);
    assert!(rig.is_empty());
}

#[test]
fn rows_that_have_met_none_are_told_of_when_none_can_come() {
    let mut rig = full_interval(-1, 3);
    assert_eq!(rig.play("l10 r20 W12"), []);
    assert_eq!(rig.play("W13"), [((10, -1), 13)]);
    assert_eq!(rig.play("W20"), []);
    assert_eq!(rig.play("W21"), [((-1, 20), 21)]);
    // Its partners could only have come before the watermark: it need not be kept, nor waited for.
    let mut rig = full_interval(-9, -5);
    assert_eq!(rig.play("W10 l12"), [((12, -1), 12)]);
    assert_eq!(rig.play("l17"), []);
    assert_eq!(rig.play("r12 Wmax"), [((17, 12), 17)]);
    assert!(rig.is_empty());
}

#[test]
fn the_ends_of_time_are_times_like_others() {
    let far = i64::MAX - 2;
    for (lower_ms, upper_ms) in [(-5, 5), (0, i64::MAX), (i64::MIN, i64::MAX), (i64::MAX - 1, i64::MAX)] {
        let mut rig = full_interval(lower_ms, upper_ms);
        let out = rig.play(&format!("l{far} r{far} lmin rmin r3 lmax Wmax"));
        let met = |left: i64, right: i64| {
            let apart = i128::from(right) - i128::from(left);
            (i128::from(lower_ms)..=i128::from(upper_ms)).contains(&apart)
        };
        let (lefts, rights) = ([far, i64::MIN, i64::MAX], [far, i64::MIN, 3]);
        let mut expected: Vec<Pair> = Vec::new();
        for left in lefts {
            expected.extend(rights.into_iter().filter(|right| met(left, *right)).map(|right| (left, right)));
            if !rights.into_iter().any(|right| met(left, right)) {
                expected.push((left, -1));
            }
        }
        let alone = rights.into_iter().filter(|right| !lefts.into_iter().any(|left| met(left, *right)));
        expected.extend(alone.map(|right| (-1, right)));
        expected.sort_unstable();
        let pairs: Vec<Pair> = out.into_iter().map(|(pair, _)| pair).collect();
        assert_eq!(pairs, expected, "{lower_ms}..={upper_ms}");
        assert!(rig.is_empty(), "{lower_ms}..={upper_ms}");
    }
}
