//! Money that goes from account to account is never more or less, whenever one looks: what all accounts were credited in a
//! stretch of time, in any output that a checkpoint has made visible, is what they were debited.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::state::{KeyedState, Map, Value};
use millstream::testing::{Collected, Pushed, TestJob};
use millstream::{BoxError, Process, ProcessContext, Sum, Timer, Timestamp, Tumbling, Watermarks};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::script::cases;

const ACCOUNTS: u64 = 10;
const DISORDER_MS: i64 = 10_000;
const WINDOW: Duration = Duration::from_secs(5);

#[millstream::event]
#[derive(Clone, Copy, Debug)]
struct Transfer {
    number: u64,
    from: u64,
    to: u64,
    cents: i64,
    at: i64,
}

/// One side of a transfer: what an account gains, less than zero where it pays.
#[millstream::event]
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    account: u64,
    cents: i64,
    at: i64,
}

fn both_sides(transfer: &Transfer) -> [Entry; 2] {
    let Transfer { number, from, to, cents, at } = *transfer;
    [Entry { number, account: from, cents: -cents, at }, Entry { number, account: to, cents, at }]
}

#[derive(KeyedState)]
struct Account {
    balance: Value<i64>,
    /// By the ends of stretches of time.
    to_come: Map<i64, i64>,
}

/// Tells what an account has gained at the end of each stretch of time, and what it then has.
struct Ledger;

/// An end of time, what was gained before it, and the balance then.
type Line = (i64, i64, i64);

impl Process<u64, Entry> for Ledger {
    type State = Account;
    type Out = (u64, Line);

    fn on_event(
        &mut self,
        account: &mut Account,
        entry: Entry,
        cx: &mut ProcessContext<'_, u64, (u64, Line)>,
    ) -> Result<(), BoxError> {
        let last = Tumbling::of(WINDOW).window_of(cx.timestamp()).end.plus_ms(-1);
        account.to_come.update_or(last.0, 0, |cents| *cents += entry.cents);
        cx.timers().event(last);
        Ok(())
    }

    fn on_timer(
        &mut self,
        account: &mut Account,
        _: Timer,
        cx: &mut ProcessContext<'_, u64, (u64, Line)>,
    ) -> Result<(), BoxError> {
        let last = cx.timestamp().0;
        let gained = account.to_come.get(&last).map_or(0, |cents| *cents);
        account.to_come.remove(&last);
        let balance = account.balance.update_or(0, |balance| {
            *balance += gained;
            *balance
        });
        cx.emit((*cx.key(), (last, gained, balance)));
        Ok(())
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Move {
    Transfers(usize),
    Snapshot,
    Restore(u32),
}

fn transfers() -> impl Strategy<Value = Vec<Transfer>> {
    let one = (0..ACCOUNTS, 1..ACCOUNTS, 1_i64..1_000, 0_i64..1_500, 0..=DISORDER_MS);
    vec(one, 20..150).prop_map(|drawn| {
        let mut now = 0;
        let transfers = drawn.into_iter().zip(0..).map(|((from, apart, cents, on, back), number)| {
            now += on;
            Transfer { number, from, to: (from + apart) % ACCOUNTS, cents, at: now - back }
        });
        transfers.collect()
    })
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        5 => (1_usize..12).prop_map(Move::Transfers),
        2 => Just(Move::Snapshot),
        1 => (1_u32..=4).prop_map(Move::Restore),
    ];
    vec(one, 1..30)
}

/// All that a job tells of transfers.
struct World {
    input: Pushed<Transfer>,
    /// What accounts gained in a window.
    windows: Collected<(i64, u64, i64)>,
    lines: Collected<(u64, Line)>,
    /// A transfer's number, and the sum of its sides, joined.
    joined: Collected<(u64, i64)>,
    grouped: Collected<(u64, i64)>,
    job: TestJob,
}

impl World {
    fn new(shards: u32) -> World {
        let input = Pushed::<Transfer>::new();
        let (windows, lines, joined, grouped) =
            (Collected::new(), Collected::new(), Collected::new(), Collected::new());
        let pushed = input.clone();
        let (to_windows, to_lines, to_joined, to_grouped) =
            (windows.clone(), lines.clone(), joined.clone(), grouped.clone());
        let job = TestJob::new(shards, move |flow| {
            let disorder = Watermarks::bounded(Duration::from_millis(DISORDER_MS as u64));
            let entries = flow
                .pushed_untimed(&pushed)
                .event_time(|transfer| Timestamp(transfer.at), disorder)
                .flat_map(both_sides);
            let (entries, to_process) = entries.tee();
            let (entries, to_join) = entries.tee();
            let (debits, credits) = to_join.split(|entry| entry.cents < 0);
            let (debits, debits_again) = debits.tee();
            let (credits, credits_again) = credits.tee();
            entries
                .key_by(|entry| entry.account)
                .window(Tumbling::of(WINDOW))
                .aggregate(Sum::of(|entry: &Entry| entry.cents))
                .map(|of| (of.window.start.0, of.key, of.value))
                .sink_named("windows", to_windows.clone());
            to_process.key_by(|entry| entry.account).process(Ledger).sink_named("lines", to_lines.clone());
            debits
                .key_by(|entry| entry.number)
                .interval_join(credits.key_by(|entry| entry.number))
                .between(0, 0)
                .full_outer(|debit, credit| {
                    let number = debit.or(credit).map_or(u64::MAX, |entry| entry.number);
                    (number, debit.map_or(0, |entry| entry.cents) + credit.map_or(0, |entry| entry.cents))
                })
                .sink_named("joined", to_joined.clone());
            debits_again
                .key_by(|entry| entry.number)
                .co_group(credits_again.key_by(|entry| entry.number))
                .window(Tumbling::of(WINDOW))
                .apply(|number, _, debits, credits| {
                    let sum = debits.iter().chain(credits).map(|entry| entry.cents).sum();
                    [(*number, if debits.len() == 1 && credits.len() == 1 { sum } else { i64::MIN })]
                })
                .sink_named("grouped", to_grouped.clone());
        });
        World { input, windows, lines, joined, grouped, job: job.unwrap() }
    }

    /// What is visible adds up to nothing: by window, by stretch of time, by transfer.
    fn is_conserved(&self) -> Result<(), TestCaseError> {
        let mut of_window = BTreeMap::<i64, i64>::new();
        for (start, _, cents) in self.windows.committed() {
            *of_window.entry(start).or_default() += cents;
        }
        prop_assert!(of_window.values().all(|sum| *sum == 0), "{:?}", of_window);
        let (mut of_stretch, mut balances) = (BTreeMap::<i64, i64>::new(), BTreeMap::<u64, Line>::new());
        for (account, line) in self.lines.committed() {
            *of_stretch.entry(line.0).or_default() += line.1;
            let newest = balances.entry(account).or_insert(line);
            *newest = line.max(*newest);
        }
        prop_assert!(of_stretch.values().all(|sum| *sum == 0), "{:?}", of_stretch);
        prop_assert_eq!(balances.values().map(|line| line.2).sum::<i64>(), 0, "{:?}", balances);
        prop_assert_eq!(of_window.len(), of_stretch.len(), "windows and timers are equally far");
        for pairs in [self.joined.committed(), self.grouped.committed()] {
            prop_assert!(pairs.iter().all(|(_, sum)| *sum == 0), "{:?}", pairs);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn credits_are_debits_whenever_one_looks(transfers in transfers(), moves in moves(), shards in 1_u32..4) {
        let mut world = World::new(shards);
        let mut coming = transfers.iter();
        let mut snapshot = None;
        for one in moves {
            match one {
                Move::Transfers(count) => {
                    for transfer in coming.by_ref().take(count) {
                        world.input.push(*transfer, Timestamp::MIN);
                    }
                }
                Move::Snapshot => {
                    snapshot = Some(world.job.snapshot().unwrap());
                    world.is_conserved()?;
                }
                Move::Restore(shards) => {
                    if let Some(snapshot) = &snapshot {
                        world.job.restore(snapshot, shards).unwrap();
                        world.is_conserved()?;
                    }
                }
            }
        }
        coming.for_each(|transfer| world.input.push(*transfer, Timestamp::MIN));
        world.job.end_of_input().unwrap();
        world.is_conserved()?;
        prop_assert_eq!(world.job.late(), 0);
        let mut expected = BTreeMap::<u64, i64>::new();
        for entry in transfers.iter().flat_map(both_sides) {
            *expected.entry(entry.account).or_default() += entry.cents;
        }
        let mut balances = BTreeMap::<u64, i64>::new();
        for (_, account, cents) in world.windows.committed() {
            *balances.entry(account).or_default() += cents;
        }
        prop_assert_eq!(balances, expected);
        let all: Vec<u64> = (0..transfers.len() as u64).collect();
        for pairs in [world.joined.committed(), world.grouped.committed()] {
            let mut numbers: Vec<u64> = pairs.into_iter().map(|(number, _)| number).collect();
            numbers.sort_unstable();
            prop_assert_eq!(&numbers, &all);
        }
    }
}
