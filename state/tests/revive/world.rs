//! A store of two states under a script that a number decides, the plain twin of it, and checkpoints in a directory.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use millstream_state::{
    Backing, Drained, Epoch, FORMAT_VERSION, FileRef, Manifest, Namespace, OperatorPart, PageStore, Part, Restored,
    SlottedTable, Store, Table, TableConfig, TablePart,
};

/// A generator that anybody can run again: splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// One step of the script.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Step {
    Fold { namespace: i64, first: u64, keys: u64, stride: u64 },
    Remove { namespace: i64, first: u64, keys: u64, stride: u64 },
    DropCounts { namespace: i64 },
    Put { namespace: i64, first: u64, keys: u64, bytes: usize },
    Delete { namespace: i64, first: u64, keys: u64 },
    DropNames { namespace: i64 },
    Freeze,
    Drain { bytes: usize },
    Publish,
    Confirm,
    Abort,
}

impl Step {
    /// The script's step of this number.
    pub(crate) fn nth(seed: u64, nth: u64) -> Step {
        let mut random = Random(seed ^ nth.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let namespace = random.below(3) as i64 * 10_000;
        let (first, stride) = (random.below(4000), 1 + random.below(4));
        match random.below(40) {
            0..4 => Step::Fold { namespace, first, keys: 1 + random.below(800), stride },
            4..12 => Step::Fold { namespace, first, keys: 1 + random.below(12), stride: 1 },
            12..15 => Step::Remove { namespace, first, keys: 1 + random.below(500), stride },
            15 => Step::DropCounts { namespace },
            16..19 => Step::Put {
                namespace,
                first: first % 500,
                keys: 1 + random.below(40),
                bytes: random.below(120) as usize,
            },
            19 => Step::Put {
                namespace,
                first: first % 60,
                keys: 1 + random.below(4),
                bytes: random.below(14_000) as usize,
            },
            20..23 => Step::Delete { namespace, first: first % 500, keys: 1 + random.below(60) },
            23 => Step::DropNames { namespace },
            24..28 => Step::Freeze,
            28..32 => Step::Drain { bytes: if random.below(2) == 0 { 300 } else { 1 + random.below(60_000) as usize } },
            32..35 => Step::Publish,
            35..38 => Step::Confirm,
            _ => Step::Abort,
        }
    }
}

fn name_of(key: u64) -> String {
    format!("name-{key:x}-{}", "·".repeat(key as usize % 7))
}

fn text_of(key: u64, nth: u64, bytes: usize) -> String {
    format!("{key}:{nth}:{}", "x".repeat(bytes))
}

/// The plainest thing that cannot be wrong.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Twin {
    counts: BTreeMap<i64, HashMap<u64, u64>>,
    names: BTreeMap<i64, HashMap<String, String>>,
}

impl Twin {
    pub(crate) fn step(&mut self, nth: u64, step: Step) {
        match step {
            Step::Fold { namespace, first, keys, stride } => {
                let entries = self.counts.entry(namespace).or_default();
                for key in (0..keys).map(|i| first + i * stride) {
                    let value = entries.entry(key).or_insert(7);
                    *value = value.wrapping_mul(31).wrapping_add(nth);
                }
            }
            Step::Remove { namespace, first, keys, stride } => {
                if let Some(entries) = self.counts.get_mut(&namespace) {
                    (0..keys).map(|i| first + i * stride).for_each(|key| {
                        entries.remove(&key);
                    });
                }
            }
            Step::DropCounts { namespace } => drop(self.counts.remove(&namespace)),
            Step::Put { namespace, first, keys, bytes } => {
                let entries = self.names.entry(namespace).or_default();
                for key in first..first + keys {
                    entries.insert(name_of(key), text_of(key, nth, bytes));
                }
            }
            Step::Delete { namespace, first, keys } => {
                if let Some(entries) = self.names.get_mut(&namespace) {
                    (first..first + keys).for_each(|key| drop(entries.remove(&name_of(key))));
                }
            }
            Step::DropNames { namespace } => drop(self.names.remove(&namespace)),
            Step::Freeze | Step::Drain { .. } | Step::Publish | Step::Confirm | Step::Abort => {}
        }
    }

    /// As it is before a step of the script.
    pub(crate) fn before(seed: u64, nth: u64) -> Twin {
        let mut twin = Twin::default();
        (0..nth).for_each(|nth| twin.step(nth, Step::nth(seed, nth)));
        twin
    }
}

/// The store, its states and where its checkpoints go.
pub(crate) struct World {
    pub(crate) checkpoints: Store,
    pub(crate) keyed: PageStore,
    pub(crate) counts: Table<u64, u64>,
    pub(crate) names: SlottedTable<String, String>,
    chunks: Vec<Vec<u8>>,
    /// The step at which the open snapshot was frozen, and whether its manifest is published.
    open: Option<(u64, Option<Option<FileRef>>)>,
}

pub(crate) fn config(backing: &Path) -> TableConfig {
    TableConfig {
        operator: "revived".into(),
        shard: 2,
        bytes_max: 8 << 20,
        backing: Backing::File(backing.to_owned()),
        ..TableConfig::default()
    }
}

/// A directory on a tmpfs, gone with the test.
pub(crate) fn shared_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// The one file of a directory.
pub(crate) fn segment_in(directory: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.pop().unwrap()
}

/// The newest checkpoint, and the step before which it was.
pub(crate) fn newest(checkpoints: &Store) -> Option<(u64, TablePart)> {
    let manifest = checkpoints.newest().unwrap().manifest?;
    Some((manifest.created_ms as u64, manifest.parts[0].operators[0].tables[0].clone()))
}

impl World {
    /// A world without a past, over whatever the directory holds.
    pub(crate) fn new(config: TableConfig, checkpoints: &Path) -> World {
        let keyed = PageStore::new(config).unwrap();
        let (counts, names) = (keyed.table("counts"), keyed.slotted("names"));
        let checkpoints = Store::open(checkpoints).unwrap();
        World { checkpoints, keyed, counts, names, chunks: Vec::new(), open: None }
    }

    /// As the newest checkpoint has it, and the step to go on with.
    pub(crate) fn restored(config: TableConfig, checkpoints: &Path) -> (World, u64, Option<Restored>) {
        let mut world = World::new(config, checkpoints);
        let Some((nth, part)) = newest(&world.checkpoints) else { return (world, 0, None) };
        let restored = world.keyed.restore(&world.checkpoints, &[part]).unwrap();
        (world, nth, Some(restored))
    }

    pub(crate) fn step(&mut self, nth: u64, step: Step) {
        self.step_with(nth, step, &mut || {});
    }

    /// The same; `between` is called while entries are being changed.
    pub(crate) fn step_with(&mut self, nth: u64, step: Step, between: &mut dyn FnMut()) {
        match step {
            Step::Fold { namespace, first, keys, stride } => {
                let add = |value: &mut u64, row: usize| {
                    *value = value.wrapping_mul(31).wrapping_add(nth);
                    if row == keys as usize / 2 {
                        between();
                    }
                };
                let key = |row: usize| first + row as u64 * stride;
                self.counts.fold(Namespace(namespace), keys as usize, key, || 7, add).unwrap();
            }
            Step::Remove { namespace, first, keys, stride } => {
                for key in (0..keys).map(|i| first + i * stride) {
                    self.counts.remove(Namespace(namespace), &key);
                }
            }
            Step::DropCounts { namespace } => self.counts.drop_namespace(Namespace(namespace)),
            Step::Put { namespace, first, keys, bytes } => {
                for key in first..first + keys {
                    self.names.put(Namespace(namespace), &name_of(key), &text_of(key, nth, bytes)).unwrap();
                }
            }
            Step::Delete { namespace, first, keys } => {
                for key in first..first + keys {
                    self.names.remove(Namespace(namespace), &name_of(key));
                }
            }
            Step::DropNames { namespace } => self.names.drop_namespace(Namespace(namespace)),
            Step::Freeze if self.open.is_none() => {
                self.keyed.freeze(Epoch(nth));
                self.open = Some((nth, None));
            }
            Step::Drain { bytes } if matches!(self.open, Some((_, None))) => {
                let _ = self.keyed.drain(bytes);
                self.take_chunks();
            }
            Step::Publish => {
                if let Some((frozen, None)) = self.open {
                    self.publish(frozen);
                }
            }
            Step::Confirm => {
                if let Some((_, Some(file))) = &self.open {
                    self.keyed.confirm(file.clone());
                    self.open = None;
                    self.checkpoints.retain(2).unwrap();
                }
            }
            Step::Abort if matches!(self.open, Some((_, None))) => {
                self.keyed.abort();
                self.chunks.clear();
                self.open = None;
            }
            Step::Freeze | Step::Drain { .. } | Step::Abort => {}
        }
    }

    fn take_chunks(&mut self) {
        while let Some(chunk) = self.keyed.take_chunk() {
            self.chunks.push(chunk.bytes().to_vec());
            self.keyed.give_back(chunk);
        }
    }

    /// Writes the rest of the open snapshot, and the manifest with it.
    fn publish(&mut self, frozen: u64) {
        while self.keyed.drain(100_000) == Drained::More {
            self.take_chunks();
        }
        self.take_chunks();
        let chunks = std::mem::take(&mut self.chunks);
        let file = (!chunks.is_empty()).then(|| {
            let name = (0..).map(|attempt| format!("{frozen}-{attempt}.snap"));
            let name = name.into_iter().find(|name| !self.checkpoints.path(name).exists()).unwrap();
            fs::write(self.checkpoints.path(&name), chunks.concat()).unwrap();
            let crc32c = chunks.iter().fold(0, |crc, chunk| crc32c::crc32c_append(crc, &chunk[12..16]));
            FileRef { name, bytes: chunks.iter().map(|chunk| chunk.len() as u64).sum(), crc32c }
        });
        let (range, states, files) = (self.keyed.range(), self.keyed.parts(), self.keyed.chain(file.as_ref()));
        let operator = OperatorPart {
            uid: "revived".into(),
            blob: serde_json::Value::Null,
            tables: vec![TablePart { name: "keyed".into(), range, states, files }],
            committables: Vec::new(),
        };
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            job: "revived".into(),
            // Steps are counted anew after a crash, epochs never: the step stands where the time would.
            epoch: Epoch(self.checkpoints.newest().unwrap().highest.0 + 1),
            created_ms: frozen as i64,
            graph_fingerprint: 0,
            graph: String::new(),
            shards: 1,
            parts: vec![Part { shard: 2, operators: vec![operator] }],
        };
        self.checkpoints.publish(&manifest).unwrap();
        self.open = Some((frozen, Some(file)));
    }

    /// Whether every entry is the twin's, and there are no others.
    pub(crate) fn check(&self, twin: &Twin) {
        let mut counts: BTreeMap<i64, HashMap<u64, u64>> = BTreeMap::new();
        for namespace in self.counts.namespaces() {
            let entries = counts.entry(namespace.0).or_default();
            self.counts.scan(namespace, |key, value| assert!(entries.insert(*key, *value).is_none()));
            assert_eq!(self.counts.len(namespace), entries.len());
            entries.iter().for_each(|(key, value)| assert_eq!(self.counts.get(namespace, key), Some(*value)));
        }
        let mut names: BTreeMap<i64, HashMap<String, String>> = BTreeMap::new();
        for namespace in self.names.namespaces() {
            let entries = names.entry(namespace.0).or_default();
            self.names.scan(namespace, |key, value| {
                assert!(entries.insert(key.to_owned(), value.as_str().to_owned()).is_none());
            });
            assert_eq!(self.names.len(namespace), entries.len());
            for (key, value) in entries {
                assert_eq!(self.names.get(namespace, key, |found| found == value.as_str()), Some(true));
            }
        }
        // A namespace without entries may or may not be there.
        let mut twin = twin.clone();
        twin.counts.retain(|_, entries| !entries.is_empty());
        twin.names.retain(|_, entries| !entries.is_empty());
        counts.retain(|_, entries| !entries.is_empty());
        names.retain(|_, entries| !entries.is_empty());
        assert!(counts == twin.counts && names == twin.names, "the state is not the twin's");
    }
}
