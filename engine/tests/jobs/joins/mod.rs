//! Joins in whole jobs: on any number of shards, from rows out of order, through failures and other numbers of shards, the
//! answer is that of the nested loops that define them. Here is what all of them have in common, a file holds each.

mod as_of;
mod broadcast;
mod connect;
mod dedup;
mod interval;
mod regular;
mod windows;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream::job::stream::Boxed;
use millstream::state::{KeyedState, Value};
use millstream::{
    BoxError, Job, Polled, Process, ProcessContext, RestartStrategy, Source, SourceError, Split, Stream, Timestamp,
    Watermarks,
};
use millstream_connectors::file::FileSink;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::sales::{Once, Place, assert_same};

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
