use std::time::Duration;

use millstream::{Session, Stream, TimedChain, Timestamp, Trigger, TriggerContext, Verdict};

#[derive(Debug)]
struct EveryRow;

impl Trigger<u64> for EveryRow {
    type State = ();

    fn state(&self) {}

    fn on_element(&self, _: &u64, _: Timestamp, _: &mut TriggerContext<'_, ()>) -> Verdict {
        Verdict::Fire
    }
}

fn counts(rows: Stream<impl TimedChain<Out = u64>>) {
    rows.key_by(|row| *row).window(Session::gap(Duration::from_secs(1))).trigger(EveryRow);
}

fn main() {}
