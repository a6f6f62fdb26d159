//! q0, q1, q2, q10, q13, q14, q21, q22: a bid in, at most one row out. What becomes of a bid is a function of its own, which the
//! hand-written loop calls as well.

use millstream::{Flow, LookupTable};
use nexmark::event::Bid;

use super::Events;
use crate::nexmark::output::Output;
use crate::nexmark::row::Fields;

/// What a dollar is in thousandths of a euro.
const EURO_THOUSANDTHS: u64 = 908;
const HOUR_MS: u64 = 3_600_000;

/// Every bid that `row` makes something of.
fn each_bid<R: Fields>(flow: &Flow, events: impl Events, row: impl Fn(&Bid) -> Option<R> + 'static, output: Output) {
    flow.source(events).named("events").filter_map(move |event| row(event.bid()?)).sink(output);
}

macro_rules! queries_of_bids {
    ($($query:ident $row:ident)*) => {$(
        pub(in crate::nexmark) fn $query(flow: &Flow, events: impl Events, output: Output) {
            each_bid(flow, events, $row, output);
        }
    )*};
}
queries_of_bids! { q0 as_it_is q1 in_euros q2 of_some_auctions q14 calculated q21 with_channel_id q22 with_directories }

/// A number of the generator's, which counts in the machine's words.
pub(in crate::nexmark) fn wide(number: usize) -> u64 {
    number as u64
}

pub(in crate::nexmark) fn as_it_is(bid: &Bid) -> Option<[u64; 4]> {
    Some([wide(bid.auction), wide(bid.bidder), wide(bid.price), bid.date_time])
}

pub(in crate::nexmark) fn in_euros(bid: &Bid) -> Option<[u64; 4]> {
    Some([wide(bid.auction), wide(bid.bidder), euros(bid), bid.date_time])
}

fn euros(bid: &Bid) -> u64 {
    wide(bid.price) * EURO_THOUSANDTHS
}

pub(in crate::nexmark) fn of_some_auctions(bid: &Bid) -> Option<[u64; 2]> {
    bid.auction.is_multiple_of(123).then(|| [wide(bid.auction), wide(bid.price)])
}

/// Auction, bidder and price; the time of day; when; how often there is a `c` in what is beside.
pub(in crate::nexmark) type Calculated = ([u64; 3], &'static str, [u64; 2]);

pub(in crate::nexmark) fn calculated(bid: &Bid) -> Option<Calculated> {
    let price = euros(bid);
    if price <= 1_000_000_000 || price >= 50_000_000_000 {
        return None;
    }
    let time_type = match bid.date_time / HOUR_MS % 24 {
        8..=18 => "dayTime",
        ..=6 | 20.. => "nightTime",
        _ => "otherTime",
    };
    let count_of_c = bid.extra.bytes().filter(|byte| *byte == b'c').count();
    Some(([wide(bid.auction), wide(bid.bidder), price], time_type, [bid.date_time, wide(count_of_c)]))
}

pub(in crate::nexmark) fn with_channel_id(bid: &Bid) -> Option<([u64; 3], String)> {
    let id = channel_id(bid)?;
    Some(([wide(bid.auction), wide(bid.bidder), wide(bid.price)], id.to_owned()))
}

/// The channel's number: that of a known one, or the one in the url. A bid without either is in no result.
fn channel_id(bid: &Bid) -> Option<&str> {
    const KNOWN: [(&str, &str); 4] = [("apple", "0"), ("google", "1"), ("facebook", "2"), ("baidu", "3")];
    if let Some((_, id)) = KNOWN.iter().find(|(name, _)| bid.channel.eq_ignore_ascii_case(name)) {
        return Some(id);
    }
    // The pattern is (&|^)channel_id=([^&]*).
    bid.url.split('&').find_map(|part| part.strip_prefix("channel_id="))
}

pub(in crate::nexmark) fn with_directories(bid: &Bid) -> Option<([u64; 3], [String; 3])> {
    let mut parts = bid.url.split('/').skip(3);
    let mut directory = || parts.next().unwrap_or("").to_owned();
    let directories = [directory(), directory(), directory()];
    Some(([wide(bid.auction), wide(bid.bidder), wide(bid.price)], directories))
}

/// How many rows the table of q13 has.
const TABLE_ROWS: u64 = 10_000;

/// q13: a bid with what a table of 10,000 rows, the same on every shard, says of its auction.
pub(in crate::nexmark) fn q13(flow: &Flow, events: impl Events, output: Output) {
    let table: LookupTable<u64, u64> = (0..TABLE_ROWS).map(|key| (key, key)).collect();
    flow.source(events)
        .named("events")
        .filter_map(|event| event.bid().and_then(as_it_is))
        .lookup(
            table,
            |[auction, ..]: &[u64; 4]| auction % TABLE_ROWS,
            |[auction, bidder, price, at_ms], value| [*auction, *bidder, *price, *at_ms, *value],
        )
        .sink(output);
}

/// q10: every bid, into the files of its minute.
pub(in crate::nexmark) fn q10(flow: &Flow, events: impl Events, output: Output) {
    each_bid(flow, events, with_minute, output.partitioned(minute_of));
}

/// A bid, what is beside, its day and its minute.
fn with_minute(bid: &Bid) -> Option<([u64; 4], [String; 3])> {
    let minutes = bid.date_time / 60_000;
    let (year, month, day) = date_of((minutes / (24 * 60)) as i64);
    let date = format!("{year:04}-{month:02}-{day:02}");
    let minute = format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
    as_it_is(bid).map(|bid_itself| (bid_itself, [bid.extra.clone(), date, minute]))
}

/// The directory that a line of q10 belongs into: `dt=2015-07-15/hm=00:00`.
#[expect(clippy::ptr_arg, reason = "the sink's rows are lines in vectors")]
fn minute_of(line: &Vec<u8>) -> String {
    let line = String::from_utf8_lossy(line);
    let mut last = line.rsplit('|');
    let (minute, date) = (last.next().unwrap_or(""), last.next().unwrap_or(""));
    format!("dt={date}/hm={minute}")
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn date_of(day: i64) -> (i64, i64, i64) {
    // Years begin in March, so that the day that comes and goes is a year's last; eras of 400 years are all alike.
    const ERA_DAYS: i64 = 146_097;
    let from_march_of_0 = day + 719_468;
    let (era, day_of_era) = (from_march_of_0.div_euclid(ERA_DAYS), from_march_of_0.rem_euclid(ERA_DAYS));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / (ERA_DAYS - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        let days = [(0, (1970, 1, 1)), (-1, (1969, 12, 31)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29))];
        for (day, date) in days.into_iter().chain([(16_631, (2015, 7, 15)), (19_782, (2024, 2, 29))]) {
            assert_eq!(date_of(day), date);
        }
    }

    #[test]
    fn a_line_has_its_directory() {
        assert_eq!(minute_of(&b"1|2|3|4|more|2015-07-15|00:07".to_vec()), "dt=2015-07-15/hm=00:07");
    }
}
