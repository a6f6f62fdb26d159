//! The job of a case about windows: rows of a key, the windows that the case describes, and what comes out of them.

use std::time::Duration;

use millstream::testing::{Collected, Pushed, Snapshot, TestJob};
use millstream::{
    Aggregate, AtEndOfInput, Continuous, Every, Fired, Flow, Global, Keep, KeyedStream, Late, OnCount, OnTime, Session,
    Sliding, Stream, Timestamp, Timing, Tumbling, WallTime, Windowed, testing::PushedRows,
};
use serde_json::Value;

use super::fields::{Fields, int, list, text, tuple};
use super::recovery::Names;
use super::{Why, failed};

/// A row of a case.
#[millstream::event]
#[derive(Clone, Copy, Default)]
pub(super) struct Row {
    pub(super) key: u64,
    pub(super) value: i64,
}

/// Sums values or counts rows. It takes rows whole, so that late ones come out as they went in.
#[derive(Clone, Copy, Debug)]
struct Folds {
    counts: bool,
}

impl Aggregate<Row> for Folds {
    type Input = Row;
    type Acc = i64;
    type Out = i64;

    fn lift(&self, row: &Row) -> Row {
        *row
    }

    fn init(&self) -> i64 {
        0
    }

    fn add(&self, acc: &mut i64, row: Row) {
        *acc += if self.counts { 1 } else { row.value };
    }

    fn merge(&self, into: &mut i64, other: &i64) {
        *into += other;
    }

    fn remove(&self, from: &mut i64, other: &i64) -> bool {
        *from -= other;
        true
    }

    fn finish(&self, acc: &i64) -> i64 {
        *acc
    }
}

/// What came out of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Emitted {
    pub(super) key: u64,
    pub(super) value: i64,
    /// None of the one window that all rows are in.
    pub(super) window: Option<(i64, i64)>,
    /// None where windows are emitted without saying which of their panes it is.
    pub(super) pane: Option<(Timing, u64)>,
}

impl From<&Fired<u64, i64>> for Emitted {
    fn from(fired: &Fired<u64, i64>) -> Emitted {
        let window = fired.window.map(|window| (window.start.0, window.end.0));
        Emitted { key: fired.key, value: fired.value, window, pane: Some((fired.pane.timing, fired.pane.index)) }
    }
}

impl From<&Windowed<u64, i64>> for Emitted {
    fn from(row: &Windowed<u64, i64>) -> Emitted {
        Emitted { key: row.key, value: row.value, window: Some((row.window.start.0, row.window.end.0)), pane: None }
    }
}

/// Which windows.
#[derive(Clone, Debug)]
enum Kind {
    Tumbling(Tumbling),
    Sliding(Sliding),
    Session(Session),
    SessionBy(Gaps),
    Global,
}

/// Gaps in milliseconds by key and value; the first that fits counts.
#[derive(Clone, Debug)]
struct Gaps(Vec<(u64, Option<i64>, u64)>);

impl Gaps {
    fn of(&self, row: &Row) -> Option<Duration> {
        let fits = |(key, value, _): &&(u64, Option<i64>, u64)| {
            *key == row.key && value.is_none_or(|value| value == row.value)
        };
        self.0.iter().find(fits).map(|(_, _, gap_ms)| Duration::from_millis(*gap_ms))
    }
}

/// When they are emitted.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    Default,
    Count(OnCount),
    Continuous(Continuous),
    ContinuousWall(u64),
    AtEndOfInput,
    Panes { early: Option<Every>, late: Option<Every> },
}

/// All that a pipeline says.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    kind: Kind,
    is_processing: bool,
    when: When,
    is_discarding: bool,
    keep: Option<u64>,
    lateness: Duration,
    folds: Folds,
}

impl Pipeline {
    /// What is common to all pipelines; when windows are emitted, and what is left of them then, is the category's to say.
    pub(super) fn of(
        pipeline: &Fields<'_>,
        when: When,
        is_discarding: bool,
        names: &mut Names,
    ) -> Result<Pipeline, Why> {
        let window = pipeline.fields("window")?;
        let is_processing = match window.has("time").then(|| window.text("time")).transpose()? {
            None | Some("event") => false,
            Some("processing") => true,
            Some(other) => return Err(format!("\"time\" is \"{other}\", and must be event or processing")),
        };
        let kind = kind(&window, names)?;
        window.done()?;
        let lateness = pipeline.int_or("allowed_lateness", 0)?;
        let lateness = u64::try_from(lateness).map_err(|_| format!("\"allowed_lateness\" is {lateness}"))?;
        let counts = match pipeline.text("aggregate")? {
            "sum" => false,
            "count" => true,
            other => return Err(format!("there is no aggregate \"{other}\"")),
        };
        let keep = pipeline.has("evictor").then(|| keep(pipeline)).transpose()?.flatten();
        let (lateness, folds) = (Duration::from_millis(lateness), Folds { counts });
        Ok(Pipeline { kind, is_processing, when, is_discarding, keep, lateness, folds })
    }
}

fn kind(window: &Fields<'_>, names: &mut Names) -> Result<Kind, Why> {
    let refused = |error: millstream::WindowError| error.to_string();
    Ok(match window.text("type")? {
        "tumbling" => {
            Kind::Tumbling(Tumbling::try_of_ms(window.int("size")?, window.int_or("offset", 0)?).map_err(refused)?)
        }
        "sliding" => {
            let (size, slide) = (window.int("size")?, window.int("slide")?);
            Kind::Sliding(Sliding::try_of_ms(size, slide, window.int_or("offset", 0)?).map_err(refused)?)
        }
        "session" if window.get("gap")?.is_object() => {
            let gap = window.fields("gap")?;
            let gaps = gap.list("by_key_value")?.iter().map(|entry| {
                let [key, value, gap] = tuple("a gap", entry)?;
                let value = if value.is_null() { None } else { Some(int("a gap's value", value)?) };
                let gap = int("a gap's length", gap)?;
                let gap = u64::try_from(gap).map_err(|_| format!("a gap of {gap} ms cannot be"))?;
                Ok((names.number(text("a gap's key", key)?), value, gap))
            });
            let gaps = gaps.collect::<Result<_, Why>>()?;
            gap.done()?;
            Kind::SessionBy(Gaps(gaps))
        }
        "session" => Kind::Session(Session::try_gap_ms(window.int("gap")?).map_err(refused)?),
        "global" => Kind::Global,
        other => return Err(format!("there are no windows of type \"{other}\"")),
    })
}

/// The rows that an evictor keeps; `null` is none.
fn keep(pipeline: &Fields<'_>) -> Result<Option<u64>, Why> {
    if pipeline.get("evictor")?.is_null() {
        return Ok(None);
    }
    let evictor = pipeline.fields("evictor")?;
    if evictor.has("type") && evictor.text("type")? != "count" {
        return Err(format!("there is no evictor \"{}\"", evictor.text("type")?));
    }
    // `count` names what it goes by; where nothing else does, it says how many.
    evictor.pass_over("count");
    let keep = if evictor.has("keep") { evictor.int("keep")? } else { evictor.int("count")? };
    evictor.done()?;
    u64::try_from(keep).map(Some).map_err(|_| format!("an evictor cannot keep {keep} rows"))
}

/// What a window trigger of a case is called.
pub(super) fn when(trigger: &Fields<'_>) -> Result<When, Why> {
    let refused = |error: millstream::WindowError| error.to_string();
    let rows = |field| {
        let rows = trigger.int(field)?;
        u64::try_from(rows).map_err(|_| format!("\"{field}\" is {rows}"))
    };
    let when = match trigger.text("type")? {
        "default" => When::Default,
        "count" => When::Count(OnCount::try_of(rows("n")?).map_err(refused)?),
        "continuous_event_time" => {
            When::Continuous(Continuous::try_every_ms(trigger.int("interval")?).map_err(refused)?)
        }
        "continuous_processing_time" => When::ContinuousWall(rows("interval")?),
        "end_of_input" => When::AtEndOfInput,
        other => return Err(format!("there is no trigger \"{other}\"")),
    };
    trigger.done()?;
    Ok(when)
}

/// How often panes come; `null` is never.
pub(super) fn every(pipeline: &Fields<'_>, field: &str) -> Result<Option<Every>, Why> {
    if pipeline.opt(field).is_none_or(Value::is_null) {
        return Ok(None);
    }
    let every = pipeline.fields(field)?;
    let often = if every.has("count") {
        let rows = every.int("count")?;
        Every::try_count(u64::try_from(rows).map_err(|_| format!("panes of {rows} rows cannot be"))?)
    } else {
        Every::try_delay_ms(every.int("processing_delay")?)
    };
    every.done()?;
    often.map(Some).map_err(|error| error.to_string())
}

/// A case's job, and what has come out of it.
pub(super) struct Windows {
    input: Pushed<Row>,
    out: Collected<Emitted>,
    late: Collected<Late<u64, Row>>,
    gaps: Option<Gaps>,
    shards: u32,
    pub(super) job: TestJob,
}

impl Windows {
    pub(super) fn of(pipeline: Pipeline) -> Result<Windows, Why> {
        let (input, out, late) = (Pushed::new(), Collected::new(), Collected::new());
        let gaps = if let Kind::SessionBy(gaps) = &pipeline.kind { Some(gaps.clone()) } else { None };
        let (pushed, collected, late_rows) = (input.clone(), out.clone(), late.clone());
        let job = TestJob::new(1, move |flow| build(flow, &pipeline, &pushed, collected.clone(), late_rows.clone()));
        Ok(Windows { input, out, late, gaps, shards: 1, job: job.map_err(failed)? })
    }

    pub(super) fn push(&self, row: Row, at: i64) -> Result<(), Why> {
        if self.gaps.as_ref().is_some_and(|gaps| gaps.of(&row).is_none()) {
            return Err(format!("no gap is said for a row of value {}", row.value));
        }
        self.input.push(row, Timestamp(at));
        Ok(())
    }

    /// What a step of either category does, as far as it is one.
    pub(super) fn play(&mut self, step: &Fields<'_>, names: &mut Names) -> Result<(), Why> {
        for row in step.list_or_none("in")? {
            let (key, value, at) = match list("a row", row)? {
                [key, value, at] => (key, value, int("a row's time", at)?),
                _ => return Err(format!("a row is [key, value, timestamp], and not {row}")),
            };
            let row = Row { key: names.number(text("a key", key)?), value: int("a value", value)? };
            self.push(row, at)?;
        }
        if step.has("wm") {
            self.input.watermark(Timestamp(step.int("wm")?));
        }
        if step.has("pt") {
            self.job.processing_time(WallTime(step.int("pt")?)).map_err(failed)?;
        }
        if step.flag_or("snapshot_restore", false)? {
            // Elsewhere each time: a case does not care on how many shards it is.
            self.shards = self.shards % 3 + 1;
            let snapshot: Snapshot = self.job.snapshot().map_err(failed)?;
            self.job.restore(&snapshot, self.shards).map_err(failed)?;
        }
        if step.flag_or("end_of_input", false)? {
            self.job.end_of_input().map_err(failed)?;
        }
        self.job.settle().map_err(failed)
    }

    pub(super) fn take(&self) -> Vec<Emitted> {
        self.out.take()
    }

    /// Key, value and time of each row that was late.
    pub(super) fn take_late(&self) -> Vec<(u64, i64, i64)> {
        self.late.take().into_iter().map(|late| (late.key, late.value.value, late.at.0)).collect()
    }
}

/// The keyed stream of a case's rows.
type Keyed = KeyedStream<PushedRows<Row>, millstream::road::keyed::ByValue<u64, fn(&Row) -> u64>>;

fn emitted<E: 'static>(rows: Stream<impl millstream::Chain<Out = E>>, out: Collected<Emitted>)
where
    for<'a> Emitted: From<&'a E>,
{
    rows.map(|row| Emitted::from(row)).sink(out);
}

/// Ends windows that have a trigger. Their type is another for each kind and trigger, so this is no function.
macro_rules! ended {
    ($windows:expr, $pipeline:expr, $out:expr, $late:expr) => {{
        let windows = $windows;
        let windows = if $pipeline.is_discarding { windows.discarding() } else { windows.accumulating() };
        let windows = windows.allowed_lateness($pipeline.lateness).late_to($late);
        match $pipeline.keep {
            None => emitted(windows.aggregate($pipeline.folds), $out),
            Some(rows) => emitted(windows.elements().evict(Keep::last(rows)).aggregate($pipeline.folds), $out),
        }
    }};
}

/// Gives windows their trigger, and ends them.
macro_rules! triggered {
    ($windows:expr, $pipeline:expr, $out:expr, $late:expr) => {{
        let windows = $windows;
        match $pipeline.when {
            When::Default => ended!(windows.trigger(OnTime::new()), $pipeline, $out, $late),
            When::Count(trigger) => ended!(windows.trigger(trigger), $pipeline, $out, $late),
            When::Continuous(trigger) => ended!(windows.trigger(trigger), $pipeline, $out, $late),
            When::ContinuousWall(ms) => {
                ended!(windows.trigger(Continuous::every_wall(Duration::from_millis(ms))), $pipeline, $out, $late)
            }
            When::AtEndOfInput => ended!(windows.trigger(AtEndOfInput), $pipeline, $out, $late),
            When::Panes { early: Some(early), late: Some(late) } => {
                ended!(windows.trigger(OnTime::new().early(early).late(late)), $pipeline, $out, $late)
            }
            When::Panes { early: Some(early), late: None } => {
                ended!(windows.trigger(OnTime::new().early(early)), $pipeline, $out, $late)
            }
            When::Panes { early: None, late: Some(late) } => {
                ended!(windows.trigger(OnTime::new().late(late)), $pipeline, $out, $late)
            }
            When::Panes { early: None, late: None } => ended!(windows.trigger(OnTime::new()), $pipeline, $out, $late),
        }
    }};
}

fn build(
    flow: &Flow,
    pipeline: &Pipeline,
    input: &Pushed<Row>,
    out: Collected<Emitted>,
    late: Collected<Late<u64, Row>>,
) {
    let key: fn(&Row) -> u64 = |row| row.key;
    let keyed: Keyed = flow.pushed(input).key_by(key);
    let is_plain = matches!(pipeline.when, When::Default) && !pipeline.is_discarding && pipeline.keep.is_none();
    match (&pipeline.kind, pipeline.is_processing) {
        // Windows that are emitted at their end and for late rows lie on panes of their own.
        (Kind::Tumbling(kind), false) if is_plain => {
            emitted(
                keyed.window(*kind).allowed_lateness(pipeline.lateness).late_to(late).aggregate(pipeline.folds),
                out,
            );
        }
        (Kind::Sliding(kind), false) if is_plain => {
            emitted(
                keyed.window(*kind).allowed_lateness(pipeline.lateness).late_to(late).aggregate(pipeline.folds),
                out,
            );
        }
        (Kind::Tumbling(kind), false) => triggered!(keyed.window(*kind), pipeline, out, late),
        (Kind::Sliding(kind), false) => triggered!(keyed.window(*kind), pipeline, out, late),
        (Kind::Tumbling(kind), true) => triggered!(keyed.window(kind.processing_time()), pipeline, out, late),
        (Kind::Sliding(kind), true) => triggered!(keyed.window(kind.processing_time()), pipeline, out, late),
        (Kind::Session(kind), false) => triggered!(keyed.window(*kind), pipeline, out, late),
        (Kind::Session(kind), true) => triggered!(keyed.window(kind.processing_time()), pipeline, out, late),
        (Kind::SessionBy(gaps), is_processing) => {
            let gaps = gaps.clone();
            // Rows without a gap were refused before.
            let kind = Session::by(move |row: &Row| gaps.of(row).unwrap_or_default());
            if is_processing {
                triggered!(keyed.window(kind.processing_time()), pipeline, out, late);
            } else {
                triggered!(keyed.window(kind), pipeline, out, late);
            }
        }
        (Kind::Global, _) => triggered!(keyed.window(Global), pipeline, out, late),
    }
}
