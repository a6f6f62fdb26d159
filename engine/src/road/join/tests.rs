//! Joins word by word, in the operator itself: what each emits when, and what it keeps.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use millstream_state::{PageStore, TableConfig};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::job::graph::NodeId;
use crate::road::chain::{Signal, Stage};
use crate::road::connect::{CoProcess, OneOf, Paired, Port, ports};
use crate::road::keyed::{Contributions, KeyedOut};
use crate::road::operate::Operate;
use crate::road::processor::{Kept, ProcessBlob, Processor};
use crate::road::rows::Rows;
use crate::road::timers::Pending;
use crate::road::trial::cases;
use crate::road::window::{Slides, Sliding, Window};
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

/// What the definition says of rows that were not late: pairs, and rows alone with the times at which that is known.
fn by_definition(lefts: &[i64], rights: &[i64], (lower, upper): (i64, i64)) -> Vec<(Pair, i64)> {
    let met = |left: &i64, right: &i64| (lower..=upper).contains(&(right - left));
    let mut expected = Vec::new();
    for left in lefts {
        expected
            .extend(rights.iter().filter(|right| met(left, right)).map(|right| ((*left, *right), *left.max(right))));
        if !rights.iter().any(|right| met(left, right)) {
            expected.push(((*left, -1), left + upper.max(0)));
        }
    }
    let alone = rights.iter().filter(|right| !lefts.iter().any(|left| met(left, right)));
    expected.extend(alone.map(|right| ((-1, *right), right + (-lower).max(0))));
    expected.sort_unstable();
    expected
}

proptest! {
    #![proptest_config(cases(400))]

    /// Rows before, at and behind the watermark, in any order: every pair of rows that were not late comes once, when its
    /// second row does; a row alone when the watermark has shown that it is, and nothing is kept for longer than that.
    #[test]
    fn interval_joins_are_what_their_definition_says(
        lower in -9_i64..9, length in 0_i64..9, steps in vec((0_u8..5, 1_i64..9), 0..60),
    ) {
        let upper = lower + length;
        let mut rig = full_interval(lower, upper);
        let (mut watermark, mut late, mut lefts, mut rights, mut out) = (100, 0, Vec::new(), Vec::new(), Vec::new());
        rig.play("W100");
        for (kind, by) in steps {
            // One of four lies behind the watermark.
            let (at, is_late) = if by == 8 { (watermark - 1, true) } else { (watermark + by, false) };
            let came = match kind {
                0 => {
                    watermark += by;
                    rig.play(&format!("W{watermark}"))
                }
                1 | 2 => {
                    if is_late { late += 1 } else { lefts.push(at) }
                    rig.play(&format!("l{at}"))
                }
                _ => {
                    if is_late { late += 1 } else { rights.push(at) }
                    rig.play(&format!("r{at}"))
                }
            };
            // A pair comes with a row, a row alone with time or, where none can come any more, with itself.
            for ((left, right), at) in &came {
                prop_assert!(*at > watermark || kind == 0, "({left}, {right}) at {at} behind {watermark}");
            }
            out.extend(came);
            prop_assert_eq!(rig.late(), late);
            let open = |rows: &[i64], reach: i64| rows.iter().filter(|at| *at + reach > watermark).count();
            prop_assert_eq!(rig.entries("left.rows"), open(&lefts, upper));
            prop_assert_eq!(rig.entries("right.rows"), open(&rights, -lower));
        }
        out.extend(rig.play("Wmax"));
        out.sort_unstable();
        prop_assert_eq!(out, by_definition(&lefts, &rights, (lower, upper)));
        prop_assert!(rig.is_empty());
    }

    /// A co-group, of which every other join of windows can be made: both lists of each window that has rows, once, with
    /// all rows that came before it was complete; and late are those all of whose windows were.
    #[test]
    fn groups_are_what_their_definition_says(
        size in 1_i64..12, slide in 1_i64..12, offset in 0_i64..12, steps in vec((0_u8..5, -15_i64..9), 0..60),
    ) {
        let windows = Sliding::try_of_ms(size, slide, offset % slide).unwrap();
        let lists = |_: &u64, window: Window, left: &[i64], right: &[i64]| {
            // The rows of each side as one number: how many, and their sum.
            let told = |rows: &[i64]| rows.len() as i64 * 1_000_000 + rows.iter().sum::<i64>();
            [(told(left), told(right) * 1_000 + window.start.0)]
        };
        let mut rig = Rig::new(Grouped::new(Slides::from(windows), BothLists(lists)));
        let (mut watermark, mut late, mut out) = (100, 0, Vec::new());
        let mut groups = BTreeMap::<Window, [Vec<i64>; 2]>::new();
        rig.play("W100");
        for (kind, by) in steps {
            if kind == 0 {
                watermark += by.max(0);
                out.extend(rig.play(&format!("W{watermark}")));
                continue;
            }
            let (at, side) = (watermark + by, usize::from(kind > 2));
            let all = windows.windows_of(Timestamp(at));
            let open: Vec<Window> = all.iter().copied().filter(|window| window.end.0 - 1 > watermark).collect();
            late += u64::from(open.is_empty() && !all.is_empty());
            open.into_iter().for_each(|window| groups.entry(window).or_default()[side].push(at));
            prop_assert_eq!(rig.play(&format!("{}{at}", ["l", "r"][side])), []);
            prop_assert_eq!(rig.late(), late);
        }
        out.extend(rig.play("Wmax"));
        out.sort_unstable();
        let mut expected: Vec<(Pair, i64)> = groups
            .into_iter()
            .map(|(window, [left, right])| {
                let [(left, right)] = lists(&7, window, &left, &right);
                ((left, right), window.end.0 - 1)
            })
            .collect();
        expected.sort_unstable();
        prop_assert_eq!(out, expected);
        prop_assert!(rig.is_empty());
    }

    /// A temporal join with rows and versions ahead of the watermark, in any order.
    #[test]
    fn rows_meet_the_last_version_before_them(steps in vec((0_u8..5, 1_i64..12), 0..60)) {
        let versioned = |left: &i64, right: Option<&i64>| (*left, right.copied().unwrap_or(-1));
        let mut rig = Rig::new(Temporal::new(LeftOuter(versioned)));
        let (mut watermark, mut lefts, mut rights, mut out) = (100, Vec::new(), Vec::new(), Vec::new());
        rig.play("W100");
        for (kind, by) in steps {
            let at = watermark + by;
            let came = match kind {
                0 => {
                    watermark = at;
                    rig.play(&format!("W{at}"))
                }
                1 | 2 => {
                    lefts.push(at);
                    rig.play(&format!("l{at}"))
                }
                _ => {
                    rights.push(at);
                    rig.play(&format!("r{at}"))
                }
            };
            prop_assert!(kind == 0 || came.is_empty(), "{:?} before its time", came);
            prop_assert_eq!(rig.entries("left.rows"), lefts.iter().filter(|at| **at > watermark).count());
            prop_assert_eq!(rig.entries("right.rows"), rights.iter().filter(|at| **at > watermark).count());
            prop_assert_eq!(rig.entries("valid"), usize::from(rights.iter().any(|at| *at <= watermark)));
            out.extend(came);
        }
        out.extend(rig.play("Wmax"));
        out.sort_unstable();
        let of = |left: &i64| {
            let version = rights.iter().copied().filter(|right| right <= left).max();
            ((*left, version.unwrap_or(-1)), *left)
        };
        let mut expected: Vec<(Pair, i64)> = lefts.iter().map(of).collect();
        expected.sort_unstable();
        prop_assert_eq!(out, expected);
        prop_assert_eq!(rig.late(), 0);
    }
}
