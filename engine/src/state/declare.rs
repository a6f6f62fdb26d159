//! How states come to be: a [`KeyedState`] declares its handles on an operator's page store, once on every shard.

use std::rc::Rc;
use std::time::Duration;

use millstream_state::schema::Described;
use millstream_state::{Key, PageStore, StateError, type_text};

use super::entries::{Current, Upkeep};

/// The states of one operator, all under the key of the row in hand. Derive it:
///
/// ```
/// use millstream::state::{KeyedState, List, Value};
///
/// #[derive(KeyedState)]
/// struct Account {
///     cents: Value<i64>,
///     #[state(ttl = "30d")]
///     notes: List<String>,
/// }
/// ```
///
/// Each field is a state of its own, kept under the field's name, all in one page store.
pub trait KeyedState: Sized + 'static {
    /// Declares every state.
    fn declare<K: Key + Described>(declare: &mut Declare<'_, K>) -> Self;

    /// Shows every handle.
    fn for_each(&mut self, visit: &mut dyn FnMut(&mut dyn Handle));
}

/// One state of a [`KeyedState`]: [`Value`](super::Value), [`List`](super::List), [`Map`](super::Map),
/// [`Reducing`](super::Reducing) or [`Aggregating`](super::Aggregating).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no state",
    note = "a field of a KeyedState is a Value<T>, List<T>, Map<K2, V>, Reducing<T, R> or Aggregating<A, T>"
)]
pub trait Handle {
    /// Declares the state under a name.
    fn declare<K: Key + Described>(declare: &mut Declare<'_, K>, name: &'static str, options: StateOptions) -> Self
    where
        Self: Sized;

    /// Shows the tables it is made of.
    #[doc(hidden)]
    fn tables(&mut self, visit: &mut dyn FnMut(&mut dyn Upkeep));
}

/// What is said of a state beside its name: in `#[state(..)]`, or by hand.
///
/// ```
/// use std::time::Duration;
/// use millstream::state::StateOptions;
/// assert_eq!(StateOptions::default().ttl(Duration::from_secs(90)).ttl_ms, Some(90_000));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StateOptions {
    /// How long an entry is seen after it was last written, in milliseconds; for ever if none.
    pub ttl_ms: Option<u64>,
    /// What older checkpoints call the state.
    pub was: Option<&'static str>,
}

impl StateOptions {
    /// Entries are gone so long after they were last written.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> StateOptions {
        StateOptions { ttl_ms: Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)), ..self }
    }

    /// Older checkpoints have the state under this name.
    #[must_use]
    pub fn was(self, was: &'static str) -> StateOptions {
        StateOptions { was: Some(was), ..self }
    }
}

/// Where states are declared; handed to [`KeyedState::declare`].
pub struct Declare<'a, K> {
    pub(crate) store: &'a PageStore,
    pub(crate) current: Rc<Current<K>>,
    /// Each state in words.
    notes: Vec<String>,
}

impl<K> std::fmt::Debug for Declare<'_, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Declare({})", self.notes.join(", "))
    }
}

/// One table of a state, to be declared.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct Spec {
    pub(crate) name: String,
    pub(crate) was: Option<String>,
    pub(crate) ttl_ms: Option<i64>,
}

impl Spec {
    /// Of a state's only or first table.
    pub(crate) fn new(name: &str, options: StateOptions) -> Spec {
        let ttl_ms = options.ttl_ms.map(|ttl_ms| i64::try_from(ttl_ms).unwrap_or(i64::MAX));
        Spec { name: name.to_owned(), was: options.was.map(str::to_owned), ttl_ms }
    }

    /// Of another table of the same state.
    pub(crate) fn beside(&self, what: &str) -> Spec {
        let of = |name: &str| format!("{name}.{what}");
        Spec { name: of(&self.name), was: self.was.as_deref().map(of), ttl_ms: self.ttl_ms }
    }
}

impl<K: Key> Declare<'_, K> {
    /// Notes a state, for people.
    pub(crate) fn note<H>(&mut self, spec: &Spec) {
        let ttl = spec.ttl_ms.map_or(String::new(), |ttl_ms| format!(", gone {ttl_ms} ms after it was written"));
        self.notes.push(format!("{}: {}{ttl}", spec.name, type_text::<H>()));
    }

    /// Has checkpoints look under the old name too.
    pub(crate) fn renamed(&self, spec: &Spec) {
        if let Some(was) = &spec.was {
            self.store.renamed(&spec.name, was);
        }
    }
}

/// An operator's states on one shard, and the key that they are about.
pub(crate) struct Bound<K, S> {
    state: S,
    current: Rc<Current<K>>,
    pub(crate) store: PageStore,
    /// The newest moment that was heard of: time that went back would show again what was over.
    now_ms: i64,
    /// Each state in words.
    pub(crate) notes: Vec<String>,
}

impl<K: Key + Described, S: KeyedState> Bound<K, S> {
    /// Declares the states on a store.
    ///
    /// # Panics
    /// If two have one name.
    pub(crate) fn declare(store: PageStore) -> Bound<K, S> {
        Bound::declare_by(store, |declare| S::declare(declare))
    }

    /// Has `states` declare the states on a store.
    ///
    /// # Panics
    /// If two have one name.
    pub(crate) fn declare_by(store: PageStore, states: impl FnOnce(&mut Declare<'_, K>) -> S) -> Bound<K, S> {
        let mut declare = Declare { store: &store, current: Rc::new(Current::new()), notes: Vec::new() };
        let state = states(&mut declare);
        let Declare { current, notes, .. } = declare;
        Bound { state, current, store, now_ms: i64::MIN, notes }
    }

    fn each_table(&mut self, visit: &mut dyn FnMut(&mut dyn Upkeep)) {
        self.state.for_each(&mut |handle| handle.tables(visit));
    }

    /// The states of a key. What they show ends with this borrow, so it never meets another key's turn.
    #[inline(always)]
    pub(crate) fn of(&mut self, key: K) -> &mut S {
        self.current.set(key);
        &mut self.state
    }

    /// What went wrong since the last time it was asked.
    pub(crate) fn take_failure(&mut self) -> Option<StateError> {
        self.current.take_failure()
    }

    /// Lets time pass; it never goes back.
    pub(crate) fn set_now(&mut self, now_ms: i64) {
        if now_ms > self.now_ms {
            self.now_ms = now_ms;
            self.each_table(&mut |table| table.set_now(now_ms));
        }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Clears away what is over, from a few pages of each table.
    pub(crate) fn expire(&mut self, pages_max: usize) {
        self.each_table(&mut |table| table.expire(pages_max));
    }

    /// Asks the memory for what keys of these hashes have.
    pub(crate) fn prefetch(&mut self, hashes: &[u64]) {
        self.each_table(&mut |table| table.prefetch(hashes));
    }
}
