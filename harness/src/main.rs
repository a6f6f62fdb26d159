//! Speed probe.
use millstream_harness::limit::*;
use millstream_harness::ysb::generate::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let enc = match a[1].as_str() { "long" => Encoding::Long, "uuid" => Encoding::Uuid, _ => Encoding::Json };
    let campaigns: u32 = a[2].parse().unwrap();
    let events: u64 = a[3].parse().unwrap();
    let shards: usize = a[4].parse().unwrap();
    for i in 0..a[5].parse::<u64>().unwrap() {
    if a[1] == "table" {
        let o = run_table(&TableLimit { keys: campaigns as u64, updates: events, distribution: a[6].parse().unwrap(), cores: (0..shards).collect(), seed: 1 + i }).unwrap();
        println!("{:.1} M/s {} {}", o.events_per_s() / 1e6, o.differences, o.machine);
        continue;
    }
    for exchange in [false, true] {
        for stages in [false, true] {
        let l = QueryLimit { exchange, encoding: enc, stages,
            events: GeneratorConfig { population: Population { campaigns, ads_per_campaign: 10, seed: 1 + i }, events: Some(events), start_ms: START_MS, pace: Pace::per_ms(1000), skew: false },
            cores: (0..shards).collect() };
        let o = run_query(&l).unwrap();
        println!("{} {:.1} M/s {} {}", if exchange {"spsc "} else {"fused"}, o.events_per_s() / 1e6, o.differences, o.machine);
        if let Some(s) = o.stages { for (n, ns) in STAGES.iter().zip(s.ns) { print!("  {n} {:.2}", ns as f64 / events as f64); } println!(); }
    }}}
}
