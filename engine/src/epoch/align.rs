//! What a task with several inputs does with their barriers and watermarks. No I/O: marks in, verdicts out.

use super::Barrier;
use crate::time::Timestamp;

/// Aligned barriers: an input that has met the barrier is held back until every input has.
///
/// Held back, not buffered: buffering would keep latency flat but let one slow input fill memory. The price is that a
/// fast input idles while the slowest catches up.
#[derive(Debug)]
pub(crate) struct Aligner {
    met: Vec<bool>,
    waiting_for: Option<Barrier>,
}

impl Aligner {
    pub(crate) fn new(inputs: usize) -> Aligner {
        assert!(inputs > 0, "a task merges at least one input");
        Aligner { met: vec![false; inputs], waiting_for: None }
    }

    /// Whether `input` has met a barrier that others have not, and must not be read.
    pub(crate) fn holds_back(&self, input: usize) -> bool {
        self.met[input]
    }

    /// `input` met `barrier`. Returns it when that was the last input to meet it.
    pub(crate) fn meet(&mut self, input: usize, barrier: Barrier) -> Option<Barrier> {
        assert!(!self.met[input], "input {input} was read past its barrier");
        let expected = *self.waiting_for.get_or_insert(barrier);
        assert_eq!(expected, barrier, "barriers neither skip nor overtake");
        self.met[input] = true;
        if !self.met.iter().all(|met| *met) {
            return None;
        }
        self.met.fill(false);
        self.waiting_for = None;
        Some(barrier)
    }
}

/// What merged inputs say of time, when it changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Merged {
    Watermark(Timestamp),
    Idle,
}

/// The minimum of the watermarks of all inputs that are not idle.
#[derive(Debug)]
pub(crate) struct WatermarkMerge {
    inputs: Vec<InputTime>,
    current: Timestamp,
    idle: bool,
}

#[derive(Clone, Copy, Debug)]
struct InputTime {
    watermark: Timestamp,
    idle: bool,
}

impl WatermarkMerge {
    pub(crate) fn new(inputs: usize) -> WatermarkMerge {
        let input = InputTime { watermark: Timestamp::MIN, idle: false };
        WatermarkMerge { inputs: vec![input; inputs], current: Timestamp::MIN, idle: false }
    }

    /// `input` said that time has come to `watermark`; saying so ends its idleness.
    pub(crate) fn watermark(&mut self, input: usize, watermark: Timestamp) -> Option<Merged> {
        let time = &mut self.inputs[input];
        time.watermark = time.watermark.max(watermark);
        time.idle = false;
        self.advance()
    }

    /// `input` said that it has nothing to say for a while.
    pub(crate) fn idle(&mut self, input: usize) -> Option<Merged> {
        self.inputs[input].idle = true;
        self.advance()
    }

    fn advance(&mut self) -> Option<Merged> {
        match self.inputs.iter().filter(|input| !input.idle).map(|input| input.watermark).min() {
            None if self.idle => None,
            None => {
                self.idle = true;
                // All are idle: time stands where the fastest of them left it.
                let fastest = self.inputs.iter().map(|input| input.watermark).max()?;
                if fastest > self.current {
                    self.current = fastest;
                    return Some(Merged::Watermark(fastest));
                }
                Some(Merged::Idle)
            }
            Some(slowest) => {
                self.idle = false;
                (slowest > self.current).then(|| {
                    self.current = slowest;
                    Merged::Watermark(slowest)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_state::Epoch;

    fn barrier(epoch: u64) -> Barrier {
        Barrier { epoch: Epoch(epoch), last: false }
    }

    #[test]
    fn a_barrier_passes_when_every_input_has_met_it() {
        let mut align = Aligner::new(3);
        assert_eq!(align.meet(1, barrier(1)), None);
        assert!(align.holds_back(1) && !align.holds_back(0));
        assert_eq!(align.meet(0, barrier(1)), None);
        assert_eq!(align.meet(2, barrier(1)), Some(barrier(1)));
        assert!(!align.holds_back(0) && !align.holds_back(1) && !align.holds_back(2));
        assert_eq!(align.meet(2, barrier(2)), None);
    }

    #[test]
    #[should_panic(expected = "neither skip nor overtake")]
    fn a_skipped_barrier_is_our_bug() {
        let mut align = Aligner::new(2);
        let _ = align.meet(0, barrier(1));
        let _ = align.meet(1, barrier(2));
    }

    #[test]
    fn the_slowest_input_holds_time_back_unless_idle() {
        let mut merge = WatermarkMerge::new(2);
        assert_eq!(merge.watermark(0, Timestamp(10)), None);
        assert_eq!(merge.watermark(1, Timestamp(5)), Some(Merged::Watermark(Timestamp(5))));
        assert_eq!(merge.idle(1), Some(Merged::Watermark(Timestamp(10))));
        assert_eq!(merge.watermark(1, Timestamp(7)), None, "a watermark never goes back");
        assert_eq!(merge.idle(1), None);
        assert_eq!(merge.idle(0), Some(Merged::Idle));
        assert_eq!(merge.idle(0), None, "said once");
        assert_eq!(merge.watermark(0, Timestamp(20)), Some(Merged::Watermark(Timestamp(20))));
    }
}
