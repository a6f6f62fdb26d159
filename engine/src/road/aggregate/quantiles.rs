//! Quantiles, near enough: counts in buckets whose bounds grow by a fixed factor, so that every answer is right to within a
//! fixed share of itself.
//!
//! It is DDSketch (Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
//! guarantees", 2019) with a fixed number of buckets: where the values spread wider than these reach, the lowest collapse
//! into one. What is kept depends on the values alone, not on the order in which they or their sketches meet.

use millstream_state::Both;

use super::Aggregate;

/// The reach of a sketch: the greatest value over the least that is still told apart, as a natural logarithm. A million.
const REACH_LN: f64 = 13.815_510_557_964_274;

/// Quantiles of a number of each event, each right to within a share of itself that the number of buckets decides: 5.4 % for
/// 128 of them, 2.7 % for 256, 1.3 % for 512. They reach from the greatest value a million times down; smaller ones count as
/// if they lay there. A bucket is four bytes, kept for every key and window, and where rows are folded before they cross to
/// their shard, sent; an even number of them from 16 to 896.
///
/// Numbers that are zero or negative count as zero, and those that are none are left out.
///
/// ```
/// # use millstream::{Aggregate, Quantiles};
/// let latencies = Quantiles::<256, _>::of(|latency_ms: &f64| *latency_ms);
/// let mut acc = latencies.init();
/// for request in 1..=10_000 {
///     latencies.add(&mut acc, latencies.lift(&f64::from(request)));
/// }
/// let sketch = latencies.finish(&acc);
/// let p99 = sketch.quantile(0.99).expect("there are some");
/// assert!((p99 / 9_900.0 - 1.0).abs() <= sketch.error_max());
/// assert_eq!(sketch.count(), 10_000);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Quantiles<const BUCKETS: usize, F> {
    of: F,
}

impl<const BUCKETS: usize, F> Quantiles<BUCKETS, F> {
    /// Takes the number from an event.
    pub fn of<T: ?Sized>(of: F) -> Self
    where
        F: Fn(&T) -> f64,
    {
        const {
            assert!(
                BUCKETS.is_multiple_of(2) && BUCKETS >= 16 && BUCKETS <= 896,
                "the number of buckets is an even one from 16 to 896"
            );
        }
        Quantiles { of }
    }
}

/// What a [`Quantiles`] keeps: how many zeros there were, the number of the highest bucket (the least there is if there is
/// none), and the counts of the buckets from that one down.
pub type Counts<const BUCKETS: usize> = Both<Both<u64, i64>, [u32; BUCKETS]>;

/// What a [`Quantiles`] yields: how many numbers lie where, near enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sketch<const BUCKETS: usize> {
    counts: Counts<BUCKETS>,
}

/// The number of a bucket when there is none.
const NONE: i64 = i64::MIN;

/// The logarithm of the factor between a bucket's bounds.
const fn gamma_ln(buckets: usize) -> f64 {
    REACH_LN / buckets as f64
}

impl<const BUCKETS: usize> Sketch<BUCKETS> {
    /// How many numbers there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.0.0 + self.counts.1.iter().map(|count| u64::from(*count)).sum::<u64>()
    }

    /// The number below which a share of `quantile` lies, from 0 for the least to 1 for the greatest; none of nothing.
    ///
    /// # Panics
    /// When `quantile` is not from 0 to 1.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        assert!((0.0..=1.0).contains(&quantile), "a quantile lies between 0 and 1, and {quantile} does not");
        let count = self.count();
        let below = (quantile * count.checked_sub(1)? as f64) as u64;
        // From the top, as the buckets lie.
        let mut above = count - 1 - below.min(count - 1);
        let Both(Both(_, top), counts) = &self.counts;
        for (down, held) in counts.iter().enumerate() {
            if above < u64::from(*held) {
                let gamma = gamma_ln(BUCKETS).exp();
                let upper = ((top - down as i64) as f64 * gamma_ln(BUCKETS)).exp();
                return Some(2.0 * upper / (gamma + 1.0));
            }
            above -= u64::from(*held);
        }
        Some(0.0)
    }

    /// By what share of itself an answer may be wrong, where it is not more than a million times smaller than the greatest.
    #[must_use]
    pub fn error_max(&self) -> f64 {
        let gamma = gamma_ln(BUCKETS).exp();
        (gamma - 1.0) / (gamma + 1.0)
    }
}

/// Counts on in the bucket of that number; the lowest of them takes what lies below.
fn count<const BUCKETS: usize>(into: &mut Counts<BUCKETS>, bucket: i64, times: u32) {
    let Both(Both(_, top), counts) = into;
    if *top == NONE {
        *top = bucket;
    }
    if bucket > *top {
        let up = usize::try_from(bucket - *top).unwrap_or(BUCKETS).min(BUCKETS);
        let out = counts[BUCKETS - up..].iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
        counts.copy_within(..BUCKETS - up, up);
        counts[..up].fill(0);
        counts[BUCKETS - 1] = counts[BUCKETS - 1].saturating_add(out);
        *top = bucket;
    }
    let down = usize::try_from(*top - bucket).unwrap_or(BUCKETS).min(BUCKETS - 1);
    counts[down] = counts[down].saturating_add(times);
}

impl<const BUCKETS: usize, T: ?Sized, F: Fn(&T) -> f64> Aggregate<T> for Quantiles<BUCKETS, F> {
    type Input = f64;
    type Acc = Counts<BUCKETS>;
    type Out = Sketch<BUCKETS>;

    #[inline(always)]
    fn lift(&self, event: &T) -> f64 {
        (self.of)(event)
    }

    fn init(&self) -> Counts<BUCKETS> {
        Both(Both(0, NONE), [0; BUCKETS])
    }

    #[inline(always)]
    fn add(&self, acc: &mut Counts<BUCKETS>, number: f64) {
        if number > 0.0 {
            let bucket = (number.min(f64::MAX).ln() / gamma_ln(BUCKETS)).ceil();
            count(acc, bucket as i64, 1);
        } else if number <= 0.0 {
            acc.0.0 += 1;
        }
    }

    fn merge(&self, into: &mut Counts<BUCKETS>, other: &Counts<BUCKETS>) {
        into.0.0 += other.0.0;
        let top = other.0.1;
        for (down, times) in other.1.iter().enumerate().filter(|(_, times)| **times > 0) {
            count(into, top - down as i64, *times);
        }
    }

    fn finish(&self, acc: &Counts<BUCKETS>) -> Sketch<BUCKETS> {
        Sketch { counts: *acc }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch<const BUCKETS: usize>(numbers: impl IntoIterator<Item = f64>) -> Sketch<BUCKETS> {
        let quantiles = Quantiles::<BUCKETS, _>::of(|number: &f64| *number);
        let mut acc = Aggregate::<f64>::init(&quantiles);
        numbers.into_iter().for_each(|number| Aggregate::<f64>::add(&quantiles, &mut acc, number));
        Aggregate::<f64>::finish(&quantiles, &acc)
    }

    /// Every quantile is within the promised share of the true one.
    fn check<const BUCKETS: usize>(mut numbers: Vec<f64>) {
        let sketch = sketch::<BUCKETS>(numbers.iter().copied());
        numbers.sort_by(f64::total_cmp);
        for percent in 0..=100 {
            let quantile = f64::from(percent) / 100.0;
            let exact = numbers[(quantile * (numbers.len() - 1) as f64) as usize];
            let near = sketch.quantile(quantile).unwrap();
            let error = if exact == 0.0 { near } else { (near / exact - 1.0).abs() };
            assert!(error <= sketch.error_max() * 1.000_001, "{BUCKETS} buckets, {percent} %: {near}, not {exact}");
        }
    }

    #[test]
    fn every_quantile_is_within_its_share() {
        let mut state = 7_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 1.0) / (1_u64 << 53) as f64
        };
        let even: Vec<f64> = (0..5_000).map(|_| draw() * 900.0 + 100.0).collect();
        let heavy: Vec<f64> = (0..5_000).map(|_| 0.01 / draw().powf(0.8)).collect();
        let tiny: Vec<f64> = (0..5_000).map(|_| draw().max(1e-5) * 1e-300).collect();
        for numbers in [even, heavy, tiny, vec![0.0; 3], vec![3.5], vec![0.0, 0.0, 1.0, 2.0]] {
            check::<128>(numbers.clone());
            check::<512>(numbers);
        }
    }

    #[test]
    fn promised_errors() {
        let error = |sketch: f64| (sketch * 1_000.0).round() / 10.0;
        assert_eq!(error(sketch::<128>([]).error_max()), 5.4);
        assert_eq!(error(sketch::<256>([]).error_max()), 2.7);
        assert_eq!(error(sketch::<512>([]).error_max()), 1.3);
    }

    #[test]
    fn what_lies_out_of_reach_is_counted_all_the_same() {
        let sketch = sketch::<128>([1e-12, 1e-9, 5.0, 1e9, 2e9, -3.0, f64::NAN, f64::INFINITY]);
        assert_eq!(sketch.count(), 7, "what is no number is left out");
        assert_eq!(sketch.quantile(0.0), Some(0.0));
        assert!(sketch.quantile(1.0).unwrap() > 1e307);
        assert!(sketch.quantile(0.5).unwrap() > 2e9, "all the rest collapsed a million below the greatest");
        assert_eq!(super::tests::sketch::<16>([]).quantile(0.5), None);
    }
}
