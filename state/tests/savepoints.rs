//! Savepoints: made of a checkpoint, restored into any number of shards and into newer types, and refused where they are
//! damaged.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod ledger;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ledger::{
    Account, AccountOfFloats, AccountV1, Contents, GLOBAL, Ledger, account, checkpoint, expires_ms, manifest,
    on_a_shard, pages, snapshot,
};
use millstream_state::schema::{Described, Schema};
use millstream_state::{
    DeclaredState, Fit, Manifest, RestoreError, Savepoint, SavepointError, Store, StoreConfig, TablePart,
};

const KEYS: u64 = 3_000;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn store(&self) -> Store {
        Store::open(self.0.path().join("checkpoints")).unwrap()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn save(store: &Store, manifest: &Manifest, path: &Path) -> Result<(), SavepointError> {
    Savepoint::of_checkpoint(store, manifest, path, &StoreConfig::default(), true).map(drop)
}

fn open(path: &Path) -> Result<Savepoint, SavepointError> {
    Savepoint::open(path, &StoreConfig::default())
}

/// What ledgers on so many shards hold that were restored from a savepoint.
fn restored(savepoint: &Savepoint, shards: u32) -> Result<(Contents, Vec<Ledger>), RestoreError> {
    let (mut contents, mut ledgers) = (Contents::default(), Vec::new());
    let operator = savepoint.manifest().operator("ledger").unwrap();
    for shard in 0..shards {
        let mut ledger = Ledger::new(shard, shards);
        ledger.pages.restore_savepoint(savepoint, operator, false)?;
        ledger.contents(&mut contents);
        ledgers.push(ledger);
    }
    Ok((contents, ledgers))
}

#[test]
fn a_savepoint_is_restored_into_any_number_of_shards() {
    let place = Place::new();
    for from in [1, 3] {
        let store = Store::open(place.at(&format!("checkpoints-{from}"))).unwrap();
        let (manifest, contents) = checkpoint(&store, from, KEYS);
        assert!(contents.counts.len() == 2 * KEYS as usize && contents.accounts.len() == KEYS as usize);
        let path = place.at(&format!("savepoint-{from}"));
        let report = Savepoint::of_checkpoint(&store, &manifest, &path, &StoreConfig::default(), true).unwrap();
        assert_eq!((report.entries, report.states, report.operators), (4 * KEYS, 3, 2));
        // It stands by itself.
        fs::remove_dir_all(store.directory()).unwrap();
        let savepoint = open(&path).unwrap();
        let said = savepoint.manifest();
        assert_eq!((said.job.as_str(), said.epoch, said.shards), ("ledgers", manifest.epoch, from));
        let sink = said.operator("sink").unwrap();
        assert!(sink.parts.iter().all(|part| part.committables.is_empty()), "all of it was committed");
        assert_eq!(said.operator("ledger").unwrap().parts[0].blob["watermark"], 17);
        for to in 1..=4 {
            let (found, _) = restored(&savepoint, to).unwrap();
            assert_eq!(found, contents, "{from} to {to}");
        }
    }
}

#[test]
fn the_first_checkpoint_after_a_savepoint_is_whole() {
    let place = Place::new();
    let store = place.store();
    let (manifest_before, contents) = checkpoint(&store, 2, KEYS);
    save(&store, &manifest_before, &place.at("savepoint")).unwrap();
    let savepoint = open(&place.at("savepoint")).unwrap();
    let fresh = Store::open(place.at("fresh")).unwrap();
    let found = on_a_shard(async move {
        let (_, ledgers) = restored(&savepoint, 3).unwrap();
        let mut tables: Vec<TablePart> = Vec::new();
        for (shard, mut ledger) in ledgers.into_iter().enumerate() {
            tables.push(snapshot(&mut ledger.pages, &fresh, 3, &format!("shard-{shard}")).await);
        }
        let mut found = Contents::default();
        for (shard, table) in tables.into_iter().enumerate() {
            let mut ledger = Ledger::new(shard as u32, 3);
            ledger.pages.restore(&fresh, &[table]).unwrap();
            ledger.contents(&mut found);
        }
        found
    });
    assert_eq!(found, contents);
}

#[test]
fn what_operators_keep_besides_is_kept_by_shard() {
    let place = Place::new();
    let (manifest, _) = checkpoint(&place.store(), 3, 10);
    let config = StoreConfig::default();
    for is_committed in [false, true] {
        let path = place.at(&format!("savepoint-{is_committed}"));
        Savepoint::of_checkpoint(&place.store(), &manifest, &path, &config, is_committed).unwrap();
        let mut wanted = manifest.clone();
        for operator in wanted.parts.iter_mut().flat_map(|part| &mut part.operators) {
            operator.tables.clear();
            // Of a checkpoint without its job, nobody knows whether all of it was committed.
            if is_committed {
                operator.committables.clear();
            }
        }
        assert_eq!(open(&path).unwrap().as_manifest(), wanted);
    }
}

#[test]
fn nothing_that_has_the_name_is_touched() {
    let place = Place::new();
    let (manifest, _) = checkpoint(&place.store(), 1, 10);
    for name in ["file", "empty", "full"] {
        let path = place.at(name);
        match name {
            "file" => fs::write(&path, "mine").unwrap(),
            "empty" => fs::create_dir(&path).unwrap(),
            _ => {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("mine"), "mine").unwrap();
            }
        }
        let error = save(&place.store(), &manifest, &path).unwrap_err();
        assert!(matches!(error, SavepointError::Exists { .. }), "{name}: {error}");
        assert!(error.to_string().contains("Name another path"), "{error}");
    }
    save(&place.store(), &manifest, &place.at("savepoint")).unwrap();
    let twice = save(&place.store(), &manifest, &place.at("savepoint")).unwrap_err();
    assert!(matches!(twice, SavepointError::Exists { .. }), "{twice}");
    assert_eq!(fs::read(place.at("file")).unwrap(), b"mine");
    assert_eq!(place.names(), ["checkpoints", "empty", "file", "full", "savepoint"], "nothing else is left behind");
}

#[test]
fn a_savepoint_of_a_damaged_checkpoint_is_none() {
    let place = Place::new();
    let (manifest, _) = checkpoint(&place.store(), 2, KEYS);
    let last = manifest.files().last().unwrap().name.clone();
    let mut bytes = fs::read(place.store().path(&last)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(place.store().path(&last), bytes).unwrap();
    let error = save(&place.store(), &manifest, &place.at("savepoint")).unwrap_err();
    assert!(matches!(error, SavepointError::Checkpoint(_)), "{error}");
    assert_eq!(place.names(), ["checkpoints"]);
}

#[test]
fn a_process_killed_while_it_makes_one_leaves_nothing_that_counts() {
    const CHILD: &str = "MILLSTREAM_TEST_SAVEPOINT_PLACE";
    if let Ok(path) = std::env::var(CHILD) {
        // The child: over and over, until it is killed.
        let path = Path::new(&path);
        let store = Store::open(path.join("checkpoints")).unwrap();
        let manifest = store.newest().unwrap().manifest.unwrap();
        fs::write(path.join("ready"), "").unwrap();
        for nth in 0.. {
            save(&store, &manifest, &path.join("savepoints").join(format!("{nth}"))).unwrap();
        }
    }
    let place = Place::new();
    let (manifest, contents) = checkpoint(&place.store(), 2, KEYS);
    let test = "a_process_killed_while_it_makes_one_leaves_nothing_that_counts";
    let (mut abandoned, mut whole) = (0, 0);
    for round in 0..12u64 {
        let _ = fs::remove_dir_all(place.at("savepoints"));
        let _ = fs::remove_file(place.at("ready"));
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", test, "--nocapture"]).env(CHILD, place.0.path()).stdout(Stdio::null());
        let mut child = child.spawn().unwrap();
        while !place.at("ready").exists() {
            std::hint::spin_loop();
        }
        on_a_shard(async move { glommio::timer::sleep(std::time::Duration::from_millis(3 + round * 5)).await });
        child.kill().unwrap();
        child.wait().unwrap();
        let entries = fs::read_dir(place.at("savepoints"));
        for entry in entries.into_iter().flatten() {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name().into_string().unwrap())).unwrap();
            let Some((of, _)) = name.split_once(".tmp-") else {
                assert_eq!(restored(&open(&path).unwrap(), 1).unwrap().0, contents, "what has its name is whole");
                whole += 1;
                continue;
            };
            abandoned += 1;
            save(&place.store(), &manifest, &path.with_file_name(of)).unwrap();
            assert!(!path.exists(), "the next one of that name removes what is left");
            assert_eq!(restored(&open(&path.with_file_name(of)).unwrap(), 1).unwrap().0, contents);
        }
    }
    assert!(abandoned > 0 && whole > 0, "{abandoned} were killed in the middle, {whole} were whole");
}

/// The files of a savepoint.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_damaged_savepoint_is_refused() {
    let place = Place::new();
    let (manifest, contents) = checkpoint(&place.store(), 2, 60);
    let path = place.at("savepoint");
    save(&place.store(), &manifest, &path).unwrap();
    let attempt = || -> Result<Contents, RestoreError> { Ok(restored(&open(&path)?, 1)?.0) };
    let refused = |what: String| {
        let error = attempt().expect_err(&what);
        assert!(matches!(error, RestoreError::Savepoint(_)), "{what}: {error}");
        assert!(error.to_string().contains("savepoint"), "{what}: {error}");
    };
    assert!(files(&path).len() >= 3);
    for file in files(&path) {
        let bytes = fs::read(&file).unwrap();
        for at in (0..bytes.len()).step_by((bytes.len() / 97).max(1)) {
            for bit in [0, 5] {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                fs::write(&file, &flipped).unwrap();
                refused(format!("{}: bit {bit} of byte {at}", file.display()));
            }
            fs::write(&file, &bytes[..at]).unwrap();
            refused(format!("{}: torn at {at}", file.display()));
        }
        fs::write(&file, [&bytes[..], &[0; 4096]].concat()).unwrap();
        refused(format!("{}: with more behind it", file.display()));
        fs::remove_file(&file).unwrap();
        refused(format!("{}: missing", file.display()));
        fs::write(&file, &bytes).unwrap();
    }
    // Two files of one savepoint, each sound, in each other's place.
    let entries: Vec<PathBuf> =
        files(&path).into_iter().filter(|file| file.extension() == Some("entries".as_ref())).collect();
    let (one, other) = (fs::read(&entries[0]).unwrap(), fs::read(&entries[1]).unwrap());
    fs::write(&entries[0], &other).unwrap();
    fs::write(&entries[1], &one).unwrap();
    refused("files exchanged".into());
    fs::write(&entries[0], &one).unwrap();
    fs::write(&entries[1], &other).unwrap();
    assert_eq!(attempt().unwrap(), contents);
}

#[test]
fn where_there_is_no_savepoint_nothing_is_created() {
    let place = Place::new();
    let error = open(&place.at("nothing")).unwrap_err();
    assert!(matches!(error, SavepointError::Absent { .. }), "{error}");
    place.store();
    let error = open(&place.at("checkpoints")).unwrap_err();
    assert!(matches!(error, SavepointError::Absent { .. }), "{error}");
    assert_eq!(place.names(), ["checkpoints"]);
}

/// The accounts of shard 0 of 1 after a restore of the newest checkpoint, in their newer version.
fn upgraded(restore: impl FnOnce(&mut millstream_state::PageStore) -> Result<(), RestoreError>) -> Vec<(u64, Account)> {
    let mut pages = pages(0, 1);
    let counts = pages.table::<u64, u64>("counts");
    let names = pages.slotted::<String, String>("labels").was("names");
    let accounts = pages.slotted_as::<u64, Account>("accounts", Schema::U64, Account::schema()).evolving();
    restore(&mut pages).unwrap();
    assert_eq!(counts.len(GLOBAL), KEYS as usize);
    assert_eq!(names.get(GLOBAL, &"name-7".to_owned(), |value| value.to_string()).unwrap(), "value 7");
    let account = |key: u64| {
        let account = accounts.get(GLOBAL, &key, |account| Account {
            cents: account.cents.to_native(),
            owner: account.owner.to_string(),
            currency: account.currency.to_string(),
            notes: account.notes.iter().map(|note| note.to_string()).collect(),
        });
        (key, account.unwrap())
    };
    (0..KEYS).map(account).collect()
}

#[test]
fn values_of_older_types_are_brought_up_to_date() {
    let place = Place::new();
    let wanted = |key: u64| {
        let AccountV1 { money, owner, notes } = account(key);
        (key, Account { cents: money, owner, currency: "EUR".to_owned(), notes })
    };
    let wanted: Vec<(u64, Account)> = (0..KEYS).map(wanted).collect();
    for shards in [1, 3] {
        let store = Store::open(place.at(&format!("checkpoints-{shards}"))).unwrap();
        let (manifest, _) = checkpoint(&store, shards, KEYS);
        let tables: Vec<TablePart> =
            manifest.parts.iter().flat_map(|part| part.operators[0].tables.iter().cloned()).collect();
        assert!(upgraded(|pages| pages.restore(&store, &tables).map(drop)) == wanted, "from {shards} shards");
        let path = place.at(&format!("savepoint-{shards}"));
        save(&store, &manifest, &path).unwrap();
        let savepoint = open(&path).unwrap();
        let operator = savepoint.manifest().operator("ledger").unwrap();
        let from_savepoint = upgraded(|pages| pages.restore_savepoint(&savepoint, operator, false).map(drop));
        assert!(from_savepoint == wanted, "from a savepoint of {shards} shards");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let place = Place::new();
    let (manifest, _) = checkpoint(&place.store(), 1, 100);
    save(&place.store(), &manifest, &place.at("savepoint")).unwrap();
    let savepoint = open(&place.at("savepoint")).unwrap();
    let operator = savepoint.manifest().operator("ledger").unwrap();
    let tables = &manifest.parts[0].operators[0].tables;
    type Declare = fn(&millstream_state::PageStore);
    let cases: [(Declare, &[&str]); 4] = [
        (
            |pages| {
                let _counts = pages.table::<u64, u64>("counts");
                let _names = pages.slotted::<String, String>("names");
                let schema = AccountOfFloats::schema();
                let _accounts = pages.slotted_as::<u64, AccountOfFloats>("accounts", Schema::U64, schema);
            },
            &["operator 'ledger'", "state 'accounts'", "`money` was `i64` and is `f64`", "Nothing was changed"],
        ),
        (
            |pages| {
                let _counts = pages.table::<u64, u32>("counts");
            },
            &["operator 'ledger'", "state 'counts'", "was `u64` and is `u32`"],
        ),
        (
            |pages| {
                let _counts = pages.table::<i64, u64>("counts");
            },
            &["operator 'ledger'", "state 'counts'", "its key", "was `u64` and is `i64`"],
        ),
        (
            |pages| {
                let _counts = pages.table::<u64, u64>("counts");
                let _names = pages.slotted::<String, String>("names");
            },
            &["operator 'ledger'", "a state 'accounts' that the job's operator does not declare"],
        ),
    ];
    for (declare, words) in cases {
        for from_savepoint in [false, true] {
            let mut pages = pages(0, 1);
            declare(&pages);
            let error = if from_savepoint {
                pages.restore_savepoint(&savepoint, operator, false).unwrap_err()
            } else {
                pages.restore(&place.store(), tables).unwrap_err()
            };
            for word in words {
                assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
            }
            assert!(pages.bytes().live == 0, "nothing was taken in");
        }
    }
    // A change that could be followed, in a state that says no way to.
    let pages = pages(0, 1);
    let _accounts = pages.slotted_as::<u64, Account>("accounts", Schema::U64, Account::schema());
    let stored = &tables[0].states[2];
    let error = pages.declared()[0].fit("ledger", stored).unwrap_err();
    assert!(error.to_string().contains("without a way to"), "{error}");
}

#[test]
fn states_without_a_place_are_left_behind_where_that_is_allowed() {
    let place = Place::new();
    let (manifest, contents) = checkpoint(&place.store(), 2, 500);
    save(&place.store(), &manifest, &place.at("savepoint")).unwrap();
    let savepoint = open(&place.at("savepoint")).unwrap();
    let tables: Vec<TablePart> = manifest.parts.iter().flat_map(|part| part.operators[0].tables.clone()).collect();
    for from_savepoint in [false, true] {
        let mut pages = pages(0, 1);
        let counts = pages.table::<u64, u64>("counts");
        let other = pages.table::<u64, u8>("new");
        if from_savepoint {
            let operator = savepoint.manifest().operator("ledger").unwrap();
            pages.restore_savepoint(&savepoint, operator, true).unwrap();
        } else {
            pages.restore_some(&place.store(), &tables, true).unwrap();
        }
        let mut found = Contents::default();
        counts.scan(GLOBAL, |key, count| {
            found.counts.insert((0, *key), *count);
        });
        assert!(found.counts.iter().all(|(key, count)| contents.counts[key] == *count) && found.counts.len() == 500);
        assert!(other.is_empty(), "a state that is new starts empty");
    }
}

#[test]
fn a_flat_state_that_becomes_one_of_any_size_is_laid_out_anew() {
    let place = Place::new();
    let (manifest, contents) = checkpoint(&place.store(), 2, 500);
    let tables: Vec<TablePart> = manifest.parts.iter().flat_map(|part| part.operators[0].tables.clone()).collect();
    let mut pages = pages(0, 1);
    let counts = pages.slotted_as::<u64, u64>("counts", Schema::U64, Schema::U64);
    let declared: Vec<DeclaredState> = pages.declared();
    assert_eq!(declared[0].fit("ledger", &tables[0].states[0]).unwrap(), Fit::Relaid);
    pages.restore_some(&place.store(), &tables, true).unwrap();
    for (&(namespace, key), count) in &contents.counts {
        let found = counts.get(millstream_state::Namespace(namespace), &key, |count| count.to_native());
        assert_eq!(found, Some(*count), "{namespace} {key}");
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/savepoint-1")
}

const FIXTURE_KEYS: u64 = 60;

/// The promise of `docs/formats/savepoint.md`: what version 1 wrote, every later build reads.
#[test]
fn a_savepoint_of_version_1_is_read() {
    let savepoint = open(&fixture()).unwrap();
    assert_eq!(savepoint.manifest().savepoint_version, 1);
    for shards in 1..=3 {
        let (found, _) = restored(&savepoint, shards).unwrap();
        for key in 0..FIXTURE_KEYS {
            assert_eq!(found.accounts[&key], account(key));
            assert_eq!(found.names[&format!("name-{key}")], (format!("value {key}"), expires_ms(key)));
            let folded = if key < FIXTURE_KEYS / 2 { 6 } else { 3 };
            assert_eq!((found.counts[&(0, key)], found.counts[&(-60_000, key)]), (key * folded, key * folded));
        }
        assert_eq!((found.accounts.len(), found.counts.len()), (FIXTURE_KEYS as usize, 2 * FIXTURE_KEYS as usize));
    }
}

#[test]
#[ignore = "writes the fixture of a new version of the format; those of older versions stay as they are"]
fn write_the_fixture() {
    let place = Place::new();
    let (manifest, _) = checkpoint(&place.store(), 2, FIXTURE_KEYS);
    save(&place.store(), &manifest, &fixture()).unwrap();
}

#[test]
fn a_savepoint_of_another_version_is_refused_by_name() {
    let place = Place::new();
    let tables = vec![TablePart {
        name: "keyed".into(),
        range: millstream_state::HashRange::ALL,
        states: Vec::new(),
        files: Vec::new(),
    }];
    save(&place.store(), &manifest(9, tables), &place.at("savepoint")).unwrap();
    let file = place.at("savepoint/savepoint.json");
    let text = fs::read_to_string(&file).unwrap().replace("\"savepoint_version\": 1", "\"savepoint_version\": 7");
    let (body, _) = text.trim_end().rsplit_once('\n').unwrap();
    let body = format!("{body}\n");
    let seal = format!("crc32c {:08x} over {} bytes\n", crc32c(body.as_bytes()), body.len());
    fs::write(&file, body + &seal).unwrap();
    let error = open(&place.at("savepoint")).unwrap_err();
    assert!(matches!(error, SavepointError::Version { found: 7, .. }), "{error}");
}

/// Bit by bit, as the format's document has it.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
