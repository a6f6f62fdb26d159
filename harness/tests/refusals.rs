//! What cannot run says so in a sentence that names what is at fault and tells what to do; it neither hangs nor panics.

mod program;

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use program::{Place, SHORT, contents, json, parts, refused};

#[test]
fn nonsense_on_the_command_line() {
    let count = "expected a count such as 1500, 50k, 2.5M or 1G";
    let duration = "expected a duration such as 10s, 200ms or 1m";
    for (args, words) in [
        ("", "Usage: harness <COMMAND>"),
        ("yahoo", "unrecognized subcommand 'yahoo'"),
        ("ysb --event 5", "a similar argument exists: '--events'"),
        ("ysb --quietly", "unexpected argument '--quietly'"),
        ("ysb more", "unexpected argument 'more'"),
        ("ysb --events 5x", count),
        ("ysb --events -1", "unexpected argument '-1'"),
        ("ysb --events 0", "expected at least 1"),
        ("ysb --events", "a value is required for '--events <N>'"),
        ("ysb --rate 1e6", count),
        ("ysb --rate 0", "expected at least 1"),
        ("ysb --campaigns 5G", "expected less than 4G"),
        ("ysb --campaigns 1G --ads-per-campaign 10", "must stay below 4G"),
        ("ysb --shards 0", "expected at least 1"),
        ("ysb --cores 1-0", "expected cores such as 0,1 or 0-3"),
        ("ysb --cores 0,0", "core 0 is there twice"),
        ("ysb --duration 5", duration),
        ("ysb --duration off", duration),
        ("ysb --duration 0s", duration),
        ("ysb --duration 1s --events 5", "cannot be used with '--events <N>'"),
        ("ysb --checkpoint-interval 200", "expected a duration such as 10s, 200ms or 1m, or off"),
        ("ysb --combine maybe", "expected on or off"),
        ("ysb --encoding xml", "[possible values: long, uuid, json]"),
        ("ysb --source rain", "[possible values: generator, log]"),
        ("ysb --source log", "--source log needs --path DIR"),
        ("ysb --path /tmp", "--path goes with --source log"),
        ("ysb --sink file", "--sink file needs --out DIR"),
        ("ysb --out /tmp", "--out goes with --sink file"),
        ("ysb --source log --path /tmp --encoding long", "a log holds JSON"),
        ("ysb --source log --path /tmp --skew", "a log has its own events and disorder"),
        ("ysb --source log --path /tmp --events 5", "a log has its own events and disorder"),
        ("ysb --malformed dead-letter", "--malformed dead-letter and --dead-letters DIR go together"),
        ("ysb --dead-letters /tmp", "--malformed dead-letter and --dead-letters DIR go together"),
        ("ysb --processes 3 --shards 2", "3 processes need as many shards at least"),
        ("ysb --processes 2 --sink memory", "memory is one process's"),
        ("ysb --processes 2 --elect", "--checkpoint-dir <DIR>"),
        ("ysb --tls", "--tls goes with --processes"),
        ("ysb --processes 2 --join 127.0.0.1:1 --listen 127.0.0.1:1", "cannot be used with"),
        ("ysb --cluster /nowhere/cluster.toml", "/nowhere/cluster.toml cannot be read"),
        ("ysb --cluster env", "neither MILLSTREAM_MEMBERS nor MILLSTREAM_PROCESSES is set"),
        ("generate ysb", "--out <DIR>"),
        ("generate ysb --out /tmp/never --partitions 0", "expected at least 1"),
        ("generate nexmark", "--out <DIR>"),
        ("generate tpch --out /tmp/never", "unrecognized subcommand 'tpch'"),
        ("verify --log /tmp", "--out <DIR>"),
        ("chaos", "<JOB>"),
        ("chaos tpch", "[possible values: ysb, state, nexmark]"),
        ("chaos nexmark --query q15", "nobody would see q15 get on"),
        ("chaos nexmark --backing file --path /dev/shm", "--backing goes with state"),
        ("nexmark", "--query <Q>"),
        ("nexmark --query q6", "q6 is left out"),
        ("nexmark --query 5", "expected one of q0, q1, q2, q3, q4, q5, q7"),
        ("nexmark --query q0 --events 0", "expected at least 1"),
        ("nexmark --query q0 --out /tmp/a --parts /tmp/b", "cannot be used with"),
        ("nexmark --query q0 --out /tmp/a --checkpoint-dir /tmp/b", "cannot be used with"),
        ("nexmark --query all --out /tmp/a", "are for one query, and this is all of them"),
        ("nexmark --query q5 --compare", "there is no hand-written loop of q5: --compare goes with q0, q1, q2, q14"),
        ("chaos ysb --kills 0", "expected at least 1"),
        ("chaos state --processes 3", "--processes goes with ysb"),
        ("chaos ysb --processes 3 --shards 2", "as many shards at least"),
        ("chaos ysb --processes 3 --rescale", "leave --processes out"),
    ] {
        refused(args, 2, &[words]);
    }
}

#[test]
fn logs_that_are_none() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    fs::create_dir(place.path("other")).unwrap();
    fs::write(place.path("other/notes"), "mine").unwrap();
    fs::write(place.path("file"), "mine").unwrap();
    for (name, why) in [
        ("missing", "there is no log at"),
        ("empty", "is empty and holds no log yet"),
        ("file", "is a file, and a log is a directory"),
        ("other", "is not a log, it has no log.json"),
    ] {
        let log = place.at(name);
        let words = [log.as_str(), why, "make one with `harness generate ysb --out DIR"];
        refused(&format!("ysb --source log --path {log} --json"), 1, &words);
        refused(&format!("verify --log {log} --out {}", place.at("other")), 1, &words);
    }
    assert!(!place.path("missing").exists() && contents(&place.path("empty")).is_empty());
    json(&format!("generate ysb --out {} --events 1k --json", place.at("log")));
    let out = place.at("nowhere");
    let words = [out.as_str(), "cannot be read", "Name one that --sink file wrote"];
    refused(&format!("verify --log {} --out {out}", place.at("log")), 1, &words);
    let file = place.at("file");
    refused(
        &format!("generate ysb --out {file} --events 1k"),
        1,
        &[&file, "cannot make the log directory", "Name one that"],
    );
}

#[test]
fn directories_that_cannot_be_written() {
    let place = Place::new();
    let file = place.at("file");
    fs::write(&file, "mine").unwrap();
    let words = ["the checkpoint directory", &file, "make it writable, or name another one"];
    refused(&format!("{SHORT} --checkpoint-dir {file}"), 1, &words);
    // Not even root may make a directory in /proc.
    let words =
        ["the checkpoint directory /proc/checkpoints cannot be created", "make it writable, or name another one"];
    refused(&format!("{SHORT} --checkpoint-dir /proc/checkpoints"), 1, &words);
    let words = ["sink \"sink-", &file, "is a file, and the sink writes a directory of files", "name another path"];
    refused(&format!("{SHORT} --sink file --out {file}"), 1, &words);
    refused(&format!("{SHORT} --sink file --out /proc/out"), 1, &["/proc/out", "that this user may write"]);
    refused("generate ysb --out /proc/log --events 1k", 1, &["cannot make the log directory /proc/log"]);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[test]
fn output_of_another_run() {
    let place = Place::new();
    let args = format!("{SHORT} --sink file --out {}", place.at("out"));
    json(&args);
    let before = contents(&place.path("out"));
    let words = [&place.at("out"), "is output of another run", "name an empty directory"];
    refused(&args, 1, &words);
    assert_eq!(contents(&place.path("out")), before);
}

#[test]
fn checkpoints_that_cannot_be_believed() {
    let place = Place::new();
    let checkpoints = place.path("checkpoints");
    let args = format!("{SHORT} --sink file --out {} --checkpoint-dir {}", place.at("out"), checkpoints.display());
    json(&args);
    let whole = contents(&checkpoints);
    assert!(!whole.is_empty());
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let flipped = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        bytes
    };
    let damages: [&dyn Fn(&[u8]) -> Vec<u8>; 4] = [&|_| b"\0\xFF garbage".to_vec(), &|_| Vec::new(), &half, &flipped];
    for damage in damages {
        for (path, bytes) in &whole {
            fs::write(path, damage(bytes)).unwrap();
        }
        let damaged = contents(&checkpoints);
        let words = [
            "none of the checkpoints in",
            &place.at("checkpoints"),
            "manifest-",
            "Nothing was changed",
            "move the directory",
        ];
        refused(&args, 1, &words);
        assert_eq!(contents(&checkpoints), damaged, "a refusal changes nothing");
    }
    for (path, bytes) in &whole {
        fs::write(path, bytes).unwrap();
    }
    json(&args);
}

#[test]
fn checkpoints_of_another_graph() {
    let place = Place::new();
    let with = |more: &str| {
        format!(
            "ysb --events 50k --events-per-ms 1 --sink file --out {} --checkpoint-dir {} {more}",
            place.at("out"),
            place.at("checkpoints")
        )
    };
    json(&with("--shards 2 --json"));
    let before = contents(&place.path("checkpoints"));
    let graphs = [
        &place.at("checkpoints"),
        "does not fit this job",
        "name an empty directory to begin anew",
        "The checkpoint's graph:",
        "This job's graph:",
    ];
    refused(&with("--shards 2 --encoding uuid"), 1, &graphs);
    refused(&with("--shards 2").replace("50k", "60k"), 1, &graphs);
    refused(&with("--shards 2").replace(&place.at("out"), &place.at("other-out")), 1, &graphs);
    assert_eq!(contents(&place.path("checkpoints")), before, "a refusal changes nothing");
    // The fold before the exchange is no part of the state.
    json(&with("--shards 2 --combine off --json"));
    // Nor is the number of shards.
    let run = json(&with("--shards 3 --json"));
    assert_eq!((&run["verified"], &run["events"]), (&true.into(), &0.into()), "{run}");
    assert_eq!(run["restored"]["shards_before"], 2, "{run}");
}

#[test]
fn a_memory_sink_does_not_outlive_its_process() {
    let place = Place::new();
    let args = format!("{SHORT} --checkpoint-dir {}", place.at("checkpoints"));
    json(&args);
    refused(&args, 1, &["the memory sink no longer has", "use a file sink", "start without a checkpoint"]);
}

#[test]
fn more_than_the_machine_has() {
    let words = ["core 900 is not among those this process may use", "choose from these, or widen the cpuset"];
    refused("ysb --cores 900", 1, &words);
    let core = millstream_harness::machine::allowed_cores()[0];
    let words = ["2 shards and only 1 cores named", "name a core for each shard"];
    refused(&format!("ysb --shards 2 --cores {core}"), 1, &words);
    refused("ysb --shards 9000", 1, &["9000 shards", "1 to 4096"]);
}

/// A mounted file system of a quarter of a MiB, gone with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where it may not be mounted; the reason is printed.
    fn mount(at: PathBuf) -> Option<SmallDisk> {
        fs::create_dir(&at).expect("there is room for a directory");
        let target = CString::new(at.as_os_str().as_bytes()).expect("paths hold no zero bytes");
        // SAFETY: all are strings with their ends that live until the call returns.
        #[expect(unsafe_code, reason = "mount has no safe wrapper among our crates")]
        let mounted = unsafe {
            libc::mount(c"tmpfs".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=256k".as_ptr().cast())
        };
        if mounted != 0 {
            eprintln!("skipped: a tmpfs cannot be mounted here: {}", io::Error::last_os_error());
            return None;
        }
        Some(SmallDisk(at))
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let ballast = OpenOptions::new().create(true).append(true).open(self.0.join("ballast"));
        let full = ballast.expect("names cost nothing").write_all(&vec![0; 1 << 20]);
        assert_eq!(full.expect_err("the disk is small").kind(), io::ErrorKind::StorageFull);
    }

    /// Gives so much of the room back.
    fn make_room(&self, bytes: u64) {
        let ballast = OpenOptions::new().write(true).open(self.0.join("ballast")).expect("it was filled");
        let length = ballast.metadata().expect("it was filled").len();
        ballast.set_len(length - bytes).expect("a file can be cut");
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let target = CString::new(self.0.as_os_str().as_bytes()).expect("paths hold no zero bytes");
        // SAFETY: a string with its end that lives until the call returns.
        #[expect(unsafe_code, reason = "umount2 has no safe wrapper among our crates")]
        let _ = unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_disk_too_small_for_the_output() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(place.path("disk")) else { return };
    let out = disk.at("out");
    let args = format!("ysb --events 1M --events-per-ms 1 --sink file --out {out} --json");
    let words = ["the job failed after 3 restarts", &out, "make room or mend the disk"];
    let said = refused(&args, 1, &words);
    assert!(said.contains("no storage space") || said.contains("No space left on device"), "{said}");
    assert!(parts(&disk.0.join("out")).is_empty(), "half an output is not committed");
}

#[test]
fn a_disk_too_small_for_checkpoints() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(place.path("disk")) else { return };
    disk.fill();
    let dir = disk.at("checkpoints");
    // The store proves at its opening that it can be written to.
    let words = [dir.as_str(), "cannot be", "No space left on device", "make it writable, or name another one"];
    refused(&format!("{SHORT} --checkpoint-dir {dir}"), 1, &words);
    // Room for a proof and the first small manifests, not for the table of so many campaigns. The rate holds the run
    // until enough checkpoints in a row have failed.
    disk.make_room(16 << 10);
    let args = format!(
        "ysb --rate 500k --duration 5s --campaigns 100k --checkpoint-interval 10ms --checkpoint-dir {dir} --json"
    );
    let words =
        ["the job failed after 3 restarts", "checkpoints in a row failed", &dir, "Free space on that file system"];
    refused(&args, 1, &words);
}

#[test]
fn a_reader_that_has_gone_away() {
    // As behind `| head -1`: the exit status is the verdict all the same.
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("harness"));
    let output = command.args(SHORT.split_whitespace()).env("RUST_LOG", "error").stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), program::said(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_cause_is_told_once() {
    let place = Place::new();
    let told =
        refused(&format!("checkpoint inspect {}", place.at("nowhere")), 1, &["cannot look into", "No such file"]);
    assert_eq!(told.matches("os error 2").count(), 1, "{told}");
}
