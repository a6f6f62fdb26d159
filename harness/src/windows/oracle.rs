//! The slow answer: no shards, no watermarks, no pages; arrays of counts, a share of the keys after the other.

use super::run::Kind;
use super::source::Hits;
use super::tally::{Counted, Digest};
use crate::keys::Share;

/// What all results must come to.
pub(super) fn answer(hits: &Hits, kind: Kind, shards: u32) -> Digest {
    let shares = (0..shards).map(|shard| hits.space.share(shard, shards));
    shares.map(|share| of_share(hits, kind, &share)).fold(Digest::default(), Digest::plus)
}

fn of_share(hits: &Hits, kind: Kind, share: &Share) -> Digest {
    let mut digest = Digest::default();
    match kind {
        Kind::Tumbling { size_ms } | Kind::Timers { size_ms } => panes(hits, share, size_ms, size_ms, &mut digest),
        Kind::Sliding { size_ms, slide_ms } => panes(hits, share, size_ms, slide_ms, &mut digest),
        Kind::Session { gap_ms } => sessions(hits, share, gap_ms, &mut digest),
    }
    digest
}

/// Each event of a share, by its key's number and time.
fn each(hits: &Hits, share: &Share, mut take: impl FnMut(usize, i64)) {
    let stream = hits.space.stream(share);
    let events = share.part_of(hits.events);
    let mut numbers = vec![0; 1 << 14];
    let mut first = 0;
    while first < events {
        let count = (events - first).min(numbers.len() as u64) as usize;
        stream.numbers(first, &mut numbers[..count]);
        for (row, number) in numbers[..count].iter().enumerate() {
            take(*number as usize, hits.at_ms(share, first + row as u64));
        }
        first += count as u64;
    }
}

/// Windows as sums of slices as long as the slide, which the size must be a multiple of.
fn panes(hits: &Hits, share: &Share, size_ms: i64, slide_ms: i64, digest: &mut Digest) {
    let slices = (size_ms / slide_ms) as usize;
    let keys = share.keys as usize;
    let mut counts = vec![vec![0_u64; keys]; slices];
    let mut sums = vec![0_u64; keys];
    let mut slice = 0_i64;
    // The window that ends with the slice; and what falls out of the next one.
    let mut end = |slice: i64, counts: &mut Vec<Vec<u64>>| {
        let at = slice.rem_euclid(slices as i64) as usize;
        let gone = (slice + 1).rem_euclid(slices as i64) as usize;
        for number in 0..keys {
            sums[number] += counts[at][number];
            if sums[number] > 0 {
                let end_ms = (slice + 1) * slide_ms;
                let key = share.key(number as u64);
                digest.add(Counted { key, start_ms: end_ms - size_ms, end_ms, count: sums[number] });
            }
            sums[number] -= std::mem::take(&mut counts[gone][number]);
        }
    };
    each(hits, share, |number, at_ms| {
        while at_ms.div_euclid(slide_ms) > slice {
            end(slice, &mut counts);
            slice += 1;
        }
        counts[slice.rem_euclid(slices as i64) as usize][number] += 1;
    });
    for last in 0..slices as i64 {
        end(slice + last, &mut counts);
    }
}

fn sessions(hits: &Hits, share: &Share, gap_ms: i64, digest: &mut Digest) {
    let mut open = vec![(0_i64, 0_i64, 0_u64); share.keys as usize];
    let emit = |number: usize, (first, last, count): (i64, i64, u64), digest: &mut Digest| {
        if count > 0 {
            digest.add(Counted { key: share.key(number as u64), start_ms: first, end_ms: last + gap_ms, count });
        }
    };
    each(hits, share, |number, at_ms| {
        let session = &mut open[number];
        if session.2 == 0 || at_ms > session.1 + gap_ms {
            emit(number, *session, digest);
            *session = (at_ms, at_ms, 0);
        }
        *session = (session.0, at_ms, session.2 + 1);
    });
    for (number, session) in open.iter().enumerate() {
        emit(number, *session, digest);
    }
}
