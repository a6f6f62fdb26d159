//! `#[state(..)]`: what is said about a field, a variant or a state.

use std::collections::HashSet;

use syn::{Attribute, Error, Expr, Ident, LitStr, Token};

use crate::duration;

/// Where `#[state(..)]` stands, which decides what may be in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a field of an event.
    Field,
    /// On a variant of an event.
    Variant,
    /// On a field of a `KeyedState`.
    State,
}

impl Place {
    fn allows(self) -> &'static str {
        match self {
            Place::Field => {
                "write #[state(was = \"old_name\")], #[state(default)] or #[state(default = 0)], or several with commas between"
            }
            Place::Variant => "a variant takes #[state(was = \"OldName\")] alone",
            Place::State => {
                "write #[state(ttl = \"1h\")] or #[state(was = \"old_name\")], or both with a comma between"
            }
        }
    }
}

/// What a field takes where older state lacks it.
pub(crate) enum Fallback {
    /// That of its type.
    OfType,
    /// This.
    Is(Box<Expr>),
}

/// What `#[state(..)]` said.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) was: Option<LitStr>,
    pub(crate) default: Option<Fallback>,
    pub(crate) ttl_ms: Option<u64>,
}

impl Said {
    /// What these attributes say, all `#[state(..)]` among them together.
    pub(crate) fn of(attributes: &[Attribute], place: Place) -> Result<Said, Error> {
        let mut said = Said::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("state")) {
            attribute.parse_nested_meta(|meta| {
                let twice = || meta.error("this is said twice");
                if meta.path.is_ident("was") {
                    let was: LitStr = meta.value()?.parse()?;
                    if syn::parse_str::<Ident>(&was.value()).is_err() && was.value().parse::<u32>().is_err() {
                        return Err(Error::new(was.span(), "`was` is the old name of a field or a variant"));
                    }
                    if said.was.replace(was).is_some() {
                        return Err(twice());
                    }
                } else if meta.path.is_ident("default") && place == Place::Field {
                    let default = if meta.input.peek(Token![=]) {
                        Fallback::Is(meta.value()?.parse()?)
                    } else {
                        Fallback::OfType
                    };
                    if said.default.replace(default).is_some() {
                        return Err(twice());
                    }
                } else if meta.path.is_ident("ttl") && place == Place::State {
                    let ttl: LitStr = meta.value()?.parse()?;
                    let ttl_ms = duration::parse_ms(&ttl.value()).map_err(|why| Error::new(ttl.span(), why))?;
                    if said.ttl_ms.replace(ttl_ms).is_some() {
                        return Err(twice());
                    }
                } else {
                    let name = meta.path.get_ident().map_or_else(String::new, ToString::to_string);
                    return Err(meta.error(format!("`{name}` is not known here: {}", place.allows())));
                }
                Ok(())
            })?;
        }
        Ok(said)
    }

    /// The same, and takes them off.
    pub(crate) fn take(attributes: &mut Vec<Attribute>, place: Place) -> Result<Said, Error> {
        let said = Said::of(attributes, place)?;
        attributes.retain(|attribute| !attribute.path().is_ident("state"));
        Ok(said)
    }
}

/// Refuses old names that would lead to two places: two that are the same, or one that is in use.
pub(crate) fn check_old_names<'a>(names: impl Iterator<Item = (String, &'a Said)>) -> Result<(), Error> {
    let (mut taken, mut old) = (HashSet::new(), Vec::new());
    for (name, said) in names {
        taken.insert(name);
        old.extend(&said.was);
    }
    for was in old {
        if !taken.insert(was.value()) {
            let message = format!("`{}` is in use: what was stored under it can become one thing only", was.value());
            return Err(Error::new(was.span(), message));
        }
    }
    Ok(())
}
