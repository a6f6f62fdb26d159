//! A ledger: an operator of several states, on any number of shards, its checkpoints, and its accounts in two versions.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeMap;

use glommio::{LocalExecutorBuilder, Placement};
use millstream_state::schema::{Described, Field, FromValue, Schema, Value, ValueError};
use millstream_state::{
    Drained, Epoch, FORMAT_VERSION, FileRef, HashRange, Manifest, Namespace, OperatorPart, PageStore, Part, SlotKey,
    SlottedTable, SnapshotFile, Store, Table, TableConfig, TablePart,
};

pub(crate) const PANE: Namespace = Namespace(-60_000);
pub(crate) const GLOBAL: Namespace = Namespace(0);

/// An account as it was.
#[derive(Clone, PartialEq, Debug, rkyv::Archive, rkyv::Serialize)]
pub(crate) struct AccountV1 {
    pub(crate) money: i64,
    pub(crate) owner: String,
    pub(crate) notes: Vec<String>,
}

/// The same with a field renamed, and one that is new.
#[derive(Clone, PartialEq, Debug, rkyv::Archive, rkyv::Serialize)]
pub(crate) struct Account {
    pub(crate) cents: i64,
    pub(crate) owner: String,
    pub(crate) currency: String,
    pub(crate) notes: Vec<String>,
}

/// The same again, with a field of another type.
#[derive(Clone, PartialEq, Debug, rkyv::Archive, rkyv::Serialize)]
pub(crate) struct AccountOfFloats {
    pub(crate) money: f64,
    pub(crate) owner: String,
    pub(crate) notes: Vec<String>,
}

impl Described for AccountV1 {
    fn schema() -> Schema {
        let fields =
            || vec![Field::of::<i64>("money"), Field::of::<String>("owner"), Field::of::<Vec<String>>("notes")];
        Schema::named::<Self>(|name| Schema::Struct { name, fields: fields() })
    }
}

impl Described for Account {
    fn schema() -> Schema {
        Schema::named::<Self>(|name| Schema::Struct {
            name,
            fields: vec![
                Field::of::<i64>("cents").was("money"),
                Field::of::<String>("owner"),
                Field::of::<String>("currency").with_default(),
                Field::of::<Vec<String>>("notes"),
            ],
        })
    }
}

impl Described for AccountOfFloats {
    fn schema() -> Schema {
        let fields =
            || vec![Field::of::<f64>("money"), Field::of::<String>("owner"), Field::of::<Vec<String>>("notes")];
        Schema::named::<Self>(|name| Schema::Struct { name, fields: fields() })
    }
}

impl FromValue for Account {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let mut fields = value.fields("Account")?;
        Ok(Account {
            cents: fields.take("cents", Some("money"))?,
            owner: fields.take("owner", None)?,
            currency: fields.take_or("currency", None, || "EUR".to_owned())?,
            notes: fields.take("notes", None)?,
        })
    }
}

pub(crate) fn on_a_shard<T: 'static>(work: impl std::future::Future<Output = T> + 'static) -> T {
    LocalExecutorBuilder::new(Placement::Unbound).io_memory(1 << 20).make().unwrap().run(work)
}

pub(crate) fn pages(shard: u32, shards: u32) -> PageStore {
    let range = HashRange::of_shard(shard, shards);
    PageStore::new(TableConfig {
        operator: "ledger".into(),
        shard,
        bytes_max: 256 << 20,
        range,
        ..TableConfig::default()
    })
    .unwrap()
}

/// The operator on one shard.
pub(crate) struct Ledger {
    pub(crate) pages: PageStore,
    pub(crate) counts: Table<u64, u64>,
    pub(crate) names: SlottedTable<String, String>,
    pub(crate) accounts: SlottedTable<u64, AccountV1>,
}

/// All that a ledger holds, of every shard.
#[derive(Default, PartialEq, Debug)]
pub(crate) struct Contents {
    pub(crate) counts: BTreeMap<(i64, u64), u64>,
    pub(crate) names: BTreeMap<String, (String, i64)>,
    pub(crate) accounts: BTreeMap<u64, AccountV1>,
}

impl Ledger {
    pub(crate) fn new(shard: u32, shards: u32) -> Ledger {
        let pages = pages(shard, shards);
        let counts = pages.table("counts");
        let names = pages.slotted("names");
        let accounts = pages.slotted_as("accounts", Schema::U64, AccountV1::schema());
        Ledger { pages, counts, names, accounts }
    }

    /// Puts in those of the first `keys` keys that are the shard's.
    pub(crate) fn fill(&mut self, keys: u64) {
        let range = self.pages.range();
        let ours: Vec<u64> = (0..keys).filter(|key| range.contains(SlotKey::hash64(key))).collect();
        for namespace in [PANE, GLOBAL] {
            self.counts
                .fold(namespace, ours.len(), |row| ours[row], || 0, |count, row| *count += ours[row] * 3)
                .unwrap();
        }
        for key in &ours {
            self.accounts.put(GLOBAL, key, &account(*key)).unwrap();
        }
        for key in 0..keys {
            let name = format!("name-{key}");
            if range.contains(name.hash64()) {
                self.names.put_until(GLOBAL, &name, &format!("value {key}"), expires_ms(key)).unwrap();
            }
        }
    }

    pub(crate) fn contents(&self, all: &mut Contents) {
        for namespace in self.counts.namespaces().collect::<Vec<_>>() {
            self.counts.scan(namespace, |key, count| {
                all.counts.insert((namespace.0, *key), *count);
            });
        }
        let shown = self.pages.entries(|state, entry| {
            if state.name == "names" {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let key = text(entry.key);
                let value = self.names.get(GLOBAL, &key, |value| value.to_string()).unwrap();
                all.names.insert(key, (value, entry.expires_ms));
            }
            if state.name == "accounts" {
                let key = u64::from_le_bytes(entry.key.try_into().unwrap());
                let account = self.accounts.get(GLOBAL, &key, |account| AccountV1 {
                    money: account.money.to_native(),
                    owner: account.owner.to_string(),
                    notes: account.notes.iter().map(|note| note.to_string()).collect(),
                });
                all.accounts.insert(key, account.unwrap());
            }
            Ok::<(), std::convert::Infallible>(())
        });
        shown.unwrap();
    }
}

/// What an account holds at first; those of every 50th key are longer than a page.
pub(crate) fn account(key: u64) -> AccountV1 {
    let notes = if key.is_multiple_of(50) { 900 } else { key % 3 };
    AccountV1 {
        money: key as i64 * -7,
        owner: format!("owner of {key}"),
        notes: (0..notes).map(|note| format!("note {note}")).collect(),
    }
}

pub(crate) fn expires_ms(key: u64) -> i64 {
    if key.is_multiple_of(4) { 4_000_000_000_000 + key as i64 } else { 0 }
}

/// Freezes, drains and writes one shard's pages.
pub(crate) async fn snapshot(pages: &mut PageStore, store: &Store, epoch: u64, stem: &str) -> TablePart {
    pages.freeze(Epoch(epoch));
    let mut file: Option<SnapshotFile> = None;
    loop {
        let drained = pages.drain(64 << 10);
        while let Some(chunk) = pages.take_chunk() {
            let writing = match &mut file {
                Some(writing) => writing,
                None => file.insert(SnapshotFile::create(store, &format!("epoch-{epoch}-{stem}")).await.unwrap()),
            };
            let chunk = writing.write(chunk).await.unwrap();
            pages.give_back(chunk);
        }
        if drained == Drained::Done {
            break;
        }
    }
    let file: Option<FileRef> = match file {
        Some(file) => Some(file.finish().await.unwrap()),
        None => None,
    };
    let part = TablePart {
        name: "keyed".into(),
        range: pages.range(),
        states: pages.parts(),
        files: pages.chain(file.as_ref()),
    };
    pages.confirm(file);
    part
}

pub(crate) fn manifest(epoch: u64, tables: Vec<TablePart>) -> Manifest {
    let shards = tables.len() as u32;
    let part = |(shard, table): (usize, TablePart)| {
        let ledger = OperatorPart {
            uid: "ledger".into(),
            blob: serde_json::json!({ "watermark": 17 }),
            tables: vec![table],
            committables: Vec::new(),
        };
        let sink = OperatorPart {
            uid: "sink".into(),
            blob: serde_json::Value::Null,
            tables: Vec::new(),
            committables: vec![serde_json::json!(format!("part of shard {shard}"))],
        };
        Part { shard: shard as u32, operators: vec![ledger, sink] }
    };
    Manifest {
        format_version: FORMAT_VERSION,
        job: "ledgers".into(),
        epoch: Epoch(epoch),
        created_ms: 1_700_000_000_000,
        graph_fingerprint: 1,
        graph: "ledger -> sink".into(),
        shards,
        parts: tables.into_iter().enumerate().map(part).collect(),
    }
}

/// A checkpoint of ledgers on so many shards, in two snapshots each, and what they hold.
pub(crate) fn checkpoint(store: &Store, shards: u32, keys: u64) -> (Manifest, Contents) {
    let store = store.clone();
    on_a_shard(async move {
        let (mut tables, mut contents) = (Vec::new(), Contents::default());
        for shard in 0..shards {
            let mut ledger = Ledger::new(shard, shards);
            ledger.fill(keys / 2);
            snapshot(&mut ledger.pages, &store, 1, &format!("shard-{shard}")).await;
            ledger.fill(keys);
            ledger.contents(&mut contents);
            tables.push(snapshot(&mut ledger.pages, &store, 2, &format!("shard-{shard}")).await);
        }
        let manifest = manifest(2, tables);
        store.publish(&manifest).unwrap();
        (manifest, contents)
    })
}
