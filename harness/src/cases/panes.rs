//! Early, on-time and late panes: the whole output of a case.

use millstream::Timing;

use super::fields::Fields;
use super::recovery::Names;
use super::windowed::{Emitted, Pipeline, When, Windows, every};
use super::{Why, same, same_rows};

/// Key, window, which pane, and value; the index, where it can be compared.
type Pane = (String, Option<(i64, i64)>, Option<u64>, &'static str, i64);

pub(super) fn output(case: &Fields<'_>) -> Result<(), Why> {
    let mut names = Names::default();
    let pipeline = case.fields("pipeline")?;
    let when = When::Panes { early: every(&pipeline, "early")?, late: every(&pipeline, "late")? };
    let is_discarding = match pipeline.text("accumulation")? {
        "accumulating" => false,
        "discarding" => true,
        other => return Err(format!("\"accumulation\" is \"{other}\", and must be accumulating or discarding")),
    };
    let described = Pipeline::of(&pipeline, when, is_discarding, &mut names)?;
    // Where it says that indexes are not to be compared, of all rows or of one, they are not.
    let is_indexed = pipeline.opt("pane_index").is_none() && case.opt("pane_index").is_none();
    pipeline.done()?;
    let mut windows = Windows::of(described)?;
    let mut got: Vec<Emitted> = Vec::new();
    for step in case.each("steps")? {
        windows.play(&step, &mut names)?;
        got.extend(windows.take());
        if step.has("state_empty") {
            let is_empty = step.flag_or("state_empty", true)?;
            same(&format!("whether no state is left after {}", step.what()), &windows.job.state_is_empty(), &is_empty)?;
        }
        step.done()?;
    }
    let expected = case.each("expect")?;
    // Both lists of one window's panes are compared without the indexes, unless each row of it has one.
    let has_index = |row: &Fields<'_>| is_indexed && row.has("index") && row.opt("pane_index").is_none();
    let all_indexed = expected.iter().all(has_index);
    let expected = expected.iter().map(|row| pane(row, all_indexed)).collect::<Result<Vec<Pane>, Why>>()?;
    let name = |timing| match timing {
        Timing::Early => "EARLY",
        Timing::OnTime => "ON_TIME",
        Timing::Late => "LATE",
    };
    let got = got.iter().map(|row| {
        let (timing, index) = row.pane.ok_or("a window does not say which of its panes it emits")?;
        Ok((names.name(row.key), row.window, all_indexed.then_some(index), name(timing), row.value))
    });
    same_rows("the panes", got.collect::<Result<Vec<_>, Why>>()?, expected)
}

fn pane(row: &Fields<'_>, is_indexed: bool) -> Result<Pane, Why> {
    let timing = match row.text("pane")? {
        "EARLY" => "EARLY",
        "ON_TIME" => "ON_TIME",
        "LATE" => "LATE",
        other => return Err(format!("there is no pane \"{other}\"")),
    };
    let window = match row.get("start")?.is_null() && row.get("end")?.is_null() {
        true => None,
        false => Some((row.int("start")?, row.int("end")?)),
    };
    let index = row.int_or("index", 0)?;
    let index = u64::try_from(index).map_err(|_| format!("a pane's index is {index}"))?;
    let pane = (row.text("key")?.to_owned(), window, is_indexed.then_some(index), timing, row.int("value")?);
    row.done()?;
    Ok(pane)
}
