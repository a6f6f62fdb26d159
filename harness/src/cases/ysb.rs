//! The Yahoo query, as the benchmark runs it, on the events of a case.

use millstream::testing::{Collected, TestJob};
use millstream::{Items, LookupTable, Watermarks};
use std::time::Duration;

use super::fields::{Fields, int, text, tuple};
use super::recovery::Names;
use super::{Why, failed, same_rows};
use crate::ysb::event::{AdEvent, EVENT_TYPES};
use crate::ysb::query;
use crate::ysb::result::ResultRow;

/// No event is late: what the case says is about all of them.
const DISORDER: Duration = Duration::from_secs(1 << 32);

pub(super) fn query(case: &Fields<'_>) -> Result<(), Why> {
    let (mut ads, mut campaigns) = (Names::default(), Names::default());
    let value = case.get("ads")?;
    let map = value.as_object().ok_or_else(|| format!("\"ads\" must be an object, and is {value}"))?;
    let of_ads = map.iter().map(|(ad, campaign)| Ok((ads.number(ad), campaigns.number(text("a campaign", campaign)?))));
    let of_ads: Vec<(u64, u64)> = of_ads.collect::<Result<_, Why>>()?;
    let event = |value| {
        let [ad, kind, at] = tuple("an event", value)?;
        let kind = text("an event's type", kind)?;
        let event_type = EVENT_TYPES.iter().position(|known| *known == kind);
        let event_type = event_type.ok_or_else(|| format!("there are no events of type \"{kind}\""))? as u8;
        let (ad_id, event_time_ms) = (ads.number(text("an ad", ad)?), int("an event's time", at)?);
        Ok(AdEvent { ad_id, event_type, event_time_ms, ..AdEvent::default() })
    };
    let events = case.list("events")?.iter().map(event).collect::<Result<Vec<_>, Why>>()?;
    let row = |value| {
        let [campaign, start, count] = tuple("a row of \"expect\"", value)?;
        Ok((text("a campaign", campaign)?.to_owned(), int("a window's start", start)?, int("a count", count)?))
    };
    let expected = case.list("expect")?.iter().map(row).collect::<Result<Vec<_>, Why>>()?;
    for shards in [1, 2] {
        let out = Collected::<ResultRow<u64>>::new();
        let (sink, events, of_ads) = (out.clone(), Items::of(events.clone()), of_ads.clone());
        let mut job = TestJob::new(shards, move |flow| {
            let table: LookupTable<u64, u64> = of_ads.iter().copied().collect();
            query::long(flow, events.clone(), table, Watermarks::bounded(DISORDER), sink.clone());
        })
        .map_err(failed)?;
        job.end_of_input().map_err(failed)?;
        let rows = out.committed().into_iter();
        let got = rows.map(|row| (campaigns.name(row.campaign), row.window_start_ms, row.count as i64)).collect();
        same_rows(&format!("the rows on {shards} shards"), got, expected.clone())?;
    }
    Ok(())
}
