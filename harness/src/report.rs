//! What a run says at its end: a few aligned lines for people, one line of JSON for scripts.

use std::io::Write as _;

use indicatif::{ProgressBar, ProgressStyle};

/// A title and named lines, aligned when printed.
#[derive(Clone, Debug)]
pub struct Report {
    title: String,
    lines: Vec<(String, String)>,
}

impl Report {
    /// Only a title yet.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Report {
        Report { title: title.into(), lines: Vec::new() }
    }

    /// Adds a line; a value of several lines keeps them.
    pub fn line(&mut self, name: &str, value: impl Into<String>) {
        self.lines.push((name.to_owned(), value.into()));
    }

    /// Writes it to stdout.
    pub fn print(&self) {
        // Whoever closed stdout does not want to know.
        let _ = write!(std::io::stdout(), "{self}");
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        writeln!(f, "{}", self.title)?;
        for (name, value) in &self.lines {
            let mut lines = value.lines();
            writeln!(f, "  {name:width$}  {}", lines.next().unwrap_or(""))?;
            for line in lines {
                writeln!(f, "  {:width$}  {line}", "")?;
            }
        }
        Ok(())
    }
}

/// Writes one line of JSON to stdout; it is to be the last.
pub fn print_json(json: &impl serde::Serialize) {
    let line = serde_json::to_string(json).expect("reports have text for keys");
    // Whoever closed stdout does not want to know.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Adds the fields of one JSON object to another.
///
/// # Panics
/// When one of them is no object.
pub fn merge(json: &mut serde_json::Value, more: serde_json::Value) {
    match (json, more) {
        (serde_json::Value::Object(json), serde_json::Value::Object(more)) => json.extend(more),
        _ => unreachable!("reports are objects"),
    }
}

/// Says on a terminal's stderr that something is going on; says nothing in a pipe.
#[must_use]
pub fn spinner(doing: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(doing.to_owned());
    if !bar.is_hidden() {
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
    }
    bar
}

/// Shows on a terminal's stderr how much of `total` is done; shows nothing in a pipe.
#[must_use]
pub fn progress(doing: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {human_pos}/{human_len}, {per_sec}, {eta} left");
    let bar = ProgressBar::new(total).with_message(doing.to_owned());
    bar.set_style(style.expect("the template above is well formed").progress_chars("=> "));
    bar
}

/// A count as people read it: `1,000,000`.
#[must_use]
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with so many digits behind the point.
#[must_use]
pub fn decimals(number: f64, digits: usize) -> String {
    format!("{number:.digits$}")
}

/// A rate: `155.8 M events/s`. Cut, not rounded: no report says more than was measured.
#[must_use]
pub fn rate(per_second: f64, unit: &str) -> String {
    let (scaled, prefix) = match per_second {
        rate if rate >= 1e6 => (rate / 1e6, "M "),
        rate if rate >= 1e3 => (rate / 1e3, "k "),
        rate => (rate, ""),
    };
    format!("{:.1} {prefix}{unit}/s", (scaled * 10.0).floor() / 10.0)
}

/// A size in bytes: `6.2 MB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes >= 1e9 => format!("{:.1} GB", bytes / 1e9),
        bytes if bytes >= 1e6 => format!("{:.1} MB", bytes / 1e6),
        bytes if bytes >= 1e3 => format!("{:.1} kB", bytes / 1e3),
        bytes => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_aligns_its_lines() {
        let mut report = Report::new("limit fused");
        report.line("throughput", "1.0 M events/s");
        report.line("result", "1 differs:\n  campaign 7");
        let lines =
            ["limit fused", "  throughput  1.0 M events/s", "  result      1 differs:", "                campaign 7"];
        assert_eq!(report.to_string(), lines.map(|line| format!("{line}\n")).concat());
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [12.0, 1_990.0, 155_890_000.0].map(|per_s| rate(per_s, "events")),
            ["12.0 events/s", "1.9 k events/s", "155.8 M events/s"]
        );
        assert_eq!([5, 6_200_000, 2_000_000_000].map(bytes), ["5 B", "6.2 MB", "2.0 GB"]);
        assert_eq!(decimals(1.0 / 3.0, 2), "0.33");
    }
}
