//! A register: one value in a store, replaced only by whoever knows what it holds.
//!
//! ```text
//! PLACE/lease-00000000000000000007      what it holds: the one with the highest number
//! PLACE/lease-00000000000000000006      what it held before; deleted some time
//! ```
//!
//! A value is replaced by giving the next number's name to the new one, which succeeds once, in a directory and in an
//! object store alike, as a manifest's does. The highest name is never deleted, so that whoever was first stays it: who
//! comes late, with a number that has been and gone, sees a higher one behind his own, and knows.

use std::io;

use super::{Listed, Store, StoreError};

/// Values that are left below the newest: nobody reads them, and a reader that has just listed one may still want it.
const LEFT: u64 = 4;
/// A reader whose value is replaced and deleted between its list and its read looks again, so often.
const LOOKS: u32 = 10;

/// One value in a store.
#[derive(Clone, Debug)]
pub struct Register {
    store: Store,
    name: String,
}

/// Which value of a register it was that was read or put.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version(u64);

impl Store {
    /// The register of a name, of letters: there may be nothing in it yet.
    #[must_use]
    pub fn register(&self, name: &str) -> Register {
        Register { store: self.clone(), name: name.to_owned() }
    }
}

impl Register {
    /// What it holds.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub fn read(&self) -> Result<Option<(Version, Vec<u8>)>, StoreError> {
        for _ in 1..LOOKS {
            let Some(version) = self.newest()? else { return Ok(None) };
            match self.store.get(&self.file(version)) {
                Ok(value) => return Ok(Some((version, value))),
                Err(StoreError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let Some(version) = self.newest()? else { return Ok(None) };
        Ok(Some((version, self.store.get(&self.file(version))?)))
    }

    /// Puts a value where `instead_of` was, nothing at first. None if something else is there by now: another's, or, where
    /// many were put in a moment, those that have replaced this one already.
    ///
    /// # Errors
    /// When the store cannot be asked: the value may then be there, or not.
    pub fn replace(&self, instead_of: Option<Version>, value: &[u8]) -> Result<Option<Version>, StoreError> {
        let next = Version(instead_of.map_or(1, |version| version.0 + 1));
        if !self.store.put_new(&self.file(next), value)? {
            return Ok(None);
        }
        let all = self.all()?;
        let is_known = |version: Version| all.contains(&version);
        if all.iter().any(|version| *version > next) && !instead_of.is_some_and(is_known) {
            // The name was free because it has been used and deleted, and what was below it with it.
            self.store.delete(&[self.file(next)])?;
            return Ok(None);
        }
        let old: Vec<String> =
            all.into_iter().filter(|version| version.0 + LEFT < next.0).map(|version| self.file(version)).collect();
        if !old.is_empty() {
            self.store.delete(&old)?;
        }
        Ok(Some(next))
    }

    fn file(&self, version: Version) -> String {
        format!("{}-{:020}", self.name, version.0)
    }

    fn all(&self) -> Result<Vec<Version>, StoreError> {
        let prefix = format!("{}-", self.name);
        let number = |file: &Listed| {
            let digits = file.name.strip_prefix(&prefix).filter(|digits| digits.len() == 20)?;
            digits.parse().ok().map(Version)
        };
        Ok(self.store.list(&prefix)?.iter().filter_map(number).collect())
    }

    fn newest(&self) -> Result<Option<Version>, StoreError> {
        Ok(self.all()?.into_iter().max())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_value_is_replaced_by_who_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        let register = Store::open(dir.path()).unwrap().register("lease");
        assert!(register.read().unwrap().is_none());
        let first = register.replace(None, b"one").unwrap().unwrap();
        assert_eq!(register.replace(None, b"another").unwrap(), None, "there is something");
        let second = register.replace(Some(first), b"two").unwrap().unwrap();
        assert_eq!(register.replace(Some(first), b"late").unwrap(), None, "something else is there");
        assert_eq!(register.read().unwrap(), Some((second, b"two".to_vec())));
    }

    #[test]
    fn who_comes_after_his_number_was_deleted_is_late_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let register = Store::open(dir.path()).unwrap().register("lease");
        let first = register.replace(None, b"0").unwrap().unwrap();
        let mut version = first;
        for value in 1..20u64 {
            version = register.replace(Some(version), value.to_string().as_bytes()).unwrap().unwrap();
        }
        assert!(register.all().unwrap().len() <= LEFT as usize + 1, "what is old is deleted");
        assert_eq!(register.replace(Some(first), b"from the grave").unwrap(), None);
        assert_eq!(register.read().unwrap(), Some((version, b"19".to_vec())));
    }

    /// Adds to a number from several threads: no addition that was done is lost.
    #[test]
    fn of_several_at_once_one_wins_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let register = Store::open(dir.path()).unwrap().register("sum");
        let done = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..40 {
                        let held = register.read().unwrap();
                        let (version, sum) = held.map_or((None, 0), |(version, value)| {
                            (Some(version), String::from_utf8(value).unwrap().parse::<u64>().unwrap())
                        });
                        if register.replace(version, (sum + 1).to_string().as_bytes()).unwrap().is_some() {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let (_, sum) = register.read().unwrap().unwrap();
        let (sum, done) = (String::from_utf8(sum).unwrap().parse::<u64>().unwrap(), done.load(Ordering::Relaxed));
        assert!((done..=120).contains(&sum) && done >= 40, "{sum} after {done} additions");
    }
}
