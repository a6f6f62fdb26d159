//! The machine under a measurement: which cores there are, how far apart they lie, and what the process used of them.
//!
//! Two-core figures mean little without the distance. A virtual machine's host moves its cores between caches within
//! minutes: a cache line's round trip takes about 100 ns where the two share a last-level cache (near) and about 400 ns
//! where they do not (far), and whatever writes shared buffers with plain stores moves by 1.3 to 2 times with it. So
//! every report says what the probe found just after the run.
#![expect(unsafe_code, reason = "sched_setaffinity, getrusage and madvise have no safe wrapper among our dependencies")]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream::time::{Clock, Nanos};

/// Round trips longer than this are between cores that share no cache.
const FAR_NS: f64 = 200.0;

/// What a report says of the machine.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Machine {
    /// The processor's name, as the kernel tells it.
    pub cpu: String,
    /// The cores that the process may run on.
    pub cores: usize,
    /// A cache line's round trip between the first two cores in use; none with one core.
    pub line_round_trip_ns: Option<f64>,
}

impl Machine {
    /// Looks at the machine; the round trip is measured between the first two of `cores`, which takes a few
    /// milliseconds.
    #[must_use]
    pub fn probe(cores: &[usize]) -> Machine {
        Machine {
            cpu: cpu_name().unwrap_or_else(|| "unknown processor".to_owned()),
            cores: allowed_cores().len(),
            line_round_trip_ns: match cores {
                [one, other, ..] if one != other => Some(line_round_trip_ns(*one, *other)),
                _ => None,
            },
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} core{}", self.cpu, self.cores, if self.cores == 1 { "" } else { "s" })?;
        if let Some(ns) = self.line_round_trip_ns {
            let distance = if ns > FAR_NS { "far" } else { "near" };
            write!(f, ", cache line round trip {ns:.0} ns ({distance})")?;
        }
        Ok(())
    }
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The cores that the process may run on, ascending.
#[must_use]
pub fn allowed_cores() -> Vec<usize> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: `set` is as large as the call is told; all zeros is an empty set, and stays one should the call fail.
    let set = unsafe {
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr());
        set.assume_init()
    };
    // SAFETY: every index is below the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect()
}

/// Keeps the calling thread on `core`.
///
/// # Errors
/// The system's answer, when the core does not exist or is not in the process's set.
pub fn pin(core: usize) -> std::io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: all zeros is an empty set, the index is below the set's size, and the set outlives the call.
    let answer = unsafe {
        let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed().assume_init();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// What the process has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Seconds of all its threads on a core, in user and kernel.
    pub cpu_s: f64,
    /// The most memory it held at any time, MiB.
    pub rss_mb: f64,
    /// Page faults that had to read the disk.
    pub major_faults: u64,
}

impl Usage {
    /// Asks the kernel.
    #[must_use]
    pub fn now() -> Usage {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is a valid rusage for the call to fill, and all zeros is one should it fail.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
        Usage {
            cpu_s: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            rss_mb: usage.ru_maxrss as f64 / 1024.0,
            major_faults: usage.ru_majflt as u64,
        }
    }
}

/// A vector of `len` copies of `value`, in huge pages where the kernel has them: random access over hundreds of MiB is
/// 1.2 to 1.5 times as fast as with 4 KiB pages.
#[must_use]
pub fn huge_vec<T: Copy>(len: usize, value: T) -> Vec<T> {
    let mut vec = huge_vec_with_capacity(len);
    vec.resize(len, value);
    vec
}

/// As [`huge_vec`], but empty. Its memory has been touched: that of a guest which was given back to the host costs
/// milliseconds a huge page to get again, a third of a run over a million campaigns.
#[must_use]
pub fn huge_vec_with_capacity<T: Copy>(capacity: usize) -> Vec<T> {
    const HUGE_PAGE: usize = 2 << 20;
    let mut vec = Vec::<T>::with_capacity(capacity);
    // Asked for before the first touch: a page that is there already stays small. The incomplete huge pages at both
    // ends stay small too, so that the advice touches nobody else's memory.
    let start = (vec.as_ptr() as usize).next_multiple_of(HUGE_PAGE);
    let end = (vec.as_ptr() as usize + capacity * size_of::<T>()) / HUGE_PAGE * HUGE_PAGE;
    if start < end {
        // SAFETY: the range lies within the vector's own allocation, and the advice changes no byte of it. Refusal only
        // costs speed.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
    let bytes = vec.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    for page in (0..capacity * size_of::<T>()).step_by(4096) {
        // SAFETY: inside the vector's own allocation, of which nothing is in use yet.
        unsafe { bytes.add(page).write_volatile(0) };
    }
    vec
}

/// The median of a few bursts, each bouncing one line to and fro.
fn line_round_trip_ns(one: usize, other: usize) -> f64 {
    const BURSTS: usize = 9;
    const ROUND_TRIPS: u64 = 2_000;
    let line = Line(AtomicU64::new(0));
    let end = 2 * ROUND_TRIPS * BURSTS as u64;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Unpinned the two may share a core and the figure is wrong, but the run it belongs to failed before.
            let _ = pin(other);
            for turn in (1..end).step_by(2) {
                line.pass(turn);
            }
        });
        let probe = scope.spawn(|| {
            let _ = pin(one);
            let clock = Clock::system();
            let mut bursts_ns = [0.0; BURSTS];
            for (burst, ns) in bursts_ns.iter_mut().enumerate() {
                let first = 2 * ROUND_TRIPS * burst as u64;
                let start: Nanos = clock.now();
                for turn in (first..first + 2 * ROUND_TRIPS).step_by(2) {
                    line.pass(turn);
                }
                *ns = clock.now().since(start).as_nanos() as f64 / ROUND_TRIPS as f64;
            }
            bursts_ns.sort_by(f64::total_cmp);
            bursts_ns[BURSTS / 2]
        });
        probe.join().expect("the probe has nothing to panic about")
    })
}

/// Alone on its cache line, and on the one that the prefetcher takes along.
#[repr(align(128))]
struct Line(AtomicU64);

impl Line {
    /// Waits for `turn` and makes it the other's. A neighbour that got no core in time is let run.
    fn pass(&self, turn: u64) {
        let mut spins = 0_u32;
        while self.0.load(Ordering::Acquire) != turn {
            spins += 1;
            if spins.is_multiple_of(1 << 14) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
        self.0.store(turn + 1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cores_that_are_allowed_can_be_pinned_and_others_cannot() {
        let cores = allowed_cores();
        assert!(!cores.is_empty());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pin(cores[0]).unwrap();
                assert_eq!(allowed_cores(), [cores[0]]);
            });
        });
        assert!(pin(100_000).is_err());
        assert!(pin(libc::CPU_SETSIZE as usize - 1).is_err());
    }

    #[test]
    fn a_huge_vector_is_an_ordinary_vector() {
        for len in [0, 1, 1 << 20, (1 << 20) + 3] {
            let vec = huge_vec(len, 7_u64);
            assert_eq!((vec.len(), vec.iter().filter(|value| **value == 7).count()), (len, len));
        }
    }

    #[test]
    fn the_probe_finds_a_distance() {
        let cores = allowed_cores();
        let machine = Machine::probe(&cores);
        assert_eq!(machine.line_round_trip_ns.is_some(), cores.len() > 1);
        if let Some(ns) = machine.line_round_trip_ns {
            assert!((1.0..1e6).contains(&ns), "{ns}");
        }
        assert_eq!(Machine::probe(&cores[..1]).line_round_trip_ns, None);
    }
}
