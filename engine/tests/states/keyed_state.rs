//! Whole jobs whose rows meet the states of their key: on any number of shards, through failures and stops, the answer is
//! the plain one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::sales::{Once, Place, Sale, Sales, assert_same};
use millstream::state::{Aggregating, Greatest, KeyedState, List, Map, Reducing, Value};
use millstream::{Count, Items, Job, Polled, RestartStrategy, Source, SourceError, Split, Text, Timestamp, Watermarks};
use millstream_connectors::file::FileSink;
use millstream_connectors::memory::MemorySink;

/// Sales of one run.
const SALES: u64 = 40_000;

/// Every kind of state of a shop.
#[derive(KeyedState)]
struct Shop {
    cents: Value<i64>,
    name: Value<String>,
    newest: List<i64>,
    per_price: Map<i64, u32>,
    slips: Map<String, u64>,
    dearest: Reducing<i64, Greatest>,
    sales: Aggregating<Count, Sale>,
}

fn sell(shop: &mut Shop, sale: &Sale) -> String {
    shop.sales.add(sale);
    let cents = shop.cents.update_or(0, |cents| {
        *cents += sale.cents;
        *cents
    });
    if shop.sales.result() % 7 == 1 {
        // Now and then longer than a page.
        shop.name.set(format!("{}/", sale.number).repeat(1 + sale.number as usize % 900));
    }
    shop.newest.push(sale.cents);
    shop.newest.keep_last(5);
    let price = sale.cents / 100;
    let alike = shop.per_price.update_or(price, 0, |alike| {
        *alike += 1;
        *alike
    });
    if alike == 3 {
        shop.per_price.remove(&price);
    }
    let slip = format!("slip {}", sale.number % 5);
    shop.slips.insert(slip.clone(), sale.number);
    let newest: i64 = shop.newest.iter().sum();
    let (prices, slips): (u32, u64) =
        (shop.per_price.iter().map(|(_, n)| n).sum(), shop.slips.iter().map(|(_, n)| n).sum());
    let dearest = shop.dearest.add(sale.cents);
    let name = shop.name.get().map_or(0, |name| name.len());
    format!("{},{},{cents},{name},{newest},{prices},{slips},{dearest}", sale.shop, sale.number)
}

/// The slow twin.
fn oracle() -> Vec<String> {
    #[derive(Default)]
    struct Plain {
        cents: i64,
        name: String,
        newest: Vec<i64>,
        per_price: BTreeMap<i64, u32>,
        slips: BTreeMap<u64, u64>,
        dearest: Option<i64>,
        sales: u64,
    }
    let mut shops: BTreeMap<u64, Plain> = BTreeMap::new();
    let mut lines = Vec::new();
    for sale in (0..SALES).map(Sale::number) {
        let shop = shops.entry(sale.shop).or_default();
        shop.sales += 1;
        shop.cents += sale.cents;
        if shop.sales % 7 == 1 {
            shop.name = format!("{}/", sale.number).repeat(1 + sale.number as usize % 900);
        }
        shop.newest.push(sale.cents);
        let gone = shop.newest.len().saturating_sub(5);
        shop.newest.drain(..gone);
        let alike = shop.per_price.entry(sale.cents / 100).or_default();
        *alike += 1;
        if *alike == 3 {
            shop.per_price.remove(&(sale.cents / 100));
        }
        shop.slips.insert(sale.number % 5, sale.number);
        shop.dearest = shop.dearest.max(Some(sale.cents));
        let (newest, prices): (i64, u32) = (shop.newest.iter().sum(), shop.per_price.values().sum());
        let slips: u64 = shop.slips.values().sum();
        let (shop_id, number, cents, name) = (sale.shop, sale.number, shop.cents, shop.name.len());
        lines.push(format!("{shop_id},{number},{cents},{name},{newest},{prices},{slips},{}", shop.dearest.unwrap()));
    }
    lines.sort_unstable();
    lines
}

/// Sales by shop, so that each shop's come from one split and therefore in order.
#[derive(Clone)]
struct ByShop(Sales);

impl Source for ByShop {
    type Batch = Vec<Sale>;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<Sale>>>>, SourceError> {
        // All sales are read everywhere, and those of other splits' shops passed over.
        let inner = self.0.open(0, 1)?.remove(0);
        Ok(vec![Box::new(Shops { inner, shard: shard.into(), shards: shards.into(), read: Vec::new() })])
    }

    fn describe(&self) -> String {
        "sales by shop".to_owned()
    }
}

struct Shops {
    inner: Box<dyn Split<Batch = Vec<Sale>>>,
    shard: u64,
    shards: u64,
    read: Vec<Sale>,
}

impl Split for Shops {
    type Batch = Vec<Sale>;

    fn name(&self) -> String {
        format!("shops-{}", self.shard)
    }

    fn poll(&mut self, out: &mut Vec<Sale>, rows_max: usize) -> Result<Polled, SourceError> {
        self.read.clear();
        let polled = self.inner.poll(&mut self.read, rows_max)?;
        out.extend(self.read.iter().filter(|sale| sale.shop % self.shards == self.shard));
        Ok(polled)
    }

    fn position(&self) -> u64 {
        self.inner.position()
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.inner.seek(position)
    }
}

fn job(source: &Sales, place: &Place, shards: u32, look: impl Fn(&Sale) + Clone + Send + Sync + 'static) -> Job {
    let (source, out) = (ByShop(source.clone()), place.out());
    Job::new("shops", move |flow| {
        let look = look.clone();
        flow.source(source.clone())
            .key_by(|sale| sale.shop)
            .map_with_state(move |shop: &mut Shop, sale| {
                look(sale);
                sell(shop, sale)
            })
            .named("sell")
            .sink(FileSink::lines(&out, |line: &String, bytes: &mut Vec<u8>| bytes.extend_from_slice(line.as_bytes())));
    })
    .restart(RestartStrategy { initial: Duration::from_millis(1), max: Duration::from_millis(1), attempts: 3 })
    .shards(shards)
    .checkpoints(place.checkpoints(), Duration::from_millis(7))
}

fn paced() -> Sales {
    Sales { pace: 200, ..Sales::of(SALES) }
}

#[test]
fn states_come_back_after_panics_on_any_number_of_shards() {
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
        assert_same(&place.lines(), &expected, &what);
        assert_eq!(report.restarts.len(), 3, "{what}: {:?}", report.restarts);
        for reason in &report.restarts {
            assert!(reason.starts_with("operator \"sell\": panicked: sale "), "{what}: {reason}");
        }
        assert!(report.restored_epoch > 0, "{what}: the last restart is from a checkpoint");
    }
}

#[test]
fn states_come_back_when_a_stopped_job_goes_on() {
    let expected = oracle();
    for shards in [1, 3] {
        let what = format!("{shards} shards");
        let place = Place::new();
        let source = paced();
        for stop in 1..=2 {
            source.gate.store(SALES / 3 * stop, Ordering::Relaxed);
            let running = job(&source, &place, shards, |_| {}).start().unwrap();
            while running.events_in() < SALES / 16 {
                std::thread::yield_now();
            }
            running.stop();
            assert!(running.wait().unwrap().stopped, "{what}");
        }
        source.gate.store(SALES, Ordering::Relaxed);
        job(&source, &place, shards, |_| {}).run().unwrap();
        assert_same(&place.lines(), &expected, &what);
    }
}

#[test]
fn a_row_may_become_any_number_of_rows_each_with_its_time() {
    #[derive(KeyedState)]
    struct Seen {
        numbers: List<u32>,
    }
    let rows: Vec<(u32, u32)> = (0..300).map(|n| (n % 7, n)).collect();
    for shards in [1, 2, 3] {
        let (rows, sink) = (rows.clone(), MemorySink::new());
        let got = sink.clone();
        let times = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
        let seen = times.clone();
        Job::new("pairs", move |flow| {
            let seen = seen.clone();
            flow.source(Items::of(rows.clone()))
                .map(|(key, n)| millstream::Both(*key, *n))
                .event_time(|row| Timestamp(i64::from(row.1)), Watermarks::bounded(Duration::from_secs(10)))
                .key_by(|row| row.0)
                .flat_map_with_state(|seen: &mut Seen, row| {
                    // More than a batch in all: each number with each that its key has seen.
                    seen.numbers.push(row.1);
                    seen.numbers.iter().map(|n| (*n, row.1)).collect::<Vec<_>>()
                })
                .inspect(move |(_, newer), at| {
                    seen.lock().unwrap().insert((*newer, at.0));
                })
                .sink(sink.clone());
        })
        .shards(shards)
        .run()
        .unwrap();
        // With one key's rows from several splits, any order of two may be; each pair is there once in one of them.
        let mut pairs: Vec<(u32, u32)> = got.rows().into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        pairs.sort_unstable();
        let mut expected: Vec<(u32, u32)> =
            (0..300).flat_map(|a| (a..300).filter(move |b| a % 7 == b % 7).map(move |b| (a, b))).collect();
        expected.sort_unstable();
        assert_eq!(pairs, expected, "{shards} shards");
        assert!(times.lock().unwrap().iter().all(|(newer, at)| i64::from(*newer) == *at), "{shards} shards");
    }
}

#[test]
fn the_plan_names_the_states_and_their_types_are_no_part_of_it() {
    #[derive(KeyedState)]
    struct One {
        count: Value<u64>,
    }
    #[derive(KeyedState)]
    struct Two {
        #[state(ttl = "90s")]
        names: Map<Text<8>, String>,
        count: Value<u64>,
    }
    fn counting<S: KeyedState>(rows: Vec<u64>, sink: MemorySink<u64>, place: &Place, count: fn(&mut S) -> u64) -> Job {
        Job::new("states", move |flow| {
            let counted = flow.source(Items::of(rows.clone())).key_by(|n| n % 3);
            counted.map_with_state(move |state: &mut S, _| count(state)).named("count").sink(sink.clone());
        })
        .checkpoints(place.checkpoints(), Duration::from_secs(10))
    }
    fn up(count: &mut Value<u64>) -> u64 {
        count.update_or(0, |count| {
            *count += 1;
            *count
        })
    }
    let (place, sink) = (Place::new(), MemorySink::new());
    let one = counting::<One>((0..9).collect(), sink.clone(), &place, |state| up(&mut state.count));
    assert!(one.explain().unwrap().contains("\n      count: Value<u64>\n"), "{}", one.explain().unwrap());
    one.run().unwrap();
    // The same job with another state beside it, and more to read: it goes on.
    let two = counting::<Two>((0..12).collect(), sink.clone(), &place, |state| {
        state.names.insert("mill".parse::<Text<8>>().unwrap(), "a mill".to_owned());
        up(&mut state.count)
    });
    let plan = two.explain().unwrap();
    assert!(plan.contains("names: Map<Text<8>, String>, gone 90000 ms after it was written"), "{plan}");
    two.run().unwrap();
    let mut counts = sink.rows();
    counts.sort_unstable();
    assert_eq!(counts, [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
}
