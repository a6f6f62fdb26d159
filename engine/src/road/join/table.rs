//! A join with a table that a broadcast brings up to date: each row with the entry that its shard holds of its key.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use millstream_state::schema::{Described, FromValue, Reader, Schema};
use millstream_state::{Fixed, Key, bytes_of};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

use super::JoinRow;
use crate::road::broadcast::{BroadcastContext, BroadcastProcess};
use crate::road::process::{BoxError, ProcessContext};
use crate::state::{Declare, Handle, KeyedState};

/// The join of [`KeyedStream::join_broadcast`](crate::KeyedStream::join_broadcast).
pub struct WithTable<T, B, Q, F> {
    key_of: Q,
    join: F,
    rows: PhantomData<fn(T, B)>,
}

impl<T, B, Q, F> WithTable<T, B, Q, F> {
    pub(crate) fn new(key_of: Q, join: F) -> Self {
        WithTable { key_of, join, rows: PhantomData }
    }
}

impl<T, B, Q, F> fmt::Debug for WithTable<T, B, Q, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WithTable")
    }
}

/// Keys have no states of their own here.
#[derive(Clone, Copy, Debug)]
pub struct Stateless;

impl KeyedState for Stateless {
    fn declare<K: Key + Described>(_: &mut Declare<'_, K>) -> Self {
        Stateless
    }

    fn for_each(&mut self, _: &mut dyn FnMut(&mut dyn Handle)) {}
}

/// The newest row of each key that was heard of.
pub struct Table<K, B> {
    /// By the bytes of the key, which are the same for equal keys and no others.
    rows: BTreeMap<Box<[u8]>, B>,
    key: PhantomData<fn(K)>,
}

impl<K, B> fmt::Debug for Table<K, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table of {} rows", self.rows.len())
    }
}

impl<K, B> Default for Table<K, B> {
    fn default() -> Table<K, B> {
        Table { rows: BTreeMap::new(), key: PhantomData }
    }
}

/// A table as a checkpoint has it: rows as they lie in memory, and the types that say what they are.
#[derive(serde::Serialize, serde::Deserialize)]
struct Filed {
    key: Schema,
    row: Schema,
    rows: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<K: Described, B: Described + Fixed> Serialize for Table<K, B> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows = self.rows.iter().map(|(key, row)| (key.to_vec(), bytes_of(row).to_vec())).collect();
        Filed { key: K::schema(), row: B::schema(), rows }.serialize(serializer)
    }
}

impl<'de, K: Described, B: Described + FromValue> Deserialize<'de> for Table<K, B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Table<K, B>, D::Error> {
        let filed = Filed::deserialize(deserializer)?;
        if filed.key != K::schema() || filed.row != B::schema() {
            return Err(D::Error::custom("the table's keys or rows are of another type than they were"));
        }
        let reader = Reader::new(&filed.row).map_err(D::Error::custom)?;
        let mut rows = BTreeMap::new();
        for (key, row) in filed.rows {
            let row = reader.read_whole(&row).map_err(D::Error::custom)?;
            rows.insert(key.into_boxed_slice(), B::from_value(&row).map_err(D::Error::custom)?);
        }
        Ok(Table { rows, key: PhantomData })
    }
}

impl<K, T, B, U, Q, F> BroadcastProcess<K, T, B> for WithTable<T, B, Q, F>
where
    K: Key + Described,
    T: 'static,
    B: JoinRow,
    U: 'static,
    Q: Fn(&B) -> K + 'static,
    F: Fn(&T, Option<&B>) -> Option<U> + 'static,
{
    type State = Stateless;
    type Shared = Table<K, B>;
    type Out = U;

    fn on_event(
        &mut self,
        _: &mut Stateless,
        table: &Table<K, B>,
        row: T,
        cx: &mut ProcessContext<'_, K, U>,
    ) -> Result<(), BoxError> {
        let entry = table.rows.get(bytes_of(cx.key()));
        if let Some(joined) = (self.join)(&row, entry) {
            cx.emit(joined);
        }
        Ok(())
    }

    fn on_broadcast(&mut self, table: &mut Table<K, B>, row: B, _: &BroadcastContext) -> Result<(), BoxError> {
        table.rows.insert(bytes_of(&(self.key_of)(&row)).into(), row);
        Ok(())
    }
}
