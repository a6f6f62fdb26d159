use std::time::Duration;

use millstream::{Count, Keep, Stream, TimedChain, Tumbling};

fn counts(rows: Stream<impl TimedChain<Out = u64>>) {
    rows.key_by(|row| *row).window(Tumbling::of(Duration::from_secs(1))).evict(Keep::last(2)).aggregate(Count);
}

fn main() {}
