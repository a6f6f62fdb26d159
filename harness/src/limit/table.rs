//! A running count for each key of one large flat table a shard: no window, nothing tracked.
//!
//! One shard counts what it draws. Of several, each owns some of the keys, as the engine's do: what a shard draws of others'
//! keys goes to them through rings between the cores, keys alone, since nothing here has a time.

use std::sync::Mutex;

use super::exchange::{Receives as _, Sends};
use super::flat::{FlatTable, NumberSlot, Slot as _};
use super::query::BATCH_ROWS;
use super::ring::{self, Receiver, Sender};
use super::{LimitError, LimitOutcome, TableLimit, Timed, run_pinned};
use crate::keys::{KeyStream, Share};
use crate::machine::Machine;
use crate::ysb::oracle::Differences;

/// Rows are sent in multiples of this, but for the last.
const GROUP_ROWS: usize = <Sender<u64, ()> as Sends<u64, ()>>::GROUP_ROWS;

pub(super) fn run(limit: &TableLimit) -> Result<LimitOutcome, LimitError> {
    let shards = limit.cores.len();
    let ends: Vec<_> = links(shards).into_iter().map(|ends| Mutex::new(Some(ends))).collect();
    let Timed { parts, seconds } = run_pinned(&limit.cores, |shard| {
        let ends = ends[shard].lock().ok().and_then(|mut ends| ends.take());
        let share = limit.space.share(shard as u32, shards as u32);
        let drawn = Drawn { share, stream: limit.space.stream(&share), updates: share.part_of(limit.updates) };
        let table = owned_keys(limit, shard);
        let ends = ends.expect("each shard's ends are taken once");
        move || if shards == 1 { alone(&drawn, table) } else { Sharing::new(shard, drawn, table, ends).run() }
    })?;
    let machine = Machine::probe(&limit.cores);
    let mut differences = Differences::default();
    for shard in 0..shards {
        verify(limit, &limit.space.share(shard as u32, shards as u32), &parts, &mut differences);
    }
    Ok(LimitOutcome { events: limit.updates, seconds, differences, stages: None, machine })
}

/// Which of the shards owns a key.
#[inline(always)]
fn owner(key: u64, shards: usize) -> usize {
    NumberSlot::shard(&key, shards as u64)
}

/// A table with all the keys that a shard owns, before the clock starts: growth is not what is measured.
fn owned_keys(limit: &TableLimit, shard: usize) -> FlatTable<NumberSlot> {
    let shards = limit.cores.len();
    let shares = (0..shards).map(|from| limit.space.share(from as u32, shards as u32));
    let keys = || shares.clone().flat_map(|share| (0..share.keys).map(move |number| share.key(number)));
    let owned = || keys().filter(|key| owner(*key, shards) == shard);
    let mut table = FlatTable::with_capacity(owned().count());
    for key in owned() {
        *table.entry(&key) = 0;
    }
    table
}

/// What a shard draws.
struct Drawn {
    share: Share,
    stream: KeyStream,
    updates: u64,
}

impl Drawn {
    /// The keys of the batch that begins with the update `first`.
    #[inline(always)]
    fn batch<'a>(&self, first: u64, keys: &'a mut [u64; BATCH_ROWS]) -> &'a [u64] {
        let keys = &mut keys[..(self.updates - first).min(BATCH_ROWS as u64) as usize];
        self.stream.numbers(first, keys);
        for number in &mut *keys {
            *number = self.share.key(*number);
        }
        keys
    }
}

fn alone(drawn: &Drawn, mut table: FlatTable<NumberSlot>) -> FlatTable<NumberSlot> {
    let mut keys = [0; BATCH_ROWS];
    for first in (0..drawn.updates).step_by(BATCH_ROWS) {
        table.count(drawn.batch(first, &mut keys));
    }
    table
}

/// A shard's ends of all links.
struct Ends {
    /// By shard; none to itself.
    outputs: Vec<Option<Sender<u64, ()>>>,
    inputs: Vec<Receiver<u64, ()>>,
}

/// A ring from each shard to each other.
fn links(shards: usize) -> Vec<Ends> {
    let mut ends: Vec<Ends> = (0..shards).map(|_| Ends { outputs: Vec::new(), inputs: Vec::new() }).collect();
    for from in 0..shards {
        for to in 0..shards {
            let link = (from != to).then(ring::ring);
            let (output, input) = link.unzip();
            ends[from].outputs.push(output);
            ends[to].inputs.extend(input);
        }
    }
    ends
}

/// Keys of one owner, on their way.
struct Parted {
    keys: [u64; BATCH_ROWS + GROUP_ROWS],
    rows: usize,
}

/// A shard among several.
struct Sharing {
    shard: usize,
    drawn: Drawn,
    parted: Vec<Parted>,
    outputs: Vec<Option<Sender<u64, ()>>>,
    counting: Counting,
}

/// What a shard does with its own keys.
struct Counting {
    table: FlatTable<NumberSlot>,
    inputs: Vec<Receiver<u64, ()>>,
    /// Inputs that may have more.
    open: usize,
}

impl Sharing {
    fn new(shard: usize, drawn: Drawn, table: FlatTable<NumberSlot>, ends: Ends) -> Sharing {
        let Ends { outputs, inputs } = ends;
        let parted = outputs.iter().map(|_| Parted { keys: [0; BATCH_ROWS + GROUP_ROWS], rows: 0 }).collect();
        Sharing { shard, drawn, parted, outputs, counting: Counting { table, open: inputs.len(), inputs } }
    }

    fn run(mut self) -> FlatTable<NumberSlot> {
        let mut keys = [0; BATCH_ROWS];
        for first in (0..self.drawn.updates).step_by(BATCH_ROWS) {
            partition(self.drawn.batch(first, &mut keys), &mut self.parted);
            self.hand_over(GROUP_ROWS);
            self.counting.count(&mut self.parted[self.shard]);
            self.counting.take_all();
        }
        self.hand_over(1);
        for output in self.outputs.iter_mut().flatten() {
            while !output.end() {
                self.counting.take_all();
            }
        }
        while self.counting.open > 0 {
            self.counting.take_all();
            std::hint::spin_loop();
        }
        self.counting.table
    }

    /// Moves all whole groups of `group` keys to their rings. A shard that cannot counts what others sent meanwhile, so that
    /// no two can wait for each other.
    fn hand_over(&mut self, group: usize) {
        for (parted, output) in self.parted.iter_mut().zip(&mut self.outputs) {
            let Some(output) = output else { continue };
            let whole = parted.rows / group * group;
            let mut moved = 0;
            while moved < whole {
                let keys = &parted.keys[moved..whole];
                let taken = output.send(keys, &[(); BATCH_ROWS + GROUP_ROWS][..keys.len()]);
                if taken == 0 {
                    self.counting.take_all();
                }
                moved += taken;
            }
            parted.keys.copy_within(whole..parted.rows, 0);
            parted.rows -= whole;
        }
    }
}

impl Counting {
    fn count(&mut self, own: &mut Parted) {
        self.table.count(&own.keys[..own.rows]);
        own.rows = 0;
    }

    /// Counts all that has arrived.
    fn take_all(&mut self) {
        let Counting { table, inputs, open } = self;
        for input in inputs {
            let mut see = |keys: &[u64], _: &[()], last: bool| {
                table.count(keys);
                *open -= usize::from(last);
            };
            while input.receive(&mut see) {}
        }
    }
}

/// Puts each key behind the others of its owner.
#[inline]
fn partition(keys: &[u64], parted: &mut [Parted]) {
    if let [even, odd] = parted {
        assert!(keys.len() <= BATCH_ROWS && even.rows < GROUP_ROWS && odd.rows < GROUP_ROWS);
        // Two shards: written to both, kept by one. No branch to mispredict, and no index read back from memory.
        let (mut even_rows, mut odd_rows) = (even.rows, odd.rows);
        for &key in keys {
            even.keys[even_rows] = key;
            odd.keys[odd_rows] = key;
            let to_odd = owner(key, 2);
            odd_rows += to_odd;
            even_rows += 1 - to_odd;
        }
        (even.rows, odd.rows) = (even_rows, odd_rows);
        return;
    }
    let shards = parted.len();
    for &key in keys {
        let parted = &mut parted[owner(key, shards)];
        parted.keys[parted.rows] = key;
        parted.rows += 1;
    }
}

/// Counts again, by number and without a hash.
fn verify(limit: &TableLimit, share: &Share, tables: &[FlatTable<NumberSlot>], differences: &mut Differences) {
    let updates = share.part_of(limit.updates);
    let mut counts = vec![0_u64; share.keys as usize];
    let stream = limit.space.stream(share);
    let mut numbers = [0; BATCH_ROWS];
    for first in (0..updates).step_by(BATCH_ROWS) {
        let numbers = &mut numbers[..(updates - first).min(BATCH_ROWS as u64) as usize];
        stream.numbers(first, numbers);
        for number in numbers {
            counts[*number as usize] += 1;
        }
    }
    differences.views += updates;
    differences.rows += share.keys;
    for (number, expected) in counts.into_iter().enumerate() {
        let key = share.key(number as u64);
        let found = tables[owner(key, tables.len())].get(&key);
        if found != expected {
            differences.lost += expected.saturating_sub(found);
            differences.duplicated += found.saturating_sub(expected);
            differences.note(format!("key {key}: expected {expected}, found {found}"));
        }
    }
}
