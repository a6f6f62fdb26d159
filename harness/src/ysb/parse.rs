//! The three fields that the query wants of an event's JSON line.
//!
//! Most lines were written by one writer, which lays every line out alike. So the layout is guessed, all of it is
//! checked, and a line that differs in one byte goes to a general parser (`sonic-rs`):
//!
//! ```text
//! {"user_id":"<36>","page_id":"<36>","ad_id":"<36>","ad_type":"<n>","event_type":"<n>","event_time":"<13>","ip_address":"<n>"}
//! |◀──────────── fixed: one pass of vector compares ────────────▶|◀─ two searches for a quote, the rest fixed behind each ─▶|
//! ```
//!
//! The guess is right or it is not made: it accepts no line that the general parser would refuse, and finds the same in
//! it. It is what makes parsing cost as much as reading (see `docs/decisions/0010-json-parser.md`).

use std::borrow::Cow;

use super::event::{EventType, UuidText};

/// What the query wants of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdFields {
    /// Which ad.
    pub ad_id: UuidText,
    /// When, in milliseconds since the Unix epoch.
    pub event_time_ms: i64,
    /// What the user did.
    pub event_type: EventType,
}

/// Why a line is no event.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// It is no JSON object with the three fields as text.
    #[error("malformed event: {0}")]
    Json(String),
    /// A field has a value that no event has.
    #[error("malformed event: {field} is `{value}`, which is not {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would do.
        expected: &'static str,
    },
}

/// Parses one line.
///
/// # Errors
/// When the line is not well-formed JSON, or lacks one of the three fields, or has one that makes no sense.
///
/// ```
/// use millstream_harness::ysb::parse::parse;
/// let line = br#"{"event_time":"1436918400000","ad_id":"25e3daf2-bd4c-4a0c-9b5e-7ddbc2a48bd3","event_type":"view"}"#;
/// assert_eq!(parse(line)?.event_time_ms, 1_436_918_400_000);
/// assert!(parse(&line[1..]).is_err());
/// # Ok::<(), millstream_harness::ysb::parse::ParseError>(())
/// ```
#[inline(always)]
pub fn parse(line: &[u8]) -> Result<AdFields, ParseError> {
    match parse_guessed(line) {
        Some(fields) => Ok(fields),
        None => parse_general(line),
    }
}

/// The fixed part of the layout, with a question mark for each byte of an id, and as much of what follows as fills the
/// last [`LANES`].
static HEAD: [u8; 160] = {
    const PARTS: [&str; 8] = [
        r#"{"user_id":""#,
        "????????????????????????????????????",
        r#"","page_id":""#,
        "????????????????????????????????????",
        r#"","ad_id":""#,
        "????????????????????????????????????",
        r#"","ad_type":""#,
        "~~~",
    ];
    let mut head = [0; 160];
    let (mut part, mut len) = (0, 0);
    while part < PARTS.len() {
        let mut at = 0;
        while at < PARTS[part].len() {
            head[len] = PARTS[part].as_bytes()[at];
            len += 1;
            at += 1;
        }
        part += 1;
    }
    assert!(len == head.len());
    head
};

/// Where the value of the ad's type begins.
const HEAD_BYTES: usize = 157;

/// All bits where a byte is fixed, none where it is an id's or not looked at.
static FIXED: [u8; 160] = masks(b'?', b'~', 0xff);

/// All bits where a byte is an id's.
static OF_ID: [u8; 160] = {
    let not_of_id = masks(b'?', b'?', 0xff);
    let mut of_id = [0; 160];
    let mut at = 0;
    while at < HEAD_BYTES {
        of_id[at] = !not_of_id[at];
        at += 1;
    }
    of_id
};

const fn masks(no: u8, nor: u8, mask: u8) -> [u8; 160] {
    let mut masks = [0; 160];
    let mut at = 0;
    while at < HEAD.len() {
        if HEAD[at] != no && HEAD[at] != nor {
            masks[at] = mask;
        }
        at += 1;
    }
    masks
}

/// Bytes compared at a time.
const LANES: usize = 32;

const AD_ID_AT: usize = 12 + 36 + 13 + 36 + 11;
const EVENT_TYPE_KEY: &[u8; 16] = br#"","event_type":""#;
const EVENT_TIME_KEY: &[u8; 16] = br#"","event_time":""#;
const IP_KEY: &[u8; 16] = br#"","ip_address":""#;
const TIME_DIGITS: usize = 13;

/// The fields of a line that has the guessed layout.
#[inline(always)]
fn parse_guessed(line: &[u8]) -> Option<AdFields> {
    let head = line.first_chunk::<{ HEAD.len() }>()?;
    if !is_head(head) {
        return None;
    }

    let rest = &line[HEAD_BYTES..];
    let rest = &rest[plain_bytes(rest)?..];
    let rest = rest.strip_prefix(EVENT_TYPE_KEY)?;
    let (event_type, event_type_bytes) = event_type(word(rest, 0)?)?;
    let rest = rest[event_type_bytes..].strip_prefix(EVENT_TIME_KEY)?;
    let (digits, rest) = rest.split_first_chunk()?;
    let event_time_ms = decimal(digits)?;
    let rest = rest.strip_prefix(IP_KEY)?;
    if &rest[plain_bytes(rest)?..] != br#""}"# {
        return None;
    }

    let ad_id = head[AD_ID_AT..AD_ID_AT + 36].try_into().ok()?;
    Some(AdFields { ad_id, event_time_ms, event_type })
}

/// Whether the fixed bytes are as guessed, and those of the ids stand for themselves.
#[inline(always)]
fn is_head(head: &[u8; HEAD.len()]) -> bool {
    // No early end, and lanes that do not meet before the last line: a dozen vector instructions, all in all.
    let mut differs = [0; LANES];
    for first in (0..HEAD.len()).step_by(LANES) {
        for (lane, differs) in differs.iter_mut().enumerate() {
            let at = first + lane;
            // Above the quote, below the delete, and no backslash. Blank and exclamation mark are left to the general
            // parser, and with them one comparison.
            let special = head[at].wrapping_sub(b'"' + 1) > 0x7e - (b'"' + 1) || head[at] == b'\\';
            *differs |= ((head[at] ^ HEAD[at]) & FIXED[at]) | (if special { OF_ID[at] } else { 0 });
        }
    }
    differs.iter().fold(0, |all, differs| all | differs) == 0
}

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// The top bit of each zero byte; above the first zero there may be false ones.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & TOPS
}

/// How many plain bytes there are before the first quote; none if something else comes first, or no quote early on.
#[inline(always)]
fn plain_bytes(rest: &[u8]) -> Option<usize> {
    for at in (0..64).step_by(8) {
        let word = word(rest, at)?;
        let quotes = zero_bytes(word ^ (ONES * b'"' as u64));
        let escapes = zero_bytes(word ^ (ONES * b'\\' as u64));
        let controls = word.wrapping_sub(ONES * 0x20) & !word & TOPS;
        let others = escapes | controls | word & TOPS;
        // The bits below the first quote; all of them where there is none. What stands behind it is not looked at.
        let before = (quotes & quotes.wrapping_neg()).wrapping_sub(1);
        if others & before != 0 {
            return None;
        }
        if quotes != 0 {
            return Some(at + quotes.trailing_zeros() as usize / 8);
        }
    }
    None
}

/// Eight bytes at `at`, the first the lowest, filled up with zeros behind the end; `rest` has eight or more itself.
#[inline(always)]
fn word(rest: &[u8], at: usize) -> Option<u64> {
    if let Some(bytes) = rest.get(at..at + 8) {
        return Some(u64::from_le_bytes(bytes.try_into().ok()?));
    }
    let missing = at + 8 - rest.len();
    let last = u64::from_le_bytes(*rest.last_chunk()?);
    last.checked_shr(8 * missing as u32)
}

/// The event type that `word` begins with, and how many bytes it takes.
#[inline(always)]
fn event_type(word: u64) -> Option<(EventType, usize)> {
    // The closing quote is compared too, but for the purchase, where the word ends before it and the next key begins
    // with it.
    const VIEW: u64 = u64::from_le_bytes(*b"view\"\0\0\0");
    const CLICK: u64 = u64::from_le_bytes(*b"click\"\0\0");
    const PURCHASE: u64 = u64::from_le_bytes(*b"purchase");
    let is_view = word << 24 == VIEW << 24;
    let is_click = word << 16 == CLICK << 16;
    let is_purchase = word == PURCHASE;
    // Computed, not chosen: three equally likely branches would be mispredicted for most events.
    match usize::from(is_view) * 4 + usize::from(is_click) * 5 + usize::from(is_purchase) * 8 {
        0 => None,
        bytes => {
            const BY_NUMBER: [EventType; 3] = [EventType::View, EventType::Click, EventType::Purchase];
            Some((BY_NUMBER[usize::from(is_click) + 2 * usize::from(is_purchase)], bytes))
        }
    }
}

/// The value of thirteen digits.
#[inline(always)]
fn decimal(digits: &[u8; TIME_DIGITS]) -> Option<i64> {
    const TENS: u64 = ONES * 0xf0;
    let last = u64::from_le_bytes(*digits.last_chunk()?);
    let first = u64::from_le_bytes(*digits.first_chunk()?) << 24 | 0x30_3030;
    let no_digits = |word: u64| ((word & TENS) | ((word.wrapping_add(ONES * 6) & TENS) >> 4)) ^ (ONES * 0x33);
    if no_digits(first) | no_digits(last) != 0 {
        return None;
    }
    Some((eight_digits(first) * 100_000_000 + eight_digits(last)) as i64)
}

/// The value of eight digits, the first in the lowest byte: pairs, then fours, then all.
#[inline(always)]
const fn eight_digits(word: u64) -> u64 {
    let pairs = (word & (ONES * 0x0f)).wrapping_mul(10 << 8 | 1) >> 8 & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100 << 16 | 1) >> 16 & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000 << 32 | 1) >> 32
}

/// The three fields in any layout.
#[derive(serde::Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    ad_id: Cow<'a, str>,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    event_time: Cow<'a, str>,
}

#[cold]
fn parse_general(line: &[u8]) -> Result<AdFields, ParseError> {
    let fields: Fields<'_> = sonic_rs::from_slice(line).map_err(|error| ParseError::Json(error.to_string()))?;
    let wrong = |field, value: &str, expected| ParseError::Field { field, value: value.to_owned(), expected };
    let ad_id = fields.ad_id.as_bytes().try_into();
    let ad_id = ad_id.map_err(|_| wrong("ad_id", &fields.ad_id, "a UUID of 36 characters"))?;
    let event_type = match &*fields.event_type {
        "view" => EventType::View,
        "click" => EventType::Click,
        "purchase" => EventType::Purchase,
        other => return Err(wrong("event_type", other, "view, click or purchase")),
    };
    let event_time_ms = fields.event_time.parse();
    let event_time_ms = event_time_ms.map_err(|_| wrong("event_time", &fields.event_time, "a time in milliseconds"))?;
    Ok(AdFields { ad_id, event_time_ms, event_type })
}

#[cfg(test)]
mod tests {
    use millstream::road::rows::{Batch, Lines};

    use super::super::generate::{Generator, GeneratorConfig, Pace, Population, START_MS};
    use super::*;

    fn lines(rows: u64, start_ms: i64) -> Lines {
        let population = Population { campaigns: 10, ads_per_campaign: 10, seed: 5 };
        let config = GeneratorConfig { population, events: Some(rows), start_ms, pace: Pace::per_ms(1), skew: false };
        let mut lines = Lines::default();
        let _ = Generator::new(config, 0, 1).fill(&mut lines, rows as usize);
        lines
    }

    /// The slow twin: the whole line as a tree.
    fn twin(line: &[u8]) -> Option<AdFields> {
        let tree: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line).ok()?;
        let text = |key: &str| tree.get(key)?.as_str();
        Some(AdFields {
            ad_id: text("ad_id")?.as_bytes().try_into().ok()?,
            event_time_ms: text("event_time")?.parse().ok()?,
            event_type: match text("event_type")? {
                "view" => EventType::View,
                "click" => EventType::Click,
                "purchase" => EventType::Purchase,
                _ => return None,
            },
        })
    }

    #[test]
    fn the_writer_s_own_lines_are_guessed() {
        for start_ms in [START_MS, 1_000_000_000_000, 9_999_999_990_000] {
            let lines = lines(3_000, start_ms);
            for row in 0..lines.len() {
                let guessed = parse_guessed(lines.row(row));
                assert!(guessed.is_some());
                assert_eq!(guessed, twin(lines.row(row)));
            }
        }
    }

    #[test]
    fn other_addresses_and_ad_types_are_guessed_too() {
        let line = String::from_utf8(lines(1, START_MS).row(0).to_vec()).unwrap();
        for ip in ["0.0.0.0", "10.2.3.4", "10.20.3.4", "255.255.255.255", "2001:db8:1234:5678:9abc:def0:1234:5678"] {
            let line = line.replace("1.2.3.4", ip);
            assert!(parse_guessed(line.as_bytes()).is_some(), "{line}");
        }
        let (head, tail) = line.split_at(HEAD.len());
        let tail = &tail[tail.find('"').unwrap()..];
        for ad_type in ["", "x", "1234567", "12345678", "123456789", "a type of some more than twenty characters"] {
            let line = format!("{head}{ad_type}{tail}");
            assert!(parse_guessed(line.as_bytes()).is_some(), "{line}");
        }
    }

    #[test]
    fn lines_of_any_layout_are_parsed() {
        let id = "25e3daf2-bd4c-4a0c-9b5e-7ddbc2a48bd3";
        for line in [
            format!(r#"{{"event_time":"5","event_type":"click","ad_id":"{id}"}}"#),
            format!(" {{ \"ad_id\" : \"{id}\",\n\"event_type\":\"purchase\", \"event_time\": \"-7\"}} "),
            format!(
                r#"{{"ad_id":"\u0032{}","event_type":"v\u0069ew","event_time":"1","more":[{{}},null,1e5]}}"#,
                &id[1..]
            ),
        ] {
            assert_eq!(parse_guessed(line.as_bytes()), None);
            assert_eq!(parse(line.as_bytes()).ok(), twin(line.as_bytes()), "{line}");
            assert!(parse(line.as_bytes()).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_line_with_one_byte_changed_lost_or_added_is_what_the_twin_says() {
        let lines = lines(6, START_MS);
        for row in 0..lines.len() {
            let line = lines.row(row);
            for at in 0..line.len() {
                for byte in 0..=255 {
                    let mut changed = line.to_vec();
                    changed[at] = byte;
                    assert_eq!(parse(&changed).ok(), twin(&changed), "{}", String::from_utf8_lossy(&changed));
                }
                let mut lost = line.to_vec();
                lost.remove(at);
                assert_eq!(parse(&lost).ok(), twin(&lost), "{}", String::from_utf8_lossy(&lost));
                for byte in *b"\"\\},0 \0" {
                    let mut added = line.to_vec();
                    added.insert(at, byte);
                    assert_eq!(parse(&added).ok(), twin(&added), "{}", String::from_utf8_lossy(&added));
                }
                assert_eq!(parse(&line[..at]).ok(), None);
            }
        }
    }

    #[test]
    fn a_refusal_says_why() {
        let id = "25e3daf2-bd4c-4a0c-9b5e-7ddbc2a48bd3";
        let refused = |line: &str| parse(line.as_bytes()).unwrap_err().to_string();
        assert!(refused("{").starts_with("malformed event: "));
        assert!(refused("{}").contains("missing field `ad_id`"));
        assert_eq!(
            refused(r#"{"ad_id":"7","event_type":"view","event_time":"1"}"#),
            "malformed event: ad_id is `7`, which is not a UUID of 36 characters"
        );
        assert!(refused(&format!(r#"{{"ad_id":"{id}","event_type":"sold","event_time":"1"}}"#)).contains("`sold`"));
        assert!(refused(&format!(r#"{{"ad_id":"{id}","event_type":"view","event_time":"noon"}}"#)).contains("`noon`"));
    }
}
