//! Hostile bytes: a decoder accepts exactly the encodings that it would itself have written, and
//! panics on nothing.

use proptest::prelude::*;
use rejoin_crdt::codec::{self, Class};
use rejoin_crdt::laws::{Cluster, Intent, Step};
use rejoin_crdt::*;

/// Decodes bytes, and encodes again what they gave.
type Again = fn(&[u8]) -> Option<Vec<u8>>;

const DECODERS: [(&str, Again); 15] = [
    ("path", |bytes| Path::from_bytes(bytes).ok().map(|path| path.as_bytes().to_vec())),
    ("row key", |bytes| RowKey::from_bytes(bytes).ok().map(|key| key.to_bytes())),
    ("value", |bytes| Value::from_bytes(bytes).ok()?.to_bytes().ok()),
    ("row of a register", |bytes| row_again(Kind::Register, bytes)),
    ("row of a counter", |bytes| row_again(Kind::Counter, bytes)),
    ("row of a flag", |bytes| row_again(Kind::Flag, bytes)),
    ("row of an element", |bytes| row_again(Kind::Element, bytes)),
    ("payload of a register", |bytes| payload_again(Kind::Register, bytes)),
    ("payload of a counter", |bytes| payload_again(Kind::Counter, bytes)),
    ("payload of a flag", |bytes| payload_again(Kind::Flag, bytes)),
    ("commit body", |bytes| CommitBody::from_bytes(DOT, bytes).ok()?.to_bytes(DOT.replica).ok()),
    ("version vector", coded_again::<VersionVector>),
    ("path in a message", coded_again::<Path>),
    ("value in a message", coded_again::<Value>),
    ("dots in a message", coded_again::<Vec<Dot>>),
];

/// The commit that bodies are read for: that of the second replica of a [`Cluster`], late enough
/// to have observed everything.
const DOT: Dot = Dot {
    replica: ReplicaId::from_bytes([
        2, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 253,
    ]),
    sequence: 1_000,
};

fn row_again(kind: Kind, bytes: &[u8]) -> Option<Vec<u8>> {
    Row::from_bytes(kind, bytes).ok().map(|row| row.to_bytes())
}

fn payload_again(kind: Kind, bytes: &[u8]) -> Option<Vec<u8>> {
    let payload = Payload::decode(kind, bytes).ok()?;
    assert_eq!(payload.kind(), kind);
    let mut again = Vec::new();
    payload.encode_into(&mut again);
    Some(again)
}

fn coded_again<T: serde::de::DeserializeOwned + serde::Serialize>(bytes: &[u8]) -> Option<Vec<u8>> {
    codec::decode::<T>(bytes, Class::Vector).ok().map(|value| codec::encode(&value))
}

/// That every decoder refuses the bytes, or takes them as the one encoding of something.
fn all_agree_on(bytes: &[u8]) {
    for (name, again) in DECODERS {
        agrees_on(name, again, bytes);
    }
}

fn agrees_on(name: &str, again: Again, bytes: &[u8]) {
    if let Some(again) = again(bytes) {
        assert_eq!(hex::encode(again), hex::encode(bytes), "a second encoding of one {name}");
    }
}

/// Bytes that look like something: small numbers, tags, and anything.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => 0..5u8,
        2 => prop::sample::select(vec![0x10, 0x11, 0x18, 0x20, 0x30, 0x7f, 0x80, 0xfb, 0xff]),
        1 => any::<u8>(),
    ];
    prop::collection::vec(byte, 0..80)
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
        ".{0,4}".prop_map(Value::String),
        prop::collection::vec(any::<u8>(), 0..4).prop_map(Value::Bytes),
    ];
    scalar.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
            prop::collection::btree_map(".{0,2}", inner, 0..3).prop_map(Value::Map),
        ]
    })
}

fn path() -> impl Strategy<Value = Path> {
    let segment = prop_oneof![
        any::<u64>().prop_map(Segment::U64),
        "[a-b\\x00-\\x02é]{0,3}".prop_map(Segment::String),
        prop::collection::vec(0..4u8, 0..3).prop_map(Segment::Bytes),
    ];
    let segments = prop::collection::vec(segment, 0..4);
    segments.prop_map(|segments| Path::of(&segments).expect("a few short segments"))
}

fn dot() -> impl Strategy<Value = Dot> {
    let replica = any::<[u8; 16]>().prop_map(ReplicaId::from_bytes);
    let sequence = prop_oneof![1..300u64, 1..=u64::MAX];
    (replica, sequence).prop_map(|(replica, sequence)| Dot { replica, sequence })
}

fn payload(kind: Kind) -> BoxedStrategy<Payload> {
    match kind {
        Kind::Register => (value(), any::<u64>())
            .prop_map(|(value, wall_time_ms)| Payload::Register { value, wall_time_ms })
            .boxed(),
        Kind::Counter => any::<i64>().prop_map(Payload::Counter).boxed(),
        Kind::Flag => Just(Payload::Flag).boxed(),
        Kind::Element => Just(Payload::Element).boxed(),
    }
}

fn row(kind: Kind) -> impl Strategy<Value = Row> {
    prop::collection::vec((dot(), payload(kind)), 0..4).prop_map(Row::from_iter)
}

fn version() -> impl Strategy<Value = VersionVector> {
    let entry = (dot(), any::<[u8; 32]>()).prop_map(|(Dot { replica, sequence }, hash)| {
        (replica, Head { sequence, hash: CommitHash::from_bytes(hash) })
    });
    prop::collection::vec(entry, 0..4).prop_map(VersionVector::from_iter)
}

/// A commit of three replicas' history that names others, sets, removes and clears.
fn body() -> impl Strategy<Value = CommitBody> {
    let path = prop::sample::select(vec!["a", "b", "c"])
        .prop_map(|name| Path::of([name]).expect("a short segment"));
    let intent = prop_oneof![
        (path.clone(), value()).prop_map(|(path, value)| Intent::Put { path, value }),
        (path.clone(), any::<i32>())
            .prop_map(|(path, amount)| Intent::Increment { path, amount: amount.into() }),
        path.clone().prop_map(|path| Intent::AddElement { path }),
        path.clone().prop_map(|path| Intent::Enable { path }),
        path.clone().prop_map(|path| Intent::Remove { path }),
        path.prop_map(|path| Intent::RemoveTree { path }),
    ];
    let commit = (0..3usize, prop::collection::vec(intent, 1..4), 0..u64::MAX);
    prop::collection::vec(commit, 1..8).prop_map(|commits| {
        let mut cluster = Cluster::new(3);
        // The body that counts is the last, by the replica that bodies are read for.
        let count = commits.len();
        for (number, (replica, intents, wall_time_ms)) in commits.into_iter().enumerate() {
            let replica = if number + 1 == count { 1 } else { replica };
            let meet = Step::Join { to: replica, from: replica + 1 };
            let commit = Step::Commit { replica, wall_time_ms, intents };
            for step in [meet, commit] {
                cluster.run(&step).unwrap_or_else(|violation| panic!("{violation}"));
            }
        }
        let last = cluster.replica(1);
        assert_eq!(last.id(), DOT.replica);
        let sequence = last.state().version.sequence(last.id());
        let commit = cluster.commits().get(Dot { replica: last.id(), sequence });
        commit.expect("the last step made it").body.clone()
    })
}

/// Some decoder, and bytes that it must take.
fn valid() -> impl Strategy<Value = (&'static str, Again, Vec<u8>)> {
    fn boxed<T: std::fmt::Debug + 'static>(
        name: &'static str,
        values: impl Strategy<Value = T> + 'static,
        encode: fn(T) -> Vec<u8>,
    ) -> BoxedStrategy<(&'static str, Vec<u8>)> {
        values.prop_map(move |value| (name, encode(value))).boxed()
    }
    let key = (path(), prop::sample::select(Kind::ALL.to_vec()));
    let key = key.prop_map(|(path, kind)| RowKey { path, kind });
    let encoded = prop::strategy::Union::new([
        boxed("path", path(), |path| path.as_bytes().to_vec()),
        boxed("row key", key, |key| key.to_bytes()),
        boxed("value", value(), |value| value.to_bytes().expect("a small value")),
        boxed("row of a register", row(Kind::Register), |row| row.to_bytes()),
        boxed("row of a counter", row(Kind::Counter), |row| row.to_bytes()),
        boxed("row of a flag", row(Kind::Flag), |row| row.to_bytes()),
        boxed("row of an element", row(Kind::Element), |row| row.to_bytes()),
        boxed("commit body", body(), |body| body.to_bytes(DOT.replica).expect("a small commit")),
        boxed("version vector", version(), |version| codec::encode(&version)),
        boxed("path in a message", path(), |path| codec::encode(&path)),
        boxed("value in a message", value(), |value| codec::encode(&value)),
        boxed("dots in a message", prop::collection::vec(dot(), 0..3), |dots| codec::encode(&dots)),
    ]);
    encoded.prop_map(|(name, bytes)| {
        let (_, again) = DECODERS.iter().find(|(known, _)| *known == name).expect("a known name");
        (name, *again, bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_refused_or_canonical(bytes in bytes()) {
        all_agree_on(&bytes);
    }

    #[test]
    fn an_encoding_is_taken_and_any_part_of_it_refused_or_canonical((name, again, bytes) in valid()) {
        prop_assert_eq!(again(&bytes), Some(bytes.clone()), "{} refuses its own encoding", name);
        for cut in 0..bytes.len() {
            agrees_on(name, again, &bytes[..cut]);
            agrees_on(name, again, &bytes[cut..]);
            all_agree_on(&[&bytes[..cut], &bytes[cut + 1..]].concat());
        }
    }

    #[test]
    fn a_spliced_encoding_is_refused_or_canonical(
        ((name, again, a), (_, _, b), cut, from) in (valid(), valid(), any::<prop::sample::Index>(), any::<prop::sample::Index>())
    ) {
        let (cut, from) = (cut.index(a.len() + 1), from.index(b.len() + 1));
        agrees_on(name, again, &[&a[..cut], &b[from..]].concat());
        agrees_on(name, again, &[&a[..cut], &b[from..], &a[cut..]].concat());
    }

    #[test]
    fn an_absurd_length_anywhere_is_refused_or_canonical((name, again, bytes) in valid()) {
        // 2^60 and more, in the form of this crate and in that of the codec.
        let ours = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        let codecs = [0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        for at in 0..bytes.len() {
            for absurd in [ours, codecs] {
                agrees_on(name, again, &[&bytes[..at], &absurd, &bytes[at + 1..]].concat());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_split_row_is_whole_and_its_parts_fit(row in row(Kind::Register), bytes_max in 0..200usize) {
        let parts = row.split(bytes_max);
        let whole: Row = parts.iter().flat_map(Row::iter).map(|(dot, p)| (dot, p.clone())).collect();
        prop_assert_eq!(&whole, &row);
        prop_assert_eq!(parts.iter().map(Row::len).sum::<usize>(), row.len(), "parts are disjoint");
        for part in &parts {
            let bytes = part.to_bytes();
            prop_assert!(part.len() <= 1 || bytes.len() <= bytes_max, "{} bytes", bytes.len());
            prop_assert_eq!(Row::from_bytes(Kind::Register, &bytes), Ok(part.clone()));
        }
    }
}

proptest! {
    // Some twenty thousand mutants for each case.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 4,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_change_of_one_byte_is_refused_or_canonical((name, again, mut bytes) in valid()) {
        for at in 0..bytes.len() {
            let was = bytes[at];
            for byte in 0..=u8::MAX {
                bytes[at] = byte;
                agrees_on(name, again, &bytes);
            }
            bytes[at] = was;
        }
    }
}

#[test]
fn sequence_numbers_count_from_one_in_every_message() {
    // An entry of zero would say the same as none, in other bytes.
    let zero = (DOT.replica, Head { sequence: 0, hash: CommitHash::ZERO });
    let version = codec::encode(&VersionVector::from_iter([zero]));
    assert!(codec::decode::<VersionVector>(&version, Class::Vector).is_err());
    let dots = codec::encode(&vec![Dot { sequence: 0, ..DOT }]);
    assert!(codec::decode::<Vec<Dot>>(&dots, Class::Vector).is_err());
}
