//! A wall clock that is set, forwards or backwards, while a job runs: time services and operators do that.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::sales::{Place, Sales, assert_same, job, oracle};
use millstream::Clock;

const SALES: u64 = 60_000;
const HOUR_MS: i64 = 3_600_000;

#[test]
#[expect(clippy::disallowed_methods, reason = "the test's thread waits for nothing but time")]
fn a_wall_clock_that_jumps_disturbs_neither_checkpoints_nor_output() {
    let place = Place::new();
    let source = Sales { pace: 200, ..Sales::of(SALES) };
    source.gate.store(0, Ordering::Relaxed);
    let clock = Clock::jumping();
    let running = job(source.clone(), &place.out(), |_| {}, |_| {})
        .shards(2)
        .checkpoints(place.checkpoints(), Duration::from_millis(7))
        .configure(|config| config.clock = clock.clone())
        .start()
        .unwrap();
    for jump in 1..=30 {
        // Back further than it ever went forth, and forth again.
        clock.advance_ms(if jump % 3 == 0 { -5 * HOUR_MS } else { 2 * HOUR_MS });
        source.gate.store(SALES / 30 * jump, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(10));
    }
    source.gate.store(SALES, Ordering::Relaxed);
    let report = running.wait().unwrap();
    assert_same(&place.lines(), &oracle(SALES), "the clock jumped thirty times");
    assert!(report.restarts.is_empty() && report.checkpoints.failed.is_empty(), "{report}");
    assert_eq!(report.measured.late, 0);
    assert!(report.checkpoints.completed >= 5, "checkpoints go by the steady clock: {report}");
}
