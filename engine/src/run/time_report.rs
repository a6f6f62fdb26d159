//! What holds time back in a running job, shard by shard, in words.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam::channel::unbounded;

use super::shard::Order;
use crate::time::Timestamp;

/// How long a shard that is at work is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How far time has come, and what holds it back; see [`JobHandle::explain_watermark`](crate::JobHandle::explain_watermark).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatermarkReport {
    /// Every operator that gives event time, on every shard that has answered.
    pub operators: Vec<OperatorTime>,
}

/// How far time has come at one operator on one shard.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct OperatorTime {
    /// The operator's name.
    pub operator: String,
    /// The shard, which is an input of whatever is behind an exchange.
    pub shard: u32,
    /// Its watermark.
    pub watermark: Timestamp,
    /// The splits that it takes rows from.
    pub splits: Vec<SplitReport>,
}

/// How far time has come in one split.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct SplitReport {
    /// The split's name.
    pub split: String,
    /// Its watermark.
    pub watermark: Timestamp,
    /// Whether it is waited for.
    pub standing: SplitStands,
}

/// Whether a split is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum SplitStands {
    /// It is.
    Active,
    /// It has been silent for the idle timeout.
    Idle,
    /// It has ended.
    Ended,
}

impl WatermarkReport {
    /// The split that is waited for and has come least far, and where.
    #[must_use]
    pub fn held_back_by(&self) -> Option<(&OperatorTime, &SplitReport)> {
        let splits =
            self.operators.iter().flat_map(|operator| operator.splits.iter().map(move |split| (operator, split)));
        splits.filter(|(_, split)| split.standing == SplitStands::Active).min_by_key(|(_, split)| split.watermark)
    }
}

impl fmt::Display for WatermarkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.held_back_by() {
            None => writeln!(f, "no split holds time back: all are idle or have ended")?,
            Some((OperatorTime { operator, shard, .. }, SplitReport { split, watermark, .. })) => {
                write!(f, "time is held back by split \"{split}\" at operator \"{operator}\" on shard {shard}, ")?;
                match *watermark {
                    Timestamp::MIN => writeln!(f, "which has brought nothing yet")?,
                    at => writeln!(f, "which has come to {at}")?,
                }
            }
        }
        for OperatorTime { operator, shard, watermark, splits } in &self.operators {
            writeln!(f, "  {operator}, shard {shard}: {watermark}")?;
            for SplitReport { split, watermark, standing } in splits {
                let standing = match standing {
                    SplitStands::Active => "",
                    SplitStands::Idle => ", idle",
                    SplitStands::Ended => ", ended",
                };
                writeln!(f, "    {split}: {watermark}{standing}")?;
            }
        }
        Ok(())
    }
}

/// A way to give a shard an order that does not go through the lead.
pub(crate) type Way = Box<dyn Fn(Order) + Send>;

/// The ways to the shards of the attempt that runs, past the lead.
#[derive(Clone, Default)]
pub(crate) struct Reach(Arc<Mutex<Vec<Way>>>);

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reach")
    }
}

impl Reach {
    /// Another attempt's shards run.
    pub(crate) fn lead_to(&self, shards: Vec<Way>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = shards;
    }

    /// Asks every shard. One that has ended, or does not get round to it, is left out.
    pub(crate) fn explain_watermark(&self) -> WatermarkReport {
        let (answer, answers) = unbounded();
        for ask in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            ask(Order::Explain(answer.clone()));
        }
        drop(answer);
        let mut operators: Vec<OperatorTime> = Vec::new();
        while let Ok(of_shard) = answers.recv_timeout(ANSWER_WITHIN) {
            operators.extend(of_shard);
        }
        operators.sort_by(|one, other| (&one.operator, one.shard).cmp(&(&other.operator, other.shard)));
        WatermarkReport { operators }
    }
}
