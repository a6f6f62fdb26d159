//! Cards that are used too often: `cargo run -p millstream-examples --bin velocity`
//!
//! ```text
//! payments, up to 2 s out of order ─▶ event time ─▶ key by card ─▶ process: more than five within a minute ─▶ alerts
//!                                                                     └─ on the side: the payments
//! ```
//!
//! A burst ends when its card has been silent for a minute, which only a timer can tell: no payment comes then. The same
//! timer forgets cards that are not used, so state does not grow for ever.
#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::time::Duration;

use millstream::state::{KeyedState, List, Value};
use millstream::{BoxError, Items, Job, Process, ProcessContext, SideOutput, Timer, Timestamp, Watermarks};
use millstream_connectors::memory::MemorySink;

const MOST: usize = 5;
const MINUTE_MS: i64 = 60_000;

#[millstream::event]
#[derive(Clone, Copy)]
struct Payment {
    card: u64,
    at_ms: i64,
}

#[derive(KeyedState)]
struct Card {
    /// When it paid within the last minute.
    recent: List<i64>,
    silent_at: Value<i64>,
    /// Payments of the burst under way.
    burst: Value<u64>,
}

struct Velocity {
    suspicious: SideOutput<Payment>,
}

type Cx<'a> = ProcessContext<'a, u64, String>;

impl Process<u64, Payment> for Velocity {
    type State = Card;
    type Out = String;

    fn on_event(&mut self, card: &mut Card, payment: Payment, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        card.recent.retain(|at_ms| payment.at_ms - at_ms < MINUTE_MS);
        card.recent.push(payment.at_ms);
        if card.recent.len() > MOST && !card.burst.is_set() {
            card.burst.set(MOST as u64);
            cx.emit(format!("card {}: more than {MOST} payments within a minute", payment.card));
        }
        if card.burst.update(|payments| *payments += 1).is_some() {
            cx.side(&self.suspicious, payment);
        }
        // One timer a card: the newest payment moves it on.
        let silent_at = card.recent.iter().copied().max().unwrap_or(payment.at_ms) + MINUTE_MS;
        cx.timers().delete_event(Timestamp(card.silent_at.get_or(i64::MIN)));
        cx.timers().event(Timestamp(silent_at));
        card.silent_at.set(silent_at);
        Ok(())
    }

    fn on_timer(&mut self, card: &mut Card, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        if let Some(payments) = card.burst.get() {
            cx.emit(format!("card {}: silent at {} s, after {payments} payments", cx.key(), cx.timestamp().0 / 1000));
        }
        card.burst.clear();
        card.recent.clear();
        card.silent_at.clear();
        Ok(())
    }
}

/// A thousand cards that pay every ten minutes; card 7 is used by somebody else for a while.
fn payments() -> Vec<Payment> {
    let usual = (0..20_000_u64).map(|n| Payment { card: n % 1_000, at_ms: n as i64 * 600 });
    let stolen = (0..9).map(|nth| Payment { card: 7, at_ms: 5_000_000 + nth * 4_000 });
    let mut paid = usual.chain(stolen).collect::<Vec<_>>();
    paid.sort_by_key(|payment| payment.at_ms + payment.at_ms * 7919 % 2_000);
    paid
}

fn main() -> anyhow::Result<()> {
    let (alerts, suspicious) = (MemorySink::new(), MemorySink::new());
    let (sink, side_sink) = (alerts.clone(), suspicious.clone());
    Job::new("velocity", move |flow| {
        let side = SideOutput::new();
        let paid = flow.source(Items::of(payments()));
        let timed = paid.event_time(|p| Timestamp(p.at_ms), Watermarks::bounded(Duration::from_secs(2)));
        let cards = timed.key_by(|payment| payment.card).process(Velocity { suspicious: side.clone() }).named("cards");
        cards.side(&side).sink(side_sink.clone());
        cards.sink(sink.clone());
    })
    .run()?;
    println!("{}\n{} suspicious payments", alerts.rows().join("\n"), suspicious.len());
    Ok(())
}
