//! A sine over whole periods sums up to nothing, in whatever order its samples come: a sample that is lost, counted twice or
//! put into a wrong window would show.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::time::Duration;

use millstream::testing::{Collected, Pushed, TestJob};
use millstream::{Count, Every, OnTime, Session, Sliding, Sum, Timestamp, Tumbling, Watermarks};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::script::cases;

const SAMPLES: i64 = 24;
const EVERY_MS: i64 = 10;
const PERIOD_MS: i64 = SAMPLES * EVERY_MS;
const PERIODS: i64 = 6;
/// Samples come at most so much later than one with a later time.
const DISORDER_MS: i64 = 100;

/// A sample of one of two sensors, in thousandths: rounded alike above and below zero, so a period's sum is zero exactly.
#[millstream::event]
#[derive(Clone, Copy, Debug)]
struct Sample {
    sensor: u64,
    at: i64,
    milli: i64,
}

fn sample(sensor: u64, start: i64, number: i64) -> Sample {
    let milli = (1_000.0 * (TAU * number as f64 / SAMPLES as f64).sin()).round() as i64;
    Sample { sensor, at: start + number * EVERY_MS, milli }
}

/// What a job makes of the samples.
#[derive(Clone, Copy, Debug)]
enum How {
    Tumbling,
    ThreePeriods,
    Sliding,
    Elements,
    EarlyDiscarding,
    Sessions,
}

/// Of a sensor and a window: its end, samples, and their sum.
type Told = BTreeMap<(u64, i64, i64), (u64, i64)>;

/// Plays samples in the order in which they come; what came of each window, and how many samples were late.
fn play(how: How, start: i64, samples: &[Sample], shards: u32, combine: bool) -> (Told, u64) {
    let (input, out) = (Pushed::<Sample>::new(), Collected::<(u64, i64, i64, u64, i64)>::new());
    let (pushed, collected) = (input.clone(), out.clone());
    let disorder = Duration::from_millis(DISORDER_MS as u64);
    let change = |config: &mut millstream::Config| config.combine = combine;
    let mut job = TestJob::with_config(shards, change, move |flow| {
        let timed = flow.pushed_untimed(&pushed).event_time(|row| Timestamp(row.at), Watermarks::bounded(disorder));
        let keyed = timed.key_by(|row| row.sensor);
        let sums = (Count, Sum::of(|row: &Sample| row.milli));
        let offset = start.rem_euclid(PERIOD_MS);
        let period = Tumbling::try_of_ms(PERIOD_MS, offset).unwrap();
        let out = collected.clone();
        match how {
            How::Tumbling | How::ThreePeriods => {
                let periods = if matches!(how, How::Tumbling) { 1 } else { 3 };
                let size = periods * PERIOD_MS;
                let windows = Tumbling::try_of_ms(size, start.rem_euclid(size)).unwrap();
                keyed
                    .window(windows)
                    .aggregate(sums)
                    .map(|of| (of.key, of.window.start.0, of.window.end.0, of.value.0, of.value.1))
                    .sink(out);
            }
            How::Sliding => keyed
                .window(Sliding::try_of_ms(PERIOD_MS, EVERY_MS, offset % EVERY_MS).unwrap())
                .aggregate(sums)
                .map(|of| (of.key, of.window.start.0, of.window.end.0, of.value.0, of.value.1))
                .sink(out),
            How::Elements => keyed
                .window(period)
                .elements()
                .aggregate(sums)
                .map(|of| (of.key, of.window.unwrap().start.0, of.window.unwrap().end.0, of.value.0, of.value.1))
                .sink(out),
            How::EarlyDiscarding => keyed
                .window(period)
                .trigger(OnTime::new().early(Every::count(5)))
                .discarding()
                .aggregate(sums)
                .map(|of| (of.key, of.window.unwrap().start.0, of.window.unwrap().end.0, of.value.0, of.value.1))
                .sink(out),
            // Never silent for so long: one session of all periods.
            How::Sessions => keyed
                .window(Session::gap(Duration::from_millis(EVERY_MS as u64)))
                .aggregate(sums)
                .map(|of| (of.key, of.window.unwrap().start.0, of.window.unwrap().end.0, of.value.0, of.value.1))
                .sink(out),
        }
    })
    .unwrap();
    samples.iter().for_each(|sample| input.push(*sample, Timestamp(sample.at)));
    job.end_of_input().unwrap();
    assert!(job.state_is_empty());
    let mut told = Told::new();
    for (sensor, from, to, count, sum) in out.committed() {
        let window = told.entry((sensor, from, to)).or_default();
        *window = (window.0 + count, window.1 + sum);
    }
    (told, job.late())
}

fn how() -> impl Strategy<Value = How> {
    let all = [How::Tumbling, How::ThreePeriods, How::Sliding, How::Elements, How::EarlyDiscarding, How::Sessions];
    prop::sample::select(all.to_vec())
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn whole_periods_sum_up_to_nothing(
        how in how(),
        start in -1_000_000_i64..1_000_000,
        jitter in vec(0..=DISORDER_MS, 2 * (SAMPLES * PERIODS) as usize),
        shards in 1_u32..=3,
        combine: bool,
    ) {
        let all = (0..SAMPLES * PERIODS).flat_map(|number| [sample(1, start, number), sample(2, start, number)]);
        let mut arriving: Vec<(i64, Sample)> = all.zip(jitter).map(|(row, late)| (row.at + late, row)).collect();
        arriving.sort_by_key(|(comes, _)| *comes);
        let samples: Vec<Sample> = arriving.into_iter().map(|(_, row)| row).collect();
        let (told, late) = play(how, start, &samples, shards, combine);
        prop_assert_eq!(late, 0);
        let end = start + PERIODS * PERIOD_MS;
        // Sliding windows hang over both ends.
        let whole: Vec<_> = told.iter().filter(|((_, from, to), _)| start <= *from && *to <= end).collect();
        let windows = match how {
            How::Tumbling | How::Elements | How::EarlyDiscarding => PERIODS,
            How::ThreePeriods => PERIODS / 3,
            How::Sliding => SAMPLES * (PERIODS - 1) + 1,
            How::Sessions => 1,
        };
        prop_assert_eq!(whole.len() as i64, 2 * windows, "{:?}", told);
        for ((_, from, to), (count, sum)) in whole {
            prop_assert_eq!((*count as i64 * EVERY_MS, *sum), (to - from, 0), "[{}, {})", from, to);
        }
    }
}
