//! What people write on a command line: `50M`, `200ms`, `off`, `0-3`.

use std::time::Duration;

/// A count: `1500`, `50k`, `2.5M`, `1G`; an underscore may part the digits.
///
/// # Errors
/// What would do.
pub fn count(text: &str) -> Result<u64, String> {
    let plain = text.replace('_', "");
    let (digits, factor) = match plain.as_bytes().last() {
        Some(b'k' | b'K') => (&plain[..plain.len() - 1], 1_000),
        Some(b'm' | b'M') => (&plain[..plain.len() - 1], 1_000_000),
        Some(b'g' | b'G') => (&plain[..plain.len() - 1], 1_000_000_000_u64),
        _ => (&plain[..], 1),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let number = |digits: &str| {
        let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if all_digits { digits.parse::<u64>().ok() } else { None }
    };
    let value = number(whole).zip(number(part)).and_then(|(whole, part_number)| {
        // The part behind the point must come out whole: 1.5k is 1500, 1.5 is nothing.
        let scale = 10_u64.checked_pow(part.len() as u32)?;
        let part_scaled = part_number.checked_mul(factor)?;
        let whole_scaled = whole.checked_mul(factor)?;
        part_scaled.is_multiple_of(scale).then(|| whole_scaled.checked_add(part_scaled / scale))?
    });
    value.ok_or_else(|| "expected a count such as 1500, 50k, 2.5M or 1G".to_owned())
}

/// As [`count`], at least one.
///
/// # Errors
/// What would do.
pub fn positive_count(text: &str) -> Result<u64, String> {
    count(text).and_then(|count| if count > 0 { Ok(count) } else { Err("expected at least 1".to_owned()) })
}

/// As [`positive_count`], below 2³².
///
/// # Errors
/// What would do.
pub fn small_count(text: &str) -> Result<u32, String> {
    positive_count(text)?.try_into().map_err(|_| "expected less than 4G".to_owned())
}

/// A duration: `10s`, `200ms`, `1m 30s`.
///
/// # Errors
/// What would do.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text);
    match duration {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("expected a duration such as 10s, 200ms or 1m".to_owned()),
    }
}

/// A duration, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DurationOrOff {
    /// Every so often.
    Every(Duration),
    /// Never.
    Off,
}

impl DurationOrOff {
    /// The duration, none for [`Off`](DurationOrOff::Off).
    #[must_use]
    pub fn duration(self) -> Option<Duration> {
        match self {
            DurationOrOff::Every(duration) => Some(duration),
            DurationOrOff::Off => None,
        }
    }
}

/// As [`duration`], or `off`.
///
/// # Errors
/// What would do.
pub fn duration_or_off(text: &str) -> Result<DurationOrOff, String> {
    if text == "off" {
        return Ok(DurationOrOff::Off);
    }
    duration(text).map(DurationOrOff::Every).map_err(|expected| format!("{expected}, or off"))
}

/// `on` or `off`.
///
/// # Errors
/// What would do.
pub fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

/// Cores by number, in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreList(pub Vec<usize>);

/// Cores: `0,1`, `0-3`, `0,4-7`; each once.
///
/// # Errors
/// What would do.
pub fn core_list(text: &str) -> Result<CoreList, String> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let core = |text: &str| text.parse::<u16>().map(usize::from).ok();
        let range = core(first).zip(core(last)).filter(|(first, last)| first <= last);
        let (first, last) = range.ok_or("expected cores such as 0,1 or 0-3")?;
        for core in first..=last {
            if cores.contains(&core) {
                return Err(format!("core {core} is there twice"));
            }
            cores.push(core);
        }
    }
    Ok(CoreList(cores))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_take_a_unit_and_a_part() {
        for (text, value) in [
            ("0", 0),
            ("1500", 1_500),
            ("1_500", 1_500),
            ("50k", 50_000),
            ("2.5M", 2_500_000),
            ("1G", 1_000_000_000),
            ("0.001k", 1),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(count(text), Ok(value), "{text}");
        }
        for text in ["", "k", "-1", "+1", "1.5", "1.0001k", "1e6", "18446744073709551616", "99999999999G", "1 k", ".5k"]
        {
            assert!(count(text).is_err(), "{text}");
        }
        assert!(positive_count("0").is_err());
        assert!(small_count("5G").is_err());
        assert_eq!(small_count("4M"), Ok(4_000_000));
    }

    #[test]
    fn durations_take_a_unit_or_are_off() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration_or_off("200ms").unwrap().duration(), Some(Duration::from_millis(200)));
        assert_eq!(duration_or_off("off").unwrap().duration(), None);
        for text in ["", "10", "0s", "off", "-1s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cores_come_singly_and_in_ranges() {
        assert_eq!(core_list("0"), Ok(CoreList(vec![0])));
        assert_eq!(core_list("3,0-1"), Ok(CoreList(vec![3, 0, 1])));
        for text in ["", "a", "1-", "3-1", "0,0", "0-2,1", "-1", "0,,1", "99999"] {
            assert!(core_list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn switches_are_on_or_off() {
        assert_eq!((on_off("on"), on_off("off")), (Ok(true), Ok(false)));
        assert!(on_off("yes").is_err());
    }
}
