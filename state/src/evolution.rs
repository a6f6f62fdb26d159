//! What a restore does with each stored state: takes it as it is, lays it out anew, brings its values up to date, leaves it
//! behind, or refuses it before a byte is written.
//!
//! ```text
//! stored state ─▶ the declared one of its name, or of the name it had ─▶ keys the same?  ─▶ values ─▶ Fit
//!                 none: dropped, if that is allowed                      no: refused        other: refused
//! ```

use rkyv::util::AlignedVec;
use serde::{Deserialize, Serialize};

use crate::fixed::bytes_of;
use crate::page_store::PageStore;
use crate::schema::{Change, Described, FromValue, Incompatible, MigrateError, Migration, Plan, Schema, compare};
use crate::shape::{LayoutPart, StatePart};
use crate::stored::archive;
use crate::{Fixed, Key, RestoreError, SlotKey, SlottedTable, Stored, Table};

/// Makes a wanted value's bytes of a stored value's.
pub(crate) type Migrate = Box<dyn Fn(&[u8]) -> Result<AlignedVec<16>, MigrateError>>;
/// A [`Migrate`] for all values of a stored schema.
pub(crate) type Migrations = fn(&Schema) -> Result<Migrate, MigrateError>;

/// A state as a job declares it: what a stored one is held against.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredState {
    /// Its name, types and layout.
    pub state: StatePart,
    /// What it was called in older checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// Whether its values can be brought up to date.
    pub evolves: bool,
}

/// How a stored state becomes a declared one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fit {
    /// Its pages can be used as they are.
    Same,
    /// Its entries mean the same, and lie otherwise.
    Relaid,
    /// Each value is brought up to date.
    Additive(Plan),
}

impl DeclaredState {
    /// The declared state that takes a stored one's entries: the one of its name, or else the one that had it.
    #[must_use]
    pub fn of_stored<'a>(declared: &'a [DeclaredState], stored: &StatePart) -> Option<&'a DeclaredState> {
        place_of(declared.iter().map(|state| (&*state.state.name, state.was.as_deref())), &stored.name)
            .map(|place| &declared[place])
    }

    /// How a stored state of `operator` becomes this one.
    ///
    /// # Errors
    /// It cannot: the first field that stands in the way, with both its types.
    pub fn fit(&self, operator: &str, stored: &StatePart) -> Result<Fit, RestoreError> {
        fit(operator, stored, &self.state, self.evolves)
    }
}

/// The place of the name, among states of a name and the name they had.
fn place_of<'a>(states: impl Iterator<Item = (&'a str, Option<&'a str>)> + Clone, name: &str) -> Option<usize> {
    let of_name = states.clone().position(|(own, _)| own == name);
    of_name.or_else(|| states.clone().position(|(_, was)| was == Some(name)))
}

/// How a stored state becomes a wanted one.
pub(crate) fn fit(operator: &str, stored: &StatePart, wanted: &StatePart, evolves: bool) -> Result<Fit, RestoreError> {
    let changed = |what, change| RestoreError::Changed {
        operator: operator.to_owned(),
        state: wanted.name.clone(),
        what,
        change: Box::new(change),
    };
    match compare(&stored.key, &wanted.key) {
        Ok(Change::Same) => {}
        Ok(Change::Additive(_)) => {
            let (stored, wanted) = (stored.key.to_string(), wanted.key.to_string());
            let why = "a key's bytes decide where it is kept, so its type cannot change; keep the old one, or store the \
                       new one in another state";
            return Err(changed("key", Incompatible { path: String::new(), stored, wanted, why }));
        }
        Err(change) => return Err(changed("key", change)),
    }
    match compare(&stored.value, &wanted.value).map_err(|change| changed("value", change))? {
        Change::Additive(_) if !evolves => {
            let (stored, wanted) = (stored.value.to_string(), wanted.value.to_string());
            let why = "it could be brought up to date, but this state is declared without a way to; keep the old type";
            Err(changed("value", Incompatible { path: String::new(), stored, wanted, why }))
        }
        Change::Additive(plan) => Ok(Fit::Additive(plan)),
        Change::Same if stored.layout == wanted.layout => Ok(Fit::Same),
        Change::Same => match (stored.layout, wanted.layout) {
            (LayoutPart::Flat { .. }, LayoutPart::Slotted) => Ok(Fit::Relaid),
            // Entries that end would be there for ever.
            (stored, wanted_layout) => Err(RestoreError::Types {
                operator: operator.to_owned(),
                state: wanted.name.clone(),
                what: "layout".to_owned(),
                stored: format!("{stored:?}"),
                wanted: format!("{wanted_layout:?}"),
            }),
        },
    }
}

/// What becomes of a stored state's entries.
pub(crate) enum Intake {
    /// They are left behind.
    Dropped,
    /// They go into the state of that number.
    Into {
        state: u16,
        /// Whole pages can go.
        by_page: bool,
        /// Values are brought up to date first.
        migrate: Option<Migrate>,
    },
}

impl PageStore {
    /// What it keeps, for judging a checkpoint by.
    #[must_use]
    pub fn declared(&self) -> Vec<DeclaredState> {
        let states = self.pages.states.iter();
        let declared = states.map(|state| DeclaredState {
            state: state.part.clone(),
            was: state.was.clone(),
            evolves: state.migrations.is_some(),
        });
        declared.collect()
    }

    /// Finds the place of every stored state's entries, before one of them is read.
    pub(crate) fn intakes(&self, stored: &[StatePart], allow_dropped: bool) -> Result<Vec<Intake>, RestoreError> {
        stored.iter().map(|stored| self.intake(stored, allow_dropped)).collect()
    }

    fn intake(&self, stored: &StatePart, allow_dropped: bool) -> Result<Intake, RestoreError> {
        let operator = &self.pages.config.operator;
        let names = self.pages.states.iter().map(|state| (&*state.part.name, state.was.as_deref()));
        let Some(place) = place_of(names, &stored.name) else {
            if allow_dropped {
                return Ok(Intake::Dropped);
            }
            return Err(RestoreError::Dropped { operator: operator.clone(), state: stored.name.clone() });
        };
        let state = &self.pages.states[place];
        let fit = fit(operator, stored, &state.part, state.migrations.is_some())?;
        let migrate = match (&fit, state.migrations) {
            (Fit::Additive(_), Some(migrations)) => {
                Some(migrations(&stored.value).map_err(|error| RestoreError::Types {
                    operator: operator.clone(),
                    state: state.part.name.clone(),
                    what: format!("value ({error})"),
                    stored: stored.value.to_string(),
                    wanted: state.part.value.to_string(),
                })?)
            }
            _ => None,
        };
        Ok(Intake::Into { state: place as u16, by_page: fit == Fit::Same, migrate })
    }
}

impl<K: Key, V: Fixed + Described + FromValue> Table<K, V> {
    /// The same state, whose values of older types are brought up to date when they are restored. Its schema is to be
    /// [`V::schema()`](Described::schema): declare it with [`table_as`](PageStore::table_as).
    #[must_use]
    pub fn evolving(mut self) -> Self {
        self.pages.states[self.state as usize].migrations = Some(|stored| {
            let migration = Migration::<V>::new(stored)?;
            Ok(Box::new(move |bytes| {
                let value = migration.apply(bytes, root_at(&migration, bytes))?;
                let mut migrated = AlignedVec::new();
                migrated.extend_from_slice(bytes_of(&value));
                Ok(migrated)
            }))
        });
        self
    }
}

impl<K: SlotKey, V: Stored + Described + FromValue> SlottedTable<K, V> {
    /// The same state, whose values of older types are brought up to date when they are restored. Its schema is to be
    /// [`V::schema()`](Described::schema): declare it with [`slotted_as`](PageStore::slotted_as).
    #[must_use]
    pub fn evolving(mut self) -> Self {
        let state = self.state;
        self.pages_mut().states[state as usize].migrations = Some(|stored| {
            let migration = Migration::<V>::new(stored)?;
            Ok(Box::new(move |bytes| {
                let value = migration.apply(bytes, root_at(&migration, bytes))?;
                let mut migrated = AlignedVec::new();
                archive(&value, &mut migrated).map_err(|error| MigrateError::Archive(error.to_string()))?;
                Ok(migrated)
            }))
        });
        self
    }
}

impl<K: Key, V: Fixed> Table<K, V> {
    /// The same state, which older checkpoints keep under another name.
    #[must_use]
    pub fn was(mut self, name: &str) -> Self {
        self.pages.states[self.state as usize].was = Some(name.to_owned());
        self
    }
}

impl<K: SlotKey, V: Stored> SlottedTable<K, V> {
    /// The same state, which older checkpoints keep under another name.
    #[must_use]
    pub fn was(mut self, name: &str) -> Self {
        let state = self.state;
        self.pages_mut().states[state as usize].was = Some(name.to_owned());
        self
    }
}

/// Where a value's own part begins: it comes last. Bytes too few for one are refused by whoever reads them.
fn root_at<T: Described + FromValue>(migration: &Migration<T>, bytes: &[u8]) -> usize {
    bytes.len().saturating_sub(migration.stored_layout().0)
}
