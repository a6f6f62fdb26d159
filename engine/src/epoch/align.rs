//! What a task with several inputs does with their barriers and watermarks. No I/O: marks in, verdicts out.

use super::{Barrier, Epoch};
use crate::road::chain::Signal;
use crate::time::Timestamp;

/// Aligned barriers: an input that has met the barrier is held back until every input has.
///
/// Held back, not buffered: buffering would keep latency flat but let one slow input fill memory. The price is that a
/// fast input idles while the slowest catches up.
///
/// | what comes | what becomes of it |
/// |---|---|
/// | the barrier of a later epoch, while one is aligned | that one is given up, and the later one begun |
/// | the barrier of an epoch that is over, or was cancelled | nothing |
/// | a cancellation of the epoch under way, or of a later one | it is given up, and inputs are read again |
/// | the end of an input, while an epoch is aligned | it is given up: the input cannot meet its barrier any more |
/// | an epoch after that | is aligned among the inputs that are left |
#[derive(Debug)]
pub(crate) struct Aligner {
    inputs: Vec<Stage>,
    waiting_for: Option<Barrier>,
    /// The newest epoch that was begun or cancelled.
    newest: Option<Epoch>,
}

/// Where an input stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Reads,
    /// It has met the barrier.
    Met,
    Ended,
}

impl Aligner {
    pub(crate) fn new(inputs: usize) -> Aligner {
        assert!(inputs > 0, "a task merges at least one input");
        Aligner { inputs: vec![Stage::Reads; inputs], waiting_for: None, newest: None }
    }

    /// Whether `input` has met a barrier that others have not, and must not be read.
    pub(crate) fn holds_back(&self, input: usize) -> bool {
        self.inputs[input] == Stage::Met
    }

    /// `input` met `barrier`. Returns it when that was the last input to meet it. On the engine's own roads barriers come one
    /// after the other, each from every input.
    pub(crate) fn meet(&mut self, input: usize, barrier: Barrier) -> Option<Barrier> {
        assert!(!self.holds_back(input), "input {input} was read past its barrier");
        assert_eq!(self.waiting_for.unwrap_or(barrier), barrier, "barriers neither skip nor overtake");
        self.arrive(input, barrier).1
    }

    /// As [`meet`](Aligner::meet), of barriers that may skip and overtake: the epoch that is given up for it, and the barrier
    /// that all have met.
    pub(crate) fn arrive(&mut self, input: usize, barrier: Barrier) -> (Option<Epoch>, Option<Barrier>) {
        let is_new = self.newest.is_none_or(|newest| barrier.epoch > newest);
        let is_awaited = self.waiting_for.is_some_and(|waiting_for| waiting_for.epoch == barrier.epoch);
        if self.inputs[input] == Stage::Ended || !(is_new || is_awaited) {
            return (None, None);
        }
        let mut aborted = None;
        if is_new {
            aborted = self.give_up();
            self.waiting_for = Some(barrier);
            self.newest = Some(barrier.epoch);
        }
        self.inputs[input] = Stage::Met;
        if self.inputs.contains(&Stage::Reads) {
            return (aborted, None);
        }
        self.give_up();
        (aborted, Some(barrier))
    }

    /// An input says that `epoch` is cancelled; the epoch, unless it was over.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn cancel(&mut self, epoch: Epoch) -> Option<Epoch> {
        let is_new = self.newest.is_none_or(|newest| epoch > newest);
        let is_awaited = self.waiting_for.is_some_and(|waiting_for| waiting_for.epoch == epoch);
        if !(is_new || is_awaited) {
            return None;
        }
        self.give_up();
        self.newest = Some(epoch);
        Some(epoch)
    }

    /// `input` has ended; the epoch that is given up because of it.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn end(&mut self, input: usize) -> Option<Epoch> {
        self.inputs[input] = Stage::Ended;
        self.give_up()
    }

    /// Reads all inputs again, and waits for no barrier; the epoch that was waited for.
    fn give_up(&mut self) -> Option<Epoch> {
        self.inputs.iter_mut().filter(|input| **input == Stage::Met).for_each(|input| *input = Stage::Reads);
        self.waiting_for.take().map(|barrier| barrier.epoch)
    }
}

/// What merged inputs say of time, as far as it changed; to be passed on in the order of the fields.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Said {
    /// A watermark is to be expected again.
    pub(crate) active: bool,
    pub(crate) watermark: Option<Timestamp>,
    /// None is to be expected for a while.
    pub(crate) idle: bool,
}

impl Said {
    pub(crate) fn signals(self) -> impl Iterator<Item = Signal> {
        let active = self.active.then_some(Signal::Active);
        let idle = self.idle.then_some(Signal::Idle);
        active.into_iter().chain(self.watermark.map(Signal::Watermark)).chain(idle)
    }
}

/// The minimum of the watermarks of all inputs that are waited for.
#[derive(Debug)]
pub(crate) struct WatermarkMerge {
    inputs: Vec<InputTime>,
    current: Timestamp,
    is_idle: bool,
}

#[derive(Clone, Copy, Debug)]
struct InputTime {
    watermark: Timestamp,
    stands: Stands,
}

/// What an input has to do with time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stands {
    /// It is waited for.
    Abreast,
    /// It was idle while time went on, and is not waited for until it has caught up.
    Behind,
    Idle,
    /// Nothing more will come of it.
    Ended,
}

impl WatermarkMerge {
    pub(crate) fn new(inputs: usize) -> WatermarkMerge {
        let input = InputTime { watermark: Timestamp::MIN, stands: Stands::Abreast };
        WatermarkMerge { inputs: vec![input; inputs], current: Timestamp::MIN, is_idle: false }
    }

    /// `input` said that time has come to `watermark`; saying so ends its idleness.
    pub(crate) fn watermark(&mut self, input: usize, watermark: Timestamp) -> Said {
        let time = &mut self.inputs[input];
        let was = time.watermark;
        time.watermark = was.max(watermark);
        time.stands = match time.watermark {
            Timestamp::MAX => Stands::Ended,
            at if at >= self.current => Stands::Abreast,
            _ => Stands::Behind,
        };
        self.advance(was == self.current)
    }

    /// As [`watermark`](WatermarkMerge::watermark), where inputs say by themselves when they are back: what comes of one that
    /// is idle meanwhile says nothing.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn watermark_of_active(&mut self, input: usize, watermark: Timestamp) -> Said {
        if self.inputs[input].stands == Stands::Idle { Said::default() } else { self.watermark(input, watermark) }
    }

    /// `input` said that it is not idle any more.
    pub(crate) fn active(&mut self, input: usize) -> Said {
        self.watermark(input, Timestamp::MIN)
    }

    /// `input` said that it has nothing to say for a while.
    pub(crate) fn idle(&mut self, input: usize) -> Said {
        let time = &mut self.inputs[input];
        if time.stands == Stands::Ended {
            return Said::default();
        }
        time.stands = Stands::Idle;
        let held_back = time.watermark == self.current;
        self.advance(held_back)
    }

    /// What is new, after an input that `held_back` the others, or did not, has spoken.
    fn advance(&mut self, held_back: bool) -> Said {
        let of = |stands| self.inputs.iter().filter(move |input| input.stands == stands).map(|input| input.watermark);
        let is_over = self.inputs.iter().all(|input| input.stands == Stands::Ended);
        let is_active = of(Stands::Abreast).chain(of(Stands::Behind)).next().is_some();
        let watermark = if is_over {
            Some(Timestamp::MAX)
        } else if is_active {
            of(Stands::Abreast).min()
        } else if held_back {
            // None is waited for any more: time stands where the fastest of them left it.
            of(Stands::Idle).max()
        } else {
            None
        };
        let watermark = watermark.filter(|watermark| *watermark > self.current);
        self.current = watermark.unwrap_or(self.current);
        let was_idle = std::mem::replace(&mut self.is_idle, !is_active && !is_over);
        Said { active: was_idle && is_active, watermark, idle: self.is_idle && !was_idle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Plays words on so many inputs: `a1` the first meets barrier 1, `a!1` it says that epoch 1 is cancelled, `a.` it ends.
    /// What came of it, in words: `1` passed on, `!1` given up, and who is held back.
    fn align(inputs: usize, words: &str) -> String {
        let mut align = Aligner::new(inputs);
        let mut said = Vec::new();
        for word in words.split_whitespace() {
            let input = usize::from(word.as_bytes()[0] - b'a');
            let (aborted, passed) = match &word[1..] {
                "." => (align.end(input), None),
                number => match number.strip_prefix('!') {
                    Some(epoch) => (align.cancel(Epoch(epoch.parse().unwrap())), None),
                    None => align.arrive(input, barrier(number.parse().unwrap())),
                },
            };
            said.extend(aborted.map(|epoch| format!("!{}", epoch.0)));
            said.extend(passed.map(|barrier| barrier.epoch.0.to_string()));
        }
        let held: String =
            (0..inputs).filter(|at| align.holds_back(*at)).map(|at| char::from(b'a' + at as u8)).collect();
        if !held.is_empty() {
            said.push(held);
        }
        said.join(" ")
    }

    #[test]
    fn a_later_barrier_ends_the_wait_for_an_earlier_one() {
        assert_eq!(align(3, "b2 a2 c3 a3 b4"), "!2 !3 b");
        assert_eq!(align(2, "a1 b2 b1 a2"), "!1 2", "what is late for an epoch says nothing");
        assert_eq!(align(1, "a1 a3 a2"), "1 3");
        assert_eq!(align(2, "a1 a2 b2"), "!1 2", "from an input that was held back, too");
    }

    #[test]
    fn a_cancelled_epoch_is_over() {
        assert_eq!(align(3, "a2 c2 b!2 b3 c3 a3"), "!2 3", "on the last barrier");
        assert_eq!(align(3, "b!4 c4 a4 c5 b5 a5"), "!4 5", "on the first");
        assert_eq!(align(3, "b!6 c!6 a6"), "!6", "said once");
        assert_eq!(align(2, "a1 b!3 a!2 a!3"), "!3", "the later one takes the earlier one with it");
        assert_eq!(align(2, "a5 b!3 b5"), "5", "one that is over already");
        assert_eq!(align(1, "a1 a2 a!4 a5 a!6"), "1 2 !4 5 !6");
    }

    #[test]
    fn epochs_are_aligned_among_the_inputs_that_are_left() {
        assert_eq!(align(4, "c. b. d2 a2 a3 d3 a. d4"), "2 3 4");
        assert_eq!(align(3, "a1 b1 c1 c2 a2 b. c. a."), "1 !2", "the barrier that it could not meet is given up");
        assert_eq!(align(3, "a2 b. c2 a3 c3"), "!2 3", "and its rest says nothing");
    }

    /// Plays words on so many inputs: `a5` the first says 5, `a-` it is idle, `a+` it is active. What was passed on, in words: `5`, `I` idle,
    /// `A` active again.
    fn play(inputs: usize, words: &str) -> String {
        let mut merge = WatermarkMerge::new(inputs);
        let mut said = Vec::new();
        for word in words.split_whitespace() {
            let input = usize::from(word.as_bytes()[0] - b'a');
            let news = match &word[1..] {
                "-" => merge.idle(input),
                "+" => merge.active(input),
                "max" => merge.watermark(input, Timestamp::MAX),
                watermark => merge.watermark(input, Timestamp(watermark.parse().unwrap())),
            };
            said.extend(news.signals().map(|signal| match signal {
                Signal::Watermark(Timestamp::MAX) => "max".to_owned(),
                Signal::Watermark(watermark) => watermark.0.to_string(),
                Signal::Idle => "I".to_owned(),
                Signal::Active => "A".to_owned(),
                other => panic!("{other:?} says nothing of time"),
            }));
        }
        said.join(" ")
    }

    #[test]
    fn the_slowest_input_holds_time_back() {
        assert_eq!(play(3, "a0 b0 c0"), "0", "all must have spoken");
        assert_eq!(play(3, "a0 b0 c0 a12 c8 c10 b15 c17 a20"), "0 10 12 15");
        assert_eq!(play(2, "a10 b5 b3 b5"), "5", "a watermark never goes back, and is said once");
        assert_eq!(play(1, "a3 a4"), "3 4");
    }

    #[test]
    fn an_idle_input_is_not_waited_for() {
        assert_eq!(play(3, "a15 b10 c- b18 a20"), "10 15 18");
        assert_eq!(play(2, "a10 b5 b-"), "5 10");
        assert_eq!(play(1, "a-"), "I");
        assert_eq!(play(1, "a5 a- a- a6"), "5 I A 6", "said once");
    }

    #[test]
    fn where_all_are_idle_time_stands_where_the_fastest_left_it() {
        assert_eq!(play(3, "a3 b8 c5 a- c- b-"), "3 5 8 I");
        assert_eq!(play(3, "a3 b8 c5 b- c- a-"), "3 8 I", "in whatever order they fell silent");
        assert_eq!(play(2, "a3 b8 a- b- b8"), "3 8 I A", "the same watermark again says that it is back");
    }

    #[test]
    fn an_input_that_comes_back_is_waited_for_once_it_has_caught_up() {
        assert_eq!(play(2, "a10 b5 b- b7 a12 a14"), "5 10 12 14", "it is behind");
        assert_eq!(play(2, "a10 b5 b- b7 a12 b12 a14 b13"), "5 10 12 13", "it has caught up");
        assert_eq!(play(2, "a10 b5 b- b7 a-"), "5 10", "still spoken to by one, if one that is behind");
        assert_eq!(play(2, "a10 b5 b- b7 a- b-"), "5 10 I");
        assert_eq!(play(2, "a10 b5 b- a- b+ a+ a11"), "5 10 I A 11", "without a word of when");
    }

    #[test]
    fn an_idle_input_that_has_to_say_when_it_is_back_says_nothing_before() {
        let mut merge = WatermarkMerge::new(1);
        assert_eq!(merge.watermark_of_active(0, Timestamp(25)).watermark, Some(Timestamp(25)));
        assert!(merge.idle(0).idle);
        assert_eq!(merge.watermark_of_active(0, Timestamp(50)), Said::default());
        assert!(merge.active(0).active);
        assert_eq!(merge.watermark_of_active(0, Timestamp(50)).watermark, Some(Timestamp(50)));
    }

    #[test]
    fn an_input_that_has_ended_is_gone() {
        assert_eq!(play(2, "amax b5 bmax"), "5 max");
        assert_eq!(play(2, "a5 b- amax"), "5 I", "the idle one may still speak, so it is not the end of time");
        assert_eq!(play(2, "a5 b3 b- amax b4 b7 bmax"), "3 5 I A 7 max");
        assert_eq!(play(2, "amax a- bmax"), "max");
    }
}
