//! The engine's pure rules of time and barriers, to be asked without a job: thin faces of what its operators run on.

use crate::epoch::align::{Aligner, Said, WatermarkMerge};
use crate::epoch::{Barrier, Epoch};
use crate::road::chain::{Signal, SplitStanding};
use crate::road::event_time::SplitClock;
use crate::road::window::{Session, Sliding, Tumbling, Window, WindowKind};
use crate::time::Timestamp;

/// What an [`Alignment`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Aligned {
    /// The epoch that was given up.
    pub aborted: Option<u64>,
    /// The epoch whose barrier all inputs have met: it is passed on.
    pub triggered: Option<u64>,
}

/// The barriers of a task with several inputs.
///
/// ```
/// use millstream::testing::Alignment;
///
/// let mut alignment = Alignment::of(2);
/// assert_eq!(alignment.barrier(1, 7).triggered, None);
/// assert_eq!(alignment.held_back(), [1]);
/// assert_eq!(alignment.barrier(0, 7).triggered, Some(7));
/// assert!(alignment.held_back().is_empty());
/// ```
#[derive(Debug)]
pub struct Alignment {
    aligner: Aligner,
    inputs: usize,
}

impl Alignment {
    /// Of so many inputs.
    ///
    /// # Panics
    /// Without an input.
    #[must_use]
    pub fn of(inputs: usize) -> Alignment {
        Alignment { aligner: Aligner::new(inputs), inputs }
    }

    /// `input` met the barrier of `epoch`.
    ///
    /// # Panics
    /// Where there is no such input, like all that follow.
    pub fn barrier(&mut self, input: usize, epoch: u64) -> Aligned {
        let (aborted, passed) = self.aligner.arrive(input, Barrier { epoch: Epoch(epoch), last: false });
        Aligned { aborted: aborted.map(|epoch| epoch.0), triggered: passed.map(|barrier| barrier.epoch.0) }
    }

    /// `input` said that the epoch is cancelled.
    pub fn cancel(&mut self, input: usize, epoch: u64) -> Aligned {
        assert!(input < self.inputs, "an alignment of {} inputs has no input {input}", self.inputs);
        Aligned { aborted: self.aligner.cancel(Epoch(epoch)).map(|epoch| epoch.0), triggered: None }
    }

    /// `input` has ended.
    pub fn end(&mut self, input: usize) -> Aligned {
        Aligned { aborted: self.aligner.end(input).map(|epoch| epoch.0), triggered: None }
    }

    /// The inputs that are not read until others have met the barrier.
    #[must_use]
    pub fn held_back(&self) -> Vec<usize> {
        (0..self.inputs).filter(|input| self.aligner.holds_back(*input)).collect()
    }
}

/// What a task tells those behind it of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// Time has come so far.
    Watermark(Timestamp),
    /// Nothing is to be expected for a while.
    Idle,
    /// Something is to be expected again.
    Active,
}

/// The watermarks of a task with several inputs.
///
/// ```
/// use millstream::Timestamp;
/// use millstream::testing::{Told, WatermarkInputs};
///
/// let mut inputs = WatermarkInputs::of(2);
/// assert_eq!(inputs.watermark(0, Timestamp(5)), []);
/// assert_eq!(inputs.idle(1), [Told::Watermark(Timestamp(5))]);
/// ```
#[derive(Debug)]
pub struct WatermarkInputs {
    merge: WatermarkMerge,
}

impl WatermarkInputs {
    /// Of so many inputs.
    #[must_use]
    pub fn of(inputs: usize) -> WatermarkInputs {
        WatermarkInputs { merge: WatermarkMerge::new(inputs) }
    }

    /// `input` says that time has come to `at`. An idle one has to say first that it is active again.
    ///
    /// # Panics
    /// Where there is no such input, like all that follow.
    pub fn watermark(&mut self, input: usize, at: Timestamp) -> Vec<Told> {
        told(self.merge.watermark_of_active(input, at))
    }

    /// `input` says that it has nothing to say for a while.
    pub fn idle(&mut self, input: usize) -> Vec<Told> {
        told(self.merge.idle(input))
    }

    /// `input` says that it is to be waited for again.
    pub fn active(&mut self, input: usize) -> Vec<Told> {
        told(self.merge.active(input))
    }
}

fn told(said: Said) -> Vec<Told> {
    let words = said.signals().filter_map(|signal| match signal {
        Signal::Watermark(at) => Some(Told::Watermark(at)),
        Signal::Idle => Some(Told::Idle),
        Signal::Active => Some(Told::Active),
        Signal::Split(_) | Signal::Barrier(_) | Signal::Flush => None,
    });
    words.collect()
}

/// The watermarks of a source's splits.
///
/// ```
/// use millstream::Timestamp;
/// use millstream::testing::SplitWatermarks;
///
/// let mut splits = SplitWatermarks::new();
/// let (one, other) = (splits.add(), splits.add());
/// splits.watermark(one, Timestamp(5));
/// assert_eq!(splits.combined(), None);
/// splits.idle(other);
/// assert_eq!(splits.combined(), Some(Timestamp(5)));
/// ```
#[derive(Debug)]
pub struct SplitWatermarks {
    clock: SplitClock,
    splits: usize,
}

impl Default for SplitWatermarks {
    fn default() -> SplitWatermarks {
        SplitWatermarks::new()
    }
}

impl SplitWatermarks {
    /// Of a source without a split.
    #[must_use]
    pub fn new() -> SplitWatermarks {
        SplitWatermarks { clock: SplitClock::new(), splits: 0 }
    }

    /// Another split, to be named by the number that is returned.
    pub fn add(&mut self) -> usize {
        self.splits += 1;
        let _ = self.clock.stands(SplitStanding::Active(self.splits - 1));
        self.splits - 1
    }

    /// The split brought rows up to `at`, which ends its idleness.
    pub fn watermark(&mut self, split: usize, at: Timestamp) {
        // A source tells of a split that speaks again before it hands on what it says.
        if self.clock.is_idle(split) {
            let _ = self.clock.stands(SplitStanding::Active(split));
        }
        let _ = self.clock.says(split, at);
    }

    /// The split has been silent for the idle timeout.
    pub fn idle(&mut self, split: usize) {
        let _ = self.clock.stands(SplitStanding::Idle(split));
    }

    /// The split is to be waited for again.
    pub fn active(&mut self, split: usize) {
        let _ = self.clock.stands(SplitStanding::Active(split));
    }

    /// The split has ended, or is somebody else's.
    pub fn remove(&mut self, split: usize) {
        let _ = self.clock.stands(SplitStanding::Ended(split));
    }

    /// The source's watermark, if there is one yet.
    #[must_use]
    pub fn combined(&self) -> Option<Timestamp> {
        Some(self.clock.current()).filter(|at| *at > Timestamp::MIN)
    }

    /// Whether there were splits and none is waited for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.splits > 0 && self.clock.is_quiet()
    }
}

/// Windows that a timestamp alone decides on, which [`windows_of`] can be asked for.
#[derive(Clone, Copy, Debug)]
pub enum Definition {
    /// End to end.
    Tumbling(Tumbling),
    /// One every slide.
    Sliding(Sliding),
    /// One that begins with its row, before it meets others.
    Session(Session),
}

impl From<Session> for Definition {
    fn from(windows: Session) -> Definition {
        Definition::Session(windows)
    }
}

impl From<Tumbling> for Definition {
    fn from(windows: Tumbling) -> Definition {
        Definition::Tumbling(windows)
    }
}

impl From<Sliding> for Definition {
    fn from(windows: Sliding) -> Definition {
        Definition::Sliding(windows)
    }
}

/// The windows that a row at `at` is in, the earliest first.
///
/// ```
/// use millstream::testing::windows_of;
/// use millstream::{Timestamp, Tumbling};
///
/// let tens = Tumbling::try_of_ms(10, 3)?;
/// assert_eq!(windows_of(tens, Timestamp(0)), [tens.window_of(Timestamp(-7))]);
/// # Ok::<(), millstream::WindowError>(())
/// ```
#[must_use]
pub fn windows_of(windows: impl Into<Definition>, at: Timestamp) -> Vec<Window> {
    match windows.into() {
        Definition::Tumbling(windows) => vec![windows.window_of(at)],
        Definition::Sliding(windows) => windows.windows_of(at),
        Definition::Session(windows) => {
            let mut assigned = Vec::new();
            WindowKind::<()>::assign(&windows, &(), at, &mut assigned);
            assigned
        }
    }
}
