//! Every query once more: one thread, the plain generator, maps and sorted lists. It shares nothing with the jobs but the
//! events, and says in its own words what a row is.

use std::collections::{BTreeMap, BTreeSet};

use nexmark::event::{Auction, Bid, Event, Person};

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
        Query::Q3 => offers(events, row),
        Query::Q4 => by_category(events, row),
        Query::Q5 => hot_auctions(events, row),
        Query::Q7 => highest_bids(events, row),
        Query::Q8 => newcomers(events, row),
        Query::Q9 => winning_bids(events).iter().for_each(|(auction, bid)| {
            row(format!("{}|{}|{}|{}", auction.id, bid.bidder, bid.price, bid.date_time));
        }),
        Query::Q10 => each_bid(events, |b| {
            let minutes = b.date_time / 60_000;
            let days = minutes / 1440 - 16_631;
            // A month is all that the generator's first 2.3 billion events last.
            assert!(days < 16, "the answer's calendar ends with July 2015");
            let (date, minute) = (15 + days, minutes % 60);
            let (auction, bidder, price, at, extra) = (b.auction, b.bidder, b.price, b.date_time, b.extra);
            let hour = minutes / 60 % 24;
            row(format!("{auction}|{bidder}|{price}|{at}|{extra}|2015-07-{date}|{hour:02}:{minute:02}"));
        }),
        Query::Q11 => sessions(events, row),
        // By the wall clock all may lie in one window: bidders and how many bids each made.
        Query::Q12 => {
            let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
            each_bid(events, |b| *counts.entry(b.bidder).or_default() += 1);
            counts.iter().for_each(|(bidder, count)| row(format!("{bidder}|{count}")));
        }
        Query::Q13 => each_bid(events, |b| {
            row(format!("{}|{}|{}|{}|{}", b.auction, b.bidder, b.price, b.date_time, b.auction % 10_000));
        }),
        Query::Q15 => by_day(events, |_| None, row),
        Query::Q16 => by_day(events, |b| Some(b.channel.clone()), row),
        Query::Q17 => by_auction_and_day(events, row),
        Query::Q18 => {
            let mut last: BTreeMap<(usize, usize), Bid> = BTreeMap::new();
            // In the generator's order: the later overwrites.
            each_bid(events, |b| drop(last.insert((b.bidder, b.auction), b)));
            last.values().for_each(|b| row(format!("{}|{}|{}|{}", b.auction, b.bidder, b.price, b.date_time)));
        }
        Query::Q19 => {
            for (auction, bids) in bids_by(events, |b| b.auction) {
                let mut prices: Vec<usize> = bids.iter().map(|b| b.price).collect();
                prices.sort_by(|one, other| other.cmp(one));
                prices.iter().take(10).enumerate().for_each(|(at, p)| row(format!("{auction}|{}|{p}", at + 1)));
            }
        }
        Query::Q20 => {
            let bids = bids_by(events, |b| b.auction);
            for a in auctions(events).iter().filter(|a| a.category == 10) {
                for b in bids.get(&a.id).into_iter().flatten() {
                    let (auction, bidder, price, at) = (b.auction, b.bidder, b.price, b.date_time);
                    row(format!("{auction}|{bidder}|{price}|{at}|{}|{}", a.seller, a.expires));
                }
            }
        }
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

/// The answer's rows, summed up; none where they depend on the wall clock.
#[must_use]
pub fn sum(query: Query, events: u64) -> Option<LineSum> {
    if query == Query::Q12 {
        return None;
    }
    let mut sum = LineSum::default();
    rows(query, events, &mut |row| sum.add(row.as_bytes()));
    Some(sum)
}

fn each_bid(events: u64, mut take: impl FnMut(Bid)) {
    for event in Share::all(events) {
        if let Event::Bid(bid) = event.event {
            take(bid);
        }
    }
}

fn auctions(events: u64) -> Vec<Auction> {
    let auction = |event| if let Event::Auction(auction) = event { Some(auction) } else { None };
    Share::all(events).filter_map(|event| auction(event.event)).collect()
}

fn people(events: u64) -> Vec<Person> {
    let person = |event| if let Event::Person(person) = event { Some(person) } else { None };
    Share::all(events).filter_map(|event| person(event.event)).collect()
}

/// Bids by what `key` says of them, each list in the generator's order.
fn bids_by<K: Ord>(events: u64, key: impl Fn(&Bid) -> K) -> BTreeMap<K, Vec<Bid>> {
    let mut lists: BTreeMap<K, Vec<Bid>> = BTreeMap::new();
    each_bid(events, |bid| lists.entry(key(&bid)).or_default().push(bid));
    lists
}

/// q3.
fn offers(events: u64, row: &mut dyn FnMut(String)) {
    let people = people(events);
    for a in auctions(events).iter().filter(|a| a.category == 10) {
        for p in people.iter().filter(|p| p.id == a.seller && matches!(&*p.state, "or" | "id" | "ca")) {
            row(format!("{}|{}|{}|{}", p.name, p.city, p.state, a.id));
        }
    }
}

/// Every auction that has one, with its winning bid.
fn winning_bids(events: u64) -> Vec<(Auction, Bid)> {
    let bids = bids_by(events, |bid| bid.auction);
    let winner = |a: &Auction| {
        let all = bids.get(&a.id)?.iter();
        let in_time = all.filter(|b| b.date_time >= a.date_time && b.date_time <= a.expires);
        in_time.min_by_key(|b| (std::cmp::Reverse(b.price), b.date_time, b.bidder)).cloned()
    };
    auctions(events).into_iter().filter_map(|a| winner(&a).map(|bid| (a, bid))).collect()
}

/// q4.
fn by_category(events: u64, row: &mut dyn FnMut(String)) {
    let mut categories: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for (auction, bid) in winning_bids(events) {
        let (sum, count) = categories.entry(auction.category).or_default();
        *sum += bid.price;
        *count += 1;
    }
    categories.iter().for_each(|(category, (sum, count))| row(format!("{category}|{sum}|{count}")));
}

/// q5.
fn hot_auctions(events: u64, row: &mut dyn FnMut(String)) {
    let mut windows: BTreeMap<u64, BTreeMap<usize, u64>> = BTreeMap::new();
    each_bid(events, |b| {
        let newest = b.date_time / 2_000 * 2_000;
        for start in (0..5).map(|back| newest - back * 2_000) {
            *windows.entry(start).or_default().entry(b.auction).or_default() += 1;
        }
    });
    for (start, counts) in &windows {
        let most = counts.values().max();
        let hot = counts.iter().filter(|(_, count)| Some(*count) == most);
        hot.for_each(|(auction, count)| row(format!("{start}|{auction}|{count}")));
    }
}

/// q7.
fn highest_bids(events: u64, row: &mut dyn FnMut(String)) {
    for (window, bids) in bids_by(events, |b| b.date_time / 10_000) {
        let highest = bids.iter().map(|b| b.price).max();
        for b in bids.iter().filter(|b| Some(b.price) == highest) {
            row(format!("{}|{}|{}|{}|{}", window * 10_000, b.auction, b.bidder, b.price, b.date_time));
        }
    }
}

/// q8.
fn newcomers(events: u64, row: &mut dyn FnMut(String)) {
    let sellers: BTreeSet<(usize, u64)> =
        auctions(events).iter().map(|auction| (auction.seller, auction.date_time / 10_000)).collect();
    for p in people(events) {
        let window = p.date_time / 10_000;
        if sellers.contains(&(p.id, window)) {
            row(format!("{}|{}|{}", p.id, p.name, window * 10_000));
        }
    }
}

/// q11.
fn sessions(events: u64, row: &mut dyn FnMut(String)) {
    for (bidder, bids) in bids_by(events, |b| b.bidder) {
        let times: Vec<u64> = bids.iter().map(|b| b.date_time).collect();
        for session in times.chunk_by(|one, next| next - one <= 10_000) {
            let (first, last) = (session[0], session[session.len() - 1]);
            row(format!("{bidder}|{}|{first}|{}", session.len(), last + 10_000));
        }
    }
}

/// Of those bids the number, and of three ranks of prices each the number.
fn of_ranks(bids: &[Bid], count: impl Fn(&mut dyn Iterator<Item = &Bid>) -> usize) -> String {
    let ranks: [&dyn Fn(&Bid) -> bool; 4] =
        [&|_| true, &|b| b.price < 10_000, &|b| b.price >= 10_000 && b.price < 1_000_000, &|b| b.price >= 1_000_000];
    let counts = ranks.map(|is_of| count(&mut bids.iter().filter(|b| is_of(b))).to_string());
    counts.join("|")
}

/// q15, and q16 with a channel.
fn by_day(events: u64, channel: impl Fn(&Bid) -> Option<String>, row: &mut dyn FnMut(String)) {
    for ((channel, day), bids) in bids_by(events, |b| (channel(b), b.date_time / 86_400_000)) {
        let all = of_ranks(&bids, |bids| bids.count());
        let bidders = of_ranks(&bids, |bids| bids.map(|b| b.bidder).collect::<BTreeSet<_>>().len());
        let auctions = of_ranks(&bids, |bids| bids.map(|b| b.auction).collect::<BTreeSet<_>>().len());
        let last_minute = bids.iter().map(|b| b.date_time % 86_400_000 / 60_000).max().unwrap_or(0);
        row(match channel {
            None => format!("{day}|{all}|{bidders}|{auctions}"),
            Some(channel) => format!("{channel}|{day}|{last_minute}|{all}|{bidders}|{auctions}"),
        });
    }
}

/// q17.
fn by_auction_and_day(events: u64, row: &mut dyn FnMut(String)) {
    for ((auction, day), bids) in bids_by(events, |b| (b.auction, b.date_time / 86_400_000)) {
        let prices: Vec<usize> = bids.iter().map(|b| b.price).collect();
        let (min, max) = (prices.iter().min().unwrap_or(&0), prices.iter().max().unwrap_or(&0));
        let sum: usize = prices.iter().sum();
        row(format!("{auction}|{day}|{}|{min}|{max}|{sum}", of_ranks(&bids, |bids| bids.count())));
    }
}
