//! Watermarks: made of rows, merged over inputs and over splits, and what they complete.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::testing::{Collected, Operator, Pushed, SplitWatermarks, TestJob, Told, WatermarkInputs};
use millstream::{Count, Timestamp, Tumbling, Watermarks};
use serde_json::Value;

use super::assigned::aligned;
use super::fields::{Fields, int, list, text, tuple};
use super::{Why, failed, same};

/// A run's generator is fresh; its rows come through a job, and the watermark is what the job's stage has come to.
pub(super) fn generator(case: &Fields<'_>) -> Result<(), Why> {
    let generator = case.fields("generator")?;
    let watermarks = match generator.text("type")? {
        "bounded_out_of_orderness" => {
            let bound = generator.int("bound")?;
            let bound = u64::try_from(bound).map_err(|_| format!("\"bound\" is {bound}, and no span of time"))?;
            Watermarks::bounded(Duration::from_millis(bound))
        }
        "monotonic" | "monotonous" | "ascending" | "monotonous_timestamps" | "ascending_timestamps" => {
            Watermarks::monotonic()
        }
        other => return Err(format!("there is no generator \"{other}\"")),
    };
    generator.done()?;
    for run in case.each("runs")? {
        let (events, expected) = (run.ints("events")?, run.int("periodic")?);
        run.done()?;
        let input = Pushed::<i64>::new();
        let pushed = input.clone();
        let mut job = TestJob::new(1, move |flow| {
            flow.pushed_untimed(&pushed).event_time(|at| Timestamp(*at), watermarks).sink(Collected::new());
        })
        .map_err(failed)?;
        events.iter().for_each(|at| input.push(*at, Timestamp::MIN));
        job.settle().map_err(failed)?;
        let times = job.explain_watermark().operators;
        let got = times.first().ok_or("the job has no stage that gives event time")?.watermark.0;
        same(&format!("the watermark of {}", run.what()), &got, &expected)?;
    }
    Ok(())
}

pub(super) fn combine(case: &Fields<'_>) -> Result<(), Why> {
    let channels = channels(case)?;
    let mut inputs = WatermarkInputs::of(channels);
    for step in case.each("steps")? {
        let channel = step.index("ch", channels)?;
        let told = match step.opt("status") {
            None => inputs.watermark(channel, Timestamp(step.int("wm")?)),
            Some(status) => match text("\"status\"", status)? {
                "idle" => inputs.idle(channel),
                "active" => inputs.active(channel),
                other => return Err(format!("\"status\" of {} is \"{other}\", and not idle or active", step.what())),
            },
        };
        let got: Vec<Value> = told
            .into_iter()
            .map(|told| match told {
                Told::Watermark(at) => at.0.into(),
                Told::Idle => "idle".into(),
                Told::Active => "active".into(),
            })
            .collect();
        let expected = step.list_or_none("out")?;
        step.done()?;
        same(&format!("what {} forwards", step.what()), &got.as_slice(), &expected)?;
    }
    Ok(())
}

/// How many inputs a case is about.
pub(super) fn channels(case: &Fields<'_>) -> Result<usize, Why> {
    let channels = case.int("channels")?;
    let count = usize::try_from(channels).ok().filter(|count| (1..=4096).contains(count));
    count.ok_or_else(|| format!("\"channels\" must lie between 1 and 4096, and is {channels}"))
}

pub(super) fn multiplex(case: &Fields<'_>) -> Result<(), Why> {
    for fact in case.each("facts")? {
        fact.pass_over("why");
        let mut splits = SplitWatermarks::new();
        let mut numbers = BTreeMap::<&str, usize>::new();
        for step in fact.list("steps")? {
            let step = list("a step", step)?;
            let (verb, name) = match step {
                [verb, name, ..] => (text("a step's verb", verb)?, text("a split's name", name)?),
                _ => return Err(format!("a step is [verb, split, ..], and not {step:?}")),
            };
            let number = numbers.get(name).copied().ok_or_else(|| format!("split \"{name}\" is not registered"));
            match (verb, &step[2..]) {
                ("reg", []) if number.is_ok() => return Err(format!("split \"{name}\" is registered twice")),
                ("reg", []) => drop(numbers.insert(name, splits.add())),
                ("unreg", []) => {
                    splits.remove(number?);
                    numbers.remove(name);
                }
                ("wm", [at]) => splits.watermark(number?, Timestamp(int("a watermark", at)?)),
                ("idle", []) => splits.idle(number?),
                ("active", []) => splits.active(number?),
                _ => return Err(format!("the step {step:?} is not known")),
            }
        }
        let combined = match fact.get("combined")? {
            Value::Null => None,
            at => Some(int("\"combined\"", at)?).filter(|at| *at > i64::MIN),
        };
        same(&format!("the watermark of {}", fact.what()), &splits.combined().map(|at| at.0), &combined)?;
        let is_idle = fact.flag_or("idle", splits.is_idle())?;
        same(&format!("idleness of {}", fact.what()), &splits.is_idle(), &is_idle)?;
        fact.done()?;
    }
    Ok(())
}

/// Each watermark finds a fresh window with one row in it.
pub(super) fn fires(case: &Fields<'_>) -> Result<(), Why> {
    let (windows, start) = a_window(case)?;
    for fire in case.list("fires")? {
        let [watermark, fires] = tuple("a firing", fire)?;
        let watermark = int("a watermark", watermark)?;
        let fires = fires.as_bool().ok_or_else(|| format!("a firing is [watermark, true or false], and not {fire}"))?;
        let mut counts = Operator::<i64, u64>::of(move |rows| {
            rows.key_by(|_| 0_u64).window(windows).aggregate(Count).map(|window| window.value)
        })
        .map_err(failed)?;
        counts.push(0, Timestamp(start)).map_err(failed)?;
        counts.watermark(Timestamp(watermark)).map_err(failed)?;
        same(&format!("whether it fires at {watermark}"), &!counts.take().is_empty(), &fires)?;
    }
    Ok(())
}

/// The windows, and the start of the one that is meant: `[start, end]`, `{start, end}`, or a definition, of which it is the
/// window of `ts`, or else of zero.
fn a_window(case: &Fields<'_>) -> Result<(Tumbling, i64), Why> {
    let value = case.get("window")?;
    let (start, end) = if value.is_array() {
        super::fields::pair("\"window\"", value)?
    } else {
        let window = case.fields("window")?;
        let bounds = if window.has("start") {
            (window.int("start")?, window.int("end")?)
        } else {
            window.pass_over("time");
            let at = case.int_or("ts", 0)?;
            let windows = aligned(&window)?.map_err(|error| error.to_string())?;
            let windows = millstream::testing::windows_of(windows, Timestamp(at));
            let window = windows.first().ok_or_else(|| format!("{at} is in no window"))?;
            (window.start.0, window.end.0)
        };
        window.done()?;
        bounds
    };
    let size = end.checked_sub(start).filter(|size| *size > 0);
    let size = size.ok_or_else(|| format!("[{start}, {end}) is no window"))?;
    let windows = Tumbling::try_of_ms(size, start % size).map_err(|error| error.to_string())?;
    Ok((windows, start))
}
