//! What both ends of a connection must agree on before anything else is said.

use std::fmt;
use std::sync::Arc;

/// Bytes of the largest [`Facts`], as they are sent. What is longer (an assignment of many shards) is stated by its hash.
pub const FACTS_BYTES_MAX: usize = 32 << 10;

/// What is said of a fact that one end does not state.
const NOT_STATED: &str = "(not stated)";

/// Names and values that both ends of a connection must state alike: the job, its version, the fingerprint of its graph.
///
/// This crate does not know what they mean. They are compared by name; the order is only that in which differences are
/// looked for, so state first what explains most. Cloning is cheap.
///
/// ```
/// use millstream_network::Facts;
/// let facts = Facts::new().with("job", "clicks").with("version", "1.4.2");
/// assert_eq!(facts.get("job"), Some("clicks"));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Facts(Arc<Vec<(String, String)>>);

/// The first fact, in the order of the one who compares, that the two ends do not state alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) name: String,
    pub(crate) ours: String,
    pub(crate) theirs: String,
}

impl Facts {
    /// Nothing to agree on.
    #[must_use]
    pub fn new() -> Facts {
        Facts::default()
    }

    /// These facts and one more; a fact of that name is replaced.
    ///
    /// # Panics
    /// If all of them together take more than [`FACTS_BYTES_MAX`] bytes.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Facts {
        let (name, value) = (name.into(), value.into());
        let facts = Arc::make_mut(&mut self.0);
        match facts.iter_mut().find(|(known, _)| *known == name) {
            Some(fact) => fact.1 = value,
            None => facts.push((name, value)),
        }
        assert!(self.encoded_bytes() <= FACTS_BYTES_MAX, "facts of more than {FACTS_BYTES_MAX} bytes: state a hash");
        self
    }

    /// What is stated under this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// All of them, in the order they were stated.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Where these differ from the other end's, if they do.
    pub(crate) fn difference(&self, theirs: &Facts) -> Option<Difference> {
        let stated = |value: Option<&str>| value.unwrap_or(NOT_STATED).to_owned();
        let names = self.iter().chain(theirs.iter()).map(|(name, _)| name);
        let mut names = names.filter(|name| self.get(name) != theirs.get(name));
        let name = names.next()?;
        Some(Difference { name: name.to_owned(), ours: stated(self.get(name)), theirs: stated(theirs.get(name)) })
    }

    /// What is stated under this name, in words.
    pub(crate) fn stated(&self, name: &str) -> String {
        self.get(name).unwrap_or(NOT_STATED).to_owned()
    }

    fn encoded_bytes(&self) -> usize {
        self.iter().map(|(name, value)| 4 + name.len() + 4 + value.len()).sum()
    }

    /// The facts as they are sent: each name and value behind its length, a u32.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_bytes());
        for (name, value) in self.iter() {
            put_text(&mut bytes, name);
            put_text(&mut bytes, value);
        }
        bytes
    }

    /// What [`encode`](Self::encode) has written; nothing, if these bytes were not written by it.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Facts> {
        let mut facts: Vec<(String, String)> = Vec::new();
        while !bytes.is_empty() {
            let name = take_text(&mut bytes)?;
            let value = take_text(&mut bytes)?;
            facts.push((name.to_owned(), value.to_owned()));
        }
        Some(Facts(Arc::new(facts)))
    }
}

/// Appends a text behind its length.
pub(crate) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Takes a text off the front; nothing, if there is none.
pub(crate) fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

impl fmt::Debug for Facts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_difference_is_named_with_both_values_and_the_first_stated_comes_first() {
        let ours = Facts::new().with("job", "clicks").with("version", "1").with("graph", "a");
        let theirs = Facts::new().with("graph", "b").with("version", "2").with("job", "clicks");
        let difference = ours.difference(&theirs).unwrap();
        assert_eq!(difference, Difference { name: "version".into(), ours: "1".into(), theirs: "2".into() });
        assert_eq!(theirs.difference(&ours).unwrap().name, "graph");
        assert_eq!(ours.difference(&theirs.clone().with("version", "1").with("graph", "a")), None);
    }

    #[test]
    fn a_fact_that_one_end_does_not_state_is_a_difference() {
        let (one, none) = (Facts::new().with("job", ""), Facts::new());
        assert_eq!(one.difference(&none).unwrap().theirs, NOT_STATED);
        assert_eq!(none.difference(&one).unwrap().ours, NOT_STATED);
    }

    #[test]
    #[should_panic(expected = "state a hash")]
    fn more_than_can_be_sent_cannot_be_stated() {
        let _ = Facts::new().with("assignment", "x".repeat(FACTS_BYTES_MAX));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_and_what_is_cut_is_not_taken_for_it(
            facts in proptest::collection::vec((".{0,9}", ".{0,9}"), 0..5), cut in 0_usize..100,
        ) {
            let facts = facts.into_iter().fold(Facts::new(), |facts, (name, value)| facts.with(name, value));
            let bytes = facts.encode();
            prop_assert_eq!(bytes.len(), facts.encoded_bytes());
            prop_assert_eq!(Facts::decode(&bytes), Some(facts.clone()));
            if cut < bytes.len() {
                prop_assert_ne!(Facts::decode(&bytes[..cut]), Some(facts));
            }
        }

        #[test]
        fn no_bytes_are_too_odd_to_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Facts::decode(&bytes);
        }
    }
}
