//! The coordinator of epochs: no thread, no file, no clock. Messages and the time go in, actions come out.
//!
//! ```text
//!            interval | stop | inputs ended
//!   Quiet ───────────────────────────────────▶ Collecting ── every shard acknowledged ──▶ Persisting
//!     ▲                                            │                                       │      │
//!     │                  a shard declined | timeout│                          write failed │      │ durable
//!     │                                            ▼                                       │      │ Complete
//!     ├─────────── every shard has answered ── Abandoned                                   │      ▼
//!     │                      Abort                                                  Abort  │  Committing
//!     ├────────────────────────────────────────────────────────────────────────────────────┘      │
//!     └────────────────────────── every shard has committed ──────────────────────────────────────┘
//! ```
//!
//! One epoch at a time. An abandoned one is over only when every shard has answered, for until then its barrier is on
//! the roads. The epoch that is asked for once the input has ended, or the job was told to stop, is the last.

use std::collections::VecDeque;
use std::time::Duration;

use millstream_state::{Epoch, Part};

use super::Barrier;
use crate::time::Nanos;

/// What the coordinator is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// A shard's snapshot of the epoch is durable.
    Acknowledged { shard: u32, epoch: Epoch, part: Part },
    /// A shard could not take its snapshot.
    Declined { shard: u32, epoch: Epoch, why: String },
    /// The manifest is durable, or could not be written.
    Persisted { epoch: Epoch, result: Result<(), String> },
    /// A shard's sinks have made the epoch visible.
    Committed { shard: u32, epoch: Epoch },
    /// All sources of a shard have ended.
    InputEnded { shard: u32 },
    /// Begin an epoch's checkpoint as soon as none is under way.
    Checkpoint,
    /// Stop with a last checkpoint.
    Stop,
}

/// What the coordinator wants done.
#[derive(Debug)]
pub(crate) enum Action {
    /// Put the barrier into every source's stream.
    Inject(Barrier),
    /// Make the checkpoint durable, then say [`Message::Persisted`].
    Persist { epoch: Epoch, parts: Vec<Part> },
    /// The checkpoint is durable: confirm the snapshots, commit the sinks.
    Complete(Epoch),
    /// The checkpoint is given up.
    Abort { epoch: Epoch, why: String },
    /// The last epoch is committed everywhere.
    Finish,
    /// Too many checkpoints in a row have failed.
    Fail(String),
}

/// Settings of the coordinator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EpochSettings {
    pub(crate) shards: u32,
    pub(crate) interval: Option<Duration>,
    pub(crate) timeout: Duration,
    pub(crate) tolerable_failures: u32,
}

#[derive(Debug)]
enum Stage {
    Quiet,
    Collecting { barrier: Barrier, since: Nanos, parts: Vec<Option<Part>> },
    Abandoned { barrier: Barrier, unanswered: Vec<u32>, why: String },
    Persisting { barrier: Barrier },
    Committing { barrier: Barrier, committed: Vec<bool> },
    Finished,
}

#[derive(Debug)]
pub(crate) struct Coordinator {
    settings: EpochSettings,
    stage: Stage,
    /// The last epoch that was begun.
    epoch: Epoch,
    next_at: Nanos,
    ended: Vec<bool>,
    stopping: bool,
    /// A checkpoint was asked for, and has not been begun.
    wanted: bool,
    /// The last epoch that is committed everywhere.
    committed: Epoch,
    failures_in_a_row: u32,
    actions: VecDeque<Action>,
}

impl Coordinator {
    /// A coordinator that goes on after `restored` (zero on a fresh start).
    pub(crate) fn new(settings: EpochSettings, restored: Epoch, now: Nanos) -> Coordinator {
        let mut coordinator = Coordinator {
            settings,
            stage: Stage::Quiet,
            epoch: restored,
            next_at: now,
            ended: vec![false; settings.shards as usize],
            stopping: false,
            wanted: false,
            committed: restored,
            failures_in_a_row: 0,
            actions: VecDeque::new(),
        };
        coordinator.schedule(now);
        coordinator
    }

    /// The next thing to do, if any.
    pub(crate) fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The last epoch that is committed everywhere.
    pub(crate) fn committed_epoch(&self) -> Epoch {
        self.committed
    }

    /// When [`tick`](Coordinator::tick) is wanted at the latest.
    pub(crate) fn wake_at(&self) -> Option<Nanos> {
        match &self.stage {
            Stage::Quiet => self.settings.interval.map(|_| self.next_at),
            Stage::Collecting { since, .. } => Some(Nanos(since.0 + self.settings.timeout.as_nanos() as u64)),
            Stage::Abandoned { .. } | Stage::Persisting { .. } | Stage::Committing { .. } | Stage::Finished => None,
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Nanos) {
        match &self.stage {
            Stage::Quiet if self.wants_last() => self.begin(now, true),
            Stage::Quiet if self.wanted => self.begin(now, false),
            Stage::Quiet if self.settings.interval.is_some() && now >= self.next_at => self.begin(now, false),
            Stage::Collecting { barrier, since, .. } if now.since(*since) >= self.settings.timeout => {
                let (barrier, timeout) = (*barrier, self.settings.timeout);
                self.abandon(barrier, None, format!("it was not complete after {timeout:?}"), now);
            }
            _ => {}
        }
    }

    /// Takes a message, then everything it makes possible.
    pub(crate) fn handle(&mut self, now: Nanos, message: Message) {
        self.apply(now, message);
        self.tick(now);
    }

    fn apply(&mut self, now: Nanos, message: Message) {
        match message {
            Message::InputEnded { shard } => self.ended[shard as usize] = true,
            Message::Checkpoint => self.wanted = true,
            Message::Stop => self.stopping = true,
            Message::Acknowledged { shard, epoch, part } => self.acknowledged(shard, epoch, part, now),
            Message::Declined { shard, epoch, why } => match &self.stage {
                Stage::Collecting { barrier, .. } => {
                    assert_eq!(barrier.epoch, epoch, "one epoch at a time");
                    self.abandon(*barrier, Some(shard), format!("shard {shard}: {why}"), now);
                }
                _ => self.answered(shard, now),
            },
            Message::Persisted { epoch, result } => match (&self.stage, result) {
                (Stage::Persisting { barrier }, Ok(())) if barrier.epoch == epoch => {
                    let (barrier, shards) = (*barrier, self.settings.shards as usize);
                    self.failures_in_a_row = 0;
                    self.actions.push_back(Action::Complete(epoch));
                    self.stage = Stage::Committing { barrier, committed: vec![false; shards] };
                }
                (Stage::Persisting { barrier }, Err(why)) if barrier.epoch == epoch => {
                    self.give_up(*barrier, why, now);
                }
                (stage, _) => unreachable!("epoch {epoch:?} was persisted in {stage:?}"),
            },
            Message::Committed { shard, epoch } => self.committed(shard, epoch, now),
        }
    }

    fn acknowledged(&mut self, shard: u32, epoch: Epoch, part: Part, now: Nanos) {
        let Stage::Collecting { barrier, parts, .. } = &mut self.stage else { return self.answered(shard, now) };
        assert_eq!(barrier.epoch, epoch, "one epoch at a time");
        let slot = &mut parts[shard as usize];
        assert!(slot.is_none(), "shard {shard} acknowledged epoch {epoch:?} twice");
        *slot = Some(part);
        if parts.iter().all(Option::is_some) {
            let barrier = *barrier;
            let parts = parts.drain(..).flatten().collect();
            self.actions.push_back(Action::Persist { epoch, parts });
            self.stage = Stage::Persisting { barrier };
        }
    }

    /// The epoch under way will not complete; `declined` is the shard that said so.
    fn abandon(&mut self, barrier: Barrier, declined: Option<u32>, why: String, now: Nanos) {
        let Stage::Collecting { parts, .. } = &self.stage else { unreachable!("only a collecting epoch is abandoned") };
        let shards = 0..self.settings.shards;
        let unanswered = shards.filter(|shard| parts[*shard as usize].is_none() && Some(*shard) != declined).collect();
        self.stage = Stage::Abandoned { barrier, unanswered, why };
        self.settle_abandoned(now);
    }

    /// A shard is done with the abandoned epoch, one way or the other.
    fn answered(&mut self, shard: u32, now: Nanos) {
        if let Stage::Abandoned { unanswered, .. } = &mut self.stage {
            unanswered.retain(|other| *other != shard);
            self.settle_abandoned(now);
        }
    }

    fn settle_abandoned(&mut self, now: Nanos) {
        if let Stage::Abandoned { barrier, unanswered, why } = &self.stage
            && unanswered.is_empty()
        {
            let (barrier, why) = (*barrier, why.clone());
            self.give_up(barrier, why, now);
        }
    }

    fn committed(&mut self, shard: u32, epoch: Epoch, now: Nanos) {
        let Stage::Committing { barrier, committed } = &mut self.stage else {
            unreachable!("shard {shard} committed epoch {epoch:?} in {:?}", self.stage)
        };
        assert_eq!(barrier.epoch, epoch, "epochs are committed one at a time");
        committed[shard as usize] = true;
        if !committed.iter().all(|committed| *committed) {
            return;
        }
        self.committed = epoch;
        if barrier.last {
            self.stage = Stage::Finished;
            self.actions.push_back(Action::Finish);
        } else {
            self.stage = Stage::Quiet;
            self.schedule(now);
        }
    }

    fn wants_last(&self) -> bool {
        self.stopping || self.ended.iter().all(|ended| *ended)
    }

    fn begin(&mut self, now: Nanos, last: bool) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.wanted = false;
        let barrier = Barrier { epoch: self.epoch, last };
        let parts = (0..self.settings.shards).map(|_| None).collect();
        self.stage = Stage::Collecting { barrier, since: now, parts };
        self.actions.push_back(Action::Inject(barrier));
    }

    fn give_up(&mut self, barrier: Barrier, why: String, now: Nanos) {
        self.failures_in_a_row += 1;
        self.actions.push_back(Action::Abort { epoch: barrier.epoch, why: why.clone() });
        self.stage = Stage::Quiet;
        self.schedule(now);
        // The last barrier has closed the sources for good, so there is no next epoch to try again with.
        if barrier.last || self.failures_in_a_row > self.settings.tolerable_failures {
            let tried = self.failures_in_a_row;
            let failure = format!("{tried} checkpoints in a row failed; epoch {}: {why}", barrier.epoch.0);
            self.stage = Stage::Finished;
            self.actions.push_back(Action::Fail(failure));
        }
    }

    /// The next epoch begins an interval after the last one began, or now if that has passed.
    fn schedule(&mut self, now: Nanos) {
        if let Some(interval) = self.settings.interval {
            let interval = interval.as_nanos() as u64;
            self.next_at = Nanos((self.next_at.0 + interval).max(now.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a script of `verb` words and notes the actions, one a line.
    fn check(shards: u32, script: &str, expected: &str) {
        let settings = EpochSettings {
            shards,
            interval: Some(Duration::from_millis(100)),
            timeout: Duration::from_millis(1_000),
            tolerable_failures: 1,
        };
        let mut coordinator = Coordinator::new(settings, Epoch(0), Nanos(0));
        let mut now = Nanos(0);
        let mut seen = String::new();
        for step in script.split('|').map(str::trim) {
            let words: Vec<&str> = step.split(' ').collect();
            let number = |index: usize| words[index].parse::<u64>().unwrap();
            let part = |shard: u64| Part { shard: shard as u32, operators: Vec::new() };
            match words[0] {
                "at" => {
                    now = Nanos(number(1) * 1_000_000);
                    coordinator.tick(now);
                }
                "ack" => {
                    let (shard, epoch) = (number(1), Epoch(number(2)));
                    coordinator.handle(now, Message::Acknowledged { shard: shard as u32, epoch, part: part(shard) });
                }
                "decline" => {
                    let (shard, epoch) = (number(1) as u32, Epoch(number(2)));
                    coordinator.handle(now, Message::Declined { shard, epoch, why: "disk full".into() });
                }
                "durable" => coordinator.handle(now, Message::Persisted { epoch: Epoch(number(1)), result: Ok(()) }),
                "torn" => {
                    let result = Err("no rename".to_string());
                    coordinator.handle(now, Message::Persisted { epoch: Epoch(number(1)), result });
                }
                "commit" => {
                    let (shard, epoch) = (number(1) as u32, Epoch(number(2)));
                    coordinator.handle(now, Message::Committed { shard, epoch });
                }
                "ended" => coordinator.handle(now, Message::InputEnded { shard: number(1) as u32 }),
                "want" => coordinator.handle(now, Message::Checkpoint),
                "stop" => coordinator.handle(now, Message::Stop),
                other => panic!("no such step: {other}"),
            }
            while let Some(action) = coordinator.poll() {
                let line = match action {
                    Action::Inject(barrier) => {
                        format!("inject {}{}", barrier.epoch.0, if barrier.last { " last" } else { "" })
                    }
                    Action::Persist { epoch, parts } => format!("persist {} of {}", epoch.0, parts.len()),
                    Action::Complete(epoch) => format!("complete {}", epoch.0),
                    Action::Abort { epoch, why } => format!("abort {}: {why}", epoch.0),
                    Action::Finish => "finish".to_string(),
                    Action::Fail(why) => format!("fail: {why}"),
                };
                seen.push_str(&line);
                seen.push('\n');
            }
        }
        let expected: String = expected.lines().map(|line| format!("{}\n", line.trim())).collect();
        assert_eq!(seen.trim(), expected.trim());
    }

    #[test]
    fn an_epoch_is_collected_persisted_and_committed() {
        check(
            2,
            "at 99 | at 100 | ack 1 1 | ack 0 1 | durable 1 | commit 0 1 | commit 1 1 | at 150 | at 200",
            "inject 1
             persist 1 of 2
             complete 1
             inject 2",
        );
    }

    #[test]
    fn a_slow_epoch_is_followed_at_once_and_never_overlapped() {
        check(
            1,
            "at 100 | at 350 | ack 0 1 | durable 1 | commit 0 1 | at 351",
            "inject 1
             persist 1 of 1
             complete 1
             inject 2",
        );
    }

    #[test]
    fn a_declined_epoch_is_given_up_and_tried_again() {
        check(
            2,
            "at 100 | decline 0 1 | at 150 | ack 1 1 | at 200 | ack 0 2 | ack 1 2 | durable 2 | commit 0 2 | commit 1 2",
            "inject 1
             abort 1: shard 0: disk full
             inject 2
             persist 2 of 2
             complete 2",
        );
    }

    #[test]
    fn failures_in_a_row_are_tolerated_up_to_the_setting() {
        check(
            1,
            "at 100 | decline 0 1 | at 200 | ack 0 2 | torn 2",
            "inject 1
             abort 1: shard 0: disk full
             inject 2
             persist 2 of 1
             abort 2: no rename
             fail: 2 checkpoints in a row failed; epoch 2: no rename",
        );
    }

    #[test]
    fn a_timeout_gives_up() {
        check(
            2,
            "at 100 | ack 0 1 | at 1099 | at 1100 | at 1200 | decline 1 1",
            "inject 1
             abort 1: it was not complete after 1s
             inject 2",
        );
    }

    #[test]
    fn the_last_epoch_follows_the_end_of_all_inputs() {
        check(
            2,
            "ended 0 | ended 1 | ack 0 1 | ack 1 1 | durable 1 | commit 0 1 | commit 1 1 | at 500",
            "inject 1 last
             persist 1 of 2
             complete 1
             finish",
        );
    }

    #[test]
    fn a_stop_waits_for_the_epoch_under_way() {
        check(
            1,
            "at 100 | stop | ack 0 1 | durable 1 | commit 0 1 | ack 0 2 | durable 2 | commit 0 2",
            "inject 1
             persist 1 of 1
             complete 1
             inject 2 last
             persist 2 of 1
             complete 2
             finish",
        );
    }

    #[test]
    fn a_checkpoint_that_is_asked_for_begins_at_once_or_after_the_one_under_way() {
        check(
            1,
            "at 10 | want | want | at 20 | want | ack 0 1 | durable 1 | commit 0 1 | ack 0 2 | durable 2 | commit 0 2 | at 50",
            "inject 1
             persist 1 of 1
             complete 1
             inject 2
             persist 2 of 1
             complete 2",
        );
    }

    #[test]
    fn a_failed_last_epoch_fails_the_job() {
        check(
            1,
            "stop | decline 0 1",
            "inject 1 last
             abort 1: shard 0: disk full
             fail: 1 checkpoints in a row failed; epoch 1: shard 0: disk full",
        );
    }
}
