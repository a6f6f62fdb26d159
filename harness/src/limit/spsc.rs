//! The query with a full exchange: each shard makes events, and each counts the campaigns it owns.
//!
//! Between the cores the rows go in columns through one ring for each pair of shards. A shard that finds a ring full
//! counts what others sent meanwhile, so that no two can wait for each other.

use std::sync::Mutex;

use millstream::road::rows::Batch as _;

use super::flat::Slot;
use super::fused::windows_expected;
use super::query::{BATCH_ROWS, Key, Keyed, Query, Windows};
use super::ring::{GROUP_ROWS, Receiver, Sender, ring};
use super::stages::{Laps, Stage};
use super::{LimitError, Part, QueryLimit, Timed, run_pinned};
use crate::ysb::generate::Generator;

pub(super) fn run<Q: Query, const STAGED: bool>(
    query: &Q,
    limit: &QueryLimit,
) -> Result<Timed<Part<Key<Q>>>, LimitError> {
    let shards = limit.cores.len();
    let mut links: Vec<Links<Key<Q>>> = (0..shards).map(|_| Links::default()).collect();
    for from in 0..shards {
        for to in 0..shards {
            let (sender, receiver) = if from == to { (None, None) } else { some_both(ring()) };
            links[from].outputs.push(sender);
            links[to].inputs.extend(receiver.map(|receiver| Input { receiver, through_ms: i64::MIN }));
        }
    }
    let links: Vec<_> = links.into_iter().map(|links| Mutex::new(Some(links))).collect();

    run_pinned(&limit.cores, |shard| {
        let links = links[shard].lock().ok().and_then(|mut links| links.take());
        let links = links.expect("each shard's links are taken once");
        let population = &limit.events.population;
        let generator = Generator::new(limit.events, shard as u32, shards as u32);
        // A shard owns its share of the campaigns and somewhat more or less. A tenth covers ten million, the constant
        // what chance does to a hundred.
        let campaigns = (population.campaigns as usize).min(population.campaigns as usize / shards * 11 / 10 + 100);
        let windows = Windows::<Q::Slot>::new(campaigns, campaigns * windows_expected(limit));
        let parted = (0..shards).map(|_| Keyed::new(Q::Slot::NO_KEY, BATCH_ROWS + GROUP_ROWS)).collect();
        let owner = Owner { windows, inputs: links.inputs, own_ms: generator.next_ms() };
        let shard = Shard { query, shard, generator, parted, outputs: links.outputs, owner };
        move || shard.run::<STAGED>()
    })
}

fn some_both<A, B>((a, b): (A, B)) -> (Option<A>, Option<B>) {
    (Some(a), Some(b))
}

/// A shard's ends of all rings.
struct Links<K> {
    /// By shard; none to itself.
    outputs: Vec<Option<Sender<K>>>,
    inputs: Vec<Input<K>>,
}

impl<K> Default for Links<K> {
    fn default() -> Links<K> {
        Links { outputs: Vec::new(), inputs: Vec::new() }
    }
}

struct Input<K> {
    receiver: Receiver<K>,
    /// No later row is older.
    through_ms: i64,
}

struct Shard<'a, Q: Query> {
    query: &'a Q,
    shard: usize,
    generator: Generator,
    /// Rows by the shard that owns them, on their way: fewer than a group stay behind after each batch.
    parted: Vec<Keyed<Key<Q>>>,
    outputs: Vec<Option<Sender<Key<Q>>>>,
    owner: Owner<Q::Slot>,
}

/// What a shard does with the rows of its own campaigns.
struct Owner<S: Slot> {
    windows: Windows<S>,
    inputs: Vec<Input<S::Key>>,
    /// No event still to be made here is older.
    own_ms: i64,
}

impl<Q: Query> Shard<'_, Q> {
    fn run<const STAGED: bool>(mut self) -> Part<Key<Q>> {
        let mut laps = Laps::<STAGED>::start();
        let mut batch = Q::Batch::default();
        let mut views = Keyed::new(Q::Slot::NO_KEY, BATCH_ROWS);
        let mut campaigns = [Q::Slot::NO_KEY; BATCH_ROWS];
        loop {
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
            self.hand_over(GROUP_ROWS);
            laps.lap(Stage::HandOver);
            let own = &mut self.parted[self.shard];
            self.owner.windows.count(own.keys(), own.times_ms());
            own.clear();
            self.owner.own_ms = self.generator.next_ms();
            self.owner.take_all();
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
                let Some(buffer) = output.open() else {
                    self.owner.take_all();
                    continue;
                };
                moved += buffer.append(&rows.keys()[moved..whole], &rows.times_ms()[moved..whole]);
                if buffer.is_full() {
                    output.publish();
                }
            }
            rows.keep_from(whole);
        }
    }

    /// Publishes what is open, as the last.
    fn end_outputs(&mut self) {
        for output in self.outputs.iter_mut().flatten() {
            while output.open().map(|buffer| buffer.last = true).is_none() {
                self.owner.take_all();
            }
            output.publish();
        }
    }
}

impl<S: Slot> Owner<S> {
    /// Counts all that has arrived and fires what can be fired. True once no more will come.
    fn take_all(&mut self) -> bool {
        let mut through_ms = self.own_ms;
        for input in &mut self.inputs {
            while let Some(buffer) = input.receiver.next() {
                self.windows.count(buffer.keys(), buffer.times_ms());
                // Without disorder a buffer's last row is as old as the sender's rows get.
                input.through_ms =
                    if buffer.last { i64::MAX } else { buffer.times_ms().last().copied().unwrap_or(input.through_ms) };
                input.receiver.release();
            }
            through_ms = through_ms.min(input.through_ms);
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
