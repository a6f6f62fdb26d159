//! A disk that is full fails checkpoints and not the job, for a while; and whatever then happens, nothing is lost.
//!
//! The disk is a tmpfs of one MiB, which only root may mount; anybody else is told that the tests were skipped.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on should stop, and one that was skipped say so"
)]

#[path = "jobs/sales/mod.rs"]
mod sales;

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream::{Clock, Job, JobError, RestartStrategy};
use sales::{Place, Sales, assert_same, job, oracle};

const SALES: u64 = 60_000;

/// A mounted file system of one MiB, gone with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where it may not be mounted; the reason is printed.
    fn mount(at: PathBuf) -> Option<SmallDisk> {
        fs::create_dir(&at).unwrap();
        let target = CString::new(at.as_os_str().as_bytes()).unwrap();
        // SAFETY: all four are strings with their ends that live until the call returns.
        #[expect(unsafe_code, reason = "mount has no safe wrapper among our crates")]
        let mounted = unsafe {
            libc::mount(c"tmpfs".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=1m".as_ptr().cast())
        };
        if mounted != 0 {
            println!("skipped: a tmpfs cannot be mounted here: {}", io::Error::last_os_error());
            return None;
        }
        Some(SmallDisk(at))
    }

    /// Takes all the room there is, also what the deletion of old checkpoints has made since the last time.
    fn fill(&self) {
        let mut ballast = OpenOptions::new().create(true).append(true).open(self.ballast()).unwrap();
        let full = ballast.write_all(&vec![0; 2 << 20]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let target = CString::new(self.0.as_os_str().as_bytes()).unwrap();
        // SAFETY: a string with its end that lives until the call returns.
        #[expect(unsafe_code, reason = "umount2 has no safe wrapper among our crates")]
        let _ = unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

fn on(disk: &Path, place: &Place, source: &Sales, tolerable: u32) -> Job {
    job(source.clone(), &place.out(), |_| {}, |_| {})
        .shards(2)
        .checkpoints(disk.join("checkpoints"), Duration::from_millis(10))
        .restart(RestartStrategy { initial: Duration::from_millis(1), max: Duration::from_millis(1), attempts: 2 })
        .configure(|config| config.tolerable_failures = tolerable)
}

/// Sales whose second half has not come yet.
fn half() -> Sales {
    let source = Sales { pace: 200, ..Sales::of(SALES) };
    source.gate.store(SALES / 2, Ordering::Relaxed);
    source
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let clock = Clock::system();
    let began = clock.now();
    while !done() {
        assert!(clock.now().since(began) < Duration::from_secs(20), "it never came that {what}");
        std::thread::yield_now();
    }
}

fn manifests(disk: &SmallDisk) -> Vec<String> {
    let Ok(entries) = fs::read_dir(disk.0.join("checkpoints")) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut manifests: Vec<String> = names.filter(|name| name.starts_with("manifest-")).collect();
    manifests.sort_unstable();
    manifests
}

#[test]
fn checkpoints_fail_and_the_job_goes_on_until_there_is_room() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(place.path().join("disk")) else { return };
    let source = half();
    let running = on(&disk.0, &place, &source, u32::MAX).start().unwrap();
    wait_until("a checkpoint completed", || !manifests(&disk).is_empty());
    source.gate.store(SALES - 1, Ordering::Relaxed);
    let clock = Clock::system();
    let full_since = clock.now();
    wait_until("all but one sale were read, and some twenty checkpoints tried", || {
        disk.fill();
        running.events_in() == SALES - 1 && clock.now().since(full_since) > Duration::from_millis(200)
    });
    let newest = manifests(&disk);
    disk.make_room();
    wait_until("there is a checkpoint again", || manifests(&disk) != newest);
    source.gate.store(SALES, Ordering::Relaxed);
    let report = running.wait().unwrap();
    assert!(report.restarts.is_empty(), "{:?}", report.restarts);
    assert!(!report.checkpoints.failed.is_empty(), "{report}");
    for why in &report.checkpoints.failed {
        assert!(why.contains("No space left on device") && why.contains("disk/checkpoints"), "{why}");
    }
    assert_same(&place.lines(), &oracle(SALES), "a disk that was full for a while");
}

#[test]
fn too_many_failures_end_the_job_with_nothing_lost() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(place.path().join("disk")) else { return };
    let source = half();
    let running = on(&disk.0, &place, &source, 2).start().unwrap();
    wait_until("a checkpoint completed", || !manifests(&disk).is_empty());
    source.gate.store(SALES - 1, Ordering::Relaxed);
    wait_until("the job has failed", || {
        disk.fill();
        running.is_finished()
    });
    let error = running.wait().unwrap_err();
    let JobError::Failed { cause, restarts } = &error else { panic!("{error}") };
    assert_eq!(*restarts, 2);
    let words = ["3 checkpoints in a row failed", "No space left on device", "Free space on that file system"];
    assert!(words.iter().all(|word| cause.contains(word)), "{cause}");

    // The store proves at its opening that it can be written to, so a full disk is a refusal.
    let error = on(&disk.0, &place, &source, 2).run().unwrap_err().to_string();
    assert!(error.contains("cannot be written to: No space left on device"), "{error}");

    disk.make_room();
    source.gate.store(SALES, Ordering::Relaxed);
    let report = on(&disk.0, &place, &source, 2).run().unwrap();
    assert!(report.restored_epoch > 0, "{report}");
    assert_same(&place.lines(), &oracle(SALES), "after the disk had room again");
}
