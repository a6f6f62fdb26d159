//! Evictors: which of a window's rows are left out, from then on, before a result is made of the others.

use std::fmt;
use std::time::Duration;

use super::super::Window;
use super::super::panes::millis;
use super::contents::Element;

/// Says which of a window's rows go before a result is made of it; for [`evict`](crate::TriggeredStream::evict).
///
/// Leaves out rows that repeat the one before:
///
/// ```
/// use millstream::{Element, Evictor, Window};
///
/// #[derive(Debug)]
/// struct Changes;
///
/// impl Evictor<i64> for Changes {
///     fn evict(&self, _: Option<Window>, rows: &mut Vec<Element<i64>>) {
///         rows.dedup_by_key(|element| element.row);
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no evictor of rows of type `{T}`",
    note = "Keep::last(rows) and Keep::within(duration) are, and what implements Evictor<{T}>"
)]
pub trait Evictor<T>: fmt::Debug + 'static {
    /// Takes rows out of `rows`, which are in the order they came. What is left stays in that order; the others are gone.
    fn evict(&self, window: Option<Window>, rows: &mut Vec<Element<T>>);
}

/// Keeps the newest rows of a window.
///
/// ```
/// use std::time::Duration;
/// use millstream::Keep;
/// let ten = Keep::last(10);
/// let minute = Keep::within(Duration::from_secs(60));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keep(Which);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Which {
    Last(u64),
    WithinMs(i64),
}

impl Keep {
    /// The last `rows` rows that came.
    #[must_use]
    pub fn last(rows: u64) -> Keep {
        Keep(Which::Last(rows))
    }

    /// Rows that are less than `age` older than the newest, by their times.
    #[must_use]
    pub fn within(age: Duration) -> Keep {
        Keep(Which::WithinMs(millis(age)))
    }
}

impl<T: 'static> Evictor<T> for Keep {
    fn evict(&self, _window: Option<Window>, rows: &mut Vec<Element<T>>) {
        match self.0 {
            Which::Last(kept) => {
                let over = (rows.len() as u64).saturating_sub(kept) as usize;
                rows.drain(..over);
            }
            Which::WithinMs(age_ms) => {
                let Some(newest) = rows.iter().map(|element| element.at.0).max() else { return };
                // From one end of time to the other is further than an i64 can say.
                rows.retain(|element| i128::from(newest) - i128::from(element.at.0) < age_ms.into());
            }
        }
    }
}

/// Keeps all rows: what windows do that are given no evictor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeepAll;

impl<T: 'static> Evictor<T> for KeepAll {
    fn evict(&self, _window: Option<Window>, _rows: &mut Vec<Element<T>>) {}
}
