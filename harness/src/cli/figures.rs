//! What the report of every job says alike: its checkpoints, and histograms by their quantiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use millstream::CheckpointReport;
use serde_json::{Value, json};

use crate::report::{bytes, decimals};

/// Names of quantiles.
pub(super) type Tops = [(&'static str, f64)];
pub(super) const P50_P99: [(&str, f64); 2] = [("p50", 0.5), ("p99", 0.99)];
pub(super) const P50_P999: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// For people: `p50 1.2 · p99 3.4 · max 5.6`.
pub(super) fn quantiles(histogram: &Histogram<u64>, digits: usize, unit_us: f64, tops: &Tops) -> String {
    let shown =
        tops.iter().map(|(name, quantile)| format!("{name} {}", decimals(at(histogram, *quantile, unit_us), digits)));
    let max = format!("max {}", decimals(histogram.max() as f64 / unit_us, digits));
    shown.chain([max]).collect::<Vec<_>>().join(" · ")
}

fn at(histogram: &Histogram<u64>, quantile: f64, unit_us: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / unit_us
}

/// For scripts: `p50`, `p99`, `p999` and `max`.
pub(super) fn four(histogram: &Histogram<u64>, unit_us: f64) -> Value {
    json!({
        "p50": at(histogram, 0.5, unit_us),
        "p99": at(histogram, 0.99, unit_us),
        "p999": at(histogram, 0.999, unit_us),
        "max": histogram.max() as f64 / unit_us,
    })
}

/// A line on checkpoints, for people.
pub(super) fn checkpoint_line(interval: Option<Duration>, checkpoints: &CheckpointReport) -> String {
    if interval.is_none() && checkpoints.completed == 0 {
        return "off".to_owned();
    }
    format!(
        "{} completed, {} failed · duration {} ms · {} in all, {} the largest",
        checkpoints.completed,
        checkpoints.failed.len(),
        quantiles(&checkpoints.duration_us, 1, 1e3, &P50_P99),
        bytes(checkpoints.bytes_total),
        bytes(checkpoints.bytes_max)
    )
}

/// The same for scripts.
pub(super) fn checkpoints_json(interval: Option<Duration>, checkpoints: &CheckpointReport) -> Value {
    let duration = &checkpoints.duration_us;
    json!({
        "interval_ms": interval.map(|interval| interval.as_millis() as u64),
        "completed": checkpoints.completed,
        "failed": checkpoints.failed.len(),
        "duration_ms": {
            "p50": at(duration, 0.5, 1e3),
            "p99": at(duration, 0.99, 1e3),
            "max": duration.max() as f64 / 1e3,
        },
        "bytes_total": checkpoints.bytes_total,
        "bytes_max": checkpoints.bytes_max,
    })
}
