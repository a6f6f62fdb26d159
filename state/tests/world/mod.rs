//! Page stores of several states against maps: entries are put, changed, removed, and end; barriers come in between; and
//! then everything is restored, on as many shards as before or on others.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use millstream_state::{
    AsArchived, Drained, Epoch, FileRef, HashRange, Key, Namespace, PageStore, Restored, SlotKey, SlottedTable, Store,
    Table, TableConfig, TablePart,
};
use proptest::prelude::*;

/// So many cases, or as many as `PROPTEST_CASES` says.
pub(crate) fn cases(usual: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { ProptestConfig { cases: usual, ..config } }
}

/// What is kept under a key, as the tests know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) count: u64,
    /// Bytes of the value that has a length.
    pub(crate) len: u32,
    pub(crate) expires_ms: i64,
}

type Model = BTreeMap<i64, BTreeMap<u32, Entry>>;

/// The bytes that a value of this length has under this key.
fn filling(number: u32, len: u32) -> Vec<u8> {
    (0..len).map(|at| (number.wrapping_mul(31).wrapping_add(at * 7)) as u8).collect()
}

/// A value with a field to be changed in place.
#[derive(rkyv::Archive, rkyv::Serialize)]
struct Record {
    count: u64,
    bytes: Vec<u8>,
}

/// A key of several shapes.
#[derive(rkyv::Archive, rkyv::Serialize)]
enum Thing {
    Plain(u32),
    Named(String),
    Path(Vec<u32>),
}

/// A key whose hash has two bits: pages that cannot split, and searches from page to page.
#[derive(Clone, Copy, PartialEq, Eq, rkyv::Archive)]
#[repr(C)]
struct Crowded(u64);

impl Key for Crowded {
    fn hash64(&self) -> u64 {
        (self.0 & 1) << 63 | (self.0 & 1)
    }
}

/// A key made of a number, the number being found in it again.
trait Numbered: SlotKey {
    fn numbered(number: u32) -> Self;

    fn number(view: &Self::View) -> u32;
}

impl Numbered for u64 {
    fn numbered(number: u32) -> u64 {
        u64::from(number)
    }

    fn number(view: &u64) -> u32 {
        *view as u32
    }
}

impl Numbered for Crowded {
    fn numbered(number: u32) -> Crowded {
        Crowded(u64::from(number))
    }

    fn number(view: &Crowded) -> u32 {
        view.0 as u32
    }
}

impl Numbered for String {
    fn numbered(number: u32) -> String {
        // Now and then as long as a key may be.
        let padding = if number % 97 == 3 { 1900 } else { number as usize * 7 % 40 };
        if number == 0 { String::new() } else { format!("{number}-{}", "ü".repeat(padding / 2)) }
    }

    fn number(view: &str) -> u32 {
        view.split_once('-').map_or(0, |(number, _)| number.parse().unwrap())
    }
}

impl Numbered for Vec<u8> {
    fn numbered(number: u32) -> Vec<u8> {
        let mut key = number.to_be_bytes().to_vec();
        key.resize(4 + number as usize % 33, 0xFE);
        key
    }

    fn number(view: &[u8]) -> u32 {
        u32::from_be_bytes(view[..4].try_into().unwrap())
    }
}

impl Numbered for AsArchived<Thing> {
    fn numbered(number: u32) -> Self {
        AsArchived(match number % 3 {
            0 => Thing::Plain(number),
            1 => Thing::Named(number.to_string()),
            _ => Thing::Path((0..number % 9).chain([number]).collect()),
        })
    }

    fn number(view: &ArchivedThing) -> u32 {
        match view {
            ArchivedThing::Plain(number) => number.to_native(),
            ArchivedThing::Named(number) => number.parse().unwrap(),
            ArchivedThing::Path(numbers) => numbers[numbers.len() - 1].to_native(),
        }
    }
}

/// One state of a store, whatever its types.
trait Kept {
    fn hash(&self, number: u32) -> u64;

    fn put(&mut self, namespace: Namespace, number: u32, entry: Entry);

    fn bump(&mut self, namespace: Namespace, number: u32) -> bool;

    fn remove(&mut self, namespace: Namespace, number: u32) -> bool;

    fn get(&self, namespace: Namespace, number: u32) -> Option<(u64, Vec<u8>)>;

    fn scan(&self, namespace: Namespace, visit: &mut dyn FnMut(u32, u64, &[u8]));

    fn namespaces(&self) -> Vec<Namespace>;

    fn len(&self, namespace: Namespace) -> usize;

    fn drop_namespace(&mut self, namespace: Namespace);

    fn set_now(&mut self, _now_ms: i64) {}

    /// Clears away what is over, all of it or some pages' worth.
    fn expire(&mut self, _namespace: Namespace, _cursor: &mut usize, _pages_max: usize) -> usize {
        0
    }

    /// Whether its values have a length and end.
    fn is_slotted(&self) -> bool;
}

impl<K: Numbered<View = K> + Key> Kept for Table<K, u64> {
    fn hash(&self, number: u32) -> u64 {
        Key::hash64(&K::numbered(number))
    }

    fn put(&mut self, namespace: Namespace, number: u32, entry: Entry) {
        let key = K::numbered(number);
        self.fold(namespace, 1, |_| key, || 0, |value, _| *value = entry.count).unwrap();
    }

    fn bump(&mut self, namespace: Namespace, number: u32) -> bool {
        let key = K::numbered(number);
        let is_there = self.get(namespace, &key).is_some();
        if is_there {
            self.fold(namespace, 1, |_| key, || 0, |value, _| *value += 1).unwrap();
        }
        is_there
    }

    fn remove(&mut self, namespace: Namespace, number: u32) -> bool {
        Table::remove(self, namespace, &K::numbered(number)).is_some()
    }

    fn get(&self, namespace: Namespace, number: u32) -> Option<(u64, Vec<u8>)> {
        Some((Table::get(self, namespace, &K::numbered(number))?, Vec::new()))
    }

    fn scan(&self, namespace: Namespace, visit: &mut dyn FnMut(u32, u64, &[u8])) {
        Table::scan(self, namespace, |key, value| visit(K::number(key), *value, &[]));
    }

    fn namespaces(&self) -> Vec<Namespace> {
        Table::namespaces(self).collect()
    }

    fn len(&self, namespace: Namespace) -> usize {
        Table::len(self, namespace)
    }

    fn drop_namespace(&mut self, namespace: Namespace) {
        Table::drop_namespace(self, namespace);
    }

    fn is_slotted(&self) -> bool {
        false
    }
}

impl<K: Numbered> Kept for SlottedTable<K, Record> {
    fn hash(&self, number: u32) -> u64 {
        K::numbered(number).hash64()
    }

    fn put(&mut self, namespace: Namespace, number: u32, entry: Entry) {
        let record = Record { count: entry.count, bytes: filling(number, entry.len) };
        self.put_until(namespace, &K::numbered(number), &record, entry.expires_ms).unwrap();
    }

    #[expect(unsafe_code, reason = "rkyv's macro that opens a seal field by field has some inside")]
    fn bump(&mut self, namespace: Namespace, number: u32) -> bool {
        self.update(namespace, &K::numbered(number), |record| {
            rkyv::munge::munge!(let ArchivedRecord { mut count, .. } = record);
            *count = (count.to_native() + 1).into();
        })
    }

    fn remove(&mut self, namespace: Namespace, number: u32) -> bool {
        SlottedTable::remove(self, namespace, &K::numbered(number))
    }

    fn get(&self, namespace: Namespace, number: u32) -> Option<(u64, Vec<u8>)> {
        let key = K::numbered(number);
        let got = SlottedTable::get(self, namespace, &key, |record| (record.count.to_native(), record.bytes.to_vec()));
        assert_eq!(got.is_some(), self.contains(namespace, &key));
        got
    }

    fn scan(&self, namespace: Namespace, visit: &mut dyn FnMut(u32, u64, &[u8])) {
        SlottedTable::scan(self, namespace, |key, record| {
            visit(K::number(key), record.count.to_native(), &record.bytes);
        });
    }

    fn namespaces(&self) -> Vec<Namespace> {
        SlottedTable::namespaces(self)
    }

    fn len(&self, namespace: Namespace) -> usize {
        SlottedTable::len(self, namespace)
    }

    fn drop_namespace(&mut self, namespace: Namespace) {
        SlottedTable::drop_namespace(self, namespace);
    }

    fn set_now(&mut self, now_ms: i64) {
        SlottedTable::set_now(self, now_ms);
    }

    fn expire(&mut self, namespace: Namespace, cursor: &mut usize, pages_max: usize) -> usize {
        SlottedTable::expire(self, namespace, cursor, pages_max)
    }

    fn is_slotted(&self) -> bool {
        true
    }
}

/// Which states a world has, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Flat,
    FlatCrowded,
    Numbers,
    Strings,
    Bytes,
    Things,
    Crowded,
}

pub(crate) const ALL_KINDS: [Kind; 7] =
    [Kind::Flat, Kind::Strings, Kind::FlatCrowded, Kind::Things, Kind::Numbers, Kind::Crowded, Kind::Bytes];

fn declare(store: &PageStore, kind: Kind) -> Box<dyn Kept> {
    let name = format!("{kind:?}");
    match kind {
        Kind::Flat => Box::new(store.table::<u64, u64>(&name)),
        Kind::FlatCrowded => Box::new(store.table::<Crowded, u64>(&name)),
        Kind::Numbers => Box::new(store.slotted::<u64, Record>(&name)),
        Kind::Strings => Box::new(store.slotted::<String, Record>(&name)),
        Kind::Bytes => Box::new(store.slotted::<Vec<u8>, Record>(&name)),
        Kind::Things => Box::new(store.slotted::<AsArchived<Thing>, Record>(&name)),
        Kind::Crowded => Box::new(store.slotted::<Crowded, Record>(&name)),
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Keys `first`, `first + stride`, … are put with values of this length, ending so many milliseconds from now.
    Put {
        state: usize,
        namespace: i64,
        first: u32,
        keys: u32,
        stride: u32,
        len: u32,
        ends_in_ms: Option<i64>,
    },
    /// The values of such keys are changed in place.
    Bump {
        state: usize,
        namespace: i64,
        first: u32,
        keys: u32,
        stride: u32,
    },
    Remove {
        state: usize,
        namespace: i64,
        first: u32,
        keys: u32,
        stride: u32,
    },
    Drop {
        state: usize,
        namespace: i64,
    },
    /// Time passes.
    Pass {
        ms: i64,
    },
    Expire {
        state: usize,
        namespace: i64,
        pages_max: usize,
    },
    Freeze,
    Drain {
        bytes: usize,
    },
    Confirm,
    Abort,
    /// Crash, and start again from the last confirmed snapshot, on so many shards.
    Restore {
        shards: u32,
    },
}

pub(crate) fn steps(length: usize, shards_max: u32) -> impl Strategy<Value = Vec<Step>> {
    let place = || (0usize..7, (0i64..3).prop_map(|namespace| namespace * 10_000 - 5_000));
    let lens = prop_oneof![6 => 0u32..100, 3 => 100u32..1500, 1 => 3_000u32..20_000];
    let keys = prop_oneof![3 => 1u32..20, 1 => 20u32..250];
    let ends = prop_oneof![3 => Just(None), 1 => (1i64..2_000).prop_map(Some)];
    let put = (place(), 0u32..2_000, keys, 1u32..5, lens, ends).prop_map(
        |((state, namespace), first, keys, stride, len, ends_in_ms)| {
            // Long values in number would only take time.
            let keys = if len >= 1_500 { keys.min(12) } else { keys };
            Step::Put { state, namespace, first, keys, stride, len, ends_in_ms }
        },
    );
    let bump = (place(), 0u32..2_000, 1u32..100, 1u32..5)
        .prop_map(|((state, namespace), first, keys, stride)| Step::Bump { state, namespace, first, keys, stride });
    let remove = (place(), 0u32..2_000, 1u32..300, 1u32..5)
        .prop_map(|((state, namespace), first, keys, stride)| Step::Remove { state, namespace, first, keys, stride });
    let step = prop_oneof![
        12 => put,
        5 => bump,
        4 => remove,
        1 => place().prop_map(|(state, namespace)| Step::Drop { state, namespace }),
        2 => (0i64..1_500).prop_map(|ms| Step::Pass { ms }),
        2 => (place(), prop_oneof![1usize..4, Just(usize::MAX)])
            .prop_map(|((state, namespace), pages_max)| Step::Expire { state, namespace, pages_max }),
        5 => Just(Step::Freeze),
        6 => prop_oneof![1usize..200, 1000usize..100_000].prop_map(|bytes| Step::Drain { bytes }),
        5 => Just(Step::Confirm),
        2 => Just(Step::Abort),
        2 => (1..=shards_max).prop_map(|shards| Step::Restore { shards }),
    ];
    prop::collection::vec(step, 1..length)
}

struct Shard {
    store: PageStore,
    states: Vec<Box<dyn Kept>>,
    chunks: Vec<Vec<u8>>,
}

pub(crate) struct World {
    _directory: Option<tempfile::TempDir>,
    disk: Store,
    kinds: Vec<Kind>,
    shards: Vec<Shard>,
    now: Vec<Model>,
    now_ms: i64,
    /// The models at the barrier of the open snapshot.
    frozen: Option<Vec<Model>>,
    committed: (Vec<Model>, Vec<TablePart>),
    cursors: Rc<RefCell<BTreeMap<(usize, usize, i64), usize>>>,
    epoch: u64,
}

fn config(shard: u32, shards: u32) -> TableConfig {
    let range = HashRange::of_shard(shard, shards);
    TableConfig { operator: "world".into(), shard, bytes_max: 256 << 20, range, ..TableConfig::default() }
}

impl World {
    pub(crate) fn new(kinds: &[Kind], shards: u32) -> World {
        let directory = tempfile::tempdir().unwrap();
        let mut world = World {
            disk: Store::open(directory.path()).unwrap(),
            _directory: Some(directory),
            kinds: kinds.to_vec(),
            shards: Vec::new(),
            now: vec![Model::new(); kinds.len()],
            now_ms: 1,
            frozen: None,
            committed: (vec![Model::new(); kinds.len()], Vec::new()),
            cursors: Rc::default(),
            epoch: 0,
        };
        world.restore(shards);
        world
    }

    pub(crate) fn run(kinds: &[Kind], shards: u32, steps: &[Step]) {
        let mut world = World::new(kinds, shards);
        for step in steps {
            world.step(step);
        }
        world.check();
        world.step(&Step::Freeze);
        world.step(&Step::Confirm);
        world.step(&Step::Restore { shards: world.shards.len() as u32 });
    }

    /// The shard that owns a key, and the key's state there.
    fn home(&mut self, state: usize, number: u32) -> &mut Box<dyn Kept> {
        let hash = self.shards[0].states[state].hash(number);
        let shard = self.shards.iter_mut().find(|shard| shard.store.range().contains(hash));
        &mut shard.expect("the shards share the hash space").states[state]
    }

    pub(crate) fn step(&mut self, step: &Step) {
        let count = self.kinds.len();
        let numbers = |first: u32, keys: u32, stride: u32| (0..keys).map(move |i| first + i * stride);
        match *step {
            Step::Put { state, namespace, first, keys, stride, len, ends_in_ms } => {
                let state = state % count;
                let is_slotted = self.shards[0].states[state].is_slotted();
                let expires_ms = ends_in_ms.filter(|_| is_slotted).map_or(0, |ms| self.now_ms + ms);
                for number in numbers(first, keys, stride) {
                    let len = if is_slotted { len + number % 5 } else { 0 };
                    let entry = Entry { count: u64::from(number) << 20 | u64::from(first), len, expires_ms };
                    self.home(state, number).put(Namespace(namespace), number, entry);
                    self.now[state].entry(namespace).or_default().insert(number, entry);
                }
            }
            Step::Bump { state, namespace, first, keys, stride } => {
                let state = state % count;
                for number in numbers(first, keys, stride) {
                    let is_there = self.home(state, number).bump(Namespace(namespace), number);
                    let now_ms = self.now_ms;
                    let entry = self.now[state].get_mut(&namespace).and_then(|entries| entries.get_mut(&number));
                    let entry = entry.filter(|entry| is_seen(entry, now_ms));
                    assert_eq!(is_there, entry.is_some(), "{step:?}, {number}");
                    entry.into_iter().for_each(|entry| entry.count += 1);
                }
            }
            Step::Remove { state, namespace, first, keys, stride } => {
                let state = state % count;
                for number in numbers(first, keys, stride) {
                    let was_there = self.home(state, number).remove(Namespace(namespace), number);
                    let entry = self.now[state].get_mut(&namespace).and_then(|entries| entries.remove(&number));
                    assert_eq!(was_there, entry.is_some_and(|entry| is_seen(&entry, self.now_ms)), "{step:?}");
                }
            }
            Step::Drop { state, namespace } => {
                let state = state % count;
                self.shards.iter_mut().for_each(|shard| shard.states[state].drop_namespace(Namespace(namespace)));
                self.now[state].remove(&namespace);
            }
            Step::Pass { ms } => {
                self.now_ms += ms;
                let states = self.shards.iter_mut().flat_map(|shard| &mut shard.states);
                states.for_each(|state| state.set_now(self.now_ms));
            }
            Step::Expire { state, namespace, pages_max } => self.expire(state % count, namespace, pages_max),
            Step::Freeze if self.frozen.is_none() => {
                self.epoch += 1;
                self.shards.iter_mut().for_each(|shard| shard.store.freeze(Epoch(self.epoch)));
                self.frozen = Some(self.now.clone());
            }
            Step::Drain { bytes } if self.frozen.is_some() => {
                for shard in &mut self.shards {
                    let _ = shard.store.drain(bytes);
                    shard.take_chunks();
                }
            }
            Step::Confirm if self.frozen.is_some() => self.confirm(),
            Step::Abort => {
                for shard in &mut self.shards {
                    shard.store.abort();
                    shard.chunks.clear();
                }
                self.frozen = None;
            }
            Step::Restore { shards } => {
                self.restore(shards);
                self.check();
            }
            // A second freeze, or a drain without one, does not happen.
            Step::Freeze | Step::Drain { .. } | Step::Confirm => {}
        }
    }

    fn expire(&mut self, state: usize, namespace: i64, pages_max: usize) {
        let now_ms = self.now_ms;
        let over = self.now[state]
            .get(&namespace)
            .map_or(0, |entries| entries.values().filter(|entry| !is_seen(entry, now_ms)).count());
        let mut gone = 0;
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let mut cursors = self.cursors.borrow_mut();
            let cursor = cursors.entry((number, state, namespace)).or_default();
            gone += shard.states[state].expire(Namespace(namespace), cursor, pages_max);
        }
        assert!(gone <= over, "{gone} of {over} that were over");
        if pages_max == usize::MAX
            && let Some(entries) = self.now[state].get_mut(&namespace)
        {
            entries.retain(|_, entry| is_seen(entry, now_ms));
            let len: usize = self.shards.iter().map(|shard| shard.states[state].len(Namespace(namespace))).sum();
            assert_eq!(len, entries.len(), "all that was over is gone");
        }
    }

    fn confirm(&mut self) {
        let mut parts = Vec::new();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            while shard.store.drain(10_000) == Drained::More {
                shard.take_chunks();
            }
            shard.take_chunks();
            let file = write_file(&self.disk, &format!("{}-{number}.snap", self.epoch), &mut shard.chunks);
            let files = shard.store.chain(file.as_ref());
            shard.store.confirm(file);
            assert_eq!(shard.store.chain(None), files);
            let (range, states) = (shard.store.range(), shard.store.parts());
            parts.push(TablePart { name: "keyed".into(), range, states, files });
        }
        self.committed = (self.frozen.take().unwrap(), parts);
        self.check_bound();
    }

    /// What a restore reads is at most 2.5 × the pages it brings back.
    fn check_bound(&self) {
        for (number, part) in self.committed.1.iter().enumerate() {
            let chain: u64 = part.files.iter().map(|file| file.bytes).sum();
            let (store, _) = PageStore::restore_unknown(config(0, 1), &self.disk, part).unwrap();
            let live = store.bytes().live as f64;
            assert!(
                chain as f64 <= 2.5 * live + (512 << 10) as f64,
                "a restore of shard {number} would read {chain} bytes for {live} live ones"
            );
        }
    }

    fn restore(&mut self, shards: u32) {
        let parts = &self.committed.1;
        let before = parts.len();
        let mut all = Restored::default();
        self.shards = (0..shards)
            .map(|number| {
                let mut store = PageStore::new(config(number, shards)).unwrap();
                let mut states: Vec<Box<dyn Kept>> = self.kinds.iter().map(|kind| declare(&store, *kind)).collect();
                states.iter_mut().for_each(|state| state.set_now(self.now_ms));
                let range = store.range();
                let ours: Vec<TablePart> = parts.iter().filter(|part| part.range.meets(range)).cloned().collect();
                if !ours.is_empty() {
                    all = all + store.restore(&self.disk, &ours).unwrap();
                }
                Shard { store, states, chunks: Vec::new() }
            })
            .collect();
        self.now = self.committed.0.clone();
        self.frozen = None;
        self.cursors.borrow_mut().clear();
        let entries: usize = self
            .shards
            .iter()
            .flat_map(|shard| &shard.states)
            .map(|state| state.namespaces().iter().map(|namespace| state.len(*namespace)).sum::<usize>())
            .sum();
        assert_eq!(all.entries, entries, "{before} to {shards} shards: {all:?}");
        assert!(before != shards as usize || (all.pages_moved, all.entries_moved) == (0, 0), "{all:?}");
    }

    /// All that is there is what the models say, and where it belongs.
    pub(crate) fn check(&self) {
        for (at, model) in self.now.iter().enumerate() {
            let what = self.kinds[at];
            for shard in &self.shards {
                for namespace in shard.states[at].namespaces() {
                    assert!(model.contains_key(&namespace.0), "{what:?} has a namespace {namespace:?}");
                }
            }
            for (&namespace, entries) in model {
                let namespace = Namespace(namespace);
                let mut seen = BTreeMap::new();
                let mut len = 0;
                for shard in &self.shards {
                    let state = &shard.states[at];
                    len += state.len(namespace);
                    state.scan(namespace, &mut |number, count, bytes| {
                        assert!(shard.store.range().contains(state.hash(number)), "{what:?} {number} is elsewhere");
                        assert!(seen.insert(number, (count, bytes.to_vec())).is_none(), "{what:?} {number} twice");
                    });
                }
                let expected = || entries.iter().filter(|(_, entry)| is_seen(entry, self.now_ms));
                assert_eq!(seen.len(), expected().count(), "{what:?} {namespace:?}");
                assert!((seen.len()..=entries.len()).contains(&len), "{what:?} {namespace:?}: {len}");
                for (number, entry) in expected() {
                    let wanted = (entry.count, filling(*number, entry.len));
                    assert!(seen.get(number) == Some(&wanted), "{what:?} {namespace:?} {number}: scanned otherwise");
                    let hash = self.shards[0].states[at].hash(*number);
                    let home = self.shards.iter().find(|shard| shard.store.range().contains(hash)).unwrap();
                    assert!(
                        home.states[at].get(namespace, *number) == Some(wanted),
                        "{what:?} {number}: got otherwise"
                    );
                }
            }
        }
    }
}

impl Shard {
    fn take_chunks(&mut self) {
        while let Some(chunk) = self.store.take_chunk() {
            self.chunks.push(chunk.bytes().to_vec());
            self.store.give_back(chunk);
        }
    }
}

fn is_seen(entry: &Entry, now_ms: i64) -> bool {
    entry.expires_ms == 0 || entry.expires_ms > now_ms
}

/// Writes a snapshot's chunks where a store finds them.
pub(crate) fn write_file(disk: &Store, name: &str, chunks: &mut Vec<Vec<u8>>) -> Option<FileRef> {
    let chunks = std::mem::take(chunks);
    if chunks.is_empty() {
        return None;
    }
    std::fs::write(disk.path(name), chunks.concat()).unwrap();
    let crc32c = chunks.iter().fold(0, |crc, chunk| crc32c::crc32c_append(crc, &chunk[12..16]));
    Some(FileRef { name: name.into(), bytes: chunks.iter().map(|chunk| chunk.len() as u64).sum(), crc32c })
}
