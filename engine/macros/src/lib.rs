//! What a user's types need: `#[millstream::event]` on what is kept and sent, `#[derive(KeyedState)]` on what keeps it.

use syn::Error;

mod attributes;
mod duration;
mod event;
mod evolve;
mod keyed_state;

/// Makes a struct or enum an event: something that can cross an exchange, be kept as state and be written to a
/// checkpoint in its archived form.
///
/// A struct of fixed fields (numbers, arrays, `Text<N>`, other such structs) laid out without padding is *fixed*: its
/// archived form is its own memory. If it is also `Copy` it can be an accumulator, and with `#[millstream::event(key)]`
/// a key. The attribute adds `#[repr(C)]` to structs, so that their layout is the declared one.
///
/// ```
/// #[millstream::event(key)]
/// #[derive(Clone, Copy, PartialEq, Eq, Debug)]
/// struct Seat {
///     room: u32,
///     row: u16,
///     number: u16,
/// }
///
/// fn is_key<K: millstream::Key>() {}
/// is_key::<Seat>();
/// ```
///
/// Any other struct or enum, with strings and lists in it, can be an event too, but not a key or an accumulator:
///
/// ```
/// #[millstream::event]
/// enum Order {
///     Placed { items: Vec<String> },
///     Cancelled,
/// }
///
/// let order = Order::Placed { items: vec!["flour".into()] };
/// let bytes = millstream::rkyv::to_bytes::<millstream::rkyv::rancor::Error>(&order)?;
/// # Ok::<(), millstream::rkyv::rancor::Error>(())
/// ```
///
/// An event has a schema, which checkpoints keep, and can be made of its own older bytes. What changed since is said on
/// its fields: `#[state(default)]` or `#[state(default = 500)]` for one that older state
/// lacks, `#[state(was = "old_name")]` for one, or a variant, that had another name.
///
/// ```
/// #[millstream::event]
/// #[derive(PartialEq, Debug)]
/// struct Account {
///     #[state(was = "money")]
///     cents: i64,
///     #[state(default = "nobody".into())]
///     owner: String,
/// }
/// # use millstream::schema::{FromValue, Value};
/// let stored = Value::Struct(vec![("money".into(), Value::Signed(7))]);
/// assert_eq!(Account::from_value(&stored)?, Account { cents: 7, owner: "nobody".into() });
/// # Ok::<(), millstream::schema::ValueError>(())
/// ```
///
/// What cannot be meant does not compile. There is no argument but `key`:
///
/// ```compile_fail
/// #[millstream::event(keyed)] // `keyed` is not known here: write #[millstream::event] or #[millstream::event(key)]
/// #[derive(Clone, Copy, PartialEq, Eq)]
/// struct Seat { room: u32 }
/// ```
///
/// Tables compare the bytes of keys, and equal enums may differ in the bytes that a variant does not use:
///
/// ```compile_fail
/// #[millstream::event(key)] // a key is a struct of fixed fields
/// #[derive(Clone, Copy, PartialEq, Eq)]
/// enum Seat { Stalls(u32), Gallery }
/// ```
///
/// Nor can a key hold what lives elsewhere in memory:
///
/// ```compile_fail
/// #[millstream::event(key)] // the trait `Copy` is not implemented for `Seat`
/// #[derive(Clone, PartialEq, Eq)]
/// struct Seat { room: String }
/// ```
#[proc_macro_attribute]
pub fn event(arguments: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    event::expand(&arguments.into(), item.into()).unwrap_or_else(Error::into_compile_error).into()
}

/// Declares the states of an operator: one per field, each under the field's name.
///
/// ```
/// use millstream::state::{KeyedState, List, Value};
///
/// #[derive(KeyedState)]
/// struct Account {
///     balance: Value<i64>,
///     #[state(ttl = "30d", was = "transactions")]
///     history: List<String>,
/// }
/// ```
///
/// What is no handle, or holds what cannot be kept, does not compile:
///
/// ```compile_fail
/// # use millstream::state::{KeyedState, Value};
/// #[derive(KeyedState)]
/// struct Account {
///     balance: i64, // the trait `Handle` is not implemented for `i64`
/// }
/// ```
///
/// ```compile_fail
/// # use millstream::state::{KeyedState, Value};
/// #[derive(KeyedState)]
/// struct Account {
///     file: Value<std::fs::File>, // `File` cannot be kept as state
/// }
/// ```
///
/// * `#[state(ttl = "1h 30m")]`: an entry is gone so long after it was last written. Units are `ms`, `s`, `m`, `h`, `d`.
/// * `#[state(was = "old_name")]`: older checkpoints have the state under this name.
#[proc_macro_derive(KeyedState, attributes(state))]
pub fn keyed_state(item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    keyed_state::expand(item.into()).unwrap_or_else(Error::into_compile_error).into()
}
