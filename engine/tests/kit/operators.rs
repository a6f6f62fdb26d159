//! Operators of event time whose answers hang on nothing but their rows: not on how inputs come together, how fast time
//! follows, how many shards there are, or where a job was stopped and gone on with.
//!
//! Where the order of a key's rows counts, keys are such that all rows of one come through one input.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::job::stream::Stream;
use millstream::road::union::Union;
use millstream::state::{KeyedState, Map, Value};
use millstream::testing::{Collected, Pushed, PushedRows};
use millstream::{
    Assigner, AtEndOfInput, BoxError, BroadcastContext, BroadcastProcess, CoProcess, Continuous, Count, CountWindow,
    Delta, Element, Every, Flow, Global, Keep, Max, MergingTrigger, OnTime, Process, ProcessContext, Requests, Session,
    Sliding, Sum, Timer, Timestamp, Timing, Trigger, TriggerContext, Tumbling, Verdict, Window,
};

/// A row of one of the inputs.
#[millstream::event]
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Row {
    /// The input's number.
    pub(crate) input: u64,
    pub(crate) key: u64,
    pub(crate) at: i64,
    pub(crate) value: i64,
}

impl Row {
    /// A key whose rows all come through one input, in its order.
    fn own(&self) -> u64 {
        self.key * 4 + self.input
    }
}

/// The inputs: two are left ones where an operator has two sides, and the third is the right one.
pub(crate) type Inputs = [Pushed<Row>; 3];

/// Says what is made of the inputs.
type Build = fn(&Flow, &Inputs, Collected<String>);

/// An operator, and whether it keeps nothing once its input has ended.
pub(crate) struct Operator {
    pub(crate) name: &'static str,
    pub(crate) build: Build,
    pub(crate) forgets: bool,
}

const fn forgets(name: &'static str, build: Build) -> Operator {
    Operator { name, build, forgets: true }
}

const fn keeps(name: &'static str, build: Build) -> Operator {
    Operator { name, build, forgets: false }
}

pub(crate) const OPERATORS: &[Operator] = &[
    forgets("tumbling windows", tumbling),
    forgets("sliding windows", sliding),
    forgets("sessions", sessions),
    forgets("sessions by row, discarding", sessions_by_row),
    forgets("sessions with a trigger of a user's", sessions_with_own_trigger),
    forgets("early panes, discarding", early_discarding),
    forgets("continuous results", continuous),
    forgets("windows of a user's", assigned),
    forgets("an evictor of counts", last_three),
    forgets("an evictor of time", newest_of_session),
    keeps("windows of counts", counts),
    keeps("sliding windows of counts", sliding_counts),
    forgets("all rows at the end", totals),
    keeps("differences", deltas),
    forgets("a process function with timers", buckets),
    forgets("two inputs with timers", meetings),
    forgets("a broadcast", broadcast),
    forgets("an interval join", interval_join),
    forgets("a window join", window_join),
    forgets("a co-group", co_group),
    keeps("a temporal join", as_of),
    keeps("all pairs", all_pairs),
    forgets("what comes again", dedup),
    keeps("the first of each key", dedup_unbounded),
    keeps("an iteration with states", iteration),
    forgets("requests", requests),
];

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// All inputs as one stream.
fn all(flow: &Flow, inputs: &Inputs) -> Stream<Union<Union<PushedRows<Row>, PushedRows<Row>>, PushedRows<Row>>> {
    left(flow, inputs).union(flow.pushed(&inputs[2]))
}

fn left(flow: &Flow, inputs: &Inputs) -> Stream<Union<PushedRows<Row>, PushedRows<Row>>> {
    flow.pushed(&inputs[0]).union(flow.pushed(&inputs[1]))
}

/// The values of rows, in their order.
fn values(rows: &[Element<Row>]) -> Vec<i64> {
    rows.iter().map(|element| element.row.value).collect()
}

fn tumbling(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let windows = all(flow, inputs).key_by(|row| row.key).window(Tumbling::of(ms(10)));
    let counted = windows.aggregate((Count, Sum::of(|row: &Row| row.value)));
    counted.map(|of| format!("{} {:?} {:?}", of.key, of.window, of.value)).sink(out);
}

fn sliding(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let windows = all(flow, inputs).key_by(|row| row.key).window(Sliding::of(ms(30)).every(ms(10)));
    let counted = windows.aggregate((Sum::of(|row: &Row| row.value), Max::of(|row: &Row| row.value)));
    counted.map(|of| format!("{} {:?} {:?}", of.key, of.window, of.value)).sink(out);
}

/// Times are even and gaps odd, so that no two sessions touch: whether those are one hangs on when time comes between.
fn sessions(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let sessions = all(flow, inputs).key_by(|row| row.key).window(Session::gap(ms(7)));
    sessions
        .trigger(OnTime::new().early(Every::count(2)))
        .aggregate((Count, Sum::of(|row: &Row| row.value)))
        .filter(|of| of.pane.timing == Timing::OnTime)
        .map(|of| format!("{} {:?} {:?}", of.key, of.window, of.value))
        .sink(out);
}

fn sessions_by_row(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let gap = |row: &Row| ms(if row.value % 3 == 0 { 13 } else { 3 });
    let sessions = all(flow, inputs).key_by(|row| row.key).window(Session::by(gap)).discarding();
    let counted = sessions.aggregate((Count, Max::of(|row: &Row| row.at)));
    counted.map(|of| format!("{} {:?} {:?}", of.key, of.window, of.value)).sink(out);
}

/// Emits a session when it has been silent for five milliseconds of event time, or at its end: where sessions merge, the
/// greater of their last times is waited for.
#[derive(Debug)]
struct Silence;

impl Trigger<Row> for Silence {
    /// The time of the last row, and of its timer.
    type State = i64;

    fn state(&self) -> i64 {
        i64::MIN
    }

    fn on_element(&self, row: &Row, at: Timestamp, cx: &mut TriggerContext<'_, i64>) -> Verdict {
        assert_eq!(row.at, at.0);
        if at.0 > *cx.state() {
            Trigger::<Row>::clear(self, cx);
            *cx.state() = at.0;
            cx.event(at.plus_ms(5));
        }
        Verdict::Continue
    }

    fn on_event_time(&self, at: Timestamp, cx: &mut TriggerContext<'_, i64>) -> Verdict {
        if at == Timestamp(*cx.state()).plus_ms(5) { Verdict::FireAndPurge } else { Verdict::Continue }
    }

    fn on_end(&self, _: &mut TriggerContext<'_, i64>) -> Verdict {
        Verdict::Fire
    }

    fn clear(&self, cx: &mut TriggerContext<'_, i64>) {
        let last = *cx.state();
        if last != i64::MIN {
            cx.delete_event(Timestamp(last).plus_ms(5));
        }
    }
}

impl MergingTrigger<Row> for Silence {
    fn on_merge(&self, from: &i64, cx: &mut TriggerContext<'_, i64>) {
        if *from > *cx.state() {
            Trigger::<Row>::clear(self, cx);
            *cx.state() = *from;
            cx.event(Timestamp(*from).plus_ms(5));
        }
    }
}

/// What a session's panes hold together is all of its rows.
fn sessions_with_own_trigger(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let sessions = all(flow, inputs).key_by(|row| row.key).window(Session::gap(ms(9))).trigger(Silence);
    sessions
        .aggregate(Sum::of(|row: &Row| row.value))
        .map(|of| [of.key as i64, of.value])
        .key_by(|row| row[0])
        .window(Global)
        .trigger(AtEndOfInput)
        .aggregate(Sum::of(|row: &[i64; 2]| row[1]))
        .map(|of| format!("{} {}", of.key, of.value))
        .sink(out);
}

fn early_discarding(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let windows = all(flow, inputs).key_by(|row| row.key).window(Tumbling::of(ms(10)));
    windows
        .trigger(OnTime::new().early(Every::count(2)))
        .discarding()
        .aggregate(Sum::of(|row: &Row| row.value))
        .map(|of| [of.key as i64, of.window.map_or(0, |window| window.start.0), of.value])
        .key_by(|row| i128::from(row[0]) << 64 | i128::from(row[1] as u64))
        .window(Global)
        .trigger(AtEndOfInput)
        .aggregate(Sum::of(|row: &[i64; 3]| row[2]))
        .map(|of| format!("{} {} {}", of.key >> 64, of.key as i64, of.value))
        .sink(out);
}

fn continuous(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let windows = all(flow, inputs).key_by(|row| row.key).window(Tumbling::of(ms(20)));
    windows
        .trigger(Continuous::every(ms(4)))
        .aggregate((Count, Sum::of(|row: &Row| row.value)))
        .filter(|of| of.pane.timing == Timing::OnTime)
        .map(|of| format!("{} {:?} {:?}", of.key, of.window, of.value))
        .sink(out);
}

/// Rows with an even value in windows of ten milliseconds and of forty, others in none.
#[derive(Debug)]
struct Evens;

impl Assigner<Row> for Evens {
    fn assign(&self, row: &Row, at: Timestamp, windows: &mut Vec<Window>) {
        if row.value % 2 == 0 {
            windows.push(Tumbling::of(ms(10)).window_of(at));
            windows.push(Tumbling::of(ms(40)).window_of(at));
        }
    }
}

fn assigned(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let windows = all(flow, inputs).key_by(|row| row.key).window_by(Evens);
    let counted = windows.aggregate((Count, Sum::of(|row: &Row| row.value)));
    counted.map(|of| format!("{} {:?} {:?}", of.key, of.window, of.value)).sink(out);
}

fn last_three(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let windows = all(flow, inputs).key_by(Row::own).window(Sliding::of(ms(20)).every(ms(10)));
    windows
        .elements()
        .evict(Keep::last(3))
        .process(|key, window, _, rows: &[Element<Row>]| Some(format!("{key} {window:?} {:?}", values(rows))))
        .sink(out);
}

fn newest_of_session(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let sessions = all(flow, inputs).key_by(|row| row.key).window(Session::gap(ms(7)));
    sessions
        .elements()
        .evict(Keep::within(ms(6)))
        .process(|key, window, _, rows: &[Element<Row>]| {
            let mut values = values(rows);
            values.sort_unstable();
            Some(format!("{key} {window:?} {values:?}"))
        })
        .sink(out);
}

fn counts(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let windows = all(flow, inputs).key_by(Row::own).window(CountWindow::of(4));
    let summed = windows.aggregate(Sum::of(|row: &Row| row.value));
    summed.map(|of| format!("{} {} {}", of.key, of.pane, of.value)).sink(out);
}

fn sliding_counts(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let windows = all(flow, inputs).key_by(Row::own).window(CountWindow::of(5).every(2));
    windows.process(|key, _, pane, rows: &[Element<Row>]| [format!("{key} {pane} {:?}", values(rows))]).sink(out);
}

fn totals(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let windows = all(flow, inputs).key_by(|row| row.key).window(Global).trigger(AtEndOfInput);
    let counted = windows.aggregate((Count, Sum::of(|row: &Row| row.value)));
    counted.map(|of| format!("{} {:?}", of.key, of.value)).sink(out);
}

fn deltas(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let apart = |last: &Row, now: &Row| (now.value - last.value).abs() as f64;
    let windows = all(flow, inputs).key_by(Row::own).window(Global).trigger(Delta::over(40.0, apart));
    let counted = windows.aggregate((Count, Sum::of(|row: &Row| row.value)));
    counted.map(|of| format!("{} {} {:?}", of.key, of.pane, of.value)).sink(out);
}

#[derive(KeyedState)]
struct Buckets {
    sums: Map<i64, i64>,
}

impl Buckets {
    /// Adds to the ten milliseconds that `at` is in, and says when they end.
    fn add(&mut self, at: Timestamp, value: i64) -> Timestamp {
        let last = Tumbling::of(ms(10)).window_of(at).end.plus_ms(-1);
        self.sums.update_or(last.0, 0, |sum| *sum += value);
        last
    }
}

struct Bucketed;

type Cx<'a> = ProcessContext<'a, u64, String>;

impl Process<u64, Row> for Bucketed {
    type State = Buckets;
    type Out = String;

    fn on_event(&mut self, buckets: &mut Buckets, row: Row, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let last = buckets.add(cx.timestamp(), row.value);
        cx.timers().event(last);
        Ok(())
    }

    fn on_timer(&mut self, buckets: &mut Buckets, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let last = cx.timestamp();
        let sum = buckets.sums.get(&last.0).copied();
        cx.emit(format!("{} {last} {sum:?}", cx.key()));
        buckets.sums.remove(&last.0);
        Ok(())
    }
}

fn buckets(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    all(flow, inputs).key_by(|row| row.key).process(Bucketed).sink(out);
}

/// As above, and what comes from the right counts a thousandfold.
struct Meetings;

impl CoProcess<u64, Row, Row> for Meetings {
    type State = Buckets;
    type Out = String;

    fn on_left(&mut self, buckets: &mut Buckets, row: Row, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        Bucketed.on_event(buckets, row, cx)
    }

    fn on_right(&mut self, buckets: &mut Buckets, row: Row, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        Bucketed.on_event(buckets, Row { value: row.value * 1_000, ..row }, cx)
    }

    fn on_timer(&mut self, buckets: &mut Buckets, timer: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        Bucketed.on_timer(buckets, timer, cx)
    }
}

fn meetings(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let right = flow.pushed(&inputs[2]).key_by(|row| row.key);
    left(flow, inputs).key_by(|row| row.key).connect(right).process(Meetings).sink(out);
}

#[derive(KeyedState)]
struct Counted {
    rows: Value<u64>,
}

/// At the end, each key tells of its rows and of all that was heard.
struct Hears;

impl BroadcastProcess<u64, Row, Row> for Hears {
    type State = Counted;
    type Shared = BTreeMap<u64, i64>;
    type Out = String;

    fn on_event(
        &mut self,
        counted: &mut Counted,
        _: &BTreeMap<u64, i64>,
        _: Row,
        cx: &mut Cx<'_>,
    ) -> Result<(), BoxError> {
        counted.rows.update_or(0, |rows| *rows += 1);
        cx.timers().event(Timestamp::MAX);
        Ok(())
    }

    fn on_broadcast(&mut self, heard: &mut BTreeMap<u64, i64>, row: Row, _: &BroadcastContext) -> Result<(), BoxError> {
        *heard.entry(row.key).or_default() += row.value;
        Ok(())
    }

    fn on_timer(
        &mut self,
        counted: &mut Counted,
        heard: &BTreeMap<u64, i64>,
        _: Timer,
        cx: &mut Cx<'_>,
    ) -> Result<(), BoxError> {
        cx.emit(format!("{} {} {heard:?}", cx.key(), counted.rows.get_or(0)));
        counted.rows.clear();
        Ok(())
    }
}

fn broadcast(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let heard = flow.pushed(&inputs[2]).broadcast();
    left(flow, inputs).key_by(|row| row.key).connect_broadcast(heard).process(Hears).sink(out);
}

fn told(left: Option<&Row>, right: Option<&Row>) -> String {
    format!("{:?} {:?}", left.map(|row| (row.key, row.at, row.value)), right.map(|row| (row.at, row.value)))
}

fn interval_join(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let right = flow.pushed(&inputs[2]).key_by(|row| row.key);
    let joined = left(flow, inputs).key_by(|row| row.key).interval_join(right).between(-6, 4);
    joined.full_outer(told).sink(out);
}

fn window_join(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let right = flow.pushed(&inputs[2]).key_by(|row| row.key);
    let joined = left(flow, inputs).key_by(|row| row.key).window_join(right);
    joined.window(Sliding::of(ms(20)).every(ms(10))).inner(|left, right| told(Some(left), Some(right))).sink(out);
}

fn co_group(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let right = flow.pushed(&inputs[2]).key_by(|row| row.key);
    let grouped = left(flow, inputs).key_by(|row| row.key).co_group(right).window(Tumbling::of(ms(10)));
    let sum = |rows: &[Row]| rows.iter().map(|row| row.value).sum::<i64>();
    grouped
        .apply(move |key, window, left, right| {
            [format!("{key} {window:?} {} of {}, {} of {}", sum(left), left.len(), sum(right), right.len())]
        })
        .sink(out);
}

fn as_of(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let right = flow.pushed(&inputs[2]).key_by(|row| row.key);
    let joined = left(flow, inputs).key_by(|row| row.key).as_of(right);
    joined.left_outer(|left, right| told(Some(left), right)).sink(out);
}

fn all_pairs(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let right = flow.pushed(&inputs[2]).key_by(|row| row.key);
    let joined =
        left(flow, inputs).key_by(|row| row.key).join_unbounded(right, |left, right| told(Some(left), Some(right)));
    joined.sink(out);
}

fn dedup(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    all(flow, inputs).key_by(Row::own).dedup(ms(11)).map(|row| format!("{row:?}")).sink(out);
}

fn dedup_unbounded(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    all(flow, inputs).key_by(Row::own).dedup_unbounded().map(|row| format!("{row:?}")).sink(out);
}

#[derive(KeyedState)]
struct Running {
    sum: Value<i64>,
}

/// Three rounds, in each of which a row meets the sum of its key there, until that is over a hundred.
fn iteration(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let rounds = all(flow, inputs).iterate(
        3,
        |_, rows| {
            rows.key_by(Row::own).map_with_state(|running: &mut Running, row: &Row| {
                let sum = running.sum.update_or(0, |sum| {
                    *sum += row.value;
                    *sum
                });
                Row { value: sum, ..*row }
            })
        },
        |row| row.value > 100,
    );
    rounds.map(|row| format!("{row:?}")).sink(out);
}

fn requests(flow: &Flow, inputs: &Inputs, out: Collected<String>) {
    let asked =
        all(flow, inputs).map_async(Requests::unordered(Duration::from_secs(60)).capacity(2), |row: Row| async move {
            // Some answers come at once, others overtake each other.
            if row.value % 4 == 0 {
                glommio::timer::sleep(Duration::from_micros(row.value as u64 % 50)).await;
            }
            Ok(Row { value: row.value * 2, ..row })
        });
    let windows = asked.key_by(|row| row.key).window(Tumbling::of(ms(10)));
    let summed = windows.aggregate((Count, Sum::of(|row: &Row| row.value)));
    summed.map(|of| format!("{} {:?} {:?}", of.key, of.window, of.value)).sink(out);
}
