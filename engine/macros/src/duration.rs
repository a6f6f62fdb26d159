//! Durations as people write them: `90s`, `1h 30m`, `7d`.

const ALLOWED: &str =
    "write whole numbers with ms, s, m, h or d, from large to small, as in \"90s\", \"1h 30m\" or \"7d\"";

/// Each unit's name and milliseconds, from large to small.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The milliseconds of a duration, more than none.
pub(crate) fn parse_ms(text: &str) -> Result<u64, String> {
    let complaint = |what: &str| Err(format!("{text:?} {what}: {ALLOWED}"));
    let mut rest = text.trim();
    let (mut sum_ms, mut units) = (0u64, &UNITS[..]);
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let Some(place) = units.iter().position(|(name, _)| *name == unit) else {
            return complaint("is no duration");
        };
        let Ok(number) = number.parse::<u64>() else {
            return complaint("is no duration");
        };
        match number.checked_mul(units[place].1).and_then(|ms| sum_ms.checked_add(ms)) {
            Some(ms) => sum_ms = ms,
            None => return complaint("is longer than can be counted"),
        }
        units = &units[place + 1..];
        rest = behind.trim_start();
    }
    if sum_ms == 0 { complaint("is no time at all") } else { Ok(sum_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_what_people_write() {
        for (text, ms) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            (" 1h 30m ", 5_400_000),
            ("7d", 604_800_000),
            ("1d 2h 3m 4s 5ms", 93_784_005),
        ] {
            assert_eq!(parse_ms(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn anything_else_is_told_what_is_allowed() {
        for text in ["1", "h", "1 h", "1.5h", "-1h", "1y", "1m 1h", "1h 1h", "1h,", "tomorrow", "1ſ"] {
            assert_eq!(parse_ms(text), Err(format!("{text:?} is no duration: {ALLOWED}")));
        }
        assert!(parse_ms("").unwrap_err().starts_with("\"\" is no time at all"));
        assert!(parse_ms("0s").unwrap_err().starts_with("\"0s\" is no time at all"));
        assert!(parse_ms("999999999999999d").unwrap_err().contains("longer than can be counted"));
        assert!(parse_ms("99999999999999999999d").unwrap_err().contains("no duration"));
    }
}
