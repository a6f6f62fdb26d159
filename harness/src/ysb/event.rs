//! An ad event of the Yahoo benchmark: seven fields, in three encodings.
//!
//! Event number `i` says the same in each of them; only the form differs.
//!
//! ```text
//! long   | user 8 | page 8 | ad 8 | event time 8 | ip 4 | ad type 1 | event type 1 | reserved 2 |            40 bytes
//! uuid   | event time 8 | user 36 | page 36 | ad 36 | ad type 16 | event type 8 | ip 16 | reserved 4 |      160 bytes
//! json   {"user_id":"…36…","page_id":"…36…","ad_id":"…36…","ad_type":"banner","event_type":"view",
//!         "event_time":"1436918400000","ip_address":"1.2.3.4"}                                    about 240 bytes
//! ```
//!
//! Neither struct has padding, so each is its own archived form. The address is `1.2.3.4` in every event, as in the
//! original.

/// A UUID as text: 36 characters, lower case, hyphens after 8, 12, 16 and 20 digits.
pub type UuidText = [u8; 36];

/// What the user did. The query keeps the views.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EventType {
    /// Saw the ad.
    View = 0,
    /// Clicked on it.
    Click = 1,
    /// Bought what it showed.
    Purchase = 2,
}

/// The texts of the event types, by [`EventType`] as a number.
pub const EVENT_TYPES: [&str; 3] = ["view", "click", "purchase"];

/// The texts of the ad types, by the number that [`AdEvent::ad_type`] holds.
pub const AD_TYPES: [&str; 5] = ["banner", "modal", "sponsored-search", "mail", "mobile"];

/// The address that every event comes from.
pub const IP: u32 = u32::from_be_bytes([1, 2, 3, 4]);

/// The same as text.
pub const IP_TEXT: &str = "1.2.3.4";

/// The `long` encoding: binary fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct AdEvent {
    /// Who.
    pub user_id: u64,
    /// On which page.
    pub page_id: u64,
    /// Which ad; the query joins it to its campaign.
    pub ad_id: u64,
    /// When, in milliseconds since the Unix epoch.
    pub event_time_ms: i64,
    /// From where.
    pub ip: u32,
    /// An index into [`AD_TYPES`].
    pub ad_type: u8,
    /// An [`EventType`] as a number.
    pub event_type: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<AdEvent>() == 4 * 8 + 4 + 1 + 1 + 2, "an AdEvent has no padding");

impl AdEvent {
    /// Whether the query keeps this event.
    #[inline(always)]
    #[must_use]
    pub fn is_view(&self) -> bool {
        self.event_type == EventType::View as u8
    }
}

/// The `uuid` encoding: ids as text, types as text padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct AdEventText {
    /// When, in milliseconds since the Unix epoch.
    pub event_time_ms: i64,
    /// Who.
    pub user_id: UuidText,
    /// On which page.
    pub page_id: UuidText,
    /// Which ad; the query joins it to its campaign.
    pub ad_id: UuidText,
    /// One of [`AD_TYPES`].
    pub ad_type: [u8; 16],
    /// One of [`EVENT_TYPES`].
    pub event_type: [u8; 8],
    /// From where.
    pub ip: [u8; 16],
    /// Zero.
    pub reserved: [u8; 4],
}

const _: () = assert!(size_of::<AdEventText>() == 8 + 3 * 36 + 16 + 8 + 16 + 4, "an AdEventText has no padding");

impl AdEventText {
    /// Whether the query keeps this event.
    #[inline(always)]
    #[must_use]
    pub fn is_view(&self) -> bool {
        self.event_type == EVENT_TYPE_FIELDS[EventType::View as usize]
    }
}

/// [`AD_TYPES`] as fields of an [`AdEventText`].
pub(crate) const AD_TYPE_FIELDS: [[u8; 16]; 5] =
    [field(AD_TYPES[0]), field(AD_TYPES[1]), field(AD_TYPES[2]), field(AD_TYPES[3]), field(AD_TYPES[4])];

/// [`EVENT_TYPES`] as fields of an [`AdEventText`].
pub(crate) const EVENT_TYPE_FIELDS: [[u8; 8]; 3] =
    [field(EVENT_TYPES[0]), field(EVENT_TYPES[1]), field(EVENT_TYPES[2])];

/// [`IP_TEXT`] as a field of an [`AdEventText`].
pub(crate) const IP_FIELD: [u8; 16] = field(IP_TEXT);

/// `text` padded with zeros to `N` bytes.
const fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    let mut at = 0;
    while at < text.len() {
        field[at] = text.as_bytes()[at];
        at += 1;
    }
    field
}

/// The text of an id: a UUID of version 4 whose 122 free bits are made from the id's 64, so that different ids have
/// different texts and every encoding speaks of the same ads.
///
/// ```
/// let text = millstream_harness::ysb::event::uuid_text(7);
/// assert_eq!(text.len(), 36);
/// assert_eq!((text[8], text[14]), (b'-', b'4'));
/// ```
#[must_use]
pub fn uuid_text(id: u64) -> UuidText {
    super::columns::uuid_text_of(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_text_is_a_uuid_of_version_4() {
        let text = uuid_text(0x0123_4567_89ab_cdef);
        let text = std::str::from_utf8(&text).unwrap();
        assert_eq!(&text[..19], "01234567-89ab-4def-");
        assert!(text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            19 => b"89ab".contains(&byte),
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        }));
    }

    #[test]
    fn ids_that_differ_in_any_one_bit_have_different_texts() {
        for id in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
            let mut texts: Vec<_> = (0..64).map(|bit| uuid_text(id ^ (1 << bit))).collect();
            texts.push(uuid_text(id));
            texts.sort_unstable();
            texts.dedup();
            assert_eq!(texts.len(), 65);
        }
    }
}
