//! Two streams that are connected: states and timers of both meet under their key.

use millstream::state::{KeyedState, Value};
use millstream::{BoxError, CoProcess, ProcessContext, Timer, Timestamp};

use super::{Pair, Row, many, play};

/// Each side's rows in an order of its own, timers of both, and a watermark that neither is ahead of.
struct Witness;

#[derive(KeyedState)]
struct Seen {
    left: Value<u64>,
    right: Value<u64>,
}

type Cx<'a> = ProcessContext<'a, u64, Pair>;

impl Witness {
    fn take(count: &mut Value<u64>, row: Row, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        if cx.timestamp() <= cx.watermark() || cx.timestamp().0 != row.at || *cx.key() != row.key {
            return Err(format!("{row:?} at {} behind the watermark {}", cx.timestamp(), cx.watermark()).into());
        }
        count.update_or(0, |count| *count += 1);
        let second = row.at.div_euclid(1000) * 1000 + 999;
        cx.timers().event(Timestamp(second));
        Ok(())
    }
}

impl CoProcess<u64, Row, Row> for Witness {
    type State = Seen;
    type Out = Pair;

    fn on_left(&mut self, seen: &mut Seen, row: Row, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        Witness::take(&mut seen.left, row, cx)
    }

    fn on_right(&mut self, seen: &mut Seen, row: Row, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        Witness::take(&mut seen.right, row, cx)
    }

    fn on_timer(&mut self, seen: &mut Seen, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        if cx.watermark() == Timestamp::MAX {
            cx.emit([seen.left.get_or(0) as i64, seen.right.get_or(0) as i64]);
            seen.left.clear();
            seen.right.clear();
        }
        Ok(())
    }
}

#[test]
fn two_streams_meet_the_states_and_timers_of_their_key() {
    let (left, right) = (many(9_000, 1, 40), many(6_000, 2, 40));
    let lines = |shards| {
        let lines = play(&left, &right, shards, 100, |left, right| {
            left.key_by(|row| row.key).connect(right.key_by(|row| row.key)).process(Witness).named("witness").boxed()
        });
        let counted = lines.iter().map(|line| {
            let counts: Vec<usize> = line.split(' ').take(2).map(|count| count.parse().unwrap()).collect();
            (counts[0], counts[1])
        });
        counted.fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1))
    };
    for shards in 1..=3 {
        assert_eq!(lines(shards), (9_000, 6_000), "{shards} shards");
    }
}
