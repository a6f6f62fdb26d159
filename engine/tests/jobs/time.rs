//! Time in whole jobs: marks in the rows, generators of the user's own, ingestion time, silent splits.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::time::Nanos;
use millstream::{
    Clock, Count, Flow, Job, JobReport, Polled, Source, SourceError, Split, Timestamp, Tumbling, WatermarkGenerator,
    Watermarks,
};
use millstream_connectors::memory::{MemorySink, NullSink};

/// What one poll of a split brings: rows of a key and a time, or nothing for so long.
#[derive(Clone, Debug)]
enum Poll {
    Rows(Vec<(u64, i64)>),
    SilentMs(u64),
}

/// Splits that bring what they are told to, dealt out to the shards in turn.
#[derive(Clone, Debug)]
struct Feed {
    splits: Vec<Vec<Poll>>,
    /// They are silent for ever after it, instead of ending.
    is_open: bool,
}

struct FedSplit {
    name: String,
    polls: Vec<Poll>,
    at: usize,
    silent_since: Option<Nanos>,
    is_open: bool,
}

impl Source for Feed {
    type Batch = Vec<(u64, i64)>;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Self::Batch>>>, SourceError> {
        let of_shard = self.splits.iter().enumerate().skip(shard as usize).step_by(shards as usize);
        Ok(of_shard
            .map(|(index, polls)| {
                let (name, polls) = (format!("feed-{index}"), polls.clone());
                let split = FedSplit { name, polls, at: 0, silent_since: None, is_open: self.is_open };
                Box::new(split) as Box<dyn Split<Batch = Self::Batch>>
            })
            .collect())
    }

    fn describe(&self) -> String {
        "feed".to_owned()
    }
}

impl Split for FedSplit {
    type Batch = Vec<(u64, i64)>;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn poll(&mut self, out: &mut Self::Batch, _rows_max: usize) -> Result<Polled, SourceError> {
        match self.polls.get(self.at) {
            None if self.is_open => Ok(Polled::Idle),
            None => Ok(Polled::End),
            Some(Poll::SilentMs(ms)) => {
                let now = Clock::system().now();
                if now.since(*self.silent_since.get_or_insert(now)) >= Duration::from_millis(*ms) {
                    self.at += 1;
                }
                Ok(Polled::Idle)
            }
            Some(Poll::Rows(rows)) => {
                out.extend(rows);
                self.at += 1;
                Ok(Polled::Rows)
            }
        }
    }

    fn position(&self) -> u64 {
        self.at as u64
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.at = position as usize;
        Ok(())
    }
}

/// Rows of key 7 at these times, as one batch.
fn rows(times: &[i64]) -> Poll {
    Poll::Rows(times.iter().map(|at| (7, *at)).collect())
}

const TEN_MS: Duration = Duration::from_millis(10);

/// Counts in windows of ten milliseconds, by their starts, and the job's report.
fn count<W: millstream::WatermarkStrategy<(u64, i64)>>(
    shards: u32,
    feed: Feed,
    watermarks: impl Fn() -> W + Send + Sync + 'static,
) -> (Vec<(i64, u64)>, JobReport) {
    let sink = MemorySink::new();
    let counted = sink.clone();
    let job = Job::new("count", move |flow: &Flow| {
        flow.source(feed.clone())
            .event_time(|(_, at)| Timestamp(*at), watermarks())
            .key_by(|(key, _)| *key)
            .window(Tumbling::of(TEN_MS))
            .aggregate(Count)
            .map(|row| (row.window.start.0, row.value))
            .sink(sink.clone());
    });
    // Folding first holds watermarks back with the rows, and an edge does until its next flush: then fewer rows are late.
    let report = job.shards(shards).combine(false).run().unwrap();
    let mut counted = counted.rows();
    counted.sort_unstable();
    (counted, report)
}

#[test]
fn marks_in_the_rows_move_time() {
    let mark = || Watermarks::punctuated(|(_, at): &(u64, i64), _| (at % 10 == 9).then_some(Timestamp(*at)));
    let feed = |polls| Feed { splits: vec![polls], is_open: false };
    // No mark before 5 comes again; then 19, which ends the first two windows before their next rows come.
    let polls = vec![rows(&[5, 14, 28]), rows(&[5, 19, 3]), rows(&[6, 21])];
    let (counted, report) = count(1, feed(polls.clone()), mark);
    assert_eq!((counted, report.measured.late), (vec![(0, 3), (10, 2), (20, 2)], 1));
    let (counted, report) = count(2, feed(polls), mark);
    assert_eq!(counted.iter().map(|(_, count)| count).sum::<u64>() + report.measured.late, 8);
}

/// As bounded disorder, in the user's own words.
struct Behind {
    by_ms: i64,
    newest: Option<i64>,
}

impl WatermarkGenerator<(u64, i64)> for Behind {
    fn on_event(&mut self, _row: &(u64, i64), at: Timestamp) -> Option<Timestamp> {
        self.newest = self.newest.max(Some(at.0));
        None
    }

    fn on_periodic(&mut self, _now_ms: i64) -> Option<Timestamp> {
        self.newest.map(|newest| Timestamp(newest).plus_ms(-self.by_ms - 1))
    }
}

#[test]
fn a_generator_of_the_users_own_is_as_good_as_one_of_ours() {
    let polls =
        |first: i64| (0..50).map(move |batch| rows(&[first + batch * 3, first + batch * 3 - 8, batch])).collect();
    for by_ms in [0, 8, 1_000] {
        for shards in [1, 2] {
            let feed = Feed { splits: vec![polls(0), polls(20)], is_open: false };
            let own =
                count(shards, feed.clone(), move || Watermarks::generated(move || Behind { by_ms, newest: None }));
            let ours = count(shards, feed, move || Watermarks::bounded(Duration::from_millis(by_ms as u64)));
            if shards == 1 {
                // On one shard the splits have their turns in order, and what is late is always the same.
                assert_eq!((own.0, own.1.measured.late), (ours.0, ours.1.measured.late), "{by_ms} ms");
                assert_eq!(ours.1.measured.late > 0, by_ms < 1_000, "{by_ms} ms");
            } else {
                let total = |(counts, report): (Vec<(i64, u64)>, JobReport)| {
                    assert!(report.measured.late == 0 || by_ms < 1_000);
                    counts.iter().map(|(_, count)| count).sum::<u64>() + report.measured.late
                };
                assert!(total(own) == 300 && total(ours) <= 300, "{by_ms} ms");
            }
        }
    }
}

/// Follows the wall clock.
struct Wall;

impl<T: ?Sized> WatermarkGenerator<T> for Wall {
    fn on_event(&mut self, _row: &T, _at: Timestamp) -> Option<Timestamp> {
        None
    }

    fn on_periodic(&mut self, now_ms: i64) -> Option<Timestamp> {
        Some(Timestamp(now_ms))
    }
}

fn seen() -> (Arc<Mutex<Sender<u64>>>, Receiver<u64>) {
    let (sender, receiver) = channel();
    (Arc::new(Mutex::new(sender)), receiver)
}

/// Windows are emitted though no row comes any more, no split ends, and none is ever taken for idle.
#[test]
fn time_goes_on_without_rows() {
    for shards in [1, 2] {
        for ingested in [true, false] {
            let (sender, emitted) = seen();
            let feed = Feed { splits: vec![vec![rows(&[1, 2, 3])], vec![]], is_open: true };
            let job = Job::new("silent", move |flow: &Flow| {
                let sender = sender.clone();
                let read = flow.source(feed.clone());
                let timed = if ingested {
                    read.ingestion_time().boxed()
                } else {
                    read.event_time(|(_, at)| Timestamp(*at), Watermarks::generated(|| Wall)).boxed()
                };
                timed
                    .key_by(|(key, _)| *key)
                    .window(Tumbling::of(Duration::from_secs(1)))
                    .aggregate(Count)
                    .inspect(move |row, _| sender.lock().unwrap().send(row.value).unwrap())
                    .sink(NullSink::new());
            });
            let running = job.shards(shards).configure(|config| config.idle_timeout = Duration::MAX).start().unwrap();
            let mut counted = 0;
            while counted < 3 {
                counted += emitted.recv_timeout(Duration::from_secs(20)).unwrap();
            }
            assert_eq!(counted, 3, "{shards} shards");
            running.stop();
            let report = running.wait().unwrap();
            assert!(report.stopped && report.measured.late == 0);
        }
    }
}

/// A shard whose splits are idle does not stop time, and one that speaks again is listened to: with rows that are not
/// behind, nothing is late.
#[test]
fn a_silent_split_does_not_stop_time_and_is_heard_when_it_speaks_again() {
    for shards in [1, 2] {
        let (sender, emitted) = seen();
        let first = vec![rows(&[1, 2]), rows(&[25])];
        let second = vec![rows(&[3]), Poll::SilentMs(600), rows(&[26, 27])];
        let feed = Feed { splits: vec![first, second], is_open: true };
        let job = Job::new("revived", move |flow: &Flow| {
            let sender = sender.clone();
            flow.source(feed.clone())
                .event_time(|(_, at)| Timestamp(*at), Watermarks::monotonic())
                .key_by(|(key, _)| *key)
                .window(Tumbling::of(TEN_MS))
                .aggregate(Count)
                .inspect(move |row, _| sender.lock().unwrap().send(row.value).unwrap())
                .sink(NullSink::new());
        });
        let idle_timeout = Duration::from_millis(150);
        let running = job.shards(shards).configure(|config| config.idle_timeout = idle_timeout).start().unwrap();
        assert_eq!(emitted.recv_timeout(Duration::from_secs(20)), Ok(3), "{shards} shards: 1, 2 and 3");
        // The last rows come only after a silence, and nothing after them.
        assert!(emitted.recv_timeout(Duration::from_secs(2)).is_err(), "{shards} shards");
        assert_eq!(running.events_in(), 6);
        // Both are silent again by now.
        let report = running.explain_watermark();
        assert_eq!(report.held_back_by(), None, "{report}");
        assert!(report.to_string().contains("    feed-1: 26 ms, idle\n"), "{report}");
        running.stop();
        assert_eq!(running.wait().unwrap().measured.late, 0, "{shards} shards");
    }
}

/// One split has brought rows, the other nothing, and is not idle yet: it is the one that is named.
#[test]
fn the_split_that_holds_time_back_is_named() {
    for shards in [1, 2] {
        let (sender, seen_rows) = seen();
        let feed = Feed { splits: vec![vec![rows(&[40, 60])], vec![]], is_open: true };
        let job = Job::new("held", move |flow: &Flow| {
            let sender = sender.clone();
            flow.source(feed.clone())
                .event_time(|(_, at)| Timestamp(*at), Watermarks::monotonic())
                .named("stamps")
                .inspect(move |row, _| sender.lock().unwrap().send(row.0).unwrap())
                .key_by(|(key, _)| *key)
                .window(Tumbling::of(TEN_MS))
                .aggregate(Count)
                .sink(NullSink::new());
        });
        let running = job.shards(shards).start().unwrap();
        for _ in 0..2 {
            seen_rows.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        // A row is seen before its batch has ended, and only then does time go on.
        let report = loop {
            let report = running.explain_watermark();
            if report.to_string().contains("    feed-0: 59 ms\n") {
                break report;
            }
            std::thread::yield_now();
        };
        let (operator, split) = report.held_back_by().unwrap();
        assert_eq!((&*operator.operator, operator.shard), ("stamps", shards - 1));
        assert_eq!((&*split.split, split.watermark), ("feed-1", Timestamp::MIN));
        let told = report.to_string();
        let sentence = format!(
            "time is held back by split \"feed-1\" at operator \"stamps\" on shard {}, which has brought nothing yet\n",
            shards - 1
        );
        assert!(told.starts_with(&sentence), "{told}");
        running.stop();
        running.wait().unwrap();
    }
}

/// Time goes on while the second source has not begun, does not end with the first, and goes on with the second.
#[test]
fn a_source_behind_another_takes_time_over() {
    for shards in [1, 2] {
        let (sender, emitted) = seen();
        let past = Feed { splits: vec![vec![rows(&[1, 15, 31])], vec![rows(&[2, 32]), rows(&[33])]], is_open: false };
        let live = vec![vec![rows(&[34, 35]), Poll::SilentMs(300), rows(&[45, 61])], vec![rows(&[36, 62])]];
        let live = Feed { splits: live, is_open: true };
        let job = Job::new("then", move |flow: &Flow| {
            let sender = sender.clone();
            flow.source(past.clone().then(live.clone()))
                .event_time(|(_, at)| Timestamp(*at), Watermarks::monotonic())
                .key_by(|(key, _)| *key)
                .window(Tumbling::of(TEN_MS))
                .aggregate(Count)
                .inspect(move |row, _| sender.lock().unwrap().send(row.value).unwrap())
                .sink(NullSink::new());
        });
        let running = job.shards(shards).combine(false).start().unwrap();
        // 1 and 2; 15; 31 to 36; 45. What the last rows are in is not over.
        let windows: Vec<u64> = (0..4).map(|_| emitted.recv_timeout(Duration::from_secs(20)).unwrap()).collect();
        assert_eq!(windows, [2, 1, 6, 1], "{shards} shards");
        running.stop();
        assert_eq!(running.wait().unwrap().measured.late, 0, "{shards} shards");
    }
}

/// Before the second source begins it is not waited for, not even where the first is silent.
#[test]
fn a_source_that_has_not_begun_does_not_hold_time_back() {
    let (sender, emitted) = seen();
    let past = Feed { splits: vec![vec![rows(&[1, 2, 15])]], is_open: true };
    let live = Feed { splits: vec![vec![rows(&[0])]], is_open: true };
    let job = Job::new("first", move |flow: &Flow| {
        let sender = sender.clone();
        flow.source(past.clone().then(live.clone()))
            .event_time(|(_, at)| Timestamp(*at), Watermarks::monotonic())
            .key_by(|(key, _)| *key)
            .window(Tumbling::of(TEN_MS))
            .aggregate(Count)
            .inspect(move |row, _| sender.lock().unwrap().send(row.value).unwrap())
            .sink(NullSink::new());
    });
    let running = job.configure(|config| config.idle_timeout = Duration::MAX).start().unwrap();
    assert_eq!(emitted.recv_timeout(Duration::from_secs(20)), Ok(2));
    assert_eq!(running.events_in(), 3, "and nothing of the second is read");
    let report = running.explain_watermark().to_string();
    let second = report.lines().find(|line| line.contains("then feed-0")).unwrap();
    assert!(second.ends_with(", idle"), "{report}");
    running.stop();
    running.wait().unwrap();
}
