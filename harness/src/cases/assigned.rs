//! Which windows a timestamp is in, and which definitions are refused.

use millstream::testing::{Definition, windows_of};
use millstream::{Session, Sliding, Timestamp, Tumbling, WindowError};

use super::fields::{Fields, pair};
use super::{Why, same};

/// Windows that a timestamp alone decides on.
pub(super) fn aligned(fields: &Fields<'_>) -> Result<Result<Definition, WindowError>, Why> {
    Ok(match fields.text("type")? {
        "tumbling" => Tumbling::try_of_ms(fields.int("size")?, fields.int_or("offset", 0)?).map(Definition::from),
        "sliding" => {
            let (size, slide) = (fields.int("size")?, fields.int("slide")?);
            Sliding::try_of_ms(size, slide, fields.int_or("offset", 0)?).map(Definition::from)
        }
        "session" => Session::try_gap_ms(fields.int("gap")?).map(Definition::from),
        other => return Err(format!("\"type\" of {} is \"{other}\", which is not known here", fields.what())),
    })
}

/// Whether windows are of event time; which moment a timestamp is of makes no difference to the windows it is in.
fn time(fields: &Fields<'_>) -> Result<(), Why> {
    match fields.opt("time") {
        None => Ok(()),
        Some(time) if time == "event" || time == "processing" => Ok(()),
        Some(other) => Err(format!("\"time\" of {} is {other}, and must be event or processing", fields.what())),
    }
}

pub(super) fn assign(case: &Fields<'_>) -> Result<(), Why> {
    let window = case.fields("window")?;
    time(&window)?;
    let definition = aligned(&window)?.map_err(|error| error.to_string())?;
    window.done()?;
    for row in case.each("rows")? {
        let at = row.int("ts")?;
        let mut expected =
            row.list("windows")?.iter().map(|window| pair("a window", window)).collect::<Result<Vec<_>, _>>()?;
        expected.sort_unstable();
        row.done()?;
        let windows = windows_of(definition, Timestamp(at));
        let mut got: Vec<_> = windows.iter().map(|window| (window.start.0, window.end.0)).collect();
        got.sort_unstable();
        same(&format!("the windows of {at}"), &got, &expected)?;
    }
    Ok(())
}

pub(super) fn invalid(case: &Fields<'_>) -> Result<(), Why> {
    for window in case.each("rejected")? {
        time(&window)?;
        let refused = aligned(&window)?.is_err();
        window.done()?;
        if !refused {
            return Err(format!("{} is not refused", window.what()));
        }
    }
    Ok(())
}
