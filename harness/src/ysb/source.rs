//! The generator as a job's source: one split a shard, bounded, endless or open loop. A job that goes on with another
//! number of shards keeps the splits it began with.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use millstream::road::rows::Batch;
use millstream::road::source::{Polled, Source, SourceError, Split};
use millstream::time::Clock;

use super::encode::Encoded;
use super::generate::{Generator, GeneratorConfig, Population};
use super::latency::WindowEnds;
use super::result::{WINDOW_MS, window_start_ms};

/// Events of encoding `E`: `Vec<AdEvent>`, `Vec<AdEventText>` or `Lines`.
///
/// Made with [`new`](YsbSource::new) it is as fast as it is polled. Made with [`open_loop`](YsbSource::open_loop), event
/// time is wall time: an event is handed out once its time has come, and a reader that stood still finds all it missed
/// with the times it should have had.
#[derive(Clone, Debug)]
pub struct YsbSource<E> {
    config: GeneratorConfig,
    open_loop: bool,
    shares: Option<Shares>,
    ends: Option<WindowEnds>,
    encoding: PhantomData<fn() -> E>,
}

impl<E> YsbSource<E> {
    /// As fast as it is polled.
    #[must_use]
    pub fn new(config: GeneratorConfig) -> YsbSource<E> {
        YsbSource { config, open_loop: false, shares: None, ends: None, encoding: PhantomData }
    }

    /// Ends when `shares` are closed, and says there how many events each share gave.
    #[must_use]
    pub fn counted(mut self, shares: Shares) -> YsbSource<E> {
        self.shares = Some(shares);
        self
    }

    /// Says when each shard has read the last event of a window.
    #[must_use]
    pub fn telling(mut self, ends: WindowEnds) -> YsbSource<E> {
        self.ends = Some(ends);
        self
    }

    /// Each event at its time, which counts from the wall time [`GeneratorConfig::start_ms`].
    #[must_use]
    pub fn open_loop(config: GeneratorConfig) -> YsbSource<E> {
        YsbSource { config, open_loop: true, shares: None, ends: None, encoding: PhantomData }
    }
}

impl<E: Encoded + Batch> Source for YsbSource<E> {
    type Batch = E;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = E>>>, SourceError> {
        let generator = Generator::new(self.config, shard, shards);
        let clock = self.open_loop.then(Clock::system);
        Ok(vec![Box::new(YsbSplit {
            generator,
            clock,
            shares: self.shares.clone().map(|shares| (shares.counter(shard, shards), shares)),
            ends: self.ends.clone().map(|ends| (ends, Clock::system())),
            name: format!("events-{shard}-of-{shards}"),
            encoding: PhantomData,
        })])
    }

    fn describe(&self) -> String {
        // All that decides which events there are: a checkpoint of other ones is refused.
        let GeneratorConfig { population, events, start_ms, pace, skew } = self.config;
        let Population { campaigns, ads_per_campaign, seed } = population;
        let events = events.map_or("endless".to_owned(), |events| format!("{events} events"));
        let skew = if skew { ", skewed" } else { "" };
        let when = match self.open_loop {
            true => "open loop".to_owned(),
            false => format!("from {start_ms} ms on, {pace:?}"),
        };
        format!("generator, {events}, {campaigns} × {ads_per_campaign} ads, seed {seed}, {when}{skew}")
    }
}

/// How many events each share of an input gave that is closed from outside, when its time is over.
#[derive(Clone, Default, Debug)]
pub struct Shares(Arc<SharesInner>);

#[derive(Default, Debug)]
struct SharesInner {
    closed: AtomicBool,
    /// As many as the input was dealt into, which a job that goes on has from its checkpoint.
    taken: Mutex<Vec<Arc<AtomicU64>>>,
}

impl Shares {
    /// Nothing taken yet.
    #[must_use]
    pub fn new() -> Shares {
        Shares::default()
    }

    /// No more events after the batch at hand.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }

    /// Events taken, by share.
    #[must_use]
    pub fn taken(&self) -> Vec<u64> {
        let taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.iter().map(|taken| taken.load(Ordering::Relaxed)).collect()
    }

    /// Where the share says how many were taken of it.
    fn counter(&self, share: u32, shares: u32) -> Arc<AtomicU64> {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() != shares as usize {
            *taken = (0..shares).map(|_| Arc::default()).collect();
        }
        taken[share as usize].clone()
    }
}

struct YsbSplit<E> {
    generator: Generator,
    /// Present where events wait for their time.
    clock: Option<Clock>,
    /// With this share's counter.
    shares: Option<(Arc<AtomicU64>, Shares)>,
    /// With the clock that says when they were read.
    ends: Option<(WindowEnds, Clock)>,
    name: String,
    encoding: PhantomData<fn() -> E>,
}

impl<E> YsbSplit<E> {
    /// The events from `after_ms` on and before `until_ms` have been read.
    fn read_until(&self, after_ms: i64, until_ms: i64) {
        if let Some((ends, clock)) = &self.ends
            && window_start_ms(after_ms) != window_start_ms(until_ms)
        {
            ends.pass(after_ms, until_ms, clock.wall_us());
        }
    }
}

impl<E: Encoded + Batch> Split for YsbSplit<E> {
    type Batch = E;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn poll(&mut self, out: &mut E, rows_max: usize) -> Result<Polled, SourceError> {
        let closed = self.shares.as_ref().is_some_and(|(_, shares)| shares.0.closed.load(Ordering::Relaxed));
        if self.generator.remaining() == 0 || closed {
            let last_ms = self.generator.next_ms();
            self.read_until(last_ms, window_start_ms(last_ms) + WINDOW_MS);
            return Ok(Polled::End);
        }
        let rows = match &self.clock {
            None => rows_max,
            Some(clock) => match self.generator.due(clock.wall_ms()) {
                0 => return Ok(Polled::IdleUntilMs(self.generator.next_ms())),
                due => rows_max.min(due as usize),
            },
        };
        let first_ms = self.generator.next_ms();
        self.generator.fill(out, rows);
        self.read_until(first_ms, self.generator.next_ms());
        if let Some((taken, _)) = &self.shares {
            taken.store(self.generator.position(), Ordering::Relaxed);
        }
        Ok(Polled::Rows)
    }

    fn position(&self) -> u64 {
        self.generator.position()
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.generator.seek(position).map_err(|end| {
            SourceError::Unusable(format!(
                "The checkpoint continues the generator's {} at event {position}, but it now ends at event {end}. Give \
                 the run at least the number of events it had when the checkpoint was taken.",
                self.name
            ))
        })
    }

    fn pending(&self) -> Option<u64> {
        self.clock.as_ref().map(|clock| self.generator.due(clock.wall_ms()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::AdEvent;
    use super::super::generate::{Pace, Population, START_MS};
    use super::*;

    fn config() -> GeneratorConfig {
        GeneratorConfig {
            population: Population { campaigns: 10, ads_per_campaign: 10, seed: 3 },
            events: Some(100),
            start_ms: START_MS,
            pace: Pace::per_second(2_000),
            skew: false,
        }
    }

    fn read(split: &mut dyn Split<Batch = Vec<AdEvent>>) -> Vec<AdEvent> {
        let mut all = Vec::new();
        let mut batch = Vec::new();
        while split.poll(&mut batch, 7).unwrap() == Polled::Rows {
            all.append(&mut batch);
        }
        all
    }

    #[test]
    fn a_split_ends_and_seeks() {
        let mut splits = YsbSource::<Vec<AdEvent>>::new(config()).open(1, 2).unwrap();
        let split = splits[0].as_mut();
        let all = read(split);
        assert_eq!(all.len(), 50);
        split.seek(20).unwrap();
        assert_eq!(read(split), all[20..]);
        let refused = split.seek(51).unwrap_err().to_string();
        assert!(refused.contains("events-1-of-2") && refused.contains("ends at event 50"), "{refused}");
    }

    #[test]
    fn an_open_loop_hands_out_what_is_due_and_says_when_to_ask_again() {
        let clock = Clock::held(START_MS - 1);
        let generator = Generator::new(config(), 0, 1);
        let mut split = YsbSplit::<Vec<AdEvent>> {
            generator,
            clock: Some(clock.clone()),
            shares: None,
            ends: None,
            name: String::new(),
            encoding: PhantomData,
        };
        let mut batch = Vec::new();
        assert_eq!(split.poll(&mut batch, 1024).unwrap(), Polled::IdleUntilMs(START_MS));
        clock.advance_ms(1);
        assert_eq!(split.poll(&mut batch, 1024).unwrap(), Polled::Rows);
        assert_eq!((batch.len(), split.pending()), (2, Some(0)));
        assert_eq!(split.poll(&mut batch, 1024).unwrap(), Polled::IdleUntilMs(START_MS + 1));
        clock.advance_ms(10_000);
        assert_eq!(split.pending(), Some(98));
        assert_eq!(read(&mut split).len(), 98);
        assert_eq!(split.poll(&mut batch, 1024).unwrap(), Polled::End);
    }
}
