//! Facts about what a correct stream processor emits, in files, asked of the engine's own operators.
//!
//! ```text
//! file ─▶ case ─▶ fields ─▶ a category's room ─▶ the engine's test kit ─▶ what came out ─▶ compared
//! ```
//!
//! | room | categories |
//! |---|---|
//! | `assigned.rs` | `assign`, `assign_invalid`: which windows a timestamp is in |
//! | `time.rs` | `watermark_generator`, `watermark_combine`, `watermark_multiplex`, `watermark_fires` |
//! | `barriers.rs` | `barrier_align` |
//! | `joins.rs` | `interval_join`, `interval_join_cleanup` |
//! | `process.rs` | `process`: timers |
//! | `recovery.rs` | `recovery`: a running sum, a checkpoint, a crash |
//! | `ysb.rs` | `ysb`: the Yahoo query |
//! | `window.rs`, `panes.rs` | `window`, `panes`, on the job that `windowed.rs` builds |
//!
//! Nothing is computed here that an operator should: a room builds the job that the case describes, feeds it, and compares. A
//! field that no room asks for is a failure: what is not understood cannot be said to hold.

mod assigned;
mod barriers;
mod fields;
mod joins;
mod panes;
mod process;
mod recovery;
mod time;
mod window;
mod windowed;
mod ysb;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::Value;

use self::fields::Fields;

/// What became of a case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The engine does as the case says.
    Pass,
    /// It does not, or the case is not understood; why.
    Fail(String),
    /// It needs code of a user's; which.
    Skip(String),
}

impl Outcome {
    /// `pass`, `fail` or `skip`, and the reason.
    #[must_use]
    pub fn words(&self) -> (&'static str, &str) {
        match self {
            Outcome::Pass => ("pass", ""),
            Outcome::Fail(why) => ("fail", why),
            Outcome::Skip(why) => ("skip", why),
        }
    }
}

/// A case that was played.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Played {
    /// Its name in the file.
    pub id: String,
    /// What kind it is of.
    pub category: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// One line: `pass | FAIL | skip  id  reason`.
impl fmt::Display for Played {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (result, reason) = match self.outcome.words() {
            ("fail", why) => ("FAIL", why),
            words => words,
        };
        let line = format!("{result}  {}  {}", self.id, reason.replace('\n', " "));
        f.write_str(line.trim_end())
    }
}

/// What stands against a case, for people.
type Why = String;

/// How a room answers: nothing, or what differs; `Ok(Some(..))` says which code of a user's is missing.
type Answer = Result<Option<String>, Why>;

/// Plays all cases of a file; `tell` hears of each as it is done.
///
/// # Errors
/// When the file cannot be read, or is none of cases.
pub fn play_file(path: &Path, mut tell: impl FnMut(Played)) -> Result<(), String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let file: Value = serde_json::from_str(&text).map_err(|error| format!("{shown} is no JSON: {error}"))?;
    let is = |field: &str, expected: Value| match file.get(field) {
        Some(value) if *value == expected => Ok(()),
        found => Err(format!(
            "{shown}: \"{field}\" must be {expected}, and is {}",
            found.map_or("missing".to_owned(), Value::to_string)
        )),
    };
    is("format_version", 1.into())?;
    is("time_unit", "ms".into())?;
    let cases = file.get("cases").and_then(Value::as_array).ok_or_else(|| format!("{shown} has no list \"cases\""))?;
    cases.iter().enumerate().for_each(|(index, case)| tell(play(index, case)));
    Ok(())
}

/// Plays one case. Nothing that it says can end the run.
#[must_use]
pub fn play(index: usize, case: &Value) -> Played {
    let text = |field: &str| case.get(field).and_then(Value::as_str).map(str::to_owned);
    let id = text("id").unwrap_or_else(|| format!("case-{index}"));
    let category = text("category").unwrap_or_default();
    let outcome = match catch_unwind(AssertUnwindSafe(|| judge(case))) {
        Ok(Ok(None)) => Outcome::Pass,
        Ok(Ok(Some(missing))) if category == "process" => Outcome::Skip(missing),
        Ok(Ok(Some(missing))) => Outcome::Fail(missing),
        Ok(Err(why)) => Outcome::Fail(why),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
            Outcome::Fail(format!("the case panicked: {}", message.unwrap_or("its message is on stderr")))
        }
    };
    Played { id, category, outcome }
}

fn judge(case: &Value) -> Answer {
    let case = Fields::of("the case", case)?;
    case.text("id")?;
    case.text("title")?;
    // For people; `engine_choice` marks a rule on which engines differ.
    ["note", "why", "engine_choice"].iter().for_each(|field| case.pass_over(field));
    let answer = match case.text("category")? {
        "assign" => assigned::assign(&case).map(|()| None),
        "assign_invalid" => assigned::invalid(&case).map(|()| None),
        "watermark_generator" => time::generator(&case).map(|()| None),
        "watermark_combine" => time::combine(&case).map(|()| None),
        "watermark_multiplex" => time::multiplex(&case).map(|()| None),
        "watermark_fires" => time::fires(&case).map(|()| None),
        "barrier_align" => barriers::align(&case).map(|()| None),
        "interval_join" => joins::pairs(&case).map(|()| None),
        "interval_join_cleanup" => joins::cleanup(&case).map(|()| None),
        "window" => window::steps(&case).map(|()| None),
        "panes" => panes::output(&case).map(|()| None),
        "process" => process::timers(&case),
        "recovery" => recovery::crash(&case).map(|()| None),
        "ysb" => ysb::query(&case).map(|()| None),
        unknown => return Err(format!("there is no category \"{unknown}\"")),
    }?;
    if answer.is_none() {
        case.done()?;
    }
    Ok(answer)
}

/// Says what differs, if anything does.
fn same<T: PartialEq + fmt::Debug>(what: &str, got: &T, expected: &T) -> Result<(), Why> {
    if got == expected { Ok(()) } else { Err(format!("{what}: got {got:?}, expected {expected:?}")) }
}

/// As [`same`], of rows whose order is free.
fn same_rows<T: Ord + fmt::Debug>(what: &str, mut got: Vec<T>, mut expected: Vec<T>) -> Result<(), Why> {
    got.sort();
    expected.sort();
    same(what, &got, &expected)
}

/// An error of the job that a case describes.
fn failed(error: impl fmt::Display) -> Why {
    error.to_string()
}

#[cfg(test)]
mod tests;
