//! `#[millstream::event]`: archives a type, lays it out, describes it, makes it of older values, and maybe a key of it.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::{Error, Generics, Item, parse_quote};

use crate::evolve::Evolving;

pub(crate) fn expand(arguments: &TokenStream, item: TokenStream) -> Result<TokenStream, Error> {
    let key = match arguments.to_string().as_str() {
        "" => false,
        "key" => true,
        other => {
            let message =
                format!("`{other}` is not known here: write #[millstream::event] or #[millstream::event(key)]");
            return Err(Error::new(Span::call_site(), message));
        }
    };
    let mut item: Item = syn::parse2(item)?;
    // What is said to us is taken off the item, for nobody else knows it.
    let evolving = match &mut item {
        Item::Struct(item) => Evolving::of_struct(item)?,
        Item::Enum(item) if !key => Evolving::of_enum(item)?,
        other => {
            let message = if key { "a key is a struct of fixed fields" } else { "an event is a struct or an enum" };
            return Err(Error::new_spanned(other, message));
        }
    };
    let (name, generics, layout) = match &item {
        Item::Struct(item) => (&item.ident, &item.generics, quote!(#[repr(C)])),
        Item::Enum(item) => (&item.ident, &item.generics, quote!()),
        _ => unreachable!("anything else was refused above"),
    };
    let (impl_generics, type_generics, bounds) = generics.split_for_impl();
    let key = key.then(|| {
        let map_key = generics.params.is_empty().then(|| {
            quote! {
                #[automatically_derived]
                impl ::millstream::state::MapKey for #name {
                    fn with_sub<R>(
                        view: &::millstream::state::View<'_, Self>,
                        show: impl ::core::ops::FnOnce(::millstream::state::SubKey<'_, Self>) -> R,
                    ) -> R {
                        ::millstream::state::SubKey::with(*view, show)
                    }
                }
            }
        });
        quote! {
            impl #impl_generics ::millstream::Key for #name #type_generics #bounds {}
            #map_key
        }
    });
    let kept = kept(name, generics);
    let evolving = evolving.expand(name, generics);
    Ok(quote! {
        #[derive(::millstream::rkyv::Archive, ::millstream::rkyv::Serialize, ::millstream::rkyv::Deserialize)]
        #[rkyv(crate = ::millstream::rkyv)]
        #layout
        #item
        #evolving
        #kept
        #key
    })
}

/// Says how it is kept as state: in place, if the compiler finds that it can be. That is decided of one type, not of all that a
/// generic one may become: those are archived.
fn kept(name: &Ident, generics: &Generics) -> TokenStream {
    if generics.params.is_empty() {
        return quote! {
            #[automatically_derived]
            impl ::millstream::state::Kept for #name {
                type Form = <::millstream::state::Choose<
                    {
                        #[allow(unused_imports)]
                        use ::millstream::state::ProbeOtherwise as _;
                        ::millstream::state::Probe::<#name>::IS_FIXED
                    },
                > as ::millstream::state::Chosen>::Form;
            }
        };
    }
    let mut generics = generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(::millstream::schema::Described));
        parameter.bounds.push(parse_quote!(::millstream::schema::FromValue));
    }
    generics.make_where_clause().predicates.push(parse_quote!(Self: ::millstream::state::Stored));
    let (impl_generics, type_generics, bounds) = generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #impl_generics ::millstream::state::Kept for #name #type_generics #bounds {
            type Form = ::millstream::state::Archived;
        }
    }
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
        assert!(fixed.contains("repr (C)") && !fixed.contains("Key for"), "{fixed}");
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
