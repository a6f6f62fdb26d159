//! `#[derive(KeyedState)]`: one declaration per field, and a walk over all of them.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Error, Fields};

use crate::attributes::{Place, Said, check_old_names};

const SHAPE: &str = "keyed state is a struct with named fields, one per state: struct Account { balance: Value<i64>, history: List<u64> }";

pub(crate) fn expand(item: TokenStream) -> Result<TokenStream, Error> {
    let DeriveInput { ident: name, generics, data, attrs, .. } = syn::parse2(item)?;
    if let Some(attribute) = attrs.iter().find(|attribute| attribute.path().is_ident("state")) {
        return Err(Error::new_spanned(attribute, "#[state(..)] is said of a field, not of all of them"));
    }
    let Data::Struct(data) = data else {
        return Err(Error::new_spanned(name, SHAPE));
    };
    let Fields::Named(fields) = data.fields else {
        return Err(Error::new_spanned(name, SHAPE));
    };
    if fields.named.is_empty() {
        return Err(Error::new_spanned(name, SHAPE));
    }
    let mut states = Vec::with_capacity(fields.named.len());
    for field in fields.named {
        let said = Said::of(&field.attrs, Place::State)?;
        states.push((field.ident.expect("named fields have names"), field.ty, said));
    }
    check_old_names(states.iter().map(|(ident, _, said)| (ident.unraw().to_string(), said)))?;

    let declared = states.iter().map(|(ident, handle, said)| {
        let (name, ttl_ms, was) = (ident.unraw().to_string(), option(said.ttl_ms), option(said.was.as_ref()));
        quote! {
            #ident: <#handle as ::millstream::state::Handle>::declare::<__K>(
                declare,
                #name,
                ::millstream::state::StateOptions { ttl_ms: #ttl_ms, was: #was },
            )
        }
    });
    let idents = states.iter().map(|(ident, ..)| ident);
    let (impl_generics, type_generics, bounds) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::millstream::state::KeyedState for #name #type_generics #bounds {
            fn declare<__K: ::millstream::Key + ::millstream::schema::Described>(
                declare: &mut ::millstream::state::Declare<'_, __K>,
            ) -> Self {
                Self { #(#declared),* }
            }

            fn for_each(
                &mut self,
                visit: &mut dyn ::core::ops::FnMut(&mut dyn ::millstream::state::Handle),
            ) {
                #(visit(&mut self.#idents);)*
            }
        }
    })
}

fn option(value: Option<impl quote::ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_declared_and_visited_in_order() {
        let expanded = expand(quote! {
            pub struct Account<T: Event> where T: Copy {
                balance: Value<i64>,
                #[state(ttl = "1h 30m")]
                #[state(was = "transactions")]
                history: List<T>,
                r#type: Map<u64, u32>,
            }
        })
        .expect("this can be meant");
        let expected = quote! {
            #[automatically_derived]
            impl<T: Event> ::millstream::state::KeyedState for Account<T> where T: Copy {
                fn declare<__K: ::millstream::Key + ::millstream::schema::Described>(
                    declare: &mut ::millstream::state::Declare<'_, __K>,
                ) -> Self {
                    Self {
                        balance: <Value<i64> as ::millstream::state::Handle>::declare::<__K>(
                            declare,
                            "balance",
                            ::millstream::state::StateOptions {
                                ttl_ms: ::core::option::Option::None,
                                was: ::core::option::Option::None
                            },
                        ),
                        history: <List<T> as ::millstream::state::Handle>::declare::<__K>(
                            declare,
                            "history",
                            ::millstream::state::StateOptions {
                                ttl_ms: ::core::option::Option::Some(5400000u64),
                                was: ::core::option::Option::Some("transactions")
                            },
                        ),
                        r#type: <Map<u64, u32> as ::millstream::state::Handle>::declare::<__K>(
                            declare,
                            "type",
                            ::millstream::state::StateOptions {
                                ttl_ms: ::core::option::Option::None,
                                was: ::core::option::Option::None
                            },
                        )
                    }
                }

                fn for_each(
                    &mut self,
                    visit: &mut dyn ::core::ops::FnMut(&mut dyn ::millstream::state::Handle),
                ) {
                    visit(&mut self.balance);
                    visit(&mut self.history);
                    visit(&mut self.r#type);
                }
            }
        };
        assert_eq!(expanded.to_string(), expected.to_string());
        syn::parse2::<syn::ItemImpl>(expanded).expect("the expansion is one impl");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_can() {
        let complaint = |item: TokenStream| expand(item).expect_err("this cannot be meant").to_string();
        let field = |attribute: TokenStream| complaint(quote!(struct A { #attribute a: Value<i64>, b: Value<i64> }));
        for item in [
            quote!(
                struct A(Value<i64>);
            ),
            quote!(
                struct A;
            ),
            quote!(
                struct A {}
            ),
            quote!(
                enum A {
                    B,
                }
            ),
            quote!(union A { a: u8 }),
        ] {
            assert_eq!(complaint(item), SHAPE);
        }
        assert_eq!(
            field(quote!(#[state(tll = "1h")])),
            "`tll` is not known here: write #[state(ttl = \"1h\")] or #[state(was = \"old_name\")], or both with a comma between"
        );
        assert!(field(quote!(#[state(default)])).starts_with("`default` is not known here: write #[state(ttl"));
        assert_eq!(
            field(quote!(#[state(ttl = "1 hour")])),
            "\"1 hour\" is no duration: write whole numbers with ms, s, m, h or d, from large to small, as in \"90s\", \
             \"1h 30m\" or \"7d\""
        );
        assert_eq!(field(quote!(#[state(ttl = 60)])), "expected string literal");
        assert_eq!(field(quote!(#[state(ttl = "1s", ttl = "2s")])), "this is said twice");
        assert_eq!(
            field(quote!(#[state(was = "b")])),
            "`b` is in use: what was stored under it can become one thing only"
        );
        assert_eq!(
            complaint(quote!(
                #[state(ttl = "1h")]
                struct A {
                    a: Value<i64>,
                }
            )),
            "#[state(..)] is said of a field, not of all of them"
        );
    }
}
