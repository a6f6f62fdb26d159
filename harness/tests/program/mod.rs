//! The program as a script meets it: arguments in, exit status, last line and stderr out.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::TempDir;

/// Only a hang reaches it.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A run that is over in a moment.
pub(crate) const SHORT: &str = "ysb --shards 1 --events 50k --events-per-ms 1 --json";

/// The program with these arguments, which hold no spaces. It warns of nothing that a busy machine brings.
pub(crate) fn harness(args: &str) -> Command {
    let mut command = Command::new(cargo_bin("harness"));
    command.args(args.split_whitespace()).env("RUST_LOG", "error").timeout(TIMEOUT);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the program writes UTF-8")
}

/// What it says for people. Nothing is on stderr, for nobody watches.
#[track_caller]
pub(crate) fn report(args: &str) -> String {
    text(&harness(args).assert().success().stderr("").get_output().stdout)
}

/// The last line of stdout, of a run that is done and verified.
#[track_caller]
pub(crate) fn json(args: &str) -> Value {
    last_line(&report(args))
}

/// The last line as JSON.
#[track_caller]
pub(crate) fn last_line(stdout: &str) -> Value {
    let line = stdout.lines().last().expect("there is a last line");
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// It exits with `code` and says all of these words on stderr.
#[track_caller]
pub(crate) fn refused(args: &str, code: i32, words: &[&str]) -> String {
    refused_by(&mut harness(args), code, words)
}

/// As [`refused`], of a command made elsewhere.
#[track_caller]
pub(crate) fn refused_by(command: &mut Command, code: i32, words: &[&str]) -> String {
    let output = command.output().expect("the program starts");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    assert_eq!(text(&output.stdout), "", "a refusal leaves stdout alone: {command:?}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing: {command:?}: {said}");
    }
    assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{command:?}: {said}");
    said
}

/// Stderr, with its line breaks taken out.
pub(crate) fn said(output: &Output) -> String {
    text(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How many shards can be had where each needs a core of its own.
pub(crate) fn shards_up_to_two() -> std::ops::RangeInclusive<u32> {
    let enough = millstream_harness::machine::allowed_cores().len() >= 2;
    if !enough {
        eprintln!("skipped: two shards need two cores");
    }
    1..=if enough { 2 } else { 1 }
}

/// A directory that is gone with the value.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::Builder::new().prefix("harness-test-").tempdir().expect("there is room for a directory");
        Place(dir)
    }

    /// A path in it, as text.
    pub(crate) fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }
}

/// The files of a directory with their bytes, by name.
pub(crate) fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(dir).expect("the directory can be listed");
    let paths = entries.map(|entry| entry.expect("so can its entries").path()).filter(|path| path.is_file());
    let mut files: Vec<_> = paths.map(|path| (path.clone(), fs::read(&path).expect("files can be read"))).collect();
    files.sort_unstable();
    files
}

/// The files that a file sink has committed, without the empty ones.
pub(crate) fn parts(out: &Path) -> Vec<PathBuf> {
    let files = contents(out).into_iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(path, _)| path);
    files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-"))).collect()
}
