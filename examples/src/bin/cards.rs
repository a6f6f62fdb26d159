//! Payments that look stolen, and what each card buys: `cargo run -p millstream-examples --bin cards`
//!
//! ```text
//! payments ─▶ key by card ─▶ states of the card ─▶ alerts and summaries
//! ```
//!
//! A card pays too often if five payments fall within a minute, and too much if one is ten times its mean. What is kept of a
//! card is four states in one struct: a list, an average, a map per shop, and a text that is gone after a week.
#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use millstream::state::{Greatest, KeyedState, List, Map, Reducing, Value};
use millstream::{Both, Items, Job, Text};
use millstream_connectors::memory::MemorySink;

#[millstream::event]
#[derive(Clone, Copy)]
struct Payment {
    card: u64,
    at_ms: i64,
    cents: u64,
    shop: Text<16>,
}

#[derive(KeyedState)]
struct Card {
    /// When it paid of late.
    recent: List<i64>,
    /// Payments, and cents in all.
    paid: Value<Both<u64, u64>>,
    dearest: Reducing<u64, Greatest>,
    /// Cents per shop.
    shops: Map<String, u64>,
    /// What was last said of it, a week at most.
    #[state(ttl = "7d")]
    note: Value<String>,
}

const MINUTE_MS: i64 = 60_000;

fn pay(card: &mut Card, payment: &Payment) -> Option<String> {
    card.recent.retain(|at_ms| payment.at_ms - at_ms < MINUTE_MS);
    card.recent.push(payment.at_ms);
    let mean = card.paid.update_or(Both(0, 0), |paid| {
        let mean = paid.1.checked_div(paid.0);
        *paid = Both(paid.0 + 1, paid.1 + payment.cents);
        mean
    });
    let dearest = card.dearest.add(payment.cents);
    let shop = payment.shop.as_str();
    if card.shops.update(shop, |cents| *cents += payment.cents).is_none() {
        card.shops.insert(shop.to_owned(), payment.cents);
    }
    let what = if card.recent.len() == 5 {
        "five payments in a minute".into()
    } else if mean.is_some_and(|mean| payment.cents > mean * 10) {
        format!("{} cents at the {shop}, ten times its mean", payment.cents)
    } else {
        return None;
    };
    let before = card.note.get().map_or(String::new(), |note| format!(" (before: {note})"));
    let spent: u64 = card.shops.iter().map(|(_, cents)| cents).sum();
    let (number, shops) = (payment.card, card.shops.len());
    let line = format!("card {number}: {what}{before}; {spent} cents in {shops} shops, {dearest} at most");
    card.note.set(what);
    Some(line)
}

/// A thousand cards that pay every ten minutes; card 7 is used by somebody else for a while, card 9 buys a car.
fn payments() -> anyhow::Result<Vec<Payment>> {
    let shops = ["bakery", "book shop", "florist"];
    let mut paid = Vec::new();
    for n in 0..50_000u64 {
        let (card, round) = (n % 1_000, n / 1_000);
        let at_ms = round as i64 * 10 * MINUTE_MS;
        let pay = |at_ms, cents, shop: &str| anyhow::Ok(Payment { card, at_ms, cents, shop: shop.parse()? });
        paid.push(pay(at_ms, 500 + n * 37 % 900, shops[(n + round) as usize % 3])?);
        if card == 7 && round == 30 {
            for nth in 1..6 {
                paid.push(pay(at_ms + nth * 5_000, 2_000, "jeweller")?);
            }
        }
        if card == 9 && round == 40 {
            paid.push(pay(at_ms + 1, 1_900_000, "car dealer")?);
        }
    }
    Ok(paid)
}

fn main() -> anyhow::Result<()> {
    let (payments, alerts) = (payments()?, MemorySink::new());
    let sink = alerts.clone();
    Job::new("cards", move |flow| {
        let paid = flow.source(Items::of(payments.clone())).key_by(|payment| payment.card);
        paid.flat_map_with_state(pay).named("cards").sink(sink.clone());
    })
    .run()?;
    println!("{}\n{} alerts", alerts.rows().join("\n"), alerts.len());
    Ok(())
}
