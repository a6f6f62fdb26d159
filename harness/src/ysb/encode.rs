//! Drawn events into the container of their encoding.

use std::io::Write as _;

use millstream::road::rows::Lines;

use super::columns::{Columns, IdTexts};
use super::event::{
    AD_TYPE_FIELDS, AD_TYPES, AdEvent, AdEventText, EVENT_TYPE_FIELDS, EVENT_TYPES, IP, IP_FIELD, IP_TEXT,
};

/// A container that a [`Generator`](super::generate::Generator) can fill: a vector of [`AdEvent`] or [`AdEventText`], or
/// [`Lines`] of JSON.
pub trait Encoded: sealed::Container + Default + 'static {}

impl Encoded for Vec<AdEvent> {}
impl Encoded for Vec<AdEventText> {}
impl Encoded for Lines {}

pub(crate) mod sealed {
    /// What the generator asks of a container.
    #[expect(unnameable_types, reason = "sealed: the three encodings are the benchmark's")]
    pub trait Container {
        #[doc(hidden)]
        fn reserve_rows(&mut self, rows: usize);
        #[doc(hidden)]
        fn append(&mut self, columns: &mut super::Columns, rows: usize);
    }
}

impl sealed::Container for Vec<AdEvent> {
    fn reserve_rows(&mut self, rows: usize) {
        self.reserve(rows);
    }

    #[inline]
    fn append(&mut self, columns: &mut Columns, rows: usize) {
        self.extend((0..rows).map(|row| AdEvent {
            user_id: columns.user_id[row],
            page_id: columns.page_id[row],
            ad_id: columns.ad_id[row],
            event_time_ms: columns.time_ms[row],
            ip: IP,
            ad_type: columns.ad_type[row],
            event_type: columns.event_type[row],
            reserved: [0; 2],
        }));
    }
}

impl sealed::Container for Vec<AdEventText> {
    fn reserve_rows(&mut self, rows: usize) {
        self.reserve(rows);
    }

    #[inline]
    fn append(&mut self, columns: &mut Columns, rows: usize) {
        columns.write_texts();
        let texts = &columns.texts;
        self.extend((0..rows).map(|row| AdEventText {
            event_time_ms: columns.time_ms[row],
            user_id: texts.user.text(row),
            page_id: texts.page.text(row),
            ad_id: texts.ad.text(row),
            ad_type: AD_TYPE_FIELDS[columns.ad_type[row] as usize],
            event_type: EVENT_TYPE_FIELDS[columns.event_type[row] as usize],
            ip: IP_FIELD,
            reserved: [0; 4],
        }));
    }
}

/// The longest line: the fixed parts, three ids, the longest types, a time of up to 20 characters, the address.
const LINE_BYTES_MAX: usize = 320;

impl sealed::Container for Lines {
    fn reserve_rows(&mut self, rows: usize) {
        self.tail().reserve(rows * LINE_BYTES_MAX);
    }

    #[inline]
    fn append(&mut self, columns: &mut Columns, rows: usize) {
        columns.write_texts();
        let texts = &columns.texts;
        let mut time = TimeText::of(columns.time_ms[0]);
        for row in 0..rows {
            if columns.time_ms[row] != time.ms {
                time = TimeText::of(columns.time_ms[row]);
            }
            append_line(self, texts, row, columns.ad_type[row], columns.event_type[row], &time);
        }
    }
}

/// Where the ids stand in each line: behind `{"user_id":"`, `","page_id":"` and `","ad_id":"`.
const USER_AT: usize = 12;
const PAGE_AT: usize = USER_AT + 36 + 13;
const AD_AT: usize = PAGE_AT + 36 + 11;

/// Digits of every time from September 2001 to November 2286.
const TIME_DIGITS: usize = 13;

#[inline(always)]
fn append_line(out: &mut Lines, texts: &IdTexts, row: usize, ad_type: u8, event_type: u8, time: &TimeText) {
    let Some(digits) = &time.digits else {
        append_line_slowly(out, texts, row, ad_type, event_type, time.ms);
        return;
    };
    let template = &TEMPLATES[ad_type as usize][event_type as usize];
    let tail = out.tail();
    let start = tail.len();
    tail.extend_from_slice(&template.bytes);
    let line: &mut [u8; TEMPLATE_BYTES] = (&mut tail[start..]).try_into().expect("the template just appended");
    for (column, at) in [(&texts.user, USER_AT), (&texts.page, PAGE_AT), (&texts.ad, AD_AT)] {
        column.put(row, (&mut line[at..at + 36]).try_into().expect("36 bytes"));
    }
    line[template.time_at..template.time_at + TIME_DIGITS].copy_from_slice(digits);
    tail.truncate(start + template.len);
    out.end_row();
}

/// A line whose time has not thirteen digits.
#[cold]
fn append_line_slowly(out: &mut Lines, texts: &IdTexts, row: usize, ad_type: u8, event_type: u8, time_ms: i64) {
    let ids = [&texts.user, &texts.page, &texts.ad].map(|column| column.text(row));
    let [user, page, ad] = ids.each_ref().map(|id| std::str::from_utf8(id).expect("hexadecimal digits and hyphens"));
    let (ad_type, event_type) = (AD_TYPES[ad_type as usize], EVENT_TYPES[event_type as usize]);
    write!(
        out.tail(),
        r#"{{"user_id":"{user}","page_id":"{page}","ad_id":"{ad}","ad_type":"{ad_type}","event_type":"{event_type}","event_time":"{time_ms}","ip_address":"{IP_TEXT}"}}"#
    )
    .expect("a vector takes all bytes");
    out.end_row();
}

/// A time and its digits; neighbours mostly share one.
struct TimeText {
    ms: i64,
    /// None for a time that has not thirteen digits.
    digits: Option<[u8; TIME_DIGITS]>,
}

impl TimeText {
    fn of(ms: i64) -> TimeText {
        if !(1_000_000_000_000..10_000_000_000_000).contains(&ms) {
            return TimeText { ms, digits: None };
        }
        let mut rest = ms as u64;
        let mut digits = [0; TIME_DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        TimeText { ms, digits: Some(digits) }
    }
}

const TEMPLATE_BYTES: usize = 256;

/// A line with holes for the ids and the time. There is one for each pair of types, so that making a line is a copy of
/// fixed size and four small ones into it.
struct Template {
    bytes: [u8; TEMPLATE_BYTES],
    len: usize,
    time_at: usize,
}

static TEMPLATES: [[Template; EVENT_TYPES.len()]; AD_TYPES.len()] = {
    let mut templates = [const { [const { Template::EMPTY }; EVENT_TYPES.len()] }; AD_TYPES.len()];
    let mut ad_type = 0;
    while ad_type < AD_TYPES.len() {
        let mut event_type = 0;
        while event_type < EVENT_TYPES.len() {
            templates[ad_type][event_type] = Template::of(AD_TYPES[ad_type], EVENT_TYPES[event_type]);
            event_type += 1;
        }
        ad_type += 1;
    }
    templates
};

impl Template {
    const EMPTY: Template = Template { bytes: [0; TEMPLATE_BYTES], len: 0, time_at: 0 };

    const fn of(ad_type: &str, event_type: &str) -> Template {
        const ID: &str = "????????-????-????-????-????????????";
        let head = Template::EMPTY
            .then(r#"{"user_id":""#)
            .then(ID)
            .then(r#"","page_id":""#)
            .then(ID)
            .then(r#"","ad_id":""#)
            .then(ID)
            .then(r#"","ad_type":""#)
            .then(ad_type)
            .then(r#"","event_type":""#)
            .then(event_type)
            .then(r#"","event_time":""#);
        let time_at = head.len;
        let line = head.then("?????????????").then(r#"","ip_address":""#).then(IP_TEXT).then(r#""}"#);
        Template { time_at, ..line }
    }

    const fn then(mut self, text: &str) -> Template {
        let mut at = 0;
        while at < text.len() {
            self.bytes[self.len] = text.as_bytes()[at];
            self.len += 1;
            at += 1;
        }
        self
    }
}
