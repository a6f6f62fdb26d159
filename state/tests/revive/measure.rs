//! How long a gigabyte takes: by hand, in the release profile, `cargo test --release -p millstream-state --test revive
//! measure::a_gigabyte -- --ignored --nocapture`.

#![expect(clippy::print_stdout, reason = "what was measured is for who started it")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use millstream_state::{
    Backing, Chunk, Drained, Epoch, FileRef, HashRange, Namespace, PageStore, Store, Table, TableConfig, TablePart,
};

use crate::world::shared_memory;

const ROOM: &str = "MILLSTREAM_MEASURE_ROOM";
const SHARDS: &str = "MILLSTREAM_MEASURE_SHARDS";
/// Entries of 16 bytes whose pages are a gigabyte.
const ENTRIES: u64 = 48_000_000;

fn config(room: &Path, shard: u32, shards: u32) -> TableConfig {
    TableConfig {
        operator: "large".into(),
        shard,
        bytes_max: 4 << 30,
        range: HashRange::of_shard(shard, shards),
        backing: Backing::File(room.join("segments")),
    }
}

fn write_all(room: &Path, name: &str, keyed: &mut PageStore) -> FileRef {
    use std::io::Write;
    let mut file = std::fs::File::create(room.join("checkpoints").join(name)).unwrap();
    let (mut bytes, mut crc32c) = (0, 0);
    let mut write = |chunk: &Chunk| {
        file.write_all(chunk.bytes()).unwrap();
        bytes += chunk.bytes().len() as u64;
        crc32c = crc32c::crc32c_append(crc32c, &chunk.bytes()[12..16]);
    };
    loop {
        let drained = keyed.drain(1 << 20);
        while let Some(chunk) = keyed.take_chunk() {
            write(&chunk);
            keyed.give_back(chunk);
        }
        if drained == Drained::Done {
            return FileRef { name: name.into(), bytes, crc32c };
        }
    }
}

fn told(part: &TablePart) -> Vec<u8> {
    serde_json::to_vec(part).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn now() -> Instant {
    Instant::now()
}

/// One shard of the process that is killed, or of its successor.
fn shard(room: &Path, shard: u32, shards: u32) {
    let began = now();
    let mut keyed = PageStore::new(config(room, shard, shards)).unwrap();
    let mut table: Table<u64, u64> = keyed.table("counts");
    let mine = |key: &u64| HashRange::of_shard(shard, shards).contains(millstream_state::Key::hash64(key));
    let part = room.join(format!("part-{shard}"));
    if let Ok(part) = std::fs::read(&part) {
        let part: TablePart = serde_json::from_slice(&part).unwrap();
        let store = Store::open(room.join("checkpoints")).unwrap();
        let restored = keyed.restore(&store, &[part]).unwrap();
        let first = (1..).find(mine).unwrap();
        table.fold(Namespace(0), 1, |_| first, || 0, |count, _| *count += 1).unwrap();
        println!("restored {shard}: {} ms: {restored:?}", began.elapsed().as_millis());
        // What a second at full rate changes: every page.
        change(&mut table, &(1..ENTRIES + 1).filter(mine).collect::<Vec<u64>>(), 4_800_000 / shards as usize);
        return wait_for_the_kill();
    }
    let keys: Vec<u64> = (1..ENTRIES + 1).filter(mine).collect();
    let began = now();
    table.fold(Namespace(0), keys.len(), |row| keys[row], || 0, |count, _| *count += 1).unwrap();
    println!("shard {shard}: filled in {} ms", began.elapsed().as_millis());
    keyed.freeze(Epoch(1));
    let file = write_all(room, &format!("{shard}-1.snap"), &mut keyed);
    let files = keyed.chain(Some(&file));
    keyed.confirm(Some(file));
    let told = told(&TablePart { name: "k".into(), range: keyed.range(), states: keyed.parts(), files });
    // What a second at 100,000 updates changes: a third of the pages.
    change(&mut table, &keys, 100_000 / shards as usize);
    std::fs::write(part, told).unwrap();
    wait_for_the_kill();
}

fn change(table: &mut Table<u64, u64>, keys: &[u64], updates: usize) {
    let began = now();
    let key = |row: usize| keys[row.wrapping_mul(2_654_435_761) % keys.len()];
    table.fold(Namespace(0), updates, key, || 0, |count, _| *count += 1).unwrap();
    println!("{updates} updates, each page copied at its first, in {} ms", began.elapsed().as_millis());
}

fn wait_for_the_kill() {
    println!("ready");
    loop {
        std::thread::park();
    }
}

/// Not a measurement by itself: the processes of the one below.
#[test]
#[ignore = "the measurement below starts it"]
fn child() {
    let (Ok(room), Ok(shards)) = (std::env::var(ROOM), std::env::var(SHARDS)) else { return };
    let shards: u32 = shards.parse().unwrap();
    std::thread::scope(|scope| {
        for number in 0..shards {
            let room = Path::new(&room);
            std::thread::Builder::new().spawn_scoped(scope, move || shard(room, number, shards)).unwrap();
        }
    });
}

#[test]
#[ignore = "takes a minute and two gigabytes: by hand"]
fn a_gigabyte() {
    for shards in [1, 2] {
        let room = shared_memory();
        std::fs::create_dir(room.path().join("checkpoints")).unwrap();
        let start = || {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "measure::child", "--ignored", "--nocapture"]);
            command.env(ROOM, room.path()).env(SHARDS, shards.to_string()).stdout(Stdio::piped());
            command.spawn().unwrap()
        };
        let mut child = start();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let await_all = |said: &mut dyn Iterator<Item = std::io::Result<String>>, what: &str| {
            let mut seen = 0;
            while seen < shards {
                let line = said.next().unwrap().unwrap();
                println!("{line}");
                seen += u32::from(line.starts_with(what));
            }
        };
        await_all(&mut said, "ready");
        for _ in 0..3 {
            let killed = now();
            child.kill().unwrap();
            child.wait().unwrap();
            let gone = killed.elapsed().as_millis();
            child = start();
            said = BufReader::new(child.stdout.take().unwrap()).lines();
            await_all(&mut said, "restored");
            println!(
                "{shards} shards: kill to first result {} ms, {gone} to the process's end",
                killed.elapsed().as_millis()
            );
            await_all(&mut said, "ready");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
