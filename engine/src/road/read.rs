//! The task at the head of the road: it reads a source's splits in turn and drives their batches through a chain.

use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use super::chain::{Chain, Signal, SplitStanding, Stage};
use super::deal::{Filed, Hand, deal};
use super::has_time::Untimed;
use super::pacing::{LOOK_AGAIN_MS, Pace};
use super::rows::{BATCH_ROWS, Batch};
use super::source::{Polled, Source, Split};
use crate::epoch::Barrier;
use crate::job::graph::{Graph, NodeId};
use crate::run::fault::Fault;
use crate::run::task::{Cx, Origin, Progress, StateVisitor, Task};
use crate::time::Timestamp;

/// Batches a source drives per turn: enough that a turn's own cost vanishes, few enough that a turn stays under 100 µs.
const BATCHES_PER_TURN: usize = 8;
/// Without a descriptor to wait on, a split that has nothing is asked again after this.
const BLIND_POLL_MS: i64 = 100;
/// Slices of deferred work done per turn, before input.
const SLICES_PER_TURN: usize = 16;

/// The chain's beginning: a source, not yet opened.
#[derive(Debug)]
pub struct Read<S> {
    pub(crate) source: S,
    pub(crate) node: NodeId,
}

impl<S: Source> Chain for Read<S> {
    type Out = <S::Batch as Batch>::Item;
    type Time = Untimed;

    fn attach<N: Stage<Self::Out>>(self, next: N, graph: &mut Graph) {
        let (source, node, pace) = (self.source, self.node, graph.pace.clone());
        let task = graph.on_site(|site, plan| {
            let uid = plan.uid(node);
            let hand = deal(&source, &uid, site)?;
            let idle_timeout = site.config.idle_timeout;
            Ok(SourceTask::<S, N>::new(node, hand, idle_timeout, pace, next))
        });
        if let Some(task) = task {
            graph.tasks.push(Box::new(task));
        }
    }
}

struct OpenSplit<B> {
    reader: Box<dyn Split<Batch = B>>,
    name: Rc<str>,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Active,
    /// Silent since this wall time (ms), still holding time back.
    Silent(i64),
    Idle,
    /// It waits for other splits to end, and time does not wait for it.
    NotBegun,
    Ended,
}

struct SourceTask<S: Source, N> {
    node: NodeId,
    splits: Vec<OpenSplit<S::Batch>>,
    /// Into how many shares the source was dealt.
    shares: u32,
    turn: usize,
    batch: S::Batch,
    idle_timeout: Duration,
    /// Whether it is to pause for others, if it is aligned with any.
    pace: Option<Pace>,
    barrier: Option<Barrier>,
    wake_at_ms: Option<i64>,
    rows_in: u64,
    announced: bool,
    /// No split has anything for now, and the chain has been told.
    quiet: bool,
    /// Every split has ended and the chain has been told.
    ended: bool,
    /// The last barrier has passed: nothing is read any more.
    closed: bool,
    next: N,
}

impl<S: Source, N: Stage<<S::Batch as Batch>::Item>> SourceTask<S, N> {
    fn new(node: NodeId, hand: Hand<S::Batch>, idle_timeout: Duration, pace: Option<Pace>, next: N) -> Self {
        let splits = hand
            .splits
            .into_iter()
            .map(|reader| OpenSplit { name: reader.name().into(), reader, standing: Standing::Active })
            .collect();
        SourceTask {
            node,
            splits,
            shares: hand.shares,
            turn: 0,
            batch: S::Batch::default(),
            idle_timeout,
            pace,
            barrier: None,
            wake_at_ms: None,
            rows_in: 0,
            announced: false,
            quiet: false,
            ended: false,
            closed: false,
            next,
        }
    }

    /// Polls the next split that may have something; the progress of one batch.
    fn read_batch(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        for _ in 0..self.splits.len() {
            let index = self.turn;
            self.turn = (self.turn + 1) % self.splits.len();
            let split = &mut self.splits[index];
            if split.standing == Standing::Ended {
                continue;
            }
            cx.enter(self.node);
            self.batch.clear();
            let first = split.reader.position();
            let polled =
                split.reader.poll(&mut self.batch, BATCH_ROWS).map_err(|error| Fault::source(self.node, error))?;
            let rows = self.batch.len();
            assert!(
                rows <= BATCH_ROWS,
                "source split {} gave {rows} rows where {BATCH_ROWS} were asked for",
                split.name
            );
            self.stand(index, polled, rows > 0, cx)?;
            if rows > 0 {
                self.rows_in += rows as u64;
                cx.split = index;
                cx.origin = Some(Origin { split: self.splits[index].name.clone(), first });
                self.next.batch(&self.batch.view(), cx)?;
                return Ok(Progress::Worked);
            }
        }
        Ok(Progress::Idle)
    }

    /// Notes what a poll said of the split, and tells the chain when its standing changed.
    #[inline]
    fn stand(&mut self, index: usize, polled: Polled, rows: bool, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let before = self.splits[index].standing;
        let after = match polled {
            Polled::Rows => Standing::Active,
            Polled::End => Standing::Ended,
            _ if rows => Standing::Active,
            Polled::IdleUntilMs(at) => {
                self.wake_at_ms = Some(self.wake_at_ms.map_or(at, |earlier| earlier.min(at)));
                Standing::Active
            }
            Polled::NotBegun => Standing::NotBegun,
            Polled::Idle => match before {
                Standing::Active | Standing::NotBegun => Standing::Silent(cx.now_ms),
                Standing::Silent(since) if cx.now_ms - since >= self.idle_timeout_ms() => Standing::Idle,
                still => still,
            },
        };
        if after == before {
            return Ok(());
        }
        self.splits[index].standing = after;
        let told = match (before, after) {
            // Rows that came with the end are driven first: the chain hears of it at the next turn's check.
            (_, Standing::Ended) if rows => {
                self.splits[index].standing = before;
                return Ok(());
            }
            (_, Standing::Ended) => SplitStanding::Ended(index),
            (_, Standing::Idle | Standing::NotBegun) => SplitStanding::Idle(index),
            (Standing::Idle, Standing::Active) | (Standing::NotBegun, _) => SplitStanding::Active(index),
            _ => return Ok(()),
        };
        self.next.signal(Signal::Split(told), cx)?;
        if self.splits.iter().all(|split| split.standing == Standing::Ended) {
            return Ok(());
        }
        let is_quiet = |standing| matches!(standing, Standing::Idle | Standing::NotBegun | Standing::Ended);
        let quiet = self.splits.iter().all(|split| is_quiet(split.standing));
        if quiet == std::mem::replace(&mut self.quiet, quiet) {
            return Ok(());
        }
        self.next.signal(if quiet { Signal::Idle } else { Signal::Active }, cx)
    }

    fn idle_timeout_ms(&self) -> i64 {
        i64::try_from(self.idle_timeout.as_millis()).unwrap_or(i64::MAX)
    }

    /// The first words on the road: which splits time waits for.
    fn announce(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.announced = true;
        for (index, split) in self.splits.iter().enumerate() {
            // By this the stage that keeps their time knows their names.
            cx.origin = Some(Origin { split: split.name.clone(), first: split.reader.position() });
            self.next.signal(Signal::Split(SplitStanding::Active(index)), cx)?;
        }
        Ok(())
    }

    fn pass_barrier(&mut self, barrier: Barrier, cx: &mut Cx<'_>) -> Result<(), Fault> {
        let positions = self.splits.iter().map(|split| (split.name.to_string(), split.reader.position())).collect();
        let filed = Filed { positions, shares: self.shares };
        cx.file(self.node, serde_json::to_value(filed).expect("names and numbers are plain JSON"));
        self.next.signal(Signal::Barrier(barrier), cx)?;
        cx.passed();
        self.closed |= barrier.last;
        Ok(())
    }
}

impl<S: Source, N: Stage<<S::Batch as Batch>::Item>> Task for SourceTask<S, N> {
    fn step(&mut self, cx: &mut Cx<'_>) -> Result<Progress, Fault> {
        let mut progress = Progress::Idle;
        for _ in 0..SLICES_PER_TURN {
            match self.next.resume(cx)? {
                Progress::Worked => progress = Progress::Worked,
                stuck => {
                    progress = progress.or(stuck);
                    break;
                }
            }
            if !cx.has_time() {
                break;
            }
        }
        if !self.announced {
            self.announce(cx)?;
        }
        self.wake_at_ms = None;
        for batches in 1..=BATCHES_PER_TURN {
            if self.closed {
                return Ok(progress);
            }
            if !self.next.ready() {
                return Ok(progress.or(Progress::Blocked));
            }
            if let Some(barrier) = self.barrier {
                // What is held back for company goes first: a watermark among it may begin a firing, and rows may outgrow
                // the buffers at hand. The barrier waits for both.
                self.next.signal(Signal::Flush, cx)?;
                if !self.next.ready() {
                    return Ok(progress.or(Progress::Blocked));
                }
                self.barrier = None;
                self.pass_barrier(barrier, cx)?;
                progress = Progress::Worked;
                continue;
            }
            if self.ended {
                return Ok(progress);
            }
            if self.pace.as_ref().is_some_and(Pace::pauses) {
                self.wake_at_ms = Some(cx.now_ms.saturating_add(LOOK_AGAIN_MS));
                return Ok(progress);
            }
            match self.read_batch(cx)? {
                Progress::Worked if !cx.has_time_after(batches) => return Ok(Progress::Worked),
                Progress::Worked => progress = Progress::Worked,
                _ if self.splits.iter().all(|split| split.standing == Standing::Ended) => {
                    self.ended = true;
                    self.next.signal(Signal::Watermark(Timestamp::MAX), cx)?;
                    return Ok(Progress::Worked);
                }
                _ => return Ok(progress),
            }
        }
        Ok(progress)
    }

    fn flush(&mut self, cx: &mut Cx<'_>) -> Result<(), Fault> {
        self.next.signal(Signal::Flush, cx)
    }

    fn inject(&mut self, barrier: Barrier) {
        assert!(self.barrier.is_none(), "one epoch at a time");
        self.barrier = Some(barrier);
    }

    fn input_ended(&self) -> Option<bool> {
        Some(self.ended)
    }

    fn wake_fds(&self) -> Vec<RawFd> {
        self.splits.iter().filter_map(|split| split.reader.wake_fd()).collect()
    }

    fn wake_at_ms(&self, now_ms: i64) -> Option<i64> {
        if self.ended || self.closed {
            return None;
        }
        let of_splits = self.splits.iter().filter_map(|split| match split.standing {
            Standing::Silent(_) | Standing::Idle if split.reader.wake_fd().is_none() => Some(now_ms + BLIND_POLL_MS),
            // Nothing else would wake the shard to let time go on without this split.
            Standing::Silent(since) => Some(since.saturating_add(self.idle_timeout_ms())),
            Standing::Active | Standing::Idle | Standing::NotBegun | Standing::Ended => None,
        });
        of_splits.chain(self.wake_at_ms).min()
    }

    fn rows_in(&self) -> u64 {
        self.rows_in
    }

    fn states(&mut self, visitor: &mut dyn StateVisitor) {
        self.next.states(visitor);
    }
}
