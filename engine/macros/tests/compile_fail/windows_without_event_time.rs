use std::time::Duration;

use millstream::{Chain, Count, Items, Job, Session, Stream, Tumbling};

fn main() {
    Job::new("counts", |flow| {
        // Nothing says when a row was.
        let counts = flow.source(Items::of(vec![1_u64, 2, 3])).key_by(|page| *page);
        drop(counts.window(Tumbling::of(Duration::from_secs(1))).aggregate(Count));
    });
}

/// A helper, which does not say that it needs event time.
fn visits(pages: Stream<impl Chain<Out = u64>>) {
    drop(pages.key_by(|page| *page).window(Session::gap(Duration::from_secs(1_800))).aggregate(Count));
}
