//! Operators that look at wall time or take late rows, whose answers hang on when rows come: stopped between any two things
//! that happen and gone on with at the same moment, they answer as if they had not been.

use std::time::Duration;

use millstream::state::{KeyedState, Value};
use millstream::testing::{Collected, Pushed, TestJob};
use millstream::{
    BoxError, Continuous, Count, Every, Fired, Flow, Keep, Late, OnTime, Process, ProcessContext, Session, Sliding,
    Sum, Timer, Timestamp, Tumbling, WallTime,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::script::cases;

/// A key and a number.
type Row = [i64; 2];

type Build = fn(&Flow, &Pushed<Row>, Collected<String>, Collected<Late<i64, Row>>);

const OPERATORS: [(&str, Build); 8] = [
    ("sessions with delays and lateness", sessions),
    ("kept rows with late panes", kept),
    ("multiples of wall time", multiples),
    ("sessions with multiples of wall time", discarding),
    ("windows of wall time", tumbling),
    ("sessions of wall time", wall_sessions),
    ("a join within a time", join),
    ("a process function with both times", silence),
];

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn said<V: std::fmt::Debug>(fired: &Fired<i64, V>) -> String {
    format!("{} {:?} {}: {:?}", fired.key, fired.window, fired.pane, fired.value)
}

fn sessions(flow: &Flow, input: &Pushed<Row>, out: Collected<String>, late: Collected<Late<i64, Row>>) {
    let sessions = flow.pushed(input).key_by(|row| row[0]).window(Session::gap(ms(5))).allowed_lateness(ms(6));
    let panes = OnTime::new().early(Every::delay(ms(4))).late(Every::delay(ms(3)));
    sessions.late_to(late).trigger(panes).aggregate((Count, Sum::of(|row: &Row| row[1]))).map(said).sink(out);
}

fn kept(flow: &Flow, input: &Pushed<Row>, out: Collected<String>, late: Collected<Late<i64, Row>>) {
    let windows =
        flow.pushed(input).key_by(|row| row[0]).window(Sliding::of(ms(8)).every(ms(4))).allowed_lateness(ms(5));
    let panes = OnTime::new().early(Every::delay(ms(2))).late(Every::count(2));
    let rows = windows.late_to(late).trigger(panes).elements().evict(Keep::within(ms(5)));
    rows.aggregate((Count, Sum::of(|row: &Row| row[1]))).map(said).sink(out);
}

fn multiples(flow: &Flow, input: &Pushed<Row>, out: Collected<String>, late: Collected<Late<i64, Row>>) {
    let windows = flow.pushed(input).key_by(|row| row[0]).window(Tumbling::of(ms(7))).allowed_lateness(ms(4));
    let windows = windows.late_to(late).trigger(Continuous::every_wall(ms(3)));
    windows.aggregate(Sum::of(|row: &Row| row[1])).map(said).sink(out);
}

fn discarding(flow: &Flow, input: &Pushed<Row>, out: Collected<String>, late: Collected<Late<i64, Row>>) {
    let sessions = flow.pushed(input).key_by(|row| row[0]).window(Session::gap(ms(4))).late_to(late);
    let sessions = sessions.trigger(Continuous::every_wall(ms(5))).discarding();
    sessions.elements().aggregate(Sum::of(|row: &Row| row[1])).map(said).sink(out);
}

fn tumbling(flow: &Flow, input: &Pushed<Row>, out: Collected<String>, _: Collected<Late<i64, Row>>) {
    let windows = flow.pushed(input).key_by(|row| row[0]).window(Sliding::of(ms(10)).every(ms(5)).processing_time());
    windows.trigger(OnTime::new().early(Every::count(3))).aggregate(Sum::of(|row: &Row| row[1])).map(said).sink(out);
}

fn wall_sessions(flow: &Flow, input: &Pushed<Row>, out: Collected<String>, _: Collected<Late<i64, Row>>) {
    let gap = |row: &Row| ms(if row[1] % 2 == 0 { 3 } else { 7 });
    let sessions = flow.pushed(input).key_by(|row| row[0]).window(Session::by(gap).processing_time());
    sessions.elements().evict(Keep::last(4)).aggregate(Sum::of(|row: &Row| row[1])).map(said).sink(out);
}

fn join(flow: &Flow, input: &Pushed<Row>, out: Collected<String>, _: Collected<Late<i64, Row>>) {
    let (left, right) = flow.pushed(input).split(|row| row[1] % 2 == 0);
    let right = right.key_by(|row: &Row| row[0]);
    left.key_by(|row| row[0]).join_within(right, ms(6), |left, right| format!("{left:?} {right:?}")).sink(out);
}

#[derive(KeyedState)]
struct Waits {
    rows: Value<u64>,
}

/// Tells how many rows there were when both times have gone on for a while.
struct Silence;

impl Process<i64, Row> for Silence {
    type State = Waits;
    type Out = String;

    fn on_event(
        &mut self,
        waits: &mut Waits,
        row: Row,
        cx: &mut ProcessContext<'_, i64, String>,
    ) -> Result<(), BoxError> {
        waits.rows.update_or(0, |rows| *rows += 1);
        let (at, now) = (cx.timestamp().plus_ms(row[1]), cx.now().plus_ms(row[1]));
        cx.timers().event(at);
        cx.timers().processing(now);
        if row[1] == 0 {
            cx.timers().delete_processing(now.plus_ms(3));
            cx.timers().delete_event(at.plus_ms(3));
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        waits: &mut Waits,
        timer: Timer,
        cx: &mut ProcessContext<'_, i64, String>,
    ) -> Result<(), BoxError> {
        cx.emit(format!("{} {timer}: {}", cx.key(), waits.rows.get_or(0)));
        if matches!(timer, Timer::Event(_)) {
            waits.rows.clear();
        }
        Ok(())
    }
}

fn silence(flow: &Flow, input: &Pushed<Row>, out: Collected<String>, _: Collected<Late<i64, Row>>) {
    flow.pushed(input).key_by(|row| row[0]).process(Silence).sink(out);
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// A row of a key and a number, so far ahead of the watermark.
    Row(i64, i64, i64),
    Watermark(i64),
    Now(i64),
    /// A snapshot, and at once a restore on so many shards.
    Stop(u32),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => (0_i64..3, 0_i64..10, -9_i64..12).prop_map(|(key, number, ahead)| Move::Row(key, number, ahead)),
        2 => (1_i64..6).prop_map(Move::Watermark),
        2 => (1_i64..6).prop_map(Move::Now),
        2 => (1_u32..=4).prop_map(Move::Stop),
    ];
    vec(one, 1..50)
}

/// Rows, late rows, how many are said to be late, and whether nothing is left.
type Outcome = (Vec<String>, Vec<(i64, i64)>, u64, bool);

fn play(build: Build, moves: &[Move], stops: bool) -> Outcome {
    let (input, out, late) = (Pushed::<Row>::new(), Collected::new(), Collected::new());
    let (pushed, collected, late_rows) = (input.clone(), out.clone(), late.clone());
    let mut job = TestJob::new(1, move |flow| build(flow, &pushed, collected.clone(), late_rows.clone())).unwrap();
    let (mut watermark, mut now) = (100, 0);
    input.watermark(Timestamp(watermark));
    for one in moves {
        match one {
            Move::Row(key, number, ahead) => input.push([*key, *number], Timestamp(watermark + ahead)),
            Move::Watermark(by) => {
                watermark += by;
                input.watermark(Timestamp(watermark));
            }
            Move::Now(by) => {
                now += by;
                job.processing_time(WallTime(now)).unwrap();
            }
            Move::Stop(shards) if stops => {
                let snapshot = job.snapshot().unwrap();
                job.restore(&snapshot, *shards).unwrap();
            }
            Move::Stop(_) => {}
        }
        job.settle().unwrap();
    }
    job.end_of_input().unwrap();
    let mut rows = out.committed();
    rows.sort_unstable();
    let mut late: Vec<(i64, i64)> = late.committed().iter().map(|row| (row.value[1], row.at.0)).collect();
    late.sort_unstable();
    (rows, late, job.late(), job.state_is_empty())
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn a_stop_between_any_two_moments_says_nothing(which in 0..OPERATORS.len(), moves in moves()) {
        let (name, build) = OPERATORS[which];
        prop_assert_eq!(play(build, &moves, true), play(build, &moves, false), "{}", name);
    }
}
