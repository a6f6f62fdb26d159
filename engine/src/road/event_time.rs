//! Event time enters the road: a stage reads each row's timestamp and says how far time has come.
//!
//! Watermarks are kept per split, so that a source that reads several partitions in turn is held back by the slowest
//! of them, and the stage hands on their minimum. A watermark never goes back.

use std::rc::Rc;

use super::chain::{Chain, Signal, SplitStanding, Stage};
use super::has_time::Timed;
use super::pacing::{Alignment, Pacing};
use super::rows::{ReadTime, Rows};
use super::watermarks::WatermarkStrategy;
use crate::job::graph::{Graph, NodeId};
use crate::run::fault::Fault;
use crate::run::task::{Cx, Progress, StateVisitor};
use crate::run::time_report::{SplitReport, SplitStands};
use crate::time::Timestamp;

/// How often time may go on without rows, in milliseconds.
pub(crate) const TICK_MS: i64 = 100;

/// What the splits of one source know of time, merged. Pure: watermarks and standings in, the watermark out.
#[derive(Debug)]
pub(crate) struct SplitClock {
    splits: Vec<SplitTime>,
    current: Timestamp,
}

#[derive(Clone, Debug)]
struct SplitTime {
    name: Option<Rc<str>>,
    watermark: Timestamp,
    stands: SplitStands,
}

impl SplitClock {
    pub(crate) fn new() -> SplitClock {
        SplitClock { splits: Vec::new(), current: Timestamp::MIN }
    }

    fn split(&mut self, split: usize) -> &mut SplitTime {
        if self.splits.len() <= split {
            // Behind a union some numbers are nobody's; whoever comes is announced as active.
            let nobody = SplitTime { name: None, watermark: Timestamp::MIN, stands: SplitStands::Ended };
            self.splits.resize(split + 1, nobody);
        }
        &mut self.splits[split]
    }

    /// `split` says that its time has come to `watermark`; the new watermark of all, if it moved.
    pub(crate) fn says(&mut self, split: usize, watermark: Timestamp) -> Option<Timestamp> {
        let time = self.split(split);
        time.watermark = time.watermark.max(watermark);
        if time.stands == SplitStands::Ended && time.name.is_none() {
            // Behind an edge nobody is announced: whoever speaks is there.
            time.stands = SplitStands::Active;
        }
        self.advance()
    }

    /// The split's standing changed; the new watermark, if it moved.
    pub(crate) fn stands(&mut self, standing: SplitStanding) -> Option<Timestamp> {
        match standing {
            SplitStanding::Active(split) => self.split(split).stands = SplitStands::Active,
            SplitStanding::Idle(split) => self.split(split).stands = SplitStands::Idle,
            SplitStanding::Ended(split) => self.split(split).stands = SplitStands::Ended,
        }
        self.advance()
    }

    /// Notes a split's name, if it has none yet.
    fn call(&mut self, split: usize, name: &Rc<str>) {
        self.split(split).name.get_or_insert_with(|| name.clone());
    }

    fn report(&self) -> Vec<SplitReport> {
        // Of a union, numbers of splits are left free between the others.
        let named = self.splits.iter().filter_map(|split| Some((split.name.as_ref()?, split)));
        let report = |(name, split): (&Rc<str>, &SplitTime)| SplitReport {
            split: name.to_string(),
            watermark: split.watermark,
            standing: split.stands,
        };
        named.map(report).collect()
    }

    /// The splits that time is waited for from.
    fn active(&self) -> impl Iterator<Item = usize> {
        (0..self.splits.len()).filter(|split| self.splits[*split].stands == SplitStands::Active)
    }

    /// How far time has come.
    #[cfg(feature = "testing")]
    pub(crate) fn current(&self) -> Timestamp {
        self.current
    }

    /// Whether the split has been silent.
    #[cfg(feature = "testing")]
    pub(crate) fn is_idle(&self, split: usize) -> bool {
        self.splits.get(split).is_some_and(|split| split.stands == SplitStands::Idle)
    }

    /// Whether no split is waited for.
    #[cfg(feature = "testing")]
    pub(crate) fn is_quiet(&self) -> bool {
        self.active().next().is_none()
    }

    fn advance(&mut self) -> Option<Timestamp> {
        let of = |stands| self.splits.iter().filter(move |split| split.stands == stands).map(|split| split.watermark);
        // Where none is active, time stands where the fastest of the idle ones left it.
        let watermark = of(SplitStands::Active).min().or_else(|| of(SplitStands::Idle).max())?;
        (watermark > self.current).then(|| {
            self.current = watermark;
            watermark
        })
    }
}

/// Reads event time off the rows.
#[derive(Debug)]
pub struct EventTime<C, F, W> {
    pub(crate) upstream: C,
    pub(crate) time: F,
    pub(crate) watermarks: W,
    /// Whom its sources are not to run away from.
    pub(crate) alignment: Option<Alignment>,
    pub(crate) node: NodeId,
}

struct EventTimeStage<F, W, N> {
    time: F,
    watermarks: W,
    clock: SplitClock,
    /// When generators were last asked with no row at hand.
    ticked_ms: i64,
    /// Nothing can come any more.
    is_over: bool,
    pacing: Option<Pacing>,
    node: NodeId,
    next: N,
}

impl<C: Chain, F: Fn(&C::Out) -> Timestamp + 'static, W: WatermarkStrategy<C::Out>> Chain for EventTime<C, F, W> {
    type Out = C::Out;
    type Time = Timed;

    fn attach<N: Stage<C::Out>>(self, next: N, graph: &mut Graph) {
        let EventTime { upstream, time, watermarks, alignment, node } = self;
        let clock = SplitClock::new();
        let pacing = graph.on_site(|_, _| Ok(alignment.map(|alignment| alignment.join()))).flatten();
        let pace_of_others = graph.pace.take();
        graph.pace = pacing.as_ref().map(|pacing| pacing.pace.clone());
        let stage = EventTimeStage { time, watermarks, clock, ticked_ms: i64::MIN, is_over: false, pacing, node, next };
        upstream.attach(stage, graph);
        graph.pace = pace_of_others;
    }
}

impl<F, W, N> EventTimeStage<F, W, N> {
    /// Lets those know who are aligned with this one.
    #[inline(always)]
    fn has_come_to(&mut self, watermark: Timestamp) {
        if let Some(pacing) = &mut self.pacing {
            pacing.tell(watermark);
        }
    }

    /// Asks the generators of active splits, where there are any and it is time.
    fn tick<T: ?Sized>(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault>
    where
        W: WatermarkStrategy<T>,
        N: Stage<T>,
    {
        let due_ms = self.ticked_ms.saturating_add(TICK_MS);
        if cx.now_ms < due_ms {
            cx.wake_at(due_ms);
            return Ok(());
        }
        self.ticked_ms = cx.now_ms;
        cx.wake_at(cx.now_ms.saturating_add(TICK_MS));
        cx.enter(self.node);
        let active: Vec<usize> = self.clock.active().collect();
        for split in active {
            let watermark = self.watermarks.periodic(split, cx.now_ms);
            if let Some(watermark) = self.clock.says(split, watermark) {
                self.has_come_to(watermark);
                self.next.signal(Signal::Watermark(watermark), cx)?;
            }
        }
        Ok(())
    }
}

impl<T, F, W, N> Stage<T> for EventTimeStage<F, W, N>
where
    T: ?Sized + 'static,
    F: Fn(&T) -> Timestamp + 'static,
    W: WatermarkStrategy<T>,
    N: Stage<T>,
{
    #[inline]
    fn batch<R: Rows<Item = T>>(&mut self, rows: &R, cx: &mut Cx<'_>) -> Result<(), Fault> {
        cx.enter(self.node);
        let timed = ReadTime { rows, time: &self.time };
        let watermark = self.watermarks.after_rows(cx.split, &timed, cx.now_ms);
        self.next.batch(&timed, cx)?;
        match self.clock.says(cx.split, watermark) {
            Some(watermark) => {
                self.has_come_to(watermark);
                self.next.signal(Signal::Watermark(watermark), cx)
            }
            None => Ok(()),
        }
    }

    fn signal(&mut self, signal: Signal, cx: &mut Cx<'_>) -> Result<(), Fault> {
        match signal {
            Signal::Split(standing) => {
                if let (SplitStanding::Active(split), Some(origin)) = (standing, &cx.origin) {
                    self.clock.call(split, &origin.split);
                }
                return match self.clock.stands(standing) {
                    Some(watermark) => {
                        self.has_come_to(watermark);
                        self.next.signal(Signal::Watermark(watermark), cx)
                    }
                    None => Ok(()),
                };
            }
            Signal::Flush if W::IS_PERIODIC && !self.is_over => self.tick::<T>(cx)?,
            Signal::Watermark(Timestamp::MAX) => {
                self.is_over = true;
                self.has_come_to(Timestamp::MAX);
            }
            Signal::Barrier(barrier) => self.is_over |= barrier.last,
            Signal::Idle => self.has_come_to(Timestamp::MAX),
            Signal::Active => self.has_come_to(self.clock.current),
            Signal::Flush | Signal::Watermark(_) => {}
        }
        self.next.signal(signal, cx)
    }

    fn ready(&mut self) -> bool {
        self.next.ready()
    }

    fn resume(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        if let Some(pacing) = &mut self.pacing {
            pacing.look(cx.now_ms);
        }
        self.next.resume(cx)
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        visitor.time(self.node, self.clock.current, &|| self.clock.report());
        self.next.states(visitor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays words on a clock: `a5` split a says 5, `a-` it is idle, `a.` it has ended, `a+` it is active. The watermark
    /// then, if there was one.
    fn play(words: &str) -> Option<i64> {
        let mut clock = SplitClock::new();
        let mut said = None;
        for word in words.split_whitespace() {
            let split = usize::from(word.as_bytes()[0] - b'a');
            let moved = match &word[1..] {
                "-" => clock.stands(SplitStanding::Idle(split)),
                "." => clock.stands(SplitStanding::Ended(split)),
                "+" => clock.stands(SplitStanding::Active(split)),
                watermark => clock.says(split, Timestamp(watermark.parse().unwrap())),
            };
            assert!(moved.is_none() || moved > said, "a watermark never goes back: {words}");
            said = moved.or(said);
        }
        said.map(|at: Timestamp| at.0)
    }

    #[test]
    fn the_slowest_split_holds_time_back() {
        assert_eq!(play("a+ b+ a100"), None, "split b has said nothing");
        assert_eq!(play("a+ b+ a100 b40"), Some(40));
        assert_eq!(play("a+ b+ a100 b40 a200"), Some(40));
        assert_eq!(play("a+ b+ a200 b40 b-"), Some(200), "an idle split is not waited for");
        assert_eq!(play("a+ b+ a200 b40 b- b+ b150"), Some(200), "a watermark never goes back");
        assert_eq!(play("a+ b+ a200 b40 b- b+ b150 a300"), Some(200), "one that speaks again is waited for");
        assert_eq!(play("a+ b+ a200 b40 b. a300"), Some(300));
    }

    #[test]
    fn where_all_are_idle_the_fastest_counts_in_whatever_order_they_fell_silent() {
        assert_eq!(play("a+ b+ a5 b2 a- b-"), Some(5));
        assert_eq!(play("a+ b+ a5 b2 b- a-"), Some(5));
        assert_eq!(play("a+ b+ a5 b2 a. b-"), Some(2), "one that has ended is gone");
    }

    #[test]
    fn splits_come_and_go() {
        assert_eq!(play(""), None, "no split says nothing, least of all the end of time");
        assert_eq!(play("a+ b+ a156765 a. b156775"), Some(156_775));
        assert_eq!(play("a+ a2 a. b+ b1"), Some(2));
        assert_eq!(play("b+ e+ b5 e7"), Some(5), "those in between are nobody's");
        assert_eq!(play("a+ a1 a."), Some(1), "the last watermark stays");
        assert_eq!(play("a+ b+ a2 b5 a- a+ a3"), Some(5));
    }

    #[test]
    fn the_ends_of_time() {
        assert_eq!(play(&format!("a+ a{}", i64::MIN)), None);
        assert_eq!(play(&format!("a+ a{}", i64::MIN + 1)), Some(i64::MIN + 1));
        assert_eq!(play(&format!("a+ a{} a{}", i64::MAX, i64::MIN)), Some(i64::MAX));
    }
}
