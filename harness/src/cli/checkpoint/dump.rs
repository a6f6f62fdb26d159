//! `harness checkpoint dump`

use std::io::{self, BufWriter, Write};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use millstream_state::schema::{Reader, Schema, Value};
use millstream_state::{EntryBytes, HashRange, Manifest, Savepoint, SavepointError, Store};
use serde_json::json;

use super::{Found, PlaceArgs, choose, pages_of};
use crate::cli::{UsageError, Verdict};

#[derive(Args, Debug)]
#[command(after_help = "\
A line per entry, in no order:
  {\"namespace\":0,\"key\":7,\"value\":{\"cents\":35},\"expires_ms\":null,\"shard\":1}
Values are read by the schema that the checkpoint keeps of them, without the job. What is not described by one is shown
in hexadecimal, with a note on stderr.

Examples:
  harness checkpoint dump /var/lib/clicks/checkpoints --operator per-page --state panes --limit 10
  harness checkpoint dump /backup/clicks --operator per-page --state panes | jq -s 'length'")]
pub(super) struct DumpArgs {
    #[command(flatten)]
    place: PlaceArgs,

    /// The operator's name
    #[arg(long, value_name = "U")]
    operator: String,

    /// The state's name
    #[arg(long, value_name = "S")]
    state: String,

    /// The checkpoint of that epoch, instead of the newest
    #[arg(long, value_name = "N")]
    epoch: Option<u64>,

    /// Stop after so many entries
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// Why writing ends before the last entry.
enum Stop {
    /// Enough was written, or whoever read stdout has gone.
    Enough,
    Error(anyhow::Error),
}

impl From<SavepointError> for Stop {
    fn from(error: SavepointError) -> Stop {
        Stop::Error(error.into())
    }
}

pub(super) fn run(args: &DumpArgs) -> Result<Verdict> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match Found::at(&args.place.place)? {
        Found::Checkpoints(store) => of_checkpoint(args, &store, &choose(&store, args.epoch)?, &mut out),
        Found::Savepoint(_) if args.epoch.is_some() => {
            Err(Stop::Error(UsageError("a savepoint is of one epoch: leave --epoch out".to_owned()).into()))
        }
        Found::Savepoint(savepoint) => of_savepoint(args, &savepoint, &mut out),
    };
    // Whoever closed stdout does not want to know.
    let _ = out.flush();
    match written {
        Ok(()) | Err(Stop::Enough) => Ok(Verdict::Good),
        Err(Stop::Error(error)) => Err(error),
    }
}

fn of_checkpoint(args: &DumpArgs, store: &Store, manifest: &Manifest, out: &mut impl Write) -> Result<(), Stop> {
    let operators = || manifest.parts.iter().flat_map(|part| part.operators.iter().map(move |own| (part.shard, own)));
    let all = operators().flat_map(|(_, operator)| {
        let states = operator.tables.iter().flat_map(|table| &table.states);
        states.map(|state| (&*operator.uid, &*state.name))
    });
    known(args, all).map_err(Stop::Error)?;
    let mut written = 0;
    for (shard, operator) in operators().filter(|(_, operator)| operator.uid == args.operator) {
        for table in &operator.tables {
            let Some(state) = table.states.iter().find(|state| state.name == args.state) else { continue };
            let lines = Lines::new(&state.key, &state.value, written == 0).map_err(Stop::Error)?;
            let pages = pages_of(store, &operator.uid, shard, table).map_err(Stop::Error)?;
            pages.entries(|of, entry| {
                if of.name == args.state {
                    lines.write(out, entry, Some(shard), &mut written, args.limit)
                } else {
                    Ok(())
                }
            })?;
        }
    }
    Ok(())
}

fn of_savepoint(args: &DumpArgs, savepoint: &Savepoint, out: &mut impl Write) -> Result<(), Stop> {
    let manifest = savepoint.manifest();
    let all = manifest
        .operators
        .iter()
        .flat_map(|operator| operator.states.iter().map(|state| (&*operator.uid, &*state.name)));
    known(args, all).map_err(Stop::Error)?;
    let mut written = 0;
    for operator in manifest.operators.iter().filter(|operator| operator.uid == args.operator) {
        let lines = |state: &millstream_state::SavedState| -> Result<Option<Lines>> {
            let is_wanted = state.name == args.state;
            is_wanted.then(|| Lines::new(&state.key, &state.value, true)).transpose()
        };
        let lines = operator.states.iter().map(lines).collect::<Result<Vec<_>>>().map_err(Stop::Error)?;
        for file in &operator.files {
            let is_of = |shard: &u32| HashRange::of_shard(*shard, manifest.shards) == file.range;
            let shard = (0..manifest.shards).find(is_of);
            savepoint.entries(operator, file, |saved| match &lines[saved.number] {
                Some(lines) => lines.write(out, saved.entry, shard, &mut written, args.limit),
                None => Ok(()),
            })?;
        }
    }
    Ok(())
}

/// Says what there is, where the operator or the state is not.
fn known<'a>(args: &DumpArgs, all: impl Iterator<Item = (&'a str, &'a str)>) -> Result<()> {
    let mut all: Vec<(&str, &str)> = all.collect();
    all.sort_unstable();
    all.dedup();
    if all.contains(&(&*args.operator, &*args.state)) {
        return Ok(());
    }
    let listed: Vec<String> = all.iter().map(|(uid, state)| format!("--operator {uid} --state {state}")).collect();
    let there = if listed.is_empty() { "no operator keeps keyed state".to_owned() } else { listed.join("; ") };
    if all.iter().any(|(uid, _)| *uid == args.operator) {
        bail!("operator '{}' has no state '{}' there; there is: {there}", args.operator, args.state);
    }
    bail!("there is no operator '{}' that keeps keyed state; there is: {there}", args.operator);
}

/// Turns entries of one state into lines.
struct Lines {
    key: How,
    value: How,
}

/// How bytes are shown.
enum How {
    Read(Reader),
    Text,
    Hex,
}

impl How {
    fn new(schema: &Schema, what: &str, is_first: bool) -> Result<How> {
        Ok(match schema {
            // A state of strings whose type's name is all that is known of it keeps the text itself.
            Schema::Opaque { name, .. } if name == "String" && what == "keys" => How::Text,
            Schema::Opaque { name, .. } => {
                if is_first {
                    // A terminal that has gone away is nobody to complain to.
                    let _ = writeln!(
                        io::stderr(),
                        "note: of the {what}, only the type's name is known, {name}: they are shown in hexadecimal"
                    );
                }
                How::Hex
            }
            schema => How::Read(Reader::new(schema).with_context(|| format!("the schema of the {what}"))?),
        })
    }
}

impl Lines {
    fn new(key: &Schema, value: &Schema, is_first: bool) -> Result<Lines> {
        Ok(Lines { key: How::new(key, "keys", is_first)?, value: How::new(value, "values", is_first)? })
    }

    fn write(
        &self,
        out: &mut impl Write,
        entry: EntryBytes<'_>,
        shard: Option<u32>,
        written: &mut u64,
        limit: Option<u64>,
    ) -> Result<(), Stop> {
        if limit.is_some_and(|limit| *written >= limit) {
            return Err(Stop::Enough);
        }
        let hex = |bytes: &[u8]| Value::Opaque(bytes.to_vec());
        let key = match &self.key {
            How::Read(reader) => reader.read_key(entry.key).context("a key").map_err(Stop::Error)?,
            How::Text => Value::Text(String::from_utf8_lossy(entry.key).into_owned()),
            How::Hex => hex(entry.key),
        };
        let value = match &self.value {
            How::Read(reader) => {
                let read = reader.read_whole(entry.value);
                read.with_context(|| format!("the value of key {key}")).map_err(Stop::Error)?
            }
            How::Text | How::Hex => hex(entry.value),
        };
        let expires_ms = (entry.expires_ms != 0).then_some(entry.expires_ms);
        // Fields in the order in which people read them, which a map would not keep.
        let line = format!(
            "{{\"namespace\":{},\"key\":{key},\"value\":{value},\"expires_ms\":{},\"shard\":{}}}",
            entry.namespace,
            json!(expires_ms),
            json!(shard)
        );
        writeln!(out, "{line}").map_err(|_| Stop::Enough)?;
        *written += 1;
        Ok(())
    }
}
