//! Windows with triggers in whole jobs: sessions over several shards, stopped and started on other numbers of them; batch
//! jobs; windows of processing time; what is refused before it runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::sales::{Place, Sale, Sales, assert_same};
use millstream::{
    Continuous, Count, CountWindow, Element, Global, Items, Job, Keep, RestartStrategy, Session, Sink, Timestamp,
    Tumbling, Watermarks,
};
use millstream_connectors::file::FileSink;
use millstream_connectors::memory::MemorySink;

const SALES: u64 = 30_000;
/// Odd, and times are even, so that no two sessions touch: whether those are one depends on when the watermark came.
const GAP_MS: i64 = 301;

fn line(shop: u64, start: i64, end: i64, count: usize, cents: i64) -> String {
    format!("{shop},{start},{end},{count},{cents}")
}

/// The slow twin: each shop's sales in the order of time, cut where it is silent.
fn oracle() -> Vec<String> {
    let mut shops: BTreeMap<u64, Vec<(i64, i64)>> = BTreeMap::new();
    (0..SALES)
        .map(Sale::number)
        .for_each(|sale| shops.entry(sale.shop).or_default().push((sale.at_ms * 2, sale.cents)));
    let mut lines = Vec::new();
    for (shop, mut sold) in shops {
        sold.sort_unstable();
        for visit in sold.chunk_by(|one, next| next.0 - one.0 <= GAP_MS) {
            let (start, end) = (visit[0].0, visit[visit.len() - 1].0 + GAP_MS);
            lines.push(line(shop, start, end, visit.len(), visit.iter().map(|(_, cents)| cents).sum()));
        }
    }
    lines.sort_unstable();
    lines
}

fn lines_to(out: &Path) -> impl Sink<String> + use<> {
    FileSink::lines(out, |line: &String, bytes: &mut Vec<u8>| bytes.extend_from_slice(line.as_bytes()))
}

/// Sessions that keep their rows.
fn job(source: &Sales, place: &Place, shards: u32) -> Job {
    let (source, out) = (source.clone(), place.out());
    Job::new("visits", move |flow| {
        flow.source(source.clone())
            .event_time(|sale| Timestamp(sale.at_ms * 2), Watermarks::monotonic())
            .key_by(|sale| sale.shop)
            .window(Session::gap(Duration::from_millis(GAP_MS as u64)))
            .elements()
            .evict(Keep::last(u64::MAX))
            .process(|shop, window, _pane, rows: &[Element<Sale>]| {
                let window = window.unwrap();
                let cents = rows.iter().map(|element| element.row.cents).sum();
                [line(*shop, window.start.0, window.end.0, rows.len(), cents)]
            })
            .named("visits")
            .sink(lines_to(&out));
    })
    .restart(RestartStrategy { initial: Duration::ZERO, max: Duration::ZERO, attempts: 0 })
    .shards(shards)
    .checkpoints(place.checkpoints(), Duration::from_millis(7))
}

#[test]
fn sessions_go_on_on_other_numbers_of_shards() {
    let expected = oracle();
    for walk in [[1, 3, 2], [4, 1, 5]] {
        let place = Place::new();
        let source = Sales { pace: 200, ..Sales::of(SALES) };
        let mut taken = 0;
        for (stop, shards) in walk.into_iter().take(2).enumerate() {
            let gate = SALES / 3 * (stop as u64 + 1);
            source.gate.store(gate, Ordering::Relaxed);
            let running = job(&source, &place, shards).start().unwrap();
            while running.events_in() < gate - taken {
                assert!(!running.is_finished(), "{walk:?}: {:?}", running.wait());
                std::thread::yield_now();
            }
            running.stop();
            assert!(running.wait().unwrap().stopped, "{walk:?}");
            taken = gate;
        }
        source.gate.store(SALES, Ordering::Relaxed);
        let report = job(&source, &place, walk[2]).run().unwrap();
        assert_same(&place.lines(), &expected, &format!("{walk:?}"));
        assert!(report.restored.is_some_and(|restored| restored.state.entries > 0), "{walk:?}");
    }
}

#[test]
fn a_batch_job_sums_up_each_group() {
    for shards in [1, 3] {
        let sink = MemorySink::new();
        let sums = sink.clone();
        let sold = || (0..1_000).map(Sale::number);
        Job::new("batch", move |flow| {
            flow.source(Items::of(sold().collect()))
                .group_by(|sale: &Sale| sale.shop % 7)
                .sum(|sale| sale.cents)
                .map(|sum| (sum.key, sum.value))
                .sink(sink.clone());
        })
        .shards(shards)
        .run()
        .unwrap();
        let mut expected = BTreeMap::new();
        sold().for_each(|sale| *expected.entry(sale.shop % 7).or_insert(0) += sale.cents);
        let mut sums = sums.rows();
        sums.sort_unstable();
        assert_eq!(sums, expected.into_iter().collect::<Vec<_>>(), "{shards} shards");
    }
}

#[test]
fn windows_of_wall_time_are_emitted_at_the_latest_when_the_input_ends() {
    let sink = MemorySink::new();
    let counts = sink.clone();
    Job::new("wall", move |flow| {
        flow.source(Items::of((0..1_000).map(Sale::number).collect()))
            .key_by(|sale: &Sale| sale.shop % 3)
            .window(Tumbling::of(Duration::from_secs(3_600)).processing_time())
            .aggregate(Count)
            .map(|fired| fired.value)
            .sink(sink.clone());
    })
    .run()
    .unwrap();
    assert_eq!(counts.rows().iter().sum::<u64>(), 1_000, "an hour may have begun meanwhile");
}

#[test]
fn triggers_want_event_time_where_they_are_of_it() {
    let totals = Job::new("totals", |flow| {
        let sales = flow.source(Items::of(vec![Sale::number(0)])).key_by(|sale: &Sale| sale.shop);
        let totals = sales.window(Global).trigger(Continuous::every(Duration::from_secs(1)));
        totals.aggregate(Count).map(|_| ()).sink(MemorySink::new());
    });
    let error = totals.explain().unwrap_err().to_string();
    assert!(error.contains("needs event time") && error.contains(".event_time("), "{error}");
    let counts = Job::new("counts", |flow| {
        let sales = flow.source(Items::of(vec![Sale::number(0)])).key_by(|sale: &Sale| sale.shop);
        sales.window(CountWindow::of(10)).aggregate(Count).map(|_| ()).sink(MemorySink::new());
    });
    let plan = counts.explain().unwrap();
    assert!(plan.contains("global_window"), "{plan}");
}
