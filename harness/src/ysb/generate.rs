//! The generator: fresh random events, never replayed, and any of them at once.
//!
//! Event `i` is a function of the seed and of `i`. A generator is therefore seekable, which is what makes it a
//! replayable source, and a shard's share of the events is the stride `shard, shard + shards, …`: all shards move through
//! event time together.
//!
//! ```text
//! i ──▶ three random words ──▶ user · page · (number of the ad, ad type, event type)         ysb::columns
//! time = start + i / pace      ad id = scatter(number of the ad)      campaign id = scatter(number of the campaign)
//!   └──▶ long · uuid · json                                                                   ysb::encode
//! ```
//!
//! The ids of ads are computed, not looked up: with ten million ads a table of them would cost each event a cache miss,
//! which is the query's to pay, not the input's. Replaying one small batch instead of making new events would train the
//! branch predictor and show several times the true speed.

use super::columns::{COLUMN_ROWS, Columns, Words, scatter, skewed};
use super::encode::Encoded;
use super::event::AdEvent;

/// The default start of event time, a multiple of the window: 2015-07-15 00:00 UTC.
pub const START_MS: i64 = 1_436_918_400_000;

/// With skew, an event's time lags the newest time before it by at most this: 50 ms forward, then 49 ms and up to
/// 60 s (exclusive) back.
pub const SKEW_DISORDER_MS: i64 = 50 + 49 + 59_999;

/// How fast event time moves, as a ratio: `events` events in each `ms` milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    events: u64,
    ms: u64,
}

impl Pace {
    /// So many events in each millisecond of event time; at least one.
    #[must_use]
    pub fn per_ms(events: u64) -> Pace {
        Pace { events: events.max(1), ms: 1 }
    }

    /// So many events in each second of event time; at least one.
    #[must_use]
    pub fn per_second(events: u64) -> Pace {
        Pace { events: events.max(1), ms: 1000 }
    }

    /// The time of event `index`, in milliseconds after the first.
    #[must_use]
    pub fn ms_of(self, index: u64) -> u64 {
        (u128::from(index) * u128::from(self.ms) / u128::from(self.events)) as u64
    }

    /// How many events lie before `ms` milliseconds after the first.
    #[must_use]
    pub fn events_before(self, ms: u64) -> u64 {
        (u128::from(ms) * u128::from(self.events)).div_ceil(u128::from(self.ms)) as u64
    }
}

/// Who there is: campaigns and their ads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Population {
    /// How many campaigns.
    pub campaigns: u32,
    /// How many ads each of them has.
    pub ads_per_campaign: u32,
    /// Which of all possible populations.
    pub seed: u64,
}

impl Population {
    /// How many ads there are.
    ///
    /// # Panics
    /// When there are 2³² or more.
    #[must_use]
    pub fn ads(&self) -> u32 {
        self.campaigns.checked_mul(self.ads_per_campaign).expect("the command line bounds campaigns × ads")
    }

    /// The id of ad number `ad`: sparse, never zero, different for each ad.
    #[inline(always)]
    #[must_use]
    pub fn ad_id(&self, ad: u32) -> u64 {
        scatter((self.seed << 33) | (u64::from(ad) + 1))
    }

    /// The id of campaign number `campaign`: sparse, never zero, different for each campaign.
    #[inline(always)]
    #[must_use]
    pub fn campaign_id(&self, campaign: u32) -> u64 {
        scatter(self.seed << 33 | 1 << 32 | (u64::from(campaign) + 1))
    }

    /// The number of the campaign that ad number `ad` belongs to.
    #[inline(always)]
    #[must_use]
    pub fn campaign_of(&self, ad: u32) -> u32 {
        ad / self.ads_per_campaign
    }
}

/// What to generate. The same value gives the same events, on any number of shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeneratorConfig {
    /// The campaigns and ads that events speak of; its seed is the events' seed too.
    pub population: Population,
    /// How many events there are over all shards; none for no end.
    pub events: Option<u64>,
    /// The time of event 0.
    pub start_ms: i64,
    /// How far apart events lie.
    pub pace: Pace,
    /// Whether to shift each event by −49 … +50 ms and one in 100,000 by up to 60 s more into the past.
    pub skew: bool,
}

impl GeneratorConfig {
    /// Everything about event `index` but its encoding.
    #[inline(always)]
    #[must_use]
    pub fn event(&self, index: u64) -> AdEvent {
        let time_ms = self.start_ms + self.pace.ms_of(index) as i64;
        let event = Words::of(self.population.seed, index).event(&self.population, self.population.ads());
        let event_time_ms = if self.skew { skewed(time_ms, event.user_id) } else { time_ms };
        AdEvent { event_time_ms, ..event }
    }
}

/// One shard's share of the events, in order. See the [module](self).
#[derive(Clone)]
pub struct Generator {
    config: GeneratorConfig,
    ads: u32,
    shard: u64,
    shards: u64,
    /// How many events of this shard came before the next one.
    position: u64,
    /// How many events of this shard there are.
    end: u64,
    columns: Box<Columns>,
}

impl Generator {
    /// The events `shard`, `shard + shards`, `shard + 2 × shards`, … of what `config` describes.
    ///
    /// # Panics
    /// When `shard` is not one of `shards`.
    #[must_use]
    pub fn new(config: GeneratorConfig, shard: u32, shards: u32) -> Generator {
        assert!(shard < shards, "shard {shard} of {shards}");
        let (shard, shards) = (u64::from(shard), u64::from(shards));
        let end = config.events.map_or(u64::MAX, |events| share(events, shard, shards));
        Generator {
            ads: config.population.ads(),
            config,
            shard,
            shards,
            position: 0,
            end,
            columns: Box::new(Columns::new()),
        }
    }

    /// How many events of this shard came before the next one.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many events of this shard are still to come.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.end - self.position
    }

    /// Makes the next event the one at `position`, which may be the end and not beyond.
    ///
    /// # Errors
    /// The position of the end, when `position` lies behind it.
    pub fn seek(&mut self, position: u64) -> Result<(), u64> {
        if position > self.end {
            return Err(self.end);
        }
        self.position = position;
        Ok(())
    }

    /// How many of the events still to come have a (not skewed) time of at most `now_ms`.
    #[must_use]
    pub fn due(&self, now_ms: i64) -> u64 {
        let passed_ms = now_ms.saturating_sub(self.config.start_ms).saturating_add(1).max(0) as u64;
        let events = self.config.pace.events_before(passed_ms);
        share(events, self.shard, self.shards).min(self.end).saturating_sub(self.position)
    }

    /// The (not skewed) time of the next event.
    #[must_use]
    pub fn next_ms(&self) -> i64 {
        self.time_ms(self.position)
    }

    /// Appends the next events to `out`, at most `rows_max` and as many as there are, and says how many.
    pub fn fill<E: Encoded>(&mut self, out: &mut E, rows_max: usize) -> usize {
        let rows = (rows_max as u64).min(self.remaining()) as usize;
        let end = self.position + rows as u64;
        out.reserve_rows(rows);
        while self.position < end {
            let chunk = ((end - self.position) as usize).min(COLUMN_ROWS);
            self.draw(chunk);
            out.append(&mut self.columns, chunk);
            self.position += chunk as u64;
        }
        rows
    }

    /// Draws the next `rows` events.
    fn draw(&mut self, rows: usize) {
        let columns = &mut *self.columns;
        let index = self.shard + self.position * self.shards;
        columns.draw(&self.config.population, self.ads, index, self.shards);
        // Times come in runs of equal ones, so that an event costs no division.
        let mut row = 0;
        while row < rows {
            let position = self.position + row as u64;
            let ms = self.config.pace.ms_of(self.shard + position * self.shards);
            let next_ms_at = share(self.config.pace.events_before(ms + 1), self.shard, self.shards);
            let run_end = ((next_ms_at - self.position) as usize).min(rows);
            columns.time_ms[row..run_end].fill(self.config.start_ms + ms as i64);
            row = run_end;
        }
        if self.config.skew {
            columns.skew();
        }
    }

    fn time_ms(&self, position: u64) -> i64 {
        self.config.start_ms + self.config.pace.ms_of(self.shard + position * self.shards) as i64
    }
}

/// How many of the first `events` events belong to `shard`.
fn share(events: u64, shard: u64, shards: u64) -> u64 {
    events.saturating_sub(shard).div_ceil(shards)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use millstream::road::rows::{Batch, Lines};

    use super::super::event::{AD_TYPES, AdEventText, EVENT_TYPES, IP_TEXT, uuid_text};
    use super::*;

    fn config(events: u64) -> GeneratorConfig {
        GeneratorConfig {
            population: Population { campaigns: 100, ads_per_campaign: 10, seed: 7 },
            events: Some(events),
            start_ms: START_MS,
            pace: Pace::per_ms(10),
            skew: false,
        }
    }

    fn all<E: Encoded + Batch>(config: GeneratorConfig, shard: u32, shards: u32, rows_max: usize) -> E {
        let (mut generator, mut out) = (Generator::new(config, shard, shards), E::default());
        while generator.fill(&mut out, rows_max) > 0 {}
        out
    }

    #[test]
    fn an_event_depends_on_its_index_alone() {
        for skew in [false, true] {
            for pace in [Pace::per_ms(1), Pace::per_ms(1000), Pace::per_second(7), Pace::per_second(1_500)] {
                let config = GeneratorConfig { skew, pace, ..config(1000) };
                for shards in 1..4 {
                    for shard in 0..shards {
                        for (row, event) in all::<Vec<AdEvent>>(config, shard, shards, 77).into_iter().enumerate() {
                            assert_eq!(event, config.event(u64::from(shard) + row as u64 * u64::from(shards)));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_shards_share_the_events_without_loss() {
        for events in [0, 1, 2, 3, 1000, 1001] {
            let rows: usize = (0..3).map(|shard| all::<Vec<AdEvent>>(config(events), shard, 3, 64).len()).sum();
            assert_eq!(rows as u64, events);
        }
    }

    #[test]
    fn seeking_continues_exactly_there() {
        let whole = all::<Vec<AdEvent>>(config(500), 1, 2, 1024);
        let mut generator = Generator::new(config(500), 1, 2);
        for position in [0, 1, 63, 64, 65, 249, 250] {
            generator.seek(position).unwrap();
            let mut rest = Vec::<AdEvent>::new();
            let _ = generator.fill(&mut rest, 1024);
            assert_eq!(rest, whole[position as usize..]);
        }
        assert_eq!(generator.seek(251), Err(250));
    }

    #[test]
    fn every_encoding_says_the_same() {
        for (skew, start_ms) in [(false, START_MS), (true, START_MS), (true, -5)] {
            let config = GeneratorConfig { skew, start_ms, ..config(200) };
            let long = all::<Vec<AdEvent>>(config, 0, 1, 50);
            let text = all::<Vec<AdEventText>>(config, 0, 1, 50);
            let lines = all::<Lines>(config, 0, 1, 50);
            assert_eq!((text.len(), Batch::len(&lines)), (200, 200));
            for (row, event) in long.iter().enumerate() {
                let ids = [event.user_id, event.page_id, event.ad_id].map(uuid_text);
                assert_eq!(ids, [text[row].user_id, text[row].page_id, text[row].ad_id]);
                assert_eq!(event.event_time_ms, text[row].event_time_ms);
                assert_eq!(event.is_view(), text[row].is_view());

                let line: serde_json::Value = serde_json::from_slice(lines.row(row)).unwrap();
                let ids = ids.map(|id| String::from_utf8(id.to_vec()).unwrap());
                let [user_id, page_id, ad_id] = ids;
                assert_eq!(
                    line,
                    serde_json::json!({
                        "user_id": user_id, "page_id": page_id, "ad_id": ad_id,
                        "ad_type": AD_TYPES[event.ad_type as usize],
                        "event_type": EVENT_TYPES[event.event_type as usize],
                        "event_time": event.event_time_ms.to_string(),
                        "ip_address": IP_TEXT,
                    })
                );
            }
        }
    }

    #[test]
    fn types_and_ads_are_equally_likely() {
        let events = all::<Vec<AdEvent>>(config(300_000), 0, 1, 1024);
        for event_type in 0..3 {
            let share = events.iter().filter(|event| event.event_type == event_type).count();
            assert!((99_000..101_000).contains(&share), "type {event_type}: {share}");
        }
        let ads: HashSet<u64> = events.iter().map(|event| event.ad_id).collect();
        assert_eq!(ads.len(), 1000);
        let known: HashSet<u64> = (0..1000).map(|ad| config(0).population.ad_id(ad)).collect();
        assert_eq!(ads, known);
    }

    #[test]
    fn skew_is_the_original_s() {
        let config = GeneratorConfig { skew: true, pace: Pace::per_ms(1), ..config(1_000_000) };
        let mut late = 0;
        for (row, event) in all::<Vec<AdEvent>>(config, 0, 1, 1024).iter().enumerate() {
            let shift_ms = event.event_time_ms - START_MS - row as i64;
            assert!((-49 - 59_999..=50).contains(&shift_ms), "{shift_ms}");
            late += u32::from(shift_ms < -49);
        }
        assert!((2..40).contains(&late), "10 in a million are late, not {late}");
    }

    #[test]
    fn due_events_are_those_whose_time_has_come() {
        let config = GeneratorConfig { pace: Pace::per_second(1_500), ..config(100) };
        let mut generator = Generator::new(config, 1, 2);
        for now_ms in START_MS - 5..START_MS + 80 {
            let due = (0..50).filter(|row| config.event(1 + 2 * row).event_time_ms <= now_ms).count() as u64;
            assert_eq!(generator.due(now_ms), due);
        }
        generator.seek(10).unwrap();
        assert_eq!(generator.next_ms(), config.event(21).event_time_ms);
        assert_eq!(generator.due(generator.next_ms() - 1), 0);
        assert!(generator.due(generator.next_ms()) > 0);
    }
}
