//! A table against the plainest thing that cannot be wrong: a map of maps, and a copy of it at every barrier.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use millstream_state::{Drained, Epoch, FileRef, Key, Namespace, ScanCursor, Store, Table, TableConfig, Text};
use proptest::prelude::*;

/// What a table is compared with.
type Model<K> = BTreeMap<i64, HashMap<K, u64>>;

#[derive(Clone, Debug)]
enum Step {
    /// Keys from a range, added to a namespace.
    Fold {
        namespace: i64,
        first: u32,
        keys: u32,
        stride: u32,
    },
    /// The same keys, taken out.
    Remove {
        namespace: i64,
        first: u32,
        keys: u32,
        stride: u32,
    },
    Drop {
        namespace: i64,
    },
    Freeze,
    Drain {
        bytes: usize,
    },
    Confirm,
    Abort,
    /// Crash, and start again from the last confirmed snapshot.
    Restore,
}

fn steps(length: usize) -> impl Strategy<Value = Vec<Step>> {
    let fold = (0i64..4, 0u32..4000, 1u32..1500, 1u32..5).prop_map(|(namespace, first, keys, stride)| Step::Fold {
        namespace: namespace * 10_000,
        first,
        keys,
        stride,
    });
    let few = (0i64..4, 0u32..9000, 1u32..20).prop_map(|(namespace, first, keys)| Step::Fold {
        namespace: namespace * 10_000,
        first,
        keys,
        stride: 1,
    });
    let remove = (0i64..4, 0u32..6000, 1u32..900, 1u32..5).prop_map(|(namespace, first, keys, stride)| Step::Remove {
        namespace: namespace * 10_000,
        first,
        keys,
        stride,
    });
    let step = prop_oneof![
        4 => fold,
        8 => few,
        3 => remove,
        1 => (0i64..4).prop_map(|namespace| Step::Drop { namespace: namespace * 10_000 }),
        5 => Just(Step::Freeze),
        6 => prop_oneof![1usize..200, 1000usize..100_000].prop_map(|bytes| Step::Drain { bytes }),
        5 => Just(Step::Confirm),
        2 => Just(Step::Abort),
        1 => Just(Step::Restore),
    ];
    prop::collection::vec(step, 1..length)
}

/// The key for a number: some numbers share most of their hash's bits, and 0 is the zero key.
trait Numbered: Key + std::hash::Hash {
    fn numbered(number: u32) -> Self;
}

impl Numbered for u64 {
    fn numbered(number: u32) -> u64 {
        number as u64
    }
}

impl Numbered for Text<36> {
    fn numbered(number: u32) -> Self {
        if number == 0 { Text::EMPTY } else { format!("{number:08x}-0000-4000-8000-{number:012x}").parse().unwrap() }
    }
}

impl Numbered for [u8; 300] {
    fn numbered(number: u32) -> Self {
        let mut key = [0; 300];
        key[296..].copy_from_slice(&number.to_le_bytes());
        key
    }
}

/// A key whose hash has two bits: pages that cannot split, and searches from page to page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, rkyv::Archive)]
#[repr(C)]
struct Crowded(u64);

impl Key for Crowded {
    fn hash64(&self) -> u64 {
        (self.0 & 1) << 63 | (self.0 & 1)
    }
}

impl Numbered for Crowded {
    fn numbered(number: u32) -> Self {
        Crowded(number as u64 % 3000)
    }
}

struct World<K: Key> {
    store: Store,
    table: Table<K, u64>,
    now: Model<K>,
    /// The model at the barrier of the open snapshot.
    frozen: Option<Model<K>>,
    committed: Model<K>,
    chain: Vec<FileRef>,
    chunks: Vec<Vec<u8>>,
    epoch: u64,
    longest: f64,
}

fn config() -> TableConfig {
    TableConfig { operator: "model".into(), shard: 3, bytes_max: 256 << 20, ..TableConfig::default() }
}

impl<K: Numbered> World<K> {
    fn new(directory: &Path) -> World<K> {
        World {
            store: Store::open(directory).unwrap(),
            table: Table::new(config()).unwrap(),
            now: Model::new(),
            frozen: None,
            committed: Model::new(),
            chain: Vec::new(),
            chunks: Vec::new(),
            epoch: 0,
            longest: 0.0,
        }
    }

    fn take_chunks(&mut self) {
        while let Some(chunk) = self.table.take_chunk() {
            self.chunks.push(chunk.bytes().to_vec());
            self.table.give_back(chunk);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Fold { namespace, first, keys, stride } => {
                let keys: Vec<K> = (0..keys).map(|i| K::numbered(first + i * stride)).collect();
                let add = |value: &mut u64, row: usize| *value = value.wrapping_mul(31).wrapping_add(row as u64 + 1);
                self.table.fold(Namespace(namespace), keys.len(), |row| keys[row], || 7, add).unwrap();
                let model = self.now.entry(namespace).or_default();
                for (row, key) in keys.iter().enumerate() {
                    add(model.entry(*key).or_insert(7), row);
                }
            }
            Step::Remove { namespace, first, keys, stride } => {
                for number in (0..keys).map(|i| first + i * stride) {
                    let key = K::numbered(number);
                    let expected = self.now.get_mut(&namespace).and_then(|entries| entries.remove(&key));
                    assert_eq!(self.table.remove(Namespace(namespace), &key), expected);
                    assert_eq!(self.table.get(Namespace(namespace), &key), None);
                }
            }
            Step::Drop { namespace } => {
                self.table.drop_namespace(Namespace(namespace));
                self.now.remove(&namespace);
            }
            Step::Freeze if self.frozen.is_none() => {
                self.epoch += 1;
                self.table.freeze(Epoch(self.epoch));
                self.frozen = Some(self.now.clone());
            }
            Step::Drain { bytes } if self.frozen.is_some() => {
                let _ = self.table.drain(bytes);
                self.take_chunks();
            }
            Step::Confirm if self.frozen.is_some() => {
                while self.table.drain(10_000) == Drained::More {
                    self.take_chunks();
                }
                self.take_chunks();
                let file = self.write_file();
                self.chain = self.table.chain(file.as_ref());
                self.table.confirm(file);
                assert_eq!(self.table.chain(None), self.chain);
                self.committed = self.frozen.take().unwrap();
                self.check_bound();
                self.check_restore();
            }
            Step::Abort => {
                self.table.abort();
                self.chunks.clear();
                self.frozen = None;
            }
            Step::Restore => {
                self.table = self.restored();
                self.now = self.committed.clone();
                self.frozen = None;
                self.chunks.clear();
                check_same(&self.table, &self.now);
            }
            // A second freeze, or a drain without one, does not happen.
            Step::Freeze | Step::Drain { .. } | Step::Confirm => {}
        }
    }

    fn write_file(&mut self) -> Option<FileRef> {
        let chunks = std::mem::take(&mut self.chunks);
        if chunks.is_empty() {
            return None;
        }
        let name = format!("{}.snap", self.epoch);
        std::fs::write(self.store.path(&name), chunks.concat()).unwrap();
        let crc32c = chunks.iter().fold(0, |crc, chunk| crc32c::crc32c_append(crc, &chunk[12..16]));
        Some(FileRef { name, bytes: chunks.iter().map(|chunk| chunk.len() as u64).sum(), crc32c })
    }

    fn restored(&self) -> Table<K, u64> {
        let (table, restored) = Table::restore(config(), &self.store, &self.chain).unwrap();
        assert_eq!(restored.bytes_read, self.chain.iter().map(|file| file.bytes).sum::<u64>());
        table
    }

    fn check_restore(&self) {
        check_same(&self.restored(), &self.committed);
    }

    fn check_bound(&mut self) {
        let chain: u64 = self.chain.iter().map(|file| file.bytes).sum();
        let (restored, _) = Table::<K, u64>::restore(config(), &self.store, &self.chain).unwrap();
        let live = restored.bytes().live as f64;
        self.longest = self.longest.max(chain as f64 / live.max(1.0));
        assert!(
            chain as f64 <= 2.5 * live + (512 << 10) as f64,
            "a restore would read {chain} bytes for {live} live ones"
        );
    }
}

fn check_same<K: Numbered>(table: &Table<K, u64>, model: &Model<K>) {
    let namespaces: Vec<i64> = table.namespaces().map(|namespace| namespace.0).collect();
    assert_eq!(namespaces, model.keys().copied().collect::<Vec<_>>());
    for (&namespace, entries) in model {
        let namespace = Namespace(namespace);
        assert_eq!(table.len(namespace), entries.len());
        for (key, value) in entries {
            assert_eq!(table.get(namespace, key), Some(*value));
        }
        let mut scanned = HashSet::new();
        let mut cursor = Some(ScanCursor::default());
        while let Some(at) = cursor {
            cursor = table.scan_slice(namespace, at, 100, |key, value| {
                assert_eq!(entries.get(key), Some(value));
                assert!(scanned.insert(*key), "an entry is shown once");
            });
        }
        assert_eq!(scanned.len(), entries.len());
    }
    let entries: usize = model.values().map(HashMap::len).sum();
    assert_eq!(table.bytes().entries, entries * (size_of::<K>() + 8));
}

fn run<K: Numbered>(steps: &[Step]) {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::<K>::new(directory.path());
    for step in steps {
        world.step(step);
    }
    check_same(&world.table, &world.now);
    world.step(&Step::Freeze);
    world.step(&Step::Confirm);
    world.step(&Step::Restore);
}

/// A chain far too long has everything written whole; meanwhile pages are handed out, written, given up, handed out again.
#[test]
fn a_snapshot_of_everything_is_of_its_barrier() {
    let fold = |namespace, keys| Step::Fold { namespace, first: 0, keys, stride: 1 };
    for bytes in [1, 3_000, 50_000] {
        let drain = Step::Drain { bytes };
        run::<u64>(&[
            fold(0, 3_000),
            fold(10_000, 60_000),
            Step::Freeze,
            Step::Confirm,
            Step::Drop { namespace: 10_000 },
            Step::Freeze,
            drain.clone(),
            fold(0, 10),
            fold(20_000, 5_000),
            Step::Drop { namespace: 20_000 },
            fold(30_000, 2_000),
            drain.clone(),
            Step::Drop { namespace: 0 },
            fold(0, 4_000),
            Step::Drop { namespace: 30_000 },
            drain.clone(),
            Step::Confirm,
            // Again, with free pages beneath those just given up.
            fold(10_000, 40_000),
            Step::Freeze,
            Step::Confirm,
            Step::Drop { namespace: 10_000 },
            Step::Freeze,
            drain.clone(),
            fold(20_000, 60_000),
            drain.clone(),
            Step::Drop { namespace: 20_000 },
            drain,
            Step::Confirm,
            Step::Restore,
        ]);
    }
}

/// As many cases as `PROPTEST_CASES` says, or so many.
fn cases(usual: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { ProptestConfig { cases: usual, ..config } }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn a_table_of_numbers_is_a_map(steps in steps(60)) {
        run::<u64>(&steps);
    }

    #[test]
    fn a_table_of_texts_is_a_map(steps in steps(40)) {
        run::<Text<36>>(&steps);
    }

    #[test]
    fn a_table_of_entries_larger_than_a_line_is_a_map(steps in steps(20)) {
        run::<[u8; 300]>(&steps);
    }

    #[test]
    fn a_table_of_colliding_keys_is_a_map(steps in steps(20)) {
        run::<Crowded>(&steps);
    }
}
