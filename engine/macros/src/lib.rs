//! The one attribute that a user's types need: `#[millstream::event]`.

use proc_macro::TokenStream;
use quote::quote;
use syn::{Item, parse_macro_input};

/// Makes a struct or enum an event: something that can cross an exchange, be kept as state and be written to a
/// checkpoint in its archived form.
///
/// A struct of fixed fields (numbers, arrays, `Text<N>`, other such structs) laid out without padding is *fixed*: its
/// archived form is its own memory. If it is also `Copy` it can be an accumulator, and with `#[millstream::event(key)]`
/// a key. The attribute adds `#[repr(C)]` to structs, so that their layout is the declared one.
///
/// ```ignore
/// #[millstream::event(key)]
/// #[derive(Clone, Copy, PartialEq, Eq, Debug)]
/// struct Seat {
///     room: u32,
///     row: u16,
///     number: u16,
/// }
/// ```
#[proc_macro_attribute]
pub fn event(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let key = match arguments.to_string().as_str() {
        "" => false,
        "key" => true,
        other => {
            let message = format!("`{other}` is not known here: write #[millstream::event] or #[millstream::event(key)]");
            return syn::Error::new(proc_macro2::Span::call_site(), message).to_compile_error().into();
        }
    };
    let item = parse_macro_input!(item as Item);
    let (name, generics, layout) = match &item {
        Item::Struct(item) => (&item.ident, &item.generics, quote!(#[repr(C)])),
        Item::Enum(item) if !key => (&item.ident, &item.generics, quote!()),
        other => {
            let message = if key { "a key is a struct of fixed fields" } else { "an event is a struct or an enum" };
            return syn::Error::new_spanned(other, message).to_compile_error().into();
        }
    };
    let (impl_generics, type_generics, bounds) = generics.split_for_impl();
    let key = key.then(|| quote!(impl #impl_generics ::millstream::Key for #name #type_generics #bounds {}));
    quote! {
        #[derive(::millstream::rkyv::Archive, ::millstream::rkyv::Serialize, ::millstream::rkyv::Deserialize)]
        #[rkyv(crate = ::millstream::rkyv)]
        #layout
        #item
        #key
    }
    .into()
}
