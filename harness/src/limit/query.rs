//! The query's stages, each one loop over a batch: views, join, count. All shapes are made of them.
//!
//! ```text
//! batch ──views──▶ ad · time ──join──▶ campaign · time ──count──▶ one table for each open window ──fire──▶ rows
//! ```
//!
//! Fusing all of it into one loop over the events was tried: 135 M events/s where the stages reach 156 M, for the filter
//! becomes a branch that is mispredicted every third event.

use std::collections::VecDeque;

use millstream::Clock;
use millstream::road::rows::{Batch, Lines};

use super::flat::{FlatTable, NumberSlot, Slot, TextSlot, prefetch};
use crate::machine::{huge_vec, huge_vec_with_capacity};
use crate::ysb::encode::Encoded;
use crate::ysb::event::{AdEvent, AdEventText, EventType, UuidText, uuid_text};
use crate::ysb::generate::Population;
use crate::ysb::parse::parse;
use crate::ysb::result::{WINDOW_MS, window_start_ms};

/// How many events are made at a time: 256 cost 1 to 2 % more, 64 cost 7 %, and up to 64 Ki gain nothing.
pub(crate) const BATCH_ROWS: usize = 1024;

/// Keys with their times, in two columns that are never reallocated.
pub(crate) struct Keyed<K> {
    keys: Vec<K>,
    times_ms: Vec<i64>,
    rows: usize,
}

impl<K: Copy> Keyed<K> {
    /// Room for `rows_max` rows; `key` fills it.
    pub(crate) fn new(key: K, rows_max: usize) -> Keyed<K> {
        Keyed { keys: vec![key; rows_max], times_ms: vec![0; rows_max], rows: 0 }
    }

    pub(crate) fn keys(&self) -> &[K] {
        &self.keys[..self.rows]
    }

    pub(crate) fn times_ms(&self) -> &[i64] {
        &self.times_ms[..self.rows]
    }

    pub(crate) fn clear(&mut self) {
        self.rows = 0;
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, key: K, time_ms: i64) {
        self.keys[self.rows] = key;
        self.times_ms[self.rows] = time_ms;
        self.rows += 1;
    }

    /// Appends the key and the time of each row whose third part holds.
    #[inline(always)]
    pub(crate) fn select(&mut self, rows: impl ExactSizeIterator<Item = (K, i64, bool)>) {
        let (keys, times_ms) = (&mut self.keys[..], &mut self.times_ms[..]);
        assert!(keys.len() == times_ms.len() && self.rows + rows.len() <= keys.len());
        // Written always, kept where it holds: without a branch there is nothing to mispredict every third row.
        let mut end = self.rows;
        for (key, time_ms, keep) in rows {
            keys[end] = key;
            times_ms[end] = time_ms;
            end += usize::from(keep);
        }
        self.rows = end;
    }

    /// Forgets the first `rows` rows and moves the others to the front.
    pub(crate) fn keep_from(&mut self, rows: usize) {
        self.keys.copy_within(rows..self.rows, 0);
        self.times_ms.copy_within(rows..self.rows, 0);
        self.rows -= rows;
    }
}

/// The query over one encoding: what is shared by all threads. Nothing here changes during a run.
pub(crate) trait Query: Sync + Sized + 'static {
    /// What the generator fills.
    type Batch: Encoded + Batch;
    /// Ids as the encoding has them, in a slot.
    type Slot: Slot;

    /// Knows all ads.
    fn new(population: &Population) -> Self;

    /// Filter and project: the ads and times of the batch's views.
    fn views(batch: &Self::Batch, views: &mut Keyed<Key<Self>>);

    /// Writes the campaign of each ad.
    fn join(&self, ads: &[Key<Self>], campaigns: &mut [Key<Self>]);
}

/// A key of a query.
pub(crate) type Key<Q> = <<Q as Query>::Slot as Slot>::Key;

/// The query over binary events.
pub(crate) struct Long {
    campaigns: FlatTable<NumberSlot>,
}

impl Query for Long {
    type Batch = Vec<AdEvent>;
    type Slot = NumberSlot;

    fn new(population: &Population) -> Long {
        let mut campaigns = FlatTable::with_capacity(population.ads() as usize);
        for ad in 0..population.ads() {
            *campaigns.entry(&population.ad_id(ad)) = population.campaign_id(population.campaign_of(ad));
        }
        Long { campaigns }
    }

    #[inline]
    fn views(batch: &Vec<AdEvent>, views: &mut Keyed<u64>) {
        views.clear();
        views.select(batch.iter().map(|event| (event.ad_id, event.event_time_ms, event.is_view())));
    }

    #[inline]
    fn join(&self, ads: &[u64], campaigns: &mut [u64]) {
        let campaigns = &mut campaigns[..ads.len()];
        self.campaigns.look_up(ads, |row, campaign| campaigns[row] = campaign);
    }
}

/// The query over events with ids as text.
pub(crate) struct Uuid(TextJoin);

impl Query for Uuid {
    type Batch = Vec<AdEventText>;
    type Slot = TextSlot;

    fn new(population: &Population) -> Uuid {
        Uuid(TextJoin::new(population))
    }

    #[inline]
    fn views(batch: &Vec<AdEventText>, views: &mut Keyed<UuidText>) {
        views.clear();
        views.select(batch.iter().map(|event| (event.ad_id, event.event_time_ms, event.is_view())));
    }

    #[inline]
    fn join(&self, ads: &[UuidText], campaigns: &mut [UuidText]) {
        self.0.join(ads, campaigns);
    }
}

/// The query over lines of JSON: as [`Uuid`], with parsing in front.
pub(crate) struct Json(TextJoin);

impl Query for Json {
    type Batch = Lines;
    type Slot = TextSlot;

    fn new(population: &Population) -> Json {
        Json(TextJoin::new(population))
    }

    #[inline]
    fn views(batch: &Lines, views: &mut Keyed<UuidText>) {
        views.clear();
        views.select((0..batch.len()).map(|row| {
            let event = parse(batch.row(row)).expect("the generator writes well-formed lines");
            (event.ad_id, event.event_time_ms, event.event_type == EventType::View)
        }));
    }

    #[inline]
    fn join(&self, ads: &[UuidText], campaigns: &mut [UuidText]) {
        self.0.join(ads, campaigns);
    }
}

/// The join of texts: an ad's text leads to its campaign's number, and that to the campaign's text.
///
/// The two are kept apart so that an ad's slot is one line; with both texts in it, it would be two.
struct TextJoin {
    numbers: FlatTable<TextSlot>,
    campaigns: Vec<UuidText>,
}

impl TextJoin {
    fn new(population: &Population) -> TextJoin {
        let mut numbers = FlatTable::with_capacity(population.ads() as usize);
        for ad in 0..population.ads() {
            *numbers.entry(&uuid_text(population.ad_id(ad))) = u64::from(population.campaign_of(ad));
        }
        let mut campaigns = huge_vec(population.campaigns as usize, TextSlot::NO_KEY);
        for (number, text) in campaigns.iter_mut().enumerate() {
            *text = uuid_text(population.campaign_id(number as u32));
        }
        TextJoin { numbers, campaigns }
    }

    #[inline]
    fn join(&self, ads: &[UuidText], campaigns: &mut [UuidText]) {
        let campaigns = &mut campaigns[..ads.len()];
        if self.numbers.prefetched() {
            let mut numbers = [0; BATCH_ROWS];
            let numbers = &mut numbers[..ads.len()];
            self.numbers.look_up(ads, |row, number| {
                prefetch(self.campaigns.as_ptr().wrapping_add(number as usize));
                numbers[row] = number as usize;
            });
            for (campaign, number) in campaigns.iter_mut().zip(numbers) {
                *campaign = self.campaigns[*number];
            }
        } else {
            self.numbers.look_up(ads, |row, number| campaigns[row] = self.campaigns[number as usize]);
        }
    }
}

/// The last stage: a table for each open window, and the rows of those that closed.
pub(crate) struct Windows<S: Slot> {
    open: VecDeque<Window<S>>,
    /// Cleared tables, used again.
    spare: Vec<FlatTable<S>>,
    campaigns: usize,
    /// What has been materialised.
    pub(crate) rows: Vec<Row<S::Key>>,
}

struct Window<S> {
    start_ms: i64,
    counts: FlatTable<S>,
}

/// One row of the result.
#[derive(Clone, Copy)]
pub(crate) struct Row<K> {
    pub(crate) campaign: K,
    pub(crate) window_start_ms: i64,
    pub(crate) count: u64,
    /// Wall time of its last update.
    #[expect(dead_code, reason = "a part of the result; the check looks at the counts")]
    pub(crate) updated_ms: i64,
}

impl<S: Slot> Windows<S> {
    /// For at most `campaigns` campaigns; memory for `rows` result rows is put aside.
    pub(crate) fn new(campaigns: usize, rows: usize) -> Windows<S> {
        // Two windows are open where one ends.
        let spare = (0..2).map(|_| FlatTable::with_capacity(campaigns)).collect();
        Windows { open: VecDeque::new(), spare, campaigns, rows: huge_vec_with_capacity(rows) }
    }

    /// Counts each key in the window of its time.
    #[inline]
    pub(crate) fn count(&mut self, keys: &[S::Key], times_ms: &[i64]) {
        // One window test a batch: all of it nearly always lies in one.
        let Some(first_ms) = times_ms.iter().copied().min() else { return };
        let last_ms = times_ms.iter().copied().max().unwrap_or(first_ms);
        let start_ms = window_start_ms(first_ms);
        if last_ms < start_ms + WINDOW_MS {
            self.window(start_ms).count(keys);
        } else {
            for (key, time_ms) in keys.iter().zip(times_ms) {
                self.window(window_start_ms(*time_ms)).count(std::slice::from_ref(key));
            }
        }
    }

    fn window(&mut self, start_ms: i64) -> &mut FlatTable<S> {
        let at = match self.open.binary_search_by_key(&start_ms, |window| window.start_ms) {
            Ok(at) => at,
            Err(at) => {
                let counts = self.spare.pop().unwrap_or_else(|| FlatTable::with_capacity(self.campaigns));
                self.open.insert(at, Window { start_ms, counts });
                at
            }
        };
        &mut self.open[at].counts
    }

    /// Materialises the windows that end at `time_ms` or before.
    #[inline]
    pub(crate) fn fire(&mut self, time_ms: i64) {
        while self.open.front().is_some_and(|window| window.start_ms.saturating_add(WINDOW_MS) <= time_ms) {
            self.fire_oldest();
        }
    }

    #[cold]
    fn fire_oldest(&mut self) {
        let Some(Window { start_ms, mut counts }) = self.open.pop_front() else { return };
        let clock = Clock::system();
        let (mut updated_ms, mut fired) = (0, 0u32);
        counts.drain(|campaign, count| {
            // A batch of rows later it is another moment.
            if fired.is_multiple_of(BATCH_ROWS as u32) {
                updated_ms = clock.wall_ms();
            }
            fired += 1;
            self.rows.push(Row { campaign: *campaign, window_start_ms: start_ms, count, updated_ms });
        });
        self.spare.push(counts);
    }
}
