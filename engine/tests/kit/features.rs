//! Single words of what can be said of windows and joins, one by one.

use std::time::Duration;

use millstream::testing::{Collected, Operator, Pushed, TestJob};
use millstream::{
    Assigner, Continuous, Count, CountWindow, Delta, Element, Every, Fired, Global, Keep, Late, MergingTrigger, OnTime,
    Session, Sum, Timestamp, Trigger, TriggerContext, Tumbling, Verdict, WallTime, Window,
};

/// A key and a number.
type Row = [i64; 2];

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn said(fired: &Fired<i64, u64>) -> String {
    let Fired { key, window, pane, value } = fired;
    let window = window.map_or(String::new(), |Window { start, end }| format!("[{},{})", start.0, end.0));
    format!("{key}{window}={value} {pane}")
}

fn listed(key: &i64, window: Option<Window>, rows: &[Element<Row>]) -> String {
    let window = window.map_or(String::new(), |Window { start, end }| format!("[{},{})", start.0, end.0));
    format!("{key}{window}: {:?}", rows.iter().map(|element| element.row[1]).collect::<Vec<_>>())
}

/// Rows of key 1, with their numbers and times.
fn push(operator: &mut Operator<Row, String>, rows: &[(i64, i64)]) {
    for (number, at) in rows {
        operator.push([1, *number], Timestamp(*at)).unwrap();
    }
}

fn watermark(operator: &mut Operator<Row, String>, at: i64) {
    operator.watermark(Timestamp(at)).unwrap();
}

// ---- triggers ---------------------------------------------------------------------------------------------------------

#[test]
fn a_delta_is_from_the_row_that_was_last_emitted_for() {
    let apart = |last: &Row, now: &Row| (now[1] - last[1]).abs() as f64;
    for discards in [false, true] {
        let mut deltas = Operator::of(move |rows| {
            let windows = rows.key_by(|row: &Row| row[0]).window(Global).trigger(Delta::over(5.0, apart));
            let windows = if discards { windows.discarding() } else { windows.accumulating() };
            windows.aggregate(Count).map(said)
        })
        .unwrap();
        // From 10: four apart, five, which is not over it, and six.
        push(&mut deltas, &[(10, 0), (14, 1), (15, 2)]);
        assert_eq!(deltas.take(), [""; 0]);
        push(&mut deltas, &[(16, 3)]);
        assert_eq!(deltas.take(), ["1=4 early pane 0"]);
        // From 16, and another key from its own first row.
        push(&mut deltas, &[(11, 3), (20, 3)]);
        deltas.push([2, 0], Timestamp(4)).unwrap();
        let snapshot = deltas.snapshot().unwrap();
        deltas.restore(&snapshot, 2).unwrap();
        push(&mut deltas, &[(10, 5)]);
        assert_eq!(deltas.take(), [if discards { "1=3 early pane 1" } else { "1=7 early pane 1" }]);
        deltas.end_of_input().unwrap();
        assert_eq!(deltas.take(), [""; 0], "not at the end");
    }
}

#[test]
fn a_delta_does_not_emit_a_window_at_its_end() {
    let apart = |last: &Row, now: &Row| (now[1] - last[1]).abs() as f64;
    let mut deltas = Operator::of(move |rows| {
        let windows = rows.key_by(|row: &Row| row[0]).window(Tumbling::of(ms(10))).allowed_lateness(ms(5));
        windows.trigger(Delta::over(5.0, apart)).aggregate(Count).map(said)
    })
    .unwrap();
    push(&mut deltas, &[(0, 0), (6, 1), (3, 11)]);
    assert_eq!(deltas.take(), ["1[0,10)=2 early pane 0"]);
    watermark(&mut deltas, 9);
    assert_eq!(deltas.take(), [""; 0]);
    push(&mut deltas, &[(12, 2)]);
    assert_eq!(deltas.take(), ["1[0,10)=3 late pane 1"]);
    watermark(&mut deltas, 30);
    assert!(deltas.take().is_empty() && deltas.state_is_empty());
}

#[test]
fn continuous_results_of_wall_time_come_at_its_multiples_and_at_the_end() {
    let mut counts = Operator::of(|rows| {
        let windows = rows.key_by(|row: &Row| row[0]).window(Tumbling::of(ms(100))).allowed_lateness(ms(10));
        windows.trigger(Continuous::every_wall(ms(10))).aggregate(Count).map(said)
    })
    .unwrap();
    counts.processing_time(WallTime(3)).unwrap();
    push(&mut counts, &[(0, 5), (0, 6)]);
    counts.processing_time(WallTime(9)).unwrap();
    assert_eq!(counts.take(), [""; 0]);
    counts.processing_time(WallTime(10)).unwrap();
    assert_eq!(counts.take(), ["1[0,100)=2 early pane 0"]);
    push(&mut counts, &[(0, 7)]);
    let snapshot = counts.snapshot().unwrap();
    counts.restore(&snapshot, 3).unwrap();
    // Several multiples that were slept through are one result.
    counts.processing_time(WallTime(47)).unwrap();
    assert_eq!(counts.take(), ["1[0,100)=3 early pane 1"]);
    counts.processing_time(WallTime(50)).unwrap();
    assert_eq!(counts.take(), ["1[0,100)=3 early pane 2"]);
    watermark(&mut counts, 99);
    assert_eq!(counts.take(), ["1[0,100)=3 on time pane 3"]);
    push(&mut counts, &[(0, 8)]);
    assert_eq!(counts.take(), ["1[0,100)=4 late pane 4"]);
    counts.processing_time(WallTime(75)).unwrap();
    assert_eq!(counts.take(), [""; 0], "behind its end only rows that are late emit it again");
    watermark(&mut counts, 109);
    assert!(counts.take().is_empty() && counts.state_is_empty());
    counts.processing_time(WallTime(1_000)).unwrap();
    assert_eq!(counts.take(), [""; 0]);
}

/// The earlier of two multiples is that of both.
#[test]
fn continuous_results_of_wall_time_go_on_in_sessions_that_merge() {
    let mut counts = Operator::of(|rows| {
        let sessions = rows.key_by(|row: &Row| row[0]).window(Session::gap(ms(10)));
        sessions.trigger(Continuous::every_wall(ms(10))).aggregate(Count).map(said)
    })
    .unwrap();
    counts.processing_time(WallTime(5)).unwrap();
    push(&mut counts, &[(0, 100)]);
    counts.processing_time(WallTime(12)).unwrap();
    assert_eq!(counts.take(), ["1[100,110)=1 early pane 0"]);
    push(&mut counts, &[(0, 80)]);
    push(&mut counts, &[(0, 90)]);
    counts.processing_time(WallTime(19)).unwrap();
    assert_eq!(counts.take(), [""; 0]);
    counts.processing_time(WallTime(20)).unwrap();
    assert_eq!(counts.take(), ["1[80,110)=3 early pane 1"]);
    watermark(&mut counts, 109);
    assert_eq!(counts.take(), ["1[80,110)=3 on time pane 2"]);
    assert!(counts.state_is_empty());
}

/// Emits a window when its rows sum up to a hundred, drops it when a row is less than zero, and waits for ten milliseconds of
/// both times otherwise.
#[derive(Debug)]
struct Own;

/// The sum, and the timers, or zero.
#[millstream::event]
#[derive(Clone, Copy, PartialEq, Debug)]
struct OwnState {
    sum: i64,
    event: i64,
    wall: i64,
}

impl Trigger<Row> for Own {
    type State = OwnState;

    fn state(&self) -> OwnState {
        OwnState { sum: 0, event: 0, wall: 0 }
    }

    fn on_element(&self, row: &Row, at: Timestamp, cx: &mut TriggerContext<'_, OwnState>) -> Verdict {
        if row[1] < 0 {
            cx.state().sum = 0;
            return Verdict::Purge;
        }
        cx.state().sum += row[1];
        if cx.state().sum >= 100 {
            cx.state().sum = 0;
            return Verdict::FireAndPurge;
        }
        if cx.state().event == 0 {
            let (event, wall) = (at.plus_ms(10), cx.now().plus_ms(10));
            cx.event(event);
            cx.processing(wall);
            (cx.state().event, cx.state().wall) = (event.0, wall.0);
        }
        Verdict::Continue
    }

    fn on_event_time(&self, at: Timestamp, cx: &mut TriggerContext<'_, OwnState>) -> Verdict {
        if at.0 == cx.state().event { Verdict::Fire } else { Verdict::Continue }
    }

    fn on_processing_time(&self, at: WallTime, cx: &mut TriggerContext<'_, OwnState>) -> Verdict {
        if at.0 == cx.state().wall { Verdict::Fire } else { Verdict::Continue }
    }

    fn clear(&self, cx: &mut TriggerContext<'_, OwnState>) {
        let OwnState { event, wall, .. } = *cx.state();
        cx.delete_event(Timestamp(event));
        cx.delete_processing(WallTime(wall));
    }
}

impl MergingTrigger<Row> for Own {
    fn on_merge(&self, from: &OwnState, cx: &mut TriggerContext<'_, OwnState>) {
        cx.state().sum += from.sum;
        // Of both timers the earlier one stays.
        let OwnState { event, wall, .. } = *cx.state();
        if from.event != 0 && from.event < event {
            cx.delete_event(Timestamp(event));
            cx.event(Timestamp(from.event));
            cx.state().event = from.event;
        }
        if from.wall != 0 && from.wall < wall {
            cx.delete_processing(WallTime(wall));
            cx.processing(WallTime(from.wall));
            cx.state().wall = from.wall;
        }
    }
}

fn timers(operator: &mut Operator<Row, String>) -> Vec<(String, usize)> {
    let held = operator.job().entries().into_iter().filter(|held| held.state.contains("timers"));
    held.map(|held| (held.state, held.count)).collect()
}

#[test]
fn a_trigger_of_a_users_fires_purges_and_clears_its_timers_away() {
    let mut sums = Operator::of(|rows| {
        let windows = rows.key_by(|row: &Row| row[0]).window(Tumbling::of(ms(50)));
        windows.trigger(Own).aggregate(Count).map(said)
    })
    .unwrap();
    sums.processing_time(WallTime(7)).unwrap();
    push(&mut sums, &[(40, 1), (30, 2)]);
    assert_eq!(sums.take(), [""; 0]);
    sums.processing_time(WallTime(17)).unwrap();
    assert_eq!(sums.take(), ["1[0,50)=2 early pane 0"], "ten milliseconds of wall time");
    watermark(&mut sums, 11);
    assert_eq!(sums.take(), ["1[0,50)=2 early pane 1"], "ten milliseconds of event time");
    push(&mut sums, &[(30, 12)]);
    assert_eq!(sums.take(), ["1[0,50)=3 early pane 2"], "a hundred");
    push(&mut sums, &[(99, 13), (-1, 14), (1, 15)]);
    assert_eq!(sums.take(), [""; 0], "it was dropped in between");
    push(&mut sums, &[(99, 16)]);
    assert_eq!(sums.take(), ["1[0,50)=2 early pane 3"]);
    push(&mut sums, &[(1, 17)]);
    watermark(&mut sums, 49);
    assert_eq!(sums.take(), [""; 0], "it says nothing of the end");
    assert!(sums.state_is_empty());
    // Both timers are there when the window goes.
    push(&mut sums, &[(1, 98)]);
    assert_eq!(timers(&mut sums), [("event timers".to_owned(), 2), ("processing timers".to_owned(), 1)]);
    watermark(&mut sums, 99);
    assert!(sums.take().is_empty() && sums.state_is_empty());
}

#[test]
fn a_merging_trigger_of_a_users_takes_over_what_was_waited_for() {
    let mut sums = Operator::of(|rows| {
        let sessions = rows.key_by(|row: &Row| row[0]).window(Session::gap(ms(20)));
        sessions.trigger(Own).aggregate(Count).map(said)
    })
    .unwrap();
    sums.processing_time(WallTime(5)).unwrap();
    push(&mut sums, &[(40, 100)]);
    sums.processing_time(WallTime(8)).unwrap();
    push(&mut sums, &[(30, 70)]);
    // Two sessions, the later of them with the earlier wall time; then they are one.
    assert_eq!(timers(&mut sums), [("event timers".to_owned(), 4), ("processing timers".to_owned(), 2)]);
    push(&mut sums, &[(1, 85)]);
    assert_eq!(timers(&mut sums), [("event timers".to_owned(), 2), ("processing timers".to_owned(), 1)]);
    let snapshot = sums.snapshot().unwrap();
    sums.restore(&snapshot, 4).unwrap();
    sums.processing_time(WallTime(15)).unwrap();
    assert_eq!(sums.take(), ["1[70,120)=3 early pane 0"], "five and ten");
    sums.processing_time(WallTime(18)).unwrap();
    assert_eq!(sums.take(), [""; 0]);
    watermark(&mut sums, 80);
    assert_eq!(sums.take(), ["1[70,120)=3 early pane 1"], "seventy and ten");
    push(&mut sums, &[(29, 90)]);
    assert_eq!(sums.take(), ["1[70,120)=4 early pane 2"], "the sums of both");
    watermark(&mut sums, 119);
    assert!(sums.take().is_empty() && sums.state_is_empty());
}

// ---- windows of a user's ----------------------------------------------------------------------------------------------

/// A row of number `n` is in a window of `n` milliseconds that begins with it, and in one of twice that.
#[derive(Debug)]
struct AsLong {
    is_processing: bool,
}

impl Assigner<Row> for AsLong {
    fn assign(&self, row: &Row, at: Timestamp, windows: &mut Vec<Window>) {
        if row[1] >= 0 {
            windows.extend([row[1], 2 * row[1]].map(|long| Window { start: at, end: at.plus_ms(long) }));
        }
    }

    fn is_processing_time(&self) -> bool {
        self.is_processing
    }
}

#[test]
fn windows_of_a_users_are_what_the_assigner_says() {
    let late = Collected::<Late<i64, Row>>::new();
    let late_rows = late.clone();
    let mut counts = Operator::of(move |rows| {
        let windows = rows.key_by(|row: &Row| row[0]).window_by(AsLong { is_processing: false });
        windows.late_to(late_rows.clone()).aggregate(Count).map(said)
    })
    .unwrap();
    push(&mut counts, &[(10, 0), (20, 0), (-1, 3)]);
    watermark(&mut counts, 9);
    assert_eq!(counts.take(), ["1[0,10)=1 on time pane 0"]);
    watermark(&mut counts, 19);
    assert_eq!(counts.take(), ["1[0,20)=2 on time pane 0"], "both rows have one of twenty");
    // In time for the longer one alone; for neither; in no window, in time and not.
    push(&mut counts, &[(15, 5), (2, 5), (-1, 20), (-1, 19)]);
    assert_eq!(late.take().iter().map(|row| (row.value[1], row.at.0)).collect::<Vec<_>>(), [(2, 5), (-1, 19)]);
    watermark(&mut counts, 100);
    assert_eq!(counts.take(), ["1[5,35)=1 on time pane 0", "1[0,40)=1 on time pane 0"]);
    // A window without a length is of its first millisecond, and that of twice nothing is the same.
    push(&mut counts, &[(0, 200)]);
    watermark(&mut counts, 200);
    assert_eq!(counts.take(), ["1[200,201)=2 on time pane 0"]);
    assert!(counts.state_is_empty());
    assert_eq!(counts.job().late(), 2);
}

#[test]
fn windows_of_a_users_may_be_of_wall_time() {
    let mut counts = Operator::of(|rows| {
        rows.key_by(|row: &Row| row[0]).window_by(AsLong { is_processing: true }).aggregate(Count).map(said)
    })
    .unwrap();
    counts.processing_time(WallTime(100)).unwrap();
    push(&mut counts, &[(10, 5_000), (10, -5_000)]);
    watermark(&mut counts, 9_000);
    assert_eq!(counts.take(), [""; 0]);
    counts.processing_time(WallTime(109)).unwrap();
    assert_eq!(counts.take(), ["1[100,110)=2 on time pane 0"]);
    counts.end_of_input().unwrap();
    assert_eq!(counts.take(), ["1[100,120)=2 on time pane 0"], "and at the end of the input");
    assert!(counts.state_is_empty());
}

// ---- kept rows --------------------------------------------------------------------------------------------------------

#[test]
fn rows_are_kept_that_are_younger_than_an_age() {
    let within = |age: Duration, rows: &[(i64, i64)]| {
        let mut kept = Operator::of(move |rows| {
            let windows =
                rows.key_by(|row: &Row| row[0]).window(CountWindow::of(1_000).every(4)).evict(Keep::within(age));
            windows.process(|key, window, _, rows: &[Element<Row>]| [listed(key, window, rows)])
        })
        .unwrap();
        push(&mut kept, rows);
        kept.take()
    };
    // By their times, in the order they came. Six is not less than six.
    assert_eq!(within(ms(6), &[(1, 11), (2, 5), (3, 6), (4, 10)]), ["1: [1, 3, 4]"]);
    // What is gone is gone, also where it would be young enough again.
    assert_eq!(
        within(ms(6), &[(1, 0), (2, 9), (3, 20), (4, 1), (5, 0), (6, 2), (7, 24), (8, 30)]),
        ["1: [3]", "1: [8]"]
    );
    // None is younger than nothing.
    assert_eq!(within(ms(0), &[(1, 0), (2, 0), (3, 0), (4, 0)]), [""; 0]);
    let (min, max) = (i64::MIN, i64::MAX);
    assert_eq!(within(ms(10), &[(1, min), (2, min + 3), (3, min + 9), (4, min)]), ["1: [1, 2, 3, 4]"]);
    assert_eq!(within(ms(10), &[(1, max), (2, max - 9), (3, max - 10), (4, min)]), ["1: [1, 2]"]);
    assert_eq!(within(Duration::MAX, &[(1, min), (2, -3), (3, -2), (4, min + 1)]), ["1: [1, 2, 3, 4]"]);
}

#[test]
fn sessions_and_kept_rows_have_a_way_for_what_is_late() {
    let late = Collected::<Late<i64, Row>>::new();
    let late_rows = late.clone();
    let mut sessions = Operator::of(move |rows| {
        let sessions = rows.key_by(|row: &Row| row[0]).window(Session::gap(ms(10))).late_to(late_rows.clone());
        sessions.elements().process(|key, window, _, rows: &[Element<Row>]| [listed(key, window, rows)])
    })
    .unwrap();
    push(&mut sessions, &[(1, 0), (2, 30)]);
    watermark(&mut sessions, 20);
    assert_eq!(sessions.take(), ["1[0,10): [1]"]);
    // Its own window is over; that of the other ends at 21, and touches nothing.
    push(&mut sessions, &[(3, 11), (4, 12)]);
    assert_eq!(sessions.take(), [""; 0]);
    assert_eq!(late.take(), [Late { key: 1, value: [1, 3], at: Timestamp(11) }]);
    // Late by itself, but of the session that is there: [3, 13) reaches to [12, 22).
    push(&mut sessions, &[(5, 3)]);
    assert_eq!(late.take(), []);
    let snapshot = sessions.snapshot().unwrap();
    sessions.restore(&snapshot, 2).unwrap();
    push(&mut sessions, &[(6, -8), (7, 21)]);
    assert_eq!(late.take(), [Late { key: 1, value: [1, 6], at: Timestamp(-8) }]);
    assert_eq!(late.committed().len(), 1);
    watermark(&mut sessions, 100);
    assert_eq!(sessions.take(), ["1[3,40): [4, 5, 2, 7]"], "the rows of the later session lie behind");
    sessions.end_of_input().unwrap();
    assert_eq!(late.committed().iter().map(|row| row.value[1]).collect::<Vec<_>>(), [3, 6]);
    assert!(sessions.job().late() == 2 && sessions.state_is_empty());

    let late = Collected::<Late<i64, Row>>::new();
    let late_rows = late.clone();
    let mut windows = Operator::of(move |rows| {
        let windows = rows.key_by(|row: &Row| row[0]).window(Tumbling::of(ms(10))).allowed_lateness(ms(5));
        let rows = windows.late_to(late_rows.clone()).elements().evict(Keep::last(2));
        rows.process(|key, window, _, rows: &[Element<Row>]| [listed(key, window, rows)])
    })
    .unwrap();
    push(&mut windows, &[(1, 0), (2, 1), (3, 2)]);
    watermark(&mut windows, 9);
    assert_eq!(windows.take(), ["1[0,10): [2, 3]"]);
    push(&mut windows, &[(4, 5)]);
    assert_eq!(windows.take(), ["1[0,10): [3, 4]"]);
    watermark(&mut windows, 14);
    push(&mut windows, &[(5, 6)]);
    assert_eq!(late.take(), [Late { key: 1, value: [1, 5], at: Timestamp(6) }]);
    assert!(windows.take().is_empty() && windows.state_is_empty());
}

// ---- lateness, panes --------------------------------------------------------------------------------------------------

#[test]
fn a_session_is_kept_for_its_lateness_and_fires_again() {
    let mut sessions = Operator::of(|rows| {
        let sessions = rows.key_by(|row: &Row| row[0]).window(Session::gap(ms(10))).allowed_lateness(ms(20));
        sessions.aggregate(Count).map(said)
    })
    .unwrap();
    push(&mut sessions, &[(0, 0)]);
    watermark(&mut sessions, 9);
    assert_eq!(sessions.take(), ["1[0,10)=1 on time pane 0"]);
    // Inside it: it has ended, and fires at once.
    push(&mut sessions, &[(0, 0)]);
    assert_eq!(sessions.take(), ["1[0,10)=2 late pane 1"]);
    // It grows beyond the watermark: it has not ended any more.
    push(&mut sessions, &[(0, 5)]);
    assert_eq!(sessions.take(), [""; 0]);
    watermark(&mut sessions, 14);
    assert_eq!(sessions.take(), ["1[0,15)=3 on time pane 2"]);
    // A session of its own that is late, but within the lateness.
    watermark(&mut sessions, 30);
    push(&mut sessions, &[(0, 16)]);
    assert_eq!(sessions.take(), ["1[16,26)=1 late pane 0"]);
    // And a row that makes one of both.
    push(&mut sessions, &[(0, 10)]);
    assert_eq!(sessions.take(), ["1[0,26)=5 late pane 3"]);
    watermark(&mut sessions, 44);
    push(&mut sessions, &[(0, 10)]);
    assert_eq!(sessions.take(), ["1[0,26)=6 late pane 4"]);
    watermark(&mut sessions, 45);
    assert!(sessions.state_is_empty());
    push(&mut sessions, &[(0, 15)]);
    assert_eq!((sessions.take(), sessions.job().late()), (vec![], 1));
    // Its window is not over yet.
    push(&mut sessions, &[(0, 17)]);
    assert_eq!(sessions.take(), ["1[17,27)=1 late pane 0"]);
}

#[test]
fn panes_are_counted_from_early_to_late() {
    let mut panes = Operator::of(|rows| {
        let windows = rows.key_by(|row: &Row| row[0]).window(Tumbling::of(ms(10))).allowed_lateness(ms(10));
        let trigger = OnTime::new().early(Every::delay(ms(5))).late(Every::count(2));
        windows.trigger(trigger).aggregate(Sum::of(|row: &Row| row[1] as u64)).map(said)
    })
    .unwrap();
    push(&mut panes, &[(1, 0)]);
    panes.processing_time(WallTime(5)).unwrap();
    assert_eq!(panes.take(), ["1[0,10)=1 early pane 0"]);
    panes.processing_time(WallTime(50)).unwrap();
    assert_eq!(panes.take(), [""; 0], "nothing has come since");
    push(&mut panes, &[(2, 1)]);
    let snapshot = panes.snapshot().unwrap();
    panes.restore(&snapshot, 3).unwrap();
    panes.processing_time(WallTime(55)).unwrap();
    assert_eq!(panes.take(), ["1[0,10)=3 early pane 1"]);
    push(&mut panes, &[(4, 2)]);
    watermark(&mut panes, 9);
    assert_eq!(panes.take(), ["1[0,10)=7 on time pane 2"], "the delay is not waited for");
    panes.processing_time(WallTime(100)).unwrap();
    push(&mut panes, &[(8, 3)]);
    assert_eq!(panes.take(), [""; 0]);
    push(&mut panes, &[(16, 4)]);
    assert_eq!(panes.take(), ["1[0,10)=31 late pane 3"]);
    push(&mut panes, &[(32, 4), (64, 5)]);
    assert_eq!(panes.take(), ["1[0,10)=127 late pane 4"]);
    // Another window begins anew.
    push(&mut panes, &[(1, 19)]);
    watermark(&mut panes, 19);
    assert_eq!(panes.take(), ["1[10,20)=1 on time pane 0"]);
    watermark(&mut panes, 29);
    assert!(panes.take().is_empty() && panes.state_is_empty());
}

// ---- joins ------------------------------------------------------------------------------------------------------------

#[test]
fn rows_of_a_join_within_a_time_are_forgotten_when_it_is_over() {
    let (left, right, out) = (Pushed::<Row>::new(), Pushed::<Row>::new(), Collected::new());
    let (from_left, from_right, collected) = (left.clone(), right.clone(), out.clone());
    let mut job = TestJob::new(2, move |flow| {
        let right = flow.pushed(&from_right).key_by(|row: &Row| row[0]);
        flow.pushed(&from_left)
            .key_by(|row: &Row| row[0])
            .join_within(right, ms(1_000), |left, right| (left[1], right[1]))
            .sink(collected.clone());
    })
    .unwrap();
    let at = Timestamp(0);
    left.push([1, 10], at);
    left.push([2, 20], at);
    job.processing_time(WallTime(500)).unwrap();
    left.push([1, 11], at);
    job.processing_time(WallTime(999)).unwrap();
    right.push([1, 100], at);
    job.settle().unwrap();
    assert_eq!(out.take_sorted(), [(10, 100), (11, 100)]);
    let snapshot = job.snapshot().unwrap();
    job.restore(&snapshot, 3).unwrap();
    job.processing_time(WallTime(1_000)).unwrap();
    right.push([1, 101], at);
    right.push([2, 200], at);
    job.settle().unwrap();
    assert_eq!(out.take_sorted(), [(11, 101)], "the first ones are over");
    job.processing_time(WallTime(1_500)).unwrap();
    left.push([1, 12], at);
    job.settle().unwrap();
    assert_eq!(out.take_sorted(), [(12, 100), (12, 101)]);
    right.push([1, 102], at);
    job.settle().unwrap();
    assert_eq!(out.take_sorted(), [(12, 102)], "the second one is over as well");
    job.processing_time(WallTime(10_000)).unwrap();
    right.push([1, 103], at);
    left.push([2, 21], at);
    job.settle().unwrap();
    assert_eq!(out.take_sorted(), [(0, 0); 0]);
}
