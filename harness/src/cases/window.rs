//! One keyed window operator, step by step.

use serde_json::Value;

use super::fields::{Fields, int, text, tuple};
use super::recovery::Names;
use super::windowed::{Emitted, Pipeline, When, Windows, when};
use super::{Why, same, same_rows};

/// Key, value, and the window, where there is more than one.
type Out = (String, i64, Option<(i64, i64)>);

pub(super) fn steps(case: &Fields<'_>) -> Result<(), Why> {
    let mut names = Names::default();
    let pipeline = case.fields("pipeline")?;
    let when = if pipeline.has("trigger") { when(&pipeline.fields("trigger")?)? } else { When::Default };
    let is_discarding = pipeline.flag_or("purging", false)?;
    let described = Pipeline::of(&pipeline, when, is_discarding, &mut names)?;
    pipeline.done()?;
    let mut windows = Windows::of(described)?;
    // A case that lists no late row anywhere is not about them.
    let is_about_late = case.list("steps")?.iter().any(|step| step.get("late").is_some());
    for step in case.each("steps")? {
        windows.play(&step, &mut names)?;
        let what = step.what();
        let got = windows.take().iter().map(|row: &Emitted| (names.name(row.key), row.value, row.window)).collect();
        let expected = step.list_or_none("out")?.iter().map(out).collect::<Result<Vec<Out>, _>>()?;
        same_rows(&format!("what {what} emits"), got, expected)?;
        let late = step.list_or_none("late")?.iter().map(late).collect::<Result<Vec<_>, _>>()?;
        let got = windows.take_late().into_iter().map(|(key, value, at)| (names.name(key), value, at)).collect();
        if is_about_late {
            same_rows(&format!("what is late in {what}"), got, late)?;
        }
        if step.has("state_empty") {
            let is_empty = step.flag_or("state_empty", true)?;
            let entries = windows.job.entries();
            same(
                &format!("whether no state is left after {what}, where there is {entries:?}"),
                &entries.is_empty(),
                &is_empty,
            )?;
        }
        step.done()?;
    }
    Ok(())
}

fn late(value: &Value) -> Result<(String, i64, i64), Why> {
    let [key, value, at] = tuple("a late row", value)?;
    Ok((text("a key", key)?.to_owned(), int("a value", value)?, int("a time", at)?))
}

fn out(value: &Value) -> Result<Out, Why> {
    let row = Fields::of("a row of \"out\"", value)?;
    let window = match (row.get("start")?, row.get("end")?) {
        (Value::Null, Value::Null) => None,
        (start, end) => Some((int("\"start\"", start)?, int("\"end\"", end)?)),
    };
    let out = (row.text("key")?.to_owned(), row.int("value")?, window);
    row.done()?;
    Ok(out)
}
