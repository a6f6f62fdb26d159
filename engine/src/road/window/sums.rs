//! A running sum of the panes of one window, which becomes the next one's: panes come, and where the aggregate can take
//! them out again, panes leave.
//!
//! It is made of panes alone, so no snapshot holds it: after a restart it is made anew. Sums lie end to end, to be emitted
//! in their order; a table of their places has the batched search that panes are folded with.

use std::ops::Range;

use millstream_state::{Fixed, Key, Namespace, StateError, Table};

/// All keys are one part of the table.
const ALL_KEYS: Namespace = Namespace(0);
/// The place of a key that has just been put into the table.
const NEW: u32 = u32::MAX;

pub(super) struct Sums<K, S> {
    /// Where a key's sum is.
    places: Table<K, u32>,
    sums: Vec<Sum<K, S>>,
    /// The stretch of time whose panes are in.
    range: Option<Range<i128>>,
    /// A slice of the pane that comes or leaves.
    slice: Vec<(K, S)>,
}

pub(super) struct Sum<K, S> {
    pub(super) key: K,
    pub(super) acc: S,
    /// How many panes have the key.
    panes: u32,
}

impl<K: Key, S: Fixed> Sums<K, S> {
    /// No sums yet; their places go to `places`, an empty table.
    pub(super) fn new(places: Table<K, u32>) -> Sums<K, S> {
        Sums { places, sums: Vec::new(), range: None, slice: Vec::new() }
    }

    /// The stretch of time whose panes are in; none where that is not known.
    pub(super) fn range(&self) -> Option<Range<i128>> {
        self.range.clone()
    }

    /// From here on the panes of `range` are in.
    pub(super) fn holds(&mut self, range: Range<i128>) {
        self.range = Some(range);
    }

    /// Forgets all sums.
    pub(super) fn clear(&mut self) {
        self.range = None;
        self.sums.clear();
        self.places.drop_namespace(ALL_KEYS);
    }

    /// The sums at these places, as far as there are any.
    pub(super) fn some(&self, from: usize, sums_max: usize) -> &[Sum<K, S>] {
        let from = from.min(self.sums.len());
        &self.sums[from..(from + sums_max).min(self.sums.len())]
    }

    /// Begins a slice of a pane.
    pub(super) fn slice(&mut self) -> &mut Vec<(K, S)> {
        self.slice.clear();
        &mut self.slice
    }

    /// Has the slice's pane come in.
    pub(super) fn add(&mut self, merge: impl Fn(&mut S, &S)) -> Result<(), StateError> {
        let Sums { places, sums, slice, .. } = self;
        places.fold(
            ALL_KEYS,
            slice.len(),
            |row| slice[row].0,
            || NEW,
            |place, row| {
                let (key, acc) = slice[row];
                if *place == NEW {
                    *place = u32::try_from(sums.len()).expect("a shard has fewer than 4 billion keys");
                    sums.push(Sum { key, acc, panes: 1 });
                    return;
                }
                let sum = &mut sums[*place as usize];
                merge(&mut sum.acc, &acc);
                sum.panes += 1;
            },
        )
    }

    /// Has the slice's pane leave.
    pub(super) fn subtract(&mut self, remove: impl Fn(&mut S, &S)) -> Result<(), StateError> {
        let Sums { places, sums, slice, .. } = self;
        let mut gone = Vec::new();
        places.fold(
            ALL_KEYS,
            slice.len(),
            |row| slice[row].0,
            || NEW,
            |place, row| {
                let sum = sums.get_mut(*place as usize).expect("a pane that leaves has come in with all its keys");
                if sum.panes == 1 {
                    gone.push(row);
                    return;
                }
                remove(&mut sum.acc, &slice[row].1);
                sum.panes -= 1;
            },
        )?;
        for row in gone {
            let place = places.remove(ALL_KEYS, &slice[row].0).expect("just found") as usize;
            sums.swap_remove(place);
            if let Some(moved) = sums.get(place) {
                *places.get_mut(ALL_KEYS, &moved.key).expect("every sum has its place") = place as u32;
            }
        }
        Ok(())
    }

    /// A late row has changed a pane that is in; `is_new` says whether its key came to the pane with it.
    pub(super) fn join(
        &mut self,
        key: &K,
        is_new: bool,
        init: impl Fn() -> S,
        fold: impl FnOnce(&mut S),
    ) -> Result<(), StateError> {
        let place = *self.places.get_mut_or(ALL_KEYS, key, || NEW)?;
        let place = if place == NEW {
            let place = self.sums.len();
            *self.places.get_mut(ALL_KEYS, key).expect("just put there") = place as u32;
            self.sums.push(Sum { key: *key, acc: init(), panes: 0 });
            place
        } else {
            place as usize
        };
        fold(&mut self.sums[place].acc);
        self.sums[place].panes += u32::from(is_new);
        Ok(())
    }
}
