//! Interval joins: which pairs there are, and what is still kept.

use std::sync::{Arc, Mutex, PoisonError};

use millstream::Timestamp;
use millstream::testing::{Collected, Pushed, TestJob};

use super::fields::{Fields, pair};
use super::{Why, failed, same, same_rows};

/// The one key that all rows have.
const KEY: u64 = 7;

/// Left and right time of a pair, and the time it is emitted at.
type Pair = (i64, i64, i64);

struct Join {
    left: Pushed<i64>,
    right: Pushed<i64>,
    pairs: Arc<Mutex<Vec<Pair>>>,
    job: TestJob,
}

impl Join {
    /// As the case says: bounds among them, where nothing else is said.
    fn of(case: &Fields<'_>) -> Result<Join, Why> {
        let (lower, upper) = (case.int("lower")?, case.int("upper")?);
        let with_lower = case.flag_or("lower_inclusive", true)?;
        let with_upper = case.flag_or("upper_inclusive", true)?;
        let (left, right) = (Pushed::new(), Pushed::new());
        let pairs = Arc::new(Mutex::new(Vec::new()));
        let (lefts, rights, emitted) = (left.clone(), right.clone(), pairs.clone());
        let job = TestJob::new(1, move |flow| {
            let emitted = emitted.clone();
            let join = flow.pushed(&lefts).key_by(|_| KEY);
            let join = join.interval_join(flow.pushed(&rights).key_by(|_| KEY)).between(lower, upper);
            let join = if with_lower { join } else { join.lower_exclusive() };
            let join = if with_upper { join } else { join.upper_exclusive() };
            join.inner(|left, right| (*left, *right))
                .inspect(move |(left, right), at| {
                    emitted.lock().unwrap_or_else(PoisonError::into_inner).push((*left, *right, at.0));
                })
                .sink(Collected::new());
        })
        .map_err(failed)?;
        Ok(Join { left, right, pairs, job })
    }

    fn push(&self, left: &[i64], right: &[i64]) {
        left.iter().for_each(|at| self.left.push(*at, Timestamp(*at)));
        right.iter().for_each(|at| self.right.push(*at, Timestamp(*at)));
    }

    fn watermark(&self, at: i64) {
        self.left.watermark(Timestamp(at));
        self.right.watermark(Timestamp(at));
    }

    fn take(&mut self) -> Result<Vec<Pair>, Why> {
        self.job.settle().map_err(failed)?;
        Ok(std::mem::take(&mut *self.pairs.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Rows kept, left and right.
    fn kept(&mut self) -> (usize, usize) {
        let entries = self.job.entries();
        let of = |state: &str| entries.iter().filter(|held| held.state == state).map(|held| held.count).sum();
        (of("left.rows"), of("right.rows"))
    }
}

pub(super) fn pairs(case: &Fields<'_>) -> Result<(), Why> {
    let mut join = Join::of(case)?;
    join.push(&case.ints("left")?, &case.ints("right")?);
    let mut got = join.take()?;
    // Emitted when the later one comes, and not again at the end.
    join.job.end_of_input().map_err(failed)?;
    got.extend(join.take()?);
    let expected = case.list("pairs")?.iter().map(|value| pair("a pair", value)).collect::<Result<Vec<_>, _>>()?;
    same_rows("the pairs", got.iter().map(|(left, right, _)| (*left, *right)).collect(), expected)?;
    match case.opt("output_timestamp") {
        None => {}
        Some(rule) if rule == "max(left, right)" => {
            let late = got.iter().find(|(left, right, at)| at != left.max(right));
            same("a pair that is not emitted at the greater of its times", &late, &None)?;
        }
        Some(other) => return Err(format!("\"output_timestamp\" is {other}, and that rule is not known")),
    }
    same("whether nothing is kept behind the end", &join.kept(), &(0, 0))
}

/// What the case lists may be kept and nothing else; and it must still be met by whatever can come.
pub(super) fn cleanup(case: &Fields<'_>) -> Result<(), Why> {
    let (left, right) = (case.ints("left")?, case.ints("right")?);
    let (lower, upper) = (case.int("lower")?, case.int("upper")?);
    let mut join = Join::of(case)?;
    join.push(&left, &right);
    join.take()?;
    same("the rows that are kept at first", &join.kept(), &(left.len(), right.len()))?;
    for after in case.each("after")? {
        let (watermark, lefts, rights) = (after.int("wm")?, after.ints("left")?, after.ints("right")?);
        after.done()?;
        join.watermark(watermark);
        join.take()?;
        let (kept_left, kept_right) = join.kept();
        if kept_left > lefts.len() || kept_right > rights.len() {
            return Err(format!(
                "after watermark {watermark} {kept_left} left and {kept_right} right rows are kept, where {} and {} may be",
                lefts.len(),
                rights.len()
            ));
        }
        // Each row that can be met by one which is not late yet must still be there.
        let snapshot = join.job.snapshot().map_err(failed)?;
        let Some(next) = watermark.checked_add(1) else { continue };
        let probe = |at: i64, from: i64, to: i64| {
            Some(next.max(at.saturating_add(from))).filter(|probe| *probe <= at.saturating_add(to))
        };
        let shards = [2, 1];
        join.job.restore(&snapshot, shards[0]).map_err(failed)?;
        for (of_left, rows) in [(true, &left), (false, &right)] {
            for at in rows {
                let (from, to) =
                    if of_left { (lower, upper) } else { (upper.saturating_neg(), lower.saturating_neg()) };
                let Some(probe) = probe(*at, from, to) else { continue };
                let side = if of_left { &join.right } else { &join.left };
                side.push(probe, Timestamp(probe));
                let met = join.take()?;
                let is_met = met.iter().any(|(left, right, _)| if of_left { left == at } else { right == at });
                same(
                    &format!("after watermark {watermark}, whether the row of {at} meets one of {probe}"),
                    &is_met,
                    &true,
                )?;
            }
        }
        // The probes are no part of the case.
        join = Join::of(case)?;
        join.push(&left, &right);
        join.watermark(watermark);
        join.take()?;
    }
    Ok(())
}
