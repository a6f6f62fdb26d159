//! A generated log and what is known of it: the population its events speak of, kept beside the partitions.

use std::fs;
use std::path::{Path, PathBuf};

use millstream::road::rows::{Batch, Lines};
use millstream_connectors::log::{LogWriter, partition_count};
use serde::{Deserialize, Serialize};

use super::generate::{Generator, GeneratorConfig, Pace, Population};

/// The file that says what a log holds.
const FILE: &str = "ysb.json";

/// What a log of the benchmark holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dataset {
    /// The events, as the generator made them.
    pub events: GeneratorConfig,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    campaigns: u32,
    ads_per_campaign: u32,
    seed: u64,
    events: u64,
    start_ms: i64,
    events_per_ms: u64,
    skew: bool,
}

impl Dataset {
    /// Reads what a log holds.
    ///
    /// # Errors
    /// One paragraph that says what to do.
    pub fn load(log: &Path) -> Result<Dataset, String> {
        // First, for it knows best what stands there instead of a log.
        partition_count(log).map_err(|error| error.to_string())?;
        let path = log.join(FILE);
        let text = fs::read_to_string(&path).map_err(|error| {
            format!(
                "{} is not a finished log of this benchmark: {} cannot be read ({error}). Make one in another directory \
                 with `harness generate ysb --out DIR --events 10M --partitions 2`.",
                log.display(),
                path.display()
            )
        })?;
        let written: Written = serde_json::from_str(&text).map_err(|error| {
            format!("{} is not what `harness generate ysb` writes: {error}. Generate the log anew.", path.display())
        })?;
        let population =
            Population { campaigns: written.campaigns, ads_per_campaign: written.ads_per_campaign, seed: written.seed };
        let pace = Pace::per_ms(written.events_per_ms);
        let Written { events, start_ms, skew, .. } = written;
        Ok(Dataset { events: GeneratorConfig { population, events: Some(events), start_ms, pace, skew } })
    }

    fn save(&self, log: &Path, events_per_ms: u64) -> Result<(), String> {
        let GeneratorConfig { population, events, start_ms, skew, .. } = self.events;
        let written = Written {
            campaigns: population.campaigns,
            ads_per_campaign: population.ads_per_campaign,
            seed: population.seed,
            events: events.unwrap_or(0),
            start_ms,
            events_per_ms,
            skew,
        };
        let text = serde_json::to_string_pretty(&written).map_err(|error| error.to_string())?;
        let path = log.join(FILE);
        fs::write(&path, text + "\n").map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }
}

/// Writes the events of `config` as JSON into a new log: event `i` goes to partition `i mod partitions`, so that all
/// partitions move through event time together.
///
/// # Errors
/// One paragraph that says what to do.
pub fn generate(
    out: PathBuf,
    config: GeneratorConfig,
    events_per_ms: u64,
    partitions: u32,
    tell: &mut dyn FnMut(u64),
) -> Result<(), String> {
    let mut log = LogWriter::create(&out, partitions).map_err(|error| error.to_string())?;
    let mut shares: Vec<Generator> = (0..partitions).map(|shard| Generator::new(config, shard, partitions)).collect();
    let mut lines = Lines::default();
    let mut written = 0;
    loop {
        let before = written;
        for (partition, share) in shares.iter_mut().enumerate() {
            lines.clear();
            share.fill(&mut lines, 4096);
            for row in 0..lines.len() {
                log.append(partition as u32, lines.row(row)).map_err(|error| error.to_string())?;
            }
            written += lines.len() as u64;
        }
        if written == before {
            break;
        }
        tell(written);
    }
    log.sync().map_err(|error| error.to_string())?;
    // Last, so that a log without it is one that was not finished.
    Dataset { events: config }.save(&out, events_per_ms)
}
