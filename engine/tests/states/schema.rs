//! What `#[millstream::event]` says about a type: its schema, and the way from older bytes to it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;

use millstream::rkyv::api::high::HighSerializer;
use millstream::rkyv::rancor::Error;
use millstream::rkyv::ser::allocator::ArenaHandle;
use millstream::rkyv::util::AlignedVec;
use millstream::rkyv::{Archive, Serialize, to_bytes};
use millstream::schema::{Change, Described, FromValue, Migration, Reader, Schema, Value, compare, migrate};
use millstream::{Key, Text};

#[millstream::event(key)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Seat {
    room: u32,
    row: u16,
    number: u16,
}

#[millstream::event]
#[derive(PartialEq, Debug, Clone, Copy)]
enum Colour {
    Red = 3,
    Green,
    Blue = 200,
    Grey,
}

#[millstream::event]
#[derive(PartialEq, Debug)]
struct Nothing;

#[millstream::event]
#[derive(PartialEq, Debug)]
struct Pair<A, B: Debug>(A, Option<B>)
where
    A: Debug;

#[millstream::event]
#[derive(Clone, Copy, PartialEq, Debug)]
struct Sack<const N: usize> {
    miller: Text<N>,
    sides_cm: [[u16; 2]; 2],
}

#[millstream::event]
#[derive(PartialEq, Debug)]
enum Order {
    Placed { r#type: Vec<String>, seat: Seat },
    Paid(u8, u128),
    Cancelled,
}

#[millstream::event]
#[derive(PartialEq, Debug)]
struct Theatre {
    open: bool,
    orders: Vec<Order>,
    seats: HashMap<String, Seat>,
    takings: BTreeMap<u16, Vec<i64>>,
    colour: Colour,
    nothing: Nothing,
    pair: Pair<Sack<12>, Box<Colour>>,
    tags: HashSet<Text<6>>,
}

#[millstream::event]
#[rkyv(serialize_bounds(__S: millstream::rkyv::ser::Writer + millstream::rkyv::ser::Allocator, __S::Error: millstream::rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: millstream::rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: millstream::rkyv::validation::ArchiveContext, __C::Error: millstream::rkyv::rancor::Source)))]
#[derive(PartialEq, Debug)]
enum Sum {
    Number(i32),
    Of {
        #[rkyv(omit_bounds)]
        left: Box<Sum>,
        #[rkyv(omit_bounds)]
        others: Vec<Sum>,
    },
}

fn theatre() -> Theatre {
    let seat = Seat { room: 1, row: 2, number: 3 };
    Theatre {
        open: true,
        orders: vec![
            Order::Placed { r#type: vec!["stalls".into(), "with a view of the river".into()], seat },
            Order::Paid(7, u128::MAX),
            Order::Cancelled,
        ],
        seats: (0..30).map(|i| (format!("visitor number {i}"), Seat { room: i, ..seat })).collect(),
        takings: (0..50).map(|i| (i, vec![i64::from(i); 3])).collect(),
        colour: Colour::Grey,
        nothing: Nothing,
        pair: Pair(
            Sack { miller: "Anna".parse().expect("it fits"), sides_cm: [[1, 2], [3, 4]] },
            Some(Box::new(Colour::Red)),
        ),
        tags: ["a", "b"].map(|tag| tag.parse().expect("it fits")).into(),
    }
}

fn round<T>(own: &T) -> Value
where
    T: Described + FromValue + PartialEq + Debug + Archive,
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>,
{
    let schema = T::checked_schema();
    let bytes = to_bytes::<Error>(own).expect("memory is left");
    let value = Reader::new(&schema).expect("it is a type's").read_whole(&bytes).expect("what was written is read");
    assert_eq!(&T::from_value(&value).expect("what was read is one"), own);
    value
}

#[test]
fn an_event_is_read_without_its_type() {
    round(&theatre());
    round(&Nothing);
    for colour in [Colour::Red, Colour::Green, Colour::Blue, Colour::Grey] {
        assert_eq!(round(&colour).to_string(), format!("\"{colour:?}\""));
    }
    let seat = Seat { room: 1, row: 2, number: 3 };
    assert_eq!(round(&seat).to_string(), r#"{"room":1,"row":2,"number":3}"#);
    assert_eq!(
        round(&Order::Placed { r#type: vec![], seat }).to_string(),
        r#"{"Placed":{"type":[],"seat":{"room":1,"row":2,"number":3}}}"#
    );
    assert_eq!(round(&Pair(1u8, Some(Colour::Red))).to_string(), r#"[1,"Red"]"#);
}

#[test]
fn an_event_is_described_as_it_is_written() {
    assert_eq!(
        Order::schema().to_string(),
        "Order { Placed { type: Vec<String>, seat: Seat { room: u32, row: u16, number: u16 } }, Paid(u8, u128), Cancelled }"
    );
    assert_eq!(
        <Pair<u8, Colour>>::schema().to_string(),
        "Pair<u8, Colour>(u8, Option<Colour { Red, Green, Blue, Grey }>)"
    );
    assert_eq!(<Sack<12>>::schema().to_string(), "Sack<12> { miller: Text<12>, sides_cm: [[u16; 2]; 2] }");
    let json = serde_json::to_string(&Colour::schema()).expect("a schema is JSON");
    assert_eq!(
        json,
        r#"{"enum":{"name":"Colour","variants":[{"name":"Red","tag":3},{"name":"Green","tag":4},{"name":"Blue","tag":200},{"name":"Grey","tag":201}]}}"#
    );
    assert_eq!(serde_json::from_str::<Schema>(&json).expect("it is one"), Colour::schema());
}

#[test]
fn an_event_may_hold_itself() {
    assert_eq!(Sum::schema().to_string(), "Sum { Number(i32), Of { left: Box<Sum>, others: Vec<Sum> } }");
    let number = |number| Sum::Number(number);
    let mut sum = number(1);
    for i in 0..50 {
        sum = Sum::Of { left: Box::new(sum), others: vec![number(i), number(-i)] };
    }
    round(&sum);
}

mod yesterday {
    #[millstream::event]
    pub(super) struct Account {
        pub(super) owner: String,
        pub(super) balance: i64,
        pub(super) last: Last,
    }

    #[millstream::event]
    pub(super) enum Last {
        Nothing,
        Order(u64),
    }
}

#[millstream::event]
#[derive(PartialEq, Debug)]
struct Account {
    #[state(default = 500)]
    limit: u32,
    #[state(was = "balance")]
    cents: i64,
    owner: String,
    #[state(default)]
    notes: Vec<String>,
    last: Last,
}

#[millstream::event]
#[derive(PartialEq, Debug)]
enum Last {
    #[state(was = "Nothing")]
    Never,
    Order(u64, #[state(default = Some("then".to_owned()))] Option<String>),
    Visit,
}

#[test]
fn older_bytes_become_todays_event() {
    let stored = yesterday::Account::schema();
    let migration = Migration::<Account>::new(&stored).expect("the change can be followed");
    let Change::Additive(plan) = migration.change() else { panic!("much changed") };
    assert_eq!(
        plan.to_string(),
        "the order changed; `limit: u32` is new and takes its default; `cents` was `balance`; `notes: Vec<String>` is new \
         and takes its default; `last::Never` was `Nothing`; `last::Order.1: Option<String>` is new and takes its default; \
         `last::Visit` is a new variant"
    );
    for (last, expected) in
        [(yesterday::Last::Nothing, Last::Never), (yesterday::Last::Order(9), Last::Order(9, Some("then".into())))]
    {
        let old = yesterday::Account { owner: "Ada".into(), balance: -5, last };
        let bytes = to_bytes::<Error>(&old).expect("memory is left");
        let root_at = bytes.len() - migration.stored_layout().0;
        let account = migration.apply(&bytes, root_at).expect("what was written is read");
        assert_eq!(account, Account { limit: 500, cents: -5, owner: "Ada".into(), notes: vec![], last: expected });
        let refused = migrate::<Seat>(&stored, &bytes, root_at).expect_err("an account is no seat").to_string();
        assert!(refused.starts_with("`owner` was `String` and is `nothing`"), "{refused}");
    }
    let back = compare(&Account::schema(), &stored).expect_err("fields would be lost").to_string();
    assert!(back.starts_with("`limit` was `u32` and is `nothing`"), "{back}");
}

#[test]
fn a_key_keeps_its_bytes_while_its_schema_does() {
    let seat = Seat { room: 7, row: 8, number: 9 };
    let text = Schema::of_type_text("Seat", size_of::<Seat>(), align_of::<Seat>());
    assert!(matches!(text, Schema::Opaque { bytes: 8, align: 4, .. }), "a name alone does not tell its fields");
    assert_ne!(text.fingerprint(), Seat::schema().fingerprint());
    assert_eq!(
        Seat::schema().fingerprint(),
        millstream_state::hash::bytes(b"struct { room: u32, row: u16, number: u16 }")
    );
    assert_eq!(seat.hash64(), Seat::from_value(&round(&seat)).expect("it is one").hash64());
}
