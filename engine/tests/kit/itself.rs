//! The test kit, by its own means: what it drives is the engine, so what it says must be what a run says.

use std::time::Duration;

use millstream::state::{KeyedState, Value};
use millstream::testing::{Collected, Operator, Pushed, TestJob};
use millstream::{
    BoxError, Count, Late, Process, ProcessContext, SideOutput, Sliding, Sum, Timer, Timestamp, Tumbling, WallTime,
    Watermarks, Windowed,
};

#[millstream::event]
#[derive(Clone, Copy)]
struct Add {
    key: u64,
    add: i64,
}

fn add(key: u64, add: i64) -> Add {
    Add { key, add }
}

#[derive(KeyedState)]
struct Sum0 {
    sum: Value<i64>,
}

/// Emits the running sum; waits 100 ms of wall time and of event time after each row; tells of negative ones on the side.
struct Sums {
    negative: SideOutput<i64>,
}

type Cx<'a> = ProcessContext<'a, u64, String>;

impl Process<u64, Add> for Sums {
    type State = Sum0;
    type Out = String;

    fn on_event(&mut self, state: &mut Sum0, Add { add, .. }: Add, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        match add {
            i64::MIN => return Err("this is the least of all".into()),
            i64::MAX => panic!("this is too much"),
            _ => {}
        }
        if add < 0 {
            cx.side(&self.negative, add);
        }
        let sum = state.sum.get_or(0) + add;
        state.sum.set(sum);
        let (at, now) = (cx.timestamp(), cx.now());
        cx.timers().event(at.plus_ms(100));
        cx.timers().processing(now.plus_ms(100));
        cx.emit(format!("{}: {sum}", cx.key()));
        Ok(())
    }

    fn on_timer(&mut self, state: &mut Sum0, timer: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        if matches!(timer, Timer::Event(_)) {
            state.sum.clear();
        }
        cx.emit(format!("{}: {timer}", cx.key()));
        Ok(())
    }
}

struct World {
    input: Pushed<Add>,
    out: Collected<String>,
    negative: Collected<i64>,
    job: TestJob,
}

fn sums(shards: u32) -> World {
    let (input, out, negative) = (Pushed::new(), Collected::new(), Collected::new());
    let (pushed, collected, sides) = (input.clone(), out.clone(), negative.clone());
    let job = TestJob::new(shards, move |flow| {
        let negative = SideOutput::new();
        let process = Sums { negative: negative.clone() };
        let sums = flow.pushed(&pushed).key_by(|row: &Add| row.key).process(process).named("sums");
        sums.side(&negative).sink(sides.clone());
        sums.sink(collected.clone());
    });
    World { input, out, negative, job: job.expect("the job is built") }
}

#[test]
fn rows_timers_and_sides_come_in_order() {
    for shards in 1..=3 {
        let World { input, out, negative, mut job } = sums(shards);
        job.processing_time(WallTime(5_000)).unwrap();
        input.push(add(7, 1), Timestamp(10));
        input.push(add(7, -3), Timestamp(20));
        job.settle().unwrap();
        assert_eq!(out.take(), ["7: 1", "7: -2"]);
        assert_eq!(negative.take(), [-3]);
        job.processing_time(WallTime(5_099)).unwrap();
        assert_eq!(out.take(), Vec::<String>::new());
        job.processing_time(WallTime(5_100)).unwrap();
        assert_eq!(out.take(), ["7: the processing-time timer at 5100 ms"]);
        let entries = job.entries();
        let held: Vec<_> = entries.iter().map(|held| (&*held.operator, &*held.state, held.count)).collect();
        assert_eq!(held, [("sums", "event timers", 2), ("sums", "sum", 1)]);
        input.watermark(Timestamp(119));
        job.settle().unwrap();
        assert_eq!(out.take(), ["7: the event-time timer at 110 ms"]);
        assert!(!job.state_is_empty());
        input.watermark(Timestamp(120));
        job.settle().unwrap();
        assert_eq!(out.take(), ["7: the event-time timer at 120 ms"]);
        assert!(job.state_is_empty());
    }
}

#[test]
fn a_snapshot_is_restored_on_any_number_of_shards_as_often_as_wanted() {
    let World { input, out, mut job, .. } = sums(2);
    for key in 0..20 {
        input.push(add(key, key as i64), Timestamp(0));
    }
    let snapshot = job.snapshot().unwrap();
    assert_eq!(out.committed().len(), 20);
    let _ = out.take();
    for key in 0..20 {
        input.push(add(key, 100), Timestamp(0));
    }
    for shards in [1, 2, 3, 5, 1] {
        job.restore(&snapshot, shards).unwrap();
        let mut expected: Vec<String> = (0..20).map(|key| format!("{key}: {}", key + 100)).collect();
        expected.sort();
        assert_eq!(out.take_sorted(), expected, "{shards} shards: what came behind the snapshot comes again");
        assert_eq!(out.committed().len(), 20, "and is not committed yet");
    }
    job.end_of_input().unwrap();
    assert_eq!(out.committed().len(), 60, "with the event-time timers that the end fires");
    assert!(job.snapshot().unwrap_err().to_string().contains("the input has ended"));
    // A snapshot outlives its job's end.
    job.restore(&snapshot, 2).unwrap();
    assert_eq!(out.committed().len(), 20);
}

#[test]
fn user_errors_name_the_operator_and_can_be_restored_from() {
    let World { input, out, mut job, .. } = sums(2);
    input.push(add(7, 1), Timestamp(0));
    let snapshot = job.snapshot().unwrap();
    input.push(add(7, i64::MIN), Timestamp(0));
    let error = job.settle().unwrap_err().to_string();
    assert!(error.contains("operator \"sums\"") && error.contains("the least of all"), "{error}");
    assert_eq!(job.settle().unwrap_err().to_string(), error, "it stays so");
    assert!(job.snapshot().is_err() && job.end_of_input().is_err());
    let again = job.restore(&snapshot, 1).unwrap_err().to_string();
    assert!(again.contains("the least of all"), "the row is read again: {again}");
    assert_eq!(out.take(), ["7: 1"]);

    let World { input, mut job, .. } = sums(1);
    input.push(add(7, i64::MAX), Timestamp(0));
    let error = job.settle().unwrap_err().to_string();
    assert!(error.contains("operator \"sums\": panicked: this is too much"), "{error}");
}

#[test]
fn jobs_that_cannot_be_are_refused() {
    let no_sink = TestJob::new(1, |flow| drop(flow.pushed(&Pushed::<u64>::new()))).unwrap_err();
    assert!(no_sink.to_string().contains("has no sink"), "{no_sink}");
    assert!(TestJob::new(0, |_| {}).is_err());
    let World { mut job, .. } = sums(1);
    job.processing_time(WallTime(10)).unwrap();
    assert!(job.processing_time(WallTime(9)).unwrap_err().to_string().contains("cannot be set back"));
    job.processing_time(WallTime(i64::MAX)).unwrap();
    assert_eq!(job.now(), WallTime(i64::MAX));
    let snapshot = job.snapshot().unwrap();
    let mut other = Operator::<u64, u64>::of(|rows| rows.map(|row| *row)).unwrap();
    let error = other.restore(&snapshot, 1).unwrap_err();
    assert!(error.to_string().contains("of another job"), "{error}");
}

/// The same job, its time read off the rows: what a user's own watermarks do.
#[test]
fn a_job_keeps_its_own_event_time() {
    let (input, out) = (Pushed::<i64>::new(), Collected::new());
    let (pushed, collected) = (input.clone(), out.clone());
    let mut job = TestJob::new(2, move |flow| {
        flow.pushed_untimed(&pushed)
            .event_time(|at| Timestamp(*at), Watermarks::bounded(Duration::from_millis(5)))
            .key_by(|_| 0_u64)
            .window(Tumbling::of(Duration::from_millis(10)))
            .aggregate(Count)
            .map(|window| (window.window.start.0, window.value))
            .sink(collected.clone());
    })
    .unwrap();
    input.push(3, Timestamp(0));
    input.push(14, Timestamp(0));
    job.settle().unwrap();
    assert_eq!(out.take(), []);
    assert_eq!(job.explain_watermark().held_back_by().unwrap().1.watermark, Timestamp(8));
    input.push(15, Timestamp(0));
    job.settle().unwrap();
    assert_eq!(out.take(), [(0, 1)]);
    input.idle();
    job.settle().unwrap();
    assert!(job.explain_watermark().held_back_by().is_none());
    input.push(9, Timestamp(0));
    job.settle().unwrap();
    assert_eq!(job.late(), 1);
    job.end_of_input().unwrap();
    assert_eq!((out.take(), job.state_is_empty()), (vec![(10, 2)], true));
    input.push(99, Timestamp(0));
    job.settle().unwrap();
    assert_eq!(out.take(), [], "nothing is read behind the end");
}

#[test]
fn a_pushed_watermark_is_refused_where_the_job_has_its_own() {
    let input = Pushed::<i64>::new();
    let pushed = input.clone();
    let mut job = TestJob::new(1, move |flow| flow.pushed_untimed(&pushed).sink(Collected::new())).unwrap();
    input.watermark(Timestamp(1));
    assert!(job.settle().unwrap_err().to_string().contains("time is read off its rows"));
}

/// Idle inputs are not waited for; those that speak again are.
#[test]
fn two_inputs_meet_in_time() {
    let (one, two, out) = (Pushed::<u64>::new(), Pushed::<u64>::new(), Collected::new());
    let (first, second, collected) = (one.clone(), two.clone(), out.clone());
    let mut job = TestJob::new(2, move |flow| {
        flow.pushed(&first)
            .union(flow.pushed(&second))
            .key_by(|key| *key)
            .window(Sliding::of(Duration::from_millis(10)).every(Duration::from_millis(5)))
            .aggregate(Count)
            .map(|row: &Windowed<u64, u64>| (row.window.start.0, row.value))
            .sink(collected.clone());
    })
    .unwrap();
    one.push_batch([(1, Timestamp(3)), (1, Timestamp(7))]);
    two.push(1, Timestamp(4));
    one.watermark(Timestamp(20));
    job.settle().unwrap();
    assert_eq!(out.take(), [], "the other one has said nothing");
    two.idle();
    job.settle().unwrap();
    assert_eq!(out.take(), [(-5, 2), (0, 3), (5, 1)]);
    two.end();
    one.push(1, Timestamp(31));
    one.end();
    job.settle().unwrap();
    assert_eq!(out.take(), [(25, 1), (30, 1)]);
}

/// Folding before an exchange can be had as well, and gives the same rows.
#[test]
fn a_job_folds_before_an_exchange_if_it_is_told_to() {
    for combine in [false, true] {
        let (input, out, late) = (Pushed::<(u64, i64)>::new(), Collected::new(), Collected::<Late<u64, i64>>::new());
        let (pushed, collected) = (input.clone(), out.clone());
        let mut job = TestJob::with_config(
            3,
            |config| config.combine = combine,
            move |flow| {
                flow.pushed(&pushed)
                    .key_by(|(key, _)| *key)
                    .window(Tumbling::of(Duration::from_millis(10)))
                    .aggregate(Sum::of(|(_, add): &(u64, i64)| *add))
                    .map(|row| (row.key, row.value))
                    .sink(collected.clone());
            },
        )
        .unwrap();
        input.push((7, 1), Timestamp(0));
        let snapshot = job.snapshot().unwrap();
        input.push((7, 2), Timestamp(9));
        job.restore(&snapshot, 2).unwrap();
        input.watermark(Timestamp(9));
        job.settle().unwrap();
        assert_eq!(out.take(), [(7, 3)]);
        assert!(job.state_is_empty() && late.take().is_empty());
    }
}

/// A process function that never lets time end is told of, not waited for.
#[test]
fn a_job_that_never_rests_is_told_of() {
    struct Forever;
    impl Process<u64, u64> for Forever {
        type State = Sum0;
        type Out = u64;

        fn on_event(&mut self, _: &mut Sum0, _: u64, cx: &mut ProcessContext<'_, u64, u64>) -> Result<(), BoxError> {
            cx.timers().event(Timestamp::MIN);
            Ok(())
        }

        fn on_timer(&mut self, _: &mut Sum0, _: Timer, cx: &mut ProcessContext<'_, u64, u64>) -> Result<(), BoxError> {
            let again = cx.timestamp().plus_ms(1);
            cx.timers().event(again);
            Ok(())
        }
    }
    let mut forever = Operator::keyed(|key: &u64| *key, || Forever).unwrap();
    forever.push(1, Timestamp(0)).unwrap();
    let error = forever.watermark(Timestamp::MAX).unwrap_err();
    assert!(error.to_string().contains("does not come to rest"), "{error}");
}

/// What a job opens is closed with it: a test may restore as often as it likes, and a job restart.
#[test]
fn restores_leave_no_descriptors_behind() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let World { input, mut job, .. } = sums(4);
    input.push(add(7, 1), Timestamp(10));
    let snapshot = job.snapshot().unwrap();
    let before = open();
    for _ in 0..100 {
        job.restore(&snapshot, 4).unwrap();
    }
    // Other tests open some of theirs meanwhile; each shard has several.
    let after = open();
    assert!(after < before + 500, "there were {before}, and are {after}");
}
