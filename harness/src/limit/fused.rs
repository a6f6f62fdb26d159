//! The query on each shard for itself, all stages in one loop over batches, no row handed to another core.

use millstream::road::rows::Batch as _;

use super::flat::Slot as _;
use super::query::{BATCH_ROWS, Key, Keyed, Query, Windows};
use super::stages::{Laps, Stage};
use super::{LimitError, Part, QueryLimit, Timed, run_pinned};
use crate::ysb::generate::Generator;
use crate::ysb::result::WINDOW_MS;

pub(super) fn run<Q: Query, const STAGED: bool>(
    query: &Q,
    limit: &QueryLimit,
) -> Result<Timed<Part<Key<Q>>>, LimitError> {
    run_pinned(&limit.cores, |shard| {
        let campaigns = limit.events.population.campaigns as usize;
        let mut generator = Generator::new(limit.events, shard as u32, limit.cores.len() as u32);
        let mut windows = Windows::<Q::Slot>::new(campaigns, campaigns * windows_expected(limit));
        move || {
            let mut laps = Laps::<STAGED>::start();
            let mut batch = Q::Batch::default();
            let mut views = Keyed::new(Q::Slot::NO_KEY, BATCH_ROWS);
            let mut campaigns = [Q::Slot::NO_KEY; BATCH_ROWS];
            let mut watermark_ms = generator.next_ms();
            loop {
                batch.clear();
                let made = generator.fill(&mut batch, BATCH_ROWS);
                laps.lap(Stage::Generate);
                if made == 0 {
                    break;
                }
                Q::views(&batch, &mut views);
                laps.lap(Stage::Views);
                let campaigns = &mut campaigns[..views.keys().len()];
                query.join(views.keys(), campaigns);
                laps.lap(Stage::Join);
                windows.count(campaigns, views.times_ms());
                // Without disorder the next event's time is a watermark.
                if generator.next_ms() > watermark_ms {
                    watermark_ms = generator.next_ms();
                    windows.fire(watermark_ms);
                }
                laps.lap(Stage::Count);
            }
            windows.fire(i64::MAX);
            laps.lap(Stage::Count);
            Part { rows: windows.rows, stages: laps.times() }
        }
    })
}

/// How many windows the events will touch; only a hint of how much memory to put aside.
pub(super) fn windows_expected(limit: &QueryLimit) -> usize {
    let span_ms = limit.events.events.map_or(0, |events| limit.events.pace.ms_of(events)) as i64;
    (span_ms / WINDOW_MS + 2) as usize
}
