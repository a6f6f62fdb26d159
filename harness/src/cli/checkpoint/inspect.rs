//! `harness checkpoint inspect`

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use clap::Args;
use indicatif::ProgressBar;
use millstream::Clock;
use millstream_state::{Listing, Manifest, OperatorPart, Savepoint, SavepointError, Store};
use serde_json::{Value, json};

use super::{Found, PlaceArgs, pages_of};
use crate::cli::{UsageError, Verdict};
use crate::report::{self, Report, bytes, count};

#[derive(Args, Debug)]
#[command(after_help = "\
Every checkpoint is listed, newest first, and every byte of its files is held against its checksum. Of one of them, the
newest that is sound, all state is read: per operator and shard its states with their entries, the chain of files that a
restore reads, what sinks have prepared, and positions. Exit status 1 if anything is damaged.

Examples:
  harness checkpoint inspect /var/lib/clicks/checkpoints
  harness checkpoint inspect /var/lib/clicks/checkpoints --epoch 41 --json
  harness checkpoint inspect /backup/clicks-2026-11-21       a savepoint")]
pub(super) struct InspectArgs {
    #[command(flatten)]
    place: PlaceArgs,

    /// The checkpoint whose state is read, instead of the newest
    #[arg(long, value_name = "N")]
    epoch: Option<u64>,

    /// End with one line of JSON on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &InspectArgs) -> Result<Verdict> {
    match Found::at(&args.place.place)? {
        Found::Checkpoints(store) => checkpoints(args, &store),
        Found::Savepoint(_) if args.epoch.is_some() => {
            Err(UsageError("a savepoint is of one epoch: leave --epoch out".to_owned()).into())
        }
        Found::Savepoint(savepoint) => Ok(self::savepoint(args, &savepoint)),
    }
}

/// A checkpoint and what is wrong with it.
struct Seen {
    listing: Listing,
    wrong: Vec<String>,
}

fn checkpoints(args: &InspectArgs, store: &Store) -> Result<Verdict> {
    let mut seen = prove(store, store.checkpoints()?);
    if seen.is_empty() {
        anyhow::bail!("{}: there is neither a checkpoint nor a savepoint", store.directory().display());
    }
    let chosen = match args.epoch {
        Some(epoch) => Some(seen.iter().position(|seen| seen.listing.epoch.0 == epoch).ok_or_else(|| {
            UsageError(format!("{}: there is no checkpoint of epoch {epoch}", store.directory().display()))
        })?),
        None => seen.iter().position(|seen| seen.wrong.is_empty()),
    };
    let mut operators = None;
    if let Some(chosen) = chosen
        && let Ok(manifest) = &seen[chosen].listing.manifest
    {
        match contents(store, manifest) {
            Ok(read) => operators = Some((seen[chosen].listing.epoch, read)),
            Err(error) => seen[chosen].wrong.push(crate::cli::told_once(&error)),
        }
    }
    let now_ms = Clock::system().wall_ms();
    let mut report = Report::new(format!("checkpoints in {}", store.directory().display()));
    for Seen { listing, wrong } in &seen {
        let mut line = match &listing.manifest {
            Ok(manifest) => format!(
                "{}, {} shards, {} old, {} files of {}",
                manifest.job,
                manifest.shards,
                age(now_ms - manifest.created_ms),
                count(manifest.files().count() as u64),
                bytes(manifest.files().map(|file| file.bytes).sum())
            ),
            Err(_) => "no manifest that can be believed".to_owned(),
        };
        line.push_str(if wrong.is_empty() { ", sound" } else { ", DAMAGED" });
        for wrong in wrong {
            line.push_str("\n  ");
            line.push_str(wrong);
        }
        report.line(&format!("epoch {}", listing.epoch.0), line);
    }
    report.print();
    if let Some((epoch, operators)) = &operators {
        operator_report(&format!("epoch {}", epoch.0), operators).print();
    }
    let is_sound = seen.iter().all(|seen| seen.wrong.is_empty());
    if args.json {
        let checkpoint = |Seen { listing, wrong }: &Seen| {
            let manifest = listing.manifest.as_ref().ok();
            json!({
                "epoch": listing.epoch,
                "sound": wrong.is_empty(),
                "wrong": wrong,
                "job": manifest.map(|manifest| &manifest.job),
                "shards": manifest.map(|manifest| manifest.shards),
                "created_ms": manifest.map(|manifest| manifest.created_ms),
                "age_ms": manifest.map(|manifest| now_ms - manifest.created_ms),
                "files": manifest.map(|manifest| manifest.files().count()),
                "bytes": manifest.map(|manifest| manifest.files().map(|file| file.bytes).sum::<u64>()),
                "operators": operators.as_ref().filter(|(epoch, _)| *epoch == listing.epoch).map(|(_, read)| read),
            })
        };
        report::print_json(&json!({
            "kind": "checkpoints",
            "sound": is_sound,
            "checkpoints": seen.iter().map(checkpoint).collect::<Vec<_>>(),
        }));
    }
    Ok(if is_sound { Verdict::Good } else { Verdict::Different })
}

/// Reads every file once, however many checkpoints name it.
fn prove(store: &Store, listed: Vec<Listing>) -> Vec<Seen> {
    let files = || listed.iter().filter_map(|listing| listing.manifest.as_ref().ok()).flat_map(Manifest::files);
    let distinct: HashMap<_, u64> = files().map(|file| (file.clone(), file.bytes)).collect();
    let bar = byte_bar("proving", distinct.values().sum());
    let mut wrong = HashMap::new();
    for file in distinct.into_keys() {
        if let Err(error) = store.verify(&file, |read| bar.inc(read)) {
            wrong.insert(file, error.to_string());
        }
    }
    bar.finish_and_clear();
    let seen = |listing: Listing| {
        let wrong = match &listing.manifest {
            Err(why) => vec![format!("{}: {why}", listing.path.display())],
            Ok(manifest) => manifest.files().filter_map(|file| wrong.get(file).cloned()).collect(),
        };
        Seen { listing, wrong }
    };
    listed.into_iter().map(seen).collect()
}

/// All that a checkpoint holds, operator by operator and shard by shard.
fn contents(store: &Store, manifest: &Manifest) -> Result<Vec<Value>> {
    let parts =
        manifest.parts.iter().flat_map(|part| part.operators.iter().map(move |operator| (part.shard, operator)));
    let parts: Vec<(u32, &OperatorPart)> = parts.collect();
    let bar = report::progress("reading", parts.len() as u64);
    let mut operators = Vec::new();
    for (shard, operator) in parts {
        let (mut states, mut live_bytes) = (BTreeMap::new(), 0);
        for table in &operator.tables {
            let pages = pages_of(store, &operator.uid, shard, table)?;
            live_bytes += pages.bytes().live as u64;
            for state in &table.states {
                states.insert(state.name.clone(), (state.key.to_string(), state.value.to_string(), 0u64, 0u64));
            }
            let all = pages.entries(|state, entry| {
                if let Some((.., entries, bytes)) = states.get_mut(&state.name) {
                    *entries += 1;
                    *bytes += (entry.key.len() + entry.value.len()) as u64;
                }
                Ok::<(), std::convert::Infallible>(())
            });
            let Ok(()) = all;
        }
        let files = operator.tables.iter().flat_map(|table| &table.files);
        let chain_bytes: u64 = files.clone().map(|file| file.bytes).sum();
        operators.push(json!({
            "uid": operator.uid,
            "shard": shard,
            "states": states.into_iter().map(state_json).collect::<Vec<_>>(),
            "chain_files": files.count(),
            "chain_bytes": chain_bytes,
            "live_bytes": live_bytes,
            "committables": operator.committables.len(),
            "kept": operator.blob,
        }));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(operators)
}

fn state_json((name, (key, value, entries, bytes)): (String, (String, String, u64, u64))) -> Value {
    json!({ "name": name, "key": key, "value": value, "entries": entries, "bytes": bytes })
}

fn savepoint(args: &InspectArgs, savepoint: &Savepoint) -> Verdict {
    let manifest = savepoint.manifest();
    let bar = byte_bar("proving", manifest.files().map(|file| file.bytes).sum());
    let (mut wrong, mut operators) = (Vec::new(), Vec::new());
    for operator in &manifest.operators {
        let mut bytes_of: BTreeMap<&str, u64> = BTreeMap::new();
        for file in &operator.files {
            let proven = savepoint.entries(operator, file, |saved| {
                let bytes = saved.entry.key.len() + saved.entry.value.len();
                *bytes_of.entry(&operator.states[saved.number].name).or_default() += bytes as u64;
                Ok::<(), SavepointError>(())
            });
            wrong.extend(proven.err().map(|error| error.to_string()));
            bar.inc(file.bytes);
        }
        let states = operator.states.iter().map(|state| {
            let bytes = bytes_of.get(&*state.name).copied().unwrap_or(0);
            state_json((state.name.clone(), (state.key.to_string(), state.value.to_string(), state.entries, bytes)))
        });
        let kept: Vec<_> = operator.parts.iter().map(|part| &part.blob).collect();
        operators.push(json!({
            "uid": operator.uid,
            "shard": null,
            "states": states.collect::<Vec<_>>(),
            "files": operator.files.len(),
            "bytes": operator.files.iter().map(|file| file.bytes).sum::<u64>(),
            "committables": operator.parts.iter().map(|part| part.committables.len()).sum::<usize>(),
            "kept": kept,
        }));
    }
    bar.finish_and_clear();
    let now_ms = Clock::system().wall_ms();
    let mut report = Report::new(format!("savepoint {}", savepoint.place().display()));
    report.line("job", format!("{}, {} shards", manifest.job, manifest.shards));
    report.line("epoch", format!("{}, {} old", manifest.epoch.0, age(now_ms - manifest.created_ms)));
    report.line("format", format!("version {}", manifest.savepoint_version));
    let sound = if wrong.is_empty() { "sound".to_owned() } else { format!("DAMAGED\n{}", wrong.join("\n")) };
    report.line("state", sound);
    report.print();
    operator_report("operators", &operators).print();
    if args.json {
        report::print_json(&json!({
            "kind": "savepoint",
            "sound": wrong.is_empty(),
            "wrong": wrong,
            "job": manifest.job,
            "epoch": manifest.epoch,
            "shards": manifest.shards,
            "created_ms": manifest.created_ms,
            "age_ms": now_ms - manifest.created_ms,
            "operators": operators,
        }));
    }
    if wrong.is_empty() { Verdict::Good } else { Verdict::Different }
}

fn operator_report(title: &str, operators: &[Value]) -> Report {
    let mut report = Report::new(title);
    for operator in operators {
        let number = |name: &str| operator[name].as_u64().unwrap_or(0);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut lines = Vec::new();
        for state in operator["states"].as_array().into_iter().flatten() {
            lines.push(format!(
                "{}: {} -> {}, {} entries of {}",
                text(&state["name"]),
                text(&state["key"]),
                text(&state["value"]),
                count(state["entries"].as_u64().unwrap_or(0)),
                bytes(state["bytes"].as_u64().unwrap_or(0))
            ));
        }
        if number("live_bytes") > 0 {
            lines.push(format!(
                "chain of {} files, {}: {:.2} x the {} of live pages",
                number("chain_files"),
                bytes(number("chain_bytes")),
                number("chain_bytes") as f64 / number("live_bytes") as f64,
                bytes(number("live_bytes"))
            ));
        }
        if number("committables") > 0 {
            lines.push(format!("{} prepared, to be committed again by a restore", number("committables")));
        }
        if !operator["kept"].is_null() {
            lines.push(operator["kept"].to_string());
        }
        let shard = operator["shard"].as_u64().map_or(String::new(), |shard| format!(" on shard {shard}"));
        report.line(&format!("{}{shard}", text(&operator["uid"])), lines.join("\n"));
    }
    report
}

/// Shows on a terminal's stderr how many bytes are done.
fn byte_bar(doing: &str, total: u64) -> ProgressBar {
    report::progress(doing, total)
}

fn age(ms: i64) -> String {
    let seconds = u64::try_from(ms / 1000).unwrap_or(0);
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}
