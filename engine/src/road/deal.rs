//! Who reads which splits: dealt out at a fresh start, and again where a job goes on with another number of shards.
//!
//! ```text
//! fresh, p shards        shard i reads the splits of open(i, p)
//! restored, p shards     the same, each from its position
//! restored, q shards     splits are fixed:  shard i reads the splits of open(i, q), wherever they were read before
//!                        they are not:      shard i reads the splits of open(j, p) for every j with j % q == i
//! ```
//!
//! Before a row is read, every position of the checkpoint must be claimed by exactly one split: one that nobody claims
//! would be input that is lost without a word.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::source::{Source, Split};
use crate::job::graph::Site;
use crate::run::fault::JobError;

/// A source's entry in the manifest, of one shard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Filed {
    /// Of each of its splits, by name.
    pub(crate) positions: BTreeMap<String, u64>,
    /// Into how many shares the source's splits were dealt: the shards it had when it began.
    pub(crate) shares: u32,
}

/// The splits of one shard.
pub(crate) struct Hand<B> {
    pub(crate) splits: Vec<Box<dyn Split<Batch = B>>>,
    /// As [`Filed::shares`].
    pub(crate) shares: u32,
}

/// Opens the splits of the site's shard, each where the restored checkpoint left it.
pub(crate) fn deal<S: Source>(source: &S, uid: &str, site: &Site) -> Result<Hand<S::Batch>, JobError> {
    let (shard, shards) = (site.shard, site.config.shards);
    let unusable = |error| JobError::Unusable(format!("source \"{uid}\": {error}"));
    let filed = filed(uid, site)?;
    let Some((_, any)) = filed.first() else {
        return Ok(Hand { splits: source.open(shard, shards).map_err(unusable)?, shares: shards });
    };
    let is_rescaled = site.restored.as_ref().is_some_and(|manifest| manifest.shards != shards);
    let shares = if source.splits_are_fixed() { shards } else { any.shares };
    let mut splits = Vec::new();
    let mut others = Vec::new();
    for share in 0..shares {
        if share % shards == shard {
            splits.extend(source.open(share, shares).map_err(unusable)?);
        } else if is_rescaled {
            let opened = source.open(share, shares).map_err(unusable)?;
            others.extend(opened.into_iter().map(|split| split.name()));
        }
    }
    // As many shards as before read what they read before; otherwise a position may have been any shard's.
    let stored = filed.iter().filter(|(of, _)| is_rescaled || *of == shard).map(|(_, filed)| filed);
    let stored: Vec<(&String, u64)> =
        stored.flat_map(|filed| &filed.positions).map(|(name, position)| (name, *position)).collect();
    let claims = splits.iter().map(|split| split.name()).chain(others).collect();
    check(stored.iter().map(|(name, _)| name.as_str()), claims)
        .map_err(|what| JobError::Mismatch(format!("source \"{uid}\" cannot go on from the checkpoint: {what}")))?;
    let positions: BTreeMap<&str, u64> = stored.iter().map(|(name, position)| (name.as_str(), *position)).collect();
    for split in &mut splits {
        if let Some(position) = positions.get(&*split.name()) {
            split.seek(*position).map_err(unusable)?;
        }
    }
    Ok(Hand { splits, shares })
}

/// The source's entries, by the shard that made them.
fn filed(uid: &str, site: &Site) -> Result<Vec<(u32, Filed)>, JobError> {
    let parts = site.restored.iter().flat_map(|manifest| &manifest.parts);
    let operators = parts.flat_map(|part| part.operators.iter().map(|operator| (part.shard, operator)));
    let own = operators.filter(|(_, operator)| operator.uid == uid);
    own.map(|(shard, operator)| {
        let filed = Filed::deserialize(&operator.blob).map_err(|error| {
            JobError::Mismatch(format!("source \"{uid}\": the checkpoint's positions are unreadable: {error}"))
        })?;
        Ok((shard, filed))
    })
    .collect()
}

/// Whether each stored position is claimed by exactly one split; `Err` names the first that is not.
fn check<'a>(stored: impl Iterator<Item = &'a str>, claims: Vec<String>) -> Result<(), String> {
    let mut stored_names = BTreeSet::new();
    for name in stored {
        if !stored_names.insert(name) {
            return Err(format!(
                "it has two positions of split \"{name}\". A split's name must be unique in its source: run the job with \
                 the number of shards that it had, or from the beginning"
            ));
        }
    }
    let mut claimed = BTreeSet::new();
    for name in &claims {
        if !claimed.insert(&**name) && stored_names.contains(&**name) {
            return Err(format!(
                "two of its splits are called \"{name}\", and there is one position for them. A split's name must be \
                 unique in its source: run the job with the number of shards that it had, or from the beginning"
            ));
        }
    }
    match stored_names.iter().find(|name| !claimed.contains(*name)) {
        None => Ok(()),
        Some(name) => Err(format!(
            "split \"{name}\" is no longer there, and the rest of its rows would be lost. Nothing was changed. Give the \
             source back what it was read from, or run the job from the beginning, with an empty checkpoint directory"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_belongs_to_one_split() {
        let check = |stored: &[&str], claims: &[&str]| {
            check(stored.iter().copied(), claims.iter().map(|name| (*name).to_owned()).collect())
        };
        assert_eq!(check(&["a", "b"], &["b", "c", "a"]), Ok(()), "a split may be new");
        assert_eq!(check(&["a"], &["a", "n", "n"]), Ok(()), "new ones are nobody's loss");
        assert!(check(&["a", "b"], &["a"]).unwrap_err().contains("\"b\" is no longer there"));
        assert!(check(&["a", "a"], &["a"]).unwrap_err().contains("two positions of split \"a\""));
        assert!(check(&["a"], &["a", "a"]).unwrap_err().contains("are called \"a\""));
    }
}
