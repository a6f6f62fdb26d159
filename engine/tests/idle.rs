//! A job with nothing to do uses no core, and an event that comes then is out in a moment: the two sides of sleeping.

#[path = "states/arrivals/mod.rs"]
mod arrivals;

use std::time::Duration;

use arrivals::{Arrivals, arrivals};
use millstream::{Clock, Job, OnError};
use millstream_connectors::log::{LogSource, LogWriter};

/// Time that all threads of the process have spent on a core.
fn on_core() -> Duration {
    // SAFETY: the structure is plain numbers, for which zeros are a value, and the call fills it.
    #[expect(unsafe_code, reason = "getrusage has no safe wrapper among our crates")]
    let used = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut used), 0);
        used
    };
    let duration = |at: libc::timeval| Duration::new(at.tv_sec as u64, at.tv_usec as u32 * 1_000);
    duration(used.ru_utime) + duration(used.ru_stime)
}

#[expect(clippy::disallowed_methods, reason = "the test's thread waits for nothing but time")]
fn sleep(time: Duration) {
    std::thread::sleep(time);
}

fn job(log: &std::path::Path, sink: Arrivals) -> Job {
    let log = log.to_owned();
    Job::new("followed", move |flow| {
        let parse = |row: &[u8]| {
            std::str::from_utf8(row)
                .map_err(|error| error.to_string())?
                .parse::<u64>()
                .map_err(|error| error.to_string())
        };
        flow.source(LogSource::new(&log).follow()).try_map(parse, OnError::Fail).sink(sink.clone());
    })
}

/// One test, so that nothing else in the process uses a core.
#[test]
fn an_idle_job_sleeps_and_wakes_at_once() {
    const TRIES: u64 = 20;
    let clock = Clock::system();
    for shards in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::create(dir.path().join("log"), shards).unwrap();
        let append = |log: &mut LogWriter, number: u64| {
            log.append((number % u64::from(shards)) as u32, number.to_string().as_bytes()).unwrap();
            log.flush().unwrap();
        };

        let (sink, arrived) = arrivals();
        let running = job(&dir.path().join("log"), sink).shards(shards).start().unwrap();
        append(&mut log, 0);
        assert_eq!(arrived.recv_timeout(Duration::from_secs(10)), Ok(0), "the job runs");
        sleep(Duration::from_millis(100));
        let (before, began) = (on_core(), clock.now());
        sleep(Duration::from_secs(2));
        let share = (on_core() - before).as_secs_f64() / clock.now().since(began).as_secs_f64();
        running.stop();
        running.wait().unwrap();

        let (sink, arrived) = arrivals();
        let checkpoints = dir.path().join("checkpoints");
        let every = Duration::from_millis(10);
        let running =
            job(&dir.path().join("log"), sink).shards(shards).checkpoints(checkpoints, every).start().unwrap();
        assert_eq!(arrived.recv_timeout(Duration::from_secs(10)), Ok(0), "the job reads the log from its beginning");
        let mut took: Vec<Duration> = (1..=TRIES)
            .map(|number| {
                sleep(Duration::from_millis(23));
                let sent = clock.now();
                append(&mut log, number);
                assert_eq!(arrived.recv_timeout(Duration::from_secs(10)), Ok(number));
                clock.now().since(sent)
            })
            .collect();
        running.stop();
        running.wait().unwrap();
        took.sort_unstable();
        let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
        println!(
            "{shards} shards: idle {:.2} % of a core; an event is out in {median:?} (p50), {worst:?} at worst",
            share * 100.0
        );
        assert!(share < 0.02, "{shards} idle shards used {:.2} % of a core", share * 100.0);
        assert!(median < Duration::from_millis(5), "{shards} shards: an event took {median:?}: {took:?}");
    }
}
