//! What inputs bring, in which order it comes together, and where a job is stopped meanwhile.

use std::fmt;

use millstream::Timestamp;
use millstream::testing::{Collected, Pushed, Snapshot, TestJob};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::operators::{Inputs, Operator, Row};

/// So many cases, or as many as `PROPTEST_CASES` says. A case here is long: one that fails is not shrunk for ever.
pub(crate) fn cases(usual: u32) -> ProptestConfig {
    let config = ProptestConfig { max_shrink_iters: 300, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { ProptestConfig { cases: usual, ..config } }
}

/// Rows of an input come at most so much later than a row with a later time.
const DISORDER_MS: i64 = 8;

/// What an input brings: a row, or how far its time has come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item {
    Row(Row),
    Watermark(i64),
}

/// What each of the inputs brings, in its order.
pub(crate) type Script = [Vec<Item>; 3];

/// What happens next to a job.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Move {
    /// An input brings its next item.
    Bring(usize),
    /// What was brought is handled, before anything else comes.
    Settle,
    Snapshot,
    /// Back to the last snapshot, on so many shards.
    Restore(u32),
}

/// One step of an input: how far its time goes on, how late the row is, its key and value, and whether time is told then.
type Step = (i64, i64, u64, i64, bool);

/// Times are even: the gaps of sessions are odd.
fn items(input: u64, steps: Vec<Step>) -> Vec<Item> {
    let (mut now, mut items) = (0, Vec::new());
    for (on, back, key, value, tells) in steps {
        now += 2 * on;
        items.push(Item::Row(Row { input, key, at: now - 2 * back, value }));
        if tells {
            items.push(Item::Watermark(now - DISORDER_MS - 1));
        }
    }
    items
}

fn steps(rows_max: usize) -> impl Strategy<Value = Vec<Step>> {
    vec((0_i64..4, 0..=DISORDER_MS / 2, 0_u64..4, 0_i64..60, prop::bool::weighted(0.4)), 0..rows_max)
}

/// Up to so many rows of each input, from any of which time may be told.
pub(crate) fn script(rows_max: usize) -> impl Strategy<Value = Script> {
    (steps(rows_max), steps(rows_max), steps(rows_max))
        .prop_map(|(first, second, third)| [items(0, first), items(1, second), items(2, third)])
}

/// Moves of which each is drawn by itself; `stops` says whether the job is stopped as well.
pub(crate) fn moves(count: usize, stops: bool) -> impl Strategy<Value = Vec<Move>> {
    let stop = u32::from(stops);
    let one = prop_oneof![
        9 => (0_usize..3).prop_map(Move::Bring),
        3 => Just(Move::Settle),
        stop => Just(Move::Snapshot),
        stop => (1_u32..=8).prop_map(Move::Restore),
    ];
    vec(one, count)
}

/// How a job went.
#[derive(PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What it has committed, sorted.
    pub(crate) rows: Vec<String>,
    pub(crate) late: u64,
    pub(crate) is_empty: bool,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { rows, late, is_empty } = self;
        write!(f, "{} rows, {late} late, empty: {is_empty}\n{}", rows.len(), rows.join("\n"))
    }
}

/// An operator's job, and its inputs.
pub(crate) struct Rig {
    pub(crate) inputs: Inputs,
    pub(crate) out: Collected<String>,
    pub(crate) job: TestJob,
}

impl Rig {
    pub(crate) fn of(operator: &Operator, shards: u32) -> Rig {
        let (inputs, out): (Inputs, _) = ([Pushed::new(), Pushed::new(), Pushed::new()], Collected::new());
        let (pushed, collected, build) = (inputs.clone(), out.clone(), operator.build);
        let job = TestJob::new(shards, move |flow| build(flow, &pushed, collected.clone())).unwrap();
        Rig { inputs, out, job }
    }

    pub(crate) fn bring(&self, input: usize, item: Item) {
        match item {
            Item::Row(row) => self.inputs[input].push(row, Timestamp(row.at)),
            Item::Watermark(at) => self.inputs[input].watermark(Timestamp(at)),
        }
    }

    /// Ends the input.
    pub(crate) fn end(mut self) -> Outcome {
        self.job.end_of_input().unwrap();
        let mut rows = self.out.committed();
        rows.sort_unstable();
        Outcome { rows, late: self.job.late(), is_empty: self.job.state_is_empty() }
    }
}

/// What a batch job makes of it: all rows at once, on one shard, and time comes at the end.
pub(crate) fn at_once(operator: &Operator, script: &Script) -> Outcome {
    let rig = Rig::of(operator, 1);
    for (input, items) in script.iter().enumerate() {
        items.iter().filter(|item| matches!(item, Item::Row(_))).for_each(|item| rig.bring(input, *item));
    }
    rig.end()
}

/// The script as moves have it come together, and what is left of it at their end.
pub(crate) fn play(operator: &Operator, script: &Script, moves: &[Move], shards: u32) -> Outcome {
    let mut rig = Rig::of(operator, shards);
    let mut next = [0; 3];
    let mut snapshot: Option<Snapshot> = None;
    for one in moves {
        match one {
            Move::Bring(input) => {
                if let Some(item) = script[*input].get(next[*input]) {
                    rig.bring(*input, *item);
                    next[*input] += 1;
                }
            }
            Move::Settle => rig.job.settle().unwrap(),
            Move::Snapshot => snapshot = Some(rig.job.snapshot().unwrap()),
            Move::Restore(shards) => {
                if let Some(snapshot) = &snapshot {
                    rig.job.restore(snapshot, *shards).unwrap();
                }
            }
        }
    }
    for (input, items) in script.iter().enumerate() {
        items[next[input]..].iter().for_each(|item| rig.bring(input, *item));
    }
    rig.end()
}
