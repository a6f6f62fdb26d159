use std::time::Duration;

use millstream::{Count, Items, Job, Timestamp, Tumbling, Watermarks};

fn main() {
    Job::new("pairs", |flow| {
        let bare = || flow.source(Items::of(vec![[1_u64, 2]]));
        let timed = || bare().event_time(|row| Timestamp(row[1] as i64), Watermarks::monotonic());

        let (left, right) = (timed().key_by(|row| row[0]), bare().key_by(|row| row[0]));
        drop(left.interval_join(right).between(-1_000, 1_000).inner(|_, _| 0_u64));

        drop(bare().key_by(|row| row[0]).dedup(Duration::from_secs(60)));

        // Only one side of a union has time.
        let united = timed().union(bare()).key_by(|row| row[0]);
        drop(united.window(Tumbling::of(Duration::from_secs(1))).aggregate(Count));
    });
}
