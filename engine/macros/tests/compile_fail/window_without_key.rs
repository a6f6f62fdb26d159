use std::time::Duration;

use millstream::{Chain, Stream, Tumbling};

fn counts(rows: Stream<impl Chain<Out = u64>>) {
    rows.window(Tumbling::of(Duration::from_secs(1)));
}

fn main() {}
