//! The schema of an event, and the way from older values to it.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::quote;
use syn::ext::IdentExt;
use syn::{Attribute, Error, Fields, Generics, Index, ItemEnum, ItemStruct, LitStr, Member, Meta, Type, parse_quote};

use crate::attributes::{Fallback, Place, Said, check_old_names};

/// An event as its schema sees it.
pub(crate) enum Evolving {
    Struct(Vec<Part>),
    Enum(Vec<Variant>),
}

/// A field.
pub(crate) struct Part {
    member: Member,
    name: LitStr,
    own_type: Type,
    said: Said,
}

/// A variant, and the byte that says it is this one.
pub(crate) struct Variant {
    ident: Ident,
    name: LitStr,
    tag: TokenStream,
    parts: Vec<Part>,
    said: Said,
}

impl Evolving {
    /// Reads a struct, and takes off what is said to us.
    pub(crate) fn of_struct(item: &mut ItemStruct) -> Result<Evolving, Error> {
        refuse_other_archives(&item.attrs)?;
        parts(&mut item.fields).map(Evolving::Struct)
    }

    /// Reads an enum, and takes off what is said to us.
    pub(crate) fn of_enum(item: &mut ItemEnum) -> Result<Evolving, Error> {
        refuse_other_archives(&item.attrs)?;
        let mut variants = Vec::with_capacity(item.variants.len());
        // A variant without a number has that of the one before, and one more.
        let (mut base, mut above) = (quote!(0), 0u8);
        for variant in &mut item.variants {
            if let Some((_, number)) = &variant.discriminant {
                (base, above) = (quote!((#number)), 0);
            }
            let said = Said::take(&mut variant.attrs, Place::Variant)?;
            let (ident, name) = (variant.ident.clone(), text_of(&variant.ident));
            variants.push(Variant {
                ident,
                name,
                tag: quote!(#base + #above),
                parts: parts(&mut variant.fields)?,
                said,
            });
            above = above
                .checked_add(1)
                .ok_or_else(|| Error::new_spanned(&variant.ident, "an enum has at most 255 variants"))?;
        }
        check_old_names(variants.iter().map(|variant| (variant.name.value(), &variant.said)))?;
        Ok(Evolving::Enum(variants))
    }

    /// The two impls.
    pub(crate) fn expand(&self, name: &Ident, generics: &Generics) -> TokenStream {
        let with = |bound: TokenStream| {
            let mut generics = generics.clone();
            for parameter in generics.type_params_mut() {
                parameter.bounds.push(parse_quote!(#bound));
            }
            generics
        };
        let (described, made) =
            (with(quote!(::millstream::schema::Described)), with(quote!(::millstream::schema::FromValue)));
        let (described_generics, type_generics, described_bounds) = described.split_for_impl();
        let (made_generics, _, made_bounds) = made.split_for_impl();
        let (schema, made) = (self.schema(), self.made(&text_of(name)));
        quote! {
            #[automatically_derived]
            impl #described_generics ::millstream::schema::Described for #name #type_generics #described_bounds {
                fn schema() -> ::millstream::schema::Schema {
                    ::millstream::schema::Schema::named::<Self>(|name| #schema)
                }
            }

            #[automatically_derived]
            impl #made_generics ::millstream::schema::FromValue for #name #type_generics #made_bounds {
                fn from_value(
                    value: &::millstream::schema::Value,
                ) -> ::core::result::Result<Self, ::millstream::schema::ValueError> {
                    #made
                }
            }
        }
    }

    fn schema(&self) -> TokenStream {
        match self {
            Evolving::Struct(parts) => {
                let fields = parts.iter().map(Part::schema);
                quote!(::millstream::schema::Schema::Struct { name, fields: ::std::vec![#(#fields),*] })
            }
            Evolving::Enum(variants) => {
                let variants = variants.iter().map(|Variant { name, tag, parts, said, .. }| {
                    let fields = parts.iter().map(Part::schema);
                    let was = said.was.iter();
                    quote!(::millstream::schema::Variant::of(#name, #tag, ::std::vec![#(#fields),*]) #(.was(#was))*)
                });
                quote!(::millstream::schema::Schema::Enum { name, variants: ::std::vec![#(#variants),*] })
            }
        }
    }

    /// How one is made of a value.
    fn made(&self, name: &LitStr) -> TokenStream {
        match self {
            Evolving::Struct(parts) if parts.is_empty() => {
                quote!(value.fields(#name).map(|_| Self {}))
            }
            Evolving::Struct(parts) => {
                let fields = parts.iter().map(Part::take);
                quote! {
                    let mut fields = value.fields(#name)?;
                    ::core::result::Result::Ok(Self { #(#fields),* })
                }
            }
            Evolving::Enum(variants) => {
                let arms = variants.iter().map(|Variant { ident, name, parts, said, .. }| {
                    let was = said.was.iter();
                    let taken = if parts.is_empty() { quote!(_) } else { quote!(mut fields) };
                    let fields = parts.iter().map(Part::take);
                    quote!((#name #(| #was)*, #taken) => ::core::result::Result::Ok(Self::#ident { #(#fields),* }),)
                });
                quote! {
                    match value.variant(#name)? {
                        #(#arms)*
                        (other, _) => ::core::result::Result::Err(
                            ::millstream::schema::ValueError::unknown_variant(#name, other),
                        ),
                    }
                }
            }
        }
    }
}

impl Part {
    fn schema(&self) -> TokenStream {
        let Part { name, own_type, said, .. } = self;
        let was = said.was.iter();
        let default = said.default.as_ref().map(|_| quote!(.with_default()));
        quote!(::millstream::schema::Field::of::<#own_type>(#name) #(.was(#was))* #default)
    }

    fn take(&self) -> TokenStream {
        let Part { member, name, said, .. } = self;
        let was = match &said.was {
            Some(was) => quote!(::core::option::Option::Some(#was)),
            None => quote!(::core::option::Option::None),
        };
        match &said.default {
            None => quote!(#member: fields.take(#name, #was)?),
            Some(Fallback::OfType) => {
                quote!(#member: fields.take_or(#name, #was, ::core::default::Default::default)?)
            }
            Some(Fallback::Is(default)) => quote!(#member: fields.take_or(#name, #was, || #default)?),
        }
    }
}

fn parts(fields: &mut Fields) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::with_capacity(fields.len());
    for (i, field) in fields.iter_mut().enumerate() {
        refuse_other_archives(&field.attrs)?;
        let said = Said::take(&mut field.attrs, Place::Field)?;
        let (member, name) = match &field.ident {
            Some(ident) => (Member::Named(ident.clone()), text_of(ident)),
            None => (Member::Unnamed(Index::from(i)), LitStr::new(&i.to_string(), Span::call_site())),
        };
        parts.push(Part { member, name, own_type: field.ty.clone(), said });
    }
    check_old_names(parts.iter().map(|part| (part.name.value(), &part.said)))?;
    Ok(parts)
}

/// The name as its users know it: `r#type` is `type`.
fn text_of(ident: &Ident) -> LitStr {
    LitStr::new(&ident.unraw().to_string(), ident.span())
}

/// A schema describes what the archiver makes of a type by itself; told otherwise, it would lie.
fn refuse_other_archives(attributes: &[Attribute]) -> Result<(), Error> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("rkyv")) {
        let Meta::List(list) = &attribute.meta else { continue };
        for token in list.tokens.clone() {
            if let TokenTree::Ident(word) = token
                && ["with", "as", "niche", "remote"].iter().any(|&other| word == other)
            {
                let message = format!(
                    "`{word}` archives this as something else, which a schema cannot describe: leave it out, or derive \
                     rkyv's traits without #[millstream::event]"
                );
                return Err(Error::new(word.span(), message));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event;

    fn text(item: TokenStream) -> String {
        event::expand(&TokenStream::new(), item).expect("this can be meant").to_string()
    }

    fn complaint(item: TokenStream) -> String {
        event::expand(&TokenStream::new(), item).expect_err("this cannot be meant").to_string()
    }

    #[test]
    fn what_is_said_about_a_field_is_taken_off_and_followed() {
        let text = text(quote! {
            struct Account<T> {
                #[state(was = "money")]
                r#type: i64,
                #[state(default)]
                owner: T,
                /// Kept.
                #[state(default = 2 + 3, was = "bound")]
                limit: u32,
            }
        });
        assert!(!text.contains("# [state"), "{text}");
        assert!(text.contains("Kept."), "{text}");
        let has = |part: TokenStream| assert!(text.contains(&part.to_string()), "{part} is not in {text}");
        has(quote!(impl<T: ::millstream::schema::Described> ::millstream::schema::Described for Account<T>));
        has(quote!(impl<T: ::millstream::schema::FromValue> ::millstream::schema::FromValue for Account<T>));
        has(quote!(::millstream::schema::Field::of::<i64>("type").was("money")));
        has(quote!(::millstream::schema::Field::of::<T>("owner").with_default()));
        has(quote!(::millstream::schema::Field::of::<u32>("limit").was("bound").with_default()));
        has(quote!(r#type: fields.take("type", ::core::option::Option::Some("money"))?));
        has(quote!(owner: fields.take_or("owner", ::core::option::Option::None, ::core::default::Default::default)?));
        has(quote!(limit: fields.take_or("limit", ::core::option::Option::Some("bound"), || 2 + 3)?));
    }

    #[test]
    fn variants_have_the_numbers_that_the_compiler_gives_them() {
        let text = text(quote! {
            enum Order {
                Open,
                #[state(was = "Payed")]
                Paid(i64),
                Lost { #[state(default)] why: String } = 7,
                Found,
            }
        });
        let has = |part: TokenStream| assert!(text.contains(&part.to_string()), "{part} is not in {text}");
        has(quote!(::millstream::schema::Variant::of("Open", 0 + 0u8, ::std::vec![])));
        has(quote!(
            ::millstream::schema::Variant::of(
                "Paid",
                0 + 1u8,
                ::std::vec![::millstream::schema::Field::of::<i64>("0")]
            )
            .was("Payed")
        ));
        has(quote!("Lost", (7) + 0u8));
        has(quote!("Found", (7) + 1u8));
        has(quote!(("Open", _) => ::core::result::Result::Ok(Self::Open {})));
        has(quote!(("Paid" | "Payed", mut fields) => ));
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let unknown = complaint(quote!(
            struct A {
                #[state(ttl = "1h")]
                a: u8,
            }
        ));
        assert_eq!(
            unknown,
            "`ttl` is not known here: write #[state(was = \"old_name\")], #[state(default)] or #[state(default = 0)], or \
             several with commas between"
        );
        let variant = complaint(quote!(
            enum A {
                #[state(default)]
                B,
            }
        ));
        assert_eq!(variant, "`default` is not known here: a variant takes #[state(was = \"OldName\")] alone");
        let taken = complaint(quote!(
            struct A {
                a: u8,
                #[state(was = "a")]
                b: u8,
            }
        ));
        assert_eq!(taken, "`a` is in use: what was stored under it can become one thing only");
        let twice = complaint(quote!(
            struct A {
                #[state(was = "c")]
                a: u8,
                #[state(was = "c")]
                b: u8,
            }
        ));
        assert_eq!(twice, "`c` is in use: what was stored under it can become one thing only");
        let variants = complaint(quote!(
            enum A {
                B,
                #[state(was = "B")]
                C,
            }
        ));
        assert_eq!(variants, "`B` is in use: what was stored under it can become one thing only");
        let again = complaint(quote!(
            struct A {
                #[state(default, default)]
                a: u8,
            }
        ));
        assert_eq!(again, "this is said twice");
        let name = complaint(quote!(
            struct A {
                #[state(was = "a b")]
                a: u8,
            }
        ));
        assert_eq!(name, "`was` is the old name of a field or a variant");
        let with = complaint(quote!(
            struct A {
                #[rkyv(with = Skip)]
                a: u8,
            }
        ));
        assert!(with.starts_with("`with` archives this as something else"), "{with}");
        assert!(
            complaint(quote!(
                #[rkyv(as = B)]
                struct A {
                    a: u8,
                }
            ))
            .starts_with("`as` archives")
        );
    }
}
