//! What the query writes: one row for each campaign and window, as a line of text.
//!
//! ```text
//! campaign TAB window start (ms) TAB count TAB time of the last update (wall, ms)
//! 25e3daf2-… TAB 1436918400000 TAB 33412 TAB 1763712000123
//! ```
//!
//! The campaign is a number in the `long` encoding and a UUID text in the others. Committed rows are verified from these
//! lines, so reading them believes nothing.

use std::fmt;
use std::str::FromStr;

/// The window's length.
pub const WINDOW_MS: i64 = 10_000;

/// The start of the window that `time_ms` lies in.
///
/// ```
/// use millstream_harness::ysb::result::window_start_ms;
/// assert_eq!((window_start_ms(19_999), window_start_ms(-1)), (10_000, -10_000));
/// ```
#[inline(always)]
#[must_use]
pub fn window_start_ms(time_ms: i64) -> i64 {
    time_ms - time_ms.rem_euclid(WINDOW_MS)
}

/// One row of the result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResultRow<C> {
    /// The campaign.
    pub campaign: C,
    /// Where its window starts.
    pub window_start_ms: i64,
    /// How many views of the campaign's ads lie in the window.
    pub count: u64,
    /// When the count last changed: wall time.
    pub updated_ms: i64,
}

impl<C: fmt::Display> ResultRow<C> {
    /// Appends the row as a line, without its end.
    ///
    /// ```
    /// use millstream_harness::ysb::result::ResultRow;
    /// let row = ResultRow { campaign: 7, window_start_ms: 20_000, count: 3, updated_ms: 21_000 };
    /// let mut line = Vec::new();
    /// row.write_line(&mut line);
    /// assert_eq!(line, b"7\t20000\t3\t21000");
    /// ```
    pub fn write_line(&self, out: &mut Vec<u8>) {
        use std::io::Write as _;
        write!(out, "{}\t{}\t{}\t{}", self.campaign, self.window_start_ms, self.count, self.updated_ms)
            .expect("a vector takes all bytes");
    }
}

/// Why a line is no row.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{line}` is no result row: expected campaign, window start, count and update time, separated by tabs")]
pub struct NoResultRow {
    /// The line.
    pub line: String,
}

impl<C: FromStr> FromStr for ResultRow<C> {
    type Err = NoResultRow;

    fn from_str(line: &str) -> Result<ResultRow<C>, NoResultRow> {
        fn row<C: FromStr>(line: &str) -> Option<ResultRow<C>> {
            let mut fields = line.split('\t');
            let row = ResultRow {
                campaign: fields.next()?.parse().ok()?,
                window_start_ms: fields.next()?.parse().ok()?,
                count: fields.next()?.parse().ok()?,
                updated_ms: fields.next()?.parse().ok()?,
            };
            fields.next().is_none().then_some(row)
        }
        row(line).ok_or_else(|| NoResultRow { line: line.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_survives_its_line() {
        let row =
            ResultRow { campaign: "a-b".to_owned(), window_start_ms: -10_000, count: u64::MAX, updated_ms: i64::MIN };
        let mut line = Vec::new();
        row.write_line(&mut line);
        assert_eq!(std::str::from_utf8(&line).unwrap().parse(), Ok(row));
    }

    #[test]
    fn other_lines_are_refused() {
        for line in ["", "1\t2\t3", "1\t2\t3\t4\t5", "x\t2\t3\t4", "1\t2\t-3\t4", "1\t2\t3\t4 "] {
            let refused = line.parse::<ResultRow<u64>>().unwrap_err();
            assert!(refused.to_string().starts_with(&format!("`{line}`")), "{refused}");
        }
    }
}
