//! Cards that are used too often: `cargo run -p millstream-examples --bin velocity`
//!
//! ```text
//! payments ─▶ event time ─▶ key by card ─▶ process: more than five within a minute ─▶ alerts
//! ```
//!
//! A burst ends when its card has been silent for a minute, which only a timer can tell: no payment comes then. It forgets
//! cards that are not used, too. The payments of bursts go to a side output.
#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

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
    recent: List<i64>, // when it paid within the last minute
    silent_at: Value<i64>,
    burst: Value<u64>, // payments of the one under way
}

struct Velocity {
    suspicious: SideOutput<Payment>,
}

type Cx<'a> = ProcessContext<'a, u64, String>;

impl Process<u64, Payment> for Velocity {
    type State = Card;
    type Out = String;

    fn on_event(&mut self, card: &mut Card, payment: Payment, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let before = card.silent_at.get_or(i64::MAX);
        cx.timers().delete_event(Timestamp(before));
        if payment.at_ms >= before {
            fall_silent(card, cx); // a batch has one watermark, behind it: the timer was not asked yet
        }
        card.recent.retain(|at_ms| payment.at_ms - at_ms < MINUTE_MS);
        card.recent.push(payment.at_ms);
        if card.recent.len() > MOST && !card.burst.is_set() {
            card.burst.set(MOST as u64);
            cx.emit(format!("card {}: more than {MOST} payments within a minute", payment.card));
        }
        if card.burst.update(|payments| *payments += 1).is_some() {
            cx.side(&self.suspicious, payment);
        }
        card.silent_at.set(payment.at_ms + MINUTE_MS);
        cx.timers().event(Timestamp(payment.at_ms + MINUTE_MS));
        Ok(())
    }

    fn on_timer(&mut self, card: &mut Card, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        fall_silent(card, cx);
        Ok(())
    }
}

fn fall_silent(card: &mut Card, cx: &mut Cx<'_>) {
    if let Some(payments) = card.burst.get() {
        cx.emit(format!("card {}: silent at {} ms, {payments} payments", cx.key(), card.silent_at.get_or(0)));
    }
    card.burst.clear();
    card.recent.clear();
    card.silent_at.clear();
}

/// A thousand cards that pay every ten minutes; card 7 is used by somebody else for a while.
fn payments() -> Vec<Payment> {
    let usual = (0..20_000_u64).map(|n| Payment { card: n % 1_000, at_ms: n as i64 * 600 });
    let stolen = (0..9).map(|nth| Payment { card: 7, at_ms: 5_000_000 + nth * 4_000 });
    let mut paid: Vec<Payment> = usual.chain(stolen).collect();
    paid.sort_by_key(|payment| payment.at_ms);
    paid
}

fn main() -> anyhow::Result<()> {
    let (alerts, suspicious) = (MemorySink::new(), MemorySink::new());
    let (sink, side_sink) = (alerts.clone(), suspicious.clone());
    Job::new("velocity", move |flow| {
        let side = SideOutput::new();
        let timed = flow.source(Items::of(payments())).event_time(|p| Timestamp(p.at_ms), Watermarks::monotonic());
        let cards = timed.key_by(|payment| payment.card).process(Velocity { suspicious: side.clone() }).named("cards");
        cards.side(&side).sink(side_sink.clone());
        cards.sink(sink.clone());
    })
    .run()?;
    println!("{}\n{} suspicious payments", alerts.rows().join("\n"), suspicious.len());
    Ok(())
}
