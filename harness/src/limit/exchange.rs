//! The query with a full exchange: each shard makes events, and each counts the campaigns it owns.
//!
//! How rows travel is the [`Sends`] and [`Receives`] of a link, one for each pair of shards: a ring between cores, or a
//! socket. A shard that cannot send counts what others sent meanwhile, so that no two can wait for each other.

use std::sync::Mutex;

use millstream::road::rows::Batch as _;

use super::flat::Slot;
use super::fused::windows_expected;
use super::query::{BATCH_ROWS, Key, Keyed, Query, Windows};
use super::stages::{Laps, Stage};
use super::{LimitError, Part, QueryLimit, Timed, run_pinned};
use crate::ysb::generate::Generator;

/// The end of a link that rows go into: keys, and times where they matter.
pub(super) trait Sends<K, T = i64>: Send {
    /// Rows are taken in multiples of this, but for the last.
    const GROUP_ROWS: usize;

    /// Takes as many of the rows as it can and says how many; none while the link is full.
    fn send(&mut self, keys: &[K], times: &[T]) -> usize;

    /// Sends what was held back, and that nothing follows. False: the link is full, try again.
    fn end(&mut self) -> bool;
}

/// The end of a link that rows come out of, in the order they were sent.
pub(super) trait Receives<K, T = i64>: Send {
    /// After how many batches made here it is worth looking: each look at a socket is a system call.
    const LOOK_AFTER_BATCHES: u32;

    /// Shows the oldest rows not yet seen, and whether they are the last; false if there are none.
    fn receive(&mut self, see: impl FnOnce(&[K], &[T], bool)) -> bool;
}

/// Links of one kind, from each shard to each other: `link(from, to)` for all pairs.
pub(super) fn run<Q, S, R, const STAGED: bool>(
    query: &Q,
    limit: &QueryLimit,
    mut link: impl FnMut() -> Result<(S, R), LimitError>,
) -> Result<Timed<Part<Key<Q>>>, LimitError>
where
    Q: Query,
    S: Sends<Key<Q>>,
    R: Receives<Key<Q>>,
{
    let shards = limit.cores.len();
    let mut ends: Vec<Ends<S, R>> = (0..shards).map(|_| Ends { outputs: Vec::new(), inputs: Vec::new() }).collect();
    for from in 0..shards {
        for to in 0..shards {
            if from == to {
                ends[from].outputs.push(None);
                continue;
            }
            let (output, receiver) = link()?;
            ends[from].outputs.push(Some(output));
            ends[to].inputs.push(Input { receiver, through_ms: i64::MIN });
        }
    }
    let ends: Vec<_> = ends.into_iter().map(|ends| Mutex::new(Some(ends))).collect();

    run_pinned(&limit.cores, |shard| {
        let ends = ends[shard].lock().ok().and_then(|mut ends| ends.take());
        let Ends { outputs, inputs } = ends.expect("each shard's ends are taken once");
        let population = &limit.events.population;
        let generator = Generator::new(limit.events, shard as u32, shards as u32);
        // A shard owns its share of the campaigns and somewhat more or less. A tenth covers ten million, the constant
        // what chance does to a hundred.
        let campaigns = (population.campaigns as usize).min(population.campaigns as usize / shards * 11 / 10 + 100);
        let windows = Windows::<Q::Slot>::new(campaigns, campaigns * windows_expected(limit));
        let rows_max = BATCH_ROWS + S::GROUP_ROWS;
        let parted = (0..shards).map(|_| Keyed::new(Q::Slot::NO_KEY, rows_max)).collect();
        let owner = Owner { windows, inputs, own_ms: generator.next_ms() };
        let shard = Shard { query, shard, generator, parted, outputs, owner };
        move || shard.run::<STAGED>()
    })
}

/// A shard's ends of all links.
struct Ends<S, R> {
    /// By shard; none to itself.
    outputs: Vec<Option<S>>,
    inputs: Vec<Input<R>>,
}

struct Input<R> {
    receiver: R,
    /// No later row is older.
    through_ms: i64,
}

struct Shard<'a, Q: Query, S, R> {
    query: &'a Q,
    shard: usize,
    generator: Generator,
    /// Rows by the shard that owns them, on their way: fewer than a group stay behind after each batch.
    parted: Vec<Keyed<Key<Q>>>,
    outputs: Vec<Option<S>>,
    owner: Owner<Q::Slot, R>,
}

/// What a shard does with the rows of its own campaigns.
struct Owner<S: Slot, R> {
    windows: Windows<S>,
    inputs: Vec<Input<R>>,
    /// No event still to be made here is older.
    own_ms: i64,
}

impl<Q: Query, S: Sends<Key<Q>>, R: Receives<Key<Q>>> Shard<'_, Q, S, R> {
    fn run<const STAGED: bool>(mut self) -> Part<Key<Q>> {
        let mut laps = Laps::<STAGED>::start();
        let mut batch = Q::Batch::default();
        let mut views = Keyed::new(Q::Slot::NO_KEY, BATCH_ROWS);
        let mut campaigns = [Q::Slot::NO_KEY; BATCH_ROWS];
        for batch_number in 1_u32.. {
            batch.clear();
            let made = self.generator.fill(&mut batch, BATCH_ROWS);
            laps.lap(Stage::Generate);
            if made == 0 {
                break;
            }
            Q::views(&batch, &mut views);
            laps.lap(Stage::Views);
            let campaigns = &mut campaigns[..views.keys().len()];
            self.query.join(views.keys(), campaigns);
            laps.lap(Stage::Join);
            partition::<Q::Slot>(campaigns, views.times_ms(), &mut self.parted);
            laps.lap(Stage::Partition);
            self.hand_over(S::GROUP_ROWS);
            laps.lap(Stage::HandOver);
            let own = &mut self.parted[self.shard];
            self.owner.windows.count(own.keys(), own.times_ms());
            own.clear();
            self.owner.own_ms = self.generator.next_ms();
            if batch_number.is_multiple_of(R::LOOK_AFTER_BATCHES) {
                self.owner.take_all();
            }
            laps.lap(Stage::Count);
        }
        self.hand_over(1);
        self.end_outputs();
        laps.lap(Stage::HandOver);
        self.owner.own_ms = i64::MAX;
        while !self.owner.take_all() {
            std::hint::spin_loop();
        }
        laps.lap(Stage::Count);
        Part { rows: self.owner.windows.rows, stages: laps.times() }
    }

    /// Moves all whole groups of `group` rows to their rings.
    fn hand_over(&mut self, group: usize) {
        for (rows, output) in self.parted.iter_mut().zip(&mut self.outputs) {
            let Some(output) = output else { continue };
            let whole = rows.keys().len() / group * group;
            let mut moved = 0;
            while moved < whole {
                let taken = output.send(&rows.keys()[moved..whole], &rows.times_ms()[moved..whole]);
                if taken == 0 {
                    self.owner.take_all();
                }
                moved += taken;
            }
            rows.keep_from(whole);
        }
    }

    /// Lets the others know that nothing follows.
    fn end_outputs(&mut self) {
        for output in self.outputs.iter_mut().flatten() {
            while !output.end() {
                self.owner.take_all();
            }
        }
    }
}

impl<S: Slot, R: Receives<S::Key>> Owner<S, R> {
    /// Counts all that has arrived and fires what can be fired. True once no more will come.
    fn take_all(&mut self) -> bool {
        let mut through_ms = self.own_ms;
        for Input { receiver, through_ms: input_ms } in &mut self.inputs {
            let mut see = |keys: &[S::Key], times_ms: &[i64], last: bool| {
                self.windows.count(keys, times_ms);
                // Without disorder no later row is older than the last one here.
                *input_ms = if last { i64::MAX } else { times_ms.last().copied().unwrap_or(*input_ms) };
            };
            while receiver.receive(&mut see) {}
            through_ms = through_ms.min(*input_ms);
        }
        self.windows.fire(through_ms);
        through_ms == i64::MAX
    }
}

/// Puts each row behind the others of its owner.
#[inline]
fn partition<S: Slot>(keys: &[S::Key], times_ms: &[i64], parted: &mut [Keyed<S::Key>]) {
    if let [even, odd] = parted {
        // Two shards: written to both, kept by one. No index is read back from memory for the next row.
        let to_odd = |key: &S::Key| S::shard(key, 2) == 1;
        odd.select(keys.iter().zip(times_ms).map(|(key, time_ms)| (*key, *time_ms, to_odd(key))));
        even.select(keys.iter().zip(times_ms).map(|(key, time_ms)| (*key, *time_ms, !to_odd(key))));
        return;
    }
    let shards = parted.len() as u64;
    for (key, time_ms) in keys.iter().zip(times_ms) {
        parted[S::shard(key, shards)].push(*key, *time_ms);
    }
}
