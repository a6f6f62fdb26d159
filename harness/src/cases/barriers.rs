//! Aligned barriers.

use millstream::testing::{Aligned, Alignment};

use super::fields::Fields;
use super::time::channels;
use super::{Why, same};

pub(super) fn align(case: &Fields<'_>) -> Result<(), Why> {
    let channels = channels(case)?;
    let mut alignment = Alignment::of(channels);
    let (mut triggered, mut aborted) = (Vec::new(), Vec::new());
    for step in case.each("steps")? {
        let channel = step.index("ch", channels)?;
        let epoch = |field| {
            let number = step.int(field)?;
            u64::try_from(number)
                .map_err(|_| format!("\"{field}\" of {} is {number}, and no number of a barrier", step.what()))
        };
        let came = if step.has("barrier") {
            alignment.barrier(channel, epoch("barrier")?)
        } else if step.has("cancel") {
            alignment.cancel(channel, epoch("cancel")?)
        } else if step.has("end") {
            step.pass_over("end");
            alignment.end(channel)
        } else {
            step.get("data")?;
            if alignment.held_back().contains(&channel) {
                return Err(format!("{} comes from channel {channel}, which is held back", step.what()));
            }
            Aligned::default()
        };
        let told = |field| step.has(field).then(|| epoch(field)).transpose();
        let what = step.what();
        same(&format!("what {what} triggers"), &came.triggered, &told("trigger")?)?;
        same(&format!("what {what} aborts"), &came.aborted, &told("abort")?)?;
        if step.has("blocked") {
            let mut blocked = step.ints("blocked")?;
            blocked.sort_unstable();
            let held_back: Vec<i64> = alignment.held_back().into_iter().map(|channel| channel as i64).collect();
            same(&format!("the channels that are blocked after {what}"), &held_back, &blocked)?;
        }
        step.done()?;
        triggered.extend(came.triggered.map(|epoch| epoch as i64));
        aborted.extend(came.aborted.map(|epoch| epoch as i64));
    }
    same("what was triggered", &triggered, &case.ints("triggered")?)?;
    same("what was aborted", &aborted, &case.ints("aborted")?)
}
