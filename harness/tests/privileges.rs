//! The program where it may do little: as an ordinary user, without memory to lock, and in a sandbox that forbids
//! io_uring.

mod program;

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use program::{Place, SHORT, TIMEOUT, last_line, refused_by};

/// An ordinary user, who owns nothing.
const NOBODY: u32 = 65_534;

/// Somebody who is not root, with a home to write in and the program where it can be reached.
struct Ordinary(Place);

impl Ordinary {
    /// None where this process may not become somebody else; the reason is printed.
    fn user() -> Option<Ordinary> {
        // SAFETY: the call takes nothing, changes nothing and cannot fail.
        #[expect(unsafe_code, reason = "geteuid has no safe wrapper among our crates")]
        let is_root = unsafe { libc::geteuid() } == 0;
        if !is_root {
            eprintln!("skipped: only root can run the program as an ordinary user");
            return None;
        }
        let place = Place::new();
        let (program, home) = (place.path("harness"), place.path("home"));
        let made = fs::create_dir(&home)
            .and_then(|()| chown(&home, Some(NOBODY), Some(NOBODY)))
            .and_then(|()| fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)));
        made.expect("root can make a home");
        // Another process copies it: were the copy open for writing here, a child that another test forks meanwhile
        // would hold it open too, and a file that is open for writing cannot be executed (ETXTBSY).
        let copied = std::process::Command::new("install").arg("-m755").args([cargo_bin("harness"), program]).status();
        assert!(copied.expect("there is install").success());
        Some(Ordinary(place))
    }

    /// The user's own directory.
    fn home(&self) -> PathBuf {
        self.0.path("home")
    }

    /// A path that the user may look at and not write to.
    fn foreign(&self, name: &str) -> String {
        self.0.at(name)
    }

    /// The program, run by the user; `first` is the last thing done before it starts.
    fn harness(&self, args: &str, first: Option<fn() -> io::Result<()>>) -> Command {
        let mut command = std::process::Command::new(self.0.path("harness"));
        command.args(args.split_whitespace()).env("RUST_LOG", "error").env("TMPDIR", self.home());
        command.current_dir(self.home());
        command.uid(NOBODY).gid(NOBODY);
        before_start(&mut command, first);
        let mut command = Command::from_std(command);
        command.timeout(TIMEOUT);
        command
    }
}

/// Has the child do `first`, which only makes system calls, before it becomes the program.
fn before_start(command: &mut std::process::Command, first: Option<fn() -> io::Result<()>>) {
    let Some(first) = first else { return };
    // SAFETY: between fork and exec only system calls are allowed, and callers give functions of nothing else.
    #[expect(unsafe_code, reason = "what runs between fork and exec is the caller's to answer for")]
    unsafe {
        command.pre_exec(first);
    }
}

#[test]
fn an_ordinary_user_can_do_it_all_where_they_may_write() {
    let Some(user) = Ordinary::user() else { return };
    let run = |args: &str| {
        let output = user.harness(args, None).assert().success().stderr("").get_output().stdout.clone();
        last_line(&String::from_utf8(output).unwrap())
    };
    assert_eq!(run(SHORT)["verified"], true);
    let home = user.home().display().to_string();
    run(&format!("generate ysb --out {home}/log --events 20k --events-per-ms 1 --json"));
    let args = format!("ysb --source log --path {home}/log --sink file --out {home}/out --json");
    assert_eq!(run(&format!("{args} --checkpoint-dir {home}/checkpoints"))["verified"], true);
    assert_eq!(run(&format!("verify --log {home}/log --out {home}/out --json"))["verified"], true);

    let foreign = user.foreign("not-mine");
    let words = ["the checkpoint directory", &foreign, "Permission denied", "make it writable, or name another one"];
    refused_by(&mut user.harness(&format!("{SHORT} --checkpoint-dir {foreign}"), None), 1, &words);
    let words = [&foreign, "Permission denied", "name an output directory that this user may write"];
    refused_by(&mut user.harness(&format!("{SHORT} --sink file --out {foreign}"), None), 1, &words);
    let mut nowhere = user.harness(SHORT, None);
    refused_by(nowhere.env("TMPDIR", &foreign), 1, &["no temporary directory for checkpoints", "--checkpoint-dir"]);
}

/// The process may lock no memory.
fn lock_nothing() -> io::Result<()> {
    let nothing = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives until the call returns.
    #[expect(unsafe_code, reason = "setrlimit has no safe wrapper among our crates")]
    let answer = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &nothing) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn too_little_memory_to_lock() {
    let Some(user) = Ordinary::user() else { return };
    let words = ["may lock 0 bytes of memory", "a shard needs", "ulimit -l", "LimitMEMLOCK=", "limits.conf"];
    refused_by(&mut user.harness(SHORT, Some(lock_nothing)), 1, &words);
}

/// From here on, io_uring_setup answers EPERM, as under a container's default profile.
#[cfg(target_arch = "x86_64")]
fn forbid_io_uring() -> io::Result<()> {
    const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
    // Where `struct seccomp_data` keeps the call's number and the architecture.
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let line = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut lines = [
        line(load, ARCH, 0, 0),
        line(equal, AUDIT_ARCH_X86_64, 0, 3),
        line(load, NUMBER, 0, 0),
        line(equal, libc::SYS_io_uring_setup as u32, 0, 1),
        line(answer, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        line(answer, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog { len: lines.len() as u16, filter: lines.as_mut_ptr() };
    // SAFETY: the filter and its lines live until the calls return, which take nothing else by reference.
    #[expect(unsafe_code, reason = "prctl has no safe wrapper among our crates")]
    let forbidden = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    if forbidden { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn io_uring_that_a_sandbox_forbids() {
    let start = |args: &str| {
        let mut command = std::process::Command::new(cargo_bin("harness"));
        command.args(args.split_whitespace()).env("RUST_LOG", "error");
        before_start(&mut command, Some(forbid_io_uring));
        let mut command = Command::from_std(command);
        command.timeout(TIMEOUT);
        command
    };
    let words =
        ["io_uring is forbidden to this process", "seccomp", "io_uring_setup, io_uring_enter and io_uring_register"];
    let said = refused_by(&mut start(SHORT), 1, &words);
    assert!(said.len() < 1_000, "one paragraph: {said}");
    refused_by(&mut start("ysb --shards 2 --events 50k --sink null"), 1, &words);
    // What needs no io_uring does not ask for it.
    let place = Place::new();
    start(&format!("generate ysb --out {} --events 1k", place.at("log"))).assert().success();
    start("limit --shards 1 --events 10k").assert().success();
}
