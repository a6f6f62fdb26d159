//! Every query once more: one thread, the plain generator, maps and sorted lists. It shares nothing with the jobs but the
//! events, and says in its own words what a row is.

use nexmark::event::{Bid, Event};

use super::query::Query;
use super::row::LineSum;
use super::source::Share;

/// Hands every row of the answer to `row`, as a line, in any order.
pub fn rows(query: Query, events: u64, row: &mut dyn FnMut(String)) {
    match query {
        Query::Q0 => each_bid(events, |b| row(format!("{}|{}|{}|{}", b.auction, b.bidder, b.price, b.date_time))),
        Query::Q1 => each_bid(events, |b| row(format!("{}|{}|{}|{}", b.auction, b.bidder, b.price * 908, b.date_time))),
        Query::Q2 => each_bid(events, |b| {
            if b.auction % 123 == 0 {
                row(format!("{}|{}", b.auction, b.price));
            }
        }),
        Query::Q14 => each_bid(events, |b| {
            let price = b.price * 908;
            if price > 1_000_000_000 && price < 50_000_000_000 {
                let hour = b.date_time / 1000 / 60 / 60 % 24;
                let time_type = if (8..=18).contains(&hour) {
                    "dayTime"
                } else if hour <= 6 || hour >= 20 {
                    "nightTime"
                } else {
                    "otherTime"
                };
                let c = b.extra.matches('c').count();
                row(format!("{}|{}|{price}|{time_type}|{}|{c}", b.auction, b.bidder, b.date_time));
            }
        }),
        Query::Q21 => each_bid(events, |b| {
            let id = match b.channel.to_lowercase().as_str() {
                "apple" => Some("0".to_owned()),
                "google" => Some("1".to_owned()),
                "facebook" => Some("2".to_owned()),
                "baidu" => Some("3".to_owned()),
                _ => b.url.split_once("&channel_id=").map(|(_, id)| id.split('&').next().unwrap_or("").to_owned()),
            };
            if let Some(id) = id {
                row(format!("{}|{}|{}|{id}", b.auction, b.bidder, b.price));
            }
        }),
        Query::Q22 => each_bid(events, |b| {
            let parts: Vec<&str> = b.url.split('/').collect();
            row(format!("{}|{}|{}|{}|{}|{}", b.auction, b.bidder, b.price, parts[3], parts[4], parts[5]));
        }),
    }
}

/// The answer's rows, summed up.
#[must_use]
pub fn sum(query: Query, events: u64) -> LineSum {
    let mut sum = LineSum::default();
    rows(query, events, &mut |row| sum.add(row.as_bytes()));
    sum
}

fn each_bid(events: u64, mut take: impl FnMut(Bid)) {
    for event in Share::all(events) {
        if let Event::Bid(bid) = event.event {
            take(bid);
        }
    }
}
