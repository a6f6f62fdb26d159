//! A schema against the compiler and the archiver: types, bytes, damage, change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use super::*;
use crate::{AsArchived, Both, SlotKey, Text};

/// What every type here can do.
trait Whole:
    Described
    + FromValue
    + PartialEq
    + Debug
    + Archive
    + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>
{
}

impl<T> Whole for T where
    T: Described
        + FromValue
        + PartialEq
        + Debug
        + Archive
        + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>
{
}

/// Archives a value, reads it by its schema as kept in JSON, and makes it again.
fn round<T: Whole>(own: T) -> Value {
    let schema = T::checked_schema();
    let json = serde_json::to_string(&schema).unwrap();
    let schema: Schema = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert_eq!(schema, T::schema(), "{json}");
    let bytes = rkyv::to_bytes::<Error>(&own).unwrap();
    let value = Reader::new(&schema).unwrap().read_whole(&bytes).unwrap_or_else(|error| panic!("{schema}: {error}"));
    assert_eq!(T::from_value(&value).unwrap_or_else(|error| panic!("{schema}: {error}")), own, "{schema}");
    let root_at = bytes.len() - size_of::<T::Archived>();
    assert_eq!(migrate::<T>(&schema, &bytes, root_at).unwrap(), own);
    // The archive may stand anywhere among other bytes, and at no alignment.
    let mut moved = vec![0xa5; 13];
    moved.extend_from_slice(&bytes);
    moved.extend_from_slice(&[0x5a; 7]);
    assert_eq!(read(&schema, &moved, 13 + root_at).unwrap(), value);
    value
}

#[derive(Archive, Serialize, Deserialize, PartialEq, Clone, Debug)]
struct Account {
    open: bool,
    balance: i64,
    owner: String,
    limits: HashMap<String, u16>,
    history: Vec<Entry>,
}

impl Described for Account {
    fn schema() -> Schema {
        Schema::named::<Self>(|name| Schema::Struct {
            name,
            fields: vec![
                Field::of::<bool>("open"),
                Field::of::<i64>("balance"),
                Field::of::<String>("owner"),
                Field::of::<HashMap<String, u16>>("limits"),
                Field::of::<Vec<Entry>>("history"),
            ],
        })
    }
}

impl FromValue for Account {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let mut fields = value.fields("Account")?;
        Ok(Account {
            open: fields.take("open", None)?,
            balance: fields.take("balance", None)?,
            owner: fields.take("owner", None)?,
            limits: fields.take("limits", None)?,
            history: fields.take("history", None)?,
        })
    }
}

#[derive(Archive, Serialize, Deserialize, PartialEq, Clone, Debug)]
enum Entry {
    Nothing,
    Paid(u8, f64),
    Noted { text: Option<String>, at: u128 },
}

impl Described for Entry {
    fn schema() -> Schema {
        Schema::named::<Self>(|name| Schema::Enum {
            name,
            variants: vec![
                Variant::of("Nothing", 0, vec![]),
                Variant::of("Paid", 1, vec![Field::of::<u8>("0"), Field::of::<f64>("1")]),
                Variant::of("Noted", 2, vec![Field::of::<Option<String>>("text"), Field::of::<u128>("at")]),
            ],
        })
    }
}

impl FromValue for Entry {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        Ok(match value.variant("Entry")? {
            ("Nothing", _) => Entry::Nothing,
            ("Paid", mut fields) => Entry::Paid(fields.take("0", None)?, fields.take("1", None)?),
            ("Noted", mut fields) => Entry::Noted { text: fields.take("text", None)?, at: fields.take("at", None)? },
            (other, _) => return Err(ValueError::unknown_variant("Entry", other)),
        })
    }
}

/// A type that holds itself.
#[derive(Archive, Serialize, Deserialize, PartialEq, Clone, Debug)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
struct Tree {
    leaf: i8,
    #[rkyv(omit_bounds)]
    left: Option<Box<Tree>>,
    #[rkyv(omit_bounds)]
    others: Vec<Tree>,
}

impl Described for Tree {
    fn schema() -> Schema {
        Schema::named::<Self>(|name| Schema::Struct {
            name,
            fields: vec![
                Field::of::<i8>("leaf"),
                Field::of::<Option<Box<Tree>>>("left"),
                Field::of::<Vec<Tree>>("others"),
            ],
        })
    }
}

impl FromValue for Tree {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let mut fields = value.fields("Tree")?;
        Ok(Tree {
            leaf: fields.take("leaf", None)?,
            left: fields.take("left", None)?,
            others: fields.take("others", None)?,
        })
    }
}

fn leaf(leaf: i8) -> Tree {
    Tree { leaf, left: None, others: vec![] }
}

fn account() -> Account {
    Account {
        open: true,
        balance: -5,
        owner: "Ada Lovelace of London".into(),
        limits: (0..40).map(|i| (format!("limit {i}"), i)).collect(),
        history: vec![
            Entry::Noted { text: Some("ab".into()), at: u128::MAX },
            Entry::Nothing,
            Entry::Paid(7, 0.25),
            Entry::Noted { text: None, at: 0 },
        ],
    }
}

#[test]
fn every_type_reads_as_what_was_archived() {
    assert_eq!(round(()), Value::Unit);
    round((true, 'ß', u8::MAX, u16::MAX, u32::MAX, u64::MAX, u128::MAX, 3usize));
    round((i8::MIN, i16::MIN, i32::MIN, i64::MIN, i128::MIN, -3isize, f32::MIN_POSITIVE, f64::MAX));
    round((i8::MAX, i16::MAX, i32::MAX, i64::MAX, i128::MAX));
    round([[1u16, 2], [3, 4], [5, 6]]);
    round([(); 3]);
    round((Text::<5>::try_from("héy").unwrap(), Text::<3>::EMPTY, Both(7u8, Both(1u8, 2u16))));
    for length in [0, 1, 7, 8, 9, 63, 64, 65, 255, 256, 100_000] {
        round("x".repeat(length));
        round(Box::<str>::from("y".repeat(length)));
    }
    round(vec![1u64, 2, 3]);
    round(vec![(), ()]);
    round(VecDeque::from([Some(1u8), None]));
    round((Box::new(5u128), Box::<[u16]>::from([1, 2]), Rc::new(6u8), Arc::<str>::from("seven")));
    round(Some(Some(Box::new(None::<u64>))));
    round(Ok::<u8, String>(1));
    round(Err::<u8, String>("a reason of some length".into()));
    round((Duration::from_millis(1_500), NonZeroU32::new(9).unwrap(), "::1".parse::<std::net::IpAddr>().unwrap()));
    round(account());
    round(leaf(1));
    round(Tree { leaf: 1, left: Some(Box::new(Tree { others: vec![leaf(4)], ..leaf(2) })), others: vec![leaf(3); 5] });
}

#[test]
fn maps_of_every_size_are_read_whole() {
    for count in (0..130).chain([1_000, 5_000]) {
        round((0..count).map(|i| (i * 7, i as u8)).collect::<HashMap<u64, u8>>());
        round((0..count).map(|i| (i as u8, i as u8)).collect::<HashMap<u8, u8>>());
        round((0..count).map(|i| (i as u16, u128::from(i))).collect::<BTreeMap<u16, u128>>());
        round((0..count).map(|i| (format!("key number {i}"), vec![i])).collect::<BTreeMap<String, Vec<u64>>>());
        round((0..count).map(|i| format!("{i}")).collect::<HashSet<String>>());
        round((0..count).collect::<BTreeSet<u64>>());
    }
    round(HashMap::from([((), 5u8)]));
}

#[test]
fn a_key_is_read_from_what_a_table_keeps() {
    fn key<K: Described + FromValue + SlotKey + PartialEq + Debug>(own: K) -> String {
        let reader = Reader::new(&K::schema()).unwrap();
        let value = own.with_bytes(|bytes| reader.read_key(bytes)).unwrap();
        assert_eq!(K::from_value(&value).unwrap(), own);
        value.to_string()
    }
    assert_eq!(key(String::new()), r#""""#);
    assert_eq!(key("a key of more than eight bytes".to_owned()), r#""a key of more than eight bytes""#);
    assert_eq!(key(vec![0u8, 255]), "[0,255]");
    assert_eq!(key(7u64), "7");
    assert_eq!(key(Text::<5>::try_from("mill").unwrap()), r#""mill""#);
    assert_eq!(key(AsArchived("mill".to_owned())), r#"["mill"]"#);
    assert_eq!(
        key(AsArchived(("a key of more than eight bytes".to_owned(), vec![1u8]))),
        r#"[["a key of more than eight bytes",[1]]]"#
    );
    assert_ne!(String::schema().fingerprint(), <AsArchived<String>>::schema().fingerprint(), "they are kept otherwise");
    assert_eq!(Reader::new(&Schema::String).unwrap().read_key(b"ab\xff").unwrap_err().at, 2);
}

#[test]
fn a_value_is_json_for_any_reader() {
    let json = |value: Value| value.to_string();
    assert_eq!(
        json(round(Account { limits: HashMap::from([("day".into(), 9)]), ..account() })),
        r#"{"open":true,"balance":-5,"owner":"Ada Lovelace of London","limits":{"day":9},"history":[{"Noted":{"text":"ab","at":"340282366920938463463374607431768211455"}},"Nothing",{"Paid":[7,0.25]},{"Noted":{"text":null,"at":0}}]}"#
    );
    assert_eq!(
        json(round((0.1f32, 1u64 << 63, i128::MIN, 'x'))),
        "[0.1,9223372036854775808,\"-170141183460469231731687303715884105728\",\"x\"]"
    );
    assert_eq!(json(round((f64::INFINITY, f32::NEG_INFINITY))), r#"["Infinity","-Infinity"]"#);
    assert_eq!(json(Value::F64(f64::NAN)), "\"NaN\"");
    assert_eq!(
        json(round((None::<u8>, Some(3u8), Some(None::<u8>), Some(Some(())), Some(())))),
        "[null,3,[null],[[null]],[null]]"
    );
    assert_eq!(json(round(BTreeMap::from([(1u8, 'a'), (2, 'b')]))), r#"{"1":"a","2":"b"}"#);
    assert_eq!(json(round(BTreeMap::from([((1u8, 2u8), 'a')]))), r#"[[[1,2],"a"]]"#);
    assert_eq!(json(round(NonZeroU32::new(258).unwrap())), "\"02010000\"");
}

#[test]
fn a_float_that_is_none_survives() {
    let odd = f64::from_bits(0x7ff4_dead_beef_0001);
    let bytes = rkyv::to_bytes::<Error>(&odd).unwrap();
    let value = read(&Schema::F64, &bytes, 0).unwrap();
    assert_eq!(value, Value::F64(odd));
    assert_eq!(f64::from_value(&value).unwrap().to_bits(), odd.to_bits());
}

#[test]
fn a_schema_reads_like_rust() {
    assert_eq!(
        Account::schema().to_string(),
        "Account { open: bool, balance: i64, owner: String, limits: HashMap<String, u16>, \
         history: Vec<Entry { Nothing, Paid(u8, f64), Noted { text: Option<String>, at: u128 } }> }"
    );
    assert_eq!(Tree::schema().to_string(), "Tree { leaf: i8, left: Option<Box<Tree>>, others: Vec<Tree> }");
    assert_eq!(<((), (u8,), [Text<3>; 2])>::schema().to_string(), "((), (u8,), [Text<3>; 2])");
}

#[test]
fn a_fixed_type_is_known_by_its_name() {
    fn of<T: Described + crate::Fixed>() {
        let text = crate::type_text::<T>();
        assert_eq!(Schema::of_type_text(&text, size_of::<T>(), align_of::<T>()), T::schema(), "{text}");
        assert_eq!(Schema::of_fixed::<T>(), T::schema());
    }
    of::<u64>();
    of::<()>();
    of::<[u8; 36]>();
    of::<[[i32; 2]; 3]>();
    of::<Text<36>>();
    of::<Both<u64, Both<i64, f64>>>();
    of::<Both<[u8; 4], Text<12>>>();
    for text in [
        "Spend",
        "Both<u64, Spend>",
        "u64x",
        "[u8; ]",
        "[u8; 3",
        "Text<>",
        "Both<u64>",
        "",
        "[u8; 99999999999999999999]",
    ] {
        let schema = Schema::of_type_text(text, 8, 8);
        assert_eq!(schema, Schema::Opaque { name: text.into(), bytes: 8, align: 8 });
        assert_eq!(schema.layout(), Ok((8, 8)));
    }
    assert!(matches!(Schema::of_type_text("Text<3>", 8, 8), Schema::Opaque { .. }), "somebody else's `Text`");
}

#[test]
fn a_schema_that_no_type_has_is_refused() {
    let endless =
        Schema::Struct { name: "A".into(), fields: vec![Field { schema: Schema::Again(0), ..Field::of::<u8>("a") }] };
    assert_eq!(Reader::new(&endless).unwrap_err(), SchemaError::Endless);
    assert_eq!(Reader::new(&Schema::Boxed(Box::new(Schema::Again(0)))).unwrap_err(), SchemaError::NothingAround);
    let huge = Schema::Array(Box::new(Schema::U128), usize::MAX / 8);
    assert_eq!(Reader::new(&huge).unwrap_err(), SchemaError::TooLarge);
    assert_eq!(Reader::new(&Schema::Array(Box::new(huge), 2)).unwrap_err(), SchemaError::TooLarge);
    let odd = Schema::Opaque { name: "A".into(), bytes: 3, align: 3 };
    assert_eq!(Reader::new(&odd).unwrap_err(), SchemaError::Alignment("A".into(), 3));
    let empties = Schema::Array(Box::new(Schema::Unit), usize::MAX);
    assert_eq!(read(&empties, &[], 0).unwrap_err().why, ReadWhy::TooLarge);
}

#[test]
fn a_pointer_that_leads_to_itself_comes_to_an_end() {
    // A box whose pointer is 0 leads to itself: the same box again.
    let again = Schema::Struct {
        name: "A".into(),
        fields: vec![Field { schema: Schema::Boxed(Box::new(Schema::Again(0))), ..Field::of::<u8>("a") }],
    };
    assert!(matches!(read(&again, &[0; 64], 0).unwrap_err().why, ReadWhy::TooDeep | ReadWhy::TooLarge));
    // The root of a tree whose nodes all lead to themselves, its keys being such trees again.
    let trees = Schema::Struct {
        name: "A".into(),
        fields: vec![Field {
            schema: Schema::BTreeMap(Box::new(Schema::Again(0)), Box::new(Schema::Unit)),
            ..Field::of::<u8>("a")
        }],
    };
    let mut bytes = [0u8; 256];
    for (at, word) in bytes.chunks_exact_mut(4).enumerate() {
        word.copy_from_slice(&(if at % 2 == 0 { 1i32 - 4 * at as i32 } else { 5 }).to_le_bytes());
    }
    for at in 0..64 {
        assert!(read(&trees, &bytes, at).is_err());
    }
    // Lists whose items are all the same list: 7 to the power of the levels, were it not counted.
    let mut lists = Schema::U8;
    for _ in 0..30 {
        lists = Schema::List(Box::new(lists));
    }
    let mut bytes = Vec::new();
    for at in 0..7i32 {
        bytes.extend_from_slice(&(-8 * at).to_le_bytes());
        bytes.extend_from_slice(&7u32.to_le_bytes());
    }
    assert_eq!(read(&lists, &bytes, 0).unwrap_err().why, ReadWhy::TooLarge);
}

#[test]
fn an_error_says_where() {
    let mut bytes = rkyv::to_bytes::<Error>(&vec![(1u8, false), (2, true)]).unwrap();
    bytes[3] = 2;
    let error = Reader::new(&<Vec<(u8, bool)>>::schema()).unwrap().read_whole(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "[1].1 at byte 3: the byte 0x02 means nothing here");
    let error =
        <Vec<(u8, bool)>>::from_value(&Value::List(vec![Value::List(vec![Value::Unit, Value::Unit])])).unwrap_err();
    assert_eq!(error.to_string(), "[0].0: wanted u8, found ()");
}

/// A type of everything, for damage.
type All = (
    (Account, Tree, BTreeMap<String, Vec<u16>>),
    (HashSet<u32>, Option<Box<[i16]>>, Text<9>, char),
    (Result<u8, String>, BTreeSet<u8>, NonZeroU32, Box<str>),
);

fn all(seed: u64) -> All {
    let n = (seed % 23) as u16;
    (
        (
            account(),
            Tree { others: vec![leaf(2), leaf(3)], left: Some(Box::new(leaf(1))), leaf: 0 },
            (0..n).map(|i| (format!("{}", u32::from(i) * 77_777), vec![i; usize::from(i)])).collect(),
        ),
        ((0..u32::from(n) * 3).collect(), Some(vec![5; usize::from(n)].into()), "text".parse().unwrap(), 'ö'),
        (Err("it is too long to be inline".into()), (0..n as u8).collect(), NonZeroU32::MAX, "boxed".into()),
    )
}

/// What the archiver takes for valid must be read, and as the same; anything may be refused, nothing may panic.
fn agrees<T>(reader: &Reader, bytes: &AlignedVec) -> bool
where
    T: Whole,
    T::Archived: Deserialize<T, HighDeserializer<Error>> + for<'a> CheckBytes<HighValidator<'a, Error>>,
{
    let read = reader.read_whole(bytes);
    match rkyv::from_bytes::<T, Error>(bytes) {
        Ok(own) => {
            let value = read.unwrap_or_else(|error| panic!("valid bytes are refused: {error}"));
            assert_eq!(T::from_value(&value).unwrap(), own);
            true
        }
        Err(_) => false,
    }
}

#[test]
fn damaged_bytes_are_read_or_refused() {
    let reader = Reader::new(&All::checked_schema()).unwrap();
    let mut valid = 0;
    for seed in 0..12 {
        let whole = rkyv::to_bytes::<Error>(&all(seed)).unwrap();
        assert!(agrees::<All>(&reader, &whole));
        for at in 0..whole.len() {
            for mask in [0x01, 0x02, 0x10, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= mask;
                valid += usize::from(agrees::<All>(&reader, &bytes));
            }
            let _ = reader.read(&whole, at);
            let _ = reader.read_whole(&whole[..at]);
        }
    }
    assert!(valid > 1_000, "only {valid} damaged archives are valid: the comparison has nothing to compare");
}

/// A quick source of numbers: proptest would take minutes for as many cases.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_million_random_archives_are_read_or_refused() {
    fn count_read<T: Described>(seed: u64) -> usize {
        let reader = Reader::new(&T::schema()).unwrap();
        let mut state = seed | 1;
        let mut bytes = [0u8; 96];
        let read = |_| {
            let length = next(&mut state) as usize % 97;
            let root_at = next(&mut state) as usize % (length + 1);
            for byte in &mut bytes[..length] {
                let random = next(&mut state);
                // Small numbers, forwards and backwards, are what pointers, lengths and tags are made of.
                *byte = match random % 8 {
                    0 => (random >> 8) as u8,
                    1 => 0u8.wrapping_sub((random >> 8) as u8 % 64),
                    2 | 3 => (random >> 8) as u8 % 16,
                    _ => 0,
                };
            }
            reader.read(&bytes[..length], root_at).is_ok()
        };
        (0..100_000).map(read).filter(|&is_read| is_read).count()
    }
    let read = [
        count_read::<Vec<String>>(1),
        count_read::<Vec<Vec<Option<u8>>>>(2),
        count_read::<HashMap<u8, u16>>(3),
        count_read::<HashSet<String>>(4),
        count_read::<BTreeMap<u8, u8>>(5),
        count_read::<BTreeSet<()>>(6),
        count_read::<Tree>(7),
        count_read::<Entry>(8),
        count_read::<Box<Box<Box<str>>>>(9),
        count_read::<Vec<BTreeMap<(), Vec<bool>>>>(10),
    ];
    assert!(read.iter().all(|&read| read > 100), "hardly any random archive is one: {read:?}");
}

#[test]
fn what_goes_too_deep_is_refused_and_what_goes_deep_is_not() {
    let chain = |length: usize| {
        let mut tree = leaf(0);
        for _ in 0..length {
            tree = Tree { left: Some(Box::new(tree)), ..leaf(1) };
        }
        tree
    };
    round(chain(80));
    let bytes = rkyv::to_bytes::<Error>(&chain(100)).unwrap();
    assert_eq!(Reader::new(&Tree::schema()).unwrap().read_whole(&bytes).unwrap_err().why, ReadWhy::TooDeep);
}

fn tree() -> impl Strategy<Value = Tree> {
    any::<i8>().prop_map(leaf).prop_recursive(4, 24, 4, |inner| {
        (any::<i8>(), prop::option::of(inner.clone()), prop::collection::vec(inner, 0..4))
            .prop_map(|(leaf, left, others)| Tree { leaf, left: left.map(Box::new), others })
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        Just(Entry::Nothing),
        (any::<u8>(), -1e9f64..1e9).prop_map(|(a, b)| Entry::Paid(a, b)),
        (prop::option::of(".{0,12}"), any::<u128>()).prop_map(|(text, at)| Entry::Noted { text, at }),
    ]
}

/// Any schema, of bounded depth.
fn schema() -> impl Strategy<Value = Schema> {
    let plain = prop::sample::select(vec![
        Schema::Unit,
        Schema::Bool,
        Schema::Char,
        Schema::U8,
        Schema::U64,
        Schema::I128,
        Schema::F32,
        Schema::String,
        Schema::Str,
        Schema::Text(5),
        Schema::Opaque { name: "A".into(), bytes: 8, align: 4 },
    ]);
    plain.prop_recursive(4, 24, 3, |inner| {
        let field = inner.clone().prop_map(|schema| Field { schema, ..Field::of::<()>("a") });
        prop_oneof![
            inner.clone().prop_map(|item| Schema::List(Box::new(item))),
            inner.clone().prop_map(|item| Schema::Option(Box::new(item))),
            inner.clone().prop_map(|item| Schema::Boxed(Box::new(item))),
            inner.clone().prop_map(|item| Schema::BTreeSet(Box::new(item))),
            inner.clone().prop_map(|item| Schema::HashSet(Box::new(item))),
            (inner.clone(), 0..3usize).prop_map(|(item, count)| Schema::Array(Box::new(item), count)),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Schema::BTreeMap(Box::new(a), Box::new(b))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Schema::HashMap(Box::new(a), Box::new(b))),
            prop::collection::vec(inner, 0..3).prop_map(Schema::Tuple),
            field.clone().prop_map(|field| Schema::Struct { name: "S".into(), fields: vec![field] }),
            prop::collection::vec(field, 0..2).prop_map(|fields| Schema::Enum {
                name: "E".into(),
                variants: vec![
                    Variant::of("A", 0, fields),
                    Variant::of(
                        "B",
                        1,
                        vec![Field { schema: Schema::Boxed(Box::new(Schema::Again(0))), ..Field::of::<()>("b") }]
                    ),
                ],
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nested_values_round(
        tree in tree(),
        entries in prop::collection::vec(entry(), 0..9),
        map in prop::collection::btree_map(".{0,20}", prop::option::of(any::<i32>()), 0..40),
        table in prop::collection::hash_map(any::<u16>(), ".{0,12}", 0..40),
    ) {
        round(tree.clone());
        round(entries.clone());
        round((map, (table, vec![Some((tree, entries))])));
    }

    #[test]
    fn random_bytes_of_random_schemas_are_read_or_refused(
        schema in schema(),
        bytes in prop::collection::vec(prop_oneof![3 => 0u8..9, 1 => 0xf0u8.., 1 => any::<u8>()], 0..300),
    ) {
        let reader = Reader::new(&schema).unwrap();
        for at in 0..=bytes.len() {
            let _ = reader.read(&bytes, at);
        }
        prop_assert_eq!(serde_json::from_str::<Schema>(&serde_json::to_string(&schema).unwrap()).unwrap(), schema);
    }

    #[test]
    fn a_schema_is_the_same_as_itself_and_as_what_has_its_fingerprint(a in schema(), b in schema()) {
        prop_assert_eq!(compare(&a, &a), Ok(Change::Same));
        prop_assert_eq!(compare(&a, &b) == Ok(Change::Same), a.fingerprint() == b.fingerprint(), "{} and {}", a, b);
    }
}
