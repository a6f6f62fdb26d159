//! Two things run one after the other again and again, and what the one is beside the other.

use anyhow::Result;
use serde_json::{Value, json};

use crate::report;

/// The quotients of some pairs.
pub(super) struct Quotients {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) pairs: usize,
}

impl Quotients {
    pub(super) fn as_json(&self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max, "pairs": self.pairs })
    }
}

/// Runs `own` and `other` in turn, so many times after a first pair that does not count, and divides what they answer.
///
/// # Errors
/// The first of either.
pub(super) fn alternate(
    pairs: u32,
    mut own: impl FnMut() -> Result<f64>,
    mut other: impl FnMut() -> Result<f64>,
) -> Result<Quotients> {
    let bar = report::progress("pairs", u64::from(pairs) + 1);
    let mut quotients = Vec::new();
    for pair in 0..=pairs {
        // Whoever goes first has the quieter machine, or the colder one: each does every other time.
        let (own, other) = if pair % 2 == 0 {
            let own = own()?;
            (own, other()?)
        } else {
            let other = other()?;
            (own()?, other)
        };
        bar.inc(1);
        if pair > 0 {
            quotients.push(own / other.max(1e-9));
        }
    }
    bar.finish_and_clear();
    quotients.sort_by(f64::total_cmp);
    let (median, max) = (quotients[quotients.len() / 2], quotients[quotients.len() - 1]);
    Ok(Quotients { median, min: quotients[0], max, pairs: quotients.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pair_does_not_count() {
        let (mut own, mut other) = ([100.0, 1.0, 2.0, 3.0].into_iter(), [1.0, 1.0, 1.0, 1.0].into_iter());
        let quotients = alternate(3, || Ok(own.next().unwrap()), || Ok(other.next().unwrap())).unwrap();
        let Quotients { median, min, max, pairs } = quotients;
        assert_eq!((median, min, max, pairs), (2.0, 1.0, 3.0, 3));
    }
}
