//! Three fields out of an event's line: the guessed layout against general parsers, over lines that leave the cache no
//! slower than a source fills it (a batch of 1,024, as in a chain).

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream::road::rows::{Batch, Lines};
use millstream_harness::ysb::generate::{Generator, GeneratorConfig, Pace, Population, START_MS};
use millstream_harness::ysb::parse::parse;

/// Enough batches that no branch predictor learns them.
const BATCHES: usize = 64;

#[derive(serde::Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    ad_id: Cow<'a, str>,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    event_time: Cow<'a, str>,
}

impl Fields<'_> {
    /// What all candidates are asked for.
    fn sum(&self) -> u64 {
        let time_ms: u64 = self.event_time.parse().expect("the generator writes numbers");
        time_ms + self.ad_id.len() as u64 + u64::from(self.event_type == "view")
    }
}

fn bench(criterion: &mut Criterion) {
    let config = GeneratorConfig {
        population: Population { campaigns: 100, ads_per_campaign: 10, seed: 1 },
        events: None,
        start_ms: START_MS,
        pace: Pace::per_ms(1000),
        skew: false,
    };
    let mut generator = Generator::new(config, 0, 1);
    let batches: Vec<Lines> = (0..BATCHES)
        .map(|_| {
            let mut lines = Lines::default();
            let _ = generator.fill(&mut lines, 1024);
            lines
        })
        .collect();

    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1024));
    let mut candidate = |name: &str, parse: fn(&[u8]) -> u64| {
        let mut next = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                next = (next + 1) % BATCHES;
                let lines = black_box(&batches[next]);
                (0..lines.len()).map(|row| parse(lines.row(row))).fold(0, u64::wrapping_add)
            });
        });
    };
    candidate("guessed layout", |line| {
        let fields = parse(line).expect("the generator writes events");
        fields.event_time_ms as u64 + fields.ad_id.len() as u64 + u64::from(fields.event_type as u8 == 0)
    });
    candidate("sonic-rs, three fields", |line| {
        sonic_rs::from_slice::<Fields<'_>>(line).expect("the generator writes events").sum()
    });
    candidate("serde_json, three fields", |line| {
        serde_json::from_slice::<Fields<'_>>(line).expect("the generator writes events").sum()
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
