//! Events of numbered keys, in order of event time: one split a shard.

use millstream::road::source::{Polled, Source, SourceError, Split};

use crate::keys::{KeySpace, KeyStream, Share};

/// One event.
#[millstream::event]
#[derive(Clone, Copy)]
pub(super) struct Hit {
    pub(super) key: u64,
    pub(super) at_ms: i64,
}

/// The events of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hits {
    pub(super) space: KeySpace,
    /// Over all shards.
    pub(super) events: u64,
    /// Events in a second of event time, over all shards.
    pub(super) per_second: u64,
}

impl Hits {
    /// When a share's event of this number happens. Shares go abreast.
    #[inline(always)]
    pub(super) fn at_ms(&self, share: &Share, number: u64) -> i64 {
        (u128::from(number * share.shards + share.shard) * 1_000 / u128::from(self.per_second)) as i64
    }
}

impl Source for Hits {
    type Batch = Vec<Hit>;

    fn open(&self, shard: u32, shards: u32) -> Result<Vec<Box<dyn Split<Batch = Vec<Hit>>>>, SourceError> {
        let share = self.space.share(shard, shards);
        let split = HitSplit {
            hits: *self,
            stream: self.space.stream(&share),
            events: share.part_of(self.events),
            share,
            position: 0,
            numbers: Vec::new(),
        };
        Ok(vec![Box::new(split)])
    }

    fn describe(&self) -> String {
        let Hits { space: KeySpace { keys, distribution, seed }, per_second, .. } = self;
        format!("events of {keys} keys, {distribution}, seed {seed}, {per_second} in a second")
    }
}

struct HitSplit {
    hits: Hits,
    stream: KeyStream,
    events: u64,
    share: Share,
    position: u64,
    numbers: Vec<u64>,
}

impl Split for HitSplit {
    type Batch = Vec<Hit>;

    fn name(&self) -> String {
        self.share.split_name()
    }

    fn poll(&mut self, out: &mut Vec<Hit>, rows_max: usize) -> Result<Polled, SourceError> {
        let rows = (self.events - self.position).min(rows_max as u64);
        if rows == 0 {
            return Ok(Polled::End);
        }
        self.numbers.resize(rows as usize, 0);
        self.stream.numbers(self.position, &mut self.numbers);
        let (hits, share, first) = (self.hits, self.share, self.position);
        let hit = |(row, number): (usize, &u64)| Hit {
            key: share.key(*number),
            at_ms: hits.at_ms(&share, first + row as u64),
        };
        out.extend(self.numbers.iter().enumerate().map(hit));
        self.position += rows;
        Ok(Polled::Rows)
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        self.position = position;
        Ok(())
    }
}
