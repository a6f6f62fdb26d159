//! The Yahoo query in the public API: views, projected, joined to their campaign, counted per campaign and 10 s window.
//!
//! ```text
//! events ─▶ filter view ─▶ project ─▶ join ad → campaign ─▶ key by campaign ─▶ 10 s windows ─▶ count ─▶ rows
//! ```
//!
//! One function per encoding; all else is shared. This is what a user writes: nothing in it is known to the engine.

use std::time::Duration;

use millstream::road::rows::Lines;
use millstream::{
    Chain, Count, Flow, LookupTable, OnError, Sink, Source, Stream, Timestamp, Tumbling, Watermarks, Windowed,
};

use super::event::{AdEvent, AdEventText, EventType, UuidText, uuid_text};
use super::generate::{Population, SKEW_DISORDER_MS};
use super::parse::parse;
use super::result::{ResultRow, WINDOW_MS};

/// How late an event may be: never, or as late as the original's skew makes it.
#[must_use]
pub fn watermarks(skew: bool) -> Watermarks {
    if skew { Watermarks::bounded(Duration::from_millis(SKEW_DISORDER_MS as u64)) } else { Watermarks::monotonic() }
}

/// Ads with the ids of their campaigns, as numbers.
#[must_use]
pub fn ads(population: &Population) -> LookupTable<u64, u64> {
    (0..population.ads())
        .map(|ad| (population.ad_id(ad), population.campaign_id(population.campaign_of(ad))))
        .collect()
}

/// Ads with the ids of their campaigns, as texts.
#[must_use]
pub fn text_ads(population: &Population) -> LookupTable<UuidText, UuidText> {
    ads_as_texts(population).collect()
}

fn ads_as_texts(population: &Population) -> impl Iterator<Item = (UuidText, UuidText)> {
    (0..population.ads()).map(|ad| {
        let campaign = population.campaign_id(population.campaign_of(ad));
        (uuid_text(population.ad_id(ad)), uuid_text(campaign))
    })
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
    ads: LookupTable<UuidText, UuidText>,
    watermarks: Watermarks,
    sink: impl Sink<ResultRow<UuidText>>,
) {
    let campaigns = flow
        .source(source)
        .named("ads")
        .event_time(|event| Timestamp(event.event_time_ms), watermarks)
        .filter(AdEventText::is_view)
        .map(|event| event.ad_id)
        .lookup(ads, |ad| *ad, |_, campaign| *campaign);
    count(flow, campaigns).sink(sink);
}

/// The query over lines of JSON, parsed in the job.
pub fn json(
    flow: &Flow,
    source: impl Source<Batch = Lines>,
    ads: LookupTable<UuidText, UuidText>,
    watermarks: Watermarks,
    on_error: OnError,
    sink: impl Sink<ResultRow<UuidText>>,
) {
    let campaigns = flow
        .source(source)
        .named("ads")
        .try_map(parse, on_error)
        .named("parse")
        .event_time(|event| Timestamp(event.event_time_ms), watermarks)
        .filter(|event| event.event_type == EventType::View)
        .map(|event| event.ad_id)
        .lookup(ads, |ad| *ad, |_, campaign| *campaign);
    count(flow, campaigns).sink(sink);
}

/// From campaigns to result rows.
fn count<K: millstream::Key>(
    flow: &Flow,
    campaigns: Stream<impl Chain<Out = K>>,
) -> Stream<impl Chain<Out = ResultRow<K>>> {
    let clock = flow.clock();
    campaigns
        .key_by(|campaign| *campaign)
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
