//! Joins in whole jobs: on any number of shards, from rows out of order, through failures and other numbers of shards, the
//! answer is that of the nested loops that define them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sales::{Once, Place, assert_same};
use millstream::job::stream::Boxed;
use millstream::state::{KeyedState, Value};
use millstream::{
    BoxError, BroadcastContext, BroadcastProcess, CoProcess, Items, Job, Polled, Process, ProcessContext,
    RestartStrategy, Sliding, Source, SourceError, Split, Stream, Timer, Timestamp, Watermarks,
};
use millstream_connectors::file::FileSink;
use millstream_connectors::memory::NullSink;
use proptest::collection::vec;
use proptest::prelude::*;

/// Rows lie no further out of order.
const DISORDER_MS: i64 = 10;

/// A row of either side.
#[millstream::event]
#[derive(Clone, Copy, Debug)]
struct Row {
    number: i64,
    key: u64,
    at: i64,
}

/// Rows that come a few at a time, so that time goes on between them, dealt out to the shards in turn.
#[derive(Clone, Debug)]
struct Trickle {
    rows: Arc<Vec<Row>>,
    /// Rows of a split before its watermark follows.
    step: usize,
    /// Rows from this one on are not there yet.
    gate: Arc<AtomicU64>,
}

impl Trickle {
    fn of(rows: &[Row], step: usize) -> Trickle {
        Trickle { rows: Arc::new(rows.to_vec()), step, gate: Arc::new(AtomicU64::new(u64::MAX)) }
    }
}

impl Source for Trickle {
    type Batch = Vec<Row>;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<Row>>>>, SourceError> {
        let (shard, shards) = (shard as usize, shards as usize);
        Ok(vec![Box::new(Share { of: self.clone(), shard, shards, next: 0 })])
    }

    fn describe(&self) -> String {
        format!("{} rows", self.rows.len())
    }
}

struct Share {
    of: Trickle,
    shard: usize,
    shards: usize,
    next: usize,
}

impl Split for Share {
    type Batch = Vec<Row>;

    fn name(&self) -> String {
        format!("share-{}", self.shard)
    }

    fn poll(&mut self, out: &mut Vec<Row>, rows_max: usize) -> Result<Polled, SourceError> {
        for _ in 0..rows_max.min(self.of.step) {
            let index = self.next * self.shards + self.shard;
            if index >= self.of.rows.len() {
                return Ok(if out.is_empty() { Polled::End } else { Polled::Rows });
            }
            if index as u64 >= self.of.gate.load(Ordering::Relaxed) {
                return Ok(if out.is_empty() { Polled::Idle } else { Polled::Rows });
            }
            out.push(self.of.rows[index]);
            self.next += 1;
        }
        Ok(Polled::Rows)
    }

    fn position(&self) -> u64 {
        self.next as u64
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.next = position as usize;
        Ok(())
    }
}

/// What a join makes of a pair: the numbers of the two, and -1 for one that is not there.
type Pair = [i64; 2];

/// Behind every join: its rows are not late, and their time is told with them.
struct Stamp;

#[derive(KeyedState)]
struct Nothing {
    _unused: Value<u64>,
}

impl Process<i64, Pair> for Stamp {
    type State = Nothing;
    type Out = String;

    fn on_event(
        &mut self,
        _: &mut Nothing,
        [left, right]: Pair,
        cx: &mut ProcessContext<'_, i64, String>,
    ) -> Result<(), BoxError> {
        let (at, watermark) = (cx.timestamp(), cx.watermark());
        if watermark >= at && watermark != Timestamp::MAX {
            return Err(format!("[{left}, {right}] of {at} comes behind the watermark {watermark}").into());
        }
        cx.emit(format!("{left} {right} @{}", at.0));
        Ok(())
    }
}

type Rows = Stream<Boxed<Row>>;

/// A join of two streams of rows.
type Join = fn(Rows, Rows) -> Stream<Boxed<Pair>>;

/// What a job is given beside its join.
#[derive(Clone)]
struct Given {
    left: Trickle,
    right: Trickle,
    shards: u32,
    /// The left row that a job falls over, once.
    fails: Once,
}

impl Given {
    fn of(left: &[Row], right: &[Row], shards: u32, step: usize) -> Given {
        let fails = Once::at(u64::MAX - 1);
        Given { left: Trickle::of(left, step), right: Trickle::of(right, step), shards, fails }
    }

    fn gate(&self, rows: u64) {
        self.left.gate.store(rows, Ordering::Relaxed);
        self.right.gate.store(rows, Ordering::Relaxed);
    }

    /// The job: two sources, the join, and files of `place`.
    fn job(&self, join: Join, place: &Place) -> Job {
        let (given, out) = (self.clone(), place.out());
        Job::new("joins", move |flow| {
            let timed = |rows: &Trickle, fails: Option<Once>| {
                let rows = flow.source(rows.clone()).map(move |row: &Row| {
                    let number = row.number as u64;
                    assert!(!fails.as_ref().is_some_and(|fails| fails.is(number)), "row {number} fell on the floor");
                    *row
                });
                let disorder = Watermarks::bounded(Duration::from_millis(DISORDER_MS as u64));
                rows.event_time(|row| Timestamp(row.at), disorder).boxed()
            };
            let joined = join(timed(&given.left, Some(given.fails.clone())), timed(&given.right, None));
            let stamped = joined.key_by(|pair| pair[0]).process(Stamp).named("stamp");
            let bytes = |line: &String, bytes: &mut Vec<u8>| bytes.extend_from_slice(line.as_bytes());
            stamped.sink(FileSink::lines(&out, bytes));
        })
        .restart(RestartStrategy { initial: Duration::from_millis(1), max: Duration::from_millis(1), attempts: 5 })
        .shards(self.shards)
        .checkpoints(place.checkpoints(), Duration::from_millis(4))
    }
}

/// Plays a join over rows once.
fn play(left: &[Row], right: &[Row], shards: u32, step: usize, join: Join) -> Vec<String> {
    let place = Place::new();
    let report = Given::of(left, right, shards, step).job(join, &place).run().unwrap();
    assert_eq!((report.measured.late, report.restarts.len()), (0, 0), "{:?}", report.restarts);
    place.lines()
}

/// The same answer after a failure, and after two stops with other numbers of shards behind each.
#[track_caller]
fn endures(left: &[Row], right: &[Row], join: Join, expected: &[String], what: &str) {
    for shards in [1, 3] {
        let place = Place::new();
        let given =
            Given { fails: Once::at(left[left.len() / 3 * 2].number as u64), ..Given::of(left, right, shards, 50) };
        // Half is held back until there is a checkpoint, however slow the disk is.
        given.gate(left.len() as u64 / 2);
        let running = given.job(join, &place).start().unwrap();
        while place.epochs().is_empty() {
            assert!(!running.is_finished(), "{what}: {:?}", running.wait());
            std::thread::yield_now();
        }
        given.gate(u64::MAX);
        let report = running.wait().unwrap();
        let what = format!("{what} on {shards} shards, which fails");
        assert_same(&place.lines(), expected, &what);
        assert_eq!((report.restarts.len(), report.measured.late), (1, 0), "{what}: {:?}", report.restarts);
        assert!(report.restored_epoch > 0, "{what}");
    }
    for walk in [[1, 2, 1], [3, 1, 4]] {
        let (place, what) = (Place::new(), format!("{what} on {walk:?} shards"));
        let mut taken = 0;
        for (stop, shards) in walk.into_iter().enumerate() {
            let given = Given::of(left, right, shards, 50);
            let gate = [left.len() as u64 / 3, left.len() as u64 / 3 * 2, u64::MAX][stop];
            given.gate(gate);
            let running = given.job(join, &place).start().unwrap();
            if stop == 2 {
                running.wait().unwrap();
                break;
            }
            while running.events_in() < 2 * gate - taken {
                assert!(!running.is_finished(), "{what}: {:?}", running.wait());
                std::thread::yield_now();
            }
            running.stop();
            assert!(running.wait().unwrap().stopped, "{what}");
            taken = 2 * gate;
        }
        assert_same(&place.lines(), expected, &what);
    }
}

/// Rows of a side in the order of its numbers: steps of time, how far a row comes too late, and keys.
fn rows_of(steps: impl IntoIterator<Item = (i64, i64, u64)>) -> Vec<Row> {
    let mut now = 0;
    let rows = steps.into_iter().zip(0..).map(|((step, back, key), number)| {
        now += step;
        Row { number, key, at: now - back }
    });
    rows.collect()
}

/// So many rows of a side, without chance.
fn many(count: usize, seed: u64, keys: u64) -> Vec<Row> {
    let mut random = seed;
    let mut draw = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    rows_of((0..count).map(|_| (draw(3) as i64, draw(DISORDER_MS as u64 + 1) as i64, draw(keys))).collect::<Vec<_>>())
}

fn side() -> impl Strategy<Value = Vec<Row>> {
    vec((0_i64..4, 0..=DISORDER_MS, 0_u64..3), 0..60).prop_map(rows_of)
}

/// The answer by definition: every pair of a key, and when it is told, if `of` takes it; then what has met none.
fn pairs(
    left: &[Row],
    right: &[Row],
    of: impl Fn(Row, Row) -> Option<i64>,
    left_alone: impl Fn(Row) -> Option<i64>,
    right_alone: impl Fn(Row) -> Option<i64>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut left_met, mut right_met) = (vec![false; left.len()], vec![false; right.len()]);
    for (l, left) in left.iter().enumerate() {
        for (r, right) in right.iter().enumerate().filter(|(_, right)| right.key == left.key) {
            if let Some(at) = of(*left, *right) {
                (left_met[l], right_met[r]) = (true, true);
                lines.push(format!("{} {} @{at}", left.number, right.number));
            }
        }
    }
    let alone = |rows: &[Row], met: &[bool]| -> Vec<Row> {
        rows.iter().zip(met).filter_map(|(row, met)| (!met).then_some(*row)).collect()
    };
    for row in alone(left, &left_met) {
        lines.extend(left_alone(row).map(|at| format!("{} -1 @{at}", row.number)));
    }
    for row in alone(right, &right_met) {
        lines.extend(right_alone(row).map(|at| format!("-1 {} @{at}", row.number)));
    }
    lines.sort_unstable();
    lines
}

fn number(row: Option<&Row>) -> i64 {
    row.map_or(-1, |row| row.number)
}

// ---- connect ----------------------------------------------------------------------------------------------------------

/// Each side's rows in an order of its own, timers of both, and a watermark that neither is ahead of.
struct Witness;

#[derive(KeyedState)]
struct Seen {
    left: Value<u64>,
    right: Value<u64>,
}

type Cx<'a> = ProcessContext<'a, u64, Pair>;

impl Witness {
    fn take(count: &mut Value<u64>, row: Row, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        if cx.timestamp() <= cx.watermark() || cx.timestamp().0 != row.at || *cx.key() != row.key {
            return Err(format!("{row:?} at {} behind the watermark {}", cx.timestamp(), cx.watermark()).into());
        }
        count.update_or(0, |count| *count += 1);
        let second = row.at.div_euclid(1000) * 1000 + 999;
        cx.timers().event(Timestamp(second));
        Ok(())
    }
}

impl CoProcess<u64, Row, Row> for Witness {
    type State = Seen;
    type Out = Pair;

    fn on_left(&mut self, seen: &mut Seen, row: Row, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        Witness::take(&mut seen.left, row, cx)
    }

    fn on_right(&mut self, seen: &mut Seen, row: Row, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        Witness::take(&mut seen.right, row, cx)
    }

    fn on_timer(&mut self, seen: &mut Seen, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        if cx.watermark() == Timestamp::MAX {
            cx.emit([seen.left.get_or(0) as i64, seen.right.get_or(0) as i64]);
            seen.left.clear();
            seen.right.clear();
        }
        Ok(())
    }
}

#[test]
fn two_streams_meet_the_states_and_timers_of_their_key() {
    let (left, right) = (many(9_000, 1, 40), many(6_000, 2, 40));
    let lines = |shards| {
        let lines = play(&left, &right, shards, 100, |left, right| {
            left.key_by(|row| row.key).connect(right.key_by(|row| row.key)).process(Witness).named("witness").boxed()
        });
        let counted = lines.iter().map(|line| {
            let counts: Vec<usize> = line.split(' ').take(2).map(|count| count.parse().unwrap()).collect();
            (counts[0], counts[1])
        });
        counted.fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1))
    };
    for shards in 1..=3 {
        assert_eq!(lines(shards), (9_000, 6_000), "{shards} shards");
    }
}

// ---- all pairs --------------------------------------------------------------------------------------------------------

fn regular(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let right = right.key_by(|row| row.key);
    left.key_by(|row| row.key).join_unbounded(right, |left, right| [left.number, right.number]).named("join").boxed()
}

/// All pairs. Their time is that of the row that came later, which may be either.
fn untimed(lines: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = lines.iter().map(|line| line.split('@').next().unwrap().to_owned()).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn all_pairs_of_a_key_come_once() {
    let (left, right) = (many(3_000, 3, 400), many(3_000, 4, 400));
    let expected = untimed(&pairs(&left, &right, |_, _| Some(0), |_| None, |_| None));
    for shards in 1..=3 {
        assert_same(&untimed(&play(&left, &right, shards, 100, regular)), &expected, "all pairs");
    }
}

#[test]
fn rows_of_a_join_with_a_time_to_live_meet_while_it_lasts() {
    let (left, right) = (many(2_000, 3, 400), many(2_000, 4, 400));
    let expected = untimed(&pairs(&left, &right, |_, _| Some(0), |_| None, |_| None));
    let within = |left: Rows, right: Rows| {
        let (left, right) = (left.key_by(|row| row.key), right.key_by(|row| row.key));
        let hour = Duration::from_secs(3_600);
        left.join_within(right, hour, |left, right| [left.number, right.number]).named("join").boxed()
    };
    assert_same(&untimed(&play(&left, &right, 2, 100, within)), &expected, "within an hour");
}

// ---- interval joins -----------------------------------------------------------------------------------------------------

/// Bounds as constants, so that a join is a plain function.
fn interval<const LOWER: i64, const UPPER: i64, const OUTER: u8>(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let right = right.key_by(|row| row.key);
    let between = left.key_by(|row| row.key).interval_join(right).between(LOWER, UPPER);
    match OUTER {
        0 => between.inner(|left, right| [left.number, right.number]).named("join").boxed(),
        1 => between.left_outer(|left, right| [left.number, number(right)]).named("join").boxed(),
        2 => between.right_outer(|left, right| [number(left), right.number]).named("join").boxed(),
        _ => between.full_outer(|left, right| [number(left), number(right)]).named("join").boxed(),
    }
}

fn interval_pairs(left: &[Row], right: &[Row], bounds: (i64, i64), outer: u8) -> Vec<String> {
    let (lower, upper) = bounds;
    let of = |left: Row, right: Row| (lower..=upper).contains(&(right.at - left.at)).then_some(left.at.max(right.at));
    let left_alone = |row: Row| (outer & 1 == 1).then_some(row.at + upper.max(0));
    let right_alone = |row: Row| (outer & 2 == 2).then_some(row.at + (-lower).max(0));
    pairs(left, right, of, left_alone, right_alone)
}

const INTERVALS: [(Join, (i64, i64), u8); 8] = [
    (interval::<-5, 5, 0>, (-5, 5), 0),
    (interval::<0, 0, 3>, (0, 0), 3),
    (interval::<3, 12, 1>, (3, 12), 1),
    (interval::<-20, -4, 2>, (-20, -4), 2),
    (interval::<-20, -4, 1>, (-20, -4), 1),
    (interval::<-7, 0, 3>, (-7, 0), 3),
    (interval::<1, 1, 3>, (1, 1), 3),
    (interval::<-30, 40, 3>, (-30, 40), 3),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn interval_joins_equal_nested_loops(
        left in side(), right in side(), shards in 1_u32..4, step in 1_usize..20, which in 0..INTERVALS.len(),
    ) {
        let (join, bounds, outer) = INTERVALS[which];
        let expected = interval_pairs(&left, &right, bounds, outer);
        prop_assert_eq!(play(&left, &right, shards, step, join), expected, "{:?} {}", bounds, outer);
    }
}

#[test]
fn interval_joins_endure() {
    let (left, right) = (many(12_000, 5, 50), many(12_000, 6, 50));
    endures(&left, &right, interval::<-20, 35, 3>, &interval_pairs(&left, &right, (-20, 35), 3), "a full outer join");
}

// ---- windows ------------------------------------------------------------------------------------------------------------

/// Windows as constants: size, slide and offset.
fn windows<const SIZE: i64, const SLIDE: i64, const OFFSET: i64>() -> Sliding {
    Sliding::try_of_ms(SIZE, SLIDE, OFFSET).unwrap()
}

fn windowed<const SIZE: i64, const SLIDE: i64, const OFFSET: i64>(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let (left, right) = (left.key_by(|row| row.key), right.key_by(|row| row.key));
    let joined = left.window_join(right).window(windows::<SIZE, SLIDE, OFFSET>());
    joined.inner(|left, right| [left.number, right.number]).named("join").boxed()
}

/// Of a key and a window the sums of both sides' numbers, and -1 for a side without rows.
fn co_grouped<const SIZE: i64, const SLIDE: i64, const OFFSET: i64>(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let (left, right) = (left.key_by(|row| row.key), right.key_by(|row| row.key));
    let grouped = left.co_group(right).window(windows::<SIZE, SLIDE, OFFSET>());
    grouped.apply(|_, _, left, right| [[sum(left), sum(right)]]).named("join").boxed()
}

fn sum(rows: &[Row]) -> i64 {
    if rows.is_empty() { -1 } else { rows.iter().map(|row| row.number).sum() }
}

/// The rows of every key and window, by definition.
fn groups(left: &[Row], right: &[Row], windows: Sliding) -> BTreeMap<(u64, i64), [Vec<Row>; 2]> {
    let mut groups: BTreeMap<(u64, i64), [Vec<Row>; 2]> = BTreeMap::new();
    for (side, rows) in [left, right].into_iter().enumerate() {
        for row in rows {
            for window in windows.windows_of(Timestamp(row.at)) {
                groups.entry((row.key, window.end.0 - 1)).or_default()[side].push(*row);
            }
        }
    }
    groups
}

fn window_pairs(left: &[Row], right: &[Row], windows: Sliding) -> Vec<String> {
    let mut lines = Vec::new();
    for ((_, last), [left, right]) in groups(left, right, windows) {
        for left in left {
            lines.extend(right.iter().map(|right| format!("{} {} @{last}", left.number, right.number)));
        }
    }
    lines.sort_unstable();
    lines
}

fn window_sums(left: &[Row], right: &[Row], windows: Sliding) -> Vec<String> {
    let groups = groups(left, right, windows).into_iter();
    let mut lines: Vec<String> =
        groups.map(|((_, last), [left, right])| format!("{} {} @{last}", sum(&left), sum(&right))).collect();
    lines.sort_unstable();
    lines
}

type Windows = (Join, Join, fn() -> Sliding);

const WINDOWS: [Windows; 4] = [
    (windowed::<20, 20, 0>, co_grouped::<20, 20, 0>, windows::<20, 20, 0>),
    (windowed::<20, 20, 7>, co_grouped::<20, 20, 7>, windows::<20, 20, 7>),
    (windowed::<30, 10, 3>, co_grouped::<30, 10, 3>, windows::<30, 10, 3>),
    (windowed::<7, 10, 0>, co_grouped::<7, 10, 0>, windows::<7, 10, 0>),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn window_joins_and_co_groups_equal_nested_loops(
        left in side(), right in side(), shards in 1_u32..4, step in 1_usize..20, which in 0..WINDOWS.len(),
    ) {
        let (joined, grouped, windows) = WINDOWS[which];
        let windows = windows();
        prop_assert_eq!(play(&left, &right, shards, step, joined), window_pairs(&left, &right, windows), "{:?}", windows);
        prop_assert_eq!(play(&left, &right, shards, step, grouped), window_sums(&left, &right, windows), "{:?}", windows);
    }
}

#[test]
fn window_joins_endure() {
    let (left, right) = (many(6_000, 7, 50), many(6_000, 8, 50));
    let windows = windows::<300, 100, 0>();
    endures(&left, &right, windowed::<300, 100, 0>, &window_pairs(&left, &right, windows), "a sliding join");
}

// ---- versions -----------------------------------------------------------------------------------------------------------

fn as_of<const OUTER: bool>(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let as_of = left.key_by(|row| row.key).as_of(right.key_by(|row| row.key));
    if OUTER {
        return as_of.left_outer(|left, right| [left.number, number(right)]).named("join").boxed();
    }
    as_of.inner(|left, right| [left.number, right.number]).named("join").boxed()
}

/// Of versions of one key and time, the first alone: which comes last is not the same on every number of shards.
fn versions(rows: &[Row]) -> Vec<Row> {
    let mut seen = BTreeSet::new();
    rows.iter().filter(|row| seen.insert((row.key, row.at))).copied().collect()
}

fn valid_pairs(left: &[Row], right: &[Row], outer: bool) -> Vec<String> {
    let of = |left: &Row| {
        let versions = right.iter().filter(|right| right.key == left.key && right.at <= left.at);
        let version = versions.max_by_key(|right| right.at);
        (outer || version.is_some()).then(|| format!("{} {} @{}", left.number, number(version), left.at))
    };
    let mut lines: Vec<String> = left.iter().filter_map(of).collect();
    lines.sort_unstable();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn rows_meet_the_version_of_their_time(
        left in side(), right in side(), shards in 1_u32..4, step in 1_usize..20, outer: bool,
    ) {
        let right = versions(&right);
        let join = if outer { as_of::<true> } else { as_of::<false> };
        prop_assert_eq!(play(&left, &right, shards, step, join), valid_pairs(&left, &right, outer));
    }
}

#[test]
fn temporal_joins_endure() {
    let (left, right) = (many(12_000, 9, 50), versions(&many(12_000, 10, 50)));
    endures(&left, &right, as_of::<true>, &valid_pairs(&left, &right, true), "an outer temporal join");
}

// ---- what comes again -----------------------------------------------------------------------------------------------------

const TTL_MS: i64 = 25;

fn once(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let rows = left.union(right).key_by(|row| row.key).dedup(Duration::from_millis(TTL_MS as u64));
    rows.named("join").map(|row| [row.number, -1]).boxed()
}

/// The row of a line.
fn row_of(line: &str, rows: &[Row]) -> Row {
    rows[line.split(' ').next().unwrap().parse::<usize>().unwrap()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn of_rows_that_come_again_one_passes(rows in side(), shards in 1_u32..4, step in 1_usize..20) {
        let lines = play(&rows, &[], shards, step, once);
        let passed: Vec<Row> = lines.iter().map(|line| row_of(line, &rows)).collect();
        for row in &rows {
            let by = |other: &&Row| other.key == row.key && other.number != row.number;
            let is_first = passed.iter().any(|passed| passed.number == row.number);
            // One that passed stands for those that come in its time; no other passes in that.
            let stands = |other: &Row| row.at < other.at + TTL_MS;
            let is_again = passed.iter().filter(by).any(stands);
            prop_assert!(is_first || is_again, "{:?} was dropped for nothing", row);
            let too_near = |other: &Row| (row.at - other.at).abs() < TTL_MS;
            prop_assert!(!is_first || !passed.iter().filter(by).any(too_near), "{:?} passed as well", row);
        }
    }
}

#[test]
fn on_one_shard_the_first_to_come_passes() {
    let rows = many(5_000, 11, 20);
    let (mut until, mut expected) = (BTreeMap::new(), Vec::new());
    for row in &rows {
        let until = until.entry(row.key).or_insert(i64::MIN);
        if *until <= row.at {
            *until = row.at + TTL_MS;
            expected.push(format!("{} -1 @{}", row.number, row.at));
        }
    }
    expected.sort_unstable();
    assert_same(&play(&rows, &[], 1, 40, once), &expected, "the first of each 25 ms");
}

#[test]
fn without_an_end_one_row_of_each_key_passes() {
    let rows = many(5_000, 12, 900);
    let keys: BTreeSet<u64> = rows.iter().map(|row| row.key).collect();
    for shards in 1..=3 {
        let lines = play(&rows, &[], shards, 100, |left, right| {
            left.union(right).key_by(|row| row.key).dedup_unbounded().named("join").map(|row| [row.number, -1]).boxed()
        });
        let passed: BTreeSet<u64> = lines.iter().map(|line| row_of(line, &rows).key).collect();
        assert_eq!((lines.len(), &passed), (keys.len(), &keys), "{shards} shards");
    }
}

#[test]
fn all_pairs_are_joined_without_time() {
    let job = Job::new("timeless", move |flow| {
        let rows = || flow.source(Items::of(vec![[1_u64, 2]]));
        let timed = rows().event_time(|row| Timestamp(row[1] as i64), Watermarks::monotonic());
        let (timed, bare) = (timed.key_by(|row| row[0]), rows().key_by(|row| row[0]));
        bare.join_unbounded(timed, |_, _| 0_u64).sink(NullSink::new());
    });
    assert!(job.explain().is_ok());
}

#[test]
fn bounds_that_nothing_lies_between_are_refused() {
    let job = Job::new("nothing", |flow| {
        let rows = || flow.source(Items::of(vec![[1_u64, 2]])).event_time(|_| Timestamp(0), Watermarks::monotonic());
        let (left, right) = (rows().key_by(|row| row[0]), rows().key_by(|row| row[0]));
        left.interval_join(right).between(3, 3).upper_exclusive().inner(|_, _| 0_u64).sink(NullSink::new());
    });
    let told = job.run().unwrap_err().to_string();
    assert!(told.contains("no two rows lie between 3 and 2 ms"), "{told}");
}

// ---- broadcast ------------------------------------------------------------------------------------------------------------

/// At the end of time, each key tells of how many rows it had, and of what it has heard by then.
struct Hears;

/// Of every key that was heard, how many rows and the sum of their numbers.
type Heard = BTreeMap<u64, (u64, i64)>;

#[derive(KeyedState)]
struct Counted {
    rows: Value<u64>,
}

impl BroadcastProcess<u64, Row, Row> for Hears {
    type State = Counted;
    type Shared = Heard;
    type Out = Pair;

    fn on_event(&mut self, counted: &mut Counted, _: &Heard, _: Row, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        counted.rows.update_or(0, |rows| *rows += 1);
        cx.timers().event(Timestamp::MAX);
        Ok(())
    }

    fn on_broadcast(&mut self, heard: &mut Heard, row: Row, cx: &BroadcastContext) -> Result<(), BoxError> {
        if cx.timestamp().0 != row.at {
            return Err(format!("{row:?} at {}", cx.timestamp()).into());
        }
        let of_key = heard.entry(row.key).or_default();
        *of_key = (of_key.0 + 1, of_key.1 + row.number);
        Ok(())
    }

    fn on_timer(&mut self, counted: &mut Counted, heard: &Heard, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let (rows, sum) = heard.values().fold((0, 0), |all, of_key| (all.0 + of_key.0, all.1 + of_key.1));
        cx.emit([counted.rows.get_or(0) as i64, sum * 1_000_000 + rows as i64]);
        counted.rows.clear();
        Ok(())
    }
}

fn heard(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    left.key_by(|row| row.key).connect_broadcast(right.broadcast()).process(Hears).named("join").boxed()
}

#[test]
fn every_shard_hears_every_row_of_a_broadcast_and_keeps_it() {
    let (left, right) = (many(12_000, 13, 50), many(12_000, 14, 7));
    let sum: i64 = right.iter().map(|row| row.number).sum();
    let mut rows: BTreeMap<u64, u64> = BTreeMap::new();
    left.iter().for_each(|row| *rows.entry(row.key).or_default() += 1);
    let line = |rows: &u64| format!("{rows} {} @{}", sum * 1_000_000 + right.len() as i64, i64::MAX);
    let mut expected: Vec<String> = rows.values().map(line).collect();
    expected.sort_unstable();
    for shards in 1..=3 {
        assert_same(&play(&left, &right, shards, 100, heard), &expected, &format!("{shards} shards"));
    }
    endures(&left, &right, heard, &expected, "a broadcast");
}

/// Each row with the row of the table that is of its key, if there is one by then.
fn tabled(left: Rows, right: Rows) -> Stream<Boxed<Pair>> {
    let table = right.broadcast();
    let joined = left.key_by(|row| row.key).join_broadcast(
        table,
        |row| row.key,
        |row, entry| (row.key < 40).then(|| [row.number, entry.map_or(-1, |entry| entry.key as i64)]),
    );
    joined.named("join").boxed()
}

#[test]
fn a_table_that_is_broadcast_outlives_restarts() {
    // The table is there before the first row that is let in: a third of the job's life each.
    let (left, right) = (many(9_000, 15, 50), many(60, 16, 30));
    let keys: BTreeSet<u64> = right.iter().map(|row| row.key).collect();
    for walk in [[1, 3, 2], [2, 1, 3]] {
        let place = Place::new();
        let mut taken = 0;
        for (stop, shards) in walk.into_iter().enumerate() {
            let given = Given::of(&left, &right, shards, 50);
            let gate = [0, 3_000, 9_000][stop];
            given.left.gate.store(gate, Ordering::Relaxed);
            let running = given.job(tabled, &place).start().unwrap();
            while running.events_in() < gate + 60 - taken {
                assert!(!running.is_finished(), "{walk:?}: {:?}", running.wait());
                std::thread::yield_now();
            }
            taken = gate + 60;
            if stop == 2 {
                running.wait().unwrap();
                break;
            }
            running.stop();
            assert!(running.wait().unwrap().stopped, "{walk:?}");
        }
        let line = |row: &Row| {
            let entry = if keys.contains(&row.key) { row.key as i64 } else { -1 };
            format!("{} {entry} @{}", row.number, row.at)
        };
        let mut expected: Vec<String> = left.iter().filter(|row| row.key < 40).map(line).collect();
        expected.sort_unstable();
        assert_same(&place.lines(), &expected, &format!("{walk:?}"));
    }
}
