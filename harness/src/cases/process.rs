//! Timers, set and taken back by rows that say so: what a case needs no code of its own for.

use millstream::state::{KeyedState, Value as Kept};
use millstream::testing::Operator;
use millstream::{BoxError, Process, ProcessContext, Timer, Timestamp, WallTime};
use serde_json::Value;

use super::fields::{Fields, int, text, tuple};
use super::recovery::Names;
use super::{Answer, Why, failed, same, same_rows};

/// What a row tells the function to do.
const SET_EVENT: u64 = 0;
const SET_PROCESSING: u64 = 1;
const DELETE_EVENT: u64 = 2;
const DELETE_PROCESSING: u64 = 3;

#[millstream::event]
#[derive(Clone, Copy)]
struct Order {
    key: u64,
    what: u64,
    at: i64,
}

/// Timers are all that it keeps; the state is there because a process function has one.
#[derive(KeyedState)]
struct Nothing {
    _unused: Kept<u64>,
}

/// Does what rows say, and tells of each timer that fires.
struct Timers;

impl Process<u64, Order> for Timers {
    type State = Nothing;
    type Out = (u64, i64);

    fn on_event(
        &mut self,
        _: &mut Nothing,
        order: Order,
        cx: &mut ProcessContext<'_, u64, (u64, i64)>,
    ) -> Result<(), BoxError> {
        let mut timers = cx.timers();
        match order.what {
            SET_EVENT => timers.event(Timestamp(order.at)),
            SET_PROCESSING => timers.processing(WallTime(order.at)),
            DELETE_EVENT => drop(timers.delete_event(Timestamp(order.at))),
            DELETE_PROCESSING => drop(timers.delete_processing(WallTime(order.at))),
            unknown => return Err(format!("there is no order {unknown}").into()),
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        _: &mut Nothing,
        timer: Timer,
        cx: &mut ProcessContext<'_, u64, (u64, i64)>,
    ) -> Result<(), BoxError> {
        let at = match timer {
            Timer::Event(Timestamp(at)) | Timer::Processing(WallTime(at)) => at,
        };
        let key = *cx.key();
        cx.emit((key, at));
        Ok(())
    }
}

/// The steps that are orders.
const ORDERS: [(&str, u64); 4] = [
    ("register_event_timers", SET_EVENT),
    ("register_processing_timers", SET_PROCESSING),
    ("delete_event_timers", DELETE_EVENT),
    ("delete_processing_timers", DELETE_PROCESSING),
];

/// The steps of every kind that are known.
const KNOWN: [&str; 5] = ["wm", "pt", "snapshot_restore", "end_of_input", "out"];

pub(super) fn timers(case: &Fields<'_>) -> Answer {
    if !case.has("steps") {
        return Ok(Some("it has no steps, and so is about code of a user's".to_owned()));
    }
    let steps = case.each("steps")?;
    let known = |field: &str| {
        KNOWN.contains(&field) || field == "state_empty" || ORDERS.iter().any(|(order, _)| *order == field)
    };
    let values = case.list("steps")?.iter().filter_map(Value::as_object).flat_map(|step| step.keys());
    if let Some(unknown) = values.into_iter().find(|field| !known(field)) {
        return Ok(Some(format!("a step has \"{unknown}\", which needs code of a user's")));
    }
    let mut names = Names::default();
    let mut function = Operator::keyed(|order: &Order| order.key, || Timers).map_err(failed)?;
    let mut shards = 1;
    for step in steps {
        for (field, what) in ORDERS {
            for timer in step.list_or_none(field)? {
                let [key, at] = tuple("a timer", timer)?;
                let (key, at) = (names.number(text("a key", key)?), int("a timer's time", at)?);
                // The row's own time says nothing here; it is not late.
                function.push(Order { key, what, at }, Timestamp::MAX).map_err(failed)?;
            }
        }
        if step.has("wm") {
            function.watermark(Timestamp(step.int("wm")?)).map_err(failed)?;
        }
        if step.has("pt") {
            function.processing_time(WallTime(step.int("pt")?)).map_err(failed)?;
        }
        if step.flag_or("snapshot_restore", false)? {
            // On one shard and on several in turn: a case does not care.
            shards = 3 - shards;
            let snapshot = function.snapshot().map_err(failed)?;
            function.restore(&snapshot, shards).map_err(failed)?;
        }
        if step.flag_or("end_of_input", false)? {
            function.end_of_input().map_err(failed)?;
        }
        let got = function.take().into_iter().map(|(key, at)| (at, names.name(key)));
        fired(&step, got.collect())?;
        if step.has("state_empty") {
            let is_empty = step.flag_or("state_empty", true)?;
            same(&format!("whether no timer is left after {}", step.what()), &function.state_is_empty(), &is_empty)?;
        }
        step.done()?;
    }
    Ok(None)
}

/// Timers of one time have no order; times have.
fn fired(step: &Fields<'_>, got: Vec<(i64, String)>) -> Result<(), Why> {
    let timer = |value| {
        let [key, at] = tuple("a timer of \"out\"", value)?;
        Ok((int("a timer's time", at)?, text("a key", key)?.to_owned()))
    };
    let expected = step.list_or_none("out")?.iter().map(timer).collect::<Result<Vec<_>, Why>>()?;
    let times = |timers: &[(i64, String)]| timers.iter().map(|(at, _)| *at).collect::<Vec<_>>();
    same(&format!("the order of the timers of {}", step.what()), &times(&got), &times(&expected))?;
    same_rows(&format!("the timers that {} fires", step.what()), got, expected)
}
