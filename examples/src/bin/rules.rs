//! Payments over a limit that changes while the job runs: `cargo run -p millstream-examples --bin rules`
//!
//! ```text
//! payments, up to 5 s out of order ─▶ key by card ─▶ process ─────────────────▶ payments over the limit of their moment
//! limits ───────────────────────────▶ broadcast ─▶ every shard hears each one
//! ```
//!
//! A limit is for all cards, so every shard has to know it: it is broadcast. Between two streams there is no order, so a
//! payment waits until the watermark, the least of both streams, has come to its time: all limits up to it have been heard.
#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::state::{KeyedState, List};
use millstream::{
    BoxError, BroadcastContext, BroadcastProcess, Items, Job, ProcessContext, Timer, Timestamp, Watermarks,
};
use millstream_connectors::memory::MemorySink;

#[millstream::event]
#[derive(Clone, Copy)]
struct Payment {
    card: u64,
    at_ms: i64,
    cents: u64,
}

/// From this moment on, payments of more than that are told of.
#[millstream::event]
#[derive(Clone, Copy)]
struct Limit {
    from_ms: i64,
    cents: u64,
}

#[derive(KeyedState)]
struct Card {
    waiting: List<Payment>,
}

/// The limits by the moment from which they hold: the same on every shard.
type Limits = BTreeMap<i64, u64>;
type Cx<'a> = ProcessContext<'a, u64, (Payment, u64)>;

struct OverLimit;

impl BroadcastProcess<u64, Payment, Limit> for OverLimit {
    type State = Card;
    type Shared = Limits;
    type Out = (Payment, u64);

    fn on_event(&mut self, card: &mut Card, _: &Limits, payment: Payment, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        card.waiting.push(payment);
        cx.timers().event(Timestamp(payment.at_ms));
        Ok(())
    }

    fn on_timer(&mut self, card: &mut Card, limits: &Limits, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let now_ms = cx.timestamp().0;
        let limit = limits.range(..=now_ms).next_back().map_or(u64::MAX, |(_, cents)| *cents);
        card.waiting.retain(|payment| {
            if payment.at_ms == now_ms && payment.cents > limit {
                cx.emit((*payment, limit));
            }
            payment.at_ms > now_ms
        });
        Ok(())
    }

    fn on_broadcast(&mut self, limits: &mut Limits, limit: Limit, _: &BroadcastContext) -> Result<(), BoxError> {
        limits.insert(limit.from_ms, limit.cents);
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let payment =
        |n: i64| Payment { card: n as u64 % 40, at_ms: n * 100 - n * 7919 % 5_000, cents: 100 + n as u64 % 997 };
    let payments: Vec<Payment> = (0..20_000).map(payment).collect();
    let limits = [(0, 1_090), (600_000, 1_085), (1_200_000, 1_094)].map(|(from_ms, cents)| Limit { from_ms, cents });
    let told = MemorySink::new();
    let sink = told.clone();
    Job::new("rules", move |flow| {
        let disorder = Watermarks::bounded(Duration::from_secs(5));
        let payments = flow.source(Items::of(payments.clone())).event_time(|p| Timestamp(p.at_ms), disorder);
        let limits = flow.source(Items::of(limits.to_vec()));
        let limits = limits.event_time(|limit| Timestamp(limit.from_ms), Watermarks::monotonic());
        let by_card = payments.key_by(|payment| payment.card);
        by_card.connect_broadcast(limits.broadcast()).process(OverLimit).named("over-limit").sink(sink.clone());
    })
    .shards(2)
    .run()?;
    let limits: Vec<u64> = told.rows().iter().map(|(_, limit)| *limit).collect();
    for each in [1_085, 1_090, 1_094] {
        println!("{:>4} payments over {each} cents", limits.iter().filter(|limit| **limit == each).count());
    }
    Ok(())
}
