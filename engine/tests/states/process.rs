//! Whole jobs with process functions: on any number of shards, through failures, stops and other numbers of shards, the answer
//! is the plain one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::arrivals::{Arrivals, arrivals};
use crate::sales::{Once, Place, Sale, Sales, assert_same};
use millstream::state::{KeyedState, Map, Value};
use millstream::{
    BoxError, Clock, Items, Job, OnError, Process, ProcessContext, RestartStrategy, SideOutput, Sink, Timer, Timestamp,
    Updated, Watermarks,
};
use millstream_connectors::file::FileSink;
use millstream_connectors::log::{LogSource, LogWriter};
use millstream_connectors::memory::{MemorySink, NullSink};

/// Sales of one run.
const SALES: u64 = 40_000;

/// What a shop has sold in each second that is not over.
#[derive(KeyedState)]
struct Open {
    cents: Map<i64, i64>,
    dearest: Map<i64, u64>,
}

/// Sums per shop and second, made of timers; a sale below a price is told of on the side.
struct PerSecond {
    cheap: SideOutput<Sale>,
    look: Box<dyn Fn(&Sale)>,
}

type Cx<'a> = ProcessContext<'a, u64, String>;

impl Process<u64, Sale> for PerSecond {
    type State = Open;
    type Out = String;

    fn on_event(&mut self, open: &mut Open, sale: Sale, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        (self.look)(&sale);
        assert_eq!((*cx.key(), cx.timestamp()), (sale.shop, Timestamp(sale.at_ms)));
        let start = sale.at_ms / 1000 * 1000;
        open.cents.update_or(start, 0, |cents| *cents += sale.cents);
        open.dearest.update_or(start, 0, |dearest| *dearest = (*dearest).max(sale.number));
        // Twice, and others that never fire: one is taken back, the other's time does not come.
        let now = cx.now();
        let mut timers = cx.timers();
        timers.event(Timestamp(start + 999));
        timers.event(Timestamp(start + 999));
        timers.event(Timestamp(start + 500));
        timers.processing(now.plus_ms(3_600_000));
        if !timers.delete_event(Timestamp(start + 500)) {
            return Err("a timer was not there to be deleted".into());
        }
        if sale.cents < -250 {
            cx.side(&self.cheap, sale);
        }
        Ok(())
    }

    fn on_timer(&mut self, open: &mut Open, timer: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let Timer::Event(Timestamp(at)) = timer else { return Err("an hour has not passed".into()) };
        let start = at - 999;
        let cents = *open.cents.get(&start).ok_or_else(|| format!("nothing was sold by {at}"))?;
        let newest = *open.dearest.get(&start).ok_or("two maps differ")?;
        open.cents.remove(&start);
        open.dearest.remove(&start);
        cx.emit(format!("{},{start},{cents},{newest}", cx.key()));
        Ok(())
    }
}

/// The slow twin: no watermarks, no shards, no timers.
fn oracle() -> Vec<String> {
    let mut seconds: BTreeMap<(u64, i64), (i64, u64)> = BTreeMap::new();
    let mut cheap: BTreeMap<u64, u64> = BTreeMap::new();
    let mut lines = Vec::new();
    for sale in (0..SALES).map(Sale::number) {
        let second = seconds.entry((sale.shop, sale.at_ms / 1000 * 1000)).or_default();
        *second = (second.0 + sale.cents, second.1.max(sale.number));
        if sale.cents < -250 {
            let nth = cheap.entry(sale.number % 10).or_default();
            *nth += 1;
            lines.push(format!("cheap {} {nth}", sale.number % 10));
        }
    }
    lines.extend(seconds.iter().map(|((shop, start), (cents, newest))| format!("{shop},{start},{cents},{newest}")));
    lines.sort_unstable();
    lines
}

fn lines_to(out: &Path) -> impl Sink<String> + use<> {
    FileSink::lines(out, |line: &String, bytes: &mut Vec<u8>| bytes.extend_from_slice(line.as_bytes()))
}

fn job(source: &Sales, place: &Place, shards: u32, look: impl Fn(&Sale) + Clone + Send + Sync + 'static) -> Job {
    let (source, out, side_out) = (source.clone(), place.out(), place.path().join("side"));
    Job::new("shops", move |flow| {
        let cheap = SideOutput::new();
        let shops = flow
            .source(source.clone())
            .event_time(|sale| Timestamp(sale.at_ms), Watermarks::monotonic())
            .key_by(|sale| sale.shop)
            .process(PerSecond { cheap: cheap.clone(), look: Box::new(look.clone()) })
            .named("per-second");
        // The side goes on across an edge of its own.
        shops
            .side(&cheap)
            .key_by(|sale| sale.number % 10)
            .running(millstream::Count)
            .named("cheap")
            .map(|row: &Updated<u64, u64>| format!("cheap {} {}", row.key, row.value))
            .sink_named("side", lines_to(&side_out));
        shops.sink_named("main", lines_to(&out));
    })
    .restart(RestartStrategy { initial: Duration::from_millis(1), max: Duration::from_millis(1), attempts: 5 })
    .shards(shards)
    .checkpoints(place.checkpoints(), Duration::from_millis(7))
}

fn all_lines(place: &Place) -> Vec<String> {
    let mut lines = place.lines();
    lines.extend(crate::sales::lines(&place.path().join("side")));
    lines.sort_unstable();
    lines
}

fn paced() -> Sales {
    Sales { pace: 200, ..Sales::of(SALES) }
}

#[test]
fn timers_and_sides_come_back_after_panics() {
    let expected = oracle();
    for shards in [1, 3] {
        let what = format!("{shards} shards");
        let place = Place::new();
        // All of one shop: two shards could panic in one attempt.
        let of_shop = |sale: u64| (0..=sale).rev().find(|sale| Sale::number(*sale).shop == 13).unwrap();
        let panics = [7_919, 21_013, SALES - 3].map(of_shop).map(Once::at);
        let look = move |sale: &Sale| {
            assert!(!panics.iter().any(|at| at.is(sale.number)), "sale {} fell on the floor", sale.number);
        };
        // Half is held back until there is a checkpoint, however slow the disk is.
        let source = paced();
        source.gate.store(SALES / 2, Ordering::Relaxed);
        let running = job(&source, &place, shards, look).start().unwrap();
        while place.epochs().is_empty() {
            std::thread::yield_now();
        }
        source.gate.store(SALES, Ordering::Relaxed);
        let report = running.wait().unwrap();
        assert_same(&all_lines(&place), &expected, &what);
        assert_eq!(report.restarts.len(), 3, "{what}: {:?}", report.restarts);
        for reason in &report.restarts {
            assert!(reason.starts_with("operator \"per-second\": panicked: sale "), "{what}: {reason}");
        }
        assert!(report.restored_epoch > 0, "{what}: the last restart is from a checkpoint");
    }
}

/// A step that takes long is cut short in the middle of a batch: what is left waits, in its order, and a barrier behind it.
#[test]
fn rows_that_take_long_are_cut_into_turns() {
    let expected = oracle();
    for shards in [1, 2] {
        let place = Place::new();
        let clock = Clock::system();
        let look = move |sale: &Sale| {
            let began = clock.now();
            while sale.number.is_multiple_of(64) && clock.now().since(began) < Duration::from_micros(700) {
                std::hint::spin_loop();
            }
        };
        let report = job(&Sales::of(SALES), &place, shards, look).run().unwrap();
        assert_same(&all_lines(&place), &expected, &format!("{shards} shards"));
        assert!(report.checkpoints.completed > 1, "{report}");
    }
}

#[test]
fn a_stopped_job_goes_on_with_its_timers_on_other_numbers_of_shards() {
    let expected = oracle();
    for walk in [[1, 2, 1], [3, 1, 4], [2, 5, 3]] {
        let what = format!("{walk:?} shards");
        let place = Place::new();
        let source = paced();
        let mut taken = 0;
        for (stop, shards) in walk.into_iter().take(2).enumerate() {
            let gate = SALES / 3 * (stop as u64 + 1);
            source.gate.store(gate, Ordering::Relaxed);
            let running = job(&source, &place, shards, |_| {}).start().unwrap();
            while running.events_in() < gate - taken {
                assert!(!running.is_finished(), "{what}: {:?}", running.wait());
                std::thread::yield_now();
            }
            running.stop();
            assert!(running.wait().unwrap().stopped, "{what}");
            taken = gate;
        }
        source.gate.store(SALES, Ordering::Relaxed);
        let report = job(&source, &place, walk[2], |_| {}).run().unwrap();
        assert_same(&all_lines(&place), &expected, &what);
        assert!(report.restarts.is_empty(), "{what}: {:?}", report.restarts);
        assert!(report.restored.is_some_and(|restored| restored.state.entries > 0), "{what}");
    }
}

/// Lets a key through once in ten seconds.
struct OnceInTen;

#[derive(KeyedState)]
struct Seen {
    is_seen: Value<bool>,
}

impl Process<u64, u64> for OnceInTen {
    type State = Seen;
    type Out = (u64, i64);

    fn on_event(
        &mut self,
        seen: &mut Seen,
        _: u64,
        cx: &mut ProcessContext<'_, u64, (u64, i64)>,
    ) -> Result<(), BoxError> {
        if !seen.is_seen.is_set() {
            seen.is_seen.set(true);
            let (key, at) = (*cx.key(), cx.timestamp());
            cx.timers().event(at.plus_ms(10_000));
            cx.emit((key, at.0));
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        seen: &mut Seen,
        _: Timer,
        _: &mut ProcessContext<'_, u64, (u64, i64)>,
    ) -> Result<(), BoxError> {
        seen.is_seen.clear();
        Ok(())
    }
}

#[test]
fn rows_are_let_through_again_once_a_timer_has_fired() {
    // A batch has one watermark, behind it: rows of one key lie more than a batch apart.
    let rows: Vec<u64> = (0..60_000).collect();
    let sink = MemorySink::new();
    let got = sink.clone();
    Job::new("once", move |flow| {
        flow.source(Items::of(rows.clone()))
            .event_time(|number| Timestamp(*number as i64), Watermarks::monotonic())
            .key_by(|number| number / 2_000 % 3)
            .process(OnceInTen)
            .sink(sink.clone());
    })
    .run()
    .unwrap();
    let mut rows = got.rows();
    rows.sort_unstable();
    // Every key comes for 2 s every 6 s: let through at first, and again in the first visit that begins 10 s later.
    let mut expected = Vec::new();
    for key in 0..3u64 {
        let mut closed_until = i64::MIN;
        for visit in (key as i64 * 2_000..60_000).step_by(6_000) {
            if visit >= closed_until {
                expected.push((key, visit));
                closed_until = visit + 10_000;
            }
        }
    }
    assert_eq!(rows, expected);
}

/// A timer for every key, all due at the end of the input.
struct AtTheEnd;

#[derive(KeyedState)]
struct Nothing {
    _unused: Value<u64>,
}

impl Process<u64, u64> for AtTheEnd {
    type State = Nothing;
    type Out = u64;

    fn on_event(&mut self, _: &mut Nothing, _: u64, cx: &mut ProcessContext<'_, u64, u64>) -> Result<(), BoxError> {
        cx.timers().event(Timestamp(1_000_000));
        Ok(())
    }

    fn on_timer(
        &mut self,
        _: &mut Nothing,
        timer: Timer,
        cx: &mut ProcessContext<'_, u64, u64>,
    ) -> Result<(), BoxError> {
        assert_eq!((timer, cx.watermark()), (Timer::Event(Timestamp(1_000_000)), Timestamp::MAX));
        let key = *cx.key();
        cx.emit(key);
        Ok(())
    }
}

#[test]
fn a_million_timers_of_one_watermark_do_not_hold_a_turn() {
    const KEYS: u64 = 1_000_000;
    let (rows, sink) = ((0..KEYS).collect::<Vec<u64>>(), NullSink::new());
    let got = sink.clone();
    let report = Job::new("million", move |flow| {
        flow.source(Items::of(rows.clone()))
            .event_time(|_| Timestamp(0), Watermarks::monotonic())
            .key_by(|number| *number)
            .process(AtTheEnd)
            .sink(sink.clone());
    })
    .run()
    .unwrap();
    assert_eq!(got.rows(), KEYS);
    let turns = &report.measured.turn_us;
    println!("{} turns: {} µs at p99, {} µs at most", turns.len(), turns.value_at_quantile(0.99), turns.max());
    // At most 16 slices of 128 a turn. Far over what such a turn takes on a machine of one's own, and under what a million
    // timers take in one.
    assert!(turns.len() > KEYS / (16 * 128), "{} turns", turns.len());
    assert!(turns.max() < 400_000, "a turn took {} µs", turns.max());
}

/// Hands a row on after so many milliseconds of wall time.
struct Later {
    ms: i64,
}

impl Process<u64, u64> for Later {
    type State = Nothing;
    type Out = u64;

    fn on_event(&mut self, _: &mut Nothing, _: u64, cx: &mut ProcessContext<'_, u64, u64>) -> Result<(), BoxError> {
        let at = cx.now().plus_ms(self.ms);
        cx.timers().processing(at);
        Ok(())
    }

    fn on_timer(
        &mut self,
        _: &mut Nothing,
        timer: Timer,
        cx: &mut ProcessContext<'_, u64, u64>,
    ) -> Result<(), BoxError> {
        assert!(matches!(timer, Timer::Processing(at) if at <= cx.now()), "{timer} at {}", cx.now());
        let key = *cx.key();
        cx.emit(key);
        Ok(())
    }
}

fn later(log: &Path, sink: Arrivals, ms: i64) -> Job {
    let log = log.to_owned();
    Job::new("later", move |flow| {
        let parse = |row: &[u8]| {
            std::str::from_utf8(row)
                .map_err(|error| error.to_string())?
                .parse::<u64>()
                .map_err(|error| error.to_string())
        };
        let numbers = flow.source(LogSource::new(&log).follow()).try_map(parse, OnError::Fail);
        numbers.key_by(|number| *number).process(Later { ms }).named("later").sink(sink.clone());
    })
}

#[test]
fn wall_time_wakes_a_shard_that_sleeps() {
    let clock = Clock::system();
    for shards in [1, 2] {
        let place = Place::new();
        let path = place.path().join("log");
        let mut log = LogWriter::create(&path, shards).unwrap();
        let (sink, arrived) = arrivals();
        let running = later(&path, sink, 80).shards(shards).start().unwrap();
        let took = (1..=5_u64).map(|number| {
            let sent = clock.now();
            log.append((number % u64::from(shards)) as u32, number.to_string().as_bytes()).unwrap();
            log.flush().unwrap();
            assert_eq!(arrived.recv_timeout(Duration::from_secs(10)), Ok(number), "{shards} shards");
            clock.now().since(sent)
        });
        let took: Vec<Duration> = took.collect();
        // Wall time is read in whole milliseconds.
        assert!(took.iter().all(|took| *took >= Duration::from_millis(79)), "{shards} shards: too early: {took:?}");
        // One is enough: where other tests have the core, any may be late. A shard that nobody wakes always is, for the lead
        // looks after it when it has stood still for 200 ms.
        assert!(took.iter().any(|took| *took < Duration::from_millis(180)), "{shards} shards: too late: {took:?}");
        running.stop();
        running.wait().unwrap();
    }
}

#[test]
fn what_wall_time_has_come_to_while_a_job_was_stopped_fires_when_it_goes_on() {
    for by_savepoint in [false, true] {
        let place = Place::new();
        let path = place.path().join("log");
        let mut log = LogWriter::create(&path, 2).unwrap();
        for number in 0..100_u64 {
            log.append((number % 2) as u32, number.to_string().as_bytes()).unwrap();
        }
        log.flush().unwrap();
        let on = |clock: &Clock, sink, shards, checkpoints: &str| {
            let clock = clock.clone();
            let job = later(&path, sink, 60_000).shards(shards).configure(move |config| config.clock = clock.clone());
            job.checkpoints(place.path().join(checkpoints), Duration::from_millis(20))
        };
        let clock = Clock::jumping();
        let (sink, arrived) = arrivals();
        let running = on(&clock, sink, 2, "checkpoints").start().unwrap();
        while running.events_in() < 100 {
            std::thread::yield_now();
        }
        let savepoint = place.path().join("savepoint");
        if by_savepoint {
            running.stop_with_savepoint(&savepoint).unwrap();
        } else {
            running.stop();
        }
        running.wait().unwrap();
        assert!(arrived.try_recv().is_err(), "a minute has not passed");
        clock.advance_ms(61_000);
        let (sink, arrived) = arrivals();
        let again = if by_savepoint {
            on(&clock, sink, 3, "others").from_savepoint(&savepoint)
        } else {
            on(&clock, sink, 3, "checkpoints")
        };
        let running = again.start().unwrap();
        let mut numbers: Vec<u64> = (0..100).map(|_| arrived.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
        running.stop();
        running.wait().unwrap();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..100), "by savepoint {by_savepoint}");
        assert!(arrived.try_recv().is_err(), "each fires once");
    }
}

/// Counts what is called, and fails where it is told to.
struct Told {
    opened: Arc<AtomicU64>,
    closed: Arc<AtomicU64>,
    fails: Once,
}

impl Process<u64, u64> for Told {
    type State = Nothing;
    type Out = u64;

    fn open(&mut self) -> Result<(), BoxError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        if self.fails.is(1_000) { Err("the door is locked".into()) } else { Ok(()) }
    }

    fn on_event(&mut self, _: &mut Nothing, row: u64, cx: &mut ProcessContext<'_, u64, u64>) -> Result<(), BoxError> {
        if self.fails.is(row) {
            let cause = "x".parse::<u64>().unwrap_err();
            return Err(std::io::Error::other(cause).into());
        }
        cx.timers().event(Timestamp(7));
        cx.emit(row);
        Ok(())
    }

    fn on_timer(&mut self, _: &mut Nothing, _: Timer, _: &mut ProcessContext<'_, u64, u64>) -> Result<(), BoxError> {
        if self.fails.is(2_000) { Err("no time".into()) } else { Ok(()) }
    }

    fn close(&mut self) -> Result<(), BoxError> {
        self.closed.fetch_add(1, Ordering::Relaxed);
        if self.fails.is(3_000) { Err("the door is stuck".into()) } else { Ok(()) }
    }
}

#[test]
fn an_error_restarts_the_job_and_says_where_and_why() {
    let cases = [
        (u64::MAX - 1, None, 2, 2),
        (1_000, Some("operator \"told\": it cannot be opened: the door is locked"), 3, 2),
        (50, Some("operator \"told\": an event at 50 ms: invalid digit found in string"), 4, 2),
        (2_000, Some("operator \"told\": the event-time timer at 7 ms: no time"), 4, 2),
        (3_000, Some("operator \"told\": its close: the door is stuck"), 4, 3),
    ];
    for (fails_at, why, opened_min, closed_min) in cases {
        let (opened, closed, fails) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default(), Once::at(fails_at));
        let sink = MemorySink::new();
        let (got, calls) = (sink.clone(), (opened.clone(), closed.clone()));
        let report = Job::new("told", move |flow| {
            let (opened, closed) = calls.clone();
            flow.source(Items::of((0..100_u64).collect::<Vec<_>>()))
                .event_time(|number| Timestamp(*number as i64), Watermarks::monotonic())
                .key_by(|number| *number)
                .process(Told { opened, closed, fails: fails.clone() })
                .named("told")
                .sink(sink.clone());
        })
        .shards(2)
        .restart(RestartStrategy { initial: Duration::ZERO, max: Duration::ZERO, attempts: 2 })
        .run()
        .unwrap();
        let mut rows = got.rows();
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..100), "{why:?}");
        assert_eq!(report.restarts.len(), usize::from(why.is_some()), "{why:?}: {:?}", report.restarts);
        assert!(why.is_none_or(|why| report.restarts[0].contains(why)), "{why:?}: {:?}", report.restarts);
        let calls = (opened.load(Ordering::Relaxed), closed.load(Ordering::Relaxed));
        assert!(calls.0 >= opened_min && calls.1 >= closed_min, "{why:?}: {calls:?}");
    }
}

#[test]
fn a_side_output_has_one_stream_and_its_operator_another() {
    let sink = MemorySink::<Sale>::new();
    let sided = |twice: bool| {
        let sink = sink.clone();
        Job::new("sides", move |flow| {
            let cheap = SideOutput::new();
            let look = Box::new(|_: &Sale| {});
            let shops =
                flow.source(Sales::of(5)).key_by(|sale| sale.shop).process(PerSecond { cheap: cheap.clone(), look });
            shops.side(&cheap).sink(sink.clone());
            if twice {
                drop(shops.side(&cheap));
            }
        })
    };
    let error = sided(true).run().unwrap_err().to_string();
    assert!(error.contains("a side output of states::sales::Sale has a stream already"), "{error}");
    let error = sided(false).run().unwrap_err().to_string();
    assert!(error.contains("nothing comes behind \"process-1\" but its side outputs"), "{error}");
}

#[test]
fn timers_are_states_of_their_operator_that_checkpoints_know() {
    let place = Place::new();
    let (sink, other_sink) = (NullSink::new(), NullSink::new());
    let processed = Job::new("known", move |flow| {
        let numbers = flow.source(Items::of(vec![1_u64, 2, 3])).key_by(|number| *number);
        numbers.process(AtTheEnd).named("known").sink(sink.clone());
    });
    let schemas = processed.schemas().unwrap();
    let states: Vec<_> = schemas.states_of("known").unwrap().iter().map(|state| state.state.name.clone()).collect();
    assert_eq!(states, ["_unused", "event timers", "processing timers"]);
    processed.checkpoints(place.checkpoints(), Duration::from_secs(10)).run().unwrap();
    let mapped = Job::new("known", move |flow| {
        let numbers = flow.source(Items::of(vec![1_u64, 2, 3])).key_by(|number| *number);
        numbers.map_with_state(|_: &mut Nothing, number| *number).named("known").sink(other_sink.clone());
    });
    let error = mapped.checkpoints(place.checkpoints(), Duration::from_secs(10)).run().unwrap_err().to_string();
    assert!(error.contains("\"known\"") && error.contains("timers"), "{error}");
}
