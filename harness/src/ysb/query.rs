//! The Yahoo query in the public API: views, projected, joined to their campaign, counted per campaign and 10 s window.
//!
//! ```text
//! events ─▶ filter view ─▶ project ─▶ join ad → campaign ─▶ key by campaign ─▶ 10 s windows ─▶ count ─▶ rows
//! ```
//!
//! One function per encoding; all else is shared. This is what a user writes: nothing in it is known to the engine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millstream::road::rows::Lines;
use millstream::{
    Chain, Count, DeadLetter, Flow, LookupTable, OnError, Sink, Source, Stream, TimedChain, Timestamp, Tumbling,
    Watermarks, Windowed,
};
use millstream_connectors::file::FileSink;

use super::event::{AdEvent, AdEventText, EventType, UuidText, uuid_text};
use super::generate::{Population, SKEW_DISORDER_MS};
use super::parse::{AdFields, parse};
use super::result::{ResultRow, WINDOW_MS};

/// How late an event may be: never, or as late as the original's skew makes it.
#[must_use]
pub fn watermarks(skew: bool) -> Watermarks {
    if skew { Watermarks::bounded(Duration::from_millis(SKEW_DISORDER_MS as u64)) } else { Watermarks::monotonic() }
}

/// Ads with the ids of their campaigns, as numbers.
#[must_use]
pub fn ads(population: &Population) -> LookupTable<u64, u64> {
    (0..population.ads()).map(|ad| (population.ad_id(ad), population.campaign_id(population.campaign_of(ad)))).collect()
}

/// Ads with the ids of their campaigns, as texts. An ad's slot holds its campaign's number, which keeps it within a line,
/// and the campaign's text stands in a list.
#[derive(Clone, Debug)]
pub struct TextAds {
    numbers: LookupTable<UuidText, u32>,
    campaigns: Arc<[UuidText]>,
}

impl TextAds {
    /// Knows all ads.
    #[must_use]
    pub fn new(population: &Population) -> TextAds {
        let numbers =
            (0..population.ads()).map(|ad| (uuid_text(population.ad_id(ad)), population.campaign_of(ad))).collect();
        let campaigns = (0..population.campaigns).map(|number| uuid_text(population.campaign_id(number))).collect();
        TextAds { numbers, campaigns }
    }
}

/// Joins ads to their campaigns.
fn join_texts(ads: Stream<impl TimedChain<Out = UuidText>>, table: TextAds) -> Stream<impl TimedChain<Out = UuidText>> {
    let campaigns = table.campaigns;
    ads.lookup_ref(table.numbers, |ad| ad, move |_, number| campaigns[*number as usize])
}

/// What becomes of lines that are no events.
#[derive(Clone, Debug)]
pub struct BadLines {
    /// Without a directory for dead letters.
    pub on_error: OnError,
    /// Where they go as dead letters, if they do.
    pub dead_letters: Option<PathBuf>,
}

/// The query over binary events.
pub fn long(
    flow: &Flow,
    source: impl Source<Batch = Vec<AdEvent>>,
    ads: LookupTable<u64, u64>,
    watermarks: Watermarks,
    sink: impl Sink<ResultRow<u64>>,
) {
    let campaigns = flow
        .source(source)
        .named("ads")
        .event_time(|event| Timestamp(event.event_time_ms), watermarks)
        .filter(AdEvent::is_view)
        .map(|event| event.ad_id)
        .lookup(ads, |ad| *ad, |_, campaign| *campaign);
    count(flow, campaigns).sink(sink);
}

/// The query over events with ids as text.
pub fn uuid(
    flow: &Flow,
    source: impl Source<Batch = Vec<AdEventText>>,
    ads: TextAds,
    watermarks: Watermarks,
    sink: impl Sink<ResultRow<UuidText>>,
) {
    let views = flow
        .source(source)
        .named("ads")
        .event_time(|event| Timestamp(event.event_time_ms), watermarks)
        .filter(AdEventText::is_view)
        .project(|event| &event.ad_id);
    count(flow, join_texts(views, ads)).sink(sink);
}

/// The query over lines of JSON, parsed in the job.
pub fn json(
    flow: &Flow,
    source: impl Source<Batch = Lines>,
    ads: TextAds,
    watermarks: Watermarks,
    bad: BadLines,
    sink: impl Sink<ResultRow<UuidText>>,
) {
    let lines = flow.source(source).named("ads");
    // A closure at each place, not the function's name: what is called from one place only is compiled into its loop.
    match bad.dead_letters {
        None => {
            parsed(flow, lines.try_map(|line: &[u8]| parse(line), bad.on_error).named("parse"), ads, watermarks, sink)
        }
        Some(dir) => {
            let letters = FileSink::lines(dir, |letter: &DeadLetter, line: &mut Vec<u8>| {
                serde_json::to_writer(line, letter).expect("a letter is plain data, and a vector takes all bytes");
            });
            parsed(
                flow,
                lines.try_map_or_dead_letter(|line: &[u8]| parse(line), letters).named("parse"),
                ads,
                watermarks,
                sink,
            );
        }
    }
}

fn parsed(
    flow: &Flow,
    events: Stream<impl Chain<Out = AdFields>>,
    ads: TextAds,
    watermarks: Watermarks,
    sink: impl Sink<ResultRow<UuidText>>,
) {
    let views = events
        .event_time(|event| Timestamp(event.event_time_ms), watermarks)
        .filter(|event| event.event_type == EventType::View)
        .project(|event| &event.ad_id);
    count(flow, join_texts(views, ads)).sink(sink);
}

/// From campaigns to result rows.
fn count<K: millstream::Key>(
    flow: &Flow,
    campaigns: Stream<impl TimedChain<Out = K>>,
) -> Stream<impl Chain<Out = ResultRow<K>>> {
    let clock = flow.batch_clock();
    campaigns
        .key_by_ref(|campaign| campaign)
        .window(Tumbling::of(Duration::from_millis(WINDOW_MS as u64)))
        .aggregate(Count)
        .named("count")
        .map(move |row: &Windowed<K, u64>| ResultRow {
            campaign: row.key,
            window_start_ms: row.window.start.0,
            count: row.value,
            updated_ms: clock.wall_ms(),
        })
}
