//! A job keeps moving: shards never stand still under load, a sink that holds back holds nobody up for good, and SIGTERM
//! ends a process with a last checkpoint.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "jobs/sales/mod.rs"]
mod sales;

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream::road::sink::{Committable, Epoch, SinkFuture};
use millstream::{
    Clock, Count, Guarantee, Items, Job, OnError, Sink, SinkError, SinkWriter, Timestamp, Tumbling, Watermarks,
};
use millstream_connectors::log::{LogSource, LogWriter};
use millstream_connectors::memory::NullSink;
use sales::{Place, Sales, assert_same, job, oracle};

#[expect(clippy::disallowed_methods, reason = "the test's thread waits for nothing but time")]
fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// The executor of glommio 0.9.0 can sleep with runnable tasks, and did so within seconds under snapshots.
#[test]
fn shards_turn_without_a_gap_under_snapshots() {
    let place = Place::new();
    let source = Sales { pace: 2_000, ..Sales::of(u64::MAX / 4) };
    let running = job(source, &place.out(), |_| {}, |_| {})
        .shards(2)
        .checkpoints(place.checkpoints(), Duration::from_millis(5))
        .start()
        .unwrap();
    while running.events_in() == 0 {
        sleep_ms(1);
    }
    let clock = Clock::system();
    let began = clock.now();
    let mut seen: Vec<_> = running.counters().iter().map(|shard| (shard.turns(), began)).collect();
    let mut longest = Duration::ZERO;
    while clock.now().since(began) < Duration::from_secs(4) {
        sleep_ms(2);
        let now = clock.now();
        for ((turns, since), shard) in seen.iter_mut().zip(running.counters()) {
            if shard.turns() != *turns {
                (*turns, *since) = (shard.turns(), now);
            }
            longest = longest.max(now.since(*since));
        }
    }
    running.stop();
    let report = running.wait().unwrap();
    println!("longest stand {longest:?}; {report}");
    assert!(report.restarts.is_empty() && report.checkpoints.failed.is_empty(), "{report}");
    assert!(report.checkpoints.completed >= 3, "{report}");
    assert!(longest < Duration::from_secs(1), "a shard stood still for {longest:?}");
}

/// Takes a row, then nothing for a while, and tells nobody when it is ready again: as a file on a slow disk.
#[derive(Clone)]
struct Slow {
    clock: Clock,
    rows: u64,
    ready_at_ms: i64,
    counted: NullSink,
}

struct SlowWriter<W>(Slow, W);

impl Sink<u64> for Slow {
    type Writer = SlowWriter<<NullSink as Sink<u64>>::Writer>;

    fn open(&self, shard: u32, shards: u32) -> Result<Self::Writer, SinkError> {
        Ok(SlowWriter(self.clone(), Sink::<u64>::open(&self.counted, shard, shards)?))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn describe(&self) -> String {
        "slow".to_owned()
    }
}

impl<W: SinkWriter<u64>> SinkWriter<u64> for SlowWriter<W> {
    fn write(&mut self, row: &u64) -> Result<(), SinkError> {
        self.0.rows += 1;
        if self.0.rows.is_multiple_of(1_000) {
            self.0.ready_at_ms = self.0.clock.wall_ms() + 10;
        }
        self.1.write(row)
    }

    fn ready(&mut self) -> bool {
        self.0.clock.wall_ms() >= self.0.ready_at_ms
    }

    fn prepare(&mut self, epoch: Epoch) -> SinkFuture<Committable> {
        self.1.prepare(epoch)
    }

    fn commit(&mut self, committable: Committable) -> SinkFuture<()> {
        self.1.commit(committable)
    }

    fn recover(&mut self, committables: Vec<Committable>) -> SinkFuture<()> {
        self.1.recover(committables)
    }
}

#[test]
fn a_sink_that_holds_back_is_asked_again() {
    for shards in [1, 2] {
        let counted = NullSink::new();
        let slow = Slow { clock: Clock::system(), rows: 0, ready_at_ms: 0, counted: counted.clone() };
        let job = Job::new("slow", move |flow| flow.source(Items::of((0..20_000u64).collect())).sink(slow.clone()));
        let clock = Clock::system();
        let began = clock.now();
        job.shards(shards).run().unwrap();
        let took = clock.now().since(began);
        assert_eq!(counted.rows(), 20_000);
        assert!(took < Duration::from_secs(5), "20 pauses of 10 ms took {took:?}");
    }
}

/// Millions of dirty bytes, frozen when no more rows come: nothing but the disk tells the shards to go on.
#[test]
fn a_snapshot_goes_on_in_an_idle_shard() {
    const KEYS: u64 = 1_000_000;
    let place = Place::new();
    let log = place.path().join("log");
    let mut keys = LogWriter::create(&log, 2).unwrap();
    for key in 0..KEYS {
        keys.append((key % 2) as u32, &key.to_le_bytes()).unwrap();
    }
    keys.flush().unwrap();
    let sink = NullSink::new();
    let running = Job::new("idle", move |flow| {
        let number = |row: &[u8]| row.try_into().map(u64::from_le_bytes).map_err(|error| format!("{error}"));
        flow.source(LogSource::new(&log).follow())
            .try_map(number, OnError::Fail)
            .event_time(|key| Timestamp((key / 1_000) as i64), Watermarks::monotonic())
            .key_by(|key| *key)
            .window(Tumbling::of(Duration::from_secs(86_400)))
            .aggregate(Count)
            .sink(sink.clone());
    })
    .shards(2)
    .combine(false)
    .checkpoints(place.checkpoints(), Duration::from_millis(1_500))
    .start()
    .unwrap();
    while running.events_in() < KEYS || place.epochs().is_empty() {
        sleep_ms(5);
        assert!(!running.is_finished(), "{}", running.wait().unwrap());
    }
    running.stop();
    let report = running.wait().unwrap();
    assert!(report.checkpoints.bytes_max > 8 << 20, "many chunks: {}", report.checkpoints.bytes_max);
    // Every fourth chunk waited for the lead's look at shards that stand still, and each look is 200 ms away.
    let longest = Duration::from_micros(report.checkpoints.duration_us.max());
    assert!(longest < Duration::from_secs(2), "a checkpoint of idle shards took {longest:?}: {report}");
}

const SALES: u64 = 40_000;
/// Set in the child that the test starts: where it keeps checkpoints and output.
const CHILD: &str = "MILLSTREAM_LIVENESS_CHILD";

/// Not a test of its own: the process that the next one ends.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let place = Place::at(dir);
    let source = Sales { pace: 100, ..Sales::of(SALES) };
    // Held open, so that the signal comes in mid-stream however slow the machine is.
    source.gate.store(SALES / 2, Ordering::Relaxed);
    let job =
        job(source, &place.out(), |_| {}, |_| {}).shards(2).checkpoints(place.checkpoints(), Duration::from_millis(20));
    let report = job.run().unwrap();
    println!("stopped {} with {} restarts", report.stopped, report.restarts.len());
}

#[test]
fn a_signal_stops_a_process_with_a_last_checkpoint() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let place = Place::new();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture"])
            .env(CHILD, place.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        while !place.checkpoints().exists() || place.epochs().len() < 2 {
            sleep_ms(1);
        }
        let before = *place.epochs().last().unwrap();
        // SAFETY: the process is our child, and not yet waited for, so the number is still its own.
        #[expect(unsafe_code, reason = "kill has no safe wrapper in std for signals other than SIGKILL")]
        let sent = unsafe { libc::kill(child.id() as i32, signal) };
        assert_eq!(sent, 0);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("stopped true with 0 restarts"),
            "{:?}: {text}",
            output.status
        );
        let stopped_at = *place.epochs().last().unwrap();
        assert!(stopped_at > before, "a last checkpoint was taken");
        assert!(place.lines().len() < oracle(SALES).len(), "it was stopped in mid-stream");

        let job = job(Sales::of(SALES), &place.out(), |_| {}, |_| {});
        let report = job.shards(2).checkpoints(place.checkpoints(), Duration::from_millis(20)).run().unwrap();
        assert_eq!(report.restored_epoch, stopped_at);
        assert_same(&place.lines(), &oracle(SALES), "before and after the signal");
    }
}

/// A job that has ended leaves nothing behind by which the next one's first signal would count as a second.
#[test]
fn a_stopped_job_lets_go_of_the_signals() {
    let Ok(dir) = std::env::var(CHILD_TWICE) else {
        let place = Place::new();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["a_stopped_job_lets_go_of_the_signals", "--exact", "--nocapture"])
            .env(CHILD_TWICE, place.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("stopped twice"), "{:?}: {text}", output.status);
        return;
    };
    let place = Place::at(dir);
    let endless = || {
        let source = Sales { pace: 10, ..Sales::of(u64::MAX / 4) };
        job(source, &place.out(), |_| {}, |_| {}).checkpoints(place.checkpoints(), Duration::from_millis(20))
    };
    let first = endless().start().unwrap();
    first.stop();
    assert!(first.wait().unwrap().stopped);
    let second = endless().start().unwrap();
    // SAFETY: a signal to ourselves, for which the job has a handler.
    #[expect(unsafe_code, reason = "raise has no safe wrapper among our crates")]
    let raised = unsafe { libc::raise(libc::SIGTERM) };
    assert_eq!(raised, 0);
    assert!(second.wait().unwrap().stopped);
    println!("stopped twice");
}

const CHILD_TWICE: &str = "MILLSTREAM_LIVENESS_CHILD_TWICE";
