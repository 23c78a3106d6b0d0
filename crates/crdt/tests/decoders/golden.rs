//! Bytes that must never change: what is on disks and in hashes of earlier releases.

use rejoin_crdt::codec::{self, Class};
use rejoin_crdt::*;

const ANN: ReplicaId = ReplicaId::from_bytes([0xaa; 16]);
const BEN: ReplicaId = ReplicaId::from_bytes([0xbb; 16]);
const CLEO: ReplicaId = ReplicaId::from_bytes([0xcc; 16]);

fn dot(replica: ReplicaId, sequence: u64) -> Dot {
    Dot { replica, sequence }
}

fn path() -> Path {
    let path = Path::of(["cart", "a\0\u{1}\u{2}"]).and_then(|path| path.child(0));
    path.and_then(|path| path.child(70_000))
        .and_then(|path| path.child(&b"\x00\xff"[..]))
        .expect("a short path")
}

fn value() -> Value {
    Value::Map(
        [
            ("bytes", Value::from(&b"\x00\x01"[..])),
            ("float", Value::F64(1.5)),
            ("list", Value::List(vec![Value::Null, true.into(), false.into()])),
            ("number", Value::I64(-300)),
            ("text", "Hafermilch für 2".into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
    )
}

fn body() -> CommitBody {
    let key = |kind| RowKey { path: Path::of(["x"]).expect("a short path"), kind };
    let payload = Payload::Register { value: "v".into(), wall_time_ms: 300 };
    let put = Operation::Set {
        key: key(Kind::Register),
        observed: vec![dot(ANN, 1), dot(BEN, 200), dot(CLEO, 3)],
        payload,
    };
    let add =
        Operation::Set { key: key(Kind::Counter), observed: vec![], payload: Payload::Counter(-2) };
    let enable = Operation::Set { key: key(Kind::Flag), observed: vec![], payload: Payload::Flag };
    let remove = Operation::Remove { key: key(Kind::Element), observed: vec![dot(CLEO, 2)] };
    let clear = Operation::RemoveTree {
        path: Path::of(["tree"]).expect("a short path"),
        past: vec![dot(ANN, 1), dot(BEN, 200), dot(CLEO, 3)],
    };
    CommitBody {
        dependencies: vec![dot(ANN, 1), dot(CLEO, 3)],
        wall_time_ms: 1_700_000_000_000,
        operations: vec![clear, put, add, enable, remove],
    }
}

fn version() -> VersionVector {
    let head = |sequence, byte| Head { sequence, hash: CommitHash::from_bytes([byte; 32]) };
    [(ANN, head(1, 0x11)), (BEN, head(100_000, 0x22))].into_iter().collect()
}

#[test]
fn a_path_keeps_its_bytes() {
    let golden = "20636172740020610101010202001013011170300101ff00";
    assert_eq!(hex::encode(path().as_bytes()), golden);
    assert_eq!(Path::from_bytes(&hex::decode(golden).unwrap()), Ok(path()));
}

#[test]
fn a_row_key_keeps_its_bytes() {
    for (kind, golden) in
        Kind::ALL.into_iter().zip(["20780001", "20780002", "20780003", "20780004"])
    {
        let key = RowKey { path: Path::of(["x"]).unwrap(), kind };
        assert_eq!(hex::encode(key.to_bytes()), golden);
        assert_eq!(RowKey::from_bytes(&hex::decode(golden).unwrap()), Ok(key));
    }
}

#[test]
fn a_value_keeps_its_bytes() {
    let golden = "08050562797465730602000105666c6f617404000000000000f83f046c6973740703000201066e756d62657203d7040474657874051148616665726d696c63682066c3bc722032";
    assert_eq!(hex::encode(value().to_bytes().unwrap()), golden);
    assert_eq!(Value::from_bytes(&hex::decode(golden).unwrap()), Ok(value()));
}

#[test]
fn a_row_keeps_its_bytes() {
    let rows = [
        (
            Payload::Register { value: "v".into(), wall_time_ms: 300 },
            "02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa01ac02050176bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbc801ac02050176",
        ),
        (
            Payload::Counter(-2),
            "02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0103bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbc80103",
        ),
        (Payload::Flag, "02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa01bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbc801"),
        (
            Payload::Element,
            "02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa01bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbc801",
        ),
    ];
    for (payload, golden) in rows {
        let row =
            Row::from_iter([(dot(BEN, 200), payload.clone()), (dot(ANN, 1), payload.clone())]);
        assert_eq!(hex::encode(row.to_bytes()), golden);
        assert_eq!(Row::from_bytes(payload.kind(), &hex::decode(golden).unwrap()), Ok(row));
    }
}

#[test]
fn a_commit_keeps_its_bytes_and_its_hash() {
    let golden = "02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaacccccccccccccccccccccccccccccccc020101020380d095ffbc310502062074726565000300c801010102030004207800010300c80101010203ac02050176000420780002000300042078000300010420780004010202";
    assert_eq!(hex::encode(body().to_bytes(BEN).unwrap()), golden);
    let (author, bytes) = (dot(BEN, 201), hex::decode(golden).unwrap());
    assert_eq!(CommitBody::from_bytes(author, &bytes), Ok(body()));
    let space = SpaceId::from_bytes([0x55; 32]);
    let previous = CommitHash::from_bytes([0x77; 32]);
    let hash = commit_hash(space, author, previous, &bytes);
    assert_eq!(
        hash.to_string(),
        "2b1c5cf020f1654b9f6db628af1975b231af6c190a10762683952689b3bddb7b"
    );
    for other in [
        commit_hash(SpaceId::from_bytes([0x56; 32]), author, previous, &bytes),
        commit_hash(space, dot(ANN, 201), previous, &bytes),
        commit_hash(space, dot(BEN, 202), previous, &bytes),
        commit_hash(space, author, CommitHash::ZERO, &bytes),
        commit_hash(space, author, previous, &bytes[1..]),
    ] {
        assert_ne!(other, hash, "the hash covers every part");
    }
}

#[test]
fn a_commit_of_nothing_keeps_its_bytes() {
    let nothing = CommitBody { wall_time_ms: 7, ..CommitBody::default() };
    assert_eq!(hex::encode(nothing.to_bytes(ANN).unwrap()), "00000700");
}

#[test]
fn a_version_vector_keeps_its_bytes() {
    let golden = "02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa011111111111111111111111111111111111111111111111111111111111111111bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbfca08601002222222222222222222222222222222222222222222222222222222222222222";
    assert_eq!(hex::encode(codec::encode(&version())), golden);
    assert_eq!(codec::decode(&hex::decode(golden).unwrap(), Class::Vector), Ok(version()));
}

#[test]
fn a_state_keeps_its_digest() {
    let Ok(empty) = state_digest(&MemoryRows::default(), &VersionVector::default());
    assert_eq!(
        empty.to_string(),
        "83d499720b5f684e5ffdef21fb0f0ac23c0f9c9b82d4a773bb362fe6e9e8e20c"
    );
    let mut rows = MemoryRows::default();
    let key = RowKey { path: path(), kind: Kind::Counter };
    let Ok(()) = rows.set_row(&key, Row::from_iter([(dot(ANN, 1), Payload::Counter(5))]));
    let Ok(digest) = state_digest(&rows, &version());
    assert_eq!(
        digest.to_string(),
        "670ea7ca6de2a135d0123ea768ef0a9d6cfbd8d7458d0c63b2c4abdec8ccd4a2"
    );
}

#[test]
fn a_digest_covers_every_row_of_many_pages() {
    let version = version();
    let state = |last: i64| {
        let mut rows = MemoryRows::default();
        for number in 0..=PAGE_ROWS_MAX as u64 {
            let key = RowKey { path: Path::of([number]).unwrap(), kind: Kind::Counter };
            let amount = if number == PAGE_ROWS_MAX as u64 { last } else { 0 };
            let Ok(()) =
                rows.set_row(&key, Row::from_iter([(dot(ANN, 1), Payload::Counter(amount))]));
        }
        let Ok(digest) = state_digest(&rows, &version);
        digest
    };
    assert_eq!(state(1), state(1));
    assert_ne!(state(1), state(2));
}
