//! Requests to systems outside: order, time, capacity, retries, and what has no answer when a barrier comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use glommio::timer::sleep;
use millstream::{BoxError, Count, Items, Job, OnError, Requests, RestartStrategy, Timestamp, Tumbling, Watermarks};
use millstream_connectors::file::FileSink;
use millstream_connectors::memory::{MemorySink, NullSink};

/// A row that no fixed type could hold.
#[millstream::event]
#[derive(Clone, PartialEq, Debug)]
struct Order {
    number: u64,
    articles: Vec<String>,
}

fn orders(count: u64) -> Vec<Order> {
    let order = |number| Order { number, articles: vec![format!("article {}", number % 7); number as usize % 4] };
    (0..count).map(order).collect()
}

const MINUTE: Duration = Duration::from_secs(60);

/// So long that answers come in another order than rows.
fn pause(number: u64) -> Duration {
    Duration::from_micros(number * 7919 % 1500)
}

/// Answered in order, or as they come: windows find the same rows, none of them late, and no more requests than allowed
/// are under way.
#[test]
fn answers_keep_to_the_order_and_to_their_side_of_the_watermark() {
    for (shards, is_ordered) in [(1, true), (1, false), (2, true), (2, false)] {
        let sinks = (MemorySink::new(), MemorySink::new());
        let (answers, windows) = sinks.clone();
        let (under_way, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (job_under_way, job_most) = (under_way.clone(), most.clone());
        let job = Job::new("asked", move |flow| {
            let how = if is_ordered { Requests::ordered(MINUTE) } else { Requests::unordered(MINUTE) };
            let (under_way, most) = (job_under_way.clone(), job_most.clone());
            let (answers, copy) = flow
                .source(Items::of(orders(3_000)))
                .event_time(|order| Timestamp(order.number as i64), Watermarks::monotonic())
                .map_async(how.capacity(20), move |order: Order| {
                    let (under_way, most) = (under_way.clone(), most.clone());
                    async move {
                        most.fetch_max(under_way.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                        sleep(pause(order.number)).await;
                        under_way.fetch_sub(1, Ordering::Relaxed);
                        Ok((order.number, order.articles.len() as u64))
                    }
                })
                .tee();
            copy.key_by(|(_, articles)| *articles)
                .window(Tumbling::of(Duration::from_millis(100)))
                .aggregate(Count)
                .map(|row| (row.key, row.window.start.0, row.value))
                .sink(sinks.1.clone());
            answers.sink(sinks.0.clone());
        });
        let report = job.shards(shards).combine(false).run().unwrap();
        assert_eq!(report.measured.late, 0, "{shards} shards");
        let mut expected = BTreeMap::new();
        for order in orders(3_000) {
            *expected.entry((order.articles.len() as u64, order.number as i64 / 100 * 100)).or_insert(0) += 1;
        }
        let expected: Vec<_> = expected.into_iter().map(|((key, start), count)| (key, start, count)).collect();
        let mut windows = windows.rows();
        windows.sort_unstable();
        assert_eq!(windows, expected, "{shards} shards");
        let most = most.load(Ordering::Relaxed);
        assert!((10..=20 * u64::from(shards)).contains(&most), "{most} were under way at once");
        let numbers: Vec<u64> = answers.rows().iter().map(|(number, _)| *number).collect();
        let per_shard = |shard| numbers.iter().copied().filter(move |number| number % u64::from(shards) == shard);
        let is_sorted = (0..u64::from(shards)).all(|shard| per_shard(shard).is_sorted());
        assert_eq!(is_sorted, is_ordered, "{shards} shards");
    }
}

#[test]
fn errors_are_retried_and_then_dropped_and_counted_or_fail_the_job() {
    let ask = |tries: Arc<AtomicU64>| {
        move |number: u64| {
            let tries = tries.clone();
            async move {
                let nth = tries.fetch_add(1, Ordering::Relaxed);
                match number {
                    1 => Err("there is no number 1".into()),
                    // Answered at the third try only.
                    2 if nth < 2 => Err("busy".into()),
                    3 => {
                        sleep(MINUTE).await;
                        Ok(0)
                    }
                    other => Ok::<u64, BoxError>(other * 10),
                }
            }
        }
    };
    let run = |numbers: Vec<u64>, how: Requests| {
        let (sink, tries) = (MemorySink::new(), Arc::new(AtomicU64::new(0)));
        let (rows, tried) = (sink.clone(), tries.clone());
        let job = Job::new("retried", move |flow| {
            let source = flow.source(Items::of(numbers.clone()));
            source.map_async(how, ask(tries.clone())).named("asks").sink(sink.clone());
        });
        let job = job.restart(RestartStrategy::never());
        (job.run(), rows.rows(), tried.load(Ordering::Relaxed))
    };
    let how = Requests::ordered(Duration::from_millis(300)).retries(2, Duration::from_millis(1));
    let (report, rows, tries) = run(vec![2], how);
    assert_eq!((report.unwrap().measured.skipped, rows, tries), (0, vec![20], 3));
    let (report, rows, tries) = run(vec![1], how.on_error(OnError::Skip));
    assert_eq!((report.unwrap().measured.skipped, rows, tries), (1, vec![], 3));
    let (report, rows, _) = run(vec![4, 3, 5], how.on_error(OnError::Skip));
    assert_eq!((report.unwrap().measured.skipped, rows), (1, vec![40, 50]));
    let told = run(vec![1], how).0.unwrap_err().to_string();
    assert!(
        told.contains("operator \"asks\": a request for a row at ") && told.contains("there is no number 1"),
        "{told}"
    );
    let told = run(vec![3], how).0.unwrap_err().to_string();
    assert!(told.contains("no answer came within 300ms"), "{told}");
}

#[test]
fn a_panic_in_a_request_is_laid_at_its_operators_door() {
    let job = Job::new("panics", |flow| {
        flow.source(Items::of(vec![7_u64]))
            .map_async(Requests::ordered(MINUTE), |number| async move {
                assert!(number != 7, "sevens are not asked about");
                Ok(number)
            })
            .named("asks")
            .sink(NullSink::new());
    });
    let job = job.restart(RestartStrategy::never());
    let told = job.run().unwrap_err().to_string();
    assert!(told.contains("operator \"asks\": panicked: sevens are not asked about"), "{told}");
}

/// Requests that are not answered while a first run lasts, though their capacity is full: its checkpoints complete, and the
/// runs after it, on other numbers of shards, ask again. A failure in the middle of it changes nothing.
#[test]
fn what_has_no_answer_is_part_of_the_snapshot() {
    const COUNT: u64 = 700;
    let place = tempfile::tempdir().unwrap();
    let (checkpoints, out) = (place.path().join("checkpoints"), place.path().join("out"));
    let job = |shards: u32, answered: u64, fails: Arc<AtomicBool>| {
        let out = out.clone();
        let job = Job::new("asked", move |flow| {
            let fails = fails.clone();
            let lines =
                FileSink::lines(&out, |line: &String, bytes: &mut Vec<u8>| bytes.extend_from_slice(line.as_bytes()));
            flow.source(Items::of(orders(COUNT)))
                .named("orders")
                .map_async(Requests::unordered(MINUTE * 60).capacity(8), move |order: Order| {
                    let fails = fails.clone();
                    async move {
                        if order.number % 100 >= answered {
                            sleep(MINUTE * 60).await;
                        }
                        sleep(pause(order.number)).await;
                        if order.number == 350 && fails.swap(false, Ordering::Relaxed) {
                            return Err("the test's own failure".into());
                        }
                        Ok(format!("{} {:?}", order.number, order.articles))
                    }
                })
                .named("asks")
                .sink_named("answers", lines);
        });
        let restart = RestartStrategy { initial: Duration::from_millis(1), ..RestartStrategy::default() };
        job.shards(shards).checkpoints(&checkpoints, Duration::from_millis(5)).restart(restart)
    };
    let never = || Arc::new(AtomicBool::new(false));
    for (shards, answered) in [(2, 5), (3, 9)] {
        let running = job(shards, answered, never()).start().unwrap();
        // Each of them takes a checkpoint, with requests under way for ever and rows that wait for capacity.
        for nth in 0..3 {
            running.savepoint(place.path().join(format!("savepoint-{shards}-{nth}"))).unwrap();
        }
        running.stop();
        assert!(running.wait().unwrap().stopped);
    }
    let report = job(1, 100, Arc::new(AtomicBool::new(true))).run().unwrap();
    assert_eq!(report.restarts.len(), 1);
    let mut lines = Vec::new();
    for file in std::fs::read_dir(&out).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            lines.extend(std::fs::read_to_string(path).unwrap().lines().map(str::to_owned));
        }
    }
    let mut expected: Vec<_> =
        orders(COUNT).iter().map(|order| format!("{} {:?}", order.number, order.articles)).collect();
    lines.sort();
    expected.sort();
    assert!(lines == expected, "{} lines, not {}", lines.len(), expected.len());
}
