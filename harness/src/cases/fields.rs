//! A case's fields, each asked for by name and type; those that nobody asked for are told.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Why;

/// One object of a case.
pub(super) struct Fields<'a> {
    what: String,
    map: &'a Map<String, Value>,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(what: impl Into<String>, value: &'a Value) -> Result<Fields<'a>, Why> {
        let what = what.into();
        let map = value.as_object().ok_or_else(|| format!("{what} must be an object, and is {value}"))?;
        Ok(Fields { what, map, asked: RefCell::default() })
    }

    /// A field that may be missing. `null` is a value.
    pub(super) fn opt(&self, field: &str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(field.to_owned());
        self.map.get(field)
    }

    /// A field that is for people.
    pub(super) fn pass_over(&self, field: &str) {
        self.asked.borrow_mut().insert(field.to_owned());
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    pub(super) fn get(&self, field: &str) -> Result<&'a Value, Why> {
        self.opt(field).ok_or_else(|| format!("{} has no \"{field}\"", self.what))
    }

    pub(super) fn int(&self, field: &str) -> Result<i64, Why> {
        int(&format!("\"{field}\" of {}", self.what), self.get(field)?)
    }

    /// A number that may be missing.
    pub(super) fn int_or(&self, field: &str, default: i64) -> Result<i64, Why> {
        if self.has(field) { self.int(field) } else { Ok(default) }
    }

    pub(super) fn index(&self, field: &str, below: usize) -> Result<usize, Why> {
        let number = self.int(field)?;
        let index = usize::try_from(number).ok().filter(|index| *index < below);
        index.ok_or_else(|| format!("\"{field}\" of {} must be below {below}, and is {number}", self.what))
    }

    pub(super) fn text(&self, field: &str) -> Result<&'a str, Why> {
        text(&format!("\"{field}\" of {}", self.what), self.get(field)?)
    }

    pub(super) fn flag_or(&self, field: &str, default: bool) -> Result<bool, Why> {
        match self.opt(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(format!("\"{field}\" of {} must be true or false, and is {value}", self.what)),
        }
    }

    pub(super) fn list(&self, field: &str) -> Result<&'a [Value], Why> {
        list(&format!("\"{field}\" of {}", self.what), self.get(field)?)
    }

    /// A list that may be missing: then it is empty.
    pub(super) fn list_or_none(&self, field: &str) -> Result<&'a [Value], Why> {
        if self.has(field) { self.list(field) } else { Ok(&[]) }
    }

    pub(super) fn ints(&self, field: &str) -> Result<Vec<i64>, Why> {
        let what = format!("a number of \"{field}\" of {}", self.what);
        self.list(field)?.iter().map(|value| int(&what, value)).collect()
    }

    pub(super) fn fields(&self, field: &str) -> Result<Fields<'a>, Why> {
        Fields::of(format!("\"{field}\""), self.get(field)?)
    }

    /// The objects of a list.
    pub(super) fn each(&self, field: &str) -> Result<Vec<Fields<'a>>, Why> {
        let one = |(index, value)| Fields::of(format!("{field}[{index}]"), value);
        self.list(field)?.iter().enumerate().map(one).collect()
    }

    pub(super) fn what(&self) -> &str {
        &self.what
    }

    /// The first field that was not asked for.
    pub(super) fn unknown(&self) -> Option<&'a str> {
        let asked = self.asked.borrow();
        self.map.keys().find(|field| !asked.contains(*field)).map(String::as_str)
    }

    /// Fails with the name of a field that nobody asked for.
    pub(super) fn done(&self) -> Result<(), Why> {
        match self.unknown() {
            None => Ok(()),
            Some(field) => Err(format!("{} has a field \"{field}\" that is not known", self.what)),
        }
    }
}

pub(super) fn int(what: &str, value: &Value) -> Result<i64, Why> {
    value.as_i64().ok_or_else(|| format!("{what} must be a whole number of 64 bits, and is {value}"))
}

pub(super) fn text<'a>(what: &str, value: &'a Value) -> Result<&'a str, Why> {
    value.as_str().ok_or_else(|| format!("{what} must be text, and is {value}"))
}

pub(super) fn list<'a>(what: &str, value: &'a Value) -> Result<&'a [Value], Why> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("{what} must be a list, and is {value}"))
}

/// A list of so many values.
pub(super) fn tuple<'a, const N: usize>(what: &str, value: &'a Value) -> Result<&'a [Value; N], Why> {
    list(what, value)?.try_into().map_err(|_| format!("{what} must be a list of {N} values, and is {value}"))
}

/// Two numbers.
pub(super) fn pair(what: &str, value: &Value) -> Result<(i64, i64), Why> {
    let [one, other] = tuple(what, value)?;
    Ok((int(what, one)?, int(what, other)?))
}
