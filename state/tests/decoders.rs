//! Whatever bytes a decoder of this crate is given, it answers: with an error, or with tables that are sound.
//!
//! Bytes are mutated at random. Those of a manifest or a snapshot file that are merely changed must all be refused, for
//! they have checksums. To get behind these, most cases are sealed again after the change: then a decoder either finds out
//! what is wrong, or what it accepts must be a state that can be read, changed, and restored from a snapshot of its own.
//!
//! `FUZZ_SECONDS=600 cargo test -p millstream-state --test decoders` for a long run; `FUZZ_SEED` to begin where another
//! one did. A case that fails is written to `tests/corpus`, which every run goes through first.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod world;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream_state::{
    Drained, Epoch, FORMAT_VERSION, FileRef, HashRange, Key, Manifest, Namespace, OperatorPart, PageStore, Part,
    SlotKey, SlottedTable, Store, Table, TableConfig, TablePart,
};
use world::write_file;

const NS: [Namespace; 2] = [Namespace(-5), Namespace(1 << 40)];

/// A value in which not all bytes are valid.
#[derive(rkyv::Archive, rkyv::Serialize, Clone)]
struct Fussy {
    sign: char,
    flag: Option<bool>,
    texts: Vec<String>,
}

struct States {
    store: PageStore,
    numbers: Table<u64, u64>,
    names: SlottedTable<String, Fussy>,
    blobs: SlottedTable<Vec<u8>, Vec<u8>>,
}

/// Everything in the states, by state, namespace and key.
type Contents = BTreeMap<(u8, i64, Vec<u8>), Vec<u8>>;

impl States {
    fn new(range: HashRange) -> States {
        let config =
            TableConfig { operator: "fuzzed".into(), shard: 0, bytes_max: 16 << 20, range, ..TableConfig::default() };
        let store = PageStore::new(config).unwrap();
        let (numbers, mut names, mut blobs) = (store.table("numbers"), store.slotted("names"), store.slotted("blobs"));
        // Before any time there is, so that what is read is all that is there but what ends at the very first moment.
        names.set_now(i64::MIN);
        blobs.set_now(i64::MIN);
        States { store, numbers, names, blobs }
    }

    /// Puts entries in, those of them that belong here.
    fn fill(&mut self, from: u64, keys: u64) {
        let range = self.store.range();
        for number in from..from + keys {
            let namespace = NS[number as usize % 2];
            if range.contains(Key::hash64(&number)) {
                self.numbers.fold(namespace, 1, |_| number, || 0, |value, _| *value += number * 3).unwrap();
            }
            let texts = vec![number.to_string(); number as usize % 4];
            let fussy = Fussy { sign: 'ü', flag: (number % 3 > 0).then_some(number % 3 == 1), texts };
            let name = format!("name {number}");
            if range.contains(name.hash64()) {
                self.names.put_until(namespace, &name, &fussy, number as i64 % 5 * 1_000).unwrap();
            }
            let bytes = if number % 11 == 0 { number as usize % 5 * 3_000 } else { number as usize % 90 };
            let (key, blob) = (number.to_le_bytes().repeat(2), vec![number as u8; bytes]);
            if range.contains(key.hash64()) {
                self.blobs.put(namespace, &key, &blob).unwrap();
            }
        }
    }

    /// Reads all there is, in both ways, which must agree.
    fn contents(&self) -> Contents {
        let mut contents = Contents::new();
        let mut add = |state: u8, namespace: Namespace, key: Vec<u8>, value: Vec<u8>| {
            assert!(contents.insert((state, namespace.0, key), value).is_none(), "an entry is shown once");
        };
        for namespace in self.numbers.namespaces() {
            let mut len = 0;
            self.numbers.scan(namespace, |key, value| {
                assert_eq!(self.numbers.get(namespace, key), Some(*value));
                add(0, namespace, key.to_le_bytes().to_vec(), value.to_le_bytes().to_vec());
                len += 1;
            });
            assert_eq!(self.numbers.len(namespace), len);
        }
        let shown = |fussy: &ArchivedFussy| {
            let texts: Vec<&str> = fussy.texts.iter().map(|text| text.as_str()).collect();
            format!("{:?} {:?} {texts:?}", fussy.sign.to_native(), fussy.flag).into_bytes()
        };
        for namespace in self.names.namespaces() {
            let mut len = 0;
            self.names.scan(namespace, |key, fussy| {
                assert_eq!(self.names.get(namespace, &key.to_owned(), shown), Some(shown(fussy)));
                add(1, namespace, key.as_bytes().to_vec(), shown(fussy));
                len += 1;
            });
            assert!(self.names.len(namespace) >= len);
        }
        for namespace in self.blobs.namespaces() {
            let mut len = 0;
            self.blobs.scan(namespace, |key, blob| {
                let got = self.blobs.get(namespace, &key.to_vec(), |blob| blob.to_vec());
                assert_eq!(got.as_deref(), Some(blob.as_slice()));
                add(2, namespace, key.to_vec(), blob.to_vec());
                len += 1;
            });
            assert!(self.blobs.len(namespace) >= len);
        }
        contents
    }

    /// Takes a third of what there is out, and changes and adds some.
    fn stir(&mut self) {
        for (at, (state, namespace, key)) in self.contents().into_keys().enumerate() {
            let (namespace, is_third) = (Namespace(namespace), at % 3 == 0);
            match state {
                0 => {
                    let key = u64::from_le_bytes(key.try_into().unwrap());
                    if is_third {
                        assert!(self.numbers.remove(namespace, &key).is_some());
                    } else {
                        self.numbers.fold(namespace, 1, |_| key, || unreachable!(), |value, _| *value ^= 1).unwrap();
                    }
                }
                1 => {
                    let key = String::from_utf8(key).unwrap();
                    if is_third {
                        assert!(self.names.remove(namespace, &key));
                    } else {
                        let fussy = Fussy { sign: 'n', flag: None, texts: vec!["new".repeat(at % 2_000)] };
                        self.names.put(namespace, &key, &fussy).unwrap();
                    }
                }
                _ if is_third => assert!(self.blobs.remove(namespace, &key)),
                // A long value that takes as many pages is written over the one there was.
                _ => {
                    let blob = self.blobs.get(namespace, &key, |blob| vec![!blob.first().unwrap_or(&0); blob.len()]);
                    self.blobs.put(namespace, &key, &blob.unwrap()).unwrap();
                }
            }
        }
        self.fill(7_000_000, 60);
    }

    /// A checkpoint of it: the part that a manifest has of it.
    fn checkpoint(&mut self, disk: &Store, name: &str) -> TablePart {
        self.store.freeze(Epoch(9));
        let mut chunks = Vec::new();
        loop {
            let drained = self.store.drain(usize::MAX);
            while let Some(chunk) = self.store.take_chunk() {
                chunks.push(chunk.bytes().to_vec());
            }
            if drained == Drained::Done {
                break;
            }
        }
        let file = write_file(disk, name, &mut chunks);
        let files = self.store.chain(file.as_ref());
        self.store.confirm(file);
        TablePart { name: "keyed".into(), range: self.store.range(), states: self.store.parts(), files }
    }
}

struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn below(&mut self, below: usize) -> usize {
        (self.draw() % below.max(1) as u64) as usize
    }

    /// A number as mistakes make them: at an end of its range, a power of two, near what was there.
    fn number(&mut self, near: u64) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => near.wrapping_add(self.below(5) as u64).wrapping_sub(2),
            4 => self.below(70) as u64,
            _ => self.draw(),
        }
    }

    /// Changes a few bytes, one number, or the order of things.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(7) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.draw() as u8,
                2 | 3 => {
                    let width = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                    let near = bytes[at..at + width].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                    let number = self.number(near).to_le_bytes();
                    bytes[at..at + width].copy_from_slice(&number[..width]);
                }
                4 => {
                    let end = at + self.below(64).min(bytes.len() - at);
                    bytes[at..end].fill(0);
                }
                5 => {
                    let (len, to) = (self.below(80).min(bytes.len() - at), self.below(bytes.len()));
                    let len = len.min(bytes.len() - to);
                    bytes.copy_within(at..at + len, to);
                }
                _ => bytes.truncate(bytes.len() - self.below(40).min(bytes.len())),
            }
        }
    }

    /// Changes a JSON text, mostly so that it is one still.
    fn mutate_json(&mut self, text: &mut Vec<u8>) {
        let is_number = |at: usize| text[at].is_ascii_digit() && (at == 0 || !text[at - 1].is_ascii_digit());
        let numbers: Vec<usize> = (0..text.len()).filter(|at| is_number(*at)).collect();
        if self.below(4) == 0 || numbers.is_empty() {
            return self.mutate(text);
        }
        let at = numbers[self.below(numbers.len())];
        let end = (at..text.len()).find(|at| !text[*at].is_ascii_digit()).unwrap_or(text.len());
        let near = std::str::from_utf8(&text[at..end]).unwrap().parse().unwrap_or(0);
        let number = self.number(near).to_string();
        text.splice(at..end, number.bytes());
    }
}

/// A snapshot file's records, the chunk's header and the padding left out. It is of one chunk.
fn records_of(file: &[u8]) -> Vec<u8> {
    let used = u32::from_le_bytes(file[4..8].try_into().unwrap()) as usize;
    file[16..used].to_vec()
}

/// Records as a file whose checksums are right, whatever they say.
fn seal(records: &[u8]) -> (Vec<u8>, u32) {
    let used = (16 + records.len()) as u32;
    let mut file = [&b"mill"[..], &used.to_le_bytes(), &0u32.to_le_bytes(), &[0; 4], records].concat();
    file[..4].copy_from_slice(&magic());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&file[..12]), &file[16..]);
    file[12..16].copy_from_slice(&crc.to_le_bytes());
    file.resize(file.len().next_multiple_of(4096), 0);
    (file, crc32c::crc32c_append(0, &crc.to_le_bytes()))
}

/// What a chunk begins with, taken from one.
fn magic() -> [u8; 4] {
    static MAGIC: std::sync::OnceLock<[u8; 4]> = std::sync::OnceLock::new();
    *MAGIC.get_or_init(|| {
        let mut states = States::new(HashRange::ALL);
        states.fill(0, 1);
        states.store.freeze(Epoch(1));
        let _ = states.store.drain(usize::MAX);
        states.store.take_chunk().unwrap().bytes()[..4].try_into().unwrap()
    })
}

/// Where each record of a sealed file begins, and the end: by the format's own lengths.
fn bounds(records: &[u8]) -> Vec<usize> {
    let u32_at = |at: usize| u32::from_le_bytes(records[at..at + 4].try_into().unwrap()) as usize;
    let mut bounds = vec![0];
    let mut at = 0;
    while at + 8 <= records.len() {
        // The kinds of records are told apart by what comes out even: a header first, a footer of 24 bytes last.
        let bytes = match (at, records[at + 6]) {
            (0, _) => (12 + u32_at(8)).next_multiple_of(8),
            _ if at + 24 == records.len() => 24,
            _ => (32 + u32_at(at + 28)).next_multiple_of(8),
        };
        at += bytes;
        bounds.push(at);
    }
    bounds
}

struct Fuzz {
    disk: Store,
    _directory: tempfile::TempDir,
    corpus: PathBuf,
    /// Records of sound files, a small one and one whose pages have split; all of them are whole pages.
    records: [Vec<u8>; 2],
    part: TablePart,
    manifest: Vec<u8>,
    accepted: u64,
}

impl Fuzz {
    fn new() -> Fuzz {
        let directory = tempfile::tempdir().unwrap();
        let disk = Store::open(directory.path()).unwrap();
        let sound = |name: &str, keys: u64| {
            let mut states = States::new(HashRange::ALL);
            states.fill(0, keys);
            let part = states.checkpoint(&disk, name);
            let file = fs::read(disk.path(name)).unwrap();
            assert!(file.len() < 512 << 10, "one chunk is easiest to seal: {}", file.len());
            let records = records_of(&file);
            assert_eq!(seal(&records), (file, part.files[0].crc32c), "sealing is what the crate does");
            (records, part)
        };
        let ((large, _), (small, part)) = (sound("large.snap", 700), sound("sound.snap", 36));
        let manifest = manifest(&part).to_bytes();
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
        Fuzz { disk, _directory: directory, corpus, records: [small, large], part, manifest, accepted: 0 }
    }

    /// Restores a file of these records, and if that goes well looks at what came of it.
    fn try_records(&mut self, records: &[u8], range: HashRange) {
        let (file, crc32c) = seal(records);
        fs::write(self.disk.path("case.snap"), &file).unwrap();
        let case = FileRef { name: "case.snap".into(), bytes: file.len() as u64, crc32c };
        self.try_part(&TablePart { files: vec![case], ..self.part.clone() }, range);
    }

    fn try_part(&mut self, part: &TablePart, range: HashRange) {
        let config =
            TableConfig { operator: "fuzzed".into(), shard: 0, bytes_max: 16 << 20, range, ..TableConfig::default() };
        if let Ok((store, restored)) = PageStore::restore_unknown(config, &self.disk, part) {
            let mut entries = 0;
            let Ok(()) = store.entries(|_, _| {
                entries += 1;
                Ok::<(), std::convert::Infallible>(())
            });
            assert_eq!(entries, restored.entries);
        }
        let mut states = States::new(range);
        let Ok(restored) = states.store.restore(&self.disk, std::slice::from_ref(part)) else { return };
        self.accepted += 1;
        let contents = states.contents();
        assert!(contents.len() <= restored.entries);
        states.stir();
        let stirred = states.contents();
        let part = states.checkpoint(&self.disk, "again.snap");
        let mut again = States::new(range);
        again.store.restore(&self.disk, &[part]).unwrap();
        assert_eq!(again.contents(), stirred);
    }

    fn try_manifest(&mut self, body: &[u8]) {
        let seal = format!("crc32c {:08x} over {} bytes\n", crc32c::crc32c(body), body.len());
        let Ok(manifest) = Manifest::from_bytes(&[body, seal.as_bytes()].concat()) else { return };
        self.accepted += 1;
        assert_eq!(Manifest::from_bytes(&manifest.to_bytes()).unwrap(), manifest);
        let operators = manifest.parts.iter().flat_map(|part| &part.operators);
        for part in operators.flat_map(|operator| &operator.tables) {
            // A path is not the decoder's: files are named as the manifest has them, and are there or not.
            self.try_part(part, HashRange::ALL);
        }
    }

    fn replay(&mut self, name: &str, bytes: &[u8]) {
        match name.split_once('-').map(|(kind, _)| kind) {
            Some("records") => self.try_records(bytes, HashRange::ALL),
            Some("third") => self.try_records(bytes, HashRange::of_shard(1, 3)),
            Some("manifest") => self.try_manifest(bytes),
            _ => panic!("{name} is not named as a case is"),
        }
    }

    /// One case: how it is to be replayed, and its bytes.
    fn case(&mut self, random: &mut Random) -> (&'static str, Vec<u8>) {
        let mut records = self.records[usize::from(random.below(12) == 0)].clone();
        let bounds = bounds(&records);
        let count = bounds.len() - 1;
        let kind = if random.below(4) == 0 { "third" } else { "records" };
        match random.below(10) {
            0 => {
                let mut body = self.manifest[..self.manifest.len() - 1].to_vec();
                body.truncate(body.iter().rposition(|byte| *byte == b'\n').unwrap() + 1);
                random.mutate_json(&mut body);
                return ("manifest", body);
            }
            1 => {
                // The header's JSON, at its own length.
                let mut text = records[12..12 + records_len(&records, 8)].to_vec();
                random.mutate_json(&mut text);
                let mut header = records[..8].to_vec();
                header.extend((text.len() as u32).to_le_bytes());
                header.extend(text);
                header.resize(header.len().next_multiple_of(8), 0);
                records.splice(..bounds[1], header);
            }
            2 => {
                // One record again, perhaps as another page's, or left out.
                let at = 1 + random.below(count - 1);
                let mut record = records[bounds[at]..bounds[at + 1]].to_vec();
                let to = bounds[1 + random.below(count - 1)];
                match random.below(3) {
                    0 => drop(records.drain(bounds[at]..bounds[at + 1])),
                    more => {
                        if more == 2 && record.len() > 4 {
                            let page = random.below(count * 2) as u32;
                            record[..4].copy_from_slice(&page.to_le_bytes());
                        }
                        records.splice(to..to, record);
                    }
                }
                fix_footer(&mut records);
            }
            3 => {
                records = (0..random.below(3_000)).map(|_| random.draw() as u8).collect();
                if random.below(2) == 0 {
                    let header = self.records[0][..12 + records_len(&self.records[0], 8)].to_vec();
                    records.splice(..0, header);
                    records.resize(records.len().next_multiple_of(8), 0);
                }
            }
            4 => random.mutate(&mut records),
            _ => {
                // The head of a page's record, the head of the page in it, or anywhere in it.
                let at = 1 + random.below(count - 1);
                let (from, to) = (bounds[at], bounds[at + 1]);
                let to = [to, (from + 32).min(to), (from + 72).min(to), (from + 140).min(to)][random.below(4)];
                let mut record = records[from..to].to_vec();
                let before = record.len();
                random.mutate(&mut record);
                record.resize(before, 0);
                records.splice(from..to, record);
            }
        }
        (kind, records)
    }
}

fn records_len(records: &[u8], at: usize) -> usize {
    u32::from_le_bytes(records[at..at + 4].try_into().unwrap()) as usize
}

/// Has the footer count the records that there are.
fn fix_footer(records: &mut [u8]) {
    let count = bounds(records).len() as u64 - 2;
    let at = records.len() - 16;
    records[at..at + 8].copy_from_slice(&count.to_le_bytes());
}

fn manifest(part: &TablePart) -> Manifest {
    let operator = OperatorPart {
        uid: "fuzzed".into(),
        blob: serde_json::json!({ "watermark": 7, "positions": { "a": 1 } }),
        tables: vec![part.clone()],
        committables: vec![serde_json::json!({ "shard": 0 })],
    };
    Manifest {
        format_version: FORMAT_VERSION,
        job: "fuzz".into(),
        epoch: Epoch(3),
        created_ms: 5,
        graph_fingerprint: 7,
        graph: "source\nsink".into(),
        shards: 1,
        parts: vec![Part { shard: 0, operators: vec![operator] }],
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// When a run ends.
struct Deadline(std::time::Instant);

#[expect(clippy::disallowed_methods, reason = "how long a run takes is all that these tests ask of a clock")]
impl Deadline {
    fn after(seconds: u64) -> Deadline {
        Deadline(std::time::Instant::now() + Duration::from_secs(seconds))
    }

    fn is_over(&self) -> bool {
        std::time::Instant::now() >= self.0
    }
}

#[test]
fn cases_that_were_found_once_are_answered() {
    let mut fuzz = Fuzz::new();
    for entry in fs::read_dir(&fuzz.corpus).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        println!("{name}");
        fuzz.replay(&name, &fs::read(&path).unwrap());
    }
}

#[test]
fn sealed_or_not_no_bytes_are_believed_that_are_no_state() {
    let seconds = from_environment("FUZZ_SECONDS").unwrap_or(2);
    // Another one each time: of the process, and of where it was loaded.
    let anything = u64::from(std::process::id()) << 32 ^ &raw const seconds as u64;
    let first = from_environment("FUZZ_SEED").unwrap_or_else(|| Random(anything).draw());
    println!("FUZZ_SEED={first}");
    let mut fuzz = Fuzz::new();
    for sound in fuzz.records.clone() {
        fuzz.try_records(&sound, HashRange::ALL);
        fuzz.try_records(&sound, HashRange::of_shard(1, 3));
    }
    assert_eq!(fuzz.accepted, 4, "what is not changed is believed");
    let until = Deadline::after(seconds);
    let mut cases = 0u64;
    while cases < 20 || !until.is_over() {
        let mut random = Random(first.wrapping_add(cases));
        let (kind, bytes) = fuzz.case(&mut random);
        let result = catch_unwind(AssertUnwindSafe(|| fuzz.replay(&format!("{kind}-"), &bytes)));
        if let Err(panic) = result {
            let name = format!("{kind}-{:08x}", crc32c::crc32c(&bytes));
            fs::create_dir_all(&fuzz.corpus).unwrap();
            fs::write(fuzz.corpus.join(&name), &bytes).unwrap();
            println!("FUZZ_SEED={} finds it; kept as tests/corpus/{name}", first.wrapping_add(cases));
            std::panic::resume_unwind(panic);
        }
        cases += 1;
    }
    println!("{cases} cases in {seconds} s, {} of them accepted", fuzz.accepted);
}

/// What has a checksum and no longer the right one is refused, wherever the change is.
#[test]
fn changed_bytes_without_a_new_seal_are_refused() {
    let mut fuzz = Fuzz::new();
    let seconds = from_environment("FUZZ_SECONDS").unwrap_or(2) / 4 + 1;
    let mut random = Random(from_environment("FUZZ_SEED").unwrap_or(88_172_645_463_325_252));
    let (sound, manifest) = (seal(&fuzz.records[0]).0, fuzz.manifest.clone());
    let until = Deadline::after(seconds);
    while !until.is_over() {
        let mut changed = manifest.clone();
        random.mutate(&mut changed);
        assert!(changed == manifest || Manifest::from_bytes(&changed).is_err());
        let mut changed = sound.clone();
        random.mutate(&mut changed);
        if changed != sound {
            fs::write(fuzz.disk.path("sound.snap"), &changed).unwrap();
            let part = fuzz.part.clone();
            fuzz.try_part(&part, HashRange::ALL);
            assert_eq!(fuzz.accepted, 0, "a file that is not the one that was written");
        }
    }
}
