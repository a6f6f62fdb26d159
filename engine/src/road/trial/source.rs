//! The task at the head of the road: splits in turn, idle ones, ended ones.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::record::record;
use super::{Cruelty, play};
use crate::road::source::{Polled, Source, SourceError, Split};
use crate::road::watermarks::Watermarks;
use crate::time::Timestamp;

/// One split a line: what its polls bring, `5,6` rows at these times, `-` nothing, `-*20` nothing twenty times, and then
/// the end, or with `…` nothing for ever.
#[derive(Clone)]
struct Splits(&'static str);

struct Polls {
    name: String,
    polls: VecDeque<&'static str>,
    nothing: usize,
}

impl Source for Splits {
    type Batch = Vec<i64>;

    fn open(&self, _shard: u32, _shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<i64>>>>, SourceError> {
        let lines = self.0.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate();
        Ok(lines
            .map(|(index, line)| {
                let polls = line.split(' ').collect();
                Box::new(Polls { name: format!("split-{index}"), polls, nothing: 0 })
                    as Box<dyn Split<Batch = Vec<i64>>>
            })
            .collect())
    }

    fn describe(&self) -> String {
        "splits".to_owned()
    }
}

impl Split for Polls {
    type Batch = Vec<i64>;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn poll(&mut self, out: &mut Vec<i64>, _rows_max: usize) -> Result<Polled, SourceError> {
        if self.nothing > 0 {
            self.nothing -= 1;
            return Ok(Polled::Idle);
        }
        match self.polls.front().copied() {
            None => return Ok(Polled::End),
            Some("…") => return Ok(Polled::Idle),
            Some("-") => {}
            Some(word) => match word.strip_prefix("-*") {
                Some(times) => self.nothing = times.parse::<usize>().unwrap() - 1,
                None => out.extend(word.split(',').map(|at| at.parse::<i64>().unwrap())),
            },
        }
        self.polls.pop_front();
        Ok(if out.is_empty() { Polled::Idle } else { Polled::Rows })
    }

    fn position(&self) -> u64 {
        0
    }

    fn seek(&mut self, _position: u64) -> Result<(), SourceError> {
        Ok(())
    }
}

/// What a source of these splits says, on a shard that waits 10 ms before it takes a split for idle, and works a turn
/// a millisecond.
#[track_caller]
fn check(splits: &'static str, expected: &str) {
    for room in [1, usize::MAX] {
        let source = RefCell::new(Splits(splits));
        let cruelty = Cruelty { room, patience: 40, ..Cruelty::default() };
        let outcome = play(vec![Vec::new()], cruelty, move |flow, _, out| {
            let timed = flow.source(source.borrow().clone()).event_time(|at| Timestamp(*at), Watermarks::monotonic());
            record(timed.map(i64::to_string), out);
        });
        assert_eq!(outcome.text(), expected, "room {room}");
    }
}

#[test]
fn rows_come_before_the_watermark_they_move() {
    check("1,2 3,4", "1 2 W1 3 4 W3 Wmax");
}

#[test]
fn no_split_is_the_end() {
    check("", "Wmax");
}

#[test]
fn the_slowest_split_holds_time_back() {
    check(
        "10 20 30
         5 6 7",
        "10 5 W4 20 6 W5 30 7 W6 Wmax",
    );
}

#[test]
fn a_split_that_has_ended_holds_nothing_back() {
    check(
        "10 20 30
         5",
        "10 5 W4 20 W19 30 W29 Wmax",
    );
}

#[test]
fn a_silent_split_holds_time_back_until_it_is_idle() {
    // A few silences are not enough.
    check(
        "10 20 -*5 30
         5 -*6 6",
        "10 5 W4 20 30 6 W5 Wmax",
    );
    check(
        "10 20 …
         5 …",
        "10 5 W4 20 W19 I",
    );
}

#[test]
fn an_idle_split_speaks_again_without_turning_time_back() {
    check(
        "10 20 -*80 30
         5 -*40 6 25",
        "10 5 W4 20 W19 I A 25 6 W24 I A 30 W29 Wmax",
    );
}

#[test]
fn idleness_is_told_when_the_last_split_that_spoke_ends() {
    check(
        "10 -*30 20
         …",
        "10 W9 I A 20 W19 I",
    );
}
