//! Revenue of each shop, exactly once, whatever happens: `cargo run -p millstream-examples --bin sales -- DIR`
//!
//! ```text
//! DIR/sales, a log ─▶ parse ─▶ key by shop ─▶ windows of 100 ms ─▶ sum ─▶ DIR/out/part-*    checkpoints in DIR/checkpoints
//! ```
//!
//! Three quarters through, an operator panics, and the job restarts from its last checkpoint. Press Ctrl-C or `kill -9` it,
//! and the next start with the same DIR does the same. `DIR/out` then holds what an undisturbed run would have written.
#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use millstream::{Job, OnError, Sum, Text, Timestamp, Tumbling, Watermarks, Windowed};
use millstream_connectors::file::FileSink;
use millstream_connectors::log::{LogSource, LogWriter};

type Sale = (Text<16>, i64, u64); // shop, time in ms, price in cents

/// Two seconds of trade, fifteen hundred sales a millisecond, as the shops note them.
fn notes() -> impl Iterator<Item = String> {
    let shop = |i| ["bakery", "book shop", "florist"][i as usize % 3];
    (0..3_000_000u64).map(move |i| format!("{},{},{}", shop(i), i / 1500, 100 + i * 37 % 900))
}

fn parse(note: &[u8]) -> anyhow::Result<Sale> {
    static HAS_JAMMED: AtomicBool = AtomicBool::new(false);
    let mut fields = std::str::from_utf8(note)?.split(',');
    let mut field = || fields.next().context("a sale has three fields: shop, time, price");
    let sale = (field()?.parse()?, field()?.parse()?, field()?.parse()?);
    if sale.1 == 1500 && !HAS_JAMMED.swap(true, Ordering::Relaxed) {
        panic!("the till is jammed"); // a bug that shows itself once
    }
    Ok(sale)
}

/// Makes the log; once it has its name it is whole.
fn write_log(log: &Path) -> anyhow::Result<()> {
    let unfinished = log.with_extension("unfinished");
    let _ = fs::remove_dir_all(&unfinished); // mostly there is none; if one stays, the next line says so
    let mut writer = LogWriter::create(&unfinished, 2)?;
    for (i, note) in notes().enumerate() {
        writer.append(i as u32 % 2, note.as_bytes())?;
    }
    writer.sync()?;
    Ok(fs::rename(&unfinished, log)?)
}

/// Adds the last column of a line to the sum of its first.
fn add_up(line: &str, revenue: &mut BTreeMap<String, u64>) -> anyhow::Result<()> {
    let fields: Vec<&str> = line.split(',').collect();
    *revenue.entry(fields[0].to_owned()).or_default() += fields[fields.len() - 1].parse::<u64>()?;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).context("say where to work: sales DIR")?);
    let (log, out, sink_dir) = (dir.join("sales"), dir.join("out"), dir.join("out"));
    fs::create_dir_all(&dir)?;
    if !log.exists() {
        write_log(&log)?;
    }
    let report = Job::new("sales", move |flow| {
        flow.source(LogSource::new(&log))
            .try_map(parse, OnError::Fail)
            .named("till")
            .event_time(|sale| Timestamp(sale.1), Watermarks::monotonic())
            .key_by(|sale| sale.0)
            .window(Tumbling::of(Duration::from_millis(100)))
            .aggregate(Sum::of(|sale: &Sale| sale.2))
            .sink(FileSink::lines(&sink_dir, |row: &Windowed<Text<16>, u64>, line: &mut Vec<u8>| {
                line.extend_from_slice(format!("{},{}", row.key, row.value).as_bytes());
            }));
    })
    .shards(2)
    .checkpoints(dir.join("checkpoints"), Duration::from_millis(10))
    .run()?;
    report.restarts.iter().for_each(|why| println!("restarted, because {why}"));
    println!("the last start went on behind epoch {}\n{report}", report.restored_epoch);
    if report.stopped {
        return Ok(());
    }

    let (mut revenue, mut expected) = (BTreeMap::new(), BTreeMap::new());
    for part in fs::read_dir(out)? {
        let part = part?.path();
        if part.is_file() {
            fs::read_to_string(part)?.lines().try_for_each(|line| add_up(line, &mut revenue))?;
        }
    }
    notes().try_for_each(|note| add_up(&note, &mut expected))?;
    revenue.iter().for_each(|(shop, cents)| println!("{shop:<10} {:>12.2}", *cents as f64 / 100.0));
    ensure!(revenue == expected, "something was lost or counted twice: it should be {expected:?}");
    println!("exactly what was sold");
    Ok(())
}
