//! The matrix of changes: what a type may become, and what it may not.

use rkyv::rancor::Error;

use super::*;

fn field(name: &str, schema: Schema) -> Field {
    Field { name: name.into(), was: None, has_default: false, schema }
}

fn structure(fields: Vec<Field>) -> Schema {
    Schema::Struct { name: "Account".into(), fields }
}

fn enumeration(variants: Vec<Variant>) -> Schema {
    Schema::Enum { name: "Order".into(), variants }
}

fn list(schema: Schema) -> Schema {
    Schema::List(Box::new(schema))
}

fn steps(stored: &Schema, wanted: &Schema) -> String {
    match compare(stored, wanted) {
        Ok(Change::Same) => "same".into(),
        Ok(Change::Additive(plan)) => plan.to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn fields_come_and_are_renamed_but_do_not_go() {
    let (balance, owner) = (field("balance", Schema::I64), field("owner", Schema::String));
    let stored = structure(vec![balance.clone(), owner.clone()]);
    let to = |fields: Vec<Field>| steps(&stored, &structure(fields));
    let note = field("note", Schema::String);

    assert_eq!(to(vec![balance.clone(), owner.clone()]), "same");
    assert_eq!(
        to(vec![balance.clone().was("money"), owner.clone().with_default()]),
        "same",
        "nothing about these bytes"
    );
    assert_eq!(
        to(vec![balance.clone(), note.clone().with_default(), owner.clone()]),
        "`note: String` is new and takes its default"
    );
    assert_eq!(to(vec![field("cents", Schema::I64).was("balance"), owner.clone()]), "`cents` was `balance`");
    assert_eq!(to(vec![owner.clone(), balance.clone()]), "the order changed");
    assert_eq!(
        to(vec![field("holder", Schema::String).was("owner"), balance.clone(), note.clone().with_default()]),
        "the order changed; `holder` was `owner`; `note: String` is new and takes its default"
    );
    assert_eq!(
        to(vec![balance.clone(), owner.clone(), note]),
        "`note` was `nothing` and is `String`: stored values lack it; give it #[state(default)], or #[state(was = \"..\")] \
         with the name it had"
    );
    assert_eq!(
        to(vec![balance.clone()]),
        "`owner` was `String` and is `nothing`: what is stored there would be lost; keep it, or say what it became with \
         #[state(was = \"..\")]"
    );
    assert_eq!(
        to(vec![field("balance", Schema::I128), owner.clone()]),
        "`balance` was `i64` and is `i128`: stored values cannot become this type; keep the old one, or store the new one \
         in another state"
    );
    let twice = to(vec![balance.clone(), owner.clone(), field("holder", Schema::String).was("owner").with_default()]);
    assert!(twice.starts_with("`owner` was `String` and is `String`: two of the type's fields"), "{twice}");
    assert!(to(vec![field("cents", Schema::U64).was("balance"), owner]).starts_with("`cents` was `i64` and is `u64`"));
}

#[test]
fn variants_come_but_do_not_go() {
    let (paid, open) = (Variant::of("Paid", 0, vec![field("cents", Schema::I64)]), Variant::of("Open", 1, vec![]));
    let stored = enumeration(vec![paid.clone(), open.clone()]);
    let to = |variants: Vec<Variant>| steps(&stored, &enumeration(variants));
    let lost = Variant::of("Lost", 2, vec![field("why", Schema::String)]);

    assert_eq!(to(vec![paid.clone(), open.clone()]), "same");
    assert_eq!(to(vec![paid.clone(), open.clone(), lost]), "`::Lost` is a new variant");
    assert_eq!(to(vec![paid.clone(), Variant::of("Waiting", 1, vec![]).was("Open")]), "`::Waiting` was `Open`");
    assert_eq!(to(vec![Variant { tag: 0, ..open.clone() }, Variant { tag: 1, ..paid.clone() }]), "the order changed");
    assert_eq!(to(vec![paid.clone(), Variant { tag: 7, ..open.clone() }]), "the order changed");
    assert!(to(vec![paid.clone()]).starts_with("`::Open` was `a variant` and is `nothing`"));
    let more = Variant::of("Paid", 0, vec![field("cents", Schema::I64), field("at", Schema::U64).with_default()]);
    assert_eq!(to(vec![more, open.clone()]), "`::Paid.at: u64` is new and takes its default");
    let other = Variant::of("Paid", 0, vec![field("cents", Schema::I32)]);
    assert!(to(vec![other, open]).starts_with("`::Paid.cents` was `i64` and is `i32`"));
}

#[test]
fn a_change_deep_inside_is_found_and_named() {
    let entry = |amount: Schema| structure(vec![field("amount", amount)]);
    let nested = |inner: Schema| {
        let map = Schema::BTreeMap(Box::new(Schema::U64), Box::new(Schema::Option(Box::new(inner))));
        structure(vec![field("history", list(Schema::Tuple(vec![Schema::U8, map])))])
    };
    assert_eq!(steps(&nested(entry(Schema::U8)), &nested(entry(Schema::U8))), "same");
    let found = steps(&nested(entry(Schema::U8)), &nested(entry(Schema::U16)));
    assert!(found.starts_with("`history[].1{value}.amount` was `u8` and is `u16`"), "{found}");
    let more = structure(vec![field("amount", Schema::U8), field("tax", Schema::U8).with_default()]);
    assert_eq!(
        steps(&nested(entry(Schema::U8)), &nested(more)),
        "`history[].1{value}.tax: u8` is new and takes its default"
    );
}

#[test]
fn no_two_types_of_the_table_become_each_other() {
    let item = || Box::new(Schema::U64);
    let types = [
        Schema::Unit,
        Schema::Bool,
        Schema::Char,
        Schema::U8,
        Schema::U16,
        Schema::U32,
        Schema::U64,
        Schema::U128,
        Schema::I8,
        Schema::I16,
        Schema::I32,
        Schema::I64,
        Schema::I128,
        Schema::F32,
        Schema::F64,
        Schema::Text(8),
        Schema::Text(9),
        Schema::String,
        Schema::Str,
        Schema::Array(item(), 2),
        Schema::Array(item(), 3),
        Schema::Tuple(vec![]),
        Schema::Tuple(vec![Schema::U64]),
        Schema::Tuple(vec![Schema::U64, Schema::U64]),
        Schema::List(item()),
        Schema::HashMap(item(), item()),
        Schema::HashSet(item()),
        Schema::BTreeMap(item(), item()),
        Schema::BTreeSet(item()),
        Schema::Option(item()),
        Schema::Boxed(item()),
        structure(vec![field("a", Schema::U64)]),
        enumeration(vec![Variant::of("A", 0, vec![field("a", Schema::U64)])]),
        Schema::Opaque { name: "u64".into(), bytes: 8, align: 8 },
        Schema::Opaque { name: "Spend".into(), bytes: 8, align: 8 },
    ];
    for (i, stored) in types.iter().enumerate() {
        for (j, wanted) in types.iter().enumerate() {
            let change = compare(stored, wanted);
            assert_eq!(change == Ok(Change::Same), i == j, "{stored} to {wanted}");
            assert_eq!(change.is_ok(), i == j, "{stored} to {wanted}");
            assert_eq!(stored.fingerprint() == wanted.fingerprint(), i == j, "{stored} and {wanted}");
        }
    }
}

#[test]
fn names_of_types_may_change_and_fingerprints_do_not() {
    let one = structure(vec![field("a", Schema::U64)]);
    let other = Schema::Struct { name: "Konto".into(), fields: vec![field("a", Schema::U64).was("b").with_default()] };
    assert_eq!(compare(&one, &other), Ok(Change::Same));
    assert_eq!(one.fingerprint(), other.fingerprint());
    // A change of these numbers makes every state of older checkpoints look changed.
    assert_eq!(Schema::U64.fingerprint(), crate::hash::bytes(b"u64"));
    assert_eq!(one.fingerprint(), crate::hash::bytes(b"struct { a: u64 }"));
    let order = enumeration(vec![Variant::of("A", 0, vec![]), Variant::of("B", 3, vec![field("0", Schema::Again(0))])]);
    assert_eq!(order.fingerprint(), crate::hash::bytes(b"enum { A = 0, B = 3 { 0: ^0 } }"));
}

/// Yesterday's `Account`, and today's.
mod yesterday {
    #[derive(rkyv::Archive, rkyv::Serialize)]
    pub(super) struct Account {
        pub(super) owner: String,
        pub(super) balance: i64,
        pub(super) orders: Vec<Order>,
    }

    #[derive(rkyv::Archive, rkyv::Serialize)]
    pub(super) enum Order {
        Open,
        Paid { cents: i64 },
    }
}

#[derive(PartialEq, Debug)]
struct Account {
    cents: i64,
    owner: String,
    limit: u32,
    orders: Vec<Order>,
}

#[derive(PartialEq, Debug)]
enum Order {
    Lost,
    Paid { cents: i64, at: Option<u64> },
    Waiting,
}

impl Described for yesterday::Account {
    fn schema() -> Schema {
        Schema::named::<Self>(|name| Schema::Struct {
            name,
            fields: vec![
                Field::of::<String>("owner"),
                Field::of::<i64>("balance"),
                Field::of::<Vec<yesterday::Order>>("orders"),
            ],
        })
    }
}

impl Described for yesterday::Order {
    fn schema() -> Schema {
        Schema::named::<Self>(|name| Schema::Enum {
            name,
            variants: vec![Variant::of("Open", 0, vec![]), Variant::of("Paid", 1, vec![Field::of::<i64>("cents")])],
        })
    }
}

impl Described for Account {
    fn schema() -> Schema {
        Schema::named::<Self>(|name| Schema::Struct {
            name,
            fields: vec![
                Field::of::<i64>("cents").was("balance"),
                Field::of::<String>("owner"),
                Field::of::<u32>("limit").with_default(),
                Field::of::<Vec<Order>>("orders"),
            ],
        })
    }
}

impl Described for Order {
    fn schema() -> Schema {
        Schema::named::<Self>(|name| Schema::Enum {
            name,
            variants: vec![
                Variant::of("Lost", 0, vec![]),
                Variant::of("Paid", 1, vec![Field::of::<i64>("cents"), Field::of::<Option<u64>>("at").with_default()]),
                Variant::of("Waiting", 2, vec![]).was("Open"),
            ],
        })
    }
}

impl FromValue for Account {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let mut fields = value.fields("Account")?;
        Ok(Account {
            cents: fields.take("cents", Some("balance"))?,
            owner: fields.take("owner", None)?,
            limit: fields.take_or("limit", None, || 500)?,
            orders: fields.take("orders", None)?,
        })
    }
}

impl FromValue for Order {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        Ok(match value.variant("Order")? {
            ("Lost", _) => Order::Lost,
            ("Paid", mut fields) => {
                Order::Paid { cents: fields.take("cents", None)?, at: fields.take_or("at", None, Default::default)? }
            }
            ("Waiting" | "Open", _) => Order::Waiting,
            (other, _) => return Err(ValueError::unknown_variant("Order", other)),
        })
    }
}

#[test]
fn yesterdays_bytes_become_todays_values() {
    let stored = yesterday::Account {
        owner: "somebody with a long name".into(),
        balance: -7,
        orders: vec![yesterday::Order::Open, yesterday::Order::Paid { cents: 9 }],
    };
    let bytes = rkyv::to_bytes::<Error>(&stored).unwrap();
    let schema = yesterday::Account::checked_schema();
    let migration = Migration::<Account>::new(&schema).unwrap();
    let Change::Additive(plan) = migration.change() else { panic!("much changed") };
    assert_eq!(
        plan.to_string(),
        "the order changed; `cents` was `balance`; `limit: u32` is new and takes its default; the order in `orders[]` \
         changed; `orders[]::Lost` is a new variant; `orders[]::Paid.at: Option<u64>` is new and takes its default; \
         `orders[]::Waiting` was `Open`"
    );
    assert_eq!(
        migration.apply(&bytes, bytes.len() - migration.stored_layout().0).unwrap(),
        Account {
            cents: -7,
            owner: "somebody with a long name".into(),
            limit: 500,
            orders: vec![Order::Waiting, Order::Paid { cents: 9, at: None }],
        }
    );
    let error = Migration::<yesterday_only::Gone>::new(&schema).unwrap_err();
    assert!(error.to_string().starts_with("`balance` was `i64` and is `nothing`"), "{error}");
}

/// A type that would lose what is stored.
mod yesterday_only {
    use super::*;

    #[derive(Debug)]
    pub(super) struct Gone;

    impl Described for Gone {
        fn schema() -> Schema {
            structure(vec![field("owner", Schema::String), field("orders", list(yesterday::Order::schema()))])
        }
    }

    impl FromValue for Gone {
        fn from_value(_: &Value) -> Result<Self, ValueError> {
            Ok(Gone)
        }
    }
}

#[test]
fn what_the_document_shows_is_a_schema() {
    let document = include_str!("../../../docs/formats/schema.md");
    let (_, behind) = document.split_once("```text\n").unwrap();
    let (json, _) = behind.split_once("```").unwrap();
    let account: Schema = serde_json::from_str(json).unwrap();
    assert_eq!(account.to_string(), "Account { cents: i64, limit: u32, last: Last { Never, Order(u64) } }");
    assert_eq!(account.layout(), Ok((32, 8)));
    let last = Schema::Enum {
        name: "Last".into(),
        variants: vec![Variant::of("Never", 0, vec![]), Variant::of("Order", 1, vec![field("0", Schema::U64)])],
    };
    assert!(document.contains(&format!("`{}`", last.canonical())));
    // Every type of the table that is shown in full, with its size and alignment where numbers are given.
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let (mut shown, mut sized) = (0, 0);
    for row in rows {
        let columns: Vec<&str> = row.split('|').collect();
        for json in columns[1].split('`').filter(|json| json.starts_with(['"', '{']) && !json.contains("..")) {
            let schema: Schema = serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
            shown += 1;
            if let Some((bytes, align)) = columns[3].split_once(", ")
                && let (Ok(bytes), Ok(align)) = (bytes.trim().parse(), align.trim().parse())
            {
                assert_eq!(schema.layout(), Ok((bytes, align)), "{json}");
                sized += 1;
            }
        }
    }
    assert_eq!((shown, sized), (28, 24), "the table shows other types than it did");
}
