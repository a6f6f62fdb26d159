//! Credit: how many frames of an edge may be sent. Pure: counts in, counts out.
//!
//! ```text
//!   sending end                                         receiving end
//!   Purse: granted ─▶ spend ──────── frame ───────────▶ Till: received ─▶ merge reads it ─▶ came home
//!                     ◀──────── grant, all in all ─────       granted = came home + window
//! ```
//!
//! Everything is counted from the link's start, so that a grant says all there is to say: it can be sent late, or one for
//! many, and none depends on the one before. A buffer is granted only when it is home, so whoever keeps to the credit never
//! finds the pool empty, and a link never has to leave a frame in the socket: no edge is ever behind another.

/// How a peer broke the rules of credit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CreditError {
    /// It sent more than it was granted.
    #[error("it was granted {granted} frames all in all, and sends one more")]
    Overspent {
        /// What it was granted.
        granted: u64,
    },
    /// It took back what it had granted.
    #[error("it grants {found} frames all in all, after it had granted {granted}")]
    TakenBack {
        /// What it had granted.
        granted: u64,
        /// What it grants now.
        found: u64,
    },
    /// It grants more than its pool can hold.
    #[error("it grants {found} frames all in all when {spent} were sent, and its pool has {pool} buffers")]
    BeyondPool {
        /// What it grants.
        found: u64,
        /// What was sent.
        spent: u64,
        /// The buffers of its pool.
        pool: u32,
    },
    /// Its pool changed.
    #[error("its pool has {found} buffers, and had {pool}; a pool has one size, and at least one buffer")]
    Pool {
        /// What it had; none yet is 0.
        pool: u32,
        /// What it has now.
        found: u32,
    },
}

/// The sending end's account of one edge: what the peer granted, and what was spent of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Purse {
    granted: u64,
    spent: u64,
    /// Buffers of the peer's pool; 0 until it says.
    pool: u32,
}

impl Purse {
    /// An empty purse: the first grant fills it.
    #[must_use]
    pub const fn new() -> Purse {
        Purse { granted: 0, spent: 0, pool: 0 }
    }

    /// Frames that may be sent now.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.granted - self.spent
    }

    /// Frames sent so far.
    #[must_use]
    pub const fn spent(&self) -> u64 {
        self.spent
    }

    /// Counts a frame as sent.
    ///
    /// # Panics
    /// When nothing is left: see [`left`](Purse::left).
    pub fn spend(&mut self) {
        assert!(self.left() > 0, "a frame is sent only on credit");
        self.spent += 1;
    }

    /// Takes the peer's word for how many frames it grants all in all, out of a pool of so many buffers.
    ///
    /// # Errors
    /// When no honest peer says so.
    pub fn grant(&mut self, granted: u64, pool: u32) -> Result<(), CreditError> {
        if pool == 0 || (self.pool != 0 && self.pool != pool) {
            return Err(CreditError::Pool { pool: self.pool, found: pool });
        }
        if granted < self.granted {
            return Err(CreditError::TakenBack { granted: self.granted, found: granted });
        }
        if granted > self.spent.saturating_add(u64::from(pool)) {
            return Err(CreditError::BeyondPool { found: granted, spent: self.spent, pool });
        }
        (self.pool, self.granted) = (pool, granted);
        Ok(())
    }
}

/// The receiving end's account of one edge: what was granted, what of it arrived, and what has come home since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Till {
    pool: u32,
    window: u32,
    granted: u64,
    received: u64,
    home: u64,
}

impl Till {
    /// An account that has granted nothing, over a pool of so many buffers, all home.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    pub const fn new(pool: u32) -> Till {
        assert!(pool > 0, "an edge without buffers receives nothing");
        Till { pool, window: pool, granted: 0, received: 0, home: 0 }
    }

    /// Buffers of the pool.
    #[must_use]
    pub const fn pool(&self) -> u32 {
        self.pool
    }

    /// Frames received so far.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Frames received whose buffers have not come home.
    #[must_use]
    pub const fn outstanding(&self) -> u64 {
        self.received - self.home
    }

    /// Counts a frame as received.
    ///
    /// # Errors
    /// When it was not granted.
    pub const fn receive(&mut self) -> Result<(), CreditError> {
        if self.received == self.granted {
            return Err(CreditError::Overspent { granted: self.granted });
        }
        self.received += 1;
        Ok(())
    }

    /// Counts `buffers` as come home.
    ///
    /// # Panics
    /// When more come home than have left.
    pub const fn come_home(&mut self, buffers: u64) {
        assert!(buffers <= self.outstanding(), "only what was received comes home");
        self.home += buffers;
    }

    /// How many frames may be under way or unread at once, from now on. What is granted stays granted: a smaller window
    /// takes hold as buffers come home.
    pub fn set_window(&mut self, buffers: u32) {
        self.window = buffers.clamp(1, self.pool);
    }

    /// The window.
    #[must_use]
    pub const fn window(&self) -> u32 {
        self.window
    }

    /// The next grant, all in all, if it is time for one: when a quarter of the window has arrived since the last, or when
    /// there was none. Sooner, every frame would be answered by one; later, the peer would run dry.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        let grant = self.home + u64::from(self.window);
        let unspent = self.granted - self.received;
        (grant > self.granted && unspent * 4 <= u64::from(self.window) * 3).then_some(grant)
    }

    /// Counts a grant as said.
    ///
    /// # Panics
    /// When it is less than was granted, or more than the pool has room for.
    pub fn granted(&mut self, grant: u64) {
        assert!(self.granted <= grant && grant <= self.home + u64::from(self.pool), "only what is home is granted");
        self.granted = grant;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// The slow twin: every buffer by itself, and where it is.
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Place {
        Home,
        /// The peer may send into it.
        Granted,
        Unread,
    }

    struct Twin(Vec<Place>);

    impl Twin {
        fn count(&self, place: Place) -> usize {
            self.0.iter().filter(|at| **at == place).count()
        }

        fn shift(&mut self, from: Place, to: Place) -> bool {
            let at = self.0.iter_mut().find(|at| **at == from);
            at.map(|at| *at = to).is_some()
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send,
        Arrive,
        Read,
        Grant,
        Hear,
        Window(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Send),
            4 => Just(Step::Arrive),
            4 => Just(Step::Read),
            3 => Just(Step::Grant),
            3 => Just(Step::Hear),
            1 => (0_u32..12).prop_map(Step::Window),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever the order in which frames and grants cross: the pool is never overrun, what is granted is what the
        /// twin can point to, and once everything has arrived the sender may go on.
        #[test]
        fn the_counts_are_those_of_the_buffers(pool in 1_u32..10, steps in prop::collection::vec(step(), 0..200)) {
            let (mut purse, mut till) = (Purse::new(), Till::new(pool));
            let mut twin = Twin(vec![Place::Home; pool as usize]);
            let (mut frames, mut grants) = (0_u64, VecDeque::new());
            let closing = [Step::Window(2), Step::Hear, Step::Grant, Step::Hear];
            let ending = std::iter::repeat_n(Step::Arrive, pool as usize)
                .chain(std::iter::repeat_n(Step::Read, pool as usize))
                .chain(closing.iter().cloned().cycle().take(4 * (pool as usize + 200)));
            for step in steps.into_iter().chain(ending) {
                match step {
                    Step::Send if purse.left() > 0 => {
                        purse.spend();
                        frames += 1;
                    }
                    Step::Arrive if frames > 0 => {
                        frames -= 1;
                        prop_assert_eq!(till.receive(), Ok(()));
                        prop_assert!(twin.shift(Place::Granted, Place::Unread));
                    }
                    Step::Read if twin.shift(Place::Unread, Place::Home) => till.come_home(1),
                    Step::Grant => {
                        if let Some(grant) = till.due() {
                            let before = till.granted;
                            till.granted(grant);
                            grants.push_back(grant);
                            for _ in before..grant {
                                prop_assert!(twin.shift(Place::Home, Place::Granted), "a grant without a buffer");
                            }
                            prop_assert!(twin.count(Place::Granted) + twin.count(Place::Unread) <= till.window() as usize);
                        }
                    }
                    Step::Hear => {
                        if let Some(grant) = grants.pop_front() {
                            prop_assert_eq!(purse.grant(grant, pool), Ok(()));
                        }
                    }
                    Step::Window(window) => till.set_window(window),
                    _ => {}
                }
                prop_assert_eq!(till.outstanding(), twin.count(Place::Unread) as u64);
                prop_assert_eq!(till.granted - till.received, twin.count(Place::Granted) as u64);
                prop_assert!(purse.left() + frames <= twin.count(Place::Granted) as u64);
            }
            prop_assert!(purse.left() > 0, "everything is home and was granted: {purse:?} {till:?}");
        }
    }

    #[test]
    fn who_spends_more_than_was_granted_is_told() {
        let mut till = Till::new(2);
        assert_eq!(till.receive(), Err(CreditError::Overspent { granted: 0 }));
        till.granted(2);
        assert_eq!((till.receive(), till.receive()), (Ok(()), Ok(())));
        assert_eq!(till.receive(), Err(CreditError::Overspent { granted: 2 }));
        till.come_home(2);
        assert_eq!(till.receive(), Err(CreditError::Overspent { granted: 2 }), "home is not yet granted");
    }

    #[test]
    fn who_grants_what_it_cannot_have_is_told() {
        let mut purse = Purse::new();
        assert_eq!(purse.grant(1, 0), Err(CreditError::Pool { pool: 0, found: 0 }));
        assert_eq!(purse.grant(5, 4), Err(CreditError::BeyondPool { found: 5, spent: 0, pool: 4 }));
        assert_eq!(purse.grant(u64::MAX, 4), Err(CreditError::BeyondPool { found: u64::MAX, spent: 0, pool: 4 }));
        assert_eq!(purse.grant(4, 4), Ok(()));
        assert_eq!(purse.grant(4, 5), Err(CreditError::Pool { pool: 4, found: 5 }));
        assert_eq!(purse.grant(3, 4), Err(CreditError::TakenBack { granted: 4, found: 3 }));
        purse.spend();
        assert_eq!(purse.grant(5, 4), Ok(()));
        assert_eq!((purse.left(), purse.spent()), (4, 1));
    }

    #[test]
    fn a_grant_is_said_for_a_quarter_of_the_window_at_a_time() {
        let mut till = Till::new(16);
        assert_eq!(till.due(), Some(16), "the first at once");
        till.granted(16);
        let mut said = Vec::new();
        for frame in 1..=32_u64 {
            till.receive().expect("granted");
            till.come_home(1);
            if let Some(grant) = till.due() {
                till.granted(grant);
                said.push((frame, grant));
            }
        }
        assert_eq!(said, [(4, 20), (8, 24), (12, 28), (16, 32), (20, 36), (24, 40), (28, 44), (32, 48)]);
    }
}
