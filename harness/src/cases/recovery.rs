//! A running sum per key, with a checkpoint and a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use millstream::Timestamp;
use millstream::state::{KeyedState, Value};
use millstream::testing::{Collected, Pushed, TestJob};

use super::fields::{Fields, int, text, tuple};
use super::{Why, failed, same};

#[millstream::event]
#[derive(Clone, Copy)]
struct Add {
    key: u64,
    value: i64,
}

#[derive(KeyedState)]
struct Running {
    sum: Value<i64>,
}

/// Keys' names as numbers, which is what a job keys by.
#[derive(Default)]
pub(super) struct Names(Vec<String>);

impl Names {
    pub(super) fn number(&mut self, name: &str) -> u64 {
        let known = self.0.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        }) as u64
    }

    pub(super) fn name(&self, number: u64) -> String {
        self.0.get(number as usize).cloned().unwrap_or_else(|| format!("key {number}"))
    }
}

struct Sums {
    input: Pushed<Add>,
    out: Collected<(u64, i64)>,
    /// Rows that the operator took, in order.
    taken: Arc<Mutex<Vec<(u64, i64)>>>,
    job: TestJob,
}

impl Sums {
    fn new() -> Result<Sums, Why> {
        let (input, out, taken) = (Pushed::new(), Collected::new(), Arc::new(Mutex::new(Vec::new())));
        let (pushed, collected, seen) = (input.clone(), out.clone(), taken.clone());
        let job = TestJob::new(2, move |flow| {
            let seen = seen.clone();
            flow.pushed(&pushed)
                .inspect(move |add: &Add, _| {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push((add.key, add.value));
                })
                .key_by(|add| add.key)
                .map_with_state(|running: &mut Running, add: &Add| {
                    let sum = running.sum.get_or(0).wrapping_add(add.value);
                    running.sum.set(sum);
                    (add.key, sum)
                })
                .named("sums")
                .sink(collected.clone());
        });
        Ok(Sums { input, out, taken, job: job.map_err(failed)? })
    }

    fn push(&self, rows: &[(u64, i64)]) {
        rows.iter().for_each(|(key, value)| self.input.push(Add { key: *key, value: *value }, Timestamp(0)));
    }

    fn taken(&self) -> Vec<(u64, i64)> {
        std::mem::take(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The sums that are kept: a zero added to each key shows its own.
    fn kept(&mut self, keys: &BTreeSet<u64>) -> Result<BTreeMap<u64, i64>, Why> {
        self.job.settle().map_err(failed)?;
        let count: usize = self.job.entries().iter().map(|held| held.count).sum();
        drop(self.out.take());
        self.push(&keys.iter().map(|key| (*key, 0)).collect::<Vec<_>>());
        self.job.settle().map_err(failed)?;
        let shown: BTreeMap<u64, i64> = self.out.take().into_iter().collect();
        let after: usize = self.job.entries().iter().map(|held| held.count).sum();
        // A key without a sum got one only by being asked.
        same("how many keys have a sum", &count, &after)?;
        Ok(shown)
    }
}

fn rows(case: &Fields<'_>, field: &str, names: &mut Names) -> Result<Vec<(u64, i64)>, Why> {
    let row = |value| {
        let [key, value] = tuple(&format!("a row of \"{field}\""), value)?;
        Ok((names.number(text("a key", key)?), int("a value", value)?))
    };
    case.list(field)?.iter().map(row).collect()
}

fn sums(case: &Fields<'_>, field: &str, names: &mut Names) -> Result<BTreeMap<u64, i64>, Why> {
    let value = case.get(field)?;
    let map = value.as_object().ok_or_else(|| format!("\"{field}\" must be an object, and is {value}"))?;
    map.iter().map(|(key, sum)| Ok((names.number(key), int("a sum", sum)?))).collect()
}

/// Of each key what was emitted, in order: across keys there is none.
fn by_key(rows: &[(u64, i64)], names: &Names) -> BTreeMap<String, Vec<i64>> {
    let mut by_key = BTreeMap::<String, Vec<i64>>::new();
    rows.iter().for_each(|(key, value)| by_key.entry(names.name(*key)).or_default().push(*value));
    by_key
}

pub(super) fn crash(case: &Fields<'_>) -> Result<(), Why> {
    case.pass_over("job");
    let mut names = Names::default();
    let input = rows(case, "input", &mut names)?;
    let (checkpoint, crash) =
        (case.index("checkpoint_after", input.len() + 1)?, case.index("crash_after", input.len() + 1)?);
    if checkpoint > crash {
        return Err(format!("the crash after {crash} rows comes before the checkpoint after {checkpoint}"));
    }
    let keys = |sums: &BTreeMap<u64, i64>| sums.keys().copied().collect::<BTreeSet<_>>();
    let mut of = Sums::new()?;
    of.push(&input[..checkpoint]);
    let snapshot = of.job.snapshot().map_err(failed)?;
    of.push(&input[checkpoint..crash]);
    of.job.settle().map_err(failed)?;
    drop(of.taken());
    of.job.restore(&snapshot, 3).map_err(failed)?;
    if case.has("replayed") {
        let expected = rows(case, "replayed", &mut names)?;
        same("the rows that are read again", &of.taken(), &expected)?;
    }
    of.push(&input[crash..]);
    of.job.snapshot().map_err(failed)?;
    for (field, got) in [("output_read_uncommitted", of.out.rows()), ("output_read_committed", of.out.committed())] {
        if case.has(field) {
            let expected = rows(case, field, &mut names)?;
            same(field, &by_key(&got, &names), &by_key(&expected, &names))?;
        }
    }
    if case.has("final_state") {
        let expected = sums(case, "final_state", &mut names)?;
        same("the final state", &of.kept(&keys(&expected))?, &expected)?;
    }
    if case.has("checkpoint_state") {
        let expected = sums(case, "checkpoint_state", &mut names)?;
        let mut of = Sums::new()?;
        of.push(&input[..checkpoint]);
        let snapshot = of.job.snapshot().map_err(failed)?;
        of.job.restore(&snapshot, 1).map_err(failed)?;
        same("the checkpoint's state", &of.kept(&keys(&expected))?, &expected)?;
    }
    Ok(())
}
