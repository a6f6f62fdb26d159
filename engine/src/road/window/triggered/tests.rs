//! The rules of windows against a slow twin that is written straight from them: no pages, no timers, no slots; every step
//! looks at every row again.

use std::time::Duration;

use millstream_state::{Both, PageStore, TableConfig};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{Slides, Sliding, Tumbling, Window};
use super::contents::Contents;
use super::kinds::WindowKind;
use super::slot::{ALL, WindowSlots};
use super::trigger::TriggerFor;
use super::work::{Rules, Work};
use super::{Aligned, Continuous, Every, Fired, Folded, Keep, Listed, MakesResults, OnCount, OnTime, Session, Timing};
use crate::road::aggregate::Sum;
use crate::road::order::Moment;
use crate::road::rows::Rows;
use crate::road::timers::WallTime;
use crate::road::trial::cases;
use crate::time::Timestamp;

/// A row: its key and its number.
type Row = Both<u64, i64>;

/// What a step emits: key, sum, start, end, timing, index.
type Result = (u64, i64, i64, i64, Timing, u64);

#[derive(Clone, Debug)]
enum Step {
    In(Vec<(u64, i64, i64)>),
    Watermark(i64),
    Now(i64),
    End,
}

/// What a step comes to: results sorted, and rows that were late.
type Outcome = (Vec<Result>, Vec<(u64, i64, i64)>);

fn sum() -> Sum<i64, impl Fn(&Row) -> i64> {
    Sum::of(|row: &Row| row.1)
}

/// The real thing, without an operator around it.
struct Real<W, R, C>
where
    W: WindowKind<Row>,
    R: TriggerFor<W::Meeting, Row>,
    C: Contents<u64, Row, Out = Fired<u64, i64>>,
{
    work: Work<Row, u64, W, R, C>,
    moment: Moment,
}

impl<W, R, C> Real<W, R, C>
where
    W: WindowKind<Row>,
    R: TriggerFor<W::Meeting, Row>,
    C: Contents<u64, Row, Out = Fired<u64, i64>>,
{
    fn new(rules: Rules<W, R>, contents: impl FnOnce(&PageStore) -> C) -> Self {
        let store = PageStore::new(TableConfig { bytes_max: 1 << 26, ..TableConfig::default() }).unwrap();
        let work = Work::new(rules, WindowSlots::declare(&store), contents(&store));
        Real { work, moment: Moment { watermark: Timestamp::MIN, now: WallTime(0) } }
    }

    fn fire_event(&mut self) {
        while let Some((timed, at)) = self.work.kept.pending.event.take_due(self.moment.watermark.0) {
            self.work.on_timer(timed, at, false, self.moment).unwrap();
        }
    }

    fn fire_processing(&mut self, until: i64) {
        while let Some((timed, at)) = self.work.kept.pending.processing.take_due(until) {
            self.work.on_timer(timed, at, true, self.moment).unwrap();
        }
    }

    fn step(&mut self, step: &Step) -> Outcome {
        let mut late = Vec::new();
        match step {
            Step::In(rows) => {
                for (key, value, at) in rows {
                    let row = Both(*key, *value);
                    if !self.work.on_row(*key, Timestamp(*at), &row, self.moment).unwrap() {
                        late.push((*key, *value, *at));
                    }
                    self.fire_event();
                }
            }
            Step::Watermark(at) => {
                self.moment.watermark = self.moment.watermark.max(Timestamp(*at));
                self.fire_event();
            }
            Step::Now(at) => {
                self.moment.now = WallTime(*at);
                self.fire_processing(*at);
            }
            Step::End => {
                self.moment.watermark = Timestamp::MAX;
                self.fire_event();
                if self.work.rules.kind.is_processing() {
                    self.fire_processing(i64::MAX);
                }
            }
        }
        let out = self.work.out.view();
        let mut results: Vec<Result> = (0..out.len())
            .map(|index| {
                let Fired { key, window, pane, value } = *out.row(index);
                let Window { start, end } = window.unwrap();
                if pane.timing != Timing::Early || !self.work.rules.kind.is_processing() {
                    assert_eq!(out.at(index), if end == Timestamp::MAX { end } else { end.plus_ms(-1) });
                }
                (key, value, start.0, end.0, pane.timing, pane.index)
            })
            .collect();
        self.work.out.clear();
        results.sort_unstable();
        (results, late)
    }

    fn is_empty(&self) -> bool {
        let kept = &self.work.kept;
        kept.slots.len(ALL) == 0
            && kept.pending.event.first_at().is_none()
            && kept.pending.processing.first_at().is_none()
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Tumbling {
        size: i64,
        offset: i64,
    },
    Sliding {
        size: i64,
        slide: i64,
    },
    /// The gap, or twice that for odd numbers if so said.
    Session {
        gap: i64,
        by_row: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Trigger {
    OnTime,
    Panes { early: Option<Pane>, late: Option<Pane> },
    Count(u64),
    Continuous(i64),
    Wall(i64),
}

#[derive(Clone, Copy, Debug)]
enum Pane {
    Rows(u64),
    Delay(i64),
}

#[derive(Clone, Copy, Debug)]
struct Definition {
    kind: Kind,
    is_processing: bool,
    trigger: Trigger,
    is_discarding: bool,
    lateness: i64,
    keep: Option<u64>,
}

/// A window of the twin.
#[derive(Clone, Debug)]
struct Slow {
    key: u64,
    start: i64,
    end: i64,
    values: Vec<i64>,
    /// Rows since the last pane, or the last count.
    count: u64,
    /// When a delay is over.
    due: Option<i64>,
    /// The multiple that comes next, and when it is called.
    next: Option<(i64, i64)>,
    index: u64,
    /// What is due at or before this has happened.
    done: i64,
}

impl Slow {
    fn last(&self) -> i64 {
        if self.end == i64::MAX { i64::MAX } else { self.end - 1 }
    }
}

fn multiple_behind(at: i64, every: i64) -> i64 {
    at - at.rem_euclid(every) + every
}

struct Twin {
    of: Definition,
    windows: Vec<Slow>,
    watermark: i64,
    now: i64,
    out: Vec<Result>,
    late: Vec<(u64, i64, i64)>,
}

impl Twin {
    fn new(of: Definition) -> Twin {
        Twin { of, windows: Vec::new(), watermark: i64::MIN, now: 0, out: Vec::new(), late: Vec::new() }
    }

    fn cleanup(&self, window: &Slow) -> i64 {
        if self.of.is_processing { window.last() } else { window.last().saturating_add(self.of.lateness) }
    }

    fn windows_of(&self, value: i64, at: i64) -> Vec<(i64, i64)> {
        let start_of = |size: i64, offset: i64| at - (at - offset).rem_euclid(size);
        match self.of.kind {
            Kind::Tumbling { size, offset } => vec![(start_of(size, offset), start_of(size, offset) + size)],
            Kind::Sliding { size, slide } => {
                let last = start_of(slide, 0);
                let starts = (0..100).map(|n| last - n * slide).take_while(|start| start + size > at);
                starts.map(|start| (start, start + size)).collect()
            }
            Kind::Session { gap, by_row } => vec![(at, at + if by_row && value % 2 == 1 { 2 * gap } else { gap })],
        }
    }

    fn is_over(&self, window: &Slow) -> bool {
        !self.of.is_processing && self.cleanup(window) <= self.watermark
    }

    fn row(&mut self, key: u64, value: i64, ts: i64) {
        let at = if self.of.is_processing { self.now } else { ts };
        let mut is_in = false;
        for (start, end) in self.windows_of(value, at) {
            let (mut window, index) = self.find(key, start, end);
            if self.is_over(&window) {
                continue;
            }
            is_in = true;
            window.values.push(value);
            self.judge_row(&mut window, at);
            self.windows.insert(index.min(self.windows.len()), window);
        }
        if !is_in && !self.of.is_processing && ts.saturating_add(self.of.lateness) <= self.watermark {
            self.late.push((key, value, ts));
        }
    }

    /// Takes out the key's window, all those merged that a session touches, and says where it was.
    fn find(&mut self, key: u64, start: i64, end: i64) -> (Slow, usize) {
        let merges = matches!(self.of.kind, Kind::Session { .. });
        let is_it = |window: &Slow| {
            let same = (window.start, window.end) == (start, end);
            window.key == key && if merges { window.start <= end && start <= window.end } else { same }
        };
        let index = self.windows.iter().position(is_it).unwrap_or(self.windows.len());
        let (mut all, rest): (Vec<Slow>, Vec<Slow>) = self.windows.drain(..).partition(is_it);
        self.windows = rest;
        all.sort_by_key(|window| window.start);
        // Wall time fires what is due now when it is next looked at.
        let done = if self.of.is_processing { self.now - 1 } else { self.watermark };
        let mut merged = Slow { key, start, end, values: Vec::new(), count: 0, due: None, next: None, index: 0, done };
        for window in all {
            merged.start = merged.start.min(window.start);
            merged.end = merged.end.max(window.end);
            merged.values.extend(window.values);
            merged.count += window.count;
            merged.due = [merged.due, window.due].into_iter().flatten().min();
            merged.next = [merged.next, window.next].into_iter().flatten().min();
            merged.index = merged.index.max(window.index);
        }
        (merged, index)
    }

    fn judge_row(&mut self, window: &mut Slow, at: i64) {
        let has_ended = !self.of.is_processing && self.watermark >= window.last();
        window.count += 1;
        let fires = match self.of.trigger {
            Trigger::OnTime => has_ended,
            Trigger::Count(rows) => {
                let is_full = window.count >= rows;
                window.count = if is_full { 0 } else { window.count };
                is_full
            }
            Trigger::Continuous(every) => {
                if !has_ended {
                    let (next, timer) = window.next.unwrap_or_else(|| {
                        let next = multiple_behind(at, every);
                        (next, next)
                    });
                    window.next = Some((next, timer.max(self.watermark.saturating_add(1))));
                }
                has_ended
            }
            Trigger::Wall(every) => {
                if !has_ended {
                    window.due = window.due.or(Some(multiple_behind(self.now, every)));
                }
                has_ended
            }
            Trigger::Panes { early, late } => match if has_ended { late.or(Some(Pane::Rows(1))) } else { early } {
                Some(Pane::Rows(rows)) => window.count >= rows,
                Some(Pane::Delay(delay)) => {
                    window.due = window.due.or(Some(self.now + delay));
                    false
                }
                None => false,
            },
        };
        if fires {
            self.fire(window, if has_ended { Timing::Late } else { Timing::Early });
        }
    }

    fn fire(&mut self, window: &mut Slow, timing: Timing) {
        if matches!(self.of.trigger, Trigger::Panes { .. }) {
            (window.count, window.due) = (0, None);
        }
        if let Some(keep) = self.of.keep {
            let over = window.values.len().saturating_sub(keep as usize);
            window.values.drain(..over);
        }
        if !window.values.is_empty() {
            let sum = window.values.iter().sum();
            self.out.push((window.key, sum, window.start, window.end, timing, window.index));
            window.index += 1;
        }
        if self.of.is_discarding {
            window.values.clear();
        }
    }

    /// What happens to a window in the time that it is of, up to `until`: a multiple, a delay, the end, the cleanup.
    fn advance(&mut self, until: i64) {
        for mut window in std::mem::take(&mut self.windows) {
            let cleanup = self.cleanup(&window);
            loop {
                let multiple = window
                    .next
                    .map(|(_, timer)| timer)
                    .filter(|timer| *timer < window.last() && window.done < window.last());
                let delay = window.due.filter(|due| self.of.is_processing && *due < window.last());
                let ends = [window.last(), cleanup].into_iter().filter(|at| *at > window.done);
                let Some(at) = multiple.into_iter().chain(delay).chain(ends).min().filter(|at| *at <= until) else {
                    break;
                };
                window.done = window.done.max(at);
                if at == window.last() {
                    if !matches!(self.of.trigger, Trigger::Count(_)) {
                        self.fire(&mut window, Timing::OnTime);
                    }
                    window.due = None;
                } else if multiple == Some(at) {
                    let (Trigger::Continuous(every), Some((next, _))) = (self.of.trigger, window.next) else {
                        panic!()
                    };
                    window.next = Some((next + every, (next + every).max(at)));
                    self.fire(&mut window, Timing::Early);
                } else if delay == Some(at) {
                    self.fire(&mut window, Timing::Early);
                    self.wait_for_wall(&mut window);
                }
            }
            if window.done < cleanup {
                self.windows.push(window);
            }
        }
    }

    fn delays(&mut self) {
        for mut window in std::mem::take(&mut self.windows) {
            if window.due.is_some_and(|due| due <= self.now) {
                let timing = if self.watermark >= window.last() { Timing::Late } else { Timing::Early };
                self.fire(&mut window, timing);
                self.wait_for_wall(&mut window);
            }
            self.windows.push(window);
        }
    }

    /// Multiples of wall time that have been slept through are one; none is waited for when the input has ended.
    fn wait_for_wall(&self, window: &mut Slow) {
        if let Trigger::Wall(every) = self.of.trigger {
            window.due = (self.watermark < i64::MAX).then(|| multiple_behind(self.now, every));
        }
    }

    fn step(&mut self, step: &Step) -> Outcome {
        match step {
            Step::In(rows) => rows.iter().for_each(|(key, value, at)| self.row(*key, *value, *at)),
            Step::Watermark(at) => {
                self.watermark = self.watermark.max(*at);
                if !self.of.is_processing {
                    self.advance(self.watermark);
                }
            }
            Step::Now(now) => {
                self.now = *now;
                if self.of.is_processing { self.advance(*now) } else { self.delays() }
            }
            Step::End => {
                self.watermark = i64::MAX;
                self.advance(i64::MAX);
            }
        }
        let mut out = std::mem::take(&mut self.out);
        out.sort_unstable();
        (out, std::mem::take(&mut self.late))
    }
}

/// Plays the steps to both, which have to say the same at each, and to be empty at the end.
fn compare<W, R, C>(of: Definition, steps: &[Step], mut real: Real<W, R, C>)
where
    W: WindowKind<Row>,
    R: TriggerFor<W::Meeting, Row>,
    C: Contents<u64, Row, Out = Fired<u64, i64>>,
{
    let mut twin = Twin::new(of);
    for (index, step) in steps.iter().chain([&Step::End]).enumerate() {
        assert_eq!(real.step(step), twin.step(step), "{of:?}: step {index}, {step:?}");
        if let Step::Watermark(_) | Step::Now(_) = step
            && twin.windows.is_empty()
        {
            assert!(real.is_empty(), "{of:?}: step {index}, {step:?} leaves something");
        }
    }
    assert!(real.is_empty(), "{of:?}: something is left at the end");
}

fn with_contents<W, R>(of: Definition, steps: &[Step], kind: W, trigger: R)
where
    W: WindowKind<Row>,
    R: TriggerFor<W::Meeting, Row>,
{
    let Definition { is_discarding, lateness: lateness_ms, keep, .. } = of;
    let rules = Rules { kind, trigger, is_discarding, lateness_ms, is_counted: false };
    match keep {
        None => compare(of, steps, Real::new(rules, |_| Folded { aggregate: sum() })),
        Some(rows) => {
            let listed = |store: &PageStore| Listed::declare(store, Keep::last(rows), MakesResults(sum()));
            compare(of, steps, Real::new(rules, listed));
        }
    }
}

fn with_trigger<W>(of: Definition, steps: &[Step], kind: W)
where
    W: WindowKind<Row>,
    OnTime: TriggerFor<W::Meeting, Row>,
    super::OnTimePanes: TriggerFor<W::Meeting, Row>,
    OnCount: TriggerFor<W::Meeting, Row>,
    Continuous: TriggerFor<W::Meeting, Row>,
    super::ContinuousWall: TriggerFor<W::Meeting, Row>,
{
    let every = |pane: Pane| match pane {
        Pane::Rows(rows) => Every::count(rows),
        Pane::Delay(delay) => Every::try_delay_ms(delay).unwrap(),
    };
    match of.trigger {
        Trigger::OnTime => with_contents(of, steps, kind, OnTime),
        Trigger::Count(rows) => with_contents(of, steps, kind, OnCount::of(rows)),
        Trigger::Continuous(ms) => with_contents(of, steps, kind, Continuous::try_every_ms(ms).unwrap()),
        Trigger::Wall(ms) => {
            with_contents(of, steps, kind, Continuous::every_wall(Duration::from_millis(ms as u64)));
        }
        Trigger::Panes { early, late } => {
            let trigger = match (early.map(every), late.map(every)) {
                (Some(early), Some(late)) => OnTime::new().early(early).late(late),
                (Some(early), None) => OnTime::new().early(early),
                (None, late) => OnTime::new().late(late.unwrap_or(Every::count(1))),
            };
            with_contents(of, steps, kind, trigger);
        }
    }
}

fn run(of: Definition, steps: &[Step]) {
    let is_processing = of.is_processing;
    match of.kind {
        Kind::Tumbling { size, offset } => {
            let slides: Slides = Tumbling::try_of_ms(size, offset).unwrap().into();
            with_trigger(of, steps, Aligned { slides, is_processing });
        }
        Kind::Sliding { size, slide } => {
            let slides: Slides = Sliding::try_of_ms(size, slide, 0).unwrap().into();
            with_trigger(of, steps, Aligned { slides, is_processing });
        }
        Kind::Session { gap, by_row: false } => {
            let sessions = Session::try_gap_ms(gap).unwrap();
            let sessions = if is_processing { sessions.processing_time().0 } else { sessions };
            with_trigger(of, steps, sessions);
        }
        Kind::Session { gap, by_row: true } => {
            let by = move |row: &Row| Duration::from_millis(gap as u64 * if row.1 % 2 == 1 { 2 } else { 1 });
            let sessions = Session::by(by);
            let sessions = if is_processing { sessions.processing_time().0 } else { sessions };
            with_trigger(of, steps, sessions);
        }
    }
}

fn definition() -> impl Strategy<Value = Definition> {
    let kind = prop_oneof![
        (1i64..12, 0i64..4).prop_map(|(size, offset)| Kind::Tumbling { size, offset: offset % size }),
        (1i64..12, 1i64..8).prop_map(|(size, slide)| Kind::Sliding { size, slide }),
        (1i64..6, any::<bool>()).prop_map(|(gap, by_row)| Kind::Session { gap, by_row }),
        (1i64..6, any::<bool>()).prop_map(|(gap, by_row)| Kind::Session { gap, by_row }),
    ];
    let pane = prop_oneof![(1u64..4).prop_map(Pane::Rows), (1i64..6).prop_map(Pane::Delay)];
    let pane = proptest::option::of(pane);
    let trigger = prop_oneof![
        Just(Trigger::OnTime),
        (pane.clone(), pane).prop_map(|(early, late)| Trigger::Panes { early, late }),
        (1u64..4).prop_map(Trigger::Count),
        (1i64..6).prop_map(Trigger::Continuous),
        (1i64..6).prop_map(Trigger::Wall),
    ];
    let lateness = prop_oneof![Just(0i64), 1i64..5, Just(30), Just(i64::MAX)];
    let keep = proptest::option::weighted(0.3, 0u64..4);
    (kind, any::<bool>(), trigger, any::<bool>(), lateness, keep).prop_map(
        |(kind, is_processing, trigger, is_discarding, lateness, keep)| {
            // What fires at multiples of event time has none to wait for where windows are of processing time.
            let is_processing = is_processing && !matches!(trigger, Trigger::Continuous(_));
            Definition { kind, is_processing, trigger, is_discarding, lateness, keep }
        },
    )
}

/// Rows near the watermark, before and behind it, of few keys; both times go on now and then.
fn script() -> impl Strategy<Value = Vec<Step>> {
    let rows = vec((0u64..3, 0i64..10, -12i64..16), 1..6);
    vec((0u8..5, rows, 0i64..7), 1..40).prop_map(|steps| {
        let (mut watermark, mut now) = (-20, 0);
        let step = |(kind, rows, on): (u8, Vec<(u64, i64, i64)>, i64)| match kind {
            0 => {
                watermark += on + 1;
                Step::Watermark(watermark)
            }
            1 => {
                now += on;
                Step::Now(now)
            }
            _ => Step::In(rows.into_iter().map(|(key, value, ahead)| (key, value, watermark + ahead)).collect()),
        };
        steps.into_iter().map(step).collect()
    })
}

/// Which places sessions lay in once followed from the order of rows, and was seen in what an evictor keeps.
#[test]
fn rows_of_merged_sessions_lie_in_the_order_of_sessions() {
    let of = Definition {
        kind: Kind::Session { gap: 3, by_row: true },
        is_processing: false,
        trigger: Trigger::OnTime,
        is_discarding: false,
        lateness: 0,
        keep: Some(2),
    };
    // Three sessions, the earliest last, and a row that all of them touch.
    run(of, &[Step::In(vec![(0, 4, 4), (0, 8, 8), (0, 2, 0), (0, 1, 3)]), Step::Watermark(20)]);
}

proptest! {
    #![proptest_config(cases(1_500))]

    /// All kinds, triggers and rules of lateness: after each step what the slow twin says, and nothing left at the end.
    #[test]
    fn windows_are_as_the_slow_twin_has_them(of in definition(), steps in script()) {
        run(of, &steps);
    }
}
