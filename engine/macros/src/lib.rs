//! The one attribute that a user's types need: `#[millstream::event]`.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Error, Item};

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
    expand(&arguments.into(), item.into()).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(arguments: &TokenStream, item: TokenStream) -> Result<TokenStream, Error> {
    let key = match arguments.to_string().as_str() {
        "" => false,
        "key" => true,
        other => {
            let message =
                format!("`{other}` is not known here: write #[millstream::event] or #[millstream::event(key)]");
            return Err(Error::new(Span::call_site(), message));
        }
    };
    let item: Item = syn::parse2(item)?;
    let (name, generics, layout) = match &item {
        Item::Struct(item) => (&item.ident, &item.generics, quote!(#[repr(C)])),
        Item::Enum(item) if !key => (&item.ident, &item.generics, quote!()),
        other => {
            let message = if key { "a key is a struct of fixed fields" } else { "an event is a struct or an enum" };
            return Err(Error::new_spanned(other, message));
        }
    };
    let (impl_generics, type_generics, bounds) = generics.split_for_impl();
    let key = key.then(|| quote!(impl #impl_generics ::millstream::Key for #name #type_generics #bounds {}));
    Ok(quote! {
        #[derive(::millstream::rkyv::Archive, ::millstream::rkyv::Serialize, ::millstream::rkyv::Deserialize)]
        #[rkyv(crate = ::millstream::rkyv)]
        #layout
        #item
        #key
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(arguments: TokenStream, item: TokenStream) -> String {
        expand(&arguments, item).expect_err("this cannot be meant").to_string()
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_can() {
        assert_eq!(
            complaint(
                quote!(keyed),
                quote!(
                    struct Seat;
                )
            ),
            "`keyed` is not known here: write #[millstream::event] or #[millstream::event(key)]"
        );
        assert_eq!(
            complaint(
                quote!(key),
                quote!(
                    enum Seat {
                        Stalls,
                    }
                )
            ),
            "a key is a struct of fixed fields"
        );
        assert_eq!(
            complaint(
                quote!(),
                quote!(
                    fn seat() {}
                )
            ),
            "an event is a struct or an enum"
        );
        assert_eq!(
            complaint(quote!(), quote!(union Seat { row: u32, box_number: u32 })),
            "an event is a struct or an enum"
        );
    }

    #[test]
    fn only_structs_get_a_layout_and_only_keys_an_impl() {
        let text = |arguments, item| expand(&arguments, item).expect("this can be meant").to_string();
        let fixed = text(
            quote!(),
            quote!(
                struct Seat {
                    room: u32,
                }
            ),
        );
        assert!(fixed.contains("repr (C)") && !fixed.contains("impl"), "{fixed}");
        assert!(
            !text(
                quote!(),
                quote!(
                    enum Order {
                        Cancelled,
                    }
                )
            )
            .contains("repr")
        );
        let key = text(
            quote!(key),
            quote!(
                struct Pair<A: Key> {
                    first: A,
                }
            ),
        );
        assert!(key.contains("impl < A : Key > :: millstream :: Key for Pair < A >"), "{key}");
    }
}
