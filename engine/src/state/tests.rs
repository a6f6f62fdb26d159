//! Handles against the standard library's collections: any operations, on any number of shards, with checkpoints, restarts
//! and other numbers of shards in between, and with time.
#![expect(unsafe_code, reason = "munge, which takes a sealed value apart, expands to it")]

use std::collections::{BTreeMap, HashMap};

use millstream_state::schema::Described;
use millstream_state::{Drained, Epoch, FileRef, HashRange, Key, PageStore, Store, TableConfig, TablePart, Text};

use super::*;
use crate::road::aggregate::Count;

#[crate::event]
#[derive(Clone, Copy, PartialEq, Debug)]
struct Fix {
    at: i64,
    place: [u32; 2],
}

#[crate::event]
#[derive(Clone, PartialEq, Debug)]
struct Order {
    pieces: u32,
    articles: Vec<String>,
}

#[derive(KeyedState)]
struct All {
    count: Value<i64>,
    fix: Value<Fix>,
    order: Value<Order>,
    numbers: List<u64>,
    lines: List<String>,
    ages: Map<u32, u8>,
    cart: Map<String, Vec<u32>>,
    spent: Reducing<u64, Total>,
    visits: Aggregating<Count, u64>,
}

/// The same, of which everything ends.
#[derive(KeyedState)]
struct Ending {
    #[state(ttl = "100ms")]
    count: Value<i64>,
    #[state(ttl = "100ms")]
    fix: Value<Fix>,
    #[state(ttl = "100ms")]
    order: Value<Order>,
    #[state(ttl = "100ms")]
    numbers: List<u64>,
    #[state(ttl = "100ms")]
    lines: List<String>,
    #[state(ttl = "100ms")]
    ages: Map<u32, u8>,
    #[state(ttl = "100ms")]
    cart: Map<String, Vec<u32>>,
    #[state(ttl = "100ms")]
    spent: Reducing<u64, Total>,
    #[state(ttl = "100ms")]
    visits: Aggregating<Count, u64>,
}

/// What is and until when.
type Until<T> = (T, i64);

/// One key's states, in the standard library's words.
#[derive(Clone, Default, Debug)]
struct Plain {
    count: Option<Until<i64>>,
    fix: Option<Until<Fix>>,
    order: Option<Until<Order>>,
    numbers: Vec<Until<u64>>,
    lines: Vec<Until<String>>,
    ages: HashMap<u32, Until<u8>>,
    cart: HashMap<String, Until<Vec<u32>>>,
    spent: Option<Until<u64>>,
    visits: Option<Until<u64>>,
}

impl Plain {
    fn pass(&mut self, now_ms: i64) {
        fn option<T>(value: &mut Option<Until<T>>, now_ms: i64) {
            value.take_if(|(_, until)| *until <= now_ms);
        }
        option(&mut self.count, now_ms);
        option(&mut self.fix, now_ms);
        option(&mut self.order, now_ms);
        option(&mut self.spent, now_ms);
        option(&mut self.visits, now_ms);
        self.numbers.retain(|(_, until)| *until > now_ms);
        self.lines.retain(|(_, until)| *until > now_ms);
        self.ages.retain(|_, (_, until)| *until > now_ms);
        self.cart.retain(|_, (_, until)| *until > now_ms);
    }
}

/// Numbers that look like chance and are always the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) * end) >> 31
    }

    fn line(&mut self) -> String {
        // Now and then one that is longer than a page, or than a cell has room for in this one.
        let len = [3, 17, 200, 1500, 3900, 9000][self.below(6) as usize * usize::from(self.below(4) == 0)];
        let letter = char::from(b'a' + self.below(26) as u8);
        letter.to_string().repeat(len + self.below(3) as usize)
    }

    fn order(&mut self) -> Order {
        let articles = (0..self.below(4)).map(|_| self.line()).collect();
        Order { pieces: self.below(100) as u32, articles }
    }
}

/// One operation on one key, done to both.
macro_rules! operate {
    ($name:ident, $state:ty) => {
        fn $name(state: &mut $state, plain: &mut Plain, dice: &mut Dice, until: i64) {
            match dice.below(26) {
                0 => {
                    let n = dice.below(1000) as i64;
                    state.count.set(n);
                    plain.count = Some((n, until));
                }
                1 | 2 => {
                    let got = state.count.update_or(7, |n| {
                        *n += 3;
                        *n
                    });
                    let kept = plain.count.get_or_insert((7, until));
                    *kept = (kept.0 + 3, until);
                    assert_eq!(got, kept.0);
                }
                3 => {
                    state.count.clear();
                    plain.count = None;
                }
                4 => {
                    let fix = Fix { at: dice.below(9) as i64, place: [1, dice.below(9) as u32] };
                    state.fix.set(&fix);
                    plain.fix = Some((fix, until));
                }
                5 => {
                    let moved = state.fix.update(|fix| fix.place[0] += 1);
                    assert_eq!(moved.is_some(), plain.fix.is_some());
                    if let Some((fix, ends)) = &mut plain.fix {
                        (fix.place[0], *ends) = (fix.place[0] + 1, until);
                    }
                }
                6 => {
                    let order = dice.order();
                    state.order.set(&order);
                    plain.order = Some((order, until));
                }
                7 => {
                    let updated = state.order.update(|order| {
                        rkyv::munge::munge!(let ArchivedOrder { mut pieces, .. } = order);
                        *pieces += 1;
                    });
                    assert_eq!(updated.is_some(), plain.order.is_some());
                    if let Some((order, ends)) = &mut plain.order {
                        (order.pieces, *ends) = (order.pieces + 1, until);
                    }
                }
                8..=10 => {
                    for _ in 0..dice.below(40) {
                        let n = dice.below(50);
                        state.numbers.push(n);
                        plain.numbers.push((n, until));
                    }
                }
                11 => {
                    let modulus = dice.below(5) + 2;
                    state.numbers.retain(|n| *n % modulus != 0);
                    plain.numbers.retain(|(n, _)| *n % modulus != 0);
                }
                12 => {
                    let n = dice.below(30) as usize;
                    state.numbers.keep_last(n);
                    let gone = plain.numbers.len().saturating_sub(n);
                    plain.numbers.drain(..gone);
                    assert_eq!(state.numbers.remove_first(), !plain.numbers.is_empty());
                    plain.numbers.drain(..plain.numbers.len().min(1));
                }
                13 | 14 => {
                    let line = dice.line();
                    state.lines.push(line.as_str().to_owned());
                    plain.lines.push((line, until));
                }
                15 => {
                    state.lines.retain(|line| line.len() % 2 == 0);
                    plain.lines.retain(|(line, _)| line.len() % 2 == 0);
                    assert_eq!(state.lines.remove_last(), plain.lines.pop().is_some());
                }
                16 => match dice.below(4) {
                    0 => (state.lines.clear(), plain.lines.clear()).0,
                    1 => (state.numbers.clear(), plain.numbers.clear()).0,
                    2 => (state.ages.clear(), plain.ages.clear()).0,
                    _ => (state.cart.clear(), plain.cart.clear()).0,
                },
                17 | 18 => {
                    for _ in 0..dice.below(30) {
                        let (who, age) = (dice.below(60) as u32, dice.below(99) as u8);
                        assert_eq!(state.ages.insert(who, age), plain.ages.insert(who, (age, until)).is_some());
                    }
                }
                19 => {
                    for _ in 0..dice.below(30) {
                        let who = dice.below(60) as u32;
                        assert_eq!(state.ages.remove(&who), plain.ages.remove(&who).is_some());
                    }
                }
                20 => {
                    let who = dice.below(60) as u32;
                    let older = state.ages.update_or(who, 1, |age| {
                        *age = age.wrapping_add(1);
                        *age
                    });
                    let kept = plain.ages.entry(who).or_insert((1, until));
                    *kept = (kept.0.wrapping_add(1), until);
                    assert_eq!(older, kept.0);
                    let none = state.ages.update(&(who + 60), |age| *age = 0);
                    assert_eq!(none, None);
                }
                21 | 22 => {
                    let article = format!("article {}", dice.below(12));
                    let pieces: Vec<u32> = (0..dice.below(8) * dice.below(300)).map(|n| n as u32).collect();
                    let was_there = plain.cart.insert(article.clone(), (pieces.clone(), until)).is_some();
                    assert_eq!(state.cart.insert(article, pieces), was_there);
                }
                23 => {
                    let article = format!("article {}", dice.below(12));
                    assert_eq!(state.cart.remove(article.as_str()), plain.cart.remove(&article).is_some());
                }
                24 => {
                    let cents = dice.below(100);
                    let kept = plain.spent.get_or_insert((0, until));
                    *kept = (kept.0 + cents, until);
                    assert_eq!(state.spent.add(cents), kept.0);
                }
                _ => {
                    state.visits.add(&1);
                    let kept = plain.visits.get_or_insert((0, until));
                    *kept = (kept.0 + 1, until);
                    if dice.below(9) == 0 {
                        state.visits.clear();
                        plain.visits = None;
                    }
                }
            }
        }
    };
}
operate!(operate_all, All);
operate!(operate_ending, Ending);

macro_rules! compare {
    ($name:ident, $state:ty) => {
        fn $name(state: &$state, plain: &Plain) {
            assert_eq!(state.count.get().copied(), plain.count.map(|(n, _)| n));
            assert_eq!(state.count.is_set(), plain.count.is_some());
            assert_eq!(state.fix.get(), plain.fix.as_ref().map(|(fix, _)| fix));
            assert_eq!(state.order.read().as_ref(), plain.order.as_ref().map(|(order, _)| order));
            let numbers: Vec<u64> = plain.numbers.iter().map(|(n, _)| *n).collect();
            assert_eq!(state.numbers.iter().copied().collect::<Vec<_>>(), numbers);
            assert_eq!(state.numbers.len(), numbers.len());
            assert_eq!(state.numbers.first(), numbers.first());
            assert_eq!(state.numbers.last(), numbers.last());
            let middle = numbers.len() / 2;
            assert_eq!(state.numbers.get(middle), numbers.get(middle));
            let lines: Vec<String> = state.lines.iter().map(|line| line.as_str().to_owned()).collect();
            assert!(lines.iter().eq(plain.lines.iter().map(|(line, _)| line)), "lines");
            let ages: BTreeMap<u32, u8> = state.ages.iter().map(|(who, age)| (*who, *age)).collect();
            assert_eq!(ages, plain.ages.iter().map(|(who, (age, _))| (*who, *age)).collect());
            assert_eq!((state.ages.len(), state.ages.iter().count()), (ages.len(), ages.len()), "each is shown once");
            assert_eq!(state.ages.is_empty(), ages.is_empty());
            for who in 0..60 {
                assert_eq!(state.ages.get(&who), ages.get(&who));
                assert_eq!(state.ages.contains(&who), ages.contains_key(&who));
            }
            assert_eq!(state.cart.keys().count(), plain.cart.len());
            for (article, pieces) in state.cart.iter() {
                let expected = &plain.cart[article.as_str()].0;
                assert!(pieces.iter().map(|n| n.to_native()).eq(expected.iter().copied()), "{article:?}");
                assert_eq!(state.cart.get(article.as_str()).unwrap().len(), expected.len());
            }
            assert_eq!(state.spent.get(), plain.spent.map(|(sum, _)| sum));
            assert_eq!(state.visits.result(), plain.visits.map_or(0, |(n, _)| n));
        }
    };
}
compare!(compare_all, All);
compare!(compare_ending, Ending);

/// All shards of an operator, and its newest checkpoint.
struct Fleet<K, S> {
    bounds: Vec<Bound<K, S>>,
    store: Store,
    parts: Vec<TablePart>,
    /// The files of each shard's open or newest snapshot.
    epoch: u64,
    _directory: tempfile::TempDir,
}

fn pages(shard: u32, shards: u32) -> PageStore {
    let range = HashRange::of_shard(shard, shards);
    PageStore::new(TableConfig {
        operator: "fleet".into(),
        shard,
        range,
        bytes_max: 256 << 20,
        ..TableConfig::default()
    })
    .unwrap()
}

impl<K: Key + Described, S: KeyedState> Fleet<K, S> {
    fn new() -> Fleet<K, S> {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        Fleet { bounds: vec![Bound::declare(pages(0, 1))], store, parts: Vec::new(), epoch: 0, _directory: directory }
    }

    fn of(&mut self, key: K) -> &mut S {
        let owner = self.bounds.iter_mut().find(|bound| bound.store.range().contains(key.hash64()));
        owner.unwrap().of(key)
    }

    fn set_now(&mut self, now_ms: i64) {
        self.bounds.iter_mut().for_each(|bound| bound.set_now(now_ms));
    }

    fn settled(&mut self) {
        for bound in &mut self.bounds {
            assert!(bound.take_failure().is_none());
            bound.expire(3);
        }
    }

    /// A checkpoint of all shards.
    fn checkpoint(&mut self) {
        self.epoch += 1;
        self.parts.clear();
        for (shard, bound) in self.bounds.iter_mut().enumerate() {
            let keyed = &mut bound.store;
            keyed.freeze(Epoch(self.epoch));
            let mut chunks = Vec::new();
            loop {
                let drained = keyed.drain(1 << 16);
                while let Some(chunk) = keyed.take_chunk() {
                    chunks.push(chunk.bytes().to_vec());
                    keyed.give_back(chunk);
                }
                if drained == Drained::Done {
                    break;
                }
            }
            let file = (!chunks.is_empty()).then(|| {
                let name = format!("{}-{shard}.snap", self.epoch);
                std::fs::write(self.store.path(&name), chunks.concat()).unwrap();
                let crc32c = chunks.iter().fold(0, |crc, chunk| crc32c::crc32c_append(crc, &chunk[12..16]));
                FileRef { name, bytes: chunks.iter().map(|chunk| chunk.len() as u64).sum(), crc32c }
            });
            let files = keyed.chain(file.as_ref());
            let (range, states) = (keyed.range(), keyed.parts());
            self.parts.push(TablePart { name: "keyed".into(), range, states, files });
            keyed.confirm(file);
        }
    }

    /// A start from the newest checkpoint.
    fn restart(&mut self, shards: u32, now_ms: i64) {
        self.bounds = (0..shards)
            .map(|shard| {
                let mut bound: Bound<K, S> = Bound::declare(pages(shard, shards));
                bound.set_now(now_ms);
                let range = bound.store.range();
                let parts: Vec<_> = self.parts.iter().filter(|part| part.range.meets(range)).cloned().collect();
                bound.store.restore(&self.store, &parts).unwrap();
                bound
            })
            .collect();
    }
}

fn run<K: Key + Described + std::hash::Hash, S: KeyedState>(
    seed: u64,
    ttl_ms: i64,
    key_of: impl Fn(u64) -> K,
    operate: impl Fn(&mut S, &mut Plain, &mut Dice, i64),
    compare: impl Fn(&S, &Plain),
) {
    let mut dice = Dice(seed);
    let mut fleet = Fleet::<K, S>::new();
    let mut plain: HashMap<K, Plain> = HashMap::new();
    let mut committed = plain.clone();
    let mut now_ms = 1_000;
    fleet.set_now(now_ms);
    fleet.checkpoint();
    for step in 0..2_500 {
        match dice.below(300) {
            0..3 => {
                fleet.checkpoint();
                committed.clone_from(&plain);
            }
            3 => {
                fleet.restart([1, 3, 2, 5][dice.below(4) as usize], now_ms);
                plain.clone_from(&committed);
                plain.values_mut().for_each(|plain| plain.pass(now_ms));
                for (key, plain) in &plain {
                    compare(fleet.of(*key), plain);
                }
            }
            4..40 => {
                now_ms += dice.below(60) as i64;
                fleet.set_now(now_ms);
                plain.values_mut().for_each(|plain| plain.pass(now_ms));
            }
            _ => {
                let key = key_of(dice.below(30));
                let plain = plain.entry(key).or_default();
                operate(fleet.of(key), plain, &mut dice, now_ms.saturating_add(ttl_ms));
                compare(fleet.of(key), plain);
            }
        }
        if step % 10 == 0 {
            fleet.settled();
        }
    }
    for (key, plain) in &plain {
        compare(fleet.of(*key), plain);
    }
}

#[test]
fn handles_are_collections() {
    for seed in 0..6 {
        run::<u64, All>(seed, i64::MAX, |n| n, operate_all, compare_all);
    }
    run::<Text<20>, All>(7, i64::MAX, |n| format!("key {n}").parse().unwrap(), operate_all, compare_all);
}

#[test]
fn handles_whose_entries_end_are_collections_whose_entries_end() {
    for seed in 10..16 {
        run::<u64, Ending>(seed, 100, |n| n, operate_ending, compare_ending);
    }
    run::<Text<20>, Ending>(17, 100, |n| format!("key {n}").parse().unwrap(), operate_ending, compare_ending);
}

#[test]
fn one_key_may_have_a_long_list_and_a_large_map() {
    #[derive(KeyedState)]
    struct Large {
        list: List<u64>,
        map: Map<u64, u32>,
        names: Map<String, u64>,
    }
    let mut fleet = Fleet::<u64, Large>::new();
    let large = fleet.of(7);
    for n in 0..100_000 {
        large.list.push(n);
    }
    for n in 0..50_000 {
        assert!(!large.map.insert(n * 3, n as u32));
        assert!(!large.names.insert(format!("name {n}"), n));
    }
    fleet.settled();
    fleet.checkpoint();
    fleet.restart(3, 0);
    fleet.of(8).list.push(1);
    let large = fleet.of(7);
    assert!(large.list.iter().copied().eq(0..100_000));
    assert_eq!((large.map.len(), large.names.len()), (50_000, 50_000));
    for n in 0..50_000 {
        assert_eq!(large.map.get(&(n * 3)), Some(&(n as u32)));
        assert_eq!(large.names.get(format!("name {n}").as_str()), Some(&n));
    }
    assert_eq!(large.map.iter().map(|(key, _)| *key / 3).sum::<u64>(), (0..50_000u64).sum::<u64>());
    for n in (0..50_000).step_by(2) {
        assert!(large.map.remove(&(n * 3)));
    }
    assert_eq!((large.map.len(), large.map.iter().count()), (25_000, 25_000));
    large.list.retain(|n| n % 1000 == 0);
    assert_eq!(large.list.len(), 100);
    assert_eq!(fleet.of(8).list.len(), 1);
    assert!(fleet.of(9).list.is_empty() && fleet.of(9).map.is_empty());
}

#[test]
fn what_is_over_goes_from_memory_even_if_its_key_never_comes_back() {
    let mut fleet = Fleet::<u64, Ending>::new();
    fleet.set_now(0);
    let empty = fleet.bounds[0].store.bytes().entries;
    for key in 0..2_000 {
        let state = fleet.of(key);
        state.count.set(1);
        state.numbers.push(1);
        state.ages.insert(1, 1);
        state.cart.insert("article".to_owned(), vec![1]);
        state.spent.add(1);
        state.visits.add(&1);
    }
    assert!(fleet.bounds[0].store.bytes().entries > 2_000 * 100);
    fleet.set_now(99);
    assert_eq!(fleet.of(5).count.get(), Some(&1));
    fleet.set_now(100);
    assert_eq!(fleet.of(5).count.get(), None);
    fleet.set_now(50);
    assert_eq!(fleet.of(5).count.get(), None, "time does not go back");
    fleet.bounds[0].expire(10_000);
    assert_eq!(fleet.bounds[0].store.bytes().entries, empty);
}

#[test]
fn a_store_that_is_full_is_the_operators_trouble() {
    #[derive(KeyedState)]
    struct Small {
        count: Value<u64>,
        lines: List<String>,
    }
    let config = TableConfig { operator: "small".into(), bytes_max: 2 << 20, ..TableConfig::default() };
    let mut bound = Bound::<u64, Small>::declare(PageStore::new(config).unwrap());
    let line = "x".repeat(1000);
    let mut key = 0;
    let error = loop {
        let state = bound.of(key);
        assert_eq!(state.count.update_or(1, |count| *count), 1);
        state.lines.push(&line);
        key += 1;
        if let Some(error) = bound.take_failure() {
            break error.to_string();
        }
        assert!(key < 10_000, "2 MiB hold less");
    };
    assert!(error.contains("operator 'small'") && error.contains("has reached its limit"), "{error}");
}

#[test]
fn a_state_that_was_called_otherwise_is_found_under_its_old_name() {
    #[derive(KeyedState)]
    struct Before {
        money: Value<i64>,
        things: Map<u32, String>,
    }
    #[derive(KeyedState)]
    struct After {
        #[state(was = "things")]
        carts: Map<u32, String>,
        #[state(was = "money")]
        cents: Value<i64>,
        fresh: List<u8>,
    }
    let mut before = Fleet::<u64, Before>::new();
    for key in 0..500 {
        before.of(key).money.set(key as i64);
        before.of(key).things.insert(3, format!("thing {key}"));
    }
    before.checkpoint();
    let Fleet { store, parts, epoch, _directory, .. } = before;
    let mut after = Fleet::<u64, After> { bounds: Vec::new(), store, parts, epoch, _directory };
    for shards in [1, 3] {
        after.restart(shards, 0);
        for key in 0..500 {
            let state = after.of(key);
            assert_eq!(state.cents.get(), Some(&(key as i64)));
            assert_eq!(state.carts.get(&3).unwrap().as_str(), format!("thing {key}"));
            assert_eq!(state.carts.len(), 1);
            state.fresh.push(1);
        }
        // From here on they are stored under the new names.
        after.checkpoint();
        assert!(after.parts.iter().flat_map(|part| &part.states).all(|state| !state.name.starts_with("money")));
    }
}

#[test]
fn types_choose_how_they_lie() {
    fn form<T: Kept>() -> &'static str {
        std::any::type_name::<T::Form>().rsplit(':').next().unwrap()
    }
    #[crate::event]
    #[derive(Clone, Copy)]
    struct Maybe {
        n: Option<u32>,
    }
    #[crate::event]
    struct Moved {
        n: u64,
    }
    assert_eq!([form::<Fix>(), form::<u64>(), form::<[u8; 9]>(), form::<Text<5>>()], ["InPlace"; 4]);
    // Not fixed: a string, an option; not `Copy`; longer than what is kept in place.
    assert_eq!([form::<Order>(), form::<Maybe>(), form::<Moved>(), form::<Option<u8>>()], ["Archived"; 4]);

    let store = pages(0, 1);
    let bound = Bound::<u64, All>::declare(store.clone());
    let layouts: BTreeMap<String, String> =
        store.parts().into_iter().map(|part| (part.name, format!("{:?}", part.layout))).collect();
    for flat in ["count", "fix", "numbers", "numbers.elements", "lines", "ages", "ages.places", "spent", "visits"] {
        assert!(layouts[flat].starts_with("Flat"), "{flat}: {}", layouts[flat]);
    }
    for slotted in ["order", "lines.elements", "cart", "cart.places", "cart.order"] {
        assert_eq!(layouts[slotted], "Slotted", "{slotted}");
    }
    assert_eq!(bound.notes[3], "numbers: List<u64>");
    let ending = Bound::<u64, Ending>::declare(pages(0, 1));
    assert_eq!(ending.notes[0], "count: Value<i64>, gone 100 ms after it was written");
    assert!(ending.store.parts().iter().all(|part| format!("{:?}", part.layout) == "Slotted"));
}
