//! Stored states against a job's, all at once: what a restore would do, before it does anything.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::evolution::{DeclaredState, Fit};
use crate::schema::Plan;
use crate::shape::{LayoutPart, StatePart};
use crate::{Manifest, SavepointManifest};

/// The states of a job's operators, as the job declares them or as a checkpoint has them.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSchemas {
    /// The job's name.
    pub job: String,
    /// Its operators that keep keyed state.
    pub operators: Vec<OperatorSchemas>,
}

/// The states of one operator.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorSchemas {
    /// The operator's stable name.
    pub uid: String,
    /// Its states.
    pub states: Vec<DeclaredState>,
}

/// What a restore does with one state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// Whose state.
    pub operator: String,
    /// Which, by its stored name; by its declared one where nothing is stored.
    pub state: String,
    /// What becomes of it.
    pub verdict: StateVerdict,
}

/// What becomes of a state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StateVerdict {
    /// Its pages are used as they are.
    Same,
    /// Its entries mean the same, and are laid out anew.
    Relaid,
    /// Each value is brought up to date.
    Additive(Plan),
    /// The job declares it, and nothing is stored: it starts empty.
    New,
    /// Nothing in the job takes it: refused, unless states may be dropped.
    Dropped,
    /// It does not fit: which field, and both its types.
    Refused(String),
}

impl StateVerdict {
    /// Whether a restore goes on.
    #[must_use]
    pub fn is_allowed(&self, allow_dropped: bool) -> bool {
        match self {
            StateVerdict::Same | StateVerdict::Relaid | StateVerdict::Additive(_) | StateVerdict::New => true,
            StateVerdict::Dropped => allow_dropped,
            StateVerdict::Refused(_) => false,
        }
    }

    /// In one word, for scripts.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            StateVerdict::Same => "same",
            StateVerdict::Relaid => "relaid",
            StateVerdict::Additive(_) => "additive",
            StateVerdict::New => "new",
            StateVerdict::Dropped => "dropped",
            StateVerdict::Refused(_) => "refused",
        }
    }
}

impl fmt::Display for StateVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateVerdict::Same => f.write_str("same: taken over as it is"),
            StateVerdict::Relaid => f.write_str("same: laid out anew, entry by entry"),
            StateVerdict::Additive(plan) => write!(f, "additive: {plan}"),
            StateVerdict::New => f.write_str("new: starts empty"),
            StateVerdict::Dropped => f.write_str(
                "dropped: the job declares no such state. Declare it, say what it was called, or allow states to be dropped",
            ),
            StateVerdict::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

impl JobSchemas {
    /// What a checkpoint has.
    #[must_use]
    pub fn of_manifest(manifest: &Manifest) -> JobSchemas {
        let mut schemas = JobSchemas { job: manifest.job.clone(), operators: Vec::new() };
        for operator in manifest.parts.iter().flat_map(|part| &part.operators) {
            for state in operator.tables.iter().flat_map(|table| &table.states) {
                schemas.add(&operator.uid, state.clone());
            }
        }
        schemas
    }

    /// What a savepoint has. It knows no pages: entries are laid out as the job wants them.
    #[must_use]
    pub fn of_savepoint(savepoint: &SavepointManifest, wanted: &JobSchemas) -> JobSchemas {
        let mut schemas = JobSchemas { job: savepoint.job.clone(), operators: Vec::new() };
        for operator in &savepoint.operators {
            let declared = wanted.states_of(&operator.uid).unwrap_or_default();
            for saved in &operator.states {
                schemas.add(&operator.uid, saved.laid_out_for(declared));
            }
        }
        schemas
    }

    fn add(&mut self, uid: &str, state: StatePart) {
        let known = self.operators.iter().position(|operator| operator.uid == uid);
        let known = known.unwrap_or_else(|| {
            self.operators.push(OperatorSchemas { uid: uid.to_owned(), states: Vec::new() });
            self.operators.len() - 1
        });
        let states = &mut self.operators[known].states;
        if states.iter().all(|known| known.state != state) {
            // Whether the types that the state had can be made of older ones, bytes do not say: types mostly can.
            states.push(DeclaredState { state, was: None, evolves: true });
        }
    }

    /// The states of the operator of that name.
    #[must_use]
    pub fn states_of(&self, uid: &str) -> Option<&[DeclaredState]> {
        self.operators.iter().find(|operator| operator.uid == uid).map(|operator| &*operator.states)
    }

    /// What a restore by a job with the states `wanted` does with each of these, and which it starts empty.
    #[must_use]
    pub fn judge(&self, wanted: &JobSchemas) -> Vec<Judged> {
        let mut judged = Vec::new();
        for operator in &self.operators {
            let declared = wanted.states_of(&operator.uid).unwrap_or_default();
            for stored in &operator.states {
                let verdict = match DeclaredState::of_stored(declared, &stored.state) {
                    None => StateVerdict::Dropped,
                    Some(own) => match own.fit(&operator.uid, &stored.state) {
                        Ok(Fit::Same) => StateVerdict::Same,
                        Ok(Fit::Relaid) => StateVerdict::Relaid,
                        Ok(Fit::Additive(plan)) => StateVerdict::Additive(plan),
                        Err(error) => StateVerdict::Refused(error.to_string()),
                    },
                };
                judged.push(Judged { operator: operator.uid.clone(), state: stored.state.name.clone(), verdict });
            }
        }
        for operator in &wanted.operators {
            let stored = self.states_of(&operator.uid).unwrap_or_default();
            for own in &operator.states {
                let takes_one = |stored: &DeclaredState| {
                    let taken_by = DeclaredState::of_stored(&operator.states, &stored.state);
                    taken_by.is_some_and(|state| state.state.name == own.state.name)
                };
                if !stored.iter().any(takes_one) {
                    let (operator, state) = (operator.uid.clone(), own.state.name.clone());
                    judged.push(Judged { operator, state, verdict: StateVerdict::New });
                }
            }
        }
        judged
    }
}

impl crate::SavedState {
    /// As if it lay in pages as the declared state does that takes it.
    pub(crate) fn laid_out_for(&self, declared: &[DeclaredState]) -> StatePart {
        let mut part = StatePart::new(&self.name, self.key.clone(), self.value.clone(), LayoutPart::Slotted);
        if let Some(own) = DeclaredState::of_stored(declared, &part) {
            part.layout = own.state.layout;
        }
        part
    }
}
