//! Debloating: how many buffers of an edge are worth granting. Pure: observations in, a number out.
//!
//! A barrier waits behind what is already under way on its edge. A receiver that reads 10 MB/s would need 120 ms for a pool
//! of 1.2 MB: so it grants only what it reads within a target time. A fast one gets the whole pool.
//!
//! The pace is counted in frames, not in bytes: credit is, and a frame that is not full takes its receiver less time, which
//! the count of frames shows at once.

/// How long a stretch of observations is before it counts: shorter ones say more about turns of the loop than about pace.
const STRETCH_NS: u64 = 2_000_000;

/// The part of a new stretch in the pace. After a change, five stretches close three quarters of the gap.
const NEW_PART: f64 = 0.25;

/// Below this many buffers the sender would wait for every single one to come home.
const WINDOW_MIN: u32 = 2;

/// The pace of one edge's receiver.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Debloat {
    target_ns: u64,
    /// Frames a nanosecond; none before the first stretch.
    pace: Option<f64>,
    frames: u64,
    ns: u64,
}

impl Debloat {
    /// What is under way is to be read within `target_ns`.
    #[must_use]
    pub const fn new(target_ns: u64) -> Debloat {
        Debloat { target_ns, pace: None, frames: 0, ns: 0 }
    }

    /// Adds that the receiver read `frames` in `ns`, in all of which there was something to read: the time of a receiver
    /// that waits for work says nothing about its pace.
    pub fn observe(&mut self, frames: u64, ns: u64) {
        self.frames += frames;
        self.ns = self.ns.saturating_add(ns);
        if self.ns < STRETCH_NS || self.frames == 0 {
            return;
        }
        let now = self.frames as f64 / self.ns as f64;
        self.pace = Some(self.pace.map_or(now, |was| was + (now - was) * NEW_PART));
        (self.frames, self.ns) = (0, 0);
    }

    /// Buffers worth granting out of a pool: as many frames as are read within the target, at least two, rounded up.
    /// Everything, as long as the pace is not known.
    #[must_use]
    pub fn window(&self, pool: u32) -> u32 {
        let Some(pace) = self.pace else { return pool };
        // From float to integer the conversion saturates: an endless pace means the whole pool.
        let wanted = (pace * self.target_ns as f64).ceil() as u32;
        wanted.max(WINDOW_MIN).min(pool)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The slow twin: all stretches so far, each with the weight that the years have left it.
    fn slow_window(target_ns: u64, pool: u32, observed: &[(u64, u64)]) -> f64 {
        let (mut stretches, mut frames, mut ns) = (Vec::new(), 0, 0);
        for (more_frames, more_ns) in observed {
            frames += more_frames;
            ns += more_ns;
            if ns >= 2_000_000 && frames > 0 {
                stretches.push(frames as f64 / ns as f64);
                (frames, ns) = (0, 0);
            }
        }
        if stretches.is_empty() {
            return f64::from(pool);
        }
        let last = stretches.len() - 1;
        let pace: f64 = stretches
            .iter()
            .enumerate()
            .map(|(at, pace)| pace * 0.75_f64.powi((last - at) as i32) * if at == 0 { 1.0 } else { 0.25 })
            .sum();
        (pace * target_ns as f64).max(2.0).min(f64::from(pool))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn the_window_is_the_twins(
            target_ms in 1_u64..100,
            pool in 1_u32..64,
            observed in prop::collection::vec((0_u64..40, 0_u64..5_000_000), 0..60),
        ) {
            let mut debloat = Debloat::new(target_ms * 1_000_000);
            for (at, (frames, ns)) in observed.iter().enumerate() {
                debloat.observe(*frames, *ns);
                let (window, slow) = (debloat.window(pool), slow_window(target_ms * 1_000_000, pool, &observed[..=at]));
                prop_assert!(window <= pool && window >= pool.min(2));
                // Rounded up, and the sums are taken in another order.
                prop_assert!((slow - 1e-6..slow + 1.0 + 1e-6).contains(&f64::from(window)), "{window} of {slow}");
            }
        }
    }

    #[test]
    fn a_slow_receiver_gets_what_it_reads_in_time_and_a_fast_one_all() {
        let mut debloat = Debloat::new(20_000_000);
        assert_eq!(debloat.window(19), 19, "nothing is known yet");
        debloat.observe(1, 4_000_000); // 4 ms a frame
        assert_eq!(debloat.window(19), 5);
        for _ in 0..20 {
            debloat.observe(1, 1_000_000_000);
        }
        assert_eq!(debloat.window(19), 2, "never less than two");
        assert_eq!(debloat.window(1), 1, "but for a pool of one");
        for _ in 0..20 {
            debloat.observe(100, 2_000_000);
        }
        assert_eq!(debloat.window(19), 19);
    }

    #[test]
    fn nothing_read_is_no_pace_but_its_time_counts() {
        let mut debloat = Debloat::new(20_000_000);
        debloat.observe(0, u64::MAX);
        assert_eq!(debloat.window(19), 19);
        let mut debloat = Debloat::new(20_000_000);
        debloat.observe(0, 39_000_000);
        debloat.observe(1, 1_000_000);
        assert_eq!(debloat.window(19), 2);
    }
}
