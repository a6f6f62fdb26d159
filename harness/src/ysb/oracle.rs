//! The slow obvious answer: every view counted again, one by one, and compared with what the job wrote.
//!
//! It knows no batch, no hash table of ours, no watermark and no engine. What a window counts depends on the input
//! alone, so the events are read once, in any order, into one array of counts for each window, by the campaign's number.
//! Memory grows with windows and campaigns, never with events.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;

use super::columns::Columns;
use super::encode::{Encoded, sealed::Container};
use super::event::{EventType, UuidText, uuid_text};
use super::generate::{Generator, GeneratorConfig, Population};
use super::result::window_start_ms;

/// How a job writes a campaign: the number, or its UUID text.
pub trait CampaignName: Copy + Eq + Hash {
    /// The name of the campaign with this id.
    fn of_id(id: u64) -> Self;

    /// As a person would read it.
    fn show(&self) -> String;

    /// What [`show`](CampaignName::show) wrote.
    fn parse(text: &str) -> Option<Self>;
}

impl CampaignName for u64 {
    fn of_id(id: u64) -> u64 {
        id
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn parse(text: &str) -> Option<u64> {
        text.parse().ok()
    }
}

impl CampaignName for UuidText {
    fn of_id(id: u64) -> UuidText {
        uuid_text(id)
    }

    fn show(&self) -> String {
        String::from_utf8_lossy(self).into_owned()
    }

    fn parse(text: &str) -> Option<UuidText> {
        text.as_bytes().try_into().ok()
    }
}

/// How often each campaign was seen in each window.
#[derive(Clone, Debug)]
pub struct Oracle {
    population: Population,
    /// By the window's start, then by the campaign's number.
    windows: BTreeMap<i64, Vec<u64>>,
    events: u64,
    views: u64,
}

impl Oracle {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(population: Population) -> Oracle {
        Oracle { population, windows: BTreeMap::new(), events: 0, views: 0 }
    }

    /// Counts all events that `config` describes.
    ///
    /// # Panics
    /// When they have no end.
    #[must_use]
    pub fn of_generator(config: GeneratorConfig) -> Oracle {
        let events = config.events.expect("an endless input has no answer");
        Oracle::of_shares(config, &[events])
    }

    /// Counts the first `taken[shard]` events of every shard's share.
    #[must_use]
    pub fn of_shares(config: GeneratorConfig, taken: &[u64]) -> Oracle {
        let mut oracle = Oracle::new(config.population);
        let mut drawn = Drawn::default();
        let shards = taken.len() as u32;
        for (shard, taken) in taken.iter().enumerate() {
            let mut generator = Generator::new(config, shard as u32, shards);
            while generator.position() < *taken {
                let rest = usize::try_from(*taken - generator.position()).unwrap_or(usize::MAX);
                generator.fill(&mut drawn, rest.min(4096));
                for (ad, time_ms, is_view) in drawn.0.drain(..) {
                    oracle.events += 1;
                    if is_view {
                        oracle.count(ad, time_ms);
                    }
                }
            }
        }
        oracle
    }

    fn count(&mut self, ad: u32, time_ms: i64) {
        let campaigns = self.population.campaigns as usize;
        let counts = self.windows.entry(window_start_ms(time_ms)).or_insert_with(|| vec![0; campaigns]);
        counts[self.population.campaign_of(ad) as usize] += 1;
        self.views += 1;
    }

    /// How many events were counted or passed over.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// How many of them were views.
    #[must_use]
    pub fn views(&self) -> u64 {
        self.views
    }

    /// How many rows the right answer has: pairs of campaign and window with a view.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.windows.values().flatten().map(|count| u64::from(*count > 0)).sum()
    }

    /// Compares rows of campaign, window start and count. There should be one row for each campaign and window with
    /// views, or up to `parts` rows whose counts add up, where so many counted apart.
    #[must_use]
    pub fn compare<C: CampaignName>(&self, rows: impl IntoIterator<Item = (C, i64, u64)>, parts: u32) -> Differences {
        let numbers: HashMap<C, usize> = (0..self.population.campaigns)
            .map(|number| (C::of_id(self.population.campaign_id(number)), number as usize))
            .collect();
        let mut differences = Differences { rows: self.rows(), views: self.views, ..Differences::default() };
        let mut found: BTreeMap<i64, Vec<Found>> = BTreeMap::new();
        for (campaign, window_ms, count) in rows {
            match (numbers.get(&campaign), self.windows.get(&window_ms)) {
                (Some(number), Some(counts)) => {
                    let found = found.entry(window_ms).or_insert_with(|| vec![Found::default(); counts.len()]);
                    found[*number].rows += 1;
                    found[*number].count += count;
                }
                _ => {
                    differences.duplicated += count;
                    differences
                        .note(format!("campaign {}, window {window_ms}: no such row, found {count}", campaign.show()));
                }
            }
        }
        for (window_ms, counts) in &self.windows {
            let found = found.get(window_ms);
            for (number, expected) in counts.iter().enumerate() {
                let Found { rows, count } = found.map_or(Found::default(), |found| found[number]);
                if rows <= parts && count == *expected && (rows > 0) == (*expected > 0) {
                    continue;
                }
                differences.lost += expected.saturating_sub(count);
                differences.duplicated += count.saturating_sub(*expected);
                let campaign = C::of_id(self.population.campaign_id(number as u32)).show();
                differences.note(format!(
                    "campaign {campaign}, window {window_ms}: expected {expected}, found {count} in {rows} rows"
                ));
            }
        }
        differences
    }
}

#[derive(Clone, Copy, Default)]
struct Found {
    rows: u32,
    count: u64,
}

/// Number of the ad, time and whether it is a view, straight from the generator's columns.
#[derive(Default)]
struct Drawn(Vec<(u32, i64, bool)>);

impl Encoded for Drawn {}

impl Container for Drawn {
    fn reserve_rows(&mut self, rows: usize) {
        self.0.reserve(rows);
    }

    fn append(&mut self, columns: &mut Columns, rows: usize) {
        let is_view = |row: usize| columns.event_type[row] == EventType::View as u8;
        self.0.extend((0..rows).map(|row| (columns.ad[row], columns.time_ms[row], is_view(row))));
    }
}

/// Counts the JSON lines of a log, in any order.
#[derive(Debug)]
pub struct LineOracle {
    oracle: Oracle,
    ads: HashMap<String, u32>,
}

impl LineOracle {
    /// Nothing counted yet; the lines speak of the ads of `population`.
    #[must_use]
    pub fn new(population: Population) -> LineOracle {
        let text = |ad| String::from_utf8_lossy(&uuid_text(population.ad_id(ad))).into_owned();
        let ads = (0..population.ads()).map(|ad| (text(ad), ad)).collect();
        LineOracle { oracle: Oracle::new(population), ads }
    }

    /// Counts one line.
    ///
    /// # Errors
    /// What keeps it from being an event of this population.
    pub fn add(&mut self, line: &[u8]) -> Result<(), LineError> {
        #[derive(serde::Deserialize)]
        struct Event {
            ad_id: String,
            event_type: String,
            event_time: String,
        }
        let event: Event = serde_json::from_slice(line).map_err(|error| LineError(error.to_string()))?;
        let time_ms = event.event_time.parse();
        let time_ms = time_ms.map_err(|_| LineError(format!("event_time `{}` is no number", event.event_time)))?;
        self.oracle.events += 1;
        if event.event_type == "view" {
            let ad = self.ads.get(&event.ad_id);
            let ad = ad.ok_or_else(|| LineError(format!("ad_id `{}` belongs to no campaign", event.ad_id)))?;
            self.oracle.count(*ad, time_ms);
        }
        Ok(())
    }

    /// The answer.
    #[must_use]
    pub fn finish(self) -> Oracle {
        self.oracle
    }
}

/// Why a line cannot be counted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no event of this benchmark: {0}")]
pub struct LineError(String);

/// What is wrong with a result.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Differences {
    /// How many rows the right answer has.
    pub rows: u64,
    /// How many views the right answer counts.
    pub views: u64,
    /// How many rows differ.
    pub differences: u64,
    /// How many views are missing from the counts.
    pub lost: u64,
    /// How many views were counted that are none, or again.
    pub duplicated: u64,
    /// The first few, one line each.
    pub first: Vec<String>,
}

impl Differences {
    /// How many differences are kept to be read.
    pub const SHOWN_MAX: usize = 10;

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.differences == 0
    }

    /// Counts a difference and keeps the first few.
    pub(crate) fn note(&mut self, difference: String) {
        self.differences += 1;
        if self.first.len() < Self::SHOWN_MAX {
            self.first.push(difference);
        }
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Differences { rows, views, differences, lost, duplicated, .. } = self;
        if self.is_empty() {
            return write!(f, "verified: {rows} windows, {views} views, 0 differences");
        }
        write!(f, "{differences} of {rows} windows differ: {lost} views lost, {duplicated} counted too often")?;
        for line in &self.first {
            write!(f, "\n  {line}")?;
        }
        let unsaid = differences - self.first.len() as u64;
        if unsaid > 0 { write!(f, "\n  and {unsaid} more") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use millstream::road::rows::{Batch, Lines};

    use super::super::event::AdEvent;
    use super::super::generate::{Pace, START_MS};
    use super::*;

    fn config() -> GeneratorConfig {
        GeneratorConfig {
            population: Population { campaigns: 5, ads_per_campaign: 3, seed: 11 },
            events: Some(30_000),
            start_ms: START_MS,
            pace: Pace::per_ms(1),
            skew: true,
        }
    }

    /// The right answer a third way: maps all over.
    fn rows() -> BTreeMap<(u64, i64), u64> {
        let population = config().population;
        let campaigns: HashMap<u64, u64> =
            (0..15).map(|ad| (population.ad_id(ad), population.campaign_id(ad / 3))).collect();
        let mut events = Vec::<AdEvent>::new();
        let _ = Generator::new(config(), 0, 1).fill(&mut events, 30_000);
        let mut rows = BTreeMap::new();
        for event in events.iter().filter(|event| event.is_view()) {
            *rows.entry((campaigns[&event.ad_id], window_start_ms(event.event_time_ms))).or_default() += 1;
        }
        rows
    }

    fn compare(rows: &BTreeMap<(u64, i64), u64>) -> Differences {
        Oracle::of_generator(config()).compare(rows.iter().map(|(&(campaign, ms), &count)| (campaign, ms, count)), 1)
    }

    #[test]
    fn the_right_answer_has_no_differences() {
        let rows = rows();
        let differences = compare(&rows);
        let views: u64 = rows.values().sum();
        assert!(differences.is_empty(), "{differences}");
        assert_eq!(differences.to_string(), format!("verified: {} windows, {views} views, 0 differences", rows.len()));
    }

    #[test]
    fn lines_are_counted_as_the_events_they_are() {
        let mut lines = Lines::default();
        let _ = Generator::new(config(), 0, 1).fill(&mut lines, 30_000);
        let mut oracle = LineOracle::new(config().population);
        for row in 0..lines.len() {
            oracle.add(lines.row(row)).unwrap();
        }
        let (lines, events) = (oracle.finish(), Oracle::of_generator(config()));
        assert_eq!((lines.windows, lines.events, lines.views), (events.windows, events.events, events.views));
    }

    #[test]
    fn foreign_lines_are_refused() {
        let mut oracle = LineOracle::new(config().population);
        for (line, why) in [
            ("{", "EOF"),
            (r#"{"ad_id":"x","event_type":"view","event_time":"1"}"#, "ad_id `x`"),
            (r#"{"ad_id":"x","event_type":"view","event_time":"now"}"#, "event_time `now`"),
        ] {
            let refused = oracle.add(line.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn a_lost_a_repeated_and_a_foreign_view_are_told_apart() {
        let right = rows();
        let mut busy = right.iter().filter(|(_, count)| **count > 10).map(|(key, _)| *key);
        let (first, last) = (busy.next().unwrap(), busy.next_back().unwrap());

        let mut wrong = right.clone();
        *wrong.get_mut(&first).unwrap() -= 2;
        *wrong.get_mut(&last).unwrap() += 3;
        let differences = compare(&wrong);
        assert_eq!((differences.differences, differences.lost, differences.duplicated), (2, 2, 3));

        let mut wrong = right.clone();
        let count = wrong.remove(&first).unwrap();
        wrong.insert((1, 0), 7);
        let differences = compare(&wrong);
        assert_eq!((differences.differences, differences.lost, differences.duplicated), (2, count, 7));
        assert!(differences.to_string().contains("campaign 1, window 0: no such row, found 7"));
    }

    #[test]
    fn a_row_written_twice_is_a_difference_even_if_the_counts_add_up() {
        let right = rows();
        let halves = right.iter().flat_map(|(&(campaign, ms), &count)| [(campaign, ms, 1), (campaign, ms, count - 1)]);
        let oracle = Oracle::of_generator(config());
        assert_eq!(oracle.compare(halves.clone(), 1).differences, right.len() as u64);
        assert!(oracle.compare(halves, 2).is_empty());
    }

    #[test]
    fn only_the_first_differences_are_shown() {
        let differences = Oracle::of_generator(config()).compare::<u64>([], 1);
        assert_eq!(differences.lost, differences.views);
        assert!(differences.to_string().ends_with(&format!("and {} more", differences.rows - 10)), "{differences}");
    }
}
